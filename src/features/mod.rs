//! Feature vectors that stand in files: p8's shards, Parquet of any origin, NumPy arrays.
//!
//! [`Catalog::open`] looks at the heads of the files and says how many rows there are and how they
//! are cut into blocks; [`Reader`] reads one block after the other. Neither holds more than a block
//! and what the format needs to decode it.

mod catalog;
mod npy;
mod parquet;

#[cfg(test)]
mod tests;

pub use catalog::{Catalog, Reader};

use crate::error::{Classify, Kind};
use crate::output::shard::{ShardError, ShardRow};
use crate::pca::Block;
use std::io;
use std::path::PathBuf;

/// Some rows with their names.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedRows {
    /// Place, path and label of each row.
    pub names: Vec<ShardRow>,
    /// Their feature vectors, `[rows, width]`: in single precision where all files hold that.
    pub features: Block,
}

/// Why stored feature vectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FeaturesError {
    /// A file or folder could not be read.
    #[error("cannot read \"{}\"", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was named is not there.
    #[error("cannot find the features \"{}\"", path.display())]
    NotThere {
        /// As the user typed it.
        path: PathBuf,
    },
    /// A folder holds no file of a known form.
    #[error("cannot find features in \"{}\": it holds no .parquet and no .npy file", path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// A file of another form.
    #[error("cannot use \"{}\": it is neither a Parquet file nor a NumPy array", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// The Parquet library refused a file.
    #[error("cannot read \"{}\"", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shard of p8 is damaged.
    #[error("cannot use \"{}\"", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ShardError,
    },
    /// A Parquet file does not have the column.
    #[error("cannot use \"{}\": {problem}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Which column is missing or which ones there are.
        problem: String,
    },
    /// A NumPy file that is damaged, or of another type or shape.
    #[error("cannot use \"{}\": {problem}", path.display())]
    Numpy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A row without values.
    #[error("cannot use row {row} of \"{}\": it holds a null", path.display())]
    Null {
        /// The file.
        path: PathBuf,
        /// The row in the file.
        row: usize,
    },
    /// A row of another length than the first.
    #[error(
        "cannot use row {row} of \"{}\": it has {found} features, the first row of all has {expected}",
        path.display()
    )]
    Width {
        /// The file.
        path: PathBuf,
        /// The row in the file.
        row: usize,
        /// Features that it has.
        found: usize,
        /// Features that it should have.
        expected: usize,
    },
    /// Shards of different runs.
    #[error(
        "cannot use \"{}\" beside \"{}\": their features were computed with other settings",
        path.display(),
        other.display()
    )]
    Mixed {
        /// The shard that does not fit.
        path: PathBuf,
        /// The first one.
        other: PathBuf,
    },
}

impl Classify for FeaturesError {
    fn kind(&self) -> Kind {
        match self {
            FeaturesError::Read { .. }
            | FeaturesError::Parquet { .. }
            | FeaturesError::Shard { .. } => Kind::Io,
            FeaturesError::NotThere { .. }
            | FeaturesError::Nothing { .. }
            | FeaturesError::Form { .. }
            | FeaturesError::Column { .. }
            | FeaturesError::Numpy { .. }
            | FeaturesError::Null { .. }
            | FeaturesError::Width { .. }
            | FeaturesError::Mixed { .. } => Kind::Input,
        }
    }
}
