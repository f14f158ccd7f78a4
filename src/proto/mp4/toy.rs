//! Small movies for tests: a writer whose samples can be told apart, and a reader that expands all tables into samples.
//!
//! Uses nothing else of the program, so that the tests of the daemon can include it as well.

/// The form of a movie.
#[derive(Clone, Debug)]
pub struct Shape {
    pub is_index_first: bool,
    pub has_wide_offsets: bool,
    /// All samples of the sound have the same size.
    pub has_uniform_sound: bool,
    pub seconds: u32,
    /// Samples in a chunk of the video, and of the sound. Each tenth chunk has one more.
    pub chunk_samples: [u32; 2],
    pub key_frame_distance: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            is_index_first: true,
            has_wide_offsets: false,
            has_uniform_sound: false,
            seconds: 10,
            chunk_samples: [10, 17],
            key_frame_distance: 25,
        }
    }
}

/// Units of a second of the movie, the video and the sound.
pub const MOVIE_UNITS: u32 = 1000;
pub const UNITS: [u32; 2] = [12_800, 44_100];
/// The duration of a sample in its track's units: 25 and about 43 samples a second.
pub const SAMPLE_UNITS: [u32; 2] = [512, 1024];

pub fn atom(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len() + 8).expect("a small atom");
    [&size.to_be_bytes(), &name[..], content].concat()
}

pub fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// The bytes of a sample: its track, its number, and some more.
pub fn sample(track: usize, number: u32, shape: &Shape) -> Vec<u8> {
    let more = if track == 1 && shape.has_uniform_sound { 7 } else { number * 7 % 13 };
    let mut bytes = vec![track as u8 + 1; 5 + more as usize];
    bytes[1..5].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn sample_count(track: usize, shape: &Shape) -> u32 {
    shape.seconds * UNITS[track] / SAMPLE_UNITS[track]
}

/// The samples of each chunk of a track.
fn chunks(track: usize, shape: &Shape) -> Vec<std::ops::Range<u32>> {
    let (mut at, mut chunks) = (0, Vec::new());
    while at < sample_count(track, shape) {
        let more = u32::from(chunks.len() % 10 == 9);
        let end = (at + shape.chunk_samples[track] + more).min(sample_count(track, shape));
        chunks.push(at..end);
        at = end;
    }
    chunks
}

/// A movie with a track of video and one of sound.
pub fn movie(shape: &Shape) -> Vec<u8> {
    let ftyp = atom(b"ftyp", b"isom\0\0\x02\0isomiso2mp41");
    let free = atom(b"free", b"nothing");
    let (mut data, mut places) = (Vec::new(), [Vec::new(), Vec::new()]);
    let all = [chunks(0, shape), chunks(1, shape)];
    for index in 0..all[0].len().max(all[1].len()) {
        for track in 0..2 {
            let Some(samples) = all[track].get(index) else { continue };
            places[track].push(data.len() as u64);
            samples.clone().for_each(|number| data.extend(sample(track, number, shape)));
        }
    }
    let index = |start: u64| {
        let mut mvhd = vec![0; 100];
        mvhd[12..20].copy_from_slice(&numbers(&[MOVIE_UNITS, shape.seconds * MOVIE_UNITS]));
        let tracks = [0, 1].map(|track| trak(track, shape, &all[track], &places[track], start));
        let other = atom(b"udta", b"left out");
        atom(b"moov", &[atom(b"mvhd", &mvhd), tracks.concat(), other].concat())
    };
    let mdat = atom(b"mdat", &data);
    if shape.is_index_first {
        let start = ftyp.len() + index(0).len() + free.len() + 8;
        [ftyp, index(start as u64), free, mdat].concat()
    } else {
        let start = ftyp.len() + free.len() + 8;
        [ftyp, free, mdat, index(start as u64)].concat()
    }
}

fn trak(track: usize, shape: &Shape, chunks: &[std::ops::Range<u32>], places: &[u64], start: u64) -> Vec<u8> {
    let count = sample_count(track, shape);
    let duration = count * SAMPLE_UNITS[track];
    let mut tkhd = vec![0; 84];
    tkhd[20..24].copy_from_slice(&numbers(&[shape.seconds * MOVIE_UNITS]));
    let mut mdhd = vec![0; 24];
    mdhd[12..20].copy_from_slice(&numbers(&[UNITS[track], duration]));

    // the durations in three runs, although all are equal
    let third = count / 3;
    let runs = [
        [third, SAMPLE_UNITS[track]],
        [third, SAMPLE_UNITS[track]],
        [count - 2 * third, SAMPLE_UNITS[track]],
    ];
    let mut tables =
        atom(b"stsd", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 16, b'm', b'p', b'4', b'v', 0, 0, 0, 0, 0, 0, 0, 1]);
    tables.extend(atom(b"stts", &numbers(&[&[0, 3][..], runs.as_flattened()].concat())));
    if track == 0 {
        let keys: Vec<u32> =
            (0..count).step_by(shape.key_frame_distance as usize).map(|key| key + 1).collect();
        tables.extend(atom(b"stss", &numbers(&[&[0, keys.len() as u32][..], &keys].concat())));
        let delays: Vec<[u32; 2]> = (0..count).map(|number| [1, number % 4 * SAMPLE_UNITS[0]]).collect();
        tables.extend(atom(b"ctts", &numbers(&[&[0, count][..], delays.as_flattened()].concat())));
    }
    let mut runs: Vec<[u32; 3]> = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        if runs.last().is_none_or(|run| run[1] != chunk.end - chunk.start) {
            runs.push([index as u32 + 1, chunk.end - chunk.start, 1]);
        }
    }
    tables.extend(atom(b"stsc", &numbers(&[&[0, runs.len() as u32][..], runs.as_flattened()].concat())));
    let size = |number| sample(track, number, shape).len() as u32;
    let sizes = match track == 1 && shape.has_uniform_sound {
        true => numbers(&[0, size(0), count]),
        false => numbers(&[vec![0, 0, count], (0..count).map(size).collect()].concat()),
    };
    tables.extend(atom(b"stsz", &sizes));
    let mut offsets = numbers(&[0, places.len() as u32]);
    for place in places {
        match shape.has_wide_offsets {
            true => offsets.extend((start + place).to_be_bytes()),
            false => offsets.extend(((start + place) as u32).to_be_bytes()),
        }
    }
    tables.extend(atom(if shape.has_wide_offsets { b"co64" } else { b"stco" }, &offsets));

    let header = if track == 0 { atom(b"vmhd", &[0; 12]) } else { atom(b"smhd", &[0; 8]) };
    let minf = atom(b"minf", &[header, atom(b"dinf", b"here"), atom(b"stbl", &tables)].concat());
    let mdia = atom(b"mdia", &[atom(b"mdhd", &mdhd), atom(b"hdlr", &[7; 25]), minf].concat());
    let edts = atom(b"edts", b"left out");
    atom(b"trak", &[atom(b"tkhd", &tkhd), edts, mdia].concat())
}

