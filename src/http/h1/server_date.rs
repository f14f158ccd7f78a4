//! `Server` and `Date`: the lines that all responses of one second share.
//!
//! Touches: the clock. They are built once a second and copied, which takes a fifth of the instructions of
//! writing them.
//! Behaviour: nginx.org, `server_tokens`.

use std::cell::RefCell;

use crate::log;
use crate::proto::field_text::{Lines, Text};
use crate::proto::h1::encode::Head;
use crate::proto::header::Id;
use crate::sys::clock;

/// The value of `Server` with and without `server_tokens`.
const FULL: &str = concat!("pronghorn/", env!("CARGO_PKG_VERSION"));
const SHORT: &str = "pronghorn";

/// Which of the two fields a response gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub server: bool,
    pub date: bool,
    /// Includes the version (`server_tokens`).
    pub version: bool,
}

struct Made {
    seconds: i64,
    lines: Lines,
}

thread_local! {
    /// Without and with the version.
    static MADE: RefCell<[Option<Made>; 2]> = const { RefCell::new([None, None]) };
}

/// Writes the wanted lines.
#[inline]
pub fn write(wanted: Wanted, head: &mut Head<'_>) {
    let seconds = clock::wall_seconds();
    if !(wanted.server && wanted.date) {
        return head.lines(&make(wanted, seconds));
    }
    MADE.with_borrow_mut(|made| {
        let made = &mut made[usize::from(wanted.version)];
        match made {
            Some(made) if made.seconds == seconds => head.lines(&made.lines),
            _ => head.lines(&made.insert(Made { seconds, lines: make(wanted, seconds) }).lines),
        }
    });
}

#[cold]
fn make(wanted: Wanted, seconds: i64) -> Lines {
    let mut lines = Lines::default();
    if wanted.server {
        lines.push(Id::Server.into(), &Text::constant(if wanted.version { FULL } else { SHORT }));
    }
    if wanted.date {
        let mut date = Vec::new();
        log::format::http_date(seconds, &mut date);
        lines.push(Id::Date.into(), &Text::clean(&date));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(wanted: Wanted) -> String {
        let mut out = Vec::new();
        write(wanted, &mut Head::response(204, &Text::constant(""), &mut out));
        String::from_utf8(out).expect("ASCII").replace("HTTP/1.1 204 \r\n", "")
    }

    #[test]
    fn each_response_gets_the_lines_it_wants_whatever_the_one_before_it_got() {
        let version = env!("CARGO_PKG_VERSION");
        for _ in 0..2 {
            for (server, date, has_tokens) in [
                (true, true, true),
                (true, true, false),
                (true, false, true),
                (true, false, false),
                (false, true, true),
                (false, false, false),
            ] {
                let text = written(Wanted { server, date, version: has_tokens });
                let expected = match (server, has_tokens) {
                    (false, _) => String::new(),
                    (true, true) => format!("Server: pronghorn/{version}\r\n"),
                    (true, false) => "Server: pronghorn\r\n".to_owned(),
                };
                let rest = text.strip_prefix(&expected).expect("Server stands first");
                assert_eq!(rest.starts_with("Date: ") && rest.ends_with(" GMT\r\n"), date, "{text}");
                assert_eq!(rest.is_empty(), !date, "{text}");
            }
        }
    }
}
