//! The kernels for AVX-512F.
//!
//! The convolution tile keeps 14 pixels by 2 output blocks in 28 of the 32 registers, two more hold
//! the weights of an input channel, and each input value is broadcast while it is loaded. Every
//! weight vector is used 14 times and every input value 32 times, which leaves the loads far below
//! one a multiplication.

use std::arch::x86_64::*;

use super::filtering::{Vector, evaluate_tile, interpolate_tile};
use super::unroll::unroll;
use super::{BLOCK, Tile};

/// Output pixels in the largest tile.
pub(super) const MAX_PIXELS: usize = 14;

/// Blocks of output channels in the largest tile.
pub(super) const MAX_BLOCKS: usize = 2;

/// Rows of weights between the one that is used and the one that is fetched: a few hundred cycles of
/// multiplications, which is what the memory takes to answer.
const AHEAD: usize = 16;

/// A tile with all its sizes known to the compiler.
type ConvTile = unsafe fn(&Tile<'_>, &mut [f32]);

/// The kernels for 1 to 14 pixels.
macro_rules! of_pixels {
    ($blocks:literal, $stride:literal) => {
        [
            conv::<1, $blocks, $stride>,
            conv::<2, $blocks, $stride>,
            conv::<3, $blocks, $stride>,
            conv::<4, $blocks, $stride>,
            conv::<5, $blocks, $stride>,
            conv::<6, $blocks, $stride>,
            conv::<7, $blocks, $stride>,
            conv::<8, $blocks, $stride>,
            conv::<9, $blocks, $stride>,
            conv::<10, $blocks, $stride>,
            conv::<11, $blocks, $stride>,
            conv::<12, $blocks, $stride>,
            conv::<13, $blocks, $stride>,
            conv::<14, $blocks, $stride>,
        ]
    };
}

/// Floats from one pixel of the first layer to the next: stride 2 over three colours.
const FIRST_LAYER: usize = 6;

/// By stride, output blocks and pixels. With a known stride the pixels' offsets are part of the
/// instructions. Strides of 16 and 32 floats go with blocks of 16 channels, the others with any.
static CONV: [[[ConvTile; MAX_PIXELS]; MAX_BLOCKS]; 4] = [
    [of_pixels!(1, 16), of_pixels!(2, 16)],
    [of_pixels!(1, 32), of_pixels!(2, 32)],
    [of_pixels!(1, 6), of_pixels!(2, 6)],
    [of_pixels!(1, 0), of_pixels!(2, 0)],
];

/// Computes a tile.
///
/// # Safety
///
/// Needs AVX-512F, and a tile and an output that passed the checks of
/// [`super::Kernels::conv_tile`] with this file's `MAX_PIXELS` and `MAX_BLOCKS`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn conv_f32_14x32_avx512(tile: &Tile<'_>, output: &mut [f32]) {
    let stride = match (tile.pixel_stride, tile.depth) {
        (16, BLOCK) => 0,
        (32, BLOCK) => 1,
        (FIRST_LAYER, _) => 2,
        _ => 3,
    };
    let conv = CONV[stride][tile.out_blocks - 1][tile.pixels - 1];
    // SAFETY: the caller's promise, and the entry is the one for this tile.
    unsafe { conv(tile, output) }
}

