//! Who is near whom on the components: nearest neighbours, how well labels separate, and the pairs whose
//! features may be nearest.
//!
//! Everything compares every point with every other, so the caller bounds the number of points.

use crate::linalg::blas::inner;
use crate::linalg::zeros;
use ndarray::{Array2, ArrayView1, s};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers that are added side by side.
const STRIDE: usize = 8;

/// Points on the components, with what the components leave of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Cloud {
    /// Scores that were not whitened, `[points, width]`.
    pub scores: Vec<f32>,
    /// Number of components.
    pub width: usize,
    /// Reconstruction errors, one a point.
    pub errors: Vec<f32>,
}

/// Two points, the first of which comes first, and the square of a distance that that of their features
/// is not below: the distance of the scores and that of the reconstruction errors are two legs of a right
/// triangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LikelyPair {
    /// Their places.
    pub places: (usize, usize),
    /// The square of the bound.
    pub square: f32,
}

impl Cloud {
    /// Some of the points.
    pub fn of(&self, places: &[usize]) -> Cloud {
        let rows = places.iter().flat_map(|&place| self.row(place));
        Cloud {
            scores: rows.copied().collect(),
            width: self.width,
            errors: places.iter().map(|&place| self.errors[place]).collect(),
        }
    }

    fn len(&self) -> usize {
        self.errors.len()
    }

    fn row(&self, point: usize) -> &[f32] {
        &self.scores[point * self.width..(point + 1) * self.width]
    }

    /// The nearest other point of every point on the components; of equally near ones the first. At least
    /// two points.
    pub fn nearest(&self) -> Vec<usize> {
        let bounds = Bounds::of(self, false);
        let nearest_to = |points: Range<usize>| {
            let mut best = vec![(0, f32::INFINITY); points.len()];
            for others in bounds.runs() {
                let squares = bounds.between(&others, &points);
                for ((point, best), column) in points.clone().zip(&mut best).zip(squares.columns())
                {
                    for (other, bound) in others.clone().zip(column) {
                        // NaN excludes nothing.
                        if *bound >= best.1 || other == point {
                            continue;
                        }
                        let sum = squared(self.row(point), self.row(other));
                        if sum < best.1 {
                            *best = (other, sum);
                        }
                    }
                }
            }
            best.into_iter().map(|(other, _)| other)
        };
        let runs: Vec<_> = bounds.runs().collect();
        runs.into_par_iter().flat_map_iter(nearest_to).collect()
    }

    /// The `most` pairs with the lowest bounds, lowest first; of equal ones the first.
    pub fn likeliest_pairs(&self, most: usize) -> Vec<LikelyPair> {
        // Numbers from 0 on are ordered as their bits are.
        type Entry = (u32, usize, usize);
        let offer = |heap: &mut BinaryHeap<Entry>, entry: Entry| {
            if heap.len() < most {
                heap.push(entry);
            } else if let Some(mut worst) = heap.peek_mut().filter(|worst| entry < **worst) {
                *worst = entry;
            }
        };
        let bounds = Bounds::of(self, true);
        // Beyond the worst of as many pairs as are wanted, wherever they were found, none is among the best.
        let limit = AtomicU32::new(f32::INFINITY.to_bits());
        let with_those_between = |mut heap: BinaryHeap<Entry>, (ones, others): Runs| {
            let squares = bounds.between(&ones, &others);
            for (other, column) in others.zip(squares.columns()) {
                for (one, bound) in ones.clone().zip(column).filter(|(one, _)| *one < other) {
                    if *bound > f32::from_bits(limit.load(Ordering::Relaxed)) {
                        continue;
                    }
                    let rest = (self.errors[one] - self.errors[other]).powi(2);
                    let sum = squared(self.row(one), self.row(other)) + rest;
                    offer(&mut heap, (sum.to_bits(), one, other));
                    if let Some(worst) = heap.peek().filter(|_| heap.len() == most) {
                        limit.fetch_min(worst.0, Ordering::Relaxed);
                    }
                }
            }
            heap
        };
        let runs: Vec<Runs> = bounds
            .runs()
            .flat_map(|ones| {
                let behind = bounds.runs().filter(move |others| others.end >= ones.end);
                behind.map(move |others| (ones.clone(), others))
            })
            .collect();
        let heap = runs
            .into_par_iter()
            .fold(BinaryHeap::new, with_those_between)
            .reduce(BinaryHeap::new, |mut heap, others| {
                others.into_iter().for_each(|entry| offer(&mut heap, entry));
                heap
            });
        let pairs = heap.into_sorted_vec().into_iter();
        pairs
            .map(|(square, one, other)| LikelyPair {
                places: (one, other),
                square: f32::from_bits(square),
            })
            .collect()
    }

