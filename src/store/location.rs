//! Where a file is: on this machine or in an object store.

use super::s3::Address;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// A file or folder, or an object or prefix of objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Location {
    /// In a file system of this machine.
    Local(PathBuf),
    /// In S3.
    S3(Address),
}

impl Location {
    /// The file of this name in this folder.
    pub fn join(&self, name: &str) -> Self {
        match self {
            Location::Local(path) => Location::Local(path.join(name)),
            Location::S3(address) => Location::S3(address.join(name)),
        }
    }

    /// The last part, where it is text.
    pub fn name(&self) -> Option<&str> {
        match self {
            Location::Local(path) => path.file_name()?.to_str(),
            Location::S3(address) => Some(address.name()).filter(|name| !name.is_empty()),
        }
    }

    /// The path in the file system; `None` for an object.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Location::Local(path) => Some(path),
            Location::S3(_) => None,
        }
    }

    /// What kind of place this is, for a sentence.
    pub fn noun(&self) -> &'static str {
        match self {
            Location::Local(_) => "folder",
            Location::S3(_) => "prefix",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Local(path) => write!(f, "{}", path.display()),
            Location::S3(address) => write!(f, "{address}"),
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Location::Local(path)
    }
}
