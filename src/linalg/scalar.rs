//! The two precisions in which matrices are factored.

use std::ffi::{c_char, c_int};
use std::iter::Sum;

use ndarray::{Array2, NdFloat};

/// `f32` or `f64`, with the routines that LAPACK and BLAS have for it.
pub trait Scalar: NdFloat + Sum<Self> {
    /// The size of a number in a message, in bytes.
    const BYTES: usize;
    /// What rounding to this precision costs: the distance from 1 to the next number.
    const EPS: f64;
    /// The foreign routines.
    const ROUTINES: Routines<Self>;
    /// The nearest number of this precision.
    fn of_f64(value: f64) -> Self;
    /// The same value as `f64`, exactly.
    fn as_f64(self) -> f64;
    /// The same matrix as `f64`, in the same order.
    fn widened(matrix: Array2<Self>) -> Array2<f64>;
    /// Appends the number to a message.
    fn write(self, message: &mut Vec<u8>);
    /// Reads a number of `BYTES` bytes.
    fn read(bytes: &[u8]) -> Self;
}

type In<T> = *const T;
type Out<T> = *mut T;

/// One routine: its name for messages, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Routine<F> {
    /// As LAPACK names it.
    pub name: &'static str,
    /// The entry point, with the arguments of LAPACK's documentation.
    pub call: F,
}

/// The foreign routines of a precision.
#[derive(Debug, Clone, Copy)]
pub struct Routines<T> {
    /// QR with the triangular factor of the block reflector, recursive.
    pub geqrt3: Routine<Geqrt3<T>>,
    /// SVD by divide and conquer.
    pub gesdd: Routine<Gesdd<T>>,
    /// SVD by QR iteration.
    pub gesvd: Routine<Gesvd<T>>,
    /// Matrix product.
    pub gemm: Routine<Gemm<T>>,
    /// Product of a matrix and its transpose.
    pub syrk: Routine<Syrk<T>>,
}

/// m, n, A, lda, T, ldt, info.
pub type Geqrt3<T> =
    unsafe extern "C" fn(In<c_int>, In<c_int>, Out<T>, In<c_int>, Out<T>, In<c_int>, Out<c_int>);

/// jobz, m, n, A, lda, S, U, ldu, VT, ldvt, work, lwork, iwork, info.
pub type Gesdd<T> = unsafe extern "C" fn(
    In<c_char>,
    In<c_int>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<T>,
    Out<T>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<c_int>,
    Out<c_int>,
);

/// jobu, jobvt, m, n, A, lda, S, U, ldu, VT, ldvt, work, lwork, info.
pub type Gesvd<T> = unsafe extern "C" fn(
    In<c_char>,
    In<c_char>,
    In<c_int>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<T>,
    Out<T>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<T>,
    In<c_int>,
    Out<c_int>,
);

/// transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc.
pub type Gemm<T> = unsafe extern "C" fn(
    In<c_char>,
    In<c_char>,
    In<c_int>,
    In<c_int>,
    In<c_int>,
    In<T>,
    In<T>,
    In<c_int>,
    In<T>,
    In<c_int>,
    In<T>,
    Out<T>,
    In<c_int>,
);

/// uplo, trans, n, k, alpha, A, lda, beta, C, ldc.
pub type Syrk<T> = unsafe extern "C" fn(
    In<c_char>,
    In<c_char>,
    In<c_int>,
    In<c_int>,
    In<T>,
    In<T>,
    In<c_int>,
    In<T>,
    Out<T>,
    In<c_int>,
);

mod blas {
    //! BLAS in Fortran's calling convention, which the LAPACK bindings leave out.

    use super::{In, Out, c_char, c_int};

    macro_rules! products {
        ($gemm:ident, $syrk:ident, $scalar:ty) => {
            unsafe extern "C" {
                pub fn $gemm(
                    transpose_a: In<c_char>,
                    transpose_b: In<c_char>,
                    m: In<c_int>,
                    n: In<c_int>,
                    k: In<c_int>,
                    alpha: In<$scalar>,
                    a: In<$scalar>,
                    leading_a: In<c_int>,
                    b: In<$scalar>,
                    leading_b: In<c_int>,
                    beta: In<$scalar>,
                    c: Out<$scalar>,
                    leading_c: In<c_int>,
                );
                pub fn $syrk(
                    triangle: In<c_char>,
                    transpose: In<c_char>,
                    n: In<c_int>,
                    k: In<c_int>,
                    alpha: In<$scalar>,
                    a: In<$scalar>,
                    leading_a: In<c_int>,
                    beta: In<$scalar>,
                    c: Out<$scalar>,
                    leading_c: In<c_int>,
                );
            }
        };
    }

    products!(sgemm_, ssyrk_, f32);
    products!(dgemm_, dsyrk_, f64);
}

macro_rules! scalar {
    ($scalar:ty, $widened:expr, $letter:literal, $geqrt3:ident, $gesdd:ident, $gesvd:ident, $gemm:ident, $syrk:ident) => {
        impl Scalar for $scalar {
            const BYTES: usize = size_of::<$scalar>();
            const EPS: f64 = <$scalar>::EPSILON as f64;
            const ROUTINES: Routines<$scalar> = Routines {
                geqrt3: Routine {
                    name: concat!($letter, "geqrt3"),
                    call: lapack_sys::$geqrt3,
                },
                gesdd: Routine {
                    name: concat!($letter, "gesdd"),
                    call: lapack_sys::$gesdd,
                },
                gesvd: Routine {
                    name: concat!($letter, "gesvd"),
                    call: lapack_sys::$gesvd,
                },
                gemm: Routine {
                    name: concat!($letter, "gemm"),
                    call: blas::$gemm,
                },
                syrk: Routine {
                    name: concat!($letter, "syrk"),
                    call: blas::$syrk,
                },
            };

            #[inline(always)]
            fn of_f64(value: f64) -> $scalar {
                value as $scalar
            }

            #[inline(always)]
            fn as_f64(self) -> f64 {
                self as f64
            }

            fn widened(matrix: Array2<$scalar>) -> Array2<f64> {
                $widened(matrix)
            }

            fn write(self, message: &mut Vec<u8>) {
                message.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> $scalar {
                let bytes = bytes.try_into().expect("as many bytes as a number has");
                <$scalar>::from_le_bytes(bytes)
            }
        }
    };
}

scalar!(
    f32,
    |m: Array2<f32>| m.mapv(f64::from),
    "s",
    sgeqrt3_,
    sgesdd_,
    sgesvd_,
    sgemm_,
    ssyrk_
);
scalar!(
    f64,
    std::convert::identity,
    "d",
    dgeqrt3_,
    dgesdd_,
    dgesvd_,
    dgemm_,
    dsyrk_
);
