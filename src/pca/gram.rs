//! A set of rows as a node of the tree with the products of their columns in the place of an R factor.
//!
//! They take half of the operations of a QR, and merging two nodes is an addition, but they have half of the
//! digits that they are computed with. Where that is enough:
//!
//! - for R to f32 from products in f64. The Cholesky factor of X^T X is an R factor of X; R^T R differs from
//!   X^T X by some eps of f64, so a singular value is off by the root of that, some 1e-8 of the largest one (eight times
//!   that where the guess of a mean is as bad as can be, `center`), where a QR in f32 leaves some 1e-7 (Yamazaki, Tomov and Dongarra, "Mixed-precision Cholesky QR
//!   factorization and its case studies on multicore CPU with multiple GPUs", 2015);
//! - for leading components that the rows themselves confirm (`products`).

use std::marker::PhantomData;
use std::mem;

use ndarray::{Array1, Array2, ArrayView2, ShapeBuilder, s};
use rayon::prelude::*;

use super::PcaError;
use super::block::NumberedBlock;
use super::center::{Centered, Centering, Mean};
use super::fit::check_by_mean;
use super::leaf::{Joined, Node, TreeNode};
use crate::linalg::blas::Transpose;
use crate::linalg::{LinalgError, Scalar, triangle, zeros};

/// What the tree keeps of a set of rows: a node with the products of the rows minus their mean in the place of R,
/// the upper triangle of X^T X with zeros below it, `[d, d]`. Those of the rows of a leaf are computed in P; sums
/// over leaves, and the diagonal, from which standard deviations and the whole variance come, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram<P>(Node<f64>, PhantomData<P>);

/// Few rows make about so many leaves, unless they would have fewer rows than half of the columns.
const LEAVES: usize = 4;

/// Many rows of few columns make about so many leaves, enough for the threads of a few ranks, unless they would have more
/// rows than this: what it takes to hand out and to merge them is to cost little.
const MANY_LEAVES: usize = 32;
const TALL: usize = 4096;

impl<P> Gram<P> {
    fn new(node: Node<f64>) -> Self {
        Gram(node, PhantomData)
    }

    /// How many rows, their mean, and the products.
    pub fn into_products(self) -> (u64, Mean, Array2<f64>) {
        (self.0.rows, self.0.mean, self.0.r)
    }
}

impl<P: Scalar> TreeNode for Gram<P> {
    type Scalar = P;

    /// A merge reads and adds d^2 / 2 numbers, and each node is d^2 numbers of fresh memory, so leaves are few. But of few
    /// rows they may be low, so that ranks and threads find some to share; of many a leaf has twice as many rows as
    /// columns, or [`TALL`].
    fn leaf_rows((n, d): (usize, usize)) -> usize {
        (n / LEAVES).clamp(d.div_ceil(2), (2 * d).max((n / MANY_LEAVES).min(TALL)))
    }

    fn leaf_bytes((n, d): (usize, usize)) -> usize {
        let narrow = if P::BYTES == f64::BYTES {
            0
        } else {
            P::BYTES * d * d
        };
        f32::BYTES * n * d + P::BYTES * strip_rows(d).min(n) * d + narrow + Self::node_bytes(d)
    }

    fn node_bytes(d: usize) -> usize {
        f64::BYTES * d * d
    }

    /// n d^2 operations, in one reading of the rows: the products of their deviations from a guess of the mean, less those
    /// of the distance of the mean from it.
    fn from_blocks(
        blocks: Vec<NumberedBlock>,
        width: usize,
        room: Vec<P>,
    ) -> Result<(Self, Vec<P>), PcaError> {
        let rows: usize = blocks.iter().map(|(_, block)| block.dim().0).sum();
        let mut centering = Centering::new(&blocks, width);
        let mut strips = Strips::new((strip_rows(width).min(rows), width), room);
        for (_, block) in &blocks {
            let mut start = 0;
            while start < block.dim().0 {
                let end = block.dim().0.min(start + strips.space()?);
                centering.write(block, start..end, strips.fill(end - start));
                start = end;
            }
        }
        let Centered {
            mean,
            distance,
            squares,
        } = centering.finish();
        check_by_mean(&mean, blocks.iter().map(|(number, block)| (*number, block)))?;
        drop(blocks);
        let (products, room) = strips.finish()?;
        let mut r = P::widened(products);
        add_outer_product(&mut r, -(rows as f64), &distance);
        r.diag_mut().assign(&Array1::from(squares));
        let rows = rows as u64;
        Ok((Gram::new(Node { rows, mean, r }), room))
    }

