//! Rows in the coordinates of the components, and what the components leave of them.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::block::{Block, on_rows};
use super::certify::{CertificatePart, Mixes};
use super::model::Model;
use crate::kernels::Isa;
use crate::kernels::projection::{PackedComponents, project, squared_norm};
use crate::linalg::Scalar;

/// How many partial sums a dot product keeps. Eight fill the vector registers of every processor
/// that p8 runs on, and the order of the additions is the same on all of them.
const LANES: usize = 8;

/// Rows that a thread takes at a time: enough to fill the kernel's tiles, few enough to stay in the
/// second-level cache beside a panel of the components.
const ROWS_AT_ONCE: usize = 16;

/// A block of rows after projection.
#[derive(Debug, Clone)]
pub struct Projected {
    /// Scores, `[rows, k]`; divided by their standard deviation where the model whitens.
    pub scores: Array2<f32>,
    /// For each row the Euclidean norm of what the components leave of the centred (and scaled)
    /// row, `[rows]`.
    pub reconstruction_error: Vec<f32>,
    /// What this block adds to the certificate.
    pub part: CertificatePart,
}

/// A model made ready to project many blocks.
pub struct Projector<'a> {
    model: &'a Model,
    components: PackedComponents,
    mixes: Mixes,
    /// What scores are divided by, `[k]`.
    deviations: Vec<f64>,
    isa: Isa,
}

impl<'a> Projector<'a> {
    /// Makes a model ready.
    pub fn new(model: &'a Model) -> Self {
        let (k, width) = (model.k(), model.width());
        let entries: Vec<f64> = model.components.iter().copied().collect();
        Projector {
            model,
            components: PackedComponents::new(&entries, k, width),
            mixes: Mixes::of(model),
            deviations: if model.whiten {
                model.deviations()
            } else {
                vec![1.0; k]
            },
            isa: Isa::detect(),
        }
    }

    /// Projects a block of rows `[rows, d]` on the components.
    ///
    /// Arithmetic is in f64. A row's results do not depend on the other rows or on threads, bit for
    /// bit: every sum runs in a fixed order that no BLAS decides. 4 d k operations a row.
    ///
    /// # Panics
    /// If the rows are not as wide as the model.
    pub fn project(&self, block: &Block) -> Projected {
        let (model, k) = (self.model, self.model.k());
        let (n, width) = block.dim();
        assert_eq!(width, model.width(), "rows are as wide as the model");
        let groups: Vec<Vec<Row>> = (0..n.div_ceil(ROWS_AT_ONCE))
            .into_par_iter()
            .map(|group| {
                let first = group * ROWS_AT_ONCE;
                let taken = first..(first + ROWS_AT_ONCE).min(n);
                let count = taken.len();
                let padded = self.components.padded_width();
                let deviations = on_rows!(block, rows => {
                    deviations(model, rows.slice(s![taken, ..]), padded)
                });
                project_rows(self.isa, model, &self.components, deviations, (count, k))
            })
            .collect();
        let projected: Vec<Row> = groups.into_iter().flatten().collect();
        let mut part = CertificatePart::empty(model);
        for row in &projected {
            part.add(&row.scores, row.squares, &row.along_probes, &self.mixes);
        }
        let scores = Array2::from_shape_fn((projected.len(), k), |(row, component)| {
            (projected[row].scores[component] / self.deviations[component]) as f32
        });
        let reconstruction_error = projected.iter().map(|row| row.rest as f32).collect();
        Projected {
            scores,
            reconstruction_error,
            part,
        }
    }
}

/// One row after projection.
struct Row {
    /// Before whitening, `[k]`.
    scores: Vec<f64>,
    /// Squared norm of the centred (and scaled) row.
    squares: f64,
    /// Its product with the direction of each probe of the evidence.
    along_probes: Vec<f64>,
    /// Norm of what the components leave.
    rest: f64,
}

/// The rows centred (and scaled), each with zeros up to `padded` numbers.
fn deviations<F: Scalar>(model: &Model, rows: ArrayView2<F>, padded: usize) -> Vec<f64> {
    let mut deviations = vec![0.0; rows.nrows() * padded];
    for (row, deviations) in rows.rows().into_iter().zip(deviations.chunks_mut(padded)) {
        let scales = model.mean.iter().zip(&model.scale);
        for ((deviation, x), (mean, scale)) in deviations.iter_mut().zip(row).zip(scales) {
            if *scale > 0.0 {
                *deviation = (x.as_f64() - mean) / scale;
            }
        }
    }
    deviations
}

