//! The model checked against every row that was projected on it.
//!
//! Three statements of the SVD X = U S V^T, X being the centred (and scaled) rows, are measured:
//!
//! - each component: `| ||X v_j|| - s_j | / s_1`;
//! - all components: the largest entry of `| V V^T - I |`;
//! - the rows themselves: `| ||X||^2 - ||R||^2 | / ||R||^2`.
//!
//! The sums over rows are kept for each block and added in block order, so they do not depend on
//! the ranks. They come from the projection, which uses neither LAPACK nor BLAS. They are plain
//! sums of squares, fit for deviations between 1e-150 and 1e150, which those of 32-bit features are.

use serde::{Deserialize, Serialize};

use super::PcaError;
use super::exchange::Exchange;
use super::model::Model;

/// How much rounding is allowed, in units of eps sqrt(size), where size is the length of the sums:
/// rounding errors of both signs grow like the square root. The factor is LAPACK's threshold.
const THRESHOLD: f64 = 30.0;

/// What one block of rows adds to the certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatePart {
    /// Rows in the block.
    pub rows: u64,
    /// Sum of the squared norms of the centred (and scaled) rows.
    pub total_squares: f64,
    /// Sum of the squared scores before whitening, `[k]`.
    pub component_squares: Vec<f64>,
}

impl CertificatePart {
    /// The part of no rows, for k components.
    pub fn empty(k: usize) -> Self {
        CertificatePart {
            rows: 0,
            total_squares: 0.0,
            component_squares: vec![0.0; k],
        }
    }

    /// Adds a row: its scores `[k]` and its squared norm.
    pub(super) fn add(&mut self, scores: &[f64], squares: f64) {
        self.rows += 1;
        self.total_squares += squares;
        for (sum, score) in self.component_squares.iter_mut().zip(scores) {
            *sum += score * score;
        }
    }
}

/// A measured value and the most that rounding explains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was measured, relative.
    pub value: f64,
    /// The most that passes.
    pub limit: f64,
}

impl Check {
    /// Whether it passes; NaN does not.
    pub fn passed(self) -> bool {
        self.value <= self.limit
    }
}

/// The result of the checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The largest difference between the norm of the rows along a component and its singular
    /// value, over the largest singular value.
    pub singular_values: Check,
    /// The largest entry of V V^T - I.
    pub orthogonality: Check,
    /// The difference between the squared norm of the rows and that of R, over the latter.
    pub total_variance: Check,
}

impl Certificate {
    /// The first check that fails, as an error.
    pub fn verdict(&self) -> Result<(), PcaError> {
        let checks = [
            ("a singular value", self.singular_values),
            ("the orthogonality of the components", self.orthogonality),
            ("the total variance", self.total_variance),
        ];
        match checks.into_iter().find(|(_, check)| !check.passed()) {
            Some((what, Check { value, limit })) => {
                Err(PcaError::NotCertified { what, value, limit })
            }
            None => Ok(()),
        }
    }
}

/// Brings the parts of all blocks to rank 0, in block order; the other ranks get `None`. Each rank
/// gives the parts of its own blocks, in order.
pub fn gather_parts(
    comm: &impl Exchange,
    own: Vec<CertificatePart>,
    k: usize,
) -> Option<Vec<CertificatePart>> {
    if comm.rank() != 0 {
        let mut message = Vec::with_capacity(own.len() * (k + 2));
        for part in &own {
            message.extend([part.rows as f64, part.total_squares]);
            message.extend(&part.component_squares);
        }
        comm.send(&message, 0);
        return None;
    }
    let mut parts = own;
    for rank in 1..comm.size() {
        parts.extend(
            comm.receive(rank)
                .chunks_exact(k + 2)
                .map(|numbers| CertificatePart {
                    rows: numbers[0] as u64,
                    total_squares: numbers[1],
                    component_squares: numbers[2..].to_vec(),
                }),
        );
    }
    Some(parts)
}

/// Checks a model against the rows that it was fitted to, given the parts of their blocks in block
/// order.
pub fn certify(model: &Model, parts: &[CertificatePart]) -> Certificate {
    let k = model.k();
    let mut sums = CertificatePart::empty(k);
    for part in parts {
        sums.rows += part.rows;
        sums.total_squares += part.total_squares;
        for (sum, square) in sums
            .component_squares
            .iter_mut()
            .zip(&part.component_squares)
        {
            *sum += square;
        }
    }
    let rounding =
        THRESHOLD * model.precision.eps() * (model.n as f64).max(model.width() as f64).sqrt();
    let squares = model.total_variance * (model.n.max(2) - 1) as f64;
    let norm = squares.sqrt();
    let shift = mean_rounding(model);
    let largest = model.singular_values.first().copied().unwrap_or(0.0);
    let differences = sums.component_squares.iter().zip(&model.singular_values);
    let difference = largest_of(differences.map(|(sum, s)| (sum.sqrt() - s).abs()));
    Certificate {
        singular_values: Check {
            value: over(difference, largest),
            limit: rounding + over(shift, largest),
        },
        orthogonality: Check {
            value: orthogonality(model),
            limit: rounding,
        },
        total_variance: Check {
            value: over((sums.total_squares - squares).abs(), squares),
            limit: rounding + over(shift, norm) * over(shift, norm),
        },
    }
}

