//! N < d: the columns are spread over the ranks, and the tree runs over blocks of columns.
//!
//! With the centred (and scaled) rows X = `[N, d]` and the QR of the transpose, X^T = Q R, the SVD
//! R = U S W^T gives X^T = (Q U) S W^T: the components are the columns of V = Q U. R is `[N, N]`
//! and comes from the tree of `tree`; V comes from walking the same tree back from the root to the
//! leaves, where every rank finds the rows of V that belong to its own columns.
//!
//! ```text
//! exchange    every rank: all N rows of its own columns          (each rank reads its blocks once)
//! leaf        X_j^T = Q_j R_j            one block of columns, at least 2N wide
//! merge       [R_a; R_b] = Q_ab R_ab     up the tree; R_b travels, N^2 / 2 numbers
//! root        R = U S W^T,  C = U_k
//! back        [C_a; C_b] = Q_ab [C; 0]   down the tree; C_b travels, N k numbers
//! leaf        V_j = Q_j [C_j; 0]         the components' entries for its columns
//! ```
//!
//! Before that, where few components are wanted, `wide_products` tries what the products of the rows say.
//!
//! Where the exact checks need it (`verify_factor`), X X^T is summed before the leaves are factored, and the way back
//! is also walked with all unit vectors.
//!
//! Memory of a rank: its columns, N d / ranks, twice N^2 for each merge it makes, and one block of
//! rows; the components, k d, at the end. No rank gathers the rows, unless 4N > d, where all columns
//! are one leaf, which is then no larger than the matrices of two merges. The exact checks add N^2 for each leaf, one
//! leaf of Q, and three N^2.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::PcaError;
use super::block::{Block, on_rows};
use super::center::subtract_mean;
use super::column_tree::{Tree, add_widened};
use super::decompose::{Decomposed, decompose};
use super::evidence::{self, ColumnSums, Evidence, KeptFactor, Route};
use super::exchange::Exchange;
use super::fit::{PcaSettings, Rows, Solution, broadcast_components, check_finite};
use super::products::Tried;
use super::spectrum::{Choice, Spectrum};
use super::tree::{Plan, even_runs, partner, take};
use super::tsqr::standard_deviations;
use super::wide_products;
use crate::linalg::partial_svd::Side;
use crate::linalg::{Scalar, norms, qr, sign, zeros};

/// A block of columns has at least this many for each row: with more of them a rank would have fewer blocks for
/// its threads, with less the merges would take more of the operations, at a lower rate.
const COLUMNS_PER_ROW: usize = 2;

/// A block of columns has at least this many. For nine rows of 100352 columns that makes 392
/// leaves of 18 kB; narrower ones would spend their time in calls.
const LEAST_COLUMNS: usize = 256;

/// Cuts d columns into blocks whose width depends on n and d alone; the last takes the rest.
fn column_blocks(n: usize, d: usize) -> Vec<Range<usize>> {
    let width = (COLUMNS_PER_ROW * n).max(LEAST_COLUMNS);
    let count = (d / width).max(1);
    (0..count)
        .map(|i| i * width..if i + 1 == count { d } else { (i + 1) * width })
        .collect()
}

/// The blocks of columns, and the plan over them, in which every block is a leaf.
pub(super) fn plan(n: usize, d: usize, ranks: usize) -> (Vec<Range<usize>>, Plan) {
    let columns = column_blocks(n, d);
    let owner = even_runs(columns.len(), ranks);
    let widths: Vec<usize> = columns.iter().map(Range::len).collect();
    let plan = Plan::new(&widths, &owner, 1);
    (columns, plan)
}

