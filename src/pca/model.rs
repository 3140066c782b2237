//! The fitted model.

use ndarray::Array2;

use super::{Precision, Solver};

/// Principal components, and what is needed to score a row with them. d is the number of columns,
/// k that of the components.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// How many rows it was fitted to.
    pub n: u64,
    /// The mean of the columns, `[d]`.
    pub mean: Vec<f64>,
    /// What the deviations are divided by, `[d]`: the sample standard deviation (divisor n - 1; 0
    /// for a column without variance, which then counts as 0), or 1 without standardisation.
    pub scale: Vec<f64>,
    /// Orthonormal rows, strongest first, `[k, d]`; the entry of largest magnitude is positive.
    pub components: Array2<f64>,
    /// Singular values of the centred (and scaled) rows, `[k]`.
    pub singular_values: Vec<f64>,
    /// Variance along each component, singular value squared over n - 1, `[k]`.
    pub explained_variance: Vec<f64>,
    /// The same as a part of the variance of all columns, `[k]`.
    pub explained_variance_ratio: Vec<f64>,
    /// The variance of all columns together, explained or not.
    pub total_variance: f64,
    /// How many singular values are above rounding: max(n, d) eps times the largest.
    pub numerical_rank: usize,
    /// Whether the columns were divided by their standard deviation.
    pub standardized: bool,
    /// Whether scores are divided by their standard deviation.
    pub whiten: bool,
    /// Why there are k components.
    pub k_reason: String,
    /// The solver that ran; never `Auto`.
    pub solver: Solver,
    /// Why that solver.
    pub solver_reason: String,
    /// The precision of the factorisation.
    pub precision: Precision,
}

impl Model {
    /// Number of components.
    pub fn k(&self) -> usize {
        self.components.nrows()
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.mean.len()
    }
}
