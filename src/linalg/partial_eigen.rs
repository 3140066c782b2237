//! The leading eigenvalues and eigenvectors of the products of some columns, and a proof that none is missed.
//!
//! Block Lanczos with full reorthogonalisation (Golub and Underwood, "The block Lanczos method for computing
//! eigenvalues", 1977) on `C = X^T X`: from a random block, products with C and orthogonalisation make a
//! basis V; the eigenvalues of the small `T = V^T C V` approach those of C, the largest first. They are the
//! squares of the singular values of X, and the eigenvectors its right singular vectors, so the search is
//! that of [`partial_svd`](super::partial_svd) with half of its bases. What is found is checked in the same
//! way: residuals from products with C itself, and a Cholesky factor of `t^2 I - (C - V S^2 V^T)` for a t just
//! above the last value, which exists only if no other is larger. [`leading_of_all`] takes LAPACK's eigenvectors of the
//! whole instead, and needs no such proof.
//!
//! All of that is true of C as it is given. What rounding in C means for X, the caller has to know.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::basis::orthonormalize;
use super::blas::{self, Transpose};
use super::gaussian::gaussian;
use super::partial_svd::{
    BLOCK, GROWTH, LEAST_BLOCKS, Leading, Outcome, UNITS, Wanted, doubt, needed, nothing_larger,
};
use super::{LinalgError, lapack, norms, qr, svd, triangle, zeros};

const SEED: u64 = 0x7038_6569_6765;

/// C, of which the upper triangle counts, between 1 and 4 times a power of four; the root of what it was divided by;
/// and its trace.
struct Scaled {
    c: Array2<f64>,
    root: f64,
    trace: f64,
}

impl Scaled {
    /// None of a matrix without a trace.
    fn new(mut c: Array2<f64>) -> Option<Scaled> {
        let trace: f64 = c.diag().sum();
        if trace <= 0.0 || !trace.is_finite() {
            return None;
        }
        // A power of four changes no digit, neither of the values nor of their roots, and brings all into the range
        // of the numbers.
        let root = (trace.log2() / 2.0).floor().exp2();
        let inverse = 1.0 / root;
        let columns = c.columns_mut().into_iter().collect::<Vec<_>>();
        let columns = columns.into_par_iter().enumerate();
        columns.for_each(|(j, mut column)| {
            let mut upper = column.slice_mut(s![..=j]);
            upper.mapv_inplace(|x| x * inverse * inverse);
        });
        let trace = trace / root / root;
        Some(Scaled { c, root, trace })
    }
}

/// What a matrix without a trace is given up for.
const NO_TRACE: &str = "the matrix has no trace";

/// The square roots of the leading eigenvalues of a positive semidefinite matrix `[n, n]`, of which the upper
/// triangle counts, and their eigenvectors. `most` is the size of the basis at which it gives up. The residual,
/// `|C v - s^2 v|` over the largest eigenvalue, counts as converged at some units of `accuracy`, no less than
/// eps. [`Wanted::Squares`] is a part of the trace.
///
/// About 2 n^2 m + 4 n m^2 operations for a basis of m, and n^3 / 3 for the proof. The start is the same
/// every time, so equal input gives equal bits.
pub fn leading(
    c: Array2<f64>,
    wanted: Wanted,
    most: usize,
    accuracy: f64,
) -> Result<Outcome, LinalgError> {
    let n = c.nrows();
    let Some(Scaled { c, root, trace }) = Scaled::new(c) else {
        return Ok(Outcome::GaveUp(NO_TRACE.into()));
    };
    let tolerance = UNITS * accuracy * (n as f64).sqrt();
    let mut lanczos = Lanczos::new(c.view(), most.min(n / 2))?;
    let mut next_look = match wanted {
        Wanted::Count(k) => 2 * k,
        Wanted::Squares(_) => 4 * lanczos.block,
    };
    let found = loop {
        if !lanczos.grow()? {
            return Ok(Outcome::GaveUp(format!(
                "a basis of {} vectors did not bring them to convergence",
                lanczos.size
            )));
        }
        if lanczos.size < next_look && lanczos.has_room() {
            continue;
        }
        next_look = (lanczos.size as f64 * GROWTH) as usize;
        if let Some(pairs) = lanczos.converged(wanted, trace, tolerance)? {
            break lanczos.check(pairs, tolerance)?;
        }
    };
    let (mut found, doubt) = match found {
        Ok(found) => found,
        Err(reason) => return Ok(Outcome::GaveUp(reason)),
    };
    if !nothing_larger(c, &found.vectors, &found.values, doubt)? {
        return Ok(Outcome::GaveUp(format!(
            "there are other values as large as value {}",
            found.values.len()
        )));
    }
    found.values.iter_mut().for_each(|value| *value *= root);
    Ok(Outcome::Found(found))
}

