//! Responses of applications over a connection of their own (uwsgi, SCGI): CGI's fields, or HTTP's head, and a body
//! that ends with the connection or by its length.
//!
//! Touches: nothing. RFC 3875 §6; nginx.org, ngx_http_uwsgi_module, ngx_http_scgi_module. Bounded: a head by
//! `…_buffer_size`.

use crate::http::request::error::Kind;
use crate::http::upstream::codec::{Notes, Pieces, Progress, TOO_MUCH};
use crate::proto::cgi::{self, Progress as Parsed, Seen};
use crate::proto::head::ResponseHead;
use crate::proto::message::{BodyLength, Method};

/// See [`super::codec::Decoder`].
#[derive(Debug, Default)]
pub struct Decoder {
    seen: Seen,
    body: Body,
    /// There was more than the length said.
    has_extra: bool,
}

/// The rest of a response.
///
/// ```text
/// Head ─┬─(Content-Length)──→ Length ──(last byte)──→ Done
///       ├─(none)────────────→ UntilClose ─(end)─────→ Done
///       └─(HEAD, 204, 304)──→ Done
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Body {
    #[default]
    Head,
    Length(u64),
    UntilClose,
    Done,
}

/// How the body behind a head with CGI's fields is delimited; `unsaid`: when they do not tell.
pub fn body_length(
    head: &ResponseHead,
    data: &[u8],
    method: Method,
    unsaid: BodyLength,
) -> Result<BodyLength, Kind> {
    cgi::body_length(head, data, method, unsaid).map_err(|error| Kind::BadHead(error.as_str()))
}

impl Decoder {
    pub fn head(&mut self, data: &[u8], bytes_max: usize, head: &mut ResponseHead) -> Result<Progress, Kind> {
        match cgi::parse_any(data, bytes_max, head, &mut self.seen) {
            Ok(Parsed::Partial) => Ok(Progress::Partial),
            Ok(Parsed::Complete(length)) => Ok(Progress::Complete(length)),
            Err(error) if error.is_too_large() => Err(Kind::HeadTooBig),
            Err(error) => Err(Kind::BadHead(error.as_str())),
        }
    }

    pub fn begin_body(&mut self, length: BodyLength) -> BodyLength {
        self.body = match length {
            BodyLength::None => Body::Done,
            BodyLength::Length(length) => Body::Length(length),
            BodyLength::Chunked | BodyLength::UntilClose => Body::UntilClose,
        };
        self.moved(0);
        length
    }

    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces) -> usize {
        pieces.clear();
        match self.body {
            Body::Head | Body::Done => 0,
            Body::UntilClose => {
                pieces.push(0..data.len());
                data.len()
            }
            Body::Length(left) => {
                let count = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                pieces.push(0..count);
                self.moved(count as u64);
                self.has_extra = count < data.len();
                count
            }
        }
    }

    pub fn is_done(&self) -> bool {
        self.body == Body::Done
    }

    pub fn raw_left(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) => Some(left),
            Body::Head | Body::UntilClose | Body::Done => None,
        }
    }

    pub fn moved(&mut self, count: u64) {
        if let Body::Length(left) = &mut self.body {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.body = Body::Done;
            }
        }
    }

    pub fn closed(&mut self) -> Result<(), Kind> {
        match self.body {
            Body::Done => Ok(()),
            Body::UntilClose => {
                self.body = Body::Done;
                Ok(())
            }
            Body::Head | Body::Length(_) => Err(Kind::Cut),
        }
    }

    pub fn notes(&mut self) -> Option<Notes> {
        std::mem::take(&mut self.has_extra).then(|| Notes { complaint: Some(TOO_MUCH), ..Notes::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status and body of a response in these parts, whether it is done, and whether it had too much.
    fn read(parts: &[&[u8]], method: Method, is_closed: bool) -> Result<(u16, Vec<u8>, bool, bool), Kind> {
        let (mut decoder, mut head, mut pieces) =
            (Decoder::default(), ResponseHead::default(), Pieces::new());
        let (mut data, mut body, mut has_head) = (Vec::new(), Vec::new(), false);
        for part in parts {
            data.extend_from_slice(part);
            if !has_head {
                let Progress::Complete(length) = decoder.head(&data, 4096, &mut head)? else { continue };
                decoder.begin_body(body_length(&head, &data, method, BodyLength::UntilClose)?);
                data.drain(..length);
                has_head = true;
            }
            let used = decoder.body(&data, &mut pieces);
            pieces.iter().for_each(|piece| body.extend_from_slice(&data[piece.clone()]));
            data.drain(..used);
        }
        if is_closed && !decoder.is_done() {
            decoder.closed()?;
        }
        Ok((head.status, body, decoder.is_done(), decoder.notes().is_some()))
    }

    #[test]
    fn a_response_is_the_same_wherever_it_is_cut() {
        for (text, status) in [
            ("Status: 404 Not Found\r\nA: b\r\n\r\nbody", 404),
            ("HTTP/1.1 201 Created\r\nA: b\r\n\r\nbody", 201),
            ("A: b\n\nbody", 200),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nbody", 200),
            ("Content-Length: 4\r\n\r\nbody", 200),
        ] {
            let bytes = text.as_bytes();
            for cut in 0..bytes.len() {
                let found = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, true).unwrap();
                assert_eq!(found, (status, b"body".to_vec(), true, false), "{text} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single, Method::Get, true).unwrap().1, b"body", "{text}");
        }
    }

    #[test]
    fn the_length_decides_about_the_end() {
        let read = |text: &str, method| read(&[text.as_bytes()], method, true);
        assert_eq!(
            read("Content-Length: 4\n\nbodyguard", Method::Get).unwrap(),
            (200, b"body".to_vec(), true, true)
        );
        assert!(matches!(read("Content-Length: 9\n\nbody", Method::Get), Err(Kind::Cut)));
        assert!(matches!(read("Content-Len", Method::Get), Err(Kind::Cut)));
        assert_eq!(read("Content-Length: 9\n\n", Method::Head).unwrap(), (200, vec![], true, false));
        assert_eq!(read("Content-Length: 0\n\n", Method::Get).unwrap(), (200, vec![], true, false));
        for bad in [
            "Status: x\n\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 X\r\n\r\n",
            "HTTP/1.1 20 X\r\n\r\n",
            "no head\n\n",
        ] {
            assert!(matches!(read(bad, Method::Get), Err(Kind::BadHead(_))), "{bad}");
        }
    }

    #[test]
    fn raw_bytes_may_pass_by() {
        let (mut decoder, mut head) = (Decoder::default(), ResponseHead::default());
        let text = b"Content-Length: 100\n\n";
        decoder.head(text, 4096, &mut head).unwrap();
        decoder.begin_body(body_length(&head, text, Method::Get, BodyLength::UntilClose).unwrap());
        assert_eq!(decoder.raw_left(), Some(100));
        decoder.moved(99);
        assert_eq!((decoder.raw_left(), decoder.is_done()), (Some(1), false));
        decoder.moved(u64::MAX);
        assert!(decoder.is_done() && decoder.raw_left().is_none());
    }
}
