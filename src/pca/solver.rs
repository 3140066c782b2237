//! Which solver: from the shape of the rows, the number of components and the memory.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::PcaError;
use super::fit::{Components, PcaSettings, Precision};
use super::gram::Gram;
use super::leaf::{Node, TreeNode};
use super::spectrum::plural;
use super::{decompose, evidence, passes, randomized, tsqr};
use crate::linalg::Scalar;

/// How the factorisation is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// `tsqr` for at least as many rows as columns, else `wide`, without a QR where the features confirm what a shortcut
    /// gives; `randomized` where neither fits in memory
    Auto,
    /// QR of the rows in a tree; needs memory for columns x columns
    Tsqr,
    /// QR of the columns in a tree; needs memory for rows x rows
    Wide,
    /// Leading components by random projections; an approximation, reads the features several times
    Randomized,
}

impl Solver {
    /// The word on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Solver::Auto => "auto",
            Solver::Tsqr => "tsqr",
            Solver::Wide => "wide",
            Solver::Randomized => "randomized",
        }
    }
}

/// Rows that a block has at most, for the memory that it takes; larger ones add to the estimate.
const BLOCK_ROWS: usize = 128;

/// Bytes of a rank's matrices at the peak of the factorisation of n rows of d columns on `threads`
/// threads of each of `ranks` ranks, counted, not measured.
///
/// With `tsqr` they do not grow with the number of rows: for each leaf in work its rows, as they came (f32), and what it
/// takes to make a node of them; for one more the rows as they came, and four nodes of d x d; where products come first,
/// as much as the larger of both takes, or the pass that confirms them, which has those no longer. With `wide` they are
/// this rank's columns of all rows, twice beside their orthogonal factor, and three matrices of n x n; where products of
/// rows come first, as much as the larger of that and of the columns, their image and five matrices of n x n in f64. A
/// factor that is kept adds a triangle, and with `wide` two sums of n x n. With `randomized` they are a few matrices of d
/// rows and as many columns as there are random directions, and the blocks of
/// rows in work.
pub fn memory_bytes(
    solver: Solver,
    settings: &PcaSettings,
    (n, d): (usize, usize),
    (ranks, threads): (usize, usize),
) -> f64 {
    let number = settings.precision.bytes() as f64;
    let directions = match settings.components {
        Components::Count(k) => randomized::directions(k, n, d) + randomized::PROBES,
        // Refused for this solver; as many as there can be.
        Components::Variance(_) => n.min(d),
    };
    let shape = (n, d);
    let confirmed = match settings.components {
        Components::Count(k) => k,
        Components::Variance(_) => n.min(d) / decompose::FEW_IN_PRODUCTS,
    };
    let confirmed = confirmed + evidence::PROBES;
    let products_first = settings.solver == Solver::Auto
        && decompose::are_in_products(settings.components, n.min(d));
    let pass = passes::memory_bytes(shape, confirmed, BLOCK_ROWS, threads);
    let nodes_are_products = tsqr::by_products(settings.precision, shape);
    let (n, d, ranks) = (n as f64, d as f64, ranks as f64);
    let kept = if settings.keep_factor {
        f64::BYTES as f64
    } else {
        0.0
    };
    match solver {
        Solver::Wide => {
            let factors = number * (3.0 * n * d / ranks + 3.0 * n * n) + 3.0 * kept * n * n;
            // The rank of the root has a block of columns, which is no narrower than 2n.
            let columns = (d / ranks).max(2.0 * n).min(d);
            let image = columns * confirmed as f64;
            let products = number * n * columns + f64::BYTES as f64 * (image + 5.0 * n * n);
            if products_first {
                factors.max(products)
            } else {
                factors
            }
        }
        Solver::Auto | Solver::Tsqr => {
            let kept = kept * d * d;
            let products = || kept + tree_bytes::<Gram<f64>>(shape, threads);
            let tried = || match settings.precision {
                Precision::F32 => kept + tree_bytes::<Gram<f32>>(shape, threads),
                Precision::F64 => products(),
            };
            let factors = || match settings.precision {
                Precision::F32 => kept + tree_bytes::<Node<f32>>(shape, threads),
                Precision::F64 => kept + tree_bytes::<Node<f64>>(shape, threads),
            };
            match settings.solver {
                Solver::Auto if nodes_are_products && products_first => {
                    tried().max(products()).max(pass)
                }
                _ if nodes_are_products => products(),
                Solver::Auto if products_first => tried().max(factors()).max(pass),
                _ => factors(),
            }
        }
        Solver::Randomized => passes::memory_bytes(shape, directions, BLOCK_ROWS, threads),
    }
}

