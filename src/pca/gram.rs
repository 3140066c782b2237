//! A set of rows as a node of the tree with the products of their columns in the place of an R factor.
//!
//! They take half of the operations of a QR, and merging two nodes is an addition, but they have half of the
//! digits that they are computed with. Where that is enough:
//!
//! - for R to f32 from products in f64. The Cholesky factor of X^T X is an R factor of X; R^T R differs from
//!   X^T X by some eps of f64, so a singular value is off by the root of that, some 1e-8 of the largest one, at
//!   worst, where a QR in f32 leaves some 1e-7 (Yamazaki, Tomov and Dongarra, "Mixed-precision Cholesky QR
//!   factorization and its case studies on multicore CPU with multiple GPUs", 2015);
//! - for leading components that the rows themselves confirm (`products`).

use std::marker::PhantomData;

use ndarray::{Array1, Array2, s};
use rayon::prelude::*;

use super::PcaError;
use super::block::NumberedBlock;
use super::center::{Mean, centered_by_rows};
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

/// Many rows of few columns make about so many leaves, so that what it takes to hand out and to merge them costs little,
/// unless they would have more rows than this.
const MANY_LEAVES: usize = 256;
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

    /// A merge reads and adds d^2 / 2 numbers, and each node is d^2 numbers of fresh memory: with twice as many leaves
    /// 20000 x 2048 takes a tenth longer on two ranks of one thread. But of few rows leaves may be low, so that ranks and
    /// threads find some to share; of many a leaf has twice as many rows as columns, or [`TALL`].
    fn leaf_rows((n, d): (usize, usize)) -> usize {
        (n / LEAVES).clamp(d.div_ceil(2), (2 * d).max((n / MANY_LEAVES).min(TALL)))
    }

    /// n d^2 operations.
    fn from_blocks(
        blocks: Vec<NumberedBlock>,
        width: usize,
        room: Vec<P>,
    ) -> Result<(Self, Vec<P>), PcaError> {
        let (deviations, mean, squares) = centered_by_rows(&blocks, width, room);
        check_by_mean(&mean, blocks.iter().map(|(number, block)| (*number, block)))?;
        drop(blocks);
        let rows = deviations.nrows() as u64;
        let mut products = zeros::<P>(width, width);
        triangle::gram((deviations.t(), Transpose::No), products.view_mut())?;
        let mut r = P::widened(products);
        r.diag_mut().assign(&Array1::from(squares));
        let memory = deviations.into_raw_vec_and_offset().0;
        Ok((Gram::new(Node { rows, mean, r }), memory))
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