/// Solves by the tree over columns; N <= d.
pub(super) fn solve<T: Scalar>(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let (n, d) = (rows.total(), rows.width);
    let (columns, plan) = plan(n, d, comm.size());
    let owner: Vec<usize> = plan.leaves.iter().map(|leaf| leaf.owner).collect();
    let slices = exchange::<T>(comm, rows, read, &columns, &owner)?;
    let centered: BTreeMap<_, _> = slices
        .into_par_iter()
        .map(|(leaf, slice)| Ok((leaf, center(slice, settings.standardize)?)))
        .collect::<Result<_, PcaError>>()?;
    let mut route = Route::FACTOR;
    let mut refused = None;
    if wide_products::are_worth_trying(settings, n) {
        let tree = (&plan, columns.as_slice());
        match wide_products::solve(comm, tree, (&centered, n), settings)? {
            Tried::Confirmed(solution) => return Ok(*solution),
            Tried::Refused(tried, reason) => {
                route = tried.and_factor();
                refused = Some(reason);
            }
        }
    }
    let products = settings
        .keep_factor
        .then(|| sum_of_products(n, centered.iter().map(|(_, (_, slice))| slice)));
    let mut centers = BTreeMap::new();
    let mut leaves = BTreeMap::new();
    let factored: Vec<_> = centered
        .into_par_iter()
        .map(|(leaf, (center, slice))| Ok((leaf, center, qr::Factored::new(slice)?)))
        .collect::<Result<_, PcaError>>()?;
    for (leaf, center, factored) in factored {
        centers.insert(leaf, center);
        leaves.insert(leaf, factored);
    }
    let mut tree = Tree::new(leaves);
    let mut decomposed = tree
        .reduce(comm, &plan, n)?
        .map(|r| {
            let r = Scalar::widened(r);
            let source = evidence::coefficients(n);
            // X Q = R^T: the rows along Q h are as long as R^T h.
            let lengths = norms::of_columns(r.t().dot(&source).view());
            let kept = settings.keep_factor.then(|| r.clone());
            let decomposed = decompose(r, Side::Left, settings, (n, d))?;
            Ok::<_, PcaError>(Root {
                kept,
                decomposed,
                source,
                lengths,
            })
        })
        .transpose()?;
    let factor = match products {
        Some(products) => Some(KeptFactor {
            root: plan.root_rank,
            explicit: Some(ColumnSums {
                products,
                q_products: tree.products_of_q(comm, &plan, n)?,
            }),
            r: decomposed.as_mut().and_then(|root| root.kept.take()),
        }),
        None => None,
    };
    let mut message = decomposed
        .as_ref()
        .map_or_else(Vec::new, |root| root.decomposed.spectrum.to_message());
    comm.broadcast(&mut message, plan.root_rank);
    let spectrum = Spectrum::from_message(&message);
    let choice = spectrum.choose(settings, n, d);
    let columns_back = choice.k + evidence::PROBES;
    let start = decomposed.as_ref().map(|root| {
        let mut start = zeros(n, columns_back);
        let (components, probes) = start.view_mut().split_at(Axis(1), choice.k);
        fill(components, &root.decomposed.vectors);
        fill(probes, &root.source);
        start
    });
    let vectors = tree.back(comm, &plan, start, (n, columns_back))?;
    let evidence_of = |directions: Array2<f64>| match decomposed {
        Some(root) => Evidence {
            orthogonality: Some(evidence::distortion(&directions, &root.source)),
            probes: evidence::of_columns(directions.view(), root.lengths),
            decomposition: root.decomposed.residual,
            svd: root.decomposed.svd,
            ..Evidence::default()
        },
        None => Evidence::default(),
    };
    let pieces = (centers, vectors);
    let found = (spectrum, choice);
    let mut solution = gather(comm, &plan, &columns, pieces, found, evidence_of)?;
    solution.refused = refused;
    let whole_q = factor.is_some();
    solution.evidence.route = Route { whole_q, ..route };
    solution.evidence.factor = factor;
    Ok(solution)
}

/// The sum of `a^T a` over matrices `[any, n]`; its upper triangle counts.
fn sum_of_products<'a, T: Scalar>(
    n: usize,
    matrices: impl Iterator<Item = &'a Array2<T>>,
) -> Array2<f64> {
    let mut sum = Array2::zeros((n, n));
    for matrix in matrices {
        add_widened(matrix, &mut sum);
    }
    sum
}

/// What the rank of the root knows before the way back.
struct Root {
    /// R, where it is kept, `[n, n]`.
    kept: Option<Array2<f64>>,
    decomposed: Decomposed,
    /// The coefficients h of the probes, `[n, probes]`.
    source: Array2<f64>,
    /// How long the rows are along Q h, `[probes]`.
    lengths: Vec<f64>,
}

