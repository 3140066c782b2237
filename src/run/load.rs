//! One image from its file to the pixels that the network sees.
//!
//! Reading and decoding are two steps, because what waits for an object store should not keep a
//! thread from decoding.

use crate::dataset::list::Entry;
use crate::dataset::outcome::{Outcome, Status, hex};
use crate::image::{self, Exif, Limits, Preprocess, Rgb8};
use crate::store::{Store, StoreError};
use crate::timing::{Phase, Phases};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Most bytes that are read of one image: more than any picture within the limit of pixels needs, and
/// few enough for every loader thread to hold one.
const LARGEST_FILE: u64 = 1 << 30;

/// What became of one image on the way to the network.
pub struct Loaded {
    /// Its row in `outcomes.parquet`.
    pub outcome: Outcome,
    /// The prepared pixels, where it is ok.
    pub pixels: Option<Rgb8>,
    /// A small picture for the report, as JPEG, where it is ok.
    pub thumbnail: Option<Vec<u8>>,
}

impl Loaded {
    fn failed(entry: &Entry, reason: String) -> Self {
        Loaded {
            outcome: Outcome {
                path: entry.key.clone(),
                status: Status::Failed,
                reason: Some(reason),
                bytes: entry.bytes,
                width: 0,
                height: 0,
                sha256: String::new(),
            },
            pixels: None,
            thumbnail: None,
        }
    }
}

/// The bytes of one image, or why there are none. A file that cannot be read is a value.
///
/// # Errors
/// When the reason is not this file: credentials, network, a store that refuses everything. All
/// images after it would fail as well.
pub fn read(
    store: &Store,
    entry: &Entry,
    phases: &Phases,
) -> Result<Result<Bytes, Loaded>, StoreError> {
    if entry.bytes > LARGEST_FILE {
        let reason = format!("too large: {} bytes, more than {LARGEST_FILE}", entry.bytes);
        return Ok(Err(Loaded::failed(entry, reason)));
    }
    match phases.time(Phase::Read, || entry.read(store)) {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(error) if error.is_of_one_file() => Ok(Err(Loaded::failed(entry, unreadable(&error)))),
        Err(error) => Err(error),
    }
}

/// Decodes and resizes one image. A bad one is a value, not an error.
pub fn decode(
    entry: &Entry,
    bytes: &[u8],
    exif: Exif,
    preprocess: Preprocess,
    phases: &Phases,
) -> Loaded {
    let mut outcome = Outcome {
        path: entry.key.clone(),
        status: Status::Failed,
        reason: None,
        bytes: bytes.len() as u64,
        width: 0,
        height: 0,
        sha256: String::new(),
    };
    let _decoding = phases.start(Phase::Decode);
    outcome.sha256 = hex(&Sha256::digest(bytes));
    let mut thumbnail = None;
    let pixels = match image::decode(bytes, exif, &Limits::default()) {
        Ok(decoded) => {
            (outcome.width, outcome.height) = (decoded.stored_width, decoded.stored_height);
            outcome.status = Status::Ok;
            let pixels = image::prepare(&decoded.image, preprocess);
            let (width, height) = (decoded.image.width, decoded.image.height);
            // The report says how many images have none.
            thumbnail = image::thumbnail(&pixels, preprocess, width, height).ok();
            Some(pixels)
        }
        Err(error) => {
            (outcome.width, outcome.height) = image::dimensions(bytes).unwrap_or_default();
            if !image::looks_like_image(bytes) && !claims_to_be_an_image(entry) {
                outcome.status = Status::Skipped;
            }
            outcome.reason = Some(crate::error::chain(&error));
            None
        }
    };
    Loaded {
        outcome,
        pixels,
        thumbnail,
    }
}

/// The cause alone: the row of the table names the file already.
fn unreadable(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("cannot be read: {cause}"),
        None => error.to_string(),
    }
}

/// A file that a pattern of `--glob` brought in may be no image at all and then is skipped; one
/// whose extension says that it is an image has failed.
fn claims_to_be_an_image(entry: &Entry) -> bool {
    Path::new(&entry.key)
        .extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|e| {
            image::EXTENSIONS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(e))
        })
}
