//! Which blocks an earlier run has finished.

use super::featurize::{Job, write_shard};
use super::fingerprint;
use crate::error::Failure;
use crate::output::shard::{self, Shard, ShardRow};
use crate::store::local;
use bytes::Bytes;
use tracing::{debug, warn};

/// The shard of a block, if an earlier run wrote it with the same settings for the same files and
/// it is whole.
///
/// A damaged shard is no failure: the block is computed again, and that is said. Labels are no part of
/// the fingerprint; where their rule has changed the shard is written anew with the same features.
///
/// # Errors
/// When a shard with new labels cannot be written.
pub fn finished(job: &Job, block: usize) -> Result<Option<Shard>, Failure> {
    let path = job.folder.shard(block);
    if !job.settings.resume || !path.exists() {
        return Ok(None);
    }
    let read = local::read(&path)
        .map_err(Failure::from)
        .and_then(|bytes| shard::decode(Bytes::from(bytes)).map_err(Failure::from));
    let mut shard = match read {
        Ok(shard) => shard,
        Err(failure) => {
            let path = path.display().to_string();
            warn!("block {block} is computed again: {path:?} is damaged: {failure}");
            return Ok(None);
        }
    };
    let wanted = fingerprint::of_block(&job.fingerprint, job.listing.entries_of(block));
    // The same files may stand elsewhere in a longer list.
    let images = job.listing.slices.images_of(block);
    let moved = shard
        .rows
        .iter()
        .any(|row| !images.contains(&(row.index as usize)));
    if shard.block != block || shard.fingerprint != wanted || moved {
        debug!("block {block} is computed again: other settings or files");
        return Ok(None);
    }
    let label = |row: &ShardRow| job.settings.label.label(&row.path);
    if shard.rows.iter().any(|row| row.label != label(row)) {
        for row in &mut shard.rows {
            row.label = label(row);
        }
        write_shard(job, &shard)?;
    }
    Ok(Some(shard))
}
