//! N >= d, few components: from the products of the columns, where the rows confirm them.
//!
//! The eigenvectors of C = X^T X are the right singular vectors of X, for half of the operations of a QR.
//! But C holds the squares of the singular values, and so rounding in it is relative to the square of the
//! largest: it turns the vector of s_i towards that of s_j by eps s_1^2 / (s_i^2 - s_j^2), where it is eps
//! s_1 / (s_i - s_j) in a QR. For the leading components the difference, a factor s_1 / (s_i + s_j), is a
//! digit or two, and a pass over the rows (`passes`) both measures it and takes it back:
//!
//! ```text
//! products    C = X^T X by the tree over rows                                       n d^2
//! search      V, the k leading eigenvectors of C: of all, or with a proof that C has none larger
//! pass        Y = X V,  R of Y = Q R,  Z = X^T Y                                    4 n d k
//!             R = P S W^T: the singular values S, and |X^T u - s v| for v = V W, u = X v / s
//! result      S, and the orthonormal basis of Z W, a step of subspace iteration from V W
//! ```
//!
//! S is as good as from an SVD of X: it comes from a QR of rows, and the error of V enters squared. The
//! residuals tell how far the triplets are from those of X; what a backward stable SVD leaves is some eps
//! s_1. That none is missed is known of C; that C is the X^T X of these rows, random directions in the same
//! pass tell. Where anything differs by more than rounding, the products are refused, and the caller factors
//! the rows.
//! The step after that only improves what was accepted: it multiplies what lies in the direction of another
//! vector by (s_j / s_i)^2. (Rayleigh-Ritz and the bounds by residuals: Parlett, "The Symmetric Eigenvalue
//! Problem", 1998, chapter 11; the iteration: Halko, Martinsson and Tropp, "Finding structure with
//! randomness", 2011.)
//!
//! With f32 the products are computed in f32 and everything else in f64.

use ndarray::{Array2, ArrayView1, Axis, s};
use rayon::prelude::*;

use super::PcaError;
use super::block::Block;
use super::center::Mean;
use super::certify::THRESHOLD;
use super::decompose;
use super::evidence::{self, Evidence, Route};
use super::exchange::Exchange;
use super::fit::{PcaSettings, Precision, Rows, Solution, broadcast_components};
use super::gram::Gram;
use super::passes::{Columns, Image, Walk, broadcast_by_columns, product, qr_basis};
use super::solver::Solver;
use super::spectrum::Spectrum;
use super::tsqr::{plan, reduce, standard_deviations};
use crate::linalg::{Scalar, norms, sign, svd, zeros};

/// Columns whose squares add up to less than this may have lost digits, or other columns' products with them: the
/// deviations, or their squares, come near the smallest numbers of the precision.
const LEAST_SQUARES_F32: f64 = 1e-60;
const LEAST_SQUARES_F64: f64 = f64::MIN_POSITIVE / f64::EPSILON;

/// What came of it, the same on every rank.
pub(super) enum Tried {
    /// The rows confirm the components.
    Confirmed(Box<Solution>),
    /// The rows have to be factored: what was done in vain, and why.
    Refused(Route, String),
}

/// Whether the products are worth trying: nobody asked for a QR, and the components that are wanted are few.
pub(super) fn are_worth_trying(settings: &PcaSettings, rows: &Rows) -> bool {
    settings.solver == Solver::Auto
        && rows.total() >= rows.width
        && decompose::are_in_products(settings.components, rows.width)
}

/// The largest residual `|X^T u - s v| / s_1` that confirms components of n rows and d columns. In f64, the rounding
/// that the certificate allows a factorisation; in f32, where that would be a thousandth and more, no more
/// than a factorisation in f32 of a few rows would be allowed.
fn largest_residual(precision: Precision, (n, d): (usize, usize)) -> f64 {
    let length = match precision {
        Precision::F32 => 1,
        Precision::F64 => n.max(d),
    };
    THRESHOLD * precision.eps() * (length as f64).sqrt()
}

/// Solves from the products.
pub(super) fn solve(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    settings: &PcaSettings,
) -> Result<Tried, PcaError> {
    match settings.precision {
        Precision::F32 => solve_in::<f32>(comm, rows, read, settings),
        Precision::F64 => solve_in::<f64>(comm, rows, read, settings),
    }
}

