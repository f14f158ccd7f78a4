//! MP4 files (ISO/IEC 14496-12) from a time on: the index of the movie (`moov`) is written anew for the samples between
//! two times, and the samples themselves stay where they are in the file.
//!
//! Values only: [`Outline`] says which bytes of a file it needs to see, [`cut`] turns the index into the head of the
//! shorter file. An index is as long as `mp4_max_buffer_size` permits, and all work on it is linear in its length.
//! Behaviour: nginx.org, ngx_http_mp4_module. Where its arithmetic on a hostile index would overflow, there is an error.

mod atom;
mod crop;
#[cfg(any(test, feature = "property"))]
pub mod property;
mod table;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "property"))]
pub mod toy;
mod track;

pub use atom::{HEADER_BYTES_MAX, Outline};

use std::fmt;
use std::ops::Range;

use crate::proto::mp4::atom::{Atoms, Name};
use crate::proto::mp4::track::Track;

/// Tracks of a movie; real ones have fewer than ten.
const TRACKS_MAX: usize = 256;

/// The part of a movie that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub start_ms: u64,
    /// 0: up to the end.
    pub length_ms: u64,
    /// The video begins with a key frame: the samples from the last one on are sent too, and an edit list hides them.
    pub is_on_key_frame: bool,
}

impl Wish {
    pub fn is_whole(&self) -> bool {
        self.start_ms == 0 && self.length_ms == 0
    }

    /// The start in a track's or the movie's units of time.
    fn start(&self, timescale: u32) -> u64 {
        units(self.start_ms, timescale)
    }

    /// The length in such units; `None`: up to the end.
    fn length(&self, timescale: u32) -> Option<u64> {
        (self.length_ms > 0).then(|| units(self.length_ms, timescale))
    }
}

/// A time in units of which `timescale` are a second; one that is too large for them is later than any.
fn units(ms: u64, timescale: u32) -> u64 {
    u64::try_from(u128::from(ms) * u128::from(timescale) / 1000).unwrap_or(u64::MAX)
}

/// A shorter file: its first bytes, and the range of the original file that follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    /// The type of the file, the new index, and the header of the data.
    pub head: Vec<u8>,
    /// Never empty, and inside the file.
    pub media: Range<u64>,
    pub length: Option<Length>,
}

/// The time that a movie takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    pub duration: u64,
    /// Units of a second; not 0.
    pub timescale: u32,
}

impl Length {
    /// Bytes a second, if this many bytes are played in that time; `None` for a time of 0.
    pub fn bytes_per_s(&self, bytes: u64) -> Option<u64> {
        let bytes = u128::from(bytes) * u128::from(self.timescale);
        u64::try_from(bytes.checked_div(u128::from(self.duration))?).ok()
    }
}

