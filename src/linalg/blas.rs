//! The product of two matrices.
//!
//! Views are stored by columns, with any distance between columns. Wrong shapes or storage are
//! defects of the caller and panic.

use std::ffi::{c_char, c_int};

use ndarray::{ArrayView2, ArrayViewMut2};

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

#[cfg(test)]
mod tests {
    use ndarray::{Array2, s};

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
}
