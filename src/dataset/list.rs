//! The images under the inputs, sorted by key.

use super::DatasetError;
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
    /// What the image is called in every result: the path as the user would type it. Bytes that are
    /// not UTF-8 are replaced here, and only here.
    pub key: String,
    /// The path to open, byte for byte.
    path: Vec<u8>,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change in nanoseconds since 1970; with key and size it tells whether a
    /// file is still the one that was featurized.
    pub modified: i128,
}

impl Entry {
    /// The path to open.
    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    fn new(path: PathBuf, metadata: &Metadata) -> Self {
        let modified =
            metadata
                .modified()
                .map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
                    Ok(after) => after.as_nanos() as i128,
                    Err(before) => -(before.duration().as_nanos() as i128),
                });
        Entry {
            key: path.to_string_lossy().into_owned(),
            path: OsString::from(path).into_vec(),
            bytes: metadata.len(),
            modified,
        }
    }
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

/// Lists the images under all inputs: folders are searched with all that is below them, links are
/// followed, names that begin with a dot are left out, and a file that is named itself is taken
/// without looking at the filter. The list is sorted by key (bytewise) and names no file twice.
///
/// # Errors
/// When an input is not there, a folder cannot be read, or nothing is found.
pub fn list(inputs: &[PathBuf], filter: &Filter) -> Result<Vec<Entry>, DatasetError> {
    let mut entries = Vec::new();
    for input in inputs {
        list_one(input, filter, &mut entries)?;
    }
    entries.sort_by(|a, b| (&a.key, &a.path).cmp(&(&b.key, &b.path)));
    entries.dedup_by(|a, b| a.path == b.path);
    if entries.is_empty() {
        let inputs: Vec<String> = inputs
            .iter()
            .map(|i| format!("{:?}", i.display().to_string()))
            .collect();
        return Err(DatasetError::Empty {
            inputs: inputs.join(", "),
            wanted: filter.describe(),
        });
    }
    Ok(entries)
}

fn list_one(input: &Path, filter: &Filter, entries: &mut Vec<Entry>) -> Result<(), DatasetError> {
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
        entries.push(Entry::new(input.to_path_buf(), &metadata));
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
                    entries.push(Entry::new(path.to_path_buf(), &metadata));
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
            entries.push(Entry::new(found.into_path(), &metadata));
        }
    }
    Ok(())
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

    const IMAGES: Filter = Filter::Extensions(&["jpg", "png"]);

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
                let below = e.path().strip_prefix(folder.path()).unwrap();
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
        assert_eq!(fs::read(entries[0].path()).unwrap(), b"x");
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
