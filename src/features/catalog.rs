//! Which files there are, how many rows each of them has, and how these are cut into blocks.

use super::npy::{self, Npy};
use super::parquet::{self, ParquetFile, ParquetRows, batch_rows, row_name};
use super::{FeaturesError, NamedRows};
use crate::dataset::slice::Slices;
use crate::linalg::Scalar;
use crate::output::shard::{self, Provenance, ShardRow};
use crate::pca::Block;
use ndarray::{Array2, Axis, concatenate};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The endings of the files that are taken from a folder.
const EXTENSIONS: [&str; 2] = ["parquet", "npy"];

/// Stored feature vectors, as their files say: the same on every rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    files: Vec<StoredFile>,
    /// Length of a feature vector; 0 where there is no row.
    pub width: usize,
    /// What the features were computed with, where p8 wrote all of them; else empty.
    pub provenance: Provenance,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredFile {
    /// Byte for byte.
    path: Vec<u8>,
    form: Form,
    rows: usize,
    /// Whether its numbers are float32; else they are float64.
    is_single: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Form {
    /// A shard of p8.
    Shard,
    /// Any other Parquet file, and its column.
    Parquet(String),
    /// A NumPy array.
    Npy,
}

impl StoredFile {
    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }
}

impl Catalog {
    /// Looks at the head of every file: those that are named, and those in folders that are named. A
    /// folder that holds one called `features` stands for that one, as the output of a run does.
    ///
    /// # Errors
    /// When nothing is found, a file is of no known form or lacks the column, or the vectors have
    /// different lengths.
    pub fn open(paths: &[PathBuf], column: Option<&str>) -> Result<Self, FeaturesError> {
        let mut catalog = Catalog {
            files: Vec::new(),
            width: 0,
            provenance: Provenance::new(),
        };
        for path in paths {
            for file in files_of(path)? {
                catalog.add(file, column)?;
            }
        }
        // Of features that are not all p8's, nothing is known.
        if !catalog.are_shards() {
            catalog.provenance.clear();
        }
        Ok(catalog)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// The rows of each block. Shards of p8 are the blocks of the run that wrote them, so that the
    /// tree over them is that of the run; other rows are cut as images are.
    pub fn blocks(&self) -> Vec<usize> {
        if self.are_shards() {
            return self.files.iter().map(|file| file.rows).collect();
        }
        let slices = Slices::new(self.rows(), 1);
        (0..slices.blocks())
            .map(|block| slices.images_of(block).len())
            .collect()
    }

    /// The file that holds all of these rows, and which they are in it.
    fn in_one_file(&self, rows: &Range<usize>) -> Option<(usize, Range<usize>)> {
        let mut before = 0;
        for (index, file) in self.files.iter().enumerate() {
            if (before..before + file.rows).contains(&rows.start) {
                let in_file = rows.start - before..rows.end - before;
                return Some((index, in_file)).filter(|(_, rows)| rows.end <= file.rows);
            }
            before += file.rows;
        }
        None
    }

    fn are_single(&self) -> bool {
        // A file without rows says nothing about their numbers.
        self.files
            .iter()
            .all(|file| file.is_single || file.rows == 0)
    }

    fn are_shards(&self) -> bool {
        self.files.iter().all(|file| file.form == Form::Shard)
    }

    fn add(&mut self, path: PathBuf, column: Option<&str>) -> Result<(), FeaturesError> {
        let mut head = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(8).read_to_end(&mut head))
            .map_err(|source| unreadable(&path, source))?;
        let mut is_single = true;
        let (form, rows, width) = if head.starts_with(npy::MAGIC) {
            let array = Npy::open(&path)?;
            is_single = array.is_single();
            (Form::Npy, array.rows, Some(array.width))
        } else if head.starts_with(parquet::MAGIC) {
            let file = ParquetFile::open(&path)?;
            if column.is_none() && file.has_entry(shard::FINGERPRINT) {
                self.add_shard(&path)?
            } else {
                let column = file.column(column)?;
                let width = file.width(&column)?;
                is_single = file.is_single(&column);
                (Form::Parquet(column), file.rows(), width)
            }
        } else {
            return Err(FeaturesError::Form { path });
        };
        // A file without rows says nothing about their length.
        match width.filter(|_| rows > 0) {
            Some(width) if self.rows() == 0 => self.width = width,
            Some(found) if found != self.width => {
                return Err(FeaturesError::Width {
                    path,
                    row: 0,
                    found,
                    expected: self.width,
                });
            }
            _ => {}
        }
        self.files.push(StoredFile {
            path: OsString::from(path).into_vec(),
            form,
            rows,
            is_single,
        });
        Ok(())
    }

