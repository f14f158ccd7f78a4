//! A track of the index (`trak`): read, and written anew.

use std::ops::Range;

use crate::proto::mp4::atom::{self, Atoms, Name};
use crate::proto::mp4::table::Table;
use crate::proto::mp4::{Clock, Error, Wish, number, put, told};

/// The parts of a track that are kept; everything else in it is left out.
#[derive(Debug, Default)]
pub struct Track<'a> {
    tkhd: Option<&'a mut [u8]>,
    mdhd: Option<&'a mut [u8]>,
    hdlr: Option<&'a mut [u8]>,
    /// `vmhd` or `smhd`.
    media_header: Option<(Name, &'a mut [u8])>,
    dinf: Option<&'a mut [u8]>,
    stsd: Option<&'a mut [u8]>,
    /// Runs of samples with the same duration.
    pub times: Option<Table<'a, 8>>,
    /// The samples that are key frames, from 1.
    pub key_frames: Option<Table<'a, 4>>,
    /// Runs of samples that are shown later by the same time.
    pub delays: Option<Table<'a, 8>>,
    /// Runs of chunks with the same number of samples: the first chunk from 1, samples, description.
    pub chunk_runs: Option<Table<'a, 12>>,
    pub run_before: Option<[u8; 12]>,
    pub run_after: Option<[u8; 12]>,
    pub sizes: Option<Sizes<'a>>,
    pub chunks: Option<Chunks<'a>>,
    /// Units of a second in the media's header.
    pub timescale: u32,
    /// The media's duration, and the track's in the movie's units.
    pub duration: u64,
    pub movie_duration: u64,
    /// The time of the samples before the start that lead to it from a key frame.
    pub prefix: u64,
    containers: [bool; 3],
}

/// The sizes of samples.
#[derive(Debug)]
pub enum Sizes<'a> {
    /// All have the same; their number.
    Uniform {
        version: [u8; 4],
        size: u32,
        count: u64,
    },
    Each(Table<'a, 4>),
}

/// The places of chunks in the file.
#[derive(Debug)]
pub enum Chunks<'a> {
    Narrow(Table<'a, 4>),
    Wide(Table<'a, 8>),
}

impl Chunks<'_> {
    pub fn count(&self) -> usize {
        match self {
            Self::Narrow(table) => table.entries.len(),
            Self::Wide(table) => table.entries.len(),
        }
    }

    /// The place of a chunk.
    pub fn get(&self, index: usize) -> Option<u64> {
        match self {
            Self::Narrow(table) => {
                table.entries.get(index).map(|entry| u64::from(u32::from_be_bytes(*entry)))
            }
            Self::Wide(table) => table.entries.get(index).map(|entry| u64::from_be_bytes(*entry)),
        }
    }

    /// Moves the first chunk's begin. Errors: the place does not fit the table.
    pub fn set_first(&mut self, offset: u64) -> Result<(), Error> {
        match self {
            Self::Narrow(table) => {
                let offset = u32::try_from(offset).map_err(|_| Error::ChunkOutside)?;
                table.entries.first_mut().into_iter().for_each(|entry| *entry = offset.to_be_bytes());
            }
            Self::Wide(table) => {
                table.entries.first_mut().into_iter().for_each(|entry| *entry = offset.to_be_bytes());
            }
        }
        Ok(())
    }

    /// Leaves these chunks.
    pub fn keep(&mut self, range: Range<usize>) {
        match self {
            Self::Narrow(table) => {
                table.keep_first(range.end);
                table.keep_from(range.start);
            }
            Self::Wide(table) => {
                table.keep_first(range.end);
                table.keep_from(range.start);
            }
        }
    }
}

impl<'a> Track<'a> {
    /// Reads the content of a `trak`; `None`: it ends before the start.
    pub fn read(data: &'a mut [u8], wish: &Wish, movie_timescale: u32) -> Result<Option<Self>, Error> {
        let mut track = Self::default();
        Ok(track.read_within(Level::Track, data, wish, movie_timescale)?.then_some(track))
    }

