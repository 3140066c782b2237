//! The mean of some rows, and the rows as deviations from it.

use std::ops::Range;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, s};

use super::block::{Block, NumberedBlock, on_rows};
use crate::kernels::Isa;
use crate::kernels::vectorized::{Loops, vectorized};
use crate::linalg::{Scalar, zeros};

/// How many columns are walked side by side, so that rows stored either way are read in runs.
const PANEL: usize = 64;

/// The mean of some rows as the sum of two vectors `[d]`.
///
/// The first is one of the rows, so the second is as small as the spread of the rows: the
/// difference of two such means keeps all its digits when the means themselves are huge, and is
/// exactly zero in a column that is constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Mean {
    /// The first of the rows.
    pub origin: Vec<f64>,
    /// The mean of the rows minus `origin`.
    pub offset: Vec<f64>,
}

impl Mean {
    /// The mean as one vector.
    pub fn value(&self) -> Vec<f64> {
        self.origin
            .iter()
            .zip(&self.offset)
            .map(|(origin, offset)| origin + offset)
            .collect()
    }

    /// Whether it is finite. Of numbers that are not all finite it never is, because neither a difference nor a sum
    /// with one that is not gives one that is.
    pub fn is_finite(&self) -> bool {
        self.offset.iter().all(|offset| offset.is_finite())
    }

    /// `other - self`.
    pub fn distance_to(&self, other: &Mean) -> Vec<f64> {
        let origins = self.origin.iter().zip(&other.origin);
        let offsets = self.offset.iter().zip(&other.offset);
        origins
            .zip(offsets)
            .map(|((a, b), (c, d))| (b - a) + (d - c))
            .collect()
    }
}

/// Subtracts the mean from `rows`, `[n, d]`, n >= 1, and returns it.
///
/// Two passes over the rows with the correction of the second (Chan, Golub and LeVeque,
/// "Algorithms for computing the sample variance", 1983), after a shift by the first row; in f64 for
/// both precisions. The correction, of the order of eps times the spread, goes to the mean alone: in
/// the rows it would be lost in their own rounding.
pub fn subtract_mean<T: Scalar>(rows: ArrayViewMut2<T>) -> Mean {
    vectorized(Isa::detect(), SubtractMean(rows))
}

struct SubtractMean<'a, T>(ArrayViewMut2<'a, T>);

impl<T: Scalar> Loops for SubtractMean<'_, T> {
    type Output = Mean;

    #[inline(always)]
    fn run(mut self) -> Mean {
        let n = self.0.nrows() as f64;
        let mut mean = Mean {
            origin: Vec::new(),
            offset: Vec::new(),
        };
        for mut panel in self.0.axis_chunks_iter_mut(Axis(1), PANEL) {
            let origin: Vec<f64> = panel.row(0).iter().map(|x| x.as_f64()).collect();
            let mut offset = vec![0.0; origin.len()];
            for row in panel.rows() {
                match row.to_slice() {
                    Some(row) => add_distances(row.iter(), &origin, &mut offset),
                    None => add_distances(row.iter(), &origin, &mut offset),
                }
            }
            offset.iter_mut().for_each(|sum| *sum /= n);
            let mut rest = vec![0.0; origin.len()];
            for mut row in panel.rows_mut() {
                let mean = (origin.as_slice(), offset.as_slice());
                match row.as_slice_mut() {
                    Some(row) => subtract(row.iter_mut(), mean, &mut rest),
                    None => subtract(row.iter_mut(), mean, &mut rest),
                }
            }
            for (offset, rest) in offset.iter_mut().zip(&rest) {
                *offset += rest / n;
            }
            mean.origin.extend(origin);
            mean.offset.extend(offset);
        }
        mean
    }
}

/// Adds the distances of a row from the origin to the sums.
#[inline(always)]
fn add_distances<'a, T: Scalar>(
    row: impl Iterator<Item = &'a T>,
    origin: &[f64],
    sums: &mut [f64],
) {
    for ((sum, x), origin) in sums.iter_mut().zip(row).zip(origin) {
        *sum += x.as_f64() - origin;
    }
}

/// Subtracts the mean from a row, and adds what it leaves to the sums.
#[inline(always)]
fn subtract<'a, T: Scalar>(
    row: impl Iterator<Item = &'a mut T>,
    (origin, offset): (&[f64], &[f64]),
    sums: &mut [f64],
) {
    for ((x, (origin, offset)), sum) in row.zip(origin.iter().zip(offset)).zip(sums) {
        let deviation = (x.as_f64() - origin) - offset;
        *sum += deviation;
        *x = T::of_f64(deviation);
    }
}

