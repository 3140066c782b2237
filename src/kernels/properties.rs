//! Every kernel over random sizes, strides and values, against plain loops.
//!
//! Each case is computed in allocations that end with the last float a kernel may touch, so that a
//! checker of memory sees and explains whatever goes beyond (`scripts/test-memory`), and again between
//! fences, which need no checker and know every instruction set.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::fence::{Fenced, Tight};
use super::filtering::{OUTPUTS, POINTS, PRODUCTS, Vector, evaluate_tile, interpolate_tile};
use super::grid::{every_kernel, value};
use super::{BLOCK, Isa, Kernels, PackedWeights, Tile};

/// Random cases for each kernel.
const CASES: u64 = 200;

/// What stands between the values of an output.
const GUARD: f32 = -1234.5;

/// Values that arithmetic treats in ways of their own.
const ODD: [f32; 10] = [
    0.0,
    -0.0,
    f32::MIN_POSITIVE,
    f32::MIN_POSITIVE / 8.0,
    -f32::MIN_POSITIVE / 1024.0,
    f32::MAX,
    -f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64) -> Self {
        Draw(ChaCha8Rng::seed_from_u64(seed))
    }

    /// From `first` to `last`.
    fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.0.next_u32() as usize % (last - first + 1)
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.between(1, chances) == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.between(0, of.len() - 1)]
    }

    /// Values in [-1, 1), scaled; one in `rare` is odd instead.
    fn floats(&mut self, count: usize, scale: f32, rare: Option<usize>) -> Box<[f32]> {
        let mut draw = || match rare {
            Some(rare) if self.one_in(rare) => self.pick(&ODD),
            _ => value(&mut self.0) * scale,
        };
        (0..count).map(|_| draw()).collect()
    }
}

/// Where values first have other bits, and both of them; all NaNs are the same, because processors
/// disagree on which one they make.
fn first_difference(found: &[f32], expected: &[f32]) -> Option<(usize, f32, f32)> {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected).enumerate();
    pairs
        .map(|(at, (&found, &expected))| (at, found, expected))
        .find(|(_, found, expected)| {
            found.to_bits() != expected.to_bits() && !(found.is_nan() && expected.is_nan())
        })
}

/// `sum + input * weight` as the instruction set rounds it.
fn add_product(isa: Isa, sum: f32, input: f32, weight: f32) -> f32 {
    match isa {
        Isa::Scalar => sum + input * weight,
        Isa::Neon | Isa::Avx2 | Isa::Avx512 => input.mul_add(weight, sum),
    }
}

/// The tile's values, one after the other, with what is between them left as it is.
fn compute(isa: Isa, tile: &Tile<'_>, output: &mut [f32]) {
    let width = tile.out_blocks * BLOCK;
    for pixel in 0..tile.pixels {
        for column in 0..width {
            let mut sum = tile.bias.map_or(0.0, |bias| bias[column]);
            let mut weights = tile.weights.iter().skip(column).step_by(width);
            for tap in tile.taps {
                for block in 0..tile.blocks {
                    let at = tap + block * tile.block_stride + pixel * tile.pixel_stride;
                    for (&input, &weight) in tile.input[at..][..tile.depth].iter().zip(&mut weights)
                    {
                        sum = add_product(isa, sum, input, weight);
                    }
                }
            }
            let block = column / BLOCK * tile.out_block_stride;
            let at = block + pixel * BLOCK + column % BLOCK;
            sum = tile.residual.map_or(sum, |residual| sum + residual[at]);
            output[at] = if tile.relu && sum < 0.0 { 0.0 } else { sum };
        }
    }
}

/// What a kernel makes of a tile whose slices stand at the edge of what the process may touch.
fn at_a_fence(kernels: &Kernels, tile: &Tile<'_>, output: &[f32], tight: Tight) -> Box<[f32]> {
    let fence = |floats: &[f32]| Fenced::new(floats, tight);
    let (input, weights) = (fence(tile.input), fence(tile.weights));
    let (bias, residual) = (tile.bias.map(fence), tile.residual.map(fence));
    let mut output = fence(output);
    let fenced = Tile {
        input: input.slice(),
        weights: weights.slice(),
        bias: bias.as_ref().map(Fenced::slice),
        residual: residual.as_ref().map(Fenced::slice),
        ..*tile
    };
    kernels.conv_tile(&fenced, output.slice_mut());
    output.slice().into()
}

