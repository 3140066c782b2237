//! The tree over blocks of columns: QR of a tall matrix whose rows the ranks hold, and its explicit Q.
//!
//! The matrix, here of n columns, is the transpose of what `wide` factors, or a few images of that. A leaf is a
//! block of its rows. R goes up the tree; coefficients of Q come down it from the root to the leaves.

use std::collections::{BTreeMap, VecDeque};

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::PcaError;
use super::exchange::Exchange;
use super::leaf::{pack, unpack};
use super::tree::{Merge, Plan, Step, take};
use super::verify_factor::add_products;
use crate::linalg::{LinalgError, Scalar, by_columns, qr, zeros};

/// The factorisations that this rank made, kept for the way back.
pub(super) struct Tree<T> {
    leaves: BTreeMap<usize, qr::Factored<T>>,
    merges: BTreeMap<usize, qr::Merged<T>>,
}

impl<T: Scalar> Tree<T> {
    /// The leaves of this rank, of which each has at least n rows.
    pub fn new(leaves: BTreeMap<usize, qr::Factored<T>>) -> Self {
        Tree {
            leaves,
            merges: BTreeMap::new(),
        }
    }

    /// Up the tree; the rank of the root gets R, `[n, n]`.
    pub fn reduce(
        &mut self,
        comm: &impl Exchange,
        plan: &Plan,
        n: usize,
    ) -> Result<Option<Array2<T>>, PcaError> {
        let me = comm.rank();
        let mut triangles: BTreeMap<usize, Array2<T>> = BTreeMap::new();
        for step in &plan.steps {
            match *step {
                Step::Factor { leaf, rank } if rank == me => {
                    triangles.insert(leaf, self.leaves[&leaf].r());
                }
                Step::Merge {
                    merge: Merge { node, left, right },
                    at,
                    from,
                } if at == me => {
                    let top = take(&mut triangles, left);
                    let bottom = if from == me {
                        take(&mut triangles, right)
                    } else {
                        unpack(&comm.receive::<T>(from), n, n)
                    };
                    let (r, merged) = qr::Merged::new(top, &zeros(0, n), &bottom)?;
                    triangles.insert(node, r);
                    self.merges.insert(node, merged);
                }
                Step::Merge { merge, at, from } if from == me => {
                    comm.send(&pack(&take(&mut triangles, merge.right)), at);
                }
                Step::Read { .. }
                | Step::Move { .. }
                | Step::Factor { .. }
                | Step::Merge { .. } => {}
            }
        }
        Ok(triangles.pop_first().map(|(_, root)| root))
    }

    /// Down the tree from `start`, `[n, k]`, which the rank of the root gives; every leaf gets its rows of Q times
    /// that, `[rows, k]`.
    pub fn back(
        mut self,
        comm: &impl Exchange,
        plan: &Plan,
        start: Option<Array2<T>>,
        (n, k): (usize, usize),
    ) -> Result<BTreeMap<usize, Array2<T>>, PcaError> {
        let merges = &mut self.merges;
        let coefficients = down(comm, plan, start, (n, k), |node, c| {
            take(merges, node).apply(c)
        })?;
        let leaves = self.leaves.into_par_iter();
        let vectors =
            leaves.map(|(leaf, factored)| Ok((leaf, factored.apply(&coefficients[&leaf])?)));
        vectors.collect()
    }

    /// Q^T Q of this rank's rows of Q, `[n, n]`, of which the upper triangle counts: Q applied to all n unit
    /// vectors, one leaf at a time.
    pub fn products_of_q(
        &self,
        comm: &impl Exchange,
        plan: &Plan,
        n: usize,
    ) -> Result<Array2<f64>, PcaError> {
        let start = (comm.rank() == plan.root_rank).then(|| by_columns(Array2::eye(n).view()));
        let mut coefficients = down(comm, plan, start, (n, n), |node, c| {
            self.merges[&node].apply(c)
        })?;
        let mut sum = Array2::zeros((n, n));
        for (leaf, factored) in &self.leaves {
            let q = factored.apply(&take(&mut coefficients, *leaf))?;
            add_widened(&q, &mut sum);
        }
        Ok(sum)
    }
}

