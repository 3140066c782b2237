//! Upper triangles: products, solutions, Gram matrices, Cholesky. The foreign calls of BLAS and LAPACK for them.
//!
//! Views are stored by columns, with any distance between columns. Wrong shapes or storage are
//! defects of the caller and panic.

use std::ffi::{c_char, c_int};
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::blas::{Transpose, gemm, shape};
use super::scalar::Scalar;
use super::{LinalgError, by_columns, lapack, zeros};

unsafe extern "C" {
    fn dtrmm_(
        side: *const c_char,
        triangle: *const c_char,
        transpose: *const c_char,
        diagonal: *const c_char,
        m: *const c_int,
        n: *const c_int,
        alpha: *const f64,
        a: *const f64,
        leading_a: *const c_int,
        b: *mut f64,
        leading_b: *const c_int,
    );
    fn dsymm_(
        side: *const c_char,
        triangle: *const c_char,
        m: *const c_int,
        n: *const c_int,
        alpha: *const f64,
        a: *const f64,
        leading_a: *const c_int,
        b: *const f64,
        leading_b: *const c_int,
        beta: *const f64,
        c: *mut f64,
        leading_c: *const c_int,
    );
    fn dtrsm_(
        side: *const c_char,
        triangle: *const c_char,
        transpose: *const c_char,
        diagonal: *const c_char,
        m: *const c_int,
        n: *const c_int,
        alpha: *const f64,
        a: *const f64,
        leading_a: *const c_int,
        b: *mut f64,
        leading_b: *const c_int,
    );
}

/// Rows and columns of the tiles that threads share out. They have fixed places, so the bits do not
/// depend on the threads.
const TILE: usize = 256;

/// [`TILE`] of [`cholesky`], whose corners one thread factors row by row.
const CHOLESKY_TILE: usize = 128;

/// [`TILE`] of [`gram`], whose products are long: wider ones share more of what is packed. Tiles of 512 take
/// about a tenth longer for 4096 x 2048 (`cargo bench --bench pca`).
const GRAM_TILE: usize = 1024;

/// `op(r) x` for an upper triangle r `[n, n]` and x `[n, k]`, stored by columns.
pub fn product(
    (r, transpose): (ArrayView2<f64>, Transpose),
    x: ArrayView2<f64>,
) -> Result<Array2<f64>, LinalgError> {
    let mut product = by_columns(x);
    let tiles = product.axis_chunks_iter_mut(Axis(0), TILE).enumerate();
    let tiles: Vec<_> = tiles.collect();
    tiles.into_par_iter().try_for_each(|(index, mut tile)| {
        let (start, end) = (index * TILE, index * TILE + tile.nrows());
        let corner = r.slice(s![start..end, start..end]);
        trmm((corner, transpose), tile.view_mut())?;
        let (rest, of) = match transpose {
            Transpose::No => (r.slice(s![start..end, end..]), x.slice(s![end.., ..])),
            Transpose::Yes => (r.slice(s![..start, start..end]), x.slice(s![..start, ..])),
        };
        gemm(1.0, (rest, transpose), (of, Transpose::No), 1.0, tile)
    })?;
    Ok(product)
}

/// `c x` for a symmetric matrix c `[n, n]`, of which the upper triangle counts and is read once for some columns of x
/// `[n, k]`. It takes n^2 / 8 numbers beside the result.
pub fn symmetric_product(
    c: ArrayView2<f64>,
    x: ArrayView2<f64>,
) -> Result<Array2<f64>, LinalgError> {
    /// Columns of x at a time.
    const COLUMNS: usize = 64;
    assert_eq!(c.dim(), (x.nrows(), x.nrows()), "symmetric_product: shapes");
    let mut product = zeros(x.nrows(), x.ncols());
    let columns = product.axis_chunks_iter_mut(Axis(1), COLUMNS);
    for (to, x) in columns.zip(x.axis_chunks_iter(Axis(1), COLUMNS)) {
        product_with_some(c, x, to)?;
    }
    Ok(product)
}