/// The rows of blocks, at least one row in all, minus their mean, and the mean: the same numbers as
/// [`subtract_mean`] on a copy of them, `[n, width]`, stored by columns, in two passes over the blocks.
/// The copy takes the memory of `room` where that is enough.
pub fn centered<T: Scalar>(
    blocks: &[NumberedBlock],
    width: usize,
    room: Vec<T>,
) -> (Array2<T>, Mean) {
    let (count, mut mean) = uncorrected(blocks, width);
    let mut deviations = in_room(room, count, width);
    let mut rest = vec![0.0; width];
    let mut first = 0;
    for (_, block) in blocks {
        let to = deviations.slice_mut(s![first..first + block.dim().0, ..]);
        on_rows!(block, rows => transpose_deviations(rows, &mean, to, &mut rest));
        first += block.dim().0;
    }
    correct(&mut mean, &rest, count);
    (deviations, mean)
}

/// Of so many rows one, at least, goes into the guess of a mean.
const ROWS_FOR_ONE: usize = 64;

/// Rows that go into it where there are so many.
const LEAST_SAMPLE: usize = 64;

/// Rows as deviations from a guess of their mean, in one reading, and what these add up to.
///
/// The guess is the mean of some of the rows, evenly spread, in the form of [`Mean`]. A sum of products of such deviations
/// exceeds that of deviations from the mean by n times the product of two entries of [`Centered::distance`], and loses
/// digits where that is most of it. With a guess from m of n rows it is the m-th part of a sum of squares as a rule, and
/// never more than n / m times what is left, because rows that set the guess apart from the mean spread the columns
/// themselves. n / m is [`ROWS_FOR_ONE`] at most: no more than two digits are lost.
pub struct Centering {
    guess: Mean,
    count: usize,
    rest: Vec<f64>,
    squares: Vec<f64>,
}

/// What is known of rows that went through [`Centering`].
pub struct Centered {
    /// Their mean.
    pub mean: Mean,
    /// Their mean minus that from which their deviations were taken, `[d]`.
    pub distance: Vec<f64>,
    /// Of every column the sum of the squares of its deviations from the mean, before they are rounded.
    pub squares: Vec<f64>,
}

impl Centering {
    /// For the rows of these blocks, at least one in all, of `width` columns.
    pub fn new(blocks: &[NumberedBlock], width: usize) -> Self {
        let count: usize = blocks.iter().map(|(_, block)| block.dim().0).sum();
        let sample = count.div_ceil(ROWS_FOR_ONE).max(LEAST_SAMPLE).min(count);
        let mut guess = Mean {
            origin: Vec::new(),
            offset: vec![0.0; width],
        };
        let mut first = 0;
        let mut places = (0..sample).map(|index| index * count / sample).peekable();
        for (_, block) in blocks {
            let end = first + block.dim().0;
            while let Some(place) = places.next_if(|place| *place < end) {
                let guess = &mut guess;
                on_rows!(block, rows => {
                    let rows = rows.slice(s![place - first..=place - first, ..]);
                    vectorized(Isa::detect(), Distances { rows, mean: guess });
                });
            }
            first = end;
        }
        guess
            .offset
            .iter_mut()
            .for_each(|sum| *sum /= sample as f64);
        Centering {
            guess,
            count,
            rest: vec![0.0; width],
            squares: vec![0.0; width],
        }
    }

    /// Writes the deviations of some rows of a block, one row after another.
    pub fn write<T: Scalar>(&mut self, block: &Block, run: Range<usize>, to: &mut [T]) {
        on_rows!(block, rows => {
            let rows = rows.slice(s![run, ..]);
            vectorized(Isa::detect(), Deviations { rows, centering: self, to });
        });
    }

    /// When all rows are through.
    pub fn finish(self) -> Centered {
        let n = self.count as f64;
        let distance: Vec<f64> = self.rest.iter().map(|rest| rest / n).collect();
        let Mean { origin, mut offset } = self.guess;
        for (offset, distance) in offset.iter_mut().zip(&distance) {
            *offset += distance;
        }
        let squares = self.squares.iter().zip(&distance);
        let squares = squares.map(|(square, distance)| {
            let rest = square - n * distance * distance;
            // What is not a number stays none.
            if rest < 0.0 { 0.0 } else { rest }
        });
        Centered {
            squares: squares.collect(),
            mean: Mean { origin, offset },
            distance,
        }
    }
}

