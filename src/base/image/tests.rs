//! Sizes out of heads, pixels by their places, formats there and back, damaged and hostile images.

use super::palette::exact;
use super::picture::{self, Picture};
use super::*;

const MANY: u64 = 1 << 20;

const PLAIN: Change = Change {
    shape: Shape::Whole,
    turn: Turn::None,
    sharpen: 0,
    keeps_transparency: true,
    interlaced: false,
    quality: 90,
    pixels_max: MANY,
};

fn within(width: u32, height: u32) -> Bounds {
    Bounds { width, height }
}

/// A picture whose pixels tell their places.
fn picture(width: u32, height: u32, channels: usize) -> Picture {
    let pixel = |x: u32, y: u32| [x as u8, y as u8, 100, 200];
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let pixels = places.flat_map(|(x, y)| pixel(x, y).into_iter().take(channels)).collect();
    Picture { width, height, channels, pixels, colors: None }
}

fn at(picture: &Picture, x: usize, y: usize) -> &[u8] {
    let start = (y * picture.width as usize + x) * picture.channels;
    &picture.pixels[start..start + picture.channels]
}

fn made(format: Format, picture: &Picture, interlaced: bool) -> Vec<u8> {
    encode::encode(format, picture.clone(), interlaced, 90).unwrap()
}

fn read(format: Format, bytes: &[u8]) -> Picture {
    decode::decode(format, bytes, MANY).unwrap()
}

const FORMATS: [Format; 4] = [Format::Jpeg, Format::Gif, Format::Png, Format::Webp];

