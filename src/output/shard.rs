//! One block of features as a Parquet file: the output of the network and the checkpoint of a run.
//!
//! | column | type | |
//! |---|---|---|
//! | `index` | int64 | position of the image in the list of the run |
//! | `path` | utf8 | its key |
//! | `label` | utf8, nullable | its label |
//! | `features` | list of float32 | its feature vector, `width` long |
//!
//! One row for every image of the block that has features, in the order of the list. The footer
//! carries, as text, what a resumed run must know without reading the columns: `p8.fingerprint`,
//! `p8.block`, `p8.width`, `p8.outcomes` (a JSON array with an entry for every listed image of the
//! block, failed ones included), `p8.images` (a JSON array, in the same order, of what tells whether a
//! file is still the one that was read), `p8.provenance` (a JSON object: what decides the features),
//! `p8.thumbnails` (a JSON array with an entry for every row: a small picture as JPEG in base64, or null),
//! and `p8.features_sha256` over the features as little-endian float32.
//!
//! # Damage
//!
//! The Parquet library takes what it reads for sound: one flipped bit in a page can end in a panic.
//! So nothing is given to it that was not checked. The footer carries `p8.pages_sha256` over
//! everything before it, and the 32 bytes before the footer, which other readers skip, are the
//! SHA-256 of the footer itself:
//!
//! ```text
//! PAR1 | pages | SHA-256 of the footer | footer | its length | PAR1
//! ```
//!
//! # Size and time
//!
//! Pages are zstd, level 1, over plain values. Measured with Arrow C++ 26 on blocks of 256 vectors
//! made of the features of nine photographs (size against raw float32, writing on one core):
//!
//! | features | none | snappy | zstd 1 | zstd 3 | byte stream split + zstd 1 |
//! |---|---|---|---|---|---|
//! | layer3 averaged, 1024 | 1.00 | 1.00 | 0.90 | 0.90 | 0.81 |
//! | layer4 averaged, 2048 | 1.00 | 0.99 | 0.90 | 0.88 | 0.81 |
//! | layer4 flattened, 100352 | 1.00 | 0.22 | 0.16 | 0.16 | 0.21 |
//!
//! Flattened features are mostly the zeros of the last ReLU. Compressing 103 MB of them takes 0.9 s
//! instead of 0.4 s, against tens of seconds in the network. Splitting the bytes would save another
//! tenth on averaged features, but Spark 3 does not read that encoding.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::EnabledStatistics;
use parquet::file::reader::ChunkReader;
use parquet::schema::types::ColumnPath;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::dataset::outcome::{Outcome, Status, hex};
use crate::error::{Classify, Kind};
use crate::output::parquet_properties;

/// The entry of the footer that only a shard has.
pub const FINGERPRINT: &str = "p8.fingerprint";
const BLOCK: &str = "p8.block";
const WIDTH: &str = "p8.width";
const OUTCOMES: &str = "p8.outcomes";
const IMAGES: &str = "p8.images";
const PROVENANCE: &str = "p8.provenance";
const FEATURES_SHA256: &str = "p8.features_sha256";
const PAGES_SHA256: &str = "p8.pages_sha256";

/// What shards of earlier versions lack.
const THUMBNAILS: &str = "p8.thumbnails";

/// What every Parquet file begins and ends with.
const MAGIC: &[u8; 4] = b"PAR1";

/// The length of the footer and the magic bytes, which end a Parquet file.
const TAIL_BYTES: usize = 8;

/// A SHA-256 as bytes.
const SHA256_BYTES: usize = 32;

/// Features that are handed to Parquet at once, in values: 8 MiB, copied, beside the 100 MB of a
/// block of flattened vectors. It also keeps the list offsets far below 2^31.
const BATCH_VALUES: usize = 1 << 21;

/// Features in a row group, in values: 32 MiB, which bounds what the writer holds back and what a
/// reader must hold at once.
const ROW_GROUP_VALUES: usize = 1 << 23;

/// What decides the features of an image: weights, preprocessing, layer and so on, by the names that
/// they have in the metadata of a model. The entry `fingerprint` stands for all of them.
pub type Provenance = BTreeMap<String, String>;

/// One image of a block that has features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRow {
    /// Position of the image in the list of the run.
    pub index: u64,
    /// The key under which it was listed.
    pub path: String,
    /// Its label; `None` where it has none.
    pub label: Option<String>,
}