/// Holds the convolution tile against plain loops, bit for bit, at random sizes and strides.
fn tiles_are_those_of_plain_loops(seed: u64, scale: f32, rare: Option<usize>) {
    for kernels in every_kernel() {
        for case in 0..CASES {
            let mut draw = Draw::new(seed << 32 | case);
            let pixels = draw.between(1, kernels.max_pixels);
            let out_blocks = draw.between(1, kernels.max_blocks);
            let (blocks, taps) = (draw.between(1, 3), draw.between(1, 9));
            let any_stride = draw.between(0, 100);
            let taps: Vec<usize> = (0..taps).map(|_| draw.between(0, 300)).collect();
            let any_depth = draw.between(1, 40);
            let depth = draw.pick(&[BLOCK, 21, any_depth]);
            let weights = taps.len() * blocks * depth * out_blocks * BLOCK;
            let weights = draw.floats(weights, scale, rare);
            let bias = draw.floats(out_blocks * BLOCK, scale, rare);
            let smallest_stride = (out_blocks - 1) * pixels * BLOCK;
            let shape = Tile {
                input: &[],
                taps: &taps,
                pixel_stride: draw.pick(&[6, 16, 32, any_stride]),
                block_stride: draw.between(0, 500),
                blocks,
                depth,
                weights: &weights,
                out_blocks,
                pixels,
                bias: draw.one_in(2).then_some(&bias),
                residual: None,
                relu: draw.one_in(2),
                out_block_stride: smallest_stride + draw.between(0, 40),
            };
            let input = draw.floats(shape.input_extent(), scale, rare);
            let residual = draw.floats(shape.output_extent(), scale, rare);
            let tile = Tile {
                input: &input,
                residual: draw.one_in(2).then_some(&residual),
                ..shape
            };
            let mut found = vec![GUARD; tile.output_extent()].into_boxed_slice();
            let mut expected = found.clone();
            let fenced = |tight| at_a_fence(&kernels, &tile, &found, tight);
            let runs = [fenced(Tight::Front), fenced(Tight::Back)];
            kernels.conv_tile(&tile, &mut found);
            compute(kernels.isa, &tile, &mut expected);
            for found in runs.iter().chain([&found]) {
                let difference = first_difference(found, &expected);
                let name = kernels.conv_name;
                assert!(difference.is_none(), "{name}, case {case}: {difference:?}");
            }
        }
    }
}

#[test]
fn tiles_of_any_size_are_those_of_plain_loops() {
    tiles_are_those_of_plain_loops(1, 1.0, None);
}

#[test]
fn denormal_values_are_kept() {
    // Products are at most 2^-130, below the smallest normal number, 2^-126.
    tiles_are_those_of_plain_loops(2, 2f32.powi(-65), None);
}

#[test]
fn values_that_overflow_or_are_no_numbers_are_those_of_plain_loops() {
    tiles_are_those_of_plain_loops(3, 1.0, Some(50));
    tiles_are_those_of_plain_loops(4, 2f32.powi(63), Some(2000));
}

/// Four floats; `scale_add` rounds once where it is fused, and twice elsewhere.
#[derive(Clone, Copy)]
struct Lanes<const FUSED: bool>([f32; 4]);

impl<const FUSED: bool> Lanes<FUSED> {
    fn with(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Lanes(std::array::from_fn(|lane| {
            operation(self.0[lane], other.0[lane])
        }))
    }
}

impl<const FUSED: bool> Vector for Lanes<FUSED> {
    const LANES: usize = 4;

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises four floats, here and below.
        Lanes(unsafe { *from.cast() })
    }

    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { *to.cast() = self.0 }
    }

    unsafe fn splat(value: f32) -> Self {
        Lanes([value; 4])
    }

    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    unsafe fn scale(self, factor: f32) -> Self {
        Lanes(self.0.map(|value| value * factor))
    }

    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self {
        self.with(addend, |value, addend| {
            if FUSED {
                value.mul_add(factor, addend)
            } else {
                value * factor + addend
            }
        })
    }

    unsafe fn cut(self) -> Self {
        Lanes(self.0.map(|value| if value < 0.0 { 0.0 } else { value }))
    }
}

type Evaluate = unsafe fn(*const f32, usize, *mut f32, usize);
type Interpolate = unsafe fn(*const f32, usize, *const f32, *mut f32, usize);

