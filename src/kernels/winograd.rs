//! Winograd's minimal filtering F(4x4, 3x3): sixteen outputs of a 3x3 convolution with stride 1
//! from 36 products instead of 144.
//!
//! Winograd, *Arithmetic Complexity of Computations*, 1980; Lavin and Gray, *Fast Algorithms for
//! Convolutional Neural Networks*, 2016. A tile of 6x6 inputs and a 3x3 filter are both evaluated at
//! the points 0, ±A, ±B and infinity in both directions; the products at each pair of points, summed
//! over the input channels, are a matrix product; the 4x4 outputs are interpolated from the sums.

use std::ops::Range;

use super::{BLOCK, Isa};

/// Points in one direction: inputs of a tile.
pub const POINTS: usize = 6;

/// Outputs of a tile in one direction.
pub const OUTPUTS: usize = 4;

/// Products of a tile.
pub const PRODUCTS: usize = POINTS * POINTS;

/// The finite points beside 0 are ±A and ±B.
const A: f64 = 1.0;
const B: f64 = 2.0;

/// The products in which a 3x3 filter takes part: `[POINTS, POINTS]`, in f64.
pub fn transform_filter(filter: &[f64]) -> [f64; PRODUCTS] {
    let (a2, b2) = (A * A, B * B);
    let evaluate = |[f0, f1, f2]: [f64; 3]| {
        let at = |point: f64, norm: f64| (f0 + point * f1 + point * point * f2) / norm;
        [
            at(0.0, a2 * b2),
            at(A, 2.0 * a2 * (a2 - b2)),
            at(-A, 2.0 * a2 * (a2 - b2)),
            at(B, 2.0 * b2 * (b2 - a2)),
            at(-B, 2.0 * b2 * (b2 - a2)),
            f2,
        ]
    };
    let rows: [_; 3] =
        std::array::from_fn(|row| evaluate(std::array::from_fn(|column| filter[3 * row + column])));
    let mut products = [0.0; PRODUCTS];
    for column in 0..POINTS {
        let values = evaluate(std::array::from_fn(|row| rows[row][column]));
        for (row, value) in values.into_iter().enumerate() {
            products[POINTS * row + column] = value;
        }
    }
    products
}

/// One pixel of a channel block.
type Pixel = [f32; BLOCK];

/// How feature maps are cut into tiles of 4x4 outputs: image by image, row by row; the last tiles
/// of a row and of a column may hang over the edge.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

impl Grid {
    /// Tiles of one image.
    pub fn tiles(&self) -> usize {
        self.height.div_ceil(OUTPUTS) * self.width.div_ceil(OUTPUTS)
    }

    /// The first pixel of the image of a tile, and the tile's first row and column in it.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let columns = self.width.div_ceil(OUTPUTS);
        let (image, tile) = (tile / self.tiles(), tile % self.tiles());
        (
            image * self.height * self.width,
            tile / columns * OUTPUTS,
            tile % columns * OUTPUTS,
        )
    }
}

/// Evaluates the 6x6 inputs around each of `tiles` at all points, for one channel block.
///
/// `input` is `[images * height * width, 16]`; `products` is `[PRODUCTS][stride]` floats, of which
/// the first `16 * tiles.len()` of each row are written.
///
/// # Panics
///
/// Where a slice is too short for the tiles.
pub fn transform_input(
    isa: Isa,
    grid: Grid,
    tiles: Range<usize>,
    input: &[f32],
    products: &mut [f32],
    stride: usize,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => {
            // SAFETY: the processor has AVX-512, as was just asked; nothing else is needed.
            unsafe { transform_input_avx512(grid, tiles, input, products, stride) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => {
            // SAFETY: the processor has AVX2, as was just asked; nothing else is needed.
            unsafe { transform_input_avx2(grid, tiles, input, products, stride) }
        }
        _ => transform_input_any(grid, tiles, input, products, stride),
    }
}

/// [`transform_input_any`], compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transform_input_avx512(
    grid: Grid,
    tiles: Range<usize>,
    input: &[f32],
    products: &mut [f32],
    stride: usize,
) {
    transform_input_any(grid, tiles, input, products, stride);
}

/// [`transform_input_any`], compiled for AVX2. FMA is left out: the compiler does not use it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn transform_input_avx2(
    grid: Grid,
    tiles: Range<usize>,
    input: &[f32],
    products: &mut [f32],
    stride: usize,
) {
    transform_input_any(grid, tiles, input, products, stride);
}

