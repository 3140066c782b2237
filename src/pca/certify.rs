//! The model checked against every row that was projected on it.
//!
//! X are the centred (and scaled) rows, X = Q R their factorisation, X = U S V^T their SVD. Measured
//! are, of the SVD:
//!
//! - each component: `| |X v_j| - s_j | / s_1`;
//! - all components: the largest entry of `| V V^T - I |`;
//! - the rows themselves: `| |X|^2 - |R|^2 | / |R|^2`;
//! - the residual `|X V - U S| / |X|`: for random unit vectors c, `| |X V c| - |S c| | / |X|`, which is
//!   no larger for any orthonormal U;
//! - the orthogonality `|I - U^T U|` of U = X V S^-1: `| |U c|^2 - |c|^2 |`.
//!
//! And of the factorisation, along the probes of `evidence`:
//!
//! - the residual `|X - Q R| / |X|`: `| |X z| - |R z| | / |X|` for unit vectors z;
//! - the orthogonality `|I - Q^T Q|`: where Q is explicit, from what it does to random vectors; where
//!   it is not, for Q = X R^-1, from `| |X z|^2 / |R z|^2 - 1 |`, of which rounding explains a part
//!   that grows like `|X| / |R z|`;
//! - the residual of the SVD of R.
//!
//! Divided by n eps the residuals and orthogonalities are LAPACK's test ratios, whose threshold is 30;
//! the limits here are lower, as they grow with the square root of n only.
//!
//! The sums over rows are kept for each block and added in block order, so they do not depend on
//! the ranks. They come from the projection, which uses neither LAPACK nor BLAS. They are plain
//! sums of squares, fit for deviations between 1e-150 and 1e150, which those of 32-bit features are.

use ndarray::{Array2, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::PcaError;
use super::evidence::{self, Approximation};
use super::exchange::Exchange;
use super::model::Model;
use super::verify::Exact;

/// How much rounding is allowed, in units of eps sqrt(size), where size is the length of the sums:
/// rounding errors of both signs grow like the square root. The factor is LAPACK's threshold.
pub(super) const THRESHOLD: f64 = 30.0;

/// What one block of rows adds to the certificate.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatePart {
    /// Rows in the block.
    pub rows: u64,
    /// Sum of the squared norms of the centred (and scaled) rows.
    pub total_squares: f64,
    /// Sum of the squared scores before whitening, `[k]`.
    pub component_squares: Vec<f64>,
    /// Sum of the squares along each probe of the evidence, `[probes]`.
    pub probe_squares: Vec<f64>,
    /// Sum of the squares of `X V c` for each c, then of `X V S^-1 c`, `[2 PROBES]`.
    pub mix_squares: Vec<f64>,
}

/// Random combinations of the components: c and S^-1 c, `[k, 2 PROBES]`.
pub(super) struct Mixes(Array2<f64>);

impl Mixes {
    pub fn of(model: &Model) -> Mixes {
        let forth = evidence::coefficients(model.k());
        let mut back = forth.clone();
        for (mut row, value) in back.rows_mut().into_iter().zip(&model.singular_values) {
            row /= *value;
        }
        let columns = [forth.view(), back.view()];
        let mixes = concatenate(Axis(1), &columns).expect("both have a row for each component");
        Mixes(mixes.as_standard_layout().into_owned())
    }
}

impl CertificatePart {
    /// The part of no rows.
    pub fn empty(model: &Model) -> Self {
        CertificatePart {
            rows: 0,
            total_squares: 0.0,
            component_squares: vec![0.0; model.k()],
            probe_squares: vec![0.0; model.evidence.probes.len()],
            mix_squares: vec![0.0; 2 * evidence::PROBES],
        }
    }

    /// Adds a row: its scores `[k]`, its squared norm, and its products with the probes.
    pub(super) fn add(
        &mut self,
        scores: &[f64],
        squares: f64,
        along_probes: &[f64],
        mixes: &Mixes,
    ) {
        self.rows += 1;
        self.total_squares += squares;
        let mut mixed = [0.0; 2 * evidence::PROBES];
        for (score, mix) in scores.iter().zip(mixes.0.rows()) {
            for (sum, c) in mixed.iter_mut().zip(mix) {
                *sum += score * c;
            }
        }
        add_squares(&mut self.component_squares, scores);
        add_squares(&mut self.probe_squares, along_probes);
        add_squares(&mut self.mix_squares, &mixed);
    }

