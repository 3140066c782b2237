//! The first convolution, 7x7 with stride 2 and a border of three zeros, and the 3x3 maximum with
//! stride 2 behind it: from bytes of RGB pixels to the first feature maps.
//!
//! Colours stay together in the image with its border, so that a row of a patch, seven pixels of
//! three colours, is 21 neighbouring numbers, and the next patch begins six numbers later: the kernels
//! read patches where they lie.
//!
//! Convolution and maximum are done for a few rows at a time, so that the output of the convolution,
//! four times the size of the maximum's, never leaves the cache.

use std::ops::Range;

use crate::image::normalize;
use crate::image::{ChannelOrder, Normalization};
use crate::kernels::pooling::{Pixel, Pooling};
use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Kernels, PackedWeights, Tile};
use crate::model::plan::crew::Crew;
use crate::model::plan::fold::Folded;
use crate::model::plan::layers::{Extent, cache_for_activations, pieces};

/// The first convolution's kernel, and the pixels it reaches beyond an image.
const KERNEL: usize = 7;
const REACH: usize = KERNEL / 2;

/// Colours of a pixel.
const COLOURS: usize = 3;

/// Numbers of a row of a patch.
const PATCH_ROW: usize = KERNEL * COLOURS;

/// The convolution and the maximum.
pub struct Stem {
    weights: PackedWeights,
    bias: AlignedBuffer,
    /// Where the rows of a patch begin.
    taps: [usize; KERNEL],
    tables: [[f32; 256]; COLOURS],
    colours: [usize; COLOURS],
    side: usize,
    /// Rows of the output that are worked on at a time.
    band: usize,
}

/// What one thread needs beside input and output.
pub struct StemRoom {
    /// Output of the convolution, `[blocks, pixels of a band, 16]`.
    convolved: AlignedBuffer,
}

impl Stem {
    /// Packs the convolution `[channels, 3, 7, 7]` for images of `side` pixels squared.
    pub fn new(
        mut folded: Folded,
        kernels: &Kernels,
        caches: &CacheSizes,
        side: usize,
        normalization: &Normalization,
    ) -> Stem {
        // Weights are trained as (colour, row, column); a row's columns and colours become channels,
        // and the rows taps.
        let area = KERNEL * KERNEL;
        let filters = folded.weights.chunks_exact(COLOURS * area);
        folded.weights = filters
            .flat_map(|filter| {
                (0..PATCH_ROW * KERNEL).map(|at| {
                    let (channel, row) = (at / KERNEL, at % KERNEL);
                    filter[channel % COLOURS * area + row * KERNEL + channel / COLOURS]
                })
            })
            .collect();
        folded.in_channels = PATCH_ROW;
        folded.taps = KERNEL;
        let weights = folded.packed_for_depth(kernels, PATCH_ROW);
        let greys: Vec<u8> = (0..=u8::MAX).flat_map(|level| [level; COLOURS]).collect();
        let levels = normalize(&greys, normalization);
        let row = side.div_ceil(2) * weights.out_blocks() * BLOCK * size_of::<f32>();
        Stem {
            weights,
            bias: folded.rounded_bias(),
            taps: std::array::from_fn(|row| row * bordered_row(side)),
            tables: std::array::from_fn(|channel| {
                std::array::from_fn(|level| levels[channel * 256 + level])
            }),
            colours: match normalization.order {
                ChannelOrder::Rgb => [0, 1, 2],
                ChannelOrder::Bgr => [2, 1, 0],
            },
            side,
            band: (cache_for_activations(caches) / row / 2).max(1),
        }
    }

    /// Size of the output of the convolution.
    fn convolved(&self) -> Extent {
        Extent {
            height: self.side.div_ceil(2),
            width: self.side.div_ceil(2),
        }
    }

    /// Size of the output.
    pub fn output(&self) -> Extent {
        self.convolved().halved()
    }

    /// Channel blocks of the output.
    pub fn out_blocks(&self) -> usize {
        self.weights.out_blocks()
    }

    /// Operations of the convolution for an image.
    pub fn flop(&self) -> f64 {
        let outputs = self.convolved().pixels() * self.out_blocks() * BLOCK;
        2.0 * (outputs * KERNEL * PATCH_ROW) as f64
    }

