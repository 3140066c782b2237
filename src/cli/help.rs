//! The texts around the options: examples, topics, environment, exit codes. No line is longer than a
//! terminal of 80 columns.

use super::args::{Cli, RunArgs};
use clap::{Arg, Args, Command, CommandFactory};

/// Examples first, then the options by topic.
pub const TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}{all-args}{after-help}";

/// At the end of the short help of a subcommand.
pub const MORE: &str = "--help tells more about each option, S3, environment and exit codes.";

/// Examples of `p8` and `p8 run` on the first screen.
pub const EXAMPLES: &str = "\
Examples:
  mpirun -np 3 p8                                  the sample images, in the
                                                   folder of p8's source
  mpirun -np 3 p8 --input photos --output result   your own images
  p8 --input photos --dry-run                      the plan, its memory and time
  mpirun -np 3 p8 doctor                           what each rank sees";

/// All examples of `p8` and `p8 run`.
pub const LONG_EXAMPLES: &str = "\
Examples:
  The sample images, in the folder of p8's source; the result is in p8-out:
      mpirun -np 3 p8
  Your own images, the name of their folder being their label:
      mpirun -np 3 p8 --input photos --output result
  The plan with its memory and time, and nothing computed:
      p8 --input photos --dry-run
  Seven components of all 100352 features:
      mpirun -np 3 p8 --input photos -k 7 --pool none
  Images and results in S3:
      mpirun -np 3 p8 --input s3://bucket/photos --output s3://bucket/result
  Other components of the same features, without images and weights:
      mpirun -np 3 p8 pca --features result -k 20 --output other
  New images by the model of a run:
      mpirun -np 3 p8 transform --model result/model.safetensors \\
          --input new --output scored
  The report of a finished run, made again:
      p8 report --output result
  What each rank sees of its machine:
      mpirun -np 3 p8 doctor";

/// Examples of `p8 report`.
pub const REPORT_EXAMPLES: &str = "\
Examples:
  The report and the pictures for papers, from the files of a finished run:
      p8 report --output result";

/// Examples of `p8 pca`.
pub const PCA_EXAMPLES: &str = "\
Examples:
  Twenty components of the features of a run:
      mpirun -np 3 p8 pca --features result -k 20 --output other
  Of a NumPy array, one row an image:
      mpirun -np 3 p8 pca --features vectors.npy --output other";

/// Examples of `p8 transform`.
pub const TRANSFORM_EXAMPLES: &str = "\
Examples:
  New images by the model of a run:
      mpirun -np 3 p8 transform --model result/model.safetensors \\
          --input new --output scored
  Features that are stored already:
      mpirun -np 3 p8 transform --model result/model.safetensors \\
          --features vectors.npy --output scored";

/// Examples of `p8 doctor`.
pub const DOCTOR_EXAMPLES: &str = "\
Examples:
  This machine, or every host of a hostfile:
      mpirun -np 3 p8 doctor
      mpirun --hostfile hostfile --map-by ppr:1:node --bind-to none p8 doctor
  Whether every rank can list a bucket:
      mpirun -np 3 p8 doctor --input s3://bucket/photos";

/// Examples of `p8 completions`.
pub const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  For you, in bash:
      mkdir -p ~/.local/share/bash-completion/completions
      p8 completions bash >~/.local/share/bash-completion/completions/p8
  In zsh, in a folder of $fpath:
      p8 completions zsh >~/.zfunc/_p8
  In fish:
      p8 completions fish >~/.config/fish/completions/p8.fish";

/// Examples of `p8 man`.
pub const MAN_EXAMPLES: &str = "\
Examples:
  Read it:
      p8 man | man -l -
      p8 man pca | man -l -
  Install it:
      p8 man >/usr/local/share/man/man1/p8.1";

/// Examples of `p8 help`.
pub const HELP_EXAMPLES: &str = "\
Examples:
  The options of a topic: images, results, network, components, s3, running;
  and the environment with the exit codes:
      p8 help network
      p8 help environment
  A subcommand, and the topic of an option:
      p8 help pca
      p8 help solver
      p8 help features";

/// The options that the first screen has; `p8 help TOPIC` has the others.
const MOST_USED: [&str; 8] = [
    "input",
    "output",
    "weights",
    "layer",
    "components",
    "variance",
    "dry_run",
    "threads",
];