/// What [`leading`] gives, from all eigenvalues: for a low order, and for more values than a basis finds soon. It gives
/// up where more than `most` are wanted. About 4 n^3 operations, on one thread.
pub fn leading_of_all(
    c: Array2<f64>,
    wanted: Wanted,
    most: usize,
    accuracy: f64,
) -> Result<Outcome, LinalgError> {
    let n = c.nrows();
    let Some(Scaled { c, root, trace }) = Scaled::new(c) else {
        return Ok(Outcome::GaveUp(NO_TRACE.into()));
    };
    let (mut values, vectors) = lapack::syevd(c.clone())?;
    values.reverse();
    let k = match wanted {
        Wanted::Count(k) => Some(k),
        Wanted::Squares(part) => reaching(&values, part * trace),
    };
    let k = match k {
        Some(k) if k <= most => k,
        _ => {
            return Ok(Outcome::GaveUp(format!("more than {most} are wanted")));
        }
    };
    values.truncate(k);
    let vectors = vectors.slice(s![.., n - k..;-1]);
    let tolerance = UNITS * accuracy * (n as f64).sqrt();
    Ok(
        match check(c.view(), values, super::by_columns(vectors), tolerance)? {
            Ok((mut found, _)) => {
                found.values.iter_mut().for_each(|value| *value *= root);
                Outcome::Found(found)
            }
            Err(reason) => Outcome::GaveUp(reason),
        },
    )
}

/// How many of the values, largest first, reach this sum.
fn reaching(values: &[f64], least: f64) -> Option<usize> {
    let mut sum = 0.0;
    let reached = |value: &f64| {
        sum += value;
        sum >= least
    };
    values.iter().position(reached).map(|last| last + 1)
}

/// Eigenvalues of T, largest first, and their vectors in the basis, one a row.
struct Pairs {
    values: Vec<f64>,
    coefficients: Array2<f64>,
}

/// Found values with their vectors, and by which part another value may exceed the last one unnoticed; or why
/// there is doubt.
type Checked = Result<(Leading, f64), String>;

/// The basis and T.
struct Lanczos<'a> {
    c: ArrayView2<'a, f64>,
    /// `[n, most + block]`, of which `size` columns belong to T and the next block is there.
    v: Array2<f64>,
    /// V^T C V, `[most, most]`.
    t: Array2<f64>,
    /// How the next block of V couples to the last one of T, `[block, block]`.
    coupling: Array2<f64>,
    block: usize,
    size: usize,
    /// Rows of the random numbers that were used.
    drawn: usize,
}

impl<'a> Lanczos<'a> {
    fn new(c: ArrayView2<'a, f64>, most: usize) -> Result<Self, LinalgError> {
        let n = c.nrows();
        let block = (most / LEAST_BLOCKS).clamp(1, BLOCK);
        let most = most / block * block;
        let mut v = zeros(n, most + block);
        let start = qr::Factored::new(gaussian(SEED, 0, n, block))?.apply(&Array2::eye(block))?;
        v.slice_mut(s![.., ..block]).assign(&start);
        Ok(Lanczos {
            c,
            v,
            t: zeros(most, most),
            coupling: zeros(block, block),
            block,
            size: 0,
            drawn: 0,
        })
    }

    /// Whether T has a place for another block.
    fn has_room(&self) -> bool {
        self.size + self.block <= self.t.ncols()
    }

    /// Adds a block to T; false where there is no room for it.
    fn grow(&mut self) -> Result<bool, LinalgError> {
        if !self.has_room() {
            return Ok(false);
        }
        let (start, end) = (self.size, self.size + self.block);
        let image = triangle::symmetric_product(self.c, self.v.slice(s![.., start..end]))?;
        let (next, within, coupling) =
            orthonormalize(self.v.slice(s![.., ..end]), image, &mut self.drawn)?;
        self.t.slice_mut(s![..end, start..end]).assign(&within);
        self.t.slice_mut(s![start..end, ..end]).assign(&within.t());
        let place = end..end + self.block;
        self.v.slice_mut(s![.., place]).assign(&next);
        self.coupling = coupling;
        self.size = end;
        Ok(true)
    }

