//! Which container a weights file is, told by its first bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::WeightsError;

/// The containers that weights come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    /// A length, a JSON header, raw tensors.
    Safetensors,
    /// A zip or tar archive around a pickle, or a stream of pickles.
    Pytorch,
    /// HDF5, as Keras writes.
    Hdf5,
}

/// The largest header that the safetensors format allows, in bytes.
const SAFETENSORS_HEADER_LIMIT: u64 = 100_000_000;

/// Where the magic of a tar header stands, in bytes.
const TAR_MAGIC_OFFSET: usize = 257;

/// The opcode that starts every pickle of protocol 2 and later.
const PICKLE_PROTOCOL: u8 = 0x80;

/// Where the first entry's name stands in a zip archive, in bytes.
const ZIP_NAME_OFFSET: usize = 30;

/// Looks at the start of the file.
pub(super) fn detect(path: &Path) -> Result<Container, WeightsError> {
    let open = |source: io::Error| WeightsError::Open {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    let length = file.metadata().map_err(open)?.len();
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head).map_err(open)?;

    if head.starts_with(b"PK\x03\x04") {
        let name = head.get(ZIP_NAME_OFFSET..).unwrap_or_default();
        if name.starts_with(b"metadata.json") || name.starts_with(b"config.json") {
            return Err(WeightsError::KerasArchive {
                path: path.to_path_buf(),
            });
        }
        return Ok(Container::Pytorch);
    }
    // HDF5 may follow a block of the user's own.
    if hdf5_pure::is_hdf5(path).map_err(open)? {
        return Ok(Container::Hdf5);
    }
    // Before pickles: the low byte of the header's length can be any opcode.
    if let Some(header) = head
        .first_chunk::<8>()
        .map(|bytes| u64::from_le_bytes(*bytes))
        && header <= SAFETENSORS_HEADER_LIMIT
        && header.saturating_add(8) <= length
        && head.get(8) == Some(&b'{')
    {
        return Ok(Container::Safetensors);
    }
    let tar = head.get(TAR_MAGIC_OFFSET..TAR_MAGIC_OFFSET + 5) == Some(b"ustar");
    if tar || head.first() == Some(&PICKLE_PROTOCOL) {
        return Ok(Container::Pytorch);
    }
    Err(WeightsError::Unrecognised {
        path: path.to_path_buf(),
    })
}
