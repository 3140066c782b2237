//! What the report shows of a run's images, gathered while their scores go by: memory is bounded.

use super::images::Found;
use super::neighbours::{Cloud, Separation, separation};
use super::pairs::{NearestPairs, Scaling, Search};
use crate::dataset::outcome::{Outcome, Status};
use crate::output::shard::ShardRow;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Points that are drawn unless told otherwise: with all of their thumbnails they make a page of less
/// than 5 MB.
pub const MAX_POINTS: usize = 10_000;

/// Most points of a page that a user may ask for.
pub const POINTS_LIMIT: usize = 100_000;

/// Images that are compared with each other, whatever number is drawn.
pub const MAX_COMPARED: usize = 10_000;

/// Components whose scores are kept of a point.
pub const MAX_SCORES: usize = 128;

/// Components whose most extreme images are shown.
pub const EXTREME_COMPONENTS: usize = 6;

/// Images at each end of a component; of few images a third, so that the middle is at neither end.
pub const EXTREMES: usize = 6;

/// Images with the largest reconstruction error; half of them where there are few.
pub const OUTLIERS: usize = 12;

/// Groups of equal files that are shown, and images of each.
const COPY_GROUPS: usize = 12;
const COPIES: usize = 4;

/// Images whose checksums are compared: 16 MB.
pub const MAX_DIGESTS: usize = 1 << 20;

/// Images without features that are named; the others are counted.
pub const MAX_FAILURES: usize = 200;

/// One scored image.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its place among the scored images.
    pub position: u64,
    /// Its key.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// Its scores on the first components, [`MAX_SCORES`] at most.
    pub scores: Vec<f32>,
    /// What the components leave of it.
    pub error: f32,
}

/// Gathers the images of a report.
#[derive(Debug)]
pub struct Collector {
    total: u64,
    max_points: usize,
    position: u64,
    sampled: Vec<Point>,
    compared: Vec<Point>,
    /// For each component the images with the lowest and those with the highest scores.
    extremes: Vec<[Top; 2]>,
    outliers: Top,
    not_finite: u64,
    /// SHA-256 of the scored images, its first half, in order.
    digests: Vec<u128>,
    failures: Vec<Outcome>,
    lists_images: bool,
}

/// The images with the largest values.
#[derive(Debug, Clone)]
struct Top {
    most: usize,
    /// Largest first; of equal ones the first image.
    images: Vec<(f32, Point)>,
}

impl Top {
    fn new(most: usize) -> Self {
        Top {
            most,
            images: Vec::new(),
        }
    }

    fn offer(&mut self, value: f32, point: impl FnOnce() -> Point) {
        let place = self.images.partition_point(|(other, _)| *other >= value);
        if place < self.most {
            self.images.insert(place, (value, point()));
            self.images.truncate(self.most);
        }
    }
}

impl Collector {
    /// For so many scored images on `k` components, of which `max_points` are drawn.
    pub fn new(total: u64, k: usize, max_points: usize) -> Self {
        let components = k.min(EXTREME_COMPONENTS);
        let part = |of: u64| usize::try_from(total / of).unwrap_or(usize::MAX).max(1);
        let ends = EXTREMES.min(part(3));
        Collector {
            total,
            max_points,
            position: 0,
            sampled: Vec::new(),
            compared: Vec::new(),
            extremes: vec![[Top::new(ends), Top::new(ends)]; components],
            outliers: Top::new(OUTLIERS.min(part(2))),
            not_finite: 0,
            digests: Vec::new(),
            failures: Vec::new(),
            lists_images: false,
        }
    }

    /// Takes the next scored image; all of them have to pass, in order.
    pub fn add(&mut self, row: &ShardRow, scores: &[f32], error: f32) {
        let position = self.position;
        self.position += 1;
        if !scores.iter().all(|score| score.is_finite()) || !error.is_finite() {
            self.not_finite += 1;
            return;
        }
        let point = || Point {
            position,
            path: row.path.clone(),
            label: row.label.clone(),
            scores: scores[..scores.len().min(MAX_SCORES)].to_vec(),
            error,
        };
        if is_taken(position, self.total, self.max_points) {
            self.sampled.push(point());
        }
        if is_taken(position, self.total, MAX_COMPARED) {
            self.compared.push(point());
        }
        for ([low, high], &score) in self.extremes.iter_mut().zip(scores) {
            low.offer(-score, point);
            high.offer(score, point);
        }
        self.outliers.offer(error, point);
    }

