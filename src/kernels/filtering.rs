//! One tile of Winograd's minimal filtering F(4x4, 3x3), for one channel block.
//!
//! Winograd, *Arithmetic Complexity of Computations*, 1980; Lavin and Gray, *Fast Algorithms for
//! Convolutional Neural Networks*, 2016. The 6x6 inputs of a tile are evaluated at the points 0,
//! ±A, ±B and infinity in both directions; its 4x4 outputs are interpolated from the products at
//! the 36 pairs of points, summed over the input channels.

use super::BLOCK;
use super::unroll::unroll;

/// Points in one direction: inputs of a tile.
pub const POINTS: usize = 6;

/// Outputs of a tile in one direction.
pub const OUTPUTS: usize = 4;

/// Products of a tile.
pub const PRODUCTS: usize = POINTS * POINTS;

/// The finite points beside 0 are ±A and ±B.
///
/// With 5/8 and 3/2 the error of a convolution of 128 channels is twice that of direct summation;
/// with the usual 1 and 2 it is nearly five times, with 1 and 1/2 over four times. All coefficients
/// made of them are exact in f32. That other points are better: Barabasz, Anderson, Soodhalter and
/// Gregg, *Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
/// Networks*, 2020.
pub const A: f64 = 0.625;
/// See [`A`].
pub const B: f64 = 1.5;

/// A few neighbouring channels of a pixel in one register.
///
/// # Safety
///
/// Every function needs the instruction set that the register belongs to; `load` and `store` need
/// `LANES` floats at the pointer.
pub(super) trait Vector: Copy {
    /// Channels, a divisor of [`BLOCK`].
    const LANES: usize;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn scale(self, factor: f32) -> Self;
    /// `self * factor + addend`, rounded once where the instruction set can.
    unsafe fn scale_add(self, factor: f32, addend: Self) -> Self;
    /// Zero for negative values; NaN stays NaN.
    unsafe fn cut(self) -> Self;
}

/// Evaluates a tile: `input` holds 6 rows, `row_stride` floats apart, of 6 pixels of 16 channels;
/// `products` gets `[PRODUCTS]` pixels, `stride` floats apart.
///
/// # Safety
///
/// Needs the vector's instruction set, and all floats named above.
#[inline(always)]
pub(super) unsafe fn evaluate_tile<V: Vector>(
    input: *const f32,
    row_stride: usize,
    products: *mut f32,
    stride: usize,
) {
    for first in (0..BLOCK).step_by(V::LANES) {
        // SAFETY: rows, columns and products are those that the caller promises, and `first` is
        // the first of `LANES` of their 16 channels.
        unsafe {
            let (input, products) = (input.add(first), products.add(first));
            let load = |y: usize, x: usize| V::load(input.add(y * row_stride + x * BLOCK));
            let mut columns = [[V::splat(0.0); POINTS]; POINTS];
            unroll!(up to 6: x < POINTS {
                columns[x] = evaluate([
                    load(0, x),
                    load(1, x),
                    load(2, x),
                    load(3, x),
                    load(4, x),
                    load(5, x),
                ]);
            });
            unroll!(up to 6: y < POINTS {
                let row = evaluate([
                    columns[0][y],
                    columns[1][y],
                    columns[2][y],
                    columns[3][y],
                    columns[4][y],
                    columns[5][y],
                ]);
                unroll!(up to 6: x < POINTS {
                    row[x].store(products.add((POINTS * y + x) * stride));
                });
            });
        }
    }
}

