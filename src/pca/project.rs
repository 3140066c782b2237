//! Rows in the coordinates of the components, and what the components leave of them.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::block::{Block, on_rows};
use super::certify::{CertificatePart, Mixes};
use super::model::Model;
use crate::kernels::Isa;
use crate::kernels::projection::{
    PANEL, PackedComponents, Sum, add_products, add_rest_squares, total,
};
use crate::kernels::vectorized::{Loops, vectorized};
use crate::linalg::Scalar;
use crate::linalg::gaussian::gaussian;

/// Rows that a thread takes at a time: so many that reading the components, which may be longer than any cache, costs
/// less than multiplying with them.
const ROWS_AT_ONCE: usize = 32;

/// Panels of columns that a thread takes at a time: the rows' entries there stay in the second-level cache.
const PANELS_AT_ONCE: usize = 16;

/// Where components leave no less than this part of the square of a row, that is the difference of the squares of the
/// row and of its scores: the rounding of these leaves it, as a rule, more digits than an f32 has.
const LEAST_REST: f64 = 1e-5;

/// By which part of itself the difference may be wrong because components are not orthonormal.
const REST_ERROR: f64 = 1e-8;

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
    /// The components, and behind them the directions of the probes of the evidence.
    directions: PackedComponents,
    mixes: Mixes,
    /// What scores are divided by, `[k]`.
    deviations: Vec<f64>,
    /// [`LEAST_REST`], or more where the components are not that orthonormal.
    least_rest: f64,
    isa: Isa,
}

impl<'a> Projector<'a> {
    /// Makes a model ready.
    pub fn new(model: &'a Model) -> Self {
        let (k, width) = (model.k(), model.width());
        let mut entries: Vec<f64> = model.components.iter().copied().collect();
        let probes = &model.evidence.probes;
        for probe in probes {
            entries.extend(&probe.direction);
        }
        let isa = Isa::detect();
        let directions = PackedComponents::new(&entries, k + probes.len(), width);
        let distance = distance_from_orthonormal(isa, model, &directions);
        Projector {
            model,
            directions,
            mixes: Mixes::of(model),
            deviations: if model.whiten {
                model.deviations()
            } else {
                vec![1.0; k]
            },
            least_rest: LEAST_REST.max(distance / REST_ERROR),
            isa,
        }
    }

    /// Projects a block of rows `[rows, d]` on the components.
    ///
    /// Arithmetic is in f64. A row's results do not depend on the other rows or on threads, bit for
    /// bit: every sum runs in a fixed order that no BLAS decides. 2 d k operations a row, and as many again for it and
    /// for the few rows around it where the components leave next to nothing of one, or are not orthonormal.
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
                on_rows!(block, rows => self.project_rows(rows.slice(s![taken, ..])))
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

    /// Projects a few rows.
    fn project_rows<F: Scalar>(&self, rows: ArrayView2<F>) -> Vec<Row> {
        let (n, k) = (rows.nrows(), self.model.k());
        let probes = self.model.evidence.probes.len();
        let along = (k + probes).max(1);
        let mut sums = vec![Sum::default(); n * (k + probes)];
        let mut squares = vec![Sum::default(); n];
        let mut deviations = Vec::new();
        for panels in self.panels() {
            self.deviations(rows, &panels, &mut deviations);
            let of = (&self.directions, panels);
            add_products(self.isa, of, &deviations, (&mut sums, &mut squares));
        }
        let products: Vec<f64> = sums.iter().map(total).collect();
        let scores = products.chunks(along).flat_map(|products| &products[..k]);
        let scores: Vec<f64> = scores.copied().collect();
        let squares: Vec<f64> = squares.iter().map(total).collect();
        let differences = squares.iter().enumerate().map(|(row, square)| {
            let scores = &scores[row * k..(row + 1) * k];
            let rest = square - scores.iter().map(|score| score * score).sum::<f64>();
            // Of what is not finite there is no difference either.
            (rest >= self.least_rest * square).then_some(rest)
        });
        let differences: Vec<Option<f64>> = differences.collect();
        let mut rests = Vec::new();
        if differences.contains(&None) {
            rests.resize(n, Sum::default());
            for panels in self.panels() {
                self.deviations(rows, &panels, &mut deviations);
                let of = (&self.directions, panels);
                add_rest_squares(self.isa, of, &deviations, &scores, &mut rests);
            }
        }
        (0..n)
            .map(|row| Row {
                scores: scores[row * k..(row + 1) * k].to_vec(),
                squares: squares[row],
                along_probes: products[row * (k + probes)..][k..k + probes].to_vec(),
                rest: differences[row]
                    .unwrap_or_else(|| total(&rests[row]))
                    .sqrt(),
            })
            .collect()
    }

    /// The runs of panels that are taken at a time.
    fn panels(&self) -> impl Iterator<Item = Range<usize>> {
        let panels = self.directions.panels();
        let starts = (0..panels).step_by(PANELS_AT_ONCE);
        starts.map(move |start| start..(start + PANELS_AT_ONCE).min(panels))
    }

    /// The entries of rows in some panels, centred (and scaled), with zeros in the columns after the last.
    fn deviations<F: Scalar>(
        &self,
        rows: ArrayView2<F>,
        panels: &Range<usize>,
        deviations: &mut Vec<f64>,
    ) {
        let width = panels.len() * PANEL;
        let start = panels.start * PANEL;
        let columns = start..(start + width).min(rows.ncols());
        deviations.resize(rows.nrows() * width, 0.0);
        let entries = Entries {
            rows: rows.slice_move(s![.., columns.clone()]),
            mean: &self.model.mean[columns.clone()],
            scale: &self.model.scale[columns],
            width,
            to: deviations,
        };
        vectorized(self.isa, entries);
    }
}

