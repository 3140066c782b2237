//! From files to feature shards: this rank's blocks, one after another.
//!
//! Threads read, decode and resize images ahead of the network (`loader`), while the main thread
//! pushes batches through the executor and writes each block as it is finished.

use super::blocks;
use super::earlier::{self, Earlier};
use super::fingerprint;
use super::listing::Listing;
use super::load::Loaded;
use super::loader::Loader;
use super::output_folder::{Folder, shards};
use super::progress::{Done, Progress};
use super::resume;
use super::settings::Settings;
use crate::comm::Comm;
use crate::dataset::list::Entry;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::{Failure, Kind};
use crate::image::Preprocess;
use crate::model::executor::{ExecuteError, Executor};
use crate::output::shard::{self, Provenance, Shard, ShardError, ShardRow};
use crate::pca;
use crate::store::{Location, Store, StoreError};
use crate::timing::{Phase, Phases};
use bytes::Bytes;
use ndarray::Array2;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::time::Instant;

/// Fewest images that go through the network at once. An image's features do not depend on it; it only
/// has to be large enough to keep all threads busy.
const BATCH: usize = 16;

/// Everything the stages after the network have in common.
#[derive(Clone)]
pub struct Job<'a> {
    /// The settings of the run.
    pub settings: &'a Settings,
    /// All ranks.
    pub comm: &'a Comm,
    /// Where files go.
    pub folder: &'a Folder,
    /// The images of this rank.
    pub listing: &'a Listing,
    /// Everything but the images that decides the features.
    pub provenance: Provenance,
    /// Resizing and normalisation.
    pub preprocess: Preprocess,
    /// Threads of this rank.
    pub threads: usize,
    /// Where time is counted.
    pub phases: &'a Phases,
}

/// One finished block, without its features and outcomes: those are in its shard.
pub struct Block {
    /// Its number.
    pub block: usize,
    /// Images that have features.
    pub rows: usize,
    /// Images that are no images.
    pub skipped: usize,
    /// The bad images; few, where the run is worth anything.
    pub failed: Vec<Outcome>,
    /// Images that were taken from an earlier run.
    pub resumed: usize,
    /// Images with features that this run computed.
    pub computed: usize,
    /// Bytes of the files that this run read.
    pub bytes: u64,
}

impl Block {
    /// A block of which an earlier run had finished the images that `resumed` says.
    fn of(shard: &Shard, resumed: impl Fn(usize) -> bool) -> Self {
        let computed = || {
            let outcomes = shard.outcomes.iter().enumerate();
            outcomes
                .filter(|(image, _)| !resumed(*image))
                .map(|(_, outcome)| outcome)
        };
        let with = |status| shard.outcomes.iter().filter(move |o| o.status == status);
        Block {
            block: shard.block,
            rows: shard.rows.len(),
            skipped: with(Status::Skipped).count(),
            failed: with(Status::Failed).cloned().collect(),
            resumed: shard.outcomes.len() - computed().count(),
            computed: computed().filter(|o| o.status == Status::Ok).count(),
            bytes: computed().map(|outcome| outcome.bytes).sum(),
        }
    }
}

/// What this rank made.
pub struct Featurized {
    /// Its blocks, in order.
    pub blocks: Vec<Block>,
    /// How long it took, without waiting for other ranks.
    pub seconds: f64,
    /// Seconds from the start of the program to its first features; `None` where all blocks were
    /// taken from an earlier run.
    pub first_features: Option<f64>,
}