#[test]
fn images_are_recognized_by_their_first_bytes() {
    for (bytes, expected) in [
        (&b"\xff\xd8 and so on to 16"[..], Some(Format::Jpeg)),
        (b"GIF87a and so on", Some(Format::Gif)),
        (b"GIF89a and so on", Some(Format::Gif)),
        (b"GIF88a and so on", None),
        (b"\x89PNG\r\n\x1a\nand so on", Some(Format::Png)),
        (b"RIFFsizeWEBPVP8 ", Some(Format::Webp)),
        (b"RIFFsizeWAVEfmt ", None),
        (b"\x89PNG\r\n\x1a\nand so ", None),
        (b"<!DOCTYPE html>  ", None),
        (b"", None),
    ] {
        assert_eq!(Format::of(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn a_size_is_read_without_decoding_and_never_beyond_the_end() {
    for format in FORMATS {
        for channels in [3, 4] {
            let image = made(format, &picture(70, 33, channels), false);
            assert_eq!(Format::of(&image), Some(format));
            let size = Size::of(format, &image).unwrap();
            assert_eq!((size.width, size.height, size.is_padded), (70, 33, false), "{format:?}");
            let cut = (0..image.len()).map(|end| Size::of(format, &image[..end]));
            assert!(cut.flatten().all(|cut| cut == size), "{format:?}");
        }
    }
}

#[test]
fn a_webp_has_its_size_in_one_of_three_forms() {
    let file = |kind: &str, rest: &[u8]| [b"RIFF\0\0\0\0WEBP", kind.as_bytes(), b"\0\0\0\0", rest].concat();
    let lossy = file("VP8 ", b"\0\0\0\x9d\x01\x2a\x10\x40\x20\x80");
    let lossless = file("VP8L", b"\x2f\xff\xc0\x03\x00\0\0\0\0\0");
    let extended = file("VP8X", b"\0\0\0\0\x0f\0\x01\x1f\0\0");
    for (bytes, expected) in [(lossy, (16, 32)), (lossless, (256, 16)), (extended, (65552, 32))] {
        let size = Size::of(Format::Webp, &bytes).unwrap();
        assert_eq!((size.width, size.height), expected);
        assert_eq!(Size::of(Format::Webp, &bytes[..29]), None);
    }
    assert_eq!(
        Size::of(Format::Webp, &file("VP8 ", b"\x01\0\0\x9d\x01\x2a\x10\0\x20\0")),
        None,
        "no key frame"
    );
    assert_eq!(Size::of(Format::Webp, &file("ALPH", &[1; 10])), None);
}

#[test]
fn a_jpeg_that_is_mostly_metadata_is_padded() {
    let mut image = made(Format::Jpeg, &picture(16, 16, 3), false);
    let exif = [&[0xff, 0xe1, 0x10, 0x00][..], &[0xff; 0xffe]].concat();
    image.splice(2..2, exif);
    let size = Size::of(Format::Jpeg, &image).unwrap();
    assert_eq!((size.width, size.height, size.is_padded), (16, 16, true));
    let change = Change { shape: Shape::Resize(within(100, 100)), ..PLAIN };
    assert!(!change.is_for_larger_than(&size), "it is worth a change");
    let small = super::change(Format::Jpeg, image.clone(), &change).unwrap();
    assert!(small.len() < 1000 && !Size::of(Format::Jpeg, &small).unwrap().is_padded);
}

#[test]
fn sizes_follow_nginx() {
    use Shape::{Crop, Resize, Whole};
    const ANY: u32 = u32::MAX;
    for (shape, size, expected) in [
        (Whole, (400, 300), (400, 300)),
        (Resize(within(50, 50)), (400, 300), (50, 37)),
        (Resize(within(50, 50)), (300, 400), (37, 50)),
        (Resize(within(ANY, 50)), (300, 400), (37, 50)),
        (Resize(within(50, ANY)), (300, 400), (50, 66)),
        (Resize(within(ANY, ANY)), (300, 400), (300, 400)),
        (Resize(within(500, 500)), (400, 300), (400, 300)),
        (Resize(within(10, 10)), (10_000, 1), (10, 1)),
        (Crop(within(50, 30)), (400, 300), (50, 37)),
        (Crop(within(30, 50)), (400, 300), (66, 50)),
        (Crop(within(500, 30)), (400, 300), (400, 300)),
        (Crop(within(ANY, 30)), (400, 300), (400, 300)),
    ] {
        assert_eq!(reduced(shape, size.0, size.1), expected, "{shape:?} of {size:?}");
    }
}

#[test]
fn what_is_small_enough_is_left_alone() {
    let size = Size { width: 40, height: 30, is_padded: false };
    let change = |shape, turn| Change { shape, turn, ..PLAIN };
    assert!(change(Shape::Resize(within(40, 30)), Turn::None).is_for_larger_than(&size));
    assert!(!change(Shape::Resize(within(39, 30)), Turn::None).is_for_larger_than(&size));
    assert!(!change(Shape::Crop(within(40, 29)), Turn::None).is_for_larger_than(&size));
    assert!(!change(Shape::Crop(within(40, 30)), Turn::Half).is_for_larger_than(&size));
    assert!(!change(Shape::Whole, Turn::Quarter).is_for_larger_than(&size));
}

#[test]
fn an_area_becomes_its_average() {
    let gray = |levels: &[u8]| levels.iter().flat_map(|level| [*level; 3]).collect::<Vec<u8>>();
    let line = |levels: &[u8]| Picture {
        width: levels.len() as u32,
        height: 1,
        channels: 3,
        pixels: gray(levels),
        colors: None,
    };
    assert_eq!(line(&[0, 100, 200, 220]).shrunk(2, 1).pixels, gray(&[50, 210]));
    // each pixel covers one and a half: 0 and half of 90; the other half and 210
    assert_eq!(line(&[0, 90, 210]).shrunk(2, 1).pixels, gray(&[30, 170]));
    let tall = Picture { width: 1, height: 3, ..line(&[0, 90, 210]) };
    assert_eq!(tall.shrunk(1, 2).pixels, gray(&[30, 170]));
    // whatever the sizes are, an even area stays even
    for width in [1, 2, 3, 7, 31, 64] {
        for height in [1, 5, 13, 50] {
            let even = Picture {
                width: 64,
                height: 50,
                channels: 4,
                pixels: [9, 8, 7, 255].repeat(3200),
                colors: None,
            };
            assert_eq!(even.shrunk(width, height).pixels, [9, 8, 7, 255].repeat((width * height) as usize));
        }
    }
}

#[test]
fn transparent_pixels_do_not_stain_their_neighbours() {
    let pixels = [[200, 100, 50, 255], [0, 0, 0, 0]].concat();
    let two = Picture { width: 2, height: 1, channels: 4, pixels, colors: None };
    assert_eq!(two.shrunk(1, 1).pixels, [200, 100, 50, 128]);
}

#[test]
fn turning_is_counter_clockwise() {
    for channels in [3, 4] {
        let before = picture(45, 33, channels);
        let turned = |turn| before.clone().turned(turn);
        let (quarter, half, rest) = (turned(Turn::Quarter), turned(Turn::Half), turned(Turn::ThreeQuarters));
        assert_eq!((quarter.width, quarter.height), (33, 45));
        for (x, y) in [(0, 0), (44, 0), (7, 32), (31, 32), (44, 32)] {
            let pixel = at(&before, x, y);
            assert_eq!(at(&quarter, y, 44 - x), pixel);
            assert_eq!(at(&half, 44 - x, 32 - y), pixel);
            assert_eq!(at(&rest, 32 - y, x), pixel);
        }
        assert_eq!(quarter.clone().turned(Turn::Quarter), half);
        assert_eq!(quarter.turned(Turn::ThreeQuarters), turned(Turn::None));
        assert_eq!(turned(Turn::None), before);
    }
}

#[test]
fn the_middle_is_cut_out() {
    let before = picture(10, 7, 3);
    let cut = before.clone().cut(4, 7);
    assert_eq!(((cut.width, cut.height), at(&cut, 0, 0)), ((4, 7), at(&before, 3, 0)));
    let cut = before.clone().cut(10, 2);
    assert_eq!(((cut.width, cut.height), at(&cut, 9, 1)), ((10, 2), at(&before, 9, 3)));
}

#[test]
fn sharpening_keeps_even_areas_and_raises_edges() {
    let mut even = Picture { width: 4, height: 4, channels: 3, pixels: vec![77; 48], colors: None };
    even.sharpen(100);
    assert_eq!(even.pixels, vec![77; 48]);
    let mut edge =
        Picture { width: 4, height: 1, channels: 3, pixels: [[60; 6], [160; 6]].concat(), colors: None };
    edge.sharpen(100);
    // -1/4, 6/4, -1/4
    assert_eq!(edge.pixels, [[60; 3], [35; 3], [185; 3], [160; 3]].concat());
    edge.sharpen(u32::MAX); // saturates
}

#[test]
fn what_is_lossless_comes_back() {
    for channels in [3, 4] {
        for (width, height) in [(1, 1), (2, 3), (9, 16), (1, 40), (40, 1), (300, 200)] {
            for interlaced in [false, true] {
                let before = picture(width, height, channels);
                for format in [Format::Png, Format::Webp] {
                    let after = read(format, &made(format, &before, interlaced));
                    assert_eq!(after, before, "{format:?} {width} x {height}, {interlaced}");
                }
            }
        }
    }
}

#[test]
fn palettes_of_any_size_come_back() {
    for count in [1, 2, 3, 4, 5, 16, 17, 255, 256] {
        for (width, height) in [(count, 3), (3, count), (16, 18)] {
            let pixels = (0..width * height).flat_map(|index| [(index % count) as u8, 7, 9, 255]).collect();
            let before = Picture { width, height, channels: 4, pixels, colors: Some(picture::Colors) };
            for interlaced in [false, true] {
                let png = made(Format::Png, &before, interlaced);
                assert_eq!(png[25], 3, "it has a palette");
                assert_eq!(png[28], u8::from(interlaced));
                assert_eq!(read(Format::Png, &png), before.clone().without_alpha());
                assert_eq!(read(Format::Gif, &made(Format::Gif, &before, interlaced)), before);
            }
        }
    }
}

#[test]
fn a_gray_png_stays_gray() {
    let gray = Picture { width: 3, height: 2, channels: 3, pixels: vec![50; 18], colors: None };
    let png = made(Format::Png, &gray, true);
    assert_eq!((png[25], read(Format::Png, &png)), (0, gray));
}

#[test]
fn transparency_is_kept_or_dropped() {
    let mut pixels = [10, 20, 30, 255].repeat(8);
    pixels.extend([1, 2, 3, 0].repeat(8));
    let half = Picture { width: 4, height: 4, channels: 4, pixels, colors: Some(picture::Colors) };
    for format in [Format::Gif, Format::Png] {
        let image = made(format, &half, false);
        let turned = Change { turn: Turn::Half, ..PLAIN };
        let kept = read(format, &change(format, image.clone(), &turned).unwrap());
        assert_eq!((at(&kept, 0, 0)[3], at(&kept, 0, 3)), (0, &[10, 20, 30, 255][..]), "{format:?}");
        let dropped = Change { keeps_transparency: false, ..turned };
        assert!(read(format, &change(format, image, &dropped).unwrap()).is_opaque(), "{format:?}");
    }
}

#[test]
fn many_colours_become_the_nearest_of_few() {
    let mut many = picture(200, 100, 4);
    many.colors = Some(picture::Colors);
    many.pixels.chunks_exact_mut(4).enumerate().for_each(|(index, pixel)| {
        pixel[3] = if index % 5 == 0 { 0 } else { 255 };
    });
    assert_eq!(exact(&many), None);
    let few = read(Format::Gif, &made(Format::Gif, &many, false));
    for (before, after) in many.pixels.chunks_exact(4).zip(few.pixels.chunks_exact(4)) {
        assert_eq!(before[3], after[3]);
        let is_near = before.iter().zip(after).all(|(before, after)| before.abs_diff(*after) < 64);
        assert!(before[3] == 0 || is_near, "{before:?} {after:?}");
    }
}

#[test]
fn jpegs_are_progressive_on_demand_and_tell_their_quality() {
    let before = picture(60, 40, 3);
    for (interlaced, frame) in [(false, 0xc0), (true, 0xc2)] {
        let image = made(Format::Jpeg, &before, interlaced);
        assert!(memchr::memmem::find(&image, &[0xff, frame, 0, 17]).is_some());
        assert!(memchr::memmem::find(&image, b"quality = 90").is_some());
        let after = read(Format::Jpeg, &image);
        let is_near =
            before.pixels.iter().zip(&after.pixels).all(|(before, after)| before.abs_diff(*after) < 30);
        assert!(is_near, "{interlaced}");
    }
}

#[test]
fn larger_images_are_refused_by_each_decoder() {
    for format in FORMATS {
        let image = made(format, &picture(100, 100, 3), false);
        assert!(decode::decode(format, &image, 10_000).is_ok());
        let refused = decode::decode(format, &image, 9_999).unwrap_err();
        assert!(refused.contains("100 x 100"), "{refused}");
    }
    let long = made(Format::Png, &picture(65_536, 1, 3), false);
    assert!(decode::decode(Format::Png, &long, MANY).unwrap_err().contains("65536 x 1"));
}

#[test]
fn a_frame_is_no_larger_than_the_head_of_its_webp_says() {
    let chunk = |kind: &str, data: &[u8]| {
        [kind.as_bytes(), &(data.len() as u32).to_le_bytes(), data, &[0][..data.len() % 2]].concat()
    };
    for frame in [
        chunk("VP8 ", &[&b"\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f"[..], &[0; 100]].concat()),
        chunk("VP8L", &[&b"\x2f\xff\xff\xff\x0f"[..], &[0; 100]].concat()),
    ] {
        let body = [b"WEBP", &chunk("VP8X", b"\0\0\0\0\x0f\0\0\x0f\0\0")[..], &chunk("EXIF", b"abc"), &frame]
            .concat();
        let file = [&b"RIFF"[..], &(body.len() as u32).to_le_bytes(), &body].concat();
        assert_eq!(Size::of(Format::Webp, &file).map(|size| size.pixels()), Some(256));
        let refused = decode::decode(Format::Webp, &file, MANY).unwrap_err();
        assert!(refused.contains("another size"), "{refused}");
    }
}

#[test]
fn damaged_images_are_errors_or_images() {
    for format in FORMATS {
        for interlaced in [false, true] {
            let image = made(format, &picture(64, 48, 3), interlaced);
            let change = Change { shape: Shape::Resize(within(20, 20)), ..PLAIN };
            for end in 0..image.len() {
                let _ = super::change(format, image[..end].to_vec(), &change);
                let mut damaged = image.clone();
                damaged[end] ^= 0x55;
                let _ = super::change(format, damaged, &change);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]
    #[test]
    fn any_change_of_any_bytes_keeps_its_promise(
        start in 0..4_usize, choice in proptest::prelude::any::<[u8; 3]>(),
        damage in proptest::collection::vec((0..2000_usize, proptest::prelude::any::<u8>()), 0..6),
    ) {
        let mut image = made(FORMATS[start], &picture(90, 50, 3), choice[0] & 1 > 0);
        for (at, value) in damage {
            if let Some(byte) = image.get_mut(at) {
                *byte = value;
            }
        }
        property::changes(&[&choice[..], &image].concat());
    }
}