/// One finished block.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Number of the block.
    pub block: usize,
    /// Fingerprint of the run; blocks with the same one may be mixed.
    pub fingerprint: String,
    /// Length of a feature vector.
    pub width: usize,
    /// The images that have features, in the order of the list.
    pub rows: Vec<ShardRow>,
    /// Their feature vectors, `[rows, width]`.
    pub features: Vec<f32>,
    /// A small picture of each of `rows` as JPEG, where there is one.
    pub thumbnails: Vec<Option<Vec<u8>>>,
    /// What became of every listed image of the block, in the order of the list. Those that are ok
    /// are the images of `rows`.
    pub outcomes: Vec<Outcome>,
    /// For each of `outcomes` what tells whether the file is still the one that was read.
    pub identities: Vec<String>,
    /// What the features were computed with.
    pub provenance: Provenance,
}

/// What the footer of a shard says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHeader {
    /// Number of the block.
    pub block: usize,
    /// Fingerprint of the run.
    pub fingerprint: String,
    /// Number of images that have features.
    pub rows: usize,
    /// Length of a feature vector.
    pub width: usize,
    /// What became of every listed image of the block.
    pub outcomes: Vec<Outcome>,
    /// For each of `outcomes` what tells whether the file is still the one that was read.
    pub identities: Vec<String>,
    /// What the features were computed with.
    pub provenance: Provenance,
}

