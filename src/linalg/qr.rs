//! QR of a tall matrix, and of one triangle on top of another.
//!
//! Both go panel by panel: LAPACK factors some columns, and what it leaves, I - V T V^T, is applied to
//! the columns right of them by matrix products. The products run on tiles of columns, side by side
//! on the threads of the current pool, while one thread goes ahead to the next panel. Panels and
//! tiles have fixed places, so the bits do not depend on the threads.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::blas::{Transpose, gemm};
use super::scalar::Scalar;
use super::{LinalgError, by_columns, lapack, zeros};

/// Columns of a panel of [`Factored`]. With more of them the products become faster, and more of the
/// work is that of the panels, which are slower; between 128 and 320 the sum hardly changes.
const PANEL: usize = 256;

/// Columns of a panel of [`Merged`], where a panel multiplies about half its width of zeros.
const MERGE_PANEL: usize = 128;

/// Columns of a tile: what a tall tile holds stays in the last-level cache from one of its products
/// to the next.
const TILE: usize = 512;

/// First column and end of the panels of k columns.
fn panels(k: usize, width: usize) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    (0..k.div_ceil(width)).map(move |i| (i * width, (i * width + width).min(k)))
}

/// The QR factorisation of a matrix `[m, n]`, with Q as Householder reflectors.
#[derive(Debug, Clone)]
pub struct Factored<T> {
    /// R on and above the diagonal, reflectors below.
    reflectors: Array2<T>,
    /// The triangles T of the panels, side by side.
    factors: Array2<T>,
}

impl<T: Scalar> Factored<T> {
    /// Factors `a`, `[m, n]`, stored by columns. 2 n^2 (m - n / 3) operations.
    pub fn new(mut a: Array2<T>) -> Result<Self, LinalgError> {
        let k = a.nrows().min(a.ncols());
        let mut factors = zeros(PANEL.min(k), k);
        let (mut v, mut t) = factor_panel(a.slice_mut(s![.., ..PANEL.min(k)]))?;
        for (start, end) in panels(k, PANEL) {
            let right = a.slice_mut(s![start.., end..]);
            let (mut ahead, rest) = right.split_at(Axis(1), PANEL.min(k - end));
            let (next, done) = rayon::join(
                || {
                    reflect((v.view(), t.view(), Transpose::Yes), ahead.view_mut())?;
                    factor_panel(ahead.slice_mut(s![end - start.., ..]))
                },
                || {
                    in_tiles(rest, |tile| {
                        reflect((v.view(), t.view(), Transpose::Yes), tile)
                    })
                },
            );
            done?;
            factors.slice_mut(s![..t.nrows(), start..end]).assign(&t);
            (v, t) = next?;
        }
        Ok(Factored {
            reflectors: a,
            factors,
        })
    }

    /// R, upper trapezoidal, `[min(m, n), n]`, stored by columns.
    pub fn r(&self) -> Array2<T> {
        let mut r = by_columns(self.reflectors.slice(s![..self.factors.ncols(), ..]));
        clear_below_diagonal(r.view_mut());
        r
    }

    /// `Q [top; 0]`, `[m, k]`, for `top` `[min(m, n), k]`.
    pub fn apply(&self, top: &Array2<T>) -> Result<Array2<T>, LinalgError> {
        let mut c = zeros(self.reflectors.nrows(), top.ncols());
        c.slice_mut(s![..top.nrows(), ..]).assign(top);
        for (start, end) in panels(self.factors.ncols(), PANEL).rev() {
            let mut v = by_columns(self.reflectors.slice(s![start.., start..end]));
            unit_lower_trapezoid(v.view_mut());
            let t = self.factors.slice(s![..end - start, start..end]);
            in_tiles(c.slice_mut(s![start.., ..]), |tile| {
                reflect((v.view(), t, Transpose::No), tile)
            })?;
        }
        Ok(c)
    }
}

