//! What became of all images, on all ranks, after the network.

use super::announce;
use super::featurize::{Block, Featurized, Job};
use super::publish::Counts;
use crate::dataset::outcome::Outcome;
use crate::error::{Failure, Kind};
use crate::output::metrics::Images;
use tracing::{error, info, warn};

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
    /// Seconds from the start of the program to the first features, on the rank where that took
    /// longest; `None` where nothing was computed.
    first_features_seconds: Option<f64>,
}

impl Tally {
    /// What the results say of it.
    pub fn counts(&self) -> Counts {
        Counts {
            images: self.images,
            images_per_second: self.images_per_second(),
            first_features_seconds: self.first_features_seconds,
            bytes_read: self.bytes_read,
            lists_images: true,
        }
    }

    /// One line for the log: the numbers of the report.
    fn tell(&self) {
        let Images {
            listed,
            ok,
            skipped,
            failed,
            resumed,
            ..
        } = self.images;
        let mut text = announce::count(listed as usize, "image");
        if ok < listed {
            text = format!("{ok} of {text}");
        }
        for (number, what) in [
            (failed, "bad"),
            (skipped, "skipped"),
            (resumed, "from an earlier run"),
        ] {
            if number > 0 {
                text.push_str(&format!(", {number} {what}"));
            }
        }
        if let Some(rate) = self.images_per_second() {
            text.push_str(&format!(", {rate:.1} images/s"));
        }
        info!(
            images = listed,
            bad = failed,
            "features  {text}, {:.1} s",
            self.seconds
        );
    }

    /// Rate of this run from the first read to the last feature; `None` where nothing was computed.
    fn images_per_second(&self) -> Option<f64> {
        (self.computed > 0 && self.seconds > 0.0).then(|| self.computed as f64 / self.seconds)
    }
}

/// Counts the images of all ranks and decides whether enough of them are good.
///
/// # Errors
/// On all ranks, after rank 0 has named every bad image, when no image is left or too many are bad.
pub fn tally(job: &Job, featurized: &Featurized) -> Result<Tally, Failure> {
    let tally = count(job, featurized);
    tally.tell();
    let Images {
        failed,
        ok,
        skipped,
        ..
    } = tally.images;
    let fraction = failed as f64 / (failed + ok).max(1) as f64;
    let verdict = if ok == 0 {
        Some(format!(
            "no image is left: {failed} failed, {skipped} skipped; the failed ones are named above"
        ))
    } else if fraction > job.settings.max_bad_fraction {
        Some(format!(
            "{failed} of {} images are bad, more than the fraction {} of --max-bad-fraction; they are named above",
            failed + ok,
            job.settings.max_bad_fraction
        ))
    } else {
        None
    };
    let most = if verdict.is_some() { usize::MAX } else { NAMED };
    let named = name_bad_images(job, &featurized.blocks, most);
    if let Some(text) = verdict {
        for sentence in &named {
            error!("{sentence}");
        }
        return Err(Failure::new(Kind::Input, text));
    }
    for sentence in named.iter().take(NAMED) {
        warn!("{sentence}");
    }
    if failed > NAMED as u64 && job.comm.rank() == 0 {
        warn!(
            "and {} more bad images: see outcomes.parquet",
            failed - NAMED as u64
        );
    }
    Ok(tally)
}

fn count(job: &Job, featurized: &Featurized) -> Tally {
    let blocks = &featurized.blocks;
    let rows: Vec<u64> = blocks.iter().map(|block| block.rows as u64).collect();
    let rows_per_block = job.comm.all_gather_u64(&rows).concat();
    let mut mine = [0u64; 6];
    for block in blocks {
        mine[0] += block.rows as u64;
        mine[1] += block.skipped as u64;
        mine[2] += block.failed.len() as u64;
        mine[3] += block.bytes;
        mine[4] += block.resumed as u64;
        mine[5] += block.computed as u64;
    }
    let mut sum = [0u64; 6];
    for rank in job.comm.all_gather_u64(&mine) {
        for (total, value) in sum.iter_mut().zip(rank) {
            *total += value;
        }
    }
    let slowest = |seconds: &[f64]| {
        let all = job.comm.all_gather_f64(seconds).concat();
        all.into_iter().reduce(f64::max)
    };
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
            computed: sum[0] + sum[1] + sum[2] - sum[4],
        },
        bytes_read: sum[3],
        computed: sum[5],
        seconds: slowest(&[featurized.seconds]).unwrap_or(0.0),
        first_features_seconds: slowest(featurized.first_features.as_slice()),
    }
}

/// Bad images of all ranks at rank 0, at most so many of each rank; nothing elsewhere.
fn name_bad_images(job: &Job, blocks: &[Block], most: usize) -> Vec<String> {
    let mine: Vec<String> = blocks
        .iter()
        .flat_map(|block| &block.failed)
        .take(most)
        .map(sentence)
        .collect();
    // A newline cannot be confused with one in a file name: `sentence` escapes those.
    let all = job
        .comm
        .gather_bytes(mine.join("\n").as_bytes())
        .unwrap_or_default();
    let mut named = Vec::new();
    for rank in &all {
        named.extend(String::from_utf8_lossy(rank).lines().map(str::to_string));
    }
    named
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
