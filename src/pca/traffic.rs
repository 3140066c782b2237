//! How many bytes the ranks send each other for a factorisation: counted, and as it should be.

use std::cell::Cell;

use super::evidence::Route;
use super::exchange::Exchange;
use super::fit::{Precision, Rows};
use super::gram::Gram;
use super::leaf::{Node, TreeNode};
use super::solver::Solver;
use super::tree::{Plan, Step};
use super::{evidence, passes, randomized, tsqr, wide};
use crate::linalg::Scalar;

/// A communicator that counts what this rank sends to one other rank at a time. What all ranks get
/// alike, the model and vectors on the way to it, is not counted.
pub struct Counted<'a, C> {
    comm: &'a C,
    sent: Cell<u64>,
}

impl<'a, C: Exchange> Counted<'a, C> {
    /// Counts from zero.
    pub fn new(comm: &'a C) -> Self {
        Counted {
            comm,
            sent: Cell::new(0),
        }
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }
}

impl<C: Exchange> Exchange for Counted<'_, C> {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn size(&self) -> usize {
        self.comm.size()
    }

    fn send_bytes(&self, message: &[u8], to: usize) {
        self.sent.set(self.sent.get() + message.len() as u64);
        self.comm.send_bytes(message, to);
    }

    fn receive_bytes(&self, from: usize) -> Vec<u8> {
        self.comm.receive_bytes(from)
    }

    fn broadcast_bytes(&self, message: &mut Vec<u8>, root: usize) {
        self.comm.broadcast_bytes(message, root);
    }
}

/// The bytes that each of `ranks` ranks sends for the factorisation, before the model is shared, by
/// the schedule alone. `k` components are kept of rows whose numbers came in `feature_bytes` bytes.
///
/// With `tsqr` they are the rows of leaves that cross the boundary between two ranks, which is at
/// most one leaf for each rank, and d^2 / 2 numbers for each node that travels, at most one a rank
/// and level of the tree; that once for the products of columns and once for a QR, as the route says, and
/// d k numbers and at most max(512, 4 l) l for each node of the pass between them, for l = k + 2. With `wide` they are the columns of other ranks, twice the nodes
/// that travel (R up, n^2 / 2 numbers, coefficients down, n k) and the components of the own columns; with
/// every k go two random directions for the certificate, and down also n unit vectors where the exact
/// checks need Q. Where the products of rows come first, those are n^2 / 2 numbers up, and the pass over the columns is
/// n k + l (l + 1) / 2 up and, where it confirms them, l^2 down, for l = k + 2; confirmed, they take the place of R and its
/// coefficients. With `randomized` they are d l numbers and at most max(512, 4 l) l for each node that
/// travels and pass over the rows, for l = k + 10 directions; `k` is then the number that was asked for.
pub fn predicted_bytes(
    (solver, route): (Solver, Route),
    precision: Precision,
    rows: &Rows,
    (ranks, k, feature_bytes): (usize, usize, usize),
) -> Vec<u64> {
    let mut sent = vec![0; ranks];
    match solver {
        Solver::Wide => {
            let (n, d) = (rows.total(), rows.width);
            let (columns, plan) = wide::plan(n, d, ranks);
            let k = k + evidence::PROBES;
            let back = k + if route.whole_q { n } else { 0 };
            let mut width_of = vec![0; ranks];
            for leaf in &plan.leaves {
                let width: usize = columns[leaf.blocks.clone()].iter().map(|c| c.len()).sum();
                width_of[leaf.owner] += width;
                if leaf.owner != plan.root_rank {
                    sent[leaf.owner] += (f64::BYTES * width * (2 + k)) as u64;
                }
            }
            for (block, &count) in rows.rows_per_block.iter().enumerate() {
                let from = rows.owner_of_block[block];
                for (to, &width) in width_of.iter().enumerate() {
                    if to != from && width > 0 {
                        sent[from] += message_of_rows(count * width, feature_bytes);
                    }
                }
            }
            let triangle = |order: usize| order * (order + 1) / 2;
            let images = route.directions + evidence::PROBES;
            for step in &plan.steps {
                let Step::Merge { at, from, .. } = *step else {
                    continue;
                };
                if at == from {
                    continue;
                }
                let mut add = |rank: usize, numbers: usize, bytes: usize| {
                    sent[rank] += (numbers * bytes) as u64;
                };
                if route.products {
                    add(from, triangle(n), f64::BYTES);
                }
                if route.directions > 0 {
                    add(from, n * route.directions + triangle(images), f64::BYTES);
                }
                if route.factor {
                    add(from, triangle(n), precision.bytes());
                    add(at, n * back, precision.bytes());
                } else {
                    add(at, images * images, f64::BYTES);
                }
            }
        }
        Solver::Auto | Solver::Tsqr => {
            let whole = Node::<f64>::message_bytes(rows.width, rows.width);
            if route.products {
                add_tree::<Gram<f64>>(&mut sent, rows, feature_bytes, |_| whole);
            }
            if route.directions > 0 {
                let directions = (route.directions + evidence::PROBES, route.directions);
                passes::add_bytes(&mut sent, rows, &[directions], 0);
            }
            let shape = (rows.total(), rows.width);
            if route.factor {
                match precision {
                    _ if tsqr::by_products(precision, shape) => {
                        add_tree::<Gram<f64>>(&mut sent, rows, feature_bytes, |_| whole);
                    }
                    Precision::F32 => {
                        let bytes = |height| Node::<f32>::message_bytes(height, rows.width);
                        add_tree::<Node<f32>>(&mut sent, rows, feature_bytes, bytes);
                    }
                    Precision::F64 => {
                        let bytes = |height| Node::<f64>::message_bytes(height, rows.width);
                        add_tree::<Node<f64>>(&mut sent, rows, feature_bytes, bytes);
                    }
                }
            }
        }
        Solver::Randomized => randomized::add_bytes(&mut sent, rows, k),
    }
    sent
}

