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
pub(super) mod tests {
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
            .flat_map(|p| {
                [0, 1, 2].map(|c| (f64::from(p[c]) * f64::from(p[3]) / 255.0).round() as u8)
            })
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
}