#[inline(always)]
fn transform_input_any(
    grid: Grid,
    tiles: Range<usize>,
    input: &[f32],
    products: &mut [f32],
    stride: usize,
) {
    let (input, _) = input.as_chunks::<BLOCK>();
    for (slot, tile) in tiles.enumerate() {
        let (image, row, column) = grid.place(tile);
        let mut patch = [[[0.0; BLOCK]; POINTS]; POINTS];
        // The convolution has a border of one zero: the patch starts one pixel up and left.
        let rows = usize::from(row == 0)..POINTS.min(grid.height + 1 - row);
        let columns = usize::from(column == 0)..POINTS.min(grid.width + 1 - column);
        for y in rows {
            let from = image + (row + y - 1) * grid.width + column;
            let from = &input[from + columns.start - 1..][..columns.len()];
            patch[y][columns.clone()].copy_from_slice(from);
        }
        let mut half = [[[0.0; BLOCK]; POINTS]; POINTS];
        for x in 0..POINTS {
            let values = evaluate_input(std::array::from_fn(|y| &patch[y][x]));
            for (y, value) in values.into_iter().enumerate() {
                half[y][x] = value;
            }
        }
        for (y, row) in half.iter().enumerate() {
            let values = evaluate_input(std::array::from_fn(|x| &row[x]));
            for (x, value) in values.iter().enumerate() {
                let at = (POINTS * y + x) * stride + slot * BLOCK;
                products[at..at + BLOCK].copy_from_slice(value);
            }
        }
    }
}

/// Interpolates the 4x4 outputs of each of `tiles` from the summed products of one block of output
/// channels, adds the bias and cuts negative values. The counterpart of [`transform_input`].
///
/// # Panics
///
/// Where a slice is too short for the tiles.
pub fn transform_output(
    isa: Isa,
    grid: Grid,
    tiles: Range<usize>,
    products: &[f32],
    stride: usize,
    bias: &Pixel,
    output: &mut [f32],
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => {
            // SAFETY: the processor has AVX-512, as was just asked; nothing else is needed.
            unsafe { transform_output_avx512(grid, tiles, products, stride, bias, output) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => {
            // SAFETY: the processor has AVX2, as was just asked; nothing else is needed.
            unsafe { transform_output_avx2(grid, tiles, products, stride, bias, output) }
        }
        _ => transform_output_any(grid, tiles, products, stride, bias, output),
    }
}

/// [`transform_output_any`], compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn transform_output_avx512(
    grid: Grid,
    tiles: Range<usize>,
    products: &[f32],
    stride: usize,
    bias: &Pixel,
    output: &mut [f32],
) {
    transform_output_any(grid, tiles, products, stride, bias, output);
}

/// [`transform_output_any`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn transform_output_avx2(
    grid: Grid,
    tiles: Range<usize>,
    products: &[f32],
    stride: usize,
    bias: &Pixel,
    output: &mut [f32],
) {
    transform_output_any(grid, tiles, products, stride, bias, output);
}

#[inline(always)]
fn transform_output_any(
    grid: Grid,
    tiles: Range<usize>,
    products: &[f32],
    stride: usize,
    bias: &Pixel,
    output: &mut [f32],
) {
    let (output, _) = output.as_chunks_mut::<BLOCK>();
    for (slot, tile) in tiles.enumerate() {
        let (image, row, column) = grid.place(tile);
        let mut half = [[[0.0; BLOCK]; POINTS]; OUTPUTS];
        for x in 0..POINTS {
            let values = interpolate(std::array::from_fn(|y| {
                let at = (POINTS * y + x) * stride + slot * BLOCK;
                products[at..]
                    .first_chunk::<BLOCK>()
                    .expect("products of every tile")
            }));
            for (y, value) in values.into_iter().enumerate() {
                half[y][x] = value;
            }
        }
        let columns = OUTPUTS.min(grid.width - column);
        for (y, values) in half.iter().enumerate().take(grid.height - row) {
            let values = interpolate(std::array::from_fn(|x| &values[x]));
            let to = &mut output[image + (row + y) * grid.width + column..][..columns];
            for (to, value) in to.iter_mut().zip(&values) {
                for lane in 0..BLOCK {
                    let sum = value[lane] + bias[lane];
                    // A comparison and not `max`, which would hide a NaN.
                    to[lane] = if sum < 0.0 { 0.0 } else { sum };
                }
            }
        }
    }
}

/// Six inputs at the points 0, A, -A, B, -B and infinity: the polynomials of degree 5 that vanish
/// at all other points, with the inputs as coefficients.
#[inline(always)]
fn evaluate_input([d0, d1, d2, d3, d4, d5]: [&Pixel; POINTS]) -> [Pixel; POINTS] {
    const A1: f32 = A as f32;
    const B1: f32 = B as f32;
    const A2: f32 = (A * A) as f32;
    const B2: f32 = (B * B) as f32;
    const SUM: f32 = (A * A + B * B) as f32;
    const PRODUCT: f32 = (A * A * B * B) as f32;
    let mut values = [[0.0; BLOCK]; POINTS];
    for i in 0..BLOCK {
        values[0][i] = (PRODUCT * d0[i] - SUM * d2[i]) + d4[i];
        let (even, odd) = (d4[i] - B2 * d2[i], A1 * (d3[i] - B2 * d1[i]));
        values[1][i] = even + odd;
        values[2][i] = even - odd;
        let (even, odd) = (d4[i] - A2 * d2[i], B1 * (d3[i] - A2 * d1[i]));
        values[3][i] = even + odd;
        values[4][i] = even - odd;
        values[5][i] = (PRODUCT * d1[i] - SUM * d3[i]) + d5[i];
    }
    values
}

