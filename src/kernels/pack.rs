//! Weights in the order in which the kernels read them.

use std::ops::Range;

use rayon::prelude::*;

use super::{AlignedBuffer, BLOCK};

/// The weights of a convolution, packed once: `[groups][taps, blocks, depth, out_blocks * 16]`, where
/// depth is [`BLOCK`] for feature maps.
///
/// A group is as many blocks of output channels as a tile computes at once; the last one may be
/// smaller. Channel counts are rounded up to whole blocks, and the weights of the missing channels
/// are zero.
#[derive(Debug, Clone)]
pub struct PackedWeights {
    data: AlignedBuffer,
    taps: usize,
    blocks: usize,
    depth: usize,
    out_blocks: usize,
    group_blocks: usize,
}

impl PackedWeights {
    /// Packs `weights`, `[out_channels, in_channels, taps]` (OIHW with height and width as one),
    /// for tiles of `group_blocks` output blocks ([`super::Kernels::max_blocks`]).
    ///
    /// # Panics
    ///
    /// Where a count is zero or `weights` has another length.
    pub fn new(
        weights: &[f32],
        out_channels: usize,
        in_channels: usize,
        taps: usize,
        group_blocks: usize,
    ) -> Self {
        assert_eq!(
            weights.len(),
            out_channels * in_channels * taps,
            "floats of weights"
        );
        let channels = (out_channels, in_channels);
        let taps_and_depth = (taps, BLOCK);
        PackedWeights::computed(
            channels,
            taps_and_depth,
            group_blocks,
            |outs, in_channel, rows| {
                for (lane, out_channel) in outs.enumerate() {
                    let first = (out_channel * in_channels + in_channel) * taps;
                    for (row, &weight) in rows.iter_mut().zip(&weights[first..][..taps]) {
                        row[lane] = weight;
                    }
                }
            },
        )
    }

    /// Packs weights of `(out_channels, in_channels)` that are made on the way, by all threads of
    /// the pool that this runs in, for an input of blocks of `depth` channels.
    ///
    /// `compute` gets up to sixteen neighbouring output channels and an input channel, and sets
    /// their weights in `[taps]` rows of zeros.
    ///
    /// # Panics
    ///
    /// Where a count is zero.
    pub fn computed(
        (out_channels, in_channels): (usize, usize),
        (taps, depth): (usize, usize),
        group_blocks: usize,
        compute: impl Fn(Range<usize>, usize, &mut [[f32; BLOCK]]) + Sync,
    ) -> Self {
        assert!(
            out_channels > 0 && in_channels > 0 && taps > 0 && group_blocks > 0,
            "weights [{out_channels}, {in_channels}, {taps}] in groups of {group_blocks}"
        );
        let blocks = in_channels.div_ceil(depth);
        let out_blocks = out_channels.div_ceil(BLOCK);
        let rows = taps * blocks * depth;
        let mut data = AlignedBuffer::zeroed(rows * out_blocks * BLOCK);
        data.par_chunks_mut(rows * group_blocks * BLOCK)
            .enumerate()
            .for_each_init(
                || vec![[0.0; BLOCK]; taps],
                |weights, (group, packed)| {
                    let first_block = group * group_blocks;
                    let (packed, _) = packed.as_chunks_mut::<BLOCK>();
                    let width = packed.len() / rows;
                    for in_channel in 0..in_channels {
                        for block in 0..width {
                            let first = (first_block + block) * BLOCK;
                            let outs = first..out_channels.min(first + BLOCK);
                            weights.fill([0.0; BLOCK]);
                            compute(outs, in_channel, weights);
                            for (tap, weights) in weights.iter().enumerate() {
                                let row = tap * blocks * depth + in_channel;
                                packed[row * width + block] = *weights;
                            }
                        }
                    }
                },
            );
        PackedWeights {
            data,
            taps,
            blocks,
            depth,
            out_blocks,
            group_blocks,
        }
    }

    /// Taps of the convolution.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Channel blocks of the input.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Channels in a block of the input.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Blocks of output channels, of all groups together.
    pub fn out_blocks(&self) -> usize {
        self.out_blocks
    }

    /// Groups of output blocks.
    pub fn groups(&self) -> usize {
        self.out_blocks.div_ceil(self.group_blocks)
    }

    /// The first output block of a group.
    pub fn first_block_of(&self, group: usize) -> usize {
        group * self.group_blocks
    }

    /// Output blocks of a group.
    pub fn out_blocks_of(&self, group: usize) -> usize {
        self.group_blocks
            .min(self.out_blocks - self.first_block_of(group))
    }

