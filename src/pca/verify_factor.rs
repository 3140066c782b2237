//! The factorisation checked in all directions, for `--verify`.
//!
//! A factor R of X (of the centred and scaled rows; `wide` factors their transpose) can be wrong in two ways.
//!
//! The residual: where Q is implicit it is X R^-1 by definition, X - Q R is zero, and what can be wrong is R. It is
//! right if some orthonormal Q has X = Q R, which is to say if `X^T X = R^T R`; and for every orthonormal Q
//! whatsoever `|X^T X - R^T R| <= |X - Q R| (|X| + |R|)`. So
//!
//! ```text
//! |X^T X - R^T R|_F / |X|_F^2
//! ```
//!
//! is at most twice the relative residual of the best Q, and zero only where that is zero. Random directions
//! (`evidence`) see it through `z^T (X^T X - R^T R) z` for a few z; here are all entries.
//!
//! The orthogonality: `|I - Q^T Q|_F`, for the explicit Q of `wide`, which is applied to all unit vectors, or for
//! Q = X R^-1, row by row. It looks at all singular values alike, where the residual looks at the large ones. Where
//! R is singular but for rounding there is no X R^-1, and no such check.
//!
//! What rounding explains: a QR of X is one of X + E where column j of E is as long as a few eps |x_j| (Higham,
//! "Accuracy and Stability of Numerical Algorithms", 2002, section 19.3), and so are the errors of solving with R.
//! With e = |E| / |X|, `X^T X` differs from `R^T R` by at most e (2 + e) of |X|^2. With e = |E R^-1|_F, `Q^T Q`
//! differs from I by at most e (2 + e). For |E_j| = c eps |x_j| that is c eps |D R^-1|_F, D the lengths of the
//! columns: it grows as X nears singularity, is no larger than c eps |X|_F |R^-1|, and does not grow where
//! columns are merely of unlike sizes. An explicit Q is orthonormal to c eps |Q|_F. c is the factor of
//! `certify`, [`THRESHOLD`] sqrt(max(n, d)). Divided by n eps both are LAPACK's test ratios, whose threshold is 30.
//!
//! Everything here is products and substitutions in f64 that come from no BLAS and no LAPACK, so that a fault of
//! theirs cannot hide itself. Of X they take O(d^2 + block) memory: the sums come block by block, and only upper
//! triangles are computed, and travel. R is scaled by a power of two to about 1, and X by the same, so that squares
//! of rows of any size are in range. The sums of `wide`, which come before there is an R, are plain ones, as those of
//! `certify`.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use super::certify::{Check, THRESHOLD, mean_shifts, over};
use super::evidence::is_regular;
use super::exchange::Exchange;
use super::leaf::{pack, unpack};
use super::model::Model;
use crate::linalg::norms;

/// Rows and columns of the tiles of a sum of products that threads share out.
const TILE: usize = 256;

/// Rows that a thread solves for at once, and columns that it does between two products.
const SOLVE_ROWS: usize = 32;
const SOLVE_COLUMNS: usize = 64;

/// R, and the sums over the rows (or columns) of a rank that it is compared with.
#[derive(Debug, Clone)]
pub(super) struct FactorSums {
    /// R times `unit`, `[d, d]`, stored by columns; of `wide` `[n, n]`.
    r: Array2<f64>,
    /// A power of two.
    unit: f64,
    /// The upper triangle of X^T X times `unit` squared.
    products: Array2<f64>,
    /// That of Q^T Q; `None` where there is no Q.
    q_products: Option<Array2<f64>>,
    /// Whether Q is explicit, and all sums are there already.
    explicit: bool,
}

/// The result.
pub(super) struct FactorChecks {
    /// `|X^T X - R^T R|_F / |X|_F^2`.
    pub residual: Check,
    /// `|I - Q^T Q|_F`; `None` where R is singular but for rounding.
    pub orthogonality: Option<Check>,
}

impl FactorSums {
    /// Of no rows; every rank gets the R of the rank that has kept it. `None` on all ranks where none has.
    pub(super) fn new(comm: &impl Exchange, model: &Model) -> Option<Self> {
        let kept = model.evidence.factor.as_ref()?;
        let size = match kept.explicit {
            Some(_) => model.n as usize,
            None => model.width(),
        };
        let mut packed = kept.r.as_ref().map_or_else(Vec::new, pack);
        comm.broadcast(&mut packed, kept.root);
        let mut r = unpack(&packed, size, size);
        if let Some(sums) = &kept.explicit {
            return Some(FactorSums {
                r,
                unit: 1.0,
                products: sums.products.clone(),
                q_products: Some(sums.q_products.clone()),
                explicit: true,
            });
        }
        let regular = is_regular(&r);
        let unit = unit_of(&r);
        r *= unit;
        Some(FactorSums {
            r,
            unit,
            products: Array2::zeros((size, size)),
            q_products: regular.then(|| Array2::zeros((size, size))),
            explicit: false,
        })
    }

