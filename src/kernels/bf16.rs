//! Convolutions whose activations and weights are bfloat16 and whose sums are f32.
//!
//! The layout is that of the f32 kernels with values of two bytes: `[channel blocks, pixels, 16]`.
//! Products come in pairs, as AVX512-BF16 multiplies them: a pair is two neighbouring input
//! channels, and a sum takes the odd channel's product before the even one's, each with one rounding
//! to nearest even and with subnormal numbers as zero on both sides (Intel, *64 and IA-32
//! Architectures Software Developer's Manual*, volume 2, `VDPBF16PS`). The order is else that of the
//! f32 kernels, so that the result of a pixel does not depend on the tile that it is computed in.
//!
//! `scalar_bf16.rs` is the definition; both instruction sets give the same bits.

use half::bf16;

use super::{AlignedBuffer, BLOCK, Isa, PackedWeights, scalar_bf16};

#[cfg(target_arch = "x86_64")]
use super::avx512_bf16;

/// Points in one direction of a tile of Winograd's F(2x2, 3x3): 0, 1, -1 and infinity.
pub const POINTS: usize = 4;

/// Outputs of that tile in one direction.
pub const OUTPUTS: usize = 2;

/// Products of that tile.
pub const PRODUCTS: usize = POINTS * POINTS;

/// Input channels that are multiplied in one step.
pub const PAIR: usize = 2;

/// Output pixels in the largest tile.
pub const MAX_PIXELS: usize = 14;

/// Blocks of output channels in the largest tile.
pub const MAX_BLOCKS: usize = 2;

/// One output tile of a convolution in bfloat16; see [`super::Tile`], counted in values.
#[derive(Debug, Clone, Copy)]
pub struct TileBf16<'a> {
    /// The input from the first pixel's first channel on.
    pub input: &'a [bf16],
    /// The offset of every tap into `input`; at least one.
    pub taps: &'a [usize],
    /// Values from the input of one output pixel to that of the next.
    pub pixel_stride: usize,
    /// Values from one channel block of the input to the next.
    pub block_stride: usize,
    /// Channel blocks of the input, at least one.
    pub blocks: usize,
    /// `[taps, blocks, 8, out_blocks * 16, 2]`, as [`PackedBf16`] holds them.
    pub weights: &'a [bf16],
    /// Blocks of output channels.
    pub out_blocks: usize,
    /// Output pixels.
    pub pixels: usize,
    /// `[out_blocks * 16]`; none is zero.
    pub bias: Option<&'a [f32]>,
    /// Added to the sum; it lies as the output does.
    pub residual: Option<&'a [bf16]>,
    /// Whether negative values become zero. NaN stays NaN.
    pub relu: bool,
    /// Values from one block of output channels to the next, in the output and in the residual.
    pub out_block_stride: usize,
}

impl TileBf16<'_> {
    /// Values of `input` up to the last that a kernel reads, or `usize::MAX`.
    fn input_extent(&self) -> usize {
        let farthest_tap = self.taps.iter().copied().max().unwrap_or(0);
        let last_block = (self.blocks - 1).saturating_mul(self.block_stride);
        let last_pixel = (self.pixels - 1).saturating_mul(self.pixel_stride);
        farthest_tap
            .saturating_add(last_block)
            .saturating_add(last_pixel)
            .saturating_add(BLOCK)
    }

    /// Values of the output, and of the residual, up to the last of the tile, or `usize::MAX`.
    fn output_extent(&self) -> usize {
        let last_block = (self.out_blocks - 1).saturating_mul(self.out_block_stride);
        last_block.saturating_add(self.pixels.saturating_mul(BLOCK))
    }

    /// Values of the weights, or `usize::MAX`.
    fn weights_extent(&self) -> usize {
        self.taps
            .len()
            .saturating_mul(self.blocks)
            .saturating_mul(BLOCK * BLOCK)
            .saturating_mul(self.out_blocks)
    }
}

