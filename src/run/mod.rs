//! The story of a run: list, slice, featurize, fit, project, publish. `p8 pca` begins at the fit
//! (`stored`), `p8 transform` has its model already.
//!
//! An `Err` that leaves [`run`] is one that all ranks agreed on. What fails on one rank inside a
//! stage ends the job from there ([`Comm::or_end`]), or the others would wait for ever.

mod announce;
mod blocks;
mod command;
mod context;
pub mod doctor;
mod dry_run;
mod earlier;
mod featurize;
mod fetch;
mod fingerprint;
mod fitted_model;
mod listing;
mod load;
mod loader;
mod memory;
mod network;
mod output_folder;
mod progress;
mod project;
mod publish;
pub mod report;
mod resume;
pub mod settings;
pub mod stored;
mod tally;
pub mod terminal;
pub mod transform;

use crate::comm::Comm;
use crate::error::Failure;
use crate::kernels::Isa;
use crate::model::Tensors;
use crate::output::metrics::Task;
use crate::timing::Phase;
use blocks::Blocks;
use context::Context;
use featurize::Job;
use listing::Listing;
use network::Network;
use output_folder::Folder;
use publish::{Counts, Finished, Origin};
use settings::Settings;
use terminal::Line;

/// Runs the pipeline on this rank together with all others.
///
/// # Errors
/// The same failure on every rank; its kind decides the exit code.
pub fn run(settings: &Settings, comm: &Comm) -> Result<(), Failure> {
    let context = Context::start(settings, comm);
    let isa = network::instruction_set(settings, comm)?;
    let listing = {
        let _line = Line::start(comm, settings.log, "images    listing");
        context
            .phases
            .time(Phase::List, || listing::list(settings, comm))?
    };
    let folder = output_folder::prepare(settings, comm, true)?;
    if settings.dry_run {
        return dry_run::dry_run(settings, comm, &listing, context.threads, isa);
    }
    announce::images(&listing);
    let network = {
        let _line = Line::start(comm, settings.log, "weights   loading");
        context
            .phases
            .time(Phase::Weights, || network::load(settings, comm))?
    };
    let images = featurize(&context, &folder, &listing, network, isa)?;
    let fitted = blocks::fit(&context, &images.blocks);
    publish::publish(&Finished {
        task: Task::Run,
        context: &context,
        folder: &folder,
        blocks: &images.blocks,
        model: &fitted.model,
        traffic: fitted.traffic,
        origin: &images.origin,
        counts: images.counts,
        unlike_hosts: images.unlike_hosts,
    })
}

/// Images that went through the network.
struct Featurized<'a> {
    blocks: Blocks<'a>,
    origin: Origin,
    counts: Counts,
    /// A sentence where the ranks' processors differ.
    unlike_hosts: Option<String>,
}

/// Pushes the listed images through the network, or takes what an earlier run has left of them.
fn featurize<'a>(
    context: &'a Context,
    folder: &'a Folder,
    listing: &'a Listing,
    (network, tensors): (Network, Tensors),
    isa: Isa,
) -> Result<Featurized<'a>, Failure> {
    let (settings, comm) = (context.settings, context.comm);
    let mut executor = comm.agree(context.phases.time(Phase::Weights, || {
        network.executor(tensors, settings, context.threads, isa)
    }))?;
    announce::network(&network, executor.as_ref());
    let unlike_hosts = announce::unlike_hosts(comm, executor.as_ref());
    let job = Job {
        settings,
        comm,
        folder,
        listing,
        provenance: fingerprint::provenance(settings, &network, executor.as_ref()),
        preprocess: network.preprocess,
        threads: context.threads,
        phases: &context.phases,
    };
    let featurized = comm.or_end(featurize::featurize(&job, executor.as_mut()));
    let tally = tally::tally(&job, &featurized)?;
    Ok(Featurized {
        origin: Origin {
            provenance: job.provenance.clone(),
            weights: Some(network.weights()),
            executor: executor.describe(),
            files: Vec::new(),
        },
        counts: tally.counts(),
        unlike_hosts,
        blocks: Blocks {
            rows_per_block: tally.rows_per_block,
            owner_of_block: listing.slices.owners(),
            width: executor.width(),
            read: Box::new({
                let job = job.clone();
                move |block| job.block(block)
            }),
            thumbnails: Box::new(move |block| job.thumbnails(block)),
        },
    })
}
