//! What became of every listed image. A bad image is a value here, not an error.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// How the work on one image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It has a feature vector.
    Ok,
    /// It was listed, but it is not an image and does not claim to be one.
    Skipped,
    /// It could not be read or decoded.
    Failed,
}

impl Status {
    /// Every way.
    pub const ALL: [Status; 3] = [Status::Ok, Status::Skipped, Status::Failed];

    /// The word written to `outcomes.parquet`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Failed => "failed",
        }
    }
}

/// One row of `outcomes.parquet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The key under which the image was listed.
    pub path: String,
    /// How it ended.
    pub status: Status,
    /// Why it was skipped or failed; `None` when it is ok.
    pub reason: Option<String>,
    /// Size of the file.
    pub bytes: u64,
    /// Width in pixels as stored in the file; 0 where it could not be told.
    pub width: u32,
    /// Height in pixels as stored in the file; 0 where it could not be told.
    pub height: u32,
    /// SHA-256 of the file, in lower-case hex; empty where it could not be read.
    pub sha256: String,
}

/// Lower-case hexadecimal digits, the form of every digest that p8 writes.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
