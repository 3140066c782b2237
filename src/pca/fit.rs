//! From rows to a model: which solver, how many components, and what the model says about them.

use clap::ValueEnum;
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::center::Mean;
use super::evidence::{Evidence, Route};
use super::exchange::Exchange;
use super::model::Model;
use super::solver::{Solver, choose_solver};
use super::spectrum::{Choice, Spectrum, plural};
use super::{PcaError, randomized, tsqr, wide};
use crate::error::Failure;
use crate::linalg::Scalar;

/// The precision of the factorisation of the rows. Means, the SVD of the small triangle, scores and the
/// model are in f64 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// about 70 % of the time; singular values to about 7 digits of the largest
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
    /// Bytes that a rank may take for it, the same on every rank; `None`: as many as it needs. It
    /// decides only what [`Solver::Auto`] becomes.
    pub memory: Option<f64>,
    /// Whether the evidence keeps the factor of the rows for [`Verification`](super::Verification), where there is one.
    /// Of `tsqr`, where it factors at least as many rows as columns, that is R; of `wide` it is R and sums over the
    /// columns, for which Q is applied to all unit vectors.
    pub keep_factor: bool,
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

/// What every solver hands over, the same on every rank.
pub(super) struct Solution {
    pub mean: Vec<f64>,
    pub scale: Vec<f64>,
    pub components: Array2<f64>,
    pub spectrum: Spectrum,
    pub choice: Choice,
    pub evidence: Evidence,
    /// Why the products of the columns, or of the rows, which were tried first, were not enough.
    pub refused: Option<String>,
}

/// Finds the principal components of the rows of all ranks. Every rank calls it with the same
/// `rows` and `settings` and gets the same model.
///
/// `read` is called for blocks of this rank that have rows, in block order, once for each, and so again for each
/// further pass over the rows.
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
    let threads = rayon::current_num_threads();
    let (solver, solver_reason) = choose_solver(settings, (n, rows.width), (comm.size(), threads))?;
    let mut read = |block: usize| read_shaped(rows, read, block);
    let solution = match (solver, settings.precision) {
        (Solver::Wide, Precision::F32) => wide::solve::<f32>(comm, rows, &mut read, settings)?,
        (Solver::Wide, Precision::F64) => wide::solve::<f64>(comm, rows, &mut read, settings)?,
        (Solver::Randomized, Precision::F32) => {
            randomized::solve::<f32>(comm, rows, &mut read, settings)?
        }
        (Solver::Randomized, Precision::F64) => {
            randomized::solve::<f64>(comm, rows, &mut read, settings)?
        }
        (Solver::Auto | Solver::Tsqr, _) => tsqr::solve(comm, rows, &mut read, settings)?,
    };
    let Solution {
        mean,
        scale,
        components,
        spectrum,
        choice,
        evidence,
        refused,
    } = solution;
    let (products, judges) = match solver {
        Solver::Wide => ("rows", "columns"),
        _ => ("columns", "rows"),
    };
    let solver_reason = match (refused, evidence.route) {
        (Some(refused), _) => {
            format!("{solver_reason}; the products of {products} do not tell: {refused}")
        }
        (None, Route { products: true, .. }) => {
            format!("{solver_reason}; from the products of {products}, which the {judges} confirm")
        }
        (None, _) => solver_reason,
    };
    if comm.rank() == 0 {
        tracing::debug!("solver {}: {solver_reason}", solver.as_str());
        if choice.k == 0 {
            tracing::warn!("{}", choice.reason);
        } else {
            tracing::debug!("{}: {}", plural(choice.k, "component"), choice.reason);
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
        evidence,
    })
}

/// Refuses rows of which there are none.
pub(super) fn check_rows(rows: &Rows) -> Result<(), PcaError> {
    if rows.total() == 0 || rows.width == 0 {
        return Err(PcaError::Empty {
            rows: rows.total(),
            columns: rows.width,
        });
    }
    Ok(())
}

fn check_settings(rows: &Rows, settings: &PcaSettings) -> Result<(), PcaError> {
    check_rows(rows)?;
    match settings.components {
        Components::Count(0) => Err(PcaError::NoComponents),
        Components::Variance(fraction) if !(fraction > 0.0 && fraction <= 1.0) => {
            Err(PcaError::Fraction(fraction))
        }
        Components::Count(_) | Components::Variance(_) => Ok(()),
    }
}

/// Reads a block, which has to be as it was announced. Whether its numbers are finite is checked when it is read for
/// the first time: on the threads that compute with them ([`check_by_mean`]), or before they are sent.
pub(super) fn read_shaped(rows: &Rows, read: &mut Read, block: usize) -> Result<Block, PcaError> {
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
    Ok(features)
}

/// Refuses NaN and infinity in the features of a block, and names the first place.
pub fn check_finite(block: usize, features: &Block) -> Result<(), PcaError> {
    match features.first_not_finite() {
        Some((row, column)) => Err(PcaError::NotFinite { block, row, column }),
        None => Ok(()),
    }
}

/// [`check_finite`] for blocks whose rows have this mean, which are looked through only where it is not finite.
pub(super) fn check_by_mean<'a>(
    mean: &Mean,
    blocks: impl IntoIterator<Item = (usize, &'a Block)>,
) -> Result<(), PcaError> {
    if mean.is_finite() {
        return Ok(());
    }
    let mut blocks = blocks.into_iter();
    blocks.try_for_each(|(number, block)| check_finite(number, block))
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
                memory: None,
                keep_factor: false,
            };
            assert!(matches!(
                check_settings(&rows, &settings),
                Err(PcaError::Fraction(_))
            ));
        }
    }
}
