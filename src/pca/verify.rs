//! The certificate over all directions instead of random ones.
//!
//! With X V = U S the products of the scores are `(X V)^T X V = S^2`, and what the components leave
//! has the squared norm `|X|^2 - |S|^2`. Both are computed from the stored features, in one more pass
//! over them, with products that come from no BLAS. The same pass checks the factorisation (`verify_factor`).

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::certify::{Check, THRESHOLD, mean_rounding, over};
use super::exchange::Exchange;
use super::model::Model;
use super::verify_factor::FactorSums;

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exact {
    /// `|(X V)^T X V - S^2| / |X|^2`, which bounds the residual |X V - U S| for the best orthonormal U.
    pub pca_residual: Check,
    /// `|I - U^T U|` for U = X V S^-1.
    pub left_orthogonality: Check,
    /// `| |X - X V V^T|^2 - (|X|^2 - |S|^2) | / |X|^2`.
    pub reconstruction: Check,
    /// `|X^T X - R^T R|_F / |X|_F^2` for the factor R of the rows X (`wide` factors their transpose), which is at
    /// most twice the residual |X - Q R| / |X| for the best orthonormal Q. `None` where the components come from no
    /// factor of the rows, where it was not kept, and where `tsqr` factored fewer rows than columns.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub factor_residual: Option<Check>,
    /// `|I - Q^T Q|_F` for the Q that `wide` used, or for Q = X R^-1. `None` where `factor_residual` is, and where R is
    /// singular but for rounding.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub factor_orthogonality: Option<Check>,
}

impl Exact {
    /// The checks that were made, with their names.
    pub(super) fn checks(&self) -> impl Iterator<Item = (&'static str, Check)> {
        let factor = [
            (
                "the whole residual of the factorisation",
                self.factor_residual,
            ),
            (
                "the whole orthogonality of the factorisation",
                self.factor_orthogonality,
            ),
        ];
        let components = [
            ("the residual of all components", self.pca_residual),
            ("the orthogonality of all scores", self.left_orthogonality),
            ("the error of the reconstruction", self.reconstruction),
        ];
        factor
            .into_iter()
            .filter_map(|(name, check)| Some((name, check?)))
            .chain(components)
    }
}

/// Sums over the rows of a rank.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Products of the scores before whitening, `[k, k]`.
    products: Array2<f64>,
    /// Squared norm of what the components leave.
    rest: f64,
    /// What the factor is compared with, where it was kept.
    factor: Option<FactorSums>,
}

impl Verification {
    /// Of no rows. k^2 numbers, and where the model's evidence keeps a factor four times its size. All ranks call it
    /// together: the rank that holds the factor gives it to the others.
    pub fn new(comm: &impl Exchange, model: &Model) -> Self {
        Verification {
            products: Array2::zeros((model.k(), model.k())),
            rest: 0.0,
            factor: FactorSums::new(comm, model),
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
        if let Some(factor) = &mut self.factor {
            factor.add(rows.view());
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
        } else {
            for rank in 1..comm.size() {
                for (sum, other) in numbers.iter_mut().zip(comm.receive::<f64>(rank)) {
                    *sum += other;
                }
            }
        }
        let factor = self.factor.and_then(|factor| factor.finish(comm, model));
        (comm.rank() == 0).then(|| Exact {
            factor_residual: factor.as_ref().map(|checks| checks.residual),
            factor_orthogonality: factor.and_then(|checks| checks.orthogonality),
            ..compare(model, numbers[0], &numbers[1..])
        })
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
        factor_residual: None,
        factor_orthogonality: None,
    }
}
