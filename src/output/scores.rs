//! `scores.parquet` and `scores.csv`: one row for every scored image, in path order.
//!
//! | column | Parquet | CSV |
//! |---|---|---|
//! | path | utf8 | `path` |
//! | label | utf8, nullable | `label`, empty where there is none |
//! | scores | `pca`, fixed-size list of k float32 | `pc1` to `pck` |
//! | error | `reconstruction_error`, float32 | `reconstruction_error` |
//!
//! Both writers take one block after the other and hold back at most a row group. The CSV is quoted
//! as RFC 4180 says where that is needed, with a line feed at the end of a line; a number is the
//! shortest decimal that reads back as the same float32.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::file::reader::ChunkReader;

use crate::output::shard::ShardRow;
use crate::output::{OutputError, ParquetFile, column, read_batches};

const PARQUET: &str = "scores.parquet";
const CSV: &str = "scores.csv";

/// Scores in a row group, in values: 16 MiB.
const ROW_GROUP_VALUES: usize = 1 << 22;

/// The scores of one block of images.
#[derive(Debug, Clone, Copy)]
pub struct ScoreBlock<'a> {
    /// The images.
    pub rows: &'a [ShardRow],
    /// Their scores, `[rows, k]`.
    pub pca: &'a [f32],
    /// What the k components leave of each, one value a row.
    pub reconstruction_error: &'a [f32],
}

impl ScoreBlock<'_> {
    fn check(&self, file: &'static str, k: usize) -> Result<(), OutputError> {
        let rows = self.rows.len();
        OutputError::check_length(file, "pca", rows * k, self.pca.len())?;
        OutputError::check_length(
            file,
            "reconstruction_error",
            rows,
            self.reconstruction_error.len(),
        )
    }
}

/// Writes `scores.parquet`.
pub struct ScoresParquet<W: Write + Send> {
    file: ParquetFile<W>,
    schema: SchemaRef,
    k: usize,
    /// `k` as Arrow counts.
    size: i32,
}

impl<W: Write + Send> ScoresParquet<W> {
    /// Starts a file for scores on `k` components; `k` may be 0.
    pub fn new(sink: W, k: usize) -> Result<Self, OutputError> {
        let size = i32::try_from(k).map_err(|error| OutputError::Encode {
            file: PARQUET,
            source: Box::new(error),
        })?;
        let schema = Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("label", DataType::Utf8, true),
            Field::new("pca", DataType::FixedSizeList(score_field(), size), false),
            Field::new("reconstruction_error", DataType::Float32, false),
        ]));
        // A row has its path and label, too: count them as 16 values.
        let rows = (ROW_GROUP_VALUES / (k + 16)).max(1);
        let file = ParquetFile::new(PARQUET, sink, Arc::clone(&schema), rows)?;
        Ok(ScoresParquet {
            file,
            schema,
            k,
            size,
        })
    }

    /// Appends one block.
    ///
    /// # Errors
    ///
    /// [`OutputError::Length`] where the columns have different lengths, [`OutputError::Write`]
    /// where the sink refuses.
    pub fn write(&mut self, block: ScoreBlock<'_>) -> Result<(), OutputError> {
        block.check(PARQUET, self.k)?;
        let batch = self.batch(block).map_err(|error| OutputError::Encode {
            file: PARQUET,
            source: Box::new(error),
        })?;
        self.file.write(&batch)
    }

    fn batch(&self, block: ScoreBlock<'_>) -> Result<RecordBatch, ArrowError> {
        // With the length stated, because no values do not tell how many empty lists there are.
        let pca = FixedSizeListArray::try_new_with_length(
            score_field(),
            self.size,
            Arc::new(Float32Array::from(block.pca.to_vec())),
            None,
            block.rows.len(),
        )?;
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(StringArray::from_iter_values(
                    block.rows.iter().map(|row| &row.path),
                )),
                Arc::new(StringArray::from_iter(
                    block.rows.iter().map(|row| row.label.as_deref()),
                )),
                Arc::new(pca),
                Arc::new(Float32Array::from(block.reconstruction_error.to_vec())),
            ],
        )
    }

    /// Ends the file and gives the sink back.
    pub fn finish(self) -> Result<W, OutputError> {
        self.file.finish()
    }
}

