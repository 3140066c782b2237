//! Upper triangles: products, solutions, Cholesky. The foreign calls of BLAS and LAPACK for them.
//!
//! Views are stored by columns, with any distance between columns. Wrong shapes or storage are
//! defects of the caller and panic.

use std::ffi::{c_char, c_int};

use ndarray::{ArrayView2, ArrayViewMut2};

use super::blas::{Transpose, shape};
use super::{LinalgError, lapack};

unsafe extern "C" {
    fn dsyrk_(
        triangle: *const c_char,
        transpose: *const c_char,
        n: *const c_int,
        k: *const c_int,
        alpha: *const f64,
        a: *const f64,
        leading_a: *const c_int,
        beta: *const f64,
        c: *mut f64,
        leading_c: *const c_int,
    );
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

/// The upper triangle of `c = alpha op(a) op(a)^T + beta c`; op(a) is `[n, k]`, c `[n, n]`. What is
/// below the diagonal of c stays.
pub fn syrk(
    alpha: f64,
    (a, transpose): (ArrayView2<f64>, Transpose),
    beta: f64,
    mut c: ArrayViewMut2<f64>,
) -> Result<(), LinalgError> {
    const NAME: &str = "dsyrk";
    let (_, _, leading_a) = shape(NAME, a)?;
    let (n, _, leading_c) = shape(NAME, c.view())?;
    let (rows, inner) = transpose.of(a.dim());
    assert_eq!(
        (rows, rows),
        c.dim(),
        "{NAME}: shapes of factor and product"
    );
    if c.is_empty() {
        return Ok(());
    }
    let k = inner as c_int;
    // SAFETY: as in `gemm`.
    unsafe {
        dsyrk_(
            &(b'U' as c_char),
            &transpose.letter(),
            &n,
            &k,
            &alpha,
            a.as_ptr(),
            &leading_a,
            &beta,
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

/// The upper triangle of `R R^T` in place of that of R `[n, n]`; what is below the diagonal stays.
pub fn lauum(mut r: ArrayViewMut2<f64>) -> Result<(), LinalgError> {
    const NAME: &str = "dlauum";
    let (n, columns, leading) = shape(NAME, r.view())?;
    assert_eq!(n, columns, "{NAME}: a triangle is square");
    if n == 0 {
        return Ok(());
    }
    let mut info = 0;
    // SAFETY: r is n x n at the distance that `shape` found, and borrowed alone.
    unsafe {
        lapack_sys::dlauum_(&(b'U' as c_char), &n, r.as_mut_ptr(), &leading, &mut info);
    }
    lapack::refused(NAME, info)
}

/// Whether a symmetric matrix `[n, n]`, of which the upper triangle counts, is positive definite:
/// whether its Cholesky factorisation exists. The matrix is destroyed.
pub fn is_positive_definite(mut a: ArrayViewMut2<f64>) -> Result<bool, LinalgError> {
    const NAME: &str = "dpotrf";
    let (n, columns, leading) = shape(NAME, a.view())?;
    assert_eq!(n, columns, "{NAME}: a symmetric matrix is square");
    if n == 0 {
        return Ok(true);
    }
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
    use ndarray::Array2;

    use super::*;
    use crate::linalg::{by_columns, hostile, zeros};

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
    fn symmetric_products_fill_the_upper_triangle() {
        let r = by_columns(upper(&hostile::uniform(5, 5, 6)).view());
        let expected = upper(&r.dot(&r.t()));
        let mut square = r.clone();
        lauum(square.view_mut()).unwrap();
        assert!(close(&square, &expected));
        let mut again = zeros(5, 5);
        syrk(1.0, (r.view(), Transpose::No), 0.0, again.view_mut()).unwrap();
        assert!(close(&again, &expected));
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
    }
}
