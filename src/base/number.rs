//! Sizes and times as nginx spells them, and numbers in network bytes.
//!
//! Pure. Behaviour: nginx.org, "Configuration file measurement units".

/// Bytes: digits and an optional `k`, `m` or `g` in either case. `None` for anything else, and on overflow.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    parse_u64(digits.as_bytes())?.checked_mul(unit)
}

/// Milliseconds: `1h 30m`, `30s`, `500ms`; a number without a unit is seconds. Units go from large to small, each
/// at most once: `y M w d h m s ms`.
pub fn parse_millis(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("y", 365 * 86_400_000),
        ("M", 30 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut rest = text.trim();
    let mut allowed = &UNITS[..];
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = parse_u64(&rest.as_bytes()[..digits])?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let name = if letters == 0 { "s" } else { &rest[..letters] };
        let at = allowed.iter().position(|(unit, _)| *unit == name)?;
        total = total.checked_add(number.checked_mul(allowed[at].1)?)?;
        allowed = &allowed[at + 1..];
        rest = rest[letters..].trim_start();
        if letters == 0 && !rest.is_empty() {
            return None;
        }
    }
    Some(total)
}

/// A decimal number: digits only, no sign, no overflow.
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The value of a hexadecimal digit.
pub fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("4096", Some(4096)),
            ("8k", Some(8192)),
            ("1M", Some(1 << 20)),
            ("2g", Some(2 << 30)),
            ("", None),
            ("k", None),
            ("1kb", None),
            ("-1", None),
            ("99999999999999999999g", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        let cases = [
            ("10", Some(10_000)),
            ("1h 30m", Some(5_400_000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1d", Some(86_400_000)),
            ("0", Some(0)),
            ("", None),
            ("30m 1h", None),
            ("1x", None),
            ("ms", None),
            ("1m 5", Some(65_000)),
            ("5 1m", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_millis(text), expected, "{text}");
        }
    }
}
