//! The thin singular value decomposition.

use ndarray::Array2;

use super::{LinalgError, lapack};

/// `A = U diag(values) V^T`, thin: with r = min(m, n), U is `[m, r]` and V^T is `[r, n]`.
#[derive(Debug, Clone)]
pub struct Svd {
    /// Left singular vectors as columns, `[m, r]`.
    pub u: Array2<f64>,
    /// Singular values, largest first, `[r]`.
    pub values: Vec<f64>,
    /// Right singular vectors as rows, `[r, n]`.
    pub vt: Array2<f64>,
}

/// The thin SVD of a finite matrix `[m, n]` stored by columns.
///
/// Divide and conquer first (Gu and Eisenstat, "A divide-and-conquer algorithm for the bidiagonal
/// SVD", 1995), which is the fast one; where it does not converge, QR iteration, and the log says
/// so. O(m n min(m, n)) operations.
pub fn svd(a: Array2<f64>) -> Result<Svd, LinalgError> {
    let (u, values, vt) = match lapack::gesdd(&mut a.clone()) {
        Err(error @ LinalgError::NotConverged { .. }) => {
            tracing::warn!("{error}; dgesvd, which is slower, takes over");
            lapack::gesvd(&mut { a })?
        }
        other => other?,
    };
    Ok(Svd { u, values, vt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, norms};

    /// LAPACK's ratios, which must stay below 30: |A - U S V^T| / (|A| max(m, n) eps) and
    /// |I - U^T U| / (m eps), |I - V^T V| / (n eps).
    fn ratios(a: &Array2<f64>, (u, values, vt): &lapack::SvdFactors) -> [f64; 3] {
        let eps = f64::EPSILON;
        let (m, n) = a.dim();
        let mut us = u.clone();
        for (mut column, value) in us.columns_mut().into_iter().zip(values) {
            column *= *value;
        }
        let norm = norms::frobenius(a).max(f64::MIN_POSITIVE);
        let identity = Array2::<f64>::eye(values.len());
        [
            norms::frobenius(&(a - &us.dot(vt))) / (norm * m.max(n) as f64 * eps),
            norms::frobenius(&(&u.t().dot(u) - &identity)) / (m as f64 * eps),
            norms::frobenius(&(&vt.dot(&vt.t()) - &identity)) / (n as f64 * eps),
        ]
    }

    #[test]
    fn both_routines_pass_the_ratios_on_hostile_matrices() {
        for (m, n) in [(1, 1), (5, 1), (12, 7), (60, 25)] {
            for (name, a) in hostile::all(m, n) {
                let tall = by_columns(a.view());
                let flat = by_columns(a.t());
                for a in [tall, flat] {
                    let by_division = lapack::gesdd(&mut a.clone()).unwrap();
                    let by_iteration = lapack::gesvd(&mut a.clone()).unwrap();
                    for factors in [&by_division, &by_iteration] {
                        for ratio in ratios(&a, factors) {
                            assert!(ratio < 30.0, "{name} {:?}: {ratio}", a.dim());
                        }
                    }
                    let largest = by_division.1[0];
                    for (x, y) in by_division.1.iter().zip(&by_iteration.1) {
                        assert!(
                            (x - y).abs() <= 1e-14 * n as f64 * largest,
                            "{name}: {x} {y}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_lapack_cannot_take_is_an_error() {
        let mut a = crate::linalg::zeros(3, 3);
        a[[1, 1]] = f64::NAN;
        assert!(svd(a).is_err());
    }
}