/// Interpolates a tile: `products` holds `[PRODUCTS]` pixels of 16 channels, `stride` floats apart;
/// `output` gets 4 rows, `row_stride` floats apart, of 4 pixels, with the bias added and negative
/// values cut.
///
/// # Safety
///
/// Needs the vector's instruction set, and all floats named above, 16 of them in `bias`.
#[inline(always)]
pub(super) unsafe fn interpolate_tile<V: Vector>(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut f32,
    row_stride: usize,
) {
    for first in (0..BLOCK).step_by(V::LANES) {
        // SAFETY: products, rows and columns are those that the caller promises, and `first` is
        // the first of `LANES` of their 16 channels.
        unsafe {
            let (products, output) = (products.add(first), output.add(first));
            let bias = V::load(bias.add(first));
            let load = |y: usize, x: usize| V::load(products.add((POINTS * y + x) * stride));
            let mut columns = [[V::splat(0.0); OUTPUTS]; POINTS];
            unroll!(up to 6: x < POINTS {
                columns[x] = interpolate([
                    load(0, x),
                    load(1, x),
                    load(2, x),
                    load(3, x),
                    load(4, x),
                    load(5, x),
                ]);
            });
            unroll!(up to 6: y < OUTPUTS {
                let row = interpolate([
                    columns[0][y],
                    columns[1][y],
                    columns[2][y],
                    columns[3][y],
                    columns[4][y],
                    columns[5][y],
                ]);
                unroll!(up to 6: x < OUTPUTS {
                    let value = row[x].add(bias).cut();
                    value.store(output.add(y * row_stride + x * BLOCK));
                });
            });
        }
    }
}

/// Six inputs at the points 0, A, -A, B, -B and infinity: the polynomials of degree 5 that vanish
/// at all other points, with the inputs as coefficients.
///
/// # Safety
///
/// Needs the vector's instruction set.
#[inline(always)]
unsafe fn evaluate<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; POINTS]) -> [V; POINTS] {
    const A2: f32 = (A * A) as f32;
    const B2: f32 = (B * B) as f32;
    const SUM: f32 = (A * A + B * B) as f32;
    const PRODUCT: f32 = (A * A * B * B) as f32;
    // SAFETY: the caller's promise.
    unsafe {
        let (even_a, odd_a) = (d2.scale_add(-B2, d4), d1.scale_add(-B2, d3));
        let (even_b, odd_b) = (d2.scale_add(-A2, d4), d1.scale_add(-A2, d3));
        [
            d0.scale_add(PRODUCT, d2.scale_add(-SUM, d4)),
            odd_a.scale_add(A as f32, even_a),
            odd_a.scale_add(-A as f32, even_a),
            odd_b.scale_add(B as f32, even_b),
            odd_b.scale_add(-B as f32, even_b),
            d1.scale_add(PRODUCT, d3.scale_add(-SUM, d5)),
        ]
    }
}

