//! JSON as text under construction, for documents of a million numbers: no tree of values is built first.
//!
//! Touches: nothing. RFC 8259.

/// An object or a list that is being written. Commas are set by what was written before; closing what was opened is the
/// caller's task.
#[derive(Default)]
pub struct Json {
    text: Vec<u8>,
    /// Something precedes in the present object or list.
    has_before: bool,
}

impl Json {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), has_before: false }
    }

    pub fn open(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket as u8);
        self.has_before = false;
        self
    }

    pub fn close(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket as u8);
        self.has_before = true;
        self
    }

    /// Begins an element of a list.
    #[inline]
    pub fn item(&mut self) -> &mut Self {
        if std::mem::replace(&mut self.has_before, true) {
            self.text.push(b',');
        }
        self
    }

    /// Begins a member of an object; its value follows.
    #[inline]
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.item().string(key);
        self.text.push(b':');
        self
    }

    pub fn boolean(&mut self, is_so: bool) -> &mut Self {
        self.text.extend_from_slice(if is_so { b"true" } else { b"false" });
        self
    }

    #[inline]
    pub fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self
    }

    /// Microseconds, as a number of seconds.
    pub fn seconds(&mut self, us: u64) -> &mut Self {
        push_seconds(&mut self.text, us);
        self
    }

    #[inline]
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.joined(&[text])
    }

    /// A string in parts.
    #[inline]
    pub fn joined(&mut self, parts: &[&str]) -> &mut Self {
        self.text.push(b'"');
        for part in parts {
            if part.bytes().all(is_plain) {
                self.text.extend_from_slice(part.as_bytes());
            } else {
                self.escaped(part);
            }
        }
        self.text.push(b'"');
        self
    }

    #[cold]
    fn escaped(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => self.text.extend_from_slice(&[b'\\', byte]),
                byte if is_plain(byte) => self.text.push(byte),
                control => {
                    let digit = |half: u8| b"0123456789abcdef"[usize::from(half & 0xf)];
                    self.text.extend_from_slice(b"\\u00");
                    self.text.extend_from_slice(&[digit(control >> 4), digit(control)]);
                }
            }
        }
    }

    /// The document, with a line feed at its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.text.push(b'\n');
        self.text
    }
}

/// True for a byte that may be in a string as it is.
#[inline]
fn is_plain(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

/// Writes microseconds as seconds, with six decimals.
pub fn push_seconds(out: &mut Vec<u8>, us: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(us / 1_000_000).as_bytes());
    let mut decimals = *b".000000";
    let mut rest = us % 1_000_000;
    for digit in decimals[1..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&decimals);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commas_stand_between_members_and_items_only() {
        let mut json = Json::default();
        json.open('{').key("a").number(1u64).key("b").open('[');
        json.item().string("x").item().open('{').close('}').item().boolean(true).close(']');
        json.key("c").open('[').close(']').key("d").seconds(1_500_000).close('}');
        assert_eq!(json.finish(), b"{\"a\":1,\"b\":[\"x\",{},true],\"c\":[],\"d\":1.500000}\n");
    }

    #[test]
    fn times_are_seconds() {
        for (us, text) in
            [(0, "0.000000"), (1, "0.000001"), (1_500_000, "1.500000"), (u64::MAX, "18446744073709.551615")]
        {
            let mut out = Vec::new();
            push_seconds(&mut out, us);
            assert_eq!(std::str::from_utf8(&out), Ok(text));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(key in any::<String>(), value in any::<String>(), number in any::<i64>()) {
            let mut json = Json::with_capacity(8);
            json.open('{').key(&key).open('[').item().string(&value).item().number(number).close(']').close('}');
            let read: serde_json::Value = serde_json::from_slice(&json.finish()).expect("JSON");
            prop_assert_eq!(&read[&key], &serde_json::json!([value, number]));
        }
    }
}
