//! Decides whether a request may be sent again: to another server, or to the same one over a new connection.
//!
//! Pure. Behaviour: nginx.org, `proxy_next_upstream`, `proxy_next_upstream_tries` and
//! `proxy_next_upstream_timeout`; RFC 9110 §9.2.2 for requests that are harmless to repeat. Not used once a
//! byte has reached the client.

use crate::proto::message::Method;
use crate::upstream::{Fault, Faults};

/// The facts about a request after a peer's turn.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    /// The faults after which another server is tried.
    pub permitted: Faults,
    /// How many servers may be tried, including the one of this turn.
    pub tries_left: u32,
    /// The time for trying another server has expired.
    pub is_late: bool,
    /// The request must not be sent twice ([`is_non_idempotent`]).
    pub is_non_idempotent: bool,
    /// Some of it may have reached the peer.
    pub has_begun: bool,
    /// It can be sent from the start: no part of its body is lost.
    pub can_repeat: bool,
}

impl Chance {
    /// True if another server is tried after a turn without a response. `tries_left` no longer includes that
    /// turn.
    pub fn goes_on_after(&self, fault: Fault) -> bool {
        self.tries_left > 0
            && self.can_repeat
            && self.permitted.permits(fault, self.has_begun && self.is_non_idempotent)
            && !self.is_late
    }

    /// True if a response with this status is dropped in favour of another server. The response of the last
    /// try goes to the client.
    pub fn refuses(&self, status: u16) -> bool {
        self.tries_left > 1
            && !self.is_late
            && self.can_repeat
            && self.permitted.permits(Fault::Status(status), self.is_non_idempotent)
    }

    /// True if a response with this status would be dropped if the request could be repeated: its server counts as
    /// failed all the same.
    #[inline]
    pub fn blames(&self, status: u16) -> bool {
        let fault = Fault::Status(status);
        self.tries_left > 1
            && (self.is_non_idempotent || !self.can_repeat)
            && fault.is_failure()
            && self.permitted.permits(fault, false)
    }

    /// True if another server is tried should this turn, which has not ended, end with this fault.
    #[inline]
    pub fn would_go_on_after(&self, fault: Fault) -> bool {
        self.tries_left > 1 && Self { tries_left: self.tries_left - 1, ..*self }.goes_on_after(fault)
    }

    /// True if the request is sent to the same peer again after a kept connection turned out to be closed:
    /// nothing of it was sent, or repeating it is harmless, or the configuration declares it harmless.
    pub fn repeats(&self) -> bool {
        self.can_repeat
            && (!self.has_begun || !self.is_non_idempotent || self.permitted.permits(Fault::Error, true))
    }
}

/// True for methods whose requests must not be sent twice (nginx's list).
pub fn is_non_idempotent(method: Method) -> bool {
    matches!(method, Method::Post | Method::Lock | Method::Patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(words: &str) -> Faults {
        Faults::parse(words.split(' ')).unwrap()
    }

    /// A GET that was sent completely, with servers left to try.
    fn sent_get() -> Chance {
        Chance {
            permitted: faults("error timeout"),
            tries_left: 2,
            is_late: false,
            is_non_idempotent: false,
            has_begun: true,
            can_repeat: true,
        }
    }

    #[test]
    fn another_server_is_tried_after_a_permitted_fault() {
        let get = sent_get();
        let post = Chance { is_non_idempotent: true, ..get };
        let bold = Chance { permitted: faults("error non_idempotent"), ..post };
        let cases = [
            (get, Fault::Error, true),
            (get, Fault::Timeout, true),
            (get, Fault::InvalidHeader, false),
            (get, Fault::Status(503), false),
            (Chance { permitted: faults("http_503"), ..get }, Fault::Status(503), true),
            (Chance { permitted: faults("off"), ..get }, Fault::Error, false),
            (Chance { tries_left: 1, ..get }, Fault::Error, true),
            (Chance { tries_left: 0, ..get }, Fault::Error, false),
            (Chance { is_late: true, ..get }, Fault::Error, false),
            (Chance { can_repeat: false, ..get }, Fault::Error, false),
            (post, Fault::Error, false),
            (Chance { has_begun: false, ..post }, Fault::Error, true),
            (bold, Fault::Error, true),
            (bold, Fault::Timeout, false),
            (Chance { can_repeat: false, ..bold }, Fault::Error, false),
        ];
        for (chance, fault, expected) in cases {
            assert_eq!(chance.goes_on_after(fault), expected, "{chance:?} {fault:?}");
        }
    }

    #[test]
    fn an_answer_is_refused_only_while_another_server_can_be_asked() {
        let get = Chance { permitted: faults("http_503 http_404"), ..sent_get() };
        let post = Chance { is_non_idempotent: true, ..get };
        let cases = [
            (get, 503, true),
            (get, 404, true),
            (get, 200, false),
            (get, 500, false),
            (Chance { tries_left: 1, ..get }, 503, false),
            (Chance { is_late: true, ..get }, 503, false),
            (Chance { can_repeat: false, ..get }, 503, false),
            (post, 503, false),
            // a response shows that the request has arrived, whatever was counted as sent
            (Chance { has_begun: false, ..post }, 503, false),
            (Chance { permitted: faults("http_503 non_idempotent"), ..post }, 503, true),
        ];
        for (chance, status, expected) in cases {
            assert_eq!(chance.refuses(status), expected, "{chance:?} {status}");
        }
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_replaced_where_that_does_no_harm() {
        let get = sent_get();
        let post = Chance { is_non_idempotent: true, ..get };
        let cases = [
            (get, true),
            (Chance { can_repeat: false, ..get }, false),
            // this does not depend on other servers
            (Chance { tries_left: 0, is_late: true, ..get }, true),
            (Chance { permitted: faults("off"), ..get }, true),
            (post, false),
            (Chance { has_begun: false, ..post }, true),
            (Chance { has_begun: false, can_repeat: false, ..post }, false),
            (Chance { permitted: faults("error non_idempotent"), ..post }, true),
            (Chance { permitted: faults("timeout non_idempotent"), ..post }, false),
        ];
        for (chance, expected) in cases {
            assert_eq!(chance.repeats(), expected, "{chance:?}");
        }
    }

    #[test]
    fn the_methods_that_nginx_does_not_repeat() {
        for method in [Method::Post, Method::Lock, Method::Patch] {
            assert!(is_non_idempotent(method));
        }
        for method in [Method::Get, Method::Head, Method::Put, Method::Delete, Method::Options, Method::Other]
        {
            assert!(!is_non_idempotent(method), "{method:?}");
        }
    }
}