    /// Adds centred (and scaled) rows, `[rows, d]`.
    pub(super) fn add(&mut self, rows: ArrayView2<f64>) {
        if self.explicit {
            return;
        }
        let mut rows = rows.mapv(|x| x * self.unit);
        add_products(1.0, rows.view(), self.products.view_mut());
        if let Some(q_products) = &mut self.q_products {
            solve(self.r.view(), rows.view_mut());
            add_products(1.0, rows.view(), q_products.view_mut());
        }
    }

    /// Brings the sums of all ranks together and compares them; on rank 0.
    pub(super) fn finish(mut self, comm: &impl Exchange, model: &Model) -> Option<FactorChecks> {
        for sums in [Some(&mut self.products), self.q_products.as_mut()] {
            let Some(sums) = sums else { continue };
            if comm.rank() > 0 {
                comm.send(&pack(sums), 0);
                continue;
            }
            for rank in 1..comm.size() {
                *sums += &unpack(&comm.receive::<f64>(rank), sums.nrows(), sums.ncols());
            }
        }
        (comm.rank() == 0).then(|| self.compare(model))
    }

    fn compare(mut self, model: &Model) -> FactorChecks {
        let size = (model.n as f64).max(model.width() as f64);
        let rounding = THRESHOLD * model.precision.eps() * size.sqrt();
        let lengths = self.products.diag().mapv(f64::sqrt);
        let squares = self.products.diag().sum();
        // The mean of the model is rounded; what `wide` factored was measured before that.
        let shifts: Vec<f64> = match self.explicit {
            true => vec![0.0; lengths.len()],
            false => mean_shifts(model).map(|shift| shift * self.unit).collect(),
        };
        // Numbers below the smallest normal one have fewer digits.
        let least = f64::MIN_POSITIVE * self.unit;
        let errors: Array1<f64> = lengths
            .iter()
            .zip(shifts)
            .map(|(length, shift)| rounding * length.max(least) + shift)
            .collect();
        for start in (0..self.r.nrows()).step_by(TILE) {
            // What stands left of these rows of the triangle is zero.
            let end = (start + TILE).min(self.r.nrows());
            let rows = self.r.slice(s![start..end, start..]);
            add_products(-1.0, rows, self.products.slice_mut(s![start.., start..]));
        }
        let residual = Check {
            value: symmetric_norm(&self.products, squares),
            limit: twice_and_square(over(norms::euclidean(errors.iter()), squares.sqrt())),
        };
        let orthogonality = self.q_products.take().map(|mut products| {
            products.diag_mut().mapv_inplace(|x| x - 1.0);
            let explained = if self.explicit {
                rounding * (lengths.len() as f64).sqrt()
            } else {
                let mut errors = Array2::from_diag(&errors);
                solve(self.r.view(), errors.view_mut());
                norms::frobenius(&errors)
            };
            Check {
                value: symmetric_norm(&products, 1.0),
                limit: twice_and_square(explained),
            }
        });
        FactorChecks {
            residual,
            orthogonality,
        }
    }
}

/// By how much a square of a matrix changes at most, where the matrix changes by a part e: e (2 + e).
fn twice_and_square(part: f64) -> f64 {
    part * (2.0 + part)
}

/// The power of two that brings the largest entry near 1, as far as there is one.
fn unit_of(r: &Array2<f64>) -> f64 {
    let largest = r.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    if largest > 0.0 && largest.is_finite() {
        2.0_f64.powi((-largest.log2().round()).clamp(-1000.0, 1000.0) as i32)
    } else {
        1.0
    }
}

