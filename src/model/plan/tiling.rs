//! How Winograd's filtering cuts feature maps into tiles.
//!
//! A tile of `m` outputs in one direction needs `m + 2` points. Only its last output depends on the
//! product at the last point, infinity; a tile that has no use for that output does without the
//! product. So where `m` does not divide the length of a map, some tiles are one output short, as 14
//! is 4 + 4 + 3 + 3 and 7 is 4 + 3, instead of one that hangs over the edge by more.

use std::ops::Range;

use crate::model::plan::layers::Extent;

/// The tiles of maps of one size.
#[derive(Debug, Clone, Copy)]
pub struct Tiling {
    extent: Extent,
    /// Outputs of a whole tile in one direction.
    outputs: usize,
    rows: Lengths,
    columns: Lengths,
}

/// The tiles in one direction: whole ones, and behind them those that are one output short.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    whole: usize,
    short: usize,
}

/// Where a tile stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The first pixel of the image.
    pub image: usize,
    /// The tile's first row in the image.
    pub row: usize,
    /// The tile's first column.
    pub column: usize,
    /// Rows of outputs that are wanted.
    pub height: usize,
    /// Columns of outputs that are wanted.
    pub width: usize,
}

impl Lengths {
    fn of(length: usize, outputs: usize) -> Lengths {
        let tiles = length.div_ceil(outputs);
        let short = (tiles * outputs - length).min(tiles);
        Lengths {
            whole: tiles - short,
            short,
        }
    }

    /// Points of all tiles together.
    fn points(self, outputs: usize) -> usize {
        self.whole * (outputs + 2) + self.short * (outputs + 1)
    }

    /// The first output of a tile, and how many of `length` are the tile's.
    fn place(self, tile: usize, outputs: usize, length: usize) -> (usize, usize) {
        let first = tile * outputs - tile.saturating_sub(self.whole);
        let count = if tile < self.whole {
            outputs
        } else {
            outputs - 1
        };
        (first, count.min(length - first))
    }
}

impl Tiling {
    /// Tiles of so many outputs in each direction.
    pub fn new(extent: Extent, outputs: usize) -> Tiling {
        Tiling {
            extent,
            outputs,
            rows: Lengths::of(extent.height, outputs),
            columns: Lengths::of(extent.width, outputs),
        }
    }

    /// Tiles of so many images.
    pub fn tiles(&self, images: usize) -> usize {
        let count = |lengths: Lengths| lengths.whole + lengths.short;
        images * count(self.rows) * count(self.columns)
    }

    /// Products that are computed for an image and a pair of channels.
    pub fn products(&self) -> usize {
        self.rows.points(self.outputs) * self.columns.points(self.outputs)
    }

    /// Rows and columns of the tiles of a kind, of one image: short or whole in each direction. In this
    /// order, all that are whole in a direction follow each other.
    fn kinds(&self) -> [(Range<usize>, Range<usize>); 4] {
        let ranges = |Lengths { whole, short }| (0..whole, whole..whole + short);
        let ((rows, short_rows), (columns, short_columns)) =
            (ranges(self.rows), ranges(self.columns));
        [
            (rows.clone(), short_columns.clone()),
            (rows, columns.clone()),
            (short_rows.clone(), columns),
            (short_rows, short_columns),
        ]
    }

    /// Tiles of all kinds up to each, of so many images.
    fn bounds(&self, images: usize) -> [usize; 5] {
        let mut bounds = [0; 5];
        for (kind, (rows, columns)) in self.kinds().into_iter().enumerate() {
            bounds[kind + 1] = bounds[kind] + images * rows.len() * columns.len();
        }
        bounds
    }

    /// The tiles of so many images that need a product: all, but at the last row or column of points.
    pub fn needing(&self, images: usize, product: usize) -> Range<usize> {
        let points = self.outputs + 2;
        let bounds = self.bounds(images);
        match (
            product / points == points - 1,
            product % points == points - 1,
        ) {
            (false, false) => 0..bounds[4],
            (true, false) => 0..bounds[2],
            (false, true) => bounds[1]..bounds[3],
            (true, true) => bounds[1]..bounds[2],
        }
    }

    /// Where some of the tiles of so many images stand: they come kind by kind, in each image by image
    /// and row by row.
    pub fn places(&self, images: usize, tiles: Range<usize>) -> Vec<Place> {
        tiles.map(|tile| self.place(images, tile)).collect()
    }

    fn place(&self, images: usize, tile: usize) -> Place {
        let bounds = self.bounds(images);
        let kind = (0..3).find(|&kind| tile < bounds[kind + 1]).unwrap_or(3);
        let (rows, columns) = self.kinds()[kind].clone();
        let tile = tile - bounds[kind];
        let of_image = rows.len() * columns.len();
        let (image, tile) = (tile / of_image, tile % of_image);
        let (row, column) = (
            rows.start + tile / columns.len(),
            columns.start + tile % columns.len(),
        );
        let Extent { height, width } = self.extent;
        let (row, height) = self.rows.place(row, self.outputs, height);
        let (column, width) = self.columns.place(column, self.outputs, width);
        Place {
            image: image * self.extent.pixels(),
            row,
            column,
            height,
            width,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_is_in_one_tile_that_has_its_products() {
        for outputs in [2, 4] {
            for (height, width) in [(1, 1), (2, 7), (4, 4), (7, 7), (5, 14), (9, 28), (14, 3)] {
                let extent = Extent { height, width };
                let tiling = Tiling::new(extent, outputs);
                let (images, points) = (3, outputs + 2);
                let mut seen = vec![0; images * extent.pixels()];
                let mut products = 0;
                for tile in 0..tiling.tiles(images) {
                    let place = tiling.place(images, tile);
                    for y in 0..place.height {
                        for x in 0..place.width {
                            let row = place.row + y;
                            seen[place.image + row * width + place.column + x] += 1;
                        }
                    }
                    for product in 0..points * points {
                        let is_needed = tiling.needing(images, product).contains(&tile);
                        products += usize::from(is_needed);
                        let is_last = |at, count| at == points - 1 && count < outputs;
                        let is_idle = is_last(product / points, place.height)
                            || is_last(product % points, place.width);
                        assert_ne!(is_needed, is_idle, "{extent:?}, tile {tile}, {product}");
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{extent:?}: {seen:?}");
                assert_eq!(products, images * tiling.products());
            }
        }
    }

    #[test]
    fn maps_of_14_and_7_pixels_have_short_tiles_instead_of_one_that_hangs_over() {
        let products = |side, outputs| {
            let (height, width) = (side, side);
            Tiling::new(Extent { height, width }, outputs).products()
        };
        assert_eq!([products(56, 4), products(28, 4)], [196 * 36, 49 * 36]);
        assert_eq!([products(14, 4), products(7, 4)], [22 * 22, 11 * 11]);
        assert_eq!([products(14, 2), products(7, 2)], [49 * 16, 15 * 15]);
    }
}
