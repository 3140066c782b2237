//! The folder of the results: made, tried, and kept from being overwritten by accident.

use super::settings::Settings;
use crate::comm::Comm;
use crate::error::{Failure, Kind};
use crate::store::local::{self, WholeFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the results, in the order in which they are published; the last one says that all
/// others are there.
pub const RESULTS: [&str; 6] = [
    "outcomes.parquet",
    "scores.parquet",
    "scores.csv",
    "model.safetensors",
    "report.html",
    "metrics.json",
];

/// The options that decide what a result is; with all others it is the same result.
const RESULT_SETTINGS: [&str; 16] = [
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

/// Where the files of a run are.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// A result, by its name.
    pub fn result(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder of the feature shards.
    pub fn features(&self) -> PathBuf {
        self.root.join("features")
    }

    /// The shard of a block.
    pub fn shard(&self, block: usize) -> PathBuf {
        self.features().join(format!("block-{block:06}.parquet"))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Makes the folder on every rank (hosts need not share it), finds out that it can be written, and
/// refuses one that holds a result of other settings.
///
/// # Errors
/// On all ranks.
pub fn prepare(settings: &Settings, comm: &Comm) -> Result<Folder, Failure> {
    let folder = Folder {
        root: settings.output.clone(),
    };
    comm.agree(if comm.rank() == 0 {
        refuse_other_result(settings, &folder)
    } else {
        Ok(())
    })?;
    comm.agree(make(&folder))?;
    // One rank a host would do; removing what is not there is no error.
    if comm.rank() == 0 {
        comm.or_end(local::remove_unfinished(folder.root()).map_err(Failure::from));
        comm.or_end(local::remove_unfinished(&folder.features()).map_err(Failure::from));
    }
    comm.barrier();
    Ok(folder)
}

fn make(folder: &Folder) -> Result<(), Failure> {
    local::create_folder(&folder.features())?;
    // Written and dropped: it leaves nothing behind.
    WholeFile::create(&folder.features().join("write-test"))?.finish()?;
    WholeFile::create(&folder.result("write-test"))?.finish()?;
    Ok(())
}

fn refuse_other_result(settings: &Settings, folder: &Folder) -> Result<(), Failure> {
    let exists = RESULTS.iter().any(|name| folder.result(name).exists());
    if settings.overwrite || !exists {
        return Ok(());
    }
    let differences = match settings_of_result(&folder.result("metrics.json")) {
        Some(theirs) => differences(&theirs, &result_settings(settings)),
        None => Some("it does not say which settings made it".to_string()),
    };
    match differences {
        None => Ok(()),
        Some(differences) => Err(Failure::new(
            Kind::Usage,
            format!(
                "the output folder {:?} holds a result of other settings ({differences}): name another folder with --output, or replace the result with --overwrite",
                folder.root().display().to_string()
            ),
        )),
    }
}

/// The settings that decide what a result is, by option.
pub fn result_settings(settings: &Settings) -> BTreeMap<String, String> {
    settings
        .listed
        .iter()
        .filter(|setting| RESULT_SETTINGS.contains(&setting.name.as_str()))
        .map(|setting| (setting.name.clone(), setting.value.clone()))
        .collect()
}

/// The settings that an earlier run noted in its `metrics.json`.
fn settings_of_result(path: &Path) -> Option<BTreeMap<String, String>> {
    let metrics: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let listed = metrics.get("settings")?.as_object()?;
    let pairs = listed.iter().filter_map(|(name, setting)| {
        let value = setting.get("value")?.as_str()?;
        RESULT_SETTINGS
            .contains(&name.as_str())
            .then(|| (name.clone(), value.to_string()))
    });
    Some(pairs.collect())
}

/// What is not the same, as a user would say it.
fn differences(
    theirs: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
) -> Option<String> {
    let names: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
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
        let folder = Folder { root: "out".into() };
        assert_eq!(
            folder.shard(7),
            PathBuf::from("out/features/block-000007.parquet")
        );
    }
}
