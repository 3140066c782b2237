//! From rows to a model: which solver, how many components, and what the model says about them.

use clap::ValueEnum;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::exchange::Exchange;
use super::model::Model;
use super::{PcaError, tsqr, wide};
use crate::error::Failure;
use crate::linalg::Scalar;

/// How the factorisation is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// `tsqr` for at least as many rows as columns, else `wide`
    Auto,
    /// QR of the rows in a tree; needs memory for columns x columns
    Tsqr,
    /// QR of the columns in a tree; needs memory for rows x rows
    Wide,
}

impl Solver {
    /// The word on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Solver::Auto => "auto",
            Solver::Tsqr => "tsqr",
            Solver::Wide => "wide",
        }
    }
}

/// The precision of the factorisation of the rows. Means, the SVD of the small triangle, scores and the
/// model are in f64 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// half the time and memory; singular values to about 7 digits of the largest
    F32,
    /// singular values to about 15 digits of the largest
    F64,
}

impl Precision {
    /// The word on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
        }
    }

    /// The distance from 1 to the next number.
    pub fn eps(self) -> f64 {
        match self {
            Precision::F32 => f32::EPS,
            Precision::F64 => f64::EPS,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => f32::BYTES,
            Precision::F64 => f64::BYTES,
        }
    }
}

/// How many components are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Components {
    /// This many, or the numerical rank where that is less.
    Count(usize),
    /// The fewest that explain this fraction of the whole variance, in (0, 1].
    Variance(f64),
}

/// The settings of this stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PcaSettings {
    /// How many components.
    pub components: Components,
    /// Whether columns are divided by their standard deviation.
    pub standardize: bool,
    /// Whether scores are divided by their standard deviation.
    pub whiten: bool,
    /// How to solve.
    pub solver: Solver,
    /// In which precision.
    pub precision: Precision,
}

/// How the rows lie on the ranks: blocks in order, each of them whole on one rank.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Rows of each block; may be 0.
    pub rows_per_block: &'a [usize],
    /// The rank of each block, ascending: every rank owns one run of blocks, which may be empty.
    pub owner_of_block: &'a [usize],
    /// Columns of every row.
    pub width: usize,
}

impl Rows<'_> {
    /// Rows over all blocks.
    pub fn total(&self) -> usize {
        self.rows_per_block.iter().sum()
    }

    /// The blocks of a rank, in order.
    pub fn blocks_of(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let owners = self.owner_of_block.iter().enumerate();
        owners
            .filter(move |(_, owner)| **owner == rank)
            .map(|(block, _)| block)
    }
}

/// Supplies the rows of a block as `[rows, d]`.
pub type Read<'a> = dyn FnMut(usize) -> Result<Block, Failure> + 'a;

/// What both solvers hand over, the same on every rank.
pub(super) struct Solution {
    pub mean: Vec<f64>,
    pub scale: Vec<f64>,
    pub components: Array2<f64>,
    pub spectrum: Spectrum,
    pub choice: Choice,
}

/// All singular values of the centred (and scaled) rows, largest first, and their norm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spectrum {
    /// `[min(n, d)]`.
    pub values: Vec<f64>,
    /// The Frobenius norm of R, which is that of the rows.
    pub norm: f64,
}

/// How many components to keep, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub k: usize,
    pub numerical_rank: usize,
    pub reason: String,
}

