//! The command that gives the same results as a run.

use super::settings::{Setting, Settings};
use crate::output::metrics::{Task, Weights};
use crate::store::Location;
use std::path::Path;

/// Options without a value.
const SWITCHES: [&str; 3] = ["whiten", "path-style", "anonymous"];

/// What does not belong to the results, and where they go.
const LEFT_OUT: [&str; 3] = ["overwrite", "resume", "output"];

/// What a command is made of beside the settings.
#[derive(Debug, Clone, Copy)]
pub struct Ran<'a> {
    /// What was done.
    pub task: Task,
    /// The files of the stored features, where there were any.
    pub features: &'a [String],
    /// The weights that were used, which are not the default ones where these could not be had.
    pub weights: Option<&'a Weights>,
    /// On how many ranks.
    pub ranks: usize,
    /// Where relative paths begin.
    pub folder: Option<&'a Path>,
}

/// The command line that does it again: every option that has not its default, wherever it came from. The
/// results go beside those that are there, which p8 would not replace by those of other settings.
pub fn command(ran: Ran, settings: &Settings) -> String {
    let Ran { task, weights, .. } = ran;
    let mut words: Vec<String> = Vec::new();
    if let Some(folder) = ran.folder {
        words.extend(["cd".into(), quoted(&folder.to_string_lossy()), "&&".into()]);
    }
    if let Some(isa) = settings.isa {
        words.push(format!("P8_ISA={}", isa.as_str()));
    }
    if ran.ranks > 1 {
        words.extend(["mpirun".into(), "-np".into(), ran.ranks.to_string()]);
    }
    words.push("p8".into());
    match task {
        Task::Run => {}
        Task::Pca => words.push("pca".into()),
        Task::Transform => words.push("transform".into()),
    }
    let in_s3 = |setting: &Setting| setting.value.contains("s3://");
    let uses_s3 = settings.listed.iter().any(in_s3);
    for setting in &settings.listed {
        let name = setting.name.as_str();
        if LEFT_OUT.contains(&name) || (name == "endpoint-url" && !uses_s3) {
            continue;
        }
        let is_default = setting.source == "default";
        let others = weights.filter(|used| {
            task == Task::Run && name == "weights" && is_default && used.id != setting.value
        });
        let values: Vec<String> = match (name, others) {
            (_, Some(used)) => vec![used.id.clone()],
            _ if is_default => continue,
            ("input", _) => settings.inputs.iter().map(ToString::to_string).collect(),
            ("features", _) => ran.features.to_vec(),
            _ => vec![setting.value.clone()],
        };
        for value in values {
            match (SWITCHES.contains(&name), value.as_str()) {
                (true, "true") => words.push(format!("--{name}")),
                (true, _) => {}
                (false, _) => words.extend([format!("--{name}"), quoted(&value)]),
            }
        }
    }
    words.extend(["--output".into(), quoted(&again(&settings.output))]);
    words.join(" ")
}

/// A folder beside the one of the results.
fn again(output: &Location) -> String {
    let has_name = match output {
        Location::Local(path) => path.file_name().is_some(),
        Location::S3(address) => !address.key.is_empty(),
    };
    match has_name {
        true => format!("{}-again", output.to_string().trim_end_matches('/')),
        false => output.join("p8-again").to_string(),
    }
}

/// A word as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_command_go_beside_those_that_are_there() {
        for (output, expected) in [("out/a", "out/a-again"), (".", "./p8-again")] {
            assert_eq!(again(&Location::Local(output.into())), expected);
        }
        for (output, expected) in [
            ("s3://b/c/d/", "s3://b/c/d-again"),
            ("s3://b", "s3://b/p8-again"),
        ] {
            assert_eq!(again(&Location::S3(output.parse().unwrap())), expected);
        }
    }

    #[test]
    fn words_are_those_that_a_shell_reads_back() {
        assert_eq!(quoted("s3://b/a_b-1.jpg"), "s3://b/a_b-1.jpg");
        for word in ["two words", "it's", "$HOME", "", "größe", "*.jpg"] {
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(word))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), word);
        }
    }
}
