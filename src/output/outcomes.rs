//! `outcomes.parquet`: one row for every listed image, in path order.
//!
//! | column | type | |
//! |---|---|---|
//! | `path` | utf8 | the key under which the image was listed |
//! | `status` | utf8 | `ok`, `skipped` or `failed` |
//! | `reason` | utf8, nullable | why it was skipped or failed |
//! | `bytes` | int64 | size of the file |
//! | `width`, `height` | int64 | pixels as stored in the file; 0 where they could not be told |
//! | `sha256` | utf8 | of the file, lower-case hex; empty where it could not be read |
//!
//! Integers are signed, because Spark has no others, and 64 bits wide, so that a damaged file that
//! claims to be 4 294 967 295 pixels wide can be written down as it is.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::file::reader::ChunkReader;

use crate::dataset::outcome::{Outcome, Status};
use crate::output::{OutputError, ParquetFile, column, read_batches};

const FILE: &str = "outcomes.parquet";

/// Rows in a row group: some 30 MiB of paths and checksums.
const ROW_GROUP_ROWS: usize = 1 << 17;

/// Writes `outcomes.parquet`, one block after the other.
pub struct OutcomesParquet<W: Write + Send> {
    file: ParquetFile<W>,
    schema: SchemaRef,
}

impl<W: Write + Send> OutcomesParquet<W> {
    /// Starts a file.
    pub fn new(sink: W) -> Result<Self, OutputError> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("status", DataType::Utf8, false),
            Field::new("reason", DataType::Utf8, true),
            Field::new("bytes", DataType::Int64, false),
            Field::new("width", DataType::Int64, false),
            Field::new("height", DataType::Int64, false),
            Field::new("sha256", DataType::Utf8, false),
        ]));
        let file = ParquetFile::new(FILE, sink, Arc::clone(&schema), ROW_GROUP_ROWS)?;
        Ok(OutcomesParquet { file, schema })
    }

    /// Appends the outcomes of one block.
    ///
    /// # Errors
    ///
    /// [`OutputError::Write`] where the sink refuses, [`OutputError::Encode`] for a file of more
    /// than 2^63 - 1 bytes.
    pub fn write(&mut self, outcomes: &[Outcome]) -> Result<(), OutputError> {
        let batch = self.batch(outcomes).map_err(|error| OutputError::Encode {
            file: FILE,
            source: Box::new(error),
        })?;
        self.file.write(&batch)
    }

    fn batch(&self, outcomes: &[Outcome]) -> Result<RecordBatch, ArrowError> {
        let bytes = outcomes
            .iter()
            .map(|outcome| i64::try_from(outcome.bytes))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
        let text = |of: fn(&Outcome) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(outcomes.iter().map(of)))
        };
        let pixels = |of: fn(&Outcome) -> u32| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(
                outcomes.iter().map(|outcome| i64::from(of(outcome))),
            ))
        };
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                text(|outcome| &outcome.path),
                text(|outcome| outcome.status.as_str()),
                Arc::new(StringArray::from_iter(
                    outcomes.iter().map(|outcome| outcome.reason.as_deref()),
                )),
                Arc::new(Int64Array::from(bytes)),
                pixels(|outcome| outcome.width),
                pixels(|outcome| outcome.height),
                text(|outcome| &outcome.sha256),
            ],
        )
    }

    /// Ends the file and gives the sink back.
    pub fn finish(self) -> Result<W, OutputError> {
        self.file.finish()
    }
}

