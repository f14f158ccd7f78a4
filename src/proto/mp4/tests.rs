//! Movies that are cut at many times, and hostile ones.

use super::property::{cut_all, cuts};
use super::toy::{self, Shape, atom, numbers};
use super::{Error, Wish, length};

const INDEX_MAX: u64 = 1 << 20;

fn wish(start_ms: u32, end_ms: Option<u32>, is_on_key_frame: bool) -> Wish {
    let length_ms = end_ms.map_or(0, |end_ms| u64::from(end_ms - start_ms));
    Wish { start_ms: start_ms.into(), length_ms, is_on_key_frame }
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for is_index_first in [true, false] {
        for chunk_samples in [[10, 17], [1, 1], [1000, 1000], [3, 50]] {
            let shape = Shape { is_index_first, chunk_samples, ..Shape::default() };
            shapes.push(Shape { has_wide_offsets: true, ..shape.clone() });
            shapes.push(Shape { has_uniform_sound: true, ..shape.clone() });
            shapes.push(shape);
        }
    }
    shapes
}

/// The file that a client gets.
fn served(file: &[u8], wish: &Wish) -> Vec<u8> {
    let cut = cut_all(file, wish, INDEX_MAX).unwrap().unwrap();
    [&cut.head, &file[cut.media.start as usize..cut.media.end as usize]].concat()
}

#[test]
fn the_samples_of_the_wished_time_are_played() {
    for shape in shapes() {
        let file = toy::movie(&shape);
        for start_ms in [0, 1, 39, 40, 400, 1234, 3333, 5000, 7777, 9900] {
            for length_ms in [None, Some(40), Some(79), Some(200), Some(1000), Some(4001), Some(90_000)] {
                for is_on_key_frame in [false, true] {
                    let end_ms = length_ms.map(|length_ms| start_ms + length_ms);
                    let wish = wish(start_ms, end_ms, is_on_key_frame);
                    if wish.is_whole() && shape.is_index_first {
                        assert_eq!(cut_all(&file, &wish, INDEX_MAX), Ok(None));
                        continue;
                    }
                    let played = toy::play(&served(&file, &wish));
                    let expected = toy::expected(&shape, start_ms, end_ms, is_on_key_frame);
                    assert!(played == expected, "{shape:?} {wish:?}\n{played:?}\n{expected:?}");
                }
            }
        }
    }
}

#[test]
fn only_the_data_of_the_part_is_sent() {
    let file = toy::movie(&Shape::default());
    let cut = cut_all(&file, &wish(5000, Some(6000), false), INDEX_MAX).unwrap().unwrap();
    let part = (cut.media.end - cut.media.start) as usize;
    assert!(part * 8 < file.len(), "{part} of {}", file.len());
    assert_eq!(cut.length.unwrap().bytes_per_s(5000), Some(5000));
    assert_eq!(length(&mut toy::find(&file, &["moov"])[0].to_vec()).unwrap().unwrap().duration, 10_000);
}

#[test]
fn a_part_that_is_not_there_is_an_error() {
    let file = toy::movie(&Shape::default());
    let errors = |start_ms, length_ms| {
        cut_all(&file, &Wish { start_ms, length_ms, is_on_key_frame: false }, INDEX_MAX).unwrap_err()
    };
    assert_eq!(errors(10_001, 0), Error::StartsLate);
    assert_eq!(errors(10_000, 0), Error::Missing("trak"));
    assert_eq!(errors(u64::MAX, u64::MAX), Error::StartsLate);
    assert_eq!(errors(5000, 1), Error::NoData);
    let index = toy::find(&file, &["moov"])[0].len() as u64;
    let wish = wish(1000, None, false);
    assert_eq!(cut_all(&file, &wish, index - 1).unwrap_err(), Error::LargeIndex(index));
    assert!(cut_all(&file, &wish, index).is_ok());
}

