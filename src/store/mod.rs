//! Where bytes come from and go to: a [`Store`] has the same verbs for files and for objects of S3.

pub mod local;
mod location;
pub mod s3;
mod whole;

pub use location::Location;
pub use whole::{FinishedFile, WholeFile};

use crate::error::{Classify, Kind};
use bytes::Bytes;
use s3::{Cause, S3, S3Error, S3Settings, Traffic};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Files and objects. Clones share one client of the object store, which starts with the first object
/// that is asked for.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: S3Settings,
    s3: OnceLock<Result<S3, String>>,
}

impl Store {
    /// A store that reaches objects as the settings say.
    pub fn new(settings: S3Settings) -> Self {
        Store {
            shared: Arc::new(Shared {
                settings,
                s3: OnceLock::new(),
            }),
        }
    }

    /// The client of the object store.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn s3(&self) -> Result<&S3, StoreError> {
        self.shared
            .s3
            .get_or_init(|| S3::connect(&self.shared.settings).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|cause| StoreError::Client {
                cause: cause.clone(),
            })
    }

    /// What went to and came from the object store; `None` where it was not asked for anything.
    pub fn traffic(&self) -> Option<Traffic> {
        Some(self.shared.s3.get()?.as_ref().ok()?.traffic())
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, place: &Location) -> Result<Bytes, StoreError> {
        self.read_version(place, None)
    }

    /// All bytes of a file; of an object only where it still has this ETag.
    ///
    /// # Errors
    /// As [`Store::read`], and when the object has changed.
    pub fn read_version(&self, place: &Location, etag: Option<&str>) -> Result<Bytes, StoreError> {
        match place {
            Location::Local(path) => Ok(Bytes::from(local::read(path)?)),
            Location::S3(address) => Ok(self.s3()?.read(address, etag)?),
        }
    }

    /// All bytes of a file; `None` where there is none of this name.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_if_there(&self, place: &Location) -> Result<Option<Bytes>, StoreError> {
        match self.read(place) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a folder and those above it. Prefixes of objects need not be made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_folder(&self, place: &Location) -> Result<(), StoreError> {
        match place {
            Location::Local(path) => local::create_folder(path),
            Location::S3(_) => Ok(()),
        }
    }

    /// Begins a file that appears under its name when it is whole.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, place: &Location) -> Result<WholeFile, StoreError> {
        WholeFile::create(self, place)
    }

    /// Writes a whole file or none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_whole(&self, place: &Location, bytes: Bytes) -> Result<(), StoreError> {
        match place {
            Location::Local(path) => local::write_whole(path, &bytes),
            Location::S3(address) => Ok(self.s3()?.write(address, bytes)?),
        }
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, place: &Location) -> Result<(), StoreError> {
        match place {
            Location::Local(path) => local::remove(path),
            Location::S3(address) => Ok(self.s3()?.remove(address)?),
        }
    }

    /// Gives a file another name in the same store, replacing what had it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn rename(&self, from: &Location, to: &Location) -> Result<(), StoreError> {
        match (from, to) {
            (Location::Local(from), Location::Local(to)) => local::rename(from, to),
            (Location::S3(from), Location::S3(to)) => Ok(self.s3()?.rename(from, to)?),
            (from, to) => {
                let bytes = self.read(from)?;
                self.write_whole(to, bytes)?;
                self.remove(from)
            }
        }
    }

    /// Removes an empty folder; one that is not there is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_folder(&self, place: &Location) -> Result<(), StoreError> {
        match place {
            Location::Local(path) => local::remove_folder(path),
            Location::S3(_) => Ok(()),
        }
    }

    /// What is in a folder, sorted; nothing where the folder is not there. Of objects only those directly
    /// below the prefix.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn files(&self, folder: &Location) -> Result<Vec<Location>, StoreError> {
        match folder {
            Location::Local(path) => Ok(local::files(path)?
                .into_iter()
                .map(Location::Local)
                .collect()),
            Location::S3(address) => {
                let objects = self.s3()?.list_folder(address)?;
                Ok(objects
                    .into_iter()
                    .map(|object| Location::S3(object.address))
                    .collect())
            }
        }
    }

    /// Removes what a killed run left unfinished in a folder. There is nothing of that kind among objects.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_unfinished(&self, folder: &Location) -> Result<(), StoreError> {
        match folder {
            Location::Local(path) => local::remove_unfinished(path),
            Location::S3(_) => Ok(()),
        }
    }

    /// A file without a name, for what does not fit in memory: in the folder, or where this machine keeps
    /// temporary files when the folder is in an object store.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self, folder: &Location) -> Result<File, StoreError> {
        match folder {
            Location::Local(path) => local::scratch(path),
            Location::S3(_) => local::scratch(&std::env::temp_dir()),
        }
    }

    /// A file that can be opened by its path, for libraries that want one: the file itself, or a copy of
    /// the object that lives as long as the answer.
    ///
    /// # Errors
    /// When the object cannot be read, or the copy cannot be written.
    pub fn local_copy(&self, place: &Location) -> Result<LocalCopy, StoreError> {
        let address = match place {
            Location::Local(path) => {
                return Ok(LocalCopy {
                    path: path.clone(),
                    _folder: None,
                });
            }
            Location::S3(address) => address,
        };
        let bytes = self.s3()?.read(address, None)?;
        let folder = tempfile::tempdir().map_err(|source| StoreError::Write {
            path: std::env::temp_dir().join("a temporary folder"),
            source,
        })?;
        // The ending says what kind of file it is.
        let path = folder.path().join(match address.name() {
            "" => "object",
            name => name,
        });
        local::write_whole(&path, &bytes)?;
        Ok(LocalCopy {
            path,
            _folder: Some(folder),
        })
    }
}

/// A file that can be opened by its path.
pub struct LocalCopy {
    path: PathBuf,
    /// Removed with this value.
    _folder: Option<tempfile::TempDir>,
}

impl LocalCopy {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

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
    /// A request to an object store failed.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// The client of the object store could not be started.
    #[error("cannot start the client of the object store: {cause}")]
    Client {
        /// What the system said.
        cause: String,
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

impl StoreError {
    /// Whether what was asked for is not there.
    pub fn is_absence(&self) -> bool {
        match self {
            StoreError::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            StoreError::S3(error) => matches!(error.cause, Cause::NoSuchKey),
            _ => false,
        }
    }

    /// Whether one file is the reason, so that others may still be read: not the network, not the
    /// credentials.
    pub fn is_of_one_file(&self) -> bool {
        match self {
            StoreError::S3(error) => error.is_of_object(),
            StoreError::Client { .. } => false,
            _ => true,
        }
    }
}

impl Classify for StoreError {
    fn kind(&self) -> Kind {
        match self {
            StoreError::Read { .. }
            | StoreError::List { .. }
            | StoreError::Write { .. }
            | StoreError::Remove { .. }
            | StoreError::S3(_)
            | StoreError::Client { .. }
            | StoreError::CreateFolder { .. } => Kind::Io,
        }
    }
}
