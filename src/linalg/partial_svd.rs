//! The leading singular values and vectors of a triangle, and a proof that none is missed.
//!
//! Block Golub-Kahan-Lanczos with full reorthogonalisation (Golub, Luk and Overton, "A block Lanczos
//! method for computing the singular values and corresponding singular vectors of a matrix", 1981):
//! from a random block, products with A and A^T alternate and build orthonormal U and V with
//! A V = U T; the singular values of the small T approach those of A, the largest first.
//!
//! What it finds is right, but alone it could not know what it has missed: of a value that is
//! repeated more often than the block is wide it sees some copies only. So three things are checked,
//! and where one fails the caller gets the reason instead of a result:
//!
//! - the residuals `|A v - s u|` and `|A^T u - s v|`, from products with A itself;
//! - that no other singular value is larger than the smallest found: with the k triplets taken out,
//!   `t^2 I - (R R^T - U S^2 U^T)` has a Cholesky factor for a t just above s_k. A Cholesky
//!   factorisation that runs to its end proves that (Rump, "Verification of positive definiteness",
//!   2006) up to rounding of n eps s_1^2, and up to what the residuals leave of the triplets, which t covers;
//! - that the smallest value found is not so small that this rounding would hide another: then
//!   only all values together tell.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::basis::orthonormalize;
use super::blas::{self, Transpose};
use super::gaussian::gaussian;
use super::{LinalgError, norms, qr, svd, triangle, zeros};

/// Most columns of a block: enough for products at full speed, and for values that come in tens.
pub(super) const BLOCK: usize = 32;

/// A basis consists of at least this many blocks, or the values would have no time to converge.
pub(super) const LEAST_BLOCKS: usize = 8;

/// The residual that counts as converged is this many units of sqrt(n) times the wanted accuracy of the largest value.
pub(super) const UNITS: f64 = 8.0;

/// How much more of the basis there must be before convergence is looked at again: the SVD of T
/// costs as much as a few blocks.
pub(super) const GROWTH: f64 = 1.2;

/// The largest part by which another singular value may exceed the smallest one found unnoticed.
const LARGEST_DOUBT: f64 = 1e-6;

const SEED: u64 = 0x7038_5f73_7664;

/// Which singular vectors are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Those of the rows: the columns of U in R = U S V^T.
    Left,
    /// Those of the columns: the columns of V.
    Right,
}

/// How many of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// This many.
    Count(usize),
    /// The fewest whose squares add up to this part of the squared Frobenius norm.
    Squares(f64),
}

/// Leading singular values with their vectors.
#[derive(Debug, Clone)]
pub struct Leading {
    /// Singular values, largest first, `[k]`.
    pub values: Vec<f64>,
    /// Orthonormal singular vectors as columns, `[n, k]`.
    pub vectors: Array2<f64>,
    /// The largest of `|A v - s u|` and `|A^T u - s v|` over the largest singular value.
    pub residual: f64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Exactly what was wanted.
    Found(Leading),
    /// Why all singular values have to be computed instead.
    GaveUp(String),
}

/// The leading singular values of an upper triangle `r`, `[n, n]`, stored by columns, and the
/// vectors of one side. `most` is the size of the basis at which it gives up. `accuracy` is that of r, relative to
/// its largest singular value: no less than eps, and more where r itself is not as good as that.
///
/// About 2 n^2 m + 8 n m^2 operations for a basis of m, and 2/3 n^3 for the proof. The start is the
/// same every time, so equal input gives equal bits.
pub fn leading(
    r: &Array2<f64>,
    side: Side,
    wanted: Wanted,
    most: usize,
    accuracy: f64,
) -> Result<Outcome, LinalgError> {
    let n = r.nrows();
    let norm = norms::frobenius(r);
    if norm == 0.0 || !norm.is_finite() {
        return Ok(Outcome::GaveUp("the matrix has no norm".into()));
    }
    // A power of two changes no digit, and brings squares into the range of the numbers.
    let unit = norm.log2().floor().exp2();
    let scaled = r / unit;
    let norm = norm / unit;
    let tolerance = UNITS * accuracy * (n as f64).sqrt();
    // The search has many short steps and leaves threads idle, which the squares for the proof need.
    let (search, squares) = rayon::join(
        || {
            search(
                scaled.view(),
                side,
                wanted,
                most.min(n / 2),
                (norm, tolerance),
            )
        },
        || squares_of(scaled.view()),
    );
    let (krylov, k) = match search? {
        Search::Converged(krylov, k) => (krylov, k),
        Search::GaveUp(reason) => return Ok(Outcome::GaveUp(reason)),
    };
    Ok(match krylov.finish(k, squares?, tolerance)? {
        Found::Proven(mut found) => {
            found.values.iter_mut().for_each(|value| *value *= unit);
            Outcome::Found(found)
        }
        Found::Doubtful(reason) => Outcome::GaveUp(reason),
    })
}

