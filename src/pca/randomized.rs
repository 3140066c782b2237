//! The leading components of any rows by random projections, in little memory: an approximation.
//!
//! Subspace iteration from a random start (Halko, Martinsson and Tropp, "Finding structure with
//! randomness: probabilistic algorithms for constructing approximate matrix decompositions", 2011).
//! X are the centred (and scaled) rows, `[n, d]`, which stay where they are and are read once for each
//! pass:
//!
//! ```text
//! pass 0      mean, deviation and norm of every column
//! start       V = orthonormal basis of a normal random matrix [d, l],  l = k + 10
//! pass i      Y = X V (block by block),  R of Y = Q R by TSQR,  Z = X^T Y
//!             R = P S W^T: the values S so far, V W their vectors
//!             V = orthonormal basis of Z W
//! last pass   the same, and 10 random directions that V leaves out, for the error
//! ```
//!
//! Z is summed and R merged along a tree over blocks, so the bits do not depend on the ranks. S comes
//! from a QR of Y = X V and not from X^T X, whose small values rounding would swallow; and the columns
//! of Z W are one singular vector each, so small ones do not drown in large ones.
//!
//! Memory of a rank: a few matrices of d x l, one for each level of the tree, and a block of rows.
//! 4 n d l operations a pass.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};

use super::PcaError;
use super::block::Block;
use super::center::{Mean, subtract_mean};
use super::evidence::{self, Approximation, Evidence};
use super::exchange::Exchange;
use super::fit::{Components, PcaSettings, Rows, Solution, broadcast_components};
use super::spectrum::Spectrum;
use super::tree::{Merge, Plan, Step, take};
use super::tsqr::standard_deviations;
use crate::linalg::blas::{Transpose, gemm};
use crate::linalg::gaussian::gaussian;
use crate::linalg::{Scalar, by_columns, norms, qr, sign, svd, zeros};

/// Random directions beyond the components that are wanted.
const OVERSAMPLING: usize = 10;

/// How often the directions are multiplied by X^T X.
const POWER_ITERATIONS: usize = 4;

/// Random directions for the error; the bound fails with a probability of 10 to minus this.
pub(super) const PROBES: usize = 10;

const SEED: u64 = 0x7038_7261_6e64;
const ERROR_SEED: u64 = 0x7038_6572_726f;

/// Random directions for k components of n rows and d columns.
pub(super) fn directions(k: usize, n: usize, d: usize) -> usize {
    (k + OVERSAMPLING).min(n).min(d)
}

/// Adds the bytes that each rank sends to another for `k` components of these rows, before the model is
/// shared.
pub(super) fn add_bytes(sent: &mut [u64], rows: &Rows, k: usize) {
    let d = rows.width;
    let width = directions(k, rows.total(), d);
    let (blocks, plan) = plan(rows);
    // R has as many rows as the rows below it, and at most as many as there are directions.
    let mut heights: Vec<usize> = blocks.iter().map(|&b| rows.rows_per_block[b]).collect();
    for merge in &plan.merges {
        heights.push(heights[merge.left] + heights[merge.right]);
    }
    let image =
        |directions: usize, height: usize| 2 + height.min(directions) * directions + d * width;
    for step in &plan.steps {
        if let Step::Merge { merge, at, from } = *step
            && at != from
        {
            let height = heights[merge.right];
            let numbers = (1 + 3 * d)
                + POWER_ITERATIONS * image(width, height)
                + image(width + PROBES, height);
            sent[from] += (f64::BYTES * numbers) as u64;
        }
    }
}

/// Solves by random projections; the number of components is given.
pub(super) fn solve<T: Scalar>(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    settings: &PcaSettings,
) -> Result<Solution, PcaError> {
    let (n, d) = (rows.total(), rows.width);
    let k = match settings.components {
        Components::Count(k) => k,
        Components::Variance(fraction) => return Err(PcaError::RandomizedVariance(fraction)),
    };
    let width = directions(k, n, d);
    let walk = Walk::new(comm, rows);
    let columns = walk.columns(read, settings.standardize)?;
    let mut basis = by_columns(qr_basis(gaussian(SEED, 0, d, width))?.view());
    for _ in 0..POWER_ITERATIONS {
        let image = walk.pass::<T>(read, &columns, basis.view(), width)?;
        let next = image.map(|image| image.next_basis()).transpose()?;
        basis = walk.broadcast(next, (d, width));
    }
    let outside = outside(&basis)?;
    let extended =
        concatenate(Axis(1), &[basis.view(), outside.view()]).expect("both are matrices of d rows");
    let image = walk.pass::<T>(read, &columns, by_columns(extended.view()).view(), width)?;
    let result = image
        .map(|image| finish(image, &basis, columns.norm, settings, (n, d)))
        .transpose()?;
    share(&walk, result, columns, settings, (n, d))
}