    /// The sum of both and of the products of [`Joined::distance`]. 2 d^2 operations.
    fn merge(self, later: Self) -> Result<Self, LinalgError> {
        let (early, later) = (self.0, later.0);
        let Joined {
            rows,
            mean,
            distance,
        } = Joined::new((early.rows, early.mean), (later.rows, &later.mean));
        let mut r = early.r;
        let columns = r.columns_mut().into_iter().zip(later.r.columns());
        let columns: Vec<_> = columns.collect();
        let columns = columns.into_par_iter().enumerate();
        columns.for_each(|(j, (mut column, other))| {
            let factor = distance[j];
            let mut upper = column.slice_mut(s![..=j]);
            let added = other.iter().zip(&distance);
            for (x, (other, distance)) in upper.iter_mut().zip(added) {
                *x += other + factor * distance;
            }
        });
        Ok(Gram::new(Node { rows, mean, r }))
    }

    fn to_message(&self) -> Vec<u8> {
        self.0.to_message()
    }

    fn from_message(message: &[u8]) -> Self {
        Gram::new(Node::from_message(message))
    }

    /// d^3 / 3 operations.
    fn into_factor(self) -> Result<Node<f64>, LinalgError> {
        let mut node = self.0;
        triangle::cholesky(node.r.view_mut())?;
        Ok(node)
    }
}

/// Rows of d columns whose products are added up at a time: enough for a product of matrices at its full rate, and no
/// more, up to 2048 columns, than what stays in the cache between centring and that.
fn strip_rows(d: usize) -> usize {
    const ENOUGH: usize = 256;
    const NUMBERS: usize = 1 << 19;
    (NUMBERS / d.max(1)).max(ENOUGH)
}

/// Rows that come a few at a time, and the products of their columns, which are added up strip by strip.
struct Strips<P> {
    /// `[height, d]`, one row after another, of which `filled` are there.
    strip: Vec<P>,
    filled: usize,
    height: usize,
    /// `[d, d]`, of which the upper triangle counts.
    products: Array2<P>,
    /// What the products so far are multiplied by: 0 for the first strip, because memory that was never written is not
    /// to be read either. The system would give out each page of it twice.
    beta: P,
}

impl<P: Scalar> Strips<P> {
    /// For strips of this height and width, at least one row, in the memory of `room` where that is enough.
    fn new((height, width): (usize, usize), mut room: Vec<P>) -> Self {
        room.resize(height * width, P::zero());
        Strips {
            strip: room,
            filled: 0,
            height,
            products: zeros(width, width),
            beta: P::zero(),
        }
    }

    /// How many rows can come next, at least one.
    fn space(&mut self) -> Result<usize, LinalgError> {
        if self.filled == self.height {
            self.add()?;
        }
        Ok(self.height - self.filled)
    }

    /// The place of the next rows, no more than there is space for.
    fn fill(&mut self, rows: usize) -> &mut [P] {
        let width = self.products.ncols();
        let start = self.filled * width;
        self.filled += rows;
        &mut self.strip[start..start + rows * width]
    }

    fn add(&mut self) -> Result<(), LinalgError> {
        let shape = (self.products.ncols(), mem::take(&mut self.filled));
        // What is stored by rows is, stored by columns, the transpose.
        let strip = ArrayView2::from_shape(shape.f(), &self.strip[..shape.0 * shape.1]);
        let strip = strip.expect("a number for each of the rows'");
        let beta = mem::replace(&mut self.beta, P::one());
        triangle::gram((strip, Transpose::No), beta, self.products.view_mut())
    }

    /// The products of all rows, at least one, and the memory of the strip.
    fn finish(mut self) -> Result<(Array2<P>, Vec<P>), LinalgError> {
        self.add()?;
        Ok((self.products, self.strip))
    }
}

