//! One column of vectors in a Parquet file of any origin, batch by batch.
//!
//! The types are those of Parquet itself: the Arrow schema that a writer may have put beside them is
//! ignored, so that lists of every kind and size look the same.

use super::FeaturesError;
use crate::linalg::Scalar;
use crate::output::shard::ShardRow;
use arrow::array::{Array, ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::array_value_to_string;
use ndarray::Array2;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The bytes that every such file begins with.
pub const MAGIC: &[u8] = b"PAR1";

/// The column that is taken where none is named.
const FEATURES: &str = "features";
/// The columns that name a row.
const NAMES: [&str; 2] = ["path", "label"];

/// Values that are decoded at once.
const BATCH_VALUES: usize = 1 << 21;

/// A file whose head was read.
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`FeaturesError::Read`] and [`FeaturesError::Parquet`].
    pub fn open(path: &Path) -> Result<Self, FeaturesError> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&open(path)?, options)
            .map_err(|error| refused(path, error))?;
        Ok(ParquetFile {
            path: path.to_path_buf(),
            metadata,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let rows = self.metadata.metadata().file_metadata().num_rows();
        usize::try_from(rows).unwrap_or(0)
    }

    /// Whether the footer has an entry of this name.
    pub fn has_entry(&self, key: &str) -> bool {
        let entries = self
            .metadata
            .metadata()
            .file_metadata()
            .key_value_metadata();
        entries.into_iter().flatten().any(|entry| entry.key == key)
    }

    /// The column of the vectors: the one that is asked for, else `features`, else the only one that
    /// holds lists of floating-point numbers.
    ///
    /// # Errors
    /// [`FeaturesError::Column`] where there is no such column, or more than one.
    pub fn column(&self, asked: Option<&str>) -> Result<String, FeaturesError> {
        let schema = self.metadata.schema();
        let vectors = vectors(schema);
        let wrong = |problem: String| FeaturesError::Column {
            path: self.path.clone(),
            problem,
        };
        let there = if vectors.is_empty() {
            "it has no column of lists of float or double".to_owned()
        } else {
            format!("its columns of vectors are {}", vectors.join(", "))
        };
        if let Some(name) = asked {
            if vectors.iter().any(|vector| vector == name) {
                return Ok(name.to_owned());
            }
            return Err(wrong(match schema.field_with_name(name) {
                Ok(field) => format!(
                    "its column {name} is {} and no list of float or double; {there}",
                    field.data_type()
                ),
                Err(_) => format!("it has no column {name}; {there}"),
            }));
        }
        match vectors.as_slice() {
            _ if vectors.iter().any(|vector| vector == FEATURES) => Ok(FEATURES.to_owned()),
            [only] => Ok(only.clone()),
            [] => Err(wrong(there)),
            _ => Err(wrong(format!("{there}: name one with --column"))),
        }
    }

    /// Whether the vectors of a column are lists of float, not of double.
    pub fn is_single(&self, column: &str) -> bool {
        let field = self.metadata.schema().field_with_name(column);
        field.is_ok_and(|field| match field.data_type() {
            DataType::List(item) => *item.data_type() == DataType::Float32,
            _ => false,
        })
    }

    /// The length of the first vector; `None` where there is no row.
    ///
    /// # Errors
    /// Any of reading a row.
    pub fn width(&self, column: &str) -> Result<Option<usize>, FeaturesError> {
        if self.rows() == 0 {
            return Ok(None);
        }
        let mut rows = self.rows_from(column, 0, 1)?;
        let batch = rows.batch()?;
        Ok(Some(vector(&self.path, &batch, column, 0, 0)?.len()))
    }

    /// Reads from a row on, so many rows at once. Row groups before it are not touched.
    ///
    /// # Errors
    /// [`FeaturesError::Read`] and [`FeaturesError::Parquet`].
    pub fn rows_from(
        &self,
        column: &str,
        first: usize,
        batch_rows: usize,
    ) -> Result<ParquetRows, FeaturesError> {
        let groups = self.metadata.metadata().row_groups();
        let mut before = 0;
        let mut group = 0;
        while let Some(rows) = groups.get(group).map(|group| group.num_rows() as usize)
            && before + rows <= first
        {
            before += rows;
            group += 1;
        }
        let wanted: Vec<usize> = self
            .metadata
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| field.name() == column || NAMES.contains(&field.name().as_str()))
            .map(|(index, _)| index)
            .collect();
        let descriptor = self.metadata.metadata().file_metadata().schema_descr();
        let mask = ProjectionMask::roots(descriptor, wanted);
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(
            open(&self.path)?,
            self.metadata.clone(),
        )
        .with_projection(mask)
        .with_row_groups((group..groups.len()).collect())
        .with_offset(first - before)
        .with_batch_size(batch_rows)
        .build()
        .map_err(|error| refused(&self.path, error))?;
        Ok(ParquetRows {
            path: self.path.clone(),
            column: column.to_owned(),
            batches,
            current: None,
            position: first,
        })
    }
}

