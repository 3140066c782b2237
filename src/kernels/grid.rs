//! Every kernel over the grid of shapes that have edges, against the definition.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{BLOCK, Isa, Kernels, Tile};

/// What no kernel computes: a NaN that says where it came from.
const GUARD: u32 = 0x7fc0_abcd;

/// Floats around every slice, odd so that no slice is aligned.
const MARGIN: usize = 19;

/// The kernels of this machine; says on stderr which ones it lacks.
pub(super) fn every_kernel() -> Vec<Kernels> {
    Isa::ALL
        .into_iter()
        .filter_map(|isa| {
            let kernels = Kernels::of(isa);
            if kernels.is_none() {
                eprintln!("skipped: this machine has no {isa}");
            }
            kernels
        })
        .collect()
}

fn scalar() -> Kernels {
    Kernels::of(Isa::Scalar).expect("every machine has it")
}

/// A value in [-1, 1).
pub(super) fn value(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// A slice inside an allocation whose other floats are guards.
pub(super) struct Guarded {
    floats: Vec<f32>,
    length: usize,
}

impl Guarded {
    /// All guards.
    pub(super) fn new(length: usize) -> Self {
        Guarded {
            floats: vec![f32::from_bits(GUARD); length + 2 * MARGIN],
            length,
        }
    }

    pub(super) fn random(length: usize, random: &mut ChaCha8Rng) -> Self {
        let mut guarded = Guarded::new(length);
        guarded.slice_mut().fill_with(|| value(random));
        guarded
    }

    /// Whether every float is still a guard but those of the slice that `inside` accepts.
    pub(super) fn holds(&self, inside: impl Fn(usize) -> bool) -> bool {
        self.floats.iter().enumerate().all(|(at, float)| {
            let inside = at
                .checked_sub(MARGIN)
                .is_some_and(|at| at < self.length && inside(at));
            inside || float.to_bits() == GUARD
        })
    }

    pub(super) fn slice(&self) -> &[f32] {
        &self.floats[MARGIN..][..self.length]
    }

    pub(super) fn slice_mut(&mut self) -> &mut [f32] {
        &mut self.floats[MARGIN..][..self.length]
    }
}

/// The sizes of a tile and what is added to it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    pixels: usize,
    out_blocks: usize,
    taps: usize,
    blocks: usize,
    depth: usize,
    pixel_stride: usize,
    bias: bool,
    residual: bool,
    relu: bool,
}

/// A tile's data: random where a kernel must read, guards everywhere else.
struct Data {
    shape: Shape,
    input: Guarded,
    taps: Vec<usize>,
    block_stride: usize,
    weights: Guarded,
    bias: Guarded,
    residual: Guarded,
    out_block_stride: usize,
}

impl Data {
    fn new(shape: Shape) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        // Rows of three taps that overlap, as those of a 3x3 convolution do, and last row first.
        let row = shape.pixels * shape.pixel_stride + 2 * BLOCK + shape.depth;
        let taps: Vec<usize> = (0..shape.taps)
            .rev()
            .map(|tap| tap / 3 * row + tap % 3 * BLOCK)
            .collect();
        let block_stride = 3 * row + 5;
        let width = shape.out_blocks * BLOCK;
        let rows = shape.taps * shape.blocks * shape.depth;
        let mut data = Data {
            shape,
            input: Guarded::new(0),
            taps,
            block_stride,
            weights: Guarded::random(rows * width, &mut random),
            bias: Guarded::random(width, &mut random),
            residual: Guarded::new(0),
            out_block_stride: shape.pixels * BLOCK + 7,
        };
        let mut input = Guarded::new(data.tile().input_extent());
        for at in data.reads() {
            input.slice_mut()[at] = value(&mut random);
        }
        let mut residual = Guarded::new(data.tile().output_extent());
        for at in data.writes() {
            residual.slice_mut()[at] = value(&mut random);
        }
        data.input = input;
        data.residual = residual;
        data
    }

    fn tile(&self) -> Tile<'_> {
        Tile {
            input: self.input.slice(),
            taps: &self.taps,
            pixel_stride: self.shape.pixel_stride,
            block_stride: self.block_stride,
            blocks: self.shape.blocks,
            depth: self.shape.depth,
            weights: self.weights.slice(),
            out_blocks: self.shape.out_blocks,
            pixels: self.shape.pixels,
            bias: self.shape.bias.then(|| self.bias.slice()),
            residual: self.shape.residual.then(|| self.residual.slice()),
            relu: self.shape.relu,
            out_block_stride: self.out_block_stride,
        }
    }

    /// The offsets of the input that the tile stands for.
    fn reads(&self) -> Vec<usize> {
        let mut reads = Vec::new();
        for pixel in 0..self.shape.pixels {
            reads.extend(self.terms(pixel).map(|(at, _)| at));
        }
        reads
    }

    /// The offsets of the output that the tile stands for.
    fn writes(&self) -> Vec<usize> {
        let mut writes = Vec::new();
        for block in 0..self.shape.out_blocks {
            let start = block * self.out_block_stride;
            writes.extend(start..start + self.shape.pixels * BLOCK);
        }
        writes
    }

    /// The terms of a pixel's sums in the order in which they are added: offset of the input, row
    /// of the weights.
    fn terms(&self, pixel: usize) -> impl Iterator<Item = (usize, usize)> {
        let Shape {
            blocks,
            depth,
            pixel_stride,
            ..
        } = self.shape;
        let block_stride = self.block_stride;
        let first = pixel * pixel_stride;
        self.taps.iter().enumerate().flat_map(move |(tap, offset)| {
            (0..blocks * depth).map(move |channel| {
                let block = channel / depth * block_stride;
                let row = tap * blocks * depth + channel;
                (first + offset + block + channel % depth, row)
            })
        })
    }

    /// What the tile stands for, with every value folded by `add(sum, input, weight)`: at each
    /// offset of the output the value, before the ReLU.
    fn folded<T: From<f32> + std::ops::Add<Output = T>>(
        &self,
        add: impl Fn(T, f32, f32) -> T,
        term: impl Fn(f32) -> f32,
    ) -> Vec<(usize, T)> {
        let tile = self.tile();
        let width = self.shape.out_blocks * BLOCK;
        let mut values = Vec::new();
        for pixel in 0..self.shape.pixels {
            for channel in 0..width {
                let mut sum = T::from(term(tile.bias.map_or(0.0, |bias| bias[channel])));
                for (at, row) in self.terms(pixel) {
                    sum = add(sum, tile.input[at], tile.weights[row * width + channel]);
                }
                let block = channel / BLOCK * self.out_block_stride;
                let at = block + pixel * BLOCK + channel % BLOCK;
                if let Some(residual) = tile.residual {
                    sum = sum + T::from(term(residual[at]));
                }
                values.push((at, sum));
            }
        }
        values
    }

    /// Runs a kernel and returns the output; nothing around the tile has changed.
    fn run(&self, kernels: &Kernels) -> Vec<f32> {
        let tile = self.tile();
        let mut output = Guarded::new(tile.output_extent());
        kernels.conv_tile(&tile, output.slice_mut());
        let writes = self.writes();
        assert!(
            output.holds(|at| writes.contains(&at)),
            "{} wrote beside its tile, {:?}",
            kernels.conv_name,
            self.shape
        );
        output.slice().to_vec()
    }
}

