//! How much a peer makes us work for nothing.
//!
//! Every kind of frame that costs us more than it costs its sender, and brings no request forward, has a price in
//! points; there is one account for a connection, so attacks that mix frames gain nothing. Useful work, and time, pay
//! points back. An account beyond its limit ends the connection (`http2_abuse_limit`).
//! Touches: nothing; time is an argument. The attacks by name: `docs/security.md`.

use std::fmt;

/// Points that a second pays back.
const REFUND_PER_S: u64 = 20;

/// Something that a peer may do now and then, but not all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A stream that its client gives up before the response (rapid reset).
    Reset,
    /// A stream that we have to reset for an error of its peer (MadeYouReset).
    StreamError,
    /// A stream beyond the limit.
    Refused,
    /// A request that is malformed.
    Malformed,
    Ping,
    Settings,
    Priority,
    /// DATA without data that does not end the stream.
    EmptyData,
    Continuation,
    WindowUpdate,
    /// A frame of an unknown type, or for a stream that has ended.
    Idle,
}

impl Act {
    fn price(self) -> u32 {
        match self {
            Self::Reset | Self::Refused | Self::Settings => 4,
            Self::StreamError => 8,
            Self::Malformed => 50,
            Self::EmptyData => 2,
            Self::Ping | Self::Priority | Self::Continuation | Self::WindowUpdate | Self::Idle => 1,
        }
    }
}

impl Act {
    /// The kind of frame or event of which a peer sends too many.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "streams that it resets",
            Self::StreamError => "streams with errors",
            Self::Refused => "streams beyond the limit",
            Self::Malformed => "malformed requests",
            Self::Ping => "PING frames",
            Self::Settings => "SETTINGS frames",
            Self::Priority => "PRIORITY frames",
            Self::EmptyData => "empty DATA frames",
            Self::Continuation => "CONTINUATION frames",
            Self::WindowUpdate => "WINDOW_UPDATE frames",
            Self::Idle => "frames without use",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The account of a connection.
#[derive(Debug)]
pub struct Abuse {
    points: u32,
    max: u32,
    refunded_ms: u64,
}

impl Abuse {
    /// `max` 0: no limit.
    pub fn new(max: u32) -> Self {
        Self { points: 0, max, refunded_ms: 0 }
    }

    /// Charges for an act. False: the account is beyond its limit.
    pub fn charge(&mut self, act: Act, now_ms: u64) -> bool {
        let refund = now_ms.saturating_sub(self.refunded_ms).saturating_mul(REFUND_PER_S) / 1000;
        if refund > 0 {
            self.pay_back(u32::try_from(refund).unwrap_or(u32::MAX));
            self.refunded_ms = now_ms;
        }
        self.points = self.points.saturating_add(act.price());
        self.max == 0 || self.points <= self.max
    }

    /// Useful work was done.
    pub fn pay_back(&mut self, points: u32) {
        self.points = self.points.saturating_sub(points);
    }

    pub fn max(&self) -> u32 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(abuse: &mut Abuse, act: Act, now_ms: impl Fn(u64) -> u64) -> Option<u64> {
        (0..100_000).find(|turn| !abuse.charge(act, now_ms(*turn)))
    }

    #[test]
    fn an_attack_of_any_kind_ends_within_a_thousand_frames() {
        for act in [
            Act::Reset,
            Act::StreamError,
            Act::Refused,
            Act::Malformed,
            Act::Ping,
            Act::Settings,
            Act::Priority,
            Act::EmptyData,
            Act::Continuation,
            Act::WindowUpdate,
            Act::Idle,
        ] {
            let ended = count(&mut Abuse::new(1000), act, |_| 5).expect("it ends");
            assert!(ended <= 1000, "{act}: {ended}");
            assert_eq!(count(&mut Abuse::new(0), act, |_| 5), None, "{act}");
        }
    }

    #[test]
    fn time_and_work_pay_back() {
        assert_eq!(count(&mut Abuse::new(1000), Act::Ping, |turn| turn * 100), None, "ten pings a second");
        let mut abuse = Abuse::new(10);
        assert!((0..100_000).all(|_| {
            abuse.pay_back(3);
            abuse.charge(Act::WindowUpdate, 0) && abuse.charge(Act::Ping, 0)
        }));
        assert!(
            count(&mut Abuse::new(1000), Act::Reset, |turn| turn).is_some(),
            "a thousand resets a second"
        );
    }
}
