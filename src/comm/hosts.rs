//! Which ranks share a host, and how many threads each of them may use.

use super::Comm;

/// What one rank knows of the machine it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the host.
    pub host: String,
    /// Cores of the host that this job could use: a batch system may keep the others from it.
    pub host_cores: usize,
    /// Cores this rank may run on (affinity and cgroup).
    pub bound_cores: usize,
    /// Ranks on this host.
    pub ranks_on_host: usize,
}

impl Place {
    /// Asks the system and the other ranks.
    pub fn find(comm: &Comm) -> Self {
        let host = comm.host();
        let ranks_on_host = comm
            .all_gather_bytes(host.as_bytes())
            .iter()
            .filter(|name| name.as_slice() == host.as_bytes())
            .count();
        Place {
            host,
            host_cores: host_cores(),
            bound_cores: std::thread::available_parallelism().map_or(1, usize::from),
            ranks_on_host,
        }
    }

    /// Threads of this rank unless the user says otherwise: the host's cores divided among its
    /// ranks, at least one, and no more than the cores it is bound to.
    pub fn default_threads(&self) -> usize {
        self.fair_share().min(self.bound_cores).max(1)
    }

    /// A sentence for the user when the launcher bound the rank to fewer cores than its share.
    pub fn binding_warning(&self) -> Option<String> {
        (self.bound_cores < self.fair_share()).then(|| {
            format!(
                "the launcher bound this rank to {} of its {} cores on {}; with Open MPI add `--bind-to none` (or `--map-by slot:PE={}`), with srun `--cpu-bind=none`, to use them all",
                self.bound_cores,
                self.fair_share(),
                self.host,
                self.fair_share(),
            )
        })
    }

    fn fair_share(&self) -> usize {
        (self.host_cores / self.ranks_on_host.max(1)).max(1)
    }
}

/// Cores of this host that this job could use, within the quota of its container;
/// `available_parallelism` alone would give this rank's share where the launcher binds ranks.
fn host_cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let reachable = reachable_cores().or_else(online_cores).unwrap_or(available);
    let bound =
        rustix::thread::sched_getaffinity(None).map_or(available, |set| set.count() as usize);
    // Fewer than the affinity mask allows: a cgroup quota, which is shared by all ranks of the host.
    if available < bound {
        reachable.min(available)
    } else {
        reachable
    }
}

/// Cores that a thread gets when it asks for all: the system leaves out those that are offline or that
/// a batch system gave to other jobs, but not those that a launcher only bound this rank away from.
fn reachable_cores() -> Option<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let asking = std::thread::spawn(|| {
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        sched_setaffinity(None, &all).ok()?;
        sched_getaffinity(None).ok().map(|set| set.count() as usize)
    });
    asking.join().ok().flatten()
}

fn online_cores() -> Option<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    count_cpu_list(list.trim())
}

/// Counts the processors in a list such as `0-3,8,10-11`.
fn count_cpu_list(list: &str) -> Option<usize> {
    list.split(',')
        .map(|part| match part.split_once('-') {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                (last + 1).checked_sub(first)
            }
            None => part.parse::<usize>().ok().map(|_| 1),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host_cores: usize, bound_cores: usize, ranks_on_host: usize) -> Place {
        Place {
            host: "node1".into(),
            host_cores,
            bound_cores,
            ranks_on_host,
        }
    }

    #[test]
    fn threads_are_the_cores_divided_among_the_ranks() {
        assert_eq!(place(8, 8, 1).default_threads(), 8);
        assert_eq!(place(8, 8, 3).default_threads(), 2);
        assert_eq!(place(2, 2, 3).default_threads(), 1);
        assert_eq!(place(8, 4, 2).default_threads(), 4);
        assert_eq!(place(8, 1, 2).default_threads(), 1);
    }

    #[test]
    fn a_list_of_processors_is_counted() {
        assert_eq!(count_cpu_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpu_list("0"), Some(1));
        assert_eq!(count_cpu_list("?"), None);
    }

    #[test]
    fn the_cores_of_the_host_are_counted_from_a_thread_that_is_bound_to_one() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let bound = std::thread::spawn(|| {
            let mine = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|cpu| mine.is_set(*cpu)).unwrap();
            let mut one = CpuSet::new();
            one.set(first);
            sched_setaffinity(None, &one).unwrap();
            (reachable_cores(), sched_getaffinity(None).unwrap().count())
        });
        let (reachable, own) = bound.join().unwrap();
        assert_eq!(own, 1);
        assert_eq!(reachable, reachable_cores());
        assert!(reachable <= online_cores());
    }

    #[test]
    fn a_rank_bound_to_one_core_is_told() {
        assert!(
            place(8, 1, 2)
                .binding_warning()
                .unwrap()
                .contains("1 of its 4 cores")
        );
        assert_eq!(place(8, 4, 2).binding_warning(), None);
        assert_eq!(place(2, 2, 3).binding_warning(), None);
    }
}
