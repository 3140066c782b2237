//! The folder or prefix of the results: made, tried, and kept from being overwritten by accident.

use super::settings::Settings;
use crate::comm::Comm;
use crate::error::{Failure, Kind};
use crate::store::{Location, Store};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tracing::warn;

/// Names of the results, in the order in which they are published; the last one says that all
/// others are there.
pub const RESULTS: [&str; 8] = [
    "outcomes.parquet",
    "scores.parquet",
    "scores.csv",
    "model.safetensors",
    "report.html",
    "scatter.svg",
    "scree.svg",
    "metrics.json",
];

/// The options that decide what a result is; with all others it is the same result.
const RESULT_SETTINGS: [&str; 19] = [
    "model",
    "features",
    "column",
    "input",
    "glob",
    "label",
    "exif",
    "weights",
    "topology",
    "preprocess",
    "layer",
    "pool",
    "precision",
    "components",
    "variance",
    "standardize",
    "whiten",
    "solver",
    "pca-precision",
];

/// The settings of the result, in a file of its own because it has to be there while the results are
/// being replaced.
const SETTINGS: &str = ".p8-settings.json";

/// Where the files of a run are.
#[derive(Debug, Clone)]
pub struct Folder {
    root: Location,
}

impl Folder {
    /// The folder that the settings name.
    pub fn of(settings: &Settings) -> Self {
        Folder {
            root: settings.output.clone(),
        }
    }

    /// A result, by its name.
    pub fn result(&self, name: &str) -> Location {
        self.root.join(name)
    }

    /// The folder of the feature shards.
    pub fn features(&self) -> Location {
        self.root.join("features")
    }

    /// The shard of a block.
    pub fn shard(&self, block: usize) -> Location {
        self.features().join(&format!("block-{block:06}.parquet"))
    }

    /// The folder of shards whose images lie in other blocks now. Hidden, so that nobody takes them
    /// for the features of a run.
    pub fn set_aside(&self) -> Location {
        self.features().join(".earlier")
    }

    /// The folder itself.
    pub fn root(&self) -> &Location {
        &self.root
    }
}

/// Makes the folder on every rank (hosts need not share it), `with_shards` also the one of the
/// feature shards, finds out that it can be written, and refuses one that holds a result of other settings.
///
/// # Errors
/// On all ranks.
pub fn prepare(settings: &Settings, comm: &Comm, with_shards: bool) -> Result<Folder, Failure> {
    let folder = Folder::of(settings);
    let refused = comm.agree(if comm.rank() == 0 {
        refuse_other_result(settings, &folder)
    } else {
        Ok(())
    });
    match refused {
        // A plan is still worth seeing.
        Err(failure) if settings.dry_run && comm.rank() == 0 => {
            warn!("the run itself would be refused: {failure}");
        }
        Err(_) if settings.dry_run => {}
        refused => refused?,
    }
    let is_new = |place: &Location| place.path().is_some_and(|path| !path.exists());
    let made = [is_new(folder.root()), is_new(&folder.features())];
    comm.barrier();
    let store = &settings.store;
    comm.agree(make(store, &folder, with_shards, comm.rank()))?;
    if settings.dry_run {
        comm.barrier();
        if comm.rank() == 0 {
            remove_made(store, &folder, made);
        }
        return Ok(folder);
    }
    // One rank a host would do; removing what is not there is no error.
    if comm.rank() == 0 {
        for place in [folder.root(), &folder.features()] {
            comm.or_end(store.remove_unfinished(place).map_err(Failure::from));
        }
    }
    comm.barrier();
    Ok(folder)
}

/// Takes away what only showed that the folder can be written.
fn remove_made(store: &Store, folder: &Folder, [root, features]: [bool; 2]) {
    // A folder that is not empty any more belongs to somebody else, and stays.
    if features {
        let _ = store.remove_folder(&folder.features());
    }
    if root {
        let _ = store.remove_folder(folder.root());
    }
}

fn make(store: &Store, folder: &Folder, with_shards: bool, rank: usize) -> Result<(), Failure> {
    store.create_folder(folder.root())?;
    if with_shards {
        store.create_folder(&folder.features())?;
        try_to_write(store, &folder.features(), rank)?;
    }
    try_to_write(store, folder.root(), rank)
}

/// Leaves nothing behind.
fn try_to_write(store: &Store, folder: &Location, rank: usize) -> Result<(), Failure> {
    let place = folder.join(&format!(".p8-write-test-{rank}"));
    match place {
        // A file that is dropped before it has its name is gone.
        Location::Local(_) => {
            store.create(&place)?.finish()?;
        }
        Location::S3(_) => {
            store.write_whole(&place, Bytes::new())?;
            store.remove(&place)?;
        }
    }
    Ok(())
}

