//! JPEG, decoded by libjpeg-turbo with the choices of Pillow, TensorFlow and torchvision: the accurate
//! integer inverse DCT and smooth chroma upsampling.
//!
//! The library is called through the bindings of `turbojpeg-sys` rather than the safe wrapper, which takes
//! every warning for an error already while it reads the header, and keeps using a handle that a bad
//! header has left in the middle of that file.
//!
//! # What is a failure
//!
//! libjpeg repairs what it can, fills the rest with grey, and warns. A picture with grey where there were
//! pixels is no picture, so these warnings are failures: the data end early, a code cannot be read, a restart
//! marker is missing. Warnings about how the file was written are none ([`HARMLESS`]), as in Pillow. The
//! library tells the text of the first warning only. Behind a harmless one, that the file ends early is
//! still found, by looking for the end marker; unreadable codes are not, and pass as they do in Pillow.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::ptr::NonNull;

use ::turbojpeg::raw;

use super::decode::{DecodeError, Limits};
use super::format::Format;

/// Most scans that a progressive picture may have. Encoders write about ten, one a coefficient and bit would be some
/// hundreds; a small file with thousands of empty scans keeps a decoder busy for minutes. libjpeg-turbo's own
/// fuzzers stop at the same number.
const MAX_SCANS: c_int = 500;

/// Starts of the warnings after which the picture is as good as without. From `jerror.h` of libjpeg-turbo.
const HARMLESS: &[&str] = &[
    "Warning: unknown JFIF revision number",
    "Unknown Adobe color transform code",
    "Invalid SOS parameters for sequential JPEG",
    "Inconsistent progression sequence",
];

/// Bytes between two segments, which some cameras leave. They are counted in the text.
const EXTRANEOUS: &str = "extraneous bytes before marker";

thread_local! {
    /// The decompressor of this thread, kept from picture to picture for its buffers. One that failed is not put back.
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// The pixels of a JPEG file, as stored, three bytes each: red, green, blue.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(u32, u32, Vec<u8>), DecodeError> {
    // Asked of the segments and not of the library, so that the limit holds before it allocates.
    let Some((width, height)) = dimensions(bytes) else {
        return Err(failure(
            bytes,
            "it has no frame header with a width and a height".to_string(),
        ));
    };
    limits.check(width, height)?;

    let mut decompressor = match DECOMPRESSOR.take() {
        Some(decompressor) => decompressor,
        None => Decompressor::new().map_err(|message| failure(bytes, message))?,
    };
    let clean_header = accept(decompressor.read_header(bytes), bytes)?;
    let layout = decompressor.layout();
    if (layout.width, layout.height) != (width, height) {
        return Err(failure(
            bytes,
            "its frame headers contradict each other".to_string(),
        ));
    }
    let pixels = width as usize * height as usize;
    let (mut buffer, pixel_format) = if layout.four_channels {
        (vec![0; pixels * 4], raw::TJPF_TJPF_CMYK)
    } else {
        (vec![0; pixels * 3], raw::TJPF_TJPF_RGB)
    };
    let clean = accept(
        decompressor.decompress(bytes, &mut buffer, pixel_format),
        bytes,
    )?;
    if clean_header && clean {
        DECOMPRESSOR.set(Some(decompressor));
    }
    if layout.four_channels {
        inverted_cmyk_to_rgb(&mut buffer);
    }
    Ok((width, height, buffer))
}

/// Whether a call went without a word (`true`) or with a harmless warning (`false`); else why it failed.
fn accept(result: Result<(), String>, bytes: &[u8]) -> Result<bool, DecodeError> {
    let Err(message) = result else {
        return Ok(true);
    };
    let harmless =
        HARMLESS.iter().any(|start| message.starts_with(start)) || message.contains(EXTRANEOUS);
    if harmless && has_end(bytes) {
        return Ok(false);
    }
    Err(failure(bytes, message))
}