/// Bytes of the leaves in work, of the rows of one more, and of four nodes.
fn tree_bytes<N: TreeNode>((n, d): (usize, usize), threads: usize) -> f64 {
    let at_once = tsqr::leaves_at_once::<N>((n, d), threads);
    // Of no columns or no rows a leaf has no rows; that they are refused is said later.
    let leaves = (n / N::leaf_rows((n, d)).max(1)).max(1);
    let leaf_rows = n.div_ceil(leaves);
    let working = leaves.min(at_once) * N::leaf_bytes((leaf_rows, d));
    (working + f32::BYTES * leaf_rows * d + 4 * N::node_bytes(d)) as f64
}

/// The solver for n rows of d columns on some ranks, never `Auto`, and why it is that one.
///
/// # Errors
/// `wide` for more rows than columns; `randomized` for a fraction of the variance; no solver that fits
/// in the memory, where that is known and nothing was asked for.
pub fn choose_solver(
    settings: &PcaSettings,
    (n, d): (usize, usize),
    (ranks, threads): (usize, usize),
) -> Result<(Solver, String), PcaError> {
    match settings.solver {
        Solver::Tsqr => Ok((Solver::Tsqr, "asked for".into())),
        Solver::Wide if n > d => Err(PcaError::TooManyRows {
            rows: n,
            columns: d,
        }),
        Solver::Wide => Ok((Solver::Wide, "asked for".into())),
        Solver::Randomized => {
            check_randomized(settings.components)?;
            Ok((Solver::Randomized, "asked for".into()))
        }
        Solver::Auto => by_shape_and_memory(settings, (n, d), (ranks, threads)),
    }
}

/// Refuses a fraction of the variance for `randomized`.
///
/// # Errors
/// [`PcaError::RandomizedVariance`].
pub fn check_randomized(components: Components) -> Result<(), PcaError> {
    match components {
        Components::Count(_) => Ok(()),
        Components::Variance(fraction) => Err(PcaError::RandomizedVariance(fraction)),
    }
}

