//! The tables of a track: a version, a count, and entries of a fixed length.

use crate::proto::mp4::Error;
use crate::proto::mp4::atom::{self, Name};

/// A table in an index, whose entries are changed where they are.
#[derive(Debug)]
pub struct Table<'a, const N: usize> {
    /// Version and flags.
    version: [u8; 4],
    pub entries: &'a mut [[u8; N]],
}

impl<'a, const N: usize> Table<'a, N> {
    /// Reads the content of the atom. Errors: it has fewer entries than it says.
    pub fn read(name: &'static str, data: &'a mut [u8]) -> Result<Self, Error> {
        let small = Error::TooSmall(name);
        let (version, rest) = data.split_first_chunk_mut().ok_or(small)?;
        let (count, rest) = rest.split_first_chunk_mut().ok_or(small)?;
        let count = usize::try_from(u32::from_be_bytes(*count)).map_err(|_| small)?;
        let entries = rest.as_chunks_mut().0.get_mut(..count).ok_or(small)?;
        Ok(Self { version: *version, entries })
    }

    /// Leaves the entries from this one on.
    pub fn keep_from(&mut self, index: usize) {
        self.entries = std::mem::take(&mut self.entries).get_mut(index..).unwrap_or_default();
    }

    /// Leaves the first `count` entries.
    pub fn keep_first(&mut self, count: usize) {
        let count = count.min(self.entries.len());
        self.entries = &mut std::mem::take(&mut self.entries)[..count];
    }

    /// Appends the atom, with other entries before and after these.
    pub fn write(&self, out: &mut Vec<u8>, name: &Name, before: Option<[u8; N]>, after: Option<[u8; N]>) {
        atom::write(out, name, |out| {
            let count = self.entries.len() + usize::from(before.is_some()) + usize::from(after.is_some());
            out.extend_from_slice(&self.version);
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
            before.iter().for_each(|entry| out.extend_from_slice(entry));
            out.extend_from_slice(self.entries.as_flattened());
            after.iter().for_each(|entry| out.extend_from_slice(entry));
        });
    }

    pub fn version(&self) -> [u8; 4] {
        self.version
    }
}

/// The number of an entry at this place.
pub fn get<const N: usize>(entry: &[u8; N], index: usize) -> u32 {
    super::number(entry, index * 4)
}

/// Changes one.
pub fn set<const N: usize>(entry: &mut [u8; N], index: usize, value: u32) {
    super::put(entry, index * 4, &value.to_be_bytes());
}