    /// The weights of a group, `[taps, blocks, depth, out_blocks_of(group) * 16]`: those of a
    /// [`super::Tile`].
    pub fn group(&self, group: usize) -> &[f32] {
        let length = self.taps * self.row_floats() * self.out_blocks_of(group);
        &self.data[self.start_of(group)..][..length]
    }

    /// The weights of one tap of a group, `[blocks, depth, out_blocks_of(group) * 16]`: those of a
    /// tile with one tap, such as one of Winograd's products.
    pub fn tap(&self, group: usize, tap: usize) -> &[f32] {
        let length = self.row_floats() * self.out_blocks_of(group);
        &self.group(group)[tap * length..][..length]
    }

    /// Floats of one tap and one output block.
    fn row_floats(&self) -> usize {
        self.blocks * self.depth * BLOCK
    }

    fn start_of(&self, group: usize) -> usize {
        self.first_block_of(group) * self.taps * self.row_floats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight that says where it belongs, and is never zero.
    fn weight(out_channel: usize, in_channel: usize, tap: usize) -> f32 {
        (1 + tap + 10 * in_channel + 1000 * out_channel) as f32
    }

    fn weights(out_channels: usize, in_channels: usize, taps: usize) -> Vec<f32> {
        let mut weights = Vec::new();
        for out_channel in 0..out_channels {
            for in_channel in 0..in_channels {
                weights.extend((0..taps).map(|tap| weight(out_channel, in_channel, tap)));
            }
        }
        weights
    }

    #[test]
    fn every_weight_stands_in_its_group_and_missing_channels_are_zero() {
        for (out_channels, in_channels, taps, group_blocks) in [
            (1, 1, 1, 1),
            (4, 4, 9, 2),
            (16, 16, 1, 2),
            (17, 3, 9, 2),
            (32, 33, 4, 1),
            (64, 16, 9, 2),
            (80, 20, 1, 2),
        ] {
            let source = weights(out_channels, in_channels, taps);
            let packed = PackedWeights::new(&source, out_channels, in_channels, taps, group_blocks);
            let mut out_blocks = 0;
            for group in 0..packed.groups() {
                assert_eq!(packed.first_block_of(group), out_blocks);
                let width = packed.out_blocks_of(group) * BLOCK;
                let rows = packed.blocks() * BLOCK;
                assert_eq!(packed.group(group).len(), taps * rows * width);
                for tap in 0..taps {
                    let found = packed.tap(group, tap);
                    for (at, &found) in found.iter().enumerate() {
                        let (in_channel, column) = (at / width, at % width);
                        let out_channel = out_blocks * BLOCK + column;
                        let is_there = out_channel < out_channels && in_channel < in_channels;
                        let expected = if is_there {
                            weight(out_channel, in_channel, tap)
                        } else {
                            0.0
                        };
                        assert_eq!(found, expected);
                        assert_eq!(found, packed.group(group)[tap * rows * width + at]);
                    }
                }
                out_blocks += packed.out_blocks_of(group);
            }
            assert_eq!(out_blocks, out_channels.div_ceil(BLOCK));
            assert_eq!(out_blocks, packed.out_blocks());
        }
    }

    #[test]
    fn a_block_of_any_depth_is_not_filled_up() {
        let (out_channels, depth, taps) = (40, 21, 7);
        let channels = (out_channels, depth);
        let packed = PackedWeights::computed(channels, (taps, depth), 2, |outs, channel, rows| {
            for (lane, out_channel) in outs.enumerate() {
                for (tap, row) in rows.iter_mut().enumerate() {
                    row[lane] = weight(out_channel, channel, tap);
                }
            }
        });
        assert_eq!((packed.blocks(), packed.depth()), (1, depth));
        for group in 0..packed.groups() {
            let width = packed.out_blocks_of(group) * BLOCK;
            assert_eq!(packed.group(group).len(), taps * depth * width);
            for (at, &found) in packed.group(group).iter().enumerate() {
                let (row, column) = (at / width, at % width);
                let out_channel = packed.first_block_of(group) * BLOCK + column;
                let expected = match out_channel < out_channels {
                    true => weight(out_channel, row % depth, row / depth),
                    false => 0.0,
                };
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn every_group_starts_at_a_cache_line() {
        let packed = PackedWeights::new(&weights(80, 20, 9), 80, 20, 9, 2);
        for group in 0..packed.groups() {
            assert_eq!(packed.group(group).as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    #[should_panic(expected = "floats of weights")]
    fn weights_of_another_length_are_refused() {
        PackedWeights::new(&[0.0; 8], 3, 3, 1, 1);
    }
}
