//! From files to feature shards: this rank's blocks, one after another.
//!
//! Threads read, decode and resize images ahead of the network, in order and within a bound, while
//! the main thread pushes batches through the executor and writes each block as it is finished.

use super::fingerprint;
use super::listing::Listing;
use super::load::{Loaded, load};
use super::output_folder::Folder;
use super::progress::{Done, Progress};
use super::resume;
use super::settings::Settings;
use crate::comm::Comm;
use crate::dataset::list::Entry;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::{Failure, Kind};
use crate::image::{Preprocess, Rgb8};
use crate::model::executor::{ExecuteError, Executor};
use crate::output::shard::{self, Shard, ShardRow};
use crate::store::local;
use crate::timing::{Phase, Phases};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use ndarray::Array2;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Images that go through the network at once. An image's features do not depend on it; it only has
/// to be large enough to keep all threads busy.
const BATCH: usize = 16;

/// Everything the stages after the network have in common.
pub struct Job<'a> {
    /// The settings of the run.
    pub settings: &'a Settings,
    /// All ranks.
    pub comm: &'a Comm,
    /// Where files go.
    pub folder: &'a Folder,
    /// The images of this rank.
    pub listing: &'a Listing,
    /// Fingerprint of the features.
    pub fingerprint: String,
    /// Resizing and normalisation.
    pub preprocess: Preprocess,
    /// Threads of this rank.
    pub threads: usize,
    /// Where time is counted.
    pub phases: &'a Phases,
}

/// One finished block, without its features: those are in its shard.
pub struct Block {
    /// Its number.
    pub block: usize,
    /// Images that have features.
    pub rows: usize,
    /// What became of every image of the block.
    pub outcomes: Vec<Outcome>,
    /// Whether it was taken from an earlier run.
    pub resumed: bool,
}

/// What this rank made.
pub struct Featurized {
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
    /// How long it took, without waiting for other ranks.
    pub seconds: f64,
}

impl Job<'_> {
    /// Reads the shard of one of this rank's finished blocks.
    ///
    /// # Errors
    /// When the file cannot be read or was changed since it was written.
    pub fn shard_of(&self, block: usize) -> Result<Shard, Failure> {
        let _reading = self.phases.start(Phase::Shard);
        let path = self.folder.shard(block);
        let bytes = local::read(&path)?;
        shard::decode(Bytes::from(bytes)).map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(
                failure.kind,
                format!("{:?}: {failure}", path.display().to_string()),
            )
        })
    }

    /// The feature vectors of one of this rank's finished blocks, `[rows, width]`.
    ///
    /// # Errors
    /// As [`Job::shard_of`].
    pub fn rows_of(&self, block: usize) -> Result<Array2<f64>, Failure> {
        rows_of(&self.shard_of(block)?)
    }
}

/// The feature vectors of a shard, `[rows, width]`.
///
/// # Errors
/// When the shard contradicts itself.
pub fn rows_of(shard: &Shard) -> Result<Array2<f64>, Failure> {
    let values = shard
        .features
        .iter()
        .map(|&value| f64::from(value))
        .collect();
    Array2::from_shape_vec((shard.rows.len(), shard.width), values)
        .map_err(|error| Failure::new(Kind::Internal, format!("block {}: {error}", shard.block)))
}

/// Makes every block of this rank: takes it from an earlier run or computes it.
///
/// # Errors
/// Local to this rank: the caller has to end the job.
pub fn featurize(job: &Job, executor: &mut dyn Executor) -> Result<Featurized, Failure> {
    let started = Instant::now();
    let mut progress = Progress::start(
        job.comm,
        job.listing.slices.images(),
        job.settings.log.level,
    );
    let mut finished: BTreeMap<usize, Block> = BTreeMap::new();
    for block in job.listing.blocks.clone() {
        if let Some(shard) = resume::finished(job, block) {
            let images = shard.outcomes.len() as u64;
            progress.add(Done {
                images,
                resumed: images,
                bad: bad(&shard.outcomes),
            });
            let block = Block {
                block,
                rows: shard.rows.len(),
                outcomes: shard.outcomes,
                resumed: true,
            };
            finished.insert(block.block, block);
        }
    }
    let todo: Vec<usize> = job
        .listing
        .blocks
        .clone()
        .filter(|block| !finished.contains_key(block))
        .collect();
    compute(job, executor, &todo, &mut progress, &mut finished)?;
    let seconds = started.elapsed().as_secs_f64();
    job.phases.time(Phase::Wait, || progress.finish());
    Ok(Featurized {
        blocks: finished.into_values().collect(),
        seconds,
    })
}

fn bad(outcomes: &[Outcome]) -> u64 {
    outcomes
        .iter()
        .filter(|o| o.status == Status::Failed)
        .count() as u64
}

