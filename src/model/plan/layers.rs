//! The layers of a plan: what is packed for each, and how it runs.
//!
//! Feature maps of `n` images lie as `[channel blocks, n * height * width, 16]`: the pixels of all
//! images follow each other, so that a 1x1 convolution need not know of images. How much is computed
//! at a time follows from the sizes of the caches and shows in no result: every pixel has its own sum.

use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Kernels, PackedWeights, Tile};
use crate::model::plan::crew::Crew;
use crate::model::plan::fold::Folded;

/// Height and width of feature maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Extent {
    /// Rows times columns.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// After a stride of 2.
    pub fn halved(self) -> Extent {
        Extent {
            height: self.height.div_ceil(2),
            width: self.width.div_ceil(2),
        }
    }
}

/// Weights and bias of a convolution whose input lies pixel by pixel; negative outputs are cut.
pub struct Filters {
    weights: PackedWeights,
    bias: AlignedBuffer,
    /// Pixels that are worked on at a time.
    chunk: usize,
}

impl Filters {
    /// Packs a convolution.
    pub fn new(folded: &Folded, kernels: &Kernels, caches: &CacheSizes) -> Filters {
        let weights = folded.packed(kernels);
        Filters {
            chunk: pixels_in_cache(kernels, caches, weights.blocks()),
            weights,
            bias: folded.rounded_bias(),
        }
    }

    /// Multiply-adds for a pixel of the output, those of filled-up channels among them.
    pub fn weights_per_pixel(&self) -> usize {
        self.weights.taps() * self.weights.blocks() * self.weights.out_blocks() * BLOCK * BLOCK
    }

    /// A 1x1 convolution of `pixels` pixels, `[blocks, pixels, 16]` to the same, whose tiles `conv`
    /// computes.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is computed, by whom, and where"
    )]
    pub fn run<T: Send>(
        &self,
        kernels: &Kernels,
        crew: Crew,
        pixels: usize,
        input: &[f32],
        residual: Option<&[f32]>,
        output: &mut [T],
        conv: impl Fn(&Tile<'_>, &mut [T]) + Sync,
    ) {
        let stride = pixels * BLOCK;
        let (share, values) = self.share(crew, stride);
        crew.each(output.chunks_mut(values).enumerate(), |(part, output)| {
            let groups = part * share..self.weights.groups().min((part + 1) * share);
            for first_pixel in (0..pixels).step_by(self.chunk) {
                let count = self.chunk.min(pixels - first_pixel);
                for group in groups.clone() {
                    let first = self.weights.first_block_of(group - groups.start) * stride;
                    for (piece, length) in pieces(count, kernels.max_pixels) {
                        let from = (first_pixel + piece) * BLOCK;
                        let at = first + from;
                        let tile = Tile {
                            input: &input[from..],
                            taps: &[0],
                            block_stride: stride,
                            residual: residual.map(|residual| &residual[part * values + at..]),
                            ..self.tile(group, length, stride)
                        };
                        conv(&tile, &mut output[at..]);
                    }
                }
            }
        });
    }

    /// Groups of output blocks that a member of the crew computes, and their floats in the output.
    fn share(&self, crew: Crew, out_stride: usize) -> (usize, usize) {
        let share = crew.share(self.weights.groups());
        (share, self.weights.first_block_of(share) * out_stride)
    }

    /// A 3x3 convolution with stride 2 and a border of one zero, `n` images of `from` pixels.
    /// `bordered` is room for [`Filters::bordered_floats`].
    #[expect(
        clippy::too_many_arguments,
        reason = "what is computed, by whom, and where"
    )]
    pub fn run_3x3_stride_2(
        &self,
        kernels: &Kernels,
        crew: Crew,
        from: Extent,
        images: usize,
        input: &[f32],
        bordered: &mut [f32],
        output: &mut [f32],
    ) {
        let to = from.halved();
        let width = from.width + 2;
        let map = from.pixels() * BLOCK;
        let block_stride = (from.height + 2) * width * BLOCK;
        let out_stride = images * to.pixels() * BLOCK;
        let taps: [usize; 9] = std::array::from_fn(|tap| (tap / 3 * width + tap % 3) * BLOCK);
        let bordered = &mut bordered[..self.bordered_floats(from)];
        let (share, floats) = self.share(crew, out_stride);
        for image in 0..images {
            let maps = input.chunks_exact(map).skip(image).step_by(images);
            crew.each(
                bordered.chunks_exact_mut(block_stride).zip(maps),
                |(to, map)| {
                    add_border(from, map, to);
                },
            );
            let bordered = &*bordered;
            crew.each(output.chunks_mut(floats).enumerate(), |(part, output)| {
                let groups = part * share..self.weights.groups().min((part + 1) * share);
                let first_block = self.weights.first_block_of(groups.start);
                for group in groups {
                    let first = (self.weights.first_block_of(group) - first_block) * out_stride;
                    for row in 0..to.height {
                        for (column, length) in pieces(to.width, kernels.max_pixels) {
                            let pixel = image * to.pixels() + row * to.width + column;
                            let tile = Tile {
                                input: &bordered[2 * (row * width + column) * BLOCK..],
                                taps: &taps,
                                pixel_stride: 2 * BLOCK,
                                block_stride,
                                residual: None,
                                ..self.tile(group, length, out_stride)
                            };
                            kernels.conv_tile(&tile, &mut output[first + pixel * BLOCK..]);
                        }
                    }
                }
            });
        }
    }

    /// Floats of one image of `from` pixels with a border.
    pub fn bordered_floats(&self, from: Extent) -> usize {
        self.weights.blocks() * (from.height + 2) * (from.width + 2) * BLOCK
    }

    /// What tiles of a group of output blocks have in common.
    fn tile(&self, group: usize, pixels: usize, out_block_stride: usize) -> Tile<'_> {
        let first = self.weights.first_block_of(group) * BLOCK;
        let out_blocks = self.weights.out_blocks_of(group);
        Tile {
            input: &[],
            taps: &[],
            pixel_stride: BLOCK,
            block_stride: 0,
            blocks: self.weights.blocks(),
            depth: self.weights.depth(),
            weights: self.weights.group(group),
            out_blocks,
            pixels,
            bias: Some(&self.bias[first..first + out_blocks * BLOCK]),
            residual: None,
            relu: true,
            out_block_stride,
        }
    }
}

