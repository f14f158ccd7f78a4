//! The encoders, to the format that an image came in.
//!
//! Touches: the crates `jpeg-encoder`, `gif`, `png`, `image-webp` and, for an interlaced PNG, `zlib-rs`. WebP is lossless: no
//! encoder in Rust with a licence that this program could use is lossy.

use std::borrow::Cow;

use jpeg_encoder::{ColorType, SamplingFactor};
use png::{BitDepth, chunk};
use zlib_rs::{Deflate, DeflateFlush, Status};

use crate::base::image::Format;
use crate::base::image::palette::{self, Indexed};
use crate::base::image::picture::Picture;

pub fn encode(format: Format, picture: Picture, interlaced: bool, quality: u8) -> Result<Vec<u8>, String> {
    match format {
        Format::Jpeg => jpeg(&picture, interlaced, quality),
        Format::Gif => gif(picture, interlaced),
        Format::Png => png(picture, interlaced),
        Format::Webp => webp(picture),
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A side, for formats whose images have sides of 16 bits.
fn side(length: u32) -> Result<u16, String> {
    u16::try_from(length).map_err(|_| format!("{length} pixels are too many for a side"))
}

fn jpeg(picture: &Picture, is_progressive: bool, quality: u8) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, quality);
    encoder.set_sampling_factor(SamplingFactor::F_2_2); // libjpeg's
    encoder.set_progressive(is_progressive);
    let color = if picture.channels == 3 { ColorType::Rgb } else { ColorType::Rgba };
    encoder.encode(&picture.pixels, side(picture.width)?, side(picture.height)?, color).map_err(told)?;
    remark(&mut out, &format!("quality = {quality}"));
    Ok(out)
}

/// Adds a comment to a JPEG, after its first segment, as libgd does.
fn remark(jpeg: &mut Vec<u8>, text: &str) {
    let Some(&[_, _, _, _, high, low]) = jpeg.first_chunk() else { return };
    let at = 4 + usize::from(u16::from_be_bytes([high, low]));
    let length = (text.len() as u16 + 2).to_be_bytes();
    if at <= jpeg.len() {
        jpeg.splice(at..at, [&[0xff, 0xfe], &length[..], text.as_bytes()].concat());
    }
}

fn gif(mut picture: Picture, interlaced: bool) -> Result<Vec<u8>, String> {
    palette::decide_alpha(&mut picture);
    let mut indexed = palette::exact(&picture).unwrap_or_else(|| palette::nearest(&picture));
    let (width, height) = (side(picture.width)?, side(picture.height)?);
    if interlaced {
        indexed.indexes = in_four_passes(&indexed.indexes, usize::from(width), usize::from(height));
    }
    let mut out = Vec::new();
    let mut encoder = gif::Encoder::new(&mut out, width, height, &indexed.rgb()).map_err(told)?;
    let transparent = indexed.transparent();
    let buffer = Cow::Owned(indexed.indexes);
    let frame = gif::Frame { width, height, buffer, transparent, interlaced, ..gif::Frame::default() };
    encoder.write_frame(&frame).map_err(told)?;
    drop(encoder);
    Ok(out)
}

/// The rows in the order in which an interlaced GIF has them: each eighth, those between, and so on.
fn in_four_passes(indexes: &[u8], width: usize, height: usize) -> Vec<u8> {
    let passes = [(0, 8), (4, 8), (2, 4), (1, 2)];
    let rows = passes.into_iter().flat_map(|(first, step)| (first..height).step_by(step));
    rows.flat_map(|row| &indexes[row * width..(row + 1) * width]).copied().collect()
}

/// The bytes of the pixels of a PNG, and what tells their meaning.
struct Plane {
    color: png::ColorType,
    pixel_bytes: usize,
    bytes: Vec<u8>,
    palette: Option<Indexed>,
}

impl Plane {
    /// The bits of an index, or of a channel.
    fn depth(&self) -> BitDepth {
        match self.palette.as_ref().map(|indexed| indexed.palette.len()) {
            Some(..=2) => BitDepth::One,
            Some(..=4) => BitDepth::Two,
            Some(..=16) => BitDepth::Four,
            _ => BitDepth::Eight,
        }
    }
}

/// Appends a row of pixels; indexes of few bits share bytes, the first one in the highest bits.
fn pack(row: &[u8], depth: BitDepth, out: &mut Vec<u8>) {
    let bits = depth as usize;
    if bits == 8 {
        return out.extend_from_slice(row);
    }
    out.extend(row.chunks(8 / bits).map(|indexes| {
        let place = |(at, index): (usize, &u8)| index << (8 - bits * (at + 1));
        indexes.iter().enumerate().map(place).sum::<u8>()
    }));
}

