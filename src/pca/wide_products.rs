//! N < d, few components: from the products of the rows, where the columns confirm them.
//!
//! What `products` does with the columns, this does with the rows. The eigenvectors W of G = X X^T are the left
//! singular vectors of X, for half of the operations of a QR of X^T, but with half of the digits. The columns of all
//! rows, which every rank has a part of (`wide`), measure the difference:
//!
//! ```text
//! products    G = X X^T, summed over the tree of blocks of columns                  n^2 d
//! search      W, the k leading eigenvectors of G: of all, or with a proof that G has none larger
//! pass        Y = X^T W = Q R,  Z = X Y                                             4 n d k
//!             R = P S T^T: the singular values S, and |X v - s u| for u = W T, v = Y T / s
//! result      S, and the components Q P, orthonormal whatever S is
//! ```
//!
//! S comes from a QR of images of the rows and not from G, and X^T u = s v holds by itself, so the residuals tell how
//! far the triplets are from those of X. That G is the X X^T of these rows, random directions in the same pass tell.
//! Where anything differs by more than rounding, the products are refused, and the caller factors the columns.
//!
//! With f32 the products are computed in f32 and everything else in f64.
//!
//! Memory of a rank beside its columns: n^2 for each of its threads and level of the tree, and n^2 for the search on
//! the rank of the root, or 4 n^2 where it takes all eigenvectors; Y, of the size of its part of the components.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, concatenate, s};

use super::PcaError;
use super::column_tree::{Tree, sum};
use super::decompose;
use super::evidence::{self, Evidence, PROBES, Route};
use super::exchange::Exchange;
use super::fit::PcaSettings;
use super::leaf::{pack, unpack};
use super::passes::{Image, broadcast_by_columns};
use super::products::{Checked, Tried, broadcast_result, check};
use super::solver::Solver;
use super::spectrum::Spectrum;
use super::tree::Plan;
use super::wide::{Center, gather};
use crate::linalg::blas::{Transpose, gemm};
use crate::linalg::{Scalar, norms, qr, triangle, zeros};

/// Columns of a block that are multiplied at a time: in f64 they stay in the cache between the products.
const COLUMNS_AT_ONCE: usize = 128;

/// Whether the products are worth trying: nobody asked for a QR, and the components that are wanted are few.
pub(super) fn are_worth_trying(settings: &PcaSettings, n: usize) -> bool {
    settings.solver == Solver::Auto && decompose::are_in_products(settings.components, n)
}

/// Solves from the products of the n rows, of which this rank has the blocks of columns `slices`, centred (and scaled),
/// each `[columns, n]`.
pub(super) fn solve<T: Scalar>(
    comm: &impl Exchange,
    (plan, columns): (&Plan, &[Range<usize>]),
    (slices, n): (&BTreeMap<usize, (Center, Array2<T>)>, usize),
    settings: &PcaSettings,
) -> Result<Tried, PcaError> {
    let d = columns.last().map_or(0, |last| last.end);
    let root = sum(
        comm,
        plan,
        |leaf| products_of(&slices[&leaf].1),
        pack,
        |numbers| unpack(&numbers, n, n),
    )?;
    let found = root
        .map(|products| search(products, settings))
        .transpose()?;
    let (numbers, vectors) = match &found {
        Some(Ok(found)) => (Ok(vec![found.vectors.ncols() as f64]), Some(&found.vectors)),
        Some(Err(reason)) => (Err(reason.clone()), None),
        None => (Ok(Vec::new()), None),
    };
    let k = match broadcast_result(comm, plan.root_rank, numbers) {
        Ok(numbers) => numbers[0] as usize,
        Err(reason) => return Ok(Tried::Refused(Route::of_products(0), reason)),
    };
    let vectors = broadcast_by_columns(comm, plan.root_rank, vectors.cloned(), (n, k));
    let coefficients = evidence::coefficients(n);
    let directions = concatenate![Axis(1), vectors, coefficients];
    let (image, tree) = pass(comm, plan, slices, &directions, k)?;
    let confirmed = match (&image, found) {
        (Some(image), Some(Ok(found))) => Some((confirm(image, &found, settings, (n, d))?, found)),
        _ => None,
    };
    let numbers = match &confirmed {
        Some((Ok(confirmed), _)) => {
            let mut message = vec![confirmed.residual];
            message.extend(confirmed.spectrum.to_message());
            Ok(message)
        }
        Some((Err(reason), _)) => Err(reason.clone()),
        None => Ok(Vec::new()),
    };
    let message = match broadcast_result(comm, plan.root_rank, numbers) {
        Ok(message) => message,
        Err(reason) => return Ok(Tried::Refused(Route::of_products(k), reason)),
    };
    let spectrum = Spectrum::from_message(&message[1..]);
    let choice = spectrum.choose(settings, n, d);
    let start = match (&image, &confirmed) {
        (Some(image), Some((Ok(checked), _))) => Some(start(&image.r, &checked.svd.u)),
        _ => None,
    };
    let width = k + PROBES;
    let vectors = tree.back(comm, plan, start, (width, width))?;
    let evidence_of = |directions: Array2<f64>| match confirmed {
        Some((Ok(confirmed), found)) => Evidence {
            probes: evidence::of_columns(directions.view(), found.lengths_of_images),
            decomposition: confirmed.residual,
            svd: decompose::leading_of(k, n),
            ..Evidence::default()
        },
        _ => Evidence::default(),
    };
    let centers = slices
        .iter()
        .map(|(leaf, (center, _))| (*leaf, center.clone()));
    let pieces = (centers.collect(), vectors);
    let mut solution = gather(comm, plan, columns, pieces, (spectrum, choice), evidence_of)?;
    solution.evidence.route = Route::of_products(k);
    Ok(Tried::Confirmed(Box::new(solution)))
}