impl Job<'_> {
    /// Reads the shard of one of this rank's finished blocks.
    ///
    /// # Errors
    /// When the file cannot be read or was changed since it was written.
    pub fn shard_of(&self, block: usize) -> Result<Shard, Failure> {
        let _reading = self.phases.start(Phase::Shard);
        let place = self.folder.shard(block);
        read_shard(&self.settings.store, &place)
    }

    /// The small pictures of one of this rank's finished blocks, one for each row.
    ///
    /// # Errors
    /// As [`Job::shard_of`].
    pub fn thumbnails(&self, block: usize) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let _reading = self.phases.start(Phase::Shard);
        let place = self.folder.shard(block);
        read_thumbnails(&self.settings.store, &place)
    }

    /// The fingerprint of the features.
    pub fn fingerprint(&self) -> &str {
        &self.provenance["fingerprint"]
    }

    /// The feature vectors of one of this rank's finished blocks, with what became of its images.
    ///
    /// # Errors
    /// As [`Job::shard_of`].
    pub fn block(&self, block: usize) -> Result<blocks::Block, Failure> {
        let shard = self.shard_of(block)?;
        let features = Array2::from_shape_vec((shard.rows.len(), shard.width), shard.features)
            .map_err(|error| Failure::new(Kind::Internal, format!("block {block}: {error}")))?;
        Ok(blocks::Block {
            rows: shard.rows,
            features: pca::Block::from(features),
            outcomes: shard.outcomes,
        })
    }
}

/// Makes every block of this rank: takes it from an earlier run or computes it.
///
/// # Errors
/// Local to this rank: the caller has to end the job.
pub fn featurize<'a>(job: &'a Job<'a>, executor: &mut dyn Executor) -> Result<Featurized, Failure> {
    let started = Instant::now();
    let mut progress = Progress::start(job.comm, job.listing.slices.images(), job.settings.log);
    let mut finished: BTreeMap<usize, Block> = BTreeMap::new();
    let store = &job.settings.store;
    let earlier_shards = shards(store, job.folder)?;
    for block in job.listing.blocks.clone() {
        let Some(place) = earlier_shards.get(&block) else {
            continue;
        };
        if let Some(shard) = resume::finished(job, block)? {
            let images = shard.outcomes.len() as u64;
            let block = Block::of(&shard, |_| true);
            progress.add(Done {
                images,
                resumed: images,
                bad: block.failed.len() as u64,
            });
            finished.insert(block.block, block);
        } else {
            earlier::set_aside(job, place)?;
        }
    }
    if job.comm.rank() == 0 {
        // An earlier run over more images left them.
        for place in earlier_shards.range(job.listing.slices.blocks()..) {
            earlier::set_aside(job, place.1)?;
            store.remove(place.1)?;
        }
    }
    // What one rank sets aside may hold images of another.
    job.phases.time(Phase::Wait, || job.comm.barrier());
    let todo: Vec<usize> = job
        .listing
        .blocks
        .clone()
        .filter(|block| !finished.contains_key(block))
        .collect();
    let first_features = compute(job, executor, &todo, &mut progress, &mut finished)?;
    let seconds = started.elapsed().as_secs_f64();
    job.phases.time(Phase::Wait, || {
        progress.finish();
        job.comm.barrier();
    });
    // Every block has its shard now. Hosts need not share the folder, so every rank clears it.
    earlier::clear(job)?;
    Ok(Featurized {
        blocks: finished.into_values().collect(),
        seconds,
        first_features,
    })
}