/// How many rows, and their mean before its correction.
fn uncorrected(blocks: &[NumberedBlock], width: usize) -> (usize, Mean) {
    let count = blocks.iter().map(|(_, block)| block.dim().0).sum();
    let mut mean = Mean {
        origin: Vec::new(),
        offset: vec![0.0; width],
    };
    for (_, block) in blocks {
        let mean = &mut mean;
        on_rows!(block, rows => vectorized(Isa::detect(), Distances { rows, mean }));
    }
    mean.offset.iter_mut().for_each(|sum| *sum /= count as f64);
    (count, mean)
}

/// Adds the mean of the deviations, of which `rest` is the sum.
fn correct(mean: &mut Mean, rest: &[f64], count: usize) {
    for (offset, rest) in mean.offset.iter_mut().zip(rest) {
        *offset += rest / count as f64;
    }
}

/// A matrix stored by columns whose numbers are anything, in memory that was touched before if it can be.
fn in_room<T: Scalar>(mut room: Vec<T>, rows: usize, columns: usize) -> Array2<T> {
    if room.len() < rows * columns {
        drop(room);
        return zeros(rows, columns);
    }
    room.truncate(rows * columns);
    Array2::from_shape_vec((rows, columns).f(), room).expect("as many numbers as the shape has")
}

/// Rows whose distances from the origin are to be added to the offset; the first row of all is the origin.
struct Distances<'a, F> {
    rows: ArrayView2<'a, F>,
    mean: &'a mut Mean,
}

impl<F: Scalar> Loops for Distances<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Columns whose sums stay in the first-level cache.
        const COLUMNS: usize = 1024;
        let (rows, mean) = (self.rows.as_standard_layout(), self.mean);
        if rows.is_empty() {
            return;
        }
        if mean.origin.is_empty() {
            mean.origin = rows.row(0).iter().map(|x| x.as_f64()).collect();
        }
        for start in (0..rows.ncols()).step_by(COLUMNS) {
            let columns = start..(start + COLUMNS).min(rows.ncols());
            let origin = &mean.origin[columns.clone()];
            let sums = &mut mean.offset[columns.clone()];
            for row in rows.rows() {
                add_distances(part(&row, columns.clone()).iter(), origin, sums);
            }
        }
    }
}

/// Writes the deviations of rows to `to`, stored by columns, through a tile that stays in the
/// first-level cache; adds them to `rest`.
fn transpose_deviations<F: Scalar, T: Scalar>(
    rows: ArrayView2<F>,
    mean: &Mean,
    mut to: ArrayViewMut2<T>,
    rest: &mut [f64],
) {
    const SIDE: usize = 32;
    let mut tile = [[T::zero(); SIDE]; SIDE];
    let rows = rows.as_standard_layout();
    for (index, strip) in rows.axis_chunks_iter(Axis(0), SIDE).enumerate() {
        for start in (0..rest.len()).step_by(SIDE) {
            let columns = start..(start + SIDE).min(rest.len());
            let origins = &mean.origin[columns.clone()];
            let offsets = &mean.offset[columns.clone()];
            for (row, line) in strip.rows().into_iter().zip(&mut tile) {
                let means = origins.iter().zip(offsets);
                let sums = rest[columns.clone()].iter_mut().zip(line);
                let numbers = part(&row, columns.clone()).iter();
                for ((x, (origin, offset)), (rest, place)) in numbers.zip(means).zip(sums) {
                    let deviation = (x.as_f64() - origin) - offset;
                    *rest += deviation;
                    *place = T::of_f64(deviation);
                }
            }
            let first = index * SIDE;
            let mut corner = to.slice_mut(s![first..first + strip.nrows(), columns]);
            for (j, mut column) in corner.columns_mut().into_iter().enumerate() {
                let column = column.as_slice_mut().expect("columns in one piece");
                for (x, line) in column.iter_mut().zip(&tile) {
                    *x = line[j];
                }
            }
        }
    }
}

/// Rows whose deviations are to be written, one row after another.
struct Deviations<'a, F, T> {
    rows: ArrayView2<'a, F>,
    centering: &'a mut Centering,
    to: &'a mut [T],
}