    /// Takes what became of the next listed image, where images were listed.
    pub fn add_outcome(&mut self, outcome: &Outcome) {
        self.lists_images = true;
        if outcome.status != Status::Ok {
            if self.failures.len() < MAX_FAILURES {
                self.failures.push(outcome.clone());
            }
        } else if self.digests.len() < MAX_DIGESTS {
            let half = outcome.sha256.get(..32).unwrap_or_default();
            // Every image that is ok has a checksum; one that cannot be read equals none.
            let digest = u128::from_str_radix(half, 16).unwrap_or(self.digests.len() as u128);
            self.digests.push(digest);
        }
    }

    /// The first image that has failed, where it is among those that are named.
    pub fn first_failed(&self) -> Option<&str> {
        let mut failed = self.failures.iter();
        let first = failed.find(|outcome| outcome.status == Status::Failed)?;
        Some(&first.path)
    }

    /// Ends the gathering and compares images with each other.
    pub fn compare(mut self, scaling: Scaling) -> Compared {
        let points = std::mem::take(&mut self.compared);
        let width = points.first().map_or(0, |point| point.scores.len());
        let mut scores = Vec::with_capacity(points.len() * width);
        for point in &points {
            let own = point.scores.iter().enumerate();
            scores.extend(own.map(|(component, &score)| match &scaling.deviations {
                Some(deviations) => score * deviations[component] as f32,
                None => score,
            }));
        }
        let errors: Vec<f32> = points.iter().map(|point| point.error).collect();
        let typical_error = median(errors.clone());
        let cloud = Cloud {
            scores,
            width,
            errors,
        };
        let labels: Vec<Option<&str>> = points.iter().map(|p| p.label.as_deref()).collect();
        // Equal files stand in a list of their own.
        let mut seen = HashSet::new();
        let distinct: Vec<usize> = (0..points.len())
            .filter(|&place| {
                let digest = self.digests.get(points[place].position as usize);
                digest.is_none_or(|digest| seen.insert(*digest))
            })
            .collect();
        let positions: Vec<u64> = points.iter().map(|point| point.position).collect();
        Compared {
            separation: match width {
                0 => None,
                _ => separation(&cloud, &labels),
            },
            search: Search::among(&cloud, &positions, &distinct, &scaling),
            collector: self,
            points,
            typical_error,
            scaling,
        }
    }
}

/// The middle one of some values, of an even number of them the upper one; 0 of none.
fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    match values.is_empty() {
        true => 0.0,
        false => *values.select_nth_unstable_by(middle, f32::total_cmp).1,
    }
}

/// The images of a report while the nearest pairs among them are looked for.
#[derive(Debug)]
pub struct Compared {
    collector: Collector,
    /// Those that are compared, in order.
    points: Vec<Point>,
    typical_error: f32,
    separation: Option<Separation>,
    search: Search,
    scaling: Scaling,
}

impl Compared {
    /// The images of which something is to be fetched for the search; none where it is over.
    pub fn wanted(&mut self) -> BTreeMap<u64, Need> {
        let wanted = self.search.wanted(&self.scaling).into_iter();
        wanted.map(|position| (position, Need::Features)).collect()
    }

    /// Takes what was fetched of them.
    ///
    /// # Errors
    /// The first image that has another name where features are than where scores are, with both.
    pub fn add(&mut self, found: &BTreeMap<u64, Found>) -> Result<(), [String; 2]> {
        for (position, found) in found {
            let place = self.points.binary_search_by_key(position, |p| p.position);
            if let (Ok(place), Some((name, _))) = (place, &found.name)
                && *name != self.points[place].path
            {
                return Err([name.clone(), self.points[place].path.clone()]);
            }
        }
        self.search.add(found, &self.scaling);
        Ok(())
    }

    /// Ends the search.
    pub fn finish(self) -> Collected {
        let (collector, scaling) = (self.collector, self.scaling);
        let nearest = self.search.finish(&scaling);
        let tops = collector
            .extremes
            .iter()
            .flatten()
            .chain([&collector.outliers]);
        let special = tops.flat_map(|top| &top.images).map(|(_, point)| point);
        let in_pairs = nearest
            .pairs
            .iter()
            .flat_map(|pair| [pair.positions.0, pair.positions.1]);
        let in_pairs = in_pairs.filter_map(|position| {
            let place = self.points.binary_search_by_key(&position, |p| p.position);
            Some(&self.points[place.ok()?])
        });
        let points: BTreeMap<u64, &Point> = collector
            .sampled
            .iter()
            .chain(special)
            .chain(in_pairs)
            .map(|point| (point.position, point))
            .collect();
        let points: Vec<Point> = points.into_values().cloned().collect();
        let place = |point: &Point| points.partition_point(|p| p.position < point.position);
        let places = |top: &Top| top.images.iter().map(|(_, point)| place(point)).collect();
        let ends = collector.extremes.iter();
        Collected {
            total: collector.total,
            sampled: collector.sampled.len() as u64,
            not_finite: collector.not_finite,
            extremes: ends
                .map(|[low, high]| [places(low), places(high)])
                .collect(),
            outliers: places(&collector.outliers),
            typical_error: self.typical_error,
            copies: collector
                .lists_images
                .then(|| Copies::among(&collector.digests)),
            nearest,
            separation: self.separation,
            failures: collector.failures,
            points,
            scaling,
        }
    }
}

