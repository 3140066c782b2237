//! Thumbnails of the points as sprite sheets: many small pictures in a few JPEG files, so small that
//! the page stays within its size.

use crate::image::{Filter, Rgb8, decode_thumbnail, encode_jpeg, resize};
use rayon::prelude::*;

/// Pictures along each side of a sheet.
pub const SHEET_SIDE: usize = 16;

/// Sides of a picture that are tried, largest first: whole blocks of JPEG with halved chroma, so that no
/// picture bleeds into its neighbours.
const TILES: [u32; 7] = [112, 96, 80, 64, 48, 32, 16];

/// Qualities that are tried for each of them.
const QUALITIES: [i32; 3] = [75, 60, 42];

/// Pictures that tell how many bytes all of them take.
const TRIAL: usize = SHEET_SIDE * SHEET_SIDE;

/// The sheets of a page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sheets {
    /// Side of a picture in pixels.
    pub tile: u32,
    /// JPEG files of [`SHEET_SIDE`] by [`SHEET_SIDE`] pictures; the last one has as many rows as it needs.
    pub sheets: Vec<Vec<u8>>,
    /// For every point the shape of its picture, which is square in the sheet: the binary logarithm of
    /// width over height in steps of 1/32, plus 128; 0 for a point without one, which takes no place.
    pub shapes: Vec<u8>,
}

impl Sheets {
    /// The largest pictures whose files take no more than so many bytes, or the smallest there are.
    /// `None` and what is no picture have no place.
    pub fn within(budget: usize, thumbnails: &[Option<&[u8]>]) -> Self {
        let shapes: Vec<u8> = thumbnails.par_iter().map(|jpeg| shape(*jpeg)).collect();
        let jpegs: Vec<&[u8]> = thumbnails
            .iter()
            .zip(&shapes)
            .filter(|(_, shape)| **shape > 0)
            .filter_map(|(jpeg, _)| *jpeg)
            .collect();
        if jpegs.is_empty() {
            return Sheets {
                shapes,
                ..Sheets::default()
            };
        }
        let step = jpegs.len().div_ceil(TRIAL);
        let trial: Vec<&[u8]> = jpegs.iter().copied().step_by(step).collect();
        let steps = TILES
            .into_iter()
            .flat_map(|tile| QUALITIES.map(|quality| (tile, quality)));
        let mut sheets = Vec::new();
        let mut side = 0;
        for (tile, quality) in steps {
            let last = (tile, quality) == (TILES[TILES.len() - 1], QUALITIES[QUALITIES.len() - 1]);
            let taken = bytes(&encode(&trial, tile, quality)) * jpegs.len() / trial.len();
            if taken > budget && !last {
                continue;
            }
            sheets = encode(&jpegs, tile, quality);
            side = tile;
            // The trial may have been luckier than the rest.
            if bytes(&sheets) <= budget {
                break;
            }
        }
        Sheets {
            tile: side,
            sheets,
            shapes,
        }
    }
}

fn bytes(sheets: &[Vec<u8>]) -> usize {
    sheets.iter().map(Vec::len).sum()
}

fn shape(jpeg: Option<&[u8]>) -> u8 {
    let Some(picture) = jpeg.and_then(decode_thumbnail) else {
        return 0;
    };
    let ratio = f64::from(picture.width) / f64::from(picture.height);
    (128.0 + 32.0 * ratio.log2()).round().clamp(1.0, 255.0) as u8
}

