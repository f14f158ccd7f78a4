//! `expires`: how long a response stays fresh, as `Expires` and `Cache-Control`.
//!
//! Touches: the response's fields, the clock. Behaviour: nginx.org, ngx_http_headers_module.

use crate::base::number::parse_millis;
use crate::config::{Diagnostic, Node};
use crate::http::config::compile::Cx;
use crate::http::request::Request;
use crate::http::scope::Script;
use crate::log::format;
use crate::proto::header::Id;
use crate::sys::clock;
use crate::sys::clock_local::local_time;

const DAY_S: i64 = 86_400;

/// The freshness that `expires` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    Off,
    Epoch,
    Max,
    /// Seconds after now.
    Access(i64),
    /// Seconds after the last modification.
    Modified(i64),
    /// The next time the local clock shows this many seconds after midnight.
    Daily(i64),
}

/// The directive's arguments: constant, or to be evaluated.
#[derive(Clone, Debug)]
pub enum Setting {
    Fixed(Fixed),
    Variable { value: Script, is_modified: bool },
}

/// A constant one.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(Expires);

impl Setting {
    /// `expires [modified] TIME`, `@TIME`, `epoch`, `max`, `off`, or a variable.
    pub fn read(node: &Node, cx: &mut Cx) -> Result<Self, Diagnostic> {
        let is_modified = node.args.len() == 2;
        if is_modified && node.arg(0) != "modified" {
            return Err(Diagnostic::error(node.arg_span(0), "\"expires\" directive invalid value"));
        }
        let word = &node.args[node.args.len() - 1];
        let value = Script::compile(word, cx)?;
        let Some(text) = value.as_text() else { return Ok(Self::Variable { value, is_modified }) };
        let help = "a time such as 24h or -1, @15h30m, epoch, max or off";
        let expires = parse(text, is_modified)
            .map_err(|why| Diagnostic::error(word.span, format!("\"expires\" directive {why}")).help(help))?;
        Ok(Self::Fixed(Fixed(expires)))
    }

    fn evaluate(&self, request: &mut Request) -> Option<Expires> {
        match self {
            Self::Fixed(Fixed(expires)) => Some(*expires),
            Self::Variable { value, is_modified } => parse(&value.to_vec(request), *is_modified).ok(),
        }
    }
}

fn parse(text: &[u8], is_modified: bool) -> Result<Expires, &'static str> {
    match text {
        b"epoch" if !is_modified => return Ok(Expires::Epoch),
        b"max" if !is_modified => return Ok(Expires::Max),
        b"off" if !is_modified => return Ok(Expires::Off),
        [b'@', ..] if is_modified => return Err("daily time cannot be used with \"modified\" parameter"),
        _ => {}
    }
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+' | b'@', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    let ms = std::str::from_utf8(digits).ok().and_then(parse_millis).ok_or("invalid value")?;
    let seconds = i64::try_from(ms / 1000).map_err(|_| "invalid value")? * sign;
    match text.first() {
        Some(b'@') if seconds > DAY_S => Err("daily time value must be less than 24 hours"),
        Some(b'@') => Ok(Expires::Daily(seconds)),
        _ if is_modified => Ok(Expires::Modified(seconds)),
        _ => Ok(Expires::Access(seconds)),
    }
}

/// Sets `Expires` and `Cache-Control`, replacing the response's own.
pub fn apply(setting: &Setting, request: &mut Request) {
    let Some(expires) = setting.evaluate(request) else { return };
    let now = clock::wall_seconds();
    let (at, control) = match expires {
        Expires::Off => return,
        Expires::Epoch => (1, Some("no-cache")),
        Expires::Max => (2_145_916_555, Some("max-age=315360000")),
        Expires::Access(seconds) => judged(now.saturating_add(seconds), seconds, seconds),
        Expires::Modified(seconds) => {
            let modified = request.response.headers.get(Id::LastModified).and_then(date);
            let at = modified.unwrap_or(now).saturating_add(seconds);
            judged(at, at.saturating_sub(now), seconds)
        }
        Expires::Daily(second) => {
            let at = next(second, now, i64::from(local_time(now).offset_min) * 60);
            judged(at, at.saturating_sub(now), second)
        }
    };
    let mut value = Vec::new();
    format::http_date(at, &mut value);
    let headers = &mut request.response.headers;
    headers.set(Id::Expires, &value);
    match control {
        Some(control) => headers.set(Id::CacheControl, control.as_bytes()),
        None => headers.set(Id::CacheControl, format!("max-age={}", at.saturating_sub(now)).as_bytes()),
    }
}

/// Returns the moment, and `no-cache` if it is in the past.
fn judged(at: i64, age: i64, seconds: i64) -> (i64, Option<&'static str>) {
    (at, (age < 0 || seconds < 0).then_some("no-cache"))
}

/// The next moment after `now` at which a clock `offset_s` ahead of UTC shows `second` of its day.
fn next(second: i64, now: i64, offset_s: i64) -> i64 {
    let midnight = (now + offset_s).div_euclid(DAY_S) * DAY_S - offset_s;
    let today = midnight + second;
    if today > now { today } else { today + DAY_S }
}

fn date(value: &[u8]) -> Option<i64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, is_modified, expected) in [
            ("epoch", false, Ok(Expires::Epoch)),
            ("max", false, Ok(Expires::Max)),
            ("off", false, Ok(Expires::Off)),
            ("24h", false, Ok(Expires::Access(DAY_S))),
            ("+24h", true, Ok(Expires::Modified(DAY_S))),
            ("-1", false, Ok(Expires::Access(-1))),
            ("0", false, Ok(Expires::Access(0))),
            ("@15h30m33s", false, Ok(Expires::Daily(55_833))),
            ("@25h", false, Err("daily time value must be less than 24 hours")),
            ("@1h", true, Err("daily time cannot be used with \"modified\" parameter")),
            ("epoch", true, Err("invalid value")),
            ("", false, Err("invalid value")),
            ("soon", false, Err("invalid value")),
            ("--1", false, Err("invalid value")),
        ] {
            assert_eq!(parse(text.as_bytes(), is_modified), expected, "{text}");
        }
    }

    #[test]
    fn a_daily_moment_is_always_ahead() {
        let (noon, hour) = (DAY_S / 2, 3600);
        assert_eq!(next(noon + hour, noon, 0), noon + hour);
        assert_eq!(next(noon, noon, 0), noon + DAY_S);
        assert_eq!(next(noon - hour, noon, 0), noon - hour + DAY_S);
        // Two hours ahead of UTC it is 14:00 at noon; the next 13:00 is tomorrow's.
        assert_eq!(next(noon + hour, noon, 2 * hour), noon - hour + DAY_S);
        assert_eq!(next(23 * hour, hour, -2 * hour), DAY_S + hour);
    }
}
