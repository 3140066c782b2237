//! The rows of a block, in the precision in which they came.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, s};

use crate::kernels::Isa;
use crate::kernels::vectorized::{Loops, vectorized};
use crate::linalg::Scalar;

/// Rows of features, `[rows, d]`. The network's are f32, as those of most files are; whoever computes
/// with them widens them number by number.
#[derive(Debug, Clone)]
pub enum Block {
    /// In single precision.
    F32(Array2<f32>),
    /// In double precision.
    F64(Array2<f64>),
    /// In single precision, where a file is mapped.
    Mapped32(Mapped<f32>),
    /// In double precision, where a file is mapped.
    Mapped64(Mapped<f64>),
}

/// A block and which of the blocks of all ranks it is.
pub type NumberedBlock = (usize, Block);

/// Rows that lie one after another among numbers which others use too: those of a mapped file are not copied.
#[derive(Clone)]
pub struct Mapped<T> {
    numbers: Arc<dyn AsRef<[T]> + Send + Sync>,
    start: usize,
    shape: (usize, usize),
}

impl<T> Mapped<T> {
    /// Rows and columns from the number `start` on.
    ///
    /// # Panics
    /// If there are not so many numbers.
    pub fn new(
        numbers: Arc<dyn AsRef<[T]> + Send + Sync>,
        start: usize,
        shape: (usize, usize),
    ) -> Self {
        let mapped = Mapped {
            numbers,
            start,
            shape,
        };
        mapped.view();
        mapped
    }

    pub(super) fn view(&self) -> ArrayView2<'_, T> {
        let numbers = &(*self.numbers).as_ref()[self.start..][..self.shape.0 * self.shape.1];
        ArrayView2::from_shape(self.shape, numbers).expect("as many numbers as the shape has")
    }
}

impl<T: fmt::Debug> fmt::Debug for Mapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// Equal numbers of equal precision, wherever they lie.
impl PartialEq for Block {
    fn eq(&self, other: &Block) -> bool {
        self.number_bytes() == other.number_bytes()
            && self.to_scalar::<f64>() == other.to_scalar::<f64>()
    }
}

impl From<Array2<f32>> for Block {
    fn from(rows: Array2<f32>) -> Self {
        Block::F32(rows)
    }
}

impl From<Array2<f64>> for Block {
    fn from(rows: Array2<f64>) -> Self {
        Block::F64(rows)
    }
}

/// Runs an expression on a view of the matrix of a block, whatever its precision.
macro_rules! on_rows {
    ($block:expr, $rows:ident => $body:expr) => {
        match $block {
            crate::pca::block::Block::F32(rows) => {
                let $rows = rows.view();
                $body
            }
            crate::pca::block::Block::F64(rows) => {
                let $rows = rows.view();
                $body
            }
            crate::pca::block::Block::Mapped32(rows) => {
                let $rows = rows.view();
                $body
            }
            crate::pca::block::Block::Mapped64(rows) => {
                let $rows = rows.view();
                $body
            }
        }
    };
}
pub(super) use on_rows;

