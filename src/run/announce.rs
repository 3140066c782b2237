//! What a run tells at its steps.

use super::listing::Listing;
use super::network::Network;
use super::publish::{Finished, results};
use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::kernels::{CacheSizes, Isa};
use crate::linalg;
use crate::model::executor::Executor;
use crate::pca::{self, Exact, Model, PcaSettings, Rows, Solver};
use crate::timing::{Phase, Summary};
use std::collections::{BTreeMap, BTreeSet};
use tracing::{debug, info, warn};

/// Ranks, hosts and threads; warns where the launcher keeps cores from a rank.
pub fn start(comm: &Comm, place: &Place, threads: usize) {
    let hosts: BTreeSet<Vec<u8>> = comm
        .all_gather_bytes(place.host.as_bytes())
        .into_iter()
        .collect();
    info!(
        ranks = comm.size(),
        hosts = hosts.len(),
        threads,
        "p8 {}: {} on {}, {} each",
        env!("CARGO_PKG_VERSION"),
        count(comm.size(), "rank"),
        count(hosts.len(), "host"),
        count(threads, "thread"),
    );
    if let Some(warning) = place.binding_warning() {
        warn!("{warning}");
    }
}

/// What was found to work on.
pub fn images(listing: &Listing) {
    info!(
        images = listing.slices.images(),
        bytes = listing.bytes,
        "images    {}, {}, in {}",
        count(listing.slices.images(), "image"),
        size(listing.bytes as f64),
        count(listing.slices.blocks(), "block")
    );
}

/// What computes the features, from which weights.
pub fn network(network: &Network, executor: &dyn Executor) {
    info!(weights = network.id, "weights   {}", network.describe());
    info!("network   {}", executor.describe());
    debug!("caches    {}", CacheSizes::detect());
}

/// Says so where ranks run on processors for which the network or the linear algebra choose other kernels:
/// results then are those of this set of hosts.
pub fn unlike_hosts(comm: &Comm, executor: &dyn Executor) -> Option<String> {
    // The products of the QR that are not OpenBLAS's choose by the processor alone.
    let mine = format!(
        "{}; {}; {}",
        executor.arithmetic(),
        linalg::blas_description(),
        Isa::detect().as_str()
    );
    let kinds: BTreeSet<String> = comm
        .all_gather_bytes(mine.as_bytes())
        .iter()
        .map(|kind| String::from_utf8_lossy(kind).into_owned())
        .collect();
    if kinds.len() == 1 {
        return None;
    }
    let kinds: Vec<String> = kinds.into_iter().collect();
    let sentence = format!(
        "the ranks run on unlike processors ({}), so the last bits of a result depend on which rank works on which image; hosts of one kind, and OPENBLAS_CORETYPE set to the oldest of them, avoid that",
        kinds.join(" and ")
    );
    if comm.rank() == 0 {
        warn!("{sentence}");
    }
    Some(sentence)
}

/// What the factorisation will need on each rank, before it takes it.
pub fn memory(rows: &Rows, settings: &PcaSettings, ranks: usize, threads: usize) {
    let (n, d) = (rows.total(), rows.width);
    // An error here comes again, and then counts, from the factorisation itself.
    if let Ok((solver, _)) = pca::choose_solver(settings, (n, d), (ranks, threads)) {
        let needed = pca::memory_bytes(solver, settings, (n, d), (ranks, threads));
        let available = match settings.memory {
            Some(bytes) => format!(", of {} that there are", size(bytes)),
            None => String::new(),
        };
        info!(
            "memory    about {} a rank for the factorisation{available}",
            size(needed)
        );
    }
}

/// What the PCA found, and why it went this way.
pub fn model(model: &Model) {
    // An empty sum is -0.
    let explained: f64 = model.explained_variance_ratio.iter().sum::<f64>() + 0.0;
    info!(
        components = model.components.nrows(),
        explained_variance_ratio = explained,
        "pca       {} in {}: {}",
        model.solver.as_str(),
        model.precision.as_str(),
        model.solver_reason
    );
    info!(
        "pca       {}; {} {:.2} % of the variance of {}",
        with_count(&model.k_reason, model.components.nrows()),
        match model.components.nrows() {
            1 => "it explains",
            _ => "together they explain",
        },
        100.0 * explained,
        count(model.mean.len(), "feature")
    );
    if let Some(error) = model.evidence.approximation {
        info!(
            directions = error.directions,
            power_iterations = error.power_iterations,
            residual = error.residual,
            rest = error.rest,
            "pca       approximated by {} random directions: each singular value is right to {:.1e} of the largest, and none that is left out is larger than {:.1e} of it",
            error.directions,
            error.residual,
            error.rest
        );
    }
}

