//! Principal components of rows that are spread over ranks.
//!
//! [`fit()`] returns the same [`Model`], bit for bit, on every rank and for every number of ranks:
//! sums run over fixed blocks of rows, never over ranks. The steps, by file:
//!
//! - `block`: the rows of a block as they come, in either precision;
//! - `center`: mean and deviations of some rows, without loss for constant or large columns;
//! - `leaf`: a set of rows as count, mean and R factor, and the merge of two of them;
//! - `gram`: the same with the products of the columns in the place of an R factor;
//! - `tree`: the schedule of the merges, as data;
//! - `solver`: which solver, from shape and memory;
//! - `tsqr`, `wide`: the solvers for many rows and for many columns; they walk the schedule;
//! - `column_tree`: the tree of `wide`, which gives Q too;
//! - `products`, `wide_products`: what `tsqr` and `wide` try first, for few components;
//! - `passes`: further passes over the rows, for directions that are known already;
//! - `randomized`: the solver that approximates, where neither fits in memory;
//! - `decompose`, `spectrum`: the SVD of the R factor, and how many components to keep;
//! - `tasks`: work for the threads of the pool;
//! - `evidence`: what a solver says about its factor, for the certificate;
//! - `fit`: from rows to the model;
//! - `project`: scores and reconstruction error of rows;
//! - `traffic`: the bytes that ranks send, counted and predicted;
//! - `certify`: checks of the model against every row that was projected;
//! - `verify`: the same over all combinations of components, for which the rows are read once more;
//! - `verify_factor`: and of the factorisation in all directions.

mod block;
mod center;
mod certify;
mod column_tree;
mod decompose;
mod evidence;
mod exchange;
mod fit;
mod gram;
mod leaf;
mod model;
mod passes;
mod products;
mod project;
mod randomized;
mod solver;
mod spectrum;
mod tasks;
mod traffic;
mod tree;
mod tsqr;
mod verify;
mod verify_factor;
mod wide;
mod wide_products;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod projections;

pub use block::{Block, Mapped};
pub use certify::{Certificate, CertificatePart, Check, certify, gather_parts};
pub use evidence::{Approximation, ColumnSums, Evidence, KeptFactor, Probe, Route};
pub use exchange::Exchange;
pub use fit::{Components, PcaSettings, Precision, Read, Rows, check_finite, fit};
pub use model::Model;
pub use project::{Projected, Projector};
pub use solver::{Solver, check_randomized, choose_solver, memory_bytes};
pub use spectrum::Rank;
pub use traffic::{Counted, predicted_bytes};
pub use tsqr::r_factor;
pub use verify::{Exact, Verification};

use crate::error::{Classify, Failure, Kind};
use crate::linalg::LinalgError;

/// Why there is no model, or no trust in it.
#[derive(Debug, thiserror::Error)]
pub enum PcaError {
    /// There is nothing to fit.
    #[error("cannot find components in {rows} rows of {columns} columns")]
    Empty {
        /// Rows over all blocks.
        rows: usize,
        /// Columns of each row.
        columns: usize,
    },
    /// No component was asked for.
    #[error("cannot compute 0 components: ask for at least 1")]
    NoComponents,
    /// The fraction of the variance makes no sense.
    #[error("cannot reach {0} of the variance: give a fraction above 0 and up to 1")]
    Fraction(f64),
    /// The solver was asked for rows that it is not made for.
    #[error(
        "cannot solve {rows} rows of {columns} columns with solver wide, which keeps a matrix of \
         rows x rows: use tsqr"
    )]
    TooManyRows {
        /// Rows over all blocks.
        rows: usize,
        /// Columns of each row.
        columns: usize,
    },
    /// A fraction of the variance was asked for with the solver that has to know the number of
    /// components.
    #[error(
        "cannot reach {} % of the variance with solver randomized, which has to know the number of \
         components beforehand: give -k, or use tsqr or wide",
        (.0 * 1e6).round() / 1e4
    )]
    RandomizedVariance(f64),
    /// No solver that would do fits in memory.
    #[error(
        "cannot factor the rows in {:.1} GB a rank: solver {} would take {:.1} GB; use more ranks or \
         hosts, or -k with solver randomized, or ask for a solver to run it all the same",
        available / 1e9, solver.as_str(), needed / 1e9
    )]
    Memory {
        /// The solver that fits the shape of the rows.
        solver: Solver,
        /// Bytes that it would take on a rank.
        needed: f64,
        /// Bytes that a rank has.
        available: f64,
    },
    /// The caller could not supply a block.
    #[error("{0}")]
    Read(Failure),
    /// The caller supplied a block of another shape than it announced.
    #[error(
        "cannot use block {block}: it is {rows} x {columns} instead of {expected_rows} x {expected_columns}"
    )]
    Shape {
        /// The block.
        block: usize,
        /// Rows it has.
        rows: usize,
        /// Columns it has.
        columns: usize,
        /// Rows it should have.
        expected_rows: usize,
        /// Columns it should have.
        expected_columns: usize,
    },
    /// A feature is NaN or infinite.
    #[error("cannot use row {row} of block {block}: column {column} is not a finite number")]
    NotFinite {
        /// The block.
        block: usize,
        /// The row inside the block.
        row: usize,
        /// The column.
        column: usize,
    },
    /// The rows are finite, but their R factor is not.
    #[error("cannot factor the rows: their values are too large for the arithmetic")]
    Overflow,
    /// LAPACK refused or failed.
    #[error("cannot factor the rows")]
    Linalg(#[from] LinalgError),
    /// The model does not agree with the rows that it was made from.
    #[error(
        "cannot certify the components: {what} is off by {value:.1e}, more than {limit:.1e}; where \
         the BLAS is suspect, OPENBLAS_CORETYPE=Haswell chooses its well-tried kernels"
    )]
    NotCertified {
        /// The check that failed.
        what: &'static str,
        /// What was measured.
        value: f64,
        /// What is allowed.
        limit: f64,
    },
}

