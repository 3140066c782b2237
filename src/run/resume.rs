//! Which blocks an earlier run has finished.

use super::featurize::Job;
use super::fingerprint;
use crate::error::Failure;
use crate::output::shard::{self, Shard};
use crate::store::local;
use bytes::Bytes;
use tracing::{debug, warn};

/// The shard of a block, if an earlier run wrote it with the same settings for the same files and
/// it is whole.
///
/// A damaged shard is no failure: the block is computed again, and that is said.
pub fn finished(job: &Job, block: usize) -> Option<Shard> {
    let path = job.folder.shard(block);
    if !job.settings.resume || !path.exists() {
        return None;
    }
    let read = local::read(&path)
        .map_err(Failure::from)
        .and_then(|bytes| shard::decode(Bytes::from(bytes)).map_err(Failure::from));
    match read {
        Err(failure) => {
            warn!(
                "block {block} is computed again: {:?} is damaged: {failure}",
                path.display().to_string()
            );
            None
        }
        Ok(shard) => {
            let wanted = fingerprint::of_block(&job.fingerprint, job.listing.entries_of(block));
            let same = shard.block == block && shard.fingerprint == wanted;
            if !same {
                debug!("block {block} is computed again: other settings or files");
            }
            same.then_some(shard)
        }
    }
}
