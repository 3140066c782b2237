//! The layers of a plan in bfloat16: what is packed for each, and how it runs.
//!
//! Feature maps and weights are bfloat16, sums are f32. Maps lie as those of the f32 layers, in the
//! memory of half as many floats.

use half::bf16;

use super::crew::Crew;
use super::fold::Folded;
use super::layers::{Extent, Filters, add_border, cache_for_activations, pieces, subsample};
use super::winograd_bf16::WinogradBf16;
use super::{Algorithm, Maps, Slot, Task};
use crate::kernels::bf16::{MAX_BLOCKS, MAX_PIXELS, PackedBf16, TileBf16, halves, halves_mut};
use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Kernels, KernelsBf16, Tile};
use crate::model::Precision;

/// What is done between two slots whose maps are bfloat16, or become it, or stop being it.
pub enum OperationBf16 {
    /// 1x1 convolution of maps in f32, whose output is rounded.
    Rounding(Filters, KernelsBf16),
    /// 1x1 convolution, perhaps with a shortcut to add; to bfloat16 or to f32.
    Pointwise(FiltersBf16, Option<Slot>),
    /// 3x3 convolution with stride 2.
    Direct(FiltersBf16),
    /// 3x3 convolution with stride 1.
    Winograd(WinogradBf16),
    /// Stride 2 without convolution.
    Subsample,
}

impl OperationBf16 {
    /// The slot of the shortcut that is added.
    pub fn shortcut(&self) -> Option<Slot> {
        match self {
            OperationBf16::Pointwise(_, shortcut) => *shortcut,
            _ => None,
        }
    }

    /// Floats of room for the two kinds of scratch.
    pub fn room(&self, from: Maps, images: usize) -> [usize; 2] {
        match self {
            OperationBf16::Direct(filters) => [filters.bordered_floats(from.extent), 0],
            OperationBf16::Winograd(winograd) => winograd.room(images),
            _ => [0, 0],
        }
    }

    /// How it computes, and its operations for so many pixels of output: in the definition of the
    /// convolution, and in the matrix products that are computed instead.
    pub fn flop(&self, pixels: f64) -> (Algorithm, f64, f64) {
        let direct = |filters: &FiltersBf16| 2.0 * filters.weights_per_pixel() as f64 * pixels;
        match self {
            OperationBf16::Pointwise(filters, _) => {
                (Algorithm::Pointwise, direct(filters), direct(filters))
            }
            OperationBf16::Direct(filters) => (Algorithm::Direct, direct(filters), direct(filters)),
            OperationBf16::Winograd(winograd) => {
                let channels = 2.0 * winograd.channel_pairs() as f64;
                let products = winograd.products_of_image() as f64;
                let direct = channels * 9.0 * pixels;
                (Algorithm::WinogradBf16, direct, channels * products)
            }
            OperationBf16::Subsample => (Algorithm::Subsample, 0.0, 0.0),
            OperationBf16::Rounding(filters, _) => {
                let flop = 2.0 * filters.weights_per_pixel() as f64 * pixels;
                (Algorithm::Pointwise, flop, flop)
            }
        }
    }

    /// From input to output, of so many images.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is computed, by whom, and where"
    )]
    pub fn run(
        &self,
        f32_kernels: &Kernels,
        crew: Crew,
        images: usize,
        (from, to): (Maps, Maps),
        input: &[f32],
        residual: Option<&[f32]>,
        (first, second): (&mut [f32], &mut [f32]),
        output: &mut [f32],
    ) {
        match self {
            OperationBf16::Rounding(filters, kernels) => {
                let pixels = images * from.extent.pixels();
                let output = halves_mut(output);
                let conv = |tile: &Tile<'_>, output: &mut [bf16]| {
                    conv_and_round(f32_kernels, kernels, tile, output);
                };
                filters.run(f32_kernels, crew, pixels, input, None, output, conv);
            }
            OperationBf16::Pointwise(filters, _) => {
                let pixels = images * from.extent.pixels();
                let (input, residual) = (halves(input), residual.map(halves));
                match to.precision {
                    Precision::F32 => filters.run(
                        crew,
                        pixels,
                        input,
                        residual,
                        output,
                        KernelsBf16::conv_to_f32,
                    ),
                    Precision::Bf16 => filters.run(
                        crew,
                        pixels,
                        input,
                        residual,
                        halves_mut(output),
                        KernelsBf16::conv_to_bf16,
                    ),
                }
            }
            OperationBf16::Direct(filters) => filters.run_3x3_stride_2(
                crew,
                (from.extent, images),
                halves(input),
                halves_mut(first),
                halves_mut(output),
            ),
            OperationBf16::Winograd(winograd) => winograd.run(
                crew,
                images,
                halves(input),
                (halves_mut(first), second),
                halves_mut(output),
            ),
            OperationBf16::Subsample => {
                subsample(from.extent, halves(input), halves_mut(output));
            }
        }
    }
}