/// Why a shard could not be written or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The file could not be read.
    #[error("cannot read feature shard")]
    Read(#[source] std::io::Error),
    /// Its end is not that of a shard: cut short, damaged, or another kind of file.
    #[error("cannot read feature shard: it is cut short, damaged or not written by p8")]
    Footer,
    /// The Parquet library refused it.
    #[error("cannot read feature shard")]
    Parquet(#[source] ParquetError),
    /// A column could not be read.
    #[error("cannot read feature shard")]
    Arrow(#[source] ArrowError),
    /// The footer lacks an entry.
    #[error("cannot read feature shard: its footer has no {key}")]
    MissingKey {
        /// The entry that is missing.
        key: &'static str,
    },
    /// An entry of the footer cannot be understood.
    #[error("cannot read feature shard: its footer says {key} = {value:?}")]
    BadKey {
        /// The entry.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// An entry of the footer that is JSON cannot be understood.
    #[error("cannot read {key} in the footer of a feature shard")]
    BadJson {
        /// The entry.
        key: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The columns are not those of a shard.
    #[error("cannot read feature shard: column {column} is missing or of another type")]
    Columns {
        /// The first column that does not fit.
        column: &'static str,
    },
    /// The content is not what was written.
    #[error("feature shard is damaged: {key} does not match its content")]
    Checksum {
        /// The checksum that does not agree.
        key: &'static str,
    },
    /// The parts of the block contradict each other.
    #[error("feature shard contradicts itself: {what}")]
    Inconsistent {
        /// What does not fit together.
        what: String,
    },
    /// The block could not be encoded.
    #[error("cannot encode feature shard")]
    Encode(#[source] ParquetError),
}

impl Classify for ShardError {
    fn kind(&self) -> Kind {
        match self {
            ShardError::Read(_)
            | ShardError::Footer
            | ShardError::Parquet(_)
            | ShardError::Arrow(_)
            | ShardError::MissingKey { .. }
            | ShardError::BadKey { .. }
            | ShardError::BadJson { .. }
            | ShardError::Columns { .. }
            | ShardError::Checksum { .. } => Kind::Io,
            ShardError::Inconsistent { .. } | ShardError::Encode(_) => Kind::Internal,
        }
    }
}

impl From<ParquetError> for ShardError {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
                Ok(source) => ShardError::Read(*source),
                Err(source) => ShardError::Parquet(ParquetError::General(source.to_string())),
            },
            other => ShardError::Parquet(other),
        }
    }
}

/// Encodes a block. Equal blocks give equal bytes.
///
/// # Errors
///
/// [`ShardError::Inconsistent`] where the lengths do not fit together or the rows are not the
/// images whose outcome is ok.
pub fn encode(shard: &Shard) -> Result<Vec<u8>, ShardError> {
    check_consistency(shard)?;
    let outcomes = to_json(OUTCOMES, &shard.outcomes)?;
    let images = to_json(IMAGES, &shard.identities)?;
    let provenance = to_json(PROVENANCE, &shard.provenance)?;
    let thumbnails: Vec<Option<String>> = shard
        .thumbnails
        .iter()
        .map(|jpeg| jpeg.as_ref().map(|jpeg| BASE64.encode(jpeg)))
        .collect();
    let thumbnails = to_json(THUMBNAILS, &thumbnails)?;
    let features_column = ColumnPath::from(vec![
        "features".to_owned(),
        "list".to_owned(),
        "element".to_owned(),
    ]);
    let properties = parquet_properties()
        // No two features are equal, but for zeros, which zstd finds by itself.
        .set_column_dictionary_enabled(features_column.clone(), false)
        .set_column_statistics_enabled(features_column, EnabledStatistics::None)
        .set_max_row_group_row_count(Some(rows_within(ROW_GROUP_VALUES, shard.width)))
        // The offset index would stand between the pages and the footer, for readers that skip
        // rows; nobody skips rows of a block.
        .set_offset_index_disabled(true)
        .build();

    // Reserved at once: growing by doubling would for a moment need three times the block.
    let buffer = Vec::with_capacity(shard.features.len() * size_of::<f32>() + (1 << 16));
    let mut writer =
        ArrowWriter::try_new(buffer, schema(), Some(properties)).map_err(ShardError::Encode)?;
    let batch_rows = rows_within(BATCH_VALUES, shard.width);
    for (position, rows) in shard.rows.chunks(batch_rows).enumerate() {
        let start = position * batch_rows * shard.width;
        let features = &shard.features[start..start + rows.len() * shard.width];
        let batch =
            batch(rows, features, shard.width).map_err(|error| ShardError::Encode(error.into()))?;
        writer.write(&batch).map_err(ShardError::Encode)?;
    }
    // Ends the last row group and empties the buffer, so that all pages are in `inner`.
    writer.flush().map_err(ShardError::Encode)?;
    writer
        .sync()
        .map_err(|error| ShardError::Encode(error.into()))?;
    let pages_sha256 = hex(&Sha256::digest(writer.inner()));
    for (key, value) in [
        (FINGERPRINT, shard.fingerprint.clone()),
        (BLOCK, shard.block.to_string()),
        (WIDTH, shard.width.to_string()),
        (OUTCOMES, outcomes),
        (IMAGES, images),
        (PROVENANCE, provenance),
        (THUMBNAILS, thumbnails),
        (FEATURES_SHA256, features_sha256(&shard.features)),
        (PAGES_SHA256, pages_sha256),
    ] {
        writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }
    let pages = writer.inner().len();
    let mut bytes = writer.into_inner().map_err(ShardError::Encode)?;
    let footer_sha256 = Sha256::digest(&bytes[pages..bytes.len() - TAIL_BYTES]);
    // Offsets in the footer point to what lies before this place, so they stay true.
    bytes.splice(pages..pages, footer_sha256);
    Ok(bytes)
}

/// Reads a whole block and checks it against its checksums.
///
/// The source is a [`std::fs::File`] or [`bytes::Bytes`].
///
/// # Errors
///
/// Any of [`ShardError`] but `Encode`. Whatever it is, the block can be computed again.
pub fn decode<R: ChunkReader + 'static>(source: R) -> Result<Shard, ShardError> {
    let footer = read_footer(&source)?;
    let header = parse_header(&footer.metadata)?;
    if pages_sha256(&source, footer.pages_bytes)? != entry(&footer.metadata, PAGES_SHA256)? {
        return Err(ShardError::Checksum { key: PAGES_SHA256 });
    }
    let expected = entry(&footer.metadata, FEATURES_SHA256)?.to_owned();
    let thumbnails = thumbnails_of(&footer.metadata, header.rows)?;
    let metadata = Arc::new(footer.metadata);
    let values = header
        .rows
        .checked_mul(header.width)
        .ok_or_else(|| ShardError::Inconsistent {
            what: format!("{} rows of width {}", header.rows, header.width),
        })?;

    let arrow_metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source, arrow_metadata)
        .with_batch_size(rows_within(BATCH_VALUES, header.width))
        .build()?;
    let mut rows = Vec::with_capacity(header.rows);
    let mut features = Vec::with_capacity(values);
    for batch in reader {
        let batch = batch.map_err(ShardError::Arrow)?;
        read_batch(&batch, header.width, &mut rows, &mut features)?;
    }

    if features_sha256(&features) != expected {
        return Err(ShardError::Checksum {
            key: FEATURES_SHA256,
        });
    }
    let shard = Shard {
        block: header.block,
        fingerprint: header.fingerprint,
        width: header.width,
        rows,
        features,
        thumbnails,
        outcomes: header.outcomes,
        identities: header.identities,
        provenance: header.provenance,
    };
    check_consistency(&shard)?;
    Ok(shard)
}

/// Reads the thumbnails of a block, one a row, from the footer alone. All are `None` in a shard of an
/// earlier version.
///
/// # Errors
///
/// Any of [`ShardError`] but `Encode`.
pub fn decode_thumbnails<R: ChunkReader>(source: R) -> Result<Vec<Option<Vec<u8>>>, ShardError> {
    let metadata = read_footer(&source)?.metadata;
    let rows = parse_header(&metadata)?.rows;
    thumbnails_of(&metadata, rows)
}

