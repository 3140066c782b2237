//! The bfloat16 kernels against plain loops, bit for bit, and the plain loops against mathematics.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::kernels::grid::value;

/// What no kernel computes: a NaN that says where it came from.
const GUARD: u16 = 0x7fab;
const FLOAT_GUARD: u32 = 0x7fc0_abcd;

fn scalar() -> KernelsBf16 {
    KernelsBf16::of(Isa::Scalar).expect("every machine has it")
}

fn every_kernel() -> Vec<KernelsBf16> {
    let mut kernels = vec![scalar()];
    match KernelsBf16::of(Isa::Avx512) {
        Some(fast) => kernels.push(fast),
        None => eprintln!("skipped: this machine has no AVX512-BF16"),
    }
    kernels
}

/// A value in [-1, 1), or one that is treated in a way of its own.
fn draw(random: &mut ChaCha8Rng, is_odd: bool) -> bf16 {
    let ordinary = bf16::from_f32(value(random));
    if !is_odd || !random.next_u32().is_multiple_of(4) {
        return ordinary;
    }
    match random.next_u32() % 7 {
        0 => bf16::NAN,
        1 => bf16::INFINITY,
        2 => bf16::NEG_INFINITY,
        3 => bf16::from_bits((random.next_u32() % 0x80) as u16),
        4 => bf16::MIN_POSITIVE,
        5 => bf16::MAX,
        _ => bf16::NEG_ZERO,
    }
}

/// Same bits, but any NaN for any NaN: which of two an addition passes on is not defined.
fn is_same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    pixels: usize,
    out_blocks: usize,
    taps: usize,
    blocks: usize,
    pixel_stride: usize,
    extras: u32,
}

/// Every shape that a kernel has a path of its own for.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for pixels in 1..=MAX_PIXELS {
        for out_blocks in 1..=MAX_BLOCKS {
            for (taps, blocks) in [(1, 1), (1, 3), (9, 2)] {
                for pixel_stride in [16, 32, 41] {
                    for extras in 0..8 {
                        shapes.push(Shape {
                            pixels,
                            out_blocks,
                            taps,
                            blocks,
                            pixel_stride,
                            extras,
                        });
                    }
                }
            }
        }
    }
    shapes
}

/// A tile's data; only what the tile stands for is a number.
struct Data {
    shape: Shape,
    input: Vec<bf16>,
    taps: Vec<usize>,
    block_stride: usize,
    weights: Vec<bf16>,
    bias: Vec<f32>,
    residual: Vec<bf16>,
    out_block_stride: usize,
}

impl Data {
    fn new(shape: Shape, is_odd: bool) -> Data {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let row = shape.pixels * shape.pixel_stride + 32;
        let width = shape.out_blocks * BLOCK;
        let mut data = Data {
            shape,
            input: Vec::new(),
            taps: (0..shape.taps)
                .rev()
                .map(|tap| tap / 3 * row + tap % 3 * BLOCK)
                .collect(),
            block_stride: 3 * row + 5,
            weights: (0..shape.taps * shape.blocks * BLOCK * width)
                .map(|_| draw(&mut random, false))
                .collect(),
            bias: (0..width).map(|_| value(&mut random)).collect(),
            residual: Vec::new(),
            out_block_stride: shape.pixels * BLOCK + 7,
        };
        let guard = bf16::from_bits(GUARD);
        let mut input = vec![guard; data.tile().input_extent()];
        for pixel in 0..shape.pixels {
            for (at, _) in data.terms(pixel) {
                input[at] = draw(&mut random, is_odd);
            }
        }
        let mut residual = vec![guard; data.tile().output_extent()];
        for at in data.writes() {
            residual[at] = draw(&mut random, is_odd);
        }
        (data.input, data.residual) = (input, residual);
        data
    }

