//! The foreign calls: LAPACK behind safe functions, and the thread count of OpenBLAS.
//!
//! Each function checks shapes and storage, asks LAPACK for its workspace and turns `info` into a
//! [`LinalgError`]. Wrong shapes or storage are defects of the caller and panic.

// Without this line nothing refers to the crate, and the linker drops BLAS and LAPACK.
extern crate lapack_src as _;

use std::ffi::{CStr, c_char, c_int};
use std::sync::Once;

use ndarray::{Array2, ArrayViewMut2};

use super::scalar::Scalar;
use super::{LinalgError, blas, zeros};

unsafe extern "C" {
    fn openblas_set_num_threads(threads: c_int);
    fn openblas_get_config() -> *const c_char;
    fn openblas_get_corename() -> *const c_char;
}

/// Sets OpenBLAS to one thread, for the whole process. Every function of this file does so before
/// its first call; calling it at the start keeps other users of BLAS to the same rule.
pub fn init() {
    static ONCE: Once = Once::new();
    // SAFETY: the function takes any count and touches OpenBLAS' own state only.
    ONCE.call_once(|| unsafe { openblas_set_num_threads(1) });
}

/// Version, build options and chosen processor core of the BLAS in use, for log and report.
pub fn blas_description() -> String {
    // SAFETY: both functions return a static string that ends with a zero byte.
    let (config, core) = unsafe {
        (
            CStr::from_ptr(openblas_get_config()),
            CStr::from_ptr(openblas_get_corename()),
        )
    };
    format!(
        "{}; core {}",
        config.to_string_lossy().trim(),
        core.to_string_lossy()
    )
}

/// Rows, columns and leading dimension of a matrix as LAPACK takes them.
struct Shape {
    rows: c_int,
    columns: c_int,
    leading: c_int,
}

fn shape<T: Scalar>(routine: &'static str, a: &Array2<T>) -> Result<Shape, LinalgError> {
    init();
    assert!(
        a.t().is_standard_layout(),
        "{routine} takes matrices stored by columns"
    );
    let (rows, columns) = a.dim();
    let too_large = |_| LinalgError::TooLarge {
        routine,
        rows,
        columns,
    };
    Ok(Shape {
        rows: c_int::try_from(rows).map_err(too_large)?,
        columns: c_int::try_from(columns).map_err(too_large)?,
        leading: c_int::try_from(rows.max(1)).map_err(too_large)?,
    })
}

/// The workspace that a query answered, in elements.
fn workspace(routine: &'static str, answer: f64, a: &Array2<f64>) -> Result<Vec<f64>, LinalgError> {
    // LAPACK rounds the count to f64 (exact below 2^53) and goes wrong where it passes 32 bits.
    if !(answer >= 0.0 && answer <= f64::from(c_int::MAX)) {
        let (rows, columns) = a.dim();
        return Err(LinalgError::TooLarge {
            routine,
            rows,
            columns,
        });
    }
    Ok(vec![0.0; (answer as usize).max(1)])
}

pub(super) fn refused(routine: &'static str, info: c_int) -> Result<(), LinalgError> {
    if info < 0 {
        return Err(LinalgError::Argument {
            routine,
            argument: -info,
        });
    }
    Ok(())
}

/// QR of `a`, `[m, n]` with m >= n, in place: R on and above the diagonal, reflectors below. The
/// triangle T goes to the upper part of `t`, `[n, n]`: Q = I - V T V^T for the unit lower trapezoid V
/// of the reflectors.
///
/// Recursive over the columns, so that most of it are matrix products (Elmroth and Gustavson,
/// "Applying recursion to serial and parallel QR factorization leads to better performance", 2000).
pub fn geqrt3<T: Scalar>(
    mut a: ArrayViewMut2<T>,
    mut t: ArrayViewMut2<T>,
) -> Result<(), LinalgError> {
    let routine = T::ROUTINES.geqrt3;
    let (rows, columns, leading) = blas::shape(routine.name, a.view())?;
    let (order, same, leading_t) = blas::shape(routine.name, t.view())?;
    assert!(rows >= columns, "{} takes tall matrices", routine.name);
    assert_eq!(
        (order, same),
        (columns, columns),
        "{}: shapes",
        routine.name
    );
    if columns == 0 {
        return Ok(());
    }
    let mut info = 0;
    // SAFETY: the views hold their rows and columns at the distances that `shape` found, and are
    // borrowed alone; `t` has a row and a column for each column of `a`, checked above.
    unsafe {
        (routine.call)(
            &rows,
            &columns,
            a.as_mut_ptr(),
            &leading,
            t.as_mut_ptr(),
            &leading_t,
            &mut info,
        );
    }
    refused(routine.name, info)
}

