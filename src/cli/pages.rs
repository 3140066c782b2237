//! What is printed from the table of options alone: completions of a shell, the manual.

use super::args::Cli;
use super::help;
use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::io;

/// The script that makes a shell complete the options of p8.
pub fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "p8", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual page of p8 or of one of its subcommands, in roff.
///
/// # Errors
/// A sentence for the user when there is no such subcommand.
pub fn manual(subcommand: Option<&str>) -> Result<String, String> {
    let mut command = Cli::command();
    command.build();
    let mut page = match subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                let known: Vec<&str> = command
                    .get_subcommands()
                    .map(clap::Command::get_name)
                    .collect();
                return Err(format!(
                    "there is no page for \"{name}\": p8 has the subcommands {}",
                    known.join(", ")
                ));
            }
        },
    };
    let has_options = page
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .any(|long| long == "config");
    let examples = page
        .get_before_long_help()
        .or(page.get_before_help())
        .map(ToString::to_string);
    page = page.version(env!("CARGO_PKG_VERSION"));
    rendered(page, examples, has_options)
        .map_err(|error| format!("cannot make the manual page: {error}"))
}

fn rendered(
    page: clap::Command,
    examples: Option<String>,
    has_options: bool,
) -> io::Result<String> {
    let has_subcommands = page.has_subcommands();
    let man = Man::new(page).manual("p8");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes)?;
    man.render_name_section(&mut bytes)?;
    man.render_synopsis_section(&mut bytes)?;
    man.render_description_section(&mut bytes)?;
    man.render_options_section(&mut bytes)?;
    if has_subcommands {
        man.render_subcommands_section(&mut bytes)?;
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    let mut sections = Vec::new();
    sections.extend(examples.map(|examples| ("EXAMPLES", examples)));
    if has_options {
        sections.push(("ENVIRONMENT", help::ENVIRONMENT.to_string()));
        sections.push(("EXIT STATUS", help::EXIT_CODES.to_string()));
    }
    for (title, body) in sections {
        text.push_str(&preformatted(title, &body)?);
    }
    Ok(text)
}

/// A section whose lines stay as they are. The first line is the heading of the help.
fn preformatted(title: &str, body: &str) -> io::Result<String> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    roff.control("nf", []);
    for line in body.lines().skip(1) {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    let mut bytes = Vec::new();
    roff.to_writer(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    /// As a reader sees it: roff's escaped hyphens are hyphens.
    fn plain(page: &str) -> String {
        page.replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fR", "")
    }

    #[test]
    fn every_shell_completes_subcommands_and_options() {
        for shell in clap_complete::Shell::value_variants() {
            let script = completions(*shell);
            for word in ["transform", "pca-precision"] {
                assert!(script.contains(word), "{word} is not in that of {shell}");
            }
        }
    }

    #[test]
    fn the_manual_has_the_sections_of_a_manual_and_every_option() {
        let main = manual(None).unwrap();
        let command = Cli::command();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "IMAGES",
            "SUBCOMMANDS",
            "EXAMPLES",
            "ENVIRONMENT",
            "\"EXIT STATUS\"",
        ] {
            assert!(main.contains(&format!(".SH {section}\n")), "{section}");
        }
        assert!(
            main.starts_with(".ie") || main.contains(".TH p8 1"),
            "{main}"
        );
        for option in command.get_arguments().filter_map(|a| a.get_long()) {
            assert!(plain(&main).contains(&format!("--{option}")), "{option}");
        }
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            let page = manual(Some(name)).unwrap();
            assert!(page.contains(&format!(".TH p8-{name} 1")), "{page}");
            for option in subcommand.get_arguments().filter_map(|a| a.get_long()) {
                assert!(
                    plain(&page).contains(&format!("--{option}")),
                    "{name}: {option}"
                );
            }
        }
    }

    #[test]
    fn another_page_is_refused_with_those_that_there_are() {
        let error = manual(Some("pac")).unwrap_err();
        assert!(
            error.contains("\"pac\"") && error.contains("pca"),
            "{error}"
        );
    }
}