/// An orthonormal basis of the columns of a matrix `[d, l]`.
fn qr_basis(matrix: Array2<f64>) -> Result<Array2<f64>, PcaError> {
    let width = matrix.ncols();
    Ok(qr::Factored::new(matrix)?.apply(&Array2::eye(width))?)
}

/// Random directions without what lies in the basis.
fn outside(basis: &Array2<f64>) -> Result<Array2<f64>, PcaError> {
    let mut directions = gaussian(ERROR_SEED, 0, basis.nrows(), PROBES);
    let mut along = zeros(basis.ncols(), PROBES);
    let transposed = (basis.view(), Transpose::Yes);
    gemm(1.0, transposed, plain(&directions), 0.0, along.view_mut())?;
    gemm(
        -1.0,
        plain(basis),
        plain(&along),
        1.0,
        directions.view_mut(),
    )?;
    Ok(directions)
}

fn plain(matrix: &Array2<f64>) -> (ArrayView2<'_, f64>, Transpose) {
    (matrix.view(), Transpose::No)
}

/// Mean and scale of the columns of all rows, and the norm of the rows after both.
struct Columns {
    mean: Mean,
    scale: Vec<f64>,
    norm: f64,
}

/// Mean and spread of some rows.
struct Spread {
    rows: f64,
    mean: Mean,
    /// The norm of each column of the deviations.
    norms: Vec<f64>,
}

impl Spread {
    fn of(block: &Block) -> Spread {
        let mut deviations = block.to_scalar::<f64>();
        let mean = subtract_mean(deviations.view_mut());
        Spread {
            rows: deviations.nrows() as f64,
            mean,
            norms: norms::of_columns(deviations.view()),
        }
    }

    /// The spread of the rows of both (Chan, Golub and LeVeque, "Algorithms for computing the sample
    /// variance", 1983).
    fn merge(mut self, later: Spread) -> Spread {
        let part = later.rows / (self.rows + later.rows);
        let weight = (self.rows * part).sqrt();
        let distance = self.mean.distance_to(&later.mean);
        for ((norm, other), distance) in self.norms.iter_mut().zip(later.norms).zip(&distance) {
            *norm = norm.hypot(other).hypot(weight * distance);
        }
        for (offset, distance) in self.mean.offset.iter_mut().zip(&distance) {
            *offset += part * distance;
        }
        self.rows += later.rows;
        self
    }

    fn to_message(&self) -> Vec<f64> {
        let mut message = vec![self.rows];
        message.extend(&self.mean.origin);
        message.extend(&self.mean.offset);
        message.extend(&self.norms);
        message
    }

    fn from_message(message: &[f64]) -> Spread {
        let parts: Vec<&[f64]> = message[1..]
            .chunks(((message.len() - 1) / 3).max(1))
            .collect();
        Spread {
            rows: message[0],
            mean: Mean {
                origin: parts[0].to_vec(),
                offset: parts[1].to_vec(),
            },
            norms: parts[2].to_vec(),
        }
    }
}

/// What a pass brings together of some rows: R of `Y = X B` and `Z = X^T Y` for the first columns of B.
struct Image {
    /// `[min(rows, columns of B), columns of B]`, stored by columns.
    r: Array2<f64>,
    /// `[d, l]`, stored by columns.
    z: Array2<f64>,
}

impl Image {
    /// The image of a block.
    fn of<T: Scalar>(
        block: &Block,
        columns: &Columns,
        directions: ArrayView2<T>,
        width: usize,
    ) -> Result<Image, PcaError> {
        let deviations = columns.deviations::<T>(block);
        // A block may be stored either way; the transpose of one that is stored by rows is stored by
        // columns.
        let deviations = deviations.as_standard_layout();
        let x = deviations.t();
        let mut y = zeros::<T>(deviations.nrows(), directions.ncols());
        let (one, none) = (T::one(), T::zero());
        let as_is = Transpose::No;
        gemm(
            one,
            (x, Transpose::Yes),
            (directions, as_is),
            none,
            y.view_mut(),
        )?;
        let mut z = zeros::<T>(deviations.ncols(), width);
        gemm(
            one,
            (x, as_is),
            (y.slice(s![.., ..width]), as_is),
            none,
            z.view_mut(),
        )?;
        let wide = |matrix: &Array2<T>| by_columns(matrix.mapv(|x| x.as_f64()).view());
        Ok(Image {
            r: qr::Factored::new(wide(&y))?.r(),
            z: wide(&z),
        })
    }