/// The failure behind a message of the library. Whatever it stumbled over, a file without its end is a truncated one.
fn failure(bytes: &[u8], message: String) -> DecodeError {
    if !has_end(bytes) || message.starts_with("Premature end of JPEG file") {
        return DecodeError::Truncated;
    }
    if message.starts_with("Unsupported") || message.contains("determine colorspace") {
        return DecodeError::Unsupported {
            what: format!("JPEG: {message}"),
        };
    }
    let reason = message
        .strip_prefix("Corrupt JPEG data: ")
        .unwrap_or(&message)
        .to_string();
    DecodeError::Corrupt {
        format: Format::Jpeg,
        reason,
    }
}

/// Turns Adobe's inverted CMYK into RGB in place: Pillow's formula, which knows no colour profile.
///
/// With `k` and `c` as stored (255 is no ink) Pillow computes `k - (255 - c) * k / 255`, the quotient rounded.
/// Like Pillow, p8 takes every CMYK JPEG for an inverted one: Adobe's programs write them so, others follow.
fn inverted_cmyk_to_rgb(buffer: &mut Vec<u8>) {
    let pixels = buffer.len() / 4;
    for pixel in 0..pixels {
        let at = pixel * 4;
        let k = i32::from(buffer[at + 3]);
        for channel in 0..3 {
            let ink = 255 - i32::from(buffer[at + channel]);
            let product = ink * k + 128;
            // Never behind what is still to be read: pixel * 3 + channel <= pixel * 4 + channel.
            buffer[pixel * 3 + channel] =
                (k - ((product + (product >> 8)) >> 8)).clamp(0, 255) as u8;
        }
    }
    buffer.truncate(pixels * 3);
}

/// Width and height from the frame header; `None` where there is none, or one of a picture without pixels.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let frame = Segments::new(bytes)
        .take_while(|segment| !matches!(segment.marker, SOS | EOI))
        .find(|segment| is_frame_header(segment.marker))?;
    let side = |at: usize| {
        let bytes = frame.payload.get(at..at + 2)?;
        Some(u32::from(u16::from_be_bytes([bytes[0], bytes[1]]))).filter(|&side| side > 0)
    };
    Some((side(3)?, side(1)?))
}

/// The EXIF block, with its prefix.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    Segments::new(bytes)
        .take_while(|segment| !matches!(segment.marker, SOS | EOI))
        .find(|segment| segment.marker == APP1 && segment.payload.starts_with(b"Exif\0\0"))
        .map(|segment| segment.payload)
}

/// Whether the file goes on to the marker that ends the picture.
fn has_end(bytes: &[u8]) -> bool {
    Segments::new(bytes).any(|segment| segment.marker == EOI)
}

const SOF0: u8 = 0xc0;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const SOF15: u8 = 0xcf;
const RST0: u8 = 0xd0;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP1: u8 = 0xe1;
const TEM: u8 = 0x01;

/// Whether a marker begins a frame; three markers in the midst of those numbers mean other things.
fn is_frame_header(marker: u8) -> bool {
    matches!(marker, SOF0..=SOF15) && !matches!(marker, DHT | JPG | DAC)
}

/// A marker and what belongs to it. ITU-T T.81 (1992), annex B.
struct Segment<'a> {
    marker: u8,
    /// Without the two bytes of its length; empty for the markers that have none.
    payload: &'a [u8],
}

/// The segments of a file in their order. Between them it skips what is no marker, coded data included.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Segments { bytes, at: 0 }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            let rest = self.bytes.get(self.at..)?;
            self.at += rest.iter().position(|&byte| byte == 0xff)? + 1;
            // 0xff 0x00 is a coded 0xff, and 0xff may be repeated before a marker.
            match *self.bytes.get(self.at)? {
                0x00 | 0xff => continue,
                marker @ (TEM | RST0..=EOI) => {
                    self.at += 1;
                    let payload = &[];
                    return Some(Segment { marker, payload });
                }
                marker => {
                    let length = self.bytes.get(self.at + 1..self.at + 3)?;
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                    let payload = self.bytes.get(self.at + 3..self.at + 1 + length)?;
                    self.at += 1 + length;
                    return Some(Segment { marker, payload });
                }
            }
        }
    }
}

/// What the library has read in a header.
struct Layout {
    width: u32,
    height: u32,
    /// CMYK or YCCK.
    four_channels: bool,
}

