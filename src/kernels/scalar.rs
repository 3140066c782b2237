//! The definition of every kernel in plain loops.

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
                    let input = &tile.input[at..][..BLOCK];
                    let first_row = (tap * tile.blocks + block) * BLOCK;
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
