//! The search for the pairs of images with the nearest features.
//!
//! Scores and reconstruction errors give a distance that the one of the features is not below
//! ([`Cloud::likeliest_pairs`]). Features are fetched in the order of that bound until it passes what
//! would still be shown, so that no nearer pair is missed; up to a limit, which the page tells.

use super::images::Found;
use super::neighbours::Cloud;
use crate::pca::Model;
use std::collections::{BTreeMap, BTreeSet};

/// Pairs that are shown at most.
pub const PAIRS: usize = 12;

/// Pairs that are shown however far apart they are.
const NEAREST_PAIRS: usize = 3;

/// Share of the typical distance beyond which a pair is not near.
const NEAR: f64 = 0.4;

/// Pairs whose features are fetched first, which are enough where the components explain most.
const FIRST: usize = 36;

/// Pairs whose features are fetched at most.
pub const LIMIT: usize = 360;

/// Bytes of features that are fetched at once, beyond those of the first pairs.
const MAX_BYTES: usize = 128 << 20;

/// How features become what the components were fitted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// The divisor of every feature; features whose divisor is 0 are constant.
    pub divisors: Vec<f64>,
    /// Whether these are standard deviations.
    pub standardized: bool,
    /// What the scores were divided by, one a component, where the model whitens.
    pub deviations: Option<Vec<f64>>,
    /// The variance of the scaled features.
    pub total_variance: f64,
}

impl Scaling {
    /// That of a model.
    pub fn of(model: &Model) -> Self {
        Scaling {
            divisors: model.scale.clone(),
            standardized: model.standardized,
            deviations: model.whiten.then(|| model.deviations()),
            total_variance: model.total_variance,
        }
    }

    /// The root mean square distance between two images: its square is twice the whole variance.
    pub fn typical_distance(&self) -> f64 {
        (2.0 * self.total_variance).sqrt()
    }

    fn distance(&self, one: &[f64], other: &[f64]) -> f64 {
        let squares = one.iter().zip(other).zip(&self.divisors);
        let squares = squares.map(|((a, b), divisor)| match *divisor > 0.0 {
            true => ((a - b) / divisor).powi(2),
            false => 0.0,
        });
        squares.sum::<f64>().sqrt()
    }
}

/// Two images whose features are close.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Their places among the scored images.
    pub positions: (u64, u64),
    /// The Euclidean distance of their scaled features.
    pub distance: f64,
}

/// What came of the search.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NearestPairs {
    /// Images among which pairs were looked for, equal files included.
    pub compared: usize,
    /// How many different files they are.
    pub distinct: usize,
    /// Nearest first.
    pub pairs: Vec<Pair>,
    /// Of how many pairs the features were compared, where a nearer pair may be among the others.
    pub likeliest: Option<usize>,
}

/// The search on its way.
#[derive(Debug)]
pub struct Search {
    /// Pairs by position, and a distance that theirs is not below; lowest first.
    candidates: Vec<((u64, u64), f64)>,
    /// Whether there are other pairs.
    has_others: bool,
    looked_at: usize,
    fetching: usize,
    /// Nearest first.
    pairs: Vec<Pair>,
    compared: usize,
    distinct: usize,
}

impl Search {
    /// Among the points of a cloud, of which `positions` are the places among the scored images and
    /// `distinct` those that are no copies of others.
    pub fn among(cloud: &Cloud, positions: &[u64], distinct: &[usize], scaling: &Scaling) -> Self {
        let room = MAX_BYTES / (2 * size_of::<f64>() * scaling.divisors.len().max(1));
        let limit = room.clamp(FIRST, LIMIT);
        let position = |place: usize| positions[distinct[place]];
        let likeliest = cloud.of(distinct).likeliest_pairs(limit).into_iter();
        let candidates: Vec<((u64, u64), f64)> = likeliest
            .map(|pair| {
                let (one, other) = pair.places;
                (
                    (position(one), position(other)),
                    f64::from(pair.square).sqrt(),
                )
            })
            .collect();
        let all = distinct.len() * distinct.len().saturating_sub(1) / 2;
        Search {
            has_others: candidates.len() < all,
            candidates,
            looked_at: 0,
            fetching: 0,
            pairs: Vec::new(),
            compared: positions.len(),
            distinct: distinct.len(),
        }
    }

