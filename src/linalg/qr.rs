//! QR of a tall matrix, and of one triangle on top of another.
//!
//! Both go panel by panel: LAPACK factors some columns, and what it leaves, I - V T V^T, is applied to
//! the columns right of them by matrix products. The products run on tiles of columns, side by side
//! on the threads of the current pool, while one thread goes ahead to the next panel. Panels and
//! tiles have fixed places, so the bits do not depend on the threads. What the products need of
//! memory is taken once for a whole factorisation: fresh memory costs a page fault every 4 KiB.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::blas::{Transpose, gemm, inner};
use super::scalar::Scalar;
use super::{LinalgError, by_columns, lapack, zeros};

/// Columns of a panel of [`Factored`]. With more of them the products become faster, and more of the
/// work is that of the panels, which are slower.
const PANEL: usize = 128;

/// Columns of a panel of [`Merged`], where a panel multiplies about half its width of zeros.
const MERGE_PANEL: usize = 64;

/// Columns of a tile: wide enough for products at full speed, and what a tall tile holds stays mostly
/// in the last-level cache from one of its products to the next.
const TILE: usize = 768;

/// Columns of a tile of [`Merged`], whose triangles are no taller than wide: narrower ones give more threads
/// work up to the last panels.
const MERGE_TILE: usize = 256;

/// First column and end of the panels of k columns.
fn panels(k: usize, width: usize) -> impl DoubleEndedIterator<Item = (usize, usize)> {
    (0..k.div_ceil(width)).map(move |i| (i * width, (i * width + width).min(k)))
}

/// The QR factorisation of a matrix `[m, n]`, with Q as Householder reflectors.
#[derive(Debug, Clone)]
pub struct Factored<T> {
    /// The reflectors V of the panels, each a unit lower trapezoid with its zeros and ones; above
    /// and right of them R.
    reflectors: Array2<T>,
    /// The blocks of R that the upper parts of V have displaced, side by side.
    diagonal: Array2<T>,
    /// The triangles T of the panels, side by side.
    factors: Array2<T>,
}

impl<T: Scalar> Factored<T> {
    /// Factors `a`, `[m, n]`, stored by columns. 2 n^2 (m - n / 3) operations.
    pub fn new(mut a: Array2<T>) -> Result<Self, LinalgError> {
        let k = a.nrows().min(a.ncols());
        let width = PANEL.min(k);
        let (mut diagonal, mut factors) = (zeros(width, k), zeros(width, k));
        let mut scratch = Scratch::new(a.ncols(), width);
        factor_panel(
            a.slice_mut(s![.., ..width]),
            factors.slice_mut(s![.., ..width]),
            diagonal.slice_mut(s![.., ..width]),
        )?;
        for (start, end) in panels(k, PANEL) {
            if end == a.ncols() {
                // Nothing is left that other threads could take: few columns need not wait for one.
                break;
            }
            let next = PANEL.min(k - end);
            let (left, right) = a.view_mut().split_at(Axis(1), end);
            let v = left.slice_move(s![start.., start..]);
            let (t, t_right) = factors.view_mut().split_at(Axis(1), end);
            let t = t.slice_move(s![..end - start, start..]);
            let reflector = (v.view(), t.view(), Transpose::Yes);
            let right = right.slice_move(s![start.., ..]);
            let (mut ahead, rest) = right.split_at(Axis(1), next);
            let (mine, others) = scratch.split(next);
            let (ahead, rest) = rayon::join(
                || {
                    reflect(reflector, ahead.view_mut(), mine)?;
                    factor_panel(
                        ahead.slice_mut(s![end - start.., ..]),
                        t_right.slice_move(s![..next, ..next]),
                        diagonal.slice_mut(s![..next, end..end + next]),
                    )
                },
                || {
                    in_tiles(rest, others, |tile, scratch| {
                        reflect(reflector, tile, scratch)
                    })
                },
            );
            ahead.and(rest)?;
        }
        Ok(Factored {
            reflectors: a,
            diagonal,
            factors,
        })
    }

