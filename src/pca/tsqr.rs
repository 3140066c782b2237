//! N >= d: R of all rows by the tree over blocks of rows, then the SVD of R on one rank; before that, where few
//! components are wanted, what the products of the columns say (`products`).
//!
//! A rank holds O(d^2 + block) numbers for each of its threads, however many rows there are. A merge
//! between two ranks costs one message of d^2 / 2 numbers and little more ([`Node::message_bytes`]).
//!
//! The main thread walks the plan: it reads, sends and receives. What it finds ready to be computed
//! goes to the pool, several leaves at once, so that reading goes on beside the arithmetic.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::PcaError;
use super::block::{Block, NumberedBlock};
use super::decompose::{self, decompose};
use super::evidence::{self, Evidence, KeptFactor, Route};
use super::exchange::Exchange;
use super::fit::{
    PcaSettings, Precision, Read, Rows, Solution, broadcast_components, check_finite, check_rows,
    read_shaped,
};
use super::gram::Gram;
use super::leaf::{Node, TreeNode};
use super::products::{self, Tried};
use super::spectrum::Spectrum;
use super::tasks::Tasks;
use super::tree::{Merge, Plan, Step, take};
use crate::linalg::partial_svd::Side;
use crate::linalg::{norms, sign};

/// Leaves that are factored side by side, and their nodes, take no more than this together, unless it is one
/// alone: its own tiles keep the threads busy where leaves are large.
const BYTES_AT_ONCE: usize = 1 << 31;

/// How many leaves of n rows of d columns are made nodes at once by `threads` threads.
pub(super) fn leaves_at_once<N: TreeNode>((n, d): (usize, usize), threads: usize) -> usize {
    let leaf = N::leaf_bytes((N::leaf_rows((n, d)), d));
    (BYTES_AT_ONCE / leaf.max(1)).clamp(1, threads.max(1))
}

/// The plan that makes nodes of these rows.
pub(super) fn plan<N: TreeNode>(rows: &Rows) -> Plan {
    let enough = N::leaf_rows((rows.total(), rows.width));
    Plan::new(rows.rows_per_block, rows.owner_of_block, enough)
}

/// Whether the nodes of n rows of d columns hold products ([`Gram`]) in the place of R factors. Of fewer rows
/// than columns R is the smaller one.
pub(super) fn by_products(precision: Precision, (n, d): (usize, usize)) -> bool {
    precision == Precision::F32 && n >= d
}

/// Solves by the tree over rows. Correct for N < d too, with R of N rows on one rank.
pub(super) fn solve(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let mut route = Route::FACTOR;
    let mut refused = None;
    if products::are_worth_trying(settings, rows) {
        match products::solve(comm, rows, read, settings)? {
            Tried::Confirmed(solution) => return Ok(*solution),
            Tried::Refused(tried, reason) => {
                route = tried.and_factor();
                refused = Some(reason);
            }
        }
    }
    let (root_rank, root) = root(comm, rows, read, settings.precision)?;
    let decomposed = root
        .map(|node| solve_node(node, settings, rows, root_rank))
        .transpose()?;
    let mut solution = share(comm, root_rank, decomposed, rows, settings)?;
    solution.evidence.route = route;
    solution.refused = refused;
    Ok(solution)
}

/// R of the rows of all ranks minus their mean, upper trapezoidal, stored by columns, on the rank at the root
/// of the tree; `None` on the others. This is what [`fit()`](super::fit()) with [`Solver::Tsqr`](super::Solver::Tsqr)
/// does before it looks for singular values, and it takes what that takes.
///
/// # Errors
/// As those of [`fit()`](super::fit()).
pub fn r_factor(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut Read,
    precision: Precision,
) -> Result<Option<Array2<f64>>, PcaError> {
    check_rows(rows)?;
    let mut read = |block: usize| read_shaped(rows, read, block);
    let (_, root) = root(comm, rows, &mut read, precision)?;
    Ok(root.map(|root| root.r))
}

/// The rank of the root, and on it the node of all rows.
type Root = (usize, Option<Node<f64>>);

/// The node of all rows.
fn root(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    precision: Precision,
) -> Result<Root, PcaError> {
    match precision {
        Precision::F32 if by_products(precision, (rows.total(), rows.width)) => {
            factor::<Gram<f64>>(comm, rows, read)
        }
        Precision::F32 => factor::<Node<f32>>(comm, rows, read),
        Precision::F64 => factor::<Node<f64>>(comm, rows, read),
    }
}

