//! What can go wrong between a weights file and its tensors.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::error::{Classify, Kind};

/// An error of a foreign library as text, because its own text already tells its causes.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ForeignError(String);

impl ForeignError {
    /// Renders the foreign error.
    pub(super) fn new(error: impl std::fmt::Display) -> Self {
        ForeignError(error.to_string())
    }
}

/// Why weights could not be read or fetched.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file is missing or cannot be read.
    #[error("cannot read weights \"{}\"", path.display())]
    Open {
        /// The weights file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The content has the signature of no supported format.
    #[error(
        "\"{}\" is not a weights file: expected safetensors, a PyTorch checkpoint or Keras HDF5",
        path.display()
    )]
    Unrecognised {
        /// The file.
        path: PathBuf,
    },

    /// The file is a `.keras` archive, which wraps the weights in a model description.
    #[error(
        "\"{}\" is a .keras archive: save its weights with model.save_weights(\"x.weights.h5\")",
        path.display()
    )]
    KerasArchive {
        /// The file.
        path: PathBuf,
    },

    /// A container is damaged or of a kind that its reader does not know.
    #[error("cannot read weights \"{}\" as {container}", path.display())]
    Container {
        /// The weights file.
        path: PathBuf,
        /// What the file was taken for.
        container: &'static str,
        /// What the reader of the container said.
        source: ForeignError,
    },

    /// A PyTorch checkpoint holds an object that could only be rebuilt by running code.
    #[error(
        "refused weights \"{}\": the checkpoint would call {class}; store its state_dict alone",
        path.display()
    )]
    ForbiddenObject {
        /// The weights file.
        path: PathBuf,
        /// The Python class or function, such as `posix.system`.
        class: String,
    },

    /// One tensor of the file cannot be read.
    #[error("cannot read tensor \"{tensor}\" of \"{}\"", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor in the file.
        tensor: String,
        /// What its reader said.
        source: ForeignError,
    },

    /// A tensor does not hold floating-point numbers.
    #[error("tensor \"{tensor}\" of \"{}\" holds {found}, not floating-point numbers", path.display())]
    ElementType {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor in the file.
        tensor: String,
        /// Its element type.
        found: String,
    },

    /// A tensor holds an infinity or something that is no number.
    #[error("tensor \"{tensor}\" of \"{}\" is not finite at index {index}", path.display())]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Position of the first such value, counted in elements.
        index: usize,
    },

    /// Two tensors of the file have the same torchvision name.
    #[error("\"{}\" holds \"{tensor}\" twice, as \"{first}\" and as \"{second}\"", path.display())]
    Duplicate {
        /// The weights file.
        path: PathBuf,
        /// The torchvision name.
        tensor: String,
        /// One name in the file.
        first: String,
        /// The other name in the file.
        second: String,
    },

    /// A Keras file is not laid out as Keras does.
    #[error("unexpected Keras layout in \"{}\": {what}", path.display())]
    KerasLayout {
        /// The weights file.
        path: PathBuf,
        /// Which layer, and what about it.
        what: String,
    },

    /// A key of a safetensors header has a value that p8 does not know.
    #[error(
        "metadata of \"{}\" says {key} = \"{value}\": expected {expected}",
        path.display()
    )]
    Metadata {
        /// The weights file.
        path: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// Its value in the file.
        value: String,
        /// What it may be.
        expected: &'static str,
    },

    /// The cache folder cannot be used.
    #[error("cannot use the weights cache \"{}\"", path.display())]
    Cache {
        /// The file or folder in question.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The content is not that of the named weights.
    #[error("\"{place}\" is not {name}: its {algorithm} is {found}, expected {expected}{advice}")]
    WrongDigest {
        /// Path of the file, or the address that it came from.
        place: String,
        /// The named weights.
        name: &'static str,
        /// The digest's algorithm.
        algorithm: &'static str,
        /// The digest of the content.
        found: String,
        /// The digest of the named weights, or how it starts.
        expected: &'static str,
        /// What to do about it, after a semicolon; may be empty.
        advice: &'static str,
    },

    /// No connection to the server came about.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The address.
        url: String,
        /// What stopped the connection.
        source: ForeignError,
    },

    /// The server refused the request, and would again.
    #[error("cannot download {url}: the server answered {status}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },

    /// The transfer failed, was cut or stalled each time it was tried.
    #[error("cannot download {url} in {attempts} attempts")]
    Interrupted {
        /// The address.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// How the last attempt ended.
        source: ForeignError,
    },
}

impl WeightsError {
    /// Whether the network or the server is to blame, and neither the weights nor this machine: the
    /// one case in which a run that needs no particular weights may go on without.
    pub fn is_network(&self) -> bool {
        match self {
            WeightsError::Unreachable { .. } | WeightsError::Interrupted { .. } => true,
            WeightsError::Open { .. }
            | WeightsError::Unrecognised { .. }
            | WeightsError::KerasArchive { .. }
            | WeightsError::Container { .. }
            | WeightsError::ForbiddenObject { .. }
            | WeightsError::Tensor { .. }
            | WeightsError::ElementType { .. }
            | WeightsError::NotFinite { .. }
            | WeightsError::Duplicate { .. }
            | WeightsError::KerasLayout { .. }
            | WeightsError::Metadata { .. }
            | WeightsError::Cache { .. }
            | WeightsError::WrongDigest { .. }
            | WeightsError::Refused { .. } => false,
        }
    }
}

impl Classify for WeightsError {
    fn kind(&self) -> Kind {
        match self {
            WeightsError::Cache { .. } => Kind::Io,
            WeightsError::Open { .. }
            | WeightsError::Unrecognised { .. }
            | WeightsError::KerasArchive { .. }
            | WeightsError::Container { .. }
            | WeightsError::ForbiddenObject { .. }
            | WeightsError::Tensor { .. }
            | WeightsError::ElementType { .. }
            | WeightsError::NotFinite { .. }
            | WeightsError::Duplicate { .. }
            | WeightsError::KerasLayout { .. }
            | WeightsError::Metadata { .. }
            | WeightsError::WrongDigest { .. }
            | WeightsError::Unreachable { .. }
            | WeightsError::Refused { .. }
            | WeightsError::Interrupted { .. } => Kind::Weights,
        }
    }
}