    /// The silhouettes of some points among all of them: how much nearer each is to those of its own label
    /// than to those of the nearest other label, from -1 to 1; 0 for the only point of a label.
    /// P. J. Rousseeuw, *Silhouettes: a graphical aid to the interpretation and validation of cluster
    /// analysis*, 1987.
    ///
    /// `labels` has a number from 0 on for every point, of at least two labels.
    pub fn silhouettes(&self, labels: &[usize], of: &[usize]) -> Vec<f64> {
        let count = labels.iter().max().map_or(0, |label| label + 1);
        let mut sizes = vec![0u32; count];
        for &label in labels {
            sizes[label] += 1;
        }
        of.par_iter()
            .map(|&point| {
                let mut sums = vec![0.0; count];
                for (other, &label) in labels.iter().enumerate() {
                    let square = squared(self.row(point), self.row(other));
                    sums[label] += f64::from(square).sqrt();
                }
                let own = labels[point];
                if sizes[own] < 2 {
                    return 0.0;
                }
                let within = sums[own] / f64::from(sizes[own] - 1);
                let nearest = (0..count)
                    .filter(|&label| label != own && sizes[label] > 0)
                    .map(|label| sums[label] / f64::from(sizes[label]))
                    .fold(f64::INFINITY, f64::min);
                let longer = within.max(nearest);
                if longer > 0.0 && longer.is_finite() {
                    (nearest - within) / longer
                } else {
                    0.0
                }
            })
            .collect()
    }
}

/// Runs of points.
type Runs = (Range<usize>, Range<usize>);

/// Numbers that the squared distances of points are not below, from products of matrices: `|x - y|^2 = |x|^2 +
/// |y|^2 - 2 x y`, which is many times faster than distances one by one, but loses digits where points are near
/// each other. So it only tells which distances are worth computing.
struct Bounds {
    /// A point a column, `[width, points]`.
    points: Array2<f32>,
    /// `|x|^2` of each.
    squares: Vec<f32>,
}

impl Bounds {
    /// On the components, or also on the reconstruction errors.
    fn of(cloud: &Cloud, with_errors: bool) -> Bounds {
        let width = cloud.width + usize::from(with_errors);
        let mut numbers = Vec::with_capacity(width * cloud.len());
        for (point, error) in cloud.errors.iter().enumerate() {
            numbers.extend(cloud.row(point));
            numbers.extend(with_errors.then_some(error));
        }
        let points = Array2::from_shape_vec((cloud.len(), width), numbers);
        let points = points.expect("as many numbers a point").reversed_axes();
        let square = |point: ArrayView1<f32>| point.iter().map(|x| x * x).sum();
        Bounds {
            squares: points.columns().into_iter().map(square).collect(),
            points,
        }
    }

    /// Runs of points that are compared at once.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        const POINTS: usize = 512;
        let all = self.squares.len();
        (0..all)
            .step_by(POINTS)
            .map(move |start| start..(start + POINTS).min(all))
    }

    /// The bounds between the points of two runs, one of `others` a column.
    fn between(&self, ones: &Range<usize>, others: &Range<usize>) -> Array2<f32> {
        let of = |run: &Range<usize>| self.points.slice(s![.., run.clone()]);
        let mut bounds = zeros(ones.len(), others.len());
        inner(of(ones), of(others), 0.0, bounds.view_mut());
        // A sum of n products is off by n eps of the squares at most, and so are these themselves and the distance
        // that is computed; near the smallest numbers by as many of those.
        let numbers = (self.points.nrows() + 4) as f32;
        let (rounding, least) = (4.0 * numbers * f32::EPSILON, numbers * f32::MIN_POSITIVE);
        let squares = &self.squares;
        for (mut column, other) in bounds
            .columns_mut()
            .into_iter()
            .zip(&squares[others.clone()])
        {
            for (bound, one) in column.iter_mut().zip(&squares[ones.clone()]) {
                let both = one + other;
                // Squares that are no numbers tell nothing.
                *bound = if both.is_finite() {
                    both * (1.0 - rounding) - 2.0 * *bound - least
                } else {
                    f32::NEG_INFINITY
                };
            }
        }
        bounds
    }
}

