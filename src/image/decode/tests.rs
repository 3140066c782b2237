use ::image::codecs::png::PngEncoder;
use ::image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};

use super::super::exif::tests::block;
use super::super::jpeg::tests::picture as jpeg_picture;
use super::*;

const WIDTH: u32 = 31;
const HEIGHT: u32 = 17;

/// Red grows to the right, green downwards, blue is their pattern.
fn picture() -> Rgb8 {
    let mut pixels = Vec::new();
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            pixels.extend([(x * 8) as u8, (y * 15) as u8, (x * y % 256) as u8]);
        }
    }
    Rgb8 {
        width: WIDTH,
        height: HEIGHT,
        pixels,
    }
}

fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn encode_picture(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_raw(WIDTH, HEIGHT, picture().pixels).unwrap();
    encode(DynamicImage::ImageRgb8(image), format)
}

fn decoded(bytes: &[u8]) -> Decoded {
    decode(bytes, Exif::Apply, &Limits::default()).unwrap()
}

fn reason(bytes: &[u8]) -> DecodeError {
    decode(bytes, Exif::Apply, &Limits::default()).unwrap_err()
}

const LOSSLESS: [(ImageFormat, Format); 4] = [
    (ImageFormat::Png, Format::Png),
    (ImageFormat::WebP, Format::WebP),
    (ImageFormat::Bmp, Format::Bmp),
    (ImageFormat::Tiff, Format::Tiff),
];

/// One small file of every format.
fn one_of_each() -> Vec<(Format, Vec<u8>)> {
    let mut files: Vec<_> = LOSSLESS
        .iter()
        .map(|&(encoder, format)| (format, encode_picture(encoder)))
        .collect();
    files.push((Format::Gif, encode_picture(ImageFormat::Gif)));
    files.push((Format::Jpeg, jpeg_picture()));
    files
}

#[test]
fn lossless_formats_give_back_the_pixels() {
    for (encoder, format) in LOSSLESS {
        let bytes = encode_picture(encoder);
        let decoded = decoded(&bytes);
        assert_eq!(decoded.image, picture(), "{format:?}");
        assert_eq!(decoded.format, format);
        assert_eq!(dimensions(&bytes), Some((WIDTH, HEIGHT)));
    }
}

#[test]
fn gif_gives_its_colours() {
    // Four colours, which a palette holds exactly.
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]];
    let pixels: Vec<u8> = (0..64).flat_map(|i| colours[i % 4]).collect();
    let image = RgbImage::from_raw(8, 8, pixels.clone()).unwrap();
    let bytes = encode(DynamicImage::ImageRgb8(image), ImageFormat::Gif);
    assert_eq!(decoded(&bytes).image.pixels, pixels);
}

/// A PNG of 2x1 pixels from raw samples.
fn png(samples: &[u8], layout: ExtendedColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(samples, 2, 1, layout)
        .unwrap();
    bytes
}

