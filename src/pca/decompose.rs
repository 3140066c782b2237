//! The SVD of the R factor on one rank: the leading part where that is enough, else the whole.

use ndarray::{Array2, s};

use super::PcaError;
use super::fit::{Components, PcaSettings, Precision};
use super::spectrum::Spectrum;
use crate::linalg::blas::{Transpose, gemm};
use crate::linalg::gaussian::gaussian;
use crate::linalg::partial_svd::{Leading, Outcome, Side, Wanted, leading};
use crate::linalg::{Scalar, norms, partial_eigen, svd, zeros};

/// From this order on the leading part alone is worth trying; below it, everything takes
/// milliseconds.
const PARTIAL_FROM: usize = 256;

/// Up to this part of the values counts as few. Beyond it, the basis that finds them costs as much as
/// the whole.
const FEW: usize = 16;

/// The pass that confirms components from products costs as much as half of a QR at this part of the values.
pub(super) const FEW_IN_PRODUCTS: usize = 4;

/// The basis may grow to this part of the order before everything is computed instead: for a number of
/// components that is known, and for one that is not.
const BASIS: usize = 3;
const BASIS_UNKNOWN: usize = 6;

const SEED: u64 = 0x7038_7376_6463;

/// Singular values of R, and vectors of one side.
pub(super) struct Decomposed {
    pub spectrum: Spectrum,
    /// The singular vectors of the components as columns, `[m, k]`.
    pub vectors: Array2<f64>,
    /// How far the triplets are from those of R, over its norm.
    pub residual: f64,
    /// Which part was computed, and why not less.
    pub svd: String,
}

/// Decomposes R, upper trapezoidal `[m, d]` and stored by columns, of n rows of d columns.
pub(super) fn decompose(
    r: Array2<f64>,
    side: Side,
    settings: &PcaSettings,
    (n, d): (usize, usize),
) -> Result<Decomposed, PcaError> {
    let norm = norms::frobenius(&r);
    if !norm.is_finite() {
        return Err(PcaError::Overflow);
    }
    let reason = match part(&r, side, settings, norm, (n, d))? {
        Ok(decomposed) => return Ok(decomposed),
        Err(reason) => reason,
    };
    let all = svd::svd(r.clone())?;
    let residual = residual(&r, &all, norm)?;
    let spectrum = Spectrum {
        values: all.values,
        complete: true,
        norm,
    };
    let choice = spectrum.choose(settings, n, d);
    let vectors = match side {
        Side::Left => all.u.slice(s![.., ..choice.k]).to_owned(),
        Side::Right => all.vt.slice(s![..choice.k, ..]).t().to_owned(),
    };
    Ok(Decomposed {
        svd: match spectrum.values.len() {
            1 => "the one singular value that there is".into(),
            all => format!("all {all} singular values: {reason}"),
        },
        spectrum,
        vectors,
        residual,
    })
}

/// Whether components of rows, of columns or rows of this number, are worth looking for in their products.
pub(super) fn are_in_products(components: Components, order: usize) -> bool {
    match components {
        Components::Count(k) => k <= order / FEW_IN_PRODUCTS,
        Components::Variance(_) => order >= FEW_IN_PRODUCTS,
    }
}

