//! The fitted model.

use ndarray::Array2;

use super::evidence::Evidence;
use super::{Precision, Rank, Solver};

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
    pub numerical_rank: Rank,
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
    /// What the solver says about its factorisation; empty for a model that was read from a file.
    pub evidence: Evidence,
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

    /// The standard deviation of the scores along each component, `[k]`: by how much whitening divides.
    pub fn deviations(&self) -> Vec<f64> {
        let root = ((self.n.max(2) - 1) as f64).sqrt();
        self.singular_values.iter().map(|s| s / root).collect()
    }

    /// The rows that have these scores, `[rows, d]`: the reverse of the projection, without what the
    /// components leave out. Scores `[rows, k]` are those of the model, whitened where it whitens.
    /// Constant features get their value back. 2 d k operations a row.
    ///
    /// # Panics
    /// If there is not one score for each component.
    pub fn inverse_transform(&self, scores: &Array2<f64>) -> Array2<f64> {
        assert_eq!(scores.ncols(), self.k(), "one score for each component");
        let mut scores = scores.clone();
        if self.whiten {
            for (mut column, deviation) in scores.columns_mut().into_iter().zip(self.deviations()) {
                column *= deviation;
            }
        }
        let mut rows = scores.dot(&self.components);
        for mut row in rows.rows_mut() {
            for ((x, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *x = *x * scale + mean;
            }
        }
        rows
    }
}
