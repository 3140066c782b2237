//! NumPy arrays, memory-mapped: two dimensions, float32 or float64, little endian, in C or Fortran
//! order. Source of the format: "A simple file format for NumPy arrays" (NEP 1, Kern 2007).

use super::FeaturesError;
use crate::linalg::Scalar;
use crate::pca::{Block, Mapped};
use memmap2::Mmap;
use ndarray::Array2;
use npyz::{DType, NpyHeader, Order};
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The bytes that every such file begins with.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// An open array.
pub struct Npy {
    map: Arc<Mmap>,
    /// Where the values begin.
    start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Length of a row.
    pub width: usize,
    /// Bytes of a value: 4 or 8.
    size: usize,
    order: Order,
}

impl Npy {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`FeaturesError::Read`] where it cannot be opened, [`FeaturesError::Numpy`] where it is cut
    /// short or holds anything but a matrix of little-endian float32 or float64.
    pub fn open(path: &Path) -> Result<Self, FeaturesError> {
        let unreadable = |source| FeaturesError::Read {
            path: path.to_path_buf(),
            source,
        };
        let wrong = |problem: String| FeaturesError::Numpy {
            path: path.to_path_buf(),
            problem,
        };
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the map is read as plain bytes, for which every content is valid. As with every
        // file that is mapped, another process must not cut it short in the meantime; that would
        // end this one with SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let mut rest = &map[..];
        let header = NpyHeader::from_reader(&mut rest)
            .map_err(|error| wrong(format!("its header cannot be read: {error}")))?;
        let start = map.len() - rest.len();
        let dtype = match header.dtype() {
            DType::Plain(one) => one.to_string(),
            several => several.descr(),
        };
        let size = match dtype.as_str() {
            "<f4" => 4,
            "<f8" => 8,
            _ => {
                return Err(wrong(format!(
                    "its type is {dtype}, and p8 reads <f4 and <f8 (little-endian float32 and float64)"
                )));
            }
        };
        let &[rows, width] = header.shape() else {
            return Err(wrong(format!(
                "its shape is {:?}, and p8 reads matrices, one row an image",
                header.shape()
            )));
        };
        let bytes = rows
            .checked_mul(width)
            .and_then(|values| values.checked_mul(size as u64));
        if bytes.is_none_or(|bytes| bytes > rest.len() as u64) {
            return Err(wrong(format!(
                "it is cut short: {rows} x {width} values of {size} bytes do not fit in the {} bytes \
                 after its header",
                rest.len()
            )));
        }
        Ok(Npy {
            start,
            rows: rows as usize,
            width: width as usize,
            size,
            order: header.order(),
            map: Arc::new(map),
        })
    }

    /// Whether the values are float32.
    pub fn is_single(&self) -> bool {
        self.size == f32::BYTES
    }

    /// Some rows, `[rows, width]`, stored by rows.
    pub fn read<T: Scalar>(&self, rows: Range<usize>) -> Array2<T> {
        if self.is_single() {
            self.read_as(rows, |bytes| T::of_f64(f32::from_le_bytes(bytes).into()))
        } else {
            self.read_as(rows, |bytes| T::of_f64(f64::from_le_bytes(bytes)))
        }
    }

    /// Some rows where they lie, `[rows, width]`; `None` where they have to be copied: in Fortran order, on a
    /// machine that stores numbers the other way round, and behind a header of odd length.
    pub fn mapped(&self, rows: Range<usize>) -> Option<Block> {
        let (start, shape) = (rows.start * self.width, (rows.len(), self.width));
        if self.order != Order::C {
            return None;
        }
        Some(if self.is_single() {
            Block::Mapped32(Mapped::new(self.numbers::<f32>()?, start, shape))
        } else {
            Block::Mapped64(Mapped::new(self.numbers::<f64>()?, start, shape))
        })
    }

    /// All values, if they can be read as numbers of this machine.
    fn numbers<T: Scalar>(&self) -> Option<Arc<Numbers<T>>> {
        let first = self.map[self.start..].as_ptr();
        let fit = cfg!(target_endian = "little") && first.cast::<T>().is_aligned();
        fit.then(|| {
            Arc::new(Numbers {
                map: self.map.clone(),
                start: self.start,
                kind: PhantomData,
            })
        })
    }

    /// Some rows, given what SIZE bytes of the file mean.
    fn read_as<T: Scalar, const SIZE: usize>(
        &self,
        rows: Range<usize>,
        number: impl Fn([u8; SIZE]) -> T,
    ) -> Array2<T> {
        let (values, _) = self.map[self.start..].as_chunks::<SIZE>();
        let shape = (rows.len(), self.width);
        match self.order {
            Order::C => {
                let values = &values[rows.start * self.width..rows.end * self.width];
                let values = values.iter().map(|bytes| number(*bytes)).collect();
                Array2::from_shape_vec(shape, values).expect("as many values as the rows have")
            }
            Order::Fortran => {
                let mut read = Array2::zeros(shape);
                for (column, mut to) in read.columns_mut().into_iter().enumerate() {
                    let first = column * self.rows;
                    let values = &values[first + rows.start..first + rows.end];
                    for (to, bytes) in to.iter_mut().zip(values) {
                        *to = number(*bytes);
                    }
                }
                read
            }
        }
    }
}

/// The values of a mapped file as numbers.
struct Numbers<T> {
    map: Arc<Mmap>,
    /// Where the values begin.
    start: usize,
    kind: PhantomData<T>,
}

impl<T: Scalar> AsRef<[T]> for Numbers<T> {
    fn as_ref(&self) -> &[T] {
        // SAFETY: `Scalar` is f32 or f64, for which every content is valid, and [`Npy::numbers`] has seen that
        // the first stands where such a number may stand; `align_to` itself stays within the bytes.
        let (_, numbers, _) = unsafe { self.map[self.start..].align_to() };
        numbers
    }
}