impl OperationBf16 {
    /// Packs the weights of a task whose input is `from`. `f32_kernels` have tiles of as many output
    /// blocks.
    pub fn new(
        task: Task,
        f32_kernels: &Kernels,
        kernels: &KernelsBf16,
        caches: &CacheSizes,
        from: Maps,
    ) -> OperationBf16 {
        let filters = |folded| FiltersBf16::new(folded, f32_kernels, kernels, caches);
        match task {
            // The one step of this kind has no shortcut: it is the last of a block that projects it.
            Task::Pointwise(folded, None) if from.precision == Precision::F32 => {
                OperationBf16::Rounding(Filters::new(&folded, f32_kernels, caches), *kernels)
            }
            Task::Pointwise(folded, shortcut) => {
                OperationBf16::Pointwise(filters(&folded), shortcut)
            }
            Task::Direct(folded) => OperationBf16::Direct(filters(&folded)),
            Task::Winograd(folded) => OperationBf16::Winograd(WinogradBf16::new(
                &folded,
                f32_kernels,
                kernels,
                caches,
                from.extent,
            )),
            Task::Subsample => OperationBf16::Subsample,
        }
    }
}

/// Output of a tile in f32, from the start of a cache line on.
#[repr(align(64))]
struct Sums([f32; MAX_PIXELS * MAX_BLOCKS * BLOCK]);

/// A tile in f32 whose output is rounded.
fn conv_and_round(
    f32_kernels: &Kernels,
    kernels: &KernelsBf16,
    tile: &Tile<'_>,
    output: &mut [bf16],
) {
    let mut room = Sums([0.0; MAX_PIXELS * MAX_BLOCKS * BLOCK]);
    let sums = &mut room.0;
    let map = tile.pixels * BLOCK;
    let packed = Tile {
        out_block_stride: map,
        ..*tile
    };
    f32_kernels.conv_tile(&packed, sums);
    let blocks = sums.chunks_exact(map).take(tile.out_blocks);
    for (sums, output) in blocks.zip(output.chunks_mut(tile.out_block_stride)) {
        kernels.round(sums, &mut output[..map]);
    }
}

/// Weights and bias of a convolution whose input lies pixel by pixel; negative outputs are cut.
pub struct FiltersBf16 {
    kernels: KernelsBf16,
    weights: PackedBf16,
    bias: AlignedBuffer,
    /// Pixels whose input fits the cache: whole tiles.
    chunk: usize,
}

impl FiltersBf16 {
    /// Packs a convolution. `f32_kernels` have tiles of as many
    /// output blocks.
    pub fn new(
        folded: &Folded,
        f32_kernels: &Kernels,
        kernels: &KernelsBf16,
        caches: &CacheSizes,
    ) -> FiltersBf16 {
        let weights = PackedBf16::new(&folded.packed(f32_kernels));
        let value = size_of::<bf16>() * BLOCK;
        let pixels = cache_for_activations(caches) / (weights.blocks() * value);
        FiltersBf16 {
            kernels: *kernels,
            chunk: (pixels / kernels.max_pixels).max(1) * kernels.max_pixels,
            weights,
            bias: folded.rounded_bias(),
        }
    }

