//! A set of rows as a node of the tree: how many, their mean, and the R factor of the deviations.
//! ([`Gram`](super::gram::Gram) has their products in the place of R.)

use ndarray::Array2;

use super::PcaError;
use super::block::NumberedBlock;
use super::center::{Mean, centered};
use super::exchange::to_numbers;
use super::fit::check_by_mean;
use crate::linalg::{LinalgError, Scalar, qr, zeros};

/// What the tree keeps of a set of rows.
pub trait TreeNode: Sized + Send + 'static {
    /// The numbers that a leaf computes with.
    type Scalar: Scalar;

    /// Leaves of n rows of d columns have at least this many rows.
    fn leaf_rows(shape: (usize, usize)) -> usize;

    /// Bytes of a leaf of n rows of d columns in work: the rows as they came (f32), and what it takes to make a node of them.
    fn leaf_bytes(shape: (usize, usize)) -> usize;

    /// Bytes of a node of d columns.
    fn node_bytes(d: usize) -> usize;

    /// The node of a leaf: of the rows of `blocks`, n >= 1 in all, of `width` columns. It computes in the memory
    /// of `room` where that is enough, and returns the memory that it took, for the next leaf. Refuses NaN and
    /// infinity.
    fn from_blocks(
        blocks: Vec<NumberedBlock>,
        width: usize,
        room: Vec<Self::Scalar>,
    ) -> Result<(Self, Vec<Self::Scalar>), PcaError>;

    /// The node of the rows of both.
    fn merge(self, later: Self) -> Result<Self, LinalgError>;

    /// The node as bytes.
    fn to_message(&self) -> Vec<u8>;

    /// Reads what [`TreeNode::to_message`] wrote.
    fn from_message(message: &[u8]) -> Self;

    /// The same node with its R factor in f64.
    fn into_factor(self) -> Result<Node<f64>, LinalgError>;
}

/// What the tree keeps of a set of rows: count, mean and R.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<T> {
    /// How many rows.
    pub rows: u64,
    /// Their mean, `[d]`.
    pub mean: Mean,
    /// R of the rows minus their mean, upper trapezoidal, `[min(rows, d), d]`, stored by columns.
    pub r: Array2<T>,
}

/// Leaves of twice the height take no more bytes than this, at their least height.
const TALL_LEAF_BYTES: usize = 1 << 28;

impl<T: Scalar> TreeNode for Node<T> {
    type Scalar = T;

    /// The height of a leaf does not change the count of operations, 2 d^2 a row with its share of the merges. But
    /// in the QR of a leaf they run at nearly the rate of a matrix product, and in a merge at half of it: at 2, one
    /// in six belongs to a merge, at 4 one in twelve.
    fn leaf_rows((_, d): (usize, usize)) -> usize {
        let tall = 4 * d;
        if tall * d * T::BYTES <= TALL_LEAF_BYTES {
            tall
        } else {
            2 * d
        }
    }

    fn leaf_bytes((n, d): (usize, usize)) -> usize {
        (f32::BYTES + T::BYTES) * n * d + Self::node_bytes(d)
    }

    fn node_bytes(d: usize) -> usize {
        T::BYTES * d * d
    }

    /// 2 d^2 (n - d / 3) operations.
    fn from_blocks(
        blocks: Vec<NumberedBlock>,
        width: usize,
        room: Vec<T>,
    ) -> Result<(Self, Vec<T>), PcaError> {
        let (rows, mean) = centered(&blocks, width, room);
        check_by_mean(&mean, blocks.iter().map(|(number, block)| (*number, block)))?;
        drop(blocks);
        let count = rows.nrows() as u64;
        let factored = qr::Factored::new(rows)?;
        let node = Node {
            rows: count,
            mean,
            r: factored.r(),
        };
        Ok((node, factored.into_memory()))
    }

    /// QR of `[R_a; w (mean_b - mean_a); R_b]` with the weight w of [`Joined`]. 2/3 d^3 operations.
    fn merge(self, later: Self) -> Result<Self, LinalgError> {
        let Joined {
            rows,
            mean,
            distance,
        } = Joined::new((self.rows, self.mean), (later.rows, &later.mean));
        let mut between = zeros(1, distance.len());
        between
            .iter_mut()
            .zip(&distance)
            .for_each(|(x, y)| *x = T::of_f64(*y));
        let (r, _) = qr::Merged::new(square(self.r), &between, &square(later.r))?;
        Ok(Node { rows, mean, r })
    }

