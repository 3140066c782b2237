//! The line between the pipeline and whatever computes the network.

use crate::error::{Classify, Kind};
use crate::image::Normalization;
use crate::kernels::Isa;
use crate::model::Precision;
use crate::model::architecture::ArchitectureError;

/// Turns prepared images into feature vectors.
pub trait Executor: Send {
    /// What computes, for the log: backend, device, threads.
    fn describe(&self) -> String;

    /// What decides the bits of a feature beside weights and settings: implementation, precision
    /// and instruction set. Features of another arithmetic are not mixed with these.
    fn arithmetic(&self) -> String;

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
    /// The processor cannot run the kernels that were asked for.
    #[error("cannot compute in {precision} with {isa}: this processor does not have it")]
    InstructionSet {
        /// The instruction set.
        isa: Isa,
        /// What it was to compute in.
        precision: Precision,
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
            ExecuteError::InstructionSet { .. } => Kind::Usage,
            ExecuteError::Threads { .. } | ExecuteError::ImageSize { .. } => Kind::Internal,
            ExecuteError::NotFinite { .. } => Kind::Numerical,
        }
    }
}

/// What the network wants to see of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputSpec {
    /// Height and width in pixels.
    pub side: usize,
    /// From pixels to numbers.
    pub normalization: Normalization,
}

impl InputSpec {
    /// Bytes of one image.
    pub fn bytes(&self) -> usize {
        self.side * self.side * 3
    }

    /// Holds the images of a batch against the size.
    ///
    /// # Errors
    ///
    /// [`ExecuteError::ImageSize`] for the first of another size.
    pub fn check(&self, images: &[&[u8]]) -> Result<(), ExecuteError> {
        let expected = self.bytes();
        match images.iter().position(|pixels| pixels.len() != expected) {
            Some(image) => Err(ExecuteError::ImageSize {
                image,
                expected,
                found: images[image].len(),
            }),
            None => Ok(()),
        }
    }
}

/// The feature vectors of a batch, each of `width` values, when all are numbers.
///
/// # Errors
///
/// [`ExecuteError::NotFinite`] for the first image with NaN or infinite features.
pub fn all_finite(features: Vec<f32>, width: usize) -> Result<Vec<f32>, ExecuteError> {
    let is_bad = |row: &[f32]| row.iter().any(|value| !value.is_finite());
    match features.chunks_exact(width).position(is_bad) {
        Some(image) => Err(ExecuteError::NotFinite { image }),
        None => Ok(features),
    }
}

#[cfg(test)]
impl InputSpec {
    /// Caffe's and Keras' convention for ResNet-50.
    pub(super) const CAFFE: InputSpec = InputSpec {
        side: 224,
        normalization: Normalization::CAFFE,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

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
