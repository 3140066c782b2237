//! What a solver says about its factorisation that the rows themselves can contradict.
//!
//! A solver knows how long the rows X must be along certain directions z, because its factor says so:
//! X = Q R with orthonormal Q means `|X z| = |R z|`. For every orthonormal Q whatsoever,
//!
//! ```text
//! | |X z| - |R z| |  <=  |X - Q R| |z|
//! ```
//!
//! so a difference is a residual that no Q can explain. Random directions meet every part of the
//! residual: the difference of the squares is `z^T (X^T X - R^T R) z`, whose mean square over normal z
//! is twice the squared Frobenius norm of `X^T X - R^T R`. A normal z looks at large singular values;
//! z = R^-1 g looks at all of them alike, and there |X z| / |g| is how far Q = X R^-1 is from
//! preserving lengths, which is to say from being orthonormal.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;

use super::exchange::Exchange;
use crate::linalg::blas::Transpose;
use crate::linalg::gaussian::gaussian;
use crate::linalg::{LinalgError, norms, triangle};

/// How many random directions of each kind are probed.
pub(super) const PROBES: usize = 2;

const SEED: u64 = 0x7038_7072_6f62;

/// A direction in the space of the columns, and how long the rows are along it.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// A unit vector, `[d]`.
    pub direction: Vec<f64>,
    /// The norm of the centred (and scaled) rows along it, according to the factor, or to the products.
    pub length: f64,
}

/// What `randomized` can tell of its own error.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Approximation {
    /// Random directions: the components and the oversampling.
    pub directions: usize,
    /// How often the directions were multiplied by X^T X.
    pub power_iterations: usize,
    /// The largest `|X^T u - s v|` over the largest singular value: so near to each value that is
    /// given there is a singular value of X.
    pub residual: f64,
    /// With a probability of at least 1 - 1e-10, no singular value that the directions leave out is
    /// larger than this part of the largest (Halko, Martinsson and Tropp 2011, section 4.3).
    pub rest: f64,
}

/// What `tsqr` or `wide` computed on the way to its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Route {
    /// Whether the products of the columns, with `wide` of the rows, came first.
    pub products: bool,
    /// Directions of the pass over the rows that was to confirm them; 0 where there was none.
    pub directions: usize,
    /// Whether the rows were factored, at once or where they did not confirm the products.
    pub factor: bool,
    /// Whether `wide` applied its Q to all unit vectors, for the exact checks.
    pub whole_q: bool,
}

impl Route {
    /// The factorisation of the rows alone.
    pub(super) const FACTOR: Route = Route {
        products: false,
        directions: 0,
        factor: true,
        whole_q: false,
    };

    /// The products alone, and a pass over the rows with so many directions.
    pub(super) fn of_products(directions: usize) -> Route {
        Route {
            products: true,
            directions,
            factor: false,
            whole_q: false,
        }
    }

    /// The same, in vain, and a factorisation after it.
    pub(super) fn and_factor(self) -> Route {
        Route {
            factor: true,
            ..self
        }
    }
}

/// What the exact checks of the factorisation need of it; see
/// [`PcaSettings::keep_factor`](super::PcaSettings::keep_factor).
#[derive(Debug, Clone, PartialEq)]
pub struct KeptFactor {
    /// The rank that holds R.
    pub root: usize,
    /// R of what was factored, from which the singular values came, stored by columns: of the rows `[d, d]`, of
    /// their transpose `[n, n]`. `None` on the other ranks.
    pub r: Option<Array2<f64>>,
    /// Of an explicit Q; `None` where there is none.
    pub explicit: Option<ColumnSums>,
}

/// Sums over the columns of the rows X = R^T Q^T that a rank has, with `wide`.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSums {
    /// X X^T of these columns, of which the upper triangle counts, `[n, n]`.
    pub products: Array2<f64>,
    /// Q^T Q of these columns, that is rows of Q, of which the upper triangle counts, `[n, n]`.
    pub q_products: Array2<f64>,
}

/// All of it; empty for a model that was read from a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evidence {
    /// Directions in which the rows are measured.
    pub probes: Vec<Probe>,
    /// How far the singular triplets are from those of R, over its norm; of products, from those of the rows.
    pub decomposition: f64,
    /// How far the Q factor that the solver used is from orthonormal, where it is explicit.
    pub orthogonality: Option<f64>,
    /// Which singular values were computed, and why not fewer.
    pub svd: String,
    /// The error of an approximation.
    pub approximation: Option<Approximation>,
    /// What `tsqr` or `wide` computed, which every rank knows.
    pub route: Route,
    /// What the exact checks need, where they were asked for and the solver has a factor of the rows. Each rank
    /// has its own part.
    pub factor: Option<KeptFactor>,
}

