//! `scatter.svg`: the images on the first two components, for papers.

use super::charts::{
    Axis, BOTTOM, LEFT, RIGHT, TOP, WIDTH, axes, horizontal_tick, open, push, sentence, standalone,
};
use super::collect::Point;
use super::legend::{Group, Legend, SHAPES, Style};
use super::text::{count, escape, percent};

/// Width of a column of the legend.
const COLUMN: f64 = 150.0;

/// Entries in a column, and the distance between two of them.
const ENTRIES: usize = 16;
const LINE: f64 = 20.5;

/// Characters of a label that fit in a column.
const CHARACTERS: usize = 17;

/// Where a point is on the two axes.
type Place = fn(&Point) -> (f64, f64);

/// The file. With one component the other axis is the reconstruction error; `ratios` are the shares of
/// variance along the components.
pub fn file(points: &[Point], ratios: &[f64], legend: &Legend) -> String {
    if points.is_empty() {
        return standalone(&sentence("There is no image to draw."));
    }
    let of_component = |component: usize| {
        let share = ratios.get(component).copied().unwrap_or(f64::NAN);
        format!("PC{} ({} of the variance)", component + 1, percent(share))
    };
    let (titles, place): (_, Place) = match points[0].scores.len() {
        0 => return standalone(&sentence("There is no component to draw the images on.")),
        1 => (
            [of_component(0), "reconstruction error".to_owned()],
            |point| (f64::from(point.scores[0]), f64::from(point.error)),
        ),
        _ => ([of_component(0), of_component(1)], |point| {
            (f64::from(point.scores[0]), f64::from(point.scores[1]))
        }),
    };
    standalone(&draw(points, place, &titles, legend))
}

fn draw(points: &[Point], place: Place, titles: &[String; 2], legend: &Legend) -> String {
    let radius = match points.len() {
        0..=50 => 7.0,
        51..=200 => 6.0,
        201..=1000 => 4.5,
        1001..=5000 => 3.2,
        _ => 2.4,
    };
    let places: Vec<(f64, f64)> = points.iter().map(place).collect();
    let xs = Axis::of(places.iter().map(|p| p.0), LEFT + 10.0, RIGHT - 10.0);
    let ys = Axis::of(places.iter().map(|p| p.1), BOTTOM - 10.0, TOP + 10.0);
    let shown = match legend.has_labels {
        true => legend.groups.as_slice(),
        false => &[],
    };
    let columns = shown.len().div_ceil(ENTRIES);
    let description = format!("{} images on the components", count(points.len() as u64));
    let mut svg = open(&description, WIDTH + columns as f64 * COLUMN);
    svg.push_str("<defs>");
    for (number, shape) in SHAPES.iter().enumerate() {
        push(
            &mut svg,
            format_args!(
                r#"<path id="m{number}" d="{shape}" transform="scale({radius})" vector-effect="non-scaling-stroke"/>"#
            ),
        );
    }
    svg.push_str("</defs>");
    for (value, text) in ys.ticks() {
        horizontal_tick(&mut svg, ys.at(value), &text);
    }
    for (value, text) in xs.ticks() {
        let x = xs.at(value);
        push(
            &mut svg,
            format_args!(
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{BOTTOM}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#,
                BOTTOM + 18.0
            ),
        );
    }
    // What the legend cannot name lies below what it can.
    let style = |point: usize| legend.groups[legend.of_point[point] as usize].style;
    let (below, above): (Vec<usize>, Vec<usize>) =
        mixed(points.len()).partition(|&point| style(point) == Style::Other);
    for point in below.into_iter().chain(above) {
        let style = style(point);
        push(
            &mut svg,
            format_args!(
                r##"<use href="#m{}" class="mark {}" x="{:.1}" y="{:.1}"/>"##,
                style.shape(),
                style.colour(),
                xs.at(places[point].0),
                ys.at(places[point].1)
            ),
        );
    }
    axes(&mut svg, &titles[0], &titles[1]);
    for (number, group) in shown.iter().enumerate() {
        entry(&mut svg, number, group);
    }
    svg.push_str("</svg>");
    svg
}

/// An order in which the last folder does not cover the others: a step that is a prime above the
/// number of points visits each of them once and mixes the folders.
fn mixed(points: usize) -> impl Iterator<Item = usize> {
    const STEP: usize = 1_000_003;
    (0..points).map(move |visit| visit * STEP % points)
}

/// One line of the legend.
fn entry(svg: &mut String, number: usize, group: &Group) {
    let x = WIDTH + (number / ENTRIES) as f64 * COLUMN + 8.0;
    let y = TOP + 12.0 + (number % ENTRIES) as f64 * LINE;
    let mut name: String = group.name.chars().take(CHARACTERS).collect();
    if name.len() < group.name.len() {
        name.push('\u{2026}');
    }
    push(
        svg,
        format_args!(
            r#"<path class="mark {}" transform="translate({x:.1} {:.1}) scale(6)" vector-effect="non-scaling-stroke" d="{}"/><text x="{:.1}" y="{y:.1}">{}</text>"#,
            group.style.colour(),
            y - 4.5,
            SHAPES[group.style.shape()],
            x + 14.0,
            escape(&name)
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn points(count: usize, k: usize, label: Option<&str>) -> Vec<Point> {
        (0..count)
            .map(|position| Point {
                position: position as u64,
                path: format!("a<b>/{position}.jpg"),
                label: label.map(str::to_owned),
                scores: vec![position as f32; k],
                error: 1.0,
            })
            .collect()
    }

    fn drawn(points: &[Point]) -> String {
        file(points, &[0.5, 0.25], &Legend::of(points))
    }

    #[test]
    fn every_point_is_drawn_once() {
        for count in [1, 2, 9, 4999, 5000] {
            let svg = drawn(&points(count, 2, Some("x")));
            assert_eq!(svg.matches("<use ").count(), count);
            let places: HashSet<usize> = mixed(count).collect();
            assert_eq!(places.len(), count);
            assert!(!svg.contains("NaN") && svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn the_axes_and_the_legend_are_named_and_escaped() {
        let svg = drawn(&points(3, 2, Some("<script>&amp;")));
        assert!(svg.contains("PC2 (25.0 % of the variance)"));
        assert!(svg.contains("&lt;script&gt;&amp;amp;") && !svg.contains("<script"));
        let svg = drawn(&points(
            3,
            2,
            Some("a label that is much too long for a column"),
        ));
        assert!(svg.contains(">a label that is m\u{2026}</text>"));
        assert!(!drawn(&points(3, 2, None)).contains("scale(6)"));
    }

    #[test]
    fn with_one_component_the_error_is_the_other_axis() {
        let svg = drawn(&points(3, 1, None));
        assert!(svg.contains("reconstruction error") && svg.matches("<use ").count() == 3);
        assert!(drawn(&points(3, 0, None)).contains("There is no component"));
        assert!(drawn(&[]).contains("no image"));
    }
}
