//! A 3x3 convolution with stride 1 by Winograd's minimal filtering F(4x4, 3x3): sixteen outputs
//! from 36 products instead of 144.
//!
//! Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016. Tiles of 6x6 inputs
//! and the filters are evaluated at the points 0, ±A, ±B and infinity in both directions; the
//! products at each pair of points, summed over the input channels, are a matrix product; the 4x4
//! outputs are interpolated from the sums.

use std::ops::Range;

use crate::kernels::filtering::{A, B, OUTPUTS, POINTS, PRODUCTS};
use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Kernels, PackedWeights, Tile};
use crate::model::plan::crew::Crew;
use crate::model::plan::fold::Folded;
use crate::model::plan::layers::{Extent, cache_for_activations, pieces};
use crate::model::plan::tiling::{Place, Tiling};

/// Weights of a filter.
const TAPS: usize = 9;

/// Weights and bias of a 3x3 convolution with stride 1, a border of one zero and cut negatives.
pub struct Winograd {
    weights: PackedWeights,
    bias: AlignedBuffer,
    extent: Extent,
    tiling: Tiling,
    /// Tiles whose products are worked on at a time.
    chunk: usize,
}

impl Winograd {
    /// Transforms and packs a 3x3 convolution over maps of `extent`.
    pub fn new(
        folded: &Folded,
        kernels: &Kernels,
        caches: &CacheSizes,
        extent: Extent,
    ) -> Winograd {
        let channels = (folded.out_channels, folded.in_channels);
        let blocks = kernels.max_blocks;
        let weights = PackedWeights::computed(
            channels,
            (PRODUCTS, BLOCK),
            blocks,
            |outs, in_channel, products| {
                let mut filters = [[0.0; BLOCK]; TAPS];
                for (lane, out_channel) in outs.enumerate() {
                    let scale = folded.scale[out_channel];
                    let filter = folded.filter(out_channel, in_channel);
                    for (tap, &weight) in filters.iter_mut().zip(filter) {
                        tap[lane] = f64::from(weight) * scale;
                    }
                }
                transform_filters(&filters, products);
            },
        );
        Winograd {
            chunk: tiles_in_cache(kernels, caches, weights.blocks() + weights.out_blocks()),
            weights,
            bias: folded.rounded_bias(),
            extent,
            tiling: Tiling::new(extent, OUTPUTS),
        }
    }

    /// Channel blocks of the output.
    pub fn out_blocks(&self) -> usize {
        self.weights.out_blocks()
    }

    /// Pairs of an input and an output channel, those of filled-up channels among them.
    pub fn channel_pairs(&self) -> usize {
        self.weights.blocks() * self.weights.out_blocks() * BLOCK * BLOCK
    }

    /// Products of an image for each of them.
    pub fn products_of_image(&self) -> usize {
        self.tiling.products()
    }

    /// Floats of room for the transformed input, and for the products of as many groups of output
    /// blocks as there may be threads: all.
    pub fn room(&self, images: usize) -> (usize, usize) {
        let floats = PRODUCTS * row_floats(self.chunk.min(self.tiling.tiles(images)));
        (self.weights.blocks() * floats, self.out_blocks() * floats)
    }

