//! The faults after which another peer is tried (`proxy_next_upstream` and related directives).
//!
//! Pure data. Behaviour: nginx.org, proxy_next_upstream of ngx_http_proxy_module: never after bytes have
//! reached the client (the caller checks that), and for POST, LOCK and PATCH only if the request was not
//! sent, unless `non_idempotent` allows it.

/// A fault of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connecting, sending or reading the head failed.
    Error,
    Timeout,
    /// An empty or malformed response head.
    InvalidHeader,
    /// The configuration does not permit a connection to it (`proxy_allow_upstream`).
    Denied,
    /// A whole response head with this status.
    Status(u16),
}

impl Fault {
    /// The status for the client if no other peer is tried.
    pub fn status(self) -> u16 {
        match self {
            Self::Error | Self::InvalidHeader | Self::Denied | Self::Status(502) => 502,
            Self::Timeout => 504,
            Self::Status(status) => status,
        }
    }

    /// True if the peer is to blame: 403 and 404 are responses of a healthy one.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Status(403 | 404))
    }

    fn flag(self) -> u16 {
        match self {
            Self::Error => 1,
            Self::Timeout => 1 << 1,
            Self::InvalidHeader => 1 << 2,
            Self::Status(500) => 1 << 3,
            Self::Status(502) => 1 << 4,
            Self::Status(503) => 1 << 5,
            Self::Status(504) => 1 << 6,
            Self::Status(403) => 1 << 7,
            Self::Status(404) => 1 << 8,
            Self::Status(429) => 1 << 9,
            Self::Denied => 1 << 11,
            Self::Status(_) => 0,
        }
    }
}

const NON_IDEMPOTENT: u16 = 1 << 10;

/// The directive's words, and the faults that each permits.
const WORDS: &[(&str, u16)] = &[
    ("error", 1),
    ("timeout", 1 << 1),
    ("invalid_header", 1 << 2),
    ("http_500", 1 << 3),
    ("http_502", 1 << 4),
    ("http_503", 1 << 5),
    ("http_504", 1 << 6),
    ("http_403", 1 << 7),
    ("http_404", 1 << 8),
    ("http_429", 1 << 9),
    ("non_idempotent", NON_IDEMPOTENT),
    ("denied", 1 << 11),
];

/// A compiled `proxy_next_upstream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u16);

impl Default for Faults {
    /// `error timeout`
    fn default() -> Self {
        Self(Fault::Error.flag() | Fault::Timeout.flag())
    }
}

impl Faults {
    /// Parses the arguments; `Err` is the index of an unknown word. `off` permits nothing, whatever the other
    /// words.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, usize> {
        let (mut flags, mut off) = (0, false);
        for (index, word) in words.enumerate() {
            if word == "off" {
                off = true;
                continue;
            }
            let (_, flag) = WORDS.iter().find(|(name, _)| *name == word).ok_or(index)?;
            flags |= flag;
        }
        Ok(Self(if off { 0 } else { flags }))
    }

    /// Merges both lists; `off` in either permits nothing.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(if self.0 == 0 || other.0 == 0 { 0 } else { self.0 | other.0 })
    }

    /// True if everything that `other` permits is permitted here too.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if some fault allows a request that was already sent to be sent again. `is_non_idempotent`: it may be
    /// repeated only with `non_idempotent`.
    pub fn repeats(self, is_non_idempotent: bool) -> bool {
        self.0 & !NON_IDEMPOTENT != 0 && (!is_non_idempotent || self.0 & NON_IDEMPOTENT != 0)
    }

    /// True if another peer may be tried after this fault. `non_idempotent_sent`: a request that may not be repeated
    /// has been sent, at least in part.
    pub fn permits(self, fault: Fault, non_idempotent_sent: bool) -> bool {
        let flag = fault.flag();
        flag != 0 && self.0 & flag != 0 && (!non_idempotent_sent || self.0 & NON_IDEMPOTENT != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Faults, usize> {
        Faults::parse(text.split(' '))
    }

    #[test]
    fn the_default_is_error_and_timeout() {
        assert_eq!(parse("error timeout"), Ok(Faults::default()));
        assert!(Faults::default().permits(Fault::Error, false));
        assert!(Faults::default().permits(Fault::Timeout, false));
        assert!(!Faults::default().permits(Fault::InvalidHeader, false));
        assert!(!Faults::default().permits(Fault::Status(502), false));
    }

    #[test]
    fn a_request_that_may_not_be_repeated_needs_a_word_of_its_own() {
        assert!(!Faults::default().permits(Fault::Error, true));
        assert!(parse("error non_idempotent").unwrap().permits(Fault::Error, true));
        assert!(!parse("non_idempotent").unwrap().permits(Fault::Error, true));
    }

    #[test]
    fn what_may_be_sent_again_is_known_before_it_is_sent() {
        let cases = [
            ("error timeout", (true, false)),
            ("error non_idempotent", (true, true)),
            ("non_idempotent", (false, false)),
            ("off", (false, false)),
        ];
        for (words, expected) in cases {
            let faults = parse(words).unwrap();
            assert_eq!((faults.repeats(false), faults.repeats(true)), expected, "{words}");
        }
    }

    #[test]
    fn statuses_are_permitted_one_by_one() {
        let faults = parse("http_404 http_503").unwrap();
        assert!(faults.permits(Fault::Status(404), false));
        assert!(faults.permits(Fault::Status(503), false));
        assert!(!faults.permits(Fault::Status(500), false));
        assert!(!faults.permits(Fault::Status(200), false), "a good answer is no fault");
    }

    #[test]
    fn off_permits_nothing_and_unknown_words_are_named() {
        assert!(!parse("off").unwrap().permits(Fault::Error, false));
        assert!(!parse("error off").unwrap().permits(Fault::Error, false));
        assert_eq!(parse("error http_418"), Err(1));
    }

    #[test]
    fn statuses_for_the_client() {
        for (fault, status) in [
            (Fault::Error, 502),
            (Fault::InvalidHeader, 502),
            (Fault::Timeout, 504),
            (Fault::Status(503), 503),
            (Fault::Status(404), 404),
        ] {
            assert_eq!(fault.status(), status);
        }
        assert!(!Fault::Status(404).is_failure());
        assert!(Fault::Status(500).is_failure());
    }
}