/// [`symmetric_product`] with so few columns that each panel of c can have a result of its own.
fn product_with_some(
    c: ArrayView2<f64>,
    x: ArrayView2<f64>,
    mut to: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    let panels: Vec<_> = c.axis_chunks_iter(Axis(1), TILE).enumerate().collect();
    // What a panel of columns adds to the rows above its corner and, as rows, to those of the corner.
    let parts = panels.into_par_iter().with_max_len(1);
    let parts = parts.map(|(index, panel)| {
        let (start, end) = (index * TILE, index * TILE + panel.ncols());
        let mut part = zeros(end, x.ncols());
        let (mut above, mut own) = part.view_mut().split_at(Axis(0), start);
        let of_own = x.slice(s![start..end, ..]);
        symm(panel.slice(s![start..end, ..]), of_own, own.view_mut())?;
        for row in (0..start).step_by(TILE) {
            let run = s![row..row + TILE, ..];
            // The second product finds the tile in the cache.
            let (tile, of_above) = (panel.slice(run), (x.slice(run), Transpose::No));
            let (as_it_is, of_own) = ((tile, Transpose::No), (of_own, Transpose::No));
            gemm(1.0, as_it_is, of_own, 0.0, above.slice_mut(run))?;
            gemm(1.0, (tile, Transpose::Yes), of_above, 1.0, own.view_mut())?;
        }
        Ok(part)
    });
    let parts = parts.collect::<Result<Vec<Array2<f64>>, LinalgError>>()?;
    let columns: Vec<_> = to.columns_mut().into_iter().enumerate().collect();
    columns.into_par_iter().for_each(|(j, mut sum)| {
        for part in &parts {
            let mut rows = sum.slice_mut(s![..part.nrows()]);
            rows += &part.column(j);
        }
    });
    Ok(())
}

/// `c = a b` for a symmetric matrix a `[n, n]`, of which the upper triangle counts, and b and c `[n, k]`.
fn symm(
    a: ArrayView2<f64>,
    b: ArrayView2<f64>,
    mut c: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    const NAME: &str = "dsymm";
    let (_, _, leading_a) = shape(NAME, a)?;
    let (_, _, leading_b) = shape(NAME, b)?;
    let (m, n, leading_c) = shape(NAME, c.view())?;
    assert_eq!(a.dim(), (b.nrows(), b.nrows()), "{NAME}: shapes");
    assert_eq!(b.dim(), c.dim(), "{NAME}: shapes");
    // SAFETY: a is n x n and b and c have n rows and as many columns, checked above, at the distances that `shape`
    // found; c is borrowed alone.
    unsafe {
        dsymm_(
            &(b'L' as c_char),
            &(b'U' as c_char),
            &m,
            &n,
            &1.0,
            a.as_ptr(),
            &leading_a,
            b.as_ptr(),
            &leading_b,
            &0.0,
            c.as_mut_ptr(),
            &leading_c,
        );
    }
    Ok(())
}

/// `b = op(r) b` for an upper triangle r `[n, n]` and b `[n, k]`.
pub fn trmm(
    (r, transpose): (ArrayView2<f64>, Transpose),
    b: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    triangle("dtrmm", dtrmm_, (r, transpose), b)
}

/// `b = op(r)^-1 b` for an upper triangle r `[n, n]` without zeros on its diagonal and b `[n, k]`.
pub fn trsm(
    (r, transpose): (ArrayView2<f64>, Transpose),
    b: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    triangle("dtrsm", dtrsm_, (r, transpose), b)
}

type TriangleRoutine = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_int,
    *const c_int,
    *const f64,
    *const f64,
    *const c_int,
    *mut f64,
    *const c_int,
);

fn triangle(
    name: &'static str,
    routine: TriangleRoutine,
    (r, transpose): (ArrayView2<f64>, Transpose),
    mut b: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    let (_, _, leading_r) = shape(name, r)?;
    let (m, n, leading_b) = shape(name, b.view())?;
    assert_eq!(r.dim(), (b.nrows(), b.nrows()), "{name}: shapes");
    if b.is_empty() {
        return Ok(());
    }
    // SAFETY: r is n x n and b has n rows, checked above, at the distances that `shape` found; both
    // routines read the upper triangle of r and write b, which is borrowed alone.
    unsafe {
        routine(
            &(b'L' as c_char),
            &(b'U' as c_char),
            &transpose.letter(),
            &(b'N' as c_char),
            &m,
            &n,
            &1.0,
            r.as_ptr(),
            &leading_r,
            b.as_mut_ptr(),
            &leading_b,
        );
    }
    Ok(())
}

