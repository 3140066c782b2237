//! The bfloat16 kernels for AVX-512 with AVX512-BF16.
//!
//! The convolution tile is that of the f32 kernel, 14 pixels by 2 output blocks in 28 of the 32
//! registers, but each instruction multiplies a pair of input channels: a pair of weights for each
//! of sixteen output channels by one pair of inputs that is broadcast as 32 bits.

use std::arch::x86_64::*;

use half::bf16;

use super::BLOCK;
use super::bf16::{MAX_BLOCKS, MAX_PIXELS, OUTPUTS, PAIR, POINTS, Sum, TileBf16};
use super::unroll::unroll;

/// Rows of pairs of weights between the one that is used and the one that is fetched, as in the f32
/// kernel.
const AHEAD: usize = 16;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A tile with all its sizes known to the compiler.
type ConvTile<T> = unsafe fn(&TileBf16<'_>, &mut [T]);

/// The kernels for 1 to 14 pixels.
macro_rules! of_pixels {
    ($blocks:literal, $stride:literal) => {
        [
            conv::<T, 1, $blocks, $stride>,
            conv::<T, 2, $blocks, $stride>,
            conv::<T, 3, $blocks, $stride>,
            conv::<T, 4, $blocks, $stride>,
            conv::<T, 5, $blocks, $stride>,
            conv::<T, 6, $blocks, $stride>,
            conv::<T, 7, $blocks, $stride>,
            conv::<T, 8, $blocks, $stride>,
            conv::<T, 9, $blocks, $stride>,
            conv::<T, 10, $blocks, $stride>,
            conv::<T, 11, $blocks, $stride>,
            conv::<T, 12, $blocks, $stride>,
            conv::<T, 13, $blocks, $stride>,
            conv::<T, 14, $blocks, $stride>,
        ]
    };
}

/// What stores a tile of this type.
struct Conv<T>(std::marker::PhantomData<T>);

impl<T: Sum> Conv<T> {
    /// By stride (16 values, 32 values, any), output blocks and pixels. With a known stride the
    /// pixels' offsets are part of the instructions.
    const TILES: [[[ConvTile<T>; MAX_PIXELS]; MAX_BLOCKS]; 3] = [
        [of_pixels!(1, 16), of_pixels!(2, 16)],
        [of_pixels!(1, 32), of_pixels!(2, 32)],
        [of_pixels!(1, 0), of_pixels!(2, 0)],
    ];
}

/// Computes a tile.
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and a tile and an output that passed the checks of
/// [`super::bf16::KernelsBf16`].
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn conv_bf16_14x32_avx512bf16<T: Sum>(tile: &TileBf16<'_>, output: &mut [T]) {
    let stride = match tile.pixel_stride {
        16 => 0,
        32 => 1,
        _ => 2,
    };
    let tiles = &Conv::<T>::TILES;
    let conv = tiles[stride][tile.out_blocks - 1][tile.pixels - 1];
    // SAFETY: the caller's promise, and the entry is the one for this tile.
    unsafe { conv(tile, output) }
}

/// Computes a tile of `PIXELS` by `BLOCKS`, whose pixel stride is `STRIDE` unless that is 0.
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and a tile of these sizes and an output that passed the checks of
/// [`super::bf16::KernelsBf16`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn conv<T: Sum, const PIXELS: usize, const BLOCKS: usize, const STRIDE: usize>(
    tile: &TileBf16<'_>,
    output: &mut [T],
) {
    let stride = if STRIDE == 0 {
        tile.pixel_stride
    } else {
        STRIDE
    };
    let mut sums = [[_mm512_setzero_ps(); BLOCKS]; PIXELS];
    if let Some(bias) = tile.bias {
        unroll!(up to 2: block < BLOCKS {
            // SAFETY: the bias has 16 floats for every output block.
            let bias = unsafe { _mm512_loadu_ps(bias.as_ptr().add(block * BLOCK)) };
            unroll!(up to 14: pixel < PIXELS { sums[pixel][block] = bias });
        });
    }

    // What is touched at the end only, the residual and the output, is fetched a line with every row
    // of weights, as in the f32 kernel. Sums that are stored as they are have no residual, but twice
    // as many lines.
    let first: *const T = output.as_ptr();
    let second = (BLOCKS - 1) * tile.out_block_stride;
    let at_end: [*const u8; 4] = if size_of::<T>() == size_of::<f32>() {
        let half = BLOCK / PAIR * BLOCK;
        [0, half, second, second + half].map(|at| first.wrapping_add(at).cast())
    } else {
        let residual = tile.residual.map_or(first.cast(), <[bf16]>::as_ptr);
        [
            residual.cast(),
            residual.wrapping_add(second).cast(),
            first.cast(),
            first.wrapping_add(second).cast(),
        ]
    };
    let mut at_end = at_end.into_iter().cycle();

    let mut weights = tile.weights.as_ptr();
    for &tap in tile.taps {
        for block in 0..tile.blocks {
            // SAFETY: `input_extent` covers every tap, block and pixel with its 16 channels, and
            // `weights_extent` as many rows of pairs of weights as this loop takes steps. A prefetch
            // behind the weights, or wherever else, reads nothing.
            unsafe {
                let input = tile.input.as_ptr().add(tap + block * tile.block_stride);
                // The pixels of the next block; after the last one, those of the tile behind this.
                let next = if block + 1 < tile.blocks {
                    input.wrapping_add(tile.block_stride)
                } else {
                    tile.input.as_ptr().wrapping_add(tap + PIXELS * stride)
                };
                let at_end = at_end.next().unwrap_or(first.cast());
                for pair in 0..BLOCK / PAIR {
                    let ahead = next.wrapping_add(pair * PAIR * stride);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    _mm_prefetch::<_MM_HINT_T0>(at_end.wrapping_add(pair * LINE).cast());
                    let mut row = [_mm512_setzero_si512(); BLOCKS];
                    unroll!(up to 2: block < BLOCKS {
                        row[block] = _mm512_loadu_si512(weights.add(block * PAIR * BLOCK).cast());
                        let ahead = (AHEAD * BLOCKS + block) * PAIR * BLOCK;
                        _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(ahead).cast());
                    });
                    unroll!(up to 14: pixel < PIXELS {
                        let value = input.add(pixel * stride + PAIR * pair).cast::<i32>();
                        let value = pairs(_mm512_set1_epi32(value.read_unaligned()));
                        unroll!(up to 2: block < BLOCKS {
                            sums[pixel][block] =
                                _mm512_dpbf16_ps(sums[pixel][block], value, pairs(row[block]));
                        });
                    });
                    weights = weights.add(BLOCKS * PAIR * BLOCK);
                }
            }
        }
    }

    unroll!(up to 2: block < BLOCKS {
        unroll!(up to 14: pixel < PIXELS {
            let at = block * tile.out_block_stride + pixel * BLOCK;
            let mut sum = sums[pixel][block];
            // SAFETY: `output_extent` covers every block and pixel with its 16 channels, in the
            // residual as in the output.
            unsafe {
                if let Some(residual) = tile.residual {
                    sum = _mm512_add_ps(sum, load(residual.as_ptr().add(at)));
                }
                if tile.relu {
                    // Where one is NaN, the second operand is the result.
                    sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
                }
                T::store(sum, output.as_mut_ptr().add(at));
            }
        });
    });
}

