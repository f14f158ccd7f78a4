//! The groups of the last regular expression that matched: `$1` to `$9`.

use std::ops::Range;

/// The subject of a match and its groups.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    subject: Vec<u8>,
    groups: Vec<Range<usize>>,
}

impl Captures {
    /// `groups` are ranges of `subject`, the whole match first; a group that took no part is empty.
    pub fn set(&mut self, subject: &[u8], groups: impl Iterator<Item = Range<usize>>) {
        self.subject.clear();
        self.subject.extend_from_slice(subject);
        self.groups.clear();
        self.groups.extend(groups);
    }

    pub fn clear(&mut self) {
        self.groups.clear();
    }

    /// Nothing has matched.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Group `index`; empty when there is none.
    pub fn group(&self, index: u8) -> &[u8] {
        self.groups.get(usize::from(index)).and_then(|range| self.subject.get(range.clone())).unwrap_or(&[])
    }
}
