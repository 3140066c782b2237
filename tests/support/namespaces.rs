//! The hosts of `tests/cluster/hosts.sh`, seen from outside: their processes are this machine's too.

use super::{repository, signal};
use std::path::Path;
use std::process::Command;

/// The hosts of one cluster.
pub struct Hosts {
    /// Name, and the network namespace as `/proc` shows it.
    networks: Vec<(String, String)>,
}

impl Hosts {
    /// The running hosts whose folder this is.
    pub fn find(folder: &Path, names: &[&str]) -> Self {
        let network = |name: &&str| {
            let output = Command::new(repository().join("tests/cluster/hosts.sh"))
                .args(["on".as_ref(), folder.as_os_str()])
                .args([name, "readlink", "/proc/self/ns/net"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{name}");
            let link = String::from_utf8(output.stdout).unwrap();
            (name.to_string(), link.trim().to_string())
        };
        Hosts {
            networks: names.iter().map(network).collect(),
        }
    }

    /// The processes on a host that run this program.
    pub fn processes(&self, host: &str, program: &str) -> Vec<u32> {
        let (_, network) = self.networks.iter().find(|(name, _)| name == host).unwrap();
        let runs_there = |process: &u32| {
            let folder = Path::new("/proc").join(process.to_string());
            // A process that has just ended has neither.
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            name.trim_end() == program
                && std::fs::read_link(folder.join("ns/net"))
                    .is_ok_and(|link| link == Path::new(network))
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(runs_there)
            .collect()
    }

    /// Signals a program on a host.
    #[track_caller]
    pub fn signal(&self, host: &str, program: &str, name: &str) {
        let processes = self.processes(host, program);
        assert!(!processes.is_empty(), "no {program} on {host}");
        for process in processes {
            signal(name, process);
        }
    }
}
