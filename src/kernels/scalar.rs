//! The definition of every kernel in plain loops.

use super::filtering::{Vector, evaluate_tile, interpolate_tile};
use super::{BLOCK, Tile};

/// Computes a tile of any size that passed the checks of [`super::Kernels::conv_tile`].
pub(super) fn conv_f32_14x32_scalar(tile: &Tile<'_>, output: &mut [f32]) {
    let width = tile.out_blocks * BLOCK;
    for out_block in 0..tile.out_blocks {
        for pixel in 0..tile.pixels {
            let mut sum = [0.0; BLOCK];
            if let Some(bias) = tile.bias {
                sum.copy_from_slice(&bias[out_block * BLOCK..][..BLOCK]);
            }
            for (tap, &offset) in tile.taps.iter().enumerate() {
                for block in 0..tile.blocks {
                    let at = offset + pixel * tile.pixel_stride + block * tile.block_stride;
                    let input = &tile.input[at..][..tile.depth];
                    let first_row = (tap * tile.blocks + block) * tile.depth;
                    for (channel, &value) in input.iter().enumerate() {
                        let at = (first_row + channel) * width + out_block * BLOCK;
                        let weights = &tile.weights[at..][..BLOCK];
                        for (sum, weight) in sum.iter_mut().zip(weights) {
                            *sum += value * weight;
                        }
                    }
                }
            }
            let at = out_block * tile.out_block_stride + pixel * BLOCK;
            if let Some(residual) = tile.residual {
                for (sum, residual) in sum.iter_mut().zip(&residual[at..][..BLOCK]) {
                    *sum += residual;
                }
            }
            if tile.relu {
                // A comparison and not `max`, which would hide a NaN.
                for sum in &mut sum {
                    if *sum < 0.0 {
                        *sum = 0.0;
                    }
                }
            }
            output[at..][..BLOCK].copy_from_slice(&sum);
        }
    }
}

/// Evaluates a tile; see [`evaluate_tile`].
///
/// # Safety
///
/// Needs the floats that it says.
pub(super) unsafe fn winograd_f32_input_6x6_scalar(
    input: *const f32,
    row_stride: usize,
    products: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { evaluate_tile::<Four>(input, row_stride, products, stride) }
}

/// Interpolates a tile; see [`interpolate_tile`].
///
/// # Safety
///
/// Needs the floats that it says.
pub(super) unsafe fn winograd_f32_output_4x4_scalar(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { interpolate_tile::<Four>(products, stride, bias, output, row_stride) }
}

/// Four floats: what every machine adds at once.
#[derive(Clone, Copy)]
struct Four([f32; 4]);

impl Four {
    #[inline(always)]
    fn with(self, other: Four, operation: impl Fn(f32, f32) -> f32) -> Four {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Four([
            operation(a, e),
            operation(b, f),
            operation(c, g),
            operation(d, h),
        ])
    }
}

impl Vector for Four {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises four floats; an array of them needs no other alignment.
        Four(unsafe { *from.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { *to.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Four([value; 4])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn scale(self, factor: f32) -> Self {
        Four(self.0.map(|value| value * factor))
    }

    #[inline(always)]
    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self {
        self.with(addend, |value, addend| value * factor + addend)
    }

    #[inline(always)]
    unsafe fn cut(self) -> Self {
        Four(self.0.map(|value| if value < 0.0 { 0.0 } else { value }))
    }
}
