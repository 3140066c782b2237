//! Variables that look like options of p8 and are none: most of them are typing errors, which must not
//! pass in silence.

use super::args::Cli;
use super::sources::{options, variable};
use clap::CommandFactory;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// Variables with p8's prefix that are read and are no options: by the program, by its scripts for
/// machines and batch systems, and by its tests.
const OTHERS: [&str; 12] = [
    "P8_CONFIG",
    "P8_ISA",
    "P8_WEIGHTS_MIRROR",
    "P8_RANKS",
    "P8_PROGRAM",
    "P8_LAUNCHER",
    "P8_MAX_RESTARTS",
    "P8_POLL_SECONDS",
    "P8_SYSTEM_ROOT",
    "P8_REFERENCE",
    "P8_TESTS_MAY_SKIP",
    "P8_TESTS_PYTHON",
];

/// The variables of the benchmarks.
const BENCHMARKS: &str = "P8_BENCH_";

/// A sentence for every variable that begins with `P8_` and that nothing reads.
pub fn unknown(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut cli = Cli::command();
    cli.build();
    let known: BTreeSet<String> = std::iter::once(&cli)
        .chain(cli.get_subcommands())
        .flat_map(options)
        .map(|option| variable(&option.long))
        .chain(OTHERS.map(str::to_string))
        .collect();
    let mut unknown: Vec<String> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("P8_") && !name.starts_with(BENCHMARKS))
        .filter(|name| !known.contains(name))
        .collect();
    unknown.sort();
    unknown
        .iter()
        .map(|name| match nearest(name, &known) {
            Some(meant) => {
                format!("the environment variable {name} is not read: is {meant} meant?")
            }
            None => format!(
                "the environment variable {name} is not read: there is no such option (p8 --help lists them)"
            ),
        })
        .collect()
}

/// The known name that a typing error could have been made from.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let behind = |name: &str| name.strip_prefix("P8_").unwrap_or(name).to_uppercase();
    let typed = behind(name);
    let (likeness, meant) = known
        .iter()
        .map(|known| (strsim::jaro_winkler(&typed, &behind(known)), known))
        .max_by(|one, other| one.0.total_cmp(&other.0))?;
    (likeness > 0.8).then_some(meant.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        unknown(names.iter().map(OsString::from))
    }

    #[test]
    fn a_typing_error_is_named_with_what_is_meant() {
        for (typed, meant) in [
            ("P8_COMPONENT", "P8_COMPONENTS"),
            ("P8_OUTPT", "P8_OUTPUT"),
            ("P8_WEIGHT", "P8_WEIGHTS"),
            ("P8_DRYRUN", "P8_DRY_RUN"),
            ("P8_input", "P8_INPUT"),
            ("P8_FEATURE", "P8_FEATURES"),
        ] {
            let said = of(&[typed]);
            assert_eq!(said.len(), 1, "{typed}");
            let words = format!("{typed} is not read: is {meant} meant?");
            assert!(said[0].contains(&words), "{said:?}");
        }
    }

    #[test]
    fn what_resembles_nothing_is_named_all_the_same() {
        let said = of(&["P8_QQQQ"]);
        assert!(
            said[0].contains("P8_QQQQ") && said[0].contains("no such option"),
            "{said:?}"
        );
    }

    #[test]
    fn options_of_any_subcommand_and_the_variables_of_scripts_are_known() {
        let names = [
            "P8_INPUT",
            "P8_FEATURES",
            "P8_MODEL",
            "P8_CONFIG",
            "P8_ISA",
            "P8_WEIGHTS_MIRROR",
            "P8_REFERENCE",
            "P8_TESTS_MAY_SKIP",
            "P8_TESTS_PYTHON",
            "P8_BENCH_VENV",
            "P8_RANKS",
            "HOME",
            "P80",
        ];
        assert_eq!(of(&names), [""; 0]);
    }
}