/// The bfloat16 kernels of one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct KernelsBf16 {
    /// The instruction set and its extension, for the log and the fingerprint.
    pub isa_name: &'static str,
    /// The name of the convolution kernel, for messages.
    pub conv_name: &'static str,
    /// Output pixels in the largest tile.
    pub max_pixels: usize,
    /// Blocks of output channels in the largest tile; weights are packed for it.
    pub max_blocks: usize,
    /// Needs the instruction set, and a tile and an output that passed the checks of `check`.
    conv_to_bf16: unsafe fn(&TileBf16<'_>, &mut [bf16]),
    /// The same.
    conv_to_f32: unsafe fn(&TileBf16<'_>, &mut [f32]),
    /// Needs the instruction set, and values as `winograd_input` checks them.
    winograd_input: unsafe fn(*const bf16, usize, *mut bf16, usize),
    /// Needs the instruction set, and values as `winograd_output` checks them.
    winograd_output: unsafe fn(*const f32, usize, *const f32, *mut bf16, usize),
    /// Needs the instruction set and slices of one length.
    round: unsafe fn(&[f32], &mut [bf16]),
}

impl KernelsBf16 {
    /// The bfloat16 kernels that go with an instruction set, or `None` where it has none: AVX-512
    /// needs its extension AVX512-BF16, and below it there are only the plain loops of
    /// [`Isa::Scalar`].
    pub fn of(isa: Isa) -> Option<KernelsBf16> {
        match isa {
            Isa::Scalar => Some(KernelsBf16 {
                isa_name: "scalar",
                conv_name: "conv_bf16_14x32_scalar",
                max_pixels: MAX_PIXELS,
                max_blocks: MAX_BLOCKS,
                conv_to_bf16: scalar_bf16::conv_bf16_14x32_scalar::<bf16>,
                conv_to_f32: scalar_bf16::conv_bf16_14x32_scalar::<f32>,
                winograd_input: scalar_bf16::winograd_bf16_input_4x4_scalar,
                winograd_output: scalar_bf16::winograd_bf16_output_2x2_scalar,
                round: scalar_bf16::round_bf16_scalar,
            }),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if is_x86_feature_detected!("avx512bf16") && isa.is_available() => {
                Some(KernelsBf16 {
                    isa_name: "avx512bf16",
                    conv_name: "conv_bf16_14x32_avx512bf16",
                    max_pixels: MAX_PIXELS,
                    max_blocks: MAX_BLOCKS,
                    conv_to_bf16: avx512_bf16::conv_bf16_14x32_avx512bf16::<bf16>,
                    conv_to_f32: avx512_bf16::conv_bf16_14x32_avx512bf16::<f32>,
                    winograd_input: avx512_bf16::winograd_bf16_input_4x4_avx512bf16,
                    winograd_output: avx512_bf16::winograd_bf16_output_2x2_avx512bf16,
                    round: avx512_bf16::round_bf16_avx512bf16,
                })
            }
            _ => None,
        }
    }

    /// Computes one tile; see [`super::Kernels::conv_tile`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn conv_to_bf16(&self, tile: &TileBf16<'_>, output: &mut [bf16]) {
        self.check(tile, output.len());
        // SAFETY: `of` hands out kernels of available instruction sets only, and every extent that
        // the kernel touches was checked.
        unsafe { (self.conv_to_bf16)(tile, output) }
    }

    /// Computes one tile and keeps its sums as they are; see [`super::Kernels::conv_tile`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn conv_to_f32(&self, tile: &TileBf16<'_>, output: &mut [f32]) {
        self.check(tile, output.len());
        // SAFETY: as in `conv_to_bf16`.
        unsafe { (self.conv_to_f32)(tile, output) }
    }

    fn check(&self, tile: &TileBf16<'_>, output: usize) {
        let TileBf16 {
            pixels, out_blocks, ..
        } = *tile;
        assert!(
            (1..=self.max_pixels).contains(&pixels) && (1..=self.max_blocks).contains(&out_blocks),
            "a tile of {pixels} pixels x {out_blocks} blocks for {}",
            self.conv_name
        );
        assert!(
            !tile.taps.is_empty() && tile.blocks > 0,
            "a tile without input"
        );
        assert!(
            tile.input.len() >= tile.input_extent(),
            "the tile reads {} values of an input of {}",
            tile.input_extent(),
            tile.input.len()
        );
        assert_eq!(
            tile.weights.len(),
            tile.weights_extent(),
            "values of weights"
        );
        let channels = out_blocks * BLOCK;
        assert!(
            tile.bias.is_none_or(|bias| bias.len() == channels),
            "the bias has not {channels} floats"
        );
        assert!(
            out_blocks == 1 || tile.out_block_stride >= pixels * BLOCK,
            "output blocks of {pixels} pixels overlap at a stride of {}",
            tile.out_block_stride
        );
        let extent = tile.output_extent();
        assert!(
            output >= extent && tile.residual.is_none_or(|r| r.len() >= extent),
            "the tile spans {extent} values, the output {output}, the residual {:?}",
            tile.residual.map(<[bf16]>::len)
        );
    }

    /// Evaluates a tile of Winograd's F(2x2, 3x3) at its 16 pairs of points, for one channel block:
    /// from 4 rows, `row_stride` values apart, of 4 pixels of 16 channels to 16 pixels, `stride`
    /// values apart, by rows. 32 additions in f32 for each channel; the results are rounded.
    ///
    /// # Panics
    ///
    /// Where a slice is too short, or where products overlap.
    pub fn winograd_input(
        &self,
        input: &[bf16],
        row_stride: usize,
        products: &mut [bf16],
        stride: usize,
    ) {
        let reads = extent(POINTS, row_stride, POINTS * BLOCK);
        let writes = extent(PRODUCTS, stride, BLOCK);
        assert!(
            input.len() >= reads && products.len() >= writes && stride >= BLOCK,
            "a tile reads {reads} of {} values, and writes {writes} of {}, {stride} apart",
            input.len(),
            products.len()
        );
        // SAFETY: `of` hands out kernels of available instruction sets only, and both extents were
        // checked.
        unsafe { (self.winograd_input)(input.as_ptr(), row_stride, products.as_mut_ptr(), stride) }
    }

    /// Interpolates the outputs of a tile of Winograd's F(2x2, 3x3), for one channel block: from 16
    /// pixels of sums, `stride` floats apart, to 2 rows, `row_stride` values apart, of 2 pixels,
    /// with the bias added, negative values cut, and the results rounded. NaN stays NaN.
    ///
    /// # Panics
    ///
    /// Where a slice is too short, or where rows of the output overlap.
    pub fn winograd_output(
        &self,
        products: &[f32],
        stride: usize,
        bias: &[f32; BLOCK],
        output: &mut [bf16],
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

    /// Rounds to nearest even; subnormal numbers become zero, NaN stays NaN.
    ///
    /// # Panics
    ///
    /// Where the slices differ in length.
    pub fn round(&self, from: &[f32], to: &mut [bf16]) {
        assert_eq!(from.len(), to.len(), "values to round");
        // SAFETY: `of` hands out kernels of available instruction sets only, and the slices are of
        // one length.
        unsafe { (self.round)(from, to) }
    }
}