    fn merge(self, later: Image) -> Result<Image, PcaError> {
        let stacked = concatenate(Axis(0), &[self.r.view(), later.r.view()])
            .expect("both have a column for each direction");
        Ok(Image {
            r: qr::Factored::new(by_columns(stacked.view()))?.r(),
            z: self.z + later.z,
        })
    }

    fn to_message(&self) -> Vec<f64> {
        let mut message = vec![self.r.nrows() as f64, self.r.ncols() as f64];
        message.extend(self.r.t());
        message.extend(self.z.t());
        message
    }

    fn from_message(message: &[f64], d: usize) -> Image {
        let (height, width) = (message[0] as usize, message[1] as usize);
        let (r, z) = message[2..].split_at(height * width);
        let matrix = |numbers: &[f64], rows: usize| {
            let columns = numbers.len() / rows.max(1);
            Array2::from_shape_vec((columns, rows), numbers.to_vec())
                .expect("a message of whole columns")
                .reversed_axes()
        };
        Image {
            r: matrix(r, height),
            z: matrix(z, d),
        }
    }

    /// Singular values and right singular vectors of X V: R of its columns alone is a part of R.
    fn values(&self) -> Result<svd::Svd, PcaError> {
        let width = self.z.ncols();
        let height = self.r.nrows().min(width);
        let r = by_columns(self.r.slice(s![..height, ..width]));
        if !r.iter().all(|x| x.is_finite()) {
            return Err(PcaError::Overflow);
        }
        Ok(svd::svd(r)?)
    }

    /// `Z W`: each column is X^T X times an approximate singular vector.
    fn turned(&self, svd: &svd::Svd) -> Result<Array2<f64>, PcaError> {
        product(&self.z, svd)
    }

    /// The basis for the next pass.
    fn next_basis(&self) -> Result<Array2<f64>, PcaError> {
        let svd = self.values()?;
        let turned = self.turned(&svd)?;
        if turned.ncols() == self.z.ncols() {
            return qr_basis(turned);
        }
        // Fewer rows than directions: what is beyond them stays as it was.
        let mut whole = self.z.clone();
        whole.slice_mut(s![.., ..turned.ncols()]).assign(&turned);
        qr_basis(whole)
    }
}

/// `matrix W` for the right singular vectors W.
fn product(matrix: &Array2<f64>, svd: &svd::Svd) -> Result<Array2<f64>, PcaError> {
    let mut product = zeros(matrix.nrows(), svd.values.len());
    let turned = (svd.vt.view(), Transpose::Yes);
    gemm(1.0, plain(matrix), turned, 0.0, product.view_mut())?;
    Ok(product)
}

impl Columns {
    /// The centred (and scaled) rows of a block, stored by rows.
    fn deviations<T: Scalar>(&self, block: &Block) -> Array2<T> {
        let mut rows = block.to_scalar::<f64>();
        for mut row in rows.rows_mut() {
            let means = self.mean.origin.iter().zip(&self.mean.offset);
            for ((x, (origin, offset)), scale) in row.iter_mut().zip(means).zip(&self.scale) {
                // A feature of scale 0 is constant.
                *x = if *scale > 0.0 {
                    ((*x - origin) - offset) / scale
                } else {
                    0.0
                };
            }
        }
        rows.mapv(T::of_f64)
    }
}

/// The blocks that have rows, and the tree over them: every block is a leaf.
fn plan(rows: &Rows) -> (Vec<usize>, Plan) {
    let filled = |block: &usize| rows.rows_per_block[*block] > 0;
    let blocks: Vec<usize> = (0..rows.rows_per_block.len()).filter(filled).collect();
    let of = |values: &[usize]| -> Vec<usize> { blocks.iter().map(|&b| values[b]).collect() };
    let plan = Plan::new(&of(rows.rows_per_block), &of(rows.owner_of_block), 1);
    (blocks, plan)
}

/// The walk over that tree.
struct Walk<'a, C> {
    comm: &'a C,
    plan: Plan,
    blocks: Vec<usize>,
    width: usize,
}

impl<'a, C: Exchange> Walk<'a, C> {
    fn new(comm: &'a C, rows: &Rows) -> Self {
        let (blocks, plan) = plan(rows);
        Walk {
            comm,
            plan,
            blocks,
            width: rows.width,
        }
    }

