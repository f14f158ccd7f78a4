//! Ranges of IPv4 addresses that do not overlap, each with a value.
//!
//! Pure data. A list that is written in its order, as such files are, is only appended to; for any other a tree is kept until
//! all is read.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Ranges {
    /// In their order; empty while there is a tree.
    sorted: Vec<Range>,
    /// From the first address to the last one and the value.
    tree: BTreeMap<u32, (u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    end: u32,
    value: u32,
}

impl Ranges {
    /// Adds a range that lies within one that is there, or beside all of them: the value of an equal one. Errors: the
    /// range that it overlaps.
    pub fn add(&mut self, (start, end): (u32, u32), value: u32) -> Result<Option<u32>, (u32, u32)> {
        if self.tree.is_empty() && self.sorted.last().is_none_or(|last| last.end < start) {
            self.sorted.push(Range { start, end, value });
            return Ok(None);
        }
        let tree = self.tree();
        let overlapped = tree.range(..=end).next_back().map(|(first, (last, old))| (*first, *last, *old));
        let Some((first, last, old)) = overlapped.filter(|(_, last, _)| *last >= start) else {
            tree.insert(start, (end, value));
            return Ok(None);
        };
        if first > start || last < end {
            return Err((first, last));
        }
        if first < start {
            tree.insert(first, (start - 1, old));
        }
        tree.insert(start, (end, value));
        if last > end {
            tree.insert(end + 1, (last, old));
        }
        Ok(((first, last) == (start, end)).then_some(old))
    }

    /// Takes exactly this range out; false: there is none.
    pub fn remove(&mut self, (start, end): (u32, u32)) -> bool {
        let tree = self.tree();
        let is_there = tree.get(&start).is_some_and(|(there, _)| *there == end);
        is_there && tree.remove(&start).is_some()
    }

    /// All has been read. [`Ranges::find`] wants this.
    pub fn freeze(&mut self) {
        let tree = std::mem::take(&mut self.tree);
        self.sorted.extend(tree.into_iter().map(|(start, (end, value))| Range { start, end, value }));
        self.sorted.shrink_to_fit();
    }

    /// The value of the range that an address lies in.
    pub fn find(&self, address: u32) -> Option<u32> {
        let after = self.sorted.partition_point(|range| range.start <= address);
        let range = self.sorted.get(after.checked_sub(1)?)?;
        (range.end >= address).then_some(range.value)
    }

    fn tree(&mut self) -> &mut BTreeMap<u32, (u32, u32)> {
        for Range { start, end, value } in self.sorted.drain(..) {
            self.tree.insert(start, (end, value));
        }
        &mut self.tree
    }
}