/// Computes blocks, with the loaders running ahead. Batches run across the borders of blocks, which
/// may be as small as one image; a shard is written as soon as the last image of its block is done.
/// The answer is that of [`Featurized::first_features`].
fn compute<'a>(
    job: &'a Job<'a>,
    executor: &mut dyn Executor,
    todo: &[usize],
    progress: &mut Progress<'a>,
    finished: &mut BTreeMap<usize, Block>,
) -> Result<Option<f64>, Failure> {
    let images: Vec<&Entry> = todo
        .iter()
        .flat_map(|&block| job.listing.entries_of(block))
        .collect();
    let earlier = Earlier::find(job, &images)?;
    let (new, positions): (Vec<&Entry>, Vec<usize>) = images
        .iter()
        .enumerate()
        .filter(|(position, _)| !earlier.has(*position))
        .map(|(position, entry)| (*entry, position))
        .unzip();
    // Every thread has an image, and none waits long for the last one of a batch.
    let batch_size = BATCH.max(4 * job.threads);
    let width = executor.width();
    let mut filling = Filling {
        job,
        earlier,
        width,
        todo: todo.iter(),
        open: None,
        position: 0,
        progress,
        finished,
    };
    std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, job, &new, 2 * batch_size + job.threads);
        let mut first_features = None;
        for range in batches(new.len(), job.threads, batch_size) {
            let (batch, positions) = (&new[range.clone()], &positions[range]);
            let loaded = batch
                .iter()
                .map(|_| loader.next())
                .collect::<Result<Vec<_>, _>>()?;
            let features = batch_features(job, executor, batch, &loaded)?;
            if first_features.is_none() && !features.is_empty() {
                first_features = Some(job.comm.began().elapsed().as_secs_f64());
            }
            let mut features = features.chunks_exact(width);
            for (loaded, &position) in loaded.into_iter().zip(positions) {
                filling.take_earlier(position)?;
                let row = loaded.pixels.and_then(|_| features.next());
                let row = row.map(|features| (features, loaded.thumbnail));
                filling.add(loaded.outcome, row, false)?;
            }
        }
        filling.take_earlier(images.len())?;
        Ok(first_features)
    })
}

/// The ranges of the batches. The first has one image for each thread: while the loaders have little
/// ready, the network need not wait for more.
fn batches(images: usize, first: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end;
        end = images.min(start + if start == 0 { first } else { size });
        (start < end).then_some(start..end)
    })
}

/// The features of an image that is ok, and its thumbnail.
pub type Row<'a> = (&'a [f32], Option<Vec<u8>>);

/// The blocks that are to be made, filled image by image in order.
struct Filling<'a, 'b> {
    job: &'a Job<'a>,
    earlier: Earlier,
    width: usize,
    /// Those that are not begun.
    todo: std::slice::Iter<'b, usize>,
    /// The one that is being filled.
    open: Option<OpenBlock<'a>>,
    /// How many images were added.
    position: usize,
    progress: &'b mut Progress<'a>,
    finished: &'b mut BTreeMap<usize, Block>,
}

impl Filling<'_, '_> {
    /// Adds the images of an earlier run that come before this position.
    fn take_earlier(&mut self, position: usize) -> Result<(), Failure> {
        let mut earlier = std::mem::take(&mut self.earlier);
        while self.position < position {
            let (outcome, row) = earlier.take(&self.job.settings.store, self.position)?;
            self.add(outcome, row, true)?;
        }
        self.earlier = earlier;
        Ok(())
    }

    /// Adds the next image, and writes its block where that is full now.
    fn add(&mut self, outcome: Outcome, row: Option<Row>, resumed: bool) -> Result<(), Failure> {
        self.position += 1;
        self.progress.add(Done {
            images: 1,
            resumed: u64::from(resumed),
            bad: u64::from(outcome.status == Status::Failed),
        });
        let (job, width) = (self.job, self.width);
        let next = || Some(OpenBlock::new(job, width, *self.todo.next()?));
        let Some(mut block) = self.open.take().or_else(next) else {
            return Err(Failure::new(Kind::Internal, "more images than blocks hold"));
        };
        block.add(job, outcome, row, resumed);
        if block.is_full() {
            write_shard(job, &block.shard)?;
            let done = Block::of(&block.shard, |image| block.resumed[image]);
            self.finished.insert(done.block, done);
        } else {
            self.open = Some(block);
        }
        Ok(())
    }
}

/// A block that is being filled.
struct OpenBlock<'a> {
    entries: &'a [Entry],
    first_index: usize,
    shard: Shard,
    /// Whether an earlier run had finished the image, by image.
    resumed: Vec<bool>,
}

