//! Small JPEG pictures for the report.

use super::prepare::Preprocess;
use super::resize::{Filter, resize};
use super::{Rgb8, jpeg};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// The longer side of a thumbnail, in pixels.
pub const THUMBNAIL_SIDE: u32 = 128;

/// The shorter side is not below this, however narrow the picture.
const SHORTEST_SIDE: u32 = 16;

/// Some 3 kB a thumbnail of a photograph.
const QUALITY: i32 = 78;

/// A picture of the pixels that the network sees, in the shape of the image they come from, as JPEG.
///
/// `prepared` are the pixels of [`prepare`](super::prepare()), `width` and `height` the size of the
/// upright image. `caffe` squeezes an image into a square, which is undone here; of an image that
/// `torchvision` cuts the thumbnail is the square in the middle.
///
/// # Errors
///
/// The words of the encoder, which refuses when memory is short.
pub fn thumbnail(
    prepared: &Rgb8,
    preprocess: Preprocess,
    width: u32,
    height: u32,
) -> Result<Vec<u8>, String> {
    let (width, height) = match preprocess {
        Preprocess::Caffe => fitted(width, height),
        Preprocess::Torchvision => (THUMBNAIL_SIDE, THUMBNAIL_SIDE),
    };
    encode_jpeg(&resize(prepared, width, height, Filter::Bicubic), QUALITY)
}

/// Width and height with the longer side at [`THUMBNAIL_SIDE`].
fn fitted(width: u32, height: u32) -> (u32, u32) {
    let long = f64::from(width.max(height).max(1));
    let side = |side: u32| {
        let scaled = f64::from(side) / long * f64::from(THUMBNAIL_SIDE);
        (scaled.round() as u32).max(SHORTEST_SIDE)
    };
    (side(width), side(height))
}

/// Encodes a picture as JPEG with halved chroma. Equal pixels give equal bytes on every processor.
///
/// `quality` is libjpeg's, from 1 to 100.
///
/// # Errors
///
/// The words of the encoder: a side above 65535 pixels, or memory that is short.
pub fn encode_jpeg(image: &Rgb8, quality: i32) -> Result<Vec<u8>, String> {
    let encode = || {
        let mut compressor = Compressor::new()?;
        compressor.set_quality(quality)?;
        compressor.set_subsamp(Subsamp::Sub2x2)?;
        // Huffman tables of its own make a small picture a tenth smaller.
        compressor.set_optimize(true)?;
        compressor.compress_to_vec(Image {
            pixels: image.pixels.as_slice(),
            width: image.width as usize,
            pitch: 3 * image.width as usize,
            height: image.height as usize,
            format: PixelFormat::RGB,
        })
    };
    encode().map_err(|error: turbojpeg::Error| error.to_string())
}

/// The pixels of a thumbnail; `None` where it is no JPEG or far too large to be one of p8's.
pub fn decode_thumbnail(jpeg: &[u8]) -> Option<Rgb8> {
    let limits = super::Limits {
        max_pixels: 1 << 20,
        max_side: 1 << 12,
    };
    let (width, height, pixels) = jpeg::decode(jpeg, &limits).ok()?;
    Some(Rgb8 {
        width,
        height,
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::SIDE;

    /// Red above, blue below, a green stripe on the left.
    fn flag() -> Rgb8 {
        let pixels = (0..SIDE * SIDE)
            .flat_map(|i| match (i % SIDE < SIDE / 4, i / SIDE < SIDE / 2) {
                (true, _) => [0, 160, 0],
                (false, true) => [220, 0, 0],
                (false, false) => [0, 0, 220],
            })
            .collect();
        Rgb8 {
            width: SIDE,
            height: SIDE,
            pixels,
        }
    }

    fn at(image: &Rgb8, x: u32, y: u32) -> [u8; 3] {
        let start = 3 * (y * image.width + x) as usize;
        image.pixels[start..start + 3].try_into().unwrap()
    }

    #[test]
    fn a_thumbnail_has_the_shape_of_the_image_and_shows_all_of_it() {
        for (width, height, expected) in [
            (640, 480, (128, 96)),
            (480, 640, (96, 128)),
            (1, 1, (128, 128)),
            (2000, 3, (128, 16)),
        ] {
            let jpeg = thumbnail(&flag(), Preprocess::Caffe, width, height).unwrap();
            let seen = decode_thumbnail(&jpeg).unwrap();
            assert_eq!((seen.width, seen.height), expected);
            let (right, bottom) = (seen.width - 3, seen.height - 3);
            for (x, y, channel) in [(2, 2, 1), (2, bottom, 1), (right, 2, 0), (right, bottom, 2)] {
                let pixel = at(&seen, x, y);
                let brightest = (0..3).max_by_key(|&c| pixel[c]).unwrap();
                assert_eq!(brightest, channel, "{width}x{height} at {x},{y}: {pixel:?}");
            }
        }
    }

    #[test]
    fn what_torchvision_cuts_is_a_square() {
        let jpeg = thumbnail(&flag(), Preprocess::Torchvision, 640, 480).unwrap();
        let seen = decode_thumbnail(&jpeg).unwrap();
        assert_eq!((seen.width, seen.height), (THUMBNAIL_SIDE, THUMBNAIL_SIDE));
        assert_eq!(
            jpeg,
            thumbnail(&flag(), Preprocess::Torchvision, 5, 5).unwrap()
        );
    }

    #[test]
    fn what_is_no_thumbnail_is_none() {
        assert_eq!(decode_thumbnail(b"no picture"), None);
        assert_eq!(decode_thumbnail(b""), None);
    }

    #[test]
    fn a_lower_quality_takes_fewer_bytes() {
        let noise = Rgb8 {
            width: 64,
            height: 64,
            pixels: (0..3 * 64 * 64u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        };
        let sizes = [90, 60, 30].map(|quality| encode_jpeg(&noise, quality).unwrap().len());
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
    }
}