    /// Floats of the normalised image with its border.
    pub fn bordered_floats(&self) -> usize {
        (self.side + 2 * REACH) * bordered_row(self.side)
    }

    /// Room for one thread.
    pub fn room(&self) -> StemRoom {
        let pixels = (2 * self.band + 1) * self.convolved().width;
        StemRoom {
            convolved: AlignedBuffer::zeroed(self.out_blocks() * pixels * BLOCK),
        }
    }

    /// Computes `output` from an image. `bordered` is room for [`Stem::bordered_floats`], and
    /// `rooms` gets as many rooms as the crew needs.
    pub fn run(
        &self,
        kernels: &Kernels,
        crew: Crew,
        image: &[u8],
        bordered: &mut [f32],
        rooms: &mut Vec<StemRoom>,
        output: &mut [f32],
    ) {
        self.normalize(image, bordered);
        let bordered = &*bordered;
        let pooling = Pooling::of(kernels.isa);
        let Extent { height, width } = self.output();
        let share = crew.share(height);
        let count = height.div_ceil(share);
        while rooms.len() < count {
            rooms.push(self.room());
        }
        // A member's rows in every channel block.
        let mut parts: Vec<Vec<&mut [f32]>> = (0..count).map(|_| Vec::new()).collect();
        for map in output.chunks_exact_mut(height * width * BLOCK) {
            for (part, rows) in parts.iter_mut().zip(map.chunks_mut(share * width * BLOCK)) {
                part.push(rows);
            }
        }
        let parts = parts.into_iter().zip(rooms).enumerate();
        crew.each(parts, |(part, (mut maps, room))| {
            let rows = part * share..height.min((part + 1) * share);
            let mut done = 0..0;
            for first in rows.clone().step_by(self.band) {
                let band = first..rows.end.min(first + self.band);
                done = self.convolve(kernels, bordered, &band, done, room);
                let pixels = done.len() * self.convolved().width;
                let convolved = room.convolved.chunks_exact(pixels * BLOCK);
                for (map, convolved) in maps.iter_mut().zip(convolved) {
                    let map = &mut map[(first - rows.start) * width * BLOCK..];
                    max_pool(pooling, self.convolved(), &done, convolved, &band, map);
                }
            }
        });
    }

    /// Fills the room with the rows of the convolution that a band of the output looks at, and
    /// answers which they are. `before` are those that are there; the last of them is kept where it
    /// is wanted again.
    fn convolve(
        &self,
        kernels: &Kernels,
        bordered: &[f32],
        band: &Range<usize>,
        before: Range<usize>,
        StemRoom { convolved }: &mut StemRoom,
    ) -> Range<usize> {
        let Extent { height, width } = self.convolved();
        let rows = (2 * band.start).saturating_sub(1)..(2 * band.end).min(height);
        let (old, new) = (before.len() * width * BLOCK, rows.len() * width * BLOCK);
        let is_kept = before.contains(&rows.start);
        let kept = if is_kept { width * BLOCK } else { 0 };
        if is_kept {
            // The blocks lie closer together or farther apart than before.
            let mut order: Vec<usize> = (0..self.out_blocks()).collect();
            if new > old {
                order.reverse();
            }
            for block in order {
                let last = (block + 1) * old - kept;
                convolved.copy_within(last..last + kept, block * new);
            }
        }
        let first = rows.start + kept / (width * BLOCK);
        for group in 0..self.weights.groups() {
            let first_block = self.weights.first_block_of(group);
            let out_blocks = self.weights.out_blocks_of(group);
            let bias = &self.bias[first_block * BLOCK..][..out_blocks * BLOCK];
            for row in first..rows.end {
                for (column, pixels) in pieces(width, kernels.max_pixels) {
                    let input = 2 * row * bordered_row(self.side) + 2 * column * COLOURS;
                    let at = (row - rows.start) * width + column;
                    let tile = Tile {
                        input: &bordered[input..],
                        taps: &self.taps,
                        pixel_stride: 2 * COLOURS,
                        block_stride: 0,
                        blocks: self.weights.blocks(),
                        depth: self.weights.depth(),
                        weights: self.weights.group(group),
                        out_blocks,
                        pixels,
                        bias: Some(bias),
                        residual: None,
                        relu: true,
                        out_block_stride: new,
                    };
                    kernels.conv_tile(&tile, &mut convolved[first_block * new + at * BLOCK..]);
                }
            }
        }
        rows
    }