/// Holds Winograd's transforms, at random strides, against the same steps in plain arithmetic, bit for
/// bit.
fn transforms_are_those_of_their_definition(seed: u64, scale: f32, rare: Option<usize>) {
    for kernels in every_kernel() {
        let (evaluate, interpolate): (Evaluate, Interpolate) = match kernels.isa {
            Isa::Scalar => (
                evaluate_tile::<Lanes<false>>,
                interpolate_tile::<Lanes<false>>,
            ),
            Isa::Neon | Isa::Avx2 | Isa::Avx512 => (
                evaluate_tile::<Lanes<true>>,
                interpolate_tile::<Lanes<true>>,
            ),
        };
        for case in 0..CASES {
            let mut draw = Draw::new(seed << 32 | case);
            let row_stride = draw.between(0, 150);
            let stride = draw.between(BLOCK, 60);
            let input = (POINTS - 1) * row_stride + POINTS * BLOCK;
            let input = draw.floats(input, scale, rare);
            let products = (PRODUCTS - 1) * stride + BLOCK;
            let mut found = vec![GUARD; products].into_boxed_slice();
            let mut expected = found.clone();
            let fenced = [Tight::Front, Tight::Back].map(|tight| {
                let input = Fenced::new(&input, tight);
                let mut products = Fenced::new(&found, tight);
                kernels.winograd_input(input.slice(), row_stride, products.slice_mut(), stride);
                products
            });
            kernels.winograd_input(&input, row_stride, &mut found, stride);
            // SAFETY: both slices have the floats for these strides.
            unsafe { evaluate(input.as_ptr(), row_stride, expected.as_mut_ptr(), stride) };
            let isa = kernels.isa;
            for found in fenced.iter().map(Fenced::slice).chain([&found[..]]) {
                let difference = first_difference(found, &expected);
                assert!(difference.is_none(), "{isa}, case {case}: {difference:?}");
            }

            let products = draw.floats(products, scale, rare);
            let bias: Box<[f32; BLOCK]> = Box::new(std::array::from_fn(|_| value(&mut draw.0)));
            let row_stride = draw.between(OUTPUTS * BLOCK, 150);
            let output = (OUTPUTS - 1) * row_stride + OUTPUTS * BLOCK;
            let mut found = vec![GUARD; output].into_boxed_slice();
            let mut expected = found.clone();
            let fenced = [Tight::Front, Tight::Back].map(|tight| {
                let (products, bias) =
                    (Fenced::new(&products, tight), Fenced::new(&bias[..], tight));
                let bias = bias.slice().try_into().expect("as many as it was made of");
                let mut output = Fenced::new(&found, tight);
                kernels.winograd_output(
                    products.slice(),
                    stride,
                    bias,
                    output.slice_mut(),
                    row_stride,
                );
                output
            });
            kernels.winograd_output(&products, stride, &bias, &mut found, row_stride);
            let (products, bias, output) =
                (products.as_ptr(), bias.as_ptr(), expected.as_mut_ptr());
            // SAFETY: all three slices have the floats for these strides.
            unsafe { interpolate(products, stride, bias, output, row_stride) };
            for found in fenced.iter().map(Fenced::slice).chain([&found[..]]) {
                let difference = first_difference(found, &expected);
                assert!(difference.is_none(), "{isa}, case {case}: {difference:?}");
            }
        }
    }
}

#[test]
fn transforms_at_any_stride_are_those_of_their_definition() {
    transforms_are_those_of_their_definition(5, 1.0, None);
}

#[test]
fn transforms_of_denormal_and_huge_values_are_those_of_their_definition() {
    transforms_are_those_of_their_definition(6, f32::MIN_POSITIVE, None);
    transforms_are_those_of_their_definition(7, f32::MAX, None);
    transforms_are_those_of_their_definition(8, 1.0, Some(200));
}

/// A convolution of one image: `[channels, height, width]` by `[out_channels, channels, side, side]`
/// with zeros around the image.
#[derive(Debug)]
struct Convolution {
    channels: usize,
    out_channels: usize,
    height: usize,
    width: usize,
    side: usize,
    stride: usize,
    padding: usize,
}

impl Convolution {
    fn draw(draw: &mut Draw) -> Self {
        let side = draw.pick(&[1, 2, 3, 5, 7]);
        let padding = draw.between(0, side - 1);
        let smallest = side.saturating_sub(2 * padding).max(1);
        Convolution {
            channels: draw.between(1, 40),
            out_channels: draw.between(1, 50),
            height: draw.between(smallest, smallest + 8),
            width: draw.between(smallest, smallest + 17),
            side,
            stride: draw.between(1, 3),
            padding,
        }
    }

    /// Height and width with the zeros.
    fn bordered(&self) -> (usize, usize) {
        (
            self.height + 2 * self.padding,
            self.width + 2 * self.padding,
        )
    }

    fn output(&self) -> (usize, usize) {
        let (height, width) = self.bordered();
        let count = |length: usize| (length - self.side) / self.stride + 1;
        (count(height), count(width))
    }