fn by_shape_and_memory(
    settings: &PcaSettings,
    (n, d): (usize, usize),
    (ranks, threads): (usize, usize),
) -> Result<(Solver, String), PcaError> {
    let need = |solver| memory_bytes(solver, settings, (n, d), (ranks, threads));
    let (first, shape) = if n >= d {
        (
            Solver::Tsqr,
            format!("{}, at least as many as the {d} columns", plural(n, "row")),
        )
    } else {
        (
            Solver::Wide,
            format!("{}, fewer than the {d} columns", plural(n, "row")),
        )
    };
    let Some(memory) = settings.memory else {
        return Ok((first, shape));
    };
    if need(first) <= memory {
        return Ok((first, shape));
    }
    let gigabytes = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    let lacking = format!(
        "{shape}, but {} would take {} and a rank has {}",
        first.as_str(),
        gigabytes(need(first)),
        gigabytes(memory)
    );
    let fits = need(Solver::Randomized) <= memory;
    if fits && check_randomized(settings.components).is_ok() {
        return Ok((Solver::Randomized, lacking));
    }
    Err(PcaError::Memory {
        solver: first,
        needed: need(first),
        available: memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pca::Precision;

    fn settings(solver: Solver, components: Components, memory: Option<f64>) -> PcaSettings {
        PcaSettings {
            components,
            standardize: true,
            whiten: false,
            solver,
            precision: Precision::F64,
            memory,
            keep_factor: false,
        }
    }

    #[test]
    fn the_solver_follows_the_shape() {
        let choose = |solver, n, d| {
            let settings = settings(solver, Components::Count(3), Some(1e9));
            choose_solver(&settings, (n, d), (2, 1)).map(|(solver, _)| solver)
        };
        assert_eq!(choose(Solver::Auto, 5, 5).unwrap(), Solver::Tsqr);
        assert_eq!(choose(Solver::Auto, 4, 5).unwrap(), Solver::Wide);
        assert_eq!(choose(Solver::Tsqr, 4, 5).unwrap(), Solver::Tsqr);
        assert_eq!(
            choose(Solver::Randomized, 6, 5).unwrap(),
            Solver::Randomized
        );
        assert!(matches!(
            choose(Solver::Wide, 6, 5),
            Err(PcaError::TooManyRows { .. })
        ));
    }

    #[test]
    fn auto_approximates_only_where_nothing_exact_fits_and_says_so() {
        let auto = |components, n, d, memory| {
            choose_solver(&settings(Solver::Auto, components, memory), (n, d), (3, 1))
        };
        let few = Components::Count(10);
        // Several d^2 of 100352 columns: more than 400 GB.
        let (solver, reason) = auto(few, 200_000, 100_352, Some(1e11)).unwrap();
        assert_eq!(solver, Solver::Randomized);
        assert!(
            reason.contains("tsqr would take") && reason.contains("100.0 GB"),
            "{reason}"
        );
        assert_eq!(
            auto(few, 200_000, 100_352, Some(1e13)).unwrap().0,
            Solver::Tsqr
        );
        assert_eq!(auto(few, 200_000, 100_352, None).unwrap().0, Solver::Tsqr);
        for (components, memory) in [(few, 1e6), (Components::Variance(0.9), 1e11)] {
            let error = auto(components, 200_000, 100_352, Some(memory)).unwrap_err();
            assert!(matches!(error, PcaError::Memory { .. }), "{error}");
        }
    }

    /// Of 8 rows of 4 columns, counted by hand: all of them are a leaf of a QR; of products there are four leaves of two
    /// rows, of which two threads have two in work.
    #[test]
    fn the_memory_of_small_trees_is_what_they_hold() {
        let need = |solver, precision, keep_factor| {
            let settings = PcaSettings {
                precision,
                keep_factor,
                ..settings(solver, Components::Count(4), None)
            };
            memory_bytes(solver, &settings, (8, 4), (1, 2))
        };
        // Rows in f32, their copy, the node; the rows of the next leaf; four nodes.
        let qr = f64::from((4 + 8) * 32 + 8 * 16 + 4 * 32 + 4 * 8 * 16);
        assert_eq!(need(Solver::Tsqr, Precision::F64, false), qr);
        assert_eq!(need(Solver::Tsqr, Precision::F64, true), qr + 8.0 * 16.0);
        let products = f64::from(2 * (4 * 8 + 8 * 8 + 8 * 16) + 4 * 8 + 4 * 8 * 16);
        assert_eq!(need(Solver::Tsqr, Precision::F32, false), products);
        // Four of four components are not few: no products come first.
        assert_eq!(need(Solver::Auto, Precision::F64, false), qr);
    }

    #[test]
    fn of_products_to_f32_those_in_f32_count_too() {
        let need = |solver| {
            let settings = PcaSettings {
                precision: Precision::F32,
                ..settings(solver, Components::Count(50), None)
            };
            memory_bytes(solver, &settings, (20_000, 2048), (1, 2))
        };
        // Two leaves in work have a matrix in f32 more, and strips of 256 rows in f32.
        let more = 2 * 4 * (2048 * 2048 - 256 * 2048);
        assert_eq!(need(Solver::Auto) - need(Solver::Tsqr), more as f64);
    }

    #[test]
    fn nothing_takes_no_memory_to_speak_of() {
        for shape in [(0, 0), (5, 0), (0, 8)] {
            for precision in [Precision::F32, Precision::F64] {
                let settings = PcaSettings {
                    precision,
                    ..settings(Solver::Auto, Components::Count(3), Some(1e9))
                };
                assert!(choose_solver(&settings, shape, (2, 2)).is_ok(), "{shape:?}");
            }
        }
    }

    #[test]
    fn a_fraction_of_the_variance_needs_an_exact_solver() {
        let settings = settings(Solver::Randomized, Components::Variance(0.95), None);
        assert!(matches!(
            choose_solver(&settings, (100, 10), (1, 1)),
            Err(PcaError::RandomizedVariance(_))
        ));
    }

    #[test]
    fn only_the_memory_of_tsqr_does_not_grow_with_the_rows() {
        let need = |solver, n| {
            let settings = settings(solver, Components::Count(50), None);
            memory_bytes(solver, &settings, (n, 2048), (1, 1))
        };
        for n in [100_000, 10_000_000] {
            assert!(need(Solver::Tsqr, n) <= need(Solver::Tsqr, 20_000));
        }
        assert!(need(Solver::Wide, 2000) > need(Solver::Wide, 1000));
        assert!(need(Solver::Randomized, 10_000_000) < 2.0 * need(Solver::Randomized, 10_000));
    }
}
