//! The command line as typed. Nothing is interpreted here beyond the form of each value.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use crate::dataset::DatasetError;
use crate::dataset::label::LabelRule;
use crate::error::chain;
use crate::image::{Exif, Preprocess};
use crate::model::{Layer, Pool, Precision, Topology};
use crate::output::report::POINTS_LIMIT;
use crate::pca::{self, Solver};
use crate::run::settings::{LogFormat, WeightsChoice};

const EXAMPLES: &str = "\
Examples:
  mpirun -np 3 p8                                     the sample images in training_data
  mpirun -np 3 p8 --input photos --output result      your own images
  mpirun -np 3 p8 --input photos -k 7 --pool none     as the Spark notebook did
  mpirun -np 3 p8 --input s3://bucket/photos --output s3://bucket/result
                                                      images and results in S3
  p8 --input photos --dry-run                         what would be done, and how long it takes
  mpirun -np 3 p8 pca --features p8-out -k 7 --output other
                                                      other components of the same features
  mpirun -np 3 p8 transform --model p8-out/model.safetensors --input new --output scored
                                                      scores of new images
  p8 report --output p8-out                           the report of a finished run, made again

Every option is also read from the environment (P8_INPUT, P8_COMPONENTS, ...) and from a TOML file
given with --config. The order is: flag, environment, file, default. P8_ISA (avx512, avx2,
neon, scalar) pins the instruction set of the network, P8_WEIGHTS_MIRROR the address that weights
are fetched from.

Exit codes: 0 done, 2 usage, 3 input, 4 input/output, 5 numerical check failed, 6 weights,
70 internal error, 75 stopped by a signal with its finished blocks kept: run again.";

/// Principal components of image collections: ResNet-50 features and a distributed TSQR over MPI.
#[derive(Debug, Parser)]
#[command(name = "p8", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Features, principal components, scores: the whole pipeline (the default)
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Principal components of stored features: shards of a run, Parquet, .npy
    Pca(Box<PcaArgs>),
    /// Scores of new images, or of stored features, by a fitted model
    Transform(Box<TransformArgs>),
    /// The report of a finished run, made again from its files
    Report(ReportArgs),
    /// What each rank sees: host, cores, threads, SIMD, MPI, BLAS, weights
    Doctor(DoctorArgs),
}

/// The options of `p8 run`. `None` means "not typed".
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Folder or file with images, or s3://bucket/prefix; may be given several times [default: training_data]
    #[arg(long, value_name = "PATH", help_heading = "Images")]
    pub input: Vec<PathBuf>,
    /// Take only files that match, e.g. '*.jpg' or 'cats/**/*.png' [default: every image format]
    #[arg(long, value_name = "PATTERN", help_heading = "Images")]
    pub glob: Option<String>,
    /// Label of an image: parent (its folder), none, or regex:EXPR [default: parent]
    #[arg(long, value_name = "RULE", value_parser = label_rule, help_heading = "Images")]
    pub label: Option<LabelRule>,
    /// Orientation noted by the camera [default: apply]
    #[arg(long, value_enum, help_heading = "Images")]
    pub exif: Option<Exif>,
    /// End with exit code 3 when more than this fraction of the images is bad [default: 0.5]
    #[arg(long, value_name = "F", value_parser = fraction, help_heading = "Images")]
    pub max_bad_fraction: Option<f64>,

    #[command(flatten)]
    pub results: ResultOptions,
    /// Take finished blocks of an earlier run with the same settings [default: true]
    #[arg(long, value_name = "BOOL", value_parser = truth(), help_heading = "Results")]
    pub resume: Option<bool>,

    /// keras, torchvision-v1, torchvision-v2, seeded:N, or a .safetensors, .pth or .h5 file, also in S3 [default: keras]
    #[arg(long, value_name = "WEIGHTS", help_heading = "Network")]
    pub weights: Option<WeightsChoice>,
    /// Where ResNet-50 strides [default: as the weights were trained]
    #[arg(long, value_enum, help_heading = "Network")]
    pub topology: Option<Topology>,
    /// Resizing and normalisation [default: as the weights were trained]
    #[arg(long, value_enum, help_heading = "Network")]
    pub preprocess: Option<Preprocess>,
    /// Stage whose output becomes the features [default: layer4]
    #[arg(long, value_enum, help_heading = "Network")]
    pub layer: Option<Layer>,
    /// Pooling of that output; none flattens it in H,W,C order [default: avg]
    #[arg(long, value_enum, help_heading = "Network")]
    pub pool: Option<Pool>,
    /// Arithmetic of the network [default: f32]
    #[arg(long, value_enum, help_heading = "Network")]
    pub precision: Option<Precision>,
    /// Where the network runs [default: cpu]
    #[arg(long, value_enum, help_heading = "Network")]
    pub device: Option<Device>,

    #[command(flatten)]
    pub pca: PcaOptions,
    #[command(flatten)]
    pub s3: S3Options,

    /// Show the plan, its memory and time; compute nothing
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub dry_run: bool,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// Where results go.
#[derive(Debug, Default, Args)]
pub struct ResultOptions {
    /// Folder for the results, or s3://bucket/prefix [default: p8-out]
    #[arg(long, value_name = "PATH", help_heading = "Results")]
    pub output: Option<PathBuf>,
    /// Replace a result that was made with other settings
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Results")]
    pub overwrite: bool,
}