/// The factor of all rows.
fn factor<N: TreeNode>(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
) -> Result<Root, PcaError> {
    let plan = plan::<N>(rows);
    let root = reduce::<N>(comm, &plan, rows, read)?;
    Ok((plan.root_rank, root.map(TreeNode::into_factor).transpose()?))
}

/// Walks the plan; the rank of the root gets the node of all rows.
pub(super) fn reduce<N: TreeNode>(
    comm: &impl Exchange,
    plan: &Plan,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
) -> Result<Option<N>, PcaError> {
    let me = comm.rank();
    let mut blocks: BTreeMap<usize, Block> = BTreeMap::new();
    rayon::in_place_scope_fifo(|scope| {
        let mine = |step: &&Step| matches!(step, Step::Factor { rank, .. } if *rank == me);
        let mut nodes = Nodes::<N>::new(
            scope,
            leaves_at_once::<N>((rows.total(), rows.width), rayon::current_num_threads()),
            plan.steps.iter().filter(mine).count(),
        );
        for step in &plan.steps {
            match *step {
                Step::Read { block, rank } if rank == me => {
                    blocks.insert(block, read(block)?);
                }
                Step::Move { block, from, to } if from == me => {
                    let features = take(&mut blocks, block);
                    check_finite(block, &features)?;
                    comm.send_bytes(&features.to_message(0..rows.width), to);
                }
                Step::Move { block, from, to } if to == me => {
                    let message = comm.receive_bytes(from);
                    blocks.insert(
                        block,
                        Block::from_message(&message, (rows.rows_per_block[block], rows.width)),
                    );
                }
                Step::Factor { leaf, rank } if rank == me => {
                    let run = plan.leaves[leaf].blocks.clone();
                    let run = run.map(|block| (block, take(&mut blocks, block))).collect();
                    nodes.factor(leaf, run, rows.width)?;
                }
                Step::Merge { merge, at, from } if at == me && from == me => nodes.merge(merge)?,
                Step::Merge { merge, at, from } if at == me => {
                    nodes.wait_for(merge.left)?;
                    let right = N::from_message(&comm.receive_bytes(from));
                    nodes.made.insert(merge.right, right);
                    nodes.merge(merge)?;
                }
                Step::Merge { merge, at, from } if from == me => {
                    nodes.wait_for(merge.right)?;
                    let right = take(&mut nodes.made, merge.right);
                    comm.send_bytes(&right.to_message(), at);
                }
                Step::Read { .. }
                | Step::Move { .. }
                | Step::Factor { .. }
                | Step::Merge { .. } => {}
            }
        }
        while nodes.tasks.running() > 0 {
            nodes.wait()?;
        }
        Ok(nodes.made.pop_first().map(|(_, root)| root))
    })
}

/// What a task of the pool hands back: the node it made, whether it is a leaf, and the memory that it
/// no longer needs.
struct Made<N: TreeNode> {
    node: usize,
    is_leaf: bool,
    result: Result<(N, Vec<N::Scalar>), PcaError>,
}

/// The nodes of a rank: those that are made, and the tasks that make more of them.
struct Nodes<'scope, 'env, N: TreeNode> {
    tasks: Tasks<'scope, 'env, Made<N>>,
    made: BTreeMap<usize, N>,
    /// Merges inside this rank whose children are not both made.
    waiting: Vec<Merge>,
    /// Tasks in the pool that factor leaves.
    leaves: usize,
    most_leaves: usize,
    /// Leaves that are yet to be factored.
    leaves_left: usize,
    /// Memory of leaves that are done, for those that come.
    spare: Vec<Vec<N::Scalar>>,
}

impl<'scope, 'env, N: TreeNode> Nodes<'scope, 'env, N> {
    fn new(scope: &'scope rayon::ScopeFifo<'env>, most_leaves: usize, leaves_left: usize) -> Self {
        Nodes {
            tasks: Tasks::new(scope),
            made: BTreeMap::new(),
            waiting: Vec::new(),
            leaves: 0,
            most_leaves,
            leaves_left,
            spare: Vec::new(),
        }
    }

    /// Factors a leaf in the pool, once there is room for it.
    fn factor(
        &mut self,
        leaf: usize,
        blocks: Vec<NumberedBlock>,
        width: usize,
    ) -> Result<(), PcaError> {
        while self.leaves >= self.most_leaves {
            self.wait()?;
        }
        self.leaves += 1;
        self.leaves_left -= 1;
        let room = self.spare.pop().unwrap_or_default();
        self.spawn(leaf, true, move || N::from_blocks(blocks, width, room));
        Ok(())
    }