/// Finds the principal components of the rows of all ranks. Every rank calls it with the same
/// `rows` and `settings` and gets the same model.
///
/// `read` is called for blocks of this rank that have rows, in block order, once for each.
/// The model depends on the rows and on how they are cut into blocks, but not on the ranks.
///
/// Source of the method: Demmel, Grigori, Hoemmen and Langou, "Communication-optimal parallel and
/// sequential QR and LU factorizations" (2012); the tree here is over blocks instead of ranks.
///
/// # Errors
/// An error on one rank leaves the others waiting: whoever gets one must end the job. Errors that
/// `rows` and `settings` alone cause come on all ranks alike.
pub fn fit(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut Read,
    settings: &PcaSettings,
) -> Result<Model, PcaError> {
    check_settings(rows, settings)?;
    let n = rows.total();
    let (solver, solver_reason) = choose_solver(settings.solver, n, rows.width)?;
    let mut read = |block: usize| read_checked(rows, read, block);
    let solution = match (solver, settings.precision) {
        (Solver::Wide, Precision::F32) => wide::solve::<f32>(comm, rows, &mut read, settings)?,
        (Solver::Wide, Precision::F64) => wide::solve::<f64>(comm, rows, &mut read, settings)?,
        (_, Precision::F32) => tsqr::solve::<f32>(comm, rows, &mut read, settings)?,
        (_, Precision::F64) => tsqr::solve::<f64>(comm, rows, &mut read, settings)?,
    };
    let Solution {
        mean,
        scale,
        components,
        spectrum,
        choice,
    } = solution;
    if comm.rank() == 0 {
        tracing::debug!("solver {}: {solver_reason}", solver.as_str());
        if choice.k == 0 {
            tracing::warn!("{}", choice.reason);
        } else {
            tracing::debug!("{}: {}", plural(choice.k), choice.reason);
        }
    }
    let freedom = (n.max(2) - 1) as f64;
    let singular_values = spectrum.values[..choice.k].to_vec();
    let ratios = spectrum.ratios();
    Ok(Model {
        n: n as u64,
        mean,
        scale,
        components,
        explained_variance: singular_values.iter().map(|s| s * s / freedom).collect(),
        explained_variance_ratio: ratios[..choice.k].to_vec(),
        singular_values,
        total_variance: spectrum.norm * spectrum.norm / freedom,
        numerical_rank: choice.numerical_rank,
        standardized: settings.standardize,
        whiten: settings.whiten,
        k_reason: choice.reason,
        solver,
        solver_reason,
        precision: settings.precision,
    })
}

fn check_settings(rows: &Rows, settings: &PcaSettings) -> Result<(), PcaError> {
    if rows.total() == 0 || rows.width == 0 {
        return Err(PcaError::Empty {
            rows: rows.total(),
            columns: rows.width,
        });
    }
    match settings.components {
        Components::Count(0) => Err(PcaError::NoComponents),
        Components::Variance(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
            Err(PcaError::Fraction(fraction))
        }
        Components::Count(_) | Components::Variance(_) => Ok(()),
    }
}

/// Bytes of a rank's matrices at the peak of the factorisation on `threads` threads, counted, not
/// measured.
///
/// With `tsqr` they do not depend on the number of rows: for each leaf in work 2 d rows, as they came
/// (f32) and in the precision of the factorisation, for one more the rows as they came, and four
/// triangles of d x d. With `wide` they are this rank's columns of all rows, twice beside their
/// orthogonal factor, and three matrices of n x n.
pub fn memory_bytes(
    solver: Solver,
    precision: Precision,
    (n, d): (usize, usize),
    (ranks, threads): (usize, usize),
) -> f64 {
    let number = precision.bytes() as f64;
    let at_once = tsqr::leaves_at_once(d, threads) as f64;
    let (n, d, ranks) = (n as f64, d as f64, ranks as f64);
    match solver {
        Solver::Wide => number * (3.0 * n * d / ranks + 3.0 * n * n),
        Solver::Auto | Solver::Tsqr => {
            let raw = f32::BYTES as f64;
            let leaf = n.min(2.0 * d) * d;
            let leaves = (n / (2.0 * d)).ceil().min(at_once);
            leaves * (number + raw) * leaf + raw * leaf + 4.0 * number * d * d
        }
    }
}

/// The solver for n rows of d columns, never `Auto`, and why it is that one.
///
/// # Errors
/// `wide` for more rows than columns.
pub fn choose_solver(asked: Solver, n: usize, d: usize) -> Result<(Solver, String), PcaError> {
    match asked {
        Solver::Tsqr => Ok((Solver::Tsqr, "asked for".into())),
        Solver::Wide if n > d => Err(PcaError::TooManyRows {
            rows: n,
            columns: d,
        }),
        Solver::Wide => Ok((Solver::Wide, "asked for".into())),
        Solver::Auto if n >= d => Ok((
            Solver::Tsqr,
            format!("{n} rows, at least as many as the {d} columns"),
        )),
        Solver::Auto => Ok((
            Solver::Wide,
            format!("{n} rows, fewer than the {d} columns"),
        )),
    }
}

