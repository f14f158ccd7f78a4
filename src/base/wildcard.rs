//! Server names with wildcards, looked up in nginx's order for `server_name`.
//!
//! Order: the exact name, the longest `*.suffix`, the longest `prefix.*`. Regular expressions are the
//! caller's task. The cost of a lookup is linear in the length of the host: wildcards are trees of labels, so
//! that each label is hashed once, and labels beyond the deepest matching pattern are not hashed at all.
//! Touches: nothing. Behaviour: nginx.org, "Server names".

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// The reason why a name was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The table already has this name; the first one stays.
    Duplicate,
    /// A `*` that is neither the first nor the last label, an empty label, or an empty name.
    Invalid,
}

/// Maps host names and wildcard patterns to values. Names must be in lower case.
///
/// Filled while the configuration is compiled (`server_name`, `valid_referers`, `map` with `hostnames`), then
/// only read: one lookup for each request.
#[derive(Clone, Debug)]
pub struct NameTable<T> {
    values: Vec<T>,
    exact: HashMap<Box<[u8]>, u32>,
    /// Length of the longest name in `exact`: a longer host is not even hashed.
    exact_bytes_max: usize,
    /// `*.example.com` is under `com`, `example`.
    leading: Labels,
    /// `www.example.*` is under `www`, `example`.
    trailing: Labels,
}

/// A tree of labels: patterns that begin with the same labels share nodes.
#[derive(Clone, Debug, Default)]
struct Labels {
    /// The first is the root; empty if there are no patterns.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: HashMap<Box<[u8]>, u32>,
    /// Index of the value of the pattern that ends here.
    value: Option<u32>,
}

impl<T> Default for NameTable<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            exact: HashMap::new(),
            exact_bytes_max: 0,
            leading: Labels::default(),
            trailing: Labels::default(),
        }
    }
}

impl<T> NameTable<T> {
    /// Adds `name`, `*.suffix`, `.suffix` (the name itself and every name below it) or `prefix.*`.
    pub fn insert(&mut self, pattern: &str, value: T) -> Result<(), Conflict> {
        let index = u32::try_from(self.values.len()).map_err(|_| Conflict::Invalid)?;
        if pattern.contains("..") {
            return Err(Conflict::Invalid);
        }
        let from_right = |name: &'_ str| name.as_bytes().rsplit(is_dot).map(Box::from).collect::<Vec<_>>();
        if let Some(suffix) = pattern.strip_prefix("*.") {
            check(suffix)?;
            self.leading.insert(from_right(suffix), index)?;
        } else if let Some(suffix) = pattern.strip_prefix('.') {
            check(suffix)?;
            if self.exact.contains_key(suffix.as_bytes()) {
                return Err(Conflict::Duplicate);
            }
            self.leading.insert(from_right(suffix), index)?;
            self.insert_exact(suffix, index)?;
        } else if let Some(prefix) = pattern.strip_suffix(".*") {
            check(prefix)?;
            self.trailing.insert(prefix.as_bytes().split(is_dot).map(Box::from), index)?;
        } else {
            check(pattern)?;
            self.insert_exact(pattern, index)?;
        }
        self.values.push(value);
        Ok(())
    }

    /// The value for a host, given in lower case, without a port or a trailing dot.
    pub fn lookup(&self, host: &[u8]) -> Option<&T> {
        let exact = if host.len() <= self.exact_bytes_max { self.exact.get(host).copied() } else { None };
        let index = exact.or_else(|| self.lookup_leading(host)).or_else(|| self.lookup_trailing(host));
        index.and_then(|index| self.values.get(index as usize))
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn insert_exact(&mut self, name: &str, index: u32) -> Result<(), Conflict> {
        match self.exact.entry(name.as_bytes().into()) {
            Entry::Occupied(_) => Err(Conflict::Duplicate),
            Entry::Vacant(entry) => {
                entry.insert(index);
                self.exact_bytes_max = self.exact_bytes_max.max(name.len());
                Ok(())
            }
        }
    }

    fn lookup_leading(&self, host: &[u8]) -> Option<u32> {
        let mut path = self.leading.path()?;
        let mut end = host.len();
        // The star needs at least one label, so the host's first label is never looked up.
        while let Some(dot) = memchr::memrchr(b'.', &host[..end]).filter(|dot| *dot > 0) {
            if !path.step(&host[dot + 1..end]) {
                break;
            }
            end = dot;
        }
        path.longest
    }

    fn lookup_trailing(&self, host: &[u8]) -> Option<u32> {
        let mut path = self.trailing.path()?;
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'.', &host[start..]) {
            let dot = start + length;
            if dot + 1 == host.len() || !path.step(&host[start..dot]) {
                break;
            }
            start = dot + 1;
        }
        path.longest
    }
}

impl Labels {
    fn insert(&mut self, labels: impl IntoIterator<Item = Box<[u8]>>, index: u32) -> Result<(), Conflict> {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for label in labels {
            let next = u32::try_from(self.nodes.len()).map_err(|_| Conflict::Invalid)?;
            let child = *self.nodes[at].children.entry(label).or_insert(next);
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child as usize;
        }
        match &mut self.nodes[at].value {
            Some(_) => Err(Conflict::Duplicate),
            value => {
                *value = Some(index);
                Ok(())
            }
        }
    }

    /// Starts a walk at the root; `None` if there are no patterns.
    fn path(&self) -> Option<Path<'_>> {
        Some(Path { labels: self, node: self.nodes.first()?, longest: None })
    }
}

/// A walk into the tree, label by label.
struct Path<'a> {
    labels: &'a Labels,
    node: &'a Node,
    /// Index of the value of the longest pattern matched so far.
    longest: Option<u32>,
}

impl Path<'_> {
    /// Descends by one label; false if no pattern continues with it.
    fn step(&mut self, label: &[u8]) -> bool {
        let Some(child) = self.node.children.get(label) else { return false };
        self.node = &self.labels.nodes[*child as usize];
        self.longest = self.node.value.or(self.longest);
        true
    }
}

fn is_dot(byte: &u8) -> bool {
    *byte == b'.'
}

fn check(name: &str) -> Result<(), Conflict> {
    if name.contains('*') || name.starts_with('.') { Err(Conflict::Invalid) } else { Ok(()) }
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
    fn long_hosts_and_deep_patterns_are_found_too() {
        let deep = vec!["a"; 300].join(".");
        let mut table = NameTable::default();
        for (pattern, value) in [(format!("*.{deep}"), 1), (format!("{deep}.*"), 2), ("*.a".to_owned(), 3)] {
            assert_eq!(table.insert(&pattern, value), Ok(()));
        }
        assert_eq!(table.lookup(format!("b.{deep}").as_bytes()), Some(&1));
        assert_eq!(table.lookup(format!("{deep}.b").as_bytes()), Some(&2));
        assert_eq!(table.lookup(format!("b.{}", vec!["a"; 299].join(".")).as_bytes()), Some(&3));
        assert_eq!(table.lookup(vec!["b"; 4000].join(".").as_bytes()), None);
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
