//! Times in logs and header fields, formatted once per second and thread.
//!
//! Nothing here asks the clock: the caller passes seconds since 1970. Formats: nginx.org, `$time_local`,
//! `$time_iso8601`, `$msec`; RFC 9110 §5.6.7 for `Date`; RFC 3164 §4.1.2 for syslog.

use std::cell::RefCell;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use crate::sys::clock_local;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// One second in every format.
#[derive(Default)]
struct Times {
    secs: i64,
    filled: bool,
    error: String,
    local: String,
    iso8601: String,
    syslog: String,
    http: String,
}

thread_local! {
    static TIMES: RefCell<Times> = RefCell::default();
}

/// Appends `2026/11/21 06:31:12`, local time, which begins an error log line.
pub fn error_time(secs: i64, out: &mut Vec<u8>) {
    cached(secs, |times| out.extend_from_slice(times.error.as_bytes()));
}

/// Appends `21/Nov/2026:06:31:12 +0000`: nginx's `$time_local`.
pub fn time_local(secs: i64, out: &mut Vec<u8>) {
    cached(secs, |times| out.extend_from_slice(times.local.as_bytes()));
}

/// Appends `2026-11-21T06:31:12+00:00`: nginx's `$time_iso8601`.
pub fn time_iso8601(secs: i64, out: &mut Vec<u8>) {
    cached(secs, |times| out.extend_from_slice(times.iso8601.as_bytes()));
}

/// Appends `Nov 21 06:31:12`, local time, the day padded with a space, for the head of a syslog message.
pub fn syslog_time(secs: i64, out: &mut Vec<u8>) {
    cached(secs, |times| out.extend_from_slice(times.syslog.as_bytes()));
}

/// Appends `Sat, 21 Nov 2026 06:31:12 GMT`: the value of `Date` and `Last-Modified`.
pub fn http_date(secs: i64, out: &mut Vec<u8>) {
    cached(secs, |times| out.extend_from_slice(times.http.as_bytes()));
}

/// Appends a time in the cookies' original form: `Thu, 31-Dec-37 23:55:55 GMT`, with four-digit years from 2038
/// on. Other than the present time it is not remembered.
pub fn cookie_date(secs: i64, out: &mut Vec<u8>) {
    let date = http(secs).to_string(); // Sun, 06 Nov 1994 08:49:37 GMT
    let [part @ .., _, _, _, _] = date.as_bytes() else { return };
    let year = if part.get(12..16) > Some(b"2037") { part.get(12..16) } else { part.get(14..16) };
    let parts = [part.get(..5), part.get(5..7), part.get(8..11), year, part.get(17..)];
    let [Some(week), Some(day), Some(month), Some(year), Some(time)] = parts else { return };
    for text in [week, day, b"-", month, b"-", year, b" ", time, b" GMT"] {
        out.extend_from_slice(text);
    }
}

/// Appends `1795242672.045`: nginx's `$msec`.
pub fn msec(secs: i64, nanos: u32, out: &mut Vec<u8>) {
    let millis = nanos / 1_000_000 % 1000;
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(digits.format(secs).as_bytes());
    let mut last = *b".000";
    for (place, divisor) in [(1, 100), (2, 10), (3, 1)] {
        last[place] += (millis / divisor % 10) as u8;
    }
    out.extend_from_slice(&last);
}

/// Reads the time zone from `TZ` again.
pub fn read_zone() {
    clock_local::read_zone();
    TIMES.with_borrow_mut(|times| times.filled = false);
}

fn cached(secs: i64, use_it: impl FnOnce(&Times)) {
    TIMES.with_borrow_mut(|times| {
        if times.secs != secs || !times.filled {
            fill(secs, times);
        }
        use_it(times);
    });
}

fn fill(secs: i64, times: &mut Times) {
    let at = clock_local::local_time(secs);
    let month = MONTHS.get(usize::from(at.month).wrapping_sub(1)).copied().unwrap_or("Jan");
    let (sign, offset) = (if at.offset_min < 0 { '-' } else { '+' }, at.offset_min.unsigned_abs());
    let (off_hour, off_min) = (offset / 60, offset % 60);
    let (year, day, hour, minute, second) = (at.year, at.day, at.hour, at.minute, at.second);
    for text in [&mut times.error, &mut times.local, &mut times.iso8601, &mut times.syslog, &mut times.http] {
        text.clear();
    }
    // Writing to a String does not fail.
    let _ = write!(times.error, "{year:04}/{:02}/{day:02} {hour:02}:{minute:02}:{second:02}", at.month);
    let _ = write!(
        times.local,
        "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} {sign}{off_hour:02}{off_min:02}"
    );
    let _ = write!(
        times.iso8601,
        "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{sign}{off_hour:02}:{off_min:02}",
        at.month
    );
    let _ = write!(times.syslog, "{month} {day:2} {hour:02}:{minute:02}:{second:02}");
    let _ = write!(times.http, "{}", http(secs));
    times.secs = secs;
    times.filled = true;
}

fn http(secs: i64) -> httpdate::HttpDate {
    // httpdate supports the years 1970 to 9999; other times are clamped.
    httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(secs.clamp(0, 253_402_300_799) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("times are ASCII")
    }

    #[test]
    fn cookie_dates_have_two_digits_until_2037() {
        let cases = [
            (0, "Thu, 01-Jan-70 00:00:00 GMT"),
            (2_145_916_555, "Thu, 31-Dec-37 23:55:55 GMT"),
            (2_145_916_800, "Fri, 01-Jan-2038 00:00:00 GMT"),
        ];
        for (secs, expected) in cases {
            assert_eq!(text(|out| cookie_date(secs, out)), expected);
        }
    }

    #[test]
    fn every_spelling_has_its_shape() {
        let secs = 1_700_000_000; // 2023-11-14 22:13:20 UTC
        assert_eq!(text(|out| http_date(secs, out)), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(text(|out| msec(secs, 45_999_999, out)), "1700000000.045");
        let shapes = [
            (text(|out| error_time(secs, out)), "9999/99/99 99:99:99"),
            (text(|out| time_local(secs, out)), "99/Nov/9999:99:99:99 +9999"),
            (text(|out| time_iso8601(secs, out)), "9999-99-99T99:99:99+99:99"),
            (text(|out| syslog_time(secs, out)), "Nov 99 99:99:99"),
        ];
        for (time, shape) in shapes {
            let seen: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
            assert_eq!(seen.replace(" -", " +"), shape, "{time}");
        }
    }

    #[test]
    fn another_second_is_another_text_and_back() {
        let first = text(|out| http_date(0, out));
        assert_eq!(first, "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(text(|out| http_date(1, out)), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(text(|out| http_date(0, out)), first);
    }

    #[test]
    fn a_wrong_clock_still_gives_a_line() {
        assert_eq!(text(|out| http_date(-5, out)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(text(|out| http_date(i64::MAX, out)).ends_with("9999 23:59:59 GMT"));
        assert!(!text(|out| error_time(i64::MAX, out)).is_empty());
    }
}
