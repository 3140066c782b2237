//! The 3x3 maximum with stride 2 behind the first layer, a row at a time.
//!
//! Comparisons round nothing, so every instruction set gives the same numbers. The loop is written
//! once; [`Pooling::of`] chooses between what the compiler makes of it for the processor's larger
//! vectors and for every processor.

use super::{BLOCK, Isa};

/// Sixteen channels of a pixel.
pub type Pixel = [f32; BLOCK];

/// The loop for one instruction set, which it needs.
#[derive(Debug, Clone, Copy)]
pub struct Pooling {
    max_row: unsafe fn(&[&[Pixel]], &mut [Pixel]),
}

impl Pooling {
    /// The loop for an instruction set; the plain one where this machine lacks it.
    pub fn of(isa: Isa) -> Pooling {
        let max_row: unsafe fn(&[&[Pixel]], &mut [Pixel]) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if is_x86_feature_detected!("avx512f") => x86::max_row_avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if is_x86_feature_detected!("avx2") => x86::max_row_avx2,
            _ => max_row,
        };
        Pooling { max_row }
    }

    /// A row of the output from the rows of the input that its windows reach, two or three of them.
    /// Windows are three pixels wide, the first one is centred on the first pixel, each two pixels from
    /// the one before; what lies beyond a row does not count.
    ///
    /// # Panics
    ///
    /// When there is no row or more than three, or rows are shorter than the first one or the windows of
    /// the output.
    pub fn max_row(&self, rows: &[&[Pixel]], output: &mut [Pixel]) {
        // SAFETY: `of` chose the loop for this machine; it is safe code otherwise.
        unsafe { (self.max_row)(rows, output) }
    }
}

/// The larger of two values in each channel; NaN is larger than every number.
#[inline(always)]
pub fn larger(a: &Pixel, b: &Pixel) -> Pixel {
    std::array::from_fn(|lane| {
        if (a[lane] >= b[lane]) | a[lane].is_nan() {
            a[lane]
        } else {
            b[lane]
        }
    })
}

#[inline(always)]
fn max_row(rows: &[&[Pixel]], output: &mut [Pixel]) {
    match *rows {
        [first] => max_of([first], output),
        [first, second] => max_of([first, second], output),
        [first, second, third] => max_of([first, second, third], output),
        _ => panic!("a window of {} rows", rows.len()),
    }
}

/// The largest of a column; a closure would be compiled without the caller's instruction set.
#[inline(always)]
fn column<const ROWS: usize>(rows: &[&[Pixel]; ROWS], x: usize) -> Pixel {
    let mut largest = rows[0][x];
    for row in &rows[1..] {
        largest = larger(&largest, &row[x]);
    }
    largest
}

/// A value counts twice where a window ends at the edge: that changes no maximum and needs no case of
/// its own, so that everything stays in registers.
#[inline(always)]
fn max_of<const ROWS: usize>(rows: [&[Pixel]; ROWS], output: &mut [Pixel]) {
    let width = rows[0].len();
    let rows = rows.map(|row| &row[..width]);
    let mut before = column(&rows, 0);
    for (x, output) in output.iter_mut().enumerate() {
        // The column on the right is the left one of the next window.
        let right = column(&rows, (2 * x + 1).min(width - 1));
        *output = larger(&larger(&before, &column(&rows, 2 * x)), &right);
        before = right;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Pixel;

    #[target_feature(enable = "avx512f")]
    pub(super) fn max_row_avx512(rows: &[&[Pixel]], output: &mut [Pixel]) {
        super::max_row(rows, output);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn max_row_avx2(rows: &[&[Pixel]], output: &mut [Pixel]) {
        super::max_row(rows, output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(values: &[f32]) -> Vec<Pixel> {
        values.iter().map(|&value| [value; BLOCK]).collect()
    }

    #[test]
    fn every_loop_finds_the_largest_of_every_window() {
        for isa in Isa::ALL {
            for width in 1..20 {
                for height in 1..=3 {
                    let rows: Vec<Vec<Pixel>> = (0..height)
                        .map(|y| {
                            let value = |x: usize| (((x * 7 + y * 5) * 37) % 23) as f32 - 11.0;
                            (0..width)
                                .map(|x| std::array::from_fn(|lane| value(x + lane)))
                                .collect()
                        })
                        .collect();
                    let rows: Vec<&[Pixel]> = rows.iter().map(Vec::as_slice).collect();
                    let mut output = vec![[f32::NAN; BLOCK]; width.div_ceil(2)];
                    Pooling::of(isa).max_row(&rows, &mut output);
                    for (x, found) in output.iter().enumerate() {
                        for lane in 0..BLOCK {
                            let window = (2 * x).saturating_sub(1)..(2 * x + 2).min(width);
                            let expected = window
                                .flat_map(|x| rows.iter().map(move |row| row[x][lane]))
                                .fold(f32::NEG_INFINITY, f32::max);
                            assert_eq!(found[lane], expected, "{isa}, width {width}, at {x}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nan_wins_wherever_it_stands() {
        for isa in Isa::ALL {
            for place in 0..9 {
                let mut values = [1.0; 9];
                values[place] = f32::NAN;
                let rows: Vec<Vec<Pixel>> = values.chunks(3).map(pixels).collect();
                let rows: Vec<&[Pixel]> = rows.iter().map(Vec::as_slice).collect();
                let mut output = [[0.0; BLOCK]; 2];
                Pooling::of(isa).max_row(&rows, &mut output);
                let seen = output.map(|pixel| pixel[0].is_nan());
                // Windows overlap in the middle column.
                assert_eq!(seen, [place % 3 < 2, place % 3 > 0], "{isa}, {place}");
            }
        }
    }
}