/// How the search for the leading values ended.
enum Search<'a> {
    /// This many are wanted, and all of them have converged.
    Converged(Box<Krylov<'a>>, usize),
    GaveUp(String),
}

/// Lets the bases grow until what is wanted has converged to the tolerance, in a matrix of this Frobenius norm.
fn search(
    r: ArrayView2<'_, f64>,
    side: Side,
    wanted: Wanted,
    most: usize,
    (norm, tolerance): (f64, f64),
) -> Result<Search<'_>, LinalgError> {
    let mut krylov = Krylov::new(r, side, most)?;
    let mut next_look = match wanted {
        Wanted::Count(k) => 2 * k,
        Wanted::Squares(_) => 4 * krylov.block,
    };
    loop {
        if !krylov.grow()? {
            return Ok(Search::GaveUp(format!(
                "a basis of {} vectors did not bring them to convergence",
                krylov.size
            )));
        }
        if krylov.size < next_look && krylov.has_room() {
            continue;
        }
        next_look = (krylov.size as f64 * GROWTH) as usize;
        if let Some(k) = krylov.converged(wanted, norm, tolerance)? {
            return Ok(Search::Converged(Box::new(krylov), k));
        }
    }
}

enum Found {
    Proven(Leading),
    Doubtful(String),
}

/// The residual that counts as converged, of `tolerance` or less: where values are small beside the largest, a
/// larger one would leave doubt in the proof, a third of [`LARGEST_DOUBT`] by the formula in `finish`.
pub(super) fn needed(tolerance: f64, values: &[f64], n: usize) -> f64 {
    let least = UNITS * f64::EPSILON * (n as f64).sqrt();
    match (values.first(), values.last()) {
        (Some(largest), Some(smallest)) => {
            let proof = (LARGEST_DOUBT / 3.0).sqrt() / 8.0 * (smallest / largest).powi(2);
            tolerance.min(proof).max(least)
        }
        _ => tolerance,
    }
}

/// By which part another value may exceed the last of these unnoticed in squares of order n, whose triplets have
/// residuals of no more than `limit`; or that it is too large a part.
pub(super) fn doubt(limit: f64, values: &[f64], n: usize) -> Result<f64, String> {
    let part = values.last().unwrap_or(&0.0) / values.first().unwrap_or(&0.0);
    let spread = part.powi(-2);
    let doubt = 8.0 * n as f64 * f64::EPSILON * spread + (2.0 * limit * spread).powi(2);
    if doubt.is_nan() || doubt > LARGEST_DOUBT {
        return Err(format!(
            "value {} is {part:.1e} of the largest, too small to tell whether others are as large",
            values.len()
        ));
    }
    Ok(doubt)
}

/// The two bases and T; A is the triangle, or its transpose where the left vectors are wanted.
struct Krylov<'a> {
    r: ArrayView2<'a, f64>,
    transpose: Transpose,
    /// Right basis, `[n, most + block]`, of which `size` columns belong to T and the next block is there.
    v: Array2<f64>,
    /// Left basis, `[n, most]`, of which `size` columns are there.
    u: Array2<f64>,
    /// U^T A V, `[most, most]`.
    t: Array2<f64>,
    /// How the next block of V couples to the last block of U, `[block, block]`.
    coupling: Array2<f64>,
    block: usize,
    size: usize,
    /// The SVD of T at the last look.
    small: Option<svd::Svd>,
    /// Rows of the random numbers that were used.
    drawn: usize,
}