/// Reads `outcomes.parquet` row by row, in order. The source is a [`std::fs::File`] or
/// [`bytes::Bytes`].
///
/// # Errors
///
/// [`OutputError::Decode`] where it is no such file, or a damaged one.
pub fn read_outcomes<R: ChunkReader + 'static>(
    source: R,
    mut each: impl FnMut(Outcome),
) -> Result<(), OutputError> {
    read_batches(FILE, source, |batch| {
        let text = |name| column::<StringArray>(FILE, batch, name);
        let integer = |name| column::<Int64Array>(FILE, batch, name);
        let (path, status, reason, sha256) = (
            text("path")?,
            text("status")?,
            text("reason")?,
            text("sha256")?,
        );
        let (bytes, width, height) = (integer("bytes")?, integer("width")?, integer("height")?);
        for row in 0..batch.num_rows() {
            let word = status.value(row);
            let status = Status::ALL
                .into_iter()
                .find(|status| status.as_str() == word)
                .ok_or_else(|| OutputError::Decode {
                    file: FILE,
                    source: format!("row {row} has the status {word:?}").into(),
                })?;
            each(Outcome {
                path: path.value(row).to_owned(),
                status,
                reason: reason.is_valid(row).then(|| reason.value(row).to_owned()),
                // As they were written from unsigned numbers.
                bytes: bytes.value(row) as u64,
                width: width.value(row) as u32,
                height: height.value(row) as u32,
                sha256: sha256.value(row).to_owned(),
            });
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::error::{Failure, Kind};

    fn outcomes() -> Vec<Outcome> {
        let outcome = |path: &str, status, reason: Option<&str>, width| Outcome {
            path: path.to_owned(),
            status,
            reason: reason.map(str::to_owned),
            bytes: 5_000_000_000,
            width,
            height: 3,
            sha256: "0f".repeat(32),
        };
        vec![
            outcome("a.jpg", Status::Ok, None, 400),
            outcome("größe \"x\"\n.jpg", Status::Failed, Some("cut, short"), 0),
            outcome("bomb.tiff", Status::Failed, Some("too large"), u32::MAX),
            outcome("notes.txt", Status::Skipped, Some("not an image"), 0),
        ]
    }

    fn written(blocks: &[&[Outcome]]) -> Vec<u8> {
        let mut file = OutcomesParquet::new(Vec::new()).unwrap();
        for block in blocks {
            file.write(block).unwrap();
        }
        file.finish().unwrap()
    }

    fn read(bytes: Vec<u8>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))
            .unwrap()
            .build()
            .unwrap();
        for batch in reader {
            let batch = batch.unwrap();
            let text = |column: usize, row: usize| {
                let column: &StringArray = batch.column(column).as_any().downcast_ref().unwrap();
                let values: Vec<Option<&str>> = column.iter().collect();
                values[row].map(str::to_owned)
            };
            let integer = |column: usize, row: usize| {
                let column: &Int64Array = batch.column(column).as_any().downcast_ref().unwrap();
                column.value(row)
            };
            for row in 0..batch.num_rows() {
                outcomes.push(Outcome {
                    path: text(0, row).unwrap(),
                    status: match text(1, row).as_deref() {
                        Some("ok") => Status::Ok,
                        Some("skipped") => Status::Skipped,
                        Some("failed") => Status::Failed,
                        other => panic!("status {other:?}"),
                    },
                    reason: text(2, row),
                    bytes: integer(3, row) as u64,
                    width: integer(4, row) as u32,
                    height: integer(5, row) as u32,
                    sha256: text(6, row).unwrap(),
                });
            }
        }
        outcomes
    }

    #[test]
    fn every_outcome_comes_back_in_order_however_it_was_cut_into_blocks() {
        let outcomes = outcomes();
        assert_eq!(read(written(&[&outcomes])), outcomes);
        assert_eq!(
            read(written(&[&outcomes[..1], &[], &outcomes[1..]])),
            outcomes
        );
        assert_eq!(read(written(&[])), []);
    }

    #[test]
    fn the_columns_are_those_that_are_promised() {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(Bytes::from(written(&[&outcomes()]))).unwrap();
        let columns: Vec<String> = reader
            .schema()
            .fields()
            .iter()
            .map(|field| {
                format!(
                    "{} {} {}",
                    field.name(),
                    field.data_type(),
                    field.is_nullable()
                )
            })
            .collect();
        assert_eq!(
            columns,
            [
                "path Utf8 false",
                "status Utf8 false",
                "reason Utf8 true",
                "bytes Int64 false",
                "width Int64 false",
                "height Int64 false",
                "sha256 Utf8 false",
            ]
        );
    }

    #[test]
    fn equal_outcomes_give_equal_bytes() {
        assert_eq!(written(&[&outcomes()]), written(&[&outcomes()]));
    }

    #[test]
    fn a_size_that_int64_cannot_hold_is_refused() {
        let mut outcomes = outcomes();
        outcomes[0].bytes = u64::MAX;
        let error = OutcomesParquet::new(Vec::new())
            .unwrap()
            .write(&outcomes)
            .unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.kind, Kind::Internal);
        assert!(failure.text.starts_with("cannot encode outcomes.parquet: "));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut back = Vec::new();
        read_outcomes(Bytes::from(written(&[&outcomes()])), |outcome| {
            back.push(outcome)
        })
        .unwrap();
        assert_eq!(back, outcomes());
        assert!(read_outcomes(Bytes::from_static(b"x"), |_| ()).is_err());
    }
}
