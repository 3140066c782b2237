//! From what was typed to settings in which nothing is left undecided.

use super::args::{
    PcaArgs, ReportArgs, ResultOptions, RunArgs, S3Options, TransformArgs, without_user,
};
use super::sources::Source;
use crate::dataset::label::LabelRule;
use crate::image::Exif;
use crate::kernels::{Isa, UnknownIsa};
use crate::model::weights::{Cache, Named};
use crate::model::{Layer, Pool, Precision};
use crate::output::report::MAX_POINTS;
use crate::pca::{self, Components, PcaSettings, Solver};
use crate::run::report::ReportTask;
use crate::run::settings::{
    Level, Log, LogFormat, SAMPLE_INPUT, Setting, Settings, StoredFeatures, WeightsChoice,
};
use crate::run::stored::PcaTask;
use crate::run::transform::TransformTask;
use crate::store::s3::{Address, S3Settings};
use crate::store::{Location, Store};
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
        vec![Location::Local(SAMPLE_INPUT.into())]
    } else {
        let inputs = args.input.iter().map(|path| location(path));
        inputs.collect::<Result<_, _>>()?
    };
    let output = location(
        &args
            .results
            .output
            .unwrap_or_else(|| PathBuf::from("p8-out")),
    )?;
    let components = match (args.pca.components, args.pca.variance) {
        (Some(count), _) => Components::Count(count),
        (None, fraction) => Components::Variance(fraction.unwrap_or(DEFAULT_VARIANCE)),
    };
    let of_s3 = of_s3(&args.s3);
    let elsewhere = match args.s3.endpoint_url {
        Some(_) => None,
        None => endpoint_of_aws(environment),
    };
    let mut settings = Settings {
        store: store(args.s3, environment),
        inputs,
        glob: args.glob,
        label: args.label.unwrap_or(LabelRule::Parent),
        exif: args.exif.unwrap_or(Exif::Apply),
        max_bad_fraction: args.max_bad_fraction.unwrap_or(DEFAULT_MAX_BAD_FRACTION),
        output,
        overwrite: args.results.overwrite,
        resume: args.resume.unwrap_or(true),
        weights: args.weights.unwrap_or(WeightsChoice::Named(Named::Keras)),
        is_sample_run,
        cache_folder: cache_folder(environment),
        weights_mirror: weights_mirror(environment),
        topology: args.topology,
        preprocess: args.preprocess,
        layer: args.layer.unwrap_or(Layer::Layer4),
        pool: args.pool.unwrap_or(Pool::Avg),
        precision: args.precision.unwrap_or(Precision::F32),
        pca: PcaSettings {
            components,
            standardize: args.pca.standardize.unwrap_or(true),
            whiten: args.pca.whiten,
            solver: args.pca.solver.unwrap_or(Solver::Auto),
            precision: args.pca.pca_precision.unwrap_or(pca::Precision::F64),
            memory: None,
            keep_factor: args.pca.verify.unwrap_or(false),
        },
        verify: args.pca.verify.unwrap_or(false),
        threads: args.running.threads,
        isa: instruction_set(environment)?,
        dry_run: args.dry_run,
        log: Log {
            format: args.running.log.unwrap_or(LogFormat::Human),
            level: match (args.running.quiet, args.running.verbose) {
                (true, _) => Level::Quiet,
                (false, true) => Level::Verbose,
                (false, false) => Level::Normal,
            },
            is_dumb: is_dumb(environment),
        },
        listed: Vec::new(),
    };
    if settings.pca.solver == Solver::Randomized {
        pca::check_randomized(settings.pca.components).map_err(|error| error.to_string())?;
    }
    settings.listed = listed(&settings, sources);
    let of_s3 = of_s3.into_iter();
    let of_s3 = of_s3.map(|(name, value)| setting(name, value, sources));
    settings.listed.extend(of_s3);
    settings.listed.extend(elsewhere.map(|url| Setting {
        name: "endpoint-url".into(),
        value: without_user(&url),
        source: "environment".into(),
    }));
    Ok(settings)
}

/// Fills in the defaults of `p8 pca`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_pca(
    args: PcaArgs,
    sources: &BTreeMap<String, Source>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<PcaTask, String> {
    let features = stored(&args.features, args.column)?
        .ok_or("name the features with --features: the output of a run, a folder or a file; for example p8 pca --features p8-out -k 20 --output other")?;
    let run = RunArgs {
        results: args.results,
        s3: args.s3,
        pca: args.pca,
        dry_run: args.dry_run,
        running: args.running,
        ..RunArgs::default()
    };
    let mut settings = resolve(run, sources, environment)?;
    settings.is_sample_run = false;
    list_instead(&mut settings, sources, of_stored(Some(&features)));
    Ok(PcaTask { features, settings })
}

