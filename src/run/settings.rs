//! Everything a run needs to know, decided. Nothing below this module reads a flag or a variable.

use crate::dataset::label::LabelRule;
use crate::image::{Exif, Preprocess};
use crate::kernels::Isa;
use crate::model::weights::Named;
use crate::model::{Layer, Pool, Precision, Topology};
use crate::pca::PcaSettings;
use crate::store::s3::Address;
use crate::store::{Location, Store};
use clap::ValueEnum;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The folder that is read when no input is named.
pub const SAMPLE_INPUT: &str = "training_data";

/// The seed of the weights that the sample run falls back on.
pub const SAMPLE_SEED: u64 = 50;

/// The settings of `p8 run`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How files and objects are reached.
    pub store: Store,
    /// Folders, prefixes and files with images.
    pub inputs: Vec<Location>,
    /// `--glob`.
    pub glob: Option<String>,
    /// Where labels come from.
    pub label: LabelRule,
    /// Whether the camera's orientation is applied.
    pub exif: Exif,
    /// Fraction of bad images above which a run ends with exit code 3.
    pub max_bad_fraction: f64,

    /// Folder or prefix for the results.
    pub output: Location,
    /// Whether a result of other settings may be replaced.
    pub overwrite: bool,
    /// Whether finished blocks are taken from an earlier run.
    pub resume: bool,

    /// Which weights.
    pub weights: WeightsChoice,
    /// Neither `--input` nor `--weights` was given: the run that works without network.
    pub is_sample_run: bool,
    /// Where named weights are kept.
    pub cache_folder: Option<PathBuf>,
    /// Where named weights are downloaded from instead of their home.
    pub weights_mirror: Option<String>,
    /// `None`: as the weights were trained.
    pub topology: Option<Topology>,
    /// `None`: as the weights were trained.
    pub preprocess: Option<Preprocess>,
    /// The stage whose output becomes the features.
    pub layer: Layer,
    /// Pooling of that output.
    pub pool: Pool,
    /// Arithmetic of the network.
    pub precision: Precision,

    /// Components, standardisation, whitening, solver.
    pub pca: PcaSettings,
    /// Whether the components are checked exactly.
    pub verify: bool,

    /// Threads a rank; `None`: the host's cores divided among its ranks.
    pub threads: Option<usize>,
    /// Instruction set of the kernels; `None`: the fastest that all ranks have.
    pub isa: Option<Isa>,
    /// Plan only.
    pub dry_run: bool,
    /// What is printed and how.
    pub log: Log,
    /// Every option as it is in force, with where it came from; for the report.
    pub listed: Vec<Setting>,
}

/// Feature vectors that stand in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFeatures {
    /// Files, or folders with files.
    pub paths: Vec<PathBuf>,
    /// The column of a Parquet file; `None`: `features`, or the only one that fits.
    pub column: Option<String>,
}

/// One option in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Long name of the option.
    pub name: String,
    /// Its value as it would be typed.
    pub value: String,
    /// `flag`, `environment`, `file`, `default`, or `model` where a fitted model decides.
    pub source: String,
}

/// What is printed and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Human or JSON.
    pub format: LogFormat,
    /// How much.
    pub level: Level,
    /// Whether a terminal, where there is one, can only write line after line (`TERM=dumb`).
    pub is_dumb: bool,
}

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Errors only.
    Quiet,
    /// The steps of the run, progress and warnings.
    Normal,
    /// Details as well.
    Verbose,
}

/// Form of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain lines for a person
    Human,
    /// One JSON object a line
    Json,
}

/// Which weights the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightsChoice {
    /// Published weights under a name, from the cache or downloaded.
    Named(Named),
    /// Random weights from a seed.
    Seeded(u64),
    /// A file.
    Path(PathBuf),
    /// An object.
    S3(Address),
}

impl FromStr for WeightsChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(named) = Named::from_name(text) {
            return Ok(WeightsChoice::Named(named));
        }
        if let Some(seed) = text.strip_prefix("seeded:") {
            return seed
                .parse()
                .map(WeightsChoice::Seeded)
                .map_err(|_| format!("expected a whole number after seeded:, not \"{seed}\""));
        }
        if Address::is_meant(text) {
            return text.parse().map(WeightsChoice::S3);
        }
        let path = PathBuf::from(text);
        // A word without a dot or a slash is a mistyped name rather than a file, unless it is there.
        if !text.contains(['.', '/']) && !path.exists() {
            let names: Vec<&str> = Named::ALL.into_iter().map(Named::name).collect();
            return Err(format!(
                "expected {}, seeded:N or a file, and there is no file of this name",
                names.join(", ")
            ));
        }
        Ok(WeightsChoice::Path(path))
    }
}

impl fmt::Display for WeightsChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightsChoice::Named(named) => f.write_str(named.name()),
            WeightsChoice::Seeded(seed) => write!(f, "seeded:{seed}"),
            WeightsChoice::Path(path) => write!(f, "{}", path.display()),
            WeightsChoice::S3(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_of_weights_prints_as_it_was_typed() {
        for text in [
            "keras",
            "torchvision-v1",
            "torchvision-v2",
            "seeded:7",
            "a/b.pth",
            "s3://b/c d/e.pth",
        ] {
            assert_eq!(text.parse::<WeightsChoice>().unwrap().to_string(), text);
        }
        assert!(matches!(
            "keras".parse(),
            Ok(WeightsChoice::Named(Named::Keras))
        ));
        assert!(matches!("seeded:7".parse(), Ok(WeightsChoice::Seeded(7))));
        assert!("seeded:x".parse::<WeightsChoice>().is_err());
        assert!("".parse::<WeightsChoice>().is_err());
        let error = "torchvision-v3".parse::<WeightsChoice>().unwrap_err();
        assert!(error.contains("torchvision-v2"), "{error}");
    }
}