/// How objects in S3 are reached.
#[derive(Debug, Default, Args)]
pub struct S3Options {
    /// Address of a store other than Amazon's [default: Amazon's]
    #[arg(long, value_name = "URL", value_parser = endpoint, help_heading = "S3")]
    pub endpoint_url: Option<String>,
    /// Region of the buckets [default: as AWS programs find it]
    #[arg(long, value_name = "REGION", help_heading = "S3")]
    pub region: Option<String>,
    /// Put the bucket into the path of a request, as many other stores need it
    #[arg(long, action = ArgAction::SetTrue, help_heading = "S3")]
    pub path_style: bool,
    /// Use no credentials, for public buckets
    #[arg(long, action = ArgAction::SetTrue, help_heading = "S3")]
    pub anonymous: bool,
}

/// How components are found.
#[derive(Debug, Default, Args)]
pub struct PcaOptions {
    /// Number of principal components
    #[arg(short = 'k', long, value_name = "N", value_parser = at_least_one, conflicts_with = "variance", help_heading = "PCA")]
    pub components: Option<usize>,
    /// As many components as explain this fraction of the whole variance [default: 0.95]
    #[arg(long, value_name = "F", value_parser = positive_fraction, help_heading = "PCA")]
    pub variance: Option<f64>,
    /// Divide every feature by its standard deviation [default: true]
    #[arg(long, value_name = "BOOL", value_parser = truth(), help_heading = "PCA")]
    pub standardize: Option<bool>,
    /// Give every score unit variance
    #[arg(long, action = ArgAction::SetTrue, help_heading = "PCA")]
    pub whiten: bool,
    /// Factorisation [default: auto]
    #[arg(long, value_enum, help_heading = "PCA")]
    pub solver: Option<Solver>,
    /// Check the components in all directions instead of random ones: one more pass over the features [default: false]
    #[arg(long, value_name = "BOOL", value_parser = truth(), help_heading = "PCA")]
    pub verify: Option<bool>,
    /// Precision of the factorisation [default: f64]
    #[arg(long, value_enum, help_heading = "PCA")]
    pub pca_precision: Option<pca::Precision>,
}

/// Threads, messages, and a file with options.
#[derive(Debug, Default, Args)]
pub struct RunningOptions {
    /// Threads of each rank [default: the host's cores divided among its ranks]
    #[arg(long, value_name = "N", value_parser = thread_count, help_heading = "Running")]
    pub threads: Option<usize>,
    /// TOML file with options by their long names
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub config: Option<PathBuf>,
    /// Form of the messages [default: human]
    #[arg(long, value_enum, help_heading = "Running")]
    pub log: Option<LogFormat>,
    /// Print errors only
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "verbose", help_heading = "Running")]
    pub quiet: bool,
    /// Print details
    #[arg(short, long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub verbose: bool,
}

/// The options of `p8 pca`. None is required here, because it may come from the environment.
#[derive(Debug, Args)]
pub struct PcaArgs {
    /// Output of a run, folder with feature shards, Parquet or .npy files, or one such file; may be
    /// given several times
    #[arg(long, value_name = "PATH", help_heading = "Features")]
    pub features: Vec<PathBuf>,
    /// Column of the vectors in a Parquet file [default: features, or the only list of float or double]
    #[arg(long, value_name = "NAME", help_heading = "Features")]
    pub column: Option<String>,
    #[command(flatten)]
    pub results: ResultOptions,
    #[command(flatten)]
    pub pca: PcaOptions,
    #[command(flatten)]
    pub s3: S3Options,
    /// Show the plan and its memory; compute nothing
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub dry_run: bool,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// The options of `p8 transform`.
#[derive(Debug, Args)]
pub struct TransformArgs {
    /// The fitted model, model.safetensors of a result, also in S3
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Folder or file with images, or s3://bucket/prefix; may be given several times
    #[arg(long, value_name = "PATH", help_heading = "Images")]
    pub input: Vec<PathBuf>,
    /// Take only files that match, e.g. '*.jpg' or 'cats/**/*.png' [default: every image format]
    #[arg(long, value_name = "PATTERN", help_heading = "Images")]
    pub glob: Option<String>,
    /// Label of an image: parent (its folder), none, or regex:EXPR [default: parent]
    #[arg(long, value_name = "RULE", value_parser = label_rule, help_heading = "Images")]
    pub label: Option<LabelRule>,
    /// End with exit code 3 when more than this fraction of the images is bad [default: 0.5]
    #[arg(long, value_name = "F", value_parser = fraction, help_heading = "Images")]
    pub max_bad_fraction: Option<f64>,

