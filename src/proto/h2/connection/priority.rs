//! The precedence that clients give to their responses.
//!
//! Touches: nothing. RFC 9218 §4, §5, §7.

use super::{Connection, Failure, violation};
use crate::proto::h2::abuse::Act;
use crate::proto::h2::frame::{Code, Head, STREAM_MAX};
use crate::proto::h2::request::Request;
use crate::proto::h2::stream::Priority;

/// The name of the field.
const FIELD: &[u8] = b"priority";

/// The priority that a request asks for in its field; `None`: it has none.
pub(super) fn of_request(request: &Request) -> Option<Priority> {
    let fields = request.head.fields.iter();
    let mut fields = fields.filter(|field| field.id.is_none() && field.name(&request.text) == FIELD);
    fields.next().map(|field| parse(field.value(&request.text)))
}

/// Reads a priority field value, a dictionary (RFC 8941 §3.2). Members that are unknown or have no sense count as absent
/// (RFC 9218 §4).
fn parse(text: &[u8]) -> Priority {
    let mut priority = Priority { urgency: 3, incremental: false };
    for member in text.split(|byte| *byte == b',') {
        // parameters of a member have no meaning here
        let member = member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        match member {
            [b'u', b'=', digit @ b'0'..=b'7'] => priority.urgency = digit - b'0',
            b"i" | b"i=?1" => priority.incremental = true,
            b"i=?0" => priority.incremental = false,
            _ => {}
        }
    }
    priority
}

impl Connection {
    /// PRIORITY_UPDATE: another priority for a stream that has begun. For one that has not begun it is forgotten: a server
    /// may (§7.1), and nothing has to be kept for streams that may never come.
    pub(super) fn priority_update(&mut self, head: Head, payload: &[u8]) -> Result<(), (Code, Failure)> {
        if head.stream != 0 {
            return violation(Code::PROTOCOL_ERROR, "PRIORITY_UPDATE frame for a stream");
        }
        let Some((id, value)) = payload.split_first_chunk::<4>() else { return Ok(()) };
        let id = u32::from_be_bytes(*id) & STREAM_MAX;
        if id == 0 {
            return violation(Code::PROTOCOL_ERROR, "PRIORITY_UPDATE frame for no stream");
        }
        self.charge(Act::Priority)?;
        if let Some(stream) = self.stream(id) {
            stream.priority = parse(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_read_as_the_rfc_says() {
        for (text, urgency, incremental) in [
            ("", 3, false),
            ("u=5, i", 5, true),
            ("i=?1,u=0", 0, true),
            ("u=7;a=b, x=y", 7, false),
            ("u=8", 3, false),
            ("u=-1, i=?0", 3, false),
            ("U=1", 3, false),
            ("i=1, u=2", 2, false),
        ] {
            assert_eq!(parse(text.as_bytes()), Priority { urgency, incremental }, "{text}");
        }
    }
}
