//! Resampling with the arithmetic of Pillow, bit for bit.
//!
//! Pillow (`src/libImaging/Resample.c`) widens the filter when it makes an image smaller, computes its
//! weights in double precision, rounds them to fixed point with 22 bits behind the point, resamples
//! along one side, rounds to 8 bits, resamples along the other and rounds again. The limits of parity with the
//! network's reference leave no room for other levels, and `fast_image_resize` 6.1, which keeps its weights in
//! 16 bits, gave other ones in 11 to 14 % of the places on photographs; hence this module.
//!
//! Only integers are added, so the result does not depend on the CPU; the loops are in
//! [`crate::kernels::resampling`].

use std::ops::Range;

use super::Rgb8;
use crate::kernels::Isa;
use crate::kernels::resampling::{ONE_HALF, PRECISION, Resampling, Window, unpack};

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle of half-width 1.
    Bilinear,
    /// Cubic convolution with a = -0.5 and half-width 2. R. Keys, *Cubic Convolution Interpolation for
    /// Digital Image Processing*, IEEE Trans. ASSP 29(6), 1981.
    Bicubic,
}

impl Filter {
    /// Half the width of the filter, in pixels of the larger image.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    /// Its value at a distance. The order of the operations is Pillow's.
    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Filter::Bilinear | Filter::Bicubic => 0.0,
        }
    }
}

/// The parameter of the cubic.
const A: f64 = -0.5;

/// Resizes an image to `width` x `height` as Pillow's `Image.resize` does.
///
/// # Panics
///
/// When one of the sides, of the image or of the result, is zero.
pub fn resize(image: &Rgb8, width: u32, height: u32, filter: Filter) -> Rgb8 {
    let whole = Region {
        left: 0,
        top: 0,
        width,
        height,
    };
    resize_region(image, width, height, whole, filter)
}

/// A rectangle of a resized image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Resizes to `width` x `height` and cuts out `region`, without computing what lies outside of it.
///
/// The memory beside the result is the tables of weights and one sum for every level of the region or of a
/// row of the image, however unlike its sides are.
pub(super) fn resize_region(
    image: &Rgb8,
    width: u32,
    height: u32,
    region: Region,
    filter: Filter,
) -> Rgb8 {
    assert!(image.width > 0 && image.height > 0 && width > 0 && height > 0);
    let columns = Windows::new(
        filter,
        image.width,
        width,
        region.left..region.left + region.width,
    );
    let rows = Windows::new(
        filter,
        image.height,
        height,
        region.top..region.top + region.height,
    );

    let pixels = if vertical_first(image, width, height) {
        columns_of_resampled_rows(image, &columns, &rows)
    } else {
        rows_of_resampled_columns(image, &columns, &rows)
    };
    Rgb8 {
        width: region.width,
        height: region.height,
        pixels,
    }
}

/// Whether Pillow mixes rows before it mixes the pixels of a row: when the height shrinks by more than twice
/// what the width shrinks by. The order shows, since the pixels between the two passes are cut to 0..=255. This is
/// Pillow 13; up to 12.2 the pixels of a row were always mixed first.
fn vertical_first(image: &Rgb8, width: u32, height: u32) -> bool {
    let shrinks_by = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let down = shrinks_by(image.height, height);
    down > 0 && down > 2 * shrinks_by(image.width, width)
}

/// Mixes the pixels of every row, then the rows.
fn rows_of_resampled_columns(image: &Rgb8, columns: &Windows, rows: &Windows) -> Vec<u8> {
    let resampling = Resampling::of(Isa::detect());
    let stride = image.width as usize * 3;
    let line_len = columns.len() * 3;
    let mut line = vec![0; line_len];
    let mut unpacked = Vec::new();
    let mut sums = vec![ONE_HALF; line_len * rows.len()];
    let mut first_open = 0;
    // Every row of the image is resampled once and added to the rows of the result that want it. Both ends of the
    // windows only move down, so those rows are neighbours.
    for y in rows.inputs() {
        unpack(&image.pixels[y * stride..][..stride], &mut unpacked);
        columns.resample(&resampling, &unpacked, &mut line);
        while rows.inputs_of(first_open).end <= y {
            first_open += 1;
        }
        for (row, sums) in sums.chunks_exact_mut(line_len).enumerate().skip(first_open) {
            let inputs = rows.inputs_of(row);
            if inputs.start > y {
                break;
            }
            resampling.add_row(sums, &line, rows.weights_of(row)[y - inputs.start]);
        }
    }
    let mut pixels = vec![0; sums.len()];
    resampling.to_levels(&sums, &mut pixels);
    pixels
}

