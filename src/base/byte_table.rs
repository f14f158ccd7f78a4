//! A hash table from byte strings to numbers, for tables that are filled once, may be long, and are looked up
//! for every request: the keys lie one after the other, and no entry is an allocation of its own.
//!
//! Pure. The hash has no secret: keys come from the configuration, and keys that clients send are only looked
//! up.

/// Maps byte strings to numbers.
///
/// Entries are numbered in the order of insertion and never removed, so that a caller can keep an entry's
/// number instead of its key. `map` and `geo` fill one while the configuration is compiled; afterwards it is
/// only read.
#[derive(Clone, Debug, Default)]
pub struct ByteTable {
    keys: Vec<u8>,
    entries: Vec<Entry>,
    /// Open addressing: an entry's number plus 1; 0 is free. The length is a power of two, at most three
    /// quarters are used.
    index: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    /// End of the key, which begins where the previous entry's key ends.
    end: u32,
    value: u32,
}

impl ByteTable {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number and the value of the entry with this key.
    pub fn get(&self, key: &[u8]) -> Option<(u32, u32)> {
        let number = self.find(key, hash(key)).ok()?;
        Some((number, self.entries[number as usize].value))
    }

    /// Adds a key and returns its number. Errors: the key exists already; its entry, whose number is
    /// returned, stays as it is.
    pub fn insert(&mut self, key: &[u8], value: u32) -> Result<u32, u32> {
        if (self.entries.len() + 1) * 4 > self.index.len() * 3 {
            self.grow();
        }
        let hash = hash(key);
        match self.find(key, hash) {
            Ok(there) => Err(there),
            Err(free) => {
                let number = self.entries.len() as u32;
                self.keys.extend_from_slice(key);
                self.entries.push(Entry { hash, end: self.keys.len() as u32, value });
                self.index[free] = number + 1;
                Ok(number)
            }
        }
    }

    /// The value of an entry; 0 if there is no such entry.
    pub fn value(&self, number: u32) -> u32 {
        self.entries.get(number as usize).map_or(0, |entry| entry.value)
    }

    /// The key of an entry; empty if there is no such entry.
    pub fn key(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.entries[before].end);
        let end = self.entries.get(number).map_or(start, |entry| entry.end);
        &self.keys[start as usize..end as usize]
    }

    /// Releases the spare capacity, once the table is filled.
    pub fn shrink(&mut self) {
        self.keys.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// The number of the entry with this key, or the free slot of the index where it belongs.
    fn find(&self, key: &[u8], hash: u32) -> Result<u32, usize> {
        if self.index.is_empty() {
            return Err(0);
        }
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let Some(number) = self.index[at].checked_sub(1) else { return Err(at) };
            if self.entries[number as usize].hash == hash && self.key(number) == key {
                return Ok(number);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let length = (self.index.len() * 2).max(8);
        self.index.clear();
        self.index.resize(length, 0);
        for (number, entry) in self.entries.iter().enumerate() {
            let mut at = entry.hash as usize & (length - 1);
            while self.index[at] != 0 {
                at = (at + 1) & (length - 1);
            }
            self.index[at] = number as u32 + 1;
        }
    }
}

/// Eight bytes at a time, each multiplied and folded.
fn hash(key: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15; // 2⁶⁴ divided by the golden ratio
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = key.as_chunks::<8>();
    let mut state = fold(FACTOR, key.len() as u64);
    for word in words {
        state = fold(state, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state = fold(state, u64::from_le_bytes(last));
    }
    (state ^ state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_again_and_others_are_not() {
        let mut table = ByteTable::default();
        assert_eq!(table.get(b"none"), None);
        let key = |number: u32| format!("key {number}").into_bytes();
        for number in 0..5000 {
            assert_eq!(table.insert(&key(number), number * 3), Ok(number));
        }
        assert_eq!(table.insert(&key(77), 0), Err(77));
        assert_eq!(table.insert(b"", 1), Ok(5000));
        table.shrink();
        for number in 0..5000 {
            assert_eq!(table.get(&key(number)), Some((number, number * 3)));
            assert_eq!(table.key(number), key(number));
        }
        assert_eq!(table.get(b""), Some((5000, 1)));
        assert_eq!(table.get(&key(5000)), None);
        assert_eq!(table.len(), 5001);
    }
}
