//! The command line as typed. Nothing is interpreted here beyond the form of each value.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

use super::{help, version};
use crate::dataset::DatasetError;
use crate::dataset::label::LabelRule;
use crate::error::chain;
use crate::image::{Exif, Preprocess};
use crate::model::{Layer, Pool, Precision, Topology};
use crate::output::report::POINTS_LIMIT;
use crate::pca::{self, Solver};
use crate::run::settings::{LogFormat, WeightsChoice};

/// Principal components of image collections: ResNet-50 features, PCA over MPI
///
/// p8 lists the images under a folder or an S3 prefix, pushes them through a pretrained ResNet-50 on all MPI ranks,
/// factorises the features by a distributed TSQR, and writes the scores of every image, the fitted model and a report
/// to look at. Results are the same bytes at any number of ranks and threads.
#[derive(Debug, Parser)]
#[command(
    name = "p8",
    version,
    long_version = version::long(),
    help_template = help::TEMPLATE,
    before_help = help::EXAMPLES,
    before_long_help = help::LONG_EXAMPLES,
    after_help = help::first_screen(),
    after_long_help = help::environment_and_exit_codes(),
    mut_args(|option| option.hide_short_help(true)),
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
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
    /// The whole pipeline: features, components, scores (the default)
    #[command(
        help_template = help::TEMPLATE,
        before_help = help::EXAMPLES,
        before_long_help = help::LONG_EXAMPLES,
        after_help = help::first_screen(),
        after_long_help = help::environment_and_exit_codes(),
        mut_args(|option| option.hide_short_help(true))
    )]
    Run(Box<RunArgs>),
    /// Principal components of stored features: a run's, Parquet, .npy
    #[command(
        help_template = help::TEMPLATE,
        before_help = help::PCA_EXAMPLES,
        after_help = help::MORE,
        after_long_help = help::environment_and_exit_codes(),
        mut_args(|option| match option.get_help_heading() {
            Some("S3") => option.hide_short_help(true),
            _ => option,
        })
    )]
    Pca(Box<PcaArgs>),
    /// Scores of new images, or of stored features, by a fitted model
    #[command(
        help_template = help::TEMPLATE,
        before_help = help::TRANSFORM_EXAMPLES,
        after_help = help::MORE,
        after_long_help = help::environment_and_exit_codes(),
        mut_args(|option| match option.get_help_heading() {
            Some("S3") => option.hide_short_help(true),
            _ => option,
        })
    )]
    Transform(Box<TransformArgs>),
    /// The report of a finished run, made again from its files
    #[command(help_template = help::TEMPLATE, before_help = help::REPORT_EXAMPLES)]
    Report(ReportArgs),
    /// What each rank sees: cores, SIMD, MPI, BLAS, weights, inputs
    #[command(help_template = help::TEMPLATE, before_help = help::DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Prints the completions of a shell
    #[command(help_template = help::TEMPLATE, before_help = help::COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Prints the manual page of p8, or of a subcommand
    #[command(help_template = help::TEMPLATE, before_help = help::MAN_EXAMPLES)]
    Man {
        /// A subcommand, for the page of its options [default: p8 itself]
        subcommand: Option<String>,
    },
    /// Prints the help of a topic, a subcommand or an option
    #[command(help_template = help::TEMPLATE, before_help = help::HELP_EXAMPLES)]
    Help {
        /// What to tell about [default: p8 itself]
        topic: Option<String>,
    },
}

