//! The charts of the report as SVG: numbers in, text out.
//!
//! Colours and fonts are those of `page.css`, by class, so that one drawing serves light and dark.

use std::fmt::Write;

use super::text::{count, escape, percent};

/// Size of a drawing in its own units; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;

/// Where the axes leave room for the data.
const LEFT: f64 = 68.0;
const RIGHT: f64 = 624.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 346.0;

/// Components beyond this number are told in words: a bar would be thinner than three pixels.
pub const MAX_BARS: usize = 100;

/// Colours in `page.css`.
const COLOURS: usize = 8;

/// Outlines within a circle of radius 1, of about the same area. Seven of them, which has no
/// divisor in common with the eight colours: both change from one label to the next, and 56 labels
/// pass before a pair comes again.
const SHAPES: [&str; 7] = [
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

/// How the points of one label look.
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
    /// Its classes in `page.css`.
    fn class(self) -> String {
        match self {
            Style::Label(number) => format!("mark c{}", number % COLOURS),
            Style::Other => "mark other".to_owned(),
            Style::Unlabelled => "mark unlabelled".to_owned(),
        }
    }

    fn shape(self) -> usize {
        match self {
            Style::Label(number) => number % SHAPES.len(),
            Style::Other | Style::Unlabelled => 0,
        }
    }
}

/// One point of the scatter plot.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// Score on the first component.
    pub x: f64,
    /// Score on the second component.
    pub y: f64,
    /// How it looks.
    pub style: Style,
    /// What the pointer shows.
    pub title: &'a str,
}

/// The mark of a style alone, for the legend.
pub fn legend_mark(style: Style) -> String {
    format!(
        r#"<svg viewBox="-1.4 -1.4 2.8 2.8" aria-hidden="true"><path class="{}" d="{}"/></svg>"#,
        style.class(),
        SHAPES[style.shape()]
    )
}

/// Bars of the explained variance ratio of every component, and their sum so far as a line, both
/// against the whole variance. At least one ratio; only the first [`MAX_BARS`] are drawn.
pub fn scree(ratios: &[f64]) -> String {
    let shown = &ratios[..ratios.len().min(MAX_BARS)];
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0);
    let slot = (RIGHT - LEFT) / shown.len() as f64;
    let centre = |position: usize| LEFT + slot * (position as f64 + 0.5);
    let bar = (0.72 * slot).min(72.0);

    let mut svg = open(&format!(
        "Share of the variance along each of {} components, and cumulative",
        count(ratios.len() as u64)
    ));
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        horizontal_tick(&mut svg, y(share), &format!("{} %", tick * 20));
    }
    let step = component_step(shown.len());
    for (position, _) in shown.iter().enumerate() {
        if (position + 1) % step == 0 || (position == 0 && step >= 5) {
            push(
                &mut svg,
                format_args!(
                    r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                    centre(position),
                    BOTTOM + 18.0,
                    position + 1
                ),
            );
        }
    }
    let mut line = String::new();
    let mut dots = String::new();
    let mut sum = 0.0;
    for (position, &ratio) in shown.iter().enumerate() {
        let ratio = if ratio.is_finite() { ratio } else { 0.0 };
        sum += ratio;
        let title = format!(
            "<title>PC{}: {}, together {}</title>",
            position + 1,
            percent(ratio),
            percent(sum)
        );
        push(
            &mut svg,
            format_args!(
                r#"<rect class="bar" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}">{title}</rect>"#,
                centre(position) - bar / 2.0,
                y(ratio),
                bar,
                BOTTOM - y(ratio)
            ),
        );
        push(
            &mut line,
            format_args!("{:.1},{:.1} ", centre(position), y(sum)),
        );
        // Dots that touch would only make the line thick.
        if slot > 12.0 {
            push(
                &mut dots,
                format_args!(
                    r#"<circle class="dot" cx="{:.1}" cy="{:.1}" r="3.5">{title}</circle>"#,
                    centre(position),
                    y(sum)
                ),
            );
        }
    }
    push(
        &mut svg,
        format_args!(
            r#"<polyline class="line" points="{}"/>{dots}"#,
            line.trim_end()
        ),
    );
    let last = shown.len() - 1;
    push(
        &mut svg,
        format_args!(
            r#"<text class="value" x="{:.1}" y="{:.1}" text-anchor="{}">{}</text>"#,
            centre(last),
            // Above the line, or below it where that would leave the drawing.
            if y(sum) - 12.0 < TOP {
                y(sum) + 22.0
            } else {
                y(sum) - 12.0
            },
            if shown.len() > 8 { "end" } else { "middle" },
            percent(sum)
        ),
    );
    axes(&mut svg, "component", "share of the whole variance");
    svg
}