    /// R, upper trapezoidal, `[min(m, n), n]`, stored by columns.
    pub fn r(&self) -> Array2<T> {
        let (k, n) = (self.factors.ncols(), self.reflectors.ncols());
        let mut r = zeros(k, n);
        for (j, mut column) in r.columns_mut().into_iter().enumerate() {
            // Where the panel of this column starts; right of all panels R is where it was made.
            let start = if j < k { j / PANEL * PANEL } else { k };
            let above = self.reflectors.slice(s![..start, j]);
            column.slice_mut(s![..start]).assign(&above);
            if j < k {
                let corner = self.diagonal.slice(s![..=j - start, j]);
                column.slice_mut(s![start..=j]).assign(&corner);
            }
        }
        r
    }

    /// The memory of the matrix that was factored, with anything in it.
    pub fn into_memory(self) -> Vec<T> {
        self.reflectors.into_raw_vec_and_offset().0
    }

    /// `Q [top; 0]`, `[m, k]`, for `top` `[min(m, n), k]`.
    pub fn apply(&self, top: &Array2<T>) -> Result<Array2<T>, LinalgError> {
        let mut c = zeros(self.reflectors.nrows(), top.ncols());
        c.slice_mut(s![..top.nrows(), ..]).assign(top);
        let mut scratch = Scratch::new(top.ncols(), self.factors.nrows());
        for (start, end) in panels(self.factors.ncols(), PANEL).rev() {
            let v = self.reflectors.slice(s![start.., start..end]);
            let t = self.factors.slice(s![..end - start, start..end]);
            in_tiles(
                c.slice_mut(s![start.., ..]),
                scratch.all(),
                |tile, scratch| reflect((v, t, Transpose::No), tile, scratch),
            )?;
        }
        Ok(c)
    }
}

/// Room for the two products of [`reflect`], `[width of a panel, columns]` each.
struct Scratch<T>(Array2<T>, Array2<T>);

/// The columns of a [`Scratch`] that belong to some columns of the matrix.
type Room<'a, T> = (ArrayViewMut2<'a, T>, ArrayViewMut2<'a, T>);

impl<T: Scalar> Scratch<T> {
    fn new(columns: usize, width: usize) -> Self {
        Scratch(zeros(width, columns), zeros(width, columns))
    }

    fn all(&mut self) -> Room<'_, T> {
        (self.0.view_mut(), self.1.view_mut())
    }

    /// Room for the first columns, and for the others.
    fn split(&mut self, columns: usize) -> (Room<'_, T>, Room<'_, T>) {
        let (first, others) = self.0.view_mut().split_at(Axis(1), columns);
        let (second, more) = self.1.view_mut().split_at(Axis(1), columns);
        ((first, second), (others, more))
    }
}

/// Factors a panel in place: its reflectors V with their zeros and ones take its place, T goes to
/// `t` and R to `corner`, all `[b, b]`.
fn factor_panel<T: Scalar>(
    mut panel: ArrayViewMut2<T>,
    t: ArrayViewMut2<T>,
    mut corner: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    lapack::geqrt3(panel.view_mut(), t)?;
    let columns = panel.columns_mut().into_iter().zip(corner.columns_mut());
    for (j, (mut column, mut to)) in columns.enumerate() {
        to.slice_mut(s![..=j]).assign(&column.slice(s![..=j]));
        column.slice_mut(s![..j]).fill(T::zero());
        column[j] = T::one();
    }
    Ok(())
}

/// V, T, and whether T is transposed.
type Reflector<'a, T> = (ArrayView2<'a, T>, ArrayView2<'a, T>, Transpose);

/// `c -= V op(T) V^T c`, with T or its transpose.
fn reflect<T: Scalar>(
    (v, t, transpose): Reflector<T>,
    c: ArrayViewMut2<T>,
    (mut along, mut turned): Room<T>,
) -> Result<(), LinalgError> {
    let mut along = along.slice_mut(s![..v.ncols(), ..c.ncols()]);
    let mut turned = turned.slice_mut(s![..v.ncols(), ..c.ncols()]);
    inner(v, c.view(), T::zero(), along.view_mut());
    gemm(
        T::one(),
        (t, transpose),
        (along.view(), Transpose::No),
        T::zero(),
        turned.view_mut(),
    )?;
    gemm(
        -T::one(),
        (v, Transpose::No),
        (turned.view(), Transpose::No),
        T::one(),
        c,
    )
}

