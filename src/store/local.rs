//! The local file system: whole files or none.

use super::StoreError;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Part of the name of a file that is not finished; a run removes what an earlier one left.
pub const UNFINISHED: &str = ".p8-unfinished";

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|source| StoreError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Opens a file to read parts of it.
pub fn open(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(|source| StoreError::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Makes a folder and those above it.
pub fn create_folder(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::CreateFolder {
        path: path.to_path_buf(),
        source,
    })
}

/// A file that is written aside and takes its final name when it is whole and on the disk.
///
/// Dropped before [`WholeFile::finish`] and [`FinishedFile::publish`], it leaves nothing behind.
pub struct WholeFile {
    writer: BufWriter<File>,
    aside: Aside,
}

/// A file that is whole and on the disk, still under its temporary name.
pub struct FinishedFile {
    aside: Aside,
}

/// The temporary name; removed on drop unless the file was published.
struct Aside {
    temporary: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.published {
            // A file that cannot be removed keeps its temporary name, and a next run removes it.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl WholeFile {
    /// Opens a temporary file beside `path`.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!("{UNFINISHED}-{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(|source| StoreError::Write {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(WholeFile {
            writer: BufWriter::with_capacity(1 << 20, file),
            aside: Aside {
                temporary,
                path: path.to_path_buf(),
                published: false,
            },
        })
    }

    /// Brings everything to the disk.
    pub fn finish(self) -> Result<FinishedFile, StoreError> {
        let WholeFile { writer, aside } = self;
        let flushed = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all());
        match flushed {
            Ok(()) => Ok(FinishedFile { aside }),
            Err(source) => Err(StoreError::Write {
                path: aside.path.clone(),
                source,
            }),
        }
    }
}

impl Write for WholeFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl FinishedFile {
    /// Gives the file its final name, replacing what was there.
    pub fn publish(mut self) -> Result<(), StoreError> {
        let path = self.aside.path.clone();
        let renamed = fs::rename(&self.aside.temporary, &path).and_then(|()| {
            self.aside.published = true;
            // The new name survives a power cut only once the folder is on the disk as well.
            File::open(parent_of(&path))?.sync_all()
        });
        renamed.map_err(|source| StoreError::Write { path, source })
    }
}

/// A file without a name, for what does not fit in memory; it is gone with its last handle.
pub fn scratch(folder: &Path) -> Result<File, StoreError> {
    tempfile::tempfile_in(folder).map_err(|source| StoreError::Write {
        path: folder.join("a temporary file"),
        source,
    })
}

/// Writes a whole file or none.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes).map_err(|source| StoreError::Write {
        path: path.to_path_buf(),
        source,
    })?;
    file.finish()?.publish()
}

/// Removes a file; one that is not there is fine.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| StoreError::Remove {
            path: path.to_path_buf(),
            source,
        }),
    }
}

/// Gives a file another name in the same file system, replacing what had it.
pub fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|source| StoreError::Write {
        path: to.to_path_buf(),
        source,
    })
}

/// Removes an empty folder; one that is not there is fine.
pub fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| StoreError::Remove {
            path: path.to_path_buf(),
            source,
        }),
    }
}

fn is_no_folder(error: io::ErrorKind) -> bool {
    matches!(
        error,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The paths in a folder, sorted; none where the folder is not there.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list_error = |source| StoreError::List {
        path: folder.to_path_buf(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_no_folder(error.kind()) => return Ok(Vec::new()),
        Err(error) => return Err(list_error(error)),
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, io::Error>>()
        .map_err(list_error)?;
    paths.sort();
    Ok(paths)
}

/// Removes what a killed run left unfinished in a folder; a folder that is not there is fine.
pub fn remove_unfinished(folder: &Path) -> Result<(), StoreError> {
    for path in files(folder)? {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().contains(UNFINISHED) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The folder a file stands in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_whole(&path, b"first").unwrap();
        write_whole(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_whole(&path, b"old").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        let finished = WholeFile::create(&path).unwrap().finish().unwrap();
        drop(finished);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(".block-000001.parquet.p8-unfinished-77"),
            "x",
        )
        .unwrap();
        fs::write(folder.path().join("block-000000.parquet"), "x").unwrap();
        remove_unfinished(folder.path()).unwrap();
        remove_unfinished(&folder.path().join("not there")).unwrap();
        assert_eq!(names(folder.path()), ["block-000000.parquet"]);
    }

    #[test]
    fn a_folder_that_is_a_file_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = create_folder(&file.join("below")).unwrap_err();
        assert!(crate::error::chain(&error).contains("below"));
        assert!(write_whole(&file.join("a"), b"x").is_err());
    }
}
