//! Bytes to 8-bit RGB, whatever the format, or the reason why not.

use std::cell::Cell;
use std::error::Error as StdError;
use std::io::{self, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::error::ImageError;
use ::image::{ColorType, ImageDecoder, ImageReader};

use super::exif::{Exif, orientation, upright};
use super::format::{Format, Signature, signature};
use super::{Rgb8, jpeg};
use crate::error::{Classify, Kind};

/// What a picture may ask for. It is compared with the header before memory is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most pixels of a picture.
    pub max_pixels: u64,
    /// Most pixels along one side. A row is held as a whole, and so are the weights that resize it.
    pub max_side: u32,
}

impl Default for Limits {
    /// 178,956,970 pixels, where Pillow speaks of a decompression bomb; a thread that decodes such a picture needs 1 to
    /// 3 GB, 3 to 16 bytes a pixel. No side above 1,048,576, which is far beyond the panoramas and scans there are.
    fn default() -> Self {
        Limits {
            max_pixels: 178_956_970,
            max_side: 1 << 20,
        }
    }
}

impl Limits {
    /// Refuses a picture that is too large.
    pub(super) fn check(&self, width: u32, height: u32) -> Result<(), DecodeError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels <= self.max_pixels && width.max(height) <= self.max_side {
            return Ok(());
        }
        Err(DecodeError::TooLarge {
            width,
            height,
            limits: *self,
        })
    }

    /// The same for the decoders of the `image` crate. 16 bytes a pixel are what the hungriest of them takes: a TIFF
    /// with 4 channels of 16 bits, once in its own buffer and once in ours.
    fn of_image_crate(&self) -> ::image::Limits {
        let mut limits = ::image::Limits::no_limits();
        limits.max_image_width = Some(self.max_side);
        limits.max_image_height = Some(self.max_side);
        limits.max_alloc = Some(self.max_pixels.saturating_mul(16));
        limits
    }
}

/// A decoded picture and what its file said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The pixels, upright if that was asked for.
    pub image: Rgb8,
    /// Width as stored, before it was turned upright.
    pub stored_width: u32,
    /// Height as stored, before it was turned upright.
    pub stored_height: u32,
    /// The format of the file.
    pub format: Format,
}

/// Why a file did not become a picture. The texts stand as reasons in the table of outcomes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The file has no bytes.
    #[error("empty: the file has no bytes")]
    Empty,
    /// The content is not that of any image format.
    #[error("not an image: the content is of no known image format")]
    NotAnImage,
    /// An image, but of a format or kind that p8 cannot decode.
    #[error("unsupported: {what}")]
    Unsupported {
        /// The format, or the feature of one.
        what: String,
    },
    /// The header asks for more than the limits allow.
    #[error(
        "too large: {width} x {height} pixels, where {} in all and {} a side are allowed",
        limits.max_pixels, limits.max_side
    )]
    TooLarge {
        /// Width as the header has it.
        width: u32,
        /// Height as the header has it.
        height: u32,
        /// What was allowed.
        limits: Limits,
    },
    /// The data end before the picture does.
    #[error("truncated: the file ends in the middle of the picture")]
    Truncated,
    /// The data contradict the format.
    #[error("corrupt {}: {reason}", format.as_str())]
    Corrupt {
        /// What the file began as.
        format: Format,
        /// What the decoder stumbled over, in its words.
        reason: String,
    },
    /// The decoder panicked. The picture is lost, the job is not.
    #[error("the {} decoder broke down: {message}", format.as_str())]
    Panicked {
        /// Which decoder.
        format: Format,
        /// Its last words.
        message: String,
    },
}

impl Classify for DecodeError {
    fn kind(&self) -> Kind {
        match self {
            DecodeError::Empty
            | DecodeError::NotAnImage
            | DecodeError::Unsupported { .. }
            | DecodeError::TooLarge { .. }
            | DecodeError::Truncated
            | DecodeError::Corrupt { .. }
            | DecodeError::Panicked { .. } => Kind::Input,
        }
    }
}