fn read_checked(rows: &Rows, read: &mut Read, block: usize) -> Result<Block, PcaError> {
    let (expected_rows, expected_columns) = (rows.rows_per_block[block], rows.width);
    if expected_rows == 0 {
        return Ok(Array2::<f32>::zeros((0, expected_columns)).into());
    }
    let features = read(block).map_err(PcaError::Read)?;
    let (found_rows, columns) = features.dim();
    if (found_rows, columns) != (expected_rows, expected_columns) {
        let rows = found_rows;
        return Err(PcaError::Shape {
            block,
            rows,
            columns,
            expected_rows,
            expected_columns,
        });
    }
    check_finite(block, &features)?;
    Ok(features)
}

/// Refuses NaN and infinity in the features of a block, and names the first place.
pub fn check_finite(block: usize, features: &Block) -> Result<(), PcaError> {
    match features.first_not_finite() {
        Some((row, column)) => Err(PcaError::NotFinite { block, row, column }),
        None => Ok(()),
    }
}

impl Spectrum {
    /// Each value squared over the squared norm: the part of the whole variance. Zeros where there
    /// is no variance.
    pub fn ratios(&self) -> Vec<f64> {
        let unit = if self.norm > 0.0 { self.norm } else { 1.0 };
        self.values
            .iter()
            .map(|s| (s / unit) * (s / unit))
            .collect()
    }

    /// How many values stand above rounding, max(n, d) eps times the largest (the rule of LINPACK's
    /// successors, as in Golub and Van Loan, "Matrix Computations", 2013, section 5.4). In f32 it is
    /// min(n, d) eps, the rule for R alone: the other one would take everything for rounding from some
    /// millions of rows on.
    pub fn numerical_rank(&self, n: usize, d: usize, precision: Precision) -> usize {
        let largest = self.values.first().copied().unwrap_or(0.0);
        let size = match precision {
            Precision::F32 => n.min(d),
            Precision::F64 => n.max(d),
        };
        let rounding = size as f64 * precision.eps() * largest;
        self.values.iter().take_while(|s| **s > rounding).count()
    }

    /// How many components to keep of n rows and d columns.
    pub fn choose(&self, settings: &PcaSettings, n: usize, d: usize) -> Choice {
        let rank = self.numerical_rank(n, d, settings.precision);
        let (k, reason) = match settings.components {
            _ if rank == 0 => (
                0,
                "no components: the rows do not differ from each other".into(),
            ),
            Components::Count(k) if k <= rank => (k, format!("{} asked for", plural(k))),
            Components::Count(k) => (
                rank,
                format!("{} asked for, cut at the numerical rank {rank}", plural(k)),
            ),
            Components::Variance(fraction) => {
                let percent = (fraction * 1e6).round() / 1e4;
                match self.fewest(fraction).filter(|k| *k <= rank) {
                    Some(1) => (
                        1,
                        format!("1 component reaches {percent} % of the variance"),
                    ),
                    Some(k) => (
                        k,
                        format!("{k} components reach {percent} % of the variance"),
                    ),
                    None => (
                        rank,
                        format!(
                            "cut at the numerical rank {rank}, short of {percent} % of the variance by rounding only"
                        ),
                    ),
                }
            }
        };
        Choice {
            k,
            numerical_rank: rank,
            reason,
        }
    }

    /// The smallest k whose ratios add up to `fraction`.
    fn fewest(&self, fraction: f64) -> Option<usize> {
        let mut reached = 0.0;
        let enough = |ratio: &f64| {
            reached += ratio;
            reached >= fraction
        };
        self.ratios().iter().position(enough).map(|last| last + 1)
    }

    pub fn to_message(&self) -> Vec<f64> {
        let mut message = vec![self.norm];
        message.extend(&self.values);
        message
    }

    pub fn from_message(message: &[f64]) -> Spectrum {
        Spectrum {
            norm: message[0],
            values: message[1..].to_vec(),
        }
    }
}

fn plural(k: usize) -> String {
    if k == 1 {
        "1 component".into()
    } else {
        format!("{k} components")
    }
}