/// One channel block with a border of one zero pixel.
pub fn add_border<T: Copy + Default>(extent: Extent, maps: &[T], bordered: &mut [T]) {
    let width = extent.width * BLOCK;
    let rows = bordered.chunks_exact_mut(width + 2 * BLOCK);
    for (y, row) in rows.enumerate() {
        if (1..=extent.height).contains(&y) {
            row[..BLOCK].fill(T::default());
            row[BLOCK..][..width].copy_from_slice(&maps[(y - 1) * width..][..width]);
            row[BLOCK + width..].fill(T::default());
        } else {
            row.fill(T::default());
        }
    }
}

/// Bytes of activations that are worked on at a time: half of the second-level cache. The other half
/// is for weights and output.
pub fn cache_for_activations(caches: &CacheSizes) -> usize {
    caches.level2 / 2
}

/// Pixels of so many channel blocks that fit the cache: whole tiles, at least one.
fn pixels_in_cache(kernels: &Kernels, caches: &CacheSizes, blocks: usize) -> usize {
    let pixels = cache_for_activations(caches) / (blocks * BLOCK * size_of::<f32>());
    (pixels / kernels.max_pixels).max(1) * kernels.max_pixels
}

/// Cuts `total` into as few pieces of at most `most` as possible, of nearly the same length: a
/// small rest would keep few of a kernel's accumulators busy. Start and length of each.
pub fn pieces(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = total.div_ceil(most);
    let bound = move |piece: usize| piece * total / count;
    (0..count).map(move |piece| (bound(piece), bound(piece + 1) - bound(piece)))
}

/// Every second pixel of every second row, of as many maps as there are.
pub fn subsample<T: Copy>(from: Extent, input: &[T], output: &mut [T]) {
    let (input, _) = input.as_chunks::<BLOCK>();
    let (output, _) = output.as_chunks_mut::<BLOCK>();
    let to = from.halved();
    let maps = input.chunks_exact(from.pixels());
    for (input, output) in maps.zip(output.chunks_exact_mut(to.pixels())) {
        let rows = input.chunks_exact(from.width).step_by(2);
        for (input, output) in rows.zip(output.chunks_exact_mut(to.width)) {
            for (from, to) in input.iter().step_by(2).zip(output) {
                *to = *from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once_and_differ_by_one_at_most() {
        for total in 1..200 {
            for most in [1, 6, 14] {
                let pieces: Vec<_> = pieces(total, most).collect();
                assert_eq!(pieces.len(), total.div_ceil(most));
                let mut next = 0;
                for &(start, length) in &pieces {
                    assert_eq!(start, next);
                    assert!((1..=most).contains(&length));
                    next += length;
                }
                assert_eq!(next, total);
                let lengths = || pieces.iter().map(|piece| piece.1);
                assert!(lengths().max() <= lengths().min().map(|least| least + 1));
            }
        }
    }

    #[test]
    fn a_subsample_keeps_even_rows_and_columns_of_every_map() {
        let from = Extent {
            height: 3,
            width: 5,
        };
        let input: Vec<f32> = (0..2 * 15)
            .flat_map(|pixel| [pixel as f32; BLOCK])
            .collect();
        let mut output = vec![0.0; 2 * 6 * BLOCK];
        subsample(from, &input, &mut output);
        let pixels: Vec<f32> = output.chunks(BLOCK).map(|pixel| pixel[15]).collect();
        assert_eq!(
            pixels,
            [
                0.0, 2.0, 4.0, 10.0, 12.0, 14.0, 15.0, 17.0, 19.0, 25.0, 27.0, 29.0
            ]
        );
    }
}
