//! The layers of a plan: what is packed for each, and how it runs.
//!
//! Feature maps of `n` images lie as `[channel blocks, n * height * width, 16]`: the pixels of all
//! images follow each other, so that a 1x1 convolution need not know of images. How much is computed
//! at a time follows from the size of the cache and shows in no result: every pixel has its own sum.

use crate::image::normalize;
use crate::image::{ChannelOrder, Normalization};
use crate::kernels::{AlignedBuffer, BLOCK, Kernels, PackedWeights, Tile};
use crate::model::plan::fold::Folded;

/// Bytes of activations that are worked on at a time: half of a second-level cache of 1 MiB, the
/// smallest among the servers of the last years. The other half is for weights and output.
pub const CACHE: usize = 512 << 10;

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

/// Weights and bias of a convolution whose input lies pixel by pixel.
pub struct Filters {
    weights: PackedWeights,
    bias: AlignedBuffer,
    relu: bool,
}

impl Filters {
    /// Packs a convolution; negative outputs are cut if `relu`.
    pub fn new(folded: &Folded, kernels: &Kernels, relu: bool) -> Filters {
        Filters {
            weights: folded.packed(kernels),
            bias: folded.rounded_bias(),
            relu,
        }
    }

    /// Channel blocks of the output.
    pub fn out_blocks(&self) -> usize {
        self.weights.out_blocks()
    }

    /// A 1x1 convolution of `pixels` pixels, `[blocks, pixels, 16]` to the same.
    pub fn run(
        &self,
        kernels: &Kernels,
        pixels: usize,
        input: &[f32],
        residual: Option<&[f32]>,
        output: &mut [f32],
    ) {
        let stride = pixels * BLOCK;
        let chunk = pixels_in_cache(kernels, self.weights.blocks());
        for start in (0..pixels).step_by(chunk) {
            let at = start * BLOCK;
            self.chunk(
                kernels,
                chunk.min(pixels - start),
                (&input[at..], stride),
                residual.map(|residual| &residual[at..]),
                (&mut output[at..], stride),
            );
        }
    }

    /// A 1x1 convolution of a few pixels; input and output with the floats between their channel
    /// blocks.
    fn chunk(
        &self,
        kernels: &Kernels,
        pixels: usize,
        (input, in_stride): (&[f32], usize),
        residual: Option<&[f32]>,
        (output, out_stride): (&mut [f32], usize),
    ) {
        for group in 0..self.weights.groups() {
            let first = self.weights.first_block_of(group) * out_stride;
            for (start, length) in pieces(pixels, kernels.max_pixels) {
                let at = first + start * BLOCK;
                let tile = Tile {
                    input: &input[start * BLOCK..],
                    taps: &[0],
                    pixel_stride: BLOCK,
                    block_stride: in_stride,
                    residual: residual.map(|residual| &residual[at..]),
                    ..self.tile(group, length, out_stride)
                };
                kernels.conv_tile(&tile, &mut output[at..]);
            }
        }
    }

