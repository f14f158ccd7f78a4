//! How a body is delimited (RFC 9112 §6.3).

use crate::base::number::parse_u64;
use crate::proto::h1::Error;
use crate::proto::h1::request::RequestHead;
use crate::proto::h1::response::ResponseHead;
use crate::proto::header::Id;
use crate::proto::message::{Method, Version};

/// The delimitation of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    None,
    Length(u64),
    Chunked,
    /// The end of the connection ends it; responses only.
    UntilClose,
}

/// Decides how the body of a request is delimited; nothing is read here.
///
/// Errors: `Ambiguous` when Transfer-Encoding stands beside Content-Length or in HTTP/1.0, `SeveralLengths`,
/// `BadContentLength`, `UnknownTransferEncoding`. The connection must then be closed after the answer: the
/// peer and we may disagree where the next request starts.
pub fn request(head: &RequestHead, data: &[u8]) -> Result<BodyLength, Error> {
    let codings = head.all(data, Id::TransferEncoding);
    let length = content_length(head.all(data, Id::ContentLength))?;
    let chunked = chunked(codings)?;
    match (chunked, length) {
        (true, Some(_)) => Err(Error::Ambiguous),
        (true, None) if head.version < Version::Http11 => Err(Error::Ambiguous),
        (true, None) => Ok(BodyLength::Chunked),
        (false, Some(length)) => Ok(BodyLength::Length(length)),
        (false, None) => Ok(BodyLength::None),
    }
}

/// Decides how the body of a response to a request with `method` is delimited.
///
/// Errors: as for requests; a status or method that forbids a body is not asked for lengths.
pub fn response(head: &ResponseHead, data: &[u8], method: Method) -> Result<BodyLength, Error> {
    let length = content_length(head.all(data, Id::ContentLength))?;
    let chunked = chunked(head.all(data, Id::TransferEncoding))?;
    if chunked && (length.is_some() || head.version < Version::Http11) {
        return Err(Error::Ambiguous);
    }
    if method == Method::Head || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(BodyLength::None);
    }
    Ok(match (chunked, length) {
        (true, _) => BodyLength::Chunked,
        (false, Some(length)) => BodyLength::Length(length),
        (false, None) => BodyLength::UntilClose,
    })
}

fn content_length<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, Error> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::SeveralLengths);
    }
    parse_u64(first).map(Some).ok_or(Error::BadContentLength)
}

/// True for exactly one coding, `chunked`.
fn chunked<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<bool, Error> {
    let Some(first) = values.next() else { return Ok(false) };
    if values.next().is_some() || !first.eq_ignore_ascii_case(b"chunked") {
        return Err(Error::UnknownTransferEncoding);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::{request as h1_request, response as h1_response};

    fn of_request(version: &str, fields: &str) -> Result<BodyLength, Error> {
        let data = format!("POST / HTTP/{version}\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        h1_request::parse(data.as_bytes(), &h1_request::Limits::default(), &mut head).unwrap();
        request(&head, data.as_bytes())
    }

    #[test]
    fn requests() {
        let cases = [
            ("1.1", "", Ok(BodyLength::None)),
            ("1.1", "Content-Length: 5\r\n", Ok(BodyLength::Length(5))),
            ("1.1", "Transfer-Encoding: CHUNKED\r\n", Ok(BodyLength::Chunked)),
            ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Error::Ambiguous)),
            ("1.0", "Transfer-Encoding: chunked\r\n", Err(Error::Ambiguous)),
            ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", Err(Error::SeveralLengths)),
            ("1.1", "Content-Length: 5, 5\r\n", Err(Error::BadContentLength)),
            ("1.1", "Content-Length: +5\r\n", Err(Error::BadContentLength)),
            ("1.1", "Content-Length: 0x5\r\n", Err(Error::BadContentLength)),
            ("1.1", "Content-Length:\r\n", Err(Error::BadContentLength)),
            ("1.1", "Content-Length: 99999999999999999999\r\n", Err(Error::BadContentLength)),
            ("1.1", "Transfer-Encoding: gzip, chunked\r\n", Err(Error::UnknownTransferEncoding)),
            ("1.1", "Transfer-Encoding: identity\r\n", Err(Error::UnknownTransferEncoding)),
            (
                "1.1",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(Error::UnknownTransferEncoding),
            ),
        ];
        for (version, fields, expected) in cases {
            assert_eq!(of_request(version, fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn responses() {
        let cases = [
            (200, Method::Get, "", Ok(BodyLength::UntilClose)),
            (200, Method::Get, "Content-Length: 0\r\n", Ok(BodyLength::Length(0))),
            (200, Method::Head, "Content-Length: 9\r\n", Ok(BodyLength::None)),
            (304, Method::Get, "Content-Length: 9\r\n", Ok(BodyLength::None)),
            (204, Method::Get, "", Ok(BodyLength::None)),
            (200, Method::Get, "Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked)),
            (200, Method::Get, "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", Err(Error::Ambiguous)),
            (200, Method::Get, "Content-Length: 1\r\nContent-Length: 2\r\n", Err(Error::SeveralLengths)),
            (200, Method::Get, "Transfer-Encoding: chunked, gzip\r\n", Err(Error::UnknownTransferEncoding)),
        ];
        for (status, method, fields, expected) in cases {
            let data = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let mut head = ResponseHead::default();
            h1_response::parse(data.as_bytes(), 4096, &mut head).unwrap();
            assert_eq!(response(&head, data.as_bytes(), method), expected, "{status} {fields:?}");
        }
    }
}