    /// Reads the atoms of one level. False: the track ends before the start.
    fn read_within(
        &mut self,
        level: Level,
        data: &'a mut [u8],
        wish: &Wish,
        movie_timescale: u32,
    ) -> Result<bool, Error> {
        let mut atoms = Atoms::new(data);
        while let Some((name, data)) = atoms.next()? {
            let inner = match (level, &name) {
                (Level::Track, b"mdia") => Level::Media,
                (Level::Media, b"minf") => Level::Information,
                (Level::Information, b"stbl") => Level::Samples,
                (Level::Track, b"tkhd") => match shorten(Clock::TRACK, data, wish, movie_timescale)? {
                    None => return Ok(false),
                    Some(duration) => {
                        self.movie_duration = duration;
                        once(&mut self.tkhd, data, &name)?;
                        continue;
                    }
                },
                (Level::Media, b"mdhd") => {
                    let (timescale, _) = Clock::MEDIA.read(data)?;
                    let Some(duration) = shorten(Clock::MEDIA, data, wish, timescale)? else {
                        return Ok(false);
                    };
                    (self.timescale, self.duration) = (timescale, duration);
                    once(&mut self.mdhd, data, &name)?;
                    continue;
                }
                _ => {
                    self.read_leaf(level, name, data)?;
                    continue;
                }
            };
            let is_read = &mut self.containers[inner as usize - 1];
            if std::mem::replace(is_read, true) {
                return Err(Error::Duplicate(told(&name)));
            }
            if !self.read_within(inner, data, wish, movie_timescale)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_leaf(&mut self, level: Level, name: Name, data: &'a mut [u8]) -> Result<(), Error> {
        match (level, &name) {
            (Level::Media, b"hdlr") => once(&mut self.hdlr, data, &name),
            (Level::Information, b"vmhd" | b"smhd") => match self.media_header.replace((name, data)) {
                None => Ok(()),
                Some(_) => Err(Error::Duplicate("vmhd/smhd")),
            },
            (Level::Information, b"dinf") => once(&mut self.dinf, data, &name),
            (Level::Samples, b"stsd") if data.len() < 16 => Err(Error::TooSmall("stsd")),
            (Level::Samples, b"stsd") => once(&mut self.stsd, data, &name),
            (Level::Samples, b"stts") => once(&mut self.times, Table::read("stts", data)?, &name),
            (Level::Samples, b"stss") => once(&mut self.key_frames, Table::read("stss", data)?, &name),
            (Level::Samples, b"ctts") => once(&mut self.delays, Table::read("ctts", data)?, &name),
            (Level::Samples, b"stsc") => once(&mut self.chunk_runs, Table::read("stsc", data)?, &name),
            (Level::Samples, b"stsz") => once(&mut self.sizes, read_sizes(data)?, &name),
            (Level::Samples, b"stco") => {
                once(&mut self.chunks, Chunks::Narrow(Table::read("stco", data)?), &name)
            }
            (Level::Samples, b"co64") => {
                once(&mut self.chunks, Chunks::Wide(Table::read("co64", data)?), &name)
            }
            _ => Ok(()),
        }
    }

    /// Appends the track, and notes where its chunks' places are, and whether they have 64 bits. `is_far`: all must have.
    pub fn write(&self, out: &mut Vec<u8>, is_far: bool, tables: &mut Vec<(Range<usize>, bool)>) {
        let part = |out: &mut Vec<u8>, name: &Name, data: Option<&[u8]>| {
            if let Some(data) = data {
                atom::write(out, name, |out| out.extend_from_slice(data));
            }
        };
        atom::write(out, b"trak", |out| {
            part(out, b"tkhd", self.tkhd.as_deref());
            if self.prefix > 0 {
                atom::write(out, b"edts", |out| self.write_edit(out));
            }
            atom::write(out, b"mdia", |out| {
                let at = out.len() + 8;
                part(out, b"mdhd", self.mdhd.as_deref());
                if self.mdhd.is_some() {
                    Clock::MEDIA.set_duration(&mut out[at..], self.duration);
                }
                part(out, b"hdlr", self.hdlr.as_deref());
                atom::write(out, b"minf", |out| {
                    if let Some((name, data)) = &self.media_header {
                        part(out, name, Some(data));
                    }
                    part(out, b"dinf", self.dinf.as_deref());
                    atom::write(out, b"stbl", |out| {
                        part(out, b"stsd", self.stsd.as_deref());
                        self.write_tables(out, is_far, tables);
                    });
                });
            });
        });
    }

    /// An edit list that skips the samples before the start.
    fn write_edit(&self, out: &mut Vec<u8>) {
        atom::write(out, b"elst", |out| {
            out.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 1]); // version 1, one entry
            out.extend_from_slice(&self.movie_duration.to_be_bytes());
            out.extend_from_slice(&self.prefix.to_be_bytes());
            out.extend_from_slice(&[0, 1, 0, 0]); // at the usual rate
        });
    }

