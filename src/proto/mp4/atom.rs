//! Atoms, also called boxes: a size, a name and a content (ISO/IEC 14496-12 §4.2). Those of a file, and those in another
//! one.

use std::ops::Range;

use crate::proto::mp4::{Error, Wish, told};

pub type Name = [u8; 4];

/// The longest header: a size of 64 bits follows the name.
pub const HEADER_BYTES_MAX: usize = 16;

/// Atoms of a file before its index and its data are found. There may be much between them, but not for ever.
const ATOMS_MAX: u32 = 10_000;

/// A file's type is a list of names.
const FTYP_BYTES_MAX: u64 = 1024;

struct Header {
    name: Name,
    /// The bytes of the header itself.
    length: u64,
    /// With the header; 0: up to the end.
    size: u64,
}

/// Reads the header that these bytes begin with. Errors: there is none, or its size is impossible.
fn header(bytes: &[u8]) -> Result<Header, Error> {
    let (size, rest) = bytes.split_first_chunk().ok_or(Error::Truncated)?;
    let size = u64::from(u32::from_be_bytes(*size));
    let name = rest.first_chunk();
    if size == 0 {
        return Ok(Header { name: name.copied().unwrap_or_default(), length: 8, size });
    }
    let (name, rest) = (name.ok_or(Error::Truncated)?, rest.get(4..).unwrap_or_default());
    match size {
        1 => {
            let size = u64::from_be_bytes(*rest.first_chunk().ok_or(Error::Truncated)?);
            if size < 16 { Err(Error::SmallAtom(size)) } else { Ok(Header { name: *name, length: 16, size }) }
        }
        2..8 => Err(Error::SmallAtom(size)),
        _ => Ok(Header { name: *name, length: 8, size }),
    }
}

/// The places of the parts of a file, as its headers tell them.
///
/// ```text
/// while let Some(at) = outline.next() { outline.take(the 16 bytes at `at`, or what there is)?; }
/// ```
#[derive(Debug)]
pub struct Outline {
    file_bytes: u64,
    index_bytes_max: u64,
    /// The index suffices if it precedes the data: the file is good as it is.
    is_index_enough: bool,
    at: u64,
    count: u32,
    ftyp: Option<Range<u64>>,
    moov: Option<Range<u64>>,
    mdat: Option<Range<u64>>,
}

impl Outline {
    pub fn new(file_bytes: u64, index_bytes_max: u64, wish: &Wish) -> Self {
        Self {
            file_bytes,
            index_bytes_max,
            is_index_enough: wish.is_whole(),
            at: 0,
            count: 0,
            ftyp: None,
            moov: None,
            mdat: None,
        }
    }

    /// The place of the next header to look at; `None`: all is found, or the file ends.
    pub fn next(&self) -> Option<u64> {
        let is_found = self.moov.is_some() && (self.mdat.is_some() || self.is_index_enough);
        (!is_found && self.at < self.file_bytes).then_some(self.at)
    }

    /// Takes the header at that place, [`HEADER_BYTES_MAX`] bytes or as many as the file has.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Header { name, length, size } = header(bytes)?;
        self.count += 1;
        if self.count > ATOMS_MAX {
            return Err(Error::ManyAtoms);
        }
        let left = self.file_bytes - self.at;
        // The last atom may leave its size open. nginx stops there, and so do we if it is not the data.
        if size == 0 && &name != b"mdat" {
            self.at = self.file_bytes;
            return Ok(());
        }
        let size = if size == 0 { left } else { size };
        if size > left {
            return Err(Error::LargeAtom(size));
        }
        let content = self.at + length.min(size)..self.at + size;
        let bytes = content.end - content.start;
        let slot = match &name {
            b"ftyp" if bytes > FTYP_BYTES_MAX => return Err(Error::LargeType(bytes)),
            b"ftyp" => Some(&mut self.ftyp),
            b"moov" if bytes > self.index_bytes_max && !(self.is_index_enough && self.mdat.is_none()) => {
                return Err(Error::LargeIndex(bytes));
            }
            b"moov" => Some(&mut self.moov),
            b"mdat" => Some(&mut self.mdat),
            _ => None,
        };
        if let Some(slot) = slot
            && slot.replace(content).is_some()
        {
            return Err(Error::Duplicate(told(&name)));
        }
        self.at += size;
        Ok(())
    }

    /// The index precedes the data, and all of the movie is wished for: the file is good as it is.
    pub fn is_good_as_it_is(&self) -> bool {
        self.is_index_enough && self.moov.is_some() && self.mdat.is_none()
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The place of the type's content.
    pub fn file_type(&self) -> Option<Range<u64>> {
        self.ftyp.clone()
    }

    /// The place of the index' content, which has at most as many bytes as were permitted, unless the file is good as it is.
    pub fn index(&self) -> Option<Range<u64>> {
        self.moov.clone()
    }

    /// The place of the samples.
    pub fn data(&self) -> Option<Range<u64>> {
        self.mdat.clone()
    }
}

/// The atoms in the content of another one.
pub struct Atoms<'a>(&'a mut [u8]);

impl<'a> Atoms<'a> {
    pub fn new(content: &'a mut [u8]) -> Self {
        Self(content)
    }

    /// The next atom's name and content. Errors: it does not fit in.
    pub fn next(&mut self) -> Result<Option<(Name, &'a mut [u8])>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let Header { name, length, size } = header(self.0)?;
        if size == 0 {
            return Ok(None);
        }
        let ends = usize::try_from(size).ok().zip(usize::try_from(length).ok());
        let (size, length) = ends.ok_or(Error::LargeAtom(size))?;
        match std::mem::take(&mut self.0).split_at_mut_checked(size) {
            Some((atom, rest)) => {
                self.0 = rest;
                Ok(Some((name, atom.get_mut(length..).unwrap_or_default())))
            }
            None => Err(Error::LargeAtom(size as u64)),
        }
    }
}

/// Appends an atom whose content `write` appends: at most 4 GiB, which the bound of an index ensures.
pub fn write(out: &mut Vec<u8>, name: &Name, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(name);
    write(out);
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends the header of an atom whose content, of any length, follows elsewhere.
pub fn write_header(out: &mut Vec<u8>, name: &Name, content_bytes: u64) {
    match u32::try_from(content_bytes.saturating_add(8)) {
        Ok(size) => {
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(name);
        }
        Err(_) => {
            out.extend_from_slice(&1_u32.to_be_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(&content_bytes.saturating_add(16).to_be_bytes());
        }
    }
}