fn png(picture: Picture, interlaced: bool) -> Result<Vec<u8>, String> {
    let (width, height) = (picture.width, picture.height);
    let plane = plane(picture);
    let mut info = png::Info::with_size(width, height);
    let depth = plane.depth();
    (info.color_type, info.bit_depth, info.interlaced) = (plane.color, depth, interlaced);
    if let Some(indexed) = &plane.palette {
        info.palette = Some(Cow::Owned(indexed.rgb()));
        let alphas: Vec<u8> = indexed.palette.iter().map(|color| color[3]).collect();
        info.trns = alphas.iter().any(|alpha| *alpha != 255).then_some(Cow::Owned(alphas));
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::with_info(&mut out, info).map_err(told)?;
    encoder.set_compression(png::Compression::Balanced);
    let mut writer = encoder.write_header().map_err(told)?;
    if interlaced {
        let rows = in_seven_passes(&plane, depth, width as usize, height as usize);
        writer.write_chunk(chunk::IDAT, &zlib(&rows)).map_err(told)?;
    } else if depth == BitDepth::Eight {
        writer.write_image_data(&plane.bytes).map_err(told)?;
    } else {
        let mut packed = Vec::with_capacity(plane.bytes.len() / 2 + height as usize);
        plane.bytes.chunks(width as usize).for_each(|row| pack(row, depth, &mut packed));
        writer.write_image_data(&packed).map_err(told)?;
    }
    writer.finish().map_err(told)?;
    Ok(out)
}

/// A picture with a palette keeps one, unless it has partly transparent pixels and too many colours: then a palette would
/// spoil them.
fn plane(picture: Picture) -> Plane {
    if picture.colors.is_some() {
        let exact = palette::exact(&picture);
        let indexed = exact.or_else(|| picture.is_opaque().then(|| palette::nearest(&picture)));
        if let Some(mut indexed) = indexed {
            let bytes = std::mem::take(&mut indexed.indexes);
            return Plane { color: png::ColorType::Indexed, pixel_bytes: 1, bytes, palette: Some(indexed) };
        }
    }
    let is_gray = |pixel: &[u8]| pixel[0] == pixel[1] && pixel[1] == pixel[2];
    let picture = picture.without_alpha();
    let (color, pixel_bytes, bytes) = match picture.channels {
        3 if picture.pixels.chunks_exact(3).all(is_gray) => {
            (png::ColorType::Grayscale, 1, picture.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect())
        }
        3 => (png::ColorType::Rgb, 3, picture.pixels),
        _ => (png::ColorType::Rgba, 4, picture.pixels),
    };
    Plane { color, pixel_bytes, bytes, palette: None }
}

/// The rows of an interlaced PNG (Adam7), each with its filter: the difference from the pixel to the left, or none for a
/// single byte, which may be an index.
fn in_seven_passes(plane: &Plane, depth: BitDepth, width: usize, height: usize) -> Vec<u8> {
    // the first column and row of each pass, and its steps
    const PASSES: [[usize; 4]; 7] =
        [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    let Plane { pixel_bytes, bytes, .. } = plane;
    let is_filtered = *pixel_bytes > 1;
    let mut out = Vec::with_capacity(bytes.len() + 2 * height);
    let mut row = Vec::new();
    for [left, top, across, down] in PASSES {
        if left >= width {
            continue; // a pass without pixels has no rows
        }
        for y in (top..height).step_by(down) {
            let mut before = [0; 4];
            row.clear();
            for x in (left..width).step_by(across) {
                let at = (y * width + x) * pixel_bytes;
                for (byte, before) in bytes[at..at + pixel_bytes].iter().zip(&mut before) {
                    row.push(if is_filtered { byte.wrapping_sub(*before) } else { *byte });
                    *before = *byte;
                }
            }
            out.push(u8::from(is_filtered));
            pack(&row, depth, &mut out);
        }
    }
    out
}

/// RFC 1950, at the level that stands for zlib's default (`base/gzip.rs`).
fn zlib(data: &[u8]) -> Vec<u8> {
    let mut deflate = Deflate::new(5, true, 15);
    let mut out = Vec::with_capacity(data.len() / 2 + 1024);
    loop {
        let (given, made) = (deflate.total_in() as usize, out.len());
        out.resize(made + 64 * 1024, 0);
        let status = deflate.compress(&data[given..], &mut out[made..], DeflateFlush::Finish);
        out.truncate(deflate.total_out() as usize);
        if !matches!(status, Ok(Status::Ok)) {
            return out;
        }
    }
}

fn webp(picture: Picture) -> Result<Vec<u8>, String> {
    let (width, height) = (picture.width, picture.height);
    let picture = picture.without_alpha();
    let color =
        if picture.channels == 3 { image_webp::ColorType::Rgb8 } else { image_webp::ColorType::Rgba8 };
    if width.max(height) > WEBP_SIDE_MAX {
        return Err(format!("{} pixels are too many for a side", width.max(height)));
    }
    let mut out = Vec::new();
    image_webp::WebPEncoder::new(&mut out).encode(&picture.pixels, width, height, color).map_err(told)?;
    Ok(out)
}

/// RFC 9649 §3.4: 14 bits.
const WEBP_SIDE_MAX: u32 = 1 << 14;
