use ::turbojpeg::{Colorspace, Compressor, Image, PixelFormat, Subsamp};

use super::super::exif::tests::block;
use super::*;

const WIDTH: usize = 48;
const HEIGHT: usize = 32;

/// A smooth picture, which survives compression with a level or two of loss.
fn gradient(channels: usize) -> Vec<u8> {
    let mut levels = Vec::new();
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let all = [60 + 3 * x, 200 - 4 * y, 100 + x + y, 190 + y];
            levels.extend(all[..channels].iter().map(|&level| level as u8));
        }
    }
    levels
}

pub(crate) fn compress(
    levels: &[u8],
    format: PixelFormat,
    set: impl Fn(&mut Compressor),
) -> Vec<u8> {
    let mut compressor = Compressor::new().unwrap();
    compressor.set_quality(98).unwrap();
    compressor.set_subsamp(Subsamp::None).unwrap();
    set(&mut compressor);
    let image = Image {
        pixels: levels,
        width: WIDTH,
        pitch: WIDTH * format.size(),
        height: HEIGHT,
        format,
    };
    compressor.compress_to_vec(image).unwrap()
}

/// A plain colour picture as a file.
pub(crate) fn picture() -> Vec<u8> {
    compress(&gradient(3), PixelFormat::RGB, |_| {})
}

fn pixels(bytes: &[u8]) -> Vec<u8> {
    let (width, height, pixels) = decode(bytes, &Limits::default()).unwrap();
    assert_eq!((width as usize, height as usize), (WIDTH, HEIGHT));
    pixels
}

fn reason(bytes: &[u8]) -> DecodeError {
    decode(bytes, &Limits::default()).unwrap_err()
}

#[track_caller]
fn assert_close(got: &[u8], want: &[u8], levels: u8) {
    assert_eq!(got.len(), want.len());
    let off = got
        .iter()
        .zip(want)
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap();
    assert!(off <= levels, "{off} levels apart");
}

/// Puts a segment behind the marker that starts the picture.
fn with_segment(bytes: &[u8], marker: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16 + 2).to_be_bytes();
    [&bytes[..2], &[0xff, marker], &length, payload, &bytes[2..]].concat()
}

#[test]
fn baseline_progressive_and_arithmetic_pictures_decode() {
    let want = gradient(3);
    assert_close(&pixels(&picture()), &want, 3);
    let progressive = compress(&want, PixelFormat::RGB, |c| {
        c.set_progressive(true).unwrap()
    });
    assert_close(&pixels(&progressive), &want, 3);
    let arithmetic = compress(&want, PixelFormat::RGB, |c| c.set_arithmetic(true).unwrap());
    assert_eq!(pixels(&arithmetic), pixels(&picture()));
}

#[test]
fn subsampled_chroma_is_interpolated() {
    let want = gradient(3);
    for subsampling in [
        Subsamp::Sub2x1,
        Subsamp::Sub2x2,
        Subsamp::Sub1x2,
        Subsamp::Sub4x1,
    ] {
        let bytes = compress(&want, PixelFormat::RGB, |c| {
            c.set_subsamp(subsampling).unwrap()
        });
        // Repeated chroma would be off by half the slope of a block: more than this at the seams of 4x1.
        assert_close(&pixels(&bytes), &want, 8);
    }
}

#[test]
fn grey_becomes_three_equal_channels() {
    let grey = gradient(1);
    let bytes = compress(&grey, PixelFormat::GRAY, |c| {
        c.set_subsamp(Subsamp::Gray).unwrap()
    });
    let want: Vec<u8> = grey.iter().flat_map(|&level| [level; 3]).collect();
    let got = pixels(&bytes);
    assert_close(&got, &want, 2);
    assert!(got.chunks(3).all(|p| p[0] == p[1] && p[1] == p[2]));
}

#[test]
fn inverted_cmyk_becomes_rgb_stored_plainly_or_as_ycck() {
    let stored = gradient(4);
    let want: Vec<u8> = stored
        .chunks(4)
        .flat_map(|p| [0, 1, 2].map(|c| (f64::from(p[c]) * f64::from(p[3]) / 255.0).round() as u8))
        .collect();
    for colours in [Colorspace::CMYK, Colorspace::YCCK] {
        let bytes = compress(&stored, PixelFormat::CMYK, |c| {
            c.set_colorspace(colours).unwrap()
        });
        assert_close(&pixels(&bytes), &want, 4);
    }
}

#[test]
fn the_cmyk_formula_is_exact_at_its_corners() {
    // Stored inverted: 255 is no ink. No ink at all is white, full black is black whatever the colours.
    let mut levels = vec![255, 255, 255, 255, 7, 90, 255, 0, 255, 0, 128, 255];
    inverted_cmyk_to_rgb(&mut levels);
    assert_eq!(levels, [255, 255, 255, 0, 0, 0, 255, 0, 128]);
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    let progressive = compress(&gradient(3), PixelFormat::RGB, |c| {
        c.set_progressive(true).unwrap()
    });
    for whole in [picture(), progressive] {
        for cut in (3..whole.len())
            .step_by(7)
            .chain([whole.len() - 2, whole.len() - 1])
        {
            assert_eq!(
                reason(&whole[..cut]),
                DecodeError::Truncated,
                "{cut} of {}",
                whole.len()
            );
        }
    }
}

