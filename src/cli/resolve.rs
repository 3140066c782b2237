//! From what was typed to settings in which nothing is left undecided.

use super::args::RunArgs;
use super::sources::Source;
use crate::dataset::label::LabelRule;
use crate::image::Exif;
use crate::kernels::{Isa, UnknownIsa};
use crate::model::weights::{Cache, Named};
use crate::model::{Layer, Pool};
use crate::pca::{self, Components, PcaSettings, Solver};
use crate::run::settings::{Level, Log, LogFormat, SAMPLE_INPUT, Setting, Settings, WeightsChoice};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Fraction of the variance that the default number of components explains.
const DEFAULT_VARIANCE: f64 = 0.95;
/// Fraction of bad images that a run bears.
const DEFAULT_MAX_BAD_FRACTION: f64 = 0.5;

/// Fills in the defaults.
///
/// # Errors
/// A sentence for the user when an input cannot be meant.
pub fn resolve(
    args: RunArgs,
    sources: &BTreeMap<String, Source>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Settings, String> {
    let is_sample_run = args.input.is_empty() && args.weights.is_none();
    let inputs = if args.input.is_empty() {
        vec![PathBuf::from(SAMPLE_INPUT)]
    } else {
        args.input.iter().map(|path| plain(path)).collect()
    };
    let output = plain(&args.output.unwrap_or_else(|| PathBuf::from("p8-out")));
    for path in inputs.iter().chain([&output]) {
        if path.to_string_lossy().starts_with("s3://") {
            return Err(format!(
                "cannot use {}: this version reads and writes local files only",
                path.display()
            ));
        }
    }
    let components = match (args.components, args.variance) {
        (Some(count), _) => Components::Count(count),
        (None, fraction) => Components::Variance(fraction.unwrap_or(DEFAULT_VARIANCE)),
    };
    let mut settings = Settings {
        inputs,
        glob: args.glob,
        label: args.label.unwrap_or(LabelRule::Parent),
        exif: args.exif.unwrap_or(Exif::Apply),
        max_bad_fraction: args.max_bad_fraction.unwrap_or(DEFAULT_MAX_BAD_FRACTION),
        output,
        overwrite: args.overwrite,
        resume: args.resume.unwrap_or(true),
        weights: args.weights.unwrap_or(WeightsChoice::Named(Named::Keras)),
        is_sample_run,
        cache_folder: cache_folder(environment),
        weights_mirror: environment("P8_WEIGHTS_MIRROR")
            .map(|text| text.to_string_lossy().into_owned())
            .filter(|text| !text.is_empty()),
        topology: args.topology,
        preprocess: args.preprocess,
        layer: args.layer.unwrap_or(Layer::Layer4),
        pool: args.pool.unwrap_or(Pool::Avg),
        pca: PcaSettings {
            components,
            standardize: args.standardize.unwrap_or(true),
            whiten: args.whiten,
            solver: args.solver.unwrap_or(Solver::Auto),
            precision: args.pca_precision.unwrap_or(pca::Precision::F64),
        },
        threads: args.threads,
        isa: instruction_set(environment)?,
        dry_run: args.dry_run,
        log: Log {
            format: args.log.unwrap_or(LogFormat::Human),
            level: match (args.quiet, args.verbose) {
                (true, _) => Level::Quiet,
                (false, true) => Level::Verbose,
                (false, false) => Level::Normal,
            },
        },
        listed: Vec::new(),
    };
    settings.listed = listed(&settings, sources);
    Ok(settings)
}

/// The path without what does not change it: `a/`, `./a` and `a` are one folder, and one setting.
fn plain(path: &Path) -> PathBuf {
    if path.to_string_lossy().contains("://") {
        return path.to_path_buf();
    }
    let plain: PathBuf = path.components().collect();
    plain.strip_prefix("./").map_or(plain.clone(), |below| {
        if below.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            below.to_path_buf()
        }
    })
}

/// The folder of the weights that were downloaded.
pub fn cache_folder(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Cache::default_folder(environment("XDG_CACHE_HOME"), environment("HOME"))
}

