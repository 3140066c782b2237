//! What a run tells at its steps.

use super::network::Network;
use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::model::executor::Executor;
use crate::pca::Model;
use crate::timing::{Phase, Summary};
use std::collections::{BTreeMap, BTreeSet};
use tracing::{info, warn};

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

/// What computes the features, from which weights.
pub fn network(network: &Network, executor: &dyn Executor) {
    info!(weights = network.id, "weights   {}", network.describe());
    info!("network   {}", executor.describe());
}

/// What the PCA found, and why it went this way.
pub fn model(model: &Model) {
    let explained: f64 = model.explained_variance_ratio.iter().sum();
    info!(
        components = model.components.nrows(),
        explained_variance_ratio = explained,
        "pca       {}: {}",
        model.solver.as_str(),
        model.solver_reason
    );
    info!(
        "pca       {} of {} features explain {:.2} % of the variance: {}",
        count(model.components.nrows(), "component"),
        model.mean.len(),
        100.0 * explained,
        model.k_reason
    );
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

/// `1 rank`, `3 ranks`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
