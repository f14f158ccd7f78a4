//! Numbers with nginx's units, and the strict decimal and hexadecimal numbers of protocols.
//!
//! Touches: nothing. Behaviour: nginx.org, "Configuration file measurement units"; RFC 9112 §6.2, §7.1.

use std::fmt;

/// Milliseconds of each unit, largest first; a unit must not follow a smaller one.
const UNITS: [(&str, u64); 8] = [
    ("y", 31_536_000_000),
    ("M", 2_592_000_000),
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Parses a size into bytes: `8k`, `1m`, `1g`, `4096`. `None` for anything else and on overflow.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1u64 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    parse_u64(digits.as_bytes())?.checked_mul(factor)
}

/// Parses a time into milliseconds: `1h 30m`, `30s`, `500ms`, `10` (a bare number is seconds and ends the
/// text).
pub fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    let mut next_unit = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value = parse_u64(&rest.as_bytes()[..digits])?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let factor = if letters == 0 {
            if !rest.is_empty() {
                return None;
            }
            1_000
        } else {
            let (index, factor) = unit(&rest[..letters])?;
            if index < next_unit {
                return None;
            }
            next_unit = index + 1;
            factor
        };
        total = total.checked_add(value.checked_mul(factor)?)?;
        rest = rest[letters..].trim_start_matches(' ');
    }
    Some(total)
}

/// Bytes as the configuration writes them, in the largest unit that leaves no rest: `8k`, `1m`, `4097`.
pub fn format_size(bytes: u64) -> String {
    let units = [("g", 1u64 << 30), ("m", 1 << 20), ("k", 1 << 10)];
    match units.into_iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// Milliseconds as the configuration writes them: `75s`, `1h`, `500ms`, `0`. Minutes are written as seconds, as nginx's
/// documentation has them.
pub fn format_millis(ms: u64) -> String {
    let units = [("h", 3_600_000), ("s", 1_000)];
    match units.into_iter().find(|(_, factor)| ms.is_multiple_of(*factor)) {
        _ if ms == 0 => "0".to_owned(),
        Some((unit, factor)) => format!("{}{unit}", ms / factor),
        None => format!("{ms}ms"),
    }
}

fn unit(name: &str) -> Option<(usize, u64)> {
    UNITS.iter().enumerate().find(|(_, (unit, _))| *unit == name).map(|(index, (_, factor))| (index, *factor))
}

/// Decimal digits that always fit into 64 bits.
const SURE_DIGITS: usize = 19;

/// Parses a decimal number of digits only: no sign, no space. `None` if it is empty or exceeds 64 bits.
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let (sure, rest) = digits.split_at(digits.len().min(SURE_DIGITS));
    let mut value = 0;
    for byte in sure {
        value = value * 10 + decimal_digit(*byte)?;
    }
    rest.iter().try_fold(value, |value, byte| value.checked_mul(10)?.checked_add(decimal_digit(*byte)?))
}

#[inline]
fn decimal_digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit <= 9).then_some(u64::from(digit))
}

/// Parses a hexadecimal number of digits only. `None` if it is empty or exceeds 64 bits.
pub fn parse_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |value, byte| value.checked_mul(16)?.checked_add(u64::from(hex_digit(*byte)?)))
}

/// The value of one hexadecimal digit, in either case.
pub fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A number of bytes as people read it, rounded up: `1.5 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        const GIB: u64 = 1024 * MIB;
        let (unit, name) = match self.0 {
            GIB.. => (GIB, "GiB"),
            MIB.. => (MIB, "MiB"),
            _ => return write!(out, "{} KiB", self.0.div_ceil(KIB)),
        };
        let tenths = (u128::from(self.0) * 10).div_ceil(u128::from(unit));
        match tenths % 10 {
            0 => write!(out, "{} {name}", tenths / 10),
            part => write!(out, "{}.{part} {name}", tenths / 10),
        }
    }
}

/// A number that may be unknown, in half of the memory of an `Option`. The largest one is not kept apart from the next
/// smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeU64(u64);

impl MaybeU64 {
    const UNKNOWN: u64 = u64::MAX;

    #[inline]
    pub fn get(self) -> Option<u64> {
        (self.0 != Self::UNKNOWN).then_some(self.0)
    }
}

impl Default for MaybeU64 {
    fn default() -> Self {
        Self(Self::UNKNOWN)
    }
}

impl From<u64> for MaybeU64 {
    #[inline]
    fn from(number: u64) -> Self {
        Self(number.min(Self::UNKNOWN - 1))
    }
}

impl From<Option<u64>> for MaybeU64 {
    fn from(number: Option<u64>) -> Self {
        number.map_or_else(Self::default, Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_are_read() {
        for (bytes, text) in
            [(0, "0"), (20, "20"), (1024, "1k"), (1025, "1025"), (1 << 20, "1m"), (3 << 30, "3g")]
        {
            assert_eq!((&*format_size(bytes), parse_size(text)), (text, Some(bytes)));
        }
        for (ms, text) in
            [(0, "0"), (1, "1ms"), (1500, "1500ms"), (75_000, "75s"), (600_000, "600s"), (3_600_000, "1h")]
        {
            assert_eq!((&*format_millis(ms), parse_millis(text)), (text, Some(ms)));
        }
        for largest in [u64::MAX, u64::MAX - u64::MAX % 3_600_000] {
            assert_eq!(parse_size(&format_size(largest)), Some(largest));
            assert_eq!(parse_millis(&format_millis(largest)), Some(largest));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("8k", Some(8192)), ("1M", Some(1 << 20)), ("1g", Some(1 << 30)), ("4096", Some(4096))]
        {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        for text in ["", "k", "-1", "1kb", "1.5m", "99999999999999999999", "18446744073709551615k", "é"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn times_add_up_from_the_largest_unit() {
        let cases =
            [("1h 30m", 5_400_000), ("1h30m", 5_400_000), ("30s", 30_000), ("500ms", 500), ("10", 10_000)];
        for (text, millis) in cases {
            assert_eq!(parse_millis(text), Some(millis), "{text}");
        }
        for text in ["", "s", "1m 1h", "1s1s", "10 s", "1x", "-1s", "99999999999y"] {
            assert_eq!(parse_millis(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_of_protocols_are_strict() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"00000000000000000000000000000001024"), Some(1024));
        assert_eq!(parse_hex(b"fF"), Some(255));
        for digits in
            [&b""[..], b"+1", b" 1", b"18446744073709551616", b"99999999999999999999", b"1a", b"/", b":"]
        {
            assert_eq!(parse_u64(digits), None);
        }
        for digits in [&b""[..], b"0x1", b"g", b"10000000000000000"] {
            assert_eq!(parse_hex(digits), None);
        }
    }

    #[test]
    fn bytes_for_people_are_rounded_up() {
        let cases = [
            (0, "0 KiB"),
            (1, "1 KiB"),
            (1024 * 1024 - 1, "1024 KiB"),
            (1024 * 1024, "1 MiB"),
            (3 << 29, "1.5 GiB"),
            ((1 << 30) + 1, "1.1 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Bytes(bytes).to_string(), expected, "{bytes}");
        }
    }
}