    /// A 3x3 convolution with stride 2 and a border of one zero, `n` images of `from` pixels.
    /// `bordered` is room for [`Filters::bordered_floats`].
    pub fn run_3x3_stride_2(
        &self,
        kernels: &Kernels,
        from: Extent,
        images: usize,
        input: &[f32],
        bordered: &mut [f32],
        output: &mut [f32],
    ) {
        let to = from.halved();
        let width = from.width + 2;
        let block_stride = (from.height + 2) * width * BLOCK;
        let out_stride = images * to.pixels() * BLOCK;
        let taps: [usize; 9] = std::array::from_fn(|tap| (tap / 3 * width + tap % 3) * BLOCK);
        for image in 0..images {
            for block in 0..self.weights.blocks() {
                let first = (block * images + image) * from.pixels() * BLOCK;
                let maps = &input[first..][..from.pixels() * BLOCK];
                let bordered = &mut bordered[block * block_stride..][..block_stride];
                add_border(from, maps, bordered);
            }
            for group in 0..self.weights.groups() {
                let first = self.weights.first_block_of(group) * out_stride;
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
            weights: self.weights.group(group),
            out_blocks,
            pixels,
            bias: Some(&self.bias[first..first + out_blocks * BLOCK]),
            residual: None,
            relu: self.relu,
            out_block_stride,
        }
    }
}

/// One channel block with a border of one zero pixel.
fn add_border(extent: Extent, maps: &[f32], bordered: &mut [f32]) {
    let width = extent.width * BLOCK;
    let rows = bordered.chunks_exact_mut(width + 2 * BLOCK);
    for (y, row) in rows.enumerate() {
        if (1..=extent.height).contains(&y) {
            row[..BLOCK].fill(0.0);
            row[BLOCK..][..width].copy_from_slice(&maps[(y - 1) * width..][..width]);
            row[BLOCK + width..].fill(0.0);
        } else {
            row.fill(0.0);
        }
    }
}

/// Pixels of so many channel blocks that fit the cache: whole tiles, at least one.
fn pixels_in_cache(kernels: &Kernels, blocks: usize) -> usize {
    let pixels = CACHE / (blocks * BLOCK * size_of::<f32>());
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
pub fn subsample(from: Extent, input: &[f32], output: &mut [f32]) {
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

/// Bytes of RGB pixels to the first convolution, 7x7 with stride 2 and a border of three zeros, and
/// the 3x3 maximum with stride 2 behind it.
pub struct Stem {
    filters: Filters,
    tables: [[f32; 256]; 3],
    colours: [usize; 3],
    side: usize,
}

/// The first convolution's kernel, and the pixels it reaches beyond an image.
const KERNEL: usize = 7;
const REACH: usize = KERNEL / 2;

/// Input values of one output of the first convolution.
const PATCH: usize = KERNEL * KERNEL * 3;
const PATCH_BLOCKS: usize = PATCH.div_ceil(BLOCK);

impl Stem {
    /// Packs the convolution `[channels, 3, 7, 7]` for images of `side` pixels squared.
    pub fn new(
        mut folded: Folded,
        kernels: &Kernels,
        side: usize,
        normalization: &Normalization,
    ) -> Stem {
        // Patches lie as (row, column, colour), weights as (colour, row, column).
        let area = KERNEL * KERNEL;
        let filters = folded.weights.chunks_exact(PATCH);
        folded.weights = filters
            .flat_map(|filter| (0..PATCH).map(|at| filter[at % 3 * area + at / 3]))
            .collect();
        folded.in_channels = PATCH;
        folded.taps = 1;
        let greys: Vec<u8> = (0..=u8::MAX).flat_map(|level| [level; 3]).collect();
        let levels = normalize(&greys, normalization);
        Stem {
            filters: Filters::new(&folded, kernels, true),
            tables: std::array::from_fn(|channel| {
                std::array::from_fn(|level| levels[channel * 256 + level])
            }),
            colours: match normalization.order {
                ChannelOrder::Rgb => [0, 1, 2],
                ChannelOrder::Bgr => [2, 1, 0],
            },
            side,
        }
    }

    fn extent(&self) -> Extent {
        Extent {
            height: self.side,
            width: self.side,
        }
    }

    /// Size of the output.
    pub fn output(&self) -> Extent {
        self.extent().halved().halved()
    }

    /// Channel blocks of the output.
    pub fn out_blocks(&self) -> usize {
        self.filters.out_blocks()
    }

    /// Floats of the normalised image with its border.
    pub fn bordered_floats(&self) -> usize {
        3 * (self.side + 2 * REACH).pow(2)
    }

    /// Floats of the patches that are worked on at a time.
    pub fn patch_floats(&self, kernels: &Kernels) -> usize {
        pixels_in_cache(kernels, PATCH_BLOCKS) * PATCH_BLOCKS * BLOCK
    }

    /// Floats of the output of the convolution, before the maximum.
    pub fn convolved_floats(&self) -> usize {
        self.out_blocks() * self.extent().halved().pixels() * BLOCK
    }

    /// Computes `output` from an image; the other slices are room of the sizes told above.
    pub fn run(
        &self,
        kernels: &Kernels,
        image: &[u8],
        bordered: &mut [f32],
        patches: &mut [f32],
        convolved: &mut [f32],
        output: &mut [f32],
    ) {
        self.normalize(image, bordered);
        let extent = self.extent().halved();
        let pixels = extent.pixels();
        let chunk = pixels_in_cache(kernels, PATCH_BLOCKS);
        for start in (0..pixels).step_by(chunk) {
            let length = chunk.min(pixels - start);
            self.gather(bordered, start, length, patches);
            let output = &mut convolved[start * BLOCK..];
            self.filters.chunk(
                kernels,
                length,
                (patches, length * BLOCK),
                None,
                (output, pixels * BLOCK),
            );
        }
        for block in 0..self.out_blocks() {
            let (from, to) = (pixels * BLOCK, extent.halved().pixels() * BLOCK);
            let maps = &convolved[block * from..][..from];
            max_pool(extent, maps, &mut output[block * to..][..to]);
        }
    }

    /// The numbers of an image, `[height, width, 3]` with a border of zeros.
    fn normalize(&self, image: &[u8], bordered: &mut [f32]) {
        let width = 3 * (self.side + 2 * REACH);
        let margin = 3 * REACH;
        let bordered = &mut bordered[..self.bordered_floats()];
        for (y, row) in bordered.chunks_exact_mut(width).enumerate() {
            if !(REACH..REACH + self.side).contains(&y) {
                row.fill(0.0);
                continue;
            }
            row[..margin].fill(0.0);
            row[width - margin..].fill(0.0);
            let pixels = &image[(y - REACH) * 3 * self.side..][..3 * self.side];
            let (pixels, _) = pixels.as_chunks::<3>();
            let (values, _) = row[margin..width - margin].as_chunks_mut::<3>();
            for (value, pixel) in values.iter_mut().zip(pixels) {
                for channel in 0..3 {
                    let level = usize::from(pixel[self.colours[channel]]);
                    value[channel] = self.tables[channel][level];
                }
            }
        }
    }

    /// The inputs of some outputs of the convolution: `[blocks of a patch, length, 16]`.
    fn gather(&self, bordered: &[f32], start: usize, length: usize, patches: &mut [f32]) {
        const ROW: usize = 3 * KERNEL;
        let width = 3 * (self.side + 2 * REACH);
        let columns = self.extent().halved().width;
        let (patches, _) = patches.as_chunks_mut::<BLOCK>();
        let mut patch = [0.0; PATCH_BLOCKS * BLOCK];
        for index in 0..length {
            let (y, x) = ((start + index) / columns, (start + index) % columns);
            for row in 0..KERNEL {
                let from = (2 * y + row) * width + 6 * x;
                patch[row * ROW..][..ROW].copy_from_slice(&bordered[from..][..ROW]);
            }
            for (block, values) in patch.as_chunks::<BLOCK>().0.iter().enumerate() {
                patches[block * length + index] = *values;
            }
        }
    }
}

/// The largest of 3x3 pixels, with stride 2, around which nothing counts; one channel block. NaN
/// wins over every number.
fn max_pool(from: Extent, input: &[f32], output: &mut [f32]) {
    let (input, _) = input.as_chunks::<BLOCK>();
    let (output, _) = output.as_chunks_mut::<BLOCK>();
    let to = from.halved();
    for (y, row) in output.chunks_exact_mut(to.width).enumerate() {
        let rows = (2 * y).saturating_sub(1)..(2 * y + 2).min(from.height);
        for (x, output) in row.iter_mut().enumerate() {
            let columns = (2 * x).saturating_sub(1)..(2 * x + 2).min(from.width);
            let mut largest = input[2 * y * from.width + 2 * x];
            for row in rows.clone() {
                for value in &input[row * from.width..][columns.clone()] {
                    largest = larger(&largest, value);
                }
            }
            *output = largest;
        }
    }
}

/// The larger of two values in each channel; NaN is larger than every number.
pub fn larger(a: &[f32; BLOCK], b: &[f32; BLOCK]) -> [f32; BLOCK] {
    std::array::from_fn(|lane| {
        if a[lane] >= b[lane] || a[lane].is_nan() {
            a[lane]
        } else {
            b[lane]
        }
    })
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
    fn nan_wins_a_maximum_wherever_it_stands() {
        let extent = Extent {
            height: 3,
            width: 3,
        };
        for place in 0..9 {
            let mut input = [1.0; 9 * BLOCK];
            input[place * BLOCK + 3] = f32::NAN;
            let mut output = [0.0; 4 * BLOCK];
            max_pool(extent, &input, &mut output);
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
        max_pool(extent, &input, &mut output);
        assert_eq!((output[0], output[BLOCK]), (-2.0, -2.0));
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
