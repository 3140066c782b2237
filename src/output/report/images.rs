//! The images that a report shows, with what was fetched of them.

use super::collect::Collected;
use std::collections::BTreeMap;

/// What was fetched of an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// Its key and label, where they were asked for.
    pub name: Option<(String, Option<String>)>,
    /// A small picture of it as JPEG, where there is one.
    pub thumbnail: Option<Vec<u8>>,
    /// Its feature vector, where that was asked for.
    pub features: Vec<f64>,
}

/// Everything that the page shows of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// Which they are.
    pub collected: Collected,
    /// What was fetched of them, by position.
    pub found: BTreeMap<u64, Found>,
}

impl Images {
    /// The thumbnail of a point.
    pub(super) fn thumbnail(&self, place: usize) -> Option<&[u8]> {
        self.thumbnail_at(self.collected.points[place].position)
    }

    /// The thumbnail of a scored image.
    pub(super) fn thumbnail_at(&self, position: u64) -> Option<&[u8]> {
        self.found.get(&position)?.thumbnail.as_deref()
    }

    /// How many of the points have no thumbnail.
    pub(super) fn without_thumbnail(&self) -> usize {
        (0..self.collected.points.len())
            .filter(|&place| self.thumbnail(place).is_none())
            .count()
    }
}
