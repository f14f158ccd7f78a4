//! A property of all bytes that claim to be an image, for the fuzz target (`fuzz/`) and the tests here.

use crate::base::image::{self, Bounds, Change, Format, SIGNATURE_BYTES, Shape, Size, Turn};

/// Larger images are refused here.
const PIXELS_MAX: u64 = 1 << 14;

/// Panics if bytes make a change fail in another way than by an error, or yield an image that is larger than asked for.
/// The first bytes choose the change.
pub fn changes(input: &[u8]) {
    let Some(([width, height, flags], bytes)) = input.split_first_chunk() else { return };
    let Some(format) = Format::of(bytes) else { return };
    let _ = Size::of(format, bytes);
    let most = Bounds { width: u32::from(*width) + 1, height: u32::from(*height) + 1 };
    let turn = [Turn::None, Turn::Quarter, Turn::Half, Turn::ThreeQuarters][usize::from(flags & 3)];
    let change = Change {
        shape: [Shape::Resize(most), Shape::Crop(most), Shape::Whole, Shape::Whole]
            [usize::from(flags >> 2 & 3)],
        turn,
        sharpen: u32::from(flags >> 4 & 1) * 100,
        keeps_transparency: flags & 32 > 0,
        interlaced: flags & 64 > 0,
        quality: 75,
        pixels_max: PIXELS_MAX,
    };
    let Ok(made) = image::change(format, bytes.to_vec(), &change) else { return };
    assert!(made.len() >= SIGNATURE_BYTES && Format::of(&made) == Some(format));
    let size = Size::of(format, &made).expect("an encoder's");
    assert!(size.pixels() <= PIXELS_MAX);
    let (across, down) = match (change.shape, turn) {
        (Shape::Whole, _) => return,
        (Shape::Resize(_), Turn::Quarter | Turn::ThreeQuarters) => (most.height, most.width),
        _ => (most.width, most.height),
    };
    assert!(size.width <= across && size.height <= down, "{size:?} for {change:?}");
}