impl Evidence {
    /// Gives every rank what `root` has, for d columns; of a factor that it keeps, where that is.
    pub(super) fn broadcast(self, comm: &impl Exchange, root: usize, d: usize) -> Evidence {
        let mut numbers = Vec::new();
        if comm.rank() == root {
            let approximation = self.approximation.map_or([f64::NAN; 4], |a| {
                [
                    a.directions as f64,
                    a.power_iterations as f64,
                    a.residual,
                    a.rest,
                ]
            });
            numbers.push(self.decomposition);
            numbers.push(self.orthogonality.unwrap_or(f64::NAN));
            numbers.extend(approximation);
            numbers.push(self.svd.len() as f64);
            numbers.push(f64::from(u8::from(self.factor.is_some())));
            numbers.extend(self.svd.bytes().map(f64::from));
            for probe in &self.probes {
                numbers.push(probe.length);
                numbers.extend(&probe.direction);
            }
        }
        comm.broadcast(&mut numbers, root);
        if comm.rank() == root {
            return self;
        }
        let (head, rest) = numbers.split_at(8);
        let (text, probes) = rest.split_at(head[6] as usize);
        let text: Vec<u8> = text.iter().map(|byte| *byte as u8).collect();
        Evidence {
            decomposition: head[0],
            orthogonality: Some(head[1]).filter(|value| !value.is_nan()),
            approximation: (!head[2].is_nan()).then(|| Approximation {
                directions: head[2] as usize,
                power_iterations: head[3] as usize,
                residual: head[4],
                rest: head[5],
            }),
            svd: String::from_utf8_lossy(&text).into_owned(),
            route: Route::default(),
            factor: (head[7] > 0.0).then_some(KeptFactor {
                root,
                r: None,
                explicit: None,
            }),
            probes: probes
                .chunks_exact(d + 1)
                .map(|numbers| Probe {
                    length: numbers[0],
                    direction: numbers[1..].to_vec(),
                })
                .collect(),
        }
    }
}

/// Probes for the factor of all rows, `r` `[min(n, d), d]`, upper trapezoidal and stored by columns:
/// normal directions, and where r is far from singular also R^-1 g.
pub(super) fn of_factor(r: &Array2<f64>) -> Result<Vec<Probe>, LinalgError> {
    let (height, d) = r.dim();
    let mut directions = vec![gaussian(SEED, 0, d, PROBES)];
    if height == d && is_regular(r) {
        let mut inverse = gaussian(SEED, d, d, PROBES);
        triangle::trsm((r.view(), Transpose::No), inverse.view_mut())?;
        directions.push(inverse);
    }
    let mut probes = Vec::new();
    for mut group in directions {
        normalize(&mut group);
        let lengths = norms::of_columns(r.dot(&group).view());
        probes.extend(of_columns(group.view(), lengths));
    }
    // An overflow on the way to R^-1 g tells nothing about R.
    probes.retain(|probe| probe.direction.iter().all(|x| x.is_finite()));
    Ok(probes)
}

/// Whether a triangle is far from singular, as far as its diagonal tells.
pub(super) fn is_regular(r: &Array2<f64>) -> bool {
    let diagonal = r.diag().mapv(f64::abs);
    let largest = diagonal.iter().copied().fold(0.0, f64::max);
    let least = r.ncols() as f64 * f64::EPSILON * largest;
    diagonal.iter().all(|x| *x > least)
}