fn native(values: &[u16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

#[test]
fn alpha_is_dropped_and_not_composited() {
    let rgba = png(&[10, 20, 30, 0, 40, 50, 60, 128], ExtendedColorType::Rgba8);
    assert_eq!(decoded(&rgba).image.pixels, [10, 20, 30, 40, 50, 60]);
    let grey = png(&[10, 0, 200, 128], ExtendedColorType::La8);
    assert_eq!(decoded(&grey).image.pixels, [10, 10, 10, 200, 200, 200]);
}

#[test]
fn sixteen_bits_keep_the_high_byte() {
    let values = [0x1234, 0xffff, 0x00ff, 0x8000, 0x7fff, 0x0100];
    let rgb = png(&native(&values), ExtendedColorType::Rgb16);
    assert_eq!(decoded(&rgb).image.pixels, [0x12, 0xff, 0, 0x80, 0x7f, 1]);
    let grey = png(&native(&[0x1234, 0xfedc]), ExtendedColorType::L16);
    assert_eq!(
        decoded(&grey).image.pixels,
        [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]
    );
    let with_alpha = png(&native(&[0x1234, 0, 0xfedc, 9]), ExtendedColorType::La16);
    assert_eq!(
        decoded(&with_alpha).image.pixels,
        [0x12, 0x12, 0x12, 0xfe, 0xfe, 0xfe]
    );
    let rgba = native(&[0x1234, 0x5678, 0x9abc, 0, 0xffff, 0, 0x0100, 1]);
    let rgba = png(&rgba, ExtendedColorType::Rgba16);
    assert_eq!(decoded(&rgba).image.pixels, [0x12, 0x56, 0x9a, 0xff, 0, 1]);
}

/// A chunk of PNG with its checksum.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for &byte in name.iter().chain(data) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], name, data, &(!crc).to_be_bytes()].concat()
}

/// A PNG whose data are one stored block of zlib.
fn png_by_hand(
    width: u32,
    height: u32,
    bits: u8,
    colour: u8,
    extra: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let header = [
        &width.to_be_bytes()[..],
        &height.to_be_bytes(),
        &[bits, colour, 0, 0, 0],
    ]
    .concat();
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in data {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    let length = data.len() as u16;
    let zlib = [
        &[0x78, 0x01, 0x01][..],
        &length.to_le_bytes(),
        &(!length).to_le_bytes(),
        data,
        &(b << 16 | a).to_be_bytes(),
    ]
    .concat();
    [
        &b"\x89PNG\r\n\x1a\n"[..],
        &chunk(b"IHDR", &header),
        extra,
        &chunk(b"IDAT", &zlib),
        &chunk(b"IEND", b""),
    ]
    .concat()
}

#[test]
fn palettes_with_transparency_give_their_colours() {
    let palette = chunk(b"PLTE", &[255, 0, 0, 0, 255, 0, 1, 2, 3]);
    let transparency = chunk(b"tRNS", &[0, 128]);
    let extra = [palette, transparency].concat();
    // Two bits a pixel: 0, 1, 2, 1 behind a filter byte.
    let bytes = png_by_hand(4, 1, 2, 3, &extra, &[0, 0b0001_1001]);
    let expected = [255, 0, 0, 0, 255, 0, 1, 2, 3, 0, 255, 0];
    assert_eq!(decoded(&bytes).image.pixels, expected);
}

#[test]
fn one_bit_grey_spans_the_whole_range() {
    let bytes = png_by_hand(8, 1, 1, 0, &[], &[0, 0b0110_0001]);
    let levels: Vec<u8> = decoded(&bytes)
        .image
        .pixels
        .chunks(3)
        .map(|p| p[0])
        .collect();
    assert_eq!(levels, [0, 255, 255, 0, 0, 0, 0, 255]);
}

#[test]
fn the_orientation_of_png_and_tiff_is_applied_unless_ignored() {
    let exif = chunk(b"eXIf", &block(6));
    let png = png_by_hand(2, 1, 8, 0, &exif, &[0, 10, 200]);
    let upright = decoded(&png);
    assert_eq!((upright.image.width, upright.image.height), (1, 2));
    assert_eq!((upright.stored_width, upright.stored_height), (2, 1));
    let stored = decode(&png, Exif::Ignore, &Limits::default()).unwrap();
    assert_eq!((stored.image.width, stored.image.height), (2, 1));

    let turned = decoded(&tiff(&[(0x112, 6)], 1));
    assert_eq!((turned.image.width, turned.image.height), (1, 2));
    assert_eq!(turned.image.pixels, [10, 10, 10, 200, 200, 200]);
}

/// A little-endian TIFF of 2x1 grey pixels, 10 and 200, with further tags of one short each.
fn tiff(tags: &[(u16, u16)], sample_format: u16) -> Vec<u8> {
    let mut entries = vec![
        (0x100, 2),
        (0x101, 1),
        (0x102, 8),
        (0x103, 1),
        (0x106, 1),
        (0x111, 8),
        (0x115, 1),
        (0x116, 1),
        (0x117, 2),
        (0x153, sample_format),
    ];
    entries.extend_from_slice(tags);
    entries.sort();
    let mut bytes = b"II*\0\x0a\0\0\0\x0a\xc8".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, value) in entries {
        bytes.extend([tag, 3u16].map(u16::to_le_bytes).concat());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(u32::from(value).to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn floating_point_pictures_are_unsupported_and_say_so() {
    let floats: Vec<f32> = vec![0.5; 6];
    let image = ::image::Rgb32FImage::from_raw(2, 1, floats).unwrap();
    let bytes = encode(DynamicImage::ImageRgb32F(image), ImageFormat::Tiff);
    assert!(matches!(reason(&bytes), DecodeError::Unsupported { what } if what.contains("32F")));
}

#[test]
fn what_is_no_picture_says_what_it_is() {
    assert_eq!(reason(b""), DecodeError::Empty);
    assert_eq!(reason(b"label,path\n"), DecodeError::NotAnImage);
    assert!(matches!(
        reason(b"\0\0\0\x18ftypheic\0\0\0\0"),
        DecodeError::Unsupported { what } if what.contains("HEIC")
    ));
}

#[test]
fn a_file_cut_in_the_middle_fails_in_every_format() {
    for (format, bytes) in one_of_each() {
        for eighths in 1..8 {
            let cut = &bytes[..bytes.len() * eighths / 8];
            let error = reason(cut);
            assert!(
                matches!(
                    error,
                    DecodeError::Truncated | DecodeError::Corrupt { .. } | DecodeError::NotAnImage
                ),
                "{format:?} {eighths}/8: {error}"
            );
        }
        assert_eq!(
            reason(&bytes[..bytes.len() / 2]),
            DecodeError::Truncated,
            "{format:?}"
        );
    }
}

#[test]
fn bombs_are_refused_before_memory_is_spent() {
    let limits = Limits {
        max_pixels: 1000,
        max_side: 500,
    };
    for (format, bytes) in one_of_each() {
        let tight = Limits {
            max_pixels: 100,
            ..limits
        };
        let error = decode(&bytes, Exif::Apply, &tight).unwrap_err();
        assert!(
            matches!(error, DecodeError::TooLarge { .. }),
            "{format:?}: {error}"
        );
    }
    // 2^31 - 1 pixels a side: 12 exabytes, in 70 bytes.
    let bomb = png_by_hand(0x7fff_ffff, 0x7fff_ffff, 16, 2, &[], &[0]);
    assert!(matches!(
        reason(&bomb),
        DecodeError::TooLarge {
            width: 0x7fff_ffff,
            ..
        }
    ));
    let strip = png_by_hand(501, 1, 8, 0, &[], &[0; 502]);
    let error = decode(&strip, Exif::Apply, &limits).unwrap_err();
    assert!(matches!(
        error,
        DecodeError::TooLarge {
            width: 501,
            height: 1,
            ..
        }
    ));
}

#[test]
fn pictures_without_pixels_are_corrupt() {
    for (width, height) in [(0, 5), (5, 0), (0, 0)] {
        let bytes = png_by_hand(width, height, 8, 0, &[], &[]);
        assert!(
            matches!(reason(&bytes), DecodeError::Corrupt { .. }),
            "{width}x{height}"
        );
        assert_eq!(dimensions(&bytes), None);
    }
}

#[test]
fn reasons_read_as_such() {
    let limits = Limits::default();
    let large = limits.check(60000, 60000).unwrap_err();
    assert_eq!(
        large.to_string(),
        "too large: 60000 x 60000 pixels, where 178956970 in all and 1048576 a side are allowed"
    );
    let hole = DecodeError::Corrupt {
        format: Format::Jpeg,
        reason: "bad Huffman code".to_string(),
    };
    assert_eq!(hole.to_string(), "corrupt JPEG: bad Huffman code");
    assert_eq!(hole.kind(), Kind::Input);
}

#[test]
fn a_panic_of_a_decoder_is_contained_and_announced() {
    assert!(!is_decoding());
    let result: Result<(), _> = contain(Format::Gif, || {
        assert!(is_decoding());
        std::panic::resume_unwind(Box::new("index out of range".to_string()))
    });
    assert_eq!(
        result,
        Err(DecodeError::Panicked {
            format: Format::Gif,
            message: "index out of range".to_string()
        })
    );
    assert!(!is_decoding());
}

/// Bytes of address space that this process has asked for at most.
fn peak_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmPeak:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

#[test]
fn damaged_files_of_every_format_cost_neither_the_process_nor_its_memory() {
    let limits = Limits {
        max_pixels: 1 << 20,
        max_side: 1 << 16,
    };
    let before = peak_address_space();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut decoded = 0;
    for (_, bytes) in one_of_each() {
        for _ in 0..400 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + random(4) {
                // Half of the damage goes to the header, where the sizes are.
                let reach = if random(2) == 0 { 64 } else { damaged.len() };
                let at = random(reach.min(damaged.len()));
                match random(4) {
                    0 => damaged[at] ^= 1 << random(8),
                    1 => damaged[at] = 0xff,
                    2 => damaged[at] = random(256) as u8,
                    _ => damaged.truncate(at.max(1)),
                }
            }
            if let Ok(result) = decode(&damaged, Exif::Apply, &limits) {
                let image = result.image;
                assert_eq!(
                    image.pixels.len() as u64,
                    u64::from(image.width) * u64::from(image.height) * 3
                );
                assert!(image.width > 0 && image.height > 0);
                decoded += 1;
            }
            dimensions(&damaged);
        }
    }
    assert!(
        decoded > 0,
        "damage that nothing survives tests the first check only"
    );
    let grown = peak_address_space() - before;
    assert!(grown < 1 << 30, "{grown} bytes");
}