    /// The candidates with their bounds, lowest first.
    #[cfg(test)]
    pub fn bounds(&self) -> Vec<((u64, u64), f64)> {
        self.candidates.clone()
    }

    /// The distance beyond which a pair would not be shown.
    fn farthest(&self, scaling: &Scaling) -> f64 {
        let distance = |place: usize| self.pairs.get(place).map_or(f64::INFINITY, |p| p.distance);
        let near = NEAR * scaling.typical_distance();
        distance(NEAREST_PAIRS - 1).max(distance(PAIRS - 1).min(near))
    }

    /// The images whose features are wanted next; none where the search is over.
    pub fn wanted(&mut self, scaling: &Scaling) -> BTreeSet<u64> {
        let farthest = self.farthest(scaling);
        let rest = &self.candidates[self.looked_at..];
        let possible = rest.partition_point(|(_, bound)| *bound <= farthest);
        self.fetching = match self.looked_at {
            0 => possible.min(FIRST),
            _ => possible,
        };
        let pairs = rest[..self.fetching].iter();
        pairs.flat_map(|((one, other), _)| [*one, *other]).collect()
    }

    /// Takes the features of those images.
    pub fn add(&mut self, found: &BTreeMap<u64, Found>, scaling: &Scaling) {
        let features = |position: &u64| {
            let found = found.get(position).map(|found| found.features.as_slice());
            found.filter(|features| features.len() == scaling.divisors.len())
        };
        let next = self.looked_at + self.fetching;
        for (positions, _) in &self.candidates[self.looked_at..next] {
            if let (Some(one), Some(other)) = (features(&positions.0), features(&positions.1)) {
                self.pairs.push(Pair {
                    positions: *positions,
                    distance: scaling.distance(one, other),
                });
            }
        }
        self.looked_at = next;
        self.pairs.sort_by(|a, b| {
            let by_distance = a.distance.total_cmp(&b.distance);
            by_distance.then(a.positions.cmp(&b.positions))
        });
    }

