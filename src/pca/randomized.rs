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
//! pass i      Y = X V,  R of Y = Q R by TSQR,  Z = X^T Y  (`passes`)
//!             R = P S W^T: the values S so far, V W their vectors
//!             V = orthonormal basis of Z W
//! last pass   the same, and 10 random directions that V leaves out, for the error
//! ```
//!
//! The columns of Z W are one singular vector each, so small ones do not drown in large ones.

use ndarray::{Array2, Axis, concatenate, s};

use super::PcaError;
use super::block::Block;
use super::center::{Mean, subtract_mean};
use super::evidence::{self, Approximation, Evidence, Route};
use super::exchange::Exchange;
use super::fit::{Components, PcaSettings, Rows, Solution, broadcast_components, check_by_mean};
use super::passes::{self, Columns, Image, Walk, broadcast_by_columns, plain, product, qr_basis};
use super::spectrum::Spectrum;
use super::tsqr::standard_deviations;
use crate::linalg::blas::{Transpose, gemm};
use crate::linalg::gaussian::gaussian;
use crate::linalg::{Scalar, by_columns, norms, sign, zeros};

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
    let mut passes = vec![(width, width); POWER_ITERATIONS];
    passes.push((width + PROBES, width));
    passes::add_bytes(sent, rows, &passes, 1 + 3 * d);
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
    let columns = columns(&walk, read, settings.standardize)?;
    let mut basis = by_columns(qr_basis(gaussian(SEED, 0, d, width))?.view());
    for _ in 0..POWER_ITERATIONS {
        let image = walk.pass::<T>(read, &columns, basis.view(), width)?;
        let next = image.map(|image| image.next_basis()).transpose()?;
        basis = broadcast_by_columns(comm, walk.root_rank(), next, (d, width));
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

/// Mean and spread of some rows.
struct Spread {
    rows: f64,
    mean: Mean,
    /// The norm of each column of the deviations.
    norms: Vec<f64>,
}

impl Spread {
    /// Of a block. Refuses NaN and infinity.
    fn of(number: usize, block: &Block) -> Result<Spread, PcaError> {
        let mut deviations = block.to_scalar::<f64>();
        let mean = subtract_mean(deviations.view_mut());
        check_by_mean(&mean, [(number, block)])?;
        Ok(Spread {
            rows: deviations.nrows() as f64,
            mean,
            norms: norms::of_columns(deviations.view()),
        })
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

/// The first pass.
fn columns<C: Exchange>(
    walk: &Walk<C>,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    standardize: bool,
) -> Result<Columns, PcaError> {
    let spread = walk.reduce(
        read,
        0,
        Spread::of,
        |early, late| Ok(early.merge(late)),
        Spread::to_message,
        Spread::from_message,
    )?;
    let mut message = spread.map_or_else(Vec::new, |spread| spread.to_message());
    walk.comm.broadcast(&mut message, walk.root_rank());
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
    let residuals: Vec<f64> = image
        .residuals(&svd, &vectors)?
        .into_iter()
        .map(|residual| {
            if residual > 0.0 {
                residual / largest
            } else {
                0.0
            }
        })
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
        route: Route::default(),
        factor: None,
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
    let (comm, root) = (walk.comm, walk.root_rank());
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
        refused: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::hostile;

    #[test]
    fn spreads_of_parts_are_the_spread_of_the_whole() {
        for (name, rows) in hostile::all(30, 6) {
            let spread = |range| {
                let block = Block::from(rows.slice(s![range, ..]).to_owned());
                Spread::of(0, &block).unwrap()
            };
            let whole = spread(0..30);
            let parts = spread(0..7).merge(spread(7..30));
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