fn solve_in<P: Scalar>(
    comm: &impl Exchange,
    rows: &Rows,
    read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
    settings: &PcaSettings,
) -> Result<Tried, PcaError> {
    let plan = plan::<Gram<P>>(rows);
    let root = reduce::<Gram<P>>(comm, &plan, rows, read)?;
    let found = root
        .map(|products| search(products, settings))
        .transpose()?;
    let found = match share(comm, plan.root_rank, found, rows.width) {
        Ok(found) => found,
        Err(reason) => return Ok(Tried::Refused(Route::of_products(0), reason)),
    };
    let k = found.vectors.ncols();
    let walk = Walk::new(comm, rows);
    let image = walk.pass::<f64>(read, &found.columns, found.directions().view(), k)?;
    let shape = (rows.total(), rows.width);
    let confirmed = image
        .map(|image| confirm(&image, &found, settings, shape))
        .transpose()?;
    let root = walk.root_rank();
    let (numbers, components) = match confirmed {
        Some(Ok(confirmed)) => {
            let mut message = vec![confirmed.checked.residual];
            message.extend(confirmed.checked.spectrum.to_message());
            (Ok(message), Some(confirmed.components))
        }
        Some(Err(reason)) => (Err(reason), None),
        None => (Ok(Vec::new()), None),
    };
    let message = match broadcast_result(comm, root, numbers) {
        Ok(message) => message,
        Err(reason) => return Ok(Tried::Refused(Route::of_products(k), reason)),
    };
    let Found {
        columns,
        mut evidence,
        ..
    } = found;
    let spectrum = Spectrum::from_message(&message[1..]);
    evidence.decomposition = message[0];
    evidence.route = Route::of_products(k);
    let choice = spectrum.choose(settings, rows.total(), rows.width);
    Ok(Tried::Confirmed(Box::new(Solution {
        mean: columns.mean.value(),
        scale: columns.scale,
        components: broadcast_components(comm, components, (choice.k, rows.width), root),
        spectrum,
        choice,
        evidence,
        refused: None,
    })))
}

/// What the products say.
struct Found {
    columns: Columns,
    /// Leading eigenvectors as columns, `[d, k]`.
    vectors: Array2<f64>,
    evidence: Evidence,
}

impl Found {
    /// The vectors, and behind them the directions of the probes, `[d, k + probes]`.
    fn directions(&self) -> Array2<f64> {
        let (d, k) = self.vectors.dim();
        let probes = &self.evidence.probes;
        let mut directions = zeros(d, k + probes.len());
        let (mut vectors, mut rest) = directions.view_mut().split_at(Axis(1), k);
        vectors.assign(&self.vectors);
        for (mut column, probe) in rest.columns_mut().into_iter().zip(probes) {
            column.assign(&ArrayView1::from(&probe.direction));
        }
        directions
    }
}

/// The leading eigenvectors of the products of columns that are divided by their standard deviations where asked;
/// or why they do not tell.
fn search<P: Scalar>(
    products: Gram<P>,
    settings: &PcaSettings,
) -> Result<Result<Found, String>, PcaError> {
    let (rows, mean, mut c) = products.into_products();
    let d = c.ncols();
    let scale = if settings.standardize {
        let norms = c.diag().mapv(f64::sqrt).to_vec();
        standard_deviations(norms, rows as usize)
    } else {
        vec![1.0; d]
    };
    let least = match settings.precision {
        Precision::F32 => LEAST_SQUARES_F32,
        Precision::F64 => LEAST_SQUARES_F64,
    };
    let too_small = |square: &f64| *square > 0.0 && *square < least;
    if settings.standardize && c.diag().iter().any(too_small) {
        return Ok(Err("those of a column underflow".into()));
    }
    // A column of scale 0 is all zeros already.
    let inverse: Vec<f64> = scale
        .iter()
        .map(|scale| if *scale > 0.0 { 1.0 / scale } else { 0.0 })
        .collect();
    let columns: Vec<_> = c.columns_mut().into_iter().zip(&inverse).collect();
    let columns = columns.into_par_iter().enumerate();
    let finite = columns.map(|(j, (mut column, own))| {
        let above = column.iter_mut().zip(&inverse[..=j]);
        above.fold(true, |finite, (x, other)| {
            *x *= own * other;
            finite & x.is_finite()
        })
    });
    if !finite.reduce(|| true, |a, b| a & b) {
        return Ok(Err("they overflow".into()));
    }
    let norm = c.diag().sum().sqrt();
    let probes = evidence::of_products(c.view());
    let found = decompose::leading_of_products(c, settings);
    Ok(found.map(|found| Found {
        columns: Columns { mean, scale, norm },
        evidence: Evidence {
            probes,
            svd: decompose::leading_of(found.values.len(), d),
            ..Evidence::default()
        },
        vectors: found.vectors,
    }))
}