/// Broadcasts components `[k, d]` from `root`; the other ranks give `None`.
pub(super) fn broadcast_components(
    comm: &impl Exchange,
    components: Option<Array2<f64>>,
    shape: (usize, usize),
    root: usize,
) -> Array2<f64> {
    let mut entries = components.map_or_else(Vec::new, |c| c.iter().copied().collect());
    comm.broadcast(&mut entries, root);
    Array2::from_shape_vec(shape, entries).expect("every rank knows the shape of the components")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spectrum(values: &[f64]) -> Spectrum {
        let norm = values.iter().map(|s| s * s).sum::<f64>().sqrt();
        Spectrum {
            values: values.to_vec(),
            norm,
        }
    }

    fn choose(spectrum: &Spectrum, components: Components, n: usize, d: usize) -> Choice {
        let settings = PcaSettings {
            components,
            standardize: true,
            whiten: false,
            solver: Solver::Auto,
            precision: Precision::F64,
        };
        spectrum.choose(&settings, n, d)
    }

    #[test]
    fn a_count_is_cut_at_the_numerical_rank_and_says_so() {
        let spectrum = spectrum(&[4.0, 2.0, 1.0, 1e-17]);
        let choice = choose(&spectrum, Components::Count(2), 10, 4);
        assert_eq!(
            (choice.k, choice.reason.as_str()),
            (2, "2 components asked for")
        );
        let choice = choose(&spectrum, Components::Count(4), 10, 4);
        assert_eq!((choice.k, choice.numerical_rank), (3, 3));
        assert_eq!(
            choice.reason,
            "4 components asked for, cut at the numerical rank 3"
        );
    }

    #[test]
    fn a_fraction_takes_the_fewest_components_that_reach_it() {
        // Variances 16, 4, 1 of 21: 76.2 %, 95.2 %, 100 %.
        let spectrum = spectrum(&[4.0, 2.0, 1.0]);
        for (fraction, k) in [
            (0.1, 1),
            (0.76, 1),
            (0.77, 2),
            (0.95, 2),
            (0.96, 3),
            (1.0, 3),
        ] {
            assert_eq!(
                choose(&spectrum, Components::Variance(fraction), 9, 3).k,
                k,
                "{fraction}"
            );
        }
        let reason = choose(&spectrum, Components::Variance(0.95), 9, 3).reason;
        assert_eq!(reason, "2 components reach 95 % of the variance");
    }

    #[test]
    fn rows_without_variance_have_no_components() {
        let choice = choose(&spectrum(&[0.0, 0.0]), Components::Variance(0.95), 5, 2);
        assert_eq!((choice.k, choice.numerical_rank), (0, 0));
        assert_eq!(spectrum(&[0.0, 0.0]).ratios(), vec![0.0, 0.0]);
    }

    #[test]
    fn ratios_of_denormal_values_do_not_vanish() {
        let spectrum = Spectrum {
            values: vec![3e-310, 4e-310],
            norm: 5e-310,
        };
        let ratios = spectrum.ratios();
        assert!(
            (ratios[0] - 0.36).abs() < 1e-9 && (ratios[1] - 0.64).abs() < 1e-9,
            "{ratios:?}"
        );
    }

    #[test]
    fn the_solver_follows_the_shape() {
        assert_eq!(choose_solver(Solver::Auto, 5, 5).unwrap().0, Solver::Tsqr);
        assert_eq!(choose_solver(Solver::Auto, 4, 5).unwrap().0, Solver::Wide);
        assert_eq!(choose_solver(Solver::Tsqr, 4, 5).unwrap().0, Solver::Tsqr);
        assert!(matches!(
            choose_solver(Solver::Wide, 6, 5),
            Err(PcaError::TooManyRows { .. })
        ));
    }

    #[test]
    fn a_fraction_outside_its_range_is_refused() {
        let rows = Rows {
            rows_per_block: &[3],
            owner_of_block: &[0],
            width: 2,
        };
        for fraction in [0.0, -0.5, 1.5, f64::NAN] {
            let settings = PcaSettings {
                components: Components::Variance(fraction),
                standardize: true,
                whiten: false,
                solver: Solver::Auto,
                precision: Precision::F64,
            };
            assert!(matches!(
                check_settings(&rows, &settings),
                Err(PcaError::Fraction(_))
            ));
        }
    }
}
