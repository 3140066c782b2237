//! `--dry-run`: the plan with its memory and time, and nothing computed from the images.

use super::announce::{count, size};
use super::listing::Listing;
use super::memory;
use super::network;
use super::settings::{Settings, WeightsChoice};
use super::terminal;
use crate::comm::Comm;
use crate::error::Failure;
use crate::image::{Preprocess, SIDE};
use crate::kernels::Isa;
use crate::model::Topology;
use crate::model::architecture::Architecture;
use crate::model::executor::{Executor, InputSpec};
use crate::model::plan_executor::PlanExecutor;
use crate::model::seeded::seeded;
use crate::model::weights::{self, Cache};
use crate::pca;
use std::path::Path;
use std::time::Instant;

/// Prints the plan on rank 0. The time is measured: every rank pushes blank images through a network of
/// the same shape.
///
/// # Errors
/// When the network cannot be made.
pub fn dry_run(
    settings: &Settings,
    comm: &Comm,
    listing: &Listing,
    threads: usize,
    isa: Isa,
) -> Result<(), Failure> {
    let (seconds_per_image, width) = comm.agree(measure(settings, threads, isa))?;
    let slowest = comm
        .all_gather_f64(&[seconds_per_image * listing.entries().len() as f64])
        .concat()
        .into_iter()
        .fold(0.0, f64::max);
    let (images, blocks) = (listing.slices.images(), listing.slices.blocks());
    let pca = memory::limited(settings.pca, comm);
    let (solver, reason) = pca::choose_solver(&pca, (images, width), (comm.size(), threads))?;
    if comm.rank() > 0 {
        return Ok(());
    }
    say(format!(
        "would read    {}, {}",
        count(images, "image"),
        size(listing.bytes as f64)
    ));
    say(format!(
        "would cut     {} of up to {} for {}",
        count(blocks, "block"),
        count(listing.slices.block_size(), "image"),
        count(comm.size(), "rank")
    ));
    say(format!("weights       {}", weights_state(settings)));
    say(format!(
        "features      {width} an image, {} of disk at most",
        size(4.0 * (width * images) as f64)
    ));
    say(format!("solver        {}: {reason}", solver.as_str()));
    let factorisation = pca::memory_bytes(solver, &pca, (images, width), (comm.size(), threads));
    // By now this rank has run the network.
    let so_far = memory::peak_bytes().unwrap_or(0) as f64;
    say(format!(
        "memory        about {} a rank: {} for the network (measured), {} for the factorisation",
        size(so_far + factorisation),
        size(so_far),
        size(factorisation)
    ));
    say(format!(
        "time          about {:.0} s for the features with {} a rank (measured on one blank image for each thread)",
        slowest.ceil(),
        count(threads, "thread")
    ));
    say(format!(
        "would write   {} (it can be written)",
        settings.output
    ));
    say("to do it      the same command without --dry-run".into());
    Ok(())
}

/// One line of the plan; the values stand below each other.
pub fn say(line: String) {
    println!("{}", terminal::wrapped(&line, 14));
}

/// Seconds for an image on this rank, and the length of its feature vector.
fn measure(settings: &Settings, threads: usize, isa: Isa) -> Result<(f64, usize), Failure> {
    // The shape is that of the user's file; published weights have the shape of random ones.
    let state = match &settings.weights {
        WeightsChoice::Path(path) => weights::read(path)?.tensors,
        WeightsChoice::S3(address) => network::of_object(settings, address)?.tensors,
        WeightsChoice::Named(_) | WeightsChoice::Seeded(_) => seeded(0),
    };
    let width = Architecture::infer(&state)?.features(settings.layer, settings.pool, SIDE as usize);
    let mut executor = PlanExecutor::new(
        state,
        settings.topology.unwrap_or(Topology::V1),
        settings.layer,
        settings.pool,
        1e-5,
        InputSpec {
            side: SIDE as usize,
            normalization: settings
                .preprocess
                .unwrap_or(Preprocess::Caffe)
                .normalization(),
        },
        threads,
        isa,
        settings.precision,
    )?;
    let blank = vec![128u8; (3 * SIDE * SIDE) as usize];
    // The first batch also pays for start-up; it is not counted.
    let batch = vec![blank.as_slice(); threads];
    executor.features(&batch)?;
    let started = Instant::now();
    executor.features(&batch)?;
    Ok((started.elapsed().as_secs_f64() / threads as f64, width))
}

fn weights_state(settings: &Settings) -> String {
    match &settings.weights {
        WeightsChoice::Seeded(_) => format!("{} (random, not pretrained)", settings.weights),
        WeightsChoice::Path(path) => format!("{} (there)", path.display()),
        WeightsChoice::S3(address) => format!("{address} (there)"),
        WeightsChoice::Named(named) => {
            let folder = settings.cache_folder.as_deref();
            let is_cached = |folder: &Path| matches!(Cache::new(folder).find(*named), Ok(Some(_)));
            match folder.is_some_and(is_cached) {
                true => format!("{} (in the cache)", named.name()),
                false => format!(
                    "{}, {}",
                    named.name(),
                    network::to_download(*named, folder, settings.weights_mirror.as_deref())
                ),
            }
        }
    }
}
