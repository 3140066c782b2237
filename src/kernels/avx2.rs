//! The kernels for AVX2 with FMA.
//!
//! The convolution tile keeps 6 pixels by one output block in 12 of the 16 registers, two more hold
//! the weights of an input channel, and one the broadcast input value.

use std::arch::x86_64::*;

use super::filtering::{Vector, evaluate_tile, interpolate_tile};
use super::unroll::unroll;
use super::{BLOCK, Tile};

/// Output pixels in the largest tile.
pub(super) const MAX_PIXELS: usize = 6;

/// Blocks of output channels in the largest tile.
pub(super) const MAX_BLOCKS: usize = 1;

/// Floats of a vector.
const LANES: usize = 8;

/// Vectors of a block.
const VECTORS: usize = BLOCK / LANES;

/// A tile with all its sizes known to the compiler.
type ConvTile = unsafe fn(&Tile<'_>, &mut [f32]);

/// The kernels for 1 to 6 pixels.
macro_rules! of_pixels {
    ($stride:literal) => {
        [
            conv::<1, $stride>,
            conv::<2, $stride>,
            conv::<3, $stride>,
            conv::<4, $stride>,
            conv::<5, $stride>,
            conv::<6, $stride>,
        ]
    };
}

/// By stride (16 floats and 32 floats with blocks of 16 channels, any with any) and pixels. With a known
/// stride the pixels' offsets are part of the instructions.
static CONV: [[ConvTile; MAX_PIXELS]; 3] = [of_pixels!(16), of_pixels!(32), of_pixels!(0)];

/// Computes a tile.
///
/// # Safety
///
/// Needs AVX2 and FMA, and a tile and an output that passed the checks of
/// [`super::Kernels::conv_tile`] with this file's `MAX_PIXELS` and `MAX_BLOCKS`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn conv_f32_6x16_avx2(tile: &Tile<'_>, output: &mut [f32]) {
    let stride = match (tile.pixel_stride, tile.depth) {
        (16, BLOCK) => 0,
        (32, BLOCK) => 1,
        _ => 2,
    };
    let conv = CONV[stride][tile.pixels - 1];
    // SAFETY: the caller's promise, and the entry is the one for this tile.
    unsafe { conv(tile, output) }
}

/// Computes a tile of `PIXELS` by one block, whose pixel stride is `STRIDE` unless that is 0.
///
/// # Safety
///
/// Needs AVX2 and FMA, and a tile of this size and an output that passed the checks of
/// [`super::Kernels::conv_tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn conv<const PIXELS: usize, const STRIDE: usize>(tile: &Tile<'_>, output: &mut [f32]) {
    let (stride, depth) = if STRIDE == 0 {
        (tile.pixel_stride, tile.depth)
    } else {
        (STRIDE, BLOCK)
    };
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; PIXELS];
    if let Some(bias) = tile.bias {
        unroll!(up to 2: vector < VECTORS {
            // SAFETY: the bias has 16 floats.
            let bias = unsafe { _mm256_loadu_ps(bias.as_ptr().add(vector * LANES)) };
            unroll!(up to 6: pixel < PIXELS { sums[pixel][vector] = bias });
        });
    }

    let mut weights = tile.weights.as_ptr();
    for &tap in tile.taps {
        for block in 0..tile.blocks {
            // SAFETY: `input_extent` covers every tap, block and pixel with its channels, and
            // `weights_extent` as many rows of weights as this loop takes steps.
            unsafe {
                let input = tile.input.as_ptr().add(tap + block * tile.block_stride);
                for channel in 0..depth {
                    let mut row = [_mm256_setzero_ps(); VECTORS];
                    unroll!(up to 2: vector < VECTORS {
                        row[vector] = _mm256_loadu_ps(weights.add(vector * LANES));
                    });
                    unroll!(up to 6: pixel < PIXELS {
                        let value = _mm256_set1_ps(*input.add(pixel * stride + channel));
                        unroll!(up to 2: vector < VECTORS {
                            sums[pixel][vector] =
                                _mm256_fmadd_ps(value, row[vector], sums[pixel][vector]);
                        });
                    });
                    weights = weights.add(BLOCK);
                }
            }
        }
    }

    unroll!(up to 6: pixel < PIXELS {
        unroll!(up to 2: vector < VECTORS {
            let at = pixel * BLOCK + vector * LANES;
            let mut sum = sums[pixel][vector];
            // SAFETY: `output_extent` covers every pixel with its 16 channels, in the residual as
            // in the output.
            unsafe {
                if let Some(residual) = tile.residual {
                    sum = _mm256_add_ps(sum, _mm256_loadu_ps(residual.as_ptr().add(at)));
                }
                if tile.relu {
                    // Where one is NaN, the second operand is the result.
                    sum = _mm256_max_ps(_mm256_setzero_ps(), sum);
                }
                _mm256_storeu_ps(output.as_mut_ptr().add(at), sum);
            }
        });
    });
}

/// Evaluates a tile; see [`evaluate_tile`].
///
/// # Safety
///
/// Needs AVX2 and FMA, and the floats that it says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn winograd_f32_input_6x6_avx2(
    input: *const f32,
    row_stride: usize,
    products: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { evaluate_tile::<__m256>(input, row_stride, products, stride) }
}

/// Interpolates a tile; see [`interpolate_tile`].
///
/// # Safety
///
/// Needs AVX2 and FMA, and the floats that it says.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn winograd_f32_output_4x4_avx2(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { interpolate_tile::<__m256>(products, stride, bias, output, row_stride) }
}

impl Vector for __m256 {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { _mm256_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        unsafe { _mm256_mul_ps(self, _mm256_set1_ps(factor)) }
    }

    #[inline(always)]
    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, _mm256_set1_ps(factor), addend) }
    }

    #[inline(always)]
    unsafe fn cut(self) -> Self {
        // Where one is NaN, the second operand is the result.
        unsafe { _mm256_max_ps(_mm256_setzero_ps(), self) }
    }
}
