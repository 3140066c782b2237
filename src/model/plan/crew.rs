//! Who computes a step of the plan.

/// The calling thread alone, or together with the others of its pool.
///
/// A layer is cut between its blocks of output channels, which lie apart in memory, so that every
/// member writes to a part of its own and reads only its own weights. No sum is cut, so the
/// bits are the same for every crew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crew {
    /// The calling thread alone.
    Alone,
    /// So many threads of the pool that the caller is in.
    Pool(usize),
}

impl Crew {
    /// How many of `total` units a member gets at most: whole units, the same for all but the last.
    pub fn share(self, total: usize) -> usize {
        match self {
            Crew::Alone => total.max(1),
            Crew::Pool(threads) => total.div_ceil(threads.max(1)).max(1),
        }
    }

    /// Does the work of all parts.
    pub fn each<T: Send>(self, parts: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        match self {
            Crew::Alone => parts.for_each(work),
            Crew::Pool(_) => rayon::scope(|scope| {
                let work = &work;
                for part in parts {
                    scope.spawn(move |_| work(part));
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_part_is_done_once_by_any_crew() {
        for crew in [Crew::Alone, Crew::Pool(1), Crew::Pool(3)] {
            for total in [1, 2, 5, 64] {
                let mut done = vec![0; total];
                let parts = AtomicUsize::new(0);
                crew.each(done.chunks_mut(crew.share(total)), |part| {
                    parts.fetch_add(1, Ordering::Relaxed);
                    part.iter_mut().for_each(|count| *count += 1);
                });
                assert!(done.iter().all(|&count| count == 1));
                let most = if let Crew::Pool(threads) = crew {
                    threads
                } else {
                    1
                };
                assert!(parts.into_inner() <= most);
            }
        }
    }
}
