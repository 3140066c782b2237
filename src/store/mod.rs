//! Where bytes come from and go to.

pub mod local;

use crate::error::{Classify, Kind};
use std::io;
use std::path::PathBuf;

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read.
    #[error("cannot read \"{}\"", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder could not be listed.
    #[error("cannot list \"{}\"", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written; nothing was left under its final name.
    #[error("cannot write \"{}\"", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove \"{}\"", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder could not be made.
    #[error("cannot create the folder \"{}\"", path.display())]
    CreateFolder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Classify for StoreError {
    fn kind(&self) -> Kind {
        match self {
            StoreError::Read { .. }
            | StoreError::List { .. }
            | StoreError::Write { .. }
            | StoreError::Remove { .. }
            | StoreError::CreateFolder { .. } => Kind::Io,
        }
    }
}