/// The three factors of an SVD: U `[m, r]`, the singular values `[r]` and V^T `[r, n]`.
pub type SvdFactors = (Array2<f64>, Vec<f64>, Array2<f64>);

/// Thin SVD of `a` `[m, n]` by divide and conquer; `a` is destroyed.
pub fn gesdd(a: &mut Array2<f64>) -> Result<SvdFactors, LinalgError> {
    const NAME: &str = "dgesdd";
    let Shape {
        rows,
        columns,
        leading,
    } = shape(NAME, a)?;
    let rank = a.nrows().min(a.ncols());
    let (mut u, mut vt) = (zeros(a.nrows(), rank), zeros(rank, a.ncols()));
    let mut values = vec![0.0; rank];
    if rank == 0 {
        return Ok((u, values, vt));
    }
    let left = leading;
    let right = rank as c_int;
    let job = b'S' as c_char;
    let mut integers: Vec<c_int> = vec![0; 8 * rank];
    let mut info = 0;
    let mut call = |a: &mut Array2<f64>, work: &mut [f64], length: c_int| {
        // SAFETY: `a` holds m x n, `u` m x rank and `vt` rank x n values by columns, `values`
        // rank and `integers` 8 rank values, `work` as many as `length` says (one for a query).
        unsafe {
            lapack_sys::dgesdd_(
                &job,
                &rows,
                &columns,
                a.as_mut_ptr(),
                &leading,
                values.as_mut_ptr(),
                u.as_mut_ptr(),
                &left,
                vt.as_mut_ptr(),
                &right,
                work.as_mut_ptr(),
                &length,
                integers.as_mut_ptr(),
                &mut info,
            );
        }
    };
    let mut answer = [0.0];
    call(a, &mut answer, -1);
    let mut work = workspace(NAME, answer[0], a)?;
    let length = work.len() as c_int;
    call(a, &mut work, length);
    refused(NAME, info)?;
    if info > 0 {
        return Err(LinalgError::NotConverged {
            routine: NAME,
            unconverged: info,
        });
    }
    Ok((u, values, vt))
}

/// Eigenvalues, smallest first, and eigenvectors as columns of a symmetric matrix `[n, n]`, of which the upper triangle
/// counts, by divide and conquer.
pub fn syevd(mut a: Array2<f64>) -> Result<(Vec<f64>, Array2<f64>), LinalgError> {
    const NAME: &str = "dsyevd";
    let Shape {
        rows,
        columns,
        leading,
    } = shape(NAME, &a)?;
    assert_eq!(rows, columns, "{NAME} takes square matrices");
    let mut values = vec![0.0; a.nrows()];
    if values.is_empty() {
        return Ok((values, a));
    }
    let (job, triangle) = (b'V' as c_char, b'U' as c_char);
    let mut info = 0;
    let mut call = |a: &mut Array2<f64>, work: &mut [f64], integers: &mut [c_int], query: bool| {
        let length = if query { -1 } else { work.len() as c_int };
        let count = if query { -1 } else { integers.len() as c_int };
        // SAFETY: `a` holds n x n values by columns, `values` n, `work` as many as `length` and `integers` as many as
        // `count` says (one each for a query), and `length` is no less than the documentation asks for.
        unsafe {
            lapack_sys::dsyevd_(
                &job,
                &triangle,
                &rows,
                a.as_mut_ptr(),
                &leading,
                values.as_mut_ptr(),
                work.as_mut_ptr(),
                &length,
                integers.as_mut_ptr(),
                &count,
                &mut info,
            );
        }
    };
    let (mut answer, mut count) = ([0.0], [0]);
    call(&mut a, &mut answer, &mut count, true);
    // LAPACK counts in 32 bits, and where its count passes them, the answer is a small one.
    let order = a.nrows() as f64;
    let least = 1.0 + 6.0 * order + 2.0 * order * order;
    let mut work = workspace(NAME, answer[0].max(least), &a)?;
    let mut integers = vec![0; count[0].max(1) as usize];
    call(&mut a, &mut work, &mut integers, false);
    refused(NAME, info)?;
    if info > 0 {
        return Err(LinalgError::NotConverged {
            routine: NAME,
            unconverged: info,
        });
    }
    Ok((values, a))
}