/// Mixes the rows, then the pixels of every row.
fn columns_of_resampled_rows(image: &Rgb8, columns: &Windows, rows: &Windows) -> Vec<u8> {
    let resampling = Resampling::of(Isa::detect());
    let stride = image.width as usize * 3;
    let line_len = columns.len() * 3;
    let mut sums = vec![ONE_HALF; stride];
    let mut line = vec![0; stride];
    let mut unpacked = Vec::new();
    let mut pixels = vec![0; line_len * rows.len()];
    for (row, output) in pixels.chunks_exact_mut(line_len).enumerate() {
        sums.fill(ONE_HALF);
        for (y, &weight) in rows.inputs_of(row).zip(rows.weights_of(row)) {
            resampling.add_row(&mut sums, &image.pixels[y * stride..][..stride], weight);
        }
        resampling.to_levels(&sums, &mut line);
        unpack(&line, &mut unpacked);
        columns.resample(&resampling, &unpacked, output);
    }
    pixels
}

/// For every pixel of the result along one side: which pixels of the image it takes, and how much of each.
struct Windows {
    windows: Vec<Window>,
    /// The weights of all windows, one after the other.
    weights: Vec<i32>,
}

impl Windows {
    /// The windows of the pixels in `range` of a side that is resampled from `input` to `output` pixels.
    fn new(filter: Filter, input: u32, output: u32, range: Range<u32>) -> Windows {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let step = 1.0 / filter_scale;
        let mut windows = Vec::with_capacity(range.len());
        let mut weights = Vec::new();
        let mut exact = Vec::new();
        for pixel in range {
            let center = (f64::from(pixel) + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input as usize);
            exact.clear();
            exact.extend((first..end).map(|x| filter.at((x as f64 - center + 0.5) * step)));
            // Added up from the left, as Pillow does: another order could round to another weight.
            let total = exact.iter().fold(0.0, |sum, weight| sum + weight);
            let start = weights.len();
            weights.extend(exact.iter().map(|&weight| fixed_point(weight / total)));
            windows.push(Window {
                first,
                weights: start..weights.len(),
            });
        }
        Windows { windows, weights }
    }

    /// Pixels of the result.
    fn len(&self) -> usize {
        self.windows.len()
    }

    /// The pixels of the image that any window takes.
    fn inputs(&self) -> Range<usize> {
        match self.len() {
            0 => 0..0,
            n => self.inputs_of(0).start..self.inputs_of(n - 1).end,
        }
    }

    /// The pixels of the image that one window takes.
    fn inputs_of(&self, pixel: usize) -> Range<usize> {
        let window = &self.windows[pixel];
        window.first..window.first + window.weights.len()
    }

    /// How much it takes of each.
    fn weights_of(&self, pixel: usize) -> &[i32] {
        &self.weights[self.windows[pixel].weights.clone()]
    }

    /// Resamples one row of an image.
    fn resample(&self, resampling: &Resampling, row: &[[i32; 4]], output: &mut [u8]) {
        let (output, _) = output.as_chunks_mut::<3>();
        resampling.mix_pixels(row, &self.windows, &self.weights, output);
    }
}

