//! The points for the script of the page: packed numbers, and text that cannot end the element it is in.

use super::collect::{MAX_POINTS, Point};
use super::legend::{Legend, SHAPES};
use super::pictures::{SHEET_SIDE, Sheets};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of scores on a page of [`MAX_POINTS`]; with many points there are fewer components to choose
/// from. Who asks for more points has more bytes.
const SCORE_BYTES: usize = 480_000;

/// Most components to choose from.
const MAX_AXES: usize = 100;

#[derive(Serialize)]
struct Data<'a> {
    points: usize,
    /// The components in order, and the reconstruction error.
    axes: Vec<Axis>,
    groups: Vec<GroupData<'a>>,
    /// The group of each point, a byte.
    group: String,
    has_labels: bool,
    labels: Vec<&'a str>,
    /// The label of each point, 32 bits; all of them set where there is none.
    label: String,
    /// Paths in order: how many UTF-16 units are those of the path before, and what follows them.
    paths: Vec<(usize, &'a str)>,
    sheet_side: usize,
    tile: u32,
    sheets: Vec<String>,
    /// As in [`Sheets`].
    shapes: String,
}

#[derive(Serialize)]
struct Axis {
    name: String,
    /// Share of the whole variance; null where that is not what the axis is.
    share: Option<f64>,
    low: f32,
    step: f32,
    /// 16 bits a point: the value is `low` plus so many steps.
    values: String,
}

#[derive(Serialize)]
struct GroupData<'a> {
    name: &'a str,
    colour: String,
    shape: &'a str,
    points: usize,
}

/// How many components can be chosen for an axis: all of them, or the first.
pub fn choices(points: &[Point]) -> usize {
    let components = points.first().map_or(0, |point| point.scores.len());
    let most = SCORE_BYTES / (2 * points.len().clamp(1, MAX_POINTS));
    components.min(most).min(MAX_AXES)
}

/// The JSON text of all points, for a script element. `ratios` are the shares of variance.
pub fn json(points: &[Point], ratios: &[f64], legend: &Legend, sheets: &Sheets) -> String {
    let mut axes: Vec<Axis> = (0..choices(points))
        .map(|component| {
            let values = points.iter().map(|point| point.scores[component]);
            let name = format!("PC{}", component + 1);
            axis(name, ratios.get(component).copied(), values)
        })
        .collect();
    axes.push(axis(
        "reconstruction error".into(),
        None,
        points.iter().map(|point| point.error),
    ));
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    let mut labels = Vec::new();
    let of_point: Vec<u8> = points
        .iter()
        .flat_map(|point| {
            let number = point.label.as_deref().map(|label| {
                *numbers.entry(label).or_insert_with(|| {
                    labels.push(label);
                    labels.len() as u32 - 1
                })
            });
            number.unwrap_or(u32::MAX).to_le_bytes()
        })
        .collect();
    let mut before = "";
    let paths = points
        .iter()
        .map(|point| {
            let (units, rest) = front_coded(before, &point.path);
            before = &point.path;
            (units, rest)
        })
        .collect();
    let data = Data {
        points: points.len(),
        axes,
        groups: legend
            .groups
            .iter()
            .map(|group| GroupData {
                name: &group.name,
                colour: group.style.colour(),
                shape: SHAPES[group.style.shape()],
                points: group.points,
            })
            .collect(),
        group: STANDARD.encode(&legend.of_point),
        has_labels: legend.has_labels,
        labels,
        label: STANDARD.encode(of_point),
        paths,
        sheet_side: SHEET_SIDE,
        tile: sheets.tile,
        sheets: sheets
            .sheets
            .iter()
            .map(|sheet| STANDARD.encode(sheet))
            .collect(),
        shapes: STANDARD.encode(&sheets.shapes),
    };
    let text = serde_json::to_string(&data).expect("texts and finite numbers are JSON");
    for_script(&text)
}