/// Gives every rank what the root of the products found.
fn share(
    comm: &impl Exchange,
    root: usize,
    found: Option<Result<Found, String>>,
    d: usize,
) -> Result<Found, String> {
    let (numbers, vectors, evidence) = match found {
        Some(Ok(found)) => {
            let Columns { mean, scale, norm } = found.columns;
            let mut numbers = vec![norm, found.vectors.ncols() as f64];
            for part in [mean.origin, mean.offset, scale] {
                numbers.extend(part);
            }
            (Ok(numbers), Some(found.vectors), found.evidence)
        }
        Some(Err(reason)) => (Err(reason), None, Evidence::default()),
        None => (Ok(Vec::new()), None, Evidence::default()),
    };
    let numbers = broadcast_result(comm, root, numbers)?;
    let (norm, k) = (numbers[0], numbers[1] as usize);
    let mut parts = numbers[2..].chunks(d).map(<[f64]>::to_vec);
    let mut part = || parts.next().expect("three vectors of d numbers");
    let (origin, offset, scale) = (part(), part(), part());
    Ok(Found {
        columns: Columns {
            mean: Mean { origin, offset },
            scale,
            norm,
        },
        vectors: broadcast_by_columns(comm, root, vectors, (d, k)),
        evidence: evidence.broadcast(comm, root, d),
    })
}

/// Gives every rank the numbers or the reason of the root; the others' are not looked at.
pub(super) fn broadcast_result(
    comm: &impl Exchange,
    root: usize,
    result: Result<Vec<f64>, String>,
) -> Result<Vec<f64>, String> {
    let (mut numbers, reason) = match result {
        Ok(numbers) => (numbers, String::new()),
        Err(reason) => (Vec::new(), reason),
    };
    let mut reason = reason.into_bytes();
    comm.broadcast_bytes(&mut reason, root);
    if !reason.is_empty() {
        return Err(String::from_utf8_lossy(&reason).into_owned());
    }
    comm.broadcast(&mut numbers, root);
    Ok(numbers)
}

/// Triplets that were checked.
pub(super) struct Checked {
    pub spectrum: Spectrum,
    /// Of the image: the values, and the vectors that turn those that were checked.
    pub svd: svd::Svd,
    /// The largest `|X^T u - s v|` over the norm of the rows.
    pub residual: f64,
}

