//! The inner loops of resizing: weighted sums of 8-bit levels in fixed point.
//!
//! Everything is integer arithmetic, so every instruction set gives the same bits. The loops are
//! written once; [`Resampling::of`] chooses between what the compiler makes of them for the
//! processor's larger vectors and for every processor.

use std::ops::Range;

use super::Isa;

/// Bits behind the point of a weight: 8 bits of a level and 2 of headroom, since the weights of a
/// bicubic window add up to 1 but are partly negative, leave 22 of the 32.
pub const PRECISION: u32 = 32 - 8 - 2;

/// Where every sum starts, so that cutting off the bits behind the point rounds.
pub const ONE_HALF: i32 = 1 << (PRECISION - 1);

/// Which pixels of a row a pixel of the result takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The first pixel that counts.
    pub first: usize,
    /// Where the weights of it and the next pixels lie in the table of weights.
    pub weights: Range<usize>,
}

/// Pixels, where each output looks, the table of weights, outputs.
type MixPixels = unsafe fn(&[[i32; 4]], &[Window], &[i32], &mut [[u8; 3]]);

/// The loops for one instruction set, which each of them needs.
#[derive(Debug, Clone, Copy)]
pub struct Resampling {
    mix_pixels: MixPixels,
    add_row: unsafe fn(&mut [i32], &[u8], i32),
    to_levels: unsafe fn(&[i32], &mut [u8]),
}

impl Resampling {
    /// The loops for an instruction set; the plain ones where this machine lacks it.
    pub fn of(isa: Isa) -> Resampling {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx512 if is_x86_feature_detected!("avx2") => Resampling {
                mix_pixels: avx2::mix_pixels,
                add_row: avx2::add_row,
                to_levels: avx2::to_levels,
            },
            _ => Resampling {
                mix_pixels,
                add_row,
                to_levels,
            },
        }
    }

    /// Mixes the pixels of a row, as `unpacked`, into those of `output`, one window each.
    ///
    /// # Panics
    ///
    /// When a window leaves the row or the table.
    pub fn mix_pixels(
        &self,
        row: &[[i32; 4]],
        windows: &[Window],
        weights: &[i32],
        output: &mut [[u8; 3]],
    ) {
        // SAFETY: `of` chose the loop for this machine; it is safe code otherwise.
        unsafe { (self.mix_pixels)(row, windows, weights, output) }
    }

    /// Adds the levels of a row, times a weight, to as many sums.
    pub fn add_row(&self, sums: &mut [i32], levels: &[u8], weight: i32) {
        // SAFETY: as in `mix_pixels`.
        unsafe { (self.add_row)(sums, levels, weight) }
    }

    /// Rounds sums of weighted levels, which started at [`ONE_HALF`], back to levels.
    pub fn to_levels(&self, sums: &[i32], levels: &mut [u8]) {
        // SAFETY: as in `mix_pixels`.
        unsafe { (self.to_levels)(sums, levels) }
    }
}

/// The pixels of a row as [`Resampling::mix_pixels`] takes them: one 128-bit vector each.
pub fn unpack(row: &[u8], unpacked: &mut Vec<[i32; 4]>) {
    unpacked.clear();
    let (pixels, _) = row.as_chunks::<3>();
    unpacked.extend(
        pixels
            .iter()
            .map(|&[r, g, b]| [r.into(), g.into(), b.into(), 0]),
    );
}

#[inline(always)]
fn mix_pixels(row: &[[i32; 4]], windows: &[Window], weights: &[i32], output: &mut [[u8; 3]]) {
    for (pixel, window) in output.iter_mut().zip(windows) {
        let weights = &weights[window.weights.clone()];
        let mut sums = [ONE_HALF; 4];
        for (levels, &weight) in row[window.first..][..weights.len()].iter().zip(weights) {
            for (sum, &level) in sums.iter_mut().zip(levels) {
                *sum += weight * level;
            }
        }
        let [r, g, b, _] = sums.map(to_level);
        *pixel = [r, g, b];
    }
}

#[inline(always)]
fn add_row(sums: &mut [i32], levels: &[u8], weight: i32) {
    for (sum, &level) in sums.iter_mut().zip(levels) {
        *sum += weight * i32::from(level);
    }
}

#[inline(always)]
fn to_levels(sums: &[i32], levels: &mut [u8]) {
    for (level, &sum) in levels.iter_mut().zip(sums) {
        *level = to_level(sum);
    }
}

#[inline(always)]
fn to_level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The loops with vectors of eight integers.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Window;

    #[target_feature(enable = "avx2")]
    pub(super) fn mix_pixels(
        row: &[[i32; 4]],
        windows: &[Window],
        weights: &[i32],
        output: &mut [[u8; 3]],
    ) {
        super::mix_pixels(row, windows, weights, output);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn add_row(sums: &mut [i32], levels: &[u8], weight: i32) {
        super::add_row(sums, levels, weight);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn to_levels(sums: &[i32], levels: &mut [u8]) {
        super::to_levels(sums, levels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels and weights without order.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u32)
            .map(|at| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8)
            .collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_levels_at_every_length() {
        let plain = Resampling::of(Isa::Scalar);
        for isa in Isa::available() {
            let fast = Resampling::of(isa);
            for count in (0..70).chain([1000]) {
                let levels = bytes(count);
                let (mut expected, mut found) = (vec![ONE_HALF; count], vec![ONE_HALF; count]);
                for weight in [1 << 21, -123_457, 3, 1 << 20] {
                    plain.add_row(&mut expected, &levels, weight);
                    fast.add_row(&mut found, &levels, weight);
                }
                assert_eq!(expected, found, "{isa} {count}");
                for (at, sum) in expected.iter_mut().enumerate() {
                    *sum = sum.wrapping_mul(at as i32);
                }
                let (mut first, mut second) = (vec![0; count], vec![0; count]);
                plain.to_levels(&expected, &mut first);
                fast.to_levels(&expected, &mut second);
                assert_eq!(first, second, "{isa} {count}");
            }
        }
    }

    #[test]
    fn every_instruction_set_mixes_windows_of_every_length_alike() {
        let mut row = Vec::new();
        unpack(&bytes(3 * 40), &mut row);
        let weights: Vec<i32> = (0..40).map(|at| (at * 9973 % 5000 - 1000) << 6).collect();
        let windows: Vec<Window> = (0..20)
            .map(|length| Window {
                first: 40 - length,
                weights: length..2 * length,
            })
            .collect();
        let mixed = |isa: Isa| {
            let mut output = vec![[0; 3]; windows.len()];
            Resampling::of(isa).mix_pixels(&row, &windows, &weights, &mut output);
            output
        };
        for isa in Isa::available() {
            assert_eq!(mixed(isa), mixed(Isa::Scalar), "{isa}");
        }
        // The definition, for one pixel.
        let sum: i32 = (0..7).map(|at| weights[7 + at] * row[33 + at][1]).sum();
        let level = ((sum + ONE_HALF) >> PRECISION).clamp(0, 255);
        assert_eq!(i32::from(mixed(Isa::Scalar)[7][1]), level);
    }
}