/// Decodes the bytes of a file. The content tells the format, not the name.
///
/// * Animations and documents with several pages give their first picture.
/// * Alpha is dropped, not composited: the colours are taken as stored.
/// * 16 bits become 8 by keeping the high byte, grey as well as colour. (Pillow does that for colour, but
///   cuts grey at 255, so that nearly all of a 16-bit grey picture is white.)
/// * Palettes are expanded. CMYK becomes RGB by a formula, colour profiles are not used.
/// * JPEG gives the pixels of libjpeg-turbo with accurate DCT and smooth upsampling, as Pillow does.
///
/// # Errors
///
/// Anything that is wrong with the file is a [`DecodeError`], a panic inside a decoder included.
pub fn decode(bytes: &[u8], exif: Exif, limits: &Limits) -> Result<Decoded, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = match signature(bytes) {
        Some(Signature::Known(format)) => format,
        Some(Signature::Foreign(name)) => {
            return Err(DecodeError::Unsupported {
                what: format!("{name} files are not decoded"),
            });
        }
        None => return Err(DecodeError::NotAnImage),
    };
    contain(format, || match format {
        Format::Jpeg => decode_jpeg(bytes, exif, limits),
        _ => decode_other(bytes, format, exif, limits),
    })
}

/// Width and height as the header has them, also of a picture that [`decode()`] refuses; `None` where the
/// header cannot be read.
pub fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let Some(Signature::Known(format)) = signature(bytes) else {
        return None;
    };
    let dimensions = match format {
        Format::Jpeg => jpeg::dimensions(bytes),
        Format::Png => png_dimensions(bytes),
        Format::WebP | Format::Gif | Format::Bmp | Format::Tiff => contain(format, || {
            // These decoders read a header without memory for the pixels.
            ImageReader::with_format(Cursor::new(bytes), format.of_image_crate())
                .into_dimensions()
                .map_err(|error| failure(error, format, bytes))
        })
        .ok(),
    };
    dimensions.filter(|&(width, height)| width > 0 && height > 0)
}

/// The header of a PNG stands at the same place in every file. The decoder would take memory for a row, which may be of
/// 2^31 pixels, before it tells.
fn png_dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.get(12..24)?.strip_prefix(b"IHDR")?;
    let (sides, _) = header.as_chunks::<4>();
    Some((u32::from_be_bytes(sides[0]), u32::from_be_bytes(sides[1])))
}

fn decode_jpeg(bytes: &[u8], exif: Exif, limits: &Limits) -> Result<Decoded, DecodeError> {
    let (width, height, pixels) = jpeg::decode(bytes, limits)?;
    let image = Rgb8 {
        width,
        height,
        pixels,
    };
    let image = match (exif, jpeg::exif(bytes)) {
        (Exif::Apply, Some(block)) => upright(image, orientation(block)),
        (Exif::Apply, None) | (Exif::Ignore, _) => image,
    };
    Ok(Decoded {
        image,
        stored_width: width,
        stored_height: height,
        format: Format::Jpeg,
    })
}

/// Decodes with the `image` crate.
fn decode_other(
    bytes: &[u8],
    format: Format,
    exif: Exif,
    limits: &Limits,
) -> Result<Decoded, DecodeError> {
    let fail = |error| failure(error, format, bytes);
    if let Some((width, height)) = dimensions(bytes) {
        limits.check(width, height)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format.of_image_crate());
    reader.limits(limits.of_image_crate());
    let mut decoder = reader.into_decoder().map_err(fail)?;

    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    if width == 0 || height == 0 {
        return Err(DecodeError::Corrupt {
            format,
            reason: "it has no pixels".to_string(),
        });
    }
    let orientation = match exif {
        Exif::Apply => match decoder.exif_metadata().map_err(fail)? {
            Some(block) => orientation(&block),
            // TIFF keeps it among the tags of the picture.
            None => decoder.orientation().map_err(fail)?,
        },
        Exif::Ignore => ::image::metadata::Orientation::NoTransforms,
    };
    let layout = decoder.color_type();
    let mut buffer =
        vec![0; width as usize * height as usize * usize::from(layout.bytes_per_pixel())];
    decoder.read_image(&mut buffer).map_err(fail)?;
    let image = Rgb8 {
        width,
        height,
        pixels: to_rgb8(buffer, layout)?,
    };
    Ok(Decoded {
        image: upright(image, orientation),
        stored_width: width,
        stored_height: height,
        format,
    })
}