/// Factors a panel in place; returns V with its zeros and ones, and T.
fn factor_panel<T: Scalar>(
    mut panel: ArrayViewMut2<T>,
) -> Result<(Array2<T>, Array2<T>), LinalgError> {
    let mut v = by_columns(panel.view());
    let t = lapack::geqrt3(&mut v)?;
    panel.assign(&v);
    unit_lower_trapezoid(v.view_mut());
    Ok((v, t))
}

/// `c -= V op(T) V^T c`, with T or its transpose.
fn reflect<T: Scalar>(
    (v, t, transpose): (ArrayView2<T>, ArrayView2<T>, Transpose),
    mut c: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    // c^T V rather than V^T c: BLAS takes the longer side of the product better as rows.
    let mut along = zeros(c.ncols(), v.ncols());
    gemm(
        T::one(),
        (c.view(), Transpose::Yes),
        (v, Transpose::No),
        T::zero(),
        along.view_mut(),
    )?;
    let turned = turn(&along, t, transpose)?;
    subtract(v, &turned, c.view_mut())
}

/// `(op(T) along^T)^T`.
fn turn<T: Scalar>(
    along: &Array2<T>,
    t: ArrayView2<T>,
    transpose: Transpose,
) -> Result<Array2<T>, LinalgError> {
    let mut turned = zeros(along.nrows(), along.ncols());
    gemm(
        T::one(),
        (along.view(), Transpose::No),
        (t, transpose.other()),
        T::zero(),
        turned.view_mut(),
    )?;
    Ok(turned)
}

/// `c -= V turned^T`.
fn subtract<T: Scalar>(
    v: ArrayView2<T>,
    turned: &Array2<T>,
    c: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    gemm(
        -T::one(),
        (v, Transpose::No),
        (turned.view(), Transpose::Yes),
        T::one(),
        c,
    )
}

/// Does `work` on every tile of the columns of `c`.
fn in_tiles<T: Scalar>(
    mut c: ArrayViewMut2<T>,
    work: impl Fn(ArrayViewMut2<T>) -> Result<(), LinalgError> + Sync,
) -> Result<(), LinalgError> {
    let tiles: Vec<_> = c.axis_chunks_iter_mut(Axis(1), TILE).collect();
    tiles.into_par_iter().try_for_each(&work)
}

/// The QR factorisation of two upper triangles `[n, n]`, one on top of the other, with full rows
/// between them. It uses that they are triangles: 2/3 n^3 operations instead of 10/3 n^3.
#[derive(Debug, Clone)]
pub struct Merged<T> {
    /// The lower parts of the reflectors; their upper parts are the columns of an identity.
    reflectors: Array2<T>,
    /// The triangles T of the panels, side by side.
    factors: Array2<T>,
}

impl<T: Scalar> Merged<T> {
    /// Factors `[top; between; bottom]`, where `between` is `[m, n]`; returns R `[n, n]` and the
    /// reflectors.
    pub fn new(
        mut top: Array2<T>,
        between: &Array2<T>,
        bottom: &Array2<T>,
    ) -> Result<(Array2<T>, Self), LinalgError> {
        let n = top.ncols();
        let full = between.nrows();
        let mut lower = zeros(full + n, n);
        lower.slice_mut(s![..full, ..]).assign(between);
        lower.slice_mut(s![full.., ..]).assign(bottom);
        let mut factors = zeros(MERGE_PANEL.min(n), n);
        // Below full + end, the columns of a panel that ends at `end` are zero.
        let first = MERGE_PANEL.min(n);
        let mut t = factor_pair(
            top.slice_mut(s![..first, ..first]),
            lower.slice_mut(s![..full + first, ..first]),
        )?;
        for (start, end) in panels(n, MERGE_PANEL) {
            let width = MERGE_PANEL.min(n - end);
            let rows = full + end;
            let (v, right) = lower.view_mut().split_at(Axis(1), end);
            let v = v.slice_move(s![..rows, start..]);
            let v = v.view();
            let (mut lower_ahead, lower_rest) = right.split_at(Axis(1), width);
            let above = top.slice_mut(s![start..(end + width), end..]);
            let (mut above_ahead, above_rest) = above.split_at(Axis(1), width);
            let above_rest = above_rest.slice_move(s![..end - start, ..]);
            let lower_rest = lower_rest.slice_move(s![..rows, ..]);
            let (next, done) = rayon::join(
                || {
                    let (reached, corner) = above_ahead.view_mut().split_at(Axis(0), end - start);
                    let lower = lower_ahead.slice_mut(s![..rows, ..]);
                    reflect_pair((v, t.view(), Transpose::Yes), reached, lower)?;
                    factor_pair(corner, lower_ahead.slice_mut(s![..rows + width, ..]))
                },
                || {
                    in_tiles_of_both(above_rest, lower_rest, |above, lower| {
                        reflect_pair((v, t.view(), Transpose::Yes), above, lower)
                    })
                },
            );
            done?;
            factors.slice_mut(s![..t.nrows(), start..end]).assign(&t);
            t = next?;
        }
        let merged = Merged {
            reflectors: lower,
            factors,
        };
        Ok((top, merged))
    }

