//! `--dry-run`: the plan with its memory and time, and nothing computed from the images.

use super::announce::count;
use super::listing::Listing;
use super::settings::{Settings, WeightsChoice};
use crate::comm::Comm;
use crate::error::Failure;
use crate::image::{Preprocess, SIDE};
use crate::kernels::Isa;
use crate::model::architecture::Architecture;
use crate::model::executor::{Executor, InputSpec};
use crate::model::plan_executor::PlanExecutor;
use crate::model::seeded::seeded;
use crate::model::{Topology, weights::Cache};
use std::time::Instant;

/// Prints the plan on rank 0. The time is measured: every rank pushes one blank image through a
/// network of the same shape with random weights.
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
    let (seconds_per_image, width) = comm.or_end(measure(settings, threads, isa));
    let slowest = comm
        .all_gather_f64(&[seconds_per_image * listing.entries().len() as f64])
        .concat()
        .into_iter()
        .fold(0.0, f64::max);
    if comm.rank() > 0 {
        return Ok(());
    }
    let (images, blocks) = (listing.slices.images(), listing.slices.blocks());
    println!(
        "would read    {}, {}",
        count(images, "image"),
        size(listing.bytes as f64)
    );
    println!(
        "would cut     {} of up to {} for {}",
        count(blocks, "block"),
        count(listing.slices.block_size(), "image"),
        count(comm.size(), "rank")
    );
    println!("weights       {}", weights_state(settings));
    println!(
        "features      {width} an image, {} in shards at most",
        size(4.0 * (width * images) as f64)
    );
    println!("solver        {}", solver(images, width));
    println!(
        "memory        about {} a rank at the peak of the factorisation",
        size(factorisation_bytes(images, width, comm.size()))
    );
    println!(
        "time          about {:.0} s for the features with {} a rank (measured on one blank image)",
        slowest.ceil(),
        count(threads, "thread")
    );
    println!(
        "would write   {} (it can be written)",
        settings.output.display()
    );
    Ok(())
}

/// Seconds for an image on this rank, and the length of its feature vector.
fn measure(settings: &Settings, threads: usize, isa: Isa) -> Result<(f64, usize), Failure> {
    let state = seeded(0);
    let width = Architecture::infer(&state)?.features(settings.layer, settings.pool, SIDE as usize);
    let mut executor = PlanExecutor::new(
        &state,
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
        WeightsChoice::Path(path) if path.exists() => format!("{} (there)", path.display()),
        WeightsChoice::Path(path) => format!("{} (NOT THERE)", path.display()),
        WeightsChoice::Named(named) => {
            let cached = settings
                .cache_folder
                .as_ref()
                .is_some_and(|folder| matches!(Cache::new(folder).find(*named), Ok(Some(_))));
            let state = if cached {
                "in the cache"
            } else {
                "to be downloaded"
            };
            format!("{} ({state})", named.name())
        }
    }
}

fn solver(images: usize, width: usize) -> String {
    if images >= width {
        format!("tsqr: {images} rows, {width} columns")
    } else {
        format!("wide: {images} rows are fewer than {width} columns")
    }
}

/// Float64 matrices that are alive at once. With tsqr: a leaf of 2 d rows with its copy, and three
/// triangles. With wide: this rank's columns of all rows with their orthogonal factor.
fn factorisation_bytes(images: usize, width: usize, ranks: usize) -> f64 {
    let (n, d) = (images as f64, width as f64);
    if images >= width {
        8.0 * (2.0 * 2.0 * d * d + 3.0 * d * d)
    } else {
        8.0 * (3.0 * n * d / ranks as f64 + 3.0 * n * n)
    }
}

/// `1.5 MB`.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        format!("{value:.0} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0.0), "0 B");
        assert_eq!(size(999.0), "999 B");
        assert_eq!(size(451_000.0), "451.0 kB");
        assert_eq!(size(2.5e9), "2.5 GB");
    }
}