/// Computes a tile of `PIXELS` by `BLOCKS`, whose pixel stride is `STRIDE` unless that is 0.
///
/// # Safety
///
/// Needs AVX-512F, and a tile of these sizes and an output that passed the checks of
/// [`super::Kernels::conv_tile`].
#[target_feature(enable = "avx512f")]
unsafe fn conv<const PIXELS: usize, const BLOCKS: usize, const STRIDE: usize>(
    tile: &Tile<'_>,
    output: &mut [f32],
) {
    let (stride, depth) = match STRIDE {
        0 => (tile.pixel_stride, tile.depth),
        FIRST_LAYER => (FIRST_LAYER, tile.depth),
        _ => (STRIDE, BLOCK),
    };
    let mut sums = [[_mm512_setzero_ps(); BLOCKS]; PIXELS];
    if let Some(bias) = tile.bias {
        unroll!(up to 2: block < BLOCKS {
            // SAFETY: the bias has 16 floats for every output block.
            let bias = unsafe { _mm512_loadu_ps(bias.as_ptr().add(block * BLOCK)) };
            unroll!(up to 14: pixel < PIXELS { sums[pixel][block] = bias });
        });
    }

    // What is touched at the end only, the residual and the output, is fetched a line with every row
    // of weights: all of it at once would hold up the inputs and weights that are wanted first.
    let first: *const f32 = output.as_ptr();
    let second = (BLOCKS - 1) * tile.out_block_stride;
    let residual = tile.residual.map_or(first, <[f32]>::as_ptr);
    let at_end = [
        residual,
        residual.wrapping_add(second),
        first,
        first.wrapping_add(second),
    ];
    let mut at_end = at_end.into_iter().cycle();

    let mut weights = tile.weights.as_ptr();
    for &tap in tile.taps {
        for block in 0..tile.blocks {
            // SAFETY: `input_extent` covers every tap, block and pixel with its channels, and
            // `weights_extent` as many rows of weights as this loop takes steps. A prefetch behind
            // the weights, or wherever else, reads nothing.
            unsafe {
                let input = tile.input.as_ptr().add(tap + block * tile.block_stride);
                // The pixels of the next block; after the last one, those of the tile behind this.
                let next = if block + 1 < tile.blocks {
                    input.wrapping_add(tile.block_stride)
                } else {
                    tile.input.as_ptr().wrapping_add(tap + PIXELS * stride)
                };
                let at_end = at_end.next().unwrap_or(next);
                for channel in 0..depth {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(channel * stride).cast());
                    _mm_prefetch::<_MM_HINT_T0>(at_end.wrapping_add(channel * BLOCK).cast());
                    let mut row = [_mm512_setzero_ps(); BLOCKS];
                    unroll!(up to 2: block < BLOCKS {
                        row[block] = _mm512_loadu_ps(weights.add(block * BLOCK));
                        let ahead = weights.wrapping_add((AHEAD * BLOCKS + block) * BLOCK);
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    });
                    unroll!(up to 14: pixel < PIXELS {
                        let value = _mm512_set1_ps(*input.add(pixel * stride + channel));
                        unroll!(up to 2: block < BLOCKS {
                            sums[pixel][block] =
                                _mm512_fmadd_ps(value, row[block], sums[pixel][block]);
                        });
                    });
                    weights = weights.add(BLOCKS * BLOCK);
                }
            }
        }
    }

    unroll!(up to 2: block < BLOCKS {
        unroll!(up to 14: pixel < PIXELS {
            let at = block * tile.out_block_stride + pixel * BLOCK;
            let mut sum = sums[pixel][block];
            // SAFETY: `output_extent` covers every block and pixel with its 16 channels, in the
            // residual as in the output.
            unsafe {
                if let Some(residual) = tile.residual {
                    sum = _mm512_add_ps(sum, _mm512_loadu_ps(residual.as_ptr().add(at)));
                }
                if tile.relu {
                    // Where one is NaN, the second operand is the result.
                    sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
                }
                _mm512_storeu_ps(output.as_mut_ptr().add(at), sum);
            }
        });
    });
}

/// Evaluates a tile; see [`evaluate_tile`].
///
/// # Safety
///
/// Needs AVX-512F, and the floats that it says.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn winograd_f32_input_6x6_avx512(
    input: *const f32,
    row_stride: usize,
    products: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { evaluate_tile::<__m512>(input, row_stride, products, stride) }
}

/// Interpolates a tile; see [`interpolate_tile`].
///
/// # Safety
///
/// Needs AVX-512F, and the floats that it says.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn winograd_f32_output_4x4_avx512(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { interpolate_tile::<__m512>(products, stride, bias, output, row_stride) }
}

impl Vector for __m512 {
    const LANES: usize = BLOCK;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { _mm512_sub_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        unsafe { _mm512_mul_ps(self, _mm512_set1_ps(factor)) }
    }

    #[inline(always)]
    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, _mm512_set1_ps(factor), addend) }
    }

    #[inline(always)]
    unsafe fn cut(self) -> Self {
        // Where one is NaN, the second operand is the result.
        unsafe { _mm512_max_ps(_mm512_setzero_ps(), self) }
    }
}