/// Does `work` on every tile of the columns of `c`, each with its room.
fn in_tiles<T: Scalar>(
    mut c: ArrayViewMut2<T>,
    (mut along, mut turned): Room<T>,
    work: impl Fn(ArrayViewMut2<T>, Room<T>) -> Result<(), LinalgError> + Sync,
) -> Result<(), LinalgError> {
    let along = along.axis_chunks_iter_mut(Axis(1), TILE);
    let turned = turned.axis_chunks_iter_mut(Axis(1), TILE);
    let tiles: Vec<_> = c
        .axis_chunks_iter_mut(Axis(1), TILE)
        .zip(along.zip(turned))
        .collect();
    tiles
        .into_par_iter()
        .try_for_each(|(tile, room)| work(tile, room))
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
        for (j, mut column) in lower.columns_mut().into_iter().enumerate() {
            column.slice_mut(s![..full]).assign(&between.column(j));
            let triangle = bottom.slice(s![..=j, j]);
            column.slice_mut(s![full..=full + j]).assign(&triangle);
        }
        let width = MERGE_PANEL.min(n);
        let mut factors = zeros(width, n);
        let mut panel = zeros(width + full + n, width);
        let mut along = zeros(width, n);
        let mut turned = zeros(width, n);
        // Below full + end, the columns of a panel that ends at `end` are zero.
        factor_pair(
            top.slice_mut(s![..width, ..width]),
            lower.slice_mut(s![..full + width, ..width]),
            factors.slice_mut(s![.., ..width]),
            &mut panel,
        )?;
        for (start, end) in panels(n, MERGE_PANEL) {
            let next = MERGE_PANEL.min(n - end);
            let rows = full + end;
            let (v, right) = lower.view_mut().split_at(Axis(1), end);
            let v = v.slice_move(s![..rows, start..]);
            let (t, t_right) = factors.view_mut().split_at(Axis(1), end);
            let t = t.slice_move(s![..end - start, start..]);
            let reflector = (v.view(), t.view(), Transpose::Yes);
            let (mut lower_ahead, lower_rest) = right.split_at(Axis(1), next);
            let above = top.slice_mut(s![start..(end + next), end..]);
            let (mut above_ahead, above_rest) = above.split_at(Axis(1), next);
            let room = along.slice_mut(s![..end - start, end..]);
            let (along_ahead, along_rest) = room.split_at(Axis(1), next);
            let room = turned.slice_mut(s![..end - start, end..]);
            let (turned_ahead, turned_rest) = room.split_at(Axis(1), next);
            let rest = Pair {
                above: above_rest.slice_move(s![..end - start, ..]),
                below: lower_rest.slice_move(s![..rows, ..]),
                room: (along_rest, turned_rest),
            };
            let (ahead, rest) = rayon::join(
                || {
                    let (reached, corner) = above_ahead.view_mut().split_at(Axis(0), end - start);
                    let ahead = Pair {
                        above: reached,
                        below: lower_ahead.slice_mut(s![..rows, ..]),
                        room: (along_ahead, turned_ahead),
                    };
                    reflect_pair(reflector, ahead)?;
                    factor_pair(
                        corner,
                        lower_ahead.slice_mut(s![..rows + next, ..]),
                        t_right.slice_move(s![..next, ..next]),
                        &mut panel,
                    )
                },
                || rest.in_tiles(|tile| reflect_pair(reflector, tile)),
            );
            ahead.and(rest)?;
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
        let width = self.factors.nrows();
        let (mut along, mut turned) = (zeros(width, c.ncols()), zeros(width, c.ncols()));
        for (start, end) in panels(n, MERGE_PANEL).rev() {
            let v = self.reflectors.slice(s![..full + end, start..end]);
            let t = self.factors.slice(s![..end - start, start..end]);
            let pair = Pair {
                above: top.slice_mut(s![start..end, ..]),
                below: lower.slice_mut(s![..full + end, ..]),
                room: (
                    along.slice_mut(s![..end - start, ..]),
                    turned.slice_mut(s![..end - start, ..]),
                ),
            };
            pair.in_tiles(|tile| reflect_pair((v, t, Transpose::No), tile))?;
        }
        Ok((top, lower))
    }
}

