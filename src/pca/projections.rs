//! Random projections against the SVD of LAPACK, over spectra that are hard for them.
//!
//! Where nothing separates the components, no method of a few passes finds them; what must hold even
//! there is what `randomized` says about itself: its values are no larger than the true ones, each of
//! them is as near to a true one as the residual says, and what it leaves out is no larger than the
//! bound says.

use ndarray::{Array2, s};

use super::center::subtract_mean;
use super::golden::{blocks, fit_on, settings};
use super::{Model, Projector, Solver, certify};
use crate::linalg::{by_columns, hostile, norms, svd};

/// Spectra of `rank` values by name, and whether the first `k` are found to the last digits: whether
/// those that the random directions leave out are so much smaller that the iterations forget them.
fn spectra(rank: usize, k: usize) -> Vec<(&'static str, Vec<f64>, bool)> {
    let of = |value: &dyn Fn(usize) -> f64| (0..rank).map(value).collect::<Vec<f64>>();
    vec![
        ("flat", of(&|_| 1.0), false),
        ("nearly flat", of(&|i| 1.0 - 1e-3 * i as f64), false),
        ("slow", of(&|i| 1.0 / (1.0 + i as f64).sqrt()), false),
        ("steep", of(&|i| 0.1_f64.powi(i as i32)), true),
        ("steep to rounding", of(&|i| 1e-3_f64.powi(i as i32)), true),
        (
            "one above a floor",
            of(&|i| if i == 0 { 1.0 } else { 1e-9 }),
            false,
        ),
        (
            "a cluster in front, then a gap",
            of(&|i| if i < k { 1.0 - 1e-12 * i as f64 } else { 1e-6 }),
            true,
        ),
        (
            "a cluster over k",
            of(&|i| {
                if i + 2 < k {
                    2.0
                } else {
                    1.0 + 1e-10 * i as f64
                }
            }),
            false,
        ),
        (
            "more copies than directions",
            of(&|i| if i < rank - 2 { 1.0 } else { 0.5 }),
            false,
        ),
        (
            "a staircase of pairs",
            of(&|i| 0.3_f64.powi(i as i32 / 2)),
            true,
        ),
        (
            "half of k",
            of(&|i| {
                if i < k.div_ceil(2) {
                    1.0 / (1.0 + i as f64)
                } else {
                    0.0
                }
            }),
            true,
        ),
        (
            "as many as directions",
            of(&|i| if i < k + 10 { 1.0 } else { 0.0 }),
            true,
        ),
        ("small", of(&|i| 1e-120 * 0.5_f64.powi(i as i32)), true),
        ("large", of(&|i| 1e120 * 0.5_f64.powi(i as i32)), true),
    ]
}

/// The singular values and right vectors of the rows minus their mean.
fn exact(x: &Array2<f64>) -> svd::Svd {
    let mut centered = by_columns(x.view());
    subtract_mean(centered.view_mut());
    svd::svd(centered).unwrap()
}

fn check(name: &str, x: &Array2<f64>, k: usize, is_found: bool) {
    let (n, d) = x.dim();
    let exact = exact(x);
    let rows = blocks(n, 16);
    let asked = settings(k, false, Solver::Randomized);
    let model: Model = fit_on(1, &x.clone().into(), &rows, &vec![0; rows.len()], &asked).remove(0);
    let name = format!("{name}, {n} x {d}, k = {k}");
    let largest = exact.values[0];
    let rounding = 30.0 * n.max(d) as f64 * f64::EPSILON * largest;

    let rank = exact.values.iter().filter(|s| **s > rounding).count();
    assert!(
        model.k() >= k.min(rank) && model.k() <= k,
        "{name}: {}",
        model.k()
    );
    let error = model.evidence.approximation.unwrap();
    assert_eq!(error.directions, (k + 10).min(n).min(d), "{name}");
    for (found, value) in model.singular_values.iter().zip(&exact.values) {
        assert!(*found <= value + rounding, "{name}: {found} above {value}");
        let nearest = exact.values.iter().map(|s| (s - found).abs());
        let nearest = nearest.fold(f64::INFINITY, f64::min);
        assert!(
            nearest <= error.residual * largest + rounding,
            "{name}: {found} is {nearest} from a singular value, {error:?}"
        );
        if is_found {
            assert!((found - value).abs() <= rounding, "{name}: {found} {value}");
        }
    }
    let left_out = exact.values.get(error.directions).copied().unwrap_or(0.0);
    assert!(
        left_out <= error.rest * largest + rounding,
        "{name}: {left_out} is left out, {error:?}"
    );

    let vectors = &model.components;
    let identity = Array2::<f64>::eye(model.k());
    let distance = norms::frobenius(&(&vectors.dot(&vectors.t()) - &identity));
    assert!(
        distance <= 30.0 * d as f64 * f64::EPSILON,
        "{name}: {distance}"
    );
    let total: f64 = exact.values.iter().map(|s| (s / largest).powi(2)).sum();
    let found = model.total_variance * (n - 1) as f64 / largest / largest;
    assert!(
        (found - total).abs() <= 1e-12 * total,
        "{name}: {found} {total}"
    );
    if is_found && model.k() > 0 {
        // The space of all components that are above rounding, whatever turns clusters in it.
        let count = model.k().min(rank);
        let separate = exact.values[count - 1] - exact.values.get(count).copied().unwrap_or(0.0);
        if separate > 1e-3 * exact.values[count - 1] {
            let truth = exact.vt.slice(s![..count, ..]);
            let along = vectors.slice(s![..count, ..]).dot(&truth.t());
            let lost = count as f64 - along.iter().map(|x| x * x).sum::<f64>();
            let limit = (rounding / separate).max(1e-12);
            assert!(lost.abs() <= limit, "{name}: {lost} of the space is lost");
        }
    }
    if (1e-100..1e100).contains(&largest) {
        let part = Projector::new(&model).project(&x.clone().into()).part;
        let certificate = certify(&model, &[part]);
        assert!(certificate.verdict().is_ok(), "{name}: {certificate:?}");
    }
}

#[test]
fn random_projections_keep_their_word_on_hard_spectra() {
    for (tall, short) in [(160, 60), (61, 60)] {
        for k in [1, 5, 12] {
            for (index, (name, spectrum, is_found)) in spectra(short, k).into_iter().enumerate() {
                let x = hostile::with_spectrum(tall, &spectrum, 100 + index as u64);
                check(name, &x, k, is_found);
                check(name, &x.t().to_owned(), k, is_found);
            }
        }
    }
}