/// Computes blocks, with the loaders running ahead.
fn compute(
    job: &Job,
    executor: &mut dyn Executor,
    todo: &[usize],
    progress: &mut Progress,
    finished: &mut BTreeMap<usize, Block>,
) -> Result<(), Failure> {
    let images: Vec<&Entry> = todo
        .iter()
        .flat_map(|&block| job.listing.entries_of(block))
        .collect();
    std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, job, &images);
        for &block in todo {
            let made = compute_block(job, executor, block, &mut loader, progress)?;
            finished.insert(block, made);
        }
        Ok(())
    })
}

/// Computes one block and writes its shard.
fn compute_block(
    job: &Job,
    executor: &mut dyn Executor,
    block: usize,
    loader: &mut Loader,
    progress: &mut Progress,
) -> Result<Block, Failure> {
    let entries = job.listing.entries_of(block);
    let first_index = job.listing.slices.images_of(block).start;
    let mut rows = Vec::new();
    let mut features = Vec::new();
    let mut outcomes = Vec::new();
    for batch in entries.chunks(BATCH) {
        let mut pixels: Vec<(usize, Rgb8)> = Vec::new();
        for _ in batch {
            let loaded = loader.next()?;
            if let Some(image) = loaded.pixels {
                pixels.push((outcomes.len(), image));
            }
            outcomes.push(loaded.outcome);
        }
        features.extend(batch_features(job, executor, entries, &pixels)?);
        rows.extend(pixels.iter().map(|(position, _)| ShardRow {
            index: (first_index + position) as u64,
            path: entries[*position].key.clone(),
            label: job.settings.label.label(&entries[*position].key),
        }));
        let new = &outcomes[outcomes.len() - batch.len()..];
        progress.add(Done {
            images: new.len() as u64,
            resumed: 0,
            bad: bad(new),
        });
    }
    let shard = Shard {
        block,
        fingerprint: fingerprint::of_block(&job.fingerprint, entries),
        width: executor.width(),
        rows,
        features,
        outcomes,
    };
    job.phases.time(Phase::Shard, || -> Result<(), Failure> {
        Ok(local::write_whole(
            &job.folder.shard(block),
            &shard::encode(&shard)?,
        )?)
    })?;
    Ok(Block {
        block,
        rows: shard.rows.len(),
        outcomes: shard.outcomes,
        resumed: false,
    })
}

/// Pushes the good images of a batch through the network.
fn batch_features(
    job: &Job,
    executor: &mut dyn Executor,
    entries: &[Entry],
    pixels: &[(usize, Rgb8)],
) -> Result<Vec<f32>, Failure> {
    if pixels.is_empty() {
        return Ok(Vec::new());
    }
    let images: Vec<&[u8]> = pixels
        .iter()
        .map(|(_, image)| image.pixels.as_slice())
        .collect();
    let computed = job
        .phases
        .time(Phase::Network, || executor.features(&images));
    computed.map_err(|error| match error {
        ExecuteError::NotFinite { image } => Failure::new(
            Kind::Numerical,
            format!(
                "the network gives NaN or infinite features for {:?}: the weights do not fit the preprocessing, or are damaged",
                entries[pixels[image].0].key
            ),
        ),
        other => Failure::from(other),
    })
}

/// Threads that load images in order, at most a bounded number ahead of the network.
struct Loader {
    results: Receiver<(usize, Loaded)>,
    /// One ticket for every image that may be ahead.
    tickets: Sender<()>,
    /// Loaded before their turn.
    early: BTreeMap<usize, Loaded>,
    next: usize,
}

impl Loader {
    fn start<'scope, 'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        job: &'env Job,
        images: &'env [&'env Entry],
    ) -> Self {
        let ahead = 2 * BATCH + job.threads;
        let (tickets, take_ticket) = bounded::<()>(ahead);
        let (give, results) = bounded(ahead);
        for _ in 0..ahead {
            // The channel holds as many; this never blocks.
            let _ = tickets.send(());
        }
        let counter = Arc::new(AtomicUsize::new(0));
        let (exif, preprocess, phases) = (job.settings.exif, job.preprocess, job.phases);
        for _ in 0..job.threads.min(images.len()) {
            let (take_ticket, give) = (take_ticket.clone(), give.clone());
            let counter = counter.clone();
            scope.spawn(move || {
                // Ends when the images or the receiver are gone.
                while take_ticket.recv().is_ok() {
                    let position = counter.fetch_add(1, Ordering::Relaxed);
                    let Some(entry) = images.get(position) else {
                        break;
                    };
                    let loaded = load(entry, exif, preprocess, phases);
                    if give.send((position, loaded)).is_err() {
                        break;
                    }
                }
            });
        }
        Loader {
            results,
            tickets,
            early: BTreeMap::new(),
            next: 0,
        }
    }

    /// The next image in order.
    fn next(&mut self) -> Result<Loaded, Failure> {
        let loaded = loop {
            if let Some(loaded) = self.early.remove(&self.next) {
                break loaded;
            }
            let (position, loaded) = self.results.recv().map_err(|_| {
                Failure::new(Kind::Internal, "the threads that load images ended early")
            })?;
            self.early.insert(position, loaded);
        };
        self.next += 1;
        // Refused only when no thread is left that could use the ticket.
        let _ = self.tickets.send(());
        Ok(loaded)
    }
}