    /// The convolution of `[blocks, images * height * width, 16]`; `transformed` and `products` are
    /// [`Winograd::room`].
    pub fn run(
        &self,
        kernels: &Kernels,
        crew: Crew,
        images: usize,
        input: &[f32],
        (transformed, products): (&mut [f32], &mut [f32]),
        output: &mut [f32],
    ) {
        let map = images * self.extent.pixels() * BLOCK;
        let total = self.tiling.tiles(images);
        let (biases, _) = self.bias.as_chunks::<BLOCK>();
        let share = crew.share(self.weights.groups());
        let out_blocks = self.weights.first_block_of(share);
        for (first, count) in pieces(total, self.chunk) {
            let tiles = first..first + count;
            let places = self.tiling.places(images, tiles.clone());
            let row = row_floats(count);
            let block_stride = PRODUCTS * row;
            let transformed = &mut transformed[..self.weights.blocks() * block_stride];
            let inputs = input.chunks_exact(map);
            crew.each(
                transformed.chunks_exact_mut(block_stride).zip(inputs),
                |(to, input)| {
                    transform_input(kernels, self.extent, &places, input, to, row);
                },
            );
            let transformed = &*transformed;
            // A member's room is for the products of one group, which stay in the cache until they
            // are summed up.
            let rooms = products.chunks_mut(self.weights.first_block_of(1) * block_stride);
            let parts = output.chunks_mut(out_blocks * map).zip(rooms);
            crew.each(parts.enumerate(), |(part, (output, products))| {
                let groups = part * share..self.weights.groups().min((part + 1) * share);
                let group_floats = self.weights.first_block_of(1) * map;
                for (group, output) in groups.zip(output.chunks_mut(group_floats)) {
                    self.multiply(kernels, group, (images, &tiles), transformed, products);
                    let products = products.chunks_exact(block_stride);
                    let biases = &biases[self.weights.first_block_of(group)..];
                    let blocks = products.zip(biases).zip(output.chunks_exact_mut(map));
                    for ((from, bias), output) in blocks {
                        let from = (from, row);
                        transform_output(kernels, self.extent, &places, from, bias, output);
                    }
                }
            });
        }
    }

    /// The 36 matrix products for a group of output blocks: `[blocks, PRODUCTS, row]` to the same.
    /// What a tile does not need is not computed and stays what it was: none of its outputs that are
    /// wanted depends on it.
    fn multiply(
        &self,
        kernels: &Kernels,
        group: usize,
        (images, tiles): (usize, &Range<usize>),
        transformed: &[f32],
        products: &mut [f32],
    ) {
        let row = row_floats(tiles.len());
        let stride = PRODUCTS * row;
        for product in 0..PRODUCTS {
            let needing = self.tiling.needing(images, product);
            let needing = needing.start.max(tiles.start)..needing.end.min(tiles.end);
            for (start, length) in pieces(needing.len(), kernels.max_pixels) {
                let slot = needing.start - tiles.start + start;
                let at = product * row + slot * BLOCK;
                let tile = Tile {
                    input: &transformed[at..],
                    taps: &[0],
                    pixel_stride: BLOCK,
                    block_stride: stride,
                    blocks: self.weights.blocks(),
                    depth: self.weights.depth(),
                    weights: self.weights.tap(group, product),
                    out_blocks: self.weights.out_blocks_of(group),
                    pixels: length,
                    bias: None,
                    residual: None,
                    relu: false,
                    out_block_stride: stride,
                };
                kernels.conv_tile(&tile, &mut products[at..]);
            }
        }
    }
}

/// Tiles whose products are worked on at a time, with so many channel blocks of input and output.
///
/// As many as would fit the second-level cache with their products for all output channels (those of
/// one group are there at a time, but larger chunks gain nothing); but every chunk reads all weights,
/// so with many channels, where products of few tiles fill that cache already, there are at least as
/// many as make this traffic small.
fn tiles_in_cache(kernels: &Kernels, caches: &CacheSizes, blocks: usize) -> usize {
    let tile = PRODUCTS * blocks * BLOCK * size_of::<f32>();
    let fit = cache_for_activations(caches) / tile / kernels.max_pixels;
    fit.max(LEAST_READINGS) * kernels.max_pixels
}

/// Kernel calls that share a reading of the weights, at least: 64 bytes of weights are read for
/// every 16 of them and 16 multiply-adds of vectors a pixel, so that with four calls of 14 pixels a
/// core at full speed reads little more than 1 byte a cycle.
const LEAST_READINGS: usize = 4;

/// Floats from one product to the next: those of all tiles, made an odd number of cache lines, or
/// the 36 lines that a transform touches could all fall into a few sets of the cache.
fn row_floats(tiles: usize) -> usize {
    (tiles | 1) * BLOCK
}

