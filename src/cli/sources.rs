//! Where the value of an option comes from: flag, environment, file, default; in this order.
//!
//! Values from the environment and from the file are turned into arguments and parsed by the same
//! rules as typed ones, so that there is one set of rules and an error can name its source.

use super::args::Cli;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where a value was found; the first beats the ones after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// On the command line.
    Flag,
    /// In a `P8_` variable.
    Environment,
    /// In the file given with `--config`.
    File,
    /// Nowhere: the built-in default.
    Default,
}

/// Why the arguments cannot be used.
#[derive(Debug)]
pub enum ArgumentError {
    /// What clap says: also the texts of `--help` and `--version`.
    Clap(clap::Error),
    /// A page that was asked for, like the help: completions, the manual.
    Page(String),
    /// Everything else, as text.
    Text(String),
}

/// The arguments after all sources were looked at.
#[derive(Debug)]
pub struct Merged {
    /// What was typed, with the gaps filled from the environment and the file.
    pub cli: Cli,
    /// Source of each option, by long name.
    pub sources: BTreeMap<String, Source>,
}

/// Merges flags, environment and file.
///
/// `environment` looks up a variable; it is a parameter so that tests need not change the process.
pub fn merge(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Merged, ArgumentError> {
    let typed = Cli::command()
        .try_get_matches_from(arguments)
        .map_err(|error| ArgumentError::Clap(with_hint(error, arguments)))?;
    let (name, matches) = match typed.subcommand() {
        Some((name, matches)) => (Some(name.to_string()), matches),
        None => (None, &typed),
    };
    let mut command = Cli::command();
    command.build();
    let command = match &name {
        Some(name) => command
            .find_subcommand(name)
            .cloned()
            .ok_or_else(|| ArgumentError::Text(format!("unknown subcommand {name}")))?,
        None => command,
    };

    // Subcommands that print a page take no options.
    let takes_file = command.get_arguments().any(|a| a.get_id() == "config");
    let file = match takes_file {
        true => config_file(matches, environment)?,
        false => None,
    };
    if let Some(file) = &file {
        file.refuse_unknown()?;
    }
    let found: Vec<Found> = options(&command)
        .into_iter()
        .map(|option| find(option, matches, environment, file.as_ref()))
        .collect();
    let mut extra: Vec<OsString> = Vec::new();
    let mut sources = BTreeMap::new();
    for one in &found {
        let source = if loses_to_another(one, &found)? {
            Source::Default
        } else {
            extra.extend(tokens(one, name.as_deref())?);
            one.source
        };
        sources.insert(one.option.long.clone(), source);
    }

    let all: Vec<OsString> = arguments.iter().cloned().chain(extra).collect();
    let matches = Cli::command()
        .try_get_matches_from(all)
        .map_err(ArgumentError::Clap)?;
    let cli = Cli::from_arg_matches(&matches).map_err(ArgumentError::Clap)?;
    Ok(Merged { cli, sources })
}

/// A path without an option in front of it is what people try first: the error says which one it needs.
fn with_hint(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let kinds = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg];
    let word = kinds
        .into_iter()
        .find_map(|kind| match error.get(kind) {
            Some(ContextValue::String(word)) => Some(word.clone()),
            _ => None,
        })
        .filter(|word| !word.starts_with('-') && Cli::command().find_subcommand(word).is_none());
    let unexpected = matches!(
        error.kind(),
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument | ErrorKind::ArgumentConflict
    );
    let has_suggestion = error.get(ContextKind::SuggestedSubcommand).is_some();
    let subcommand = arguments.get(1).and_then(|first| first.to_str());
    let option = match subcommand {
        Some("completions" | "man" | "help") => None,
        Some("pca") => Some("--features"),
        Some("report") => Some("--output"),
        _ => Some("--input"),
    };
    if let (true, false, Some(word), Some(option)) = (unexpected, has_suggestion, word, option) {
        let tip = format!("to name a folder or file, use '{option} {word}'");
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

/// An option with the values of its highest source.
struct Found {
    option: OptionForm,
    source: Source,
    /// Those of the environment or the file.
    values: Vec<OsString>,
    /// How an error names the source.
    origin: String,
}

fn find(
    option: OptionForm,
    matches: &ArgMatches,
    environment: &dyn Fn(&str) -> Option<OsString>,
    file: Option<&ConfigFile>,
) -> Found {
    let (source, values, origin) = if is_typed(matches, &option) {
        (Source::Flag, Vec::new(), format!("--{}", option.long))
    } else if let Some(value) = environment(&variable(&option.long)) {
        let origin = format!("environment variable {}", variable(&option.long));
        (Source::Environment, vec![value], origin)
    } else if let Some((path, values)) = file.and_then(|file| file.get(&option.long)) {
        let origin = format!("\"{}\" in the file {}", option.long, path.display());
        (Source::File, values, origin)
    } else {
        (Source::Default, Vec::new(), String::new())
    };
    Found {
        option,
        source,
        values,
        origin,
    }
}

/// Whether an option that excludes this one was set by a higher source: `-k 7` on the command line
/// beats P8_VARIANCE. Two of one source contradict each other.
fn loses_to_another(one: &Found, all: &[Found]) -> Result<bool, ArgumentError> {
    let rivals = all.iter().filter(|other| {
        other.source != Source::Default && one.option.conflicts.contains(&other.option.id)
    });
    for rival in rivals {
        if rival.source < one.source {
            return Ok(true);
        }
        if rival.source == one.source && one.source != Source::Flag {
            return Err(ArgumentError::Text(format!(
                "{} and {} exclude each other: give one of them",
                one.origin, rival.origin
            )));
        }
    }
    Ok(false)
}

/// One option as the sources need it.
pub struct OptionForm {
    id: String,
    /// Its name behind the two dashes.
    pub long: String,
    takes_value: bool,
    conflicts: Vec<String>,
}

/// The options of a command that have a long name, without those of the parser.
pub fn options(command: &Command) -> Vec<OptionForm> {
    command
        .get_arguments()
        .filter_map(|argument| {
            let long = argument.get_long()?;
            let of_clap = ["help", "version", "config"].contains(&long);
            (!of_clap).then(|| OptionForm {
                id: argument.get_id().to_string(),
                long: long.to_string(),
                takes_value: argument.get_action().takes_values(),
                // A conflict is declared on one of the two.
                conflicts: command
                    .get_arguments()
                    .filter(|other| {
                        command.get_arg_conflicts_with(argument).contains(other)
                            || command.get_arg_conflicts_with(other).contains(&argument)
                    })
                    .map(|other| other.get_id().to_string())
                    .collect(),
            })
        })
        .collect()
}

fn is_typed(matches: &ArgMatches, option: &OptionForm) -> bool {
    matches.value_source(&option.id) == Some(clap::parser::ValueSource::CommandLine)
}

/// The name of an option in the environment.
pub fn variable(long: &str) -> String {
    format!("P8_{}", long.replace('-', "_").to_uppercase())
}

/// Arguments that give an option its values from the environment or the file, checked by parsing them
/// alone.
fn tokens(found: &Found, subcommand: Option<&str>) -> Result<Vec<OsString>, ArgumentError> {
    let Found {
        option,
        values,
        origin,
        ..
    } = found;
    let mut made = Vec::new();
    for value in values {
        if option.takes_value {
            let mut token = OsString::from(format!("--{}=", option.long));
            token.push(value);
            made.push(token);
        } else {
            match value.to_str() {
                Some("true" | "1") => made.push(OsString::from(format!("--{}", option.long))),
                Some("false" | "0" | "") => {}
                _ => {
                    return Err(ArgumentError::Text(format!(
                        "{origin}: expected true or false, not {value:?}"
                    )));
                }
            }
        }
    }
    let alone = [Some("p8"), subcommand]
        .into_iter()
        .flatten()
        .map(OsString::from)
        .chain(made.iter().cloned());
    match Cli::command().try_get_matches_from(alone) {
        Ok(_) => Ok(made),
        Err(error) => Err(ArgumentError::Text(format!(
            "{origin}: {}",
            first_line(&error)
        ))),
    }
}

/// The message of clap without usage and hints.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

/// Options from a TOML file.
struct ConfigFile {
    path: PathBuf,
    values: BTreeMap<String, Vec<OsString>>,
}

impl ConfigFile {
    fn get(&self, long: &str) -> Option<(&Path, Vec<OsString>)> {
        self.values
            .get(long)
            .map(|values| (self.path.as_path(), values.clone()))
    }

    /// An unknown key is a typing error that must not pass in silence. Keys of all subcommands are
    /// known, so that one file serves all of them.
    fn refuse_unknown(&self) -> Result<(), ArgumentError> {
        let mut cli = Cli::command();
        cli.build();
        let known: BTreeSet<String> = std::iter::once(&cli)
            .chain(cli.get_subcommands())
            .flat_map(options)
            .map(|option| option.long)
            .collect();
        match self.values.keys().find(|key| !known.contains(*key)) {
            None => Ok(()),
            Some(key) => Err(ArgumentError::Text(format!(
                "the file {} sets \"{key}\", which is no option; the options are {}",
                self.path.display(),
                known.into_iter().collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

fn config_file(
    matches: &ArgMatches,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<ConfigFile>, ArgumentError> {
    let typed = matches.get_one::<PathBuf>("config").cloned();
    let Some(path) = typed.or_else(|| environment("P8_CONFIG").map(PathBuf::from)) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        ArgumentError::Text(format!(
            "cannot read the file {} of --config: {error}",
            path.display()
        ))
    })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        ArgumentError::Text(format!(
            "cannot use the file {}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let texts = match &value {
            toml::Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            other => scalar(other).map(|text| vec![text]),
        };
        let texts = texts.ok_or_else(|| {
            ArgumentError::Text(format!(
                "\"{key}\" in the file {}: expected a text, a number, true, false or a list of these",
                path.display()
            ))
        })?;
        values.insert(key.replace('_', "-"), texts);
    }
    Ok(Some(ConfigFile { path, values }))
}

fn scalar(value: &toml::Value) -> Option<OsString> {
    match value {
        toml::Value::String(text) => Some(text.into()),
        toml::Value::Integer(number) => Some(number.to_string().into()),
        toml::Value::Float(number) => Some(number.to_string().into()),
        toml::Value::Boolean(truth) => Some(truth.to_string().into()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Merged, String> {
        let arguments: Vec<OsString> = std::iter::once("p8")
            .chain(arguments.iter().copied())
            .map(OsString::from)
            .collect();
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        merge(&arguments, &lookup).map_err(|error| match error {
            ArgumentError::Clap(error) => error.to_string(),
            ArgumentError::Page(text) | ArgumentError::Text(text) => text,
        })
    }

    fn config(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p8.toml");
        std::fs::write(&path, text).unwrap();
        let flag = format!("--config={}", path.display());
        (folder, flag)
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file() {
        let (_folder, flag) = config("components = 3\nthreads = 5\nlabel = \"none\"\n");
        let environment = [("P8_COMPONENTS", "4"), ("P8_THREADS", "6")];
        let all = merged(&[&flag, "-k", "2"], &environment).unwrap();
        assert_eq!(all.cli.run.pca.components, Some(2));
        assert_eq!(all.cli.run.running.threads, Some(6));
        assert_eq!(all.cli.run.label.as_ref().unwrap().to_string(), "none");
        assert_eq!(all.sources["components"], Source::Flag);
        assert_eq!(all.sources["threads"], Source::Environment);
        assert_eq!(all.sources["label"], Source::File);
        assert_eq!(all.sources["output"], Source::Default);
    }

    #[test]
    fn every_option_can_be_set_from_environment_and_file() {
        let samples = [
            ("input", "a"),
            ("glob", "*.jpg"),
            ("label", "none"),
            ("exif", "ignore"),
            ("max-bad-fraction", "0.25"),
            ("output", "o"),
            ("overwrite", "true"),
            ("resume", "false"),
            ("weights", "seeded:3"),
            ("topology", "v1.5"),
            ("preprocess", "caffe"),
            ("layer", "layer2"),
            ("pool", "max"),
            ("precision", "f32"),
            ("device", "cpu"),
            ("components", "2"),
            ("variance", "0.5"),
            ("standardize", "false"),
            ("whiten", "true"),
            ("solver", "wide"),
            ("verify", "true"),
            ("pca-precision", "f32"),
            ("endpoint-url", "http://127.0.0.1:9000"),
            ("region", "eu-west-1"),
            ("path-style", "true"),
            ("anonymous", "true"),
            ("threads", "2"),
            ("dry-run", "true"),
            ("log", "json"),
            ("quiet", "true"),
            ("verbose", "true"),
        ];
        let mut command = Cli::command();
        command.build();
        for option in options(&command) {
            let (_, value) = samples
                .iter()
                .find(|(name, _)| *name == option.long)
                .unwrap_or_else(|| panic!("add a sample value for --{}", option.long));
            let all = merged(&[], &[(&variable(&option.long), value)]).unwrap();
            assert_eq!(all.sources[&option.long], Source::Environment);
            let (_folder, flag) = config(&format!("{} = \"{value}\"\n", option.long));
            let all = merged(&[&flag], &[]).unwrap();
            assert_eq!(all.sources[&option.long], Source::File);
        }
        let all = merged(&[], &[("P8_OVERWRITE", "1"), ("P8_RESUME", "false")]).unwrap();
        assert!(all.cli.run.results.overwrite);
        assert_eq!(all.cli.run.resume, Some(false));
    }

    #[test]
    fn an_error_names_the_source() {
        let error = merged(&[], &[("P8_COMPONENTS", "many")]).unwrap_err();
        assert!(
            error.contains("P8_COMPONENTS") && error.contains("many"),
            "{error}"
        );
        let (_folder, flag) = config("components = -1\n");
        let error = merged(&[&flag], &[]).unwrap_err();
        assert!(
            error.contains("p8.toml") && error.contains("components"),
            "{error}"
        );
        let (_folder, flag) = config("component = 1\n");
        let error = merged(&[&flag], &[]).unwrap_err();
        assert!(
            error.contains("\"component\", which is no option"),
            "{error}"
        );
        let error = merged(&["--config=/no/such/file"], &[]).unwrap_err();
        assert!(error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn a_typed_count_of_components_beats_a_variance_from_the_environment() {
        let all = merged(&["-k", "2"], &[("P8_VARIANCE", "0.5")]).unwrap();
        assert_eq!(
            (all.cli.run.pca.components, all.cli.run.pca.variance),
            (Some(2), None)
        );
    }

    #[test]
    fn an_exclusive_option_of_a_higher_source_wins_and_two_of_one_source_are_named() {
        let (_folder, flag) = config("variance = 0.9\n");
        let all = merged(&[&flag], &[("P8_COMPONENTS", "2")]).unwrap();
        assert_eq!(
            (all.cli.run.pca.components, all.cli.run.pca.variance),
            (Some(2), None)
        );
        let both = [("P8_COMPONENTS", "2"), ("P8_VARIANCE", "0.9")];
        let error = merged(&[], &both).unwrap_err();
        assert!(
            error.contains("P8_COMPONENTS") && error.contains("P8_VARIANCE"),
            "{error}"
        );
    }

    #[test]
    fn a_path_without_an_option_is_answered_with_the_option() {
        for (arguments, tip) in [
            (&["photos"][..], "--input photos"),
            (&["run", "photos"], "--input photos"),
            (&["--input", "a", "b"], "--input b"),
            (&["pca", "result"], "--features result"),
            (&["transform", "new"], "--input new"),
            (&["report", "result"], "--output result"),
            (&["doctor", "photos"], "--input photos"),
        ] {
            let error = merged(arguments, &[]).unwrap_err();
            assert!(error.contains(tip), "{arguments:?}: {error}");
            // What is suggested is taken.
            let (_, typed) = tip.split_once(' ').unwrap();
            let kept = arguments.iter().copied().filter(|word| *word != typed);
            let advised: Vec<&str> = kept.chain(tip.split(' ')).collect();
            merged(&advised, &[]).unwrap_or_else(|error| panic!("{advised:?}: {error}"));
        }
        let error = merged(&["--input", "a", "pca"], &[]).unwrap_err();
        assert!(!error.contains("--input pca"), "{error}");
        // A subcommand with a typing error is one.
        let error = merged(&["docter"], &[]).unwrap_err();
        assert!(
            error.contains("'doctor'") && !error.contains("--input"),
            "{error}"
        );
    }

    #[test]
    fn the_example_of_a_file_has_every_option_with_a_value_that_is_taken() {
        let example = include_str!("../../examples/p8.toml");
        let (_folder, flag) = config(example);
        let all = merged(&[&flag], &[]).unwrap();
        assert_eq!(all.cli.run.input, [PathBuf::from("photos")]);
        assert_eq!(all.cli.run.pca.variance, Some(0.9));
        let examples: BTreeMap<&str, &str> = example
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .filter_map(|line| line.split_once(" = "))
            .collect();
        let mut command = Cli::command();
        command.build();
        let known: Vec<String> = std::iter::once(&command)
            .chain(command.get_subcommands())
            .flat_map(options)
            .map(|option| option.long)
            .collect();
        for long in &known {
            assert!(
                examples.contains_key(long.as_str()),
                "--{long} is not in it"
            );
        }
        for (key, value) in examples.iter().filter(|(key, _)| !key.contains(' ')) {
            assert!(known.iter().any(|long| long == key), "{key} is no option");
            let (_folder, flag) = config(&format!("{key} = {value}\n"));
            let subcommand = match *key {
                "features" | "column" => Some("pca"),
                "model" => Some("transform"),
                "points" => Some("report"),
                _ => None,
            };
            let arguments: Vec<&str> = subcommand.into_iter().chain([flag.as_str()]).collect();
            let all = merged(&arguments, &[]).unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(all.sources[*key], Source::File, "{key}");
        }
    }

    #[test]
    fn one_file_serves_all_subcommands() {
        let (_folder, flag) = config("variance = 0.9\nthreads = 3\n");
        match merged(&["doctor", &flag], &[]).unwrap().cli.command {
            Some(super::super::args::Command::Doctor(doctor)) => {
                assert_eq!(doctor.threads, Some(3));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn subcommands_read_environment_and_file_too() {
        let (_folder, flag) = config("column = \"v\"\ninput = \"photos\"\ncomponents = 3\n");
        let environment = [("P8_FEATURES", "a.npy"), ("P8_MODEL", "m.safetensors")];
        match merged(&["pca", &flag], &environment).unwrap().cli.command {
            Some(super::super::args::Command::Pca(pca)) => {
                assert_eq!(pca.features, [PathBuf::from("a.npy")]);
                assert_eq!(pca.column.as_deref(), Some("v"));
                assert_eq!(pca.pca.components, Some(3));
            }
            other => panic!("{other:?}"),
        }
        // Features from the environment beat the input from the file, which they exclude.
        let all = merged(&["transform", &flag], &environment).unwrap();
        match all.cli.command {
            Some(super::super::args::Command::Transform(transform)) => {
                assert_eq!(transform.model, Some(PathBuf::from("m.safetensors")));
                assert_eq!(transform.features, [PathBuf::from("a.npy")]);
                assert!(transform.input.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_come_from_the_file_as_arrays() {
        let (_folder, flag) = config("input = [\"a\", \"b\"]\noverwrite = true\n");
        let all = merged(&["run", &flag], &[]).unwrap();
        match all.cli.command {
            Some(super::super::args::Command::Run(run)) => {
                assert_eq!(run.input, [PathBuf::from("a"), PathBuf::from("b")]);
                assert!(run.results.overwrite);
            }
            other => panic!("{other:?}"),
        }
    }
}
