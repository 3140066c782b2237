//! Features of images that an earlier run put into other blocks.
//!
//! When images are added, removed or changed, the list is cut anew, and a block may hold images that
//! lay in two. Shards that no longer fit are set aside until the new ones are whole, and what they
//! hold of an image that has not changed is taken from there instead of from the network. Both lists
//! are sorted by key, so every old shard is read about once, and one at a time is in memory.

use super::featurize::{Job, Row};
use super::fingerprint;
use crate::dataset::list::Entry;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::Failure;
use crate::output::shard::{self, Shard, ShardHeader};
use crate::store::{Location, Store, local};
use std::collections::HashMap;
use tracing::warn;

/// What is left of earlier runs for the images of this rank.
#[derive(Default)]
pub struct Earlier {
    files: Vec<Location>,
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
pub fn set_aside(job: &Job, shard: &Location) -> Result<(), Failure> {
    if !job.settings.resume {
        return Ok(());
    }
    let store = &job.settings.store;
    // What cannot be read is of no use, and its block is computed again.
    let Ok(header) = read_header(store, shard) else {
        return Ok(());
    };
    if !is_of(job, &header) {
        return Ok(());
    }
    store.create_folder(&job.folder.set_aside())?;
    // The fingerprint names the content, so an older one of this name is the same.
    let name = format!("{}.parquet", header.fingerprint);
    Ok(store.rename(shard, &job.folder.set_aside().join(&name))?)
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
        let files = job.settings.store.files(&job.folder.set_aside())?;
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
    fn look_into(&mut self, file: Location, job: &Job, wanted: &HashMap<String, usize>) {
        let store = &job.settings.store;
        let places: Vec<(usize, usize)> = match read_header(store, &file) {
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
        if let Err(failure) = read(store, &file) {
            let file = file.to_string();
            warn!(
                "the images of an earlier block are computed again: {file:?} is damaged: {failure}"
            );
            return;
        }
        let number = self.files.len();
        self.files.push(file);
        for (position, image) in places {
            self.places.insert(position, (number, image));
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
    pub fn take(
        &mut self,
        store: &Store,
        position: usize,
    ) -> Result<(Outcome, Option<Row<'_>>), Failure> {
        let (file, image) = self.places[&position];
        let opened = match self.open.take() {
            Some((open, opened)) if open == file => opened,
            _ => Opened::new(read(store, &self.files[file])?),
        };
        let (_, Opened { shard, rows }) = self.open.insert((file, opened));
        let row = rows[image].map(|row| {
            let features = &shard.features[row * shard.width..][..shard.width];
            (features, shard.thumbnails[row].clone())
        });
        Ok((shard.outcomes[image].clone(), row))
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

fn read_header(store: &Store, file: &Location) -> Result<ShardHeader, Failure> {
    match file.path() {
        // The footer is all that is read.
        Some(path) => Ok(shard::read_header(&local::open(path)?)?),
        None => Ok(shard::read_header(&store.read(file)?)?),
    }
}

fn read(store: &Store, file: &Location) -> Result<Shard, Failure> {
    Ok(shard::decode(store.read(file)?)?)
}

/// Removes what was set aside, once every block has its new shard.
///
/// # Errors
/// When a file cannot be removed.
pub fn clear(job: &Job) -> Result<(), Failure> {
    let (store, folder) = (&job.settings.store, job.folder.set_aside());
    for file in store.files(&folder)? {
        store.remove(&file)?;
    }
    Ok(store.remove_folder(&folder)?)
}