    /// A 1x1 convolution of `pixels` pixels, `[blocks, pixels, 16]` to the same.
    fn run<T: Send>(
        &self,
        crew: Crew,
        pixels: usize,
        input: &[bf16],
        residual: Option<&[bf16]>,
        output: &mut [T],
        conv: impl Fn(&KernelsBf16, &TileBf16<'_>, &mut [T]) + Sync,
    ) {
        let stride = pixels * BLOCK;
        let (share, values) = self.share(crew, stride);
        crew.each(output.chunks_mut(values).enumerate(), |(part, output)| {
            for (first_pixel, count) in chunks(pixels, self.chunk) {
                for (group, first) in self.groups(part, share, stride) {
                    for (piece, length) in pieces(count, self.kernels.max_pixels) {
                        let from = (first_pixel + piece) * BLOCK;
                        let at = first + from;
                        let residual = residual.map(|residual| &residual[part * values + at..]);
                        let tile = TileBf16 {
                            input: &input[from..],
                            taps: &[0],
                            block_stride: stride,
                            residual,
                            ..self.tile(group, length, stride)
                        };
                        conv(&self.kernels, &tile, &mut output[at..]);
                    }
                }
            }
        });
    }

    /// A 3x3 convolution with stride 2 and a border of one zero, `n` images of `from` pixels.
    /// `bordered` is room for [`FiltersBf16::bordered_floats`].
    fn run_3x3_stride_2(
        &self,
        crew: Crew,
        (from, images): (Extent, usize),
        input: &[bf16],
        bordered: &mut [bf16],
        output: &mut [bf16],
    ) {
        let to = from.halved();
        let width = from.width + 2;
        let map = from.pixels() * BLOCK;
        let block_stride = (from.height + 2) * width * BLOCK;
        let out_stride = images * to.pixels() * BLOCK;
        let taps: [usize; 9] = std::array::from_fn(|tap| (tap / 3 * width + tap % 3) * BLOCK);
        let bordered = &mut bordered[..self.weights.blocks() * block_stride];
        let (share, values) = self.share(crew, out_stride);
        for image in 0..images {
            let maps = input.chunks_exact(map).skip(image).step_by(images);
            let blocks = bordered.chunks_exact_mut(block_stride).zip(maps);
            crew.each(blocks, |(to, map)| add_border(from, map, to));
            let bordered = &*bordered;
            crew.each(output.chunks_mut(values).enumerate(), |(part, output)| {
                for (group, first) in self.groups(part, share, out_stride) {
                    for row in 0..to.height {
                        for (column, length) in pieces(to.width, self.kernels.max_pixels) {
                            let pixel = image * to.pixels() + row * to.width + column;
                            let tile = TileBf16 {
                                input: &bordered[2 * (row * width + column) * BLOCK..],
                                taps: &taps,
                                pixel_stride: 2 * BLOCK,
                                block_stride,
                                ..self.tile(group, length, out_stride)
                            };
                            let output = &mut output[first + pixel * BLOCK..];
                            self.kernels.conv_to_bf16(&tile, output);
                        }
                    }
                }
            });
        }
    }

    /// Groups of output blocks that a member of the crew computes, and their values in the output.
    fn share(&self, crew: Crew, out_stride: usize) -> (usize, usize) {
        let share = crew.share(self.weights.groups());
        (share, self.weights.first_block_of(share) * out_stride)
    }

    /// The groups of a member's part, each with its place in that part of the output.
    fn groups(
        &self,
        part: usize,
        share: usize,
        out_stride: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let first = part * share;
        let groups = first..self.weights.groups().min(first + share);
        groups.map(move |group| {
            (
                group,
                self.weights.first_block_of(group - first) * out_stride,
            )
        })
    }

    /// Multiply-adds for a pixel of the output, those of filled-up channels among them.
    pub fn weights_per_pixel(&self) -> usize {
        (0..self.weights.groups())
            .map(|group| self.weights.group(group).len())
            .sum()
    }

    /// Floats of one image of `from` pixels with a border.
    fn bordered_floats(&self, from: Extent) -> usize {
        self.weights.blocks() * (from.height + 2) * (from.width + 2) * BLOCK / 2
    }

    /// What tiles of a group of output blocks have in common.
    fn tile(&self, group: usize, pixels: usize, out_block_stride: usize) -> TileBf16<'_> {
        let first = self.weights.first_block_of(group) * BLOCK;
        let out_blocks = self.weights.out_blocks_of(group);
        TileBf16 {
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
            relu: true,
            out_block_stride,
        }
    }
}

/// Cuts `total` into chunks of `most` and a rest. Start and length of each.
fn chunks(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let starts = (0..total).step_by(most);
    starts.map(move |start| (start, most.min(total - start)))
}