/// A handle of the TurboJPEG library that decompresses.
struct Decompressor(NonNull<std::ffi::c_void>);

impl Decompressor {
    fn new() -> Result<Self, String> {
        // SAFETY: tj3Init takes any number for the kind of handle, and returns null where it cannot make one.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as c_int) };
        let mut decompressor = match NonNull::new(handle) {
            Some(handle) => Decompressor(handle),
            None => return Err("libjpeg-turbo has no memory for a decompressor".to_string()),
        };
        // The choices of Pillow are the library's defaults: accurate DCT, smooth upsampling, go on after warnings.
        decompressor.set(raw::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS)?;
        // Colour profiles are not used, and a damaged one shall not spoil the picture.
        decompressor.set(raw::TJPARAM_TJPARAM_SAVEMARKERS, 0)?;
        Ok(decompressor)
    }

    fn set(&mut self, parameter: raw::TJPARAM, value: c_int) -> Result<(), String> {
        // SAFETY: the handle is live until drop; unknown parameters and values are refused by the library.
        let code = unsafe { raw::tj3Set(self.0.as_ptr(), parameter as c_int, value) };
        self.check(code)
    }

    fn get(&self, parameter: raw::TJPARAM) -> c_int {
        // SAFETY: the handle is live until drop; it answers -1 to an unknown parameter.
        unsafe { raw::tj3Get(self.0.as_ptr(), parameter as c_int) }
    }

    /// Reads the header. After a harmless warning [`layout`](Self::layout) holds all the same.
    fn read_header(&mut self, bytes: &[u8]) -> Result<(), String> {
        // SAFETY: the handle is live, and the library reads `bytes.len()` bytes at most.
        let code = unsafe {
            raw::tj3DecompressHeader(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as raw::size_t)
        };
        self.check(code)
    }

    /// What the last header said.
    fn layout(&self) -> Layout {
        let colours = self.get(raw::TJPARAM_TJPARAM_COLORSPACE);
        Layout {
            width: u32::try_from(self.get(raw::TJPARAM_TJPARAM_JPEGWIDTH)).unwrap_or(0),
            height: u32::try_from(self.get(raw::TJPARAM_TJPARAM_JPEGHEIGHT)).unwrap_or(0),
            four_channels: colours == raw::TJCS_TJCS_CMYK as c_int
                || colours == raw::TJCS_TJCS_YCCK as c_int,
        }
    }

    /// Decompresses the picture whose header was read last into `output`, rows without gaps.
    ///
    /// After a harmless warning the pixels are there all the same.
    ///
    /// # Panics
    ///
    /// When `output` has not the size of that picture.
    fn decompress(
        &mut self,
        bytes: &[u8],
        output: &mut [u8],
        pixel_format: raw::TJPF,
    ) -> Result<(), String> {
        let layout = self.layout();
        let channels = if pixel_format == raw::TJPF_TJPF_CMYK {
            4
        } else {
            3
        };
        assert_eq!(
            output.len(),
            layout.width as usize * layout.height as usize * channels
        );
        // SAFETY: the handle is live, and the library reads `bytes.len()` bytes at most. It writes width x height
        // pixels without gaps (pitch 0) of three bytes, or of four in CMYK, which is the length of `output` if it finds
        // the width and height of the last header again; `decode` has passed the same bytes to both calls.
        let code = unsafe {
            raw::tj3Decompress8(
                self.0.as_ptr(),
                bytes.as_ptr(),
                bytes.len() as raw::size_t,
                output.as_mut_ptr(),
                0,
                pixel_format as c_int,
            )
        };
        self.check(code)
    }

    /// The text of the error, or of the first warning, of the last call.
    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the handle is live; the library returns a text that ends with a zero byte and lies in the handle or in
        // a variable of this thread, where it stays until the next call.
        let text = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.0.as_ptr())) };
        Err(text.to_string_lossy().into_owned())
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and nobody uses it after this.
        unsafe { raw::tj3Destroy(self.0.as_ptr()) };
    }
}

#[cfg(test)]
pub(super) mod tests;
