//! Who is near whom on the components: nearest neighbours, and how well labels separate.
//!
//! Everything compares every point with every other, so the caller bounds the number of points.

use rayon::prelude::*;
use std::collections::BTreeMap;

/// Numbers that are added before the sum is compared with the best one so far.
const STRIDE: usize = 8;

/// Points on the components, with what the components leave of each.
#[derive(Debug, Clone, Copy)]
pub struct Cloud<'a> {
    /// Scores that were not whitened, `[points, width]`.
    pub scores: &'a [f32],
    /// Number of components.
    pub width: usize,
    /// Reconstruction errors, one a point.
    pub errors: &'a [f32],
}

/// The neighbours of one point, as places among the points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// The nearest on the components.
    pub by_scores: usize,
    /// The one whose features may be nearest, and the square of a distance that theirs is not below:
    /// that of the scores and that of the reconstruction errors are two legs of a right triangle.
    pub by_features: (usize, f64),
}

impl Cloud<'_> {
    fn len(&self) -> usize {
        self.errors.len()
    }

    fn row(&self, point: usize) -> &[f32] {
        &self.scores[point * self.width..(point + 1) * self.width]
    }

    /// The neighbours of every point; of equally near ones the first. At least two points.
    pub fn nearest(&self) -> Vec<Nearest> {
        (0..self.len())
            .into_par_iter()
            .map(|point| self.nearest_to(point))
            .collect()
    }

    fn nearest_to(&self, point: usize) -> Nearest {
        let mine = self.row(point);
        let (mut scores, mut features) = ((0, f32::INFINITY), (0, f32::INFINITY));
        for other in (0..self.len()).filter(|&other| other != point) {
            let rest = (self.errors[point] - self.errors[other]).powi(2);
            let sum = squared(mine, self.row(other), |sum| {
                sum >= scores.1 && sum + rest >= features.1
            });
            if sum < scores.1 {
                scores = (other, sum);
            }
            if sum + rest < features.1 {
                features = (other, sum + rest);
            }
        }
        Nearest {
            by_scores: scores.0,
            by_features: (features.0, f64::from(features.1)),
        }
    }

    /// The silhouette of every point: how much nearer it is to those of its own label than to those of
    /// the nearest other label, from -1 to 1; 0 for the only point of a label. P. J. Rousseeuw,
    /// *Silhouettes: a graphical aid to the interpretation and validation of cluster analysis*, 1987.
    ///
    /// `labels` has a number from 0 on for every point, of at least two labels.
    pub fn silhouettes(&self, labels: &[usize]) -> Vec<f64> {
        let count = labels.iter().max().map_or(0, |label| label + 1);
        let mut sizes = vec![0u32; count];
        for &label in labels {
            sizes[label] += 1;
        }
        (0..self.len())
            .into_par_iter()
            .map(|point| {
                let mut sums = vec![0.0; count];
                for (other, &label) in labels.iter().enumerate() {
                    let square = squared(self.row(point), self.row(other), |_| false);
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

/// The squared distance, or any number that is not below it where `enough` says so on the way.
fn squared(one: &[f32], other: &[f32], enough: impl Fn(f32) -> bool) -> f32 {
    let mut sum = 0.0;
    for (one, other) in one.chunks(STRIDE).zip(other.chunks(STRIDE)) {
        for (a, b) in one.iter().zip(other) {
            sum += (a - b) * (a - b);
        }
        if enough(sum) {
            break;
        }
    }
    sum
}

/// How well labels separate on the components.
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
    /// Mean silhouette; `None` where none was computed.
    pub silhouette: Option<f64>,
}

/// Most points of the silhouette, which needs every distance in full.
pub const MAX_SILHOUETTES: usize = 2000;

/// How the labels of a cloud separate; `None` where fewer than two points have one.
pub fn separation(
    cloud: &Cloud,
    nearest: &[Nearest],
    labels: &[Option<&str>],
) -> Option<Separation> {
    let labelled: Vec<usize> = (0..labels.len()).filter(|&p| labels[p].is_some()).collect();
    if labelled.len() < 2 {
        return None;
    }
    // (points, agreeing, silhouettes, their sum) of each label.
    let mut tallies: BTreeMap<&str, (usize, usize, usize, f64)> = BTreeMap::new();
    for &point in &labelled {
        let tally = tallies
            .entry(labels[point].unwrap_or_default())
            .or_default();
        tally.0 += 1;
        tally.1 += usize::from(labels[nearest[point].by_scores] == labels[point]);
    }
    let silhouette = silhouettes(cloud, labels, &labelled).map(|values| {
        let sum: f64 = values.iter().map(|(_, value)| value).sum();
        for (point, value) in &values {
            let tally = tallies
                .entry(labels[*point].unwrap_or_default())
                .or_default();
            tally.2 += 1;
            tally.3 += value;
        }
        (sum / values.len() as f64, values.len())
    });
    let points = labelled.len() as f64;
    let agreeing: usize = tallies.values().map(|tally| tally.1).sum();
    let same = tallies
        .values()
        .map(|tally| tally.0 as f64 * (tally.0 as f64 - 1.0));
    let chance = same.sum::<f64>() / (points * (points - 1.0));
    let mut rows: Vec<LabelSeparation> = tallies
        .into_iter()
        .map(|(label, (points, agreeing, values, sum))| LabelSeparation {
            label: label.to_owned(),
            points,
            agreement: agreeing as f64 / points as f64,
            silhouette: (values > 0).then(|| sum / values as f64),
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.points));
    Some(Separation {
        points: labelled.len(),
        agreement: agreeing as f64 / points,
        chance,
        silhouette,
        labels: rows,
    })
}

/// Silhouettes of evenly spaced labelled points, each with its place; `None` with one label only.
fn silhouettes(
    cloud: &Cloud,
    labels: &[Option<&str>],
    labelled: &[usize],
) -> Option<Vec<(usize, f64)>> {
    let step = labelled.len().div_ceil(MAX_SILHOUETTES).max(1);
    let taken: Vec<usize> = labelled.iter().copied().step_by(step).collect();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut of_point = Vec::with_capacity(taken.len());
    for &point in &taken {
        let next = numbers.len();
        of_point.push(
            *numbers
                .entry(labels[point].unwrap_or_default())
                .or_insert(next),
        );
    }
    if numbers.len() < 2 {
        return None;
    }
    let scores: Vec<f32> = taken.iter().flat_map(|&p| cloud.row(p).to_vec()).collect();
    let errors: Vec<f32> = taken.iter().map(|&p| cloud.errors[p]).collect();
    let part = Cloud {
        scores: &scores,
        width: cloud.width,
        errors: &errors,
    };
    Some(taken.into_iter().zip(part.silhouettes(&of_point)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(scores: &[f32]) -> Cloud<'_> {
        const NONE: [f32; 64] = [0.0; 64];
        Cloud {
            scores,
            width: 1,
            errors: &NONE[..scores.len()],
        }
    }

    #[test]
    fn the_nearest_on_the_components_and_in_the_features_may_differ() {
        let cloud = Cloud {
            scores: &[0.0, 0.0, 1.0, 0.0, 0.0, 2.0],
            width: 2,
            errors: &[5.0, 0.0, 5.0],
        };
        let nearest = cloud.nearest();
        assert_eq!(nearest[0].by_scores, 1);
        // To the second 1 and 5, to the third 2 and 0.
        assert_eq!(nearest[0].by_features, (2, 4.0));
        assert_eq!(nearest[1].by_features, (0, 26.0));
    }

    #[test]
    fn long_rows_give_the_same_neighbours_as_a_plain_search() {
        let width = 21;
        let scores: Vec<f32> = (0..40 * width)
            .map(|i| ((i * 7919 + i * i * 31) % 1009) as f32 / 100.0)
            .collect();
        let errors = vec![0.0; 40];
        let cloud = Cloud {
            scores: &scores,
            width,
            errors: &errors,
        };
        for (point, nearest) in cloud.nearest().iter().enumerate() {
            let distance = |other: usize| -> f32 {
                let pairs = cloud.row(point).iter().zip(cloud.row(other));
                pairs.map(|(a, b)| (a - b).powi(2)).sum()
            };
            let best = (0..40)
                .filter(|&other| other != point)
                .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
                .unwrap();
            assert_eq!(nearest.by_scores, best);
            assert_eq!(nearest.by_features.0, best);
        }
    }

    #[test]
    fn silhouettes_are_those_of_the_definition() {
        // By hand: the first point is 1 from its own, 10.5 on average from the others.
        let values = line(&[0.0, 1.0, 10.0, 11.0]).silhouettes(&[0, 0, 1, 1]);
        let expected = [9.5 / 10.5, 8.5 / 9.5, 8.5 / 9.5, 9.5 / 10.5];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{values:?}");
        }
        // A label that is nearer to the other one's points is negative; a lone point counts 0.
        let values = line(&[0.0, 10.0, 10.0, 50.0]).silhouettes(&[0, 0, 1, 2]);
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
        let found = separation(&cloud, &cloud.nearest(), &labels).unwrap();
        assert_eq!((found.points, found.agreement), (5, 1.0));
        // Ten ordered pairs of twenty: 3 * 2 + 2 * 1 of 5 * 4.
        assert_eq!(found.chance, 8.0 / 20.0);
        let (mean, points) = found.silhouette.unwrap();
        assert!(mean > 0.97 && points == 5);
        assert_eq!(found.labels[0].label, "a");
        assert_eq!(found.labels[1].points, 2);
        let alike = [Some("a"); 6];
        let found = separation(&cloud, &cloud.nearest(), &alike).unwrap();
        assert_eq!(
            (found.agreement, found.chance, found.silhouette),
            (1.0, 1.0, None)
        );
        assert_eq!(separation(&cloud, &cloud.nearest(), &[None; 6]), None);
    }
}