/// The options of `p8 run`. `None` means "not typed".
#[derive(Debug, Default, Args)]
pub struct RunArgs {
    /// Folder or file [default: training_data]
    ///
    /// Or s3://bucket/prefix, with credentials or --anonymous. May be given several times. Images lie at any
    /// depth below a folder or prefix: JPEG, PNG, WebP, GIF, BMP, TIFF. Without --input and
    /// --weights this is the sample run, which goes on with random weights where there is no network.
    #[arg(long, value_name = "PATH", help_heading = "Images")]
    pub input: Vec<PathBuf>,
    /// Only files that match [default: all images]
    ///
    /// A pattern such as '*.jpg' or 'cats/**/*.png', in quotes so that the shell leaves it alone. It is
    /// compared with the name of a file, or where it has a slash with the path below --input.
    #[arg(long, value_name = "PATTERN", help_heading = "Images")]
    pub glob: Option<String>,
    /// parent, none or regex:EXPR [default: parent]
    ///
    /// Where the label of an image comes from: the name of its folder, nowhere, or the first group of a
    /// regular expression on its path, such as 'regex:([a-z]+)_[0-9]+'.
    #[arg(long, value_name = "RULE", value_parser = label_rule, help_heading = "Images")]
    pub label: Option<LabelRule>,
    /// Orientation that the camera noted [default: apply]
    ///
    /// apply turns the image as its EXIF data says; ignore takes the pixels as they are stored.
    #[arg(
        long,
        value_enum,
        value_name = "apply|ignore",
        hide_possible_values = true,
        help_heading = "Images"
    )]
    pub exif: Option<Exif>,
    /// Share of bad images to bear [default: 0.5]
    ///
    /// Where more of the images cannot be decoded, the run names every one of them and ends with exit
    /// code 3. Below it, a bad image costs only itself; outcomes.parquet has the reasons.
    #[arg(long, value_name = "F", value_parser = fraction, help_heading = "Images")]
    pub max_bad_fraction: Option<f64>,

    #[command(flatten)]
    pub results: ResultOptions,
    /// Take over finished blocks [default: true]
    ///
    /// Features of an earlier run with the same weights, layer and pooling are not computed again; false
    /// computes all of them.
    #[arg(long, value_name = "true|false", hide_possible_values = true, value_parser = truth(), help_heading = "Results")]
    pub resume: Option<bool>,

    /// Name, file or seeded:N [default: keras]
    ///
    /// keras, torchvision-v1 and torchvision-v2 are downloaded once (about 100 MB) to ~/.cache/p8 and
    /// verified. A file ends in .safetensors, .pth or .h5 and may lie in S3; its tensors bear the names of
    /// torchvision, timm or Keras. seeded:N is random, for trials only.
    #[arg(long, value_name = "WEIGHTS", help_heading = "Network")]
    pub weights: Option<WeightsChoice>,
    /// Where it strides [default: as trained]
    ///
    /// v1 strides in the first 1x1 convolution of a stage (Keras), v1.5 in the 3x3 (torchvision). Another
    /// one than the weights were trained with gives other, worse features.
    #[arg(
        long,
        value_enum,
        value_name = "v1|v1.5",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub topology: Option<Topology>,
    /// Resizing, scaling [default: as trained]
    ///
    /// caffe: BGR minus the mean, bicubic to 224x224 (Keras). torchvision: to 256, centre crop of 224,
    /// normalised.
    #[arg(
        long,
        value_enum,
        value_name = "caffe|torchvision",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub preprocess: Option<Preprocess>,
    /// Stage to take [default: layer4]
    ///
    /// Its output becomes the features: layer1, layer2, layer3 or layer4 (256, 512, 1024 or 2048 of them
    /// after pooling). Early stages see textures, late ones see objects.
    #[arg(
        long,
        value_enum,
        value_name = "layer1..layer4",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub layer: Option<Layer>,
    /// Pooling of its output [default: avg]
    ///
    /// avg or max over the pixels of a feature map; none takes all of them in H,W,C order (100352 features
    /// after layer4), as the Spark notebook did.
    #[arg(
        long,
        value_enum,
        value_name = "avg|max|none",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub pool: Option<Pool>,
    /// Its arithmetic [default: f32]
    ///
    /// bf16 is 1.6 to 1.7 times as fast, on processors with AVX512-BF16; scores differ by about 1 %.
    #[arg(
        long,
        value_enum,
        value_name = "f32|bf16",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub precision: Option<Precision>,
    /// Where it runs [default: cpu]
    #[arg(
        long,
        value_enum,
        value_name = "cpu",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub device: Option<Device>,

    #[command(flatten)]
    pub pca: PcaOptions,
    #[command(flatten)]
    pub s3: S3Options,

    /// Show plan, memory and time; compute nothing
    ///
    /// Lists the images, checks that the output can be written, and measures the network on blank images.
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub dry_run: bool,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// Where results go.
#[derive(Debug, Default, Args)]
pub struct ResultOptions {
    /// Folder or s3://bucket/prefix [default: p8-out]
    ///
    /// Where the results go, and the finished blocks of a run that was stopped.
    #[arg(long, value_name = "PATH", help_heading = "Results")]
    pub output: Option<PathBuf>,
    /// Replace a result of other settings
    ///
    /// Without it p8 refuses to write over a result that was made with other settings, and names them.
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Results")]
    pub overwrite: bool,
}

