//! Pixels, and what is made of them.
//!
//! Pure data. Each operation takes time in proportion to the pixels that it reads.

use crate::base::image::Turn;

/// The side of a tile, whose pixels are in the processor's cache.
const TILE: usize = 32;

/// An image in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    /// 3 for red, green and blue, 4 with alpha.
    pub channels: usize,
    pub pixels: Vec<u8>,
    /// It came with a palette, and goes out with one.
    pub colors: Option<Colors>,
}

/// A palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colors;

impl Picture {
    fn row_bytes(&self) -> usize {
        self.width as usize * self.channels
    }

    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.pixels.chunks_exact(self.row_bytes().max(1))
    }

    /// Makes the transparent colours of a palette opaque.
    pub fn forget_transparent_color(&mut self) {
        if self.colors.is_some() && self.channels == 4 {
            self.pixels.chunks_exact_mut(4).for_each(|pixel| pixel[3] = 255);
        }
    }

    /// True if it has no transparent pixel.
    pub fn is_opaque(&self) -> bool {
        self.channels == 3 || self.pixels.chunks_exact(4).all(|pixel| pixel[3] == 255)
    }

    /// Drops an alpha channel that says nothing.
    #[must_use]
    pub fn without_alpha(self) -> Self {
        if self.channels == 3 || !self.is_opaque() {
            return self;
        }
        let pixels = self.pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Self { channels: 3, pixels, ..self }
    }

    /// Makes it smaller: each pixel is the average of the area that it covers, weighted with alpha (libgd's
    /// `gdImageCopyResampled`). Neither side may be longer than it is.
    #[must_use]
    pub fn shrunk(self, width: u32, height: u32) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let mut pixels = Vec::with_capacity(width as usize * height as usize * self.channels);
        let columns = shares(self.width, width);
        let area = self.width as f32 / width as f32 * self.height as f32 / height as f32;
        // For each column red, green and blue, multiplied by alpha, and alpha: of this row, and of the row that is being made.
        let (mut row, mut sums) = (vec![[0_f32; 4]; width as usize], vec![[0_f32; 4]; width as usize]);
        for (source, share) in self.rows().zip(shares(self.height, height)) {
            row.fill([0.0; 4]);
            for (pixel, column) in source.chunks_exact(self.channels).zip(&columns) {
                let alpha = pixel.get(3).map_or(1.0, |alpha| f32::from(*alpha) / 255.0);
                let [red, green, blue] = [0, 1, 2].map(|channel| f32::from(pixel[channel]) * alpha);
                let value = [red, green, blue, alpha];
                add(&mut row[column.target], value, column.part);
                if column.part < 1.0 {
                    add(&mut row[column.target + 1], value, 1.0 - column.part);
                }
            }
            sums.iter_mut().zip(&row).for_each(|(sum, value)| add(sum, *value, share.part));
            if share.is_last {
                sums.iter().for_each(|sum| put(sum, area, self.channels, &mut pixels));
                let rest = |value: &[f32; 4]| value.map(|value| value * (1.0 - share.part));
                sums.iter_mut().zip(&row).for_each(|(sum, value)| *sum = rest(value));
            }
        }
        Self { width, height, pixels, ..self }
    }

    /// Turns it counter-clockwise.
    #[must_use]
    pub fn turned(self, turn: Turn) -> Self {
        let (width, height, channels) = (self.width as usize, self.height as usize, self.channels);
        match turn {
            Turn::None => return self,
            Turn::Half => {
                let pixels = self.pixels.rchunks_exact(channels).flatten().copied().collect();
                return Self { pixels, ..self };
            }
            Turn::Quarter | Turn::ThreeQuarters => {}
        }
        let mut pixels = vec![0; self.pixels.len()];
        // In tiles: a row becomes a column, whose pixels are far apart in memory.
        for (top, left) in
            (0..height).step_by(TILE).flat_map(|top| (0..width).step_by(TILE).map(move |left| (top, left)))
        {
            for y in top..height.min(top + TILE) {
                for x in left..width.min(left + TILE) {
                    let (row, column) = match turn {
                        Turn::Quarter => (width - 1 - x, y),
                        _ => (x, height - 1 - y),
                    };
                    let (from, to) = ((y * width + x) * channels, (row * height + column) * channels);
                    pixels[to..to + channels].copy_from_slice(&self.pixels[from..from + channels]);
                }
            }
        }
        Self { width: self.height, height: self.width, pixels, ..self }
    }

    /// Cuts the middle out, which is no larger than it.
    #[must_use]
    pub fn cut(self, width: u32, height: u32) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let (start, length) = (left as usize * self.channels, width as usize * self.channels);
        let rows = self.rows().skip(top as usize).take(height as usize);
        let pixels = rows.flat_map(|row| &row[start..start + length]).copied().collect();
        Self { width, height, pixels, ..self }
    }

    /// Sharpens the colours (libgd's `gdImageSharpen`): columns, then rows, by the weights -p/400, 1 + p/200, -p/400.
    pub fn sharpen(&mut self, percent: u32) {
        let outer = percent as f32 / -400.0;
        let weights = (outer, 1.0 - 2.0 * outer);
        let (row_bytes, channels) = (self.row_bytes(), self.channels);
        for x in 0..self.width as usize {
            sharpen(&mut self.pixels, x * channels, self.height as usize, row_bytes, weights);
        }
        for y in 0..self.height as usize {
            sharpen(&mut self.pixels, y * row_bytes, self.width as usize, channels, weights);
        }
    }
}

/// Sharpens a line of `count` pixels, each `step` bytes after the other. Beyond its ends are the same pixels again.
fn sharpen(pixels: &mut [u8], start: usize, count: usize, step: usize, (outer, inner): (f32, f32)) {
    let color = |pixels: &[u8], at: usize| [pixels[at], pixels[at + 1], pixels[at + 2]].map(f32::from);
    let mut before = color(pixels, start);
    for index in 0..count {
        let at = start + index * step;
        let this = color(pixels, at);
        let after = if index + 1 < count { color(pixels, at + step) } else { this };
        for channel in 0..3 {
            let sum = outer * (before[channel] + after[channel]) + inner * this[channel];
            pixels[at + channel] = (sum + 0.5) as u8; // saturates
        }
        before = this;
    }
}

fn add(sum: &mut [f32; 4], value: [f32; 4], weight: f32) {
    (0..4).for_each(|channel| sum[channel] += value[channel] * weight);
}

/// Appends the pixel that an area has on average.
fn put(sum: &[f32; 4], area: f32, channels: usize, out: &mut Vec<u8>) {
    let alpha = if sum[3] > 0.0 { sum[3] } else { 1.0 };
    out.extend([0, 1, 2].map(|channel| (sum[channel] / alpha + 0.5) as u8));
    if channels == 4 {
        out.push((sum[3] / area * 255.0 + 0.5) as u8);
    }
}

/// Where a row or a column of an image goes in a smaller one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share {
    target: usize,
    /// The part of it that goes there; the rest goes to the next one.
    part: f32,
    /// Nothing more goes there.
    is_last: bool,
}

fn shares(source: u32, target: u32) -> Vec<Share> {
    let (source, target) = (u64::from(source), u64::from(target));
    let of = |index| {
        // in units of which each has `target` here, and `source` there
        let (start, end) = (index * target, (index + 1) * target);
        let at = start / source;
        let edge = (at + 1) * source;
        let part = if end <= edge { 1.0 } else { (edge - start) as f32 / target as f32 };
        Share { target: at as usize, part, is_last: end >= edge }
    };
    (0..source).map(of).collect()
}