/// The products in which each of sixteen 3x3 filters takes part, computed in f64: `[PRODUCTS]` rows.
fn transform_filters(filters: &[[f64; BLOCK]; TAPS], products: &mut [[f32; BLOCK]]) {
    let mut rows = [[[0.0; BLOCK]; POINTS]; 3];
    for (row, filters) in rows.iter_mut().zip(filters.as_chunks::<3>().0) {
        *row = evaluate(&filters[0], &filters[1], &filters[2]);
    }
    for column in 0..POINTS {
        let values = evaluate(&rows[0][column], &rows[1][column], &rows[2][column]);
        for (row, values) in values.iter().enumerate() {
            let product = &mut products[POINTS * row + column];
            for (to, &from) in product.iter_mut().zip(values) {
                *to = from as f32;
            }
        }
    }
}

/// Sixteen polynomials of degree 2 at every point, over the product of the point's distances from
/// the other finite points; at infinity the leading coefficient.
fn evaluate(f0: &[f64; BLOCK], f1: &[f64; BLOCK], f2: &[f64; BLOCK]) -> [[f64; BLOCK]; POINTS] {
    const A2: f64 = A * A;
    const B2: f64 = B * B;
    const AT_ZERO: f64 = 1.0 / (A2 * B2);
    const AT_A: f64 = 1.0 / (2.0 * A2 * (A2 - B2));
    const AT_B: f64 = 1.0 / (2.0 * B2 * (B2 - A2));
    let mut values = [[0.0; BLOCK]; POINTS];
    for lane in 0..BLOCK {
        let (f0, f1, f2) = (f0[lane], f1[lane], f2[lane]);
        let (even_a, odd_a) = (f0 + A2 * f2, A * f1);
        let (even_b, odd_b) = (f0 + B2 * f2, B * f1);
        values[0][lane] = f0 * AT_ZERO;
        values[1][lane] = (even_a + odd_a) * AT_A;
        values[2][lane] = (even_a - odd_a) * AT_A;
        values[3][lane] = (even_b + odd_b) * AT_B;
        values[4][lane] = (even_b - odd_b) * AT_B;
        values[5][lane] = f2;
    }
    values
}

/// Evaluates the 6x6 inputs around each of some tiles at all points, for one channel block.
///
/// `input` is `[images * height * width, 16]`; `products` is `[PRODUCTS][stride]` floats, of which
/// the first `16 * places.len()` of each row are written.
fn transform_input(
    kernels: &Kernels,
    extent: Extent,
    places: &[Place],
    input: &[f32],
    products: &mut [f32],
    stride: usize,
) {
    const ROW: usize = POINTS * BLOCK;
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
            kernels.winograd_input(&input[first * BLOCK..], width, products, stride);
            continue;
        }
        let mut patch = [0.0; POINTS * ROW];
        for y in rows {
            let first = image + (row + y - 1) * extent.width + column + columns.start - 1;
            let length = columns.len() * BLOCK;
            patch[y * ROW + columns.start * BLOCK..][..length]
                .copy_from_slice(&input[first * BLOCK..][..length]);
        }
        kernels.winograd_input(&patch, ROW, products, stride);
    }
}

