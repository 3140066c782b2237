//! Which way up a photograph is: the orientation tag of EXIF.

use ::image::metadata::Orientation;
use ::image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use super::Rgb8;

/// What to do with the orientation that a camera has written into its file.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Turn the picture upright. The default, and what every viewer shows.
    #[default]
    Apply,
    /// Take the pixels as they lie in the file, as Pillow and Keras do unless told otherwise.
    Ignore,
}

impl Exif {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Exif::Apply => "apply",
            Exif::Ignore => "ignore",
        }
    }
}

/// Reads the orientation out of an EXIF block, with or without the `Exif\0\0` that JPEG, and some
/// writers of WebP, put before it. A block that cannot be read orients nothing, as in viewers.
pub(super) fn orientation(block: &[u8]) -> Orientation {
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    Orientation::from_exif_chunk(tiff).unwrap_or(Orientation::NoTransforms)
}

/// Turns the picture the way that the orientation says.
pub(super) fn upright(image: Rgb8, orientation: Orientation) -> Rgb8 {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let rgb = RgbImage::from_raw(image.width, image.height, image.pixels)
        .expect("an Rgb8 holds three bytes for each of its pixels");
    let mut turned = DynamicImage::ImageRgb8(rgb);
    turned.apply_orientation(orientation);
    let turned = turned.into_rgb8();
    Rgb8 {
        width: turned.width(),
        height: turned.height(),
        pixels: turned.into_raw(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An EXIF block with nothing but an orientation, little endian.
    pub(crate) fn block(orientation: u8) -> Vec<u8> {
        let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        block.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
        block
    }

    /// Where the pixel of a 3x2 picture `a b c / d e f` lies after turning, row by row.
    fn turned(exif: u8) -> (u32, u32, String) {
        let image = Rgb8 {
            width: 3,
            height: 2,
            pixels: b"abcdef".iter().flat_map(|&c| [c; 3]).collect(),
        };
        let image = upright(image, orientation(&block(exif)));
        let letters = image.pixels.chunks(3).map(|p| p[0] as char).collect();
        (image.width, image.height, letters)
    }

    #[test]
    fn every_orientation_turns_as_the_standard_draws_it() {
        // Exif 2.32, tag 0x0112: where row 0 and column 0 of the stored picture are seen.
        let expected = [
            (1, 3, 2, "abcdef"),
            (2, 3, 2, "cbafed"),
            (3, 3, 2, "fedcba"),
            (4, 3, 2, "defabc"),
            (5, 2, 3, "adbecf"),
            (6, 2, 3, "daebfc"),
            (7, 2, 3, "fcebda"),
            (8, 2, 3, "cfbead"),
        ];
        for (exif, width, height, letters) in expected {
            assert_eq!(
                turned(exif),
                (width, height, letters.to_string()),
                "orientation {exif}"
            );
        }
    }

    #[test]
    fn orientations_that_do_not_exist_turn_nothing() {
        for exif in [0, 9, 255] {
            assert_eq!(turned(exif), (3, 2, "abcdef".to_string()));
        }
        assert_eq!(orientation(b"Exif\0\0II*\0"), Orientation::NoTransforms);
        assert_eq!(orientation(b""), Orientation::NoTransforms);
    }

    #[test]
    fn the_prefix_of_jpeg_is_skipped() {
        let mut prefixed = b"Exif\0\0".to_vec();
        prefixed.extend_from_slice(&block(6));
        assert_eq!(orientation(&prefixed), Orientation::Rotate90);
    }
}
