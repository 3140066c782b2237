//! `p8 transform`: scores of new images, or of stored features, by a model that was fitted before.

use super::announce::count;
use super::context::Context;
use super::fitted_model::{self, entry, malformed};
use super::publish::{Finished, publish};
use super::settings::{Settings, StoredFeatures, WeightsChoice};
use super::{featurize, listing, network, output_folder, stored};
use crate::comm::Comm;
use crate::error::{Failure, Kind};
use crate::features::Catalog;
use crate::output::metrics::Task;
use crate::output::model_file::ModelFile;
use crate::output::shard::Provenance;
use crate::pca::{Components, Model, PcaSettings};
use crate::store::{Location, Store};
use crate::timing::Phase;
use serde::de::DeserializeOwned;
use std::path::Path;
use tracing::{info, warn};

/// The settings of `p8 transform`.
#[derive(Debug, Clone)]
pub struct TransformTask {
    /// The file of the model.
    pub model: Location,
    /// Stored features instead of images.
    pub features: Option<StoredFeatures>,
    /// Whether the weights were named, or are to be those that the model names.
    pub weights_are_named: bool,
    /// Everything else; what decides features is the model's, and what is set here must agree.
    pub settings: Settings,
}

/// What a model needs of the features, by the names of its metadata and of the options.
const OF_FEATURES: [&str; 6] = [
    "topology",
    "preprocess",
    "exif",
    "layer",
    "pool",
    "precision",
];

/// Scores images or stored features.
///
/// # Errors
/// The same failure on every rank; its kind decides the exit code.
pub fn transform(task: &TransformTask, comm: &Comm) -> Result<(), Failure> {
    comm.agree(if comm.rank() == 0 {
        refuse_folder_of_model(task)
    } else {
        Ok(())
    })?;
    let (model, provenance) = load(&task.settings.store, &task.model, comm)?;
    match &task.features {
        Some(features) => of_stored(task, features, &model, &provenance, comm),
        None => of_images(task, &model, &provenance, comm),
    }
}

/// Results of this task would take the place of those that belong to the model.
fn refuse_folder_of_model(task: &TransformTask) -> Result<(), Failure> {
    let is_there = match (&task.model, &task.settings.output) {
        (Location::Local(model), Location::Local(output)) => {
            let folder = |path: &Path| std::fs::canonicalize(path).ok();
            let of_model = folder(model).and_then(|file| file.parent().map(Path::to_path_buf));
            of_model.is_some() && of_model == folder(output)
        }
        (Location::S3(model), Location::S3(output)) => *model == output.join(model.name()),
        _ => false,
    };
    if is_there {
        return Err(Failure::new(
            Kind::Usage,
            format!(
                "cannot write to {:?}: the model and its results are there; name another folder with \
                 --output",
                task.settings.output.to_string()
            ),
        ));
    }
    Ok(())
}

/// Reads the model on rank 0 and hands it to all ranks.
fn load(store: &Store, file: &Location, comm: &Comm) -> Result<(Model, Provenance), Failure> {
    let of_file =
        |failure: Failure| Failure::new(failure.kind, format!("{:?}: {failure}", file.to_string()));
    let read = |bytes: &[u8]| {
        ModelFile::read(bytes)
            .map_err(Failure::from)
            .and_then(fitted_model::from_file)
            .map_err(of_file)
    };
    let mut bytes = comm.agree(if comm.rank() == 0 {
        store
            .read(file)
            .map_err(Failure::from)
            .and_then(|bytes| read(&bytes).map(|_| Vec::from(bytes)))
    } else {
        Ok(Vec::new())
    })?;
    comm.broadcast_bytes(&mut bytes, 0);
    Ok(comm.or_end(read(&bytes)))
}

fn of_stored(
    task: &TransformTask,
    features: &StoredFeatures,
    model: &Model,
    provenance: &Provenance,
    comm: &Comm,
) -> Result<(), Failure> {
    let context = Context::start(&task.settings, comm);
    announce(model);
    let catalog = stored::open(features, &context)?;
    refuse_other_features(&catalog, model, provenance)?;
    let folder = output_folder::prepare(&task.settings, comm, false)?;
    publish(&Finished {
        task: Task::Transform,
        context: &context,
        folder: &folder,
        blocks: &stored::blocks(&catalog, &context),
        model,
        traffic: Vec::new(),
        origin: &stored::origin(&catalog.provenance, features),
        counts: stored::counts(&catalog),
        unlike_hosts: None,
    })
}