    /// Merges two nodes in the pool, once both are made.
    fn merge(&mut self, merge: Merge) -> Result<(), PcaError> {
        self.waiting.push(merge);
        self.start_merges();
        Ok(())
    }

    fn start_merges(&mut self) {
        let made = &self.made;
        let ready =
            |merge: &mut Merge| made.contains_key(&merge.left) && made.contains_key(&merge.right);
        let merges: Vec<Merge> = self.waiting.extract_if(.., ready).collect();
        for Merge { node, left, right } in merges {
            let (left, right) = (take(&mut self.made, left), take(&mut self.made, right));
            let merge = move || Ok((left.merge(right)?, Vec::new()));
            self.spawn(node, false, merge);
        }
    }

    fn spawn(
        &mut self,
        node: usize,
        is_leaf: bool,
        work: impl FnOnce() -> Result<(N, Vec<N::Scalar>), PcaError> + Send + 'static,
    ) {
        self.tasks.spawn(move || Made {
            node,
            is_leaf,
            result: work(),
        });
    }

    /// Waits until one more node is made.
    fn wait(&mut self) -> Result<(), PcaError> {
        let Made {
            node,
            is_leaf,
            result,
        } = self.tasks.next();
        self.leaves -= usize::from(is_leaf);
        let (made, memory) = match result {
            Ok(made) => made,
            Err(error) => return Err(self.tasks.first_error(error, |made| made.result.err())),
        };
        if is_leaf && self.leaves_left > self.spare.len() {
            self.spare.push(memory);
        } else if memory.capacity() > 0 {
            // The system takes its time to take back as much as a leaf.
            rayon::spawn(move || drop(memory));
        }
        self.made.insert(node, made);
        self.start_merges();
        Ok(())
    }

    fn wait_for(&mut self, node: usize) -> Result<(), PcaError> {
        while !self.made.contains_key(&node) {
            self.wait()?;
        }
        Ok(())
    }
}

/// What the rank of the root finds.
struct Solved {
    mean: Vec<f64>,
    scale: Vec<f64>,
    decomposed: decompose::Decomposed,
    evidence: Evidence,
}

/// The SVD of R, after its columns are divided by their standard deviations where asked: with
/// X = QR, the SVD of X D is that of R D with Q in front.
fn solve_node(
    node: Node<f64>,
    settings: &PcaSettings,
    layout: &Rows,
    root: usize,
) -> Result<Solved, PcaError> {
    let Node { rows, mean, mut r } = node;
    let scale = if settings.standardize {
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
    let probes = evidence::of_factor(&r)?;
    // With fewer rows than columns Q is square, and X^T X larger than the rows.
    let factor = (settings.keep_factor && r.is_square()).then(|| KeptFactor {
        root,
        r: Some(r.clone()),
        explicit: None,
    });
    let decomposed = decompose(r, Side::Right, settings, (layout.total(), layout.width))?;
    Ok(Solved {
        mean: mean.value(),
        scale,
        evidence: Evidence {
            probes,
            decomposition: decomposed.residual,
            svd: decomposed.svd.clone(),
            factor,
            ..Evidence::default()
        },
        decomposed,
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
    solved: Option<Solved>,
    rows: &Rows,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let (mut mean, mut scale, mut message, components, evidence) = match solved {
        Some(Solved {
            mean,
            scale,
            decomposed,
            evidence,
        }) => {
            let mut components = decomposed.vectors.t().as_standard_layout().into_owned();
            sign::fix(&mut components);
            let message = decomposed.spectrum.to_message();
            (mean, scale, message, Some(components), evidence)
        }
        None => (
            Vec::new(),
            Vec::new(),
            Vec::new(),
            None,
            Evidence::default(),
        ),
    };
    comm.broadcast(&mut mean, root);
    comm.broadcast(&mut scale, root);
    comm.broadcast(&mut message, root);
    let spectrum = Spectrum::from_message(&message);
    let choice = spectrum.choose(settings, rows.total(), rows.width);
    let components = broadcast_components(comm, components, (choice.k, rows.width), root);
    Ok(Solution {
        mean,
        scale,
        components,
        spectrum,
        choice,
        evidence: evidence.broadcast(comm, root, rows.width),
        refused: None,
    })
}
