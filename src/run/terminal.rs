//! The terminal that messages end on, and the one line of it that rewrites itself.
//!
//! Under `mpirun` a rank's standard error is a pipe to the launcher, which copies what it reads to its own
//! standard error. Whether a person watches can be seen there only.

use super::settings::{Level, Log, LogFormat};
use crate::comm::Comm;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::info;

/// Columns that every terminal has. The last one stays free, where some terminals would break the line.
pub const COLUMNS: usize = 80;
/// Between two lines of a log about one thing.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Between two pictures of the line on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// Back to the first column, and empty from there on.
const REWIND: &str = "\r\x1b[K";

/// Programs that stand between a rank and the terminal.
const LAUNCHERS: [&str; 10] = [
    "mpirun",
    "mpiexec",
    "orterun",
    "orted",
    "prterun",
    "prte",
    "prted",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
    "hydra_pmi_prox",
];

/// Whether a line is on the terminal that the next message has to remove.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether what this process writes to standard error ends on a terminal.
pub fn is_there(log: Log) -> bool {
    !log.is_dumb && (io::stderr().is_terminal() || launchers_is_terminal(Path::new("/proc")))
}

/// Whether the topmost launcher above this process writes to a terminal.
fn launchers_is_terminal(processes: &Path) -> bool {
    let own = std::fs::read_link(processes.join("self/fd/2")).unwrap_or_default();
    if !own.to_string_lossy().starts_with("pipe:") {
        return false;
    }
    let mut found: Option<PathBuf> = None;
    let mut process = processes.join("self");
    while let Some((parent, name)) = parent(processes, &process) {
        if !LAUNCHERS.contains(&name.as_str()) {
            break;
        }
        found = Some(parent.clone());
        process = parent;
    }
    found
        .and_then(|launcher| std::fs::read_link(launcher.join("fd/2")).ok())
        .is_some_and(|target| is_terminal_device(&target))
}

fn is_terminal_device(path: &Path) -> bool {
    let path = path.to_string_lossy();
    path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") || path == "/dev/console"
}

/// The folder of the parent of a process below `/proc`, and its name.
fn parent(processes: &Path, process: &Path) -> Option<(PathBuf, String)> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The name in parentheses may hold spaces.
    let number = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
    let folder = processes.join(number);
    let name = std::fs::read_to_string(folder.join("comm")).ok()?;
    Some((folder, name.trim().to_string()))
}

/// Standard error for whole messages: a line that rewrites itself makes room for them.
#[derive(Debug, Clone, Copy)]
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        clear();
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn clear() {
    if IS_SHOWN.swap(false, Ordering::Relaxed) {
        // Nothing can be done when the terminal is gone.
        let _ = io::stderr().write_all(REWIND.as_bytes());
    }
}

/// How something long goes on, told on rank 0: on a terminal by a line that rewrites itself, in a log by a
/// line every 30 seconds.
pub struct Line {
    form: Form,
    interval: Duration,
    shown: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Terminal,
    Log,
}

impl Line {
    /// Starts the clock; on a terminal `begin` is shown at once.
    pub fn start(comm: &Comm, log: Log, begin: &str) -> Self {
        let form = match (comm.rank(), log.level, log.format) {
            (1.., _, _) | (_, Level::Quiet, _) => Form::Silent,
            (_, _, LogFormat::Human) if is_there(log) => Form::Terminal,
            _ => Form::Log,
        };
        if form == Form::Terminal {
            rewrite(begin);
        }
        Line::of(form, LOG_INTERVAL)
    }

    /// In a log a line every `interval`.
    fn of(form: Form, interval: Duration) -> Self {
        Line {
            form,
            interval: match form {
                Form::Terminal => TERMINAL_INTERVAL,
                Form::Log | Form::Silent => interval,
            },
            shown: Instant::now(),
        }
    }

    /// Columns for the text, where it rewrites a line of a terminal.
    pub fn columns(&self) -> Option<usize> {
        (self.form == Form::Terminal).then_some(COLUMNS - 1)
    }

    /// Tells where it stands, if it is time to.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.form == Form::Silent || self.shown.elapsed() < self.interval {
            return;
        }
        self.shown = Instant::now();
        match self.form {
            Form::Terminal => rewrite(&text()),
            Form::Log | Form::Silent => info!("{}", text()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.form == Form::Terminal {
            clear();
        }
    }
}

fn rewrite(text: &str) {
    let short: String = text.chars().take(COLUMNS - 1).collect();
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{REWIND}{short}").and_then(|()| stderr.flush());
    IS_SHOWN.store(true, Ordering::Relaxed);
}