fn of_images(
    task: &TransformTask,
    model: &Model,
    provenance: &Provenance,
    comm: &Comm,
) -> Result<(), Failure> {
    let settings = settings_of(task, model, provenance)?;
    let context = Context::start(&settings, comm);
    announce(model);
    let isa = network::instruction_set(&settings, comm)?;
    let listing = context
        .phases
        .time(Phase::List, || listing::list(&settings, comm))?;
    let folder = output_folder::prepare(&settings, comm, true)?;
    let (network, tensors) = context
        .phases
        .time(Phase::Weights, || network::load(&settings, comm))?;
    let (asked, given) = (entry(provenance, "weights_sha256")?, &network.sha256);
    if asked != given {
        return Err(Failure::new(
            Kind::Weights,
            format!(
                "cannot score with the weights {} (SHA-256 {given}): the model was fitted with {} \
                 (SHA-256 {asked})",
                network.id,
                entry(provenance, "weights")?
            ),
        ));
    }
    let images = featurize(&context, &folder, &listing, (network, tensors), isa)?;
    if images.blocks.width != model.width() {
        return Err(other_width(images.blocks.width, model));
    }
    if images.origin.provenance.get("fingerprint") != provenance.get("fingerprint")
        && comm.rank() == 0
    {
        warn!(
            "this machine, or this version of p8, computes features with other instructions than the \
             one that fitted the model: scores may differ in their last digits"
        );
    }
    publish(&Finished {
        task: Task::Transform,
        context: &context,
        folder: &folder,
        blocks: &images.blocks,
        model,
        traffic: Vec::new(),
        origin: &images.origin,
        counts: images.counts,
        unlike_hosts: images.unlike_hosts,
    })
}

fn announce(model: &Model) {
    info!(
        components = model.k(),
        "model     {} of {}, fitted to {}",
        count(model.k(), "component"),
        count(model.width(), "feature"),
        count(model.n as usize, "image"),
    );
}

/// The settings with everything that decides features as the model has it.
fn settings_of(
    task: &TransformTask,
    model: &Model,
    provenance: &Provenance,
) -> Result<Settings, Failure> {
    if !provenance.contains_key("weights_sha256") {
        return Err(Failure::new(
            Kind::Usage,
            "cannot score images with this model: it was fitted to features that p8 did not compute; \
             give features of the same kind with --features",
        ));
    }
    for setting in task
        .settings
        .listed
        .iter()
        .filter(|s| s.source != "default")
    {
        let Some(of_model) = provenance
            .get(&setting.name)
            .filter(|_| OF_FEATURES.contains(&setting.name.as_str()))
        else {
            continue;
        };
        if *of_model != setting.value {
            return Err(Failure::new(
                Kind::Usage,
                format!(
                    "cannot score with --{} {}: the model was fitted with {of_model}",
                    setting.name, setting.value
                ),
            ));
        }
    }
    let mut settings = task.settings.clone();
    if !task.weights_are_named {
        settings.weights = weights_of_model(entry(provenance, "weights")?)?;
    }
    settings.topology = Some(value(provenance, "topology")?);
    settings.preprocess = Some(value(provenance, "preprocess")?);
    settings.exif = value(provenance, "exif")?;
    settings.layer = value(provenance, "layer")?;
    settings.pool = value(provenance, "pool")?;
    settings.precision = value(provenance, "precision")?;
    settings.pca = PcaSettings {
        components: Components::Count(model.k()),
        standardize: model.standardized,
        whiten: model.whiten,
        solver: model.solver,
        precision: model.precision,
        memory: None,
        keep_factor: false,
    };
    for setting in &mut settings.listed {
        if let Some(of_model) = provenance.get(&setting.name) {
            let is_named = setting.name == "weights" && task.weights_are_named;
            if !is_named && setting.source == "default" {
                setting.value.clone_from(of_model);
                setting.source = "model".into();
            }
        }
    }
    Ok(settings)
}

/// The weights that the model names: those of a file the user has to name again.
fn weights_of_model(id: &str) -> Result<WeightsChoice, Failure> {
    match id.parse() {
        Ok(choice @ (WeightsChoice::Named(_) | WeightsChoice::Seeded(_))) => Ok(choice),
        Ok(WeightsChoice::Path(_) | WeightsChoice::S3(_)) | Err(_) => Err(Failure::new(
            Kind::Usage,
            format!("the model was fitted with weights from a file, {id}: name it with --weights"),
        )),
    }
}

/// A setting as the metadata spell it.
fn value<T: DeserializeOwned>(provenance: &Provenance, key: &str) -> Result<T, Failure> {
    let text = entry(provenance, key)?;
    serde_json::from_value(text.into()).map_err(|_| malformed(key, text))
}

/// Stored features must be of the model's width and, where both say what they are, of its kind.
fn refuse_other_features(
    catalog: &Catalog,
    model: &Model,
    provenance: &Provenance,
) -> Result<(), Failure> {
    if catalog.rows() == 0 {
        return Err(Failure::new(Kind::Input, "cannot score 0 rows"));
    }
    if catalog.width != model.width() {
        return Err(other_width(catalog.width, model));
    }
    let names = OF_FEATURES.into_iter().chain(["weights_sha256"]);
    let differences: Vec<String> = names
        .filter_map(|name| {
            let (theirs, ours) = (catalog.provenance.get(name)?, provenance.get(name)?);
            (theirs != ours).then(|| format!("{name}: {theirs} there, {ours} in the model"))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Input,
        format!(
            "cannot score features that were computed with other settings than those of the model ({})",
            differences.join("; ")
        ),
    ))
}

fn other_width(width: usize, model: &Model) -> Failure {
    Failure::new(
        Kind::Input,
        format!(
            "cannot score {}: the model was fitted to {}",
            count(width, "feature"),
            count(model.width(), "feature")
        ),
    )
}
