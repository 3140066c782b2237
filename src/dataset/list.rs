//! The images under the inputs, sorted by key.

use super::DatasetError;
use crate::store::s3::Object;
use crate::store::{Location, Store, StoreError};
use bytes::Bytes;
use globset::{Glob, GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use walkdir::WalkDir;

/// One listed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the image is called in every result: the path or address as the user would type it. Bytes
    /// that are not UTF-8 are replaced here, and only here.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    source: Source,
}

/// Where the bytes are, and what tells them from any others of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Source {
    File {
        /// The path to open, byte for byte.
        path: Vec<u8>,
        /// Time of the last change in nanoseconds since 1970.
        modified: i128,
    },
    Object {
        place: Location,
        etag: String,
        /// Time of the last change in seconds since 1970.
        modified: i64,
    },
}

impl Source {
    fn is_of_same_file(&self, other: &Source) -> bool {
        match (self, other) {
            (Source::File { path: a, .. }, Source::File { path: b, .. }) => a == b,
            (Source::Object { place: a, .. }, Source::Object { place: b, .. }) => a == b,
            _ => false,
        }
    }
}

impl Entry {
    /// Reads the file; an object only where it is still the one that was listed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, store: &Store) -> Result<Bytes, StoreError> {
        match &self.source {
            Source::File { path, .. } => store.read(&Location::Local(path_of(path).into())),
            Source::Object { place, etag, .. } => store.read_version(place, Some(etag)),
        }
    }

    /// Whether it has to be fetched from an object store.
    pub fn is_remote(&self) -> bool {
        matches!(self.source, Source::Object { .. })
    }

    /// What tells whether a file is still the one that was featurized: name, size, and the time of the
    /// last change or, of an object, the ETag where the store has one.
    pub fn identity(&self) -> String {
        match &self.source {
            Source::File { path, modified } => {
                format!("{} {modified} {:?}", self.bytes, path_of(path))
            }
            Source::Object {
                place,
                etag,
                modified,
            } => match etag.as_str() {
                "" => format!("{} {modified} {place}", self.bytes),
                etag => format!("{} {etag} {place}", self.bytes),
            },
        }
    }

    fn object(object: Object) -> Self {
        Entry {
            key: object.address.to_string(),
            bytes: object.bytes,
            source: Source::Object {
                place: Location::S3(object.address),
                etag: object.etag,
                modified: object.modified,
            },
        }
    }

    fn file(path: PathBuf, metadata: &Metadata) -> Self {
        let modified =
            metadata
                .modified()
                .map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
                    Ok(after) => after.as_nanos() as i128,
                    Err(before) => -(before.duration().as_nanos() as i128),
                });
        Entry {
            key: path.to_string_lossy().into_owned(),
            bytes: metadata.len(),
            source: Source::File {
                path: OsString::from(path).into_vec(),
                modified,
            },
        }
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Which files count as images.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Those with one of these extensions, in any case.
    Extensions(&'static [&'static str]),
    /// Those whose name, or whose path below the input where the pattern has a slash, matches.
    Pattern(GlobMatcher),
}

impl Filter {
    /// A filter from the text of `--glob`.
    pub fn pattern(text: &str) -> Result<Self, DatasetError> {
        let glob: Glob = GlobBuilder::new(text)
            .literal_separator(true)
            .build()
            .map_err(|source| DatasetError::Pattern {
                pattern: text.to_string(),
                source,
            })?;
        Ok(Filter::Pattern(glob.compile_matcher()))
    }

    fn accepts(&self, below_input: &Path) -> bool {
        match self {
            Filter::Extensions(extensions) => below_input
                .extension()
                .and_then(OsStr::to_str)
                .is_some_and(|e| extensions.iter().any(|known| known.eq_ignore_ascii_case(e))),
            Filter::Pattern(matcher) if matcher.glob().glob().contains('/') => {
                matcher.is_match(below_input)
            }
            Filter::Pattern(matcher) => below_input
                .file_name()
                .is_some_and(|name| matcher.is_match(Path::new(name))),
        }
    }

    fn describe(&self) -> String {
        match self {
            Filter::Extensions(extensions) => {
                format!("files ending in .{}", extensions.join(", ."))
            }
            Filter::Pattern(matcher) => format!("files that match \"{}\"", matcher.glob().glob()),
        }
    }
}

