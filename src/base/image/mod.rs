//! Images in JPEG, GIF, PNG and WebP: their sizes, and smaller, rotated or sharper ones made of them.
//!
//! Pure data, and attacked input: [`Size::of`] reads a few bytes, [`change`] decodes. The caller bounds the number of
//! pixels first ([`Format::bytes_per_pixel`] tells the memory), runs `change` where it may last a second, and catches a
//! panic of a decoder. Only the first image of an animation is decoded. Metadata is not carried over.
//! Behaviour: nginx.org, ngx_http_image_filter_module, and libgd, whose averaging and sharpening it uses.

mod decode;
mod encode;
mod header;
mod palette;
mod picture;
#[cfg(any(test, feature = "property"))]
pub mod property;

pub use header::Size;

/// The kinds of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Gif,
    Png,
    Webp,
}

/// An image is at least this long, and is recognized by its first bytes.
pub const SIGNATURE_BYTES: usize = 16;

impl Format {
    /// Recognizes an image by its first [`SIGNATURE_BYTES`].
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first_chunk::<SIGNATURE_BYTES>()? {
            [0xff, 0xd8, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::Webp),
            _ => None,
        }
    }

    /// Its name, as in `image/jpeg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Gif => "gif",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }

    /// The most memory that [`change`] needs for a pixel, with decoder and encoder.
    pub fn bytes_per_pixel(self) -> u64 {
        12
    }
}

/// The kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Shrinks to fit a box, and keeps the ratio of the sides.
    Resize(Bounds),
    /// Shrinks to cover a box, and cuts off what exceeds it at both sides.
    Crop(Bounds),
    /// Keeps the size.
    Whole,
}

/// The largest width and height; `u32::MAX`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub width: u32,
    pub height: u32,
}

/// Counter-clockwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    None,
    Quarter,
    Half,
    ThreeQuarters,
}

/// A change to an image.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub shape: Shape,
    pub turn: Turn,
    /// Percent; 0: not at all.
    pub sharpen: u32,
    /// Keeps the transparent colour of a GIF, or of a PNG with a palette.
    pub keeps_transparency: bool,
    pub interlaced: bool,
    /// Of a JPEG, 1 to 100.
    pub quality: u8,
    /// Larger images are refused.
    pub pixels_max: u64,
}

impl Change {
    /// True if an image of this size is left as it is.
    pub fn is_for_larger_than(&self, size: &Size) -> bool {
        let (Shape::Resize(most) | Shape::Crop(most)) = self.shape else { return false };
        self.turn == Turn::None && !size.is_padded && size.width <= most.width && size.height <= most.height
    }
}

/// Decodes, changes and encodes an image. Errors: the reason, for the log.
///
/// Takes time and memory in proportion to the pixels, a second for a dozen millions.
pub fn change(format: Format, bytes: Vec<u8>, change: &Change) -> Result<Vec<u8>, String> {
    let mut picture = decode::decode(format, &bytes, change.pixels_max)?;
    drop(bytes);
    if !change.keeps_transparency {
        picture.forget_transparent_color();
    }
    let (width, height) = reduced(change.shape, picture.width, picture.height);
    picture = picture.shrunk(width, height);
    picture = picture.turned(change.turn);
    if let Shape::Crop(most) = change.shape {
        let (width, height) = (most.width.min(picture.width), most.height.min(picture.height));
        picture = picture.cut(width, height);
    }
    if change.sharpen > 0 && picture.colors.is_none() {
        picture.sharpen(change.sharpen);
    }
    encode::encode(format, picture, change.interlaced, change.quality)
}

/// The size to which an image is shrunk before it is turned and cut.
fn reduced(shape: Shape, width: u32, height: u32) -> (u32, u32) {
    let part = |side: u32, of: u32, whole: u32| {
        let part = u64::from(side) * u64::from(of) / u64::from(whole.max(1));
        u32::try_from(part).unwrap_or(u32::MAX).max(1)
    };
    let (mut dx, mut dy) = (width, height);
    match shape {
        Shape::Whole => {}
        Shape::Resize(most) => {
            if dx > most.width {
                (dx, dy) = (most.width, part(dy, most.width, dx));
            }
            if dy > most.height {
                (dx, dy) = (part(dx, most.height, dy), most.height);
            }
        }
        Shape::Crop(most) => {
            let is_narrower = u64::from(dx) * u64::from(most.height) < u64::from(most.width) * u64::from(dy);
            if is_narrower && dx > most.width {
                (dx, dy) = (most.width, part(dy, most.width, dx));
            } else if !is_narrower && dy > most.height {
                (dx, dy) = (part(dx, most.height, dy), most.height);
            }
        }
    }
    (dx, dy)
}

#[cfg(test)]
mod tests;
