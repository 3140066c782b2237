//! The certificate over all combinations of components instead of random ones.
//!
//! With X V = U S the products of the scores are `(X V)^T X V = S^2`, and what the components leave
//! has the squared norm `|X|^2 - |S|^2`. Both are computed from the stored features, in one more pass
//! over them, with products that come from no BLAS.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::certify::{Check, THRESHOLD, mean_rounding, over};
use super::exchange::Exchange;
use super::model::Model;

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exact {
    /// `|(X V)^T X V - S^2| / |X|^2`, which bounds the residual |X V - U S| for the best orthonormal U.
    pub pca_residual: Check,
    /// `|I - U^T U|` for U = X V S^-1.
    pub left_orthogonality: Check,
    /// `| |X - X V V^T|^2 - (|X|^2 - |S|^2) | / |X|^2`.
    pub reconstruction: Check,
}

impl Exact {
    pub(super) fn checks(&self) -> [(&'static str, Check); 3] {
        [
            ("the residual of all components", self.pca_residual),
            ("the orthogonality of all scores", self.left_orthogonality),
            ("the error of the reconstruction", self.reconstruction),
        ]
    }
}

/// Sums over the rows of a rank.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Products of the scores before whitening, `[k, k]`.
    products: Array2<f64>,
    /// Squared norm of what the components leave.
    rest: f64,
}

impl Verification {
    /// Of no rows. k^2 numbers.
    pub fn new(model: &Model) -> Self {
        Verification {
            products: Array2::zeros((model.k(), model.k())),
            rest: 0.0,
        }
    }

    /// Adds the rows of a block, `[rows, d]`.
    pub fn add(&mut self, model: &Model, block: &Block) {
        let mut rows = block.to_scalar::<f64>();
        for mut row in rows.rows_mut() {
            for ((x, mean), scale) in row.iter_mut().zip(&model.mean).zip(&model.scale) {
                *x = if *scale > 0.0 {
                    (*x - mean) / scale
                } else {
                    0.0
                };
            }
        }
        let scores = rows.dot(&model.components.t());
        self.products += &scores.t().dot(&scores);
        rows -= &scores.dot(&model.components);
        self.rest += rows.iter().map(|x| x * x).sum::<f64>();
    }

    /// Brings the sums of all ranks together and compares them with the model; on rank 0.
    pub fn finish(self, comm: &impl Exchange, model: &Model) -> Option<Exact> {
        let mut numbers = vec![self.rest];
        numbers.extend(&self.products);
        if comm.rank() > 0 {
            comm.send(&numbers, 0);
            return None;
        }
        for rank in 1..comm.size() {
            for (sum, other) in numbers.iter_mut().zip(comm.receive::<f64>(rank)) {
                *sum += other;
            }
        }
        Some(compare(model, numbers[0], &numbers[1..]))
    }
}

fn compare(model: &Model, rest: f64, products: &[f64]) -> Exact {
    let k = model.k();
    let size = (model.n as f64).max(model.width() as f64);
    let squares = model.total_variance * (model.n.max(2) - 1) as f64;
    let norm = squares.sqrt();
    let allowed =
        THRESHOLD * model.precision.eps() * size.sqrt() + over(mean_rounding(model), norm);
    let values = &model.singular_values;
    let (mut residual, mut orthogonality) = (0.0, 0.0);
    for (index, product) in products.iter().enumerate() {
        let (i, j) = (index / k, index % k);
        let expected = if i == j { values[i] * values[i] } else { 0.0 };
        let difference = product - expected;
        residual += over(difference, squares).powi(2);
        orthogonality += (difference / values[i] / values[j]).powi(2);
    }
    let smallest = values.last().copied().unwrap_or(norm);
    let explained: f64 = values.iter().map(|s| s * s).sum();
    Exact {
        pca_residual: Check {
            value: residual.sqrt(),
            limit: 2.0 * allowed,
        },
        left_orthogonality: Check {
            value: orthogonality.sqrt(),
            limit: 2.0 * allowed * (k.max(1) as f64).sqrt() * over(norm, smallest).max(1.0),
        },
        reconstruction: Check {
            value: over((rest - (squares - explained)).abs(), squares),
            limit: 2.0 * allowed,
        },
    }
}