    /// Makes a node of every block and merges them; the rank of the root gets the last one.
    fn reduce<N>(
        &self,
        mut leaf: impl FnMut(usize) -> Result<N, PcaError>,
        merge: impl Fn(N, N) -> Result<N, PcaError>,
        to_message: impl Fn(&N) -> Vec<f64>,
        from_message: impl Fn(&[f64]) -> N,
    ) -> Result<Option<N>, PcaError> {
        let me = self.comm.rank();
        let mut nodes: BTreeMap<usize, N> = BTreeMap::new();
        for step in &self.plan.steps {
            match *step {
                Step::Factor { leaf: index, rank } if rank == me => {
                    nodes.insert(index, leaf(self.blocks[index])?);
                }
                Step::Merge {
                    merge: Merge { node, left, right },
                    at,
                    from,
                } if at == me => {
                    let left = take(&mut nodes, left);
                    let right = if from == me {
                        take(&mut nodes, right)
                    } else {
                        from_message(&self.comm.receive::<f64>(from))
                    };
                    nodes.insert(node, merge(left, right)?);
                }
                Step::Merge { merge, at, from } if from == me => {
                    self.comm
                        .send(&to_message(&take(&mut nodes, merge.right)), at);
                }
                // A block is a leaf of its own, so rows never move.
                Step::Read { .. }
                | Step::Move { .. }
                | Step::Factor { .. }
                | Step::Merge { .. } => {}
            }
        }
        Ok(nodes.pop_first().map(|(_, root)| root))
    }

    /// The first pass.
    fn columns(
        &self,
        read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
        standardize: bool,
    ) -> Result<Columns, PcaError> {
        let spread = self.reduce(
            |block| Ok(Spread::of(&read(block)?)),
            |early, late| Ok(early.merge(late)),
            Spread::to_message,
            Spread::from_message,
        )?;
        let mut message = spread.map_or_else(Vec::new, |spread| spread.to_message());
        self.comm.broadcast(&mut message, self.plan.root_rank);
        let Spread { rows, mean, norms } = Spread::from_message(&message);
        let scale = if standardize {
            standard_deviations(norms.clone(), rows as usize)
        } else {
            vec![1.0; norms.len()]
        };
        let scaled: Vec<f64> = norms
            .iter()
            .zip(&scale)
            .map(|(norm, scale)| if *scale > 0.0 { norm / scale } else { 0.0 })
            .collect();
        let norm = norms::euclidean(scaled.iter());
        if !norm.is_finite() || scale.iter().any(|s| !s.is_finite()) {
            return Err(PcaError::Overflow);
        }
        Ok(Columns { mean, scale, norm })
    }

    /// One more pass: the image of all rows, at the root.
    fn pass<T: Scalar>(
        &self,
        read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
        columns: &Columns,
        directions: ArrayView2<f64>,
        width: usize,
    ) -> Result<Option<Image>, PcaError> {
        let directions = by_columns(directions.mapv(T::of_f64).view());
        self.reduce(
            |block| Image::of(&read(block)?, columns, directions.view(), width),
            Image::merge,
            Image::to_message,
            |message| Image::from_message(message, self.width),
        )
    }

    /// Gives every rank a matrix of the root, stored by columns.
    fn broadcast(
        &self,
        matrix: Option<Array2<f64>>,
        (rows, columns): (usize, usize),
    ) -> Array2<f64> {
        let mut numbers = matrix.map_or_else(Vec::new, |m| m.t().iter().copied().collect());
        self.comm.broadcast(&mut numbers, self.plan.root_rank);
        Array2::from_shape_vec((columns, rows), numbers)
            .expect("every rank knows the shape of the basis")
            .reversed_axes()
    }
}

/// What the root knows at the end.
struct Finished {
    spectrum: Spectrum,
    /// Approximate singular vectors as columns, `[d, values]`.
    vectors: Array2<f64>,
    evidence: Evidence,
}