/// The products of the rows' entries in a block of columns, of which the upper triangle counts, `[n, n]`. The
/// diagonal, from which the whole variance comes, is summed in f64.
fn products_of<T: Scalar>(slice: &Array2<T>) -> Result<Array2<f64>, PcaError> {
    let n = slice.ncols();
    let mut products = zeros::<T>(n, n);
    triangle::gram(
        (slice.view(), Transpose::Yes),
        T::zero(),
        products.view_mut(),
    )?;
    let mut products = T::widened(products);
    for (square, column) in products.diag_mut().iter_mut().zip(slice.columns()) {
        *square = squared_norm(column);
    }
    Ok(products)
}

/// The sum of the squares of some numbers in a row.
fn squared_norm<T: Scalar>(numbers: ArrayView1<T>) -> f64 {
    const LANES: usize = 8;
    let numbers = numbers.to_slice().expect("columns in one piece");
    let (runs, rest) = numbers.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for run in runs {
        for (sum, x) in sums.iter_mut().zip(run) {
            let x = x.as_f64();
            *sum += x * x;
        }
    }
    let rest = rest.iter().map(|x| x.as_f64() * x.as_f64());
    sums.into_iter().chain(rest).sum()
}

/// What the products say.
struct Found {
    /// Leading eigenvectors as columns, `[n, k]`.
    vectors: Array2<f64>,
    /// Norm of the rows.
    norm: f64,
    /// How long the columns are along the coefficients h of the probes: `|X^T h|`, `[probes]`.
    lengths: Vec<f64>,
    /// How long the rows are along the unit vectors z of these images: `|X z|`, `[probes]`.
    lengths_of_images: Vec<f64>,
}

/// The leading eigenvectors of the products; or why they do not tell.
fn search(g: Array2<f64>, settings: &PcaSettings) -> Result<Result<Found, String>, PcaError> {
    let n = g.ncols();
    let trace = g.diag().sum();
    let coefficients = evidence::coefficients(n);
    // With z = X^T h / |X^T h|, |X z| is |G h| / |X^T h|.
    let images = triangle::symmetric_product(g.view(), coefficients.view())?;
    let probes = coefficients.columns().into_iter().zip(images.columns());
    let lengths: Vec<f64> = probes
        .map(|(h, image)| h.dot(&image).max(0.0).sqrt())
        .collect();
    let along = norms::of_columns(images.view()).into_iter().zip(&lengths);
    let lengths_of_images = along.map(|(image, length)| image / length).collect();
    if !images.iter().all(|x| x.is_finite()) || !trace.is_finite() {
        return Ok(Err("they overflow".into()));
    }
    let found = decompose::leading_of_products(g, settings);
    Ok(found.map(|found| Found {
        vectors: found.vectors,
        norm: trace.sqrt(),
        lengths,
        lengths_of_images,
    }))
}