impl Block {
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Block::F32(rows) => rows.dim(),
            Block::F64(rows) => rows.dim(),
            Block::Mapped32(rows) => rows.shape,
            Block::Mapped64(rows) => rows.shape,
        }
    }

    /// Bytes of a number.
    pub fn number_bytes(&self) -> usize {
        match self {
            Block::F32(_) | Block::Mapped32(_) => f32::BYTES,
            Block::F64(_) | Block::Mapped64(_) => f64::BYTES,
        }
    }

    /// Row and column of the first value that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<(usize, usize)> {
        on_rows!(self, rows => vectorized(Isa::detect(), FirstNotFinite(rows)))
    }

    /// One row.
    pub fn row(&self, row: usize) -> Vec<f64> {
        on_rows!(self, rows => rows.row(row).iter().map(|x| x.as_f64()).collect())
    }

    /// The rows in a precision, stored by rows.
    pub fn to_scalar<T: Scalar>(&self) -> Array2<T> {
        on_rows!(self, rows => rows.mapv(|x| T::of_f64(x.as_f64())))
    }

    /// Some of the columns, as a message: the size of a number, then the numbers row by row.
    pub(super) fn to_message(&self, columns: Range<usize>) -> Vec<u8> {
        fn write<T: Scalar>(rows: ArrayView2<T>, columns: Range<usize>) -> Vec<u8> {
            let mut message = Vec::with_capacity(1 + rows.nrows() * columns.len() * T::BYTES);
            message.push(T::BYTES as u8);
            for x in rows.slice(s![.., columns]) {
                x.write(&mut message);
            }
            message
        }
        on_rows!(self, rows => write(rows, columns))
    }

    /// Reads what [`Block::to_message`] wrote, given rows and columns.
    pub(super) fn from_message(message: &[u8], shape: (usize, usize)) -> Block {
        fn read<T: Scalar>(numbers: &[u8], shape: (usize, usize)) -> Array2<T> {
            let values: Vec<T> = numbers.chunks_exact(T::BYTES).map(T::read).collect();
            Array2::from_shape_vec(shape, values).expect("a message of whole rows")
        }
        match usize::from(message[0]) {
            f32::BYTES => Block::F32(read(&message[1..], shape)),
            _ => Block::F64(read(&message[1..], shape)),
        }
    }
}

/// The search for a number that is not finite.
struct FirstNotFinite<'a, T>(ArrayView2<'a, T>);

impl<T: Scalar> Loops for FirstNotFinite<'_, T> {
    type Output = Option<(usize, usize)>;

    #[inline(always)]
    fn run(self) -> Option<(usize, usize)> {
        for (row, values) in self.0.rows().into_iter().enumerate() {
            // A look at all of them, which is done by vectors, finds nothing in nearly every row.
            let mut any = false;
            match values.to_slice() {
                Some(values) => values.iter().for_each(|x| any |= !x.is_finite()),
                None => values.iter().for_each(|x| any |= !x.is_finite()),
            }
            if any {
                let column = values.iter().position(|x| !x.is_finite())?;
                return Some((row, column));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::hostile;

    #[test]
    fn a_message_carries_every_bit_of_either_precision() {
        let rows = hostile::uniform(3, 5, 1);
        let single = Block::from(rows.mapv(|x| x as f32));
        let double = Block::from(rows);
        for block in [single, double] {
            assert_eq!(Block::from_message(&block.to_message(0..5), (3, 5)), block);
            let part = Block::from_message(&block.to_message(2..4), (3, 2));
            assert_eq!(
                part.to_scalar::<f64>(),
                block.to_scalar::<f64>().slice(s![.., 2..4])
            );
        }
    }

    #[test]
    fn rows_of_a_map_are_those_of_a_copy() {
        let numbers: Arc<Vec<f64>> = Arc::new((0..20).map(f64::from).collect());
        let mapped = Block::Mapped64(Mapped::new(numbers, 4, (3, 5)));
        let copy = Array2::from_shape_fn((3, 5), |(row, column)| (4 + 5 * row + column) as f64);
        assert_eq!((mapped.dim(), mapped.number_bytes()), ((3, 5), 8));
        assert_eq!(mapped.row(1), copy.row(1).to_vec());
        assert_eq!(mapped.first_not_finite(), None);
        let message = mapped.to_message(1..4);
        assert_eq!(mapped, Block::from(copy.clone()));
        assert_ne!(mapped, Block::from(copy.mapv(|x| x as f32)));
        assert_eq!(message, Block::from(copy).to_message(1..4));
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut features = Array2::<f32>::zeros((3, 4));
        assert_eq!(Block::from(features.clone()).first_not_finite(), None);
        features[[1, 2]] = f32::NEG_INFINITY;
        features[[2, 0]] = f32::NAN;
        assert_eq!(Block::from(features).first_not_finite(), Some((1, 2)));
    }
}
