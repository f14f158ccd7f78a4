//! memcached as an upstream: responses are values of keys.
//!
//! Touches: only the request whose head is encoded. nginx.org, ngx_http_memcached_module.

use crate::http::request::Request;
use crate::http::request::error::{Error, Kind};
use crate::http::upstream::codec::{Notes, Pieces, Progress};
use crate::proto::head::ResponseHead;
use crate::proto::memcached::{self, Reply, TRAILER};
use crate::proto::message::{BodyLength, Method, Version};

/// Appends the request for a value. Errors: 500 if there is no key.
pub fn head(request: &mut Request, out: &mut Vec<u8>) -> Result<(), Error> {
    let conf = &request.location.confs.proxy_pass;
    let key = conf.key().map(|script| script.to_vec(request)).unwrap_or_default();
    if key.is_empty() {
        return Err(Error::ours("the \"$memcached_key\" variable is not set"));
    }
    let mut escaped = Vec::with_capacity(key.len());
    memcached::escape_key(&key, &mut escaped);
    memcached::get(&escaped, out);
    Ok(())
}

/// See [`super::codec::Decoder`].
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The key that was asked for.
    key: Box<[u8]>,
    flags: u32,
    /// The length of the value, until the body begins.
    length: u64,
    body: Body,
    /// Something else than the trailer has come.
    is_odd: bool,
}

/// The rest of a reply.
///
/// ```text
/// Head ─┬─(VALUE)─→ Value ──(last byte)──→ Trailer ─┬─(END)──→ Done
///       ├─(END)──────────────────────────────────────┘
///       └─(VALUE for HEAD)─────────────────────────────────→ Dropped
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Head,
    Value(u64),
    /// This many bytes of the trailer have arrived.
    Trailer(usize),
    Done,
    /// Complete, but the connection is of no further use.
    Dropped,
}

impl Decoder {
    /// `request`: what was sent.
    pub fn new(request: &[u8]) -> Self {
        Self {
            key: memcached::asked_key(request).into(),
            flags: 0,
            length: 0,
            body: Body::Head,
            is_odd: false,
        }
    }

    /// The flags with which the value was stored.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    pub fn head(&mut self, data: &[u8], head: &mut ResponseHead) -> Result<Progress, Kind> {
        let reply = memcached::reply(data, &self.key).map_err(|error| Kind::BadHead(error.as_str()))?;
        head.version = Version::Http11;
        Ok(match reply {
            Reply::Partial => Progress::Partial,
            Reply::Missing { line_bytes } => {
                head.status = 404;
                Progress::Complete(line_bytes)
            }
            Reply::Value { line_bytes, flags, length } => {
                (self.flags, self.length, head.status) = (flags, length, 200);
                Progress::Complete(line_bytes)
            }
        })
    }

    pub fn begin_body(&mut self, head: &ResponseHead, method: Method) -> BodyLength {
        self.body = match (head.status, method) {
            (200, Method::Head) => Body::Dropped,
            (200, _) => Body::Value(self.length),
            _ => Body::Done,
        };
        self.moved(0);
        match head.status {
            200 => BodyLength::Length(self.length),
            _ => BodyLength::None,
        }
    }

    pub fn body(&mut self, data: &[u8], pieces: &mut Pieces) -> usize {
        pieces.clear();
        let mut at = 0;
        if let Body::Value(left) = self.body {
            at = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            pieces.push(0..at);
            self.moved(at as u64);
        }
        if let Body::Trailer(seen) = self.body {
            let expected = &TRAILER[seen..];
            let count = expected.len().min(data.len() - at);
            self.body = if data[at..at + count] != expected[..count] {
                self.is_odd = true;
                Body::Dropped // the value is complete all the same
            } else if count == expected.len() {
                Body::Done
            } else {
                Body::Trailer(seen + count)
            };
            at += count;
        }
        at
    }

    pub fn is_done(&self) -> bool {
        matches!(self.body, Body::Done | Body::Dropped)
    }

    pub fn raw_left(&self) -> Option<u64> {
        match self.body {
            Body::Value(left) => Some(left),
            Body::Head | Body::Trailer(_) | Body::Done | Body::Dropped => None,
        }
    }

    pub fn moved(&mut self, count: u64) {
        if let Body::Value(left) = &mut self.body {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.body = Body::Trailer(0);
            }
        }
    }

    pub fn closed(&mut self) -> Result<(), Kind> {
        match self.body {
            Body::Done | Body::Dropped => Ok(()),
            Body::Trailer(_) => {
                self.body = Body::Dropped;
                Ok(())
            }
            Body::Head | Body::Value(_) => Err(Kind::Cut),
        }
    }

    pub fn notes(&mut self) -> Option<Notes> {
        let complaint = std::mem::take(&mut self.is_odd).then_some("invalid trailer of memcached")?;
        Some(Notes { complaint: Some(complaint), ..Notes::default() })
    }

    pub fn may_keep(&self) -> bool {
        self.body == Body::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, body, and whether the connection may be kept.
    fn read(parts: &[&[u8]], method: Method, is_closed: bool) -> Result<(u16, Vec<u8>, bool), Kind> {
        let mut decoder = Decoder::new(b"get /k\r\n");
        let (mut head, mut pieces) = (ResponseHead::default(), Pieces::new());
        let (mut data, mut body, mut has_head) = (Vec::new(), Vec::new(), false);
        for part in parts {
            data.extend_from_slice(part);
            if !has_head {
                let Progress::Complete(length) = decoder.head(&data, &mut head)? else { continue };
                decoder.begin_body(&head, method);
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
        Ok((head.status, body, decoder.may_keep() && data.is_empty()))
    }

    #[test]
    fn a_value_is_the_same_wherever_it_is_cut() {
        for (text, status, body) in [
            ("VALUE /k 0 9\r\nEND\r\nabcd\r\nEND\r\n", 200, "END\r\nabcd"),
            ("VALUE /k 0 0\r\n\r\nEND\r\n", 200, ""),
            ("END\r\n", 404, ""),
        ] {
            let bytes = text.as_bytes();
            for cut in 0..bytes.len() {
                let found = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, false).unwrap();
                assert_eq!(found, (status, body.as_bytes().to_vec(), true), "{text} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single, Method::Get, false).unwrap().1, body.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_connection_is_kept_only_after_the_trailer() {
        for text in [
            "VALUE /k 0 4\r\nbody\r\nFIN\r\n",
            "VALUE /k 0 4\r\nbodyguard",
            "VALUE /k 0 4\r\nbody\r\nEND\r\nmore",
        ] {
            let bytes = text.as_bytes();
            for cut in 0..bytes.len() {
                let found = read(&[&bytes[..cut], &bytes[cut..]], Method::Get, true).unwrap();
                assert_eq!(found, (200, b"body".to_vec(), false), "{text} cut at {cut}");
            }
        }
        assert_eq!(
            read(&[b"VALUE /k 0 4\r\nbody"], Method::Get, true).unwrap(),
            (200, b"body".to_vec(), false)
        );
        assert_eq!(
            read(&[b"VALUE /k 0 4\r\nbody\r\nEND\r\n"], Method::Head, false).unwrap(),
            (200, vec![], false)
        );
        assert!(matches!(read(&[b"VALUE /k 0 4\r\nbod"], Method::Get, true), Err(Kind::Cut)));
        assert!(matches!(read(&[b"VALUE /x 0 4\r\nbody"], Method::Get, true), Err(Kind::BadHead(_))));
    }
}
