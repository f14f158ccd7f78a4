//! Palettes of at most 256 colours.
//!
//! Pure data. A picture with few colours keeps them; for others the crate `color_quant` finds some (NeuQuant).

use std::collections::HashMap;

use color_quant::NeuQuant;

use crate::base::image::picture::Picture;

pub const COLORS_MAX: usize = 256;

/// The quantizer learns from about this many pixels, a microsecond each, or from one of 30, the fewest that it accepts.
const LEARNED_PIXELS: usize = 200_000;
const SAMPLED_MAX: usize = 30;

/// A picture as indexes into a palette.
#[derive(Debug, PartialEq, Eq)]
pub struct Indexed {
    /// With alpha.
    pub palette: Vec<[u8; 4]>,
    pub indexes: Vec<u8>,
}

impl Indexed {
    /// The first transparent colour.
    pub fn transparent(&self) -> Option<u8> {
        self.palette.iter().position(|color| color[3] == 0).map(|index| index as u8)
    }

    /// All colours in turn.
    pub fn rgb(&self) -> Vec<u8> {
        self.palette.iter().flat_map(|[red, green, blue, _]| [*red, *green, *blue]).collect()
    }
}

fn rgba(picture: &Picture) -> impl Iterator<Item = [u8; 4]> {
    let pixels = picture.pixels.chunks_exact(picture.channels);
    pixels.map(|pixel| [pixel[0], pixel[1], pixel[2], pixel.get(3).copied().unwrap_or(255)])
}

/// Makes each pixel of a picture either opaque or transparent.
pub fn decide_alpha(picture: &mut Picture) {
    if picture.channels == 4 {
        for pixel in picture.pixels.chunks_exact_mut(4) {
            match pixel[3] {
                128.. => pixel[3] = 255,
                // all transparent pixels are one colour, that of the first one of those
                _ => pixel.copy_from_slice(&[0; 4]),
            }
        }
    }
}

/// The picture's own colours; `None`: there are more than 256.
pub fn exact(picture: &Picture) -> Option<Indexed> {
    let (mut known, mut palette) = (HashMap::new(), Vec::new());
    let mut indexes = Vec::with_capacity(picture.pixels.len() / picture.channels);
    let mut last = None;
    for color in rgba(picture) {
        let index = match last {
            Some((of, index)) if of == color => index,
            _ => match known.get(&color) {
                Some(index) => *index,
                None if palette.len() == COLORS_MAX => return None,
                None => {
                    let index = palette.len() as u8;
                    palette.push(color);
                    known.insert(color, index);
                    index
                }
            },
        };
        last = Some((color, index));
        indexes.push(index);
    }
    Some(Indexed { palette, indexes })
}

/// The nearest of 256 colours for each pixel of a picture whose pixels are opaque or transparent.
pub fn nearest(picture: &Picture) -> Indexed {
    let opaque: Vec<u8> = rgba(picture).filter(|color| color[3] == 255).flatten().collect();
    let has_transparent = opaque.len() / 4 < picture.pixels.len() / picture.channels;
    let sampled = (opaque.len() / 4 / LEARNED_PIXELS).clamp(1, SAMPLED_MAX);
    let quantizer = NeuQuant::new(sampled as i32, COLORS_MAX - usize::from(has_transparent), &opaque);
    drop(opaque);
    let map = quantizer.color_map_rgba();
    let mut palette: Vec<[u8; 4]> =
        map.chunks_exact(4).map(|color| [color[0], color[1], color[2], 255]).collect();
    let transparent = palette.len() as u8; // not used unless there is one
    if has_transparent {
        palette.push([0; 4]);
    }
    let mut known: HashMap<[u8; 4], u8> = HashMap::new();
    let index = |color: [u8; 4]| match color[3] {
        255 => *known.entry(color).or_insert_with(|| quantizer.index_of(&color) as u8),
        _ => transparent,
    };
    let indexes = rgba(picture).map(index).collect();
    Indexed { palette, indexes }
}
