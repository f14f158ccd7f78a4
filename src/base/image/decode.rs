//! The decoders: each gives the first image of its format, within a number of pixels.
//!
//! Touches: the crates `zune-jpeg`, `gif`, `png` and `image-webp`. They are bounded by the size in the image's head, which
//! is compared with the limit before memory for pixels is taken.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions};
use png::{Limits, Transformations};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::base::image::picture::{Colors, Picture};
use crate::base::image::{Format, header};

/// The most scans of a progressive JPEG. Each may take as long as a pass over all pixels; encoders make about ten.
const SCANS_MAX: usize = 64;

/// Chunks of a PNG besides its pixels: texts, colour profiles.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The most memory for pixels of a decoder that counts it, for each of them.
const PIXEL_BYTES_MAX: u64 = 8;

pub fn decode(format: Format, bytes: &[u8], pixels_max: u64) -> Result<Picture, String> {
    let picture = match format {
        Format::Jpeg => jpeg(bytes, pixels_max),
        Format::Gif => gif(bytes, pixels_max),
        Format::Png => png(bytes, pixels_max),
        Format::Webp => webp(bytes, pixels_max),
    }?;
    let length = u64::from(picture.width) * u64::from(picture.height) * picture.channels as u64;
    if picture.width == 0 || length != picture.pixels.len() as u64 {
        return Err("it has no pixels".into());
    }
    Ok(picture)
}

/// The longest side, which only a PNG can exceed: the memory that a change needs for a column is not counted.
const SIDE_MAX: u64 = u16::MAX as u64;

/// Errors: the image is larger than the limit, or empty.
fn admit(width: u64, height: u64, pixels_max: u64) -> Result<(), String> {
    let is_fit =
        (1..=SIDE_MAX).contains(&width) && (1..=SIDE_MAX).contains(&height) && width * height <= pixels_max;
    if is_fit { Ok(()) } else { Err(format!("its size is {width} x {height}")) }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn jpeg(bytes: &[u8], pixels_max: u64) -> Result<Picture, String> {
    let options = DecoderOptions::default()
        .jpeg_set_max_scans(SCANS_MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(told)?;
    let info = decoder.info().ok_or("it has no size")?;
    admit(u64::from(info.width), u64::from(info.height), pixels_max)?;
    let pixels = decoder.decode().map_err(told)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    Ok(Picture { width, height, channels: 3, pixels, colors: None })
}

fn gif(bytes: &[u8], pixels_max: u64) -> Result<Picture, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    let memory = pixels_max.saturating_mul(PIXEL_BYTES_MAX).max(1);
    if let Some(memory) = std::num::NonZeroU64::new(memory) {
        options.set_memory_limit(gif::MemoryLimit::Bytes(memory));
    }
    let mut decoder = options.read_info(bytes).map_err(told)?;
    let frame = decoder.next_frame_info().map_err(told)?.ok_or("it has no frame")?;
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    admit(u64::from(width), u64::from(height), pixels_max)?;
    let mut pixels = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut pixels).map_err(told)?;
    Ok(Picture { width, height, channels: 4, pixels, colors: Some(Colors) })
}

fn png(bytes: &[u8], pixels_max: u64) -> Result<Picture, String> {
    let bytes_max = pixels_max.saturating_mul(PIXEL_BYTES_MAX).saturating_add(CHUNK_BYTES_MAX as u64);
    let limits = Limits { bytes: usize::try_from(bytes_max).unwrap_or(usize::MAX) };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let info = decoder.read_header_info().map_err(told)?;
    let (width, height) = info.size();
    let colors = (info.color_type == png::ColorType::Indexed).then_some(Colors);
    admit(u64::from(width), u64::from(height), pixels_max)?;
    let mut reader = decoder.read_info().map_err(told)?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
    reader.next_frame(&mut pixels).map_err(told)?;
    let channels = match reader.output_color_type().0 {
        png::ColorType::Grayscale => {
            pixels = pixels.iter().flat_map(|gray| [*gray; 3]).collect();
            3
        }
        png::ColorType::GrayscaleAlpha => {
            pixels = pixels.chunks_exact(2).flat_map(|pair| [pair[0], pair[0], pair[0], pair[1]]).collect();
            4
        }
        png::ColorType::Rgb => 3,
        png::ColorType::Rgba => 4,
        png::ColorType::Indexed => return Err("its palette was not applied".into()),
    };
    Ok(Picture { width, height, channels, pixels, colors })
}

fn webp(bytes: &[u8], pixels_max: u64) -> Result<Picture, String> {
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(told)?;
    let (width, height) = decoder.dimensions();
    admit(u64::from(width), u64::from(height), pixels_max)?;
    if decoder.is_animated() {
        return Err("it is animated".into());
    }
    if !header::has_equal_frames(bytes, (width, height)) {
        return Err("its frame has another size than its head says".into());
    }
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or("it is too large")?];
    decoder.read_image(&mut pixels).map_err(told)?;
    Ok(Picture { width, height, channels, pixels, colors: None })
}