/// Thin SVD of `a` `[m, n]` by QR iteration; `a` is destroyed.
pub fn gesvd(a: &mut Array2<f64>) -> Result<SvdFactors, LinalgError> {
    const NAME: &str = "dgesvd";
    let Shape {
        rows,
        columns,
        leading,
    } = shape(NAME, a)?;
    let rank = a.nrows().min(a.ncols());
    let (mut u, mut vt) = (zeros(a.nrows(), rank), zeros(rank, a.ncols()));
    let mut values = vec![0.0; rank];
    if rank == 0 {
        return Ok((u, values, vt));
    }
    let left = leading;
    let right = rank as c_int;
    let job = b'S' as c_char;
    let mut info = 0;
    let mut call = |a: &mut Array2<f64>, work: &mut [f64], length: c_int| {
        // SAFETY: `a` holds m x n, `u` m x rank and `vt` rank x n values by columns, `values`
        // rank values, `work` as many as `length` says (one for a query).
        unsafe {
            lapack_sys::dgesvd_(
                &job,
                &job,
                &rows,
                &columns,
                a.as_mut_ptr(),
                &leading,
                values.as_mut_ptr(),
                u.as_mut_ptr(),
                &left,
                vt.as_mut_ptr(),
                &right,
                work.as_mut_ptr(),
                &length,
                &mut info,
            );
        }
    };
    let mut answer = [0.0];
    call(a, &mut answer, -1);
    let mut work = workspace(NAME, answer[0], a)?;
    let length = work.len() as c_int;
    call(a, &mut work, length);
    refused(NAME, info)?;
    if info > 0 {
        return Err(LinalgError::NotConverged {
            routine: NAME,
            unconverged: info,
        });
    }
    Ok((u, values, vt))
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;
    use crate::linalg::{by_columns, hostile, norms};

    #[test]
    fn a_workspace_beyond_32_bits_is_refused() {
        let a = zeros(1, 1);
        assert!(workspace("dgesdd", 3e9, &a).is_err());
        assert!(workspace("dgesdd", -5.0, &a).is_err());
        assert_eq!(workspace("dgesdd", 12.0, &a).map(|work| work.len()), Ok(12));
    }

    /// LAPACK's ratios: |A - V L V^T| / (|A| n eps) and |I - V^T V| / (n eps).
    #[test]
    fn eigenvectors_pass_the_ratios_on_hostile_matrices() {
        for n in [1, 2, 25, 130] {
            for (name, rows) in hostile::all(n + 3, n) {
                let exact = rows.t().dot(&rows);
                let mut upper = by_columns(exact.view());
                for ((i, j), x) in upper.indexed_iter_mut() {
                    if i > j {
                        *x = f64::NAN;
                    }
                }
                let (values, vectors) = syevd(upper).unwrap();
                assert!(values.is_sorted(), "{name}");
                let stretched = &vectors * &Array1::from(values);
                let norm = norms::frobenius(&exact).max(f64::MIN_POSITIVE);
                let unit = n as f64 * f64::EPSILON;
                let residual = norms::frobenius(&(&exact - &stretched.dot(&vectors.t())));
                assert!(residual <= 30.0 * norm * unit, "{name} {n}: {residual:e}");
                let products = vectors.t().dot(&vectors) - Array2::<f64>::eye(n);
                assert!(norms::frobenius(&products) <= 30.0 * unit, "{name} {n}");
            }
        }
    }

    #[test]
    fn empty_matrices_have_empty_factors() {
        let (mut a, mut t) = (zeros::<f32>(3, 0), zeros(0, 0));
        assert_eq!(geqrt3(a.view_mut(), t.view_mut()), Ok(()));
        let (u, values, vt) = gesdd(&mut zeros(4, 0)).unwrap();
        assert_eq!((u.dim(), values.len(), vt.dim()), ((4, 0), 0, (0, 0)));
        assert_eq!(syevd(zeros(0, 0)), Ok((vec![], zeros(0, 0))));
    }

    #[test]
    fn the_description_names_openblas() {
        assert!(
            blas_description().contains("OpenBLAS"),
            "{}",
            blas_description()
        );
    }
}