#[test]
fn a_good_picture_decodes_after_bad_ones_on_the_same_thread() {
    let whole = picture();
    let want = pixels(&whole);
    for cut in (3..whole.len()).step_by(31) {
        reason(&whole[..cut]);
        assert_eq!(pixels(&whole), want);
    }
}

#[test]
fn warnings_about_how_it_was_written_are_no_failures() {
    let whole = picture();
    let want = pixels(&whole);
    let revision = with_segment(&whole, 0xe0, b"JFIF\0\x07\x01\0\0\x01\0\x01\0\0");
    assert_eq!(pixels(&revision), want);
    // Bytes that belong to nothing, between two segments.
    let stray = [&whole[..2], b"stray", &whole[2..]].concat();
    assert_eq!(pixels(&stray), want);
    // A colour profile whose only part says that it is the second of one.
    let profile = with_segment(&whole, 0xe2, b"ICC_PROFILE\0\x02\x01broken");
    assert_eq!(pixels(&profile), want);
    // Anything may follow the end of the picture.
    assert_eq!(pixels(&[&whole[..], b"and a film"].concat()), want);
}

#[test]
fn a_harmless_warning_hides_no_truncation() {
    let whole = picture();
    let stray = [&whole[..2], b"stray", &whole[2..]].concat();
    assert_eq!(
        reason(&stray[..stray.len() * 2 / 3]),
        DecodeError::Truncated
    );
}

#[test]
fn a_hole_in_the_coded_data_is_corrupt() {
    let whole = picture();
    let start = whole
        .windows(2)
        .position(|pair| pair == [0xff, SOS])
        .unwrap()
        + 20;
    let hole = [&whole[..start], &[0xff, EOI]].concat();
    assert!(matches!(
        reason(&hole),
        DecodeError::Corrupt { format: Format::Jpeg, reason } if reason.contains("premature end")
    ));
}

#[test]
fn pictures_without_pixels_or_frame_are_corrupt() {
    let whole = picture();
    let frame = whole
        .windows(2)
        .position(|pair| pair == [0xff, SOF0])
        .unwrap();
    for side in [frame + 5, frame + 7] {
        let mut flat = whole.clone();
        flat[side..side + 2].fill(0);
        assert!(matches!(reason(&flat), DecodeError::Corrupt { .. }));
        assert_eq!(dimensions(&flat), None);
    }
    let bare = [0xff, 0xd8, 0xff, EOI];
    assert!(matches!(reason(&bare), DecodeError::Corrupt { .. }));
}

#[test]
fn kinds_that_the_library_cannot_decode_are_unsupported() {
    let mut twelve_bits = picture();
    let frame = twelve_bits
        .windows(2)
        .position(|pair| pair == [0xff, SOF0])
        .unwrap();
    twelve_bits[frame + 4] = 12;
    assert!(matches!(
        reason(&twelve_bits),
        DecodeError::Unsupported { .. }
    ));
}

#[test]
fn the_limit_is_asked_of_the_header() {
    let mut large = picture();
    let frame = large
        .windows(2)
        .position(|pair| pair == [0xff, SOF0])
        .unwrap();
    large[frame + 5..frame + 9].fill(0xff);
    assert_eq!(
        reason(&large),
        DecodeError::TooLarge {
            width: 65535,
            height: 65535,
            limits: Limits::default()
        }
    );
}

#[test]
fn a_picture_of_endless_scans_is_refused() {
    let progressive = compress(&gradient(3), PixelFormat::RGB, |c| {
        c.set_progressive(true).unwrap()
    });
    let first = progressive
        .windows(2)
        .position(|pair| pair == [0xff, SOS])
        .unwrap();
    let second = first
        + 2
        + progressive[first + 2..]
            .windows(2)
            .position(|p| p == [0xff, SOS] || p == [0xff, DHT])
            .unwrap();
    let scan = &progressive[first..second];
    let endless = [
        &progressive[..first],
        &scan.repeat(1000),
        &progressive[first..],
    ]
    .concat();
    assert!(matches!(
        reason(&endless),
        DecodeError::Corrupt { reason, .. } if reason.contains("scans")
    ));
}

#[test]
fn the_exif_block_is_found_behind_other_segments() {
    let oriented = [b"Exif\0\0", &block(6)[..]].concat();
    let bytes = with_segment(&picture(), APP1, &oriented);
    let bytes = with_segment(&bytes, APP1, b"http://ns.adobe.com/xap/1.0/\0");
    assert_eq!(exif(&bytes), Some(&oriented[..]));
    assert_eq!(exif(&picture()), None);
}