#[test]
fn offsets_beyond_four_gigabytes_get_a_wide_table() {
    // all of a file of just under 4 GiB, whose index moves to its front
    let shape = Shape { is_index_first: false, ..Shape::default() };
    let file = toy::movie(&shape);
    let far = u64::from(u32::MAX) - file.len() as u64;
    let last = *toy::find(&file, &["moov", "trak", "mdia", "minf", "stbl", "stco"]).last().unwrap();
    let mut moov = toy::find(&file, &["moov"])[0].to_vec();
    let at = moov.windows(last.len()).position(|part| part == last).unwrap() + last.len() - 4;
    moov[at..at + 4].copy_from_slice(&(far as u32).to_be_bytes());
    let mut outline = super::Outline::new(far + 2000, INDEX_MAX, &Wish::default());
    outline.take(&[&[0, 0, 0, 1], &b"mdat"[..], &(far + 1000).to_be_bytes()].concat()).unwrap();
    let cut = super::cut(&outline, None, &mut moov, &Wish::default()).unwrap();
    let moov_end = cut.head.len() - 8; // the header of the data follows
    let cut_moov = toy::find(&cut.head[..moov_end], &["moov"])[0];
    let tables = toy::find(cut_moov, &["trak", "mdia", "minf", "stbl", "co64"]);
    let last = tables[1].last_chunk().map(|last| u64::from_be_bytes(*last)).unwrap();
    assert_eq!(last, far - cut.media.start + cut.head.len() as u64);
}

/// Replaces the content of the first atom with this name, wherever it is, by one of the same length.
fn with(file: &[u8], name: &[u8; 4], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut file = file.to_vec();
    let at = file.windows(4).position(|part| part == name).unwrap();
    let size = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
    change(&mut file[at + 4..at - 4 + size]);
    file
}

fn put(numbers_at: usize, values: &[u32]) -> impl FnOnce(&mut [u8]) + use<> {
    let bytes = numbers(values);
    move |content| content[numbers_at..numbers_at + bytes.len()].copy_from_slice(&bytes)
}

/// The holes of nginx's module over the years, and others of their kind.
#[test]
fn hostile_tables_are_errors() {
    let shape = Shape::default();
    let file = toy::movie(&shape);
    let all = |count| put(4, &[count]);
    for (changed, expected) in [
        (with(&file, b"stts", all(u32::MAX)), Error::TooSmall("stts")),
        (with(&file, b"stss", all(1 << 30)), Error::TooSmall("stss")),
        (with(&file, b"ctts", all(1 << 29)), Error::TooSmall("ctts")),
        (with(&file, b"stsc", all(0x1555_5556)), Error::TooSmall("stsc")),
        (with(&file, b"stsz", put(8, &[1 << 30])), Error::TooSmall("stsz")),
        (with(&file, b"stco", all(1 << 30)), Error::TooSmall("stco")),
        // no samples, no chunks, no entries
        (with(&file, b"stts", all(0)), Error::StartOutside("stts samples")),
        (with(&file, b"stsc", all(0)), Error::Zero("number of entries in stsc atom")),
        (with(&file, b"stco", all(0)), Error::Unordered),
        (with(&file, b"stsz", put(8, &[3])), Error::StartOutside("stsz samples")),
        // CVE-2024-7347: chunks in disorder
        (with(&file, b"stsc", put(20, &[0])), Error::Unordered),
        (with(&file, b"stsc", put(8, &[u32::MAX])), Error::Unordered),
        (with(&file, b"stsc", put(8, &[0])), Error::Zero("chunk")),
        (with(&file, b"stsc", put(12, &[0])), Error::StartOutside("stsc chunks")),
        (
            with(&file, b"stsc", |runs| runs[8..].chunks_mut(12).for_each(|run| run[4..8].fill(0))),
            Error::Zero("number of samples"),
        ),
        (with(&file, b"stsz", |sizes| sizes[12..].fill(0xff)), Error::LargeSamples),
        (with(&file, b"stco", |places| places[8..].fill(0xff)), Error::ChunkOutside),
        (with(&file, b"stss", put(8, &[0])), Error::Zero("sync sample")),
        // CVE-2022-41741: atoms twice
        (file.replace(b"edts", b"tkhd"), Error::TooSmall("tkhd")),
        (file.replace(b"ctts", b"stts"), Error::Duplicate("stts")),
        (file.replace(b"ctts", b"stss"), Error::Duplicate("stss")),
        (file.replace(b"dinf", b"vmhd"), Error::Duplicate("vmhd/smhd")),
        (file.replace(b"udta", b"mvhd"), Error::Duplicate("mvhd")),
        (file.replace(b"free", b"ftyp"), Error::Duplicate("ftyp")),
        (file.replace(b"hdlr", b"minf"), Error::LargeAtom(0x0707_0707)),
        (file.replace(b"udta", b"cmov"), Error::Compressed),
        (file.replace(b"stco", b"none"), Error::Missing("stco")),
        (file.replace(b"mdat", b"none"), Error::Missing("mdat")),
    ] {
        // one of these times must meet it
        let cut = |start_ms| cut_all(&changed, &wish(start_ms, Some(9900), true), INDEX_MAX);
        let found = [0, 2345, 9000].map(|start_ms| cut(start_ms).map(|cut| cut.map(|cut| cut.media)));
        assert!(found.iter().any(|found| found.as_ref().err() == Some(&expected)), "{expected:?}: {found:?}");
    }
}

