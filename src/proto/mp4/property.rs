//! A property of every file that claims to be a movie, for the fuzz target (`fuzz/`) and the property test here.

use crate::proto::mp4::{self, Cut, Error, HEADER_BYTES_MAX, Outline, Wish};

/// Cuts a file that is in memory. `Ok(None)`: it is good as it is.
pub fn cut_all(file: &[u8], wish: &Wish, index_bytes_max: u64) -> Result<Option<Cut>, Error> {
    let mut outline = Outline::new(file.len() as u64, index_bytes_max, wish);
    while let Some(at) = outline.next() {
        let at = usize::try_from(at).expect("a place in the file");
        outline.take(&file[at..file.len().min(at + HEADER_BYTES_MAX)])?;
    }
    if outline.is_good_as_it_is() {
        return Ok(None);
    }
    let content = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let mut moov = content(outline.index().ok_or(Error::Missing("moov"))?).to_vec();
    mp4::cut(&outline, outline.file_type().map(content), &mut moov, wish).map(Some)
}

/// Panics if a file makes the parser read outside it, refer to bytes that it does not have, or produce much more than the
/// index has. The first bytes choose the times.
pub fn cuts(input: &[u8]) {
    let Some(([start, length, flags], file)) = input.split_first_chunk() else { return };
    let scale = if flags & 2 > 0 { u64::MAX / 255 } else { 97 };
    let wish = Wish {
        start_ms: u64::from(*start) * scale,
        length_ms: u64::from(*length) * scale,
        is_on_key_frame: flags & 1 > 0,
    };
    if let Ok(Some(cut)) = cut_all(file, &wish, 1 << 20) {
        assert!(cut.media.start < cut.media.end && cut.media.end <= file.len() as u64);
        assert!(cut.head.len() <= 2 * file.len() + 1024 * 256, "{} bytes", cut.head.len());
    }
}