/// Names what the bits are.
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is a value.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// Loads the sixteen values of a pixel.
///
/// # Safety
///
/// Needs AVX-512F, and sixteen values.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load(from: *const bf16) -> __m512 {
    // SAFETY: the caller's promise.
    let bits = unsafe { _mm256_loadu_si256(from.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

/// Rounds and stores the sixteen values of a pixel.
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and room for sixteen values.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn store(values: __m512, to: *mut bf16) {
    let rounded = _mm512_cvtneps_pbh(values);
    // SAFETY: both types are 32 bytes of which every pattern is a value, and the caller promises the
    // room.
    unsafe { _mm256_storeu_si256(to.cast(), std::mem::transmute::<__m256bh, __m256i>(rounded)) }
}

/// Four inputs at the points 0, 1, -1 and infinity.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn evaluate([d0, d1, d2, d3]: [__m512; POINTS]) -> [__m512; POINTS] {
    [
        _mm512_sub_ps(d0, d2),
        _mm512_add_ps(d1, d2),
        _mm512_sub_ps(d2, d1),
        _mm512_sub_ps(d1, d3),
    ]
}

/// Two outputs from the products at the four points.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn interpolate([m0, m1, m2, m3]: [__m512; POINTS]) -> [__m512; OUTPUTS] {
    [
        _mm512_add_ps(_mm512_add_ps(m0, m1), m2),
        _mm512_sub_ps(_mm512_sub_ps(m1, m2), m3),
    ]
}

