//! Dense linear algebra over LAPACK: QR, the merge of two triangles, SVD, norms and signs.
//!
//! Matrices are `ndarray` matrices, of either precision where they may be large ([`Scalar`]), else of
//! `f64`. What goes to LAPACK is stored by columns (Fortran order); [`zeros`] and [`by_columns`] make
//! such matrices. All foreign calls stand in [`lapack`], [`blas`] and [`triangle`]; everything above them is safe code
//! without MPI. OpenBLAS runs on one thread: with more of
//! them it cuts its sums differently, and the bits of a result would depend on the machine.

pub mod basis;
pub mod blas;
pub mod gaussian;
pub mod lapack;
pub mod norms;
pub mod partial_eigen;
pub mod partial_svd;
pub mod qr;
pub mod scalar;
pub mod sign;
pub mod svd;
pub mod triangle;

pub use lapack::{blas_description, init};
pub use scalar::Scalar;

use ndarray::{Array2, ArrayView2, ShapeBuilder};

use crate::error::{Classify, Kind};

/// Why a factorisation could not be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinalgError {
    /// A count or a workspace does not fit LAPACK's 32-bit integers.
    #[error("cannot run {routine} on a {rows} x {columns} matrix: LAPACK counts in 32 bits")]
    TooLarge {
        /// The LAPACK routine.
        routine: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// The iteration of an SVD stopped without a result.
    #[error("cannot compute the SVD: {routine} did not converge ({unconverged} values left)")]
    NotConverged {
        /// The LAPACK routine.
        routine: &'static str,
        /// How many superdiagonals were left.
        unconverged: i32,
    },
    /// LAPACK found an argument that it does not take.
    #[error("cannot run {routine}: LAPACK refused its argument {argument}")]
    Argument {
        /// The LAPACK routine.
        routine: &'static str,
        /// Position of the argument, counted from 1.
        argument: i32,
    },
}

impl Classify for LinalgError {
    fn kind(&self) -> Kind {
        match self {
            LinalgError::TooLarge { .. } => Kind::Usage,
            LinalgError::NotConverged { .. } => Kind::Numerical,
            LinalgError::Argument { .. } => Kind::Internal,
        }
    }
}

/// A matrix of zeros stored by columns, `[rows, columns]`.
pub fn zeros<T: Scalar>(rows: usize, columns: usize) -> Array2<T> {
    Array2::zeros((rows, columns).f())
}

/// A copy stored by columns, `[rows, columns]`.
pub fn by_columns<T: Scalar>(matrix: ArrayView2<T>) -> Array2<T> {
    let mut copy = zeros(matrix.nrows(), matrix.ncols());
    copy.assign(&matrix);
    copy
}

#[cfg(test)]
pub(crate) mod hostile {
    //! Matrices that break careless code, by name.

    use ndarray::Array2;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    /// Uniform numbers in (-1, 1).
    pub fn uniform(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || {
            (random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
    }

    /// `U diag(spectrum) V^T` for random orthonormal U and V (Gram-Schmidt, done twice).
    pub fn with_spectrum(rows: usize, spectrum: &[f64], seed: u64) -> Array2<f64> {
        let n = spectrum.len();
        let mut left = orthonormal(rows, n, seed);
        for (mut column, &value) in left.columns_mut().into_iter().zip(spectrum) {
            column *= value;
        }
        left.dot(&orthonormal(n, n, seed + 1).t())
    }

    fn orthonormal(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut q = uniform(rows, columns, seed);
        for j in 0..columns {
            for _ in 0..2 {
                for i in 0..j {
                    let along = q.column(i).dot(&q.column(j));
                    let other = q.column(i).to_owned();
                    q.column_mut(j).scaled_add(-along, &other);
                }
            }
            let norm = q.column(j).dot(&q.column(j)).sqrt();
            q.column_mut(j).mapv_inplace(|x| x / norm);
        }
        q
    }

    /// A hostile matrix in f32, its extreme cases moved to the edges of that range.
    pub fn in_single(name: &str, matrix: &Array2<f64>) -> Array2<f32> {
        let scale = match name {
            "denormal" => 1e270,
            "huge" => 1e-132,
            _ => 1.0,
        };
        matrix.mapv(|x| (x * scale) as f32)
    }

    /// The hostile matrices `[rows, columns]` with their names; `rows >= columns`.
    pub fn all(rows: usize, columns: usize) -> Vec<(&'static str, Array2<f64>)> {
        assert!(rows >= columns);
        let last = (columns.max(2) - 1) as f64;
        let geometric = |least: f64| -> Vec<f64> {
            (0..columns).map(|i| least.powf(i as f64 / last)).collect()
        };
        let clustered: Vec<f64> = (0..columns)
            .map(|i| if i + 1 < columns { 1.0 } else { 1e-15 })
            .collect();
        let log_random: Vec<f64> = uniform(1, columns, 77)
            .iter()
            .map(|x| 10_f64.powf(-7.5 * (x + 1.0)))
            .collect();
        let mut zero_columns = uniform(rows, columns, 5);
        for j in (0..columns).step_by(2) {
            zero_columns.column_mut(j).fill(0.0);
        }
        let rank = columns.min(2);
        let deficient = uniform(rows, rank, 6).dot(&uniform(rank, columns, 7));
        vec![
            (
                "condition 1e15, geometric",
                with_spectrum(rows, &geometric(1e-15), 1),
            ),
            (
                "condition 1e7, geometric",
                with_spectrum(rows, &geometric(1e-7), 4),
            ),
            ("condition 1", with_spectrum(rows, &geometric(1.0), 11)),
            (
                "condition 1e15, clustered",
                with_spectrum(rows, &clustered, 2),
            ),
            (
                "condition 1e15, log-random",
                with_spectrum(rows, &log_random, 3),
            ),
            ("rank deficient", deficient),
            ("zero columns", zero_columns),
            ("all zero", Array2::zeros((rows, columns))),
            ("constant", Array2::from_elem((rows, columns), 3.25)),
            ("huge mean", uniform(rows, columns, 8) + 1e12),
            ("mean of a million", uniform(rows, columns, 13) + 1e6),
            ("denormal", uniform(rows, columns, 9) * 1e-310),
            ("huge", uniform(rows, columns, 10) * 1e150),
        ]
    }
}
