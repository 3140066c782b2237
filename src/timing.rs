//! Phases of a run and how long each rank spent in them.
//!
//! A rank keeps one [`Phases`] and lends it to its threads. At the end the ranks exchange the
//! vectors of [`Phases::to_vec`] and [`summarize`] turns them into what the report and
//! `metrics.json` show.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A kind of work. The log, the report and `metrics.json` use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Listing the inputs.
    List,
    /// Reading or downloading the weights and handing them to the other ranks.
    Weights,
    /// Reading image files; summed over the threads that read.
    Read,
    /// Decoding, resizing and normalising; summed over the threads that decode.
    Decode,
    /// Pushing images through the network.
    Network,
    /// Writing feature shards, and reading them back.
    Shard,
    /// Computing the components.
    Fit,
    /// Projecting the images on the components.
    Project,
    /// Checking the components exactly, where that was asked for.
    Verify,
    /// Writing the results under their final names.
    Publish,
    /// Waiting for other ranks.
    Wait,
}

impl Phase {
    /// Every phase, in the order of a run.
    pub const ALL: [Phase; 11] = [
        Phase::List,
        Phase::Weights,
        Phase::Read,
        Phase::Decode,
        Phase::Network,
        Phase::Shard,
        Phase::Fit,
        Phase::Project,
        Phase::Verify,
        Phase::Publish,
        Phase::Wait,
    ];

    /// The name in the log, the report and `metrics.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::List => "list",
            Phase::Weights => "weights",
            Phase::Read => "read",
            Phase::Decode => "decode",
            Phase::Network => "network",
            Phase::Shard => "shard",
            Phase::Fit => "fit",
            Phase::Project => "project",
            Phase::Verify => "verify",
            Phase::Publish => "publish",
            Phase::Wait => "wait",
        }
    }
}

/// The time that one rank has spent in every phase. Threads add to it at the same time.
///
/// It counts whole nanoseconds, which fit 584 years, because integers can be added atomically.
#[derive(Debug, Default)]
pub struct Phases {
    nanoseconds: [AtomicU64; Phase::ALL.len()],
}

impl Phases {
    /// Nothing spent yet.
    pub fn new() -> Self {
        Phases::default()
    }

    /// Adds a span of time to a phase.
    pub fn add(&self, phase: Phase, span: Duration) {
        let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // The counters publish no other memory, so no ordering is needed.
        self.nanoseconds[phase as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Starts a stopwatch, which adds to the phase when it is dropped: also on an early return.
    #[must_use = "the time counts until the stopwatch is dropped"]
    pub fn start(&self, phase: Phase) -> Stopwatch<'_> {
        Stopwatch {
            phases: self,
            phase,
            started: Instant::now(),
        }
    }

    /// Runs `work` and adds the time it took to the phase.
    pub fn time<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let _stopwatch = self.start(phase);
        work()
    }

    /// Seconds spent in a phase so far.
    pub fn seconds(&self, phase: Phase) -> f64 {
        Duration::from_nanos(self.nanoseconds[phase as usize].load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Seconds per phase, in the order of [`Phase::ALL`], to send to other ranks.
    pub fn to_vec(&self) -> Vec<f64> {
        Phase::ALL
            .iter()
            .map(|&phase| self.seconds(phase))
            .collect()
    }

    /// The reverse of [`Phases::to_vec`]; `None` where the slice has another length or holds what
    /// is not a time.
    pub fn from_slice(seconds: &[f64]) -> Option<Self> {
        if seconds.len() != Phase::ALL.len() {
            return None;
        }
        let phases = Phases::new();
        for (phase, &value) in Phase::ALL.into_iter().zip(seconds) {
            phases.add(phase, Duration::try_from_secs_f64(value).ok()?);
        }
        Some(phases)
    }
}

/// Measures one span of a phase; see [`Phases::start`].
#[derive(Debug)]
pub struct Stopwatch<'a> {
    phases: &'a Phases,
    phase: Phase,
    started: Instant,
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        self.phases.add(self.phase, self.started.elapsed());
    }
}

/// How one phase went over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Seconds of the rank that spent least.
    #[serde(rename = "min_seconds")]
    pub min: f64,
    /// Mean over the ranks, in seconds.
    #[serde(rename = "mean_seconds")]
    pub mean: f64,
    /// Seconds of the rank that spent most.
    #[serde(rename = "max_seconds")]
    pub max: f64,
    /// The rank that spent most; the lowest of them where several did.
    pub slowest_rank: usize,
}