    fn tile(&self) -> TileBf16<'_> {
        TileBf16 {
            input: &self.input,
            taps: &self.taps,
            pixel_stride: self.shape.pixel_stride,
            block_stride: self.block_stride,
            blocks: self.shape.blocks,
            weights: &self.weights,
            out_blocks: self.shape.out_blocks,
            pixels: self.shape.pixels,
            bias: (self.shape.extras & 1 != 0).then_some(&self.bias),
            residual: (self.shape.extras & 2 != 0).then_some(&self.residual),
            relu: self.shape.extras & 4 != 0,
            out_block_stride: self.out_block_stride,
        }
    }

    fn writes(&self) -> Vec<usize> {
        (0..self.shape.out_blocks)
            .flat_map(|block| {
                let start = block * self.out_block_stride;
                start..start + self.shape.pixels * BLOCK
            })
            .collect()
    }

    /// The offset of each input of a pixel, and that of its weight for the first output channel.
    fn terms(&self, pixel: usize) -> impl Iterator<Item = (usize, usize)> {
        let Shape {
            blocks,
            pixel_stride,
            out_blocks,
            ..
        } = self.shape;
        let block_stride = self.block_stride;
        self.taps.iter().enumerate().flat_map(move |(tap, offset)| {
            (0..blocks * BLOCK).map(move |channel| {
                let input = pixel * pixel_stride + offset + channel / BLOCK * block_stride;
                let row = tap * blocks * BLOCK + channel;
                let weight = (row / PAIR * out_blocks * BLOCK) * PAIR + row % PAIR;
                (input + channel % BLOCK, weight)
            })
        })
    }

    /// Runs a kernel both ways; nothing around the tile has changed, and one is the other rounded.
    fn run(&self, kernels: &KernelsBf16) -> Vec<f32> {
        let tile = self.tile();
        let writes = self.writes();
        let mut sums = vec![f32::from_bits(FLOAT_GUARD); tile.output_extent() + 3];
        kernels.conv_to_f32(&tile, &mut sums);
        let mut rounded = vec![bf16::from_bits(GUARD); tile.output_extent() + 3];
        kernels.conv_to_bf16(&tile, &mut rounded);
        for at in 0..sums.len() {
            if writes.contains(&at) {
                let expected = scalar_bf16::round(sums[at]).to_f32();
                assert!(is_same(rounded[at].to_f32(), expected), "{:?}", self.shape);
            } else {
                let (sum, rounded) = (sums[at].to_bits(), rounded[at].to_bits());
                let name = kernels.conv_name;
                assert_eq!((sum, rounded), (FLOAT_GUARD, GUARD), "{name} at {at}");
            }
        }
        sums
    }
}

#[test]
fn avx512bf16_gives_the_bits_of_the_plain_loops() {
    let Some(kernels) = KernelsBf16::of(Isa::Avx512) else {
        eprintln!("skipped: this machine has no AVX512-BF16");
        return;
    };
    for shape in shapes() {
        for is_odd in [false, true] {
            let data = Data::new(shape, is_odd);
            let (found, expected) = (data.run(&kernels), data.run(&scalar()));
            for at in data.writes() {
                let (found, expected) = (found[at], expected[at]);
                let same = is_same(found, expected);
                assert!(same, "{found} instead of {expected} at {at}, {shape:?}");
            }
        }
    }
}