/// Lists the images under all inputs: folders and prefixes are searched with all that is below them,
/// links are followed, names that begin with a dot are left out, and a file that is named itself is
/// taken without looking at the filter. The list is sorted by key (bytewise) and names no file twice.
///
/// # Errors
/// When an input is not there, a folder cannot be read, or nothing is found.
pub fn list(
    store: &Store,
    inputs: &[Location],
    filter: &Filter,
) -> Result<Vec<Entry>, DatasetError> {
    let mut entries = Vec::new();
    for input in inputs {
        match input {
            Location::Local(path) => list_folder(path, filter, &mut entries)?,
            Location::S3(prefix) => {
                let objects = store.s3()?.list(prefix).map_err(StoreError::from)?;
                let below = prefix.as_folder();
                let wanted = objects.into_iter().filter(|object| {
                    let key = &object.address.key;
                    match key.strip_prefix(&below) {
                        Some(name) => accepts_key(filter, name),
                        None => *key == prefix.key,
                    }
                });
                entries.extend(wanted.map(Entry::object));
            }
        }
    }
    entries.sort_by(|a, b| (&a.key, &a.source).cmp(&(&b.key, &b.source)));
    entries.dedup_by(|a, b| a.source.is_of_same_file(&b.source));
    if entries.is_empty() {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|i| format!("{:?}", i.to_string()))
            .collect();
        return Err(DatasetError::Empty {
            inputs: inputs.join(", "),
            wanted: filter.describe(),
        });
    }
    Ok(entries)
}

fn list_folder(
    input: &Path,
    filter: &Filter,
    entries: &mut Vec<Entry>,
) -> Result<(), DatasetError> {
    let metadata = std::fs::metadata(input).map_err(|source| DatasetError::NotThere {
        input: input.to_path_buf(),
        source,
    })?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Err(DatasetError::NotAFile {
            input: input.to_path_buf(),
        });
    }
    if metadata.is_file() {
        entries.push(Entry::file(input.to_path_buf(), &metadata));
        return Ok(());
    }
    let walk = WalkDir::new(input)
        .follow_links(true)
        .into_iter()
        .filter_entry(|e| e.depth() == 0 || !e.file_name().as_bytes().starts_with(b"."));
    for found in walk {
        let found = match found {
            Ok(found) => found,
            // A link that points nowhere is listed, so that its failure to open gets a row.
            Err(error) if is_dangling_link(&error) => {
                if let Some(path) = error.path().filter(|p| accepts(filter, input, p)) {
                    let metadata = std::fs::symlink_metadata(path)
                        .map_err(|source| unreadable(path, source))?;
                    entries.push(Entry::file(path.to_path_buf(), &metadata));
                }
                continue;
            }
            Err(error) => {
                let folder = error.path().unwrap_or(input).to_path_buf();
                return Err(unreadable(&folder, error.into()));
            }
        };
        if found.file_type().is_file() && accepts(filter, input, found.path()) {
            let metadata = found
                .metadata()
                .map_err(|error| unreadable(found.path(), error.into()))?;
            entries.push(Entry::file(found.into_path(), &metadata));
        }
    }
    Ok(())
}

/// As for files: what is hidden stays so.
fn accepts_key(filter: &Filter, below_prefix: &str) -> bool {
    let is_hidden = below_prefix.split('/').any(|part| part.starts_with('.'));
    !is_hidden && filter.accepts(Path::new(below_prefix))
}

fn accepts(filter: &Filter, input: &Path, path: &Path) -> bool {
    filter.accepts(path.strip_prefix(input).unwrap_or(path))
}

fn unreadable(folder: &Path, source: std::io::Error) -> DatasetError {
    DatasetError::Unreadable {
        folder: folder.to_path_buf(),
        source,
    }
}

