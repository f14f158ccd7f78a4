//! Decides how the body of a message is delimited.
//!
//! Touches: nothing. Anything that two recipients could read differently is refused. RFC 9112 §6.

use crate::base::number::parse_u64;
use crate::proto::h1::Error;
use crate::proto::head::{Fields, RequestHead, ResponseHead};
use crate::proto::header::Id;
pub use crate::proto::message::BodyLength;
use crate::proto::message::{Method, Version};

/// The longest body accepted: the range of a file offset.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// Decides how a request's body is delimited (RFC 9112 §6.3).
///
/// Fails on both framings at once, on several lengths, and on codings other than exactly `chunked`. The
/// connection must then be closed: the peer and we may disagree about where the next request starts.
pub fn request(head: &RequestHead, data: &[u8]) -> Result<BodyLength, Error> {
    Ok(declared(&head.fields, data, head.version)?.unwrap_or(BodyLength::None))
}

/// Decides how the body of the response to a request of `method` is delimited (RFC 9112 §6.3).
///
/// The fields are checked even if no body follows. `None` for 1xx, 204, 304, a response to HEAD and a 2xx to
/// CONNECT.
pub fn response(head: &ResponseHead, data: &[u8], method: Method) -> Result<BodyLength, Error> {
    let declared = declared(&head.fields, data, head.version)?;
    let tunnel = method == Method::Connect && (200..300).contains(&head.status);
    if method == Method::Head || tunnel || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(BodyLength::None);
    }
    Ok(declared.unwrap_or(BodyLength::UntilClose))
}

fn declared(fields: &Fields, data: &[u8], version: Version) -> Result<Option<BodyLength>, Error> {
    if !fields.has(Id::TransferEncoding) && !fields.repeated().contains(Id::ContentLength) {
        return fields.value(data, Id::ContentLength).map(known_length).transpose();
    }
    let (mut length, mut coding) = (None, None);
    for field in fields.iter() {
        match field.id {
            Some(Id::ContentLength) if length.is_some() => return Err(Error::DuplicateContentLength),
            Some(Id::ContentLength) => length = Some(field.value(data)),
            Some(Id::TransferEncoding) if coding.is_some() => return Err(Error::DuplicateField),
            Some(Id::TransferEncoding) => coding = Some(field.value(data)),
            _ => {}
        }
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err(Error::Ambiguous),
        (None, Some(_)) if version < Version::Http11 => Err(Error::UnexpectedTransferEncoding),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(BodyLength::Chunked)),
        (None, Some(_)) => Err(Error::UnknownTransferEncoding),
        (Some(digits), None) => known_length(digits).map(Some),
        (None, None) => Ok(None),
    }
}

fn known_length(digits: &[u8]) -> Result<BodyLength, Error> {
    let length = parse_u64(digits).filter(|length| *length <= LENGTH_MAX);
    Ok(BodyLength::Length(length.ok_or(Error::InvalidContentLength)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h1::{request as request_head, response as response_head};

    fn of_request(version: &str, lines: &[&str]) -> Result<BodyLength, Error> {
        let text = format!("POST / HTTP/{version}\r\nHost: h\r\n{}\r\n\r\n", lines.join("\r\n"));
        let mut head = RequestHead::default();
        request_head::parse(text.as_bytes(), &request_head::Limits::default(), &mut head)?;
        request(&head, text.as_bytes())
    }

    fn of_response(start: &str, lines: &[&str], method: Method) -> Result<BodyLength, Error> {
        let text = format!("HTTP/1.1 {start}\r\nA: b\r\n{}\r\n\r\n", lines.join("\r\n"));
        let mut head = ResponseHead::default();
        response_head::parse(text.as_bytes(), 4096, &mut head)?;
        response(&head, text.as_bytes(), method)
    }

    const TE: &str = "Transfer-Encoding: chunked";
    const CL: &str = "Content-Length: 5";

    #[test]
    fn reads_proper_framing() {
        assert_eq!(of_request("1.1", &["A: b"]), Ok(BodyLength::None));
        assert_eq!(of_request("1.1", &["content-length: \t 005 "]), Ok(BodyLength::Length(5)));
        assert_eq!(of_request("1.1", &["Transfer-Encoding:CHUNKED"]), Ok(BodyLength::Chunked));
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        assert_eq!(of_request("1.1", &[CL, TE]), Err(Error::Ambiguous));
        assert_eq!(of_request("1.1", &[TE, "Content-Length: x"]), Err(Error::Ambiguous));
        assert_eq!(of_request("1.0", &[TE]), Err(Error::UnexpectedTransferEncoding));
        assert_eq!(of_request("1.1", &[CL, CL]), Err(Error::DuplicateContentLength));
        assert_eq!(of_request("1.1", &[TE, TE]), Err(Error::DuplicateField));
        for value in [
            "+5",
            "-5",
            "5 5",
            "5, 5",
            "0x5",
            "5.0",
            "",
            "٥",
            "5;",
            "18446744073709551621",
            "9223372036854775808",
        ] {
            assert_eq!(
                of_request("1.1", &[&format!("Content-Length: {value}")]),
                Err(Error::InvalidContentLength)
            );
        }
        for value in
            ["xchunked", "chunked, identity", "gzip, chunked", "chunked,", "", "\"chunked\"", "chunked;q=1"]
        {
            let outcome = of_request("1.1", &[&format!("Transfer-Encoding: {value}")]);
            assert_eq!(outcome, Err(Error::UnknownTransferEncoding), "{value}");
        }
    }

    #[test]
    fn some_responses_have_no_body() {
        assert_eq!(of_response("200 OK", &[CL], Method::Get), Ok(BodyLength::Length(5)));
        assert_eq!(of_response("200 OK", &[TE], Method::Get), Ok(BodyLength::Chunked));
        assert_eq!(of_response("200 OK", &["B: c"], Method::Get), Ok(BodyLength::UntilClose));
        assert_eq!(of_response("200 OK", &[CL], Method::Head), Ok(BodyLength::None));
        for start in ["100 Continue", "101 Switching Protocols", "204 No Content", "304 Not Modified"] {
            assert_eq!(of_response(start, &[CL], Method::Get), Ok(BodyLength::None), "{start}");
        }
        assert_eq!(of_response("200 OK", &["B: c"], Method::Connect), Ok(BodyLength::None));
        assert_eq!(of_response("200 OK", &[CL, TE], Method::Get), Err(Error::Ambiguous));
        assert_eq!(of_response("200 OK", &[CL, CL], Method::Get), Err(Error::DuplicateContentLength));
        assert_eq!(of_response("304 Not Modified", &[CL, TE], Method::Head), Err(Error::Ambiguous));
    }
}
