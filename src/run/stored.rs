//! `p8 pca`: the components of feature vectors that stand in files.

use super::announce::{count, size};
use super::blocks::{Block, Blocks, fit};
use super::context::Context;
use super::dry_run::say;
use super::memory;
use super::network::Network;
use super::output_folder;
use super::publish::{Counts, Finished, Origin, publish};
use super::settings::{Settings, StoredFeatures};
use crate::comm::Comm;
use crate::dataset::slice;
use crate::error::{Failure, Kind};
use crate::features::{Catalog, Reader};
use crate::output::metrics::{Images, Task};
use crate::output::shard::Provenance;
use crate::pca;
use crate::timing::Phase;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use tracing::{info, warn};

/// The settings of `p8 pca`.
#[derive(Debug, Clone)]
pub struct PcaTask {
    /// Where the features are.
    pub features: StoredFeatures,
    /// Everything else; what concerns images is not looked at.
    pub settings: Settings,
}

/// Fits a model to stored features and projects them on it.
///
/// # Errors
/// The same failure on every rank; its kind decides the exit code.
pub fn pca(task: &PcaTask, comm: &Comm) -> Result<(), Failure> {
    let context = Context::start(&task.settings, comm);
    let catalog = open(&task.features, &context)?;
    let folder = output_folder::prepare(&task.settings, comm, false)?;
    if task.settings.dry_run {
        return plan(&context, &catalog);
    }
    let blocks = blocks(&catalog, &context);
    let fitted = fit(&context, &blocks);
    publish(&Finished {
        task: Task::Pca,
        context: &context,
        folder: &folder,
        blocks: &blocks,
        model: &fitted.model,
        traffic: fitted.traffic,
        origin: &origin(&catalog.provenance, &task.features),
        counts: counts(&catalog),
        unlike_hosts: None,
    })
}

/// Finds the stored features: rank 0 looks, all ranks know.
///
/// # Errors
/// On all ranks.
pub fn open(features: &StoredFeatures, context: &Context) -> Result<Catalog, Failure> {
    let comm = context.comm;
    let mut bytes = context.phases.time(Phase::List, || {
        comm.agree(if comm.rank() == 0 {
            Catalog::open(&features.paths, features.column.as_deref())
                .map_err(Failure::from)
                .and_then(|catalog| serde_json::to_vec(&catalog).map_err(broken))
        } else {
            Ok(Vec::new())
        })
    })?;
    comm.broadcast_bytes(&mut bytes, 0);
    if comm.rank() == 0 {
        for path in &features.paths {
            if path.join("features").is_dir() && !path.join("metrics.json").exists() {
                let path = path.display().to_string();
                warn!("{path:?} holds no finished result: some of its features may be missing");
            }
        }
    }
    let catalog: Catalog = comm.or_end(serde_json::from_slice(&bytes).map_err(broken));
    info!(
        rows = catalog.rows(),
        features = catalog.width,
        "stored    {} of {} in {}",
        count(catalog.rows(), "row"),
        count(catalog.width, "feature"),
        count(catalog.files(), "file"),
    );
    Ok(catalog)
}

/// The rows of a catalog as this rank reads them.
pub fn blocks<'a>(catalog: &Catalog, context: &'a Context) -> Blocks<'a> {
    let rows_per_block = catalog.blocks();
    let starts: Vec<usize> = rows_per_block
        .iter()
        .scan(0, |next, rows| {
            let start = *next;
            *next += rows;
            Some(start)
        })
        .collect();
    let reader = Rc::new(RefCell::new(Reader::new(catalog.clone())));
    let lengths = rows_per_block.clone();
    let rows_of = move |block: usize| starts[block]..starts[block] + lengths[block];
    Blocks {
        owner_of_block: slice::owners(rows_per_block.len(), context.comm.size()),
        rows_per_block,
        width: catalog.width,
        thumbnails: Box::new({
            let (reader, rows_of) = (Rc::clone(&reader), rows_of.clone());
            move |block| {
                let _reading = context.phases.start(Phase::Shard);
                Ok(reader.borrow().thumbnails(rows_of(block))?)
            }
        }),
        read: Box::new(move |block| {
            let _reading = context.phases.start(Phase::Shard);
            let read = reader.borrow_mut().read(rows_of(block))?;
            Ok(Block {
                rows: read.names,
                features: read.features,
                outcomes: Vec::new(),
            })
        }),
    }
}

/// What the results say about features of this provenance in these files.
pub fn origin(provenance: &Provenance, features: &StoredFeatures) -> Origin {
    let from_root = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let files = features.paths.iter();
    Origin {
        files: files
            .map(|path| from_root(path).to_string_lossy().into_owned())
            .collect(),
        weights: Network::weights_of(provenance),
        provenance: provenance.clone(),
        executor: "no network: the features were stored".into(),
    }
}

/// Every stored row counts as an image that is ok.
pub fn counts(catalog: &Catalog) -> Counts {
    let rows = catalog.rows() as u64;
    Counts {
        images: Images {
            listed: rows,
            ok: rows,
            resumed: rows,
            ..Images::default()
        },
        images_per_second: None,
        first_features_seconds: None,
        bytes_read: 0,
        lists_images: false,
    }
}

/// `--dry-run`: what would be computed, on rank 0.
fn plan(context: &Context, catalog: &Catalog) -> Result<(), Failure> {
    let (n, d) = (catalog.rows(), catalog.width);
    let settings = context.settings;
    let on = (context.comm.size(), context.threads);
    let pca = memory::limited(settings.pca, context.comm);
    let (solver, reason) = pca::choose_solver(&pca, (n, d), on)?;
    if context.comm.rank() > 0 {
        return Ok(());
    }
    say(format!(
        "would read    {} of {}",
        count(n, "row"),
        count(d, "feature")
    ));
    say(format!(
        "would cut     {} for {}",
        count(catalog.blocks().len(), "block"),
        count(context.comm.size(), "rank")
    ));
    say(format!("solver        {}: {reason}", solver.as_str()));
    say(format!(
        "memory        about {} a rank for the factorisation",
        size(pca::memory_bytes(solver, &pca, (n, d), on))
    ));
    say(format!(
        "would write   {} (it can be written)",
        settings.output
    ));
    say("to do it      the same command without --dry-run".into());
    Ok(())
}

fn broken(error: serde_json::Error) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on the list of stored features: {error}"),
    )
}
