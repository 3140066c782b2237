//! What became of all images, on all ranks, after the network.

use super::featurize::{Block, Featurized, Job};
use crate::dataset::outcome::{Outcome, Status};
use crate::error::{Failure, Kind};
use crate::output::metrics::Images;
use tracing::{error, warn};

/// Bad images that are named one by one while the run goes on; the rest is in the results.
const NAMED: usize = 10;

/// Counts over all ranks.
pub struct Tally {
    /// Images with features, a block of the whole run each.
    pub rows_per_block: Vec<usize>,
    /// Counts by outcome.
    pub images: Images,
    /// Bytes of image files that this run read.
    pub bytes_read: u64,
    /// Images that this run pushed through the network.
    computed: u64,
    /// Seconds that the slowest rank took for them.
    seconds: f64,
}

impl Tally {
    /// Rate of this run from the first read to the last feature; `None` where nothing was computed.
    pub fn images_per_second(&self) -> Option<f64> {
        (self.computed > 0 && self.seconds > 0.0).then(|| self.computed as f64 / self.seconds)
    }
}

/// Counts the images of all ranks and decides whether enough of them are good.
///
/// # Errors
/// On all ranks, after rank 0 has named every bad image, when no image is left or too many are bad.
pub fn tally(job: &Job, featurized: &Featurized) -> Result<Tally, Failure> {
    let tally = count(job, &featurized.blocks, featurized.seconds);
    let named = name_bad_images(job, &featurized.blocks, &tally);
    let Images { failed, ok, .. } = tally.images;
    let fraction = failed as f64 / (failed + ok).max(1) as f64;
    if ok == 0 {
        name_all(&named);
        return Err(Failure::new(
            Kind::Input,
            format!(
                "no image is left: {failed} failed, {} skipped",
                tally.images.skipped
            ),
        ));
    }
    if fraction > job.settings.max_bad_fraction {
        name_all(&named);
        return Err(Failure::new(
            Kind::Input,
            format!(
                "{failed} of {} images are bad, more than the fraction {} of --max-bad-fraction",
                failed + ok,
                job.settings.max_bad_fraction
            ),
        ));
    }
    name_some(&named);
    Ok(tally)
}

fn count(job: &Job, blocks: &[Block], seconds: f64) -> Tally {
    let rows: Vec<u64> = blocks.iter().map(|block| block.rows as u64).collect();
    let rows_per_block = job.comm.all_gather_u64(&rows).concat();
    let mut mine = [0u64; 6];
    for block in blocks {
        for outcome in &block.outcomes {
            let slot = match outcome.status {
                Status::Ok => 0,
                Status::Skipped => 1,
                Status::Failed => 2,
            };
            mine[slot] += 1;
            if !block.resumed {
                mine[3] += outcome.bytes;
            }
        }
        if block.resumed {
            mine[4] += block.outcomes.len() as u64;
        } else {
            mine[5] += block.rows as u64;
        }
    }
    let mut sum = [0u64; 6];
    for rank in job.comm.all_gather_u64(&mine) {
        for (total, value) in sum.iter_mut().zip(rank) {
            *total += value;
        }
    }
    Tally {
        rows_per_block: rows_per_block
            .into_iter()
            .map(|rows| rows as usize)
            .collect(),
        images: Images {
            listed: sum[0] + sum[1] + sum[2],
            ok: sum[0],
            skipped: sum[1],
            failed: sum[2],
            resumed: sum[4],
        },
        bytes_read: sum[3],
        computed: sum[5],
        seconds: job
            .comm
            .all_gather_f64(&[seconds])
            .concat()
            .into_iter()
            .fold(0.0, f64::max),
    }
}

/// The bad images of all ranks at rank 0, nothing elsewhere.
fn name_bad_images(job: &Job, blocks: &[Block], tally: &Tally) -> Vec<String> {
    if tally.images.failed == 0 {
        return Vec::new();
    }
    let mine: Vec<String> = blocks
        .iter()
        .flat_map(|block| &block.outcomes)
        .filter(|outcome| outcome.status == Status::Failed)
        .map(sentence)
        .collect();
    // A newline cannot be confused with one in a file name: `sentence` escapes those.
    let all = job
        .comm
        .gather_bytes(mine.join("\n").as_bytes())
        .unwrap_or_default();
    all.iter()
        .flat_map(|rank| {
            String::from_utf8_lossy(rank)
                .lines()
                .map(str::to_string)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn sentence(outcome: &Outcome) -> String {
    format!(
        "bad image {:?}: {}",
        outcome.path,
        outcome
            .reason
            .as_deref()
            .unwrap_or("unknown cause")
            .replace('\n', " ")
    )
}

fn name_all(named: &[String]) {
    for sentence in named {
        error!("{sentence}");
    }
}

fn name_some(named: &[String]) {
    for sentence in named.iter().take(NAMED) {
        warn!("{sentence}");
    }
    if named.len() > NAMED {
        warn!(
            "and {} more bad images: see outcomes.parquet",
            named.len() - NAMED
        );
    }
}
