//! Dates in header fields (RFC 9110 §5.6.7).

use std::time::UNIX_EPOCH;

/// Parses a date: seconds since 1970. `None` for text in none of the three formats, and for dates before
/// 1970.
pub fn parse(value: &[u8]) -> Option<i64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_three_formats_and_nothing_else() {
        let same =
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
        for date in same {
            assert_eq!(parse(date.as_bytes()), Some(784_111_777), "{date}");
        }
        for bad in ["", "784111777", "Sun, 06 Nov 1994 08:49:37", "Sun, 31 Feb 1994 08:49:37 GMT", "\u{fc}"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