/// Summarises the vectors of [`Phases::to_vec`], one a rank in the order of the ranks.
///
/// Empty where there is no rank; a rank whose vector is too short counts with 0 seconds.
pub fn summarize(ranks: &[Vec<f64>]) -> Vec<(Phase, Summary)> {
    if ranks.is_empty() {
        return Vec::new();
    }
    Phase::ALL
        .into_iter()
        .map(|phase| {
            let seconds = |rank: &Vec<f64>| rank.get(phase as usize).copied().unwrap_or(0.0);
            let first = seconds(&ranks[0]);
            let mut summary = Summary {
                min: first,
                mean: 0.0,
                max: first,
                slowest_rank: 0,
            };
            let mut sum = 0.0;
            for (rank, vector) in ranks.iter().enumerate() {
                let value = seconds(vector);
                sum += value;
                summary.min = summary.min.min(value);
                if value > summary.max {
                    summary.max = value;
                    summary.slowest_rank = rank;
                }
            }
            summary.mean = sum / ranks.len() as f64;
            (phase, summary)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_phases_is_in_the_order_of_their_numbers() {
        for (position, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, position);
        }
    }

    #[test]
    fn a_phase_has_the_same_name_in_json() {
        for phase in Phase::ALL {
            let json = serde_json::to_string(&phase).unwrap();
            assert_eq!(json, format!("\"{}\"", phase.as_str()));
        }
    }

    #[test]
    fn threads_add_to_the_same_phase() {
        let phases = Phases::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        phases.add(Phase::Decode, Duration::from_micros(250));
                    }
                });
            }
        });
        assert_eq!(phases.seconds(Phase::Decode), 2.0);
        assert_eq!(phases.seconds(Phase::Read), 0.0);
    }

    #[test]
    fn a_stopwatch_counts_until_it_is_dropped_also_on_an_early_return() {
        fn fails(phases: &Phases) -> Result<(), std::num::ParseIntError> {
            let _stopwatch = phases.start(Phase::Fit);
            std::thread::sleep(Duration::from_millis(5));
            "x".parse::<u8>()?;
            Ok(())
        }
        let phases = Phases::new();
        assert!(fails(&phases).is_err());
        assert!(phases.seconds(Phase::Fit) >= 0.005);
    }

    #[test]
    fn timed_work_returns_its_value() {
        let phases = Phases::new();
        let answer = phases.time(Phase::List, || {
            std::thread::sleep(Duration::from_millis(2));
            7
        });
        assert_eq!(answer, 7);
        assert!(phases.seconds(Phase::List) >= 0.002);
    }

    #[test]
    fn a_vector_of_seconds_goes_there_and_back() {
        let phases = Phases::new();
        phases.add(Phase::Network, Duration::from_millis(1500));
        phases.add(Phase::Wait, Duration::from_nanos(3));
        let copy = Phases::from_slice(&phases.to_vec()).unwrap();
        assert_eq!(copy.to_vec(), phases.to_vec());
        assert_eq!(copy.seconds(Phase::Network), 1.5);
    }

    #[test]
    fn what_is_not_a_vector_of_seconds_is_refused() {
        assert!(Phases::from_slice(&[]).is_none());
        assert!(Phases::from_slice(&[0.0; Phase::ALL.len() + 1]).is_none());
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            let mut seconds = [0.0; Phase::ALL.len()];
            seconds[2] = bad;
            assert!(Phases::from_slice(&seconds).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_summary_names_the_slowest_rank_and_the_lowest_of_equals() {
        let rank = |network: f64, wait: f64| {
            let mut seconds = vec![0.0; Phase::ALL.len()];
            seconds[Phase::Network as usize] = network;
            seconds[Phase::Wait as usize] = wait;
            seconds
        };
        let summary = summarize(&[rank(3.0, 1.0), rank(5.0, 4.0), rank(1.0, 4.0)]);
        assert_eq!(summary.len(), Phase::ALL.len());
        let of = |phase: Phase| summary[phase as usize].1;
        assert_eq!(
            of(Phase::Network),
            Summary {
                min: 1.0,
                mean: 3.0,
                max: 5.0,
                slowest_rank: 1
            }
        );
        assert_eq!(of(Phase::Wait).slowest_rank, 1);
        assert_eq!(of(Phase::Read).max, 0.0);
        assert!(summarize(&[]).is_empty());
    }
}