/// The points on the first two components. At least one point; points that are not finite are left
/// out by the caller.
pub fn scatter(marks: &[Mark<'_>], x_title: &str, y_title: &str) -> String {
    let radius = match marks.len() {
        0..=50 => 7.0,
        51..=200 => 6.0,
        201..=1000 => 4.5,
        _ => 3.2,
    };
    let xs = Axis::of(marks.iter().map(|mark| mark.x), LEFT + 10.0, RIGHT - 10.0);
    let ys = Axis::of(marks.iter().map(|mark| mark.y), BOTTOM - 10.0, TOP + 10.0);

    let mut svg = open(&format!(
        "{} images on the first two components",
        count(marks.len() as u64)
    ));
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
    // In path order the last folder would cover the others. A step that is a prime above the number
    // of points visits each of them once and mixes the folders.
    const STEP: usize = 1_000_003;
    let order = (0..marks.len()).map(|visit| &marks[visit * STEP % marks.len()]);
    // What the legend cannot name lies below what it can.
    let (below, above): (Vec<&Mark<'_>>, Vec<&Mark<'_>>) =
        order.partition(|mark| mark.style == Style::Other);
    for mark in below.into_iter().chain(above) {
        push(
            &mut svg,
            format_args!(
                r##"<use href="#m{}" class="{}" x="{:.1}" y="{:.1}"><title>{}</title></use>"##,
                mark.style.shape(),
                mark.style.class(),
                xs.at(mark.x),
                ys.at(mark.y),
                escape(mark.title)
            ),
        );
    }
    axes(&mut svg, x_title, y_title);
    svg
}

fn open(description: &str) -> String {
    format!(
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
        escape(description)
    )
}

/// The frame and the titles of both axes, and the end of the drawing.
fn axes(svg: &mut String, x_title: &str, y_title: &str) {
    let middle_x = (LEFT + RIGHT) / 2.0;
    let middle_y = (TOP + BOTTOM) / 2.0;
    push(
        svg,
        format_args!(
            r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/><text class="title" x="{middle_x}" y="{}" text-anchor="middle">{}</text><text class="title" transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{}</text></svg>"#,
            HEIGHT - 12.0,
            escape(x_title),
            escape(y_title)
        ),
    );
}

fn horizontal_tick(svg: &mut String, y: f64, text: &str) {
    push(
        svg,
        format_args!(
            r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            LEFT - 8.0,
            y + 4.0
        ),
    );
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes all text");
}

/// Every how manieth component carries its number: at most some twelve numbers.
fn component_step(components: usize) -> usize {
    [1, 2, 5, 10]
        .into_iter()
        .find(|step| components <= 12 * step)
        .unwrap_or(20)
}

/// A linear scale from values to the drawing.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// The scale that puts the smallest value at `from` and the largest at `to`.
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |range, value| {
                (range.0.min(value), range.1.max(value))
            });
        // Equal values need some room around them to be in the middle.
        if high - low <= 1e-12 * low.abs().max(high.abs()) {
            let room = low.abs().max(1.0);
            low -= room;
            high += room;
        }
        Axis {
            low,
            high,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values within the range, and how to print them.
    fn ticks(&self) -> Vec<(f64, String)> {
        let step = round_step((self.high - self.low) / 6.0);
        // Rounding must not lose a tick that lies on an end.
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        // As many decimals as the step has; powers of ten where it is very large or small.
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        (first..=last)
            .map(|number| {
                let value = number as f64 * step;
                let text = if number == 0 {
                    "0".to_owned()
                } else if !(1e-4..1e5).contains(&step) {
                    format!("{value:.1e}")
                } else {
                    format!("{value:.decimals$}")
                };
                (value, text.replace('-', "\u{2212}"))
            })
            .collect()
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|digit| digit * power)
        .find(|&round| round >= step * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn count_of(text: &str, part: &str) -> usize {
        text.matches(part).count()
    }

    #[test]
    fn as_many_labels_as_promised_look_different() {
        let looks: HashSet<String> = (0..MAX_STYLES)
            .map(|number| legend_mark(Style::Label(number)))
            .collect();
        assert_eq!(looks.len(), MAX_STYLES);
        assert_eq!(
            legend_mark(Style::Label(0)),
            legend_mark(Style::Label(MAX_STYLES))
        );
        for number in 0..MAX_STYLES {
            let (one, next) = (Style::Label(number), Style::Label(number + 1));
            assert_ne!(one.class(), next.class());
            assert_ne!(one.shape(), next.shape());
        }
    }

    #[test]
    fn the_scree_plot_draws_every_ratio_and_their_sum() {
        let svg = scree(&[0.5, 0.25, 0.125]);
        assert_eq!(count_of(&svg, r#"class="bar""#), 3);
        assert!(svg.contains("<title>PC1: 50.0 %, together 50.0 %</title>"));
        assert!(svg.contains("<title>PC3: 12.5 %, together 87.5 %</title>"));
        // The axis has 330 units for the whole variance, from 346 upwards.
        assert!(svg.contains(r#"y="181.0" width="72.0" height="165.0""#));
        assert!(svg.contains("57.2"), "the line ends at 346 - 0.875 * 330");
        for tick in ["0 %", "20 %", "100 %"] {
            assert!(svg.contains(&format!(">{tick}</text>")), "{tick}");
        }
    }

    #[test]
    fn the_scree_plot_draws_no_more_bars_than_can_be_seen() {
        let svg = scree(&vec![0.001; 500]);
        assert_eq!(count_of(&svg, r#"class="bar""#), MAX_BARS);
        assert!(svg.contains(">100</text>"));
        assert_eq!(count_of(&svg, r#"class="dot""#), 0);
    }

    #[test]
    fn ratios_that_are_no_numbers_leave_the_drawing_whole() {
        let svg = scree(&[f64::NAN, 1.5]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    fn mark(x: f64, y: f64) -> Mark<'static> {
        Mark {
            x,
            y,
            style: Style::Label(0),
            title: "a<b>.jpg",
        }
    }

    #[test]
    fn the_scatter_plot_draws_every_point_once() {
        for points in [1, 2, 9, 4999, 5000] {
            let marks: Vec<Mark<'_>> = (0..points)
                .map(|point| mark(f64::from(point), 0.0))
                .collect();
            let svg = scatter(&marks, "PC1", "PC2");
            assert_eq!(count_of(&svg, "<use "), marks.len());
            let places: HashSet<&str> = svg
                .split("<use ")
                .skip(1)
                .map(|mark| mark.split("><title>").next().unwrap())
                .collect();
            // Neighbours of 5000 fall on the same tenth of a unit now and then.
            assert!(places.len() > marks.len() * 9 / 10, "{}", places.len());
            assert!(!svg.contains("NaN") && !svg.contains("<b>"));
            assert!(svg.contains("a&lt;b&gt;.jpg"));
        }
    }

    #[test]
    fn the_extremes_lie_at_the_ends_of_the_axes() {
        let axis = Axis::of([3.0, -1.0, 2.0].into_iter(), 10.0, 50.0);
        assert_eq!(
            (axis.at(-1.0), axis.at(1.0), axis.at(3.0)),
            (10.0, 30.0, 50.0)
        );
        let equal = Axis::of([7.0, 7.0].into_iter(), 0.0, 100.0);
        assert_eq!(equal.at(7.0), 50.0);
        let zero = Axis::of([0.0].into_iter(), 0.0, 100.0);
        assert_eq!(zero.at(0.0), 50.0);
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let texts = |low: f64, high: f64| -> Vec<String> {
            Axis::of([low, high].into_iter(), 0.0, 1.0)
                .ticks()
                .into_iter()
                .map(|(_, text)| text)
                .collect()
        };
        assert_eq!(texts(-9.0, 9.0), ["\u{2212}5", "0", "5"]);
        assert_eq!(texts(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(0.93, 1.02), ["0.94", "0.96", "0.98", "1.00", "1.02"]);
        assert_eq!(texts(0.0, 4.0e9), ["0", "1.0e9", "2.0e9", "3.0e9", "4.0e9"]);
        for (low, high) in [(-1e-30, 1e-30), (1e30, 3e30), (-7.3, 1e6), (100.0, 100.1)] {
            let ticks = Axis::of([low, high].into_iter(), 0.0, 1.0).ticks();
            assert!((3..=8).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
    }
}
