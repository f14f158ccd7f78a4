//! A health check in the terms of gRPC (`health_check type=grpc`): the call of `grpc.health.v1.Health/Check`, and what its
//! response says.
//!
//! Pure. gRPC's health checking protocol (health.proto) and its HTTP/2 mapping; nginx.org, ngx_http_upstream_hc_module.

use crate::base::number::parse_u64;
use crate::http::upstream::matching::Refusal;
use crate::proto::protobuf::{Field, Value, put_bytes, take_field};

/// The target of the call.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The service that is asked for, and the status that is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `grpc_service`; empty: the server as a whole.
    pub service: Box<str>,
    /// `grpc_status`; 0: the server must also say that it is serving.
    pub status: u64,
}

/// The value of `ServingStatus.SERVING`.
const SERVING: u64 = 1;

impl Call {
    /// The message, with its length before it: `HealthCheckRequest { service = 1 }`.
    pub fn message(&self) -> Vec<u8> {
        let mut request = Vec::new();
        if !self.service.is_empty() {
            put_bytes(1, self.service.as_bytes(), &mut request);
        }
        let mut message = vec![0]; // not compressed
        message.extend_from_slice(&(request.len() as u32).to_be_bytes());
        message.extend_from_slice(&request);
        message
    }

    /// Judges a response with status 200: `grpc_status` is the field of its trailers, or of its head without any.
    pub fn judge(&self, grpc_status: Option<&[u8]>, body: &[u8]) -> Result<(), Refusal> {
        let refused = |why: String| Err(("checking gRPC status", why));
        let Some(text) = grpc_status else { return refused("there is no \"grpc-status\"".into()) };
        match parse_u64(text) {
            Some(status) if status != self.status => {
                return refused(format!("grpc-status {status}, not {}", self.status));
            }
            Some(0) => {}
            Some(_) => return Ok(()),
            None => return refused("\"grpc-status\" is no number".into()),
        }
        match serving_status(body) {
            Some(SERVING) => Ok(()),
            Some(0) => refused("its health is UNKNOWN".into()),
            Some(2) => refused("it is NOT_SERVING".into()),
            Some(3) => refused("the service is unknown to it".into()),
            Some(other) => refused(format!("its health is {other}")),
            None => refused("the message is malformed".into()),
        }
    }
}

/// `HealthCheckResponse { status = 1 }`; 0 if it is absent. `None`: that is no such message.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut rest = message.get(..length).filter(|_| head[0] == 0)?;
    let mut status = 0;
    while let Some(Field { number, value }) = take_field(&mut rest) {
        if let (1, Value::Number(value)) = (number, value) {
            status = value;
        }
    }
    rest.is_empty().then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_that_of_the_protocol() {
        assert_eq!(Call::default().message(), [0; 5]);
        let call = Call { service: "a.B".into(), status: 0 };
        assert_eq!(call.message(), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = Call { service: "x".repeat(300).into(), status: 0 };
        assert_eq!(long.message()[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn the_status_of_the_call_and_of_the_server_count() {
        let serving = &b"\0\0\0\0\x02\x08\x01"[..];
        let cases: &[(u64, Option<&str>, &[u8], bool)] = &[
            (0, Some("0"), serving, true),
            (0, Some("0"), b"\0\0\0\0\x02\x08\x02", false),
            (0, Some("0"), b"\0\0\0\0\0", false),
            (0, Some("0"), b"", false),
            (0, Some("0"), b"\x01\0\0\0\x02\x08\x01", false),
            (0, Some("0"), b"\0\0\0\0\x08\x12\x02xy\x08\x01\x18\x05", true),
            (0, Some("0"), b"\0\0\0\0\x09\x08\xff\xff\xff\xff\xff\xff\xff\xff", false),
            (0, Some("0"), b"\0\0\0\0\x03\x12\x50x", false),
            (0, Some("0"), b"\0\0\0\0\x02\x0b\x01", false),
            (0, Some("12"), serving, false),
            (12, Some("12"), b"", true),
            (12, Some("0"), serving, false),
            (0, None, serving, false),
            (0, Some("x"), serving, false),
        ];
        for (expected, status, body, passes) in cases {
            let call = Call { service: "".into(), status: *expected };
            assert_eq!(call.judge(status.map(str::as_bytes), body).is_ok(), *passes, "{status:?} {body:x?}");
        }
    }
}