/// The instruction set in `P8_ISA`: a pin for tests and for comparing machines, and not an option.
fn instruction_set(environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Isa>, String> {
    environment("P8_ISA")
        .filter(|text| !text.is_empty())
        .map(|text| text.to_string_lossy().parse())
        .transpose()
        .map_err(|error: UnknownIsa| format!("environment variable P8_ISA: {error}"))
}

/// The options that decide what the result is, as they are in force.
fn listed(settings: &Settings, sources: &BTreeMap<String, Source>) -> Vec<Setting> {
    let as_trained = "as the weights were trained";
    let inputs: Vec<String> = settings
        .inputs
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    let (components_name, components) = match settings.pca.components {
        Components::Count(count) => ("components", count.to_string()),
        Components::Variance(fraction) => ("variance", fraction.to_string()),
    };
    let rows: Vec<(&str, String)> = vec![
        ("input", inputs.join(", ")),
        (
            "glob",
            settings
                .glob
                .clone()
                .unwrap_or_else(|| "every image format".into()),
        ),
        ("label", settings.label.to_string()),
        ("exif", settings.exif.as_str().into()),
        ("max-bad-fraction", settings.max_bad_fraction.to_string()),
        ("output", settings.output.display().to_string()),
        ("overwrite", settings.overwrite.to_string()),
        ("resume", settings.resume.to_string()),
        ("weights", settings.weights.to_string()),
        (
            "topology",
            settings.topology.map_or(as_trained, |t| t.as_str()).into(),
        ),
        (
            "preprocess",
            settings
                .preprocess
                .map_or(as_trained, |p| p.as_str())
                .into(),
        ),
        ("layer", settings.layer.as_str().into()),
        ("pool", settings.pool.as_str().into()),
        ("precision", "f32".into()),
        ("device", "cpu".into()),
        (components_name, components),
        ("standardize", settings.pca.standardize.to_string()),
        ("whiten", settings.pca.whiten.to_string()),
        ("solver", settings.pca.solver.as_str().into()),
        ("pca-precision", settings.pca.precision.as_str().into()),
        (
            "threads",
            settings
                .threads
                .map_or("cores of the host divided among its ranks".into(), |n| {
                    n.to_string()
                }),
        ),
    ];
    rows.into_iter()
        .map(|(name, value)| Setting {
            name: name.to_string(),
            value,
            source: match sources.get(name).copied().unwrap_or(Source::Default) {
                Source::Flag => "flag",
                Source::Environment => "environment",
                Source::File => "file",
                Source::Default => "default",
            }
            .to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::args::Cli;
    use super::*;
    use clap::Parser;

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let all = std::iter::once("p8").chain(arguments.iter().copied());
        resolve(
            Cli::try_parse_from(all).unwrap().run,
            &BTreeMap::new(),
            &|_| None,
        )
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let all = settings(&[]).unwrap();
        assert_eq!(all.inputs, [PathBuf::from("training_data")]);
        assert_eq!(all.output, PathBuf::from("p8-out"));
        assert!(all.is_sample_run && all.resume && all.pca.standardize);
        assert!(!all.overwrite && !all.pca.whiten && !all.dry_run);
        assert_eq!(all.weights.to_string(), "keras");
        assert_eq!(all.pca.components, Components::Variance(0.95));
        assert_eq!((all.layer, all.pool), (Layer::Layer4, Pool::Avg));
        assert_eq!(all.max_bad_fraction, 0.5);
        assert_eq!(all.label.to_string(), "parent");
    }

    #[test]
    fn spellings_of_one_folder_are_one_setting() {
        for (typed, meant) in [
            ("a/", "a"),
            ("./a", "a"),
            ("a/./b/", "a/b"),
            (".", "."),
            ("./", "."),
        ] {
            let all = settings(&["--input", typed, "--output", typed]).unwrap();
            assert_eq!(all.inputs[0].as_os_str(), meant);
            assert_eq!(all.output.as_os_str(), meant);
        }
    }

    #[test]
    fn naming_an_input_or_weights_ends_the_sample_run() {
        assert!(
            !settings(&["--input", "training_data"])
                .unwrap()
                .is_sample_run
        );
        assert!(!settings(&["--weights", "keras"]).unwrap().is_sample_run);
        assert!(settings(&["--output", "x"]).unwrap().is_sample_run);
    }

    #[test]
    fn an_instruction_set_can_be_pinned_and_must_be_known() {
        let pinned = |value: &'static str| {
            let environment = |name: &str| (name == "P8_ISA").then(|| OsString::from(value));
            let cli = Cli::try_parse_from(["p8"]).unwrap();
            resolve(cli.run, &BTreeMap::new(), &environment).map(|settings| settings.isa)
        };
        assert_eq!(pinned("scalar"), Ok(Some(Isa::Scalar)));
        assert_eq!(pinned(""), Ok(None));
        let error = pinned("sse9").unwrap_err();
        assert!(
            error.contains("P8_ISA") && error.contains("sse9"),
            "{error}"
        );
        assert_eq!(settings(&[]).unwrap().isa, None);
    }

    #[test]
    fn object_stores_are_refused_by_name() {
        assert!(
            settings(&["--input", "s3://b/p"])
                .unwrap_err()
                .contains("s3://b/p")
        );
        assert!(settings(&["--output", "s3://b/p"]).is_err());
    }
}
