//! Host names with wildcards, as `server_name` and `map … hostnames` know them.
//!
//! Pure. Behaviour: nginx.org, "Server names": the exact name, then the longest name with a leading
//! asterisk, then the longest with a trailing one.

use std::collections::HashMap;

/// The name is in the table already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// Values by host name. Names and hosts are lower case.
#[derive(Clone, Debug)]
pub struct NameTable<T> {
    exact: HashMap<Box<[u8]>, T>,
    /// `*.example.com` under `example.com`.
    leading: HashMap<Box<[u8]>, T>,
    /// `www.example.*` under `www.example`.
    trailing: HashMap<Box<[u8]>, T>,
}

impl<T> Default for NameTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), leading: HashMap::new(), trailing: HashMap::new() }
    }
}

impl<T: Clone> NameTable<T> {
    /// Adds a name: exact, `*.suffix`, `.suffix` (the suffix itself and all below it) or `prefix.*`.
    pub fn insert(&mut self, name: &str, value: T) -> Result<(), Conflict> {
        if let Some(suffix) = name.strip_prefix("*.") {
            return add(&mut self.leading, suffix, value);
        }
        if let Some(suffix) = name.strip_prefix('.') {
            add(&mut self.exact, suffix, value.clone())?;
            return add(&mut self.leading, suffix, value);
        }
        match name.strip_suffix(".*") {
            Some(prefix) => add(&mut self.trailing, prefix, value),
            None => add(&mut self.exact, name, value),
        }
    }

    /// The value that was inserted under just this pattern.
    pub fn get_exact(&self, name: &str) -> Option<&T> {
        let (table, key) = match (name.strip_prefix("*."), name.strip_prefix('.'), name.strip_suffix(".*")) {
            (Some(suffix), ..) => (&self.leading, suffix),
            (None, Some(suffix), _) => (&self.leading, suffix),
            (None, None, Some(prefix)) => (&self.trailing, prefix),
            (None, None, None) => (&self.exact, name),
        };
        table.get(key.as_bytes())
    }

    /// The value for a lower-case host.
    pub fn lookup(&self, host: &[u8]) -> Option<&T> {
        if let Some(value) = self.exact.get(host) {
            return Some(value);
        }
        if !self.leading.is_empty() {
            let suffixes = memchr::memchr_iter(b'.', host).filter(|at| *at > 0).map(|at| &host[at + 1..]);
            if let Some(value) = suffixes.filter_map(|suffix| self.leading.get(suffix)).next() {
                return Some(value);
            }
        }
        if self.trailing.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', host).find_map(|at| self.trailing.get(&host[..at]))
    }
}

fn add<T>(table: &mut HashMap<Box<[u8]>, T>, key: &str, value: T) -> Result<(), Conflict> {
    match table.entry(key.as_bytes().into()) {
        std::collections::hash_map::Entry::Occupied(_) => Err(Conflict),
        std::collections::hash_map::Entry::Vacant(vacant) => {
            vacant.insert(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_as_documented() {
        let mut table = NameTable::default();
        for name in ["example.com", "*.example.com", "*.a.example.com", ".dot.org", "www.example.*", "mail.*"]
        {
            table.insert(name, name).unwrap();
        }
        let cases = [
            ("example.com", Some("example.com")),
            ("www.example.com", Some("*.example.com")),
            ("x.a.example.com", Some("*.a.example.com")),
            ("a.example.com", Some("*.example.com")),
            ("dot.org", Some(".dot.org")),
            ("x.dot.org", Some(".dot.org")),
            ("www.example.de", Some("www.example.*")),
            ("www.example.co.uk", Some("www.example.*")),
            ("mail.x", Some("mail.*")),
            ("com", None),
            ("", None),
            ("notexample.com", None),
        ];
        for (host, expected) in cases {
            assert_eq!(table.lookup(host.as_bytes()).copied(), expected, "{host}");
        }
    }

    #[test]
    fn a_name_has_one_value() {
        let mut table = NameTable::default();
        table.insert("a.b", 1).unwrap();
        assert_eq!(table.insert("a.b", 2), Err(Conflict));
        assert_eq!(table.get_exact("a.b"), Some(&1));
        assert_eq!(table.get_exact("*.a.b"), None);
    }
}