impl Classify for PcaError {
    fn kind(&self) -> Kind {
        match self {
            PcaError::Empty { .. } => Kind::Input,
            PcaError::NoComponents
            | PcaError::Fraction(_)
            | PcaError::TooManyRows { .. }
            | PcaError::RandomizedVariance(_)
            | PcaError::Memory { .. } => Kind::Usage,
            PcaError::Read(failure) => failure.kind,
            PcaError::Shape { .. } => Kind::Internal,
            PcaError::NotFinite { .. } | PcaError::Overflow | PcaError::NotCertified { .. } => {
                Kind::Numerical
            }
            PcaError::Linalg(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    #[test]
    fn errors_have_their_kind_and_their_words() {
        let table = [
            (
                PcaError::Empty {
                    rows: 0,
                    columns: 8,
                },
                Kind::Input,
                "cannot find components in 0 rows of 8 columns",
            ),
            (
                PcaError::NoComponents,
                Kind::Usage,
                "cannot compute 0 components: ask for at least 1",
            ),
            (
                PcaError::Fraction(1.5),
                Kind::Usage,
                "cannot reach 1.5 of the variance: give a fraction above 0 and up to 1",
            ),
            (
                PcaError::TooManyRows {
                    rows: 9,
                    columns: 8,
                },
                Kind::Usage,
                "cannot solve 9 rows of 8 columns with solver wide, which keeps a matrix of rows x \
                 rows: use tsqr",
            ),
            (
                PcaError::RandomizedVariance(0.95),
                Kind::Usage,
                "cannot reach 95 % of the variance with solver randomized, which has to know the \
                 number of components beforehand: give -k, or use tsqr or wide",
            ),
            (
                PcaError::Memory {
                    solver: Solver::Wide,
                    needed: 25e9,
                    available: 2.04e9,
                },
                Kind::Usage,
                "cannot factor the rows in 2.0 GB a rank: solver wide would take 25.0 GB; use more \
                 ranks or hosts, or -k with solver randomized, or ask for a solver to run it all the \
                 same",
            ),
            (
                PcaError::Read(Failure::new(Kind::Io, "cannot read \"a\": gone")),
                Kind::Io,
                "cannot read \"a\": gone",
            ),
            (
                PcaError::Shape {
                    block: 3,
                    rows: 1,
                    columns: 2,
                    expected_rows: 4,
                    expected_columns: 5,
                },
                Kind::Internal,
                "cannot use block 3: it is 1 x 2 instead of 4 x 5",
            ),
            (
                PcaError::NotFinite {
                    block: 1,
                    row: 2,
                    column: 3,
                },
                Kind::Numerical,
                "cannot use row 2 of block 1: column 3 is not a finite number",
            ),
            (
                PcaError::Overflow,
                Kind::Numerical,
                "cannot factor the rows: their values are too large for the arithmetic",
            ),
            (
                PcaError::Linalg(LinalgError::NotConverged {
                    routine: "dgesvd",
                    unconverged: 2,
                }),
                Kind::Numerical,
                "cannot factor the rows: cannot compute the SVD: dgesvd did not converge (2 values \
                 left)",
            ),
            (
                PcaError::Linalg(LinalgError::TooLarge {
                    routine: "dgeqrf",
                    rows: 7,
                    columns: 8,
                }),
                Kind::Usage,
                "cannot factor the rows: cannot run dgeqrf on a 7 x 8 matrix: LAPACK counts in 32 bits",
            ),
            (
                PcaError::Linalg(LinalgError::Argument {
                    routine: "dgeqrf",
                    argument: 4,
                }),
                Kind::Internal,
                "cannot factor the rows: cannot run dgeqrf: LAPACK refused its argument 4",
            ),
            (
                PcaError::NotCertified {
                    what: "a singular value",
                    value: 3.2e-9,
                    limit: 1e-12,
                },
                Kind::Numerical,
                "cannot certify the components: a singular value is off by 3.2e-9, more than \
                 1.0e-12; where the BLAS is suspect, OPENBLAS_CORETYPE=Haswell chooses its \
                 well-tried kernels",
            ),
        ];
        for (error, kind, text) in table {
            assert_eq!(error.kind(), kind, "{text}");
            assert_eq!(chain(&error), text);
        }
    }
}