/// A weight with [`PRECISION`] bits behind the point, half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (scaled + 0.5f64.copysign(scaled)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, level: impl Fn(u32, u32, u32) -> u8) -> Rgb8 {
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                pixels.extend((0..3).map(|c| level(x, y, c)));
            }
        }
        Rgb8 {
            width,
            height,
            pixels,
        }
    }

    /// A hash as a picture: every level occurs, no neighbour is like another.
    fn noise(width: u32, height: u32) -> Rgb8 {
        image(width, height, |x, y, c| {
            let mut h = x
                .wrapping_mul(0x9e37_79b1)
                .wrapping_add(y.wrapping_mul(0x85eb_ca77))
                .wrapping_add(c.wrapping_mul(0xc2b2_ae3d));
            h ^= h >> 15;
            h = h.wrapping_mul(0x2c1b_3c6d);
            (h >> 16) as u8
        })
    }

    #[test]
    fn the_same_size_gives_the_same_pixels() {
        let picture = noise(37, 23);
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resize(&picture, 37, 23, filter), picture);
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        for level in [0, 1, 127, 254, 255] {
            let flat = image(301, 7, |_, _, _| level);
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let resized = resize(&flat, 224, 224, filter);
                assert!(resized.pixels.iter().all(|&p| p == level), "{level}");
            }
        }
    }

    #[test]
    fn halving_takes_the_bilinear_window_of_four() {
        // Scale 2, support 2, center 2 of pixel 0: weights at distances -1.5, -.5, .5, 1.5 of half-width 2 are
        // 1/4, 3/4, 3/4, 1/4; the pixel at -1 does not exist.
        let row = image(4, 1, |x, _, _| [10, 20, 40, 80][x as usize]);
        let half = resize(&row, 2, 1, Filter::Bilinear);
        let left = (0.75 * 10.0 + 0.75 * 20.0 + 0.25 * 40.0) / 1.75_f64;
        let right = (0.25 * 20.0 + 0.75 * 40.0 + 0.75 * 80.0) / 1.75_f64;
        assert_eq!(half.pixels[0], left.round() as u8);
        assert_eq!(half.pixels[3], right.round() as u8);
    }

    #[test]
    fn overshoot_of_the_cubic_is_cut_at_the_ends_of_the_range() {
        let edge = image(8, 1, |x, _, _| if x < 4 { 0 } else { 255 });
        let larger = resize(&edge, 64, 1, Filter::Bicubic);
        let levels: Vec<u8> = larger.pixels.chunks(3).map(|p| p[0]).collect();
        assert_eq!(levels[0], 0);
        assert_eq!(levels[63], 255);
        assert!(
            levels.windows(2).all(|pair| pair[0] <= pair[1]),
            "{levels:?}"
        );
    }

    #[test]
    fn weights_of_a_window_add_up_to_one() {
        for (input, output) in [(1, 224), (3, 224), (223, 224), (225, 224), (100_003, 224)] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let windows = Windows::new(filter, input, output, 0..output);
                for pixel in 0..output as usize {
                    let weights = windows.weights_of(pixel);
                    let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
                    let off = (sum - (1 << PRECISION)).unsigned_abs() as usize;
                    assert!(off <= weights.len(), "{input} -> {output}: {off}");
                    assert!(windows.inputs_of(pixel).end <= input as usize);
                }
            }
        }
    }

    #[test]
    fn rows_are_mixed_first_when_the_height_shrinks_by_more_than_twice_as_much() {
        let to_224 = |width, height| vertical_first(&image(width, height, |_, _, _| 0), 224, 224);
        assert!(to_224(240, 320));
        assert!(to_224(100, 225));
        assert!(!to_224(320, 240));
        assert!(!to_224(234, 244));
        assert!(to_224(234, 245));
        assert!(!to_224(100, 224));
        assert!(!to_224(100, 100));
    }

    #[test]
    fn no_sum_leaves_32_bits() {
        // The worst window: every level 255 under a positive weight, 0 under a negative one, and the reverse.
        for (input, output) in [(1, 224), (100, 224), (224, 100), (1_000_000, 224)] {
            let windows = Windows::new(Filter::Bicubic, input, output, 0..output);
            for pixel in 0..output as usize {
                let (mut above, mut below) = (1i64 << (PRECISION - 1), 0);
                for &weight in windows.weights_of(pixel) {
                    above += 255 * i64::from(weight.max(0));
                    below += 255 * i64::from(weight.min(0));
                }
                assert!(i32::try_from(above).is_ok() && i32::try_from(below).is_ok());
            }
        }
    }

    #[test]
    fn a_region_is_cut_from_the_whole() {
        let picture = noise(61, 97);
        let whole = resize(&picture, 300, 40, Filter::Bicubic);
        let region = Region {
            left: 33,
            top: 5,
            width: 100,
            height: 30,
        };
        let part = resize_region(&picture, 300, 40, region, Filter::Bicubic);
        for y in 0..30 {
            let from_whole = &whole.pixels[((y + 5) * 300 + 33) * 3..][..300];
            assert_eq!(&part.pixels[y * 300..][..300], from_whole, "row {y}");
        }
    }
}