    fn add_shard(&mut self, path: &Path) -> Result<(Form, usize, Option<usize>), FeaturesError> {
        let file = File::open(path).map_err(|source| unreadable(path, source))?;
        let header = shard::read_header(&file).map_err(|source| FeaturesError::Shard {
            path: path.to_path_buf(),
            source,
        })?;
        match self.files.iter().find(|file| file.form == Form::Shard) {
            None => self.provenance = header.provenance,
            Some(first) if self.provenance != header.provenance => {
                return Err(FeaturesError::Mixed {
                    path: path.to_path_buf(),
                    other: first.path().to_path_buf(),
                });
            }
            Some(_) => {}
        }
        Ok((Form::Shard, header.rows, Some(header.width)))
    }
}

/// The files that a path stands for, sorted.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, FeaturesError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    if !path.is_dir() {
        return Err(FeaturesError::NotThere {
            path: path.to_path_buf(),
        });
    }
    let below = path.join("features");
    let folder = if below.is_dir() { &below } else { path };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let file = entry.map_err(|source| unreadable(folder, source))?.path();
        let hidden = file
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b"."));
        let known = file
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        if known && !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(FeaturesError::Nothing {
            path: path.to_path_buf(),
        });
    }
    Ok(files)
}

fn unreadable(path: &Path, source: std::io::Error) -> FeaturesError {
    FeaturesError::Read {
        path: path.to_path_buf(),
        source,
    }
}

/// Reads the rows of a catalog. Quick where they are asked for in ascending order.
pub struct Reader {
    catalog: Catalog,
    /// The file that was read last, by its place in the catalog.
    open: Option<(usize, Open)>,
}

/// A file that is being read.
enum Open {
    Parquet(Box<ParquetRows>),
    Npy(Npy),
}

impl Reader {
    /// Reads from the files of a catalog.
    pub fn new(catalog: Catalog) -> Self {
        Reader {
            catalog,
            open: None,
        }
    }

    /// Some rows, counted over all files.
    ///
    /// # Errors
    /// When a file cannot be read, or has changed since the catalog was made.
    pub fn read(&mut self, rows: Range<usize>) -> Result<NamedRows, FeaturesError> {
        if let Some(mapped) = self.mapped(rows.clone())? {
            Ok(mapped)
        } else if self.catalog.are_single() {
            self.read_as::<f32>(rows)
        } else {
            self.read_as::<f64>(rows)
        }
    }

    /// The rows where they lie, if they lie in one NumPy file of the precision of all.
    fn mapped(&mut self, rows: Range<usize>) -> Result<Option<NamedRows>, FeaturesError> {
        let Some((file, in_file)) = self.catalog.in_one_file(&rows) else {
            return Ok(None);
        };
        let stored = &self.catalog.files[file];
        if stored.form != Form::Npy || stored.is_single != self.catalog.are_single() {
            return Ok(None);
        }
        let array = self.array(file, in_file.end)?;
        let features = array.mapped(in_file);
        self.open = Some((file, Open::Npy(array)));
        Ok(features.map(|features| NamedRows {
            names: row_names(rows),
            features,
        }))
    }

    /// A NumPy file, open, of which rows up to `end` are wanted.
    fn array(&mut self, file: usize, end: usize) -> Result<Npy, FeaturesError> {
        let path = self.catalog.files[file].path();
        let array = match self.open.take() {
            Some((open, Open::Npy(array))) if open == file => array,
            _ => Npy::open(path)?,
        };
        if end > array.rows || array.width != self.catalog.width {
            return Err(FeaturesError::Numpy {
                path: path.to_path_buf(),
                problem: "it was changed while it was read".into(),
            });
        }
        Ok(array)
    }