/// About the norm of E = V V^T - 1, for the components V of a model, `[k, d]`, which are the first of the directions:
/// the largest |E c| of a few random c, whose square has that of the norm as its mean. Infinity where it is not a number.
/// It takes the operations of a few rows, in an order that no BLAS decides.
fn distance_from_orthonormal(isa: Isa, model: &Model, directions: &PackedComponents) -> f64 {
    const SEED: u64 = 0x7038_6f72_7468;
    const VECTORS: usize = 4;
    let (k, all) = (model.k(), model.k() + model.evidence.probes.len());
    if k == 0 {
        return 0.0;
    }
    let coefficients = gaussian(SEED, 0, k, VECTORS);
    let mut rows = Vec::new();
    for coefficients in coefficients.columns() {
        let mut row = vec![0.0; directions.panels() * PANEL];
        for (component, c) in model.components.rows().into_iter().zip(coefficients) {
            row.iter_mut().zip(component).for_each(|(x, v)| *x += c * v);
        }
        rows.extend(row);
    }
    let mut products = vec![Sum::default(); VECTORS * all];
    let mut squares = vec![Sum::default(); VECTORS];
    let of = (directions, 0..directions.panels());
    add_products(isa, of, &rows, (&mut products, &mut squares));
    let products = products.chunks_exact(all).zip(coefficients.columns());
    let lengths = products.map(|(products, coefficients)| {
        let differences = products.iter().zip(coefficients);
        let squares = differences.map(|(product, c)| (total(product) - c).powi(2));
        squares.sum::<f64>().sqrt()
    });
    lengths.fold(0.0, |largest, length| {
        if length.is_nan() {
            f64::INFINITY
        } else {
            length.max(largest)
        }
    })
}

/// Entries of rows to be centred (and scaled).
struct Entries<'a, F> {
    rows: ArrayView2<'a, F>,
    mean: &'a [f64],
    scale: &'a [f64],
    /// From a row to the next one in `to`.
    width: usize,
    to: &'a mut [f64],
}

impl<F: Scalar> Loops for Entries<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let places = self.to.chunks_mut(self.width);
        for (row, places) in self.rows.rows().into_iter().zip(places) {
            let (to, after) = places.split_at_mut(row.len());
            after.fill(0.0);
            match row.as_slice() {
                Some(row) => center(row, self.mean, self.scale, to),
                None => center(&row.to_vec(), self.mean, self.scale, to),
            }
        }
    }
}

/// Writes the deviations of some numbers from their means, over their scales.
#[inline(always)]
fn center<F: Scalar>(row: &[F], mean: &[f64], scale: &[f64], to: &mut [f64]) {
    for ((to, x), (mean, scale)) in to.iter_mut().zip(row).zip(mean.iter().zip(scale)) {
        let deviation = (x.as_f64() - mean) / scale;
        // A feature of scale 0 is constant.
        *to = if *scale > 0.0 { deviation } else { 0.0 };
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

#[cfg(test)]
mod tests {
    use ndarray::{Axis, array, s};

    use super::*;
    use crate::linalg::{hostile, norms};
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
            let k = width.min(5);
            let components = hostile::with_spectrum(width, &vec![1.0; k], 4);
            let components = components.t().to_owned();
            let mut rows = hostile::uniform(17, width, 3);
            // Of every third row the components leave nothing but rounding.
            let inside = hostile::uniform(6, k, 5).dot(&components) * 0.7 + 0.1;
            rows.slice_mut(s![..;3, ..]).assign(&inside);
            let model = model(components, vec![0.1; width], vec![0.7; width]);
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
        let components = hostile::with_spectrum(300, &[1.0; 4], 6).t().to_owned();
        let model = model(components, vec![0.0; 300], vec![1.0; 300]);
        let expected = Projector::new(&model).project(&rows.clone().into());
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let by_column = crate::linalg::by_columns(rows.view());
            let projected = pool.install(|| Projector::new(&model).project(&by_column.into()));
            assert_eq!(projected.scores, expected.scores);
            assert_eq!(
                projected.reconstruction_error,
                expected.reconstruction_error
            );
            assert_eq!(projected.part, expected.part);
        }
    }

    #[test]
    fn the_error_is_that_of_the_formula_however_small_it_is() {
        let (d, k) = (70, 4);
        let square = hostile::with_spectrum(d, &vec![1.0; k], 7);
        let orthonormal = square.t().to_owned();
        let stretched = &orthonormal * 1.01;
        let mut skewed = orthonormal.clone();
        skewed.row_mut(2).scaled_add(0.01, &orthonormal.row(1));
        for (components, name) in [
            (orthonormal, "orthonormal"),
            (stretched, "stretched"),
            (skewed, "skewed"),
        ] {
            let model = model(components.clone(), vec![0.5; d], vec![2.0; d]);
            // Parts of a row outside of the components, from most of it to rounding.
            for part in [1.0, 1e-2, 4e-3, 2e-3, 1e-4, 1e-8, 1e-16] {
                let rows = hostile::uniform(9, k, 8).dot(&components) * 100.0
                    + hostile::uniform(9, d, 9) * (100.0 * part);
                let rows = rows * 2.0 + 0.5;
                let projected = Projector::new(&model).project(&rows.clone().into());
                let x = (&rows - 0.5) / 2.0;
                let left = &x - &x.dot(&components.t()).dot(&components);
                for (row, found) in projected.reconstruction_error.iter().enumerate() {
                    let exact = norms::euclidean(left.row(row).iter());
                    let limit = 1e-6 * exact + 1e-13 * norms::euclidean(x.row(row).iter());
                    let difference = (f64::from(*found) - exact).abs();
                    assert!(difference <= limit, "{name} {part}: {found} {exact}");
                }
            }
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