    /// `Q [c; 0]`, cut into the part that belongs to the top triangle and the part that belongs
    /// to what was below it; `c` is `[n, k]`, the parts are `[n, k]` and `[m + n, k]`.
    pub fn apply(&self, c: &Array2<T>) -> Result<(Array2<T>, Array2<T>), LinalgError> {
        let n = self.reflectors.ncols();
        let full = self.reflectors.nrows() - n;
        let mut top = by_columns(c.view());
        let mut lower = zeros(full + n, c.ncols());
        for (start, end) in panels(n, MERGE_PANEL).rev() {
            let v = self.reflectors.slice(s![..full + end, start..end]);
            let t = self.factors.slice(s![..end - start, start..end]);
            in_tiles_of_both(
                top.slice_mut(s![start..end, ..]),
                lower.slice_mut(s![..full + end, ..]),
                |above, lower| reflect_pair((v, t, Transpose::No), above, lower),
            )?;
        }
        Ok((top, lower))
    }
}

/// Factors a triangle `[b, b]` and the rows `[m, b]` below it in place; returns T. The lower part of V
/// takes the place of the rows; its upper part is an identity, because the triangle has only zeros
/// below its diagonal.
fn factor_pair<T: Scalar>(
    mut triangle: ArrayViewMut2<T>,
    mut below: ArrayViewMut2<T>,
) -> Result<Array2<T>, LinalgError> {
    let width = triangle.ncols();
    let mut panel = zeros(width + below.nrows(), width);
    panel.slice_mut(s![..width, ..]).assign(&triangle);
    panel.slice_mut(s![width.., ..]).assign(&below);
    let t = lapack::geqrt3(&mut panel)?;
    clear_below_diagonal(panel.slice_mut(s![..width, ..]));
    triangle.assign(&panel.slice(s![..width, ..]));
    below.assign(&panel.slice(s![width.., ..]));
    Ok(t)
}

/// [`reflect`] for `[I; V]` and `[above; below]`.
fn reflect_pair<T: Scalar>(
    (v, t, transpose): (ArrayView2<T>, ArrayView2<T>, Transpose),
    mut above: ArrayViewMut2<T>,
    below: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    let mut along = by_columns(above.t());
    gemm(
        T::one(),
        (below.view(), Transpose::Yes),
        (v, Transpose::No),
        T::one(),
        along.view_mut(),
    )?;
    let turned = turn(&along, t, transpose)?;
    above -= &turned.t();
    subtract(v, &turned, below)
}