    /// The leading pairs that are wanted, once all of them have converged.
    fn converged(
        &self,
        wanted: Wanted,
        trace: f64,
        tolerance: f64,
    ) -> Result<Option<Pairs>, LinalgError> {
        let m = self.size;
        // Positive semidefinite but for rounding: the leading singular values are the eigenvalues. An SVD keeps more
        // digits of the small coefficients that tell of convergence.
        let small = svd::svd(super::by_columns(self.t.slice(s![..m, ..m])))?;
        let values = &small.values;
        let k = match wanted {
            Wanted::Count(k) => Some(k).filter(|k| *k < m),
            Wanted::Squares(part) => reaching(values, part * trace),
        };
        let Some(k) = k else { return Ok(None) };
        let roots: Vec<f64> = values[..k].iter().map(|value| value.sqrt()).collect();
        let limit = needed(tolerance, &roots, self.c.nrows()) * values[0];
        // C V = V T + V_next B in the columns of the last block, so the residual of C v - s^2 v is B times the
        // last coefficients of v.
        let last = small.vt.slice(s![..k, m - self.block..]);
        let residuals = self.coupling.dot(&last.t());
        let lengths = norms::of_columns(residuals.view()).into_iter();
        // Over the value itself this is `|X^T u - s v|`, which then is as small for every value.
        let mut pairs = lengths.zip(&roots);
        let converged = pairs.all(|(length, root)| length <= limit * (root / roots[0]));
        Ok(converged.then(|| Pairs {
            values: values[..k].to_vec(),
            coefficients: small.vt.slice(s![..k, ..]).to_owned(),
        }))
    }

    /// The vectors of some pairs, checked.
    fn check(&self, pairs: Pairs, tolerance: f64) -> Result<Checked, LinalgError> {
        let mut vectors = zeros(self.c.nrows(), pairs.values.len());
        let coefficients = super::by_columns(pairs.coefficients.view());
        blas::gemm(
            1.0,
            (self.v.slice(s![.., ..self.size]), Transpose::No),
            (coefficients.view(), Transpose::Yes),
            0.0,
            vectors.view_mut(),
        )?;
        check(self.c, pairs.values, vectors, tolerance)
    }
}