fn is_dangling_link(error: &walkdir::Error) -> bool {
    error.loop_ancestor().is_none()
        && error
            .path()
            .and_then(|path| std::fs::symlink_metadata(path).ok())
            .is_some_and(|metadata| metadata.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::store::s3::S3Settings;

    const IMAGES: Filter = Filter::Extensions(&["jpg", "png"]);

    /// The list of files; no object store is asked.
    fn list(inputs: &[PathBuf], filter: &Filter) -> Result<Vec<Entry>, DatasetError> {
        let inputs: Vec<Location> = inputs.iter().cloned().map(Location::Local).collect();
        super::list(&Store::new(S3Settings::default()), &inputs, filter)
    }

    fn path_to_open(entry: &Entry) -> &Path {
        match &entry.source {
            Source::File { path, .. } => path_of(path),
            Source::Object { .. } => panic!("{entry:?} is no file"),
        }
    }

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, filter: &Filter) -> Vec<String> {
        list(&[folder.path().to_path_buf()], filter)
            .unwrap()
            .iter()
            .map(|e| {
                let below = path_to_open(e).strip_prefix(folder.path()).unwrap();
                below.to_string_lossy().into_owned()
            })
            .collect()
    }

    #[test]
    fn images_are_found_at_every_depth_in_the_order_of_their_keys() {
        let folder = tree(&[
            "b/2.JPG",
            "b/10.png",
            "a.jpg",
            "größe/果物 1.jpg",
            "notes.txt",
            ".hidden/x.jpg",
            "b/._2.jpg",
        ]);
        assert_eq!(
            names(&folder, &IMAGES),
            ["a.jpg", "b/10.png", "b/2.JPG", "größe/果物 1.jpg"]
        );
    }

    #[test]
    fn a_pattern_matches_the_name_or_with_a_slash_the_path() {
        let folder = tree(&["b/2.jpg", "b/c/3.jpg", "a.jpg", "b/4.png"]);
        assert_eq!(
            names(&folder, &Filter::pattern("*.jpg").unwrap()),
            ["a.jpg", "b/2.jpg", "b/c/3.jpg"]
        );
        assert_eq!(
            names(&folder, &Filter::pattern("b/*.jpg").unwrap()),
            ["b/2.jpg"]
        );
        assert_eq!(
            names(&folder, &Filter::pattern("b/**/*.{jpg,png}").unwrap()),
            ["b/2.jpg", "b/4.png", "b/c/3.jpg"]
        );
        assert!(matches!(
            Filter::pattern("[").unwrap_err(),
            DatasetError::Pattern { .. }
        ));
    }

    #[test]
    fn a_file_given_twice_is_listed_once() {
        let folder = tree(&["a.jpg", "b.jpg"]);
        let inputs = [folder.path().to_path_buf(), folder.path().join("a.jpg")];
        assert_eq!(list(&inputs, &IMAGES).unwrap().len(), 2);
    }

    #[test]
    fn hidden_keys_are_left_out_as_hidden_files_are() {
        assert!(accepts_key(&IMAGES, "a/b c+d.JPG"));
        assert!(accepts_key(&IMAGES, "a//b.jpg"));
        assert!(!accepts_key(&IMAGES, ".trash/b.jpg"));
        assert!(!accepts_key(&IMAGES, "a/._b.jpg"));
        assert!(!accepts_key(&IMAGES, "a/b.txt"));
    }

    #[test]
    fn a_device_is_refused() {
        let error = list(&[PathBuf::from("/dev/null")], &IMAGES).unwrap_err();
        assert!(matches!(error, DatasetError::NotAFile { .. }));
    }

    #[test]
    fn a_file_that_is_named_needs_no_known_extension() {
        let folder = tree(&["picture"]);
        assert_eq!(
            list(&[folder.path().join("picture")], &IMAGES)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn names_that_are_not_utf8_still_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OsStr::from_bytes(b"caf\xe9.jpg"));
        fs::write(&path, "x").unwrap();
        let entries = list(&[folder.path().to_path_buf()], &IMAGES).unwrap();
        assert_eq!(fs::read(path_to_open(&entries[0])).unwrap(), b"x");
        assert!(entries[0].key.ends_with("caf\u{fffd}.jpg"));
    }

    #[test]
    fn a_dangling_link_is_listed_and_a_loop_is_refused() {
        let folder = tree(&["a.jpg"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("b.jpg")).unwrap();
        assert_eq!(names(&folder, &IMAGES), ["a.jpg", "b.jpg"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        let error = list(&[folder.path().to_path_buf()], &IMAGES).unwrap_err();
        assert!(matches!(error, DatasetError::Unreadable { .. }));
    }

    #[test]
    fn nothing_found_and_nothing_there_are_different_errors() {
        let folder = tree(&["notes.txt"]);
        let input = folder.path().to_path_buf();
        assert!(matches!(
            list(std::slice::from_ref(&input), &IMAGES).unwrap_err(),
            DatasetError::Empty { .. }
        ));
        assert!(matches!(
            list(&[input.join("x")], &IMAGES).unwrap_err(),
            DatasetError::NotThere { .. }
        ));
    }
}