/// The fault of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Truncated,
    /// The size that an atom has is that of its header, or less.
    SmallAtom(u64),
    /// An atom is larger than the one that it is in.
    LargeAtom(u64),
    LargeType(u64),
    LargeIndex(u64),
    ManyAtoms,
    ManyTracks,
    Duplicate(&'static str),
    /// A table's atom is shorter than its table.
    TooSmall(&'static str),
    Missing(&'static str),
    Compressed,
    /// The start is after the end of the movie.
    StartsLate,
    /// A table does not reach the start or the end of the part.
    StartOutside(&'static str),
    EndOutside(&'static str),
    Unordered,
    Zero(&'static str),
    /// The samples that belong to a chunk are larger than the file.
    LargeSamples,
    /// A chunk lies outside the file.
    ChunkOutside,
    NoData,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "mp4 file truncated"),
            Self::SmallAtom(bytes) => write!(f, "mp4 atom is too small: {bytes}"),
            Self::LargeAtom(bytes) => write!(f, "mp4 atom too large: {bytes}"),
            Self::LargeType(bytes) => write!(f, "mp4 ftyp atom is too large: {bytes}"),
            Self::LargeIndex(bytes) => {
                write!(f, "mp4 moov atom is too large: {bytes}, you may want to increase mp4_max_buffer_size")
            }
            Self::ManyAtoms => write!(f, "too many mp4 atoms"),
            Self::ManyTracks => write!(f, "more than {TRACKS_MAX} mp4 trak atoms"),
            Self::Duplicate(name) => write!(f, "duplicate mp4 {name} atom"),
            Self::TooSmall(name) => write!(f, "mp4 {name} atom too small"),
            Self::Missing(name) => write!(f, "no mp4 {name} atoms were found"),
            Self::Compressed => write!(f, "mp4 compressed moov atom (cmov) is not supported"),
            Self::StartsLate => write!(f, "mp4 start time exceeds file duration"),
            Self::StartOutside(table) => write!(f, "start time is out mp4 {table}"),
            Self::EndOutside(table) => write!(f, "end time is out mp4 {table}"),
            Self::Unordered => write!(f, "unordered mp4 stsc chunks"),
            Self::Zero(what) => write!(f, "zero {what}"),
            Self::LargeSamples => write!(f, "too large mp4 samples size"),
            Self::ChunkOutside => write!(f, "too large chunk offset"),
            Self::NoData => write!(f, "no data between start time and end time"),
        }
    }
}

/// Writes the head of the file that has only the wished part.
///
/// `ftyp` and `moov` are the contents of these atoms, at the places that the outline has found; the index is used as
/// working memory. Errors: the file is damaged, or has nothing at these times.
pub fn cut(outline: &Outline, ftyp: Option<&[u8]>, moov: &mut [u8], wish: &Wish) -> Result<Cut, Error> {
    let data = outline.data().ok_or(Error::Missing("mdat"))?;
    let old_bytes = moov.len() as u64;
    let mut movie = Movie::read(moov, wish)?;
    let mut media = outline.file_bytes()..0;
    for track in &mut movie.tracks {
        let range = track.crop(wish, outline.file_bytes(), data.end)?;
        media = media.start.min(range.start)..media.end.max(range.end);
    }
    if media.end <= media.start {
        return Err(Error::NoData);
    }
    if media.start >= data.end {
        return Err(Error::StartOutside("mdat atom"));
    }
    // Chunks may lie further back in the new file by as much as its index is longer than what precedes them now.
    let growth = old_bytes.saturating_mul(2).saturating_add(64 * 1024);
    let is_far = media.end.saturating_sub(media.start).saturating_add(growth) > u64::from(u32::MAX);

    let mut head = Vec::new();
    if let Some(ftyp) = ftyp {
        atom::write(&mut head, b"ftyp", |out| out.extend_from_slice(ftyp));
    }
    let mut tables = Vec::new();
    atom::write(&mut head, b"moov", |out| {
        if let Some(mvhd) = movie.mvhd {
            atom::write(out, b"mvhd", |out| out.extend_from_slice(mvhd));
        }
        for track in &movie.tracks {
            track.write(out, is_far, &mut tables);
        }
    });
    atom::write_header(&mut head, b"mdat", media.end - media.start);
    // modulo 2^64 and 2^32: only offsets before the part, which no track refers to, could be negative
    let shift = (head.len() as u64).wrapping_sub(media.start);
    for (range, is_wide) in tables {
        let table = &mut head[range];
        if is_wide {
            for offset in table.as_chunks_mut().0 {
                *offset = u64::from_be_bytes(*offset).wrapping_add(shift).to_be_bytes();
            }
        } else {
            for offset in table.as_chunks_mut().0 {
                *offset = u32::from_be_bytes(*offset).wrapping_add(shift as u32).to_be_bytes();
            }
        }
    }
    Ok(Cut { head, media, length: movie.length })
}

/// The time that the whole movie takes, from the content of its `moov`. `None`: it does not say.
pub fn length(moov: &mut [u8]) -> Result<Option<Length>, Error> {
    let mut atoms = Atoms::new(moov);
    while let Some((name, data)) = atoms.next()? {
        if &name == b"mvhd" {
            let (timescale, duration) = Clock::MOVIE.read(data)?;
            return Ok((timescale > 0).then_some(Length { duration, timescale }));
        }
    }
    Ok(None)
}

/// An index that is being cut.
struct Movie<'a> {
    mvhd: Option<&'a [u8]>,
    length: Option<Length>,
    tracks: Vec<Track<'a>>,
}

impl<'a> Movie<'a> {
    fn read(moov: &'a mut [u8], wish: &Wish) -> Result<Self, Error> {
        let mut movie = Self { mvhd: None, length: None, tracks: Vec::new() };
        let mut timescale = 0;
        let mut atoms = Atoms::new(moov);
        while let Some((name, data)) = atoms.next()? {
            match &name {
                b"cmov" => return Err(Error::Compressed),
                b"mvhd" if movie.mvhd.is_some() => return Err(Error::Duplicate("mvhd")),
                b"mvhd" => {
                    let (units, duration) = Clock::MOVIE.read(data)?;
                    let left = duration.checked_sub(wish.start(units)).ok_or(Error::StartsLate)?;
                    let left = wish.length(units).map_or(left, |length| left.min(length));
                    Clock::MOVIE.set_duration(data, left);
                    timescale = units;
                    movie.length = (units > 0).then_some(Length { duration: left, timescale: units });
                    movie.mvhd = Some(data);
                }
                b"trak" => {
                    if movie.tracks.len() == TRACKS_MAX {
                        return Err(Error::ManyTracks);
                    }
                    movie.tracks.extend(Track::read(data, wish, timescale)?);
                }
                _ => {}
            }
        }
        if movie.tracks.is_empty() { Err(Error::Missing("trak")) } else { Ok(movie) }
    }
}

/// The places of time and duration in one of the three headers that have them, by version: numbers of 32 bits (0), or of 64.
#[derive(Clone, Copy)]
struct Clock {
    name: &'static str,
    /// The least bytes of version 0; later versions have 12 more, or as many as they have numbers that are longer.
    bytes_min: usize,
    /// The places of the units in versions 0 and 1; 0: it has none.
    timescale: [usize; 2],
    duration: [usize; 2],
}

impl Clock {
    const MOVIE: Self = Self { name: "mvhd", bytes_min: 100, timescale: [12, 20], duration: [16, 24] };
    const TRACK: Self = Self { name: "tkhd", bytes_min: 84, timescale: [0, 0], duration: [20, 28] };
    const MEDIA: Self = Self { name: "mdhd", bytes_min: 24, timescale: [12, 20], duration: [16, 24] };

    /// The units of a second, and the duration.
    fn read(self, data: &[u8]) -> Result<(u32, u64), Error> {
        let is_wide = data.first().is_some_and(|version| *version > 0);
        if data.len() < self.bytes_min + if is_wide { 12 } else { 0 } {
            return Err(Error::TooSmall(self.name));
        }
        let version = usize::from(is_wide);
        let timescale = match self.timescale[version] {
            0 => 0,
            at => number(data, at),
        };
        let at = self.duration[version];
        let duration = match is_wide {
            false => u64::from(number(data, at)),
            true => u64::from(number(data, at)) << 32 | u64::from(number(data, at + 4)),
        };
        Ok((timescale, duration))
    }

    /// Sets the duration of a header that [`Clock::read`] has accepted.
    fn set_duration(self, data: &mut [u8], duration: u64) {
        let is_wide = data.first().is_some_and(|version| *version > 0);
        let at = self.duration[usize::from(is_wide)];
        if is_wide {
            put(data, at, &duration.to_be_bytes());
        } else {
            put(data, at, &u32::try_from(duration).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// The number of 32 bits at a place; 0 outside.
fn number(data: &[u8], at: usize) -> u32 {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = data.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// For messages; only names that are known are told.
fn told(name: &Name) -> &'static str {
    const KNOWN: [&str; 18] = [
        "ftyp", "moov", "mdat", "mvhd", "tkhd", "mdia", "mdhd", "hdlr", "minf", "dinf", "stbl", "stsd",
        "stts", "stss", "ctts", "stsc", "stsz", "stco",
    ];
    KNOWN.into_iter().find(|known| known.as_bytes() == name).unwrap_or("co64")
}
