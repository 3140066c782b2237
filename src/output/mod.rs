//! The files of a run: values in, bytes out.
//!
//! Nothing here opens a file of its own, except that a reader may be handed one: who writes aside,
//! syncs and renames is `store`, and what is published when is decided by `run`. The same values
//! always give the same bytes.

pub mod metrics;
pub mod model_file;
pub mod outcomes;
pub mod report;
pub mod scores;
pub mod shard;

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::reader::ChunkReader;

use crate::error::{Classify, Kind};

/// Who wrote a file, as Parquet wants it said. It names p8 and not the Parquet library, because
/// that is where a reader of the file would look for help.
pub const CREATED_BY: &str = concat!("p8 version ", env!("CARGO_PKG_VERSION"));

/// Why a result could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The sink refused the bytes.
    #[error("cannot write {file}")]
    Write {
        /// Name of the result.
        file: &'static str,
        /// What the sink said.
        #[source]
        source: std::io::Error,
    },
    /// The encoder refused the values.
    #[error("cannot encode {file}")]
    Encode {
        /// Name of the result.
        file: &'static str,
        /// What the encoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be read back.
    #[error("cannot read {file}")]
    Decode {
        /// Name of the result.
        file: &'static str,
        /// What the decoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two columns that belong together have different lengths.
    #[error("cannot encode {file}: {column} has {found} values, expected {expected}")]
    Length {
        /// Name of the result.
        file: &'static str,
        /// The column that does not fit.
        column: &'static str,
        /// Values it should have.
        expected: usize,
        /// Values it has.
        found: usize,
    },
}

impl Classify for OutputError {
    fn kind(&self) -> Kind {
        match self {
            OutputError::Write { .. } | OutputError::Decode { .. } => Kind::Io,
            OutputError::Encode { .. } => Kind::Internal,
            OutputError::Length { .. } => Kind::Internal,
        }
    }
}

impl OutputError {
    /// Unpacks the error of the sink, which Parquet wraps, so that its text stands there once.
    fn from_parquet(file: &'static str, error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
                Ok(source) => OutputError::Write {
                    file,
                    source: *source,
                },
                Err(source) => OutputError::Encode { file, source },
            },
            other => OutputError::Encode {
                file,
                source: Box::new(other),
            },
        }
    }

    fn from_csv(file: &'static str, error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(source) => OutputError::Write { file, source },
            other => OutputError::Encode {
                file,
                source: format!("{other:?}").into(),
            },
        }
    }

    /// Checks that a column has as many values as it should.
    fn check_length(
        file: &'static str,
        column: &'static str,
        expected: usize,
        found: usize,
    ) -> Result<(), OutputError> {
        if expected == found {
            return Ok(());
        }
        Err(OutputError::Length {
            file,
            column,
            expected,
            found,
        })
    }
}

/// What every Parquet file of p8 has in common: zstd at its quickest level, format version 1.0 with
/// data pages v1, plain values and dictionaries, which every reader in use understands, and
/// statistics per column chunk.
fn parquet_properties() -> WriterPropertiesBuilder {
    // Level 1 is the default of the type.
    WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
}

/// Hands the batches of a Parquet file on, one at a time.
fn read_batches<R: ChunkReader + 'static>(
    file: &'static str,
    source: R,
    mut each: impl FnMut(&RecordBatch) -> Result<(), OutputError>,
) -> Result<(), OutputError> {
    let unreadable =
        |source: Box<dyn std::error::Error + Send + Sync>| OutputError::Decode { file, source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(source)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| unreadable(error.into()))?;
    for batch in reader {
        each(&batch.map_err(|error| unreadable(error.into()))?)?;
    }
    Ok(())
}

/// A column of a batch, by name and type.
fn column<'a, A: 'static>(
    file: &'static str,
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a A, OutputError> {
    let array = batch.column_by_name(name);
    array
        .and_then(|array| array.as_any().downcast_ref::<A>())
        .ok_or_else(|| OutputError::Decode {
            file,
            source: format!("column {name} is missing or of another type").into(),
        })
}

/// A Parquet file that is written batch by batch, with the name of the result for its errors.
struct ParquetFile<W: Write + Send> {
    file: &'static str,
    writer: ArrowWriter<Sink<W>>,
}

impl<W: Write + Send> ParquetFile<W> {
    fn new(
        file: &'static str,
        sink: W,
        schema: SchemaRef,
        row_group_rows: usize,
    ) -> Result<Self, OutputError> {
        let properties = parquet_properties()
            .set_max_row_group_row_count(Some(row_group_rows))
            .build();
        let writer = ArrowWriter::try_new(Sink(Some(sink)), schema, Some(properties))
            .map_err(|error| OutputError::from_parquet(file, error))?;
        Ok(ParquetFile { file, writer })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), OutputError> {
        self.writer
            .write(batch)
            .map_err(|error| OutputError::from_parquet(self.file, error))
    }

    fn finish(mut self) -> Result<W, OutputError> {
        self.writer
            .finish()
            .map_err(|error| OutputError::from_parquet(self.file, error))?;
        // `ArrowWriter::into_inner` would do both, but turns what the sink says into its own text.
        self.writer
            .inner_mut()
            .0
            .take()
            .ok_or_else(|| OutputError::Write {
                file: self.file,
                source: std::io::ErrorKind::NotConnected.into(),
            })
    }
}

/// A sink that can be taken out of the Parquet writer once the file is finished.
struct Sink<W>(Option<W>);

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.0 {
            Some(sink) => sink.write(bytes),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[test]
    fn errors_tell_the_sink_from_the_encoder_and_name_the_cause_once() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let table = [
            (
                OutputError::from_parquet("scores.parquet", full().into()),
                Kind::Io,
                "cannot write scores.parquet: no storage space",
            ),
            (
                OutputError::from_csv("scores.csv", full().into()),
                Kind::Io,
                "cannot write scores.csv: no storage space",
            ),
            (
                OutputError::from_parquet(
                    "scores.parquet",
                    ParquetError::General("too long".into()),
                ),
                Kind::Internal,
                "cannot encode scores.parquet: Parquet error: too long",
            ),
            (
                OutputError::check_length("scores.csv", "pca", 6, 5).unwrap_err(),
                Kind::Internal,
                "cannot encode scores.csv: pca has 5 values, expected 6",
            ),
        ];
        for (error, kind, text) in table {
            assert_eq!(Failure::from(error), Failure::new(kind, text));
        }
    }
}