/// `g = op(a) op(a)^T + beta g` for op(a) `[n, m]` and the upper triangle of g `[n, n]`, whose other entries stay as
/// they are, and which is not read where beta is 0. m n^2 operations.
pub fn gram<T: Scalar>(
    (a, transpose): (ArrayView2<T>, Transpose),
    beta: T,
    mut g: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    let (n, _) = transpose.of(a.dim());
    assert_eq!(g.dim(), (n, n), "gram: shapes");
    let rows = |run: Range<usize>| match transpose {
        Transpose::No => a.slice(s![run, ..]),
        Transpose::Yes => a.slice(s![.., run]),
    };
    let strips = g.axis_chunks_iter_mut(Axis(1), GRAM_TILE).enumerate();
    let tiles: Vec<_> = strips
        .flat_map(|(column, strip)| {
            let tiles = split_rows(strip, GRAM_TILE).into_iter().enumerate();
            tiles
                .take(column + 1)
                .map(move |(row, tile)| (row * GRAM_TILE, column * GRAM_TILE, tile))
        })
        .collect();
    tiles.into_par_iter().try_for_each(|(row, column, tile)| {
        let left = (rows(row..row + tile.nrows()), transpose);
        if row == column {
            return syrk(left, beta, tile);
        }
        let right = rows(column..column + tile.ncols());
        let right = (right, transpose.other());
        gemm(T::one(), left, right, beta, tile)
    })
}

/// The runs of `height` rows of a matrix.
fn split_rows<T>(mut a: ArrayViewMut2<T>, height: usize) -> Vec<ArrayViewMut2<T>> {
    let mut runs = Vec::new();
    while a.nrows() > height {
        let (run, rest) = a.split_at(Axis(0), height);
        runs.push(run);
        a = rest;
    }
    runs.push(a);
    runs
}

/// `c = op(a) op(a)^T + beta c` for op(a) `[n, m]` and the upper triangle of c `[n, n]`.
fn syrk<T: Scalar>(
    (a, transpose): (ArrayView2<T>, Transpose),
    beta: T,
    mut c: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    let routine = T::ROUTINES.syrk;
    let (_, _, leading_a) = shape(routine.name, a)?;
    let (n, columns, leading_c) = shape(routine.name, c.view())?;
    let (rows, m) = transpose.of(a.dim());
    assert_eq!(c.dim(), (rows, rows), "{}: shapes", routine.name);
    assert_eq!(n, columns, "{}: a square of products", routine.name);
    let m = c_int::try_from(m).expect("`shape` took both sides of a");
    // SAFETY: op(a) is n x m and c is n x n, checked above, at the distances that `shape` found; c is
    // borrowed alone.
    unsafe {
        (routine.call)(
            &(b'U' as c_char),
            &transpose.letter(),
            &n,
            &m,
            &T::one(),
            a.as_ptr(),
            &leading_a,
            &beta,
            c.as_mut_ptr(),
            &leading_c,
        );
    }
    Ok(())
}

/// Whether a symmetric matrix `[n, n]`, of which the upper triangle counts, is positive definite:
/// whether its Cholesky factorisation exists. The matrix is destroyed. n^3 / 3 operations.
pub fn is_positive_definite(a: ArrayViewMut2<f64>) -> Result<bool, LinalgError> {
    eliminate(a, TILE, |_, corner| Ok(factors(corner)?.then(Vec::new)))
}

/// An upper triangle R with `R^T R = a`, in place of a symmetric matrix `[n, n]`, positive semidefinite but for
/// rounding, of which the upper triangle counts. n^3 / 3 operations.
///
/// A row whose pivot is no larger than n eps times the diagonal entry that it began with is nothing but
/// rounding, and becomes zero: to the vectors whose products a holds, that is a change of sqrt(n eps) of
/// one of them (Higham, "Analysis of the Cholesky decomposition of a semi-definite matrix", 1990).
pub fn cholesky(mut a: ArrayViewMut2<f64>) -> Result<(), LinalgError> {
    let part = a.nrows() as f64 * f64::EPSILON;
    let least: Vec<f64> = a.diag().iter().map(|x| part * x).collect();
    eliminate(a.view_mut(), CHOLESKY_TILE, |start, corner| {
        Ok(Some(semidefinite(corner, &least[start..])))
    })?;
    for (j, mut column) in a.columns_mut().into_iter().enumerate() {
        column.slice_mut(s![j + 1..]).fill(0.0);
    }
    Ok(())
}

/// [`cholesky`] of a corner `[b, b]`, with the least pivots of its rows. Returns the rows that became zero,
/// which have a one on their diagonal.
fn semidefinite(mut a: ArrayViewMut2<f64>, least: &[f64]) -> Vec<usize> {
    let mut zeros = Vec::new();
    for j in 0..a.ncols() {
        let (done, mut column) = a.view_mut().split_at(Axis(1), j);
        let mut column = column.column_mut(0);
        let mut nulls = zeros.iter().peekable();
        for i in 0..j {
            column[i] = if nulls.next_if_eq(&&i).is_some() {
                0.0
            } else {
                let known = done.slice(s![..i, i]).dot(&column.slice(s![..i]));
                (column[i] - known) / done[[i, i]]
            };
        }
        let above = column.slice(s![..j]);
        let pivot = column[j] - above.dot(&above);
        if pivot > least[j] {
            column[j] = pivot.sqrt();
        } else {
            column[j] = 1.0;
            zeros.push(j);
        }
    }
    zeros
}

