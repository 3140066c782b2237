//! The product of two matrices.
//!
//! Views are stored by columns, with any distance between columns. Wrong shapes or storage are
//! defects of the caller and panic.

use std::ffi::{c_char, c_int};

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::scalar::Scalar;
use super::{LinalgError, lapack};

/// Whether a factor is taken as it is or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transpose {
    /// As it is.
    No,
    /// Transposed.
    Yes,
}

impl Transpose {
    pub(super) fn letter(self) -> c_char {
        match self {
            Transpose::No => b'N' as c_char,
            Transpose::Yes => b'T' as c_char,
        }
    }

    pub(super) fn of(self, (rows, columns): (usize, usize)) -> (usize, usize) {
        match self {
            Transpose::No => (rows, columns),
            Transpose::Yes => (columns, rows),
        }
    }

    /// The other one.
    pub fn other(self) -> Transpose {
        match self {
            Transpose::No => Transpose::Yes,
            Transpose::Yes => Transpose::No,
        }
    }
}

/// Rows, columns and distance between columns of a view, as BLAS takes them.
pub(super) fn shape<T: Scalar>(
    routine: &'static str,
    a: ArrayView2<T>,
) -> Result<(c_int, c_int, c_int), LinalgError> {
    lapack::init();
    let (rows, columns) = a.dim();
    let strides = a.strides();
    assert!(
        a.is_empty()
            || ((rows == 1 || strides[0] == 1) && (columns == 1 || strides[1] >= rows as isize)),
        "{routine} takes matrices stored by columns"
    );
    let leading = if columns > 1 && rows > 0 {
        strides[1] as usize
    } else {
        rows
    };
    let too_large = |_| LinalgError::TooLarge {
        routine,
        rows,
        columns,
    };
    Ok((
        c_int::try_from(rows).map_err(too_large)?,
        c_int::try_from(columns).map_err(too_large)?,
        c_int::try_from(leading.max(1)).map_err(too_large)?,
    ))
}

/// `c = alpha op(a) op(b) + beta c`; op(a) is `[m, k]`, op(b) `[k, n]`, c `[m, n]`.
pub fn gemm<T: Scalar>(
    alpha: T,
    (a, transpose_a): (ArrayView2<T>, Transpose),
    (b, transpose_b): (ArrayView2<T>, Transpose),
    beta: T,
    mut c: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    let routine = T::ROUTINES.gemm;
    let (_, _, leading_a) = shape(routine.name, a)?;
    let (_, _, leading_b) = shape(routine.name, b)?;
    let (m, n, leading_c) = shape(routine.name, c.view())?;
    let ((rows, inner), (same, columns)) = (transpose_a.of(a.dim()), transpose_b.of(b.dim()));
    assert_eq!(
        ((rows, columns), inner),
        (c.dim(), same),
        "{}: shapes of the factors and the product",
        routine.name
    );
    if c.is_empty() {
        return Ok(());
    }
    let k = inner as c_int;
    // SAFETY: the views hold their rows and columns at the distances that `shape` found, and the
    // shapes of the three agree, checked above; c is borrowed alone.
    unsafe {
        (routine.call)(
            &transpose_a.letter(),
            &transpose_b.letter(),
            &m,
            &n,
            &k,
            &alpha,
            a.as_ptr(),
            &leading_a,
            b.as_ptr(),
            &leading_b,
            &beta,
            c.as_mut_ptr(),
            &leading_c,
        );
    }
    Ok(())
}

/// Rows of the factors of [`inner`] that are multiplied at once. The crate `gemm` cuts longer sums where the
/// caches of the processor tell it to, and up to this length nowhere; so the order of a sum, and with it the
/// bits, do not depend on the caches.
const ROWS_AT_ONCE: usize = 512;