#[test]
fn the_plain_loops_are_a_convolution() {
    for shape in shapes() {
        let data = Data::new(shape, false);
        let found = data.run(&scalar());
        let tile = data.tile();
        for pixel in 0..shape.pixels {
            for channel in 0..shape.out_blocks * BLOCK {
                let bias = f64::from(tile.bias.map_or(0.0, |bias| bias[channel]));
                let (mut exact, mut magnitude) = (bias, bias.abs());
                for (input, weight) in data.terms(pixel) {
                    let weight = data.weights[weight + PAIR * channel];
                    let product = data.input[input].to_f64() * weight.to_f64();
                    exact += product;
                    magnitude += product.abs();
                }
                let block = channel / BLOCK * data.out_block_stride;
                let at = block + pixel * BLOCK + channel % BLOCK;
                if let Some(residual) = tile.residual {
                    exact += residual[at].to_f64();
                    magnitude += residual[at].to_f64().abs();
                }
                if tile.relu {
                    exact = exact.max(0.0);
                }
                // Products are exact; each addition rounds once: gamma_n (Higham, Accuracy and
                // Stability of Numerical Algorithms, 2002, section 3.1).
                let roundings = (shape.taps * shape.blocks * BLOCK + 1) as f64;
                let unit = f64::from(f32::EPSILON) / 2.0;
                let gamma = roundings * unit / (1.0 - roundings * unit);
                let apart = (f64::from(found[at]) - exact).abs();
                assert!(apart <= gamma * magnitude, "{apart:e} at {at}, {shape:?}");
            }
        }
    }
}

#[test]
fn a_pixel_has_the_same_bits_alone_and_in_any_tile() {
    for kernels in every_kernel() {
        for pixels in 1..=MAX_PIXELS {
            let data = Data::new(
                Shape {
                    pixels,
                    out_blocks: 1,
                    taps: 9,
                    blocks: 2,
                    pixel_stride: 32,
                    extras: 3,
                },
                false,
            );
            let together = data.run(&kernels);
            for pixel in 0..pixels {
                let alone = TileBf16 {
                    input: &data.input[pixel * 32..],
                    pixels: 1,
                    residual: Some(&data.residual[pixel * BLOCK..]),
                    ..data.tile()
                };
                let mut output = [0.0; BLOCK];
                kernels.conv_to_f32(&alone, &mut output);
                let together = &together[pixel * BLOCK..][..BLOCK];
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&output), bits(together), "{}", kernels.conv_name);
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_pixel() {
    for kernels in every_kernel() {
        let shape = Shape {
            pixels: 5,
            out_blocks: 2,
            taps: 1,
            blocks: 2,
            pixel_stride: 16,
            extras: 5,
        };
        let mut data = Data::new(shape, false);
        let before = data.run(&kernels);
        for odd in [bf16::NAN, bf16::INFINITY, bf16::from_bits(1)] {
            data.input[2 * BLOCK + 3] = odd;
            let after = data.run(&kernels);
            for at in data.writes() {
                if at % data.out_block_stride / BLOCK != 2 {
                    assert_eq!(after[at].to_bits(), before[at].to_bits());
                } else if odd.is_nan() {
                    assert!(after[at].is_nan(), "{}", kernels.conv_name);
                } else {
                    let is_cut_or_infinite = after[at] == 0.0 || after[at] == f32::INFINITY;
                    assert_eq!(
                        !odd.is_finite(),
                        is_cut_or_infinite && odd == bf16::INFINITY
                    );
                }
            }
        }
    }
}

#[test]
fn rounding_goes_to_the_nearest_even_value() {
    let cases = [
        (0x3f80_8000, 0x3f80),
        (0x3f81_8000, 0x3f82),
        (0x3f80_8001, 0x3f81),
        (0x3f80_7fff, 0x3f80),
        (0xbf80_8001, 0xbf81),
        (0x7f7f_ffff, 0x7f80),
        (0x7f80_0000, 0x7f80),
        (0x8000_0000, 0x8000),
        // Subnormal.
        (0x007f_ffff, 0x0000),
        (0x807f_ffff, 0x8000),
        (0x0080_0000, 0x0080),
    ];
    for kernels in every_kernel() {
        // More than a vector, so that the rest is seen as well.
        let from: Vec<f32> = (0..3)
            .flat_map(|_| cases.map(|case| f32::from_bits(case.0)))
            .collect();
        let mut to = vec![bf16::ZERO; from.len()];
        kernels.round(&from, &mut to);
        for (to, (from, expected)) in to.iter().zip((0..3).flat_map(|_| cases)) {
            assert_eq!(to.to_bits(), expected, "{from:08x}, {}", kernels.isa_name);
        }
        let mut nan = [bf16::ZERO; BLOCK];
        kernels.round(&[f32::from_bits(0x7f80_0001); BLOCK], &mut nan);
        assert!(nan.iter().all(|value| value.is_nan()));
    }
}

/// Values between runs of pixels; both strides leave gaps.
const INPUT_STRIDE: usize = POINTS * BLOCK + 5;
const STRIDE: usize = BLOCK + 3;
const OUTPUT_STRIDE: usize = OUTPUTS * BLOCK + 9;

fn evaluated(kernels: &KernelsBf16, input: &[bf16]) -> Vec<bf16> {
    let mut products = vec![bf16::from_bits(GUARD); (PRODUCTS - 1) * STRIDE + BLOCK];
    kernels.winograd_input(input, INPUT_STRIDE, &mut products, STRIDE);
    for (at, value) in products.iter().enumerate() {
        assert!(at % STRIDE < BLOCK || value.to_bits() == GUARD);
    }
    products
}

fn interpolated(kernels: &KernelsBf16, products: &[f32], bias: &[f32; BLOCK]) -> Vec<bf16> {
    let mut output = vec![bf16::from_bits(GUARD); OUTPUT_STRIDE + OUTPUTS * BLOCK];
    kernels.winograd_output(products, STRIDE, bias, &mut output, OUTPUT_STRIDE);
    for (at, value) in output.iter().enumerate() {
        assert!(at % OUTPUT_STRIDE < OUTPUTS * BLOCK || value.to_bits() == GUARD);
    }
    output
}

#[test]
fn winograd_tiles_have_the_bits_of_the_plain_loops() {
    let Some(kernels) = KernelsBf16::of(Isa::Avx512) else {
        eprintln!("skipped: this machine has no AVX512-BF16");
        return;
    };
    for seed in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let length = (POINTS - 1) * INPUT_STRIDE + POINTS * BLOCK;
        let input: Vec<bf16> = (0..length).map(|_| draw(&mut random, seed > 9)).collect();
        let found = evaluated(&kernels, &input);
        for (found, expected) in found.iter().zip(evaluated(&scalar(), &input)) {
            assert!(is_same(found.to_f32(), expected.to_f32()));
        }
        let products: Vec<f32> = (0..PRODUCTS * STRIDE).map(|_| value(&mut random)).collect();
        let bias: [f32; BLOCK] = std::array::from_fn(|_| value(&mut random));
        let found = interpolated(&kernels, &products, &bias);
        let expected = interpolated(&scalar(), &products, &bias);
        let bits = |values: &[bf16]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&expected));
    }
}

