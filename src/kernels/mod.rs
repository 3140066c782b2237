//! The inner loops of the convolutions, for every instruction set.
//!
//! Activations of one image lie as nChw16c, `[channels / 16, height * width, 16]`, so that sixteen
//! neighbouring channels of a pixel are one vector; missing channels are zero. One kernel, the
//! convolution tile ([`Tile`]), computes a few pixels by one or two blocks of sixteen output
//! channels, and all convolutions are made of it: 1x1 with any stride, k x k as k² taps over an
//! input with a border of zeros, the first layer's 7 x 7 as seven runs of 21 values, and the matrix
//! products of Winograd.
//!
//! Every kernel adds in the same order: the accumulator starts as the bias, then come the taps, in
//! each tap the channel blocks, in each block its channels, then the residual is added and
//! negative values are cut. The result of a pixel therefore does not depend on the tile that it is
//! computed in. NEON, AVX2 and AVX-512 fuse multiplication and addition and give the same bits; the
//! scalar kernel rounds twice and does not.
//!
//! A kernel's name is `operation_type_tile_isa`, with the tile counted in elements:
//! `conv_f32_14x32_avx512` computes 14 pixels by 32 channels. `scalar.rs` is the definition.
//! [`Kernels::of`] is the one list: an instruction set, its tile and its functions. The functions
//! behind it are unsafe; [`Kernels::conv_tile`] is the safe door in front of them.

pub mod aligned;
pub mod bf16;
pub mod cache;
pub mod filtering;
pub mod isa;
pub mod pack;
pub mod pooling;
pub mod projection;
pub mod resampling;
pub mod vectorized;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod scalar_bf16;
mod unroll;

#[cfg(test)]
mod fence;
#[cfg(test)]
mod grid;
#[cfg(test)]
mod properties;

use filtering::{OUTPUTS, POINTS, PRODUCTS};

pub use aligned::AlignedBuffer;
pub use bf16::KernelsBf16;
pub use cache::CacheSizes;
pub use isa::{Isa, UnknownIsa};
pub use pack::PackedWeights;

/// Channels in a block, on every instruction set.
pub const BLOCK: usize = 16;

/// One output tile of a convolution: up to [`Kernels::max_pixels`] pixels by up to
/// [`Kernels::max_blocks`] blocks of output channels.
#[derive(Debug, Clone, Copy)]
pub struct Tile<'a> {
    /// The input from the first pixel's first channel on; it may end after the last value read.
    pub input: &'a [f32],
    /// The offset of every tap into `input`, in floats; at least one.
    pub taps: &'a [usize],
    /// Floats from the input of one output pixel to that of the next: 16 for stride 1, 32 for
    /// stride 2.
    pub pixel_stride: usize,
    /// Floats from one channel block of the input to the next.
    pub block_stride: usize,
    /// Channel blocks of the input, at least one.
    pub blocks: usize,
    /// Neighbouring values of a block that are read, at least one: [`BLOCK`] but where the input is no
    /// feature map.
    pub depth: usize,
    /// `[taps, blocks, depth, out_blocks * 16]`, as [`PackedWeights`] holds them.
    pub weights: &'a [f32],
    /// Blocks of output channels.
    pub out_blocks: usize,
    /// Output pixels.
    pub pixels: usize,
    /// `[out_blocks * 16]`; none is zero.
    pub bias: Option<&'a [f32]>,
    /// Added to the sum; it lies as the output does.
    pub residual: Option<&'a [f32]>,
    /// Whether negative values become zero. NaN stays NaN.
    pub relu: bool,
    /// Floats from one block of output channels to the next, in the output and in the residual. The
    /// pixels of a block are 16 floats apart.
    pub out_block_stride: usize,
}