/// Adds to the upper triangle of sums `[d, d]` that of `factor x^T x`, for x `[m, d]`; what else is in the tiles on
/// the diagonal changes too. m d^2 operations.
pub(super) fn add_products(factor: f64, x: ArrayView2<f64>, mut sums: ArrayViewMut2<f64>) {
    let mut strips: Vec<_> = sums.axis_chunks_iter_mut(Axis(1), TILE).collect();
    let tiles: Vec<_> = strips
        .iter_mut()
        .enumerate()
        .flat_map(|(column, strip)| {
            let tiles = strip.axis_chunks_iter_mut(Axis(0), TILE).enumerate();
            tiles
                .take(column + 1)
                .map(move |(row, tile)| (row * TILE, column * TILE, tile))
        })
        .collect();
    tiles.into_par_iter().for_each(|(row, column, mut tile)| {
        let left = x.slice(s![.., row..row + tile.nrows()]);
        let right = x.slice(s![.., column..column + tile.ncols()]);
        general_mat_mul(factor, &left.t(), &right, 1.0, &mut tile);
    });
}

/// `x = x R^-1` for an upper triangle R `[d, d]` without zeros on its diagonal, stored by columns, and x `[m, d]`,
/// stored by rows. m d^2 operations, by substitution, whose error is one of x alone.
fn solve(r: ArrayView2<f64>, mut x: ArrayViewMut2<f64>) {
    let d = r.ncols();
    let runs: Vec<_> = x.axis_chunks_iter_mut(Axis(0), SOLVE_ROWS).collect();
    runs.into_par_iter().for_each(|mut run| {
        for start in (0..d).step_by(SOLVE_COLUMNS) {
            let end = (start + SOLVE_COLUMNS).min(d);
            let (done, rest) = run.view_mut().split_at(Axis(1), start);
            let mut tile = rest.slice_move(s![.., ..end - start]);
            let above = r.slice(s![..start, start..end]);
            general_mat_mul(-1.0, &done, &above, 1.0, &mut tile);
            let corner = r.slice(s![start..end, start..end]);
            for mut row in tile.rows_mut() {
                for (j, column) in corner.columns().into_iter().enumerate() {
                    let known = row.slice(s![..j]).dot(&column.slice(s![..j]));
                    row[j] = (row[j] - known) / column[j];
                }
            }
        }
    });
}