    /// Rows, height and width of R, the mean twice `[d]`, all as f64, then the columns of R down to the
    /// diagonal; [`Node::message_bytes`] in all.
    fn to_message(&self) -> Vec<u8> {
        let (height, width) = self.r.dim();
        let mut message = Vec::with_capacity(Self::message_bytes(height, width) as usize);
        let head = [self.rows as f64, height as f64, width as f64];
        for x in head
            .iter()
            .chain(&self.mean.origin)
            .chain(&self.mean.offset)
        {
            x.write(&mut message);
        }
        for x in pack(&self.r) {
            x.write(&mut message);
        }
        message
    }

    fn from_message(message: &[u8]) -> Self {
        let (head, rest) = message.split_at(3 * f64::BYTES);
        let head: Vec<f64> = to_numbers(head);
        let (height, width) = (head[1] as usize, head[2] as usize);
        let (origin, rest) = rest.split_at(width * f64::BYTES);
        let (offset, packed) = rest.split_at(width * f64::BYTES);
        Node {
            rows: head[0] as u64,
            mean: Mean {
                origin: to_numbers(origin),
                offset: to_numbers(offset),
            },
            r: unpack(&to_numbers::<T>(packed), height, width),
        }
    }

    fn into_factor(self) -> Result<Node<f64>, LinalgError> {
        let Node { rows, mean, r } = self;
        Ok(Node {
            rows,
            mean,
            r: T::widened(r),
        })
    }
}

impl<T: Scalar> Node<T> {
    /// The length of the message of a node whose R is `[height, width]`: d^2 / 2 numbers and little more.
    pub fn message_bytes(height: usize, width: usize) -> u64 {
        let triangle = height * (height + 1) / 2 + (width - height) * height;
        (f64::BYTES * (3 + 2 * width) + T::BYTES * triangle) as u64
    }
}

/// The count and the mean of two sets of rows together, and by what their deviations grow.
pub struct Joined {
    /// How many rows.
    pub rows: u64,
    /// Their mean.
    pub mean: Mean,
    /// w (mean_b - mean_a) with w^2 = n_a n_b / (n_a + n_b): by its squares the squares of the deviations from
    /// the common mean exceed those from the two means (Chan, Golub and LeVeque, "Algorithms for computing the
    /// sample variance", 1983). `[d]`
    pub distance: Vec<f64>,
}

impl Joined {
    /// Of the rows before and the rows after.
    pub fn new((rows_a, mean_a): (u64, Mean), (rows_b, mean_b): (u64, &Mean)) -> Joined {
        let (n_a, n_b) = (rows_a as f64, rows_b as f64);
        let part = n_b / (n_a + n_b);
        let weight = (n_a * part).sqrt();
        let mut distance = mean_a.distance_to(mean_b);
        let Mean { origin, mut offset } = mean_a;
        for (offset, distance) in offset.iter_mut().zip(&mut distance) {
            *offset += part * *distance;
            *distance *= weight;
        }
        Joined {
            rows: rows_a + rows_b,
            mean: Mean { origin, offset },
            distance,
        }
    }
}

/// The entries of an upper trapezoid `[height, width]` on and above the diagonal, by columns.
pub fn pack<T: Scalar>(r: &Array2<T>) -> Vec<T> {
    let mut packed = Vec::with_capacity(r.len() / 2 + r.ncols());
    for (j, column) in r.columns().into_iter().enumerate() {
        packed.extend(column.iter().take(j + 1));
    }
    packed
}

/// The upper trapezoid that [`pack`] packed, stored by columns.
pub fn unpack<T: Scalar>(packed: &[T], height: usize, width: usize) -> Array2<T> {
    let mut r = zeros(height, width);
    let mut packed = packed.iter();
    for (j, mut column) in r.columns_mut().into_iter().enumerate() {
        for (x, y) in column.iter_mut().take(j + 1).zip(&mut packed) {
            *x = *y;
        }
    }
    r
}

