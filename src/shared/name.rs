//! Names of directives that every family to upstreams has, as messages show them.
//!
//! Pure. A family is a prefix (`proxy_`); what speaks of one of its directives knows the rest of the name.

use std::fmt;

/// What the names of a family's directives begin with: `proxy_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(pub &'static str);

impl Prefix {
    /// The full name of a directive: `proxy_read_timeout` for `read_timeout`.
    pub fn directive(self, rest: &'static str) -> Name {
        Name { prefix: self.0, rest }
    }
}

/// The full name of a directive, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    prefix: &'static str,
    rest: &'static str,
}

impl From<&'static str> for Name {
    fn from(name: &'static str) -> Self {
        Self { prefix: "", rest: name }
    }
}

impl Name {
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(self.rest.as_bytes());
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.prefix)?;
        out.write_str(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_prefix_and_rest() {
        let name = Prefix("proxy_").directive("read_timeout");
        let mut out = Vec::new();
        name.write(&mut out);
        assert_eq!((name.to_string().as_str(), &out[..]), ("proxy_read_timeout", &b"proxy_read_timeout"[..]));
        assert_eq!(Name::from("send_timeout").to_string(), "send_timeout");
    }
}
