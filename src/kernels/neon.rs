//! The kernels for NEON, which every 64-bit Arm processor has.
//!
//! The convolution tile keeps 6 pixels by one output block in 24 of the 32 registers. Six more hold
//! four input channels of each pixel, whose lanes the multiplications name, and the weights pass
//! through the last two: 22 loads for 96 multiplications.

use std::arch::aarch64::*;

use super::filtering::{Vector, evaluate_tile, interpolate_tile};
use super::unroll::unroll;
use super::{BLOCK, Tile};

/// Output pixels in the largest tile.
pub(super) const MAX_PIXELS: usize = 6;

/// Blocks of output channels in the largest tile.
pub(super) const MAX_BLOCKS: usize = 1;

/// Floats of a vector.
const LANES: usize = 4;

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
/// Needs NEON, and a tile and an output that passed the checks of [`super::Kernels::conv_tile`]
/// with this file's `MAX_PIXELS` and `MAX_BLOCKS`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn conv_f32_6x16_neon(tile: &Tile<'_>, output: &mut [f32]) {
    let stride = match (tile.pixel_stride, tile.depth) {
        (16, BLOCK) => 0,
        (32, BLOCK) => 1,
        _ => 2,
    };
    let conv = CONV[stride][tile.pixels - 1];
    // SAFETY: the caller's promise, and the entry is the one for this tile.
    unsafe { conv(tile, output) }
}

/// Adds to the sums of `PIXELS` pixels what the input channel in lane `LANE` of their inputs brings,
/// by its 16 weights.
///
/// # Safety
///
/// Needs NEON, and 16 floats at `weights`.
#[inline(always)]
unsafe fn add_channel<const PIXELS: usize, const LANE: i32>(
    sums: &mut [[float32x4_t; VECTORS]; PIXELS],
    inputs: &[float32x4_t; PIXELS],
    weights: *const f32,
) {
    unroll!(up to 4: vector < VECTORS {
        // SAFETY: the caller's promise.
        unsafe {
            let row = vld1q_f32(weights.add(vector * LANES));
            unroll!(up to 6: pixel < PIXELS {
                let sum = sums[pixel][vector];
                sums[pixel][vector] = vfmaq_laneq_f32::<LANE>(sum, row, inputs[pixel]);
            });
        }
    });
}

/// Computes a tile of `PIXELS` by one block, whose pixel stride is `STRIDE` unless that is 0.
///
/// # Safety
///
/// Needs NEON, and a tile of this size and an output that passed the checks of
/// [`super::Kernels::conv_tile`].
#[target_feature(enable = "neon")]
unsafe fn conv<const PIXELS: usize, const STRIDE: usize>(tile: &Tile<'_>, output: &mut [f32]) {
    let (stride, depth) = if STRIDE == 0 {
        (tile.pixel_stride, tile.depth)
    } else {
        (STRIDE, BLOCK)
    };
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; PIXELS];
    if let Some(bias) = tile.bias {
        unroll!(up to 4: vector < VECTORS {
            // SAFETY: the bias has 16 floats.
            let bias = unsafe { vld1q_f32(bias.as_ptr().add(vector * LANES)) };
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
                let whole = depth / LANES * LANES;
                for channel in (0..whole).step_by(LANES) {
                    let mut inputs = [vdupq_n_f32(0.0); PIXELS];
                    unroll!(up to 6: pixel < PIXELS {
                        inputs[pixel] = vld1q_f32(input.add(pixel * stride + channel));
                    });
                    add_channel::<PIXELS, 0>(&mut sums, &inputs, weights);
                    add_channel::<PIXELS, 1>(&mut sums, &inputs, weights.add(BLOCK));
                    add_channel::<PIXELS, 2>(&mut sums, &inputs, weights.add(2 * BLOCK));
                    add_channel::<PIXELS, 3>(&mut sums, &inputs, weights.add(3 * BLOCK));
                    weights = weights.add(LANES * BLOCK);
                }
                for channel in whole..depth {
                    let mut inputs = [vdupq_n_f32(0.0); PIXELS];
                    unroll!(up to 6: pixel < PIXELS {
                        inputs[pixel] = vld1q_dup_f32(input.add(pixel * stride + channel));
                    });
                    add_channel::<PIXELS, 0>(&mut sums, &inputs, weights);
                    weights = weights.add(BLOCK);
                }
            }
        }
    }

    unroll!(up to 6: pixel < PIXELS {
        unroll!(up to 4: vector < VECTORS {
            let at = pixel * BLOCK + vector * LANES;
            let mut sum = sums[pixel][vector];
            // SAFETY: `output_extent` covers every pixel with its 16 channels, in the residual as
            // in the output.
            unsafe {
                if let Some(residual) = tile.residual {
                    sum = vaddq_f32(sum, vld1q_f32(residual.as_ptr().add(at)));
                }
                if tile.relu {
                    sum = cut(sum);
                }
                vst1q_f32(output.as_mut_ptr().add(at), sum);
            }
        });
    });
}

/// Zero for negative values. `fmax` would turn -0 into 0, which the other instruction sets keep.
#[inline]
#[target_feature(enable = "neon")]
fn cut(values: float32x4_t) -> float32x4_t {
    let bits = vreinterpretq_u32_f32(values);
    vreinterpretq_f32_u32(vbicq_u32(bits, vcltzq_f32(values)))
}

/// Evaluates a tile; see [`evaluate_tile`].
///
/// # Safety
///
/// Needs NEON, and the floats that it says.
#[target_feature(enable = "neon")]
pub(super) unsafe fn winograd_f32_input_6x6_neon(
    input: *const f32,
    row_stride: usize,
    products: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { evaluate_tile::<float32x4_t>(input, row_stride, products, stride) }
}

/// Interpolates a tile; see [`interpolate_tile`].
///
/// # Safety
///
/// Needs NEON, and the floats that it says.
#[target_feature(enable = "neon")]
pub(super) unsafe fn winograd_f32_output_4x4_neon(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { interpolate_tile::<float32x4_t>(products, stride, bias, output, row_stride) }
}

impl Vector for float32x4_t {
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise, here and below.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { vsubq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        unsafe { vmulq_f32(self, vdupq_n_f32(factor)) }
    }

    #[inline(always)]
    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self {
        unsafe { vfmaq_f32(addend, self, vdupq_n_f32(factor)) }
    }

    #[inline(always)]
    unsafe fn cut(self) -> Self {
        unsafe { cut(self) }
    }
}