/// How far the rounding of the stored mean moves the rows, as a norm over all of them: the mean is
/// rounded to eps of itself, which shows where it is much larger than the spread.
fn mean_rounding(model: &Model) -> f64 {
    let moved = model
        .mean
        .iter()
        .zip(&model.scale)
        .filter(|(_, scale)| **scale > 0.0);
    let squares: f64 = moved
        .map(|(mean, scale)| (mean / scale) * (mean / scale))
        .sum();
    f64::EPSILON * (squares * model.n as f64).sqrt()
}

/// The largest entry of |V V^T - I|.
fn orthogonality(model: &Model) -> f64 {
    let products = model.components.dot(&model.components.t());
    let entries = products.indexed_iter();
    largest_of(entries.map(|((i, j), x)| (x - f64::from(u8::from(i == j))).abs()))
}

/// The largest of some values; NaN if one of them is.
fn largest_of(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |largest, x| {
        if x > largest || x.is_nan() {
            x
        } else {
            largest
        }
    })
}

/// A part of a whole; the part itself where the whole is zero.
fn over(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { part }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::linalg::hostile;
    use crate::pca::{
        Components, PcaSettings, Precision, Rows, Solver, exchange::threads, fit, project_block,
    };

    fn settings(standardize: bool) -> PcaSettings {
        PcaSettings {
            components: Components::Count(100),
            standardize,
            whiten: false,
            solver: Solver::Auto,
            precision: Precision::F64,
        }
    }

    fn fit_alone(rows: &Array2<f64>, standardize: bool) -> Model {
        let layout = Rows {
            rows_per_block: &[rows.nrows()],
            owner_of_block: &[0],
            width: rows.ncols(),
        };
        let mut models = threads::on_ranks(1, |rank| {
            fit(
                rank,
                &layout,
                &mut |_| Ok(rows.clone().into()),
                &settings(standardize),
            )
            .unwrap()
        });
        models.remove(0)
    }

    #[test]
    fn models_of_hostile_matrices_are_certified() {
        for (m, n) in [(3, 2), (40, 13), (300, 40)] {
            for (name, rows) in hostile::all(m, n) {
                if name == "denormal" || name == "huge" {
                    // Their squares leave the range of f64, and of features, which are f32.
                    continue;
                }
                for rows in [rows.clone(), rows.t().to_owned()] {
                    for standardize in [true, false] {
                        let model = fit_alone(&rows, standardize);
                        let part = project_block(&model, &rows.clone().into()).part;
                        let certificate = certify(&model, &[part]);
                        let verdict = certificate.verdict();
                        assert!(verdict.is_ok(), "{name} {:?}: {certificate:?}", rows.dim());
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_model_is_not_certified() {
        let rows = hostile::uniform(60, 12, 1);
        let right = fit_alone(&rows, true);
        let verdict = |model: &Model| {
            certify(model, &[project_block(model, &rows.clone().into()).part])
                .verdict()
                .map_err(|e| e.to_string())
        };
        assert_eq!(verdict(&right), Ok(()));
        let mut model = right.clone();
        model.singular_values[3] *= 1.0 + 1e-9;
        assert!(verdict(&model).unwrap_err().contains("a singular value"));
        let mut model = right.clone();
        model.components[[2, 5]] += 1e-9;
        assert!(verdict(&model).is_err());
        let mut model = right.clone();
        model.total_variance *= 1.0 + 1e-9;
        assert!(verdict(&model).unwrap_err().contains("the total variance"));
        let mut model = right.clone();
        model.mean[0] += 1e-3;
        assert!(verdict(&model).is_err());
        let mut model = right;
        model.components[[0, 0]] = f64::NAN;
        assert!(verdict(&model).unwrap_err().contains("OPENBLAS_CORETYPE"));
    }

    #[test]
    fn parts_arrive_at_rank_0_in_block_order() {
        let part = |value: f64| CertificatePart {
            rows: value as u64,
            total_squares: value,
            component_squares: vec![value, -value],
        };
        let owned: [Vec<f64>; 4] = [vec![1.0], vec![], vec![2.0, 3.0], vec![4.0]];
        let gathered = threads::on_ranks(4, |rank| {
            let own = owned[rank.rank()]
                .iter()
                .map(|value| part(*value))
                .collect();
            gather_parts(rank, own, 2)
        });
        let expected: Vec<_> = [1.0, 2.0, 3.0, 4.0].into_iter().map(part).collect();
        assert_eq!(gathered, vec![Some(expected), None, None, None]);
    }
}