/// Reads `scores.parquet` row by row, in order: the image, its scores, its reconstruction error. Its
/// index is its place among the scored images. The source is a [`std::fs::File`] or [`bytes::Bytes`].
///
/// # Errors
///
/// [`OutputError::Decode`] where it is no such file, or a damaged one.
pub fn read_scores<R: ChunkReader + 'static>(
    source: R,
    mut each: impl FnMut(&ShardRow, &[f32], f32),
) -> Result<(), OutputError> {
    let mut index = 0;
    read_batches(PARQUET, source, |batch| {
        let path: &StringArray = column(PARQUET, batch, "path")?;
        let label: &StringArray = column(PARQUET, batch, "label")?;
        let pca: &FixedSizeListArray = column(PARQUET, batch, "pca")?;
        let error: &Float32Array = column(PARQUET, batch, "reconstruction_error")?;
        for row in 0..batch.num_rows() {
            let scores = pca.value(row);
            let scores = scores.as_any().downcast_ref::<Float32Array>();
            let named = ShardRow {
                index,
                path: path.value(row).to_owned(),
                label: label.is_valid(row).then(|| label.value(row).to_owned()),
            };
            index += 1;
            each(
                &named,
                scores.map_or(&[][..], |scores| scores.values()),
                error.value(row),
            );
        }
        Ok(())
    })
}

fn score_field() -> FieldRef {
    Arc::new(Field::new("element", DataType::Float32, false))
}

/// Writes `scores.csv`.
pub struct ScoresCsv<W: Write> {
    writer: csv::Writer<W>,
    k: usize,
}

impl<W: Write> ScoresCsv<W> {
    /// Starts a file for scores on `k` components with its header line; `k` may be 0.
    pub fn new(sink: W, k: usize) -> Result<Self, OutputError> {
        let mut writer = csv::Writer::from_writer(sink);
        let header = ["path".to_owned(), "label".to_owned()]
            .into_iter()
            .chain((1..=k).map(|component| format!("pc{component}")))
            .chain(["reconstruction_error".to_owned()]);
        writer
            .write_record(header)
            .map_err(|error| OutputError::from_csv(CSV, error))?;
        Ok(ScoresCsv { writer, k })
    }

    /// Appends one block.
    ///
    /// # Errors
    ///
    /// [`OutputError::Length`] where the columns have different lengths, [`OutputError::Write`]
    /// where the sink refuses.
    pub fn write(&mut self, block: ScoreBlock<'_>) -> Result<(), OutputError> {
        block.check(CSV, self.k)?;
        for (position, row) in block.rows.iter().enumerate() {
            let scores = &block.pca[position * self.k..(position + 1) * self.k];
            self.write_row(row, scores, block.reconstruction_error[position])
                .map_err(|error| OutputError::from_csv(CSV, error))?;
        }
        Ok(())
    }

    fn write_row(&mut self, row: &ShardRow, scores: &[f32], error: f32) -> csv::Result<()> {
        self.writer.write_field(&row.path)?;
        self.writer
            .write_field(row.label.as_deref().unwrap_or_default())?;
        for &value in scores {
            self.writer.write_field(shortest(value))?;
        }
        self.writer.write_field(shortest(error))?;
        self.writer.write_record(None::<&[u8]>)
    }

    /// Ends the file and gives the sink back.
    pub fn finish(self) -> Result<W, OutputError> {
        self.writer
            .into_inner()
            .map_err(|error| OutputError::Write {
                file: CSV,
                source: error.into_error(),
            })
    }
}