/// The leading eigenvectors of products of which the upper triangle counts, and the roots of their values; or why they
/// do not tell.
pub(super) fn leading_of_products(
    products: Array2<f64>,
    settings: &PcaSettings,
) -> Result<Leading, String> {
    let order = products.ncols();
    let accuracy = accuracy(settings.precision);
    let found = match (wanted(settings.components, order), settings.components) {
        (Ok((wanted, most)), _) => partial_eigen::leading(products, wanted, most, accuracy),
        (Err(_), components) => {
            let wanted = match components {
                Components::Count(k) => Wanted::Count(k),
                Components::Variance(fraction) => Wanted::Squares(fraction),
            };
            let most = order / FEW_IN_PRODUCTS;
            partial_eigen::leading_of_all(products, wanted, most, accuracy)
        }
    };
    match found {
        Ok(Outcome::Found(found)) => Ok(found),
        Ok(Outcome::GaveUp(reason)) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

/// What to ask of a search for the leading values of a matrix of this order, and the largest basis that it may
/// take; or why all of them are computed instead.
fn wanted(components: Components, order: usize) -> Result<(Wanted, usize), String> {
    if order < PARTIAL_FROM {
        return Err("so few that a part of them would save nothing".into());
    }
    match components {
        Components::Count(k) if k > order / FEW => Err(format!("{k} of them are no small part")),
        Components::Count(k) => Ok((Wanted::Count(k), order / BASIS)),
        Components::Variance(fraction) => Ok((Wanted::Squares(fraction), order / BASIS_UNKNOWN)),
    }
}

/// How accurately leading values are looked for: to f32 a factor is no better than the root of eps of f64 (`gram`),
/// and products are worse than that.
fn accuracy(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f32::EPS / 256.0,
        Precision::F64 => f64::EPS,
    }
}

/// What the certificate says of singular values of which only some were computed.
pub(super) fn leading_of(count: usize, order: usize) -> String {
    format!("the {count} largest singular values of {order}")
}

/// The leading part, or why it takes everything.
fn part(
    r: &Array2<f64>,
    side: Side,
    settings: &PcaSettings,
    norm: f64,
    (n, d): (usize, usize),
) -> Result<Result<Decomposed, String>, PcaError> {
    let order = r.ncols();
    // A trapezoid has as many values as it has rows.
    let square = if r.nrows() < order { 0 } else { order };
    let (wanted, most) = match wanted(settings.components, square) {
        Ok(asked) => asked,
        Err(reason) => return Ok(Err(reason)),
    };
    let found = match leading(r, side, wanted, most, accuracy(settings.precision))? {
        Outcome::Found(found) => found,
        Outcome::GaveUp(reason) => {
            tracing::debug!("all singular values are computed: {reason}");
            return Ok(Err(format!("for the leading ones alone, {reason}")));
        }
    };
    let spectrum = Spectrum {
        values: found.values,
        complete: false,
        norm,
    };
    let choice = spectrum.choose(settings, n, d);
    Ok(Ok(Decomposed {
        svd: leading_of(spectrum.values.len(), order),
        vectors: found.vectors.slice(s![.., ..choice.k]).to_owned(),
        spectrum,
        residual: found.residual,
    }))
}

/// The larger of `|R V c - U S c|` and `|R^T U c - V S c|` over `|R| |c|` for a random c: no more than
/// the residuals of the triplets, and for almost every c not much less.
fn residual(r: &Array2<f64>, all: &svd::Svd, norm: f64) -> Result<f64, PcaError> {
    let count = all.values.len();
    if norm == 0.0 {
        return Ok(0.0);
    }
    let coefficients = gaussian(SEED, 0, count, 1);
    let mut stretched = coefficients.clone();
    for (x, value) in stretched.iter_mut().zip(&all.values) {
        *x *= value / norm;
    }
    let length = norms::frobenius(&coefficients);
    let unit = r / norm;
    let times = |(a, transpose): (&Array2<f64>, Transpose), x: &Array2<f64>| {
        let rows = match transpose {
            Transpose::No => a.nrows(),
            Transpose::Yes => a.ncols(),
        };
        let mut product = zeros(rows, 1);
        let (a, x) = ((a.view(), transpose), (x.view(), Transpose::No));
        gemm(1.0, a, x, 0.0, product.view_mut()).map(|()| product)
    };
    let (u, v) = ((&all.u, Transpose::No), (&all.vt, Transpose::Yes));
    let forth = times((&unit, Transpose::No), &times(v, &coefficients)?)? - times(u, &stretched)?;
    let back = times((&unit, Transpose::Yes), &times(u, &coefficients)?)? - times(v, &stretched)?;
    Ok(norms::frobenius(&forth).max(norms::frobenius(&back)) / length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, qr};
    use crate::pca::{Rank, Solver};

    fn settings(components: Components) -> PcaSettings {
        PcaSettings {
            components,
            standardize: false,
            whiten: false,
            solver: Solver::Auto,
            precision: Precision::F64,
            memory: None,
            keep_factor: false,
        }
    }

    fn triangle(order: usize, value: impl Fn(usize) -> f64) -> Array2<f64> {
        let spectrum: Vec<f64> = (0..order).map(value).collect();
        let square = hostile::with_spectrum(order, &spectrum, 3);
        qr::Factored::new(by_columns(square.view())).unwrap().r()
    }

    #[test]
    fn the_leading_part_is_that_of_the_whole() {
        let order = 300;
        let r = triangle(order, |i| 0.7_f64.powi(i as i32));
        for side in [Side::Left, Side::Right] {
            for wanted in [Components::Count(8), Components::Variance(0.7)] {
                let part = decompose(r.clone(), side, &settings(wanted), (1000, order)).unwrap();
                assert!(!part.spectrum.complete, "{}", part.svd);
                let k = part.vectors.ncols();
                assert_eq!(
                    part.spectrum.numerical_rank(1000, order, Precision::F64),
                    Rank::AtLeast(k)
                );
                // More than a small part: the whole.
                let whole = decompose(
                    r.clone(),
                    side,
                    &settings(Components::Count(299)),
                    (1000, order),
                )
                .unwrap();
                assert!(whole.spectrum.complete, "{}", whole.svd);
                assert_eq!(whole.spectrum.norm, part.spectrum.norm);
                assert!(whole.residual < 1e-13 && part.residual < 1e-13);
                for (a, b) in part.spectrum.values.iter().zip(&whole.spectrum.values) {
                    assert!((a - b).abs() <= 1e-13, "{a} {b}");
                }
                if let Components::Variance(fraction) = wanted {
                    assert_eq!(whole.spectrum.fewest(fraction), Some(k));
                }
                let whole = whole.vectors.slice(s![.., ..k]).to_owned();
                for (a, b) in part.vectors.columns().into_iter().zip(whole.columns()) {
                    // Values 30 % apart fix their vectors to eps over that.
                    assert!((a.dot(&b).abs() - 1.0).abs() <= 1e-12);
                }
            }
        }
    }

    #[test]
    fn where_the_leading_part_is_not_enough_the_whole_comes_with_the_reason() {
        let flat = triangle(256, |i| 1.0 - 1e-4 * i as f64);
        for (r, wanted, words) in [
            (
                flat.clone(),
                Components::Variance(0.9),
                "did not bring them",
            ),
            (flat, Components::Count(100), "no small part"),
            (
                triangle(256, |i| f64::from(u8::from(i < 3))),
                Components::Count(5),
                "leading ones alone",
            ),
            (triangle(40, |_| 1.0), Components::Count(1), "few"),
        ] {
            let whole = decompose(r, Side::Right, &settings(wanted), (256, 256)).unwrap();
            assert!(
                whole.spectrum.complete && whole.svd.contains(words),
                "{}",
                whole.svd
            );
            assert!(whole.residual < 1e-13);
        }
    }

    #[test]
    fn a_wrong_vector_shows_in_the_residual() {
        let r = triangle(30, |i| 1.0 / (1.0 + i as f64));
        let norm = norms::frobenius(&r);
        let right = svd::svd(r.clone()).unwrap();
        assert!(residual(&r, &right, norm).unwrap() < 1e-14);
        let mut wrong = right.clone();
        wrong.u[[3, 2]] += 1e-9;
        assert!(residual(&r, &wrong, norm).unwrap() > 1e-12);
        let mut wrong = right;
        wrong.values[4] *= 1.0 + 1e-9;
        assert!(residual(&r, &wrong, norm).unwrap() > 1e-12);
    }
}
