//! Threads that load images in order, at most a bounded number ahead of the network.
//!
//! Files are read by the threads that decode them. What comes from an object store is fetched by more
//! threads than there are cores, because they do little but wait.

use super::featurize::Job;
use super::load::{self, Loaded};
use crate::dataset::list::Entry;
use crate::error::{Failure, Kind};
use crate::image::{Exif, Preprocess};
use crate::store::Store;
use crate::timing::Phases;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;

/// Requests of a rank at once. An object of 100 KB takes some 30 ms, so that these bring more than 500
/// images a second, many times what the network takes.
const FETCHERS: usize = 16;

/// Bytes of files that a rank has fetched and not yet decoded, at most; one file may be larger.
const FETCHED_BYTES: u64 = 256 << 20;

/// What became of an image.
type Answer = Result<Loaded, Failure>;

/// The images of this rank, in order.
pub struct Loader {
    results: Receiver<(usize, Answer)>,
    /// One ticket for every image that may be ahead.
    tickets: Sender<()>,
    /// Loaded before their turn.
    early: BTreeMap<usize, Answer>,
    next: usize,
}

/// What reading and decoding need to know of the run.
#[derive(Clone, Copy)]
struct Steps<'env> {
    store: &'env Store,
    exif: Exif,
    preprocess: Preprocess,
    phases: &'env Phases,
    threads: usize,
}

impl Steps<'_> {
    fn read(self, entry: &Entry) -> Result<Result<Bytes, Loaded>, Failure> {
        load::read(self.store, entry, self.phases).map_err(Failure::from)
    }

    fn decode(self, entry: &Entry, bytes: &[u8]) -> Loaded {
        load::decode(entry, bytes, self.exif, self.preprocess, self.phases)
    }
}

/// A fetched file on its way to a thread that decodes it.
struct Fetched {
    position: usize,
    bytes: Bytes,
    _lease: Lease,
}

/// Positions of images that are to be loaded, each given out once and only as far ahead as tickets allow.
#[derive(Clone)]
struct Turns<'env> {
    images: &'env [&'env Entry],
    tickets: Receiver<()>,
    counter: Arc<AtomicUsize>,
}

impl<'env> Turns<'env> {
    /// Waits for the next one; `None` when the images or the network are gone.
    fn next(&self) -> Option<(usize, &'env Entry)> {
        self.tickets.recv().ok()?;
        let position = self.counter.fetch_add(1, Ordering::Relaxed);
        Some((position, self.images.get(position)?))
    }
}

impl Loader {
    /// Starts the threads.
    pub fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        job: &'env Job,
        images: &'env [&'env Entry],
        ahead: usize,
    ) -> Self {
        let (tickets, take_ticket) = bounded::<()>(ahead);
        let (give, results) = bounded(ahead);
        for _ in 0..ahead {
            // The channel holds as many; this never blocks.
            let _ = tickets.send(());
        }
        let turns = Turns {
            images,
            tickets: take_ticket,
            counter: Arc::default(),
        };
        let steps = Steps {
            store: &job.settings.store,
            exif: job.settings.exif,
            preprocess: job.preprocess,
            phases: job.phases,
            threads: job.threads,
        };
        if images.iter().any(|entry| entry.is_remote()) {
            fetch_and_decode(scope, steps, &turns, &give, ahead);
        } else {
            for _ in 0..steps.threads.min(images.len()) {
                let (turns, give) = (turns.clone(), give.clone());
                scope.spawn(move || {
                    while let Some((position, entry)) = turns.next() {
                        let answer = match steps.read(entry) {
                            Ok(Ok(bytes)) => Ok(steps.decode(entry, &bytes)),
                            Ok(Err(failed)) => Ok(failed),
                            Err(failure) => Err(failure),
                        };
                        if give.send((position, answer)).is_err() {
                            break;
                        }
                    }
                });
            }
        }
        Loader {
            results,
            tickets,
            early: BTreeMap::new(),
            next: 0,
        }
    }

    /// The next image in order; a failure too comes in its turn, so that the images before it are not lost.
    ///
    /// # Errors
    /// When the store fails in a way that concerns all images.
    pub fn next(&mut self) -> Answer {
        let answer = loop {
            if let Some(answer) = self.early.remove(&self.next) {
                break answer;
            }
            let (position, answer) = self.results.recv().map_err(|_| {
                Failure::new(Kind::Internal, "the threads that load images ended early")
            })?;
            self.early.insert(position, answer);
        };
        self.next += 1;
        // Refused only when no thread is left that could use the ticket.
        let _ = self.tickets.send(());
        answer
    }
}

/// Starts threads that fetch, and threads that decode what those bring.
fn fetch_and_decode<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    steps: Steps<'env>,
    turns: &Turns<'env>,
    give: &Sender<(usize, Answer)>,
    ahead: usize,
) {
    let images = turns.images;
    let budget = Arc::new(Budget::new(FETCHED_BYTES));
    // As many as there are tickets: what was fetched never waits for room in the channel.
    let (hand_over, fetched) = bounded::<Fetched>(ahead);
    for _ in 0..FETCHERS.min(images.len()) {
        let (turns, give, hand_over) = (turns.clone(), give.clone(), hand_over.clone());
        let budget = budget.clone();
        scope.spawn(move || {
            while let Some((position, entry)) = turns.next() {
                let lease = Budget::take(&budget, entry.bytes);
                let sent = match steps.read(entry) {
                    Ok(Ok(bytes)) => hand_over
                        .send(Fetched {
                            position,
                            bytes,
                            _lease: lease,
                        })
                        .is_ok(),
                    Ok(Err(failed)) => give.send((position, Ok(failed))).is_ok(),
                    Err(failure) => give.send((position, Err(failure))).is_ok(),
                };
                if !sent {
                    break;
                }
            }
        });
    }
    for _ in 0..steps.threads.min(images.len()) {
        let (fetched, give) = (fetched.clone(), give.clone());
        scope.spawn(move || {
            for file in fetched {
                let position = file.position;
                let loaded = steps.decode(images[position], &file.bytes);
                drop(file);
                if give.send((position, Ok(loaded))).is_err() {
                    break;
                }
            }
        });
    }
}

/// Bytes that may be under way.
struct Budget {
    left: Mutex<u64>,
    given_back: Condvar,
    whole: u64,
}

impl Budget {
    fn new(whole: u64) -> Self {
        Budget {
            left: Mutex::new(whole),
            given_back: Condvar::new(),
            whole,
        }
    }

    /// Waits until so many bytes are left; more than there are altogether wait until all are.
    fn take(budget: &Arc<Budget>, bytes: u64) -> Lease {
        let bytes = bytes.min(budget.whole);
        let left = budget.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = budget
            .given_back
            .wait_while(left, |left| *left < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *left -= bytes;
        Lease {
            budget: budget.clone(),
            bytes,
        }
    }
}

/// Bytes of a budget that are in use; given back when it is dropped, also by a thread that gives up.
struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.budget.left.lock();
        *left.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_larger_than_the_budget_waits_for_all_of_it_and_goes_alone() {
        let budget = Arc::new(Budget::new(10));
        let left = || *budget.left.lock().unwrap();
        let small = Budget::take(&budget, 4);
        assert_eq!(left(), 6);
        let large = std::thread::scope(|scope| {
            let large = scope.spawn(|| Budget::take(&budget, 1000));
            drop(small);
            large.join().unwrap()
        });
        assert_eq!(left(), 0);
        drop(large);
        assert_eq!(left(), 10);
    }
}
