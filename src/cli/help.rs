//! The texts around the options: examples, environment, exit codes. No line is longer than a terminal
//! of 80 columns.

/// Examples first, then the options by topic.
pub const TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}

{before-help}{all-args}{after-help}";

/// At the end of the short help.
pub const MORE: &str = "--help tells more about each option, the environment and the exit codes.";

/// Examples of `p8` and `p8 run` on the first screen.
pub const EXAMPLES: &str = "\
Examples:
  mpirun -np 3 p8                                  the sample images
  mpirun -np 3 p8 --input photos --output result   your own images
  p8 --input photos --dry-run                      the plan, its memory and time
  mpirun -np 3 p8 doctor                           what each rank sees";

/// All examples of `p8` and `p8 run`.
pub const LONG_EXAMPLES: &str = "\
Examples:
  The sample images in training_data; the result is in p8-out:
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

#[cfg(test)]
mod tests {
    use super::super::args::Cli;
    use super::*;
    use crate::error::Kind;
    use clap::CommandFactory;

    /// The help of p8 and of every subcommand as a terminal of 80 columns shows it.
    fn pages(long: bool) -> Vec<(String, String)> {
        let mut command = Cli::command().term_width(80);
        command.build();
        let mut pages = vec![command.clone()];
        pages.extend(command.get_subcommands().cloned());
        pages
            .into_iter()
            .filter(|page| page.get_name() != "help")
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