/// Probes for the products of the columns of all rows, C `[d, d]`, of which the upper triangle counts: normal
/// directions, along which the squares of the rows are z^T C z.
pub(super) fn of_products(products: ArrayView2<f64>) -> Vec<Probe> {
    let d = products.ncols();
    let mut directions = gaussian(SEED, 0, d, PROBES);
    normalize(&mut directions);
    let parts = (0..d).into_par_iter().map(|j| {
        let column = products.column(j);
        let part = directions.columns().into_iter().map(|z| {
            let above = column.slice(s![..j]).dot(&z.slice(s![..j]));
            z[j] * (2.0 * above + z[j] * column[j])
        });
        part.collect()
    });
    let mut squares = [0.0; PROBES];
    for part in parts.collect::<Vec<Vec<f64>>>() {
        squares
            .iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    // Rounding may leave less than nothing of rows that are zero.
    let lengths = squares.map(|square| square.max(0.0).sqrt());
    of_columns(directions.view(), lengths.to_vec())
}

/// Probes from directions `[d, count]` and their lengths.
pub(super) fn of_columns(directions: ArrayView2<f64>, lengths: Vec<f64>) -> Vec<Probe> {
    directions
        .columns()
        .into_iter()
        .zip(lengths)
        .map(|(direction, length)| Probe {
            direction: direction.to_vec(),
            length,
        })
        .collect()
}

/// Normal coefficients for directions inside a space of this many dimensions, as unit vectors.
pub(super) fn coefficients(dimensions: usize) -> Array2<f64> {
    let mut coefficients = gaussian(SEED, 0, dimensions, PROBES);
    normalize(&mut coefficients);
    coefficients
}

fn normalize(columns: &mut Array2<f64>) {
    let lengths = norms::of_columns(columns.view());
    for (mut column, length) in columns.columns_mut().into_iter().zip(lengths) {
        if length > 0.0 {
            column /= length;
        }
    }
}

/// How far the columns of `image` are from having the products of those of `source`: with
/// image = Q source, from the orthogonality of Q.
pub(super) fn distortion(image: &Array2<f64>, source: &Array2<f64>) -> f64 {
    let (after, before) = (image.t().dot(image), source.t().dot(source));
    (after - before).iter().fold(0.0, |largest, x| {
        if x.abs() > largest || x.is_nan() {
            x.abs()
        } else {
            largest
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{by_columns, hostile, qr};
    use crate::pca::exchange::threads;

    #[test]
    fn probes_of_a_factor_have_the_length_of_the_rows() {
        let rows = hostile::uniform(40, 9, 1);
        let r = qr::Factored::new(by_columns(rows.view())).unwrap().r();
        let probes = of_factor(&r).unwrap();
        assert_eq!(probes.len(), 2 * PROBES);
        for Probe { direction, length } in probes {
            let direction = ndarray::Array1::from(direction);
            let image = rows.dot(&direction);
            assert!((direction.dot(&direction) - 1.0).abs() < 1e-14);
            assert!((image.dot(&image).sqrt() - length).abs() < 1e-14 * 40.0);
        }
        // A column of zeros has no inverse; fewer rows than columns have none either.
        let mut singular = rows.clone();
        singular.column_mut(4).fill(0.0);
        for rows in [singular, rows.slice(s![..5, ..]).to_owned()] {
            let r = qr::Factored::new(by_columns(rows.view())).unwrap().r();
            assert_eq!(of_factor(&r).unwrap().len(), PROBES);
        }
    }

    #[test]
    fn all_ranks_hold_the_evidence_of_one() {
        let evidence = Evidence {
            probes: of_columns(gaussian(1, 0, 3, 2).view(), vec![1.5, 2.5]),
            decomposition: 1e-16,
            orthogonality: Some(2e-16),
            svd: "all 3 singular values: so few that a part of them would save nothing".into(),
            approximation: Some(Approximation {
                directions: 13,
                power_iterations: 4,
                residual: 1e-9,
                rest: 0.25,
            }),
            route: Route::default(),
            factor: None,
        };
        let plain = Evidence {
            orthogonality: None,
            approximation: None,
            ..evidence.clone()
        };
        for expected in [evidence.clone(), plain] {
            let everywhere = threads::on_ranks(3, |rank| {
                let mine = if rank.rank() == 1 {
                    expected.clone()
                } else {
                    Evidence::default()
                };
                mine.broadcast(rank, 1, 3)
            });
            assert!(everywhere.iter().all(|evidence| *evidence == expected));
        }
        // Of a factor, which is large, they know where it is.
        let kept = |r| {
            Some(KeptFactor {
                root: 1,
                r,
                explicit: None,
            })
        };
        let r = Array2::eye(3);
        let everywhere = threads::on_ranks(3, |rank| {
            let factor = (rank.rank() == 1).then(|| kept(Some(r.clone()))).flatten();
            let mine = Evidence {
                factor,
                ..evidence.clone()
            };
            mine.broadcast(rank, 1, 3).factor
        });
        assert_eq!(everywhere, [kept(None), kept(Some(r)), kept(None)]);
    }
}