impl<'a> Krylov<'a> {
    fn new(r: ArrayView2<'a, f64>, side: Side, most: usize) -> Result<Self, LinalgError> {
        let n = r.nrows();
        let block = (most / LEAST_BLOCKS).clamp(1, BLOCK);
        let most = most / block * block;
        let mut krylov = Krylov {
            r,
            transpose: match side {
                Side::Right => Transpose::No,
                Side::Left => Transpose::Yes,
            },
            v: zeros(n, most + block),
            u: zeros(n, most),
            t: zeros(most, most),
            coupling: zeros(block, block),
            block,
            size: 0,
            small: None,
            drawn: 0,
        };
        let start = gaussian(SEED, 0, n, block);
        let q = qr::Factored::new(start)?.apply(&Array2::eye(block))?;
        krylov.v.slice_mut(s![.., ..block]).assign(&q);
        Ok(krylov)
    }

    /// `op(A) x` for some columns x.
    fn times(&self, transpose: Transpose, x: ArrayView2<f64>) -> Result<Array2<f64>, LinalgError> {
        triangle::product((self.r, transpose), x)
    }

    /// Whether another block has a place in both bases.
    fn has_room(&self) -> bool {
        self.size + self.block <= self.u.ncols()
    }

    /// Adds a block to both bases; false where there is no room for it.
    fn grow(&mut self) -> Result<bool, LinalgError> {
        if !self.has_room() {
            return Ok(false);
        }
        let (start, end) = (self.size, self.size + self.block);
        let image = self.times(self.transpose, self.v.slice(s![.., start..end]))?;
        let (q, above, within) =
            orthonormalize(self.u.slice(s![.., ..start]), image, &mut self.drawn)?;
        self.u.slice_mut(s![.., start..end]).assign(&q);
        self.t.slice_mut(s![..start, start..end]).assign(&above);
        self.t.slice_mut(s![start..end, start..end]).assign(&within);
        let back = self.times(self.transpose.other(), self.u.slice(s![.., start..end]))?;
        let (q, _, coupling) = orthonormalize(self.v.slice(s![.., ..end]), back, &mut self.drawn)?;
        self.v.slice_mut(s![.., end..end + self.block]).assign(&q);
        self.coupling = coupling;
        self.size = end;
        Ok(true)
    }

    /// How many leading values are wanted, once all of them have converged.
    fn converged(
        &mut self,
        wanted: Wanted,
        norm: f64,
        tolerance: f64,
    ) -> Result<Option<usize>, LinalgError> {
        let m = self.size;
        let small = svd::svd(super::by_columns(self.t.slice(s![..m, ..m])))?;
        let values = &small.values;
        let k = match wanted {
            Wanted::Count(k) => Some(k).filter(|k| *k < m),
            Wanted::Squares(part) => {
                let mut sum = 0.0;
                let reached = |value: &f64| {
                    sum += (value / norm) * (value / norm);
                    sum >= part
                };
                values.iter().position(reached).map(|last| last + 1)
            }
        };
        // A^T U = V T^T + V_next C in the columns of the last block, so the residual of A^T u - s v
        // is C times the last rows of T's left vectors.
        let n = self.r.nrows();
        let converged = k.filter(|&k| {
            let tolerance = needed(tolerance, &values[..k], n);
            let last = small.u.slice(s![m - self.block.., ..k]);
            let residuals = self.coupling.dot(&last);
            norms::of_columns(residuals.view())
                .iter()
                .all(|residual| *residual <= tolerance * values[0])
        });
        self.small = Some(small);
        Ok(converged)
    }

