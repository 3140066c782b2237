//! A 3x3 convolution with stride 1 in bfloat16 by Winograd's minimal filtering F(2x2, 3x3): four
//! outputs from 16 products instead of 36.
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016. Its evaluations are
//! sums of two or four inputs, so that rounding them to bfloat16 costs little more than rounding the
//! inputs did. F(4x4, 3x3), with fewer products, was twice as far from the exact features.

use std::ops::Range;

use half::bf16;

use super::crew::Crew;
use super::fold::Folded;
use super::layers::{Extent, cache_for_activations, pieces};
use super::tiling::{Place, Tiling};
use crate::kernels::bf16::{OUTPUTS, POINTS, PRODUCTS, PackedBf16, TileBf16};
use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Kernels, KernelsBf16, PackedWeights};

/// Weights and bias of a 3x3 convolution with stride 1, a border of one zero and cut negatives.
pub struct WinogradBf16 {
    kernels: KernelsBf16,
    weights: PackedBf16,
    bias: AlignedBuffer,
    extent: Extent,
    tiling: Tiling,
    /// Tiles whose products are worked on at a time.
    chunk: usize,
}

impl WinogradBf16 {
    /// Transforms and packs a 3x3 convolution over maps of `extent`. `f32_kernels` have tiles of as
    /// many output blocks.
    pub fn new(
        folded: &Folded,
        f32_kernels: &Kernels,
        kernels: &KernelsBf16,
        caches: &CacheSizes,
        extent: Extent,
    ) -> WinogradBf16 {
        let channels = (folded.out_channels, folded.in_channels);
        let blocks = f32_kernels.max_blocks;
        let weights = PackedWeights::computed(
            channels,
            (PRODUCTS, BLOCK),
            blocks,
            |outs, in_channel, products| {
                for (lane, out_channel) in outs.enumerate() {
                    let filter = folded.filter(out_channel, in_channel);
                    let scale = folded.scale[out_channel];
                    let transformed = transform_filter(filter);
                    for (product, weight) in products.iter_mut().zip(transformed) {
                        product[lane] = (weight * scale) as f32;
                    }
                }
            },
        );
        let weights = PackedBf16::new(&weights);
        let values = weights.blocks() * size_of::<bf16>() + weights.out_blocks() * size_of::<f32>();
        let fit = cache_for_activations(caches) / (PRODUCTS * BLOCK * values);
        let calls = (fit / kernels.max_pixels).max(LEAST_READINGS);
        WinogradBf16 {
            kernels: *kernels,
            chunk: calls * kernels.max_pixels,
            weights,
            bias: folded.rounded_bias(),
            extent,
            tiling: Tiling::new(extent, OUTPUTS),
        }
    }

    /// Pairs of an input and an output channel, those of filled-up channels among them.
    pub fn channel_pairs(&self) -> usize {
        self.weights.blocks() * self.weights.out_blocks() * BLOCK * BLOCK
    }

    /// Products of an image for each of them.
    pub fn products_of_image(&self) -> usize {
        self.tiling.products()
    }

    /// Floats of room for the transformed input, and for the products; see the f32 layer.
    pub fn room(&self, images: usize) -> [usize; 2] {
        let row = row_values(self.chunk.min(self.tiling.tiles(images)));
        [
            self.weights.blocks() * PRODUCTS * row / 2,
            self.weights.out_blocks() * PRODUCTS * row,
        ]
    }

    /// The convolution of `[blocks, images * height * width, 16]`; `transformed` and `products` are
    /// [`WinogradBf16::room`].
    pub fn run(
        &self,
        crew: Crew,
        images: usize,
        input: &[bf16],
        (transformed, products): (&mut [bf16], &mut [f32]),
        output: &mut [bf16],
    ) {
        let map = images * self.extent.pixels() * BLOCK;
        let total = self.tiling.tiles(images);
        let (biases, _) = self.bias.as_chunks::<BLOCK>();
        let share = crew.share(self.weights.groups());
        let out_blocks = self.weights.first_block_of(share);
        for (first, count) in pieces(total, self.chunk) {
            let tiles = first..first + count;
            let places = self.tiling.places(images, tiles.clone());
            let row = row_values(count);
            let block_stride = PRODUCTS * row;
            let transformed = &mut transformed[..self.weights.blocks() * block_stride];
            let blocks = transformed.chunks_exact_mut(block_stride);
            crew.each(blocks.zip(input.chunks_exact(map)), |(to, input)| {
                self.transform_input(&places, input, to, row);
            });
            let transformed = &*transformed;
            // As in f32, a member's room is for the products of one group.
            let rooms = products.chunks_mut(self.weights.first_block_of(1) * block_stride);
            let parts = output.chunks_mut(out_blocks * map).zip(rooms);
            crew.each(parts.enumerate(), |(part, (output, products))| {
                let groups = part * share..self.weights.groups().min((part + 1) * share);
                let group_values = self.weights.first_block_of(1) * map;
                for (group, output) in groups.zip(output.chunks_mut(group_values)) {
                    self.multiply(group, (images, &tiles), transformed, products);
                    let products = products.chunks_exact(block_stride);
                    let biases = &biases[self.weights.first_block_of(group)..];
                    let blocks = products.zip(biases).zip(output.chunks_exact_mut(map));
                    for ((from, bias), output) in blocks {
                        self.transform_output(&places, (from, row), bias, output);
                    }
                }
            });
        }
    }