    /// Adds the rows of another part.
    fn merge(&mut self, other: &CertificatePart) {
        self.rows += other.rows;
        self.total_squares += other.total_squares;
        for (sums, others) in [
            (&mut self.component_squares, &other.component_squares),
            (&mut self.probe_squares, &other.probe_squares),
            (&mut self.mix_squares, &other.mix_squares),
        ] {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other;
            }
        }
    }

    fn to_numbers(&self) -> Vec<f64> {
        let lists = [
            &self.component_squares,
            &self.probe_squares,
            &self.mix_squares,
        ];
        let mut numbers = vec![self.rows as f64, self.total_squares];
        for list in lists {
            numbers.push(list.len() as f64);
            numbers.extend(list);
        }
        numbers
    }

    /// Takes a part off the front of what [`CertificatePart::to_numbers`] wrote.
    fn take_from(numbers: &mut &[f64]) -> CertificatePart {
        let take = |numbers: &mut &[f64], count: usize| {
            let (taken, rest) = numbers.split_at(count);
            *numbers = rest;
            taken.to_vec()
        };
        let head = take(numbers, 2);
        let mut list = || {
            let length = take(numbers, 1)[0] as usize;
            take(numbers, length)
        };
        CertificatePart {
            rows: head[0] as u64,
            total_squares: head[1],
            component_squares: list(),
            probe_squares: list(),
            mix_squares: list(),
        }
    }
}

fn add_squares(sums: &mut [f64], values: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value * value;
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
    /// The residual of the factorisation, |X - Q R| / |X|, along the probes.
    pub factor_residual: Check,
    /// The orthogonality of its Q, |I - Q^T Q|, along the probes.
    pub factor_orthogonality: Check,
    /// The residual of the SVD of R, over the norm of R; where there is no R, of the components as a pass over the
    /// rows measured it.
    pub svd_residual: Check,
    /// The residual of the components, |X V - U S| / |X|, along random combinations of them.
    pub pca_residual: Check,
    /// The orthogonality of U = X V S^-1, |I - U^T U|, along random combinations of the components.
    pub left_orthogonality: Check,
    /// Which singular values were computed, and why not fewer.
    pub svd: String,
    /// The error that an approximation says it may have; it fails no check.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub approximation: Option<Approximation>,
    /// The checks over all combinations instead of random ones, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exact: Option<Exact>,
}

