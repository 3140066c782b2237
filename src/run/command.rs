//! The command that gives the same results as a run.

use super::settings::Settings;
use crate::output::metrics::{Task, Weights};

/// Options without a value.
const SWITCHES: [&str; 2] = ["overwrite", "whiten"];

/// What does not belong to the results.
const LEFT_OUT: [&str; 2] = ["overwrite", "resume"];

/// The command line of a task on so many ranks: every option that has not its default, wherever it came
/// from. `weights` are those that were used, which are not the default ones where these could not be had.
pub fn command(task: Task, settings: &Settings, weights: Option<&Weights>, ranks: usize) -> String {
    let mut words: Vec<String> = Vec::new();
    if let Some(isa) = settings.isa {
        words.push(format!("P8_ISA={}", isa.as_str()));
    }
    if ranks > 1 {
        words.extend(["mpirun".into(), "-np".into(), ranks.to_string()]);
    }
    words.push("p8".into());
    match task {
        Task::Run => {}
        Task::Pca => words.push("pca".into()),
        Task::Transform => words.push("transform".into()),
    }
    for setting in &settings.listed {
        let name = setting.name.as_str();
        if LEFT_OUT.contains(&name) {
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
            // As they are listed.
            ("features", _) => setting.value.split(", ").map(str::to_owned).collect(),
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
    words.join(" ")
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