/// Adds rows of zeros below a trapezoid until it is a triangle.
fn square<T: Scalar>(r: Array2<T>) -> Array2<T> {
    let (height, width) = r.dim();
    if height == width {
        return r;
    }
    let mut triangle = zeros(width, width);
    triangle.slice_mut(ndarray::s![..height, ..]).assign(&r);
    triangle
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis, concatenate, s};

    use super::*;
    use crate::linalg::{hostile, norms};
    use crate::pca::center::subtract_mean;

    fn node(rows: &Array2<f64>) -> Node<f64> {
        Node::from_blocks(vec![(0, rows.clone().into())], rows.ncols(), vec![])
            .unwrap()
            .0
    }

    /// R up to the signs of its rows is fixed by R^T R. Compares |R^T R - X_c^T X_c| with 30 n eps |X_c|^2.
    fn assert_is_factor(name: &str, node: &Node<f64>, rows: &Array2<f64>) {
        let mut centered = rows.clone();
        let mean = subtract_mean(centered.view_mut());
        let norm = norms::frobenius(&centered);
        // Below the normal numbers the unit of rounding is fixed, and counts against the smallest.
        let unit = norm.max(f64::MIN_POSITIVE);
        let (r, x) = (&node.r / unit, &centered / unit);
        let difference = norms::frobenius(&(&r.t().dot(&r) - &x.t().dot(&x)));
        let limit = 30.0 * rows.nrows().max(rows.ncols()) as f64 * f64::EPSILON;
        assert!(difference <= limit, "{name} {:?}: {difference}", rows.dim());
        for distance in node.mean.distance_to(&mean) {
            assert!(
                distance.abs() <= 30.0 * f64::EPSILON * unit,
                "{name}: mean off by {distance}"
            );
        }
        assert_eq!(node.rows, rows.nrows() as u64);
    }

    #[test]
    fn merging_parts_gives_the_factor_of_the_whole() {
        for (m, n) in [(2, 1), (9, 4), (60, 25), (130, 49)] {
            for (name, rows) in hostile::all(m, n) {
                for cut in [1, m / 3, m / 2, m - 1]
                    .into_iter()
                    .filter(|cut| (1..m).contains(cut))
                {
                    let early = node(&rows.slice(s![..cut, ..]).to_owned());
                    let late = node(&rows.slice(s![cut.., ..]).to_owned());
                    assert_is_factor(name, &early.merge(late).unwrap(), &rows);
                }
                assert_is_factor(name, &node(&rows), &rows);
            }
        }
    }

    #[test]
    fn a_mean_of_a_million_million_loses_nothing_in_a_merge() {
        // Deviations in multiples of 2^-10: the same rows around 0 and around 2^40 have equal parts.
        let small = hostile::uniform(96, 6, 11).mapv(|x| (x * 1024.0).round() / 1024.0);
        let merged = |rows: &Array2<f64>| {
            let (early, late) = rows.view().split_at(Axis(0), 40);
            node(&early.to_owned())
                .merge(node(&late.to_owned()))
                .unwrap()
        };
        let (near, far) = (merged(&small), merged(&(&small + 2_f64.powi(40))));
        let scale = norms::frobenius(&near.r);
        for (a, b) in near.r.iter().zip(&far.r) {
            assert!((a - b).abs() <= 1e-14 * scale, "{a} {b}");
        }
    }

    #[test]
    fn constant_columns_stay_exactly_zero_through_merges() {
        let mut rows = hostile::uniform(40, 5, 12) + 1e6;
        rows.column_mut(3).fill(1e6 + 0.1);
        let (early, late) = rows.view().split_at(Axis(0), 17);
        let merged = node(&early.to_owned())
            .merge(node(&late.to_owned()))
            .unwrap();
        assert!(merged.r.column(3).iter().all(|x| *x == 0.0));
        assert_eq!(merged.mean.value()[3], 1e6 + 0.1);
    }

    #[test]
    fn a_message_carries_every_bit() {
        for (rows, width) in [(1, 1), (3, 8), (20, 8)] {
            let node = node(&hostile::uniform(rows, width, 13));
            let message = node.to_message();
            assert_eq!(Node::from_message(&message), node);
            let bytes = Node::<f64>::message_bytes(rows.min(width), width);
            assert_eq!(message.len() as u64, bytes);
        }
    }

    #[test]
    fn trapezoids_merge_like_triangles() {
        let rows = hostile::uniform(6, 9, 14);
        let parts = [
            rows.slice(s![..2, ..]).to_owned(),
            rows.slice(s![2.., ..]).to_owned(),
        ];
        let merged = node(&parts[0]).merge(node(&parts[1])).unwrap();
        let whole = concatenate(Axis(0), &[parts[0].view(), parts[1].view()]).unwrap();
        assert_is_factor("flat", &merged, &whole);
    }
}
