//! The images on the first two components: which of them are drawn, and how.

use std::collections::BTreeMap;

use super::charts::{MAX_STYLES, Mark, Style, legend_mark, scatter};
use super::text::{count, escape, percent, plural};
use crate::output::metrics::Metrics;
use crate::output::shard::ShardRow;

/// Points that are drawn at most: more of them only cover each other and make the page slow.
pub const MAX_POINTS: usize = 5000;

/// Collects the points to draw while the scores go by, so that it never holds more than
/// [`MAX_POINTS`] of them.
///
/// Of more images it takes every so manieth in path order, which gives every folder its share and
/// does not depend on anything but their number.
#[derive(Debug, Clone)]
pub struct Scatter {
    total: u64,
    points: Vec<Point>,
    not_finite: u64,
}

#[derive(Debug, Clone)]
struct Point {
    path: String,
    label: Option<String>,
    x: f32,
    y: f32,
}

impl Scatter {
    /// For so many scored images.
    pub fn new(total: u64) -> Self {
        Scatter {
            total,
            points: Vec::new(),
            not_finite: 0,
        }
    }

    /// Takes one image if it is among those that are drawn. `position` counts the scored images in
    /// path order from 0; `scores` are those of the image, of which the first two are used.
    pub fn offer(&mut self, position: u64, row: &ShardRow, scores: &[f32]) {
        let &[x, y, ..] = scores else {
            return;
        };
        if !is_drawn(position, self.total) {
            return;
        }
        if x.is_finite() && y.is_finite() {
            self.points.push(Point {
                path: row.path.clone(),
                label: row.label.clone(),
                x,
                y,
            });
        } else {
            self.not_finite += 1;
        }
    }

    /// The drawing with its legend, or a sentence that says why there is none.
    pub(super) fn render(&self, metrics: &Metrics) -> String {
        let empty = |why: &str| format!("<p class=\"empty\">{why}</p>");
        match metrics.model.k {
            0 => return empty("There is no component to draw the images on."),
            1 => return empty("There is only one component. A plane needs two."),
            _ if self.points.is_empty() => return empty("There is no image to draw."),
            _ => {}
        }
        let styles = self.styles();
        let style_of = |point: &Point| match (&point.label, styles.len()) {
            // Without any label there is nothing to tell apart.
            (None, 0) => Style::Label(0),
            (None, _) => Style::Unlabelled,
            (Some(label), _) => styles
                .get(label.as_str())
                .map_or(Style::Other, |&(number, _)| Style::Label(number)),
        };
        let titles: Vec<String> = self
            .points
            .iter()
            .map(|point| match &point.label {
                Some(label) => format!("{} ({label})", point.path),
                None => point.path.clone(),
            })
            .collect();
        let marks: Vec<Mark<'_>> = self
            .points
            .iter()
            .zip(&titles)
            .map(|(point, title)| Mark {
                x: f64::from(point.x),
                y: f64::from(point.y),
                style: style_of(point),
                title,
            })
            .collect();
        let axis = |component: usize| {
            let ratios = &metrics.model.explained_variance_ratio;
            let share = ratios.get(component).copied().unwrap_or(f64::NAN);
            format!("PC{} ({} of the variance)", component + 1, percent(share))
        };
        format!(
            "{}{}<figcaption>{}</figcaption>",
            scatter(&marks, &axis(0), &axis(1)),
            self.legend(&styles),
            self.caption()
        )
    }

    /// Number of the style, and of the drawn images, by label. Where there are more labels than
    /// styles, the most frequent ones get them. Numbers follow the alphabet.
    fn styles(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut images: BTreeMap<&str, usize> = BTreeMap::new();
        for point in &self.points {
            if let Some(label) = &point.label {
                *images.entry(label).or_default() += 1;
            }
        }
        let mut labels: Vec<(&str, usize)> = images.into_iter().collect();
        // Stable: of equally frequent labels the first in the alphabet stay.
        labels.sort_by_key(|&(_, images)| std::cmp::Reverse(images));
        labels.truncate(MAX_STYLES);
        labels.sort_unstable();
        labels
            .into_iter()
            .enumerate()
            .map(|(number, (label, images))| (label, (number, images)))
            .collect()
    }

    fn legend(&self, styles: &BTreeMap<&str, (usize, usize)>) -> String {
        if styles.is_empty() {
            return String::new();
        }
        let item = |style: Style, name: &str, images: usize| {
            format!(
                "<li>{}{} <span class=\"n\">{}</span></li>",
                legend_mark(style),
                name,
                count(images as u64)
            )
        };
        let mut html = String::from("<ul class=\"legend\">");
        for (label, &(number, images)) in styles {
            html.push_str(&item(Style::Label(number), &escape(label), images));
        }
        let labels = self.points.iter().map(|point| point.label.as_deref());
        let other = labels
            .clone()
            .flatten()
            .filter(|label| !styles.contains_key(label))
            .count();
        if other > 0 {
            html.push_str(&item(Style::Other, "<em>other labels</em>", other));
        }
        let unlabelled = labels.filter(Option::is_none).count();
        if unlabelled > 0 {
            html.push_str(&item(Style::Unlabelled, "<em>no label</em>", unlabelled));
        }
        html.push_str("</ul>");
        html
    }