    /// The vectors of the first k values, checked; `squares` are those of [`squares_of`].
    fn finish(&self, k: usize, squares: Array2<f64>, tolerance: f64) -> Result<Found, LinalgError> {
        let n = self.r.nrows();
        let Some(small) = &self.small else {
            return Ok(Found::Doubtful("no values were looked at".into()));
        };
        let values = small.values[..k].to_vec();
        let largest = values[0];
        // A residual of rho couples a triplet to the rest of the squares by 2 rho s_1^2 at most, which moves
        // their largest value by the square of that over s_k^2.
        let limit = 4.0 * needed(tolerance, &values, n);
        let doubt = match doubt(limit, &values, n) {
            Ok(doubt) => doubt,
            Err(reason) => return Ok(Found::Doubtful(reason)),
        };
        let mut vectors = zeros(n, k);
        blas::gemm(
            1.0,
            (self.v.slice(s![.., ..self.size]), Transpose::No),
            (small.vt.slice(s![..k, ..]), Transpose::Yes),
            0.0,
            vectors.view_mut(),
        )?;
        let mut images = self.times(self.transpose, vectors.view())?;
        let mut residual = 0.0_f64;
        let lengths = norms::of_columns(images.view());
        for (value, length) in values.iter().zip(&lengths) {
            residual = residual.max((value - length).abs());
        }
        for (mut image, length) in images.columns_mut().into_iter().zip(&lengths) {
            image /= *length;
        }
        let mut back = self.times(self.transpose.other(), images.view())?;
        for ((mut column, vector), value) in back
            .columns_mut()
            .into_iter()
            .zip(vectors.columns())
            .zip(&values)
        {
            column.scaled_add(-value, &vector);
        }
        for length in norms::of_columns(back.view()) {
            residual = residual.max(length);
        }
        residual /= largest;
        if residual.is_nan() || residual > limit {
            return Ok(Found::Doubtful(format!(
                "the residual of a vector is {residual:.1e}, more than {limit:.1e}"
            )));
        }
        let left = match self.transpose {
            Transpose::No => &images,
            Transpose::Yes => &vectors,
        };
        if !nothing_larger(squares, left, &values, doubt)? {
            return Ok(Found::Doubtful(format!(
                "there are other values as large as value {k}"
            )));
        }
        Ok(Found::Proven(Leading {
            values,
            vectors,
            residual,
        }))
    }
}

/// Columns of a tile of the proof.
const PROOF_TILE: usize = 256;

/// The upper triangle of `r r^T` `[n, n]`, for r with zeros below its diagonal. n^3 / 3 operations.
fn squares_of(r: ArrayView2<f64>) -> Result<Array2<f64>, LinalgError> {
    let n = r.nrows();
    let mut squares = zeros(n, n);
    in_proof_tiles(&mut squares, |columns, tile| {
        let Range { start, end } = columns;
        blas::gemm(
            1.0,
            (r.slice(s![..end, start..]), Transpose::No),
            (r.slice(s![start..end, start..]), Transpose::Yes),
            0.0,
            tile,
        )
    })?;
    Ok(squares)
}

/// Whether a matrix, whose squares are those of [`squares_of`], without the triplets of `left` `[n, k]` and
/// `values` `[k]` has no singular value that exceeds the last of them by more than the part `doubt`.
pub(super) fn nothing_larger(
    squares: Array2<f64>,
    left: &Array2<f64>,
    values: &[f64],
    doubt: f64,
) -> Result<bool, LinalgError> {
    let mut stretched = super::by_columns(left.view());
    for (mut column, value) in stretched.columns_mut().into_iter().zip(values) {
        column *= *value;
    }
    let bound = values.last().map_or(0.0, |value| value * (1.0 + doubt));
    let mut rest = squares;
    in_proof_tiles(&mut rest, |columns, mut tile| {
        let Range { start, end } = columns;
        blas::gemm(
            1.0,
            (stretched.slice(s![..end, ..]), Transpose::No),
            (stretched.slice(s![start..end, ..]), Transpose::Yes),
            -1.0,
            tile.view_mut(),
        )?;
        let mut corner = tile.slice_mut(s![start.., ..]);
        corner
            .diag_mut()
            .iter_mut()
            .for_each(|x| *x += bound * bound);
        Ok(())
    })?;
    triangle::is_positive_definite(rest.view_mut())
}