    fn write_tables(&self, out: &mut Vec<u8>, is_far: bool, places: &mut Vec<(Range<usize>, bool)>) {
        if let Some(table) = &self.times {
            table.write(out, b"stts", None, None);
        }
        if let Some(table) = &self.key_frames {
            table.write(out, b"stss", None, None);
        }
        if let Some(table) = self.delays.as_ref().filter(|table| !table.entries.is_empty()) {
            table.write(out, b"ctts", None, None);
        }
        if let Some(table) = &self.chunk_runs {
            table.write(out, b"stsc", self.run_before, self.run_after);
        }
        match &self.sizes {
            None => {}
            Some(Sizes::Uniform { version, size, count }) => atom::write(out, b"stsz", |out| {
                out.extend_from_slice(version);
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&u32::try_from(*count).unwrap_or(u32::MAX).to_be_bytes());
            }),
            Some(Sizes::Each(table)) => atom::write(out, b"stsz", |out| {
                out.extend_from_slice(&table.version());
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&u32::try_from(table.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
                out.extend_from_slice(table.entries.as_flattened());
            }),
        }
        let start = out.len() + 16;
        let is_wide = match &self.chunks {
            None => return,
            Some(Chunks::Narrow(table)) if is_far => {
                atom::write(out, b"co64", |out| {
                    out.extend_from_slice(&table.version());
                    let count = u32::try_from(table.entries.len()).unwrap_or(u32::MAX);
                    out.extend_from_slice(&count.to_be_bytes());
                    for entry in table.entries.iter() {
                        out.extend_from_slice(&u64::from(u32::from_be_bytes(*entry)).to_be_bytes());
                    }
                });
                true
            }
            Some(Chunks::Narrow(table)) => {
                table.write(out, b"stco", None, None);
                false
            }
            Some(Chunks::Wide(table)) => {
                table.write(out, b"co64", None, None);
                true
            }
        };
        places.push((start..out.len(), is_wide));
    }
}

/// The levels of atoms that a track has.
#[derive(Clone, Copy)]
enum Level {
    Track,
    Media,
    Information,
    Samples,
}

fn once<T>(slot: &mut Option<T>, value: T, name: &Name) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Duplicate(told(name))),
    }
}

/// Subtracts the start from a duration and applies the wished length; `None` if nothing is left.
fn shorten(clock: Clock, data: &mut [u8], wish: &Wish, timescale: u32) -> Result<Option<u64>, Error> {
    let (_, duration) = clock.read(data)?;
    let Some(left) = duration.checked_sub(wish.start(timescale)).filter(|left| *left > 0) else {
        return Ok(None);
    };
    let left = wish.length(timescale).map_or(left, |length| left.min(length));
    clock.set_duration(data, left);
    Ok(Some(left))
}

fn read_sizes(data: &mut [u8]) -> Result<Sizes<'_>, Error> {
    let small = Error::TooSmall("stsz");
    if data.len() < 12 {
        return Err(small);
    }
    let (size, count) = (number(data, 4), number(data, 8));
    let version = *data.first_chunk().ok_or(small)?;
    if size > 0 {
        return Ok(Sizes::Uniform { version, size, count: u64::from(count) });
    }
    // the rest is a table like the others, once its version stands before its count
    put(data, 4, &version);
    Table::read("stsz", data.get_mut(4..).ok_or(small)?).map(Sizes::Each)
}