/// Four outputs from the products at the six points.
#[inline(always)]
fn interpolate([m0, m1, m2, m3, m4, m5]: [&Pixel; POINTS]) -> [Pixel; OUTPUTS] {
    const A1: f32 = A as f32;
    const B1: f32 = B as f32;
    const A2: f32 = (A * A) as f32;
    const B2: f32 = (B * B) as f32;
    const A3: f32 = (A * A * A) as f32;
    const B3: f32 = (B * B * B) as f32;
    let mut values = [[0.0; BLOCK]; OUTPUTS];
    for i in 0..BLOCK {
        let (even_a, odd_a) = (m1[i] + m2[i], m1[i] - m2[i]);
        let (even_b, odd_b) = (m3[i] + m4[i], m3[i] - m4[i]);
        values[0][i] = m0[i] + (even_a + even_b);
        values[1][i] = A1 * odd_a + B1 * odd_b;
        values[2][i] = A2 * even_a + B2 * even_b;
        values[3][i] = (A3 * odd_a + B3 * odd_b) + m5[i];
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values between -1 and 1 without order.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The convolution of one channel block with one filter a channel, without sums over channels.
    fn convolve(grid: Grid, images: usize, input: &[f32], filter: &[f64]) -> Vec<f64> {
        let (height, width) = (grid.height, grid.width);
        let mut output = vec![0.0; input.len()];
        for image in 0..images {
            for y in 0..height {
                for x in 0..width {
                    for (tap, weight) in filter.iter().enumerate() {
                        let (row, column) = (y + tap / 3, x + tap % 3);
                        if !(1..=height).contains(&row) || !(1..=width).contains(&column) {
                            continue;
                        }
                        let from = (image * height + row - 1) * width + column - 1;
                        let to = (image * height + y) * width + x;
                        for lane in 0..BLOCK {
                            output[to * BLOCK + lane] +=
                                weight * f64::from(input[from * BLOCK + lane]);
                        }
                    }
                }
            }
        }
        output
    }

    #[test]
    fn tiles_give_the_convolution_at_every_size_and_on_every_instruction_set() {
        for (height, width, images) in [(1, 1, 2), (2, 7, 1), (4, 4, 1), (7, 7, 3), (9, 14, 2)] {
            let grid = Grid { height, width };
            let input = values(images * height * width * BLOCK, 1);
            let filter: Vec<f64> = values(9, 2).into_iter().map(f64::from).collect();
            let bias: [f32; BLOCK] = std::array::from_fn(|lane| lane as f32 / 8.0 - 1.0);
            let expected: Vec<f64> = convolve(grid, images, &input, &filter)
                .iter()
                .enumerate()
                .map(|(at, sum)| (sum + f64::from(bias[at % BLOCK])).max(0.0))
                .collect();
            let weights = transform_filter(&filter);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut output = vec![f32::NAN; input.len()];
                let tiles = images * grid.tiles();
                // In two parts, with room between the rows of products.
                for part in [0..tiles / 2, tiles / 2..tiles] {
                    let stride = (part.len() + 1) * BLOCK;
                    let mut products = vec![0.0; PRODUCTS * stride];
                    transform_input(isa, grid, part.clone(), &input, &mut products, stride);
                    for (row, weight) in products.chunks_exact_mut(stride).zip(weights) {
                        row.iter_mut().for_each(|value| *value *= weight as f32);
                    }
                    transform_output(isa, grid, part, &products, stride, &bias, &mut output);
                }
                for (found, expected) in output.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 2e-5, "{height}x{width} {isa}: {found} {expected}");
                }
                let first = first.get_or_insert_with(|| output.clone());
                assert!(*first == output, "{isa} gives other bits");
            }
        }
    }

    #[test]
    fn nan_and_infinity_stay_in_their_image() {
        let grid = Grid {
            height: 5,
            width: 5,
        };
        let mut input = values(3 * 25 * BLOCK, 3);
        input[30 * BLOCK] = f32::NAN;
        input[40 * BLOCK] = f32::INFINITY;
        let tiles = 3 * grid.tiles();
        let stride = tiles * BLOCK;
        let mut products = vec![0.0; PRODUCTS * stride];
        let mut output = vec![0.0; input.len()];
        let isa = Isa::detect();
        transform_input(isa, grid, 0..tiles, &input, &mut products, stride);
        transform_output(
            isa,
            grid,
            0..tiles,
            &products,
            stride,
            &[0.0; BLOCK],
            &mut output,
        );
        for (image, output) in output.chunks(25 * BLOCK).enumerate() {
            assert_eq!(output.iter().all(|value| value.is_finite()), image != 1);
        }
        assert!(output[30 * BLOCK].is_nan());
    }
}