/// Fills in the defaults of `p8 transform`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_transform(
    args: TransformArgs,
    sources: &BTreeMap<String, Source>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<TransformTask, String> {
    let model = args.model.ok_or("name the model with --model, and what it is to score; for example p8 transform --model p8-out/model.safetensors --input new --output scored")?;
    let model = location(&model)?;
    let features = stored(&args.features, args.column)?;
    if features.is_none() && args.input.is_empty() {
        return Err("name images with --input, or stored features with --features; for example p8 transform --model p8-out/model.safetensors --input new --output scored".into());
    }
    let weights_are_named = args.weights.is_some();
    let run = RunArgs {
        input: args.input,
        glob: args.glob,
        label: args.label,
        exif: args.exif,
        max_bad_fraction: args.max_bad_fraction,
        results: args.results,
        resume: args.resume,
        weights: args.weights,
        topology: args.topology,
        preprocess: args.preprocess,
        layer: args.layer,
        pool: args.pool,
        s3: args.s3,
        running: args.running,
        ..RunArgs::default()
    };
    let mut settings = resolve(run, sources, environment)?;
    settings.is_sample_run = false;
    if features.is_some() {
        // No image is read.
        settings.listed.retain(|setting| setting.name != "input");
    }
    let mut more = vec![("model", model.to_string())];
    more.extend(of_stored(features.as_ref()));
    list_instead(&mut settings, sources, more);
    Ok(TransformTask {
        model,
        features,
        weights_are_named,
        settings,
    })
}

/// Fills in the defaults of `p8 report`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_report(
    args: ReportArgs,
    sources: &BTreeMap<String, Source>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ReportTask, String> {
    let run = RunArgs {
        results: ResultOptions {
            output: args.output,
            overwrite: false,
        },
        s3: args.s3,
        running: args.running,
        ..RunArgs::default()
    };
    let mut settings = resolve(run, sources, environment)?;
    settings.is_sample_run = false;
    Ok(ReportTask {
        points: args.points.unwrap_or(MAX_POINTS),
        settings,
    })
}

/// The stored features; `None` where none are named.
fn stored(paths: &[PathBuf], column: Option<String>) -> Result<Option<StoredFeatures>, String> {
    if paths.is_empty() {
        return match column {
            Some(name) => Err(format!("--column {name} needs --features")),
            None => Ok(None),
        };
    }
    // As typed: a plain path has no two slashes.
    for path in paths {
        refuse_object_store(path)?;
    }
    let paths: Vec<PathBuf> = paths.iter().map(|path| plain(path)).collect();
    Ok(Some(StoredFeatures { paths, column }))
}

/// The options that name stored features, as they are in force.
fn of_stored(features: Option<&StoredFeatures>) -> Vec<(&'static str, String)> {
    let Some(features) = features else {
        return Vec::new();
    };
    let column = features.column.clone();
    vec![
        (
            "features",
            joined(features.paths.iter().map(|path| path.display())),
        ),
        (
            "column",
            column.unwrap_or_else(|| "features, or the only list of float or double".into()),
        ),
    ]
}

/// Leaves the options of the subcommand in the list, and adds those that only it has.
fn list_instead(
    settings: &mut Settings,
    sources: &BTreeMap<String, Source>,
    more: Vec<(&str, String)>,
) {
    settings
        .listed
        .retain(|setting| sources.contains_key(&setting.name));
    let more = more
        .into_iter()
        .map(|(name, value)| setting(name, value, sources));
    settings.listed.extend(more);
}

fn refuse_object_store(path: &Path) -> Result<(), String> {
    if Address::is_meant(&path.to_string_lossy()) {
        return Err(format!(
            "cannot use {}: features are read from local files only; copy them, for example by `aws s3 sync`",
            path.display()
        ));
    }
    Ok(())
}

/// Where a path or an address points.
pub fn location(path: &Path) -> Result<Location, String> {
    match path.to_str().filter(|text| Address::is_meant(text)) {
        Some(text) => text.parse().map(Location::S3),
        None => Ok(Location::Local(plain(path))),
    }
}

/// How files and objects are reached. The variables are those that every AWS program reads.
pub fn store(s3: S3Options, environment: &dyn Fn(&str) -> Option<OsString>) -> Store {
    Store::new(S3Settings {
        endpoint_url: s3.endpoint_url.or_else(|| endpoint_of_aws(environment)),
        region: s3.region,
        path_style: s3.path_style,
        anonymous: s3.anonymous,
        all_checksums: [
            "AWS_REQUEST_CHECKSUM_CALCULATION",
            "AWS_RESPONSE_CHECKSUM_VALIDATION",
        ]
        .into_iter()
        .any(|name| environment(name).is_some()),
        ..S3Settings::default()
    })
}

/// The address of the store in the variables that every AWS program reads.
fn endpoint_of_aws(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    let variable = |name| environment(name)?.into_string().ok();
    variable("AWS_ENDPOINT_URL_S3")
        .or_else(|| variable("AWS_ENDPOINT_URL"))
        .filter(|url| !url.is_empty())
}