/// How objects in S3 are reached.
#[derive(Debug, Default, Args)]
pub struct S3Options {
    /// Address of another store [default: Amazon's]
    ///
    /// Such as http://localhost:9000. AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL are read too.
    #[arg(long, value_name = "URL", value_parser = endpoint, help_heading = "S3")]
    pub endpoint_url: Option<String>,
    /// Region of the buckets [default: as AWS programs do]
    ///
    /// From AWS_REGION, AWS_DEFAULT_REGION, the profile, or the machine in EC2.
    #[arg(long, value_name = "REGION", help_heading = "S3")]
    pub region: Option<String>,
    /// Put the bucket into the path of a request
    ///
    /// As many stores other than Amazon's need it, where the name of the bucket is no part of the host name.
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
    ///
    /// No more than the rank of the features has; excludes --variance.
    #[arg(short = 'k', long, value_name = "N", value_parser = at_least_one, conflicts_with = "variance", help_heading = "Components")]
    pub components: Option<usize>,
    /// As many as explain this share [default: 0.95]
    ///
    /// A share of the whole variance of all features, above 0 and up to 1; excludes --components.
    #[arg(long, value_name = "F", value_parser = positive_fraction, help_heading = "Components")]
    pub variance: Option<f64>,
    /// Scale to unit variance [default: true]
    ///
    /// Divides every feature by its sample standard deviation; constant features count as 0.
    #[arg(long, value_name = "true|false", hide_possible_values = true, value_parser = truth(), help_heading = "Components")]
    pub standardize: Option<bool>,
    /// Give every score unit variance
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Components")]
    pub whiten: bool,
    /// auto, tsqr, wide, randomized [default: auto]
    ///
    /// tsqr for at least as many images as features, wide for fewer, randomized (with -k only) for an
    /// approximation in little memory whose error is stated. auto decides by shape and memory, and does
    /// without the QR of either where the features confirm what a shortcut gives.
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        hide_possible_values = true,
        help_heading = "Components"
    )]
    pub solver: Option<Solver>,
    /// Check all directions exactly [default: false]
    ///
    /// Every run checks its components in random directions; this one takes all of them and reads the
    /// features once more. Where they were factored (--solver tsqr or wide), it checks the factorisation
    /// in the same way.
    #[arg(long, value_name = "true|false", hide_possible_values = true, value_parser = truth(), help_heading = "Components")]
    pub verify: Option<bool>,
    /// Of the factorisation [default: f64]
    ///
    /// f32 takes about 70 % of the time.
    #[arg(
        long,
        value_enum,
        value_name = "f32|f64",
        hide_possible_values = true,
        help_heading = "Components"
    )]
    pub pca_precision: Option<pca::Precision>,
}

/// Threads, messages, and a file with options.
#[derive(Debug, Default, Args)]
pub struct RunningOptions {
    /// Of each rank [default: its share of the cores]
    ///
    /// Results are the same bytes at any number of threads and ranks.
    #[arg(long, value_name = "N", value_parser = thread_count, help_heading = "Running")]
    pub threads: Option<usize>,
    /// TOML file with options by their long names
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub config: Option<PathBuf>,
    /// Form of the messages [default: human]
    ///
    /// human: lines for a person. json: one object a line, for a program.
    #[arg(
        long,
        value_enum,
        value_name = "human|json",
        hide_possible_values = true,
        help_heading = "Running"
    )]
    pub log: Option<LogFormat>,
    /// Print errors only (and that weights are random)
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "verbose", help_heading = "Running")]
    pub quiet: bool,
    /// Print details
    #[arg(short, long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub verbose: bool,
}

/// The options of `p8 pca`. None is required here, because it may come from the environment.
#[derive(Debug, Args)]
pub struct PcaArgs {
    /// Output of a run, folder or file with features
    ///
    /// May be given several times: the output of a run, a folder with feature shards, Parquet or .npy
    /// files, or one such file. Local files only.
    #[arg(long, value_name = "PATH", help_heading = "Features")]
    pub features: Vec<PathBuf>,
    /// Of the vectors in Parquet [default: the only list]
    ///
    /// The column is found by itself where it is called features, or is the only list of float or double.
    #[arg(long, value_name = "NAME", help_heading = "Features")]
    pub column: Option<String>,
    #[command(flatten)]
    pub results: ResultOptions,
    #[command(flatten)]
    pub pca: PcaOptions,
    #[command(flatten)]
    pub s3: S3Options,
    /// Show plan and memory; compute nothing
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub dry_run: bool,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// The options of `p8 transform`.
#[derive(Debug, Args)]
pub struct TransformArgs {
    /// model.safetensors of a result, also in S3
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Folder, file or s3://bucket/prefix with images
    ///
    /// May be given several times.
    #[arg(long, value_name = "PATH", help_heading = "Images")]
    pub input: Vec<PathBuf>,
    /// Only files that match [default: all images]
    ///
    /// A pattern such as '*.jpg' or 'cats/**/*.png', in quotes so that the shell leaves it alone. It is
    /// compared with the name of a file, or where it has a slash with the path below --input.
    #[arg(long, value_name = "PATTERN", help_heading = "Images")]
    pub glob: Option<String>,
    /// parent, none or regex:EXPR [default: parent]
    ///
    /// Where the label of an image comes from: the name of its folder, nowhere, or the first group of a
    /// regular expression on its path, such as 'regex:([a-z]+)_[0-9]+'.
    #[arg(long, value_name = "RULE", value_parser = label_rule, help_heading = "Images")]
    pub label: Option<LabelRule>,
    /// Share of bad images to bear [default: 0.5]
    ///
    /// Where more of the images cannot be decoded, the run names every one of them and ends with exit
    /// code 3. Below it, a bad image costs only itself; outcomes.parquet has the reasons.
    #[arg(long, value_name = "F", value_parser = fraction, help_heading = "Images")]
    pub max_bad_fraction: Option<f64>,

