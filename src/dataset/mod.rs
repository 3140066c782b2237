//! Which images there are, what they are called, and who works on which.

pub mod label;
pub mod list;
pub mod outcome;
pub mod slice;

use crate::error::{Classify, Kind};
use crate::store::StoreError;
use std::io;
use std::path::PathBuf;

/// Why there is no list of images.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// An input is not there.
    #[error("cannot find the input \"{}\" (--input names a folder or file with images)", input.display())]
    NotThere {
        /// As the user typed it.
        input: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An input is neither a folder nor a file.
    #[error("cannot use the input \"{}\": it is neither a folder nor a regular file", input.display())]
    NotAFile {
        /// As the user typed it.
        input: PathBuf,
    },
    /// A folder could not be read.
    #[error("cannot list the folder \"{}\"", folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An object store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The inputs hold no image.
    #[error("no image found in {inputs}: looked for {wanted} at any depth (--glob changes that)")]
    Empty {
        /// The inputs, quoted.
        inputs: String,
        /// What was looked for.
        wanted: String,
    },
    /// A glob pattern is malformed.
    #[error("cannot use the pattern \"{pattern}\" of --glob")]
    Pattern {
        /// As the user typed it.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// A label expression is malformed.
    #[error("cannot use \"{text}\" for --label: expected parent, none or regex:EXPR")]
    LabelForm {
        /// As the user typed it.
        text: String,
    },
    /// The expression after `regex:` is malformed.
    #[error("cannot use the expression \"{expression}\" of --label")]
    LabelExpression {
        /// As the user typed it.
        expression: String,
        /// What is wrong with it.
        source: regex::Error,
    },
}

impl Classify for DatasetError {
    fn kind(&self) -> Kind {
        match self {
            DatasetError::NotThere { .. }
            | DatasetError::NotAFile { .. }
            | DatasetError::Unreadable { .. }
            | DatasetError::Empty { .. } => Kind::Input,
            DatasetError::Store(error) => error.kind(),
            DatasetError::Pattern { .. }
            | DatasetError::LabelForm { .. }
            | DatasetError::LabelExpression { .. } => Kind::Usage,
        }
    }
}