/// Where named weights are fetched from instead of their home.
pub fn weights_mirror(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<String> {
    environment("P8_WEIGHTS_MIRROR")
        .map(|text| text.to_string_lossy().into_owned())
        .filter(|text| !text.is_empty())
}

/// Whether the terminal cannot rewrite a line.
pub fn is_dumb(environment: &dyn Fn(&str) -> Option<OsString>) -> bool {
    environment("TERM").is_some_and(|terminal| terminal == "dumb")
}

/// The options of the object store that were given.
fn of_s3(s3: &S3Options) -> Vec<(&'static str, String)> {
    let rows = [
        ("endpoint-url", s3.endpoint_url.clone()),
        ("region", s3.region.clone()),
        ("path-style", s3.path_style.then(|| "true".into())),
        ("anonymous", s3.anonymous.then(|| "true".into())),
    ];
    let given = rows.into_iter();
    given
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// The path without what does not change it: `a/`, `./a` and `a` are one folder, and one setting.
fn plain(path: &Path) -> PathBuf {
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
    let (components_name, components) = match settings.pca.components {
        Components::Count(count) => ("components", count.to_string()),
        Components::Variance(fraction) => ("variance", fraction.to_string()),
    };
    let rows: Vec<(&str, String)> = vec![
        ("input", joined(settings.inputs.iter())),
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
        ("output", settings.output.to_string()),
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
        ("precision", settings.precision.as_str().into()),
        ("device", "cpu".into()),
        (components_name, components),
        ("standardize", settings.pca.standardize.to_string()),
        ("whiten", settings.pca.whiten.to_string()),
        ("solver", settings.pca.solver.as_str().into()),
        ("verify", settings.verify.to_string()),
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
        .map(|(name, value)| setting(name, value, sources))
        .collect()
}

fn joined(places: impl Iterator<Item = impl ToString>) -> String {
    let places: Vec<String> = places.map(|place| place.to_string()).collect();
    places.join(", ")
}

fn setting(name: &str, value: String, sources: &BTreeMap<String, Source>) -> Setting {
    Setting {
        name: name.to_string(),
        value,
        source: match sources.get(name).copied().unwrap_or(Source::Default) {
            Source::Flag => "flag",
            Source::Environment => "environment",
            Source::File => "file",
            Source::Default => "default",
        }
        .to_string(),
    }
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
        assert_eq!(all.inputs, [Location::Local("training_data".into())]);
        assert_eq!(all.output, Location::Local("p8-out".into()));
        assert!(all.is_sample_run && all.resume && all.pca.standardize);
        assert!(!all.overwrite && !all.pca.whiten && !all.dry_run);
        assert_eq!(all.weights.to_string(), "keras");
        assert_eq!(all.pca.components, Components::Variance(0.95));
        assert_eq!((all.layer, all.pool), (Layer::Layer4, Pool::Avg));
        assert_eq!(all.precision, Precision::F32);
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
            assert_eq!(all.inputs[0].to_string(), meant);
            assert_eq!(all.output.to_string(), meant);
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
    fn an_endpoint_of_the_environment_is_listed_without_its_password() {
        let listed = |arguments: &[&str], variable: &'static str, url: &'static str| {
            let all = std::iter::once("p8").chain(arguments.iter().copied());
            let environment = |name: &str| (name == variable).then(|| OsString::from(url));
            let cli = Cli::try_parse_from(all).unwrap();
            let settings = resolve(cli.run, &BTreeMap::new(), &environment).unwrap();
            let mut listed = settings.listed.into_iter();
            listed.find(|setting| setting.name == "endpoint-url")
        };
        for variable in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
            for (url, shown) in [
                ("http://store:9000", "http://store:9000"),
                ("https://me:secret@store/a@b", "https://store/a@b"),
            ] {
                let setting = listed(&[], variable, url).unwrap();
                assert_eq!((&*setting.value, &*setting.source), (shown, "environment"));
            }
            assert_eq!(listed(&[], variable, ""), None);
        }
        let typed = ["--endpoint-url", "http://typed"];
        let setting = listed(&typed, "AWS_ENDPOINT_URL", "http://store").unwrap();
        assert_eq!(setting.value, "http://typed");
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
    fn random_projections_have_to_be_told_the_number_of_components() {
        let error = settings(&["--solver", "randomized"]).unwrap_err();
        assert!(error.contains("95 %") && error.contains("-k"), "{error}");
        let all = settings(&["--solver", "randomized", "-k", "5"]).unwrap();
        assert_eq!(all.pca.solver, Solver::Randomized);
    }

    #[test]
    fn addresses_in_s3_are_taken_as_they_are_typed() {
        let typed = "s3://b/a b//./größe/";
        let all = settings(&[
            "--input",
            typed,
            "--output",
            typed,
            "--weights",
            "s3://b/w.h5",
        ])
        .unwrap();
        assert_eq!(all.inputs, [Location::S3(typed.parse().unwrap())]);
        assert_eq!(all.output, all.inputs[0]);
        assert_eq!(all.weights.to_string(), "s3://b/w.h5");
        let error = settings(&["--input", "s3a://b/p"]).unwrap_err();
        assert!(
            error.contains("s3a://b/p") && error.contains("s3://bucket"),
            "{error}"
        );
    }
}
