//! The one file that names the MPI bindings: start, end, send, receive.
//!
//! Calls return no errors: the default error handler of MPI ends the job when a call fails.

use super::chunks::{LARGEST_MESSAGE, chunks};
use crate::error::{Failure, Kind};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{Destination, Source};
use std::time::{Duration, Instant};

/// Lengths and contents of messages.
const TAG_MESSAGE: i32 = 1;
/// Small notes that rank 0 looks at when it has time.
const TAG_NOTE: i32 = 2;

/// How long a waiting rank spins before it begins to sleep: about the latency of a network.
const SPIN: Duration = Duration::from_micros(50);
/// The longest sleep between two looks at the network.
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// The communicator of all ranks.
pub struct Comm {
    // Dropped last: ends MPI.
    world: SimpleCommunicator,
    _universe: Universe,
    began: Instant,
}

impl Comm {
    /// Starts MPI on the calling thread, which has to make all further calls.
    ///
    /// # Errors
    /// When the library refuses to be used beside other threads.
    pub fn start() -> Result<Self, Failure> {
        let began = Instant::now();
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| Failure::new(Kind::Internal, "MPI was started twice"))?;
        if threading < Threading::Funneled {
            return Err(Failure::new(
                Kind::Internal,
                "this MPI library allows no threads beside it (it offers MPI_THREAD_SINGLE only): use a build with thread support",
            ));
        }
        Ok(Comm {
            world: universe.world(),
            _universe: universe,
            began,
        })
    }

    /// When MPI was about to be started, which is the first thing that the program does.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.world.size() as usize
    }

    /// Name of the host as MPI sees it.
    pub fn host(&self) -> String {
        mpi::environment::processor_name().unwrap_or_else(|_| "unknown".into())
    }

    /// Name and version of the MPI library.
    pub fn mpi_library(&self) -> String {
        let text = mpi::environment::library_version().unwrap_or_else(|_| "unknown".into());
        let first_line = text.lines().next().unwrap_or("unknown");
        first_line
            .split(", package")
            .next()
            .unwrap_or(first_line)
            .trim_end_matches(['\0', ' '])
            .to_string()
    }

    /// Sends `data` to rank `to`; any length. Returns when the buffer may be used again.
    pub fn send_bytes(&self, data: &[u8], to: usize) {
        let peer = self.world.process_at_rank(to as i32);
        let length = (data.len() as u64).to_le_bytes();
        peer.send_with_tag(&length[..], TAG_MESSAGE);
        for range in chunks(data.len(), LARGEST_MESSAGE) {
            mpi::request::scope(|scope| {
                let mut request = peer.immediate_send_with_tag(scope, &data[range], TAG_MESSAGE);
                let mut wait = Wait::new();
                loop {
                    match request.test() {
                        Ok(_) => break,
                        Err(pending) => request = pending,
                    }
                    wait.a_little();
                }
            });
        }
    }

    /// Receives what rank `from` sent with [`Comm::send_bytes`]; messages of one sender arrive in
    /// their order.
    pub fn receive_bytes(&self, from: usize) -> Vec<u8> {
        let peer = self.world.process_at_rank(from as i32);
        let mut wait = Wait::new();
        while peer.immediate_probe_with_tag(TAG_MESSAGE).is_none() {
            wait.a_little();
        }
        let mut length = [0u8; 8];
        peer.receive_into_with_tag(&mut length[..], TAG_MESSAGE);
        let mut data = vec![0u8; u64::from_le_bytes(length) as usize];
        for range in chunks(data.len(), LARGEST_MESSAGE) {
            peer.receive_into_with_tag(&mut data[range], TAG_MESSAGE);
        }
        data
    }

    /// Leaves a small note for rank 0 without waiting for it.
    pub fn note(&self, words: [u64; 4]) {
        let peer = self.world.process_at_rank(0);
        // Below every library's eager limit, so the call returns at once.
        peer.send_with_tag(&words[..], TAG_NOTE);
    }

    /// The next note that waits at rank 0, with its sender.
    pub fn next_note(&self) -> Option<(usize, [u64; 4])> {
        let any = self.world.any_process();
        let status = any.immediate_probe_with_tag(TAG_NOTE)?;
        let from = status.source_rank();
        let mut words = [0u64; 4];
        self.world
            .process_at_rank(from)
            .receive_into_with_tag(&mut words[..], TAG_NOTE);
        Some((from as usize, words))
    }

    /// Ends every rank of the job at once with this exit code.
    pub fn abort(&self, code: u8) -> ! {
        self.world.abort(i32::from(code))
    }
}

/// Ends every rank of the job at once; for the places that hold no [`Comm`]. Main thread only.
pub(super) fn abort_world(code: u8) {
    if mpi::environment::is_initialized() && !mpi::environment::is_finalized() {
        SimpleCommunicator::world().abort(i32::from(code));
    }
}

/// Spins for a moment, then sleeps a little longer each time.
struct Wait {
    since: Instant,
    sleep: Duration,
}

impl Wait {
    fn new() -> Self {
        Wait {
            since: Instant::now(),
            sleep: Duration::from_micros(10),
        }
    }

    fn a_little(&mut self) {
        if self.since.elapsed() < SPIN {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(self.sleep);
            self.sleep = (self.sleep * 2).min(LONGEST_SLEEP);
        }
    }
}
