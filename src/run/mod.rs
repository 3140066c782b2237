//! The story of a run: list, slice, featurize, fit, project, publish.
//!
//! An `Err` that leaves [`run`] is one that all ranks agreed on. What fails on one rank inside a
//! stage ends the job from there ([`Comm::or_end`]), or the others would wait for ever.

mod announce;
pub mod doctor;
mod dry_run;
mod featurize;
mod fingerprint;
mod listing;
mod load;
mod network;
mod output_folder;
mod progress;
mod project;
mod publish;
mod resume;
pub mod settings;
mod tally;

use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::error::Failure;
use crate::linalg;
use crate::pca;
use crate::timing::{Phase, Phases};
use settings::Settings;
use std::time::SystemTime;

/// Runs the pipeline on this rank together with all others.
///
/// # Errors
/// The same failure on every rank; its kind decides the exit code.
pub fn run(settings: &Settings, comm: &Comm) -> Result<(), Failure> {
    let started = SystemTime::now();
    let phases = Phases::new();
    linalg::init();
    let place = Place::find(comm);
    let threads = settings.threads.unwrap_or(place.default_threads());
    announce::start(comm, &place, threads);
    let isa = network::instruction_set(settings, comm)?;

    let listing = phases.time(Phase::List, || listing::list(settings, comm))?;
    let folder = output_folder::prepare(settings, comm)?;
    if settings.dry_run {
        return dry_run::dry_run(settings, comm, &listing, threads, isa);
    }
    let network = phases.time(Phase::Weights, || network::load(settings, comm))?;
    let mut executor = comm.agree(network.executor(settings, threads, isa))?;
    announce::network(&network, executor.as_ref());
    let unlike_hosts = announce::unlike_hosts(comm, executor.as_ref());

    let job = featurize::Job {
        settings,
        comm,
        folder: &folder,
        listing: &listing,
        fingerprint: fingerprint::of_features(settings, &network, executor.as_ref()),
        preprocess: network.preprocess,
        threads,
        phases: &phases,
    };
    let featurized = comm.or_end(featurize::featurize(&job, executor.as_mut()));
    let tally = tally::tally(&job, &featurized)?;
    drop(featurized);

    let rows_per_block = tally.rows_per_block.clone();
    let owners = listing.slices.owners();
    let rows = pca::Rows {
        rows_per_block: &rows_per_block,
        owner_of_block: &owners,
        width: executor.width(),
    };
    announce::memory(&rows, &settings.pca, comm.size(), threads);
    let model = phases.time(Phase::Fit, || {
        comm.or_end(
            pca::fit(comm, &rows, &mut |block| job.rows_of(block), &settings.pca)
                .map_err(Failure::from),
        )
    });
    announce::model(&model);

    publish::publish(&publish::Finished {
        job: &job,
        tally: &tally,
        network: &network,
        executor: executor.as_ref(),
        model: &model,
        place: &place,
        unlike_hosts,
        started,
    })
}
