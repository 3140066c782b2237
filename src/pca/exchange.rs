//! What the solvers need from a communicator: four verbs.

use crate::comm::Comm;

/// A group of ranks that exchange numbers. [`Comm`] is the real one; tests put threads in its
/// place, with sends that wait for their receiver, the strictest form that MPI allows.
pub trait Exchange {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;
    /// How many ranks there are.
    fn size(&self) -> usize;
    /// Sends numbers, as many as there are; may wait until `to` receives them.
    fn send(&self, data: &[f64], to: usize);
    /// Receives what `from` sent next.
    fn receive(&self, from: usize) -> Vec<f64>;
    /// Gives every rank the numbers of `root`.
    fn broadcast(&self, data: &mut Vec<f64>, root: usize);
}

impl Exchange for Comm {
    fn rank(&self) -> usize {
        Comm::rank(self)
    }

    fn size(&self) -> usize {
        Comm::size(self)
    }

    fn send(&self, data: &[f64], to: usize) {
        self.send_f64(data, to);
    }

    fn receive(&self, from: usize) -> Vec<f64> {
        self.receive_f64(from)
    }

    fn broadcast(&self, data: &mut Vec<f64>, root: usize) {
        self.broadcast_f64(data, root);
    }
}

#[cfg(test)]
pub(crate) mod threads {
    //! Ranks as threads of one process.

    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::Exchange;

    /// One rank among threads.
    pub struct Rank {
        rank: usize,
        to: Vec<SyncSender<Vec<f64>>>,
        from: Vec<Receiver<Vec<f64>>>,
    }

    impl Exchange for Rank {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.to.len()
        }

        fn send(&self, data: &[f64], to: usize) {
            assert_ne!(to, self.rank, "a rank sends to itself");
            self.to[to]
                .send(data.to_vec())
                .expect("the receiving rank is alive");
        }

        fn receive(&self, from: usize) -> Vec<f64> {
            assert_ne!(from, self.rank, "a rank receives from itself");
            self.from[from].recv().expect("the sending rank is alive")
        }

        fn broadcast(&self, data: &mut Vec<f64>, root: usize) {
            if self.rank == root {
                for to in (0..self.size()).filter(|to| *to != root) {
                    self.send(data, to);
                }
            } else {
                *data = self.receive(root);
            }
        }
    }

    /// Runs `work` on `size` ranks at once; the results come in rank order.
    pub fn on_ranks<T: Send>(size: usize, work: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
        // A channel without room: a send waits for its receiver.
        let mut senders: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        let mut receivers: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        for from in &mut senders {
            for receiver in &mut receivers {
                let (send, receive) = sync_channel(0);
                from.push(send);
                receiver.push(receive);
            }
        }
        let ranks: Vec<Rank> = senders
            .into_iter()
            .zip(receivers)
            .enumerate()
            .map(|(rank, (to, from))| Rank { rank, to, from })
            .collect();
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|rank| scope.spawn(move || work(&rank)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a rank panicked"))
                .collect()
        })
    }
}