/// R of `Y = X^T B` and `Z = X Y` for the first k of the directions B `[n, l]`, at the root; and the tree that made R.
fn pass<T: Scalar>(
    comm: &impl Exchange,
    plan: &Plan,
    slices: &BTreeMap<usize, (Center, Array2<T>)>,
    directions: &Array2<f64>,
    k: usize,
) -> Result<(Option<Image>, Tree<f64>), PcaError> {
    let (n, width) = directions.dim();
    let directions = crate::linalg::by_columns(directions.view());
    let factored = Mutex::new(BTreeMap::new());
    let leaf = |leaf: usize| {
        let (y, z) = image_of(slices[&leaf].1.view(), directions.view(), k)?;
        let made = qr::Factored::new(y)?;
        factored.lock().expect("no leaf panics").insert(leaf, made);
        Ok(z)
    };
    let to_numbers = |z: &Array2<f64>| z.t().iter().copied().collect();
    let from_numbers = |numbers: Vec<f64>| {
        let z = Array2::from_shape_vec((k, n), numbers).expect("a message of whole columns");
        z.reversed_axes()
    };
    let z = sum(comm, plan, leaf, to_numbers, from_numbers)?;
    let mut tree = Tree::new(factored.into_inner().expect("no leaf panics"));
    let r = tree.reduce(comm, plan, width)?;
    Ok((r.zip(z).map(|(r, z)| Image::new(r, z)), tree))
}

/// `Y = A B`, `[columns, l]`, and `A^T Y` for the first k columns of Y, `[n, k]`, for A `[columns, n]`.
fn image_of<T: Scalar>(
    a: ArrayView2<T>,
    directions: ArrayView2<f64>,
    k: usize,
) -> Result<(Array2<f64>, Array2<f64>), PcaError> {
    let (height, n) = a.dim();
    let mut y = zeros(height, directions.ncols());
    let mut z = zeros(n, k);
    let mut wide = zeros(COLUMNS_AT_ONCE.min(height), n);
    for start in (0..height).step_by(COLUMNS_AT_ONCE) {
        let strip = s![start..(start + COLUMNS_AT_ONCE).min(height), ..];
        let mut y = y.slice_mut(strip);
        let mut wide = wide.slice_mut(s![..y.nrows(), ..]);
        for (mut to, from) in wide.columns_mut().into_iter().zip(a.slice(strip).columns()) {
            let to = to.as_slice_mut().expect("columns in one piece");
            let from = from.to_slice().expect("columns in one piece");
            to.iter_mut().zip(from).for_each(|(to, x)| *to = x.as_f64());
        }
        let as_is = (wide.view(), Transpose::No);
        gemm(1.0, as_is, (directions, Transpose::No), 0.0, y.view_mut())?;
        let turned = (wide.view(), Transpose::Yes);
        let y = (y.slice(s![.., ..k]), Transpose::No);
        gemm(1.0, turned, y, 1.0, z.view_mut())?;
    }
    Ok((y, z))
}

/// The triplets, where the image confirms the vectors; else why not.
fn confirm(
    image: &Image,
    found: &Found,
    settings: &PcaSettings,
    shape: (usize, usize),
) -> Result<Result<Checked, String>, PcaError> {
    let Found { vectors, norm, .. } = found;
    check(image, vectors, *norm, &found.lengths, settings, shape)
}

