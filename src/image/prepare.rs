//! A picture of any size to the square that the network takes.

use serde::{Deserialize, Serialize};

use super::Rgb8;
use super::normalize::Normalization;
use super::resize::{Filter, Region, resize, resize_region};

/// Pixels along each side of the network's input.
pub const SIDE: u32 = 224;

/// Shorter side of the image that `torchvision` cuts its centre from.
const TORCHVISION_SHORT_SIDE: u32 = 256;

/// How a picture becomes the input of the network: the conventions of those who trained the weights.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Preprocess {
    /// Caffe's and Keras's: the whole picture squeezed to 224x224 (bicubic), BGR minus the mean colour.
    #[default]
    Caffe,
    /// torchvision's: shorter side to 256 (bilinear), the 224x224 in the middle, RGB standardised.
    Torchvision,
}

impl Preprocess {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Preprocess::Caffe => "caffe",
            Preprocess::Torchvision => "torchvision",
        }
    }

    /// What to do with the prepared pixels before the first layer.
    pub fn normalization(self) -> Normalization {
        match self {
            Preprocess::Caffe => Normalization::CAFFE,
            Preprocess::Torchvision => Normalization::TORCHVISION,
        }
    }
}

/// Brings an image to [`SIDE`] x [`SIDE`] pixels.
///
/// `caffe` gives the pixels of Pillow's `convert("RGB").resize((224, 224))`, `torchvision` those of
/// `Resize(256)` and `CenterCrop(224)` on a Pillow image.
///
/// # Panics
///
/// When the image has no pixels; [`decode`](super::decode()) never gives such a one.
pub fn prepare(image: &Rgb8, preprocess: Preprocess) -> Rgb8 {
    match preprocess {
        Preprocess::Caffe => resize(image, SIDE, SIDE, Filter::Bicubic),
        Preprocess::Torchvision => {
            let (width, height) = torchvision_size(image.width, image.height);
            let center = Region {
                left: center_offset(width),
                top: center_offset(height),
                width: SIDE,
                height: SIDE,
            };
            resize_region(image, width, height, center, Filter::Bilinear)
        }
    }
}

/// Width and height after `Resize(256)`: the longer side is rounded down.
///
/// A side beyond 32 bits, which takes a strip of a million by a few pixels, is held there: the strip would
/// show the same colours.
fn torchvision_size(width: u32, height: u32) -> (u32, u32) {
    let short = u64::from(width.min(height));
    let long = u64::from(width.max(height));
    let long = u64::from(TORCHVISION_SHORT_SIDE) * long / short;
    let long = u32::try_from(long).unwrap_or(u32::MAX);
    if width <= height {
        (TORCHVISION_SHORT_SIDE, long)
    } else {
        (long, TORCHVISION_SHORT_SIDE)
    }
}

/// Where `CenterCrop(224)` begins: Python's `round`, which takes a half to the even neighbour.
fn center_offset(side: u32) -> u32 {
    let margin = side - SIDE;
    let half = margin / 2;
    if margin % 2 == 1 && half % 2 == 1 {
        half + 1
    } else {
        half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_is_rounded_down() {
        // int(256 * long / short) in Python.
        assert_eq!(torchvision_size(400, 400), (256, 256));
        assert_eq!(torchvision_size(369, 324), (291, 256));
        assert_eq!(torchvision_size(199, 633), (256, 814));
        assert_eq!(torchvision_size(2000, 3), (170_666, 256));
    }

    #[test]
    fn the_crop_begins_where_python_rounds_to() {
        // round(0 / 2), round(1 / 2), ... in Python.
        let expected = [0, 0, 1, 2, 2, 2, 3, 4, 4];
        for (margin, &offset) in (0..).zip(&expected) {
            assert_eq!(center_offset(SIDE + margin), offset, "margin {margin}");
        }
    }

    #[test]
    fn both_conventions_give_a_square_for_every_shape() {
        for (width, height) in [(1, 1), (1, 5), (2000, 3), (3, 2000), (224, 224), (257, 256)] {
            let image = Rgb8 {
                width,
                height,
                pixels: [200, 100, 50].repeat((width * height) as usize),
            };
            for preprocess in [Preprocess::Caffe, Preprocess::Torchvision] {
                let square = prepare(&image, preprocess);
                assert_eq!((square.width, square.height), (SIDE, SIDE));
                assert_eq!(
                    square.pixels,
                    [200, 100, 50].repeat((SIDE * SIDE) as usize),
                    "{width}x{height} {preprocess:?}"
                );
            }
        }
    }

    #[test]
    fn a_strip_of_a_million_pixels_takes_no_memory_of_that_order() {
        let image = Rgb8 {
            width: 1 << 20,
            height: 1,
            pixels: vec![9; 3 << 20],
        };
        for preprocess in [Preprocess::Caffe, Preprocess::Torchvision] {
            assert!(prepare(&image, preprocess).pixels.iter().all(|&p| p == 9));
        }
    }

    #[test]
    fn torchvision_shows_the_middle() {
        // Left third red, middle third green, right third blue; the crop sees the middle of the strip.
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let image = Rgb8 {
            width: 900,
            height: 256,
            pixels: (0..900 * 256)
                .flat_map(|i| colours[i % 900 / 300])
                .collect(),
        };
        let square = prepare(&image, Preprocess::Torchvision);
        assert_eq!(square.pixels, [0, 255, 0].repeat((SIDE * SIDE) as usize));
    }
}