fn thumbnails_of(
    metadata: &ParquetMetaData,
    rows: usize,
) -> Result<Vec<Option<Vec<u8>>>, ShardError> {
    let texts: Vec<Option<String>> = match from_json(metadata, THUMBNAILS) {
        Err(ShardError::MissingKey { .. }) => return Ok(vec![None; rows]),
        texts => texts?,
    };
    let decode = |text: Option<String>| match text.map(|text| BASE64.decode(text)).transpose() {
        Ok(jpeg) => Ok(jpeg),
        Err(error) => Err(ShardError::Inconsistent {
            what: format!("a thumbnail is no base64: {error}"),
        }),
    };
    texts.into_iter().map(decode).collect()
}

/// Reads the footer only: a few reads at the end of the file, whatever its size.
///
/// The source is a [`std::fs::File`] or [`bytes::Bytes`]. The columns are not looked at, so that a
/// damaged page shows only in [`decode`].
///
/// # Errors
///
/// Any of [`ShardError`] but `Encode`.
pub fn read_header<R: ChunkReader>(source: &R) -> Result<ShardHeader, ShardError> {
    parse_header(&read_footer(source)?.metadata)
}

/// The checked end of a file.
struct Footer {
    metadata: ParquetMetaData,
    /// How many bytes of pages, with the magic bytes before them, come first.
    pages_bytes: u64,
}

fn read_footer<R: ChunkReader>(source: &R) -> Result<Footer, ShardError> {
    let tail_start = source
        .len()
        .checked_sub(TAIL_BYTES as u64)
        .ok_or(ShardError::Footer)?;
    let tail = source.get_bytes(tail_start, TAIL_BYTES)?;
    let (Some(length), Some(magic)) = (tail.first_chunk::<4>(), tail.last_chunk::<4>()) else {
        return Err(ShardError::Footer);
    };
    let length = u32::from_le_bytes(*length) as usize;
    let pages_bytes = tail_start
        .checked_sub((SHA256_BYTES + length) as u64)
        .filter(|_| magic == MAGIC)
        .ok_or(ShardError::Footer)?;
    let bytes = source.get_bytes(pages_bytes, SHA256_BYTES + length)?;
    let (sha256, footer) = bytes.split_at(SHA256_BYTES);
    if sha256 != Sha256::digest(footer).as_slice() {
        return Err(ShardError::Footer);
    }
    Ok(Footer {
        metadata: ParquetMetaDataReader::decode_metadata(footer)?,
        pages_bytes,
    })
}

fn pages_sha256<R: ChunkReader>(source: &R, pages_bytes: u64) -> Result<String, ShardError> {
    let mut digest = Sha256::new();
    let mut reader = source.get_read(0)?.take(pages_bytes);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => digest.update(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ShardError::Read(error)),
        }
    }
    Ok(hex(&digest.finalize()))
}

fn entry<'a>(metadata: &'a ParquetMetaData, key: &'static str) -> Result<&'a str, ShardError> {
    metadata
        .file_metadata()
        .key_value_metadata()
        .into_iter()
        .flatten()
        .find(|entry| entry.key == key)
        .and_then(|entry| entry.value.as_deref())
        .ok_or(ShardError::MissingKey { key })
}

fn parse_header(metadata: &ParquetMetaData) -> Result<ShardHeader, ShardError> {
    let number = |key: &'static str| {
        let value = entry(metadata, key)?;
        value.parse::<usize>().map_err(|_| ShardError::BadKey {
            key,
            value: value.to_owned(),
        })
    };
    let rows = metadata.file_metadata().num_rows();
    Ok(ShardHeader {
        block: number(BLOCK)?,
        fingerprint: entry(metadata, FINGERPRINT)?.to_owned(),
        rows: usize::try_from(rows).map_err(|_| ShardError::Inconsistent {
            what: format!("it claims {rows} rows"),
        })?,
        width: number(WIDTH)?,
        outcomes: from_json(metadata, OUTCOMES)?,
        identities: from_json(metadata, IMAGES)?,
        provenance: from_json(metadata, PROVENANCE)?,
    })
}

fn to_json(key: &'static str, value: &impl Serialize) -> Result<String, ShardError> {
    serde_json::to_string(value).map_err(|source| ShardError::BadJson { key, source })
}

fn from_json<T: DeserializeOwned>(
    metadata: &ParquetMetaData,
    key: &'static str,
) -> Result<T, ShardError> {
    serde_json::from_str(entry(metadata, key)?)
        .map_err(|source| ShardError::BadJson { key, source })
}

