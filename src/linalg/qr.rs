//! QR of a tall matrix, and of one triangle on top of another.

use ndarray::{Array2, s};

use super::{LinalgError, lapack, zeros};

/// How many reflectors [`Merged`] gathers into one matrix product. Between the 32 at which the
/// products become worth it and the 64 from which the triangular part of the work grows.
const REFLECTORS_PER_BLOCK: usize = 48;

/// The QR factorisation of a matrix `[m, n]`, with Q as Householder reflectors.
#[derive(Debug, Clone)]
pub struct Factored {
    reflectors: Array2<f64>,
    tau: Vec<f64>,
}

impl Factored {
    /// Factors `a`, `[m, n]`, stored by columns. 2 n^2 (m - n / 3) operations.
    pub fn new(mut a: Array2<f64>) -> Result<Self, LinalgError> {
        let tau = lapack::geqrf(&mut a)?;
        Ok(Factored { reflectors: a, tau })
    }

    /// R, upper trapezoidal, `[min(m, n), n]`, stored by columns.
    pub fn r(&self) -> Array2<f64> {
        let mut r = zeros(self.tau.len(), self.reflectors.ncols());
        r.assign(&self.reflectors.slice(s![..self.tau.len(), ..]));
        clear_below_diagonal(&mut r);
        r
    }

    /// `Q [top; 0]`, `[m, k]`, for `top` `[min(m, n), k]`.
    pub fn apply(&self, top: &Array2<f64>) -> Result<Array2<f64>, LinalgError> {
        let mut c = zeros(self.reflectors.nrows(), top.ncols());
        c.slice_mut(s![..top.nrows(), ..]).assign(top);
        lapack::ormqr(&self.reflectors, &self.tau, &mut c)?;
        Ok(c)
    }
}

/// The QR factorisation of two upper triangles `[n, n]`, one on top of the other, with full rows
/// between them. It uses that they are triangles: 2/3 n^3 operations instead of 10/3 n^3.
#[derive(Debug, Clone)]
pub struct Merged {
    reflectors: Array2<f64>,
    factors: Array2<f64>,
    triangle: usize,
}

impl Merged {
    /// Factors `[top; between; bottom]`, where `between` is `[m, n]`; returns R `[n, n]` and the
    /// reflectors.
    pub fn new(
        mut top: Array2<f64>,
        between: &Array2<f64>,
        bottom: &Array2<f64>,
    ) -> Result<(Array2<f64>, Self), LinalgError> {
        let triangle = bottom.nrows();
        let mut lower = zeros(between.nrows() + triangle, top.ncols());
        lower.slice_mut(s![..between.nrows(), ..]).assign(between);
        lower.slice_mut(s![between.nrows().., ..]).assign(bottom);
        let factors = lapack::tpqrt(&mut top, &mut lower, triangle, REFLECTORS_PER_BLOCK)?;
        clear_below_diagonal(&mut top);
        let merged = Merged {
            reflectors: lower,
            factors,
            triangle,
        };
        Ok((top, merged))
    }

    /// `Q [c; 0]`, cut into the part that belongs to the top triangle and the part that belongs
    /// to what was below it; `c` is `[n, k]`, the parts are `[n, k]` and `[m + n, k]`.
    pub fn apply(&self, c: &Array2<f64>) -> Result<(Array2<f64>, Array2<f64>), LinalgError> {
        let mut top = super::by_columns(c.view());
        let mut lower = zeros(self.reflectors.nrows(), c.ncols());
        lapack::tpmqrt(
            &self.reflectors,
            &self.factors,
            self.triangle,
            &mut top,
            &mut lower,
        )?;
        Ok((top, lower))
    }
}

fn clear_below_diagonal(r: &mut Array2<f64>) {
    for (j, mut column) in r.columns_mut().into_iter().enumerate() {
        let below = (j + 1).min(column.len());
        column.slice_mut(s![below..]).fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, norms};
    use ndarray::{Axis, concatenate};

    /// LAPACK's ratios |A - QR| / (|A| m eps) and |I - Q^T Q| / (m eps) stay below 30.
    fn assert_ratios(name: &str, a: &Array2<f64>, q: &Array2<f64>, r: &Array2<f64>) {
        let m = a.nrows() as f64;
        let norm = norms::frobenius(a).max(f64::MIN_POSITIVE);
        let residual = norms::frobenius(&(a - &q.dot(r))) / (norm * m * f64::EPSILON);
        assert!(residual < 30.0, "{name} {:?}: residual {residual}", a.dim());
        let identity = Array2::<f64>::eye(q.ncols());
        let distance = norms::frobenius(&(&q.t().dot(q) - &identity)) / (m * f64::EPSILON);
        assert!(
            distance < 30.0,
            "{name} {:?}: orthogonality {distance}",
            a.dim()
        );
    }

    #[test]
    fn tall_and_flat_matrices_factor_within_the_ratios() {
        for (m, n) in [(1, 1), (2, 1), (7, 7), (40, 13), (130, 64), (200, 97)] {
            for (name, a) in hostile::all(m, n) {
                for a in [by_columns(a.view()), by_columns(a.t())] {
                    let factored = Factored::new(a.clone()).unwrap();
                    let r = factored.r();
                    assert_eq!(r.dim(), (m.min(n), a.ncols()));
                    let q = factored.apply(&Array2::eye(r.nrows())).unwrap();
                    assert_ratios(name, &a, &q, &r);
                }
            }
        }
    }

    #[test]
    fn merged_triangles_factor_within_the_ratios() {
        for n in [1, 2, 5, 47, 48, 49, 97] {
            for (name, a) in hostile::all(2 * n, n) {
                let triangle = |rows| Factored::new(by_columns(rows)).unwrap().r();
                let top = triangle(a.slice(s![..n, ..]));
                let bottom = triangle(a.slice(s![n.., ..]));
                for rows_between in [0, 1, 3] {
                    let between = by_columns(a.slice(s![..rows_between.min(n), ..]));
                    let stack =
                        concatenate(Axis(0), &[top.view(), between.view(), bottom.view()]).unwrap();
                    let (r, merged) = Merged::new(top.clone(), &between, &bottom).unwrap();
                    let (above, below) = merged.apply(&Array2::eye(n)).unwrap();
                    let q = concatenate(Axis(0), &[above.view(), below.view()]).unwrap();
                    assert_ratios(name, &stack, &q, &r);
                }
            }
        }
    }

    #[test]
    fn columns_of_zeros_stay_exactly_zero() {
        let mut a = hostile::uniform(20, 6, 1);
        a.column_mut(2).fill(0.0);
        let r = Factored::new(by_columns(a.view())).unwrap().r();
        assert!(r.column(2).iter().all(|x| *x == 0.0));
        let (merged, _) = Merged::new(r.clone(), &zeros(0, 6), &r).unwrap();
        assert!(merged.column(2).iter().all(|x| *x == 0.0));
    }
}
