//! Rows in the coordinates of the components, and what the components leave of them.

use ndarray::{Array2, ArrayView1};
use rayon::prelude::*;

use super::block::Block;
use super::certify::{CertificatePart, Mixes};
use super::model::Model;

/// How many partial sums a dot product keeps. Eight fill the vector registers of every processor
/// that p8 runs on, and the order of the additions is the same on all of them.
const LANES: usize = 8;

/// How many columns of a row are reconstructed at a time: they stay in the first-level cache while
/// all components are subtracted.
const STRETCH: usize = 1024;

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

/// Projects a block of rows `[rows, d]` on the components of a model.
///
/// Arithmetic is in f64. A row's results do not depend on the other rows or on threads, bit for
/// bit: every sum runs in a fixed order that no BLAS decides. 4 d k operations a row.
///
/// # Panics
/// If the rows are not as wide as the model.
pub fn project_block(model: &Model, block: &Block) -> Projected {
    let rows = block.to_scalar::<f64>();
    assert_eq!(rows.ncols(), model.width(), "rows are as wide as the model");
    let k = model.k();
    let projected: Vec<Row> = (0..rows.nrows())
        .into_par_iter()
        .map_init(
            || vec![0.0; model.width()],
            |deviations, row| project_row(model, rows.row(row), deviations),
        )
        .collect();
    let mixes = Mixes::of(model);
    let mut part = CertificatePart::empty(model);
    for row in &projected {
        part.add(&row.scores, row.squares, &row.along_probes, &mixes);
    }
    let deviation = if model.whiten {
        model.deviations()
    } else {
        vec![1.0; k]
    };
    let scores = Array2::from_shape_fn((projected.len(), k), |(row, component)| {
        (projected[row].scores[component] / deviation[component]) as f32
    });
    let reconstruction_error = projected.iter().map(|row| row.rest as f32).collect();
    Projected {
        scores,
        reconstruction_error,
        part,
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

fn project_row(model: &Model, row: ArrayView1<f64>, deviations: &mut [f64]) -> Row {
    let scales = model.mean.iter().zip(&model.scale);
    for ((deviation, x), (mean, scale)) in deviations.iter_mut().zip(row).zip(scales) {
        *deviation = if *scale > 0.0 {
            (x - mean) / scale
        } else {
            0.0
        };
    }
    let squares = dot(deviations, deviations);
    let probes = model.evidence.probes.iter();
    let along_probes = probes
        .map(|probe| dot(deviations, &probe.direction))
        .collect();
    let components: Vec<ArrayView1<f64>> = model.components.rows().into_iter().collect();
    let components: Vec<&[f64]> = components
        .iter()
        .map(|component| {
            component
                .to_slice()
                .expect("a model stores its components by rows")
        })
        .collect();
    let scores: Vec<f64> = components
        .iter()
        .map(|component| dot(deviations, component))
        .collect();
    let mut rest = 0.0;
    for (index, stretch) in deviations.chunks_mut(STRETCH).enumerate() {
        let start = index * STRETCH;
        for (component, score) in components.iter().zip(&scores) {
            for (x, v) in stretch.iter_mut().zip(&component[start..]) {
                *x -= score * v;
            }
        }
        rest += dot(stretch, stretch);
    }
    Row {
        scores,
        squares,
        along_probes,
        rest: rest.sqrt(),
    }
}

/// The dot product of two vectors of equal length, summed in a fixed order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a_runs, b_runs) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_runs
        .remainder()
        .iter()
        .zip(b_runs.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_runs.zip(b_runs) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h)) + tail
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
        let projected = project_block(&model, &rows.clone().into());
        assert_eq!(projected.scores, array![[2.0_f32, -3.0], [0.0, 0.0]]);
        assert_eq!(projected.reconstruction_error, vec![0.5, 0.0]);
        model.whiten = true;
        // Singular value 4 of 5 rows: standard deviation 2.
        assert_eq!(
            project_block(&model, &rows.clone().into()).scores.row(0),
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
            let together = project_block(&model, &rows.clone().into());
            for index in 0..17 {
                let alone = project_block(
                    &model,
                    &rows.slice(s![index..index + 1, ..]).to_owned().into(),
                );
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
        let expected = project_block(&model, &rows.clone().into());
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let by_column = crate::linalg::by_columns(rows.view());
            let projected = pool.install(|| project_block(&model, &by_column.into()));
            assert_eq!(projected.scores, expected.scores);
            assert_eq!(projected.part, expected.part);
        }
    }

    #[test]
    fn without_components_the_error_is_the_norm_of_the_row() {
        let model = model(Array2::zeros((0, 2)), vec![0.0; 2], vec![1.0; 2]);
        let projected = project_block(&model, &array![[3.0, 4.0]].into());
        assert_eq!(projected.scores.dim(), (1, 0));
        assert_eq!(projected.reconstruction_error, vec![5.0]);
        assert_eq!(
            project_block(&model, &Array2::<f64>::zeros((0, 2)).into())
                .scores
                .len_of(Axis(0)),
            0
        );
    }
}
