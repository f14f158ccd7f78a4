//! Names of servers with wildcards, found as nginx finds a `server_name`.
//!
//! Order: the exact name, the longest `*.suffix`, the longest `prefix.*`. Regular expressions are the caller's.
//! Touches: nothing. Behaviour: nginx.org, "Server names".

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Why a name was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The same name stands in the table already; the first one stays.
    Duplicate,
    /// A `*` that is neither the first nor the last label, an empty label, or no name at all.
    Invalid,
}

/// Values by host name. Names are expected in lower case.
#[derive(Clone, Debug)]
pub struct NameTable<T> {
    values: Vec<T>,
    exact: HashMap<Box<[u8]>, u32>,
    /// `*.example.com` under `example.com`.
    leading: HashMap<Box<[u8]>, u32>,
    /// `www.example.*` under `www.example`.
    trailing: HashMap<Box<[u8]>, u32>,
}

impl<T> Default for NameTable<T> {
    fn default() -> Self {
        Self { values: Vec::new(), exact: HashMap::new(), leading: HashMap::new(), trailing: HashMap::new() }
    }
}

impl<T> NameTable<T> {
    /// Adds `name`, `*.suffix`, `.suffix` (the name itself and all below it) or `prefix.*`.
    pub fn insert(&mut self, pattern: &str, value: T) -> Result<(), Conflict> {
        let index = u32::try_from(self.values.len()).map_err(|_| Conflict::Invalid)?;
        if pattern.contains("..") {
            return Err(Conflict::Invalid);
        }
        if let Some(suffix) = pattern.strip_prefix("*.") {
            put(&mut self.leading, suffix, index)?;
        } else if let Some(suffix) = pattern.strip_prefix('.') {
            if self.exact.contains_key(suffix.as_bytes()) {
                return Err(Conflict::Duplicate);
            }
            put(&mut self.leading, suffix, index)?;
            put(&mut self.exact, suffix, index)?;
        } else if let Some(prefix) = pattern.strip_suffix(".*") {
            put(&mut self.trailing, prefix, index)?;
        } else {
            put(&mut self.exact, pattern, index)?;
        }
        self.values.push(value);
        Ok(())
    }

    /// The value for a host in lower case, without port and trailing dot.
    pub fn lookup(&self, host: &[u8]) -> Option<&T> {
        let index =
            self.exact.get(host).or_else(|| self.lookup_leading(host)).or_else(|| self.lookup_trailing(host));
        index.and_then(|index| self.values.get(*index as usize))
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn lookup_leading(&self, host: &[u8]) -> Option<&u32> {
        if self.leading.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host).filter(|at| *at > 0).find_map(|at| self.leading.get(&host[at + 1..]))
    }

    fn lookup_trailing(&self, host: &[u8]) -> Option<&u32> {
        if self.trailing.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', host)
            .filter(|at| at + 1 < host.len())
            .find_map(|at| self.trailing.get(&host[..at]))
    }
}

fn put(names: &mut HashMap<Box<[u8]>, u32>, name: &str, index: u32) -> Result<(), Conflict> {
    if name.contains('*') || name.starts_with('.') {
        return Err(Conflict::Invalid);
    }
    match names.entry(name.as_bytes().into()) {
        Entry::Occupied(_) => Err(Conflict::Duplicate),
        Entry::Vacant(entry) => {
            entry.insert(index);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&'static str]) -> NameTable<&'static str> {
        let mut table = NameTable::default();
        for name in names {
            table.insert(name, *name).expect("names differ");
        }
        table
    }

    #[test]
    fn exact_before_leading_before_trailing_and_longest_first() {
        let table = table(&["a.b.c", "*.b.c", "*.c", "a.*", "a.b.*", ".x.y"]);
        for (host, name) in [
            ("a.b.c", Some("a.b.c")),
            ("z.b.c", Some("*.b.c")),
            ("z.a.b.c", Some("*.b.c")),
            ("z.c", Some("*.c")),
            ("b.c", Some("*.c")),
            ("c", None),
            ("a.b.z", Some("a.b.*")),
            ("a.z", Some("a.*")),
            ("a", None),
            ("a.", None),
            ("x.y", Some(".x.y")),
            ("z.x.y", Some(".x.y")),
            ("zx.y", None),
            (".c", None),
            ("", None),
        ] {
            assert_eq!(table.lookup(host.as_bytes()).copied(), name, "{host}");
        }
    }

    #[test]
    fn refuses_duplicates_and_stray_stars() {
        let mut table = table(&["a.b", ".c.d"]);
        for (name, conflict) in [
            ("a.b", Conflict::Duplicate),
            (".a.b", Conflict::Duplicate),
            ("*.c.d", Conflict::Duplicate),
            ("c.d", Conflict::Duplicate),
            ("a.*.b", Conflict::Invalid),
            ("*a.b", Conflict::Invalid),
            ("*.a.*", Conflict::Invalid),
            ("a..b", Conflict::Invalid),
        ] {
            assert_eq!(table.insert(name, ""), Err(conflict), "{name}");
        }
        assert_eq!(table.lookup(b"x.a.b"), None, "a refused name leaves nothing behind");
    }

    #[test]
    fn ten_thousand_names_are_found() {
        let mut table = NameTable::default();
        for number in 0..10_000u32 {
            assert_eq!(table.insert(&format!("*.n{number}.test"), number), Ok(()));
        }
        assert_eq!(table.lookup(b"www.n9999.test"), Some(&9999));
    }
}