/// Factors a triangle `[b, b]` and the rows `[m, b]` below it in place; T goes to `t`. The lower part of
/// V takes the place of the rows; its upper part is an identity, because the triangle has only zeros
/// below its diagonal. `room` has at least b + m rows and b columns.
fn factor_pair<T: Scalar>(
    mut triangle: ArrayViewMut2<T>,
    mut below: ArrayViewMut2<T>,
    t: ArrayViewMut2<T>,
    room: &mut Array2<T>,
) -> Result<(), LinalgError> {
    let width = triangle.ncols();
    let mut panel = room.slice_mut(s![..width + below.nrows(), ..width]);
    copy(triangle.view(), panel.slice_mut(s![..width, ..]));
    copy(below.view(), panel.slice_mut(s![width.., ..]));
    lapack::geqrt3(panel.view_mut(), t)?;
    for (j, mut column) in triangle.columns_mut().into_iter().enumerate() {
        column.slice_mut(s![..=j]).assign(&panel.slice(s![..=j, j]));
    }
    copy(panel.slice(s![width.., ..]), below.view_mut());
    Ok(())
}

/// Some columns of both parts `[b, n]` and `[m, n]`, and room for two products `[b, n]`.
struct Pair<'a, T> {
    above: ArrayViewMut2<'a, T>,
    below: ArrayViewMut2<'a, T>,
    room: Room<'a, T>,
}

impl<T: Scalar> Pair<'_, T> {
    /// Does `work` on every tile of the columns.
    fn in_tiles(
        mut self,
        work: impl Fn(Pair<T>) -> Result<(), LinalgError> + Sync,
    ) -> Result<(), LinalgError> {
        let (mut along, mut turned) = self.room;
        let along = along.axis_chunks_iter_mut(Axis(1), MERGE_TILE);
        let turned = turned.axis_chunks_iter_mut(Axis(1), MERGE_TILE);
        let above = self.above.axis_chunks_iter_mut(Axis(1), MERGE_TILE);
        let below = self.below.axis_chunks_iter_mut(Axis(1), MERGE_TILE);
        let tiles: Vec<_> = above
            .zip(below)
            .zip(along.zip(turned))
            .map(|((above, below), room)| Pair { above, below, room })
            .collect();
        tiles.into_par_iter().try_for_each(&work)
    }
}

/// [`reflect`] for `[I; V]` and `[above; below]`.
fn reflect_pair<T: Scalar>(
    (v, t, transpose): Reflector<T>,
    pair: Pair<T>,
) -> Result<(), LinalgError> {
    let Pair {
        mut above,
        below,
        room: (mut along, mut turned),
    } = pair;
    copy(above.view(), along.view_mut());
    inner(v, below.view(), T::one(), along.view_mut());
    gemm(
        T::one(),
        (t, transpose),
        (along.view(), Transpose::No),
        T::zero(),
        turned.view_mut(),
    )?;
    for (mut above, turned) in above.columns_mut().into_iter().zip(turned.columns()) {
        above -= &turned;
    }
    gemm(
        -T::one(),
        (v, Transpose::No),
        (turned.view(), Transpose::No),
        T::one(),
        below,
    )
}

/// Copies a part of a matrix to another, column by column.
fn copy<T: Scalar>(from: ArrayView2<T>, mut to: ArrayViewMut2<T>) {
    for (from, mut to) in from.columns().into_iter().zip(to.columns_mut()) {
        to.assign(&from);
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