/// Every shape that a kernel has a path of its own for.
fn shapes(kernels: &Kernels) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for pixels in 1..=kernels.max_pixels {
        for out_blocks in 1..=kernels.max_blocks {
            for (taps, blocks) in [(1, 1), (1, 3), (9, 2)] {
                // The last three are those of the first layer, and what no layer has.
                for (pixel_stride, depth) in
                    [(16, 16), (32, 16), (40, 16), (6, 21), (16, 21), (6, 1)]
                {
                    for extras in 0..8 {
                        shapes.push(Shape {
                            pixels,
                            out_blocks,
                            taps,
                            blocks,
                            depth,
                            pixel_stride,
                            bias: extras & 1 != 0,
                            residual: extras & 2 != 0,
                            relu: extras & 4 != 0,
                        });
                    }
                }
            }
        }
    }
    shapes
}

#[test]
fn every_kernel_agrees_with_the_scalar_one() {
    for kernels in every_kernel() {
        for shape in shapes(&kernels) {
            let data = Data::new(shape);
            let found = data.run(&kernels);
            let expected = data.run(&scalar());
            // Both sum bias, products and residual one after the other, with at most one rounding
            // for each product and each addition: each is within gamma_n = n u / (1 - n u) times
            // the sum of the terms' magnitudes of the exact value (Higham, Accuracy and Stability
            // of Numerical Algorithms, 2002, section 3.1). Cutting at zero brings them no farther
            // apart.
            let roundings = (shape.taps * shape.blocks * shape.depth + 2) as f64;
            let unit = f64::from(f32::EPSILON) / 2.0;
            let gamma = roundings * unit / (1.0 - roundings * unit);
            let magnitudes = data.folded(
                |sum: f64, input, weight| sum + (f64::from(input) * f64::from(weight)).abs(),
                f32::abs,
            );
            assert_eq!(magnitudes.len(), shape.pixels * shape.out_blocks * BLOCK);
            for (at, magnitude) in magnitudes {
                let apart = (f64::from(found[at]) - f64::from(expected[at])).abs();
                assert!(
                    apart <= 2.0 * gamma * magnitude,
                    "{}: {} instead of {} at {at}, {shape:?}",
                    kernels.conv_name,
                    found[at],
                    expected[at]
                );
            }
        }
    }
}

#[test]
fn every_kernel_adds_in_the_promised_order() {
    for kernels in every_kernel() {
        for shape in shapes(&kernels) {
            let data = Data::new(shape);
            let found = data.run(&kernels);
            let add = |sum: f32, input: f32, weight: f32| match kernels.isa {
                Isa::Scalar => sum + input * weight,
                Isa::Neon | Isa::Avx2 | Isa::Avx512 => input.mul_add(weight, sum),
            };
            for (at, sum) in data.folded(add, |term| term) {
                let expected = if shape.relu && sum < 0.0 { 0.0 } else { sum };
                assert_eq!(
                    found[at].to_bits(),
                    expected.to_bits(),
                    "{}: {} instead of {expected} at {at}, {shape:?}",
                    kernels.conv_name,
                    found[at]
                );
            }
        }
    }
}

