//! The command line: parse, decide, start the ranks, run, exit code.

pub mod args;
pub mod help;
pub mod logging;
pub mod pages;
pub mod resolve;
pub mod sources;
pub mod variables;
pub mod version;

use crate::comm::{Comm, failure};
use crate::error::{Failure, Kind};
use crate::run;
use crate::run::settings::{Level, Log, LogFormat};
use args::{Cli, Command};
use sources::ArgumentError;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// What was asked for.
enum Task {
    Run(Box<run::settings::Settings>),
    Pca(Box<run::stored::PcaTask>),
    Transform(Box<run::transform::TransformTask>),
    Report(Box<run::report::ReportTask>),
    Doctor(run::doctor::DoctorSettings),
}

/// The whole program; returns the exit code of this rank.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let environment = |name: &str| std::env::var_os(name);
    let task = match task(&arguments, &environment) {
        Ok(task) => task,
        Err(error) => return answer(&error, launcher_rank(&environment)),
    };
    let comm = match Comm::start() {
        Ok(comm) => comm,
        Err(failure) => {
            failure::report(0, 1, &failure.text);
            return ExitCode::from(failure.kind.exit_code());
        }
    };
    failure::end_on_panic(comm.rank(), comm.size(), crate::image::is_decoding);
    logging::start(task.log(), comm.rank());
    if comm.rank() == 0 {
        for sentence in variables::unknown(std::env::vars_os().map(|(name, _)| name)) {
            tracing::warn!("{sentence}");
        }
    }
    let result = failure::end_on_signal(comm.rank(), comm.size()).and_then(|()| match &task {
        Task::Run(settings) => run::run(settings, &comm),
        Task::Pca(task) => run::stored::pca(task, &comm),
        Task::Transform(task) => run::transform::transform(task, &comm),
        Task::Report(task) => run::report::report(task, &comm),
        Task::Doctor(settings) => run::doctor::doctor(settings, &comm),
    });
    end(&comm, result)
}

impl Task {
    /// How it speaks.
    fn log(&self) -> Log {
        match self {
            Task::Run(settings) => settings.log,
            Task::Pca(task) => task.settings.log,
            Task::Transform(task) => task.settings.log,
            Task::Report(task) => task.settings.log,
            Task::Doctor(settings) => settings.log,
        }
    }
}

/// Ends together: rank 0 prints the failure that all ranks share, before any rank leaves.
fn end(comm: &Comm, result: Result<(), Failure>) -> ExitCode {
    let code = match &result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if comm.rank() == 0 {
                failure::report(0, 1, &failure.text);
            }
            failure::leave_with(failure.kind.exit_code());
            ExitCode::from(failure.kind.exit_code())
        }
    };
    comm.barrier();
    code
}

fn task(
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Task, ArgumentError> {
    let merged = sources::merge(arguments, environment)?;
    let Cli { command, run } = merged.cli;
    let run = match command {
        None => run,
        Some(Command::Run(run)) => *run,
        Some(Command::Pca(pca)) => {
            return resolve::resolve_pca(*pca, &merged.sources, environment)
                .map(|task| Task::Pca(Box::new(task)))
                .map_err(ArgumentError::Text);
        }
        Some(Command::Transform(transform)) => {
            return resolve::resolve_transform(*transform, &merged.sources, environment)
                .map(|task| Task::Transform(Box::new(task)))
                .map_err(ArgumentError::Text);
        }
        Some(Command::Report(report)) => {
            return resolve::resolve_report(report, &merged.sources, environment)
                .map(|task| Task::Report(Box::new(task)))
                .map_err(ArgumentError::Text);
        }
        Some(Command::Completions { shell }) => {
            return Err(ArgumentError::Page(pages::completions(shell)));
        }
        Some(Command::Man { subcommand }) => {
            let page = pages::manual(subcommand.as_deref());
            return Err(page.map_or_else(ArgumentError::Text, ArgumentError::Page));
        }
        Some(Command::Help { topic }) => {
            let page = help::page(topic.as_deref());
            return Err(page.map_or_else(ArgumentError::Text, ArgumentError::Page));
        }
        Some(Command::Doctor(doctor)) => {
            let inputs = doctor.input.iter().map(|path| resolve::location(path));
            return Ok(Task::Doctor(run::doctor::DoctorSettings {
                threads: doctor.threads,
                cache_folder: resolve::cache_folder(environment),
                weights_mirror: resolve::weights_mirror(environment),
                inputs: inputs
                    .collect::<Result<_, _>>()
                    .map_err(ArgumentError::Text)?,
                glob: doctor.glob,
                store: resolve::store(doctor.s3, environment),
                log: Log {
                    format: LogFormat::Human,
                    level: Level::Normal,
                    is_dumb: resolve::is_dumb(environment),
                },
            }));
        }
    };
    resolve::resolve(run, &merged.sources, environment)
        .map(|settings| Task::Run(Box::new(settings)))
        .map_err(ArgumentError::Text)
}

/// Prints help, version, a page or what is wrong with the arguments, once for all ranks.
fn answer(error: &ArgumentError, rank: usize) -> ExitCode {
    let is_answer = match error {
        ArgumentError::Clap(error) => !error.use_stderr(),
        ArgumentError::Page(_) => true,
        ArgumentError::Text(_) => false,
    };
    let code = match is_answer {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(Kind::Usage.exit_code()),
    };
    if rank > 0 {
        if is_answer {
            return code;
        }
        // The launcher ends the other ranks when one leaves with an error. So rank 0 speaks for all,
        // and this rank only speaks when it alone has something to say.
        std::thread::sleep(Duration::from_secs(5));
    }
    match error {
        ArgumentError::Clap(error) => {
            // Nothing can be done when the terminal is gone.
            let _ = error.print();
        }
        ArgumentError::Page(page) => {
            let _ = std::io::stdout().write_all(page.as_bytes());
        }
        ArgumentError::Text(text) => failure::report(0, 1, text),
    }
    code
}

/// The rank as the launcher wrote it into the environment, before MPI is started.
fn launcher_rank(environment: &dyn Fn(&str) -> Option<OsString>) -> usize {
    [
        "OMPI_COMM_WORLD_RANK",
        "PMIX_RANK",
        "PMI_RANK",
        "SLURM_PROCID",
    ]
    .iter()
    .find_map(|name| environment(name)?.to_str()?.parse().ok())
    .unwrap_or(0)
}