/// Coefficients on their way down the tree, from `start` at the root, `[n, k]`, to the leaves of this rank; `apply`
/// gives the coefficients of both children of a node of this rank.
fn down<T: Scalar>(
    comm: &impl Exchange,
    plan: &Plan,
    start: Option<Array2<T>>,
    (n, k): (usize, usize),
    mut apply: impl FnMut(usize, &Array2<T>) -> Result<(Array2<T>, Array2<T>), LinalgError>,
) -> Result<BTreeMap<usize, Array2<T>>, PcaError> {
    let me = comm.rank();
    let root = plan.leaves.len() + plan.merges.len() - 1;
    let mut coefficients: BTreeMap<usize, Array2<T>> =
        start.into_iter().map(|start| (root, start)).collect();
    for step in plan.steps.iter().rev() {
        let Step::Merge {
            merge: Merge { node, left, right },
            at,
            from,
        } = *step
        else {
            continue;
        };
        if at == me {
            let (above, below) = apply(node, &take(&mut coefficients, node))?;
            coefficients.insert(left, above);
            if from == me {
                coefficients.insert(right, below);
            } else {
                comm.send(&by_rows(&below), from);
            }
        } else if from == me {
            let below = Array2::from_shape_vec((n, k), comm.receive(at));
            coefficients.insert(right, below.expect("coefficients arrive whole"));
        }
    }
    Ok(coefficients)
}

/// The sum of matrices over all leaves, `[rows, columns]`, at the root of the tree: those of this rank by `leaf`, as
/// many at a time as there are threads. A matrix travels as what `to_numbers` makes of it.
pub(super) fn sum(
    comm: &impl Exchange,
    plan: &Plan,
    leaf: impl Fn(usize) -> Result<Array2<f64>, PcaError> + Sync,
    to_numbers: impl Fn(&Array2<f64>) -> Vec<f64>,
    from_numbers: impl Fn(Vec<f64>) -> Array2<f64>,
) -> Result<Option<Array2<f64>>, PcaError> {
    let me = comm.rank();
    let factors = plan.steps.iter().filter_map(|step| match *step {
        Step::Factor { leaf, rank } if rank == me => Some(leaf),
        _ => None,
    });
    let mut waiting: VecDeque<usize> = factors.collect();
    let mut sums: BTreeMap<usize, Array2<f64>> = BTreeMap::new();
    for step in &plan.steps {
        match *step {
            Step::Factor { leaf: next, rank } if rank == me && !sums.contains_key(&next) => {
                let count = rayon::current_num_threads().clamp(1, waiting.len());
                let next: Vec<usize> = waiting.drain(..count).collect();
                let made = next.into_par_iter().map(|at| Ok((at, leaf(at)?)));
                sums.extend(made.collect::<Result<Vec<_>, PcaError>>()?);
            }
            Step::Merge {
                merge: Merge { node, left, right },
                at,
                from,
            } if at == me => {
                let mut sum = take(&mut sums, left);
                sum += &if from == me {
                    take(&mut sums, right)
                } else {
                    from_numbers(comm.receive::<f64>(from))
                };
                sums.insert(node, sum);
            }
            Step::Merge { merge, at, from } if from == me => {
                comm.send(&to_numbers(&take(&mut sums, merge.right)), at);
            }
            Step::Read { .. } | Step::Move { .. } | Step::Factor { .. } | Step::Merge { .. } => {}
        }
    }
    Ok(sums.pop_first().map(|(_, root)| root))
}

/// Adds `a^T a` for a `[any, n]`, of which a part at a time is in f64.
pub(super) fn add_widened<T: Scalar>(a: &Array2<T>, sum: &mut Array2<f64>) {
    const ROWS: usize = 1024;
    for part in a.axis_chunks_iter(Axis(0), ROWS) {
        add_products(1.0, part.mapv(|x| x.as_f64()).view(), sum.view_mut());
    }
}

fn by_rows<T: Scalar>(matrix: &Array2<T>) -> Vec<T> {
    matrix.iter().copied().collect()
}