/// What the exact checks of a model, all of which passed, have looked at.
pub fn verified(exact: &Exact, model: &Model) {
    let factor = match (exact.factor_residual, exact.factor_orthogonality) {
        (Some(residual), Some(orthogonality)) => format!(
            "of the factorisation the residual is {:.1e}, the orthogonality {:.1e}",
            residual.value, orthogonality.value
        ),
        (Some(residual), None) => format!(
            "of the factorisation the residual is {:.1e}; R is singular, so there is no Q to look at",
            residual.value
        ),
        (None, _) => {
            let solver = if model.n < model.mean.len() as u64 {
                Solver::Wide
            } else {
                Solver::Tsqr
            };
            format!(
                "no factorisation was compared with the features (--solver {} makes one)",
                solver.as_str()
            )
        }
    };
    info!("verified  the components in all directions; {factor}");
}

/// What was written, on rank 0, and how long it took as the results say.
pub fn results_of(run: &Finished, elapsed_seconds: f64) {
    let folder = run.folder.root();
    let names = results(run.task, run.counts.lists_images);
    let images = run.counts.images;
    let mut done = format!(
        "{} in {elapsed_seconds:.1} s",
        count(images.ok as usize, "image")
    );
    for (number, what) in [(images.failed, "bad"), (images.skipped, "skipped")] {
        if number > 0 {
            done.push_str(&format!(", {number} {what}"));
        }
    }
    info!(images = images.ok, bad = images.failed, "done      {done}");
    let mut title = "results";
    let mut tell = |what: String| {
        info!("{title:<9} {what}");
        title = "";
    };
    if names.contains(&"report.html") {
        tell(format!("{folder}/report.html: look at this first"));
    }
    tell(format!(
        "{folder}/scores.csv, scores.parquet: a row with scores for each image"
    ));
    let mut others: Vec<&str> = names
        .into_iter()
        .filter(|name| !name.starts_with("scores") && *name != "report.html")
        .collect();
    if images.failed + images.skipped > 0 {
        tell(format!(
            "{folder}/outcomes.parquet: what is wrong with the others"
        ));
        others.retain(|name| *name != "outcomes.parquet");
    }
    if run.counts.lists_images {
        others.push("features/");
    }
    tell(format!("{folder}/{}", others.join(", ")));
}

/// Seconds by phase over the ranks, those that took any.
pub fn phases(phases: &BTreeMap<Phase, Summary>) {
    info!(
        "seconds   {:<8} {:>8} {:>8} {:>8}  slowest",
        "phase", "min", "mean", "max"
    );
    for (phase, summary) in phases {
        if summary.max >= 0.005 {
            info!(
                phase = phase.as_str(),
                min_seconds = summary.min,
                mean_seconds = summary.mean,
                max_seconds = summary.max,
                slowest_rank = summary.slowest_rank,
                "          {:<8} {:>8.2} {:>8.2} {:>8.2}  rank {}",
                phase.as_str(),
                summary.min,
                summary.mean,
                summary.max,
                summary.slowest_rank
            );
        }
    }
}

/// `1.5 MB`.
pub fn size(bytes: f64) -> String {
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

/// Why there are so many components, with their number before it where it does not begin with that.
fn with_count(reason: &str, components: usize) -> String {
    let number = count(components, "component");
    match reason.starts_with(&number) {
        true => reason.to_string(),
        false => format!("{number}: {reason}"),
    }
}

/// `1 rank`, `3 ranks`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_components_is_said_once() {
        let said = with_count("1 component reaches 95 % of the variance", 1);
        assert_eq!(said, "1 component reaches 95 % of the variance");
        assert_eq!(
            with_count("cut at the numerical rank 3", 3),
            "3 components: cut at the numerical rank 3"
        );
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0.0), "0 B");
        assert_eq!(size(999.0), "999 B");
        assert_eq!(size(451_000.0), "451.0 kB");
        assert_eq!(size(2.5e9), "2.5 GB");
    }
}