    /// The nearest pairs.
    pub fn finish(mut self, scaling: &Scaling) -> NearestPairs {
        let farthest = self.farthest(scaling);
        let reached = self.looked_at == self.candidates.len()
            && self
                .candidates
                .last()
                .is_some_and(|(_, bound)| *bound <= farthest);
        let near = NEAR * scaling.typical_distance();
        let near = self.pairs.partition_point(|pair| pair.distance <= near);
        self.pairs.truncate(near.clamp(NEAREST_PAIRS, PAIRS));
        NearestPairs {
            compared: self.compared,
            distinct: self.distinct,
            pairs: self.pairs,
            likeliest: (reached && self.has_others).then_some(self.looked_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(divisors: &[f64], total_variance: f64) -> Scaling {
        Scaling {
            divisors: divisors.to_vec(),
            standardized: false,
            deviations: None,
            total_variance,
        }
    }

    /// The search among images with these features, of which the first are their scores.
    fn search(features: &[Vec<f64>], k: usize, scaling: &Scaling) -> (NearestPairs, Vec<usize>) {
        let error = |row: &Vec<f64>| row[k..].iter().map(|x| x * x).sum::<f64>().sqrt();
        let cloud = Cloud {
            scores: features
                .iter()
                .flat_map(|row| &row[..k])
                .map(|&x| x as f32)
                .collect(),
            width: k,
            errors: features.iter().map(|row| error(row) as f32).collect(),
        };
        let positions: Vec<u64> = (0..features.len() as u64).map(|n| 3 * n).collect();
        let all: Vec<usize> = (0..features.len()).collect();
        let mut search = Search::among(&cloud, &positions, &all, scaling);
        let mut rounds = Vec::new();
        loop {
            let wanted = search.wanted(scaling);
            if wanted.is_empty() {
                return (search.finish(scaling), rounds);
            }
            rounds.push(wanted.len());
            let found = wanted.into_iter().map(|position| {
                let features = features[position as usize / 3].clone();
                (
                    position,
                    Found {
                        features,
                        ..Found::default()
                    },
                )
            });
            search.add(&found.collect(), scaling);
        }
    }

    /// Numbers between -1 and 1 that no formula connects.
    fn noise(seed: u64) -> f64 {
        let mut mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 32) as f64 / f64::from(1u32 << 31) - 1.0
    }

    #[test]
    fn distances_are_those_of_scaled_features() {
        // (3 / 1, 8 / 2, constant)
        let (one, other) = ([1.0, 2.0, 9.0], [4.0, 10.0, 5.0]);
        assert_eq!(scaling(&[1.0, 2.0, 0.0], 1.0).distance(&one, &other), 5.0);
    }

    #[test]
    fn pairs_that_are_not_near_are_left_out_but_for_the_nearest() {
        let features = [0.0, 1.0, 3.0, 6.0, 10.0, 15.0].map(|x| vec![x]);
        let distances = |total_variance: f64| {
            let (found, _) = search(&features, 1, &scaling(&[1.0], total_variance));
            assert_eq!(
                (found.compared, found.distinct, found.likeliest),
                (6, 6, None)
            );
            found
                .pairs
                .iter()
                .map(|pair| pair.distance)
                .collect::<Vec<_>>()
        };
        // Two images are 10 apart as a rule: near is 4.
        assert_eq!(distances(50.0), [1.0, 2.0, 3.0, 3.0, 4.0]);
        // They are 1.4 apart: none is near, and the three nearest are shown.
        assert_eq!(distances(1.0), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn a_near_duplicate_is_found_behind_pairs_that_only_look_nearer() {
        // One component tells little of forty dimensions: the bounds of many pairs are lower.
        let mut features: Vec<Vec<f64>> = (0..27)
            .map(|image| (0..40).map(|d| noise(100 * image + d)).collect())
            .collect();
        features[20] = features[5].iter().map(|x| x + 0.05).collect();
        let scaling = scaling(&[1.0; 40], 40.0 / 3.0);
        let (found, rounds) = search(&features, 1, &scaling);
        assert_eq!(found.pairs[0].positions, (15, 60));
        assert!((found.pairs[0].distance - 0.05 * 40f64.sqrt()).abs() < 1e-12);
        assert!(rounds.len() == 2 && found.likeliest.is_none(), "{rounds:?}");
    }

    #[test]
    fn where_the_limit_is_reached_that_is_said() {
        let features: Vec<Vec<f64>> = (0..100)
            .map(|image| (0..40).map(|d| noise(100 * image + d)).collect())
            .collect();
        let (found, _) = search(&features, 1, &scaling(&[1.0; 40], 40.0 / 3.0));
        assert_eq!(found.likeliest, Some(LIMIT));
        // With all components the bounds are the distances, and the first pairs are enough.
        let (found, rounds) = search(&features, 40, &scaling(&[1.0; 40], 40.0 / 3.0));
        assert!(found.likeliest.is_none() && rounds.len() == 1, "{rounds:?}");
        // Long vectors are fetched in fewer pairs.
        let long = Scaling {
            divisors: vec![1.0; MAX_BYTES / 800],
            ..scaling(&[], 1.0)
        };
        let cloud = Cloud {
            scores: vec![0.0; 100],
            width: 1,
            errors: vec![0.0; 100],
        };
        let places: Vec<usize> = (0..100).collect();
        let search = Search::among(&cloud, &(0..100).collect::<Vec<u64>>(), &places, &long);
        assert_eq!(search.candidates.len(), 50);
    }
}