    /// The numbers of an image, `[height, width, 3]` with a border of zeros.
    fn normalize(&self, image: &[u8], bordered: &mut [f32]) {
        let width = bordered_row(self.side);
        let margin = COLOURS * REACH;
        let bordered = &mut bordered[..self.bordered_floats()];
        for (y, row) in bordered.chunks_exact_mut(width).enumerate() {
            if !(REACH..REACH + self.side).contains(&y) {
                row.fill(0.0);
                continue;
            }
            row[..margin].fill(0.0);
            row[width - margin..].fill(0.0);
            let pixels = &image[(y - REACH) * COLOURS * self.side..][..COLOURS * self.side];
            let (pixels, _) = pixels.as_chunks::<COLOURS>();
            let (values, _) = row[margin..width - margin].as_chunks_mut::<COLOURS>();
            for (value, pixel) in values.iter_mut().zip(pixels) {
                for channel in 0..COLOURS {
                    let level = usize::from(pixel[self.colours[channel]]);
                    value[channel] = self.tables[channel][level];
                }
            }
        }
    }
}

/// Numbers of a row of the image with its border.
fn bordered_row(side: usize) -> usize {
    COLOURS * (side + 2 * REACH)
}

/// The largest of 3x3 pixels, with stride 2, around which nothing counts; one channel block. NaN
/// wins over every number.
///
/// `input` has the rows `there` of maps of size `from`, `output` gets the rows `band`.
fn max_pool(
    pooling: Pooling,
    from: Extent,
    there: &Range<usize>,
    input: &[f32],
    band: &Range<usize>,
    output: &mut [f32],
) {
    let (input, _) = input.as_chunks::<BLOCK>();
    let (output, _) = output.as_chunks_mut::<BLOCK>();
    let width = from.width.div_ceil(2);
    for (y, row) in band.clone().zip(output.chunks_exact_mut(width)) {
        let first = (2 * y).saturating_sub(1) - there.start;
        let end = (2 * y + 2).min(from.height) - there.start;
        let rows = &input[first * from.width..end * from.width];
        let mut reached: [&[Pixel]; 3] = [&[]; 3];
        for (reached, row) in reached.iter_mut().zip(rows.chunks_exact(from.width)) {
            *reached = row;
        }
        pooling.max_row(&reached[..end - first], row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    fn plain() -> Pooling {
        Pooling::of(Isa::Scalar)
    }

    #[test]
    fn nan_wins_a_maximum_wherever_it_stands() {
        let extent = Extent {
            height: 3,
            width: 3,
        };
        for place in 0..9 {
            let mut input = [1.0; 9 * BLOCK];
            input[place * BLOCK + 3] = f32::NAN;
            let mut output = [0.0; 4 * BLOCK];
            max_pool(
                plain(),
                extent,
                &(0..extent.height),
                &input,
                &(0..2),
                &mut output,
            );
            let seen = output.iter().filter(|value| value.is_nan()).count();
            // Windows start at -1 and 1, and overlap in the middle row and column.
            let windows = |at: usize| if at == 1 { 2 } else { 1 };
            assert_eq!(seen, windows(place / 3) * windows(place % 3), "{place}");
        }
    }

    #[test]
    fn a_maximum_at_the_edge_looks_at_no_border() {
        let extent = Extent {
            height: 2,
            width: 3,
        };
        let input: Vec<f32> = [-6.0, -5.0, -4.0, -3.0, -2.0, -7.0]
            .into_iter()
            .flat_map(|value| [value; BLOCK])
            .collect();
        let mut output = [0.0; 2 * BLOCK];
        max_pool(plain(), extent, &(0..2), &input, &(0..1), &mut output);
        assert_eq!((output[0], output[BLOCK]), (-2.0, -2.0));
    }
}