/// Runs `work` on tiles of columns of a square matrix, each down to its last row that is not below the diagonal.
fn in_proof_tiles(
    square: &mut Array2<f64>,
    work: impl Fn(Range<usize>, ArrayViewMut2<f64>) -> Result<(), LinalgError> + Sync,
) -> Result<(), LinalgError> {
    let tiles = square.axis_chunks_iter_mut(Axis(1), PROOF_TILE).enumerate();
    let tiles: Vec<_> = tiles.collect();
    tiles.into_par_iter().try_for_each(|(index, tile)| {
        let start = index * PROOF_TILE;
        let end = start + tile.ncols();
        work(start..end, tile.slice_move(s![..end, ..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, lapack};

    /// A triangle with these singular values.
    fn triangle(spectrum: &[f64], seed: u64) -> Array2<f64> {
        let square = hostile::with_spectrum(spectrum.len(), spectrum, seed);
        qr::Factored::new(by_columns(square.view())).unwrap().r()
    }

    /// Checks what was found against the SVD of LAPACK and against the definition.
    fn assert_leading(name: &str, r: &Array2<f64>, side: Side, found: &Leading) {
        let n = r.nrows() as f64;
        let k = found.values.len();
        let (_, exact, _) = lapack::gesdd(&mut r.clone()).unwrap();
        let rounding = 30.0 * n * f64::EPSILON;
        for (value, exact_value) in found.values.iter().zip(&exact) {
            let difference = (value - exact_value).abs();
            assert!(
                difference <= rounding * exact[0],
                "{name}: {value} {exact_value}"
            );
        }
        let products = found.vectors.t().dot(&found.vectors);
        let distance = norms::frobenius(&(&products - &Array2::<f64>::eye(k)));
        assert!(distance <= rounding, "{name}: vectors off by {distance}");
        // |A^T A v - s^2 v| / s_1^2, with A^T A v from two products.
        let a = match side {
            Side::Right => r / exact[0],
            Side::Left => r.t().to_owned() / exact[0],
        };
        let mut twice = a.t().dot(&a.dot(&found.vectors));
        for ((mut column, vector), value) in twice
            .columns_mut()
            .into_iter()
            .zip(found.vectors.columns())
            .zip(&found.values)
        {
            column.scaled_add(-(value / exact[0]).powi(2), &vector);
        }
        let distance = norms::of_columns(twice.view())
            .into_iter()
            .fold(0.0, f64::max);
        assert!(distance <= rounding, "{name}: residual {distance}");
        assert!(
            found.residual <= rounding,
            "{name}: it says {}",
            found.residual
        );
    }

    fn spectra(n: usize) -> Vec<(&'static str, Vec<f64>)> {
        let of = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<f64>>();
        vec![
            ("decaying", of(&|i| 1.0 / (1.0 + i as f64))),
            ("quickly decaying", of(&|i| 0.7_f64.powi(i as i32))),
            (
                "a pair at k",
                of(&|i| {
                    if i < 4 {
                        5.0 - i as f64
                    } else if i < 6 {
                        1.0
                    } else {
                        0.3 / i as f64
                    }
                }),
            ),
            (
                "a cluster at k",
                of(&|i| {
                    if i < 12 {
                        1.0 + 1e-13 * i as f64
                    } else {
                        0.2 / i as f64
                    }
                }),
            ),
            (
                "a cluster wider than the block",
                of(&|i| if i < 60 { 1.0 } else { 0.1 }),
            ),
            ("all equal", of(&|_| 2.5)),
            (
                "rank 7",
                of(&|i| if i < 7 { 1.0 / (1.0 + i as f64) } else { 0.0 }),
            ),
            ("tiny", of(&|i| 1e-290 / (1.0 + i as f64))),
            ("huge", of(&|i| 1e290 / (1.0 + i as f64))),
            (
                "two scales",
                of(&|i| if i < 3 { 1.0 } else { 1e-7 / i as f64 }),
            ),
        ]
    }

    #[test]
    fn what_is_found_is_what_lapack_finds() {
        let n = 300;
        let mut proven = 0;
        for (name, spectrum) in spectra(n) {
            let r = triangle(&spectrum, 5);
            for side in [Side::Left, Side::Right] {
                for k in [1, 3, 5, 7, 20] {
                    match leading(&r, side, Wanted::Count(k), n / 2, f64::EPSILON).unwrap() {
                        Outcome::Found(found) => {
                            assert_eq!(found.values.len(), k);
                            assert_leading(name, &r, side, &found);
                            proven += 1;
                        }
                        Outcome::GaveUp(reason) => {
                            // These cannot be told apart, or not in so small a basis.
                            let may_give_up = k == 20
                                || ["rank 7", "two scales"].contains(&name)
                                || name.contains("cluster");
                            assert!(may_give_up, "{name}, k = {k}: {reason}");
                        }
                    }
                }
            }
        }
        assert!(proven >= 60, "{proven} cases were found");
    }

    #[test]
    fn copies_of_a_value_that_the_block_does_not_see_are_noticed() {
        // 60 equal values in front, of which a block of 32 finds 32.
        let spectrum: Vec<f64> = (0..200)
            .map(|i| if i < 60 { 1.0 } else { 0.5_f64.powi(i - 59) })
            .collect();
        let r = triangle(&spectrum, 6);
        match leading(&r, Side::Right, Wanted::Count(40), 100, f64::EPSILON).unwrap() {
            Outcome::Found(found) => assert_leading("60 equal", &r, Side::Right, &found),
            Outcome::GaveUp(reason) => assert!(!reason.is_empty()),
        }
        let left = gaussian(1, 0, 200, 3);
        let left = qr::Factored::new(left)
            .unwrap()
            .apply(&Array2::eye(3))
            .unwrap();
        assert!(
            !nothing_larger(squares_of(r.view()).unwrap(), &left, &[0.9, 0.9, 0.9], 1e-6).unwrap()
        );
    }

    #[test]
    fn a_part_of_the_squares_takes_the_fewest_values() {
        let spectrum: Vec<f64> = (0..300).map(|i| 0.8_f64.powi(i)).collect();
        let r = triangle(&spectrum, 7);
        let total: f64 = spectrum.iter().map(|s| s * s).sum();
        for part in [0.3, 0.9, 0.99] {
            let mut sum = 0.0;
            let expected = spectrum.iter().position(|s| {
                sum += s * s / total;
                sum >= part
            });
            match leading(&r, Side::Left, Wanted::Squares(part), 150, f64::EPSILON).unwrap() {
                Outcome::Found(found) => {
                    assert_eq!(found.values.len(), expected.unwrap() + 1);
                    assert_leading("squares", &r, Side::Left, &found);
                }
                Outcome::GaveUp(reason) => panic!("{part}: {reason}"),
            }
        }
    }

    #[test]
    fn what_has_no_leading_values_is_given_up() {
        for r in [zeros(1, 1), zeros(40, 40)] {
            let outcome = leading(&r, Side::Right, Wanted::Count(1), 20, f64::EPSILON).unwrap();
            assert!(matches!(outcome, Outcome::GaveUp(_)), "{outcome:?}");
        }
        // No room for a basis.
        let outcome = leading(
            &triangle(&[1.0], 8),
            Side::Right,
            Wanted::Count(1),
            20,
            f64::EPSILON,
        );
        assert!(matches!(outcome.unwrap(), Outcome::GaveUp(_)));
        // A flat spectrum does not converge in a small basis.
        let flat: Vec<f64> = (0..200).map(|i| 1.0 - 1e-3 * f64::from(i)).collect();
        let outcome = leading(
            &triangle(&flat, 9),
            Side::Right,
            Wanted::Count(30),
            64,
            f64::EPSILON,
        );
        assert!(matches!(outcome.unwrap(), Outcome::GaveUp(_)));
    }

    #[test]
    fn a_coarser_accuracy_bounds_the_residual_and_the_values() {
        for (spectrum, k) in [
            ((0..400).map(|i| 0.85_f64.powi(i)).collect::<Vec<_>>(), 12),
            // The proof needs more than the accuracy here.
            ((0..400).map(|i| 0.8_f64.powi(i)).collect(), 24),
        ] {
            let r = triangle(&spectrum, 21);
            let found = |accuracy| match leading(&r, Side::Right, Wanted::Count(k), 200, accuracy) {
                Ok(Outcome::Found(found)) => found,
                other => panic!("{accuracy}: {other:?}"),
            };
            let (fine, coarse) = (found(f64::EPSILON), found(1e-8));
            let limit = 4.0 * UNITS * 1e-8 * 20.0;
            let (exact, near) = (fine.residual, coarse.residual);
            assert!(exact < 1e-12 && near <= limit, "{k}: {exact} {near}");
            // Each value is off by no more than its residual.
            for (value, exact) in coarse.values.iter().zip(&spectrum) {
                assert!((value - exact).abs() <= limit, "{value} {exact}");
            }
        }
    }
}