/// The topics with the heading of their options in the table, and examples.
const TOPICS: [(&str, &str); 6] = [
    (
        "Images",
        "\
Examples:
  mpirun -np 3 p8 --input photos --glob '*.jpg' --label none
  mpirun -np 3 p8 --input photos --label 'regex:([a-z]+)_[0-9]+'",
    ),
    (
        "Results",
        "\
Examples:
  mpirun -np 3 p8 --input photos --output result
  mpirun -np 3 p8 --input photos --output result -k 7 --overwrite",
    ),
    (
        "Network",
        "\
Examples:
  mpirun -np 3 p8 --input photos --layer layer3
  mpirun -np 3 p8 --input photos --weights resnet50.pth --pool max",
    ),
    (
        "Components",
        "\
Examples:
  mpirun -np 3 p8 --input photos -k 20 --whiten
  mpirun -np 3 p8 --input photos --variance 0.8 --solver tsqr",
    ),
    (
        "S3",
        "\
Examples:
  mpirun -np 3 p8 --input s3://bucket/photos --output s3://bucket/result
  mpirun -np 3 p8 --input s3://bucket/photos --path-style \\
      --endpoint-url http://localhost:9000",
    ),
    (
        "Running",
        "\
Examples:
  p8 --input photos --dry-run
  mpirun -np 3 p8 --config p8.toml --threads 4 --log json",
    ),
];

/// The topic that is no group of options.
const ENVIRONMENT_TOPIC: &str = "environment";