/// Adds `factor x x^T` to the upper triangle of r `[d, d]`.
fn add_outer_product(r: &mut Array2<f64>, factor: f64, x: &[f64]) {
    let columns: Vec<_> = r.columns_mut().into_iter().zip(x).enumerate().collect();
    columns.into_par_iter().for_each(|(j, (mut column, own))| {
        let own = factor * own;
        let upper = column.slice_mut(s![..=j]);
        upper.into_iter().zip(x).for_each(|(y, x)| *y += own * x);
    });
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};

    use super::*;
    use crate::linalg::{by_columns, hostile, norms, svd};
    use crate::pca::center::subtract_mean;

    fn node(rows: &Array2<f64>) -> Gram<f64> {
        let blocks = vec![(0, rows.clone().into())];
        Gram::from_blocks(blocks, rows.ncols(), vec![]).unwrap().0
    }

    /// Singular values to a tenth of what a QR in f32 may leave by LAPACK's threshold, whatever the rows are.
    #[test]
    fn the_factor_of_merged_parts_has_the_singular_values_of_the_whole() {
        for (m, n) in [(2, 1), (9, 4), (60, 25), (130, 49), (700, 300)] {
            for (name, rows) in hostile::all(m, n) {
                if name == "denormal" || name == "huge" {
                    continue;
                }
                let mut centered = by_columns(rows.view());
                let mean = subtract_mean(centered.view_mut());
                let expected = svd::svd(centered).unwrap().values;
                let limit = 3.0 * m as f64 * f64::from(f32::EPSILON) * expected[0];
                for cut in [1, m / 3, m - 1] {
                    let (early, late) = rows.view().split_at(Axis(0), cut.max(1));
                    let merged = node(&early.to_owned()).merge(node(&late.to_owned()));
                    let root = merged.unwrap().into_factor().unwrap();
                    assert_eq!(root.rows, m as u64);
                    let found = svd::svd(root.r).unwrap().values;
                    for (found, exact) in found.iter().zip(&expected) {
                        let difference = (found - exact).abs();
                        assert!(difference <= limit, "{name} {m} x {n}: {found} {exact}");
                    }
                    let unit = expected[0].max(f64::MIN_POSITIVE);
                    for distance in root.mean.distance_to(&mean) {
                        assert!(distance.abs() <= 30.0 * f64::EPSILON * unit, "{name}");
                    }
                }
            }
        }
    }

    /// The products of rows, to some eps of the largest square of a column.
    fn assert_products<P: Scalar>(found: &Gram<P>, rows: &Array2<f64>, units: f64) {
        let mut centered = rows.clone();
        subtract_mean(centered.view_mut());
        let products = centered.t().dot(&centered);
        let largest = products.diag().fold(0.0_f64, |most, x| most.max(*x));
        for ((i, j), exact) in products.indexed_iter().filter(|((i, j), _)| i <= j) {
            let difference = (found.0.r[[i, j]] - exact).abs();
            assert!(
                difference <= units * P::EPS * largest,
                "{difference} at {i}, {j}"
            );
        }
    }

    /// The rows of the sample are all zeros, the others far away: the worst guess of a mean that there is.
    #[test]
    fn a_bad_guess_of_the_mean_costs_two_digits() {
        let (n, d) = (6400, 40);
        let mut rows = hostile::uniform(n, d, 15) * 1e-3 + 1e6;
        rows.slice_mut(s![..;64, ..]).fill(0.0);
        let found = node(&rows);
        let mut centered = rows.clone();
        for distance in found
            .0
            .mean
            .distance_to(&subtract_mean(centered.view_mut()))
        {
            assert!(distance.abs() <= 1e-14 * 1e6, "{distance}");
        }
        assert_products(&found, &rows, 64.0 * 100.0);
    }

    #[test]
    fn strips_of_any_blocks_add_up_to_the_products_of_all_rows() {
        let d = 1100;
        let strip = strip_rows(d);
        let n = 2 * strip + 5;
        let rows = hostile::uniform(n, d, 16);
        let whole = node(&rows);
        assert_products(&whole, &rows, 30.0);
        let blocks = || vec![(0, rows.clone().into())];
        let (single, _): (Gram<f32>, _) = Gram::from_blocks(blocks(), d, vec![]).unwrap();
        assert_products(&single, &rows, 30.0);
        for cuts in [[0, 1], [strip - 1, strip + 1], [strip, 2 * strip], [7, n]] {
            let parts = [0..cuts[0], cuts[0]..cuts[1], cuts[1]..n];
            let parts = parts.map(|run| rows.slice(s![run, ..]).to_owned().into());
            let blocks = parts.into_iter().enumerate().collect();
            let (cut, _): (Gram<f64>, _) = Gram::from_blocks(blocks, d, vec![]).unwrap();
            assert_eq!(cut, whole);
        }
    }

    #[test]
    fn a_message_carries_every_bit() {
        let node = node(&hostile::uniform(20, 8, 13));
        let message = node.to_message();
        assert_eq!(Gram::from_message(&message), node);
        assert_eq!(message.len() as u64, Node::<f64>::message_bytes(8, 8));
    }

    #[test]
    fn constant_columns_stay_exactly_zero() {
        let mut rows = hostile::uniform(40, 5, 12) + 1e6;
        rows.column_mut(3).fill(1e6 + 0.1);
        let (early, late) = rows.view().split_at(Axis(0), 17);
        let merged = node(&early.to_owned()).merge(node(&late.to_owned()));
        let root = merged.unwrap().into_factor().unwrap();
        assert!(root.r.column(3).iter().all(|x| *x == 0.0));
        assert!(norms::frobenius(&root.r) > 0.0);
    }
}
