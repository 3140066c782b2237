//! N >= d: R of all rows by the tree over blocks of rows, then the SVD of R on one rank.
//!
//! A rank holds O(d^2 + block) numbers, however many rows there are. A merge between two ranks
//! costs one message of d^2 / 2 + 2 d numbers.

use std::collections::BTreeMap;

use ndarray::{Array2, s};

use super::PcaError;
use super::exchange::Exchange;
use super::fit::{PcaSettings, Rows, Solution, Spectrum, broadcast_components};
use super::leaf::Node;
use super::tree::{Plan, Step, take};
use crate::linalg::{norms, sign, svd, zeros};

/// Leaves have at least this many rows for each column. The height of a leaf does not change the
/// count of operations, 2 d^2 a row with its share of the merges; at 2 most of them run in the QR of
/// the leaf, which is faster than the merge, and a leaf is no larger than two nodes.
const ROWS_PER_COLUMN: usize = 2;

/// Solves by the tree over rows. Correct for N < d too, with R of N rows on one rank.
pub(super) fn solve(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Array2<f64>, PcaError>,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let enough = ROWS_PER_COLUMN * rows.width;
    let plan = Plan::new(rows.rows_per_block, rows.owner_of_block, enough);
    let root = reduce(comm, &plan, rows, read)?;
    let decomposed = root
        .map(|node| decompose(node, settings.standardize))
        .transpose()?;
    share(comm, plan.root_rank, decomposed, rows, settings)
}

/// Walks the plan; the rank of the root gets the node of all rows.
fn reduce(
    comm: &impl Exchange,
    plan: &Plan,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Array2<f64>, PcaError>,
) -> Result<Option<Node>, PcaError> {
    let me = comm.rank();
    let mut blocks: BTreeMap<usize, Array2<f64>> = BTreeMap::new();
    let mut nodes: BTreeMap<usize, Node> = BTreeMap::new();
    for step in &plan.steps {
        match *step {
            Step::Read { block, rank } if rank == me => {
                blocks.insert(block, read(block)?);
            }
            Step::Move { block, from, to } if from == me => {
                let features = take(&mut blocks, block);
                comm.send(&features.iter().copied().collect::<Vec<_>>(), to);
            }
            Step::Move { block, from, to } if to == me => {
                let shape = (rows.rows_per_block[block], rows.width);
                let features = Array2::from_shape_vec(shape, comm.receive(from));
                blocks.insert(block, features.expect("a block arrives with all its rows"));
            }
            Step::Factor { leaf, rank } if rank == me => {
                let run = plan.leaves[leaf].blocks.clone();
                let mut gathered = zeros(rows.rows_per_block[run.clone()].iter().sum(), rows.width);
                let mut filled = 0;
                for block in run {
                    let features = take(&mut blocks, block);
                    let end = filled + features.nrows();
                    gathered.slice_mut(s![filled..end, ..]).assign(&features);
                    filled = end;
                }
                nodes.insert(leaf, Node::from_rows(gathered)?);
            }
            Step::Merge { merge, at, from } if at == me => {
                let left = take(&mut nodes, merge.left);
                let right = if from == me {
                    take(&mut nodes, merge.right)
                } else {
                    Node::from_message(&comm.receive(from))
                };
                nodes.insert(merge.node, left.merge(right)?);
            }
            Step::Merge { merge, at, from } if from == me => {
                comm.send(&take(&mut nodes, merge.right).to_message(), at);
            }
            Step::Read { .. } | Step::Move { .. } | Step::Factor { .. } | Step::Merge { .. } => {}
        }
    }
    Ok(nodes.pop_first().map(|(_, root)| root))
}

/// The decomposition of all rows, on the rank of the root.
struct Decomposed {
    mean: Vec<f64>,
    scale: Vec<f64>,
    spectrum: Spectrum,
    /// Right singular vectors as rows, `[min(n, d), d]`.
    vt: Array2<f64>,
}

/// The SVD of R, after its columns are divided by their standard deviations where asked: with
/// X = QR, the SVD of X D is that of R D with Q in front.
fn decompose(node: Node, standardize: bool) -> Result<Decomposed, PcaError> {
    let Node { rows, mean, mut r } = node;
    let scale = if standardize {
        standard_deviations(norms::of_columns(r.view()), rows as usize)
    } else {
        vec![1.0; r.ncols()]
    };
    if scale.iter().any(|s| !s.is_finite()) {
        return Err(PcaError::Overflow);
    }
    for (mut column, scale) in r.columns_mut().into_iter().zip(&scale) {
        // A column of scale 0 is all zeros already.
        if *scale > 0.0 {
            column /= *scale;
        }
    }
    let norm = norms::frobenius(&r);
    if !norm.is_finite() {
        return Err(PcaError::Overflow);
    }
    let svd::Svd { values, vt, .. } = svd::svd(r)?;
    Ok(Decomposed {
        mean: mean.value(),
        scale,
        spectrum: Spectrum { values, norm },
        vt,
    })
}

/// The sample standard deviations (divisor n - 1) of columns whose deviations have these norms; 0
/// for a single row.
pub(super) fn standard_deviations(norms: Vec<f64>, n: usize) -> Vec<f64> {
    let root = ((n.max(2) - 1) as f64).sqrt();
    norms.into_iter().map(|norm| norm / root).collect()
}

/// Gives every rank what the root found.
fn share(
    comm: &impl Exchange,
    root: usize,
    decomposed: Option<Decomposed>,
    rows: &Rows,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let (mut mean, mut scale, mut message, vt) = match decomposed {
        Some(Decomposed {
            mean,
            scale,
            spectrum,
            vt,
        }) => (mean, scale, spectrum.to_message(), Some(vt)),
        None => (Vec::new(), Vec::new(), Vec::new(), None),
    };
    comm.broadcast(&mut mean, root);
    comm.broadcast(&mut scale, root);
    comm.broadcast(&mut message, root);
    let spectrum = Spectrum::from_message(&message);
    let choice = spectrum.choose(settings.components, rows.total(), rows.width);
    let leading = vt.map(|vt| {
        let mut components = vt.slice(s![..choice.k, ..]).to_owned();
        sign::fix(&mut components);
        components
    });
    let components = broadcast_components(comm, leading, (choice.k, rows.width), root);
    Ok(Solution {
        mean,
        scale,
        components,
        spectrum,
        choice,
    })
}