    /// Stored features instead of images, as p8 pca reads them; may be given several times
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "input",
        help_heading = "Features"
    )]
    pub features: Vec<PathBuf>,
    /// Column of the vectors in a Parquet file [default: features, or the only list of float or double]
    #[arg(long, value_name = "NAME", help_heading = "Features")]
    pub column: Option<String>,

    /// The weights of the model; has to be named where they are a file [default: as the model says]
    #[arg(long, value_name = "WEIGHTS", help_heading = "Network")]
    pub weights: Option<WeightsChoice>,
    /// Must be the model's [default: the model's]
    #[arg(long, value_enum, help_heading = "Network")]
    pub topology: Option<Topology>,
    /// Must be the model's [default: the model's]
    #[arg(long, value_enum, help_heading = "Network")]
    pub preprocess: Option<Preprocess>,
    /// Must be the model's [default: the model's]
    #[arg(long, value_enum, help_heading = "Network")]
    pub exif: Option<Exif>,
    /// Must be the model's [default: the model's]
    #[arg(long, value_enum, help_heading = "Network")]
    pub layer: Option<Layer>,
    /// Must be the model's [default: the model's]
    #[arg(long, value_enum, help_heading = "Network")]
    pub pool: Option<Pool>,

    #[command(flatten)]
    pub results: ResultOptions,
    /// Take finished blocks of an earlier run with the same settings [default: true]
    #[arg(long, value_name = "BOOL", value_parser = truth(), help_heading = "Results")]
    pub resume: Option<bool>,
    #[command(flatten)]
    pub s3: S3Options,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// The options of `p8 report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder with the result, or s3://bucket/prefix [default: p8-out]
    #[arg(long, value_name = "PATH", help_heading = "Results")]
    pub output: Option<PathBuf>,
    /// Images that the map shows at most; more than 10000 make a large page [default: 10000]
    #[arg(long, value_name = "N", value_parser = point_count, help_heading = "Results")]
    pub points: Option<usize>,
    #[command(flatten)]
    pub s3: S3Options,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// The options of `p8 doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A prefix in S3, s3://bucket/prefix, that every rank tries to list [default: none]
    #[arg(long, value_name = "PATH")]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub s3: S3Options,
    /// Threads of each rank [default: the host's cores divided among its ranks]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,
    /// TOML file with options by their long names
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where the network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The processor
    Cpu,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn positive_fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("expected a number above 0 and up to 1".into()),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    match is_url {
        true => Ok(text.to_string()),
        false => Err("expected an address that begins with http:// or https://".into()),
    }
}

fn label_rule(text: &str) -> Result<LabelRule, String> {
    text.parse().map_err(|error: DatasetError| chain(&error))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("expected a whole number from 1 on".into()),
    }
}

/// More threads than any host has cores are a typing error.
fn thread_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if (1..=1024).contains(&value) => Ok(value),
        _ => Err("expected a whole number from 1 to 1024".into()),
    }
}

fn point_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if (1..=POINTS_LIMIT).contains(&value) => Ok(value),
        _ => Err(format!("expected a whole number from 1 to {POINTS_LIMIT}")),
    }
}

fn truth() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["true", "false"]).map(|text| text == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_help_and_says_its_default() {
        let mut command = Cli::command();
        command.build();
        let options = command
            .get_arguments()
            .chain(
                command
                    .get_subcommands()
                    .flat_map(clap::Command::get_arguments),
            )
            .filter(|a| {
                a.get_long()
                    .is_some_and(|l| !["help", "version"].contains(&l))
            });
        // A choice between two options states its default once; what has to be named has none.
        let without = ["components", "config", "features", "model"];
        for option in options {
            let help = option
                .get_help()
                .unwrap_or_else(|| panic!("{option} has no help"))
                .to_string();
            let takes_value = option.get_action().takes_values();
            let states_default = help.contains("[default: ")
                || without.contains(&option.get_id().as_str())
                || help
                    == "Folder or file with images, or s3://bucket/prefix; may be given several times";
            assert!(
                !takes_value || states_default,
                "{option} does not say its default"
            );
        }
    }

    #[test]
    fn run_is_the_default_and_has_the_same_options() {
        let typed = Cli::try_parse_from(["p8", "-k", "7"]).unwrap();
        assert!(typed.command.is_none());
        assert_eq!(typed.run.pca.components, Some(7));
        match Cli::try_parse_from(["p8", "run", "-k", "7"])
            .unwrap()
            .command
        {
            Some(Command::Run(run)) => assert_eq!(run.pca.components, Some(7)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_report_draws_as_many_points_as_a_browser_bears() {
        let points = |text: &str| match Cli::try_parse_from(["p8", "report", "--points", text]) {
            Ok(Cli {
                command: Some(Command::Report(report)),
                ..
            }) => report.points,
            _ => None,
        };
        assert_eq!(points("100000"), Some(100_000));
        assert_eq!([points("0"), points("100001"), points("all")], [None; 3]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            ["p8", "--variance", "1.5"],
            ["p8", "--variance", "0"],
            ["p8", "-k", "0"],
            ["p8", "--max-bad-fraction", "-1"],
            ["p8", "--threads", "none"],
            ["p8", "--threads", "40000"],
            ["p8", "--precision", "f16"],
            ["p8", "--endpoint-url", "localhost:9000"],
            ["p8", "--no-such-option", "1"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