/// `c = a^T b + beta c`; a is `[l, m]`, b `[l, n]`, c `[m, n]`.
///
/// The same as [`gemm()`] with its first factor transposed, for l that is large beside m and n: there
/// OpenBLAS spends its time on the sums of many short products, and the crate `gemm` does not.
pub fn inner<T: Scalar>(a: ArrayView2<T>, b: ArrayView2<T>, beta: T, mut c: ArrayViewMut2<T>) {
    assert_eq!(
        (a.nrows(), a.ncols(), b.ncols()),
        (b.nrows(), c.nrows(), c.ncols()),
        "inner: shapes of the factors and the product"
    );
    let (m, n) = c.dim();
    let [to_row, to_column] = [c.strides()[0], c.strides()[1]];
    let mut beta = beta;
    for start in (0..a.nrows().max(1)).step_by(ROWS_AT_ONCE) {
        let end = (start + ROWS_AT_ONCE).min(a.nrows());
        let (a, b) = (a.slice(s![start..end, ..]), b.slice(s![start..end, ..]));
        // SAFETY: all three pointers are those of views, with their strides and with the shapes checked
        // above; c is borrowed alone.
        unsafe {
            ::gemm::gemm(
                m,
                n,
                end - start,
                c.as_mut_ptr(),
                to_column,
                to_row,
                beta != T::zero(),
                a.as_ptr(),
                a.strides()[0],
                a.strides()[1],
                b.as_ptr(),
                b.strides()[1],
                b.strides()[0],
                beta,
                T::one(),
                false,
                false,
                false,
                ::gemm::Parallelism::None,
            );
        }
        beta = T::one();
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::linalg::{by_columns, hostile};

    #[test]
    fn products_of_parts_of_matrices_are_those_of_the_definition() {
        let (a, b) = (hostile::uniform(9, 5, 1), hostile::uniform(9, 7, 2));
        let (a, b) = (by_columns(a.view()), by_columns(b.view()));
        let (a, b) = (a.slice(s![2..8, 1..]), b.slice(s![2..8, ..4]));
        let start = by_columns(hostile::uniform(4, 4, 3).view());
        let mut c = start.clone();
        gemm(
            -2.0,
            (a, Transpose::Yes),
            (b, Transpose::No),
            1.0,
            c.view_mut(),
        )
        .unwrap();
        for ((i, j), x) in c.indexed_iter() {
            let sum: f64 = (0..6).map(|l| a[[l, i]] * b[[l, j]]).sum();
            assert!((x - (start[[i, j]] - 2.0 * sum)).abs() < 1e-14);
        }
        let mut square = Array2::<f32>::zeros((1, 1));
        let two = Array2::from_elem((1, 1), 2.0_f32);
        let two = (two.view(), Transpose::No);
        gemm(1.0, two, two, 0.0, square.view_mut()).unwrap();
        assert_eq!(square[[0, 0]], 4.0);
    }

    #[test]
    fn inner_products_are_those_of_the_definition() {
        fn check<T: Scalar>(l: usize, m: usize, n: usize) {
            let part = |columns, seed| {
                let whole = hostile::uniform(l + 3, columns + 2, seed).mapv(T::of_f64);
                by_columns(whole.view())
            };
            let (a, b) = (part(m, 1), part(n, 2));
            let (a, b) = (a.slice(s![2..l + 2, 1..m + 1]), b.slice(s![..l, 2..]));
            for beta in [0.0, 1.0, -0.5] {
                // What is not to be read may be anything.
                let start = if beta == 0.0 { f64::NAN } else { 0.25 };
                let mut whole = by_columns(Array2::from_elem((m + 1, n), T::of_f64(start)).view());
                inner(a, b, T::of_f64(beta), whole.slice_mut(s![1.., ..]));
                let kept = if beta == 0.0 { 0.0 } else { beta * start };
                for ((i, j), x) in whole.slice(s![1.., ..]).indexed_iter() {
                    let sum: f64 = (0..l).map(|k| (a[[k, i]] * b[[k, j]]).as_f64()).sum();
                    let limit = (l + 2) as f64 * T::EPS * 2.0;
                    assert!(
                        (x.as_f64() - (kept + sum)).abs() <= limit,
                        "{l} {m} {n} {beta}: {x} at {i}, {j}"
                    );
                }
                assert!(
                    whole
                        .row(0)
                        .iter()
                        .all(|x| x.as_f64().to_bits() == start.to_bits())
                );
            }
        }
        for (l, m, n) in [
            (1, 1, 1),
            (7, 3, 5),
            (33, 16, 17),
            (300, 64, 49),
            (1025, 128, 130),
        ] {
            check::<f64>(l, m, n);
            check::<f32>(l, m, n);
        }
        for (l, m, n) in [(0, 2, 3), (4, 0, 3), (4, 2, 0)] {
            check::<f64>(l, m, n);
        }
    }
}
