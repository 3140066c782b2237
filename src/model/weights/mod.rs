//! Pretrained weights: reading every file format into one [`StateDict`], and fetching the named ones.
//!
//! Whatever wrote the file, after [`read`] the names are torchvision's, convolutions are
//! `[out, in, height, width]` and values are `f32`. What cannot be told from the tensors but changes
//! the result (where a block strides, how pixels are prepared, epsilon) stands in the [`Origin`].
//!
//! Whether the tensors are those of a ResNet-50 is not judged here.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::resume_unwind;
use std::path::Path;

pub mod cache;
pub mod digest;
mod download;
mod elements;
mod error;
mod keras_h5;
mod keras_names;
pub mod named;
mod names;
mod pth;
mod safetensors;
mod signature;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use download::{Arrived, Patience};
pub use error::{ForeignError, WeightsError};
pub use named::{Named, three_ways};

/// A dense array of single-precision numbers, last axis contiguous.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first; `[out, in, height, width]` for a convolution.
    pub shape: Vec<usize>,
    /// The values; as many as the product of `shape`, and all finite.
    pub data: Vec<f32>,
}

impl Tensor {
    /// Position of the first value that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        // A chunk is looked at as a whole, which takes vectors of values at a time.
        const CHUNK: usize = 4096;
        let is_bad = |value: &f32| !value.is_finite();
        let has_bad = |chunk: &[f32]| chunk.iter().fold(false, |bad, value| bad | is_bad(value));
        let chunk = self.data.chunks(CHUNK).position(has_bad)?;
        let start = chunk * CHUNK;
        let within = self.data[start..].iter().position(is_bad)?;
        Some(start + within)
    }
}

/// All tensors of a weights file under torchvision's names, and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct StateDict {
    /// Tensors by name, such as `layer1.0.downsample.0.weight`. A tensor whose name belongs to no
    /// ResNet is kept under the name that it has in the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// Names of the tensors left out on purpose, as in the file and sorted: batch counters, the
    /// classifier, and whatever a checkpoint holds beside its weights.
    pub ignored: Vec<String>,
    /// The file and how its weights were trained.
    pub origin: Origin,
}

/// Where weights come from and what they expect of the network around them.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The name of named weights, else the name of the file.
    pub id: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// How the file was written.
    pub format: Format,
    /// Which framework's conventions the weights follow.
    pub family: Family,
    /// Where a downsampling block strides.
    pub topology: TrainedTopology,
    /// How pixels are turned into the input of the network.
    pub preprocess: TrainedPreprocess,
    /// What batch normalisation adds to the variance.
    pub batch_norm_epsilon: f64,
}

/// The format of a weights file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and raw tensors.
    Safetensors,
    /// A PyTorch checkpoint: a zip archive, or one of the older containers.
    Pytorch,
    /// Keras' older HDF5 layout, by layer name; also a whole model in it.
    KerasH5,
    /// The `.weights.h5` layout of Keras 3.
    KerasWeightsH5,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::Pytorch => "PyTorch checkpoint",
            Format::KerasH5 => "Keras HDF5",
            Format::KerasWeightsH5 => "Keras .weights.h5",
        })
    }
}

/// The framework whose conventions the weights follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Topology v1, `caffe` pixels, epsilon 1.001e-5, biases in the convolutions.
    Keras,
    /// Topology v1.5, `torchvision` pixels, epsilon 1e-5, no biases.
    Torchvision,
}

/// Where the first block of stages 2 to 4 strides in the network that was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedTopology {
    /// On the first 1x1 convolution (Caffe, Keras).
    V1,
    /// On the 3x3 convolution (torchvision, timm).
    V1_5,
}

/// How pixels were prepared for the network that was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedPreprocess {
    /// BGR, 0 to 255, channel means subtracted.
    Caffe,
    /// RGB, 0 to 1, normalised by channel means and deviations.
    Torchvision,
}

/// Reads a weights file of any supported format, told apart by content and not by name.
///
/// # Errors
///
/// When the file is missing, damaged or of no known format, holds something else than finite
/// floating-point numbers, or would have to run code.
pub fn read(path: &Path) -> Result<StateDict, WeightsError> {
    let format = signature::detect(path)?;
    // The checksum takes about as long as everything else here.
    let (sha256, contents) = std::thread::scope(|scope| {
        let sha256 = scope.spawn(|| digest::sha256_of(path));
        let contents = match format {
            signature::Container::Safetensors => safetensors::read(path),
            signature::Container::Pytorch => pth::read(path),
            signature::Container::Hdf5 => keras_h5::read(path),
        };
        let sha256 = sha256.join().unwrap_or_else(|panic| resume_unwind(panic));
        (sha256, contents)
    });
    let sha256 = sha256.map_err(|source| WeightsError::Open {
        path: path.to_path_buf(),
        source,
    })?;
    let contents = contents?;
    for (name, tensor) in &contents.tensors {
        if let Some(index) = tensor.first_not_finite() {
            return Err(WeightsError::NotFinite {
                path: path.to_path_buf(),
                tensor: name.clone(),
                index,
            });
        }
    }
    let id = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(StateDict {
        tensors: contents.tensors,
        ignored: contents.ignored,
        origin: Origin {
            id,
            sha256,
            format: contents.format,
            family: contents.family,
            topology: contents.trained.topology,
            preprocess: contents.trained.preprocess,
            batch_norm_epsilon: contents.trained.batch_norm_epsilon,
        },
    })
}

/// What a reader of one format makes of a file.
struct Contents {
    tensors: BTreeMap<String, Tensor>,
    ignored: Vec<String>,
    format: Format,
    family: Family,
    trained: Trained,
}

/// What weights expect of the network around them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trained {
    topology: TrainedTopology,
    preprocess: TrainedPreprocess,
    batch_norm_epsilon: f64,
}

impl Trained {
    /// What every published network of a family was trained with.
    fn of(family: Family) -> Trained {
        match family {
            Family::Keras => Trained {
                topology: TrainedTopology::V1,
                preprocess: TrainedPreprocess::Caffe,
                batch_norm_epsilon: 1.001e-5,
            },
            Family::Torchvision => Trained {
                topology: TrainedTopology::V1_5,
                preprocess: TrainedPreprocess::Torchvision,
                batch_norm_epsilon: 1e-5,
            },
        }
    }
}