impl<F: Scalar, T: Scalar> Loops for Deviations<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Columns whose means and sums stay in the first-level cache.
        const COLUMNS: usize = 512;
        let rows = self.rows.as_standard_layout();
        let Centering {
            guess: Mean { origin, offset },
            rest,
            squares,
            ..
        } = self.centering;
        let width = rest.len();
        for start in (0..width).step_by(COLUMNS) {
            let columns = start..(start + COLUMNS).min(width);
            let origins = &origin[columns.clone()];
            let offsets = &offset[columns.clone()];
            let rest = &mut rest[columns.clone()];
            let squares = &mut squares[columns.clone()];
            for (row, line) in rows.rows().into_iter().zip(self.to.chunks_mut(width)) {
                let means = origins.iter().zip(offsets);
                let numbers = part(&row, columns.clone()).iter().zip(means);
                let sums = rest.iter_mut().zip(squares.iter_mut());
                let places = sums.zip(&mut line[columns.clone()]);
                for ((x, (origin, offset)), ((rest, square), place)) in numbers.zip(places) {
                    let deviation = (x.as_f64() - origin) - offset;
                    *rest += deviation;
                    *square += deviation * deviation;
                    *place = T::of_f64(deviation);
                }
            }
        }
    }
}

/// Some numbers of a row that lies in one piece. Loops over slices are the ones that the compiler
/// makes vectors of.
#[inline(always)]
fn part<'a, F>(row: &'a ArrayView1<F>, columns: Range<usize>) -> &'a [F] {
    &row.as_slice().expect("rows in one piece")[columns]
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::linalg::{by_columns, hostile};

    #[test]
    fn constant_columns_become_exactly_zero() {
        let mut rows = Array2::from_shape_fn((7, 3), |(_, j)| [0.1, 1e12 + 0.3, -7e-300][j]);
        let mean = subtract_mean(rows.view_mut());
        assert!(rows.iter().all(|x| *x == 0.0));
        assert_eq!(mean.value(), vec![0.1, 1e12 + 0.3, -7e-300]);
    }

    #[test]
    fn a_huge_mean_costs_no_digits() {
        // Multiples of 2^-10 next to 2^40 are exact, and so are their deviations.
        let small = hostile::uniform(64, 5, 3).mapv(|x| (x * 1024.0).round() / 1024.0);
        let mut near = small.clone();
        let mut far = &small + 2_f64.powi(40);
        let near_mean = subtract_mean(near.view_mut());
        let far_mean = subtract_mean(far.view_mut());
        assert_eq!(near, far);
        let distance = near_mean.distance_to(&far_mean);
        assert!(
            distance.iter().all(|x| *x == 2_f64.powi(40)),
            "{distance:?}"
        );
    }

    #[test]
    fn storage_does_not_change_the_bits() {
        let rows = hostile::uniform(33, 150, 4);
        let (mut by_row, mut by_column) = (rows.clone(), by_columns(rows.view()));
        assert_eq!(
            subtract_mean(by_row.view_mut()),
            subtract_mean(by_column.view_mut())
        );
        assert_eq!(by_row, by_column);
    }

    #[test]
    fn blocks_of_either_precision_are_centred_like_their_rows() {
        for (n, d) in [(1, 1), (5, 33), (70, 100)] {
            let rows = hostile::uniform(n, d, 5).mapv(|x| f64::from((x + 3.0) as f32));
            let mut expected = rows.clone();
            let mean = subtract_mean(expected.view_mut());
            let cut = n / 3;
            let (head, tail) = rows.view().split_at(Axis(0), cut);
            let blocks = [
                (0, head.mapv(|x| x as f32).into()),
                (1, Array2::<f64>::zeros((0, d)).into()),
                (2, tail.to_owned().into()),
            ];
            for room in [vec![], vec![f64::NAN; n * d - 1], vec![f64::NAN; n * d + 3]] {
                let centered = centered(&blocks, d, room);
                assert_eq!(centered, (expected.clone(), mean.clone()));
            }
            let (single, same) = centered::<f32>(&blocks, d, vec![]);
            assert_eq!((single, same), (expected.mapv(|x| x as f32), mean));
        }
    }

    /// What is known of rows after they went through in strips, and their deviations.
    fn through<T: Scalar>(
        blocks: &[NumberedBlock],
        width: usize,
        strip: usize,
    ) -> (Centered, Vec<T>) {
        let mut centering = Centering::new(blocks, width);
        let mut deviations = Vec::new();
        for (_, block) in blocks {
            for start in (0..block.dim().0).step_by(strip) {
                let run = start..(start + strip).min(block.dim().0);
                let mut to = vec![T::zero(); run.len() * width];
                centering.write(block, run, &mut to);
                deviations.extend(to);
            }
        }
        (centering.finish(), deviations)
    }

    #[test]
    fn one_reading_tells_mean_squares_and_where_the_deviations_come_from() {
        for (n, d) in [(1, 1), (5, 33), (70, 700), (300, 20)] {
            // The first rows are unlike the others, and so is one of the rows of the sample.
            let mut rows = hostile::uniform(n, d, 5) + 1e6;
            rows.slice_mut(s![..n / 4, ..]).mapv_inplace(|x| x - 300.0);
            rows.row_mut(n / 2).fill(-7e7);
            rows.column_mut(d - 1).fill(0.1);
            let mut expected = rows.clone();
            let mean = subtract_mean(expected.view_mut());
            let cut = n / 3;
            let (head, tail) = rows.view().split_at(Axis(0), cut);
            let empty = Array2::<f64>::zeros((0, d));
            let parts = [head.to_owned(), empty, tail.to_owned()];
            let blocks: Vec<NumberedBlock> =
                parts.map(Block::from).into_iter().enumerate().collect();
            let (centered, deviations) = through::<f64>(&blocks, d, 7);
            let distance = &centered.distance;
            for (index, (found, exact)) in deviations.iter().zip(&expected).enumerate() {
                let spread = expected
                    .column(index % d)
                    .fold(0.0_f64, |most, x| most.max(x.abs()));
                let found = found - distance[index % d];
                assert!((found - exact).abs() <= 1e-14 * spread, "{found} {exact}");
            }
            let squares = expected.mapv(|x| x * x).sum_axis(Axis(0));
            for (found, exact) in centered.squares.iter().zip(&squares) {
                assert!((found - exact).abs() <= 1e-13 * exact, "{found} {exact}");
            }
            for (found, square) in centered.mean.distance_to(&mean).iter().zip(&squares) {
                assert!(found.abs() <= 1e-15 * square.sqrt(), "{found}");
            }
            let constant = (
                centered.mean.value()[d - 1],
                centered.squares[d - 1],
                distance[d - 1],
            );
            assert_eq!(constant, (0.1, 0.0, 0.0));
            assert_eq!(through::<f64>(&blocks, d, n).1, deviations);
            let single: Vec<f32> = deviations.iter().map(|x| *x as f32).collect();
            assert_eq!(through::<f32>(&blocks, d, 3).1, single);
        }
    }

    #[test]
    fn squares_that_are_no_numbers_are_not_taken_for_none() {
        // Rows of the sample are all alike, so that the distance of the mean from it overflows too.
        let mut rows = Array2::<f64>::zeros((200, 2));
        rows.slice_mut(s![1..;2, 0]).fill(1e160);
        rows.slice_mut(s![3..;4, 0]).fill(-2e160);
        rows.slice_mut(s![7, ..]).fill(1.0);
        let blocks = [(0, Block::from(rows))];
        let (centered, _) = through::<f64>(&blocks, 2, 200);
        assert!(centered.mean.is_finite());
        assert!(!centered.squares[0].is_finite(), "{}", centered.squares[0]);
        assert!(centered.squares[1] > 0.9 && centered.squares[1] < 1.0);
    }

    #[test]
    fn what_is_not_finite_leaves_no_finite_mean() {
        for strange in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for (n, places) in [(1, vec![0]), (5, vec![0]), (5, vec![3]), (5, vec![0, 2])] {
                let mut rows = hostile::uniform(n, 3, 6);
                for row in places {
                    rows[[row, 1]] = strange;
                }
                let blocks = [(0, rows.clone().into())];
                assert!(!centered::<f32>(&blocks, 3, vec![]).1.is_finite());
                assert!(!through::<f64>(&blocks, 3, 2).0.mean.is_finite());
                assert!(!subtract_mean(rows.view_mut()).is_finite());
            }
        }
        assert!(subtract_mean(hostile::uniform(5, 3, 6).view_mut()).is_finite());
    }

    #[test]
    fn one_row_is_its_own_mean() {
        let mut rows = array![[3.0, -1.5]];
        assert_eq!(subtract_mean(rows.view_mut()).value(), vec![3.0, -1.5]);
        assert_eq!(rows, array![[0.0, 0.0]]);
    }
}
