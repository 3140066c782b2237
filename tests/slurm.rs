//! `deploy/slurm/p8.sbatch` in a real Slurm of three nodes (`tests/cluster/slurm.sh`).

use crate::support::namespaces::Hosts;
use crate::support::{
    Images, P8, assert_same_bytes, names, repository, skip, small_weights, stable_files,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A job that has not ended by then hangs.
const TIMEOUT: Duration = Duration::from_secs(240);

/// A Slurm cluster of its own, with the nodes node1, node2 and node3.
struct Slurm {
    folder: tempfile::TempDir,
    hosts: Hosts,
}

impl Slurm {
    /// `None`, and said why, where this user or machine cannot have it.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let output = Self::script(folder.path(), "up").output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            skip(&format!("no Slurm: {said}"));
            return None;
        }
        let hosts = Hosts::find(folder.path(), &["node1", "node2", "node3"]);
        Some(Slurm { folder, hosts })
    }

    fn script(folder: &Path, verb: &str) -> Command {
        let mut command = Command::new(repository().join("tests/cluster/slurm.sh"));
        command.arg(verb).arg(folder);
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("P8_") {
                command.env_remove(name);
            }
        }
        command.envs([
            ("P8_PROGRAM", env!("CARGO_BIN_EXE_p8")),
            // Slurm hands the environment on to the job; mpirun in there refuses to work for root.
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ]);
        command
    }

    /// Submits the shipped script; `options` are sbatch's.
    fn submit(
        &self,
        environment: &[(&str, &str)],
        options: &[&str],
        images: &Images,
        output: &Path,
    ) -> Job<'_> {
        let log = output.with_extension("log");
        let mut command = Self::script(self.folder.path(), "run");
        command
            .envs(environment.iter().copied())
            .args(["sbatch", "--parsable", "--nodes=3", "--cpus-per-task=2"])
            .args(options)
            .arg(format!("--output={}", log.display()))
            .arg(repository().join("deploy/slurm/p8.sbatch"))
            .args(["--weights".as_ref(), small_weights().as_os_str()])
            .args(["--input".as_ref(), images.path().as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()]);
        let id = succeed(command);
        Job {
            slurm: self,
            id: id.trim().to_string(),
            log,
            submitted: Instant::now(),
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = Self::script(self.folder.path(), "down").status();
    }
}

/// A job in the queue.
struct Job<'a> {
    slurm: &'a Slurm,
    id: String,
    log: PathBuf,
    submitted: Instant,
}

impl Job<'_> {
    /// A field of `scontrol show job`.
    fn field(&self, name: &str) -> String {
        let mut command = Slurm::script(self.slurm.folder.path(), "run");
        command.args(["scontrol", "show", "job", "--oneliner", &self.id]);
        let shown = succeed(command);
        let name = format!("{name}=");
        let value = shown
            .split_whitespace()
            .find_map(|word| word.strip_prefix(name.as_str()));
        value
            .unwrap_or_else(|| panic!("no {name} in {shown}"))
            .to_string()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        while !condition() {
            let waited = self.submitted.elapsed();
            assert!(waited < TIMEOUT, "{what} after {waited:?}? {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end; the state that Slurm gives it and the exit code.
    #[track_caller]
    fn end(&self) -> (String, String) {
        let ended = || {
            std::thread::sleep(Duration::from_millis(200));
            let state = self.field("JobState");
            ![
                "PENDING",
                "CONFIGURING",
                "RUNNING",
                "COMPLETING",
                "REQUEUED",
            ]
            .contains(&state.as_str())
        };
        self.until("the end", ended);
        (self.field("JobState"), self.field("ExitCode"))
    }
}

#[track_caller]
fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn finished_blocks(output: &Path) -> usize {
    let names = names(&output.join("features"));
    names
        .iter()
        .filter(|name| name.starts_with("block-"))
        .count()
}

#[test]
fn jobs_through_srun_and_mpirun_finish_with_the_bytes_of_one_rank() {
    let Some(slurm) = Slurm::start() else {
        return;
    };
    let images = Images::new(20);
    let folder = tempfile::tempdir().unwrap();
    let one = folder.path().join("one");
    P8::small(1, images.path(), &one).succeed();
    for (launcher, environment) in [
        ("srun --mpi=pmix -K1", &[][..]),
        ("mpirun -np 3", &[("P8_LAUNCHER", "mpirun")][..]),
    ] {
        let output = folder.path().join(launcher.split(' ').next().unwrap());
        let job = slurm.submit(environment, &[], &images, &output);
        let end = job.end();
        let log = job.log();
        assert_eq!(end, ("COMPLETED".into(), "0:0".into()), "{log}");
        assert!(log.contains(launcher), "{log}");
        assert!(log.contains("3 ranks on 3 hosts, 2 threads each"), "{log}");
        assert_same_bytes(&stable_files(&one), &stable_files(&output), launcher);
    }
}

#[test]
fn a_job_that_meets_its_time_limit_goes_back_to_the_queue_and_finishes() {
    let Some(slurm) = Slurm::start() else {
        return;
    };
    let images = Images::new(240);
    let folder = tempfile::tempdir().unwrap();
    let (one, output) = (folder.path().join("one"), folder.path().join("three"));
    // Slurm counts time limits in minutes and may signal a minute early. With one minute less, each
    // run would be stopped at its start, the one that goes on too.
    let options = ["--time=2", "--signal=B:USR1@50"];
    let job = slurm.submit(&[], &options, &images, &output);
    job.until("a block is finished", || finished_blocks(&output) > 0);
    // One rank stands still, so the run cannot finish before the limit, however fast this machine is.
    slurm.hosts.signal("node2", "p8", "STOP");
    P8::small(1, images.path(), &one).succeed();
    assert_eq!(job.field("JobState"), "RUNNING", "{}", job.log());

    let end = job.end();
    let log = job.log();
    assert_eq!(end, ("COMPLETED".into(), "0:0".into()), "{log}");
    assert_ne!(job.field("Restarts"), "0", "{log}");
    for words in [
        "run 1 of job",
        "the time limit is near",
        "stopped by SIGUSR1; finished blocks are kept",
        "back to the queue",
        "run 2 of job",
        "from an earlier run",
    ] {
        assert!(log.contains(words), "{words:?} is not in {log}");
    }
    assert_same_bytes(&stable_files(&one), &stable_files(&output), "after a limit");
}

#[test]
fn a_task_that_is_killed_ends_the_job_and_another_job_finishes_the_work() {
    let Some(slurm) = Slurm::start() else {
        return;
    };
    let images = Images::new(240);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("three");
    let job = slurm.submit(&[], &[], &images, &output);
    job.until("a block is finished", || finished_blocks(&output) > 0);
    slurm.hosts.signal("node2", "p8", "KILL");
    let (state, code) = job.end();
    assert_eq!(state, "FAILED", "{}", job.log());
    assert_ne!(code, "0:0");
    assert!(!output.join("metrics.json").exists());

    let job = slurm.submit(&[], &["--nodes=2"], &images, &output);
    let end = job.end();
    let log = job.log();
    assert_eq!(end, ("COMPLETED".into(), "0:0".into()), "{log}");
    assert!(log.contains("from an earlier run"), "{log}");
}

#[test]
fn a_launcher_that_is_not_known_is_refused() {
    let script = repository().join("deploy/slurm/p8.sbatch");
    let output = Command::new("bash")
        .arg(script)
        .env("P8_LAUNCHER", "ssh")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("neither srun nor mpirun: ssh"), "{said}");
}