/// The squared distance.
fn squared(one: &[f32], other: &[f32]) -> f32 {
    // A sum for each place in a stride, so that a stride is a vector.
    let mut sums = [0.0; STRIDE];
    let (strides, rest) = one.as_chunks::<STRIDE>();
    let (others, other_rest) = other.as_chunks::<STRIDE>();
    for (one, other) in strides.iter().zip(others) {
        for ((sum, a), b) in sums.iter_mut().zip(one).zip(other) {
            *sum += (a - b) * (a - b);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(rest).zip(other_rest) {
        *sum += (a - b) * (a - b);
    }
    sums.iter().sum()
}

/// How well labels separate on the components; only labelled points count.
#[derive(Debug, Clone, PartialEq)]
pub struct Separation {
    /// Points whose nearest neighbour was looked for.
    pub points: usize,
    /// Share of them whose nearest neighbour has the same label.
    pub agreement: f64,
    /// The same share if labels had nothing to do with places.
    pub chance: f64,
    /// Mean silhouette, and on how many points; `None` where there is one label only.
    pub silhouette: Option<(f64, usize)>,
    /// By label, most points first.
    pub labels: Vec<LabelSeparation>,
}

/// How well one label separates.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelSeparation {
    /// The label.
    pub label: String,
    /// Its points.
    pub points: usize,
    /// Share of them whose nearest neighbour has the same label.
    pub agreement: f64,
    /// Mean silhouette; `None` where fewer than two were computed.
    pub silhouette: Option<f64>,
}

/// Points whose silhouettes are computed, which need every distance in full.
pub const MAX_SILHOUETTES: usize = 2000;

/// The fewest of them of one label, where it has so many points.
const LEAST_SILHOUETTES: usize = 2;

/// How the labels of a cloud separate; `None` where fewer than two points have one.
pub fn separation(cloud: &Cloud, labels: &[Option<&str>]) -> Option<Separation> {
    let labelled = (0..labels.len()).filter_map(|place| Some((place, labels[place]?)));
    let (places, labels): (Vec<usize>, Vec<&str>) = labelled.unzip();
    if places.len() < 2 {
        return None;
    }
    let cloud = cloud.of(&places);
    let nearest = cloud.nearest();
    let mut by_label: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (point, label) in labels.iter().enumerate() {
        by_label.entry(label).or_default().push(point);
    }
    // Stable: of equally frequent labels the first in the alphabet comes first.
    let mut by_label: Vec<(&str, Vec<usize>)> = by_label.into_iter().collect();
    by_label.sort_by_key(|(_, points)| Reverse(points.len()));
    let silhouettes = silhouettes(&cloud, &by_label);

    let total = labels.len() as f64;
    let mut agreeing = 0;
    let mut same = 0.0;
    // Each label weighs as much as it has points, however many of them were taken.
    let (mut sum, mut weight, mut taken) = (0.0, 0.0, 0);
    let mut rows = Vec::with_capacity(by_label.len());
    for ((label, points), silhouettes) in by_label.iter().zip(&silhouettes) {
        let count = points.len() as f64;
        let agree = points
            .iter()
            .filter(|&&p| labels[nearest[p]] == *label)
            .count();
        agreeing += agree;
        same += count * (count - 1.0);
        let mean = silhouettes.iter().sum::<f64>() / silhouettes.len().max(1) as f64;
        if !silhouettes.is_empty() {
            sum += count * mean;
            weight += count;
            taken += silhouettes.len();
        }
        rows.push(LabelSeparation {
            label: (*label).to_owned(),
            points: points.len(),
            agreement: agree as f64 / count,
            silhouette: (silhouettes.len() >= LEAST_SILHOUETTES).then_some(mean),
        });
    }
    Some(Separation {
        points: labels.len(),
        agreement: agreeing as f64 / total,
        chance: same / (total * (total - 1.0)),
        silhouette: (taken > 0).then(|| (sum / weight, taken)),
        labels: rows,
    })
}

/// Silhouettes of evenly spaced points of every label, in the order of the labels, which is that of their
/// size. Of more labels than [`MAX_SILHOUETTES`] has room for the smallest have none; with one label there
/// are none at all.
fn silhouettes(cloud: &Cloud, by_label: &[(&str, Vec<usize>)]) -> Vec<Vec<f64>> {
    if by_label.len() < 2 {
        return vec![Vec::new(); by_label.len()];
    }
    let mut numbers = vec![0; cloud.len()];
    let mut taken = Vec::new();
    let mut of_label = Vec::with_capacity(by_label.len());
    for (number, (_, points)) in by_label.iter().enumerate() {
        for &point in points {
            numbers[point] = number;
        }
        let share = points.len() * MAX_SILHOUETTES / cloud.len();
        let wanted = match taken.len() < MAX_SILHOUETTES {
            true => share.max(LEAST_SILHOUETTES).min(points.len()),
            false => 0,
        };
        taken.extend((0..wanted).map(|n| points[n * points.len() / wanted]));
        of_label.push(wanted);
    }
    let values = cloud.silhouettes(&numbers, &taken);
    let mut rest = values.as_slice();
    let parts = of_label.into_iter().map(|wanted| {
        let (part, behind) = rest.split_at(wanted);
        rest = behind;
        part.to_vec()
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(scores: &[f32]) -> Cloud {
        Cloud {
            scores: scores.to_vec(),
            width: 1,
            errors: vec![0.0; scores.len()],
        }
    }

    #[test]
    fn the_nearest_on_the_components_and_the_likeliest_pair_may_differ() {
        let cloud = Cloud {
            scores: vec![0.0, 0.0, 1.0, 0.0, 0.0, 2.0],
            width: 2,
            errors: vec![5.0, 0.0, 5.0],
        };
        assert_eq!(cloud.nearest(), [1, 0, 0]);
        // To the second 1 and 5, to the third 2 and 0; between these two the root of 5, and 5.
        let expected = [((0, 2), 4.0), ((0, 1), 26.0), ((1, 2), 30.0)];
        let expected = expected.map(|(places, square)| LikelyPair { places, square });
        assert_eq!(cloud.likeliest_pairs(10), expected);
        assert_eq!(cloud.likeliest_pairs(2), expected[..2]);
        assert!(cloud.of(&[1]).likeliest_pairs(2).is_empty());
    }

    #[test]
    fn long_rows_give_the_same_neighbours_as_a_plain_search() {
        let width = 21;
        let scores: Vec<f32> = (0..40 * width)
            .map(|i| ((i * 7919 + i * i * 31) % 1009) as f32 / 100.0)
            .collect();
        let cloud = Cloud {
            scores,
            width,
            errors: (0..40).map(|i| (i * i % 7) as f32).collect(),
        };
        let distance = |one: usize, other: usize| -> f32 {
            let pairs = cloud.row(one).iter().zip(cloud.row(other));
            pairs.map(|(a, b)| (a - b).powi(2)).sum()
        };
        for (point, &nearest) in cloud.nearest().iter().enumerate() {
            let best = (0..40)
                .filter(|&other| other != point)
                .min_by(|&a, &b| distance(point, a).total_cmp(&distance(point, b)))
                .unwrap();
            assert_eq!(nearest, best);
        }
        let mut all: Vec<(f32, (usize, usize))> = (0..40)
            .flat_map(|one| (one + 1..40).map(move |other| (one, other)))
            .map(|(one, other)| {
                let rest = cloud.errors[one] - cloud.errors[other];
                (distance(one, other) + rest * rest, (one, other))
            })
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let places: Vec<(usize, usize)> = all[..100].iter().map(|(_, places)| *places).collect();
        let found = cloud.likeliest_pairs(100);
        assert_eq!(
            found.iter().map(|pair| pair.places).collect::<Vec<_>>(),
            places
        );
    }

    #[test]
    fn pairs_far_from_the_origin_and_in_different_runs_are_found() {
        // 1300 points, all but a few of them far apart; the distances of those few are lost in the products.
        let (count, width) = (1300, 9);
        let mut scores: Vec<f32> = (0..count * width)
            .map(|i| ((i * 7919 + i * i % 100_003 * 31) % 65_537) as f32)
            .collect();
        for (to, from, shift) in [
            (1299, 3, 0.5),
            (700, 40, 0.25),
            (512, 511, 0.0),
            (9, 8, 1.0),
        ] {
            scores.copy_within(from * width..(from + 1) * width, to * width);
            scores[to * width] += shift;
        }
        let cloud = Cloud {
            scores,
            width,
            errors: vec![2.0; count],
        };
        let expected = [
            ((511, 512), 0.0),
            ((40, 700), 0.0625),
            ((3, 1299), 0.25),
            ((8, 9), 1.0),
        ];
        let expected = expected.map(|(places, square)| LikelyPair { places, square });
        assert_eq!(cloud.likeliest_pairs(4), expected);
        let nearest = cloud.nearest();
        for LikelyPair {
            places: (one, other),
            ..
        } in expected
        {
            assert_eq!((nearest[one], nearest[other]), (other, one));
        }
    }

    #[test]
    fn numbers_whose_squares_are_none_have_neighbours_too() {
        assert_eq!(line(&[1.9e19, 5e18]).nearest(), [1, 0]);
        let tiny = line(&[-5.182_474_3e-22, -5.168_925_7e-22, 5e-21]);
        assert_eq!(tiny.nearest(), [1, 0, 1]);
        let scores: Vec<f32> = (0..700).map(|n| (n * n % 701) as f32 * 1e17).collect();
        let pairs = line(&scores).likeliest_pairs(3);
        // n and 701 - n are equal.
        let expected: Vec<_> = (2..5).map(|n| (n, 701 - n)).collect();
        assert_eq!(pairs.iter().map(|p| p.places).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn silhouettes_are_those_of_the_definition() {
        // By hand: the first point is 1 from its own, 10.5 on average from the others.
        let values = line(&[0.0, 1.0, 10.0, 11.0]).silhouettes(&[0, 0, 1, 1], &[0, 1, 2, 3]);
        let expected = [9.5 / 10.5, 8.5 / 9.5, 8.5 / 9.5, 9.5 / 10.5];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{values:?}");
        }
        // A label that is nearer to the other one's points is negative; a lone point counts 0.
        let values = line(&[0.0, 10.0, 10.0, 50.0]).silhouettes(&[0, 0, 1, 2], &[0, 1, 2, 3]);
        assert!(
            values[1] < 0.0 && values[3] == 0.0 && values[2] == 0.0,
            "{values:?}"
        );
    }

    #[test]
    fn labels_that_separate_agree_and_say_what_chance_would_give() {
        let scores = [0.0, 0.1, 0.2, 9.0, 9.1, 5.0];
        let labels = [Some("a"), Some("a"), Some("a"), Some("b"), Some("b"), None];
        let cloud = line(&scores);
        let found = separation(&cloud, &labels).unwrap();
        assert_eq!((found.points, found.agreement), (5, 1.0));
        // Ten ordered pairs of twenty: 3 * 2 + 2 * 1 of 5 * 4.
        assert_eq!(found.chance, 8.0 / 20.0);
        let (mean, points) = found.silhouette.unwrap();
        assert!(mean > 0.97 && points == 5);
        assert_eq!(found.labels[0].label, "a");
        assert_eq!(found.labels[1].points, 2);
        let alike = [Some("a"); 6];
        let found = separation(&cloud, &alike).unwrap();
        assert_eq!(
            (found.agreement, found.chance, found.silhouette),
            (1.0, 1.0, None)
        );
        assert_eq!(separation(&cloud, &[None; 6]), None);
    }

    #[test]
    fn unlabelled_points_and_rare_labels_change_nothing_for_the_others() {
        // Between each two labelled points lie unlabelled ones; two of 5003 labelled points are rare.
        let mut scores = Vec::new();
        let mut labels = Vec::new();
        for number in 0..5003 {
            let (label, place) = match number {
                1000 | 4000 => (Some("rare"), -50_000.0 - number as f32),
                1500 => (Some("single"), 90_000.0),
                n if n % 2 == 0 => (Some("even"), n as f32),
                n => (Some("odd"), 20_000.0 + n as f32),
            };
            for (label, offset) in [(label, 0.0), (None, 0.25), (None, 0.5)] {
                labels.push(label);
                scores.push(place + offset);
            }
        }
        let found = separation(&line(&scores), &labels).unwrap();
        assert_eq!(found.points, 5003);
        // All but the single one have a neighbour of their own.
        assert_eq!(found.agreement, 5002.0 / 5003.0);
        let of = |label: &str| found.labels.iter().find(|row| row.label == label).unwrap();
        assert_eq!((of("rare").points, of("rare").agreement), (2, 1.0));
        // 3000 from each other, 53,500 and 56,500 from the even ones on average.
        let rare = of("rare").silhouette.unwrap();
        assert!((rare - (1.0 - 3000.0 / 55_000.0)).abs() < 0.01, "{rare}");
        assert_eq!(of("single").silhouette, None);
        assert!(of("even").silhouette.unwrap() > 0.8);
        let (mean, points) = found.silhouette.unwrap();
        assert!(mean > 0.8 && (MAX_SILHOUETTES - 2..=MAX_SILHOUETTES + 3).contains(&points));
    }

    #[test]
    fn more_labels_than_there_is_room_for_leave_the_rarest_without_a_silhouette() {
        let labels: Vec<String> = (0..4000).map(|n| format!("{:04}", n / 2)).collect();
        let labels: Vec<Option<&str>> = labels.iter().map(|label| Some(label.as_str())).collect();
        let scores: Vec<f32> = (0..4000).map(|n| n as f32).collect();
        let found = separation(&line(&scores), &labels).unwrap();
        let with = found.labels.iter().filter(|row| row.silhouette.is_some());
        assert_eq!(with.count(), MAX_SILHOUETTES / 2);
        assert_eq!(found.silhouette.unwrap().1, MAX_SILHOUETTES);
    }
}