/// Checks approximate singular vectors `[any, k]` by their image: the triplets, where their residuals are no more than
/// rounding, all of them are above rounding, and X is along some more directions, the last ones of the image, as long
/// as `lengths` say; else why not. The rows have this norm and n rows of d columns.
pub(super) fn check(
    image: &Image,
    vectors: &Array2<f64>,
    norm: f64,
    lengths: &[f64],
    settings: &PcaSettings,
    (n, d): (usize, usize),
) -> Result<Result<Checked, String>, PcaError> {
    let svd = match image.values() {
        Ok(svd) => svd,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let residuals = image.residuals(&svd, &product(vectors, &svd)?)?;
    let spectrum = Spectrum {
        values: svd.values.clone(),
        complete: false,
        norm,
    };
    let limit = largest_residual(settings.precision, (n, d)) * svd.values[0];
    for (index, residual) in residuals.iter().enumerate() {
        // NaN confirms nothing.
        if residual.is_nan() || *residual > limit {
            return Ok(Err(format!(
                "the residual of component {} is {residual:.1e}, more than {limit:.1e}",
                index + 1
            )));
        }
    }
    let k = vectors.ncols();
    if spectrum.choose(settings, n, d).k != k {
        let reason = "not all of the components that they show are above rounding";
        return Ok(Err(reason.into()));
    }
    // Of products that were lost the vectors would know nothing; random directions do.
    let allowed = THRESHOLD * settings.precision.eps() * (n.max(d) as f64).sqrt() * norm;
    let measured = norms::of_columns(image.r.slice(s![.., k..]));
    for (length, measured) in lengths.iter().zip(measured) {
        let difference = (length - measured).abs();
        if difference.is_nan() || difference > allowed {
            return Ok(Err(format!(
                "a random direction differs by {difference:.1e}, more than {allowed:.1e}"
            )));
        }
    }
    Ok(Ok(Checked {
        spectrum,
        svd,
        residual: residuals.into_iter().fold(0.0, f64::max) / norm,
    }))
}

/// What the rows say.
struct Confirmed {
    checked: Checked,
    /// `[k, d]`.
    components: Array2<f64>,
}

/// The components, where the image of the rows confirms the vectors; else why not.
fn confirm(
    image: &Image,
    found: &Found,
    settings: &PcaSettings,
    shape: (usize, usize),
) -> Result<Result<Confirmed, String>, PcaError> {
    let probes = found.evidence.probes.iter();
    let lengths: Vec<f64> = probes.map(|probe| probe.length).collect();
    let (vectors, norm) = (&found.vectors, found.columns.norm);
    let checked = match check(image, vectors, norm, &lengths, settings, shape)? {
        Ok(checked) => checked,
        Err(reason) => return Ok(Err(reason)),
    };
    let basis = qr_basis(image.turned(&checked.svd)?)?;
    let mut components = basis.t().as_standard_layout().into_owned();
    sign::fix(&mut components);
    Ok(Ok(Confirmed {
        checked,
        components,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::s;

    use super::*;
    use crate::linalg::{by_columns, hostile};
    use crate::pca::center::subtract_mean;
    use crate::pca::exchange::threads;
    use crate::pca::tree::even_runs;
    use crate::pca::{
        Components, Counted, Model, Projector, certify, fit, gather_parts, predicted_bytes,
    };

    const BLOCK: usize = 64;

    pub fn settings(precision: Precision, components: Components) -> PcaSettings {
        PcaSettings {
            components,
            standardize: false,
            whiten: false,
            solver: Solver::Auto,
            precision,
            memory: None,
            keep_factor: false,
        }
    }

    /// The rows of a block; the first has none.
    fn block(x: &Array2<f64>, block: usize) -> Block {
        let start = block.saturating_sub(1) * BLOCK;
        let end = (block * BLOCK).min(x.nrows());
        x.slice(s![start..end, ..]).to_owned().into()
    }

    /// The model of some rows on so many ranks, which send what the schedule says. Its certificate holds, unless the
    /// rows are such that their squares, which the certificate adds up, are no numbers.
    ///
    /// The first block is empty, and all that the first of several ranks has, so that the tree over leaves and the one
    /// over blocks have different ranks at their roots.
    pub fn model(x: &Array2<f64>, settings: PcaSettings, ranks: usize) -> Model {
        let n = x.nrows();
        let mut lengths = vec![0];
        lengths.extend((0..n).step_by(BLOCK).map(|i| BLOCK.min(n - i)));
        let others = usize::from(ranks > 1);
        let mut owners = vec![0];
        let filled = even_runs(lengths.len() - 1, ranks - others);
        owners.extend(filled.iter().map(|owner| owner + others));
        let rows = Rows {
            rows_per_block: &lengths,
            owner_of_block: &owners,
            width: x.ncols(),
        };
        let models = threads::on_ranks(ranks, |rank| {
            let counted = Counted::new(rank);
            let model = fit(&counted, &rows, &mut |at| Ok(block(x, at)), &settings).unwrap();
            let projector = Projector::new(&model);
            let own = rows.blocks_of(rank.rank());
            let parts = own.map(|at| projector.project(&block(x, at)).part);
            let parts = gather_parts(rank, parts.collect());
            if let Some(parts) = parts.filter(|_| (1e-300..1e300).contains(&model.total_variance)) {
                certify(&model, &parts).verdict().unwrap();
            }
            (model, counted.sent())
        });
        let (models, sent): (Vec<Model>, Vec<u64>) = models.into_iter().unzip();
        let model = models.into_iter().next().unwrap();
        let way = (model.solver, model.evidence.route);
        let shape = (ranks, model.k(), f64::BYTES);
        let predicted = predicted_bytes(way, settings.precision, &rows, shape);
        assert_eq!(sent, predicted, "{way:?} on {ranks} ranks");
        model
    }

    /// Rows with a spectrum that falls to `least` within `few` values and stays there.
    fn falling(n: usize, d: usize, few: usize, least: f64) -> Array2<f64> {
        let value = |i: usize| least.powf(i.min(few) as f64 / few as f64);
        hostile::with_spectrum(n, &(0..d).map(value).collect::<Vec<_>>(), 9) + 5.0
    }

    /// Singular values and vectors of the centred rows by LAPACK.
    pub fn exact(x: &Array2<f64>) -> svd::Svd {
        let mut centered = by_columns(x.view());
        subtract_mean(centered.view_mut());
        svd::svd(centered).unwrap()
    }

    #[test]
    fn what_the_rows_confirm_is_as_good_as_an_svd_of_them() {
        let k = 12;
        for (precision, least, limit) in
            [(Precision::F64, 0.01, 1e-13), (Precision::F32, 0.1, 1e-9)]
        {
            let x = falling(700, 256, 30, least);
            let found = model(&x, settings(precision, Components::Count(k)), 1);
            assert_eq!(
                found.evidence.route,
                Route::of_products(k),
                "{}",
                found.solver_reason
            );
            assert!(found.solver_reason.contains("the rows confirm"));
            assert_is_svd(&found, &x, limit);
        }
    }

    /// That a model is that of the SVD of the centred rows by LAPACK, for rows of [`falling`] whose values fall slowly
    /// enough.
    pub fn assert_is_svd(found: &Model, x: &Array2<f64>, limit: f64) {
        let exact = exact(x);
        for (a, b) in found.singular_values.iter().zip(&exact.values) {
            assert!((a - b).abs() <= limit * exact.values[0], "{a} {b}");
        }
        let total: f64 = exact.values.iter().map(|s| s * s).sum();
        let variance = found.total_variance * (x.nrows() - 1) as f64;
        let difference = (variance / total - 1.0).abs();
        assert!(difference <= limit, "{variance} {total}");
        // Neighbours are 14 % apart or more, the least of them a fiftieth of the largest: a QR would turn their
        // vectors by some eps over that.
        for (a, b) in found.components.rows().into_iter().zip(exact.vt.rows()) {
            let difference = &a - &(&b * a.dot(&b).signum());
            let turned = difference.dot(&difference).sqrt();
            assert!(turned <= 1e3 * limit, "{turned:e}");
        }
    }

    /// Below 256 columns, and with more than one in sixteen of their number, all eigenvalues are computed.
    #[test]
    fn narrow_rows_and_many_components_come_from_products_too() {
        for (d, k) in [(48, 12), (300, 75)] {
            let x = falling(700, d, k + 3, 0.01);
            let few = settings(Precision::F64, Components::Count(k));
            let found = model(&x, few, 2);
            let reason = &found.solver_reason;
            assert_eq!(found.evidence.route, Route::of_products(k), "{reason}");
            assert_is_svd(&found, &x, 1e-13);
            // One more, and the pass over the rows would take more operations than are saved.
            let many = settings(Precision::F64, Components::Count(k + 1));
            assert_eq!(model(&x, many, 2).evidence.route, Route::FACTOR);
        }
    }

    #[test]
    fn every_number_of_ranks_gives_the_same_bits() {
        assert_same_on_all_ranks(&falling(700, 256, 30, 0.05));
        assert_same_on_all_ranks(&falling(700, 48, 30, 0.05));
        // So many that nodes of the pass have a triangle when they travel.
        assert_same_on_all_ranks(&falling(1500, 48, 30, 0.05));
    }

    /// That a part of the variance comes from products, and with the same bits at every number of ranks.
    pub fn assert_same_on_all_ranks(x: &Array2<f64>) {
        for precision in [Precision::F64, Precision::F32] {
            for standardize in [false, true] {
                let settings = PcaSettings {
                    standardize,
                    ..settings(precision, Components::Variance(0.6))
                };
                let alone = model(x, settings, 1);
                assert!(alone.evidence.route.products && alone.k() > 1);
                for ranks in [2, 3, 4, 5, 7] {
                    let other = model(x, settings, ranks);
                    assert_eq!(other.components, alone.components);
                    assert_eq!(other.singular_values, alone.singular_values);
                    assert_eq!((&other.mean, &other.scale), (&alone.mean, &alone.scale));
                    assert_eq!(other.evidence, alone.evidence);
                }
            }
        }
    }

    #[test]
    fn what_the_rows_do_not_confirm_is_factored() {
        let k = 12;
        let few = Components::Count(k);
        // The twelfth value is 5e-4 of the largest: far above eps, but its square is lost among those of the first.
        let steep = falling(700, 256, 30, 1e-9);
        // Their squares are no numbers.
        let tiny = falling(700, 256, 30, 0.05) * 1e-170;
        let large = falling(700, 256, 30, 0.05) * 1e130;
        for (name, x, words) in [("steep", &steep, "too small"), ("tiny", &tiny, "no trace")] {
            let found = model(x, settings(Precision::F64, few), 3);
            assert!(
                found.evidence.route.factor,
                "{name}: {}",
                found.solver_reason
            );
            assert!(
                found.solver_reason.contains(words),
                "{}",
                found.solver_reason
            );
            let exact = exact(x);
            for (a, b) in found.singular_values.iter().zip(&exact.values) {
                assert!((a - b).abs() <= 1e-13 * exact.values[0], "{name}: {a} {b}");
            }
            // The same as where a QR was asked for.
            let asked = PcaSettings {
                solver: Solver::Tsqr,
                ..settings(Precision::F64, few)
            };
            let asked = model(x, asked, 2);
            assert_eq!(asked.evidence.route, Route::FACTOR);
            assert_eq!(asked.components, found.components);
        }
        // The twelfth value is 2e-3 of the largest: the products show it, but in f32 not well enough.
        let faint = falling(700, 256, 30, 4.4e-8);
        let found = model(&faint, settings(Precision::F32, few), 3);
        assert!(
            found.solver_reason.contains("residual of component"),
            "{}",
            found.solver_reason
        );
        let route = found.evidence.route;
        assert!(route.factor && route.directions == k, "{route:?}");
        let exact = exact(&faint);
        for (a, b) in found.singular_values.iter().zip(&exact.values) {
            assert!((a - b).abs() <= 1e-7 * exact.values[0], "{a} {b}");
        }
        let found = model(&large, settings(Precision::F32, few), 2);
        assert!(found.evidence.route.factor, "{}", found.solver_reason);
        assert!(
            found.solver_reason.contains("overflow"),
            "{}",
            found.solver_reason
        );
    }

    #[test]
    fn a_vector_that_is_none_is_not_confirmed() {
        let (n, d, k) = (400, 256, 6);
        let x = falling(n, d, 20, 0.05);
        let settings = settings(Precision::F64, Components::Count(k));
        let blocks = vec![(0, x.clone().into())];
        let node = |blocks| crate::pca::leaf::TreeNode::from_blocks(blocks, d, vec![]);
        let (products, _): (Gram<f64>, _) = node(blocks).unwrap();
        let mut found = search(products, &settings).unwrap().unwrap();
        let lengths = [n];
        let layout = Rows {
            rows_per_block: &lengths,
            owner_of_block: &[0],
            width: d,
        };
        let confirmed = |found: &Found| {
            let image = threads::on_ranks(1, |rank| {
                let walk = Walk::new(rank, &layout);
                let directions = found.directions();
                let mut read = |_: usize| Ok(x.clone().into());
                walk.pass::<f64>(&mut read, &found.columns, directions.view(), k)
                    .unwrap()
            });
            let image = image.into_iter().flatten().next().unwrap();
            confirm(&image, found, &settings, (n, d)).unwrap()
        };
        let good = confirmed(&found).unwrap();
        let residual = good.checked.residual;
        assert!(residual < 1e-14, "{residual}");
        let products = good.components.dot(&good.components.t());
        assert!(norms::frobenius(&(products - Array2::<f64>::eye(k))) < 1e-14);
        // Random directions are longer than the products say.
        found.evidence.probes[1].length *= 0.999;
        let reason = confirmed(&found).err().unwrap();
        assert!(reason.contains("a random direction"), "{reason}");
        // Of the second vector a thousand-millionth is turned away.
        let stray = found.vectors.column(1).mapv(|x| x + 1e-9);
        found.vectors.column_mut(1).assign(&stray);
        let reason = confirmed(&found).err().unwrap();
        assert!(reason.contains("residual of component"), "{reason}");
    }
}