/// Gaussian elimination of a symmetric matrix by corners of `width` rows and columns. `factor` takes the first row
/// of a corner and the corner, and puts its Cholesky factor in its place. It returns the rows that are to be
/// zero and have a one on their diagonal, or `None` to end it; then this returns `false`.
fn eliminate(
    mut a: ArrayViewMut2<f64>,
    width: usize,
    factor: impl Fn(usize, ArrayViewMut2<f64>) -> Result<Option<Vec<usize>>, LinalgError>,
) -> Result<bool, LinalgError> {
    let n = a.nrows();
    for start in (0..n).step_by(width) {
        let end = (start + width).min(n);
        let Some(zeros) = factor(start, a.slice_mut(s![start..end, start..end]))? else {
            return Ok(false);
        };
        let (above, below) = a.view_mut().split_at(Axis(0), end);
        let (mut corner, mut right) = above
            .slice_move(s![start.., start..])
            .split_at(Axis(1), end - start);
        let tiles: Vec<_> = right.axis_chunks_iter_mut(Axis(1), TILE).collect();
        tiles.into_par_iter().try_for_each(|mut tile| {
            trsm((corner.view(), Transpose::Yes), tile.view_mut())?;
            for &row in &zeros {
                tile.row_mut(row).fill(0.0);
            }
            Ok(())
        })?;
        for row in zeros {
            corner[[row, row]] = 0.0;
        }
        let mut below = below.slice_move(s![.., end..]);
        let tiles = below.axis_chunks_iter_mut(Axis(1), TILE).enumerate();
        let tiles: Vec<_> = tiles.collect();
        tiles.into_par_iter().try_for_each(|(index, tile)| {
            let (first, last) = (index * TILE, index * TILE + tile.ncols());
            let rows = (right.slice(s![.., ..last]), Transpose::Yes);
            let columns = (right.slice(s![.., first..last]), Transpose::No);
            gemm(-1.0, rows, columns, 1.0, tile.slice_move(s![..last, ..]))
        })?;
    }
    Ok(true)
}