impl Tile<'_> {
    /// Floats of `input` up to the last value that a kernel reads, or `usize::MAX` where that does
    /// not fit a `usize`.
    pub fn input_extent(&self) -> usize {
        let farthest_tap = self.taps.iter().copied().max().unwrap_or(0);
        let last_block = (self.blocks - 1).saturating_mul(self.block_stride);
        let last_pixel = (self.pixels - 1).saturating_mul(self.pixel_stride);
        farthest_tap
            .saturating_add(last_block)
            .saturating_add(last_pixel)
            .saturating_add(self.depth)
    }

    /// Floats of the output, and of the residual, up to the last value of the tile, or `usize::MAX`
    /// where that does not fit a `usize`.
    pub fn output_extent(&self) -> usize {
        let last_block = (self.out_blocks - 1).saturating_mul(self.out_block_stride);
        last_block.saturating_add(self.pixels.saturating_mul(BLOCK))
    }

    /// Floats of the weights, or `usize::MAX` where that does not fit a `usize`.
    pub fn weights_extent(&self) -> usize {
        self.taps
            .len()
            .saturating_mul(self.blocks)
            .saturating_mul(self.depth)
            .saturating_mul(BLOCK)
            .saturating_mul(self.out_blocks)
    }
}

/// The kernels of one instruction set and the tile that they are made for.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    /// The instruction set.
    pub isa: Isa,
    /// The name of the convolution kernel, for the log.
    pub conv_name: &'static str,
    /// Output pixels in the largest tile.
    pub max_pixels: usize,
    /// Blocks of output channels in the largest tile; weights are packed for it.
    pub max_blocks: usize,
    /// Needs the instruction set, and a tile and an output that passed `conv_tile`'s checks.
    conv_tile: unsafe fn(&Tile<'_>, &mut [f32]),
    /// Needs the instruction set, and floats as `winograd_input` checks them: input, row stride,
    /// products, stride.
    winograd_input: unsafe fn(*const f32, usize, *mut f32, usize),
    /// Needs the instruction set, and floats as `winograd_output` checks them: products, stride,
    /// bias, output, row stride.
    winograd_output: unsafe fn(*const f32, usize, *const f32, *mut f32, usize),
}

