//! A file or object that appears under its name when it is whole, or never.

use super::{Location, Store, StoreError, local};
use crate::store::s3::Address;
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// A file that is being written.
///
/// Dropped before [`WholeFile::finish`] and [`FinishedFile::publish`], it leaves nothing behind.
pub struct WholeFile(Unfinished);

enum Unfinished {
    /// Beside its final name.
    Local(local::WholeFile),
    /// In a temporary file of this machine until it is published.
    Object(Store, Address, BufWriter<File>),
}

/// A file that is whole, not yet under its name.
pub struct FinishedFile(Finished);

enum Finished {
    Local(local::FinishedFile),
    Object(Store, Address, File),
}

impl WholeFile {
    pub(super) fn create(store: &Store, place: &Location) -> Result<Self, StoreError> {
        Ok(WholeFile(match place {
            Location::Local(path) => Unfinished::Local(local::WholeFile::create(path)?),
            Location::S3(address) => {
                let file = BufWriter::with_capacity(1 << 20, store.scratch(place)?);
                Unfinished::Object(store.clone(), address.clone(), file)
            }
        }))
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self) -> Result<FinishedFile, StoreError> {
        Ok(FinishedFile(match self.0 {
            Unfinished::Local(file) => Finished::Local(file.finish()?),
            Unfinished::Object(store, address, writer) => {
                let file = writer.into_inner().map_err(|error| StoreError::Write {
                    path: std::env::temp_dir().join("a temporary file"),
                    source: error.into_error(),
                })?;
                Finished::Object(store, address, file)
            }
        }))
    }
}

impl Write for WholeFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Unfinished::Local(file) => file.write(buf),
            Unfinished::Object(_, _, file) => file.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Unfinished::Local(file) => file.flush(),
            Unfinished::Object(_, _, file) => file.flush(),
        }
    }
}

impl FinishedFile {
    /// Gives the file its name, replacing what had it. An object is sent to the store here.
    ///
    /// # Errors
    /// When it cannot be renamed or sent.
    pub fn publish(self) -> Result<(), StoreError> {
        match self.0 {
            Finished::Local(file) => file.publish(),
            Finished::Object(store, address, file) => Ok(store.s3()?.write_file(&address, file)?),
        }
    }
}
