//! Which blocks an earlier run has finished.

use super::featurize::{Job, write_shard};
use super::fingerprint;
use crate::error::Failure;
use crate::output::shard::{self, Shard, ShardRow};
use tracing::{debug, warn};

/// The shard of a block, if an earlier run wrote it with the same settings for the same files and
/// it is whole.
///
/// A damaged shard is no failure: the block is computed again, and that is said. Labels and the name of
/// the weights are no part of the fingerprint; where they have changed the shard is written anew with
/// the same features.
///
/// # Errors
/// When a shard with new labels cannot be written.
pub fn finished(job: &Job, block: usize) -> Result<Option<Shard>, Failure> {
    let path = job.folder.shard(block);
    if !job.settings.resume {
        return Ok(None);
    }
    let mut shard = match read(job, block) {
        Ok(Some(shard)) => shard,
        Ok(None) => {
            debug!("block {block} is computed again: other settings or files");
            return Ok(None);
        }
        Err(failure) => {
            let path = path.to_string();
            warn!("block {block} is computed again: {path:?} is damaged: {failure}");
            return Ok(None);
        }
    };
    let label = |row: &ShardRow| job.settings.label.label(&row.path);
    let renamed = shard.provenance != job.provenance;
    if renamed || shard.rows.iter().any(|row| row.label != label(row)) {
        shard.provenance = job.provenance.clone();
        for row in &mut shard.rows {
            row.label = label(row);
        }
        write_shard(job, &shard)?;
    }
    Ok(Some(shard))
}

/// The shard of a block where it is of these settings and files; its footer decides before the rest
/// is read.
fn read(job: &Job, block: usize) -> Result<Option<Shard>, Failure> {
    let bytes = job.settings.store.read(&job.folder.shard(block))?;
    let header = shard::read_header(&bytes)?;
    let wanted = fingerprint::of_block(job.fingerprint(), job.listing.entries_of(block));
    if header.block != block || header.fingerprint != wanted {
        return Ok(None);
    }
    let shard = shard::decode(bytes)?;
    // The same files may stand elsewhere in a longer list.
    let images = job.listing.slices.images_of(block);
    let in_place = |row: &ShardRow| images.contains(&(row.index as usize));
    Ok(shard.rows.iter().all(in_place).then_some(shard))
}