/// A sample that a player would show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub time: u32,
    pub delay: u32,
    pub is_key: bool,
    pub bytes: Vec<u8>,
}

/// A track as a player reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// The durations in the track's and the media's headers.
    pub durations: [u32; 2],
    /// The time at which the edit list begins.
    pub skipped: u64,
    pub samples: Vec<Shown>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

/// The contents of all atoms with this path.
pub fn find<'a>(bytes: &'a [u8], path: &[&str]) -> Vec<&'a [u8]> {
    let Some((name, rest)) = path.split_first() else { return vec![bytes] };
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let (mut size, mut header) = (u64::from(u32_at(bytes, at)), 8);
        if size == 1 {
            (size, header) = (u64_at(bytes, at + 8), 16);
        }
        let end = at + usize::try_from(size).expect("a small atom");
        if &bytes[at + 4..at + 8] == name.as_bytes() {
            found.extend(find(&bytes[at + header..end], rest));
        }
        at = end;
    }
    found
}

/// Reads a movie as a player does. Panics if its tables do not fit together.
pub fn play(file: &[u8]) -> Vec<Played> {
    find(file, &["moov", "trak"]).into_iter().map(|trak| played(trak, file)).collect()
}

fn played(trak: &[u8], file: &[u8]) -> Played {
    let one = |path: &[&str]| find(trak, path).first().copied();
    let table = |name: &str| one(&["mdia", "minf", "stbl", name]);
    let durations = [u32_at(one(&["tkhd"]).unwrap(), 20), u32_at(one(&["mdia", "mdhd"]).unwrap(), 16)];
    let skipped = one(&["edts", "elst"]).map_or(0, |list| u64_at(list, 16));
    let runs = |name: &str| {
        let table = table(name)?;
        let count = u32_at(table, 4) as usize;
        assert_eq!(table.len(), 8 + count * 8, "{name}");
        let run = |index: usize| (u32_at(table, 8 + index * 8), u32_at(table, 12 + index * 8));
        Some(
            (0..count).map(run).flat_map(|(count, value)| (0..count).map(move |_| value)).collect::<Vec<_>>(),
        )
    };
    let (durations_of, delays) = (runs("stts").unwrap(), runs("ctts"));
    let sizes = table("stsz").unwrap();
    let count = u32_at(sizes, 8) as usize;
    let uniform = u32_at(sizes, 4);
    assert_eq!(count, durations_of.len());
    let (offsets, width) = match table("stco") {
        Some(table) => (table, 4),
        None => (table("co64").unwrap(), 8),
    };
    let chunk_count = u32_at(offsets, 4) as usize;
    assert_eq!(offsets.len(), 8 + chunk_count * width);
    let chunk_runs = table("stsc").unwrap();
    let run_count = u32_at(chunk_runs, 4) as usize;
    assert_eq!(chunk_runs.len(), 8 + run_count * 12);

    let keys = table("stss").map(|table| {
        (0..u32_at(table, 4) as usize).map(|index| u32_at(table, 8 + index * 4)).collect::<Vec<_>>()
    });
    let (mut time, mut samples, mut run) = (0, Vec::new(), 0);
    for chunk in 0..chunk_count {
        while run + 1 < run_count && u32_at(chunk_runs, 8 + (run + 1) * 12) as usize == chunk + 1 {
            run += 1;
        }
        let mut at = match width {
            4 => u32_at(offsets, 8 + chunk * 4) as usize,
            _ => u64_at(offsets, 8 + chunk * 8) as usize,
        };
        for _ in 0..u32_at(chunk_runs, 12 + run * 12) {
            let number = samples.len();
            let size = if uniform > 0 { uniform } else { u32_at(sizes, 12 + number * 4) } as usize;
            let is_key = keys.as_ref().is_none_or(|keys| keys.contains(&(number as u32 + 1)));
            let delay = delays.as_ref().map_or(0, |delays| delays[number]);
            samples.push(Shown { time, delay, is_key, bytes: file[at..at + size].to_vec() });
            time += durations_of[number];
            at += size;
        }
    }
    assert_eq!(samples.len(), count);
    Played { durations, skipped, samples }
}