fn fill<T: Scalar>(mut to: ArrayViewMut2<T>, from: &Array2<f64>) {
    to.zip_mut_with(from, |to, from| *to = T::of_f64(*from));
}

/// Gives every rank all rows of its own blocks of columns, each block transposed: `[columns, n]`,
/// stored by columns, so that a row of features is one run. Rows travel block by block: in each
/// round every rank reads one block and meets every other rank once.
fn exchange<T: Scalar>(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    columns: &[Range<usize>],
    owner: &[usize],
) -> Result<BTreeMap<usize, Array2<T>>, PcaError> {
    let (me, size) = (comm.rank(), comm.size());
    let blocks: Vec<Vec<usize>> = (0..size)
        .map(|rank| rows.blocks_of(rank).collect())
        .collect();
    let first_row: Vec<usize> = rows
        .rows_per_block
        .iter()
        .scan(0, |next, count| {
            *next += count;
            Some(*next - count)
        })
        .collect();
    // The run of columns of each rank.
    let runs: Vec<Range<usize>> = (0..size)
        .map(|rank| {
            let start = owner.partition_point(|o| *o < rank);
            let end = owner.partition_point(|o| *o <= rank);
            if start == end {
                0..0
            } else {
                columns[start].start..columns[end - 1].end
            }
        })
        .collect();
    let mut slices: BTreeMap<usize, Array2<T>> = (0..columns.len())
        .filter(|leaf| owner[*leaf] == me)
        .map(|leaf| (leaf, zeros(columns[leaf].len(), rows.total())))
        .collect();
    // Of a piece that starts at column `first`.
    let mut place = |block: usize, piece: &Block, first: usize| {
        slices.par_iter_mut().for_each(|(leaf, slice)| {
            let taken = columns[*leaf].start - first..columns[*leaf].end - first;
            let to = slice.slice_mut(s![.., first_row[block]..first_row[block] + piece.dim().0]);
            on_rows!(piece, rows => transpose(rows.slice(s![.., taken]), to));
        });
    };
    let rounds = blocks.iter().map(Vec::len).max().unwrap_or(0);
    for round in 0..rounds {
        let mine = blocks[me].get(round).copied();
        let features = mine.map(&mut *read).transpose()?;
        if let (Some(block), Some(features)) = (mine, &features) {
            let check = || check_finite(block, features);
            let (finite, ()) = rayon::join(check, || place(block, features, 0));
            finite?;
        }
        let send = |to: usize| {
            if let (Some(features), false) = (&features, runs[to].is_empty()) {
                comm.send_bytes(&features.to_message(runs[to].clone()), to);
            }
        };
        let mut receive = |from: usize| {
            if let (Some(&block), false) = (blocks[from].get(round), runs[me].is_empty()) {
                let shape = (rows.rows_per_block[block], runs[me].len());
                let piece = Block::from_message(&comm.receive_bytes(from), shape);
                place(block, &piece, runs[me].start);
            }
        };
        for other in (0..size).filter_map(|meeting| partner(meeting, me, size)) {
            if me < other {
                send(other);
                receive(other);
            } else {
                receive(other);
                send(other);
            }
        }
    }
    Ok(slices)
}

/// Writes rows to the columns of `to`.
fn transpose<F: Scalar, T: Scalar>(rows: ArrayView2<F>, mut to: ArrayViewMut2<T>) {
    for (row, mut column) in rows.rows().into_iter().zip(to.columns_mut()) {
        column.zip_mut_with(&row, |place, x| *place = T::of_f64(x.as_f64()));
    }
}

/// Mean and scale of a block of columns.
#[derive(Clone)]
pub(super) struct Center {
    pub mean: Vec<f64>,
    pub scale: Vec<f64>,
}