fn check_consistency(shard: &Shard) -> Result<(), ShardError> {
    let inconsistent = |what: String| Err(ShardError::Inconsistent { what });
    if shard.rows.len().checked_mul(shard.width) != Some(shard.features.len()) {
        return inconsistent(format!(
            "{} rows of width {} with {} features",
            shard.rows.len(),
            shard.width,
            shard.features.len()
        ));
    }
    if shard.thumbnails.len() != shard.rows.len() {
        return inconsistent(format!(
            "{} rows with {} thumbnails",
            shard.rows.len(),
            shard.thumbnails.len()
        ));
    }
    let mut ok = shard
        .outcomes
        .iter()
        .filter(|outcome| outcome.status == Status::Ok);
    for row in &shard.rows {
        if ok.next().map(|outcome| &outcome.path) != Some(&row.path) {
            return inconsistent(format!("row {:?} has no outcome in its place", row.path));
        }
    }
    match ok.next() {
        Some(outcome) => inconsistent(format!("{:?} is ok but has no row", outcome.path)),
        None if shard.identities.len() != shard.outcomes.len() => inconsistent(format!(
            "{} identities of {} images",
            shard.identities.len(),
            shard.outcomes.len()
        )),
        None => Ok(()),
    }
}

/// How many rows of this width hold at most so many values; at least one.
fn rows_within(values: usize, width: usize) -> usize {
    // The upper limit keeps the batches of narrow rows small, too.
    (values / width.max(1)).clamp(1, 1 << 16)
}

fn feature_field() -> FieldRef {
    // "element" is the name that the Parquet specification gives the values of a list.
    Arc::new(Field::new("element", DataType::Float32, false))
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("index", DataType::Int64, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("label", DataType::Utf8, true),
        Field::new("features", DataType::List(feature_field()), false),
    ]))
}

fn batch(rows: &[ShardRow], features: &[f32], width: usize) -> Result<RecordBatch, ArrowError> {
    let index = rows
        .iter()
        .map(|row| i64::try_from(row.index))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
    let offsets = (0..=rows.len())
        .map(|row| i32::try_from(row * width))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ArrowError::InvalidArgumentError(error.to_string()))?;
    let features = ListArray::try_new(
        feature_field(),
        OffsetBuffer::new(ScalarBuffer::from(offsets)),
        Arc::new(Float32Array::from(features.to_vec())),
        None,
    )?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(index)),
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| &row.path),
        )),
        Arc::new(StringArray::from_iter(
            rows.iter().map(|row| row.label.as_deref()),
        )),
        Arc::new(features),
    ];
    RecordBatch::try_new(schema(), columns)
}

fn read_batch(
    batch: &RecordBatch,
    width: usize,
    rows: &mut Vec<ShardRow>,
    features: &mut Vec<f32>,
) -> Result<(), ShardError> {
    let index: &Int64Array = column(batch, "index")?;
    let path: &StringArray = column(batch, "path")?;
    let label: &StringArray = column(batch, "label")?;
    let lists: &ListArray = column(batch, "features")?;
    if index.null_count() + path.null_count() + lists.null_count() > 0 {
        return Err(ShardError::Inconsistent {
            what: "a row has a null where there is none".to_owned(),
        });
    }
    for row in 0..batch.num_rows() {
        let value = lists.value(row);
        let vector = value
            .as_any()
            .downcast_ref::<Float32Array>()
            .filter(|vector| vector.null_count() == 0)
            .ok_or(ShardError::Columns { column: "features" })?;
        if vector.len() != width {
            return Err(ShardError::Inconsistent {
                what: format!("a row of {} features, not {width}", vector.len()),
            });
        }
        features.extend_from_slice(vector.values());
        rows.push(ShardRow {
            index: u64::try_from(index.value(row)).map_err(|_| ShardError::Inconsistent {
                what: format!("a row of index {}", index.value(row)),
            })?,
            path: path.value(row).to_owned(),
            label: label.is_valid(row).then(|| label.value(row).to_owned()),
        });
    }
    Ok(())
}

fn column<'a, A: 'static>(
    batch: &'a RecordBatch,
    column: &'static str,
) -> Result<&'a A, ShardError> {
    batch
        .column_by_name(column)
        .and_then(|array| array.as_any().downcast_ref::<A>())
        .ok_or(ShardError::Columns { column })
}

fn features_sha256(features: &[f32]) -> String {
    let mut digest = Sha256::new();
    let mut bytes = Vec::with_capacity(1 << 14);
    for chunk in features.chunks(1 << 12) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        digest.update(&bytes);
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests;