/// The coefficients of the components and of the probes' directions in Q of their images, `[l, l]`, from R of these and
/// the left singular vectors of its leading part.
fn start(r: &Array2<f64>, left: &Array2<f64>) -> Array2<f64> {
    let k = left.ncols();
    let mut start = zeros(r.nrows(), r.ncols());
    start.slice_mut(s![..k, ..k]).assign(left);
    let probes = r.slice(s![.., k..]);
    let mut columns = start.slice_mut(s![.., k..]);
    let lengths = norms::of_columns(probes);
    for ((mut column, probe), length) in columns
        .columns_mut()
        .into_iter()
        .zip(probes.columns())
        .zip(lengths)
    {
        if length > 0.0 {
            column.assign(&(&probe / length));
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile};
    use crate::pca::exchange::threads;
    use crate::pca::products::tests::{
        assert_is_svd, assert_same_on_all_ranks, exact, model, settings,
    };
    use crate::pca::wide::plan;
    use crate::pca::{Components, Precision};

    const N: usize = 260;
    // Seven blocks of columns.
    const D: usize = 3700;
    const K: usize = 12;

    /// Rows with a spectrum that falls to `least` within 30 values and stays there.
    fn falling(n: usize, least: f64) -> Array2<f64> {
        let value = |i: usize| least.powf(i.min(30) as f64 / 30.0);
        let spectrum: Vec<f64> = (0..n).map(value).collect();
        hostile::with_spectrum(D, &spectrum, 9).reversed_axes() + 5.0
    }

    #[test]
    fn what_the_columns_confirm_is_as_good_as_an_svd_of_the_rows() {
        // Of few rows all eigenvalues are computed.
        for (n, precision, least, limit) in [
            (N, Precision::F64, 0.01, 1e-13),
            (4 * K, Precision::F64, 0.01, 1e-13),
            (N, Precision::F32, 0.1, 1e-6),
        ] {
            let x = falling(n, least);
            let found = model(&x, settings(precision, Components::Count(K)), 1);
            let reason = &found.solver_reason;
            assert_eq!(found.evidence.route, Route::of_products(K), "{reason}");
            assert!(reason.contains("of rows, which the columns confirm"));
            assert_is_svd(&found, &x, limit);
            let products = found.components.dot(&found.components.t());
            assert!(norms::frobenius(&(products - Array2::<f64>::eye(K))) < 1e-14);
        }
    }

    #[test]
    fn every_number_of_ranks_gives_the_same_bits() {
        assert_same_on_all_ranks(&falling(N, 0.05));
        assert_same_on_all_ranks(&falling(4 * K, 0.05));
    }

    #[test]
    fn what_the_columns_do_not_confirm_is_factored() {
        let few = Components::Count(K);
        for (name, x, words) in [
            // The twelfth value is 5e-4 of the largest: its square is lost among those of the first.
            ("steep", falling(N, 1e-9), "too small"),
            // Their squares are no numbers.
            ("tiny", falling(N, 0.05) * 1e-170, "no trace"),
        ] {
            let kept = PcaSettings {
                keep_factor: name == "steep",
                ..settings(Precision::F64, few)
            };
            let found = model(&x, kept, 3);
            let reason = &found.solver_reason;
            assert!(
                found.evidence.route.factor && reason.contains(words),
                "{reason}"
            );
            let exact = exact(&x);
            for (a, b) in found.singular_values.iter().zip(&exact.values) {
                assert!((a - b).abs() <= 1e-13 * exact.values[0], "{name}: {a} {b}");
            }
            // The same as where a QR was asked for.
            let asked = PcaSettings {
                solver: Solver::Wide,
                ..settings(Precision::F64, few)
            };
            let asked = model(&x, asked, 2);
            assert_eq!(asked.evidence.route, Route::FACTOR);
            assert_eq!(asked.components, found.components);
        }
        // The twelfth value is 1e-3 of the largest: the products show it, but in f32 not well enough.
        let faint = falling(N, 8e-9);
        let found = model(&faint, settings(Precision::F32, few), 3);
        let (reason, route) = (&found.solver_reason, found.evidence.route);
        assert!(reason.contains("residual of component"), "{reason}");
        assert!(route.factor && route.directions == K, "{route:?}");
        let found = model(
            &(falling(N, 0.05) * 1e156),
            settings(Precision::F64, few),
            2,
        );
        let reason = &found.solver_reason;
        assert!(
            found.evidence.route.factor && reason.contains("overflow"),
            "{reason}"
        );
    }

    #[test]
    fn a_vector_that_is_none_is_not_confirmed() {
        let settings = settings(Precision::F64, Components::Count(6));
        let a = by_columns((falling(N, 0.05) - 5.0).t());
        let center = Center {
            mean: vec![0.0; D],
            scale: vec![1.0; D],
        };
        let mut found = search(products_of(&a).unwrap(), &settings)
            .unwrap()
            .unwrap();
        let (columns, plan) = plan(N, D, 1);
        let slices = columns.iter().enumerate().map(|(leaf, range)| {
            let slice = by_columns(a.slice(s![range.clone(), ..]));
            (leaf, (center.clone(), slice))
        });
        let slices: BTreeMap<_, _> = slices.collect();
        let confirmed = |found: &Found| {
            let image = threads::on_ranks(1, |rank| {
                let directions = concatenate![Axis(1), found.vectors, evidence::coefficients(N)];
                pass(rank, &plan, &slices, &directions, 6).unwrap().0
            });
            let image = image.into_iter().flatten().next().unwrap();
            confirm(&image, found, &settings, (N, D)).unwrap()
        };
        let good = confirmed(&found).unwrap();
        assert!(good.residual < 1e-14, "{}", good.residual);
        // Random directions are longer than the products say.
        found.lengths[1] *= 0.999;
        let reason = confirmed(&found).err().unwrap();
        assert!(reason.contains("a random direction"), "{reason}");
        // Of the second vector a thousand-millionth is turned away.
        let stray = found.vectors.column(1).mapv(|x| x + 1e-9);
        found.vectors.column_mut(1).assign(&stray);
        let reason = confirmed(&found).err().unwrap();
        assert!(reason.contains("residual of component"), "{reason}");
    }

    #[test]
    fn a_squared_norm_is_that_of_all_entries() {
        assert_eq!(squared_norm(ArrayView1::from(&[3.0_f32; 11])), 99.0);
    }
}