#[test]
fn a_winograd_tile_is_a_convolution() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let length = (POINTS - 1) * INPUT_STRIDE + POINTS * BLOCK;
    // Small whole numbers, of which every step is exact.
    let mut whole = || (random.next_u32() % 7) as f32 - 3.0;
    let input: Vec<bf16> = (0..length).map(|_| bf16::from_f32(whole())).collect();
    let filter: [f32; 9] = std::array::from_fn(|_| whole());
    let evaluate = |[a, b, c]: [f32; 3]| [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c];
    let rows: [_; 3] = std::array::from_fn(|y| evaluate([0, 1, 2].map(|x| filter[3 * y + x])));
    for kernels in every_kernel() {
        let mut products: Vec<f32> = evaluated(&kernels, &input)
            .iter()
            .map(|value| value.to_f32())
            .collect();
        for (product, values) in products.chunks_mut(STRIDE).enumerate() {
            let (y, x) = (product / POINTS, product % POINTS);
            let weight = evaluate([rows[0][x], rows[1][x], rows[2][x]])[y];
            values.iter_mut().for_each(|value| *value *= weight);
        }
        let output = interpolated(&kernels, &products, &[0.5; BLOCK]);
        for y in 0..OUTPUTS {
            for x in 0..OUTPUTS {
                for channel in 0..BLOCK {
                    let mut exact = 0.5;
                    for (tap, weight) in filter.iter().enumerate() {
                        let (y, x) = (y + tap / 3, x + tap % 3);
                        exact += weight * input[y * INPUT_STRIDE + x * BLOCK + channel].to_f32();
                    }
                    let found = output[y * OUTPUT_STRIDE + x * BLOCK + channel].to_f32();
                    assert_eq!(found, bf16::from_f32(exact.max(0.0)).to_f32());
                }
            }
        }
    }
}