fn finish(
    image: Image,
    basis: &Array2<f64>,
    norm: f64,
    settings: &PcaSettings,
    (n, d): (usize, usize),
) -> Result<Finished, PcaError> {
    let width = basis.ncols();
    let svd = image.values()?;
    let vectors = product(basis, &svd)?;
    let largest = svd.values.first().copied().unwrap_or(0.0);
    // X^T u - s v = (X^T X v - s^2 v) / s with u = X v / s.
    let mut residuals = image.turned(&svd)?;
    for ((mut residual, vector), value) in residuals
        .columns_mut()
        .into_iter()
        .zip(vectors.columns())
        .zip(&svd.values)
    {
        residual.scaled_add(-value * value, &vector);
    }
    let relative = |length: f64, value: f64| {
        if length > 0.0 {
            length / value / largest
        } else {
            0.0
        }
    };
    let residuals: Vec<f64> = norms::of_columns(residuals.view())
        .into_iter()
        .zip(&svd.values)
        .map(|(length, value)| relative(length, *value))
        .collect();
    let spectrum = Spectrum {
        // As many directions as there are singular values leave none out.
        complete: width == n.min(d),
        values: svd.values.clone(),
        norm,
    };
    // Below the numerical rank a residual is rounding over rounding.
    let kept = residuals
        .into_iter()
        .take(spectrum.choose(settings, n, d).k);
    let outside = norms::of_columns(image.r.slice(s![.., width..]));
    let longest = outside.into_iter().fold(0.0, f64::max);
    // Halko, Martinsson and Tropp 2011, equation 4.3 with alpha = 10.
    let bound = 10.0 * (2.0 / std::f64::consts::PI).sqrt() * longest;
    let coefficients = evidence::coefficients(width);
    let mut directions = zeros(d, coefficients.ncols());
    gemm(
        1.0,
        plain(basis),
        plain(&coefficients),
        0.0,
        directions.view_mut(),
    )?;
    let lengths = norms::of_columns(image.r.slice(s![.., ..width]).dot(&coefficients).view());
    let evidence = Evidence {
        orthogonality: Some(evidence::distortion(&directions, &coefficients)),
        probes: evidence::of_columns(directions.view(), lengths),
        decomposition: 0.0,
        svd: format!(
            "all {} singular values of the projected rows",
            svd.values.len()
        ),
        approximation: Some(Approximation {
            directions: width,
            power_iterations: POWER_ITERATIONS,
            residual: kept.fold(0.0, f64::max),
            rest: if largest > 0.0 { bound / largest } else { 0.0 },
        }),
    };
    Ok(Finished {
        spectrum,
        vectors,
        evidence,
    })
}

/// Gives every rank what the root found.
fn share<C: Exchange>(
    walk: &Walk<C>,
    finished: Option<Finished>,
    columns: Columns,
    settings: &PcaSettings,
    (n, d): (usize, usize),
) -> Result<Solution, PcaError> {
    let (comm, root) = (walk.comm, walk.plan.root_rank);
    let (mut message, vectors, evidence) = match finished {
        Some(Finished {
            spectrum,
            vectors,
            evidence,
        }) => (spectrum.to_message(), Some(vectors), evidence),
        None => (Vec::new(), None, Evidence::default()),
    };
    comm.broadcast(&mut message, root);
    let spectrum = Spectrum::from_message(&message);
    let choice = spectrum.choose(settings, n, d);
    let leading = vectors.map(|vectors| {
        let mut components = vectors.slice(s![.., ..choice.k]).t().to_owned();
        sign::fix(&mut components);
        components
    });
    Ok(Solution {
        mean: columns.mean.value(),
        scale: columns.scale,
        components: broadcast_components(comm, leading, (choice.k, d), root),
        spectrum,
        choice,
        evidence: evidence.broadcast(comm, root, d),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::hostile;

    #[test]
    fn spreads_of_parts_are_the_spread_of_the_whole() {
        for (name, rows) in hostile::all(30, 6) {
            let block = |range| Block::from(rows.slice(s![range, ..]).to_owned());
            let whole = Spread::of(&block(0..30));
            let parts = Spread::of(&block(0..7)).merge(Spread::of(&block(7..30)));
            assert_eq!(parts.rows, 30.0);
            let unit = norms::frobenius(&rows).max(f64::MIN_POSITIVE);
            for (a, b) in whole.norms.iter().zip(&parts.norms) {
                assert!((a - b).abs() <= 1e-14 * unit, "{name}: {a} {b}");
            }
            let message = parts.to_message();
            assert_eq!(Spread::from_message(&message).to_message(), message);
        }
    }

    #[test]
    fn directions_are_no_more_than_there_can_be() {
        assert_eq!(directions(5, 100, 200), 15);
        assert_eq!(directions(5, 100, 12), 12);
        assert_eq!(directions(500, 9, 200), 9);
    }

    #[test]
    fn the_error_directions_lie_outside_the_basis() {
        let basis = qr_basis(gaussian(1, 0, 40, 5)).unwrap();
        let outside = outside(&basis).unwrap();
        assert!(norms::frobenius(&basis.t().dot(&outside)) < 1e-13);
        assert!(
            norms::of_columns(outside.view())
                .iter()
                .all(|norm| *norm > 1.0)
        );
    }
}