fn refuse_other_result(settings: &Settings, folder: &Folder) -> Result<(), Failure> {
    let there: BTreeSet<Location> = settings.store.files(folder.root())?.into_iter().collect();
    let exists = RESULTS
        .iter()
        .any(|name| there.contains(&folder.result(name)));
    if settings.overwrite || !exists {
        return Ok(());
    }
    let differences = match settings_of_result(&settings.store, &folder.result(SETTINGS))? {
        Some(theirs) => differences(&theirs, &result_settings(settings)),
        None => Some("it does not say which settings made it".to_string()),
    };
    match differences {
        None => Ok(()),
        Some(differences) => Err(Failure::new(
            Kind::Usage,
            format!(
                "the output {} {:?} holds a result of other settings ({differences}): name another one with --output, or replace the result with --overwrite",
                folder.root().noun(),
                folder.root().to_string()
            ),
        )),
    }
}

/// Begins to replace the results with those of these names: notes whose they will be, and takes
/// `metrics.json` away, without which the other files are no result. A run that is stopped from here on leaves no old measurements
/// beside new scores.
///
/// # Errors
/// When the folder cannot be written.
pub fn begin_replacing(
    settings: &Settings,
    folder: &Folder,
    results: &[&str],
) -> Result<(), Failure> {
    let noted = serde_json::to_vec_pretty(&result_settings(settings)).map_err(|error| {
        Failure::new(Kind::Internal, format!("cannot note the settings: {error}"))
    })?;
    let store = &settings.store;
    store.write_whole(&folder.result(SETTINGS), Bytes::from(noted))?;
    store.remove(&folder.result("metrics.json"))?;
    // What this task does not write would be another result's.
    for name in RESULTS.iter().filter(|name| !results.contains(name)) {
        store.remove(&folder.result(name))?;
    }
    Ok(())
}

/// The shards that earlier runs have left, by block.
///
/// # Errors
/// When the folder cannot be read.
pub fn shards(store: &Store, folder: &Folder) -> Result<BTreeMap<usize, Location>, Failure> {
    let files = store.files(&folder.features())?;
    let numbered = files.into_iter().filter_map(|file| {
        let number = file
            .name()?
            .strip_prefix("block-")?
            .strip_suffix(".parquet")?;
        Some((number.parse().ok()?, file))
    });
    Ok(numbered.collect())
}

/// The settings that decide what a result is, by option.
fn result_settings(settings: &Settings) -> BTreeMap<String, String> {
    settings
        .listed
        .iter()
        .filter(|setting| RESULT_SETTINGS.contains(&setting.name.as_str()))
        .map(|setting| (setting.name.clone(), setting.value.clone()))
        .collect()
}

/// The settings that an earlier run noted.
fn settings_of_result(
    store: &Store,
    place: &Location,
) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let noted = store.read_if_there(place)?;
    Ok(noted.and_then(|noted| serde_json::from_slice(&noted).ok()))
}

/// What is not the same, as a user would say it.
fn differences(
    theirs: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Option<String> {
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let not_set = "not set".to_string();
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| theirs.get(*name) != ours.get(*name))
        .map(|name| {
            format!(
                "{name}: {} there, {} now",
                theirs.get(name).unwrap_or(&not_set),
                ours.get(name).unwrap_or(&not_set)
            )
        })
        .collect();
    (!differing.is_empty()).then(|| differing.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    }

    #[test]
    fn differences_are_named_from_both_sides() {
        let theirs = map(&[("pool", "avg"), ("variance", "0.95")]);
        assert_eq!(differences(&theirs, &theirs), None);
        let ours = map(&[("pool", "max"), ("components", "7")]);
        let text = differences(&theirs, &ours).unwrap();
        assert!(text.contains("pool: avg there, max now"), "{text}");
        assert!(text.contains("components: not set there, 7 now"), "{text}");
    }

    #[test]
    fn a_shard_is_named_by_its_block() {
        let folder = |root| Folder { root };
        let local = folder(Location::Local("out".into()));
        assert_eq!(
            local.shard(7).to_string(),
            "out/features/block-000007.parquet"
        );
        let remote = folder(Location::S3("s3://b/out/".parse().unwrap()));
        assert_eq!(
            remote.shard(7).to_string(),
            "s3://b/out/features/block-000007.parquet"
        );
    }
}
