//! A 3x3 convolution with stride 1 as 36 matrix products; see [`crate::kernels::winograd`].

use crate::kernels::winograd::{
    Grid, PRODUCTS, transform_filter, transform_input, transform_output,
};
use crate::kernels::{AlignedBuffer, BLOCK, Kernels, PackedWeights, Tile};
use crate::model::plan::fold::Folded;
use crate::model::plan::layers::{CACHE, Extent, pieces};

/// Weights and bias of a 3x3 convolution with stride 1, a border of one zero and cut negatives.
pub struct Winograd {
    weights: PackedWeights,
    bias: AlignedBuffer,
    grid: Grid,
}

impl Winograd {
    /// Transforms and packs a 3x3 convolution over maps of `extent`.
    pub fn new(folded: &Folded, kernels: &Kernels, extent: Extent) -> Winograd {
        let (filters, _) = folded.weights.as_chunks::<9>();
        let weights: Vec<f32> = filters
            .iter()
            .flat_map(|filter| transform_filter(filter).map(|value| value as f32))
            .collect();
        let (out, into) = (folded.out_channels, folded.in_channels);
        Winograd {
            weights: PackedWeights::new(&weights, out, into, PRODUCTS, kernels.max_blocks),
            bias: folded.rounded_bias(),
            grid: Grid {
                height: extent.height,
                width: extent.width,
            },
        }
    }

    /// Channel blocks of the output.
    pub fn out_blocks(&self) -> usize {
        self.weights.out_blocks()
    }

    /// Tiles whose products are worked on at a time.
    ///
    /// As many as fit the cache with all their products; but every chunk reads all weights, so with
    /// many channels, where products of few tiles fill the cache already, there are at least as many
    /// as make this traffic small.
    fn tiles_at_once(&self, kernels: &Kernels, images: usize) -> usize {
        let blocks = self.weights.blocks() + self.out_blocks();
        let fit = CACHE / (PRODUCTS * blocks * BLOCK * size_of::<f32>());
        let least = LEAST_TILES / kernels.max_pixels;
        let most = (fit / kernels.max_pixels).max(least) * kernels.max_pixels;
        most.min(images * self.grid.tiles())
    }

    /// Floats of room for the transformed input, and for the products.
    pub fn room(&self, kernels: &Kernels, images: usize) -> (usize, usize) {
        let floats = PRODUCTS * row_floats(self.tiles_at_once(kernels, images));
        (self.weights.blocks() * floats, self.out_blocks() * floats)
    }

    /// The convolution of `[blocks, images * height * width, 16]`; `transformed` and `products` are
    /// [`Winograd::room`].
    pub fn run(
        &self,
        kernels: &Kernels,
        images: usize,
        input: &[f32],
        (transformed, products): (&mut [f32], &mut [f32]),
        output: &mut [f32],
    ) {
        let map = images * self.grid.height * self.grid.width * BLOCK;
        let total = images * self.grid.tiles();
        for (first, count) in pieces(total, self.tiles_at_once(kernels, images)) {
            let tiles = first..first + count;
            let row = row_floats(count);
            let block_stride = PRODUCTS * row;
            let blocks = input.chunks_exact(map).take(self.weights.blocks());
            for (input, to) in blocks.zip(transformed.chunks_exact_mut(block_stride)) {
                transform_input(kernels.isa, self.grid, tiles.clone(), input, to, row);
            }
            for product in 0..PRODUCTS {
                self.multiply(kernels, product, count, transformed, products);
            }
            let (biases, _) = self.bias.as_chunks::<BLOCK>();
            let blocks = products.chunks_exact(block_stride).zip(biases);
            for ((from, bias), output) in blocks.zip(output.chunks_exact_mut(map)) {
                transform_output(
                    kernels.isa,
                    self.grid,
                    tiles.clone(),
                    from,
                    row,
                    bias,
                    output,
                );
            }
        }
    }

    /// One of the 36 matrix products: `[blocks, PRODUCTS, row]` to the same.
    fn multiply(
        &self,
        kernels: &Kernels,
        product: usize,
        tiles: usize,
        transformed: &[f32],
        products: &mut [f32],
    ) {
        let row = row_floats(tiles);
        let stride = PRODUCTS * row;
        for group in 0..self.weights.groups() {
            let first = self.weights.first_block_of(group) * stride;
            for (start, length) in pieces(tiles, kernels.max_pixels) {
                let at = product * row + start * BLOCK;
                let tile = Tile {
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
                kernels.conv_tile(&tile, &mut products[first + at..]);
            }
        }
    }
}

/// Tiles that share a reading of the weights: 64 bytes of weights are read for every 16 of them and
/// 16 multiply-adds of vectors, so with 56 a core at full speed reads little more than 1 byte a cycle.
const LEAST_TILES: usize = 56;

/// Floats from one product to the next: those of all tiles, made an odd number of cache lines, or
/// the 36 lines that a transform touches could all fall into a few sets of the cache.
fn row_floats(tiles: usize) -> usize {
    (tiles | 1) * BLOCK
}