impl Certificate {
    /// The first check that fails, as an error.
    pub fn verdict(&self) -> Result<(), PcaError> {
        let checks = [
            ("a singular value", self.singular_values),
            ("the orthogonality of the components", self.orthogonality),
            ("the total variance", self.total_variance),
            ("the residual of the factorisation", self.factor_residual),
            (
                "the orthogonality of the factorisation",
                self.factor_orthogonality,
            ),
            ("the residual of the SVD", self.svd_residual),
            ("the residual of the components", self.pca_residual),
            ("the orthogonality of the scores", self.left_orthogonality),
        ];
        let exact = self.exact.iter().flat_map(Exact::checks);
        match checks
            .into_iter()
            .chain(exact)
            .find(|(_, check)| !check.passed())
        {
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
) -> Option<Vec<CertificatePart>> {
    if comm.rank() != 0 {
        let message: Vec<f64> = own.iter().flat_map(CertificatePart::to_numbers).collect();
        comm.send(&message, 0);
        return None;
    }
    let mut parts = own;
    for rank in 1..comm.size() {
        let message: Vec<f64> = comm.receive(rank);
        let mut rest = message.as_slice();
        while !rest.is_empty() {
            parts.push(CertificatePart::take_from(&mut rest));
        }
    }
    Some(parts)
}

/// Checks a model against the rows that it was fitted to, given the parts of their blocks in block
/// order.
pub fn certify(model: &Model, parts: &[CertificatePart]) -> Certificate {
    let mut sums = CertificatePart::empty(model);
    for part in parts {
        sums.merge(part);
    }
    let rounding =
        THRESHOLD * model.precision.eps() * (model.n as f64).max(model.width() as f64).sqrt();
    let squares = model.total_variance * (model.n.max(2) - 1) as f64;
    let norm = squares.sqrt();
    let shift = mean_rounding(model);
    let largest = model.singular_values.first().copied().unwrap_or(0.0);
    let differences = sums.component_squares.iter().zip(&model.singular_values);
    let difference = largest_of(differences.map(|(sum, s)| (sum.sqrt() - s).abs()));
    let allowed = rounding + over(shift, norm);
    let (factor_residual, implicit) = along_probes(model, &sums.probe_squares, norm, allowed);
    let (pca_residual, left_orthogonality) = along_mixes(model, &sums.mix_squares, norm, allowed);
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
        factor_residual,
        factor_orthogonality: model
            .evidence
            .orthogonality
            .map_or(implicit, |value| Check {
                value,
                limit: rounding,
            }),
        svd_residual: Check {
            value: model.evidence.decomposition,
            limit: rounding,
        },
        pca_residual,
        left_orthogonality,
        svd: model.evidence.svd.clone(),
        approximation: model.evidence.approximation,
        exact: None,
    }
}

/// Residual and orthogonality of the factorisation; the latter is of the probe that comes nearest to
/// its limit.
fn along_probes(model: &Model, squares: &[f64], norm: f64, allowed: f64) -> (Check, Check) {
    let mut residual = 0.0_f64;
    let mut orthogonality = Check {
        value: 0.0,
        limit: allowed,
    };
    for (probe, sum) in model.evidence.probes.iter().zip(squares) {
        let measured = sum.sqrt();
        residual = largest_of([residual, over((measured - probe.length).abs(), norm)].into_iter());
        if probe.length > 0.0 {
            let ratio = measured / probe.length;
            let check = Check {
                value: (ratio * ratio - 1.0).abs(),
                limit: 2.0 * allowed * norm / probe.length,
            };
            orthogonality = nearer(orthogonality, check);
        }
    }
    let residual = Check {
        value: residual,
        limit: allowed,
    };
    (residual, orthogonality)
}

/// Residual and orthogonality of the components, from the squares along their combinations.
fn along_mixes(model: &Model, squares: &[f64], norm: f64, allowed: f64) -> (Check, Check) {
    let (forth, back) = squares.split_at(evidence::PROBES);
    let mut residual = 0.0_f64;
    let mut orthogonality = Check {
        value: 0.0,
        limit: allowed,
    };
    let coefficients = evidence::coefficients(model.k());
    for ((c, forth), back) in coefficients.columns().into_iter().zip(forth).zip(back) {
        let with = |weight: &dyn Fn(f64) -> f64| {
            let terms = c.iter().zip(&model.singular_values);
            terms
                .map(|(c, s)| (c * weight(*s)).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let expected = with(&|s| s);
        residual = largest_of([residual, over((forth.sqrt() - expected).abs(), norm)].into_iter());
        if model.k() > 0 {
            let check = Check {
                value: (back - 1.0).abs(),
                limit: 2.0 * allowed * norm * with(&|s| 1.0 / s),
            };
            orthogonality = nearer(orthogonality, check);
        }
    }
    let residual = Check {
        value: residual,
        limit: allowed,
    };
    (residual, orthogonality)
}

/// The check that is nearer to its limit, or that is no number.
fn nearer(a: Check, b: Check) -> Check {
    if b.value.is_nan() || over(b.value, b.limit) > over(a.value, a.limit) {
        b
    } else {
        a
    }
}

/// How far the rounding of the stored mean moves the rows, as a norm over all of them: the mean is
/// rounded to eps of itself, which shows where it is much larger than the spread.
pub(super) fn mean_rounding(model: &Model) -> f64 {
    let squares: f64 = mean_shifts(model).map(|shift| shift * shift).sum();
    squares.sqrt()
}

/// The same for each column.
pub(super) fn mean_shifts(model: &Model) -> impl Iterator<Item = f64> + '_ {
    let unit = f64::EPSILON * (model.n as f64).sqrt();
    let columns = model.mean.iter().zip(&model.scale);
    columns.map(move |(mean, scale)| {
        if *scale > 0.0 {
            unit * (mean / scale).abs()
        } else {
            0.0
        }
    })
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
pub(super) fn over(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { part }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::hostile;
    use crate::pca::{
        Components, PcaSettings, Precision, Projector, Rows, Solver, exchange::threads, fit,
    };

    fn settings(standardize: bool) -> PcaSettings {
        PcaSettings {
            components: Components::Count(100),
            standardize,
            whiten: false,
            solver: Solver::Auto,
            precision: Precision::F64,
            memory: None,
            keep_factor: false,
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
                        let part = Projector::new(&model).project(&rows.clone().into()).part;
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
            certify(
                model,
                &[Projector::new(model).project(&rows.clone().into()).part],
            )
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
        // What a wrong product or a wrong QR leaves behind: a factor that is not that of the rows.
        let mut model = right.clone();
        model.evidence.probes[0].length *= 1.0 + 1e-9;
        assert!(
            verdict(&model)
                .unwrap_err()
                .contains("residual of the factorisation")
        );
        let mut model = right.clone();
        model.evidence.decomposition = 1e-9;
        assert!(verdict(&model).unwrap_err().contains("residual of the SVD"));
        let mut model = right.clone();
        model.evidence.orthogonality = Some(1e-9);
        assert!(
            verdict(&model)
                .unwrap_err()
                .contains("orthogonality of the factorisation")
        );
        // Two components turned in their plane: orthonormal still, and none of the two is right.
        let mut model = right.clone();
        let (first, second) = (right.components.row(4), right.components.row(5));
        let (sine, cosine) = 1e-7_f64.sin_cos();
        model
            .components
            .row_mut(4)
            .assign(&(&first * cosine + &second * sine));
        model
            .components
            .row_mut(5)
            .assign(&(&second * cosine - &first * sine));
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
            probe_squares: vec![],
            mix_squares: vec![2.0 * value],
        };
        let owned: [Vec<f64>; 4] = [vec![1.0], vec![], vec![2.0, 3.0], vec![4.0]];
        let gathered = threads::on_ranks(4, |rank| {
            let own = owned[rank.rank()]
                .iter()
                .map(|value| part(*value))
                .collect();
            gather_parts(rank, own)
        });
        let expected: Vec<_> = [1.0, 2.0, 3.0, 4.0].into_iter().map(part).collect();
        assert_eq!(gathered, vec![Some(expected), None, None, None]);
    }
}