impl<'a> OpenBlock<'a> {
    fn new(job: &'a Job, width: usize, block: usize) -> Self {
        let entries = job.listing.entries_of(block);
        OpenBlock {
            entries,
            first_index: job.listing.slices.images_of(block).start,
            shard: Shard {
                block,
                fingerprint: fingerprint::of_block(job.fingerprint(), entries),
                width,
                rows: Vec::new(),
                features: Vec::new(),
                thumbnails: Vec::new(),
                outcomes: Vec::new(),
                identities: Vec::new(),
                provenance: job.provenance.clone(),
            },
            resumed: Vec::new(),
        }
    }

    /// Adds the next image of the block, with its features where it is ok.
    fn add(&mut self, job: &Job, outcome: Outcome, row: Option<Row>, resumed: bool) {
        let position = self.shard.outcomes.len();
        let entry = &self.entries[position];
        if let Some((features, thumbnail)) = row {
            let path = entry.key.clone();
            self.shard.rows.push(ShardRow {
                index: (self.first_index + position) as u64,
                label: job.settings.label.label(&path),
                path,
            });
            self.shard.features.extend_from_slice(features);
            self.shard.thumbnails.push(thumbnail);
        }
        self.shard.identities.push(fingerprint::of_image(entry));
        self.shard.outcomes.push(outcome);
        self.resumed.push(resumed);
    }

    fn is_full(&self) -> bool {
        self.shard.outcomes.len() == self.entries.len()
    }
}

/// Reads a shard.
///
/// # Errors
/// When the file cannot be read or was changed since it was written.
pub fn read_shard(store: &Store, place: &Location) -> Result<Shard, Failure> {
    shard::decode(store.read(place)?).map_err(|error| of_shard(place, error))
}

/// Reads the thumbnails of a shard, one for each row: of a file its footer only.
///
/// # Errors
/// As [`read_shard`].
pub fn read_thumbnails(store: &Store, place: &Location) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    let thumbnails = match place {
        Location::Local(path) => {
            let file = File::open(path).map_err(|source| StoreError::Read {
                path: path.clone(),
                source,
            })?;
            shard::decode_thumbnails(file)
        }
        Location::S3(_) => shard::decode_thumbnails(store.read(place)?),
    };
    thumbnails.map_err(|error| of_shard(place, error))
}

fn of_shard(place: &Location, error: ShardError) -> Failure {
    let failure = Failure::from(error);
    Failure::new(failure.kind, format!("{:?}: {failure}", place.to_string()))
}

/// Writes a shard, whole.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_shard(job: &Job, shard: &Shard) -> Result<(), Failure> {
    let _writing = job.phases.start(Phase::Shard);
    let bytes = Bytes::from(shard::encode(shard)?);
    Ok(job
        .settings
        .store
        .write_whole(&job.folder.shard(shard.block), bytes)?)
}

/// Pushes the good images of a batch through the network: `[good images, width]`.
fn batch_features(
    job: &Job,
    executor: &mut dyn Executor,
    batch: &[&Entry],
    loaded: &[Loaded],
) -> Result<Vec<f32>, Failure> {
    let (entries, images): (Vec<&Entry>, Vec<&[u8]>) = batch
        .iter()
        .zip(loaded)
        .filter_map(|(entry, loaded)| Some((*entry, loaded.pixels.as_ref()?.pixels.as_slice())))
        .unzip();
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let computed = job
        .phases
        .time(Phase::Network, || executor.features(&images));
    computed.map_err(|error| match error {
        ExecuteError::NotFinite { image } => Failure::new(
            Kind::Numerical,
            format!(
                "the network gives NaN or infinite features for {:?}: the weights do not fit the preprocessing, or are damaged",
                entries[image].key
            ),
        ),
        other => Failure::from(other),
    })
}

#[cfg(test)]
mod tests {
    use super::batches;

    #[test]
    fn batches_cover_all_images_and_the_first_is_small() {
        let of = |images| batches(images, 2, 16).collect::<Vec<_>>();
        assert!(of(0).is_empty());
        assert_eq!(of(1).as_slice(), std::slice::from_ref(&(0..1)));
        assert_eq!(of(18), [0..2, 2..18]);
        assert_eq!(of(20), [0..2, 2..18, 18..20]);
    }
}