impl Kernels {
    /// The kernels of an instruction set, or `None` where this machine cannot run them.
    pub fn of(isa: Isa) -> Option<Kernels> {
        if !isa.is_available() {
            return None;
        }
        match isa {
            Isa::Scalar => Some(Kernels {
                isa,
                conv_name: "conv_f32_14x32_scalar",
                max_pixels: 14,
                max_blocks: 2,
                conv_tile: scalar::conv_f32_14x32_scalar,
                winograd_input: scalar::winograd_f32_input_6x6_scalar,
                winograd_output: scalar::winograd_f32_output_4x4_scalar,
            }),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(Kernels {
                isa,
                conv_name: "conv_f32_6x16_neon",
                max_pixels: neon::MAX_PIXELS,
                max_blocks: neon::MAX_BLOCKS,
                conv_tile: neon::conv_f32_6x16_neon,
                winograd_input: neon::winograd_f32_input_6x6_neon,
                winograd_output: neon::winograd_f32_output_4x4_neon,
            }),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(Kernels {
                isa,
                conv_name: "conv_f32_6x16_avx2",
                max_pixels: avx2::MAX_PIXELS,
                max_blocks: avx2::MAX_BLOCKS,
                conv_tile: avx2::conv_f32_6x16_avx2,
                winograd_input: avx2::winograd_f32_input_6x6_avx2,
                winograd_output: avx2::winograd_f32_output_4x4_avx2,
            }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(Kernels {
                isa,
                conv_name: "conv_f32_14x32_avx512",
                max_pixels: avx512::MAX_PIXELS,
                max_blocks: avx512::MAX_BLOCKS,
                conv_tile: avx512::conv_f32_14x32_avx512,
                winograd_input: avx512::winograd_f32_input_6x6_avx512,
                winograd_output: avx512::winograd_f32_output_4x4_avx512,
            }),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }
    }

    /// Computes one tile into `output`, which starts at the tile's first pixel and first channel;
    /// floats between and behind the tile's values stay as they are. 2 * taps * blocks * depth *
    /// pixels * `out_blocks` * 16 operations.
    ///
    /// # Panics
    ///
    /// Where the tile is empty or larger than the kernel's, where a slice is too short for it,
    /// where the weights or the bias are not of its size, or where its output blocks overlap.
    pub fn conv_tile(&self, tile: &Tile<'_>, output: &mut [f32]) {
        let Tile {
            pixels, out_blocks, ..
        } = *tile;
        assert!(
            (1..=self.max_pixels).contains(&pixels) && (1..=self.max_blocks).contains(&out_blocks),
            "a tile of {pixels} pixels x {out_blocks} blocks for {}",
            self.conv_name
        );
        assert!(
            !tile.taps.is_empty() && tile.blocks > 0 && tile.depth > 0,
            "a tile without input"
        );
        assert!(
            tile.input.len() >= tile.input_extent(),
            "the tile reads {} floats of an input of {}",
            tile.input_extent(),
            tile.input.len()
        );
        assert_eq!(
            tile.weights.len(),
            tile.weights_extent(),
            "floats of weights"
        );
        let channels = out_blocks * BLOCK;
        assert!(
            tile.bias.is_none_or(|bias| bias.len() == channels),
            "the bias has not {channels} floats"
        );
        assert!(
            out_blocks == 1 || tile.out_block_stride >= pixels * BLOCK,
            "output blocks of {pixels} pixels overlap at a stride of {} floats",
            tile.out_block_stride
        );
        let extent = tile.output_extent();
        assert!(
            output.len() >= extent && tile.residual.is_none_or(|r| r.len() >= extent),
            "the tile spans {extent} floats, the output {}, the residual {:?}",
            output.len(),
            tile.residual.map(<[f32]>::len)
        );
        // SAFETY: `of` hands out kernels of available instruction sets only, and every extent that
        // the kernel touches was checked above.
        unsafe { (self.conv_tile)(tile, output) }
    }

    /// Evaluates a tile of Winograd's F(4x4, 3x3) at its 36 pairs of points, for one channel block:
    /// from 6 rows, `row_stride` floats apart, of 6 pixels of 16 channels to 36 pixels, `stride`
    /// floats apart, by rows. 144 additions or multiply-adds for each channel.
    ///
    /// # Panics
    ///
    /// Where a slice is too short, or where products overlap.
    pub fn winograd_input(
        &self,
        input: &[f32],
        row_stride: usize,
        products: &mut [f32],
        stride: usize,
    ) {
        let reads = extent(POINTS, row_stride, POINTS * BLOCK);
        let writes = extent(PRODUCTS, stride, BLOCK);
        assert!(
            input.len() >= reads && products.len() >= writes && stride >= BLOCK,
            "a tile reads {reads} of {} floats, and writes {writes} of {}, {stride} apart",
            input.len(),
            products.len()
        );
        // SAFETY: `of` hands out kernels of available instruction sets only, and both extents were
        // checked.
        unsafe {
            (self.winograd_input)(input.as_ptr(), row_stride, products.as_mut_ptr(), stride);
        }
    }

    /// Interpolates the outputs of a tile of Winograd's F(4x4, 3x3), for one channel block: from 36
    /// pixels, `stride` floats apart, to 4 rows, `row_stride` floats apart, of 4 pixels, with the
    /// bias added and negative values cut. NaN stays NaN. About as many operations.
    ///
    /// # Panics
    ///
    /// Where a slice is too short, or where rows of the output overlap.
    pub fn winograd_output(
        &self,
        products: &[f32],
        stride: usize,
        bias: &[f32; BLOCK],
        output: &mut [f32],
        row_stride: usize,
    ) {
        let reads = extent(PRODUCTS, stride, BLOCK);
        let writes = extent(OUTPUTS, row_stride, OUTPUTS * BLOCK);
        assert!(
            products.len() >= reads && output.len() >= writes && row_stride >= OUTPUTS * BLOCK,
            "a tile reads {reads} of {} floats, and writes {writes} of {}, rows {row_stride} apart",
            products.len(),
            output.len()
        );
        let (products, bias) = (products.as_ptr(), bias.as_ptr());
        // SAFETY: as in `winograd_input`.
        unsafe { (self.winograd_output)(products, stride, bias, output.as_mut_ptr(), row_stride) }
    }
}

/// Floats from the first to the last of `count` runs of `length`, `stride` apart, or `usize::MAX`.
fn extent(count: usize, stride: usize, length: usize) -> usize {
    (count - 1).saturating_mul(stride).saturating_add(length)
}

#[cfg(test)]
mod tests {
    use super::grid::every_kernel;
    use super::*;