#[test]
fn packed_weights_stand_in_pairs_of_input_channels() {
    let weight = |out: usize, into: usize, tap: usize| (tap + 3 * into + 40 * out) as f32;
    for (out_channels, in_channels, taps) in [(1, 1, 1), (33, 5, 1), (20, 17, 9), (64, 16, 4)] {
        let mut weights = Vec::new();
        for out in 0..out_channels {
            for into in 0..in_channels {
                weights.extend((0..taps).map(|tap| weight(out, into, tap)));
            }
        }
        let source = PackedWeights::new(&weights, out_channels, in_channels, taps, MAX_BLOCKS);
        let packed = PackedBf16::new(&source);
        assert_eq!(packed.groups(), source.groups());
        assert_eq!(packed.out_blocks(), out_channels.div_ceil(BLOCK));
        for group in 0..packed.groups() {
            let width = packed.out_blocks_of(group) * BLOCK;
            let first = packed.first_block_of(group) * BLOCK;
            assert_eq!(packed.group(group).as_ptr().addr() % 64, 0);
            for tap in 0..taps {
                for (at, found) in packed.tap(group, tap).iter().enumerate() {
                    let into = at / (PAIR * width) * PAIR + at % PAIR;
                    let out = first + at / PAIR % width;
                    let is_there = out < out_channels && into < in_channels;
                    let expected = if is_there {
                        weight(out, into, tap)
                    } else {
                        0.0
                    };
                    assert_eq!(found.to_f32(), bf16::from_f32(expected).to_f32());
                }
            }
        }
    }
}

#[test]
fn a_tile_that_does_not_fit_its_slices_is_refused() {
    let shape = Shape {
        pixels: 4,
        out_blocks: 2,
        taps: 1,
        blocks: 1,
        pixel_stride: 16,
        extras: 3,
    };
    let data = Data::new(shape, false);
    let good = data.tile();
    let length = good.output_extent();
    let computes = |tile: TileBf16<'_>, length: usize| {
        std::panic::catch_unwind(|| {
            scalar().conv_to_bf16(&tile, &mut vec![bf16::ZERO; length]);
            scalar().conv_to_f32(&tile, &mut vec![0.0; length]);
        })
        .is_ok()
    };
    assert!(computes(good, length));
    assert!(!computes(good, length - 1));
    let (input, weights) = (good.input, good.weights);
    for bad in [
        TileBf16 { pixels: 0, ..good },
        TileBf16 { pixels: 15, ..good },
        TileBf16 {
            out_blocks: 3,
            ..good
        },
        TileBf16 { taps: &[], ..good },
        TileBf16 { taps: &[1], ..good },
        TileBf16 {
            taps: &[usize::MAX],
            ..good
        },
        TileBf16 { blocks: 0, ..good },
        TileBf16 {
            pixel_stride: usize::MAX,
            ..good
        },
        TileBf16 {
            input: &input[1..],
            ..good
        },
        TileBf16 {
            weights: &weights[1..],
            ..good
        },
        TileBf16 {
            bias: Some(&[0.0]),
            ..good
        },
        TileBf16 {
            residual: Some(input),
            ..good
        },
        TileBf16 {
            out_block_stride: 63,
            ..good
        },
    ] {
        assert!(!computes(bad, 1000), "{bad:?}");
    }
}

#[test]
fn avx2_has_no_bfloat16() {
    assert!(KernelsBf16::of(Isa::Avx2).is_none());
}
