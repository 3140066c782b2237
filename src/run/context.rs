//! What every task has from its first moment on: ranks, threads, clocks.

use super::announce;
use super::settings::Settings;
use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::linalg;
use crate::timing::Phases;
use std::time::SystemTime;

/// One rank's surroundings.
pub struct Context<'a> {
    /// The settings of the task.
    pub settings: &'a Settings,
    /// All ranks.
    pub comm: &'a Comm,
    /// Where this rank runs.
    pub place: Place,
    /// Threads of this rank.
    pub threads: usize,
    /// Where time is counted.
    pub phases: Phases,
    /// When the task began.
    pub started: SystemTime,
}

impl<'a> Context<'a> {
    /// Starts the clocks and the linear algebra, and tells the ranks, hosts and threads.
    pub fn start(settings: &'a Settings, comm: &'a Comm) -> Self {
        let started = SystemTime::now();
        linalg::init();
        let place = Place::find(comm);
        let threads = settings.threads.unwrap_or(place.default_threads());
        announce::start(comm, &place, threads);
        // What runs on "all threads", as the factorisation does, keeps to those of this rank. Only in a
        // process that has run a task before is there a pool already, and that one stays.
        let _ = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
        Context {
            settings,
            comm,
            place,
            threads,
            phases: Phases::new(),
            started,
        }
    }
}