/// Breaks lines at spaces for a terminal; what is broken off begins `indent` columns from the left.
pub fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.chars().count() < COLUMNS {
            lines.push(line.to_string());
            continue;
        }
        let body = line.trim_start();
        let mut current = " ".repeat(line.len() - body.len());
        let mut is_empty = true;
        for word in body.split(' ') {
            let length = current.chars().count() + 1 + word.chars().count();
            if length >= COLUMNS && !is_empty {
                lines.push(std::mem::replace(&mut current, " ".repeat(indent) + word));
                continue;
            }
            if !is_empty {
                current.push(' ');
            }
            current.push_str(word);
            is_empty = false;
        }
        lines.push(current);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder like `/proc`, with the processes from this one upwards: name and standard error.
    fn processes(chain: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (number, (name, stderr)) in chain.iter().enumerate() {
            let process = folder.path().join((100 + number).to_string());
            std::fs::create_dir_all(process.join("fd")).unwrap();
            std::fs::write(process.join("comm"), format!("{name}\n")).unwrap();
            let stat = format!("{} ({name}) S {} 1 1", 100 + number, 101 + number);
            std::fs::write(process.join("stat"), stat).unwrap();
            symlink(stderr, process.join("fd/2")).unwrap();
        }
        symlink("100", folder.path().join("self")).unwrap();
        folder
    }

    #[test]
    fn the_terminal_is_that_of_the_launcher() {
        let shell = ("bash", "/dev/pts/0");
        for (chain, expected) in [
            (
                vec![("p8", "pipe:[1]"), ("mpirun", "/dev/pts/3"), shell],
                true,
            ),
            (
                vec![("p8", "pipe:[1]"), ("mpirun", "/home/me/log"), shell],
                false,
            ),
            (
                vec![("p8", "pipe:[1]"), ("mpirun", "pipe:[2]"), shell],
                false,
            ),
            // MPICH has a process of its own in between.
            (
                vec![
                    ("p8", "pipe:[1]"),
                    ("hydra_pmi_proxy", "pipe:[2]"),
                    ("mpiexec.hydra", "/dev/tty1"),
                    shell,
                ],
                true,
            ),
            // p8 2>&1 | less
            (vec![("p8", "pipe:[1]"), shell], false),
            // The user sends the messages of each rank to a file.
            (
                vec![("p8", "/home/me/log.0"), ("mpirun", "/dev/pts/3"), shell],
                false,
            ),
        ] {
            let folder = processes(&chain);
            assert_eq!(launchers_is_terminal(folder.path()), expected, "{chain:?}");
        }
    }

    /// What is logged when a line is told again and again, `since` after it was told last.
    fn logged(form: Form, interval: Duration, since: Duration) -> Vec<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = std::sync::Arc::new(file.reopen().unwrap());
        let log = tracing_subscriber::fmt().with_writer(writer).finish();
        tracing::subscriber::with_default(log, || {
            let mut line = Line::of(form, interval);
            line.shown -= since;
            for number in 0..3 {
                line.tell(|| format!("picture {number}"));
            }
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn a_log_gets_a_line_when_the_interval_is_over_and_not_before() {
        let second = Duration::from_secs(1);
        let said = logged(Form::Log, LOG_INTERVAL, 30 * second);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("picture 0"), "{said:?}");
        assert_eq!(logged(Form::Log, LOG_INTERVAL, 20 * second), [""; 0]);
        assert_eq!(logged(Form::Log, Duration::ZERO, second).len(), 3);
        assert_eq!(logged(Form::Silent, Duration::ZERO, second), [""; 0]);
    }

    #[test]
    fn a_long_message_breaks_at_spaces_within_80_columns() {
        let short = "weights   keras";
        assert_eq!(wrapped(short, 10), short);
        let long = format!("p8: warning: {}end", "a few words that go on ".repeat(9));
        let broken = wrapped(&long, 10);
        assert!(broken.lines().count() > 2);
        for line in broken.lines() {
            assert!(line.chars().count() < COLUMNS, "{line:?}");
        }
        assert!(
            broken
                .lines()
                .skip(1)
                .all(|line| line.starts_with("          "))
        );
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&broken), words(&long));
        // What cannot be broken stays whole, so that an address can be copied.
        let address = format!("see https://host/{}", "x".repeat(90));
        assert!(wrapped(&address, 10).contains(&"x".repeat(90)));
    }

    #[test]
    fn an_indented_line_keeps_its_place() {
        let line = format!("  input     {}", "word ".repeat(30).trim());
        let broken = wrapped(&line, 12);
        assert!(broken.lines().count() > 1);
        assert!(broken.starts_with("  input     word"));
        assert!(
            broken
                .lines()
                .skip(1)
                .all(|line| line.starts_with("            word"))
        );
        assert!(broken.lines().all(|line| line.chars().count() < COLUMNS));
    }

    #[test]
    fn columns_of_a_table_keep_their_place() {
        let row = "          network      0.90     0.92     0.94  rank 2";
        assert_eq!(wrapped(row, 10), row);
    }
}
