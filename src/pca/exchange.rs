//! What the solvers need from a communicator: three verbs.

use crate::comm::Comm;
use crate::linalg::Scalar;

/// A group of ranks that exchange messages. [`Comm`] is the real one; tests put threads in its
/// place, with sends that wait for their receiver, the strictest form that MPI allows.
pub trait Exchange {
    /// This rank, counted from 0.
    fn rank(&self) -> usize;
    /// How many ranks there are.
    fn size(&self) -> usize;
    /// Sends bytes, as many as there are; may wait until `to` receives them.
    fn send_bytes(&self, message: &[u8], to: usize);
    /// Receives what `from` sent next.
    fn receive_bytes(&self, from: usize) -> Vec<u8>;
    /// Gives every rank the bytes of `root`.
    fn broadcast_bytes(&self, message: &mut Vec<u8>, root: usize);

    /// Sends numbers, as many as there are; may wait until `to` receives them.
    fn send<T: Scalar>(&self, data: &[T], to: usize) {
        self.send_bytes(&to_bytes(data), to);
    }

    /// Receives the numbers that `from` sent next.
    fn receive<T: Scalar>(&self, from: usize) -> Vec<T> {
        to_numbers(&self.receive_bytes(from))
    }

    /// Gives every rank the numbers of `root`.
    fn broadcast<T: Scalar>(&self, data: &mut Vec<T>, root: usize) {
        let is_root = self.rank() == root;
        let mut message = if is_root { to_bytes(data) } else { Vec::new() };
        self.broadcast_bytes(&mut message, root);
        if !is_root {
            *data = to_numbers(&message);
        }
    }
}

fn to_bytes<T: Scalar>(numbers: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(numbers.len() * T::BYTES);
    for x in numbers {
        x.write(&mut bytes);
    }
    bytes
}

/// The numbers of a message.
pub(super) fn to_numbers<T: Scalar>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(T::BYTES).map(T::read).collect()
}

impl Exchange for Comm {
    fn rank(&self) -> usize {
        Comm::rank(self)
    }

    fn size(&self) -> usize {
        Comm::size(self)
    }

    fn send_bytes(&self, message: &[u8], to: usize) {
        Comm::send_bytes(self, message, to);
    }

    fn receive_bytes(&self, from: usize) -> Vec<u8> {
        Comm::receive_bytes(self, from)
    }

    fn broadcast_bytes(&self, message: &mut Vec<u8>, root: usize) {
        Comm::broadcast_bytes(self, message, root);
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
        to: Vec<SyncSender<Vec<u8>>>,
        from: Vec<Receiver<Vec<u8>>>,
    }

    impl Exchange for Rank {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.to.len()
        }

        fn send_bytes(&self, message: &[u8], to: usize) {
            assert_ne!(to, self.rank, "a rank sends to itself");
            self.to[to]
                .send(message.to_vec())
                .expect("the receiving rank is alive");
        }

        fn receive_bytes(&self, from: usize) -> Vec<u8> {
            assert_ne!(from, self.rank, "a rank receives from itself");
            self.from[from].recv().expect("the sending rank is alive")
        }

        fn broadcast_bytes(&self, message: &mut Vec<u8>, root: usize) {
            if self.rank == root {
                for to in (0..self.size()).filter(|to| *to != root) {
                    self.send_bytes(message, to);
                }
            } else {
                *message = self.receive_bytes(root);
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
