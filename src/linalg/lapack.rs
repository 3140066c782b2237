//! The foreign calls: LAPACK behind safe functions, and the thread count of OpenBLAS.
//!
//! Each function checks shapes and storage, asks LAPACK for its workspace and turns `info` into a
//! [`LinalgError`]. Wrong shapes or storage are defects of the caller and panic.

// Without this line nothing refers to the crate, and the linker drops BLAS and LAPACK.
extern crate lapack_src as _;

use std::ffi::{CStr, c_char, c_int};
use std::sync::Once;

use ndarray::Array2;

use super::{LinalgError, zeros};

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

fn shape(routine: &'static str, a: &Array2<f64>) -> Result<Shape, LinalgError> {
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

fn refused(routine: &'static str, info: c_int) -> Result<(), LinalgError> {
    if info < 0 {
        return Err(LinalgError::Argument {
            routine,
            argument: -info,
        });
    }
    Ok(())
}

/// QR of `a`, `[m, n]`, in place: R on and above the diagonal, reflectors below; returns tau.
pub fn geqrf(a: &mut Array2<f64>) -> Result<Vec<f64>, LinalgError> {
    const NAME: &str = "dgeqrf";
    let Shape {
        rows,
        columns,
        leading,
    } = shape(NAME, a)?;
    let mut tau = vec![0.0; a.nrows().min(a.ncols())];
    if tau.is_empty() {
        return Ok(tau);
    }
    let mut info = 0;
    let mut call = |a: &mut Array2<f64>, work: &mut [f64], length: c_int| {
        // SAFETY: `a` holds leading x columns values by columns (checked by `shape`), `tau`
        // min(m, n), and `work` as many as `length` says, or one for a query (-1).
        unsafe {
            lapack_sys::dgeqrf_(
                &rows,
                &columns,
                a.as_mut_ptr(),
                &leading,
                tau.as_mut_ptr(),
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
    Ok(tau)
}

/// `c = Q c` for the Q that [`geqrf`] left in `reflectors` `[m, n]` and `tau`; `c` is `[m, k]`.
pub fn ormqr(
    reflectors: &Array2<f64>,
    tau: &[f64],
    c: &mut Array2<f64>,
) -> Result<(), LinalgError> {
    const NAME: &str = "dormqr";
    let v = shape(NAME, reflectors)?;
    let Shape {
        rows,
        columns,
        leading,
    } = shape(NAME, c)?;
    assert_eq!(reflectors.nrows(), c.nrows(), "{NAME}: rows of Q and C");
    assert!(
        tau.len() <= reflectors.ncols() && tau.len() <= reflectors.nrows(),
        "{NAME}: more reflectors than rows or columns"
    );
    if tau.is_empty() || c.is_empty() {
        return Ok(());
    }
    let count = tau.len() as c_int;
    let (side, transpose) = (b'L' as c_char, b'N' as c_char);
    let mut info = 0;
    let mut call = |c: &mut Array2<f64>, work: &mut [f64], length: c_int| {
        // SAFETY: `reflectors` holds v.leading x (at least count) values by columns and is only
        // read, `c` holds leading x columns values, `work` as many as `length` says (or one for
        // a query); rows of both agree, checked above.
        unsafe {
            lapack_sys::dormqr_(
                &side,
                &transpose,
                &rows,
                &columns,
                &count,
                reflectors.as_ptr(),
                &v.leading,
                tau.as_ptr(),
                c.as_mut_ptr(),
                &leading,
                work.as_mut_ptr(),
                &length,
                &mut info,
            );
        }
    };
    let mut answer = [0.0];
    call(c, &mut answer, -1);
    let mut work = workspace(NAME, answer[0], c)?;
    let length = work.len() as c_int;
    call(c, &mut work, length);
    refused(NAME, info)
}

/// QR of `[a; b]` where `a` is an upper triangle `[n, n]` and `b` is `[m, n]` with its last
/// `trapezoid` rows upper trapezoidal. On return `a` holds R and `b` the reflectors; the result is
/// T `[block, n]`, the triangular factors of the block reflectors.
pub fn tpqrt(
    a: &mut Array2<f64>,
    b: &mut Array2<f64>,
    trapezoid: usize,
    block: usize,
) -> Result<Array2<f64>, LinalgError> {
    const NAME: &str = "dtpqrt";
    let Shape {
        columns, leading, ..
    } = shape(NAME, a)?;
    let below = shape(NAME, b)?;
    let n = a.ncols();
    assert_eq!(a.nrows(), n, "{NAME}: the upper matrix is square");
    assert_eq!(b.ncols(), n, "{NAME}: columns of both matrices");
    assert!(
        trapezoid <= b.nrows().min(n),
        "{NAME}: height of the trapezoid"
    );
    assert!(block >= 1, "{NAME}: block of reflectors");
    let block = block.min(n.max(1));
    let mut t = zeros(block, n);
    if n == 0 || b.nrows() == 0 {
        return Ok(t);
    }
    let (trapezoid, block) = (trapezoid as c_int, block as c_int);
    let mut work = vec![0.0; block as usize * n];
    let mut info = 0;
    // SAFETY: `a` holds n x n, `b` below.leading x n and `t` block x n values by columns; `work`
    // holds block x n values as the routine's documentation asks; shapes checked above.
    unsafe {
        lapack_sys::dtpqrt_(
            &below.rows,
            &columns,
            &trapezoid,
            &block,
            a.as_mut_ptr(),
            &leading,
            b.as_mut_ptr(),
            &below.leading,
            t.as_mut_ptr(),
            &block,
            work.as_mut_ptr(),
            &mut info,
        );
    }
    refused(NAME, info)?;
    Ok(t)
}

/// `[a; b] = Q [a; b]` for the Q that [`tpqrt`] left in `v` `[m, n]` and `t`; `a` is `[n, k]`, `b`
/// is `[m, k]`, and `trapezoid` is what [`tpqrt`] was given.
pub fn tpmqrt(
    v: &Array2<f64>,
    t: &Array2<f64>,
    trapezoid: usize,
    a: &mut Array2<f64>,
    b: &mut Array2<f64>,
) -> Result<(), LinalgError> {
    const NAME: &str = "dtpmqrt";
    let reflectors = shape(NAME, v)?;
    let factors = shape(NAME, t)?;
    let top = shape(NAME, a)?;
    let bottom = shape(NAME, b)?;
    assert_eq!(t.ncols(), v.ncols(), "{NAME}: columns of V and T");
    assert_eq!(a.nrows(), v.ncols(), "{NAME}: rows of the upper matrix");
    assert_eq!(b.nrows(), v.nrows(), "{NAME}: rows of the lower matrix");
    assert_eq!(a.ncols(), b.ncols(), "{NAME}: columns of both matrices");
    assert!(
        trapezoid <= v.nrows().min(v.ncols()),
        "{NAME}: height of the trapezoid"
    );
    if v.is_empty() || a.is_empty() {
        return Ok(());
    }
    let (side, transpose) = (b'L' as c_char, b'N' as c_char);
    let trapezoid = trapezoid as c_int;
    let mut work = vec![0.0; t.nrows() * a.ncols()];
    let mut info = 0;
    // SAFETY: all four matrices are stored by columns with the leading dimensions given, their
    // shapes agree (checked above), and `work` holds block x k values.
    unsafe {
        lapack_sys::dtpmqrt_(
            &side,
            &transpose,
            &bottom.rows,
            &bottom.columns,
            &reflectors.columns,
            &trapezoid,
            &factors.rows,
            v.as_ptr(),
            &reflectors.leading,
            t.as_ptr(),
            &factors.leading,
            a.as_mut_ptr(),
            &top.leading,
            b.as_mut_ptr(),
            &bottom.leading,
            work.as_mut_ptr(),
            &mut info,
        );
    }
    refused(NAME, info)
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
    use super::*;

    #[test]
    fn a_workspace_beyond_32_bits_is_refused() {
        let a = zeros(1, 1);
        assert!(workspace("dgesdd", 3e9, &a).is_err());
        assert!(workspace("dgesdd", -5.0, &a).is_err());
        assert_eq!(workspace("dgesdd", 12.0, &a).map(|work| work.len()), Ok(12));
    }

    #[test]
    fn empty_matrices_have_empty_factors() {
        assert_eq!(geqrf(&mut zeros(0, 3)), Ok(vec![]));
        let (u, values, vt) = gesdd(&mut zeros(4, 0)).unwrap();
        assert_eq!((u.dim(), values.len(), vt.dim()), ((4, 0), 0, (0, 0)));
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
