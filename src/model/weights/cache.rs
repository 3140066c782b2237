//! The folder of downloaded weights: each file is fetched once, verified, and published whole.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::download::{self, Arrived, Part};
use super::{Named, Patience, WeightsError};

/// A folder that holds published weights under their published names.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    patience: Patience,
}

/// A published file as a cache needs to know it.
#[derive(Debug, Clone)]
pub(super) struct Published {
    pub name: &'static str,
    pub file_name: &'static str,
    pub url: String,
    pub digest: Digest,
}

impl Published {
    fn of(named: Named, mirror: Option<&str>) -> Published {
        Published {
            name: named.name(),
            file_name: named.file_name(),
            url: named.url(mirror),
            digest: named.digest(),
        }
    }
}

impl Cache {
    /// A cache in this folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache {
            folder: folder.into(),
            patience: Patience::default(),
        }
    }

    /// The same cache with other limits on how long a download may take to show life.
    pub fn with_patience(self, patience: Patience) -> Cache {
        Cache { patience, ..self }
    }

    /// The user's cache folder for p8, from the values of `XDG_CACHE_HOME` and `HOME`.
    ///
    /// As the XDG Base Directory Specification says, a relative or empty path counts as unset.
    pub fn default_folder(
        xdg_cache_home: Option<OsString>,
        home: Option<OsString>,
    ) -> Option<PathBuf> {
        let absolute =
            |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
        absolute(xdg_cache_home)
            .or_else(|| absolute(home).map(|home| home.join(".cache")))
            .map(|cache| cache.join("p8"))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of these weights, if it is there, after checking its content.
    ///
    /// # Errors
    ///
    /// When the file is there but cannot be read or is not what it should be.
    pub fn find(&self, named: Named) -> Result<Option<PathBuf>, WeightsError> {
        self.find_published(&Published::of(named, None))
    }

    /// The file of these weights, downloaded if it is not there, from the mirror if there is one.
    ///
    /// The file appears under its name only when it is complete and its content is checked. A transfer
    /// that was cut leaves `<name>.part`, which the next call goes on with. Of several processes one
    /// downloads and the others wait for it. `arrived` hears of every piece.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or fails ([`WeightsError::is_network`] tells), when it
    /// has something else, or when the folder cannot be written.
    pub fn fetch(
        &self,
        named: Named,
        mirror: Option<&str>,
        arrived: Arrived,
    ) -> Result<PathBuf, WeightsError> {
        self.fetch_published(&Published::of(named, mirror), arrived)
    }

    fn find_published(&self, published: &Published) -> Result<Option<PathBuf>, WeightsError> {
        let path = self.folder.join(published.file_name);
        let found = match published.digest.of(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(WeightsError::Cache { path, source }),
        };
        if published.digest.matches(&found) {
            return Ok(Some(path));
        }
        Err(wrong_digest(
            published,
            path.display().to_string(),
            found,
            "; remove it to have it downloaded again",
        ))
    }

    pub(super) fn fetch_published(
        &self,
        published: &Published,
        arrived: Arrived,
    ) -> Result<PathBuf, WeightsError> {
        if let Some(path) = self.find_published(published)? {
            return Ok(path);
        }
        let path = self.folder.join(published.file_name);
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let lock = lock(&self.folder, published)?;
        // Whoever held the lock may have finished the file.
        if let Some(path) = self.find_published(published)? {
            return Ok(path);
        }
        let part = match &lock {
            Some(_) => Part::shared(&path),
            None => Part::private(&path),
        };
        download::download(&published.url, &part, self.patience, arrived)?;
        let found = published.digest.of(part.path()).map_err(at(part.path()))?;
        if !published.digest.matches(&found) {
            part.discard().map_err(at(part.path()))?;
            return Err(wrong_digest(published, published.url.clone(), found, ""));
        }
        part.publish(&path).map_err(at(&path))?;
        // The lock file stays: removing it would let a waiting process lock a file that is gone.
        drop(lock);
        Ok(path)
    }
}

/// Waits until this process alone may write the file; `None` where the file system has no locks.
fn lock(folder: &Path, published: &Published) -> Result<Option<File>, WeightsError> {
    let path = folder.join(format!("{}.lock", published.file_name));
    let file = File::create(&path).map_err(at(&path))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            tracing::info!(
                "waiting for another process that downloads {}",
                published.name
            );
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(source) => Err(WeightsError::Cache { path, source }),
    }
}

fn wrong_digest(
    published: &Published,
    place: String,
    found: String,
    advice: &'static str,
) -> WeightsError {
    WeightsError::WrongDigest {
        place,
        name: published.name,
        algorithm: published.digest.algorithm(),
        found,
        expected: published.digest.expected(),
        advice,
    }
}

/// Names the file in an error of the operating system.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> WeightsError {
    let path = path.to_path_buf();
    move |source| WeightsError::Cache { path, source }
}

#[cfg(test)]
mod tests;
