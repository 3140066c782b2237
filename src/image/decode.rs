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
mod tests;