/// Centres (and scales) a block of columns, `[columns, n]`.
fn center<T: Scalar>(
    mut slice: Array2<T>,
    standardize: bool,
) -> Result<(Center, Array2<T>), PcaError> {
    let n = slice.ncols();
    let mean = subtract_mean(slice.view_mut().reversed_axes());
    let scale = if standardize {
        standard_deviations(norms::of_columns(slice.t()), n)
    } else {
        vec![1.0; slice.nrows()]
    };
    if scale.iter().any(|s| !s.is_finite()) {
        return Err(PcaError::Overflow);
    }
    if standardize {
        for mut row in slice.columns_mut() {
            let row = row.as_slice_mut().expect("columns in one piece");
            for (x, scale) in row.iter_mut().zip(&scale) {
                // A feature of scale 0 is all zeros already.
                let scale = if *scale > 0.0 { *scale } else { 1.0 };
                *x = T::of_f64(x.as_f64() / scale);
            }
        }
    }
    Ok((
        Center {
            mean: mean.value(),
            scale,
        },
        slice,
    ))
}

/// Brings the pieces of all leaves together at the root and gives the whole to every rank.
/// What the directions of the probes, `[d, probes]`, mean, `evidence` says on the rank of the root.
pub(super) fn gather<T: Scalar>(
    comm: &impl Exchange,
    plan: &Plan,
    columns: &[Range<usize>],
    (mut centers, mut vectors): (BTreeMap<usize, Center>, BTreeMap<usize, Array2<T>>),
    (spectrum, choice): (Spectrum, Choice),
    evidence: impl FnOnce(Array2<f64>) -> Evidence,
) -> Result<Solution, PcaError> {
    let (me, root) = (comm.rank(), plan.root_rank);
    let d = columns.last().map_or(0, |last| last.end);
    let (mut mean, mut scale) = (Vec::new(), Vec::new());
    let height = choice.k + evidence::PROBES;
    let mut found = (me == root).then(|| Array2::zeros((height, d)));
    for (leaf, range) in columns.iter().enumerate() {
        let owner = plan.leaves[leaf].owner;
        let mut piece = (owner == me).then(|| {
            let (Center { mean, scale }, v) = (take(&mut centers, leaf), take(&mut vectors, leaf));
            let v = v.iter().map(|x| x.as_f64()).collect();
            [mean, scale, v].concat()
        });
        if owner != root {
            if let Some(piece) = piece.take() {
                comm.send(&piece, root);
            } else if me == root {
                piece = Some(comm.receive(owner));
            }
        }
        if let (Some(piece), Some(found)) = (piece, &mut found) {
            let width = range.len();
            mean.extend(&piece[..width]);
            scale.extend(&piece[width..2 * width]);
            let v = ArrayView2::from_shape((width, height), &piece[2 * width..]);
            let v = v.expect("a piece of the components arrives whole");
            found.slice_mut(s![.., range.clone()]).assign(&v.t());
        }
    }
    let evidence = match &found {
        Some(found) => evidence(found.slice(s![choice.k.., ..]).t().to_owned()),
        None => Evidence::default(),
    };
    let components = found.map(|found| {
        let mut components = found.slice(s![..choice.k, ..]).to_owned();
        sign::fix(&mut components);
        components
    });
    comm.broadcast(&mut mean, root);
    comm.broadcast(&mut scale, root);
    let components = broadcast_components(comm, components, (choice.k, d), root);
    Ok(Solution {
        mean,
        scale,
        components,
        spectrum,
        choice,
        evidence: evidence.broadcast(comm, root, d),
        refused: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_blocks_cover_the_columns_and_are_wide_enough() {
        for n in [1, 2, 9, 127, 128, 129, 1000] {
            for d in [1, 2, 255, 256, 257, 511, 512, 2048, 100_352] {
                let blocks = column_blocks(n, d);
                assert_eq!(blocks[0].start, 0);
                assert_eq!(blocks[blocks.len() - 1].end, d);
                assert!(blocks.windows(2).all(|pair| pair[0].end == pair[1].start));
                let narrowest = blocks.iter().map(Range::len).min();
                assert!(blocks.len() == 1 || narrowest >= Some((2 * n).max(LEAST_COLUMNS)));
            }
        }
        assert_eq!(column_blocks(9, 100_352).len(), 392);
    }
}