/// Replaces all occurrences of a name.
trait Replace {
    fn replace(&self, name: &[u8; 4], other: &[u8; 4]) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    fn replace(&self, name: &[u8; 4], other: &[u8; 4]) -> Vec<u8> {
        let mut changed = self.clone();
        let places: Vec<usize> = (0..self.len() - 3).filter(|at| &self[*at..at + 4] == name).collect();
        places.into_iter().for_each(|at| changed[at..at + 4].copy_from_slice(other));
        changed
    }
}

#[test]
fn hostile_sizes_are_errors_and_end() {
    let wish = wish(1000, None, false);
    let cut = |file: &[u8]| cut_all(file, &wish, INDEX_MAX).map(|_| ());
    let wide = |size: u64| [&[0, 0, 0, 1], &b"moov"[..], &size.to_be_bytes()].concat();
    for (file, expected) in [
        (vec![], Error::Missing("moov")),
        (vec![0], Error::Truncated),
        (vec![0, 0, 0, 9], Error::Truncated),
        (vec![0, 0, 0, 0], Error::Missing("moov")),
        (b"\0\0\0\0moov".to_vec(), Error::Missing("moov")),
        (b"\0\0\0\x07moov".to_vec(), Error::SmallAtom(7)),
        (b"\0\0\0\x08moov".to_vec(), Error::Missing("mdat")),
        (b"\0\0\0\x09moov".to_vec(), Error::LargeAtom(9)),
        (b"\xff\xff\xff\xffmoov".to_vec(), Error::LargeAtom(u32::MAX.into())),
        (b"\0\0\0\x01moov\0\0\0".to_vec(), Error::Truncated),
        // CVE-2018-16845: an atom of 64 bits that is smaller than its header
        (wide(0), Error::SmallAtom(0)),
        (wide(15), Error::SmallAtom(15)),
        (wide(16), Error::Missing("mdat")),
        (wide(u64::MAX), Error::LargeAtom(u64::MAX)),
        (wide(1 << 63), Error::LargeAtom(1 << 63)),
        (atom(b"ftyp", &[0; 1025]), Error::LargeType(1025)),
        (atom(b"free", b"").repeat(20_000), Error::ManyAtoms),
        ([atom(b"moov", &atom(b"trak", b"").repeat(300)), atom(b"mdat", b"")].concat(), Error::ManyTracks),
        (
            [atom(b"moov", b"\0\0\0\x01trak\0\0\0\0\0\0\0\x02"), atom(b"mdat", b"")].concat(),
            Error::SmallAtom(2),
        ),
        ([atom(b"moov", b"\0\0\0\0"), atom(b"mdat", b"")].concat(), Error::Missing("trak")),
        ([atom(b"moov", b"\0\0"), atom(b"mdat", b"")].concat(), Error::Truncated),
        ([atom(b"moov", &atom(b"mvhd", &[1; 111])), atom(b"mdat", b"")].concat(), Error::TooSmall("mvhd")),
    ] {
        assert_eq!(cut(&file), Err(expected), "{:?}", &file[..file.len().min(40)]);
    }
}

#[test]
fn data_may_go_on_to_the_end_of_the_file() {
    let file = toy::movie(&Shape::default());
    let at = file.windows(4).position(|part| part == b"mdat").unwrap();
    let mut open = file.clone();
    open[at - 4..at].fill(0);
    let wish = wish(3000, None, false);
    assert_eq!(served(&open, &wish), served(&file, &wish));
}

#[test]
fn a_file_that_is_cut_off_or_changed_anywhere_keeps_the_properties() {
    let shape = Shape { seconds: 2, key_frame_distance: 7, ..Shape::default() };
    for is_index_first in [true, false] {
        let file = toy::movie(&Shape { is_index_first, ..shape.clone() });
        let index = toy::find(&file, &["moov"])[0].len() + 60;
        let range = if is_index_first { 0..index } else { file.len() - index..file.len() };
        let input = |start: u8, file: &[u8]| [&[start, 5, 1], file].concat();
        for at in range {
            cuts(&input(9, &file[..at]));
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = input(at as u8 % 20, &file);
                changed[3 + at] = value;
                cuts(&changed);
            }
        }
    }
}
