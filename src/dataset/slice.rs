//! Blocks of images, and the run of blocks that each rank works on. Pure: numbers in, ranges out.
//!
//! The size of a block depends on the number of images alone, so that shards, leaves of the
//! reduction tree and therefore all results are the same at any number of ranks.

use std::ops::Range;

/// Most images in one block: bounds the memory that a block takes (with 100352 features an image
/// and f32, 51 MB).
const LARGEST_BLOCK: usize = 128;

/// Blocks that a data set is cut into while blocks can still grow: enough to balance a few dozen
/// ranks, few enough that a small data set does not become a folder of tiny files.
const BLOCKS_WANTED: usize = 128;

/// How the images are cut into blocks, and the blocks among the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    images: usize,
    ranks: usize,
    block_size: usize,
}

impl Slices {
    /// Cuts `images` images for `ranks` ranks (at least one).
    pub fn new(images: usize, ranks: usize) -> Self {
        assert!(ranks > 0, "there is at least one rank");
        Slices {
            images,
            ranks,
            block_size: images.div_ceil(BLOCKS_WANTED).clamp(1, LARGEST_BLOCK),
        }
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Images in a block; the last one may have fewer.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.images.div_ceil(self.block_size)
    }

    /// The images of a block.
    pub fn images_of(&self, block: usize) -> Range<usize> {
        let start = block * self.block_size;
        start..self.images.min(start + self.block_size)
    }

    /// The blocks of a rank: contiguous, their numbers differ by one at most.
    pub fn blocks_of(&self, rank: usize) -> Range<usize> {
        blocks_of(self.blocks(), self.ranks, rank)
    }

    /// The rank that works on each block.
    pub fn owners(&self) -> Vec<usize> {
        owners(self.blocks(), self.ranks)
    }
}

/// The blocks of a rank: contiguous, their numbers differ by one at most.
pub fn blocks_of(blocks: usize, ranks: usize, rank: usize) -> Range<usize> {
    // Without overflow for any number of images that fits in memory.
    let start = |rank: usize| (blocks / ranks) * rank + (blocks % ranks) * rank / ranks;
    start(rank)..start(rank + 1)
}

/// The rank that works on each block.
pub fn owners(blocks: usize, ranks: usize) -> Vec<usize> {
    (0..ranks)
        .flat_map(|rank| blocks_of(blocks, ranks, rank).map(move |_| rank))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_in_one_block_and_every_block_on_one_rank() {
        for images in 0..700 {
            for ranks in 1..17 {
                let slices = Slices::new(images, ranks);
                let mut next_image = 0;
                for block in 0..slices.blocks() {
                    let range = slices.images_of(block);
                    assert_eq!(range.start, next_image);
                    assert!(!range.is_empty());
                    next_image = range.end;
                }
                assert_eq!(next_image, images);
                let mut next_block = 0;
                let mut sizes = Vec::new();
                for rank in 0..ranks {
                    let range = slices.blocks_of(rank);
                    assert_eq!(range.start, next_block);
                    next_block = range.end;
                    sizes.push(range.len());
                }
                assert_eq!(next_block, slices.blocks());
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert!(
                    most - least <= 1,
                    "{images} images, {ranks} ranks: {sizes:?}"
                );
                assert_eq!(slices.owners().len(), slices.blocks());
            }
        }
    }

    #[test]
    fn blocks_do_not_depend_on_the_number_of_ranks() {
        for images in [0, 1, 9, 128, 129, 5000, 1_000_000] {
            let one = Slices::new(images, 1);
            for ranks in 2..20 {
                assert_eq!(Slices::new(images, ranks).block_size(), one.block_size());
            }
            assert!(one.block_size() <= LARGEST_BLOCK);
        }
    }

    #[test]
    fn a_handful_of_images_is_spread_over_all_ranks() {
        let slices = Slices::new(9, 3);
        assert_eq!(slices.blocks_of(0).len(), 3);
        assert_eq!(slices.blocks_of(2), 6..9);
    }
}
