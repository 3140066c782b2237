//! The images that a report shows, with what was fetched of them.

use super::collect::Collected;
use std::collections::BTreeMap;

/// Pairs of near-duplicates that are shown at most.
const PAIRS: usize = 12;

/// Pairs that are shown however far apart they are.
const NEAREST_PAIRS: usize = 3;

/// Share of the typical distance beyond which a pair is not near.
const NEAR: f64 = 0.4;

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

/// Two images whose features are close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Their places among the points.
    pub places: (usize, usize),
    /// The Euclidean distance of their scaled features.
    pub distance: f64,
}

/// Everything that the page shows of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    pub(super) collected: Collected,
    pub(super) found: BTreeMap<u64, Found>,
    /// Nearest first.
    pub(super) pairs: Vec<Pair>,
    /// The root mean square distance between the scaled features of two images.
    pub(super) typical_distance: f64,
}

impl Images {
    /// Brings together what was gathered and what was fetched of it, by position. `scale` is the divisor
    /// of every feature; features whose divisor is 0 are constant. `total_variance` is that of the scaled
    /// features.
    pub fn new(
        collected: Collected,
        mut found: BTreeMap<u64, Found>,
        scale: &[f64],
        total_variance: f64,
    ) -> Self {
        let features = |place: usize| {
            let position = collected.points[place].position;
            found
                .get(&position)
                .map_or(&[][..], |found| &found.features)
        };
        let mut pairs: Vec<Pair> = collected
            .candidates
            .iter()
            .filter_map(|&places| {
                let (one, other) = (features(places.0), features(places.1));
                (one.len() == scale.len() && other.len() == scale.len()).then(|| Pair {
                    places,
                    distance: distance(one, other, scale),
                })
            })
            .collect();
        pairs.sort_by(|a, b| {
            let by_distance = a.distance.total_cmp(&b.distance);
            by_distance.then(a.places.cmp(&b.places))
        });
        // The mean square of the distance between two rows is twice the whole variance.
        let typical = (2.0 * total_variance).sqrt();
        pairs.truncate(PAIRS);
        let near = pairs.partition_point(|pair| pair.distance <= NEAR * typical);
        pairs.truncate(near.max(NEAREST_PAIRS));
        for found in found.values_mut() {
            found.features = Vec::new();
        }
        Images {
            collected,
            found,
            pairs,
            typical_distance: typical,
        }
    }

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

fn distance(one: &[f64], other: &[f64], scale: &[f64]) -> f64 {
    let squares = one.iter().zip(other).zip(scale).map(|((a, b), scale)| {
        if *scale > 0.0 {
            ((a - b) / scale).powi(2)
        } else {
            0.0
        }
    });
    squares.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::collect::Collector;
    use super::*;
    use crate::output::shard::ShardRow;

    #[test]
    fn distances_are_those_of_scaled_features() {
        // (3 / 1, 8 / 2, constant)
        let (one, other) = ([1.0, 2.0, 9.0], [4.0, 10.0, 5.0]);
        assert_eq!(distance(&one, &other, &[1.0, 2.0, 0.0]), 5.0);
    }

    #[test]
    fn pairs_that_are_not_near_are_left_out_but_for_the_nearest() {
        let images = |features: [f64; 6], total_variance: f64| {
            let mut collector = Collector::new(6, 1, 10);
            for (position, score) in (0..).zip(features) {
                let row = ShardRow {
                    index: position,
                    path: position.to_string(),
                    label: None,
                };
                collector.add(&row, &[score as f32], 0.0);
            }
            let collected = collector.finish(None);
            let found = (0..).zip(features).map(|(position, value)| {
                let found = Found {
                    features: vec![value],
                    ..Found::default()
                };
                (position, found)
            });
            let found = found.collect();
            let images = Images::new(collected, found, &[1.0], total_variance);
            images
                .pairs
                .iter()
                .map(|pair| pair.distance)
                .collect::<Vec<_>>()
        };
        let features = [0.0, 1.0, 3.0, 6.0, 10.0, 15.0];
        // Two images are 10 apart as a rule: near is 4.
        assert_eq!(images(features, 50.0), [1.0, 2.0, 3.0, 4.0]);
        // They are 1.4 apart: none is near, and the three nearest are shown.
        assert_eq!(images(features, 1.0), [1.0, 2.0, 3.0]);
    }
}