/// The shortest decimal that reads back as the same float32: `0.1`, `-3.0`, `1e-7`.
fn shortest(value: f32) -> String {
    // `Display` would print 1e-30 with thirty zeros; `Debug` has the exponent.
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn row(path: &str, label: Option<&str>) -> ShardRow {
        ShardRow {
            index: 0,
            path: path.to_owned(),
            label: label.map(str::to_owned),
        }
    }

    fn hostile_rows() -> Vec<ShardRow> {
        vec![
            row("a/b.jpg", Some("a")),
            row("a,b/\"c\".jpg", Some("a,b")),
            row("line\nbreak.jpg", Some("\r\n")),
            row("größe façade 果物 1.jpg", None),
            row(" lead.jpg ", Some("<script>alert(1)</script>")),
        ]
    }

    const SCORES: [f32; 10] = [
        0.1,
        -3.0,
        1.0e-7,
        f32::MAX,
        16_777_216.0,
        -0.0,
        1.0 / 3.0,
        1.0e-45,
        123.456,
        -9.0e9,
    ];
    const ERRORS: [f32; 5] = [0.0, 0.5, 1.5, 2.5, 1.0e-20];

    fn block(rows: &[ShardRow]) -> ScoreBlock<'_> {
        ScoreBlock {
            rows,
            pca: &SCORES,
            reconstruction_error: &ERRORS,
        }
    }

    fn csv_of(rows: &[ShardRow]) -> Vec<u8> {
        let mut scores = ScoresCsv::new(Vec::new(), 2).unwrap();
        scores.write(block(rows)).unwrap();
        scores.finish().unwrap()
    }

    fn parquet_of(rows: &[ShardRow]) -> Vec<u8> {
        let mut scores = ScoresParquet::new(Vec::new(), 2).unwrap();
        scores.write(block(rows)).unwrap();
        scores.finish().unwrap()
    }

    fn batches(bytes: Vec<u8>) -> Vec<RecordBatch> {
        ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))
            .unwrap()
            .build()
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    }

    #[test]
    fn the_csv_is_quoted_where_needed_and_prints_the_shortest_numbers() {
        let text = String::from_utf8(csv_of(&hostile_rows())).unwrap();
        assert_eq!(
            text,
            "path,label,pc1,pc2,reconstruction_error\n\
             a/b.jpg,a,0.1,-3.0,0.0\n\
             \"a,b/\"\"c\"\".jpg\",\"a,b\",1e-7,3.4028235e38,0.5\n\
             \"line\nbreak.jpg\",\"\r\n\",16777216.0,-0.0,1.5\n\
             größe façade 果物 1.jpg,,0.33333334,1e-45,2.5\n \
             lead.jpg ,<script>alert(1)</script>,123.456,-9000000000.0,1e-20\n"
        );
    }

    #[test]
    fn every_number_in_the_csv_reads_back_as_the_same_bits() {
        let bytes = csv_of(&hostile_rows());
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        for (position, (record, row)) in records.iter().zip(hostile_rows()).enumerate() {
            assert_eq!(record[0], row.path);
            assert_eq!(record[1], row.label.unwrap_or_default());
            for component in 0..2 {
                let value: f32 = record[2 + component].parse().unwrap();
                assert_eq!(value.to_bits(), SCORES[2 * position + component].to_bits());
            }
        }
        assert_eq!(records.len(), 5);
    }

    #[test]
    fn the_parquet_file_holds_the_same_rows() {
        let rows = hostile_rows();
        let batches = batches(parquet_of(&rows));
        assert_eq!(batches.len(), 1);
        let batch = &batches[0];
        let schema = batch.schema();
        let columns: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| {
                format!(
                    "{}: {} {}",
                    field.name(),
                    field.data_type(),
                    field.is_nullable()
                )
            })
            .collect();
        assert_eq!(
            columns,
            [
                "path: Utf8 false",
                "label: Utf8 true",
                "pca: FixedSizeList(2 x non-null Float32, field: 'element') false",
                "reconstruction_error: Float32 false",
            ]
        );
        let strings = |column: usize| {
            batch
                .column(column)
                .as_any()
                .downcast_ref::<StringArray>()
                .unwrap()
                .iter()
                .map(|text| text.map(str::to_owned))
                .collect::<Vec<_>>()
        };
        let paths: Vec<_> = rows.iter().map(|row| Some(row.path.clone())).collect();
        let labels: Vec<_> = rows.iter().map(|row| row.label.clone()).collect();
        assert_eq!(strings(0), paths);
        assert_eq!(strings(1), labels);
        let pca: &FixedSizeListArray = batch.column(2).as_any().downcast_ref().unwrap();
        let values: &Float32Array = pca.values().as_any().downcast_ref().unwrap();
        assert_eq!(values.values().as_ref(), SCORES);
        let errors: &Float32Array = batch.column(3).as_any().downcast_ref().unwrap();
        assert_eq!(errors.values().as_ref(), ERRORS);
    }

    #[test]
    fn no_component_leaves_empty_lists_and_no_column() {
        let rows = hostile_rows();
        let block = ScoreBlock {
            rows: &rows,
            pca: &[],
            reconstruction_error: &ERRORS,
        };
        let mut parquet = ScoresParquet::new(Vec::new(), 0).unwrap();
        parquet.write(block).unwrap();
        let batches = batches(parquet.finish().unwrap());
        assert_eq!(batches[0].num_rows(), 5);
        let pca: &FixedSizeListArray = batches[0].column(2).as_any().downcast_ref().unwrap();
        assert_eq!((pca.len(), pca.value_length()), (5, 0));

        let mut csv = ScoresCsv::new(Vec::new(), 0).unwrap();
        csv.write(ScoreBlock {
            rows: &rows[..1],
            reconstruction_error: &ERRORS[..1],
            ..block
        })
        .unwrap();
        assert_eq!(
            String::from_utf8(csv.finish().unwrap()).unwrap(),
            "path,label,reconstruction_error\na/b.jpg,a,0.0\n"
        );
    }

    #[test]
    fn blocks_follow_each_other_and_row_groups_stay_bounded() {
        let k = ROW_GROUP_VALUES / 4 - 16;
        let rows = vec![row("a", None), row("b", None), row("c", None)];
        let pca = vec![0.25; 3 * k];
        let mut scores = ScoresParquet::new(Vec::new(), k).unwrap();
        for _ in 0..2 {
            scores
                .write(ScoreBlock {
                    rows: &rows,
                    pca: &pca,
                    reconstruction_error: &[0.0; 3],
                })
                .unwrap();
        }
        let bytes = Bytes::from(scores.finish().unwrap());
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let groups: Vec<i64> = builder
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows())
            .collect();
        assert_eq!(groups, [4, 2]);
    }

    #[test]
    fn no_image_gives_files_without_rows() {
        let parquet = ScoresParquet::new(Vec::new(), 3).unwrap().finish().unwrap();
        assert!(batches(parquet).is_empty());
        let csv = ScoresCsv::new(Vec::new(), 1).unwrap().finish().unwrap();
        assert_eq!(csv, b"path,label,pc1,reconstruction_error\n");
    }

    #[test]
    fn equal_scores_give_equal_bytes() {
        let rows = hostile_rows();
        assert_eq!(parquet_of(&rows), parquet_of(&rows));
        assert_eq!(csv_of(&rows), csv_of(&rows));
    }

    #[test]
    fn columns_of_different_lengths_are_refused() {
        let rows = hostile_rows();
        let short = ScoreBlock {
            pca: &SCORES[..9],
            ..block(&rows)
        };
        let text = |error: OutputError| error.to_string();
        assert_eq!(
            text(
                ScoresParquet::new(Vec::new(), 2)
                    .unwrap()
                    .write(short)
                    .unwrap_err()
            ),
            "cannot encode scores.parquet: pca has 9 values, expected 10"
        );
        let short = ScoreBlock {
            reconstruction_error: &ERRORS[..4],
            ..block(&rows)
        };
        assert_eq!(
            text(
                ScoresCsv::new(Vec::new(), 2)
                    .unwrap()
                    .write(short)
                    .unwrap_err()
            ),
            "cannot encode scores.csv: reconstruction_error has 4 values, expected 5"
        );
    }

    #[test]
    fn a_full_disk_is_an_io_error() {
        /// Takes 40 bytes, then is full.
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                if self.0 == 0 {
                    return Err(std::io::ErrorKind::StorageFull.into());
                }
                let taken = bytes.len().min(self.0);
                self.0 -= taken;
                Ok(taken)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        use crate::error::{Failure, Kind};
        let rows = hostile_rows();
        let mut csv = ScoresCsv::new(Full(40), 2).unwrap();
        let result = csv.write(block(&rows)).and_then(|()| csv.finish());
        let failure = Failure::from(result.err().unwrap());
        let expected =
            |file| Failure::new(Kind::Io, format!("cannot write {file}: no storage space"));
        assert_eq!(failure, expected("scores.csv"));

        let mut parquet = ScoresParquet::new(Full(40), 2).unwrap();
        let result = parquet.write(block(&rows)).and_then(|()| parquet.finish());
        let failure = Failure::from(result.err().unwrap());
        assert_eq!(failure, expected("scores.parquet"));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let rows = hostile_rows();
        let mut read = Vec::new();
        let source = Bytes::from(parquet_of(&rows));
        read_scores(source, |row, scores, error| {
            read.push((row.clone(), scores.to_vec(), error));
        })
        .unwrap();
        assert_eq!(read.len(), rows.len());
        for (place, (row, scores, error)) in read.iter().enumerate() {
            assert_eq!(
                (&row.path, &row.label),
                (&rows[place].path, &rows[place].label)
            );
            assert_eq!(row.index, place as u64);
            assert_eq!(scores, &SCORES[2 * place..2 * place + 2]);
            assert_eq!(*error, ERRORS[place]);
        }
        let damaged = Bytes::from_static(b"PAR1 but no Parquet");
        let error = read_scores(damaged, |_, _, _| ()).unwrap_err();
        assert!(crate::error::chain(&error).contains("cannot read scores.parquet"));
    }
}