fn axis(name: String, share: Option<f64>, values: impl Iterator<Item = f32> + Clone) -> Axis {
    let (low, high) = values
        .clone()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    let step = (f64::from(high) - f64::from(low)) / f64::from(u16::MAX);
    let quantised = values.flat_map(|value| {
        let steps = (f64::from(value) - f64::from(low)) / step;
        // Equal values give 0 / 0, which becomes 0.
        (steps.round() as u16).to_le_bytes()
    });
    Axis {
        name,
        // More digits would be nobody's.
        share: share
            .filter(|share| share.is_finite())
            .map(|share| (share * 1e6).round() / 1e6),
        values: STANDARD.encode(quantised.collect::<Vec<u8>>()),
        low: if low.is_finite() { low } else { 0.0 },
        step: if step.is_finite() { step as f32 } else { 0.0 },
    }
}

/// How many UTF-16 units at the start of `text` are those of `before`, and the rest of it.
fn front_coded<'a>(before: &str, text: &'a str) -> (usize, &'a str) {
    let same = text.char_indices().zip(before.chars());
    let shared: Vec<char> = same
        .take_while(|((_, a), b)| a == b)
        .map(|((_, a), _)| a)
        .collect();
    let bytes: usize = shared.iter().map(|c| c.len_utf8()).sum();
    let units = shared.iter().map(|c| c.len_utf16()).sum();
    (units, &text[bytes..])
}

/// JSON in which no character could end a script element or begin a comment: those that HTML acts on
/// stand only within strings, where an escape means the same.
fn for_script(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</script><script>alert(1)</script><!--\u{2028}&amp;";

    fn points() -> Vec<Point> {
        [
            ("a/1.jpg", Some("a"), 0.0),
            ("a/größe.jpg", None, 0.5),
            (HOSTILE, Some(HOSTILE), 1.0),
        ]
        .into_iter()
        .zip(0..)
        .map(|((path, label, score), position)| Point {
            position,
            path: path.into(),
            label: label.map(str::to_owned),
            scores: vec![score, 7.0],
            error: 2.0 * score,
        })
        .collect()
    }

    #[test]
    fn no_text_can_end_the_element_and_all_of_it_comes_back() {
        let points = points();
        let text = json(
            &points,
            &[0.75, 0.25],
            &Legend::of(&points),
            &Sheets::default(),
        );
        assert!(!text.contains(['<', '>', '&', '\u{2028}']));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["labels"][1], HOSTILE);
        assert_eq!(value["paths"][1], serde_json::json!([2, "größe.jpg"]));
        assert_eq!(value["paths"][2], serde_json::json!([0, HOSTILE]));
        assert_eq!(value["axes"][0]["name"], "PC1");
        assert_eq!(value["axes"][0]["share"], 0.75);
        assert_eq!(value["axes"][2]["name"], "reconstruction error");
        // 0, one half and 1 in 65535 steps; equal values are no step at all.
        let values = STANDARD
            .decode(value["axes"][0]["values"].as_str().unwrap())
            .unwrap();
        assert_eq!(values, [0, 0, 0, 128, 255, 255]);
        assert_eq!(value["axes"][1]["step"], 0.0);
        assert_eq!(value["axes"][1]["low"], 7.0);
        let labels = STANDARD.decode(value["label"].as_str().unwrap()).unwrap();
        assert_eq!(labels[4..8], [255; 4]);
    }

    #[test]
    fn what_two_paths_share_is_counted_as_a_browser_counts() {
        assert_eq!(front_coded("a/b", "a/c"), (2, "c"));
        assert_eq!(front_coded("", "x"), (0, "x"));
        assert_eq!(front_coded("x", "x"), (1, ""));
        // One character outside the first plane is two units.
        assert_eq!(front_coded("\u{1f34e}a", "\u{1f34e}b"), (2, "b"));
        assert_eq!(front_coded("größe", "große"), (2, "oße"));
    }

    #[test]
    fn many_points_have_fewer_axes_but_never_less_than_ten_thousand_have() {
        let many = |count: usize| {
            let points: Vec<Point> = (0..count as u64)
                .map(|position| Point {
                    position,
                    path: position.to_string(),
                    label: None,
                    scores: vec![position as f32; 128],
                    error: 0.0,
                })
                .collect();
            let text = json(&points, &[], &Legend::of(&points), &Sheets::default());
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value["axes"].as_array().unwrap().len() - 1
        };
        assert_eq!([many(10), many(10_000), many(130_000)], [100, 24, 24]);
    }
}
