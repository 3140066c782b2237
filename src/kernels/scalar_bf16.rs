//! The definition of every bfloat16 kernel in plain loops.

use half::bf16;

use super::BLOCK;
use super::bf16::{OUTPUTS, PAIR, POINTS, Sum, TileBf16};

impl Sum for f32 {
    fn rounded(sum: f32) -> f32 {
        sum
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(sums: std::arch::x86_64::__m512, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_storeu_ps(to, sums) }
    }
}

impl Sum for bf16 {
    fn rounded(sum: f32) -> bf16 {
        round(sum)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(sums: std::arch::x86_64::__m512, to: *mut bf16) {
        // SAFETY: the caller's promise.
        unsafe { super::avx512_bf16::store(sums, to) }
    }
}

/// Zero of the same sign for a subnormal number.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() {
        0.0f32.copysign(value)
    } else {
        value
    }
}

/// To nearest even, with subnormal numbers as zero. NaN keeps sign and leading bits and is quiet.
pub(super) fn round(value: f32) -> bf16 {
    bf16::from_f32(flush(value))
}

/// Computes a tile of any size that passed the checks of [`super::bf16::KernelsBf16`].
pub(super) fn conv_bf16_14x32_scalar<T: Sum>(tile: &TileBf16<'_>, output: &mut [T]) {
    let width = tile.out_blocks * BLOCK;
    for out_block in 0..tile.out_blocks {
        for pixel in 0..tile.pixels {
            let mut sums = [0.0; BLOCK];
            if let Some(bias) = tile.bias {
                sums.copy_from_slice(&bias[out_block * BLOCK..][..BLOCK]);
            }
            for (tap, &offset) in tile.taps.iter().enumerate() {
                for block in 0..tile.blocks {
                    let at = offset + pixel * tile.pixel_stride + block * tile.block_stride;
                    let (pairs, _) = tile.input[at..][..BLOCK].as_chunks::<PAIR>();
                    let first_row = (tap * tile.blocks + block) * BLOCK / PAIR;
                    for (row, &pair) in pairs.iter().enumerate() {
                        let at = (first_row + row) * width + out_block * BLOCK;
                        let (weights, _) = tile.weights.as_chunks::<PAIR>();
                        for (sum, &weights) in sums.iter_mut().zip(&weights[at..][..BLOCK]) {
                            *sum = add_products(*sum, pair, weights);
                        }
                    }
                }
            }
            let at = out_block * tile.out_block_stride + pixel * BLOCK;
            if let Some(residual) = tile.residual {
                for (sum, residual) in sums.iter_mut().zip(&residual[at..][..BLOCK]) {
                    *sum += residual.to_f32();
                }
            }
            for (to, &sum) in output[at..][..BLOCK].iter_mut().zip(&sums) {
                *to = T::rounded(if tile.relu { cut(sum) } else { sum });
            }
        }
    }
}

/// One lane of `VDPBF16PS`. The product of two bfloat16 has sixteen digits and is exact in f32, so
/// that a product and a sum round as a fused multiply-add does.
fn add_products(sum: f32, [even, odd]: [bf16; PAIR], weights: [bf16; PAIR]) -> f32 {
    let product = |a: bf16, b: bf16| flush(a.to_f32()) * flush(b.to_f32());
    let sum = flush(flush(sum) + product(odd, weights[1]));
    flush(sum + product(even, weights[0]))
}

/// Zero for negative values; NaN stays NaN.
fn cut(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

/// Four inputs at the points 0, 1, -1 and infinity.
fn evaluate([d0, d1, d2, d3]: [f32; POINTS]) -> [f32; POINTS] {
    [d0 - d2, d1 + d2, d2 - d1, d1 - d3]
}

/// Two outputs from the products at the four points.
fn interpolate([m0, m1, m2, m3]: [f32; POINTS]) -> [f32; OUTPUTS] {
    [m0 + m1 + m2, m1 - m2 - m3]
}

/// Evaluates a tile; see [`super::bf16::KernelsBf16::winograd_input`].
///
/// # Safety
///
/// Needs the values that it says.
pub(super) unsafe fn winograd_bf16_input_4x4_scalar(
    input: *const bf16,
    row_stride: usize,
    products: *mut bf16,
    stride: usize,
) {
    for channel in 0..BLOCK {
        // SAFETY: rows, columns and products are those that the caller promises, and `channel` is
        // one of their 16.
        unsafe {
            let load =
                |y: usize, x: usize| (*input.add(y * row_stride + x * BLOCK + channel)).to_f32();
            let columns: [_; POINTS] =
                std::array::from_fn(|x| evaluate(std::array::from_fn(|y| load(y, x))));
            let row = |y: usize| evaluate(columns.map(|column| column[y]));
            for (y, row) in (0..POINTS).map(|y| (y, row(y))) {
                for (x, &value) in row.iter().enumerate() {
                    *products.add((POINTS * y + x) * stride + channel) = round(value);
                }
            }
        }
    }
}

/// Interpolates a tile; see [`super::bf16::KernelsBf16::winograd_output`].
///
/// # Safety
///
/// Needs the values that it says.
pub(super) unsafe fn winograd_bf16_output_2x2_scalar(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut bf16,
    row_stride: usize,
) {
    for channel in 0..BLOCK {
        // SAFETY: products, rows and columns are those that the caller promises, and `channel` is
        // one of their 16.
        unsafe {
            let load = |y: usize, x: usize| *products.add((POINTS * y + x) * stride + channel);
            let columns: [_; POINTS] =
                std::array::from_fn(|x| interpolate(std::array::from_fn(|y| load(y, x))));
            let row = |y: usize| interpolate(columns.map(|column| column[y]));
            for (y, row) in (0..OUTPUTS).map(|y| (y, row(y))) {
                for (x, &value) in row.iter().enumerate() {
                    let value = cut(value + *bias.add(channel));
                    *output.add(y * row_stride + x * BLOCK + channel) = round(value);
                }
            }
        }
    }
}

/// Rounds; see [`super::bf16::KernelsBf16::round`].
pub(super) fn round_bf16_scalar(from: &[f32], to: &mut [bf16]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = round(from);
    }
}
