//! Parses the heads of upstream responses.
//!
//! Touches: nothing. The caller keeps the bytes. RFC 9112 §4, §5.

use crate::proto::h1::Error;
pub use crate::proto::h1::fields::Seen;
use crate::proto::h1::fields::{self, FirstLine, Rules};
pub use crate::proto::h1::request::Progress;
use crate::proto::head::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::Version;

const FIELDS_MAX: usize = 1000;

/// Parses the head at the start of `buf`, continuing after earlier calls with the same `seen`.
pub fn parse_more(
    buf: &[u8],
    head_bytes_max: usize,
    head: &mut ResponseHead,
    seen: &mut Seen,
) -> Result<Progress, Error> {
    let rules = rules(head_bytes_max);
    if buf.len() <= head_bytes_max && !seen.wants_parse(buf, &rules, &mut head.fields) {
        return Ok(Progress::Partial);
    }
    let progress = parse(buf, head_bytes_max, head)?;
    if progress == Progress::Partial {
        seen.is_partial(buf);
    }
    Ok(progress)
}

fn rules(head_bytes_max: usize) -> Rules {
    Rules {
        line_bytes_max: head_bytes_max,
        count_max: FIELDS_MAX,
        ignore_odd: false,
        underscores: true,
        crlf_only: false,
    }
}

/// Parses the head at the start of `buf`, which may have up to `head_bytes_max` bytes.
pub fn parse(buf: &[u8], head_bytes_max: usize, head: &mut ResponseHead) -> Result<Progress, Error> {
    head.clear();
    let Some(line) = FirstLine::of(buf) else {
        let known = buf.len().min(b"HTTP/1.".len());
        return if buf[..known] != b"HTTP/1."[..known] {
            Err(Error::InvalidStatusLine)
        } else if buf.len() > head_bytes_max {
            Err(Error::HeadTooLarge)
        } else {
            Ok(Progress::Partial)
        };
    };
    status_line(line.text(buf), line.is_clean, head)?;
    let parsed = fields::parse(buf, line.length + 1, &rules(head_bytes_max), &mut head.fields)?;
    if parsed.unwrap_or(buf.len()) > head_bytes_max {
        return Err(Error::HeadTooLarge);
    }
    let Some(end) = parsed else { return Ok(Progress::Partial) };
    if head.fields.has(Id::Connection) {
        head.connection = head.fields.connection(buf)?;
    }
    Ok(Progress::Complete(end))
}

/// `HTTP/1.x SP 3DIGIT [SP reason]`. `is_clean`: the line has no control character.
#[inline]
fn status_line(line: &[u8], is_clean: bool, head: &mut ResponseHead) -> Result<(), Error> {
    let (version, rest) = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9', b' ', rest @ ..] => (*minor, rest),
        _ => return Err(Error::InvalidStatusLine),
    };
    let (status, reason_length) = match rest {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] if matches!(rest, [] | [b' ', ..]) => {
            let digit = |byte: &u8| u16::from(byte - b'0');
            (digit(a) * 100 + digit(b) * 10 + digit(c), rest.len().saturating_sub(1))
        }
        _ => return Err(Error::InvalidStatusLine),
    };
    let reason = line.len() - reason_length..line.len();
    if !is_clean {
        fields::check_value(&line[reason.clone()]).map_err(|_| Error::InvalidStatusLine)?;
    }
    head.version = if version == b'0' { Version::Http10 } else { Version::Http11 };
    (head.status, head.reason) = (status, reason);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<Progress, Error> {
        parse(text, 4096, &mut ResponseHead::default())
    }

    #[test]
    fn reads_a_head_at_every_cut() {
        let text = b"HTTP/1.1 404 Not Found\r\nServer: a\r\nConnection: close\r\n\r\nbody";
        let mut head = ResponseHead::default();
        for cut in 0..text.len() - 4 {
            assert_eq!(parse(&text[..cut], 4096, &mut head), Ok(Progress::Partial), "{cut}");
        }
        assert_eq!(parse(text, 4096, &mut head), Ok(Progress::Complete(text.len() - 4)));
        assert_eq!((head.status, &text[head.reason.clone()]), (404, &b"Not Found"[..]));
        assert!(!head.keep_alive());
        assert_eq!(parsed(b"HTTP/1.0 200\n\n"), Ok(Progress::Complete(14)));
        assert_eq!(parsed(b"HTTP/1.1 200 \r\n\r\n"), Ok(Progress::Complete(17)));
    }

    #[test]
    fn refuses_what_is_no_response() {
        for line in [
            "HTTP/1.1 99 X",
            "HTTP/1.1 099 X",
            "HTTP/1.1 1000 X",
            "HTTP/1.1 -200 OK",
            "HTTP/1.1 abc OK",
            "HTTP/2.0 200 OK",
            "http/1.1 200 OK",
            "ICY 200 OK",
            "HTTP/1.1\t200\tOK",
            " HTTP/1.1 200 OK",
            "HTTP/1.1 200 O\0K",
            "HTTP/1.1 200 O\rK",
            "hello world",
            "",
            "HTTP/1.1 200OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.10 200 OK",
        ] {
            assert_eq!(
                parsed(format!("{line}\r\n\r\n").as_bytes()),
                Err(Error::InvalidStatusLine),
                "{line:?}"
            );
        }
        assert_eq!(parsed(b"hello"), Err(Error::InvalidStatusLine));
        for line in ["A : b", "Abc", ": b", "A: b\r\n c", "A: b\0c", "A: b\rX: y", "A(b: c", " A: b"] {
            assert!(parsed(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n").as_bytes()).is_err(), "{line:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(900));
        assert_eq!(parsed(endless.as_bytes()), Err(Error::HeadTooLarge));
    }
}
