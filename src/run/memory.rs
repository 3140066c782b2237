//! How much memory a rank has used, and how much it may take.

use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::pca::PcaSettings;
use std::path::Path;

/// The settings with the memory that every rank has: on each host what is free there divided among its
/// ranks, and of that the least over all ranks.
pub fn limited(settings: PcaSettings, comm: &Comm) -> PcaSettings {
    let mine = available_bytes(Path::new("/"));
    let ranks = Place::find(comm).ranks_on_host.max(1);
    let share = mine.map_or(f64::INFINITY, |bytes| bytes / ranks as f64);
    let least = comm
        .all_gather_f64(&[share])
        .concat()
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    PcaSettings {
        memory: Some(least).filter(|bytes| bytes.is_finite()),
        ..settings
    }
}

/// What this process could still take: the least of what the host has free and of what its control
/// groups leave; `None` where nothing tells. `root` is the root of the file system.
fn available_bytes(root: &Path) -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let host = read("proc/meminfo").and_then(|text| mem_available(&text));
    // A limit of "max", or of no number, is none.
    let number = |path: &str| read(path)?.trim().parse::<f64>().ok();
    let groups = [
        (
            "memory.max",
            "memory.current",
            "memory.stat",
            "inactive_file",
        ),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ];
    let left = groups.map(|(limit, used, statistics, cache)| {
        let at = |name: &str| format!("sys/fs/cgroup/{name}");
        // Pages of files that nobody uses are counted, but go when they are in the way.
        let cache = read(&at(statistics)).and_then(|text| field(&text, cache));
        let used = number(&at(used))? - cache.unwrap_or(0.0);
        Some((number(&at(limit))? - used).max(0.0))
    });
    let known = [host, left[0], left[1]].into_iter().flatten();
    known.min_by(f64::total_cmp)
}

fn mem_available(meminfo: &str) -> Option<f64> {
    Some(1024.0 * field(meminfo, "MemAvailable:")?)
}

/// The number behind a name, in a file of names and numbers.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// The largest resident size of this process so far, in bytes, as Linux counts it; `None` where the
/// system does not say.
pub fn peak_bytes() -> Option<u64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The high-water mark in the text of `/proc/<process>/status`.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_of_host_and_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(available_bytes(root), None);
        write(
            root,
            "proc/meminfo",
            "MemTotal: 9000 kB\nMemAvailable:   4000 kB\n",
        );
        assert_eq!(available_bytes(root), Some(4_096_000.0));
        write(root, "sys/fs/cgroup/memory.max", "max\n");
        write(root, "sys/fs/cgroup/memory.current", "2000\n");
        assert_eq!(available_bytes(root), Some(4_096_000.0), "no limit");
        write(root, "sys/fs/cgroup/memory.max", "5000\n");
        assert_eq!(available_bytes(root), Some(3000.0));
        write(
            root,
            "sys/fs/cgroup/memory.stat",
            "anon 7\ninactive_file 500\n",
        );
        assert_eq!(available_bytes(root), Some(3500.0));
        write(root, "sys/fs/cgroup/memory.max", "10\n");
        assert_eq!(
            available_bytes(root),
            Some(0.0),
            "more is used than there may be"
        );
    }

    #[test]
    fn an_old_control_group_counts_too() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n");
        write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
        assert_eq!(available_bytes(root), Some(8000.0));
    }

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        let status = "Name:\tp8\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t  1 kB\n";
        assert_eq!(peak_of(status), Some(123_456 * 1024));
        assert_eq!(peak_of("Name:\tp8\n"), None);
    }

    #[test]
    fn memory_that_was_used_counts() {
        let Some(before) = peak_bytes() else {
            eprintln!("skipped: this system does not tell the peak of a process");
            return;
        };
        let used = std::hint::black_box(vec![1u8; before as usize + (1 << 20)]);
        assert!(peak_bytes().is_some_and(|after| after > used.len() as u64));
    }
}
