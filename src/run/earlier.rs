//! Features of images that an earlier run put into other blocks.
//!
//! When images are added, removed or changed, the list is cut anew, and a block may hold images that
//! lay in two. Shards that no longer fit are set aside until the new ones are whole, and what they
//! hold of an image that has not changed is taken from there instead of from the network. Both lists
//! are sorted by key, so every old shard is read about once, and one at a time is in memory.

use super::featurize::Job;
use super::fingerprint;
use crate::dataset::list::Entry;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::Failure;
use crate::output::shard::{self, Shard, ShardHeader};
use crate::store::{StoreError, local};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tracing::warn;

/// What is left of earlier runs for the images of this rank.
#[derive(Default)]
pub struct Earlier {
    files: Vec<PathBuf>,
    /// File and image in the file, by the position of the image among those asked for.
    places: HashMap<usize, (usize, usize)>,
    /// The file that was read last.
    open: Option<(usize, Opened)>,
}

/// A shard with the row of each of its images.
struct Opened {
    shard: Shard,
    rows: Vec<Option<usize>>,
}

/// Sets the shard of a block aside if it has features that may be of use in other blocks.
///
/// # Errors
/// When it cannot be renamed.
pub fn set_aside(job: &Job, shard: &Path) -> Result<(), Failure> {
    if !job.settings.resume {
        return Ok(());
    }
    // What cannot be read is of no use, and its block is computed again.
    let Some(header) = File::open(shard)
        .ok()
        .and_then(|file| shard::read_header(&file).ok())
    else {
        return Ok(());
    };
    if !is_of(job, &header) {
        return Ok(());
    }
    local::create_folder(&job.folder.set_aside())?;
    // The fingerprint names the content, so an older one of this name is the same.
    let name = format!("{}.parquet", header.fingerprint);
    Ok(local::rename(shard, &job.folder.set_aside().join(name))?)
}

impl Earlier {
    /// Looks for images in what was set aside, by this run or one that was stopped.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn find(job: &Job, images: &[&Entry]) -> Result<Self, Failure> {
        let mut found = Earlier::default();
        if !job.settings.resume {
            return Ok(found);
        }
        let files = local::files(&job.folder.set_aside())?;
        if files.is_empty() {
            return Ok(found);
        }
        let wanted: HashMap<String, usize> = images
            .iter()
            .enumerate()
            .map(|(position, entry)| (fingerprint::of_image(entry), position))
            .collect();
        for path in files {
            found.look_into(path, job, &wanted);
        }
        Ok(found)
    }

    /// Notes the images of one file. A damaged one is no failure: its images are computed again.
    fn look_into(&mut self, path: PathBuf, job: &Job, wanted: &HashMap<String, usize>) {
        let places: Vec<(usize, usize)> = match read_header(&path) {
            Ok(header) if is_of(job, &header) => header
                .identities
                .iter()
                .enumerate()
                .filter_map(|(image, identity)| Some((*wanted.get(identity)?, image)))
                .collect(),
            Ok(_) | Err(_) => Vec::new(),
        };
        if places.is_empty() {
            return;
        }
        // Read as a whole now: later there would be no way back to the network.
        if let Err(failure) = read(&path) {
            let path = path.display().to_string();
            warn!(
                "the images of an earlier block are computed again: {path:?} is damaged: {failure}"
            );
            return;
        }
        let file = self.files.len();
        self.files.push(path);
        for (position, image) in places {
            self.places.insert(position, (file, image));
        }
    }

    /// Whether the image at this position among those asked for is there.
    pub fn has(&self, position: usize) -> bool {
        self.places.contains_key(&position)
    }

    /// What became of an image that is there, with its features where it is ok.
    ///
    /// # Errors
    /// When its file can no longer be read.
    pub fn take(&mut self, position: usize) -> Result<(Outcome, Option<&[f32]>), Failure> {
        let (file, image) = self.places[&position];
        let opened = match self.open.take() {
            Some((open, opened)) if open == file => opened,
            _ => Opened::new(read(&self.files[file])?),
        };
        let (_, Opened { shard, rows }) = self.open.insert((file, opened));
        let features = rows[image].map(|row| &shard.features[row * shard.width..][..shard.width]);
        Ok((shard.outcomes[image].clone(), features))
    }
}

impl Opened {
    fn new(shard: Shard) -> Self {
        let mut next = 0;
        let rows = shard
            .outcomes
            .iter()
            .map(|outcome| {
                (outcome.status == Status::Ok).then(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        Opened { shard, rows }
    }
}

/// Whether the features are those that this run would compute.
fn is_of(job: &Job, header: &ShardHeader) -> bool {
    header.provenance.get("fingerprint").map(String::as_str) == Some(job.fingerprint())
}

fn read_header(path: &Path) -> Result<ShardHeader, Failure> {
    let file = File::open(path).map_err(|source| StoreError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(shard::read_header(&file)?)
}

fn read(path: &Path) -> Result<Shard, Failure> {
    let bytes = local::read(path)?;
    Ok(shard::decode(bytes::Bytes::from(bytes))?)
}

/// Removes what was set aside, once every block has its new shard.
///
/// # Errors
/// When a file cannot be removed.
pub fn clear(job: &Job) -> Result<(), Failure> {
    let folder = job.folder.set_aside();
    for path in local::files(&folder)? {
        local::remove(&path)?;
    }
    Ok(local::remove_folder(&folder)?)
}