    /// The value of an output in f64, and the magnitudes of its terms together.
    fn exact(
        &self,
        (image, weights): (&[f32], &[f32]),
        (channel, y, x): (usize, usize, usize),
    ) -> (f64, f64) {
        let (mut sum, mut magnitudes) = (0.0, 0.0);
        for in_channel in 0..self.channels {
            for tap in 0..self.side * self.side {
                let row = (y * self.stride + tap / self.side).checked_sub(self.padding);
                let column = (x * self.stride + tap % self.side).checked_sub(self.padding);
                let (Some(row), Some(column)) = (row, column) else {
                    continue;
                };
                if row < self.height && column < self.width {
                    let pixel = (in_channel * self.height + row) * self.width + column;
                    let filter = channel * self.channels + in_channel;
                    let weight = weights[filter * self.side * self.side + tap];
                    let product = f64::from(image[pixel]) * f64::from(weight);
                    sum += product;
                    magnitudes += product.abs();
                }
            }
        }
        (sum, magnitudes)
    }

    /// The image in blocks of channels with zeros around it.
    fn blocked(&self, image: &[f32]) -> Box<[f32]> {
        let (height, width) = self.bordered();
        let blocks = self.channels.div_ceil(BLOCK);
        let mut input = vec![0.0; blocks * height * width * BLOCK].into_boxed_slice();
        for (at, &value) in image.iter().enumerate() {
            let (channel, y) = (at / self.width / self.height, at / self.width % self.height);
            let row = channel / BLOCK * height + y + self.padding;
            let pixel = row * width + at % self.width + self.padding;
            input[pixel * BLOCK + channel % BLOCK] = value;
        }
        input
    }

    /// `[out_blocks, pixels, 16]`, with rows cut into tiles as large as the kernel's.
    fn run(&self, kernels: &Kernels, image: &[f32], weights: &[f32]) -> Box<[f32]> {
        let taps = self.side * self.side;
        let groups = kernels.max_blocks;
        let packed = PackedWeights::new(weights, self.out_channels, self.channels, taps, groups);
        let input = self.blocked(image);
        let (height, width) = self.bordered();
        let (out_height, out_width) = self.output();
        let offset = |tap: usize| (tap / self.side * width + tap % self.side) * BLOCK;
        let taps: Vec<usize> = (0..taps).map(offset).collect();
        let plane = out_height * out_width * BLOCK;
        let mut output = vec![f32::NAN; packed.out_blocks() * plane].into_boxed_slice();
        for group in 0..packed.groups() {
            for y in 0..out_height {
                for first in (0..out_width).step_by(kernels.max_pixels) {
                    let corner = (y * width + first) * self.stride * BLOCK;
                    let tile = Tile {
                        input: &input[corner..],
                        taps: &taps,
                        pixel_stride: self.stride * BLOCK,
                        block_stride: height * width * BLOCK,
                        blocks: packed.blocks(),
                        depth: packed.depth(),
                        weights: packed.group(group),
                        out_blocks: packed.out_blocks_of(group),
                        pixels: kernels.max_pixels.min(out_width - first),
                        bias: None,
                        residual: None,
                        relu: false,
                        out_block_stride: plane,
                    };
                    let block = packed.first_block_of(group) * plane;
                    let at = block + (y * out_width + first) * BLOCK;
                    kernels.conv_tile(&tile, &mut output[at..]);
                }
            }
        }
        output
    }
}

#[test]
fn tiles_over_a_bordered_image_make_any_convolution() {
    for kernels in every_kernel() {
        for case in 0..CASES / 8 {
            let mut draw = Draw::new(9 << 32 | case);
            let convolution = Convolution::draw(&mut draw);
            let Convolution {
                channels,
                out_channels,
                side,
                ..
            } = convolution;
            let image = channels * convolution.height * convolution.width;
            let image = draw.floats(image, 1.0, None);
            let weights = draw.floats(out_channels * channels * side * side, 1.0, None);
            let output = convolution.run(&kernels, &image, &weights);
            let (height, width) = convolution.output();
            // gamma_n of Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.
            let roundings = (side * side * channels.next_multiple_of(BLOCK)) as f64;
            let unit = f64::from(f32::EPSILON) / 2.0;
            let gamma = roundings * unit / (1.0 - roundings * unit);
            for (at, &found) in output.iter().enumerate() {
                let (block, pixel) = (at / BLOCK / (height * width), at / BLOCK % (height * width));
                let channel = block * BLOCK + at % BLOCK;
                if channel >= out_channels {
                    assert_eq!(found, 0.0, "a channel that is not there");
                    continue;
                }
                let at = (channel, pixel / width, pixel % width);
                let (exact, magnitudes) = convolution.exact((&image, &weights), at);
                assert!(
                    (f64::from(found) - exact).abs() <= 2.0 * gamma * magnitudes,
                    "{}, {convolution:?}: {found} instead of {exact} at {at:?}",
                    kernels.conv_name
                );
            }
        }
    }
}