    /// Stored features in the place of images
    ///
    /// As p8 pca reads them; may be given several times.
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "input",
        help_heading = "Features"
    )]
    pub features: Vec<PathBuf>,
    /// Of the vectors in Parquet [default: the only list]
    ///
    /// The column is found by itself where it is called features, or is the only list of float or double.
    #[arg(long, value_name = "NAME", help_heading = "Features")]
    pub column: Option<String>,

    /// Those of the model [default: as fitted]
    ///
    /// Have to be named where they are a file; other weights than those of the fit are refused.
    #[arg(long, value_name = "WEIGHTS", help_heading = "Network")]
    pub weights: Option<WeightsChoice>,
    /// Must be as fitted [default: as fitted]
    #[arg(
        long,
        hide_short_help = true,
        value_enum,
        value_name = "v1|v1.5",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub topology: Option<Topology>,
    /// Must be as fitted [default: as fitted]
    #[arg(
        long,
        hide_short_help = true,
        value_enum,
        value_name = "caffe|torchvision",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub preprocess: Option<Preprocess>,
    /// Must be as fitted [default: as fitted]
    #[arg(
        long,
        hide_short_help = true,
        value_enum,
        value_name = "apply|ignore",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub exif: Option<Exif>,
    /// Must be as fitted [default: as fitted]
    #[arg(
        long,
        hide_short_help = true,
        value_enum,
        value_name = "layer1..layer4",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub layer: Option<Layer>,
    /// Must be as fitted [default: as fitted]
    #[arg(
        long,
        hide_short_help = true,
        value_enum,
        value_name = "avg|max|none",
        hide_possible_values = true,
        help_heading = "Network"
    )]
    pub pool: Option<Pool>,

    #[command(flatten)]
    pub results: ResultOptions,
    /// Take over finished blocks [default: true]
    ///
    /// Features of an earlier run with the same weights, layer and pooling are not computed again; false
    /// computes all of them.
    #[arg(long, value_name = "true|false", hide_possible_values = true, value_parser = truth(), help_heading = "Results")]
    pub resume: Option<bool>,
    #[command(flatten)]
    pub s3: S3Options,
    #[command(flatten)]
    pub running: RunningOptions,
}

/// The options of `p8 report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Where the result is [default: p8-out]
    ///
    /// A folder, or a prefix: s3://bucket/prefix.
    #[arg(long, value_name = "PATH", help_heading = "Results")]
    pub output: Option<PathBuf>,
    /// Images that the map shows at most [default: 10000]
    ///
    /// More than 10000 make a large page.
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
    /// What every rank tries to read [default: none]
    ///
    /// A folder, a file or s3://bucket/prefix; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub input: Vec<PathBuf>,
    /// Only files that match [default: all images]
    #[arg(long, value_name = "PATTERN")]
    pub glob: Option<String>,
    #[command(flatten)]
    pub s3: S3Options,
    /// Of each rank [default: its share of the cores]
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
    // Addresses stand in reports and logs, where a password has no place.
    let has_user = without_user(text) != text;
    match (is_url, has_user) {
        (true, false) => Ok(text.to_string()),
        (true, true) => Err(
            "expected an address without user and password: p8 finds credentials as every AWS program does".into(),
        ),
        (false, _) => Err("expected an address that begins with http:// or https://".into()),
    }
}

/// An address as it may stand in a report: without user and password.
pub fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_string();
    };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_string(),
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
                || help == "Folder, file or s3://bucket/prefix with images";
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
            [
                "p8",
                "--endpoint-url",
                "http://user:password@localhost:9000",
            ],
            ["p8", "--no-such-option", "1"],
        ] {
            assert!(Cli::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
