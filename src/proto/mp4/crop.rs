//! The tables of a track, cut to the samples of the wished part.
//!
//! The samples of a track are counted from 0, and each table has them in another form: runs of equal durations, key
//! frames, chunks of the file. A table of a hostile file may contradict the others or itself; every count that leads out
//! of its table is an error.

use std::ops::Range;

use crate::proto::mp4::table::{get, set};
use crate::proto::mp4::track::{Sizes, Track};
use crate::proto::mp4::{Error, Wish};

/// The samples and chunks with which the part begins and ends. Without a wished length the ends are unused.
#[derive(Debug, Default)]
struct Ends {
    samples: Range<u64>,
    chunks: Range<u64>,
    /// The samples of the first chunk that precede the part.
    samples_before: u64,
    /// The samples that the part has of the last chunk.
    samples_of_last: u64,
}

/// A place among runs of samples.
struct Found {
    index: usize,
    /// Samples before the run.
    before: u64,
    /// Samples of the run before the place.
    inside: u64,
}

impl Track<'_> {
    /// Cuts all tables. Returns the place of the part's data in the file; an empty range if the track has none.
    pub fn crop(&mut self, wish: &Wish, file_bytes: u64, data_end: u64) -> Result<Range<u64>, Error> {
        let mut ends = Ends::default();
        self.crop_times(wish, &mut ends)?;
        let has_end = wish.length_ms > 0;
        self.crop_key_frames(&ends, has_end);
        self.crop_delays(&ends, has_end);
        self.crop_chunk_runs(&mut ends, has_end)?;
        let bytes = self.crop_sizes(&ends, has_end, file_bytes)?;
        self.crop_chunks(&ends, has_end, bytes, file_bytes, data_end)
    }

    /// Finds the samples of the part by their times.
    fn crop_times(&mut self, wish: &Wish, ends: &mut Ends) -> Result<(), Error> {
        let times = self.times.as_mut().ok_or(Error::Missing("stts"))?;
        let mut start = find_time(times.entries, wish.start(self.timescale))
            .map_err(|_| Error::StartOutside("stts samples"))?;
        ends.samples.start = start.before + start.inside;
        if wish.is_on_key_frame
            && let Some(table) = &self.key_frames
        {
            // Going back to the key frame takes the samples of this run first, then those of the runs before.
            let mut back = from_key_frame(table.entries, ends.samples.start)?;
            ends.samples.start -= back;
            while back > 0 {
                let duration = u64::from(get(&times.entries[start.index], 1));
                let step = back.min(start.inside);
                self.prefix = self.prefix.saturating_add(step.saturating_mul(duration));
                (start.inside, back) = (start.inside - step, back - step);
                if back > 0 {
                    start.index = start.index.checked_sub(1).ok_or(Error::Zero("sync sample"))?;
                    start.inside = u64::from(get(&times.entries[start.index], 0));
                }
            }
            self.duration = self.duration.saturating_add(self.prefix);
        }
        let first = &mut times.entries[start.index];
        set(first, 0, u32::try_from(u64::from(get(first, 0)) - start.inside).unwrap_or(u32::MAX));
        times.keep_from(start.index);

        let Some(length) = wish.length(self.timescale) else { return Ok(()) };
        ends.samples.end = match find_time(times.entries, length.saturating_add(self.prefix)) {
            Ok(end) => {
                set(&mut times.entries[end.index], 0, u32::try_from(end.inside).unwrap_or(u32::MAX));
                times.keep_first(end.index + 1);
                ends.samples.start + end.before + end.inside
            }
            Err(all) => ends.samples.start + all,
        };
        Ok(())
    }

    fn crop_key_frames(&mut self, ends: &Ends, has_end: bool) {
        let Some(table) = &mut self.key_frames else { return };
        let is_from = |sample: u64| move |entry: &[u8; 4]| u64::from(get(entry, 0)) > sample;
        let count = table.entries.len();
        table.keep_from(table.entries.iter().position(is_from(ends.samples.start)).unwrap_or(count));
        if has_end && let Some(end) = table.entries.iter().position(is_from(ends.samples.end)) {
            table.keep_first(end);
        }
        for entry in table.entries.iter_mut() {
            // in disorder only a damaged table has earlier ones here
            let sample = u64::from(get(entry, 0)).saturating_sub(ends.samples.start);
            set(entry, 0, u32::try_from(sample).unwrap_or(u32::MAX));
        }
    }

    fn crop_delays(&mut self, ends: &Ends, has_end: bool) {
        let Some(table) = &mut self.delays else { return };
        match find_sample(table.entries, ends.samples.start) {
            None => table.keep_first(0),
            Some(start) => {
                table.keep_from(start.index);
                let left = u64::from(get(&table.entries[0], 0)) - start.inside;
                set(&mut table.entries[0], 0, u32::try_from(left).unwrap_or(u32::MAX));
            }
        }
        if has_end && let Some(end) = find_sample(table.entries, ends.samples.end - ends.samples.start) {
            set(&mut table.entries[end.index], 0, u32::try_from(end.inside).unwrap_or(u32::MAX));
            table.keep_first(end.index + 1);
        }
    }

    /// Finds the chunks of the part, and makes runs of their own of chunks of which only some samples are in it.
    fn crop_chunk_runs(&mut self, ends: &mut Ends, has_end: bool) -> Result<(), Error> {
        let table = self.chunk_runs.as_mut().ok_or(Error::Missing("stsc"))?;
        let chunks = self.chunks.as_ref().ok_or(Error::Missing("stco"))?.count() as u64;

        let start = find_chunk(table.entries, ends.samples.start, chunks, "start")?;
        ends.chunks.start = start.chunk;
        ends.samples_before = start.inside;
        table.keep_from(start.index);
        let first = &mut table.entries[0];
        let left = u32::try_from(start.samples - start.inside).unwrap_or(u32::MAX);
        // chunks are counted from 1
        set(first, 0, u32::try_from(start.chunk + 1).unwrap_or(u32::MAX));
        if start.inside > 0 && start.run_end - start.chunk == 1 {
            set(first, 1, left);
        } else if start.inside > 0 {
            let mut before = *first;
            set(&mut before, 0, 1);
            set(&mut before, 1, left);
            self.run_before = Some(before);
            set(first, 0, u32::try_from(start.chunk + 2).unwrap_or(u32::MAX));
        }

        let all = ends.samples.end.saturating_sub(ends.samples.start);
        if has_end && all == 0 {
            // not even the samples of a run that precedes the others
            table.keep_first(0);
            self.run_before = None;
            ends.chunks.end = ends.chunks.start;
        } else if has_end {
            let mut count = all;
            if let Some(before) = &mut self.run_before {
                ends.samples_of_last = u64::from(get(before, 1)).min(count);
                set(before, 1, u32::try_from(ends.samples_of_last).unwrap_or(u32::MAX));
                count -= ends.samples_of_last;
            }
            let end = find_chunk(table.entries, count, chunks, "end")?;
            ends.chunks.end = end.chunk;
            if end.inside == 0 && end.chunk == end.run_start {
                table.keep_first(end.index);
                if end.index > 0 {
                    ends.samples_of_last = end.samples_before;
                }
            } else {
                table.keep_first(end.index + 1);
                ends.samples_of_last = if end.inside > 0 { end.inside } else { end.samples };
            }
            if end.inside > 0 {
                ends.chunks.end += 1;
                let last = &mut table.entries[end.index];
                let samples = u32::try_from(end.inside).unwrap_or(u32::MAX);
                if end.chunk == end.run_start {
                    set(last, 1, samples);
                } else {
                    let mut after = *last;
                    let number = ends.chunks.end.checked_sub(ends.chunks.start).ok_or(Error::Unordered)?;
                    set(&mut after, 0, u32::try_from(number).unwrap_or(u32::MAX));
                    set(&mut after, 1, samples);
                    self.run_after = Some(after);
                }
            }
        }
        for entry in table.entries.iter_mut() {
            let chunk = u64::from(get(entry, 0)).saturating_sub(ends.chunks.start);
            set(entry, 0, u32::try_from(chunk).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// The bytes of the samples before the part in its first chunk, and of those in its last chunk.
    fn crop_sizes(&mut self, ends: &Ends, has_end: bool, file_bytes: u64) -> Result<(u64, u64), Error> {
        let Some(sizes) = &mut self.sizes else { return Ok((0, 0)) };
        let all = match sizes {
            Sizes::Uniform { count, .. } => *count,
            Sizes::Each(table) => table.entries.len() as u64,
        };
        if ends.samples.start >= all {
            return Err(Error::StartOutside("stsz samples"));
        }
        let end = if has_end { ends.samples.end } else { all };
        if end > all {
            return Err(Error::EndOutside("stsz samples"));
        }
        let before = ends.samples.start.checked_sub(ends.samples_before).ok_or(Error::LargeSamples)?;
        // The samples of the last chunk belong to the part, so none can be before its start.
        let last = end.checked_sub(ends.samples_of_last).filter(|last| *last >= ends.samples.start);
        let last = if has_end { last.ok_or(Error::LargeSamples)? } else { end };
        let bytes = match sizes {
            Sizes::Uniform { size, count, .. } => {
                *count = end - ends.samples.start;
                let size = u64::from(*size);
                (ends.samples_before.saturating_mul(size), (end - last).saturating_mul(size))
            }
            Sizes::Each(table) => {
                let sum = |range: Range<u64>| -> u64 {
                    let range = range.start as usize..range.end as usize;
                    table
                        .entries
                        .get(range)
                        .unwrap_or_default()
                        .iter()
                        .map(|entry| u64::from(get(entry, 0)))
                        .sum()
                };
                let bytes = (sum(before..ends.samples.start), sum(last..end));
                table.keep_first(end as usize);
                table.keep_from(ends.samples.start as usize);
                bytes
            }
        };
        if bytes.0 > file_bytes || bytes.1 > file_bytes {
            return Err(Error::LargeSamples);
        }
        Ok(bytes)
    }

    fn crop_chunks(
        &mut self,
        ends: &Ends,
        has_end: bool,
        (before, last): (u64, u64),
        file_bytes: u64,
        data_end: u64,
    ) -> Result<Range<u64>, Error> {
        let chunks = self.chunks.as_mut().ok_or(Error::Missing("stco"))?;
        let index = |chunk: u64| usize::try_from(chunk).ok().filter(|chunk| *chunk <= chunks.count());
        let first = index(ends.chunks.start).ok_or(Error::StartOutside("stco chunks"))?;
        let offset = chunks.get(first).ok_or(Error::StartOutside("stco chunks"))?;
        let inside = |offset: u64, bytes: u64| {
            offset.checked_add(bytes).filter(|end| *end <= file_bytes).ok_or(Error::ChunkOutside)
        };
        let start = inside(offset, before)?;
        if !has_end {
            chunks.keep(first..chunks.count());
            chunks.set_first(start)?;
            return Ok(start..data_end);
        }
        let end = index(ends.chunks.end).ok_or(Error::EndOutside("stco chunks"))?;
        if end <= first {
            chunks.keep(first..first);
            return Ok(file_bytes..0);
        }
        chunks.keep(first..end);
        chunks.set_first(start)?;
        let offset = chunks.get(end - first - 1).ok_or(Error::ChunkOutside)?;
        Ok(start..inside(offset, last)?)
    }
}

/// Finds the sample that is shown at a time. Errors: the number of samples, if all end before.
fn find_time(runs: &[[u8; 8]], time: u64) -> Result<Found, u64> {
    let (mut left, mut before) = (time, 0_u64);
    for (index, run) in runs.iter().enumerate() {
        let (count, duration) = (u64::from(get(run, 0)), u64::from(get(run, 1)));
        let length = count * duration;
        if left < length {
            return Ok(Found { index, before, inside: left / duration });
        }
        left -= length;
        before += count;
    }
    Err(before)
}

/// Finds a sample among runs of samples.
fn find_sample(runs: &[[u8; 8]], sample: u64) -> Option<Found> {
    let mut before = 0;
    for (index, run) in runs.iter().enumerate() {
        let count = u64::from(get(run, 0));
        if sample - before < count {
            return Some(Found { index, before, inside: sample - before });
        }
        before += count;
    }
    None
}

/// How many samples lie between a sample and the last key frame before it; 0 if there is none.
fn from_key_frame(key_frames: &[[u8; 4]], sample: u64) -> Result<u64, Error> {
    let mut last = None;
    for entry in key_frames {
        match u64::from(get(entry, 0)) {
            0 => return Err(Error::Zero("sync sample")),
            number if number > sample + 1 => break,
            number => last = Some(number),
        }
    }
    Ok(last.map_or(0, |number| sample + 1 - number))
}

/// A place among runs of chunks. Chunks are counted from 0.
struct Chunk {
    /// The run.
    index: usize,
    run_start: u64,
    run_end: u64,
    /// The chunk in it that has the sample.
    chunk: u64,
    /// Samples of that chunk before it.
    inside: u64,
    /// Samples in each chunk of the run, and of the last chunk before the run.
    samples: u64,
    samples_before: u64,
}

/// Finds the chunk of a sample. The end of the last chunk counts as its next one's start.
fn find_chunk(runs: &[[u8; 12]], sample: u64, chunks: u64, end: &'static str) -> Result<Chunk, Error> {
    let (mut left, mut samples_before) = (sample, 0);
    for (index, run) in runs.iter().enumerate() {
        let is_last = index + 1 == runs.len();
        let (first, samples) = (u64::from(get(run, 0)), u64::from(get(run, 1)));
        let next = runs.get(index + 1).map_or(chunks + 1, |run| u64::from(get(run, 0)));
        let count = next.checked_sub(first).ok_or(Error::Unordered)?;
        let all = count * samples;
        if left < all || is_last {
            if left > all {
                let outside = if end == "start" { Error::StartOutside } else { Error::EndOutside };
                return Err(outside("stsc chunks"));
            }
            let inside = left.checked_rem(samples).ok_or(Error::Zero("number of samples"))?;
            let run_start = first.checked_sub(1).ok_or(Error::Zero("chunk"))?;
            let chunk = run_start + left / samples;
            return Ok(Chunk { index, run_start, run_end: next - 1, chunk, inside, samples, samples_before });
        }
        left -= all;
        if count > 0 {
            samples_before = samples;
        }
    }
    Err(Error::Zero("number of entries in stsc atom"))
}