/// Projects centred rows.
fn project_rows(
    isa: Isa,
    model: &Model,
    components: &PackedComponents,
    mut deviations: Vec<f64>,
    (n, k): (usize, usize),
) -> Vec<Row> {
    let width = components.padded_width();
    let squares: Vec<f64> = deviations.chunks(width).map(squared_norm).collect();
    let along_probes: Vec<Vec<f64>> = deviations
        .chunks(width)
        .map(|row| {
            let probes = model.evidence.probes.iter();
            probes.map(|probe| dot(row, &probe.direction)).collect()
        })
        .collect();
    let mut scores = vec![0.0; n * k];
    project(isa, components, &mut deviations, &mut scores);
    let rests = deviations.chunks(width).map(|row| squared_norm(row).sqrt());
    let rows = squares.into_iter().zip(along_probes).zip(rests);
    rows.enumerate()
        .map(|(row, ((squares, along_probes), rest))| Row {
            scores: scores[row * k..(row + 1) * k].to_vec(),
            squares,
            along_probes,
            rest,
        })
        .collect()
}

/// The dot product of a row, which may be longer by zeros, and a direction, summed in a fixed order.
fn dot(row: &[f64], direction: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (row, _) = row.split_at(direction.len());
    let (row_runs, row_rest) = row.as_chunks::<LANES>();
    let (direction_runs, direction_rest) = direction.as_chunks::<LANES>();
    for (x, y) in row_runs.iter().zip(direction_runs) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = row_rest
        .iter()
        .zip(direction_rest)
        .map(|(x, y)| x * y)
        .sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, array, s};

    use super::*;
    use crate::linalg::hostile;
    use crate::pca::{Evidence, Precision, Rank, Solver};

    fn model(components: Array2<f64>, mean: Vec<f64>, scale: Vec<f64>) -> Model {
        let k = components.nrows();
        Model {
            n: 5,
            mean,
            scale,
            components,
            singular_values: vec![4.0; k],
            explained_variance: vec![4.0; k],
            explained_variance_ratio: vec![0.1; k],
            total_variance: 40.0,
            numerical_rank: Rank::Exactly(k),
            standardized: true,
            whiten: false,
            k_reason: String::new(),
            solver: Solver::Tsqr,
            solver_reason: String::new(),
            precision: Precision::F64,
            evidence: Evidence::default(),
        }
    }

    #[test]
    fn scores_and_error_are_those_of_the_formula() {
        // Components e1 and e2 of R^4, column 3 without variance.
        let components = array![[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]];
        let mut model = model(
            components,
            vec![1.0, 0.0, 0.0, 7.0],
            vec![2.0, 1.0, 1.0, 0.0],
        );
        let rows = array![[5.0, -3.0, 0.5, 9.0], [1.0, 0.0, 0.0, 7.0]];
        let projected = Projector::new(&model).project(&rows.clone().into());
        assert_eq!(projected.scores, array![[2.0_f32, -3.0], [0.0, 0.0]]);
        assert_eq!(projected.reconstruction_error, vec![0.5, 0.0]);
        model.whiten = true;
        // Singular value 4 of 5 rows: standard deviation 2.
        assert_eq!(
            Projector::new(&model)
                .project(&rows.clone().into())
                .scores
                .row(0),
            array![1.0_f32, -1.5]
        );
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        for width in [1, 7, 8, 1023, 1024, 1025, 3000] {
            let rows = hostile::uniform(17, width, 3);
            let model = model(
                hostile::uniform(5, width, 4),
                vec![0.1; width],
                vec![0.7; width],
            );
            let together = Projector::new(&model).project(&rows.clone().into());
            for index in 0..17 {
                let alone = Projector::new(&model)
                    .project(&rows.slice(s![index..index + 1, ..]).to_owned().into());
                assert_eq!(alone.scores.row(0), together.scores.row(index));
                assert_eq!(
                    alone.reconstruction_error[0],
                    together.reconstruction_error[index]
                );
            }
        }
    }

    #[test]
    fn storage_and_threads_do_not_change_the_bits() {
        let rows = hostile::uniform(40, 300, 5);
        let model = model(hostile::uniform(4, 300, 6), vec![0.0; 300], vec![1.0; 300]);
        let expected = Projector::new(&model).project(&rows.clone().into());
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let by_column = crate::linalg::by_columns(rows.view());
            let projected = pool.install(|| Projector::new(&model).project(&by_column.into()));
            assert_eq!(projected.scores, expected.scores);
            assert_eq!(projected.part, expected.part);
        }
    }

    #[test]
    fn without_components_the_error_is_the_norm_of_the_row() {
        let model = model(Array2::zeros((0, 2)), vec![0.0; 2], vec![1.0; 2]);
        let projected = Projector::new(&model).project(&array![[3.0, 4.0]].into());
        assert_eq!(projected.scores.dim(), (1, 0));
        assert_eq!(projected.reconstruction_error, vec![5.0]);
        assert_eq!(
            Projector::new(&model)
                .project(&Array2::<f64>::zeros((0, 2)).into())
                .scores
                .len_of(Axis(0)),
            0
        );
    }
}
