//! What a TLS session was made under: a digest that sessions and tickets are bound to.
//!
//! A resumed session carries the result of an earlier handshake, above all the client's certificate and the
//! fact that it was verified. A server block with other rules must not take it over (CVE-2025-23419): neither
//! one that asks for no certificate nor, worse, one that trusts other authorities. So every entry of a
//! session cache and every ticket belongs to a [`Context`], and is not found or not valid under another one.
//! Touches: nothing.

use aws_lc_rs::digest;

/// The label of this encoding: another encoding must have another one.
const LABEL: &[u8] = b"pronghorn tls context 1";

/// The SHA-256 of all settings that a session depends on. Equal in every build and on every machine with the
/// same settings, so sessions and tickets outlive reloads and upgrades, and machines can share ticket keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context([u8; 32]);

/// The settings that a session depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings<'a> {
    /// The identity of the server block: the names of its `server_name` and of the files of its certificates.
    /// In any order.
    pub server: &'a [&'a [u8]],
    /// The value of `ssl_verify_client`; empty means `off`. With `off` the settings below do not count.
    pub verify: &'a str,
    /// `ssl_verify_depth`.
    pub depth: u32,
    /// SHA-256 of each certificate of `ssl_client_certificate` and `ssl_trusted_certificate`. In any order.
    pub trusted: &'a [[u8; 32]],
    /// SHA-256 of each list of `ssl_crl`: a new list ends the sessions that were made under the old one. In
    /// any order.
    pub crls: &'a [[u8; 32]],
}

impl Context {
    /// The context of a server block. Every list is taken as a set.
    pub fn new(settings: &Settings<'_>) -> Self {
        let mut hash = Hash(digest::Context::new(&digest::SHA256));
        hash.bytes(LABEL);
        hash.set(settings.server.iter().copied());
        let is_off = matches!(settings.verify, "" | "off");
        hash.bytes(if is_off { b"off" } else { settings.verify.as_bytes() });
        if !is_off {
            hash.bytes(&settings.depth.to_be_bytes());
            hash.set(settings.trusted.iter().map(|digest| &digest[..]));
            hash.set(settings.crls.iter().map(|digest| &digest[..]));
        }
        Self(hash.finish())
    }

    /// The digest of an identifier within this context: equal only if both are.
    pub fn bind(&self, id: &[u8]) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&self.0);
        hash.update(id);
        Hash(hash).finish()
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A digest of a list of byte strings, of which no two lists have the same encoding.
struct Hash(digest::Context);

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    fn set<'a>(&mut self, items: impl Iterator<Item = &'a [u8]>) {
        let mut items: Vec<&[u8]> = items.collect();
        items.sort_unstable();
        items.dedup();
        self.number(items.len());
        items.into_iter().for_each(|item| self.bytes(item));
    }

    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_be_bytes());
    }

    fn finish(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_setting_makes_another_context() {
        let (a, b) = ([1; 32], [2; 32]);
        let base = Settings { server: &[b"a", b"b"], verify: "on", depth: 1, trusted: &[a], crls: &[] };
        let all = [
            base,
            Settings { server: &[b"ab"], ..base },
            Settings { server: &[b"a"], ..base },
            Settings { server: &[], ..base },
            Settings { verify: "optional", ..base },
            Settings { verify: "off", ..base },
            Settings { depth: 2, ..base },
            Settings { trusted: &[b], ..base },
            Settings { trusted: &[a, b], ..base },
            Settings { trusted: &[], ..base },
            Settings { trusted: &[], crls: &[a], ..base },
            Settings { crls: &[a], ..base },
            Settings { crls: &[b], ..base },
        ];
        let contexts: HashSet<Context> = all.iter().map(Context::new).collect();
        assert_eq!(contexts.len(), all.len());
    }

    #[test]
    fn order_does_not_count_nor_what_is_not_used() {
        let (a, b) = ([1; 32], [2; 32]);
        let base =
            Settings { server: &[b"a", b"b"], verify: "on", depth: 1, trusted: &[a, b], crls: &[a, b] };
        let other = Settings { server: &[b"b", b"a", b"b"], trusted: &[b, a], crls: &[b, a], ..base };
        assert_eq!(Context::new(&base), Context::new(&other));
        let off = Settings { verify: "off", ..base };
        let bare = Settings { server: base.server, ..Settings::default() };
        assert_eq!(Context::new(&off), Context::new(&bare));
    }

    #[test]
    fn an_identifier_is_bound_to_its_context() {
        let [one, two] =
            ["on", "off"].map(|verify| Context::new(&Settings { verify, ..Settings::default() }));
        assert_eq!(one.bind(b"id"), one.bind(b"id"));
        assert_ne!(one.bind(b"id"), one.bind(b"ie"));
        assert_ne!(one.bind(b"id"), two.bind(b"id"));
    }
}