/// Rows that hold about as many values as are decoded at once.
pub fn batch_rows(width: usize) -> usize {
    (BATCH_VALUES / width.max(1)).clamp(1, 1 << 16)
}

/// The rows of a file in order, from some row on.
pub struct ParquetRows {
    path: PathBuf,
    column: String,
    batches: ParquetRecordBatchReader,
    /// What was decoded last, and how many of its rows were taken.
    current: Option<(RecordBatch, usize)>,
    /// The row in the file that comes next.
    position: usize,
}

impl ParquetRows {
    /// The row in the file that comes next.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Takes the next rows, each `width` long; `first_index` is the number of the first of them
    /// among the rows of all files.
    ///
    /// # Errors
    /// [`FeaturesError::Null`] and [`FeaturesError::Width`] for a row that has no vector or one of
    /// another length.
    pub fn take<T: Scalar>(
        &mut self,
        count: usize,
        width: usize,
        first_index: usize,
    ) -> Result<(Vec<ShardRow>, Array2<T>), FeaturesError> {
        let mut names = Vec::with_capacity(count);
        let mut values = Vec::with_capacity(count * width);
        while names.len() < count {
            let (batch, taken) = match self.current.take() {
                Some((batch, taken)) if taken < batch.num_rows() => (batch, taken),
                _ => (self.batch()?, 0),
            };
            let end = batch.num_rows().min(taken + count - names.len());
            for row in taken..end {
                let vector = vector(&self.path, &batch, &self.column, row, self.position)?;
                if vector.len() != width {
                    return Err(FeaturesError::Width {
                        path: self.path.clone(),
                        row: self.position,
                        found: vector.len(),
                        expected: width,
                    });
                }
                vector.append_to(&mut values);
                let index = first_index + names.len();
                let [path, label] = NAMES.map(|column| text(&batch, column, row));
                names.push(ShardRow {
                    index: index as u64,
                    path: path.unwrap_or_else(|| row_name(index)),
                    label,
                });
                self.position += 1;
            }
            self.current = Some((batch, end));
        }
        let features = Array2::from_shape_vec((count, width), values)
            .expect("every row was checked to be this wide");
        Ok((names, features))
    }

    fn batch(&mut self) -> Result<RecordBatch, FeaturesError> {
        match self.batches.next() {
            Some(batch) => batch.map_err(|error| refused(&self.path, error)),
            None => Err(refused(
                &self.path,
                "it has fewer rows than its footer says",
            )),
        }
    }
}

/// What a row is called that has no name.
pub fn row_name(index: usize) -> String {
    format!("row-{index:07}")
}

/// One vector, in the arithmetic of its column.
struct Vector(ArrayRef);

impl Vector {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn append_to<T: Scalar>(&self, values: &mut Vec<T>) {
        let any = self.0.as_any();
        if let Some(single) = any.downcast_ref::<Float32Array>() {
            values.extend(single.values().iter().map(|&x| T::of_f64(x.into())));
        } else if let Some(double) = any.downcast_ref::<Float64Array>() {
            values.extend(double.values().iter().map(|&x| T::of_f64(x)));
        }
    }
}

fn vector(
    path: &Path,
    batch: &RecordBatch,
    column: &str,
    row: usize,
    row_of_file: usize,
) -> Result<Vector, FeaturesError> {
    batch
        .column_by_name(column)
        .and_then(|array| array.as_any().downcast_ref::<ListArray>())
        .filter(|lists| lists.is_valid(row))
        .map(|lists| lists.value(row))
        .filter(|vector| vector.null_count() == 0)
        .map(Vector)
        .ok_or_else(|| FeaturesError::Null {
            path: path.to_path_buf(),
            row: row_of_file,
        })
}

/// The names of the columns that hold lists of floating-point numbers.
fn vectors(schema: &Schema) -> Vec<String> {
    let is_vector = |data_type: &DataType| match data_type {
        DataType::List(item) => {
            matches!(item.data_type(), DataType::Float32 | DataType::Float64)
        }
        _ => false,
    };
    schema
        .fields()
        .iter()
        .filter(|field| is_vector(field.data_type()))
        .map(|field| field.name().clone())
        .collect()
}

/// A value of any type as text; `None` where the column or the value is not there.
fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column)?;
    if array.is_null(row) {
        return None;
    }
    array_value_to_string(array, row).ok()
}

fn open(path: &Path) -> Result<File, FeaturesError> {
    File::open(path).map_err(|source| FeaturesError::Read {
        path: path.to_path_buf(),
        source,
    })
}

fn refused(
    path: &Path,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> FeaturesError {
    FeaturesError::Parquet {
        path: path.to_path_buf(),
        source: error.into(),
    }
}