    #[test]
    fn a_tile_that_does_not_fit_its_slices_is_refused() {
        let input = [0.0; 4 * BLOCK];
        let weights = [0.0; BLOCK * BLOCK];
        let bias = [0.0; BLOCK];
        let residual = [0.0; 4 * BLOCK];
        let good = Tile {
            input: &input,
            taps: &[0],
            pixel_stride: BLOCK,
            block_stride: 4 * BLOCK,
            blocks: 1,
            depth: BLOCK,
            weights: &weights,
            out_blocks: 1,
            pixels: 4,
            bias: Some(&bias),
            residual: Some(&residual),
            relu: true,
            out_block_stride: 0,
        };
        let pairs = [0.0; 2 * BLOCK * BLOCK];
        let pair = Tile {
            weights: &pairs,
            out_blocks: 2,
            bias: None,
            residual: None,
            out_block_stride: 4 * BLOCK,
            ..good
        };
        let bad = [
            ("no pixel", Tile { pixels: 0, ..good }),
            ("too many pixels", Tile { pixels: 15, ..good }),
            (
                "no output",
                Tile {
                    out_blocks: 0,
                    ..good
                },
            ),
            ("no tap", Tile { taps: &[], ..good }),
            ("no input block", Tile { blocks: 0, ..good }),
            ("no depth", Tile { depth: 0, ..good }),
            (
                "short input",
                Tile {
                    input: &input[1..],
                    ..good
                },
            ),
            (
                "tap beyond the input",
                Tile {
                    taps: &[0, 1],
                    weights: &pairs,
                    ..good
                },
            ),
            (
                "pixels beyond the input",
                Tile {
                    pixel_stride: 17,
                    ..good
                },
            ),
            (
                "block beyond the input",
                Tile {
                    blocks: 2,
                    weights: &pairs,
                    ..good
                },
            ),
            (
                "a stride that overflows",
                Tile {
                    pixel_stride: usize::MAX / 2,
                    ..good
                },
            ),
            (
                "a tap that overflows",
                Tile {
                    taps: &[usize::MAX],
                    ..good
                },
            ),
            (
                "short weights",
                Tile {
                    weights: &weights[1..],
                    ..good
                },
            ),
            (
                "long weights",
                Tile {
                    weights: &pairs,
                    ..good
                },
            ),
            (
                "short bias",
                Tile {
                    bias: Some(&bias[1..]),
                    ..good
                },
            ),
            (
                "short residual",
                Tile {
                    residual: Some(&residual[1..]),
                    ..good
                },
            ),
            (
                "overlapping blocks",
                Tile {
                    out_block_stride: 4 * BLOCK - 1,
                    ..pair
                },
            ),
            (
                "blocks beyond the output",
                Tile {
                    out_block_stride: 4 * BLOCK + 1,
                    ..pair
                },
            ),
            (
                "an output that overflows",
                Tile {
                    out_block_stride: usize::MAX,
                    ..pair
                },
            ),
        ];
        for kernels in every_kernel() {
            let refuses = |tile: &Tile<'_>, floats: usize| {
                let mut output = vec![0.0; floats];
                std::panic::catch_unwind(move || kernels.conv_tile(tile, &mut output)).is_err()
            };
            assert!(!refuses(&good, 4 * BLOCK));
            assert!(refuses(&good, 4 * BLOCK - 1), "short output");
            assert_eq!(refuses(&pair, 8 * BLOCK), kernels.max_blocks < 2);
            for (name, tile) in &bad {
                assert!(refuses(tile, 8 * BLOCK), "{}: {name}", kernels.conv_name);
            }
        }
    }
}