fn encode(jpegs: &[&[u8]], tile: u32, quality: i32) -> Vec<Vec<u8>> {
    let sheets = jpegs.par_chunks(SHEET_SIDE * SHEET_SIDE);
    sheets
        .map(|jpegs| {
            let columns = jpegs.len().min(SHEET_SIDE);
            let rows = jpegs.len().div_ceil(SHEET_SIDE);
            let width = columns * tile as usize;
            let mut sheet = Rgb8 {
                width: width as u32,
                height: rows as u32 * tile,
                pixels: vec![128; 3 * width * rows * tile as usize],
            };
            for (place, jpeg) in jpegs.iter().enumerate() {
                // It was decoded before, for its shape.
                if let Some(picture) = decode_thumbnail(jpeg) {
                    let square = resize(&picture, tile, tile, Filter::Bicubic);
                    paste(&mut sheet, &square, place % SHEET_SIDE, place / SHEET_SIDE);
                }
            }
            // A sheet that cannot be encoded leaves its points without pictures.
            encode_jpeg(&sheet, quality).unwrap_or_default()
        })
        .collect()
}

/// Puts a picture in its column and row.
fn paste(sheet: &mut Rgb8, picture: &Rgb8, column: usize, row: usize) {
    let (width, tile) = (3 * sheet.width as usize, 3 * picture.width as usize);
    for (y, line) in picture.pixels.chunks(tile).enumerate() {
        let start = (row * picture.height as usize + y) * width + column * tile;
        sheet.pixels[start..start + tile].copy_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Preprocess, SIDE, thumbnail};

    fn picture(seed: u32, noisy: bool, width: u32, height: u32) -> Vec<u8> {
        let pixels = (0..3 * SIDE * SIDE)
            .map(|i| match (noisy, i % 3) {
                (true, _) => (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8,
                (false, channel) => (seed * 40 * (channel + 1)) as u8,
            })
            .collect();
        let prepared = Rgb8 {
            width: SIDE,
            height: SIDE,
            pixels,
        };
        thumbnail(&prepared, Preprocess::Caffe, width, height).unwrap()
    }

    #[test]
    fn every_picture_is_in_its_place_with_its_shape() {
        let jpegs: Vec<Vec<u8>> = (0..5).map(|n| picture(n, false, 200, 100)).collect();
        let mut thumbnails: Vec<Option<&[u8]>> = jpegs.iter().map(|j| Some(j.as_slice())).collect();
        thumbnails.insert(2, None);
        thumbnails.insert(3, Some(b"damaged"));
        let sheets = Sheets::within(1 << 20, &thumbnails);
        assert_eq!(sheets.tile, 112);
        assert_eq!(sheets.shapes, [160, 160, 0, 0, 160, 160, 160]);
        let sheet = decode_thumbnail(&sheets.sheets[0]).unwrap();
        assert_eq!((sheet.width, sheet.height), (5 * 112, 112));
        for place in 0..5 {
            let middle = 3 * (56 * sheet.width + place * 112 + 56) as usize;
            let expected = (place * 40) as f64;
            let found = f64::from(sheet.pixels[middle]);
            assert!((found - expected).abs() < 6.0, "{place}: {found}");
        }
    }

    #[test]
    fn many_pictures_become_smaller_until_they_fit() {
        let jpegs: Vec<Vec<u8>> = (0..300).map(|n| picture(n, true, 100, 100)).collect();
        let thumbnails: Vec<Option<&[u8]>> = jpegs.iter().map(|j| Some(j.as_slice())).collect();
        let largest = Sheets::within(usize::MAX, &thumbnails);
        assert_eq!((largest.tile, largest.sheets.len()), (112, 2));
        let mut last = largest.tile;
        for parts in [4, 12] {
            let budget = bytes(&largest.sheets) / parts;
            let sheets = Sheets::within(budget, &thumbnails);
            assert!(bytes(&sheets.sheets) <= budget);
            assert!(sheets.tile < last, "{}", sheets.tile);
            last = sheets.tile;
        }
        // There is nothing below the smallest.
        assert_eq!(Sheets::within(10, &thumbnails).tile, 16);
    }

    #[test]
    fn without_pictures_there_are_no_sheets() {
        let sheets = Sheets::within(1000, &[None, None]);
        assert!(sheets.sheets.is_empty());
        assert_eq!(sheets.shapes, [0, 0]);
    }
}
