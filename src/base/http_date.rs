//! Dates in header fields (RFC 9110 §5.6.7).

use std::str;

use crate::base::number::parse_u64;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Parses a date: seconds since 1970. `None` for text in none of the three formats, and for dates before
/// 1970.
///
/// Letters may be in either case, and the day of the week may be another one than the date's, as in nginx: many
/// programs write it without computing it.
pub fn parse(value: &[u8]) -> Option<i64> {
    let text = str::from_utf8(value).ok()?.to_ascii_lowercase();
    let words: Vec<&str> = text.split(' ').collect();
    match *words {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, time, "gmt"] if is_name(weekday.strip_suffix(',')?, 3..=3) => {
            seconds(digits(year, 4)?, month, digits(day, 2)?, time)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, time, "gmt"] if is_name(weekday.strip_suffix(',')?, 6..=9) => {
            let mut parts = date.split('-');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            let year = digits(year, 2).filter(|_| parts.next().is_none())?;
            seconds(if year < 70 { 2000 } else { 1900 } + year, month, digits(day, 2)?, time)
        }
        // Sun Nov  6 08:49:37 1994
        [weekday, month, "", day, time, year] if is_name(weekday, 3..=3) => {
            seconds(digits(year, 4)?, month, digits(day, 1)?, time)
        }
        [weekday, month, day, time, year] if is_name(weekday, 3..=3) => {
            seconds(digits(year, 4)?, month, digits(day, 2)?, time)
        }
        _ => None,
    }
}

fn is_name(word: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// A number of exactly so many digits.
fn digits(word: &str, count: usize) -> Option<i64> {
    let number = parse_u64(word.as_bytes()).filter(|_| word.len() == count)?;
    i64::try_from(number).ok()
}

/// `time` is `08:49:37`.
fn seconds(year: i64, month: &str, day: i64, time: &str) -> Option<i64> {
    let month = MONTHS.iter().position(|name| *name == month)?;
    let mut parts = time.split(':').map(|part| digits(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let is_valid = parts.next().is_none()
        && year >= 1970
        && (1..=lengths[month]).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60; // a leap second
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
        + lengths[..month].iter().sum::<i64>()
        + day
        - 1;
    is_valid.then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::parse;

    #[test]
    fn reads_the_three_formats_and_nothing_else() {
        let same = [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
        ];
        for date in same {
            assert_eq!(parse(date.as_bytes()), Some(784_111_777), "{date}");
        }
        assert_eq!(parse(b"Sun Nov 13 08:49:37 1994"), Some(784_111_777 + 7 * 86_400));
        assert_eq!(parse(b"Thursday, 18-Aug-50 02:01:18 GMT"), parse(b"Thu, 18 Aug 2050 02:01:18 GMT"));
        for bad in [
            "",
            " ",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov   6 08:49:37 1994",
            "\u{fc}",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(b"Sun, 06 Nov 1994 08:49:37 GMT\xff"), None);
    }

    #[test]
    fn reads_what_another_implementation_writes() {
        // 1970 to 9999 in steps of about eleven days, which meet all days of all months
        for seconds in (0..253_402_300_800u64).step_by(999_983) {
            let written = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(parse(written.as_bytes()), Some(seconds.cast_signed()), "{written}");
        }
        for year in [1972, 2000, 2024] {
            let date = |day: &str| parse(format!("Sun, {day} {year} 00:00:00 GMT").as_bytes());
            assert_eq!(date("01 Mar").zip(date("29 Feb")).map(|(one, other)| one - other), Some(86_400));
        }
        assert_eq!(parse(b"Sun, 29 Feb 2100 00:00:00 GMT"), None);
    }
}