/// The Cholesky factor of a matrix in place of its upper triangle; whether there is one.
fn factors(mut a: ArrayViewMut2<f64>) -> Result<bool, LinalgError> {
    const NAME: &str = "dpotrf";
    let (n, columns, leading) = shape(NAME, a.view())?;
    assert_eq!(n, columns, "{NAME}: a symmetric matrix is square");
    let mut info = 0;
    // SAFETY: a is n x n at the distance that `shape` found, and borrowed alone.
    unsafe {
        lapack_sys::dpotrf_(&(b'U' as c_char), &n, a.as_mut_ptr(), &leading, &mut info);
    }
    lapack::refused(NAME, info)?;
    Ok(info == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::hostile;

    fn close(a: &Array2<f64>, b: &Array2<f64>) -> bool {
        a.dim() == b.dim() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-13)
    }

    fn upper(a: &Array2<f64>) -> Array2<f64> {
        Array2::from_shape_fn(a.dim(), |(i, j)| if i <= j { a[[i, j]] } else { 0.0 })
    }

    #[test]
    fn triangles_multiply_and_solve() {
        let r =
            by_columns((upper(&hostile::uniform(6, 6, 4)) + Array2::<f64>::eye(6) * 3.0).view());
        let b = by_columns(hostile::uniform(6, 3, 5).view());
        for transpose in [Transpose::No, Transpose::Yes] {
            let mut product = b.clone();
            trmm((r.view(), transpose), product.view_mut()).unwrap();
            let full = match transpose {
                Transpose::No => r.clone(),
                Transpose::Yes => r.t().to_owned(),
            };
            assert!(close(&product, &full.dot(&b)));
            trsm((r.view(), transpose), product.view_mut()).unwrap();
            assert!(close(&product, &b));
        }
    }

    #[test]
    fn products_in_tiles_are_those_of_the_definition() {
        for n in [0, 1, 256, 257, 600] {
            let r = by_columns(upper(&hostile::uniform(n, n, 7)).view());
            let x = by_columns(hostile::uniform(n, 3, 8).view());
            let forth = product((r.view(), Transpose::No), x.view()).unwrap();
            assert!(close(&(forth / 10.0), &(r.dot(&x) / 10.0)), "{n}");
            let back = product((r.view(), Transpose::Yes), x.view()).unwrap();
            assert!(close(&(back / 10.0), &(r.t().dot(&x) / 10.0)), "{n}");
        }
    }

    #[test]
    fn products_with_a_symmetric_matrix_are_those_of_the_definition() {
        for n in [0, 1, 30, 256, 257, 600] {
            let square = hostile::uniform(n, n, 13);
            let whole = &square + &square.t();
            let mut c = by_columns(whole.view());
            for ((i, j), x) in c.indexed_iter_mut() {
                // What is below the diagonal does not count.
                if i > j {
                    *x = f64::NAN;
                }
            }
            for k in [5, 130] {
                let x = by_columns(hostile::uniform(n, k, 14).view());
                let product = symmetric_product(c.view(), x.view()).unwrap();
                assert!(close(&(product / 30.0), &(whole.dot(&x) / 30.0)), "{n}");
            }
        }
    }

    #[test]
    fn positive_definite_matrices_are_told_from_others() {
        let definite = |diagonal: f64| {
            let mut a = by_columns((Array2::<f64>::eye(4) * diagonal).view());
            a[[0, 3]] = 1.0;
            is_positive_definite(a.view_mut()).unwrap()
        };
        assert!(definite(1.001) && !definite(0.999));
        assert!(is_positive_definite(zeros(0, 0).view_mut()).unwrap());
        // Several tiles: A^T A + c I, whose least value is about c.
        let a = hostile::uniform(90, 700, 9);
        let square = a.t().dot(&a);
        for (least, expected) in [(1e-6, true), (-1e-6, false)] {
            let mut shifted = by_columns((&square + &(Array2::<f64>::eye(700) * least)).view());
            shifted[[699, 0]] = f64::NAN;
            assert_eq!(is_positive_definite(shifted.view_mut()).unwrap(), expected);
        }
    }

    #[test]
    fn gram_matrices_are_those_of_the_definition() {
        for (m, n) in [(0, 3), (1, 1), (40, 7), (30, 513), (9, 1100)] {
            let a = by_columns(hostile::uniform(m, n, 10).view());
            let mut g = zeros(n, n);
            g.fill(7.0);
            gram((by_columns(a.t()).view(), Transpose::No), 0.0, g.view_mut()).unwrap();
            assert!(close(&upper(&g), &upper(&a.t().dot(&a))), "{m} x {n}");
            g.fill(7.0);
            gram((a.view(), Transpose::Yes), 0.5, g.view_mut()).unwrap();
            let expected = upper(&(a.t().dot(&a) + 3.5));
            assert!(close(&upper(&g), &expected), "{m} x {n}");
        }
    }

    /// R^T R is A^T A but for rounding, also where A has fewer directions than columns.
    #[test]
    fn semidefinite_matrices_have_a_cholesky_factor() {
        for n in [1, 2, 7, 257, 520] {
            for (name, a) in hostile::all(n + 3, n).into_iter().chain([
                ("few rows", hostile::uniform(n.div_ceil(2), n, 11)),
                ("twice the same", {
                    let half = hostile::uniform(n + 3, n.div_ceil(2), 12);
                    Array2::from_shape_fn((n + 3, n), |(i, j)| half[[i, j / 2]])
                }),
            ]) {
                if ["huge", "denormal"].contains(&name) {
                    continue;
                }
                let mut r = zeros(n, n);
                gram(
                    (by_columns(a.view()).view(), Transpose::Yes),
                    0.0,
                    r.view_mut(),
                )
                .unwrap();
                cholesky(r.view_mut()).unwrap();
                assert!(close(&r, &upper(&r)), "{name} {n}");
                let norm = crate::linalg::norms::frobenius(&a);
                let squares = &(r.t().dot(&r)) - &(a.t().dot(&a));
                // A row that was rounding takes its products with it, which are below sqrt(n eps).
                let limit = 30.0 * (n as f64 * f64::EPSILON).sqrt() * norm * norm;
                let difference = crate::linalg::norms::frobenius(&squares);
                assert!(difference <= limit, "{name} {n}: {difference} {limit}");
                if name == "twice the same" {
                    let nulls = r.diag().iter().filter(|x| **x == 0.0).count();
                    assert_eq!(nulls, n / 2, "{n}");
                }
            }
        }
    }
}
