//! The W3C's trace context: `traceparent` and `tracestate`.
//!
//! Pure. W3C Trace Context, level 1, §3.2 (traceparent), §3.3 (tracestate) and §4 (processing model).

/// The longest list of `tracestate` that has to be passed on (§3.3.1.1).
const MEMBERS_MAX: usize = 32;
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 256;

/// The bit of [`Parent::flags`] that says that the caller may have recorded the request.
pub const SAMPLED: u8 = 1;

/// The caller's side of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: u128,
    pub span: u64,
    pub flags: u8,
}

impl Parent {
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Parses a `traceparent`. `None`: malformed, or an invalid version.
    ///
    /// Of future versions the known part is read; more may follow after another dash.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(55)?;
        let [version, trace, span, flags] = [0..2, 3..35, 36..52, 53..55].map(|range| &known[range]);
        if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
            return None;
        }
        match hex(version)? {
            0xff => return None,
            0 if !rest.is_empty() => return None,
            _ if !rest.is_empty() && rest[0] != b'-' => return None,
            _ => {}
        }
        let parent = Self { trace: hex(trace)?, span: hex(span)? as u64, flags: hex(flags)? as u8 };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

/// Parses hexadecimal digits, in lower case only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// Joins the values of all `tracestate` fields to one list. `None`: there is no member, or the list is malformed and must
/// not be passed on.
pub fn state<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    let mut count = 0;
    for member in values.flat_map(|value| value.split(|byte| *byte == b',')) {
        let member = member.trim_ascii(); // optional whitespace around members
        if member.is_empty() {
            continue;
        }
        count += 1;
        if count > MEMBERS_MAX || !is_member(member) {
            return None;
        }
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(member);
    }
    (!list.is_empty()).then_some(list)
}

/// `key=value` (§3.3.1.2, §3.3.1.3).
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = memchr::memchr(b'=', member) else { return false };
    let (key, value) = (&member[..equals], &member[equals + 1..]);
    let is_value = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    is_key(key)
        && (1..=VALUE_BYTES_MAX).contains(&value.len())
        && value.iter().all(is_value)
        && value.last() != Some(&b' ')
}

fn is_key(key: &[u8]) -> bool {
    let is_rest = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let begins = |part: &[u8]| part.first().is_some_and(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
    match memchr::memchr(b'@', key) {
        None => key.len() <= KEY_BYTES_MAX && begins(key) && key.iter().all(is_rest),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            let is_part = |part: &[u8], max| part.len() <= max && begins(part) && part.iter().all(is_rest);
            is_part(tenant, 241) && is_part(system, 14)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_parent_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = Parent::parse(good.as_bytes()).expect("a parent");
        assert_eq!((parent.trace >> 96, parent.span & 0xffff, parent.flags), (0x0af7_6519, 0x3331, 1));
        let future = format!("cc{}-what-comes", &good[2..]);
        assert_eq!(Parent::parse(future.as_bytes()), Some(parent));
        for wrong in [
            String::new(),
            good[..54].into(),
            format!("{good}-more"),
            format!("ff{}", &good[2..]),
            format!("cc{}.", &good[2..]),
            good.to_uppercase(),
            good.replace('-', "_"),
            good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            good.replace("b7ad6b7169203331", &"0".repeat(16)),
            good.replace("01", "0g"),
        ] {
            assert_eq!(Parent::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    fn joined(values: &[&str]) -> Option<String> {
        state(values.iter().map(|value| value.as_bytes())).map(|list| String::from_utf8(list).expect("ASCII"))
    }

    #[test]
    fn a_state_is_one_list_of_pairs() {
        for (values, expected) in [
            (&["rojo=00f067aa0ba902b7"][..], "rojo=00f067aa0ba902b7"),
            (&["a=1,b=2"], "a=1,b=2"),
            (&["a=1", "b=2"], "a=1,b=2"),
            (&[" a=1 ,\tb=2 ,, "], "a=1,b=2"),
            (&["", "a=1", ","], "a=1"),
            (&["t61rcwkgmze@congo=x;y:z!"], "t61rcwkgmze@congo=x;y:z!"),
            (&["0/*-_=a b"], "0/*-_=a b"),
        ] {
            assert_eq!(joined(values).as_deref(), Some(expected), "{values:?}");
        }
    }

    #[test]
    fn a_malformed_state_is_none() {
        let many = (0..33).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        assert!(joined(&[many.rsplit_once(',').expect("several").0]).is_some(), "32 are not too many");
        let (key, value) = ("k".repeat(257), "v".repeat(257));
        let (key, value) = (format!("{key}=v"), format!("k={value}"));
        let (tenant, system) = (format!("{}@s=v", "t".repeat(242)), format!("t@{}=v", "s".repeat(15)));
        for wrong in [
            "",
            ",",
            "a",
            "a=",
            "=1",
            "A=1",
            "a=1,B=2",
            "a=1,b",
            "a=1=2",
            "a@=1",
            "@a=1",
            "a@b@c=1",
            "_a=1",
            "a b=1",
            "a=\u{7f}",
            "a=1\r\nx: y",
            "a=1\tb",
            "a=\u{e9}",
            &many,
            &key,
            &value,
            &tenant,
            &system,
        ] {
            assert_eq!(joined(&[wrong]), None, "{wrong:?}");
        }
    }
}