/// The Frobenius norm over `whole` of a symmetric matrix, of which the upper triangle counts.
fn symmetric_norm(matrix: &Array2<f64>, whole: f64) -> f64 {
    let mut squares = 0.0;
    for (j, column) in matrix.columns().into_iter().enumerate() {
        let square = |x: &f64| over(*x, whole).powi(2);
        let above: f64 = column.iter().take(j).map(square).sum();
        squares += 2.0 * above + square(&column[j]);
    }
    squares.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, svd};
    use crate::pca::center::subtract_mean;
    use crate::pca::exchange::threads;
    use crate::pca::tree::even_runs;
    use crate::pca::{Components, Exact, PcaSettings, Precision, Rows, Solver, Verification, fit};

    /// Rows in a block.
    const BLOCK: usize = 16;

    fn settings(solver: Solver, precision: Precision) -> PcaSettings {
        PcaSettings {
            components: Components::Count(2),
            standardize: false,
            whiten: false,
            solver,
            precision,
            memory: None,
            keep_factor: true,
        }
    }

    /// The exact checks of a fit on so many ranks, with a change to each rank's model between the two.
    fn exact(
        x: &Array2<f64>,
        settings: &PcaSettings,
        ranks: usize,
        change: impl Fn(&mut Model) + Sync,
    ) -> Exact {
        let starts: Vec<usize> = (0..x.nrows()).step_by(BLOCK).collect();
        let rows: Vec<usize> = starts.iter().map(|i| BLOCK.min(x.nrows() - i)).collect();
        let layout = Rows {
            rows_per_block: &rows,
            owner_of_block: &even_runs(rows.len(), ranks),
            width: x.ncols(),
        };
        let block = |block: usize| {
            let start = starts[block];
            x.slice(s![start..start + rows[block], ..])
                .to_owned()
                .into()
        };
        let mut all = threads::on_ranks(ranks, |rank| {
            let mut model = fit(rank, &layout, &mut |b| Ok(block(b)), settings).unwrap();
            change(&mut model);
            let mut verification = Verification::new(rank, &model);
            for b in layout.blocks_of(rank.rank()) {
                verification.add(&model, &block(b));
            }
            verification.finish(rank, &model)
        });
        assert!(all[1..].iter().all(Option::is_none));
        all.swap_remove(0).expect("rank 0 has the result")
    }

    fn unchanged(_: &mut Model) {}

    /// The first check that fails.
    fn failure(exact: &Exact) -> Option<&'static str> {
        let failed = exact.checks().find(|(_, check)| !check.passed());
        failed.map(|(name, _)| name)
    }

    /// LAPACK's threshold for its test ratios, which are these errors over n eps.
    fn lapack(x: &Array2<f64>, precision: Precision) -> f64 {
        30.0 * x.nrows().max(x.ncols()) as f64 * precision.eps()
    }

    #[test]
    fn factors_of_hostile_rows_pass_lapack_s_threshold() {
        for (m, n) in [(40, 13), (150, 40), (280, 260)] {
            for (name, x) in hostile::all(m, n) {
                let mut centered = by_columns(x.view());
                subtract_mean(centered.view_mut());
                let values = svd::svd(centered).unwrap().values;
                for precision in [Precision::F64, Precision::F32] {
                    if precision == Precision::F32 && ["denormal", "huge"].contains(&name) {
                        // No numbers of f32.
                        continue;
                    }
                    for ranks in if n > TILE { 3..=3 } else { 1..=3 } {
                        let exact = exact(&x, &settings(Solver::Tsqr, precision), ranks, unchanged);
                        let what = format!("{name} {m} x {n} {precision:?} {ranks}: {exact:?}");
                        let residual = exact.factor_residual.unwrap();
                        assert!(residual.passed(), "{what}");
                        // The mean of a model is rounded, which a huge one shows.
                        let exempt = name == "huge mean";
                        let threshold = lapack(&x, precision);
                        assert!(exempt || residual.value <= threshold, "{what}");
                        let singular = ["rank deficient", "zero columns", "all zero", "constant"];
                        let regular = [
                            "condition 1",
                            "condition 1e7, geometric",
                            "mean of a million",
                        ];
                        if precision == Precision::F64 && singular.contains(&name) {
                            assert_eq!(exact.factor_orthogonality, None, "{what}");
                        }
                        if regular.contains(&name) {
                            assert!(exact.factor_orthogonality.is_some(), "{what}");
                        }
                        if let Some(orthogonality) = exact.factor_orthogonality {
                            assert!(orthogonality.passed(), "{what}");
                            let norm = norms::euclidean(values.iter());
                            let condition = norm / values[n - 1];
                            let explained = threshold * condition;
                            // Where that is 1, so is its square.
                            let most = twice_and_square(explained);
                            assert!(exempt || orthogonality.value <= most, "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_explicit_q_of_wide_passes_lapack_s_threshold() {
        for (m, n) in [(40, 13), (600, 20), (560, 260)] {
            for (name, x) in hostile::all(m, n) {
                let x = x.t().as_standard_layout().into_owned();
                for precision in [Precision::F64, Precision::F32] {
                    if precision == Precision::F32 && ["denormal", "huge"].contains(&name) {
                        continue;
                    }
                    for ranks in if n > TILE { 3..=3 } else { 1..=3 } {
                        let exact = exact(&x, &settings(Solver::Wide, precision), ranks, unchanged);
                        let what = format!("{name} {n} x {m} {precision:?} {ranks}: {exact:?}");
                        for check in [exact.factor_residual, exact.factor_orthogonality] {
                            let check = check.unwrap();
                            assert!(check.passed(), "{what}");
                            assert!(check.value <= lapack(&x, precision), "{what}");
                        }
                    }
                }
            }
        }
    }

    /// Changes an entry of the factor on the rank that has it.
    fn change_entry(i: usize, j: usize) -> impl Fn(&mut Model) + Sync {
        move |model| {
            let kept = model.evidence.factor.as_mut().unwrap();
            if let Some(r) = &mut kept.r {
                r[[i, j]] *= 1.0 + 1e-9;
            }
        }
    }

    #[test]
    fn a_wrong_entry_of_the_factor_is_refused() {
        let tall = hostile::uniform(60, 12, 1);
        let wide = hostile::uniform(12, 700, 2);
        for (x, solver) in [(&tall, Solver::Tsqr), (&wide, Solver::Wide)] {
            let settings = settings(solver, Precision::F64);
            assert_eq!(failure(&exact(x, &settings, 1, unchanged)), None);
            for i in 0..11 {
                let wrong = exact(x, &settings, 1, change_entry(i, i));
                let expected = Some("the whole residual of the factorisation");
                assert_eq!(failure(&wrong), expected, "{i} {wrong:?}");
            }
        }
        let wrong = exact(
            &tall,
            &settings(Solver::Tsqr, Precision::F64),
            1,
            change_entry(3, 3),
        );
        assert!(!wrong.factor_orthogonality.unwrap().passed());
        // In a column of small numbers it is nothing beside the others, but no Q is orthonormal with it.
        let mut unlike = tall.clone();
        unlike.column_mut(5).mapv_inplace(|x| 1e-6 * x);
        let settings = settings(Solver::Tsqr, Precision::F64);
        assert_eq!(failure(&exact(&unlike, &settings, 1, unchanged)), None);
        let wrong = exact(&unlike, &settings, 1, change_entry(5, 5));
        let expected = Some("the whole orthogonality of the factorisation");
        assert_eq!(failure(&wrong), expected, "{wrong:?}");
    }

    #[test]
    fn a_wrong_q_of_wide_is_refused() {
        let x = hostile::uniform(12, 700, 2);
        let settings = settings(Solver::Wide, Precision::F64);
        let wrong = exact(&x, &settings, 1, |model| {
            let kept = model.evidence.factor.as_mut().unwrap();
            kept.explicit.as_mut().unwrap().q_products[[2, 7]] += 1e-9;
        });
        let expected = Some("the whole orthogonality of the factorisation");
        assert_eq!(failure(&wrong), expected, "{wrong:?}");
    }

    /// Numbers far above rounding, so that it is not noise that is compared.
    #[test]
    fn the_ranks_do_not_show() {
        let tall = hostile::uniform(150, 12, 1);
        let wide = hostile::uniform(40, 900, 2);
        for (x, solver) in [(&tall, Solver::Tsqr), (&wide, Solver::Wide)] {
            let of = |ranks| {
                let settings = settings(solver, Precision::F64);
                let exact = exact(x, &settings, ranks, change_entry(3, 3));
                (
                    exact.factor_residual.unwrap(),
                    exact.factor_orthogonality.unwrap(),
                )
            };
            let alone = of(1);
            for ranks in [2, 3] {
                let found = of(ranks);
                for (a, b) in [(alone.0, found.0), (alone.1, found.1)] {
                    let n = x.nrows().max(x.ncols()) as f64;
                    assert!((a.value - b.value).abs() <= n * f64::EPSILON, "{a:?} {b:?}");
                    assert!((a.limit - b.limit).abs() <= 1e-12 * a.limit, "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn without_a_factor_of_the_rows_there_are_no_checks_of_it() {
        let mut spectrum = vec![0.5; 260];
        spectrum[..2].copy_from_slice(&[9.0, 5.0]);
        let tall = hostile::with_spectrum(400, &spectrum, 3);
        let few = tall.slice(s![..30, ..]).to_owned();
        let wide = tall.t().to_owned();
        let mut not_kept = settings(Solver::Tsqr, Precision::F64);
        not_kept.keep_factor = false;
        for (x, settings, products) in [
            (&tall, settings(Solver::Auto, Precision::F64), true),
            (&wide, settings(Solver::Auto, Precision::F64), true),
            (&tall, settings(Solver::Randomized, Precision::F64), false),
            (&few, settings(Solver::Tsqr, Precision::F64), false),
            (&tall, not_kept, false),
        ] {
            let exact = exact(x, &settings, 2, |model| {
                assert_eq!(model.evidence.route.products, products);
            });
            assert_eq!(exact.factor_residual, None, "{settings:?}");
            assert_eq!(exact.factor_orthogonality, None, "{settings:?}");
            assert_eq!(failure(&exact), None, "{settings:?}");
            let json = serde_json::to_value(&exact).unwrap();
            assert!(json.get("factor_residual").is_none() && json.get("pca_residual").is_some());
        }
    }

    #[test]
    fn sums_and_solutions_in_tiles_are_those_of_the_definition() {
        for (m, d) in [(0, 3), (1, 1), (40, 7), (33, 300), (70, 513)] {
            let x = hostile::uniform(m, d, 4);
            let mut sums = Array2::from_elem((d, d), 1.0);
            add_products(-2.0, x.view(), sums.view_mut());
            let expected = x.t().dot(&x).mapv(|product| 1.0 - 2.0 * product);
            for j in 0..d {
                for i in 0..=j {
                    assert!(
                        (sums[[i, j]] - expected[[i, j]]).abs() <= 1e-13,
                        "{m} x {d}"
                    );
                }
            }
            let mut r = hostile::uniform(d, d, 5) / d as f64 + Array2::<f64>::eye(d);
            for j in 0..d {
                r.slice_mut(s![j + 1.., j]).fill(0.0);
            }
            let mut solution = x.dot(&r);
            solve(by_columns(r.view()).view(), solution.view_mut());
            assert!((solution - x).iter().all(|x| x.abs() <= 1e-13), "{m} x {d}");
        }
    }
}