/// Reduces decoded pixels to three bytes each. `image` stores channels of 16 bits in the order of the machine.
fn to_rgb8(mut buffer: Vec<u8>, layout: ColorType) -> Result<Vec<u8>, DecodeError> {
    let high = |pixel: &[u8], channel: usize| {
        (u16::from_ne_bytes([pixel[channel * 2], pixel[channel * 2 + 1]]) >> 8) as u8
    };
    match layout {
        ColorType::Rgb8 => {}
        ColorType::Rgba8 => shrink(&mut buffer, 4, |pixel| [pixel[0], pixel[1], pixel[2]]),
        ColorType::Rgb16 => shrink(&mut buffer, 6, |p| [high(p, 0), high(p, 1), high(p, 2)]),
        ColorType::Rgba16 => shrink(&mut buffer, 8, |p| [high(p, 0), high(p, 1), high(p, 2)]),
        ColorType::L8 => return Ok(buffer.iter().flat_map(|&level| [level; 3]).collect()),
        ColorType::La8 => return Ok(buffer.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect()),
        ColorType::L16 => {
            return Ok(buffer
                .chunks_exact(2)
                .flat_map(|p| [high(p, 0); 3])
                .collect());
        }
        ColorType::La16 => shrink(&mut buffer, 4, |pixel| [high(pixel, 0); 3]),
        other => {
            return Err(DecodeError::Unsupported {
                what: format!("pixels of the kind {other:?}"),
            });
        }
    }
    Ok(buffer)
}

/// Replaces pixels of `size` bytes by pixels of three in the same memory: a large picture is not held twice.
fn shrink(buffer: &mut Vec<u8>, size: usize, rgb: impl Fn(&[u8]) -> [u8; 3]) {
    let pixels = buffer.len() / size;
    for pixel in 0..pixels {
        let colour = rgb(&buffer[pixel * size..][..size]);
        buffer[pixel * 3..][..3].copy_from_slice(&colour);
    }
    buffer.truncate(pixels * 3);
}

/// The failure behind an error of the `image` crate.
fn failure(error: ImageError, format: Format, bytes: &[u8]) -> DecodeError {
    if ends_early(&error) || (format == Format::WebP && riff_is_cut(bytes)) {
        return DecodeError::Truncated;
    }
    match error {
        ImageError::Unsupported(error) => DecodeError::Unsupported {
            what: error.to_string(),
        },
        error => DecodeError::Corrupt {
            format,
            reason: error.source().unwrap_or(&error).to_string(),
        },
    }
}

/// Whether a RIFF file, which tells its length, is shorter than that. The WebP decoder speaks of corruption then.
fn riff_is_cut(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok());
    length.is_some_and(|length| (bytes.len() as u64) < 8 + u64::from(u32::from_le_bytes(length)))
}

/// Whether an error, or a cause of it, is that there are no more bytes.
fn ends_early(error: &ImageError) -> bool {
    // An `ImageError::IoError` is not among its own sources.
    if let ImageError::IoError(io) = error {
        return io.kind() == io::ErrorKind::UnexpectedEof;
    }
    let mut cause = error.source();
    while let Some(found) = cause {
        let io = found.downcast_ref::<io::Error>();
        // The GIF decoder has an error of its own for it, which only its text tells from the others.
        if io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof)
            || found.to_string() == "Unexpected End of File"
        {
            return true;
        }
        cause = found.source();
    }
    false
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a foreign decoder, whose panics become [`DecodeError::Panicked`].
///
/// For the panic hook: a panic ends the whole job, but not while this is true. The hook runs before the
/// panic is caught, on the thread that panics, so the answer is right there.
pub fn is_decoding() -> bool {
    DECODING.get()
}

/// Runs a decoder so that a panic in it costs the picture and nothing else.
///
/// The formats come from anywhere and their decoders are not ours; one file that trips one of them must not end a job
/// of a million. Nothing that a panic could leave half-changed is used afterwards: the closures own what they build,
/// and the JPEG handle is only put back after a success.
fn contain<T>(
    format: Format,
    work: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let outer = DECODING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    DECODING.set(outer);
    result.unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| text.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_string());
        Err(DecodeError::Panicked { format, message })
    })
}

#[cfg(test)]
mod tests {
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
        assert!(
            matches!(reason(&bytes), DecodeError::Unsupported { what } if what.contains("32F"))
        );
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
                        DecodeError::Truncated
                            | DecodeError::Corrupt { .. }
                            | DecodeError::NotAnImage
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
}