/// What is needed of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Its thumbnail.
    Picture,
    /// Its thumbnail, key and label.
    Named,
    /// Its feature vector, key and label.
    Features,
}

/// The images of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// Scored images in all.
    pub total: u64,
    /// How many of them were taken evenly; the others among the points stand out in some way.
    pub sampled: u64,
    /// Images whose scores are no finite numbers.
    pub not_finite: u64,
    /// The images that are drawn, in order.
    pub points: Vec<Point>,
    /// For each of the first components the places of the lowest and the highest images among the
    /// points, most extreme first.
    pub extremes: Vec<[Vec<usize>; 2]>,
    /// The places of those with the largest reconstruction error, largest first.
    pub outliers: Vec<usize>,
    /// The median of the reconstruction errors of the images that are compared.
    pub typical_error: f32,
    /// Equal files; `None` where no images were listed.
    pub copies: Option<Copies>,
    /// The pairs with the nearest features; their images are among the points.
    pub nearest: NearestPairs,
    /// How well labels separate; `None` without labels or components.
    pub separation: Option<Separation>,
    /// The first images without features, in order.
    pub failures: Vec<Outcome>,
    /// How their features are scaled.
    pub scaling: Scaling,
}

impl Collected {
    /// The images that are shown, in order, and what is needed of each.
    pub fn wanted(&self) -> BTreeMap<u64, Need> {
        let mut wanted: BTreeMap<u64, Need> = BTreeMap::new();
        wanted.extend(
            self.points
                .iter()
                .map(|point| (point.position, Need::Picture)),
        );
        let copies = self.copies.iter().flat_map(|copies| &copies.groups);
        for position in copies.flat_map(|group| &group.shown) {
            wanted.insert(*position, Need::Named);
        }
        wanted
    }

    /// Where a scored image is among the points.
    pub fn place(&self, position: u64) -> Option<usize> {
        let place = self
            .points
            .binary_search_by_key(&position, |point| point.position);
        place.ok()
    }
}

/// Files with the same SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copies {
    /// How many images were looked at.
    pub compared: usize,
    /// How many groups there are.
    pub count: usize,
    /// How many images are in them.
    pub images: usize,
    /// The largest groups.
    pub groups: Vec<CopyGroup>,
}

/// Some files that are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyGroup {
    /// How many.
    pub images: usize,
    /// The places of the first among the scored images.
    pub shown: Vec<u64>,
}

impl Copies {
    fn among(digests: &[u128]) -> Self {
        let mut order: Vec<u32> = (0..digests.len() as u32).collect();
        order.sort_unstable_by_key(|&place| (digests[place as usize], place));
        let mut all: Vec<&[u32]> = order
            .chunk_by(|&a, &b| digests[a as usize] == digests[b as usize])
            .filter(|group| group.len() > 1)
            .collect();
        all.sort_by_key(|group| (std::cmp::Reverse(group.len()), group[0]));
        Copies {
            compared: digests.len(),
            count: all.len(),
            images: all.iter().map(|group| group.len()).sum(),
            groups: all
                .iter()
                .take(COPY_GROUPS)
                .map(|group| CopyGroup {
                    images: group.len(),
                    shown: group
                        .iter()
                        .take(COPIES)
                        .map(|&place| u64::from(place))
                        .collect(),
                })
                .collect(),
        }
    }
}

/// Whether an image is among the `most` evenly spaced ones: where the line of slope `most / total`
/// reaches the next whole number. That gives every folder its share and does not depend on anything
/// but the number of images.
fn is_taken(position: u64, total: u64, most: usize) -> bool {
    let most = most as u128;
    if u128::from(total) <= most {
        return true;
    }
    let reached = |position: u64| u128::from(position) * most / u128::from(total);
    position == 0 || reached(position) != reached(position - 1)
}

#[cfg(test)]
mod tests;
