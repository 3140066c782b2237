//! Several hosts: namespaces with names, addresses and links of their own (`tests/cluster/hosts.sh`),
//! over which `mpirun --hostfile` starts p8, and which then fail.

use crate::support::namespaces::Hosts;
use crate::support::{
    Images, P8, Running, assert_same_bytes, names, repository, skip, stable_files,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Whatever happens to a host, no process of the job is left anywhere after this.
const END: Duration = Duration::from_secs(30);

/// What belongs to a job.
const JOB: [&str; 4] = ["mpirun", "orted", "prted", "p8"];

/// Three hosts that know each other by name, and share this machine's files.
struct Cluster {
    folder: tempfile::TempDir,
    hosts: Hosts,
}

impl Cluster {
    const HOSTS: [&str; 3] = ["node1", "node2", "node3"];

    /// `None`, and said why, where this user or machine cannot have them.
    fn start() -> Option<Self> {
        let mpi = Command::new("mpirun").arg("--version").output().unwrap();
        if !String::from_utf8_lossy(&mpi.stdout).contains("(Open MPI) 4.") {
            skip("the options for several hosts are those of Open MPI 4");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let output = Self::command(folder.path(), "up")
            .args(Self::HOSTS)
            .output()
            .unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            skip(&format!("no namespaces for several hosts: {said}"));
            return None;
        }
        let hosts = Hosts::find(folder.path(), &Self::HOSTS);
        Some(Cluster { folder, hosts })
    }

    fn script() -> PathBuf {
        repository().join("tests/cluster/hosts.sh")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(folder: &Path, verb: &str) -> Command {
        let mut command = Command::new(Self::script());
        command.arg(verb).arg(folder);
        command
    }

    /// Does something to a host.
    #[track_caller]
    fn to(&self, host: &str, verb: &str) {
        let status = Self::command(self.path(), verb).arg(host).status().unwrap();
        assert!(status.success(), "{verb} {host}");
    }

    /// p8 with the small weights, started on the first of these hosts with `slots` ranks on each.
    fn p8(&self, hosts: &[&str], slots: usize, images: &Images, output: &Path) -> P8 {
        let hostfile = self.path().join("hostfile");
        let lines: String = hosts
            .iter()
            .map(|host| format!("{host} slots={slots}\n"))
            .collect();
        std::fs::write(&hostfile, lines).unwrap();
        let script = Self::script();
        let under = [
            script.as_path(),
            "on".as_ref(),
            self.path(),
            hosts[0].as_ref(),
        ];
        P8::small(hosts.len() * slots, images.path(), output)
            .under(&under.map(|word| word.to_str().unwrap()))
            .launcher(["--mca", "plm_rsh_agent"])
            .launcher([self.path().join("agent")])
            .launcher(["--hostfile".as_ref(), hostfile.as_path()])
    }

    /// The processes of the job that are left on any host.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for host in Self::HOSTS {
            for program in JOB {
                if !self.hosts.processes(host, program).is_empty() {
                    left.push(format!("{program} on {host}"));
                }
            }
        }
        left
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Self::command(self.path(), "down").status();
    }
}

fn finished_blocks(output: &Path) -> usize {
    let names = names(&output.join("features"));
    names
        .iter()
        .filter(|name| name.starts_with("block-"))
        .count()
}

/// Lets something happen to the hosts when the first block is finished. The job must end everywhere and
/// keep its finished blocks; then the hosts that are left must finish the work, with the bytes of one host.
fn must_end_everywhere_and_go_on(happen: impl FnOnce(&Cluster), left: &[&str]) {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let images = Images::new(240);
    let folder = tempfile::tempdir().unwrap();
    let (one, three) = (folder.path().join("one"), folder.path().join("three"));

    let mut running: Running = cluster.p8(&Cluster::HOSTS, 1, &images, &three).start();
    running.until("a block is finished", || finished_blocks(&three) > 0);
    let began = Instant::now();
    happen(&cluster);
    loop {
        let left = cluster.left();
        if left.is_empty() {
            break;
        }
        assert!(began.elapsed() < END, "after {END:?} there are {left:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!("the job had ended everywhere after {:?}", began.elapsed());
    let finished = running.wait();
    assert_ne!(finished.code, 0, "{finished}");
    assert!(!three.join("metrics.json").exists(), "{finished}");
    assert!(finished_blocks(&three) > 0);

    let again = cluster.p8(left, 1, &images, &three).run();
    again.demand(0, &["from an earlier run"]);
    P8::small(1, images.path(), &one).succeed();
    assert_same_bytes(
        &stable_files(&one),
        &stable_files(&three),
        "after a failure",
    );
}

#[test]
fn three_hosts_give_the_bytes_of_one() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let images = Images::new(20);
    let folder = tempfile::tempdir().unwrap();
    let output = |name: &str| folder.path().join(name);
    P8::small(1, images.path(), &output("one")).succeed();
    let one = stable_files(&output("one"));
    for slots in [1, 2] {
        let three = output(&format!("three-{slots}"));
        let ranks = 3 * slots;
        let finished = cluster.p8(&Cluster::HOSTS, slots, &images, &three).run();
        finished.demand(0, &[&format!("{ranks} ranks on 3 hosts")]);
        assert_same_bytes(&one, &stable_files(&three), &format!("{ranks} ranks"));
    }
}

#[test]
fn a_rank_killed_on_another_host_ends_the_job_everywhere() {
    must_end_everywhere_and_go_on(
        |cluster| cluster.hosts.signal("node2", "p8", "KILL"),
        &Cluster::HOSTS,
    );
}

#[test]
fn a_host_that_dies_ends_the_job_everywhere() {
    must_end_everywhere_and_go_on(|cluster| cluster.to("node3", "kill"), &["node2", "node1"]);
}

#[test]
fn the_first_host_dying_ends_the_job_everywhere() {
    must_end_everywhere_and_go_on(|cluster| cluster.to("node1", "kill"), &["node3", "node2"]);
}

#[test]
fn a_link_that_is_cut_ends_the_job_everywhere() {
    must_end_everywhere_and_go_on(|cluster| cluster.to("node2", "cut"), &["node1", "node3"]);
}

/// Keepalive probes are not sent while data waits for its acknowledgement: here the host that is cut off
/// still has a message for the others, and the system has to give up on it soon enough.
#[test]
fn a_link_that_is_cut_before_a_last_message_ends_the_job_everywhere() {
    let cut = |cluster: &Cluster| {
        cluster.to("node2", "cut");
        cluster.hosts.signal("node2", "p8", "TERM");
    };
    must_end_everywhere_and_go_on(cut, &["node1", "node3"]);
}

#[test]
fn a_rank_bound_to_one_core_is_told_what_to_add() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        skip("this machine has one core");
        return;
    }
    let images = Images::new(1);
    let output = tempfile::tempdir().unwrap();
    let dry_run = |binding: &str| {
        P8::small(1, images.path(), output.path())
            .launcher(["--bind-to", binding])
            .args(["--dry-run"])
            .run()
    };
    let words = [
        &format!("bound this rank to 1 of its {cores} cores"),
        "--bind-to none",
    ];
    dry_run("core").demand(0, &words);
    let unbound = dry_run("none");
    unbound.demand(0, &[]);
    assert!(!unbound.stderr.contains("bound this rank"), "{unbound}");
}