    fn caption(&self) -> String {
        let mut html = String::new();
        let taken = self.points.len() as u64 + self.not_finite;
        if taken < self.total {
            html.push_str(&format!(
                "<p>{} of {} images are drawn, evenly spaced in path order.</p>",
                count(taken),
                count(self.total)
            ));
        }
        if self.not_finite > 0 {
            html.push_str(&format!(
                "<p>{} not drawn: the scores are not finite.</p>",
                plural(self.not_finite, "image is", "images are")
            ));
        }
        html
    }
}

/// Whether an image is among the [`MAX_POINTS`] evenly spaced ones: where the line of slope
/// `MAX_POINTS / total` reaches the next whole number.
fn is_drawn(position: u64, total: u64) -> bool {
    let limit = MAX_POINTS as u128;
    if u128::from(total) <= limit {
        return true;
    }
    let reached = |position: u64| u128::from(position) * limit / u128::from(total);
    position == 0 || reached(position) != reached(position - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::metrics::tests::sample;

    fn row(position: u64, label: Option<&str>) -> ShardRow {
        ShardRow {
            index: position,
            path: format!("{position:07}.jpg"),
            label: label.map(str::to_owned),
        }
    }

    fn with_labels(labels: &[Option<&str>]) -> Scatter {
        let mut scatter = Scatter::new(labels.len() as u64);
        for (position, label) in (0..).zip(labels) {
            let score = position as f32;
            scatter.offer(position, &row(position, *label), &[score, -score, 9.0]);
        }
        scatter
    }

    #[test]
    fn exactly_so_many_points_are_drawn_and_they_are_spread_evenly() {
        for total in [0, 1, 4999, 5000, 5001, 9999, 123_456] {
            let drawn: Vec<u64> = (0..total).filter(|&p| is_drawn(p, total)).collect();
            assert_eq!(drawn.len() as u64, total.min(5000), "{total}");
            let gaps = drawn.windows(2).map(|pair| pair[1] - pair[0]);
            let (min, max) = gaps.fold((u64::MAX, 0), |(min, max), gap| {
                (min.min(gap), max.max(gap))
            });
            if total > 1 {
                assert!(max - min <= 1, "{total}: gaps from {min} to {max}");
            }
        }
    }

    #[test]
    fn sampled_points_are_said_to_be_a_sample() {
        let mut scatter = Scatter::new(20_000);
        for position in 0..20_000 {
            scatter.offer(position, &row(position, Some("a")), &[1.0, position as f32]);
        }
        let html = scatter.render(&sample());
        assert_eq!(html.matches("<use ").count(), 5000);
        assert!(
            html.contains("<p>5,000 of 20,000 images are drawn, evenly spaced in path order.</p>")
        );
    }

    #[test]
    fn all_points_need_no_sentence() {
        let html = with_labels(&[Some("a"), Some("b")]).render(&sample());
        assert!(!html.contains("are drawn"));
    }

    #[test]
    fn the_legend_names_every_label_with_its_images() {
        let html =
            with_labels(&[Some("pear"), None, Some("apple"), Some("pear")]).render(&sample());
        let legend = html.split("<ul class=\"legend\">").nth(1).unwrap();
        let names: Vec<&str> = legend
            .split("</svg>")
            .skip(1)
            .map(|item| item.split("</li>").next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "apple <span class=\"n\">1</span>",
                "pear <span class=\"n\">2</span>",
                "<em>no label</em> <span class=\"n\">1</span>",
            ]
        );
    }

    #[test]
    fn beyond_the_styles_the_most_frequent_labels_keep_theirs() {
        let names: Vec<String> = (0..MAX_STYLES + 3)
            .map(|n| format!("label {n:03}"))
            .collect();
        let mut labels: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        let last = names[MAX_STYLES + 2].as_str();
        labels.push(Some(last));
        let scatter = with_labels(&labels);
        let styles = scatter.styles();
        assert_eq!(styles.len(), MAX_STYLES);
        assert_eq!(styles[names[0].as_str()], (0, 1));
        assert_eq!(styles[last], (MAX_STYLES - 1, 2));
        assert!(!styles.contains_key(names[MAX_STYLES - 1].as_str()));
        let html = scatter.render(&sample());
        assert!(html.contains("<em>other labels</em> <span class=\"n\">3</span>"));
    }

    #[test]
    fn without_labels_there_is_no_legend() {
        let html = with_labels(&[None, None]).render(&sample());
        assert!(!html.contains("legend"));
        assert_eq!(html.matches("mark c0").count(), 2);
    }

    #[test]
    fn scores_that_are_not_finite_are_counted_and_not_drawn() {
        let mut scatter = with_labels(&[Some("a"), Some("a")]);
        scatter.total = 3;
        scatter.offer(2, &row(2, None), &[f32::NAN, 1.0]);
        let html = scatter.render(&sample());
        assert_eq!(html.matches("<use ").count(), 2);
        assert!(html.contains("1 image is not drawn: the scores are not finite."));
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn too_few_components_give_a_sentence() {
        let mut metrics = sample();
        for (k, sentence) in [(0, "There is no component"), (1, "only one component")] {
            metrics.model.k = k;
            let mut scatter = Scatter::new(1);
            scatter.offer(0, &row(0, None), &vec![1.0; k]);
            let html = scatter.render(&metrics);
            assert!(html.contains(sentence) && !html.contains("<svg"), "{html}");
        }
        metrics.model.k = 2;
        assert!(
            Scatter::new(0)
                .render(&metrics)
                .contains("no image to draw")
        );
    }
}
