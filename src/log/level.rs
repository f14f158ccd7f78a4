//! nginx's eight levels of severity.
//!
//! Truth: nginx.org, core module, `error_log`.

use std::fmt;

/// Severity, most severe first; `as u8` is syslog's number (RFC 3164 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    Emerg = 0,
    Alert = 1,
    Crit = 2,
    Error = 3,
    Warn = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

impl Level {
    pub const ALL: [Level; 8] = [
        Level::Emerg,
        Level::Alert,
        Level::Crit,
        Level::Error,
        Level::Warn,
        Level::Notice,
        Level::Info,
        Level::Debug,
    ];

    /// Parses a level in the configuration; nginx's `debug_http` and the like mean `debug`.
    pub fn parse(word: &str) -> Option<Level> {
        const MASKS: [&str; 8] = [
            "debug_core",
            "debug_alloc",
            "debug_mutex",
            "debug_event",
            "debug_http",
            "debug_mail",
            "debug_stream",
            "debug_imap",
        ];
        if MASKS.contains(&word) {
            return Some(Level::Debug);
        }
        Level::ALL.into_iter().find(|level| level.name() == word)
    }

    pub fn name(self) -> &'static str {
        match self {
            Level::Emerg => "emerg",
            Level::Alert => "alert",
            Level::Crit => "crit",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Notice => "notice",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Level> {
        Level::ALL.get(usize::from(number)).copied()
    }

    /// The level for slog. It has only six, so the three most severe share one, and our own level is passed
    /// separately.
    pub(super) fn slog(self) -> slog::Level {
        match self {
            Level::Emerg | Level::Alert | Level::Crit => slog::Level::Critical,
            Level::Error => slog::Level::Error,
            Level::Warn => slog::Level::Warning,
            Level::Notice => slog::Level::Info,
            Level::Info => slog::Level::Debug,
            Level::Debug => slog::Level::Trace,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_order_is_most_severe_first() {
        for (number, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(Level::parse(level.name()), Some(level));
            assert_eq!(level as usize, number);
            assert_eq!(Level::of_number(number as u8), Some(level));
        }
        assert!(Level::Emerg < Level::Debug);
        assert_eq!(Level::parse("debug_http"), Some(Level::Debug));
        assert_eq!(Level::parse("ERROR"), None);
        assert_eq!(Level::of_number(8), None);
    }
}