/// Evaluates a tile; see [`super::bf16::KernelsBf16::winograd_input`].
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and the values that it says.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn winograd_bf16_input_4x4_avx512bf16(
    input: *const bf16,
    row_stride: usize,
    products: *mut bf16,
    stride: usize,
) {
    // SAFETY: rows, columns and products are those that the caller promises.
    unsafe {
        let mut columns = [[_mm512_setzero_ps(); POINTS]; POINTS];
        unroll!(up to 6: x < POINTS {
            let column = input.add(x * BLOCK);
            columns[x] = evaluate([
                load(column),
                load(column.add(row_stride)),
                load(column.add(2 * row_stride)),
                load(column.add(3 * row_stride)),
            ]);
        });
        unroll!(up to 6: y < POINTS {
            let row = evaluate([columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
            unroll!(up to 6: x < POINTS {
                store(row[x], products.add((POINTS * y + x) * stride));
            });
        });
    }
}

/// Interpolates a tile; see [`super::bf16::KernelsBf16::winograd_output`].
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and the values that it says.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn winograd_bf16_output_2x2_avx512bf16(
    products: *const f32,
    stride: usize,
    bias: *const f32,
    output: *mut bf16,
    row_stride: usize,
) {
    // SAFETY: products, rows and columns are those that the caller promises, 16 floats of bias.
    unsafe {
        let bias = _mm512_loadu_ps(bias);
        let load = |y: usize, x: usize| products.add((POINTS * y + x) * stride);
        let mut columns = [[_mm512_setzero_ps(); OUTPUTS]; POINTS];
        unroll!(up to 6: x < POINTS {
            columns[x] = interpolate([
                _mm512_loadu_ps(load(0, x)),
                _mm512_loadu_ps(load(1, x)),
                _mm512_loadu_ps(load(2, x)),
                _mm512_loadu_ps(load(3, x)),
            ]);
        });
        unroll!(up to 2: y < OUTPUTS {
            let row = interpolate([columns[0][y], columns[1][y], columns[2][y], columns[3][y]]);
            unroll!(up to 2: x < OUTPUTS {
                // Where one is NaN, the second operand is the result.
                let value = _mm512_max_ps(_mm512_setzero_ps(), _mm512_add_ps(row[x], bias));
                store(value, output.add(y * row_stride + x * BLOCK));
            });
        });
    }
}

/// Rounds; see [`super::bf16::KernelsBf16::round`].
///
/// # Safety
///
/// Needs AVX-512F and AVX512-BF16, and slices of one length.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn round_bf16_avx512bf16(from: &[f32], to: &mut [bf16]) {
    let (chunks, rest) = from.as_chunks::<BLOCK>();
    let (to, to_rest) = to.as_chunks_mut::<BLOCK>();
    for (from, to) in chunks.iter().zip(to) {
        // SAFETY: both have sixteen values.
        unsafe { store(_mm512_loadu_ps(from.as_ptr()), to.as_mut_ptr()) }
    }
    super::scalar_bf16::round_bf16_scalar(rest, to_rest);
}