/// Adds what a walk over the tree of `tsqr` sends, with nodes whose message takes so many bytes for an R of
/// that height.
fn add_tree<N: TreeNode>(
    sent: &mut [u64],
    rows: &Rows,
    feature_bytes: usize,
    message_bytes: impl Fn(usize) -> u64,
) {
    let plan = tsqr::plan::<N>(rows);
    let heights = heights(&plan, rows);
    for step in &plan.steps {
        match *step {
            Step::Move { block, from, .. } => {
                let numbers = rows.rows_per_block[block] * rows.width;
                sent[from] += message_of_rows(numbers, feature_bytes);
            }
            Step::Merge { merge, at, from } if at != from => {
                sent[from] += message_bytes(heights[merge.right].min(rows.width));
            }
            Step::Read { .. } | Step::Factor { .. } | Step::Merge { .. } => {}
        }
    }
}

/// Rows travel as they came, after one byte that says how.
fn message_of_rows(numbers: usize, feature_bytes: usize) -> u64 {
    (1 + numbers * feature_bytes) as u64
}

/// How many rows each node has.
fn heights(plan: &Plan, rows: &Rows) -> Vec<usize> {
    let mut heights: Vec<usize> = plan
        .leaves
        .iter()
        .map(|leaf| rows.rows_per_block[leaf.blocks.clone()].iter().sum())
        .collect();
    for merge in &plan.merges {
        // A merged R is a whole triangle, zeros included.
        let whole = heights[merge.left] + heights[merge.right];
        heights.push(whole.max(rows.width));
    }
    heights
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;
    use crate::linalg::hostile;
    use crate::pca::exchange::threads;
    use crate::pca::tree::even_runs;
    use crate::pca::{Block, Components, PcaSettings, fit};

    #[test]
    fn what_is_sent_is_what_the_schedule_says() {
        for (n, d, size) in [
            (200, 12, 7),
            (90, 40, 4),
            (40, 40, 3),
            (5, 900, 2),
            (30, 600, 4),
        ] {
            let x = hostile::uniform(n, d, 8);
            let rows: Vec<usize> = (0..n).step_by(size).map(|i| size.min(n - i)).collect();
            let precisions = [
                (Solver::Auto, Precision::F32, false),
                (Solver::Auto, Precision::F64, false),
                (Solver::Auto, Precision::F64, true),
                (Solver::Randomized, Precision::F64, false),
            ];
            for ((solver, precision, keep_factor), ranks) in precisions
                .into_iter()
                .flat_map(|p| [1, 2, 3, 4, 5, 7].map(|ranks| (p, ranks)))
            {
                let owner = even_runs(rows.len(), ranks);
                let layout = Rows {
                    rows_per_block: &rows,
                    owner_of_block: &owner,
                    width: d,
                };
                let settings = PcaSettings {
                    components: Components::Count(3),
                    standardize: true,
                    whiten: false,
                    solver,
                    precision,
                    memory: None,
                    keep_factor,
                };
                let counts = threads::on_ranks(ranks, |rank| {
                    let counted = Counted::new(rank);
                    let mut read = |block: usize| {
                        let part = x.slice(s![block * size..block * size + rows[block], ..]);
                        Ok(Block::from(part.mapv(|x| x as f32)))
                    };
                    let model = fit(&counted, &layout, &mut read, &settings).unwrap();
                    let way = (model.solver, model.evidence.route);
                    (way, model.k(), counted.sent())
                });
                let (way, k, _) = counts[0];
                let shape = (ranks, k, f32::BYTES);
                let predicted = predicted_bytes(way, precision, &layout, shape);
                let sent: Vec<u64> = counts.iter().map(|(_, _, sent)| *sent).collect();
                assert_eq!(sent, predicted, "{n} x {d} on {ranks} ranks");
                assert_eq!(sent.iter().sum::<u64>() == 0, ranks == 1);
            }
        }
    }
}
