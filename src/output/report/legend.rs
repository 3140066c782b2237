//! How the points of every label look, here and in the legend.

use super::collect::Point;
use std::collections::BTreeMap;

/// Colours in `page.css`.
pub const COLOURS: usize = 8;

/// Outlines within a circle of radius 1, of about the same area. Seven of them, which has no
/// divisor in common with the eight colours: both change from one label to the next, and 56 labels
/// pass before a pair comes again.
pub const SHAPES: [&str; 7] = [
    "M-.9 0A.9 .9 0 1 0 .9 0A.9 .9 0 1 0-.9 0Z",
    "M-.8-.8H.8V.8H-.8Z",
    "M0-1.1L1.05 .75H-1.05Z",
    "M0-1.15L1.15 0L0 1.15L-1.15 0Z",
    "M0 1.1L1.05-.75H-1.05Z",
    "M-.38-1.1H.38V-.38H1.1V.38H.38V1.1H-.38V.38H-1.1V-.38H-.38Z",
    "M-1.05-.5L-.5-1.05L0-.55L.5-1.05L1.05-.5L.55 0L1.05 .5L.5 1.05L0 .55L-.5 1.05L-1.05 .5L-.55 0Z",
];

/// Labels that can be told apart by colour and shape.
pub const MAX_STYLES: usize = COLOURS * SHAPES.len();

/// How the points of one group look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The n-th pair of colour and shape.
    Label(usize),
    /// Labels beyond [`MAX_STYLES`].
    Other,
    /// Images without a label among others that have one.
    Unlabelled,
}

impl Style {
    /// The name of its colour in `page.css`, without the dashes.
    pub fn colour(self) -> String {
        match self {
            Style::Label(number) => format!("c{}", number % COLOURS),
            Style::Other => "other".to_owned(),
            Style::Unlabelled => "unlabelled".to_owned(),
        }
    }

    /// Which of [`SHAPES`].
    pub fn shape(self) -> usize {
        match self {
            Style::Label(number) => number % SHAPES.len(),
            Style::Other | Style::Unlabelled => 0,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The label, or what its points have in common.
    pub name: String,
    /// How its points look.
    pub style: Style,
    /// How many there are.
    pub points: usize,
}

/// The groups of all points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legend {
    /// Labels in the order of the alphabet, then what has no style or label of its own.
    pub groups: Vec<Group>,
    /// The group of each point.
    pub of_point: Vec<u8>,
    /// Whether any point has a label: else there is nothing to tell apart.
    pub has_labels: bool,
}

impl Legend {
    /// Gives every label a look. Where there are more labels than looks, the most frequent ones get
    /// them.
    pub fn of(points: &[Point]) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for label in points.iter().filter_map(|point| point.label.as_deref()) {
            *counts.entry(label).or_default() += 1;
        }
        let has_labels = !counts.is_empty();
        let mut labels: Vec<(&str, usize)> = counts.into_iter().collect();
        // Stable: of equally frequent labels the first in the alphabet stay.
        labels.sort_by_key(|&(_, images)| std::cmp::Reverse(images));
        let other: usize = labels
            .iter()
            .skip(MAX_STYLES)
            .map(|(_, images)| images)
            .sum();
        labels.truncate(MAX_STYLES);
        labels.sort_unstable();
        let unlabelled = points.iter().filter(|point| point.label.is_none()).count();
        let mut groups: Vec<Group> = labels
            .iter()
            .enumerate()
            .map(|(number, (label, points))| Group {
                name: (*label).to_owned(),
                style: Style::Label(number),
                points: *points,
            })
            .collect();
        let others = groups.len();
        if other > 0 {
            groups.push(Group {
                name: "other labels".into(),
                style: Style::Other,
                points: other,
            });
        }
        let without = groups.len();
        if unlabelled > 0 {
            groups.push(Group {
                name: if has_labels { "no label" } else { "images" }.into(),
                style: if has_labels {
                    Style::Unlabelled
                } else {
                    Style::Label(0)
                },
                points: unlabelled,
            });
        }
        let number: BTreeMap<&str, usize> = labels
            .iter()
            .enumerate()
            .map(|(number, (label, _))| (*label, number))
            .collect();
        let of_point = points
            .iter()
            .map(|point| match &point.label {
                Some(label) => number.get(label.as_str()).copied().unwrap_or(others) as u8,
                None => without as u8,
            })
            .collect();
        Legend {
            groups,
            of_point,
            has_labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn points(labels: &[Option<&str>]) -> Vec<Point> {
        (0..)
            .zip(labels)
            .map(|(position, label)| Point {
                position,
                path: position.to_string(),
                label: label.map(str::to_owned),
                scores: Vec::new(),
                error: 0.0,
            })
            .collect()
    }

    #[test]
    fn as_many_labels_as_promised_look_different() {
        let look = |number: usize| (Style::Label(number).colour(), Style::Label(number).shape());
        let looks: HashSet<_> = (0..MAX_STYLES).map(look).collect();
        assert_eq!(looks.len(), MAX_STYLES);
        assert_eq!(look(0), look(MAX_STYLES));
        for number in 0..MAX_STYLES {
            assert_ne!(look(number).0, look(number + 1).0);
            assert_ne!(look(number).1, look(number + 1).1);
        }
    }

    #[test]
    fn the_legend_names_every_label_with_its_images() {
        let legend = Legend::of(&points(&[Some("pear"), None, Some("apple"), Some("pear")]));
        let groups: Vec<(&str, usize)> = legend
            .groups
            .iter()
            .map(|group| (group.name.as_str(), group.points))
            .collect();
        assert_eq!(groups, [("apple", 1), ("pear", 2), ("no label", 1)]);
        assert_eq!(legend.of_point, [1, 2, 0, 1]);
        assert_eq!(legend.groups[2].style, Style::Unlabelled);
    }

    #[test]
    fn beyond_the_looks_the_most_frequent_labels_keep_theirs() {
        let names: Vec<String> = (0..MAX_STYLES + 3)
            .map(|n| format!("label {n:03}"))
            .collect();
        let mut labels: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        labels.push(Some(names[MAX_STYLES + 2].as_str()));
        let legend = Legend::of(&points(&labels));
        assert_eq!(legend.groups.len(), MAX_STYLES + 1);
        let last = &legend.groups[MAX_STYLES - 1];
        assert_eq!((last.name.as_str(), last.points), ("label 058", 2));
        let other = &legend.groups[MAX_STYLES];
        assert_eq!((other.style, other.points), (Style::Other, 3));
        assert_eq!(legend.of_point[MAX_STYLES - 1] as usize, MAX_STYLES);
    }

    #[test]
    fn without_labels_there_is_one_group() {
        let legend = Legend::of(&points(&[None, None]));
        assert!(!legend.has_labels);
        assert_eq!(legend.groups.len(), 1);
        assert_eq!(legend.groups[0].style, Style::Label(0));
    }
}