/// Where options come from besides the command line, and the variables that are no options.
pub const ENVIRONMENT: &str = "\
Environment and configuration:
  Every option is also read from the environment, --input from P8_INPUT and
  --max-bad-fraction from P8_MAX_BAD_FRACTION, and from the TOML file that
  --config names:
      input = [\"photos\", \"s3://bucket/more\"]
      components = 7
      whiten = true
  The order is flag, environment, file, default. metrics.json says where the
  value of each option came from.

  P8_ISA             pins the instruction set of the network: avx512, avx2, neon
                     or scalar [default: the best that all ranks have]
  P8_WEIGHTS_MIRROR  address that named weights are fetched from
  XDG_CACHE_HOME     weights are kept below it, in p8 [default: ~/.cache]
  AWS_*              credentials, profile and region as every AWS program
                     finds them";

/// The exit codes, as `error::Kind` has them.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   2  usage: an option is wrong, or the output holds a result of other settings
   3  input: nothing found, or too many bad images
   4  reading or writing failed, locally or in S3
   5  a numerical check failed; nothing is published
   6  weights are missing, damaged or of another network
  70  a defect of p8
  75  stopped by a signal; finished blocks are kept: run the same command again";

/// At the end of the long help.
pub fn environment_and_exit_codes() -> String {
    format!("{ENVIRONMENT}\n\n{EXIT_CODES}")
}

/// At the end of the first screen: the options that are used most, and the way to the others.
pub fn first_screen() -> String {
    let topics: Vec<String> = topics().collect();
    format!(
        "{}\n\nEverything else, a screen each, by p8 help and one of\n  {}",
        options("Most used", |option| MOST_USED
            .contains(&option.get_id().as_str()))
        .render_help()
        .to_string()
        .trim_end(),
        topics.join(", ")
    )
}

fn topics() -> impl Iterator<Item = String> {
    let headings = TOPICS.iter().map(|(heading, _)| heading.to_lowercase());
    headings.chain([ENVIRONMENT_TOPIC.to_string()])
}

/// What `p8 help` prints: the first screen, or the screen of a topic, of a subcommand, or of the topic that an
/// option belongs to.
///
/// # Errors
/// A sentence for the user when it is none of them.
pub fn page(topic: Option<&str>) -> Result<String, String> {
    let mut command = Cli::command();
    command.build();
    let Some(name) = topic else {
        return Ok(command.render_help().to_string());
    };
    let wanted = name.trim_start_matches('-').to_lowercase();
    if let Some(subcommand) = command.find_subcommand_mut(&wanted) {
        return Ok(subcommand.render_help().to_string());
    }
    if wanted == ENVIRONMENT_TOPIC {
        return Ok(format!("{}\n", environment_and_exit_codes()));
    }
    let is_wanted = |option: &&Arg| {
        let short = option.get_short().map(String::from);
        option.get_long() == Some(wanted.as_str()) || short.as_deref() == Some(wanted.as_str())
    };
    let of_option = command
        .get_arguments()
        .find(is_wanted)
        .and_then(Arg::get_help_heading);
    let found = TOPICS
        .iter()
        .find(|(heading, _)| heading.to_lowercase() == wanted || of_option == Some(*heading));
    match found {
        Some((heading, examples)) => Ok(topic_page(heading, examples)),
        None => {
            // An option that a run does not have stands on the page of the first subcommand that has it.
            let is_of = |other: &&mut Command| other.get_arguments().any(|o| is_wanted(&o));
            if let Some(other) = command.get_subcommands_mut().find(is_of) {
                return Ok(other.render_help().to_string());
            }
            let topics: Vec<String> = topics().collect();
            let subcommands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            Err(format!(
                "there is no help for \"{name}\": the topics are {}; p8 has the subcommands {}",
                topics.join(", "),
                subcommands.join(", ")
            ))
        }
    }
}

/// All about the options of a topic, without the empty lines that a long help has between them.
fn topic_page(heading: &'static str, examples: &str) -> String {
    let options = options(heading, |option| option.get_help_heading() == Some(heading))
        .render_long_help()
        .to_string();
    let lines: Vec<&str> = options
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    format!(
        "{examples}\n\n{}\n\nAlso from P8_<OPTION> and a file: p8 help {ENVIRONMENT_TOPIC}\n",
        lines.join("\n")
    )
}

/// A command with some of the options of a run under one heading.
fn options(heading: &'static str, is_shown: impl Fn(&Arg) -> bool) -> Command {
    RunArgs::augment_args(Command::new("p8"))
        .disable_help_flag(true)
        .help_template("{all-args}")
        .term_width(80)
        .mut_args(|option| {
            let is_hidden = !is_shown(&option);
            option.hide(is_hidden).help_heading(heading)
        })
}

#[cfg(test)]
mod tests {
    use super::super::sources::merge;
    use super::*;
    use crate::error::Kind;
    use std::ffi::OsString;

    /// The help of p8 and of every subcommand as a terminal of 80 columns shows it.
    fn pages(long: bool) -> Vec<(String, String)> {
        let mut command = Cli::command().term_width(80);
        command.build();
        let mut pages = vec![command.clone()];
        pages.extend(command.get_subcommands().cloned());
        pages
            .into_iter()
            .map(|page| {
                let mut page = page.term_width(80);
                let text = match long {
                    true => page.render_long_help(),
                    false => page.render_help(),
                };
                (page.get_name().to_string(), text.to_string())
            })
            .collect()
    }

    #[test]
    fn an_option_takes_one_line_of_the_short_help() {
        for (name, text) in pages(false) {
            let options = text.split("\nOptions:").last().unwrap();
            let options = options.split("Everything else").next().unwrap();
            for line in options.lines().filter(|line| line.starts_with(' ')) {
                let is_entry = line.trim_start().starts_with('-')
                    || line.starts_with("  <")
                    || line.starts_with("  [");
                assert!(is_entry, "p8 {name} -h breaks a line: {line:?}\n{text}");
            }
        }
    }

    #[test]
    fn no_line_is_longer_than_80_columns_and_none_of_ours_is_broken() {
        for (name, text) in pages(false).into_iter().chain(pages(true)) {
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "p8 {name}: {line:?}");
            }
            for ours in [EXAMPLES, LONG_EXAMPLES, ENVIRONMENT, EXIT_CODES] {
                let first = ours.lines().nth(1).unwrap();
                if text.contains(first) {
                    for line in ours.lines() {
                        assert!(
                            text.lines().any(|shown| shown == line),
                            "p8 {name} breaks {line:?}"
                        );
                    }
                }
            }
        }
    }

    /// The lines of a text that begin a command, whole.
    fn commands(text: &str) -> Vec<String> {
        let joined = text.replace("\\\n", " ");
        let is_command = |line: &&str| line.starts_with("mpirun") || line.starts_with("p8 ");
        let lines = joined.lines().map(str::trim).filter(is_command);
        // What a command does stands behind it, and a pipe leads out of p8.
        let whole = |line: &str| {
            let until = ["   ", " | ", " >"].map(|end| line.find(end).unwrap_or(line.len()));
            line[..until.into_iter().min().unwrap_or_default()].to_string()
        };
        lines.map(whole).collect()
    }

    #[test]
    fn every_screen_has_a_page_and_every_example_is_a_command() {
        let mut examples = 0;
        for text in [
            EXAMPLES,
            LONG_EXAMPLES,
            REPORT_EXAMPLES,
            PCA_EXAMPLES,
            TRANSFORM_EXAMPLES,
            DOCTOR_EXAMPLES,
            COMPLETIONS_EXAMPLES,
            MAN_EXAMPLES,
            HELP_EXAMPLES,
        ]
        .into_iter()
        .chain(TOPICS.map(|(_, examples)| examples))
        {
            for line in commands(text) {
                let words = line.split(' ').filter(|word| !word.is_empty());
                let words: Vec<&str> = words.skip_while(|word| *word != "p8").collect();
                if let ["p8", "help", topic] = words[..] {
                    page(Some(topic)).unwrap();
                }
                // A test needs no file of options.
                let words = words
                    .iter()
                    .filter(|word| **word != "--config" && **word != "p8.toml");
                let words: Vec<OsString> =
                    words.map(|word| word.trim_matches('\'').into()).collect();
                merge(&words, &|_| None).unwrap_or_else(|error| panic!("{line}: {error:?}"));
                examples += 1;
            }
        }
        assert!(examples > 25, "{examples}");
    }

    #[test]
    fn a_screen_holds_the_first_page_and_every_topic() {
        for name in [None, Some("run")] {
            let first = page(name).unwrap();
            assert!(first.lines().count() <= 40, "{first}");
            for topic in topics() {
                assert!(first.contains(&topic), "{topic}: {first}");
            }
        }
        for topic in topics() {
            let text = page(Some(&topic)).unwrap();
            let lines = text.lines().count();
            assert!(
                (10..=40).contains(&lines),
                "{topic}, {lines} lines:\n{text}"
            );
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{topic}: {line:?}");
                let is_command = line.starts_with("mpirun") || line.starts_with("p8");
                assert!(!is_command, "{topic}: examples are indented");
            }
        }
        for subcommand in ["pca", "transform", "report", "doctor", "man", "help"] {
            let text = page(Some(subcommand)).unwrap();
            assert!(text.contains(&format!("p8 {subcommand}")), "{text}");
            assert!(text.lines().count() <= 45, "{text}");
        }
    }

    #[test]
    fn every_option_of_any_command_has_a_page() {
        let mut command = Cli::command();
        command.build();
        let others = command
            .get_subcommands()
            .flat_map(|other| other.get_arguments());
        let all = command.get_arguments().chain(others);
        let all = all.filter_map(Arg::get_long);
        for long in all.filter(|long| !["help", "version"].contains(long)) {
            for typed in [long, &format!("--{long}")] {
                let text = page(Some(typed)).unwrap();
                assert!(text.contains(&format!("--{long}")), "{typed}: {text}");
            }
        }
        assert!(page(Some("-k")).unwrap().contains("--components"));
        for id in MOST_USED {
            let long = id.replace('_', "-");
            assert!(first_screen().contains(&format!("--{long}")), "{id}");
        }
    }

    #[test]
    fn another_topic_is_refused_with_those_that_there_are() {
        let error = page(Some("weather")).unwrap_err();
        for word in ["\"weather\"", "network", "environment", "transform"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn examples_come_before_options() {
        for (name, text) in pages(false).into_iter().chain(pages(true)) {
            let example = text.find("Examples:").unwrap_or_else(|| panic!("{name}"));
            assert!(example < text.find("--help").unwrap(), "p8 {name}");
        }
    }

    #[test]
    fn the_help_has_every_exit_code() {
        for code in Kind::ALL.map(Kind::exit_code) {
            let listed = EXIT_CODES
                .lines()
                .any(|line| line.starts_with(&format!("{code:>4}  ")));
            assert!(listed, "{code}");
        }
        for (name, text) in pages(true) {
            let runs = ["p8", "run", "pca", "transform"].contains(&name.as_str());
            assert_eq!(text.contains(EXIT_CODES), runs, "p8 {name}");
        }
    }
}