/// Interpolates the 4x4 outputs of some tiles from the summed products of one block of
/// output channels, adds the bias and cuts negative values. The counterpart of [`transform_input`].
fn transform_output(
    kernels: &Kernels,
    extent: Extent,
    places: &[Place],
    (products, stride): (&[f32], usize),
    bias: &[f32; BLOCK],
    output: &mut [f32],
) {
    const ROW: usize = OUTPUTS * BLOCK;
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
            kernels.winograd_output(products, stride, bias, output, width);
            continue;
        }
        let mut outputs = [0.0; OUTPUTS * ROW];
        kernels.winograd_output(products, stride, bias, &mut outputs, ROW);
        for (y, outputs) in outputs.chunks_exact(ROW).enumerate().take(height) {
            let length = columns * BLOCK;
            output[y * width..][..length].copy_from_slice(&outputs[..length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    /// Values between -1 and 1 without order.
    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The convolution of one channel block with one filter a channel, without sums over channels.
    fn convolve(grid: Extent, images: usize, input: &[f32], filter: &[f64]) -> Vec<f64> {
        let (height, width) = (grid.height, grid.width);
        let mut output = vec![0.0; input.len()];
        for image in 0..images {
            for y in 0..height {
                for x in 0..width {
                    for (tap, weight) in filter.iter().enumerate() {
                        let (row, column) = (y + tap / 3, x + tap % 3);
                        if !(1..=height).contains(&row) || !(1..=width).contains(&column) {
                            continue;
                        }
                        let from = (image * height + row - 1) * width + column - 1;
                        let to = (image * height + y) * width + x;
                        for lane in 0..BLOCK {
                            output[to * BLOCK + lane] +=
                                weight * f64::from(input[from * BLOCK + lane]);
                        }
                    }
                }
            }
        }
        output
    }

    #[test]
    fn tiles_give_the_convolution_at_every_size_and_on_every_instruction_set() {
        for (height, width, images) in [(1, 1, 2), (2, 7, 1), (4, 4, 1), (7, 7, 3), (9, 14, 2)] {
            let grid = Extent { height, width };
            let input = values(images * height * width * BLOCK, 1);
            let filter: Vec<f64> = values(9, 2).into_iter().map(f64::from).collect();
            let bias: [f32; BLOCK] = std::array::from_fn(|lane| lane as f32 / 8.0 - 1.0);
            let expected: Vec<f64> = convolve(grid, images, &input, &filter)
                .iter()
                .enumerate()
                .map(|(at, sum)| (sum + f64::from(bias[at % BLOCK])).max(0.0))
                .collect();
            let filters = std::array::from_fn(|tap| [filter[tap]; BLOCK]);
            let mut weights = [[0.0; BLOCK]; PRODUCTS];
            transform_filters(&filters, &mut weights);
            let mut first: Option<Vec<f32>> = None;
            for kernels in Isa::available().into_iter().filter_map(Kernels::of) {
                let isa = kernels.isa;
                let mut output = vec![f32::NAN; input.len()];
                let tiles = Tiling::new(grid, OUTPUTS).tiles(images);
                // In two parts, with room between the rows of products.
                for part in [0..tiles / 2, tiles / 2..tiles] {
                    let stride = (part.len() + 1) * BLOCK;
                    let part = Tiling::new(grid, OUTPUTS).places(images, part);
                    let mut products = vec![0.0; PRODUCTS * stride];
                    transform_input(&kernels, grid, &part, &input, &mut products, stride);
                    for (row, weight) in products.chunks_exact_mut(stride).zip(weights) {
                        row.iter_mut().for_each(|value| *value *= weight[0]);
                    }
                    transform_output(
                        &kernels,
                        grid,
                        &part,
                        (&products, stride),
                        &bias,
                        &mut output,
                    );
                }
                for (found, expected) in output.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 2e-5, "{height}x{width} {isa}: {found} {expected}");
                }
                // The scalar kernels do not fuse multiplication and addition.
                if isa != Isa::Scalar {
                    let first = first.get_or_insert_with(|| output.clone());
                    assert!(*first == output, "{isa} gives other bits");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_stay_in_their_image() {
        let grid = Extent {
            height: 5,
            width: 5,
        };
        let mut input = values(3 * 25 * BLOCK, 3);
        input[30 * BLOCK] = f32::NAN;
        input[40 * BLOCK] = f32::INFINITY;
        let tiling = Tiling::new(grid, OUTPUTS);
        let tiles = tiling.tiles(3);
        let places = tiling.places(3, 0..tiles);
        let stride = tiles * BLOCK;
        let mut products = vec![0.0; PRODUCTS * stride];
        let mut output = vec![0.0; input.len()];
        let kernels = Kernels::of(Isa::detect()).expect("it was detected");
        transform_input(&kernels, grid, &places, &input, &mut products, stride);
        transform_output(
            &kernels,
            grid,
            &places,
            (&products, stride),
            &[0.0; BLOCK],
            &mut output,
        );
        for (image, output) in output.chunks(25 * BLOCK).enumerate() {
            assert_eq!(output.iter().all(|value| value.is_finite()), image != 1);
        }
        assert!(output[30 * BLOCK].is_nan());
    }
}