#[test]
fn a_pixel_has_the_same_bits_alone_and_in_any_tile() {
    for kernels in every_kernel() {
        for pixels in 1..=kernels.max_pixels {
            for (pixel_stride, depth) in [(16, 16), (32, 16), (40, 16), (6, 21)] {
                let data = Data::new(Shape {
                    pixels,
                    out_blocks: kernels.max_blocks,
                    taps: 9,
                    blocks: 2,
                    depth,
                    pixel_stride,
                    bias: true,
                    residual: true,
                    relu: false,
                });
                let together = data.run(&kernels);
                let tile = data.tile();
                let width = kernels.max_blocks * BLOCK;
                for pixel in 0..pixels {
                    for block in 0..kernels.max_blocks {
                        let columns = |row: &[f32]| row[block * BLOCK..][..BLOCK].to_vec();
                        let weights: Vec<f32> =
                            tile.weights.chunks(width).flat_map(columns).collect();
                        let at = block * tile.out_block_stride + pixel * BLOCK;
                        let alone = Tile {
                            input: &tile.input[pixel * pixel_stride..],
                            weights: &weights,
                            out_blocks: 1,
                            pixels: 1,
                            bias: tile.bias.map(|bias| &bias[block * BLOCK..][..BLOCK]),
                            residual: tile.residual.map(|residual| &residual[at..]),
                            ..tile
                        };
                        let mut output = [0.0; BLOCK];
                        kernels.conv_tile(&alone, &mut output);
                        assert_eq!(
                            output.map(f32::to_bits)[..],
                            together[at..][..BLOCK]
                                .iter()
                                .map(|float| float.to_bits())
                                .collect::<Vec<_>>(),
                            "{}: pixel {pixel} of {pixels}, block {block}",
                            kernels.conv_name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn avx2_and_avx512_give_the_same_bits() {
    let (Some(avx2), Some(avx512)) = (Kernels::of(Isa::Avx2), Kernels::of(Isa::Avx512)) else {
        eprintln!("skipped: this machine has not both avx2 and avx512");
        return;
    };
    for shape in shapes(&avx2) {
        let data = Data::new(shape);
        let bits = |kernels| -> Vec<u32> {
            let output = data.run(kernels);
            output.iter().map(|float| float.to_bits()).collect()
        };
        assert_eq!(bits(&avx2), bits(&avx512), "{shape:?}");
    }
}

#[test]
fn identity_weights_copy_the_input() {
    for kernels in every_kernel() {
        let mut weights = vec![0.0; BLOCK * BLOCK];
        for channel in 0..BLOCK {
            weights[channel * BLOCK + channel] = 1.0;
        }
        let input: Vec<f32> = (0..3 * BLOCK).map(|at| at as f32 - 20.0).collect();
        let tile = Tile {
            input: &input,
            taps: &[0],
            pixel_stride: BLOCK,
            block_stride: 0,
            blocks: 1,
            depth: BLOCK,
            weights: &weights,
            out_blocks: 1,
            pixels: 3,
            bias: None,
            residual: None,
            relu: false,
            out_block_stride: 0,
        };
        let mut output = vec![f32::NAN; 3 * BLOCK];
        kernels.conv_tile(&tile, &mut output);
        assert_eq!(output, input, "{}", kernels.conv_name);

        let relu = Tile { relu: true, ..tile };
        kernels.conv_tile(&relu, &mut output);
        let cut: Vec<f32> = input.iter().map(|value| value.max(0.0)).collect();
        assert_eq!(output, cut, "{}", kernels.conv_name);
    }
}

#[test]
fn what_is_no_number_stays_in_its_pixel_and_is_not_cut_away() {
    for kernels in every_kernel() {
        for odd in [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE / 4.0,
        ] {
            let mut data = Data::new(Shape {
                pixels: kernels.max_pixels.min(5),
                out_blocks: kernels.max_blocks,
                taps: 1,
                blocks: 2,
                depth: BLOCK,
                pixel_stride: 16,
                bias: true,
                residual: false,
                relu: true,
            });
            let before = data.run(&kernels);
            data.input.slice_mut()[2 * BLOCK + 3] = odd;
            let after = data.run(&kernels);
            for at in data.writes() {
                let is_its_pixel = at % data.out_block_stride / BLOCK == 2;
                if !is_its_pixel {
                    assert_eq!(after[at].to_bits(), before[at].to_bits());
                } else if odd.is_nan() {
                    assert!(after[at].is_nan(), "{}", kernels.conv_name);
                } else if odd.is_infinite() {
                    assert!(after[at] == 0.0 || after[at] == f32::INFINITY);
                } else {
                    assert!(after[at].is_finite());
                }
            }
        }
    }
}
