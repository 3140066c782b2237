//! Talking between ranks, in the verbs that p8 needs.
//!
//! [`mpi`] is the one file that names the MPI bindings. Everything above it is built from two
//! primitives, sending bytes and receiving bytes, along binomial trees, and a waiting rank sleeps
//! instead of spinning: ranks often share cores here, and a rank that waits for a slow one must not
//! take time from it.
//!
//! MPI is called from the main thread only.

pub mod chunks;
pub mod failure;
pub mod hosts;
pub mod mpi;

use crate::error::{Failure, Kind};
pub use mpi::Comm;

impl Comm {
    /// Sends `data` to rank `to`; any length.
    pub fn send_f64(&self, data: &[f64], to: usize) {
        let mut bytes = Vec::with_capacity(data.len() * 8);
        for value in data {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        self.send_bytes(&bytes, to);
    }

    /// Receives what rank `from` sent with [`Comm::send_f64`].
    pub fn receive_f64(&self, from: usize) -> Vec<f64> {
        f64_from_bytes(&self.receive_bytes(from))
    }

    /// Gives every rank the bytes that `root` holds.
    pub fn broadcast_bytes(&self, data: &mut Vec<u8>, root: usize) {
        let tree = BinomialTree::new(self.rank(), self.size(), root);
        if let Some(parent) = tree.parent {
            *data = self.receive_bytes(parent);
        }
        for child in tree.children {
            self.send_bytes(data, child);
        }
    }

    /// Gives every rank the numbers that `root` holds.
    pub fn broadcast_f64(&self, data: &mut Vec<f64>, root: usize) {
        let mut bytes = Vec::new();
        if self.rank() == root {
            bytes.reserve(data.len() * 8);
            for value in data.iter() {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.broadcast_bytes(&mut bytes, root);
        if self.rank() != root {
            *data = f64_from_bytes(&bytes);
        }
    }

    /// Collects one byte string from every rank at rank 0, in rank order; `None` elsewhere.
    pub fn gather_bytes(&self, mine: &[u8]) -> Option<Vec<Vec<u8>>> {
        let tree = BinomialTree::new(self.rank(), self.size(), 0);
        let mut parts = vec![(self.rank(), mine.to_vec())];
        for child in tree.children.iter().rev() {
            parts.extend(unpack(&self.receive_bytes(*child)));
        }
        match tree.parent {
            Some(parent) => {
                self.send_bytes(&pack(&parts), parent);
                None
            }
            None => {
                parts.sort_by_key(|(rank, _)| *rank);
                Some(parts.into_iter().map(|(_, bytes)| bytes).collect())
            }
        }
    }

    /// Collects one byte string from every rank at every rank, in rank order.
    pub fn all_gather_bytes(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        let mut packed = match self.gather_bytes(mine) {
            Some(parts) => pack(&parts.into_iter().enumerate().collect::<Vec<_>>()),
            None => Vec::new(),
        };
        self.broadcast_bytes(&mut packed, 0);
        unpack(&packed)
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect()
    }

    /// Collects the numbers of every rank at every rank, in rank order; lengths may differ.
    pub fn all_gather_u64(&self, mine: &[u64]) -> Vec<Vec<u64>> {
        let bytes: Vec<u8> = mine.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.all_gather_bytes(&bytes)
            .iter()
            .map(|part| {
                part.chunks_exact(8)
                    .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
                    .collect()
            })
            .collect()
    }

    /// Collects the numbers of every rank at every rank, in rank order; lengths may differ.
    pub fn all_gather_f64(&self, mine: &[f64]) -> Vec<Vec<f64>> {
        let bytes: Vec<u8> = mine.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.all_gather_bytes(&bytes)
            .iter()
            .map(|part| f64_from_bytes(part))
            .collect()
    }

    /// Waits until every rank has come here.
    pub fn barrier(&self) {
        self.all_gather_bytes(&[]);
    }

    /// Ends a stage together: `Ok` where every rank has `Ok`, else the failure of the lowest failing
    /// rank on every rank, with the number of ranks that failed.
    pub fn agree<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        let mine = match &result {
            Ok(_) => Vec::new(),
            Err(failure) => {
                let mut bytes = vec![failure.kind.exit_code()];
                bytes.extend_from_slice(failure.text.as_bytes());
                bytes
            }
        };
        let all = self.all_gather_bytes(&mine);
        lowest_failure(&all).map_or(result, Err)
    }

    /// The value, or the end of the job on every rank: for failures inside a stage, which other
    /// ranks cannot know of.
    pub fn or_end<T>(&self, result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|failure| failure::end_all(self.rank(), self.size(), &failure))
    }
}

/// The failure that all ranks report, from one byte string a rank: empty, or exit code and text.
fn lowest_failure(all: &[Vec<u8>]) -> Option<Failure> {
    let failed: Vec<usize> = (0..all.len()).filter(|&r| !all[r].is_empty()).collect();
    let first = *failed.first()?;
    let kind = Kind::from_exit_code(all[first][0]).unwrap_or(Kind::Internal);
    let mut text = String::from_utf8_lossy(&all[first][1..]).into_owned();
    if all.len() > 1 && failed.len() < all.len() {
        let others = match failed.len() {
            1 => String::new(),
            n => format!(" and {} other ranks", n - 1),
        };
        text = format!("rank {first}{others}: {text}");
    }
    Some(Failure::new(kind, text))
}

fn f64_from_bytes(bytes: &[u8]) -> Vec<f64> {
    bytes
        .chunks_exact(8)
        .map(|word| f64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}

/// Rank, length, bytes; one after another.
fn pack(parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(parts.iter().map(|(_, b)| b.len() + 16).sum());
    for (rank, bytes) in parts {
        packed.extend_from_slice(&(*rank as u64).to_le_bytes());
        packed.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        packed.extend_from_slice(bytes);
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut parts = Vec::new();
    while packed.len() >= 16 {
        let word = |at: usize| {
            u64::from_le_bytes(packed[at..at + 8].try_into().expect("eight bytes")) as usize
        };
        let (rank, length) = (word(0), word(8));
        parts.push((rank, packed[16..16 + length].to_vec()));
        packed = &packed[16 + length..];
    }
    parts
}

/// Where a rank stands in the binomial tree rooted at `root`.
///
/// With `v = (rank - root) mod size`, the parent of `v` is `v` without its lowest set bit, and its
/// children are `v + 2^i` for every `2^i` below that bit.
#[derive(Debug, PartialEq, Eq)]
struct BinomialTree {
    parent: Option<usize>,
    /// Largest subtree first, so that a broadcast takes log2(size) steps.
    children: Vec<usize>,
}

impl BinomialTree {
    fn new(rank: usize, size: usize, root: usize) -> Self {
        let v = (rank + size - root) % size;
        let lowest = if v == 0 {
            size.next_power_of_two()
        } else {
            v & v.wrapping_neg()
        };
        let parent = (v != 0).then(|| ((v - lowest) + root) % size);
        let mut children = Vec::new();
        let mut step = lowest >> 1;
        while step > 0 {
            if v + step < size {
                children.push((v + step + root) % size);
            }
            step >>= 1;
        }
        BinomialTree { parent, children }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binomial_tree_reaches_every_rank_once() {
        for size in 1..40 {
            for root in 0..size {
                let mut parents = vec![None; size];
                for rank in 0..size {
                    let tree = BinomialTree::new(rank, size, root);
                    assert_eq!(tree.parent.is_none(), rank == root);
                    for child in tree.children {
                        assert_eq!(parents[child], None, "reached twice");
                        parents[child] = Some(rank);
                    }
                }
                for (rank, parent) in parents.into_iter().enumerate() {
                    let tree = BinomialTree::new(rank, size, root);
                    assert_eq!(tree.parent, parent, "size {size} root {root}");
                }
            }
        }
    }

    #[test]
    fn packed_parts_come_back() {
        let parts = vec![(3, vec![1, 2, 3]), (0, vec![]), (7, vec![9])];
        assert_eq!(unpack(&pack(&parts)), parts);
    }

    #[test]
    fn the_lowest_failing_rank_speaks_for_all() {
        let fail = |kind: Kind, text: &str| {
            let mut bytes = vec![kind.exit_code()];
            bytes.extend_from_slice(text.as_bytes());
            bytes
        };
        assert_eq!(lowest_failure(&[vec![], vec![]]), None);
        let all = [
            vec![],
            fail(Kind::Io, "disk full"),
            fail(Kind::Input, "nothing"),
        ];
        assert_eq!(
            lowest_failure(&all),
            Some(Failure::new(
                Kind::Io,
                "rank 1 and 1 other ranks: disk full"
            ))
        );
        let everyone = [fail(Kind::Usage, "no"), fail(Kind::Usage, "no")];
        assert_eq!(
            lowest_failure(&everyone),
            Some(Failure::new(Kind::Usage, "no"))
        );
    }
}