/// Four outputs from the products at the six points.
///
/// # Safety
///
/// Needs the vector's instruction set.
#[inline(always)]
unsafe fn interpolate<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; POINTS]) -> [V; OUTPUTS] {
    const A2: f32 = (A * A) as f32;
    const B2: f32 = (B * B) as f32;
    const A3: f32 = (A * A * A) as f32;
    const B3: f32 = (B * B * B) as f32;
    // SAFETY: the caller's promise.
    unsafe {
        let (even_a, odd_a) = (m1.add(m2), m1.sub(m2));
        let (even_b, odd_b) = (m3.add(m4), m3.sub(m4));
        [
            m0.add(even_a.add(even_b)),
            odd_b.scale_add(B as f32, odd_a.scale(A as f32)),
            even_b.scale_add(B2, even_a.scale(A2)),
            odd_b.scale_add(B3, odd_a.scale(A3)).add(m5),
        ]
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::super::grid::{Guarded, every_kernel, value};
    use super::super::{Isa, Kernels};
    use super::*;

    /// Floats between rows of pixels, and between products; both leave gaps.
    const INPUT_STRIDE: usize = POINTS * BLOCK + 5;
    const STRIDE: usize = BLOCK + 3;
    const OUTPUT_STRIDE: usize = OUTPUTS * BLOCK + 9;

    /// `count` runs of `length` random floats, `stride` apart, with guards between them.
    fn runs(count: usize, stride: usize, length: usize, seed: u64) -> Guarded {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut runs = Guarded::new((count - 1) * stride + length);
        for run in runs.slice_mut().chunks_mut(stride) {
            run[..length].fill_with(|| value(&mut random));
        }
        runs
    }

    fn evaluated(kernels: &Kernels, input: &[f32]) -> Vec<f32> {
        let mut products = Guarded::new((PRODUCTS - 1) * STRIDE + BLOCK);
        kernels.winograd_input(input, INPUT_STRIDE, products.slice_mut(), STRIDE);
        assert!(products.holds(|at| at % STRIDE < BLOCK), "{}", kernels.isa);
        products.slice().to_vec()
    }

    fn interpolated(kernels: &Kernels, products: &[f32], bias: &[f32; BLOCK]) -> Vec<f32> {
        let mut output = Guarded::new((OUTPUTS - 1) * OUTPUT_STRIDE + OUTPUTS * BLOCK);
        kernels.winograd_output(products, STRIDE, bias, output.slice_mut(), OUTPUT_STRIDE);
        assert!(
            output.holds(|at| at % OUTPUT_STRIDE < OUTPUTS * BLOCK),
            "{}",
            kernels.isa
        );
        output.slice().to_vec()
    }

    /// The value of the polynomial with these coefficients at each point, over the product of the
    /// point's distances from the other finite points; at infinity the leading coefficient.
    fn filter_at_points(filter: [f64; 3]) -> [f64; POINTS] {
        let points = [0.0, A, -A, B, -B];
        std::array::from_fn(|at| {
            let Some(&point) = points.get(at) else {
                return filter[2];
            };
            let others = points.iter().filter(|&&other| other != point);
            let distances: f64 = others.map(|other| point - other).product();
            (filter[0] + filter[1] * point + filter[2] * point * point) / distances
        })
    }

    /// Largest difference that `roundings` in a row can make between two evaluations of one sum
    /// whose terms have magnitudes up to `magnitudes` together: 2 gamma_n (Higham, Accuracy and
    /// Stability of Numerical Algorithms, 2002, section 3.1).
    fn tolerance(roundings: f64, magnitudes: f64) -> f64 {
        let unit = f64::from(f32::EPSILON) / 2.0;
        2.0 * roundings * unit / (1.0 - roundings * unit) * magnitudes
    }

    #[test]
    fn a_tile_is_a_convolution_on_every_instruction_set() {
        let input = runs(POINTS, INPUT_STRIDE, POINTS * BLOCK, 1);
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let filter: [[f64; 3]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| f64::from(value(&mut random))));
        let bias: [f32; BLOCK] = std::array::from_fn(|_| value(&mut random));
        let rows = filter.map(filter_at_points);
        for kernels in every_kernel() {
            let mut products = evaluated(&kernels, input.slice());
            for (product, values) in products.chunks_mut(STRIDE).enumerate() {
                let (y, x) = (product / POINTS, product % POINTS);
                let weight = filter_at_points([rows[0][x], rows[1][x], rows[2][x]])[y];
                for value in &mut values[..BLOCK] {
                    *value = (f64::from(*value) * weight) as f32;
                }
            }
            let output = interpolated(&kernels, &products, &bias);
            for y in 0..OUTPUTS {
                for x in 0..OUTPUTS {
                    for channel in 0..BLOCK {
                        let mut exact = f64::from(bias[channel]);
                        for (dy, row) in filter.iter().enumerate() {
                            for (dx, weight) in row.iter().enumerate() {
                                let at = (y + dy) * INPUT_STRIDE + (x + dx) * BLOCK + channel;
                                exact += weight * f64::from(input.slice()[at]);
                            }
                        }
                        let found = output[y * OUTPUT_STRIDE + x * BLOCK + channel];
                        let apart = (f64::from(found) - exact.max(0.0)).abs();
                        assert!(apart < 2e-5, "{}: {found} for {exact}", kernels.isa);
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_agrees_with_the_scalar_one() {
        let scalar = Kernels::of(Isa::Scalar).expect("every machine has it");
        let bias: [f32; BLOCK] = std::array::from_fn(|channel| channel as f32 / 16.0 - 0.5);
        // What the coefficients of one direction add up to at most.
        let evaluation = (1.0 + A * A) * (1.0 + B * B);
        let interpolation = 1.0 + 2.0 * A.powi(3) + 2.0 * B.powi(3);
        for kernels in every_kernel() {
            for seed in 0..20 {
                let input = runs(POINTS, INPUT_STRIDE, POINTS * BLOCK, seed);
                let expected = evaluated(&scalar, input.slice());
                let found = evaluated(&kernels, input.slice());
                for at in (0..found.len()).filter(|at| at % STRIDE < BLOCK) {
                    // At most four roundings on the way through each direction.
                    let apart = (f64::from(found[at]) - f64::from(expected[at])).abs();
                    assert!(apart <= tolerance(8.0, evaluation * evaluation));
                }

                let products = runs(PRODUCTS, STRIDE, BLOCK, seed);
                let expected = interpolated(&scalar, products.slice(), &bias);
                let found = interpolated(&kernels, products.slice(), &bias);
                let is_output = |at: &usize| at % OUTPUT_STRIDE < OUTPUTS * BLOCK;
                for at in (0..found.len()).filter(is_output) {
                    // At most five roundings in each direction, and that of the bias.
                    let apart = (f64::from(found[at]) - f64::from(expected[at])).abs();
                    assert!(apart <= tolerance(11.0, interpolation * interpolation + 1.0));
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
        let bits = |floats: Vec<f32>| floats.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let input = runs(POINTS, INPUT_STRIDE, POINTS * BLOCK, 3);
        assert_eq!(
            bits(evaluated(&avx2, input.slice())),
            bits(evaluated(&avx512, input.slice()))
        );
        let products = runs(PRODUCTS, STRIDE, BLOCK, 4);
        assert_eq!(
            bits(interpolated(&avx2, products.slice(), &[0.5; BLOCK])),
            bits(interpolated(&avx512, products.slice(), &[0.5; BLOCK]))
        );
    }

    #[test]
    fn nan_stays_in_its_channel_and_is_not_cut_away() {
        for kernels in every_kernel() {
            let mut input = runs(POINTS, INPUT_STRIDE, POINTS * BLOCK, 5);
            input.slice_mut()[3 * INPUT_STRIDE + 2 * BLOCK + 7] = f32::NAN;
            let products = evaluated(&kernels, input.slice());
            let output = interpolated(&kernels, &products, &[0.0; BLOCK]);
            for row in output.chunks(OUTPUT_STRIDE) {
                for (at, value) in row[..OUTPUTS * BLOCK].iter().enumerate() {
                    assert_eq!(value.is_nan(), at % BLOCK == 7, "{}", kernels.isa);
                }
            }
        }
    }

    #[test]
    fn a_tile_that_does_not_fit_its_slices_is_refused() {
        let (tile, outputs) = (POINTS * POINTS * BLOCK, OUTPUTS * OUTPUTS * BLOCK);
        let (row, out_row) = (POINTS * BLOCK, OUTPUTS * BLOCK);
        for kernels in every_kernel() {
            let evaluates = |input: usize, row_stride: usize, products: usize, stride: usize| {
                let (input, mut products) = (vec![0.0; input], vec![0.0; products]);
                std::panic::catch_unwind(move || {
                    kernels.winograd_input(&input, row_stride, &mut products, stride);
                })
                .is_ok()
            };
            assert!(evaluates(tile, row, tile, BLOCK));
            assert!(!evaluates(tile - 1, row, tile, BLOCK));
            assert!(!evaluates(tile, row + 1, tile, BLOCK));
            assert!(!evaluates(tile, usize::MAX, tile, BLOCK));
            assert!(!evaluates(tile, row, tile - 1, BLOCK));
            assert!(!evaluates(tile, row, tile, BLOCK + 1));
            assert!(!evaluates(tile, row, tile, BLOCK - 1));
            assert!(!evaluates(tile, row, tile, usize::MAX));

            let interpolates =
                |products: usize, stride: usize, output: usize, stride_out: usize| {
                    let (products, mut output) = (vec![0.0; products], vec![0.0; output]);
                    std::panic::catch_unwind(move || {
                        let bias = [0.0; BLOCK];
                        kernels.winograd_output(&products, stride, &bias, &mut output, stride_out);
                    })
                    .is_ok()
                };
            assert!(interpolates(tile, BLOCK, outputs, out_row));
            assert!(!interpolates(tile - 1, BLOCK, outputs, out_row));
            assert!(!interpolates(tile, BLOCK + 1, outputs, out_row));
            assert!(!interpolates(tile, usize::MAX, outputs, out_row));
            assert!(!interpolates(tile, BLOCK, outputs - 1, out_row));
            assert!(!interpolates(tile, BLOCK, outputs, out_row + 1));
            assert!(!interpolates(tile, BLOCK, outputs, out_row - 1));
            assert!(!interpolates(tile, BLOCK, outputs, usize::MAX));
        }
    }
}