/// The samples that a player must see from one time to another.
pub fn expected(shape: &Shape, start_ms: u32, end_ms: Option<u32>, is_on_key_frame: bool) -> Vec<Played> {
    [0, 1].map(|track| expected_of(track, shape, start_ms, end_ms, is_on_key_frame)).to_vec()
}

fn expected_of(
    track: usize,
    shape: &Shape,
    start_ms: u32,
    end_ms: Option<u32>,
    is_on_key_frame: bool,
) -> Played {
    let (unit, count) = (SAMPLE_UNITS[track], sample_count(track, shape));
    let units = |ms: u32| (u64::from(ms) * u64::from(UNITS[track]) / 1000) as u32;
    let wished = units(start_ms) / unit;
    let distance = shape.key_frame_distance;
    let first = if is_on_key_frame && track == 0 { wished / distance * distance } else { wished };
    let prefix = (wished - first) * unit;
    let length = end_ms.map(|end_ms| units(end_ms - start_ms));
    let last = length.map_or(count, |length| (first + (length + prefix) / unit).min(count));
    let shown = |number: u32| Shown {
        time: (number - first) * unit,
        delay: if track == 0 { number % 4 * unit } else { 0 },
        is_key: track == 1 || number.is_multiple_of(distance),
        bytes: sample(track, number, shape),
    };
    let movie = shape.seconds * MOVIE_UNITS - start_ms;
    let media = count * unit - units(start_ms);
    let durations = match (end_ms, length) {
        (Some(end_ms), Some(length)) => [movie.min(end_ms - start_ms), media.min(length) + prefix],
        _ => [movie, media + prefix],
    };
    Played { durations, skipped: u64::from(prefix), samples: (first..last).map(shown).collect() }
}