    fn read_as<T>(&mut self, rows: Range<usize>) -> Result<NamedRows, FeaturesError>
    where
        T: Scalar,
        Block: From<Array2<T>>,
    {
        let (mut names, mut parts) = (Vec::with_capacity(rows.len()), Vec::new());
        let mut before = 0;
        for file in 0..self.catalog.files.len() {
            let count = self.catalog.files[file].rows;
            let start = rows.start.max(before);
            let end = rows.end.min(before + count);
            if start < end {
                let in_file = start - before..end - before;
                let (more, part) = self.read_file::<T>(file, in_file, start)?;
                names.extend(more);
                parts.push(part);
            }
            before += count;
        }
        let features = match parts.len() {
            0 => Array2::zeros((0, self.catalog.width)),
            1 => parts.swap_remove(0),
            _ => {
                let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
                concatenate(Axis(0), &views).expect("all rows are equally wide")
            }
        };
        Ok(NamedRows {
            names,
            features: features.into(),
        })
    }

    /// Small pictures of some rows, counted over all files, where they are stored: in shards of p8.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn thumbnails(&self, rows: Range<usize>) -> Result<Vec<Option<Vec<u8>>>, FeaturesError> {
        let mut thumbnails = Vec::with_capacity(rows.len());
        let mut before = 0;
        for file in &self.catalog.files {
            let start = rows.start.max(before);
            let end = rows.end.min(before + file.rows);
            if start < end && file.form == Form::Shard {
                let all = shard_thumbnails(file.path())?;
                let wanted = start - before..end - before;
                let some = all.get(wanted).ok_or_else(|| changed(file.path()))?;
                thumbnails.extend_from_slice(some);
            } else if start < end {
                thumbnails.resize(thumbnails.len() + end - start, None);
            }
            before += file.rows;
        }
        Ok(thumbnails)
    }

    /// Some rows of one file; the first of them has this number among all rows.
    fn read_file<T: Scalar>(
        &mut self,
        file: usize,
        rows: Range<usize>,
        first_index: usize,
    ) -> Result<(Vec<ShardRow>, Array2<T>), FeaturesError> {
        let width = self.catalog.width;
        let StoredFile { form, .. } = &self.catalog.files[file];
        let path = self.catalog.files[file].path();
        match form {
            Form::Shard => read_shard(path, rows, width),
            Form::Npy => {
                let array = self.array(file, rows.end)?;
                let names = row_names(first_index..first_index + rows.len());
                let features = array.read(rows);
                self.open = Some((file, Open::Npy(array)));
                Ok((names, features))
            }
            Form::Parquet(column) => {
                let mut reader = match self.open.take() {
                    Some((open, Open::Parquet(reader)))
                        if open == file && reader.position() == rows.start =>
                    {
                        reader
                    }
                    _ => Box::new(ParquetFile::open(path)?.rows_from(
                        column,
                        rows.start,
                        batch_rows(width),
                    )?),
                };
                let named = reader.take(rows.len(), width, first_index)?;
                self.open = Some((file, Open::Parquet(reader)));
                Ok(named)
            }
        }
    }
}

/// The names of rows that have none of their own, counted over all files.
fn row_names(rows: Range<usize>) -> Vec<ShardRow> {
    rows.map(|row| ShardRow {
        index: row as u64,
        path: row_name(row),
        label: None,
    })
    .collect()
}

fn shard_thumbnails(path: &Path) -> Result<Vec<Option<Vec<u8>>>, FeaturesError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    shard::decode_thumbnails(file).map_err(|source| FeaturesError::Shard {
        path: path.to_path_buf(),
        source,
    })
}

fn changed(path: &Path) -> FeaturesError {
    FeaturesError::Shard {
        path: path.to_path_buf(),
        source: shard::ShardError::Inconsistent {
            what: "it was changed while it was read".into(),
        },
    }
}

fn read_shard<T: Scalar>(
    path: &Path,
    rows: Range<usize>,
    width: usize,
) -> Result<(Vec<ShardRow>, Array2<T>), FeaturesError> {
    let broken = |source| FeaturesError::Shard {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let shard = shard::decode(file).map_err(broken)?;
    if rows.end > shard.rows.len() || shard.width != width {
        return Err(changed(path));
    }
    let values = shard.features[rows.start * width..rows.end * width].iter();
    let values = values.map(|&x| T::of_f64(x.into())).collect();
    let features = Array2::from_shape_vec((rows.len(), width), values)
        .expect("the shard was checked to hold these rows");
    Ok((shard.rows[rows].to_vec(), features))
}