/// What a sum becomes where it is stored.
pub(super) trait Sum: Copy {
    /// From a sum.
    fn rounded(sum: f32) -> Self;

    /// Stores the sums of a channel block.
    ///
    /// # Safety
    ///
    /// Needs AVX-512F and AVX512-BF16, and room for sixteen values.
    #[cfg(target_arch = "x86_64")]
    unsafe fn store(sums: std::arch::x86_64::__m512, to: *mut Self);
}

/// Values from the first to the last of `count` runs of `length`, `stride` apart, or `usize::MAX`.
fn extent(count: usize, stride: usize, length: usize) -> usize {
    (count - 1).saturating_mul(stride).saturating_add(length)
}

/// Twice as many bfloat16 values in the memory of floats.
pub fn halves(floats: &[f32]) -> &[bf16] {
    // SAFETY: two bf16, which are u16 inside, have the size of a float and a smaller alignment, and
    // every pattern of bits is a value of either.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), PAIR * floats.len()) }
}

/// Twice as many bfloat16 values in the memory of floats, to be written.
pub fn halves_mut(floats: &mut [f32]) -> &mut [bf16] {
    // SAFETY: as in `halves`, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), PAIR * floats.len()) }
}

/// The weights of a convolution, packed once: `[groups][taps, blocks, 8, out_blocks * 16, 2]`,
/// rounded to nearest even. A group is as [`PackedWeights`] has it.
#[derive(Debug, Clone)]
pub struct PackedBf16 {
    /// Two values in each float.
    data: AlignedBuffer,
    /// Where each group begins, and behind them the end; in floats.
    starts: Vec<usize>,
    taps: usize,
    blocks: usize,
    out_blocks: usize,
    group_blocks: usize,
}

impl PackedBf16 {
    /// Rounds packed weights and interleaves the rows of each pair of input channels.
    pub fn new(weights: &PackedWeights) -> PackedBf16 {
        let mut starts = vec![0];
        for group in 0..weights.groups() {
            starts.push(starts[group] + weights.group(group).len() / PAIR);
        }
        let mut data = AlignedBuffer::zeroed(starts[weights.groups()]);
        for group in 0..weights.groups() {
            let packed = halves_mut(&mut data[starts[group]..starts[group + 1]]);
            let width = weights.out_blocks_of(group) * BLOCK;
            let pairs = weights.group(group).chunks_exact(PAIR * width);
            for (rows, packed) in pairs.zip(packed.chunks_exact_mut(PAIR * width)) {
                let (even, odd) = rows.split_at(width);
                let (packed, _) = packed.as_chunks_mut::<PAIR>();
                for (pair, (&even, &odd)) in packed.iter_mut().zip(even.iter().zip(odd)) {
                    *pair = [scalar_bf16::round(even), scalar_bf16::round(odd)];
                }
            }
        }
        PackedBf16 {
            data,
            starts,
            taps: weights.taps(),
            blocks: weights.blocks(),
            out_blocks: weights.out_blocks(),
            group_blocks: weights.first_block_of(1),
        }
    }

    /// Channel blocks of the input.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks of output channels, of all groups together.
    pub fn out_blocks(&self) -> usize {
        self.out_blocks
    }

    /// Groups of output blocks.
    pub fn groups(&self) -> usize {
        self.starts.len() - 1
    }

    /// The first output block of a group.
    pub fn first_block_of(&self, group: usize) -> usize {
        group * self.group_blocks
    }

    /// Output blocks of a group.
    pub fn out_blocks_of(&self, group: usize) -> usize {
        self.group_blocks
            .min(self.out_blocks - self.first_block_of(group))
    }

    /// The weights of a group: those of a [`TileBf16`].
    pub fn group(&self, group: usize) -> &[bf16] {
        halves(&self.data[self.starts[group]..self.starts[group + 1]])
    }

    /// The weights of one tap of a group.
    pub fn tap(&self, group: usize, tap: usize) -> &[bf16] {
        let weights = self.group(group);
        let length = weights.len() / self.taps;
        &weights[tap * length..][..length]
    }
}

#[cfg(test)]
mod tests;