    /// The 16 matrix products for a group of output blocks: `[blocks, PRODUCTS, row]` to the same.
    /// What a tile does not need is not computed and stays what it was: none of its outputs that are
    /// wanted depends on it.
    fn multiply(
        &self,
        group: usize,
        (images, tiles): (usize, &Range<usize>),
        transformed: &[bf16],
        products: &mut [f32],
    ) {
        let row = row_values(tiles.len());
        let stride = PRODUCTS * row;
        for product in 0..PRODUCTS {
            let needing = self.tiling.needing(images, product);
            let needing = needing.start.max(tiles.start)..needing.end.min(tiles.end);
            for (start, length) in pieces(needing.len(), self.kernels.max_pixels) {
                let slot = needing.start - tiles.start + start;
                let at = product * row + slot * BLOCK;
                let tile = TileBf16 {
                    input: &transformed[at..],
                    taps: &[0],
                    pixel_stride: BLOCK,
                    block_stride: stride,
                    blocks: self.weights.blocks(),
                    weights: self.weights.tap(group, product),
                    out_blocks: self.weights.out_blocks_of(group),
                    pixels: length,
                    bias: None,
                    residual: None,
                    relu: false,
                    out_block_stride: stride,
                };
                self.kernels.conv_to_f32(&tile, &mut products[at..]);
            }
        }
    }

    /// Evaluates the 4x4 inputs around each of some tiles at all points, for one channel block.
    fn transform_input(
        &self,
        places: &[Place],
        input: &[bf16],
        products: &mut [bf16],
        stride: usize,
    ) {
        const ROW: usize = POINTS * BLOCK;
        let extent = self.extent;
        let width = extent.width * BLOCK;
        for (slot, place) in places.iter().enumerate() {
            let Place {
                image, row, column, ..
            } = *place;
            let products = &mut products[slot * BLOCK..];
            // The convolution has a border of one zero: a patch starts one pixel up and left.
            let rows = usize::from(row == 0)..POINTS.min(extent.height + 1 - row);
            let columns = usize::from(column == 0)..POINTS.min(extent.width + 1 - column);
            if rows.len() == POINTS && columns.len() == POINTS {
                let first = image + (row - 1) * extent.width + column - 1;
                let input = &input[first * BLOCK..];
                self.kernels.winograd_input(input, width, products, stride);
                continue;
            }
            let mut patch = [bf16::ZERO; POINTS * ROW];
            for y in rows {
                let first = image + (row + y - 1) * extent.width + column + columns.start - 1;
                let length = columns.len() * BLOCK;
                patch[y * ROW + columns.start * BLOCK..][..length]
                    .copy_from_slice(&input[first * BLOCK..][..length]);
            }
            self.kernels.winograd_input(&patch, ROW, products, stride);
        }
    }

    /// Interpolates the 2x2 outputs of some tiles, for one block of output channels.
    fn transform_output(
        &self,
        places: &[Place],
        (products, stride): (&[f32], usize),
        bias: &[f32; BLOCK],
        output: &mut [bf16],
    ) {
        const ROW: usize = OUTPUTS * BLOCK;
        let extent = self.extent;
        let width = extent.width * BLOCK;
        for (slot, place) in places.iter().enumerate() {
            let Place {
                image,
                row,
                column,
                height,
                width: columns,
            } = *place;
            let products = &products[slot * BLOCK..];
            let output = &mut output[(image + row * extent.width + column) * BLOCK..];
            if height == OUTPUTS && columns == OUTPUTS {
                self.kernels
                    .winograd_output(products, stride, bias, output, width);
                continue;
            }
            let mut outputs = [bf16::ZERO; OUTPUTS * ROW];
            self.kernels
                .winograd_output(products, stride, bias, &mut outputs, ROW);
            for (y, outputs) in outputs.chunks_exact(ROW).enumerate().take(height) {
                let length = columns * BLOCK;
                output[y * width..][..length].copy_from_slice(&outputs[..length]);
            }
        }
    }
}

/// Kernel calls that share a reading of the weights, at least; see the f32 layer.
const LEAST_READINGS: usize = 4;

/// Values from one product to the next: those of all tiles, made an odd number of half cache lines,
/// or the lines that a transform touches could all fall into a few sets of the cache.
fn row_values(tiles: usize) -> usize {
    (tiles | 1) * BLOCK
}

/// The products in which a 3x3 filter takes part, `[POINTS, POINTS]`, in f64: the filter at 0, at
/// 1 and -1, halved, and its last coefficient.
fn transform_filter(filter: &[f32]) -> [f64; PRODUCTS] {
    let evaluate = |[f0, f1, f2]: [f64; 3]| [f0, (f0 + f1 + f2) / 2.0, (f0 - f1 + f2) / 2.0, f2];
    let rows: [_; 3] = std::array::from_fn(|row| {
        evaluate(std::array::from_fn(|column| {
            f64::from(filter[3 * row + column])
        }))
    });
    let mut products = [0.0; PRODUCTS];
    for column in 0..POINTS {
        let values = evaluate(std::array::from_fn(|row| rows[row][column]));
        for (row, value) in values.into_iter().enumerate() {
            products[POINTS * row + column] = value;
        }
    }
    products
}