/// Eigenvalues, largest first, and vectors `[n, k]`, checked by products with C itself.
fn check(
    c: ArrayView2<f64>,
    eigenvalues: Vec<f64>,
    vectors: Array2<f64>,
    tolerance: f64,
) -> Result<Checked, LinalgError> {
    let n = c.nrows();
    let values: Vec<f64> = eigenvalues.iter().map(|value| value.sqrt()).collect();
    // A residual of rho s_1^2 couples a pair to the rest of C by as much, which moves the largest value of the
    // rest by the square of that over s_k^2.
    let limit = 4.0 * needed(tolerance, &values, n);
    let doubt = match doubt(limit, &values, n) {
        Ok(doubt) => doubt,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut images = triangle::symmetric_product(c, vectors.view())?;
    for ((mut image, vector), value) in images
        .columns_mut()
        .into_iter()
        .zip(vectors.columns())
        .zip(&eigenvalues)
    {
        image.scaled_add(-value, &vector);
    }
    let lengths = norms::of_columns(images.view()).into_iter();
    let residual = lengths.fold(0.0, f64::max) / eigenvalues[0];
    if residual.is_nan() || residual > limit {
        return Ok(Err(format!(
            "the residual of a vector is {residual:.1e}, more than {limit:.1e}"
        )));
    }
    let leading = Leading {
        values,
        vectors,
        residual,
    };
    Ok(Ok((leading, doubt)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile};

    /// Rows with these singular values, and the upper triangle of their products.
    fn products(spectrum: &[f64], seed: u64) -> (Array2<f64>, Array2<f64>) {
        let n = spectrum.len();
        let rows = by_columns(hostile::with_spectrum(n + 9, spectrum, seed).view());
        let mut products = by_columns(rows.t().dot(&rows).view());
        for ((i, j), x) in products.indexed_iter_mut() {
            // What is below the diagonal does not count.
            if i > j {
                *x = f64::NAN;
            }
        }
        (rows, products)
    }

    type Way = fn(Array2<f64>, Wanted, usize, f64) -> Result<Outcome, LinalgError>;

    const WAYS: [Way; 2] = [leading, leading_of_all];

    fn falling(n: usize, factor: f64) -> Vec<f64> {
        (0..n).map(|i| 3.0 * factor.powi(i as i32)).collect()
    }

    #[test]
    fn leading_values_are_those_of_the_svd_of_the_rows() {
        for (n, factor, k) in [(64, 0.8, 3), (150, 0.9, 10), (300, 0.92, 20)] {
            let (mut rows, products) = products(&falling(n, factor), 5);
            let (_, exact, right) = lapack::gesdd(&mut rows).unwrap();
            // Powers of two, where numbers near the ends of the range are not squared.
            let scales = [1.0, 2.0_f64.powi(900), 2.0_f64.powi(-900)];
            for (scale, find) in scales
                .into_iter()
                .flat_map(|scale| WAYS.map(|way| (scale, way)))
            {
                let scaled = &products * scale;
                let outcome = find(scaled, Wanted::Count(k), n / 2, f64::EPSILON).unwrap();
                let Outcome::Found(found) = outcome else {
                    panic!("{n} {k}: {outcome:?}");
                };
                assert_eq!(found.values.len(), k);
                assert!(found.residual <= 1e-12, "{}", found.residual);
                for (index, (value, exact_value)) in found.values.iter().zip(&exact).enumerate() {
                    let value = value / scale.sqrt();
                    // Rounding is relative to the square of the largest.
                    let limit = 30.0 * n as f64 * f64::EPSILON * exact[0] * exact[0] / exact_value;
                    assert!(
                        (value - exact_value).abs() <= limit,
                        "{value} {exact_value}"
                    );
                    let along = right.row(index).dot(&found.vectors.column(index)).abs();
                    assert!((along - 1.0).abs() <= 1e-9, "{along}");
                }
            }
        }
    }

    #[test]
    fn a_part_of_the_trace_takes_as_many_values_as_it_needs() {
        let spectrum = falling(200, 0.9);
        let whole: f64 = spectrum.iter().map(|s| s * s).sum();
        let squares = |k: usize| spectrum[..k].iter().map(|s| s * s).sum::<f64>() / whole;
        let (_, products) = products(&spectrum, 6);
        let part = (squares(7) + squares(8)) / 2.0;
        let wanted = Wanted::Squares(part);
        for find in WAYS {
            match find(products.clone(), wanted, 100, f64::EPSILON).unwrap() {
                Outcome::Found(found) => assert_eq!(found.values.len(), 8),
                Outcome::GaveUp(reason) => panic!("{reason}"),
            }
        }
        match leading_of_all(products, wanted, 7, f64::EPSILON).unwrap() {
            Outcome::GaveUp(reason) => assert!(reason.contains("more than 7"), "{reason}"),
            Outcome::Found(found) => panic!("{:?}", found.values),
        }
    }

    #[test]
    fn what_it_cannot_prove_it_does_not_say() {
        let mut small = falling(120, 0.9);
        small[2..].fill(1e-5);
        // Of more vectors than there are directions the last ones have values of nothing but rounding.
        let mut few = falling(120, 0.9);
        few[5..].fill(0.0);
        for (find, spectrum, k, most, words) in [
            (WAYS[0], small.clone(), 3, 60, "too small"),
            (WAYS[1], small, 3, 60, "too small"),
            (WAYS[1], few, 8, 60, "too small"),
            (WAYS[0], vec![0.0; 40], 2, 20, "no trace"),
            (WAYS[1], vec![0.0; 40], 2, 20, "no trace"),
            (WAYS[0], falling(120, 0.999), 2, 24, "convergence"),
        ] {
            let (_, products) = products(&spectrum, 7);
            let outcome = find(products, Wanted::Count(k), most, f64::EPSILON).unwrap();
            match outcome {
                Outcome::GaveUp(reason) => assert!(reason.contains(words), "{words}: {reason}"),
                Outcome::Found(found) => panic!("{words}: {:?}", found.values),
            }
        }
    }
}
