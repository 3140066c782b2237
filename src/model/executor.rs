//! The line between the pipeline and whatever computes the network.

use crate::error::{Classify, Kind};
use crate::model::architecture::ArchitectureError;

/// Turns prepared images into feature vectors.
pub trait Executor: Send {
    /// What computes, for the log: backend, device, threads.
    fn describe(&self) -> String;

    /// Length of one feature vector.
    fn width(&self) -> usize;

    /// Feature vectors of a batch: `images.len() * width()` values, in the order of the images.
    ///
    /// Each image is `side * side * 3` bytes, RGB by pixel, row by row, with the side fixed when
    /// the executor was made. The values of an image do not depend on the rest of the batch nor on
    /// the number of threads.
    ///
    /// # Errors
    ///
    /// An image of another size, or features that are not finite.
    fn features(&mut self, images: &[&[u8]]) -> Result<Vec<f32>, ExecuteError>;
}

/// An executor cannot be made, or cannot compute.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The weights are not those of the network.
    #[error("cannot load the weights into the network")]
    Weights(#[from] ArchitectureError),
    /// The system gave no threads.
    #[error("cannot start {threads} threads for the network")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's answer.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// An image has not the size that the executor was made for.
    #[error("image {image} of a batch has {found} bytes instead of {expected}")]
    ImageSize {
        /// Position in the batch.
        image: usize,
        /// Bytes of an image of the right size.
        expected: usize,
        /// Bytes of this one.
        found: usize,
    },
    /// The network overflowed, which only weights of absurd size bring about.
    #[error("the network gives NaN or infinite features for image {image} of a batch")]
    NotFinite {
        /// Position in the batch.
        image: usize,
    },
}

impl Classify for ExecuteError {
    fn kind(&self) -> Kind {
        match self {
            ExecuteError::Weights(error) => error.kind(),
            ExecuteError::Threads { .. } | ExecuteError::ImageSize { .. } => Kind::Internal,
            ExecuteError::NotFinite { .. } => Kind::Numerical,
        }
    }
}

/// What the network wants to see of an image: `(pixel * scale - mean) / std` in float32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputSpec {
    /// Height and width in pixels.
    pub side: usize,
    /// Whether blue comes first.
    pub bgr: bool,
    /// Multiplies the pixel, which is 0 to 255.
    pub scale: f32,
    /// Subtracted after scaling, in the order of the network's channels: blue first with `bgr`.
    pub mean: [f32; 3],
    /// Divides last, in the same order.
    pub std: [f32; 3],
}

impl InputSpec {
    /// Bytes of one image.
    pub fn bytes(&self) -> usize {
        self.side * self.side * 3
    }

    /// The network's input, channel by channel, from RGB pixels row by row.
    pub fn prepare(&self, pixels: &[u8]) -> Vec<f32> {
        let mut planes = Vec::with_capacity(pixels.len());
        for channel in 0..3 {
            let colour = if self.bgr { 2 - channel } else { channel };
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let plane = pixels.iter().skip(colour).step_by(3);
            planes.extend(plane.map(|&pixel| (f32::from(pixel) * self.scale - mean) / std));
        }
        planes
    }
}

#[cfg(test)]
impl InputSpec {
    /// Caffe's and Keras' convention for ResNet-50.
    pub(super) const CAFFE: InputSpec = InputSpec {
        side: 224,
        bgr: true,
        scale: 1.0,
        mean: [103.939, 116.779, 123.68],
        std: [1.0; 3],
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caffe_input_is_pixel_minus_mean_in_every_bit_and_blue_first() {
        for value in 0..=u8::MAX {
            let planes = InputSpec {
                side: 1,
                ..InputSpec::CAFFE
            }
            .prepare(&[value, 7, 200]);
            let expected = [
                200.0f32 - 103.939,
                7.0f32 - 116.779,
                f32::from(value) - 123.68,
            ];
            assert_eq!(planes.as_slice(), expected);
        }
    }

    #[test]
    fn pixels_become_planes() {
        let input = InputSpec {
            side: 2,
            bgr: false,
            scale: 0.5,
            mean: [0.0, 1.0, 2.0],
            std: [1.0, 2.0, 4.0],
        };
        let planes = input.prepare(&[0, 2, 4, 10, 12, 14, 20, 22, 24, 30, 32, 34]);
        let expected = [
            0.0, 5.0, 10.0, 15.0, 0.0, 2.5, 5.0, 7.5, 0.0, 1.25, 2.5, 3.75,
        ];
        assert_eq!(planes, expected);
    }

    #[test]
    fn each_cause_has_its_kind() {
        let names = vec!["conv1.weight".to_owned()];
        let weights = ExecuteError::from(ArchitectureError::NotFinite { names });
        assert_eq!(weights.kind(), Kind::Weights);
        assert_eq!(
            crate::error::chain(&weights),
            "cannot load the weights into the network: \
             weights hold NaN or infinite values in conv1.weight"
        );
        assert_eq!(ExecuteError::NotFinite { image: 0 }.kind(), Kind::Numerical);
    }
}