/// Does `work` on every tile of the columns of two matrices with equally many.
fn in_tiles_of_both<T: Scalar>(
    mut above: ArrayViewMut2<T>,
    mut below: ArrayViewMut2<T>,
    work: impl Fn(ArrayViewMut2<T>, ArrayViewMut2<T>) -> Result<(), LinalgError> + Sync,
) -> Result<(), LinalgError> {
    let above = above.axis_chunks_iter_mut(Axis(1), TILE);
    let tiles: Vec<_> = above
        .zip(below.axis_chunks_iter_mut(Axis(1), TILE))
        .collect();
    tiles
        .into_par_iter()
        .try_for_each(|(above, below)| work(above, below))
}

/// Puts zeros above the diagonal and ones on it.
fn unit_lower_trapezoid<T: Scalar>(mut v: ArrayViewMut2<T>) {
    for (j, mut column) in v.columns_mut().into_iter().enumerate() {
        column.slice_mut(s![..j]).fill(T::zero());
        column[j] = T::one();
    }
}

fn clear_below_diagonal<T: Scalar>(mut r: ArrayViewMut2<T>) {
    for (j, mut column) in r.columns_mut().into_iter().enumerate() {
        let below = (j + 1).min(column.len());
        column.slice_mut(s![below..]).fill(T::zero());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, norms};
    use ndarray::{Axis, concatenate};

    /// LAPACK's ratios |A - QR| / (|A| m eps) and |I - Q^T Q| / (m eps) stay below 30.
    fn assert_ratios<T: Scalar>(name: &str, a: &Array2<T>, q: &Array2<T>, r: &Array2<T>) {
        let wide = |matrix: &Array2<T>| matrix.mapv(Scalar::as_f64);
        let (q, r) = (wide(q), wide(r));
        let m = a.nrows() as f64;
        let norm = norms::frobenius(a).max(T::min_positive_value().as_f64());
        let residual = norms::frobenius(&(&wide(a) - &q.dot(&r))) / (norm * m * T::EPS);
        assert!(residual < 30.0, "{name} {:?}: residual {residual}", a.dim());
        let identity = Array2::<f64>::eye(q.ncols());
        let distance = norms::frobenius(&(&q.t().dot(&q) - &identity)) / (m * T::EPS);
        assert!(
            distance < 30.0,
            "{name} {:?}: orthogonality {distance}",
            a.dim()
        );
    }

    #[test]
    fn tall_and_flat_matrices_factor_within_the_ratios() {
        fn check<T: Scalar>(name: &str, a: &Array2<T>) {
            for a in [by_columns(a.view()), by_columns(a.t())] {
                let factored = Factored::new(a.clone()).unwrap();
                let r = factored.r();
                assert_eq!(r.dim(), (a.nrows().min(a.ncols()), a.ncols()));
                let q = factored.apply(&Array2::eye(r.nrows())).unwrap();
                assert_ratios(name, &a, &q, &r);
            }
        }
        for (m, n) in [(1, 1), (2, 1), (7, 7), (40, 13), (130, 64), (300, 257)] {
            for (name, a) in hostile::all(m, n) {
                check(name, &a);
                check(name, &hostile::in_single(name, &a));
            }
        }
        // Several panels, and several tiles right of them.
        check("uniform", &hostile::uniform(1100, 1000, 2));
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let a = by_columns(hostile::uniform(700, 1300, 3).view());
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let r = Factored::new(a.clone()).unwrap().r();
                let square = by_columns(r.slice(s![.., ..700]));
                let (merged, _) = Merged::new(square.clone(), &zeros(1, 700), &square).unwrap();
                (r, merged)
            })
        };
        let alone = with(1);
        for threads in [2, 3, 8] {
            assert!(with(threads) == alone, "{threads} threads");
        }
    }

    #[test]
    fn merged_triangles_factor_within_the_ratios() {
        fn check<T: Scalar>(name: &str, a: &Array2<T>) {
            let n = a.ncols();
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
        for n in [1, 2, 5, 49, 128, 129] {
            for (name, a) in hostile::all(2 * n, n) {
                check(name, &a);
                check(name, &hostile::in_single(name, &a));
            }
        }
        check("uniform", &hostile::uniform(1400, 700, 4));
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
