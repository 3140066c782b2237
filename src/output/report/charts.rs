//! Drawings as SVG: numbers in, text out.
//!
//! In the page colours and fonts are those of `page.css`, by class, so that one drawing serves light
//! and dark. A file of its own brings the light ones along ([`standalone`]).

use std::fmt::Write;

use super::text::{count, escape, percent, span};

/// Size of a drawing in its own units; the page scales it.
pub(super) const WIDTH: f64 = 640.0;
pub(super) const HEIGHT: f64 = 400.0;

/// Where the axes leave room for the data.
pub(super) const LEFT: f64 = 68.0;
pub(super) const RIGHT: f64 = 624.0;
pub(super) const TOP: f64 = 16.0;
pub(super) const BOTTOM: f64 = 346.0;

/// Components beyond this number are told in words: a bar would be thinner than three pixels.
pub const MAX_BARS: usize = 100;

/// Bars of the explained variance ratio of every component, and their sum so far as a line, both
/// against the whole variance. At least one ratio; only the first [`MAX_BARS`] are drawn. `target` is
/// the share that decided how many components there are, where one did.
pub fn scree(ratios: &[f64], target: Option<f64>) -> String {
    let shown = &ratios[..ratios.len().min(MAX_BARS)];
    let y = |share: f64| BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0);
    let slot = (RIGHT - LEFT) / shown.len() as f64;
    let centre = |position: usize| LEFT + slot * (position as f64 + 0.5);
    let bar = (0.72 * slot).min(72.0);

    let description = format!(
        "Share of the variance along each of {} components, and cumulative",
        count(ratios.len() as u64)
    );
    let mut svg = open(&description, WIDTH);
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
    if let Some(target) = target {
        push(
            &mut svg,
            format_args!(
                r#"<line class="target" x1="{LEFT}" x2="{RIGHT}" y1="{0:.1}" y2="{0:.1}"><title>asked for: {1}</title></line>"#,
                y(target),
                percent(target)
            ),
        );
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
    svg.push_str("</svg>");
    svg
}

/// Bars that can be told apart in a row of them.
const MAX_RANK_BARS: usize = 64;

/// A bar for each rank, to the scale of the longest. Of more ranks than can be told apart a bar is the
/// longest of several.
pub fn ranks(seconds: &[f64]) -> String {
    let each = seconds.len().div_ceil(MAX_RANK_BARS).max(1);
    let longest = seconds.iter().fold(0.0, |longest: f64, s| longest.max(*s));
    let bars = seconds.len().div_ceil(each);
    let slot = (120.0 / bars.max(1) as f64).min(14.0);
    let mut drawn = String::new();
    let mut words = Vec::with_capacity(bars);
    for (bar, group) in seconds.chunks(each).enumerate() {
        let most = group.iter().fold(0.0, |most: f64, s| most.max(*s));
        let height = if longest > 0.0 {
            23.0 * most / longest
        } else {
            0.0
        };
        let first = bar * each;
        let name = match group.len() {
            1 => format!("rank {first}"),
            more => format!("ranks {first} to {}", first + more - 1),
        };
        push(
            &mut drawn,
            format_args!(
                r#"<rect class="bar" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}"><title>{name}: {}</title></rect>"#,
                bar as f64 * slot,
                24.0 - height.max(1.0),
                slot * 0.8,
                height.max(1.0),
                span(most)
            ),
        );
        words.push(format!("{name}: {}", span(most)));
    }
    let width = bars as f64 * slot;
    format!(
        r#"<svg class="by-rank" viewBox="0 0 {width:.1} 24" width="{width:.1}" height="24" role="img" aria-label="{}">{drawn}</svg>"#,
        words.join(", ")
    )
}

/// The colours and fonts of a drawing outside of the page: those of `page.css` in the light.
const STYLE: &str = "<style>\
text{font-family:'Helvetica Neue',Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif;font-size:13px;fill:#3a4541}\
.title{font-size:14px}.value{font-weight:bold;fill:#b4470d}.grid{stroke:#e4e7e3}.axis{stroke:#5a6661}\
.bar{fill:#6fb3a6}.line{fill:none;stroke:#b4470d;stroke-width:2.2;stroke-linejoin:round}\
.dot{fill:#b4470d;stroke:#fff;stroke-width:1.2}.target{stroke:#5a6661;stroke-dasharray:5 4}\
.mark{stroke:#fff;stroke-width:.6;fill-opacity:.9}\
.c0{fill:#0072b2}.c1{fill:#d55e00}.c2{fill:#009e73}.c3{fill:#b0508a}\
.c4{fill:#c98a00}.c5{fill:#3fa0dc}.c6{fill:#8a7a1c}.c7{fill:#4a4f57}\
.other{fill:#9aa3a0;fill-opacity:.55}.unlabelled{fill:#fff;stroke:#5a6661;stroke-width:1.2}\
</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";

/// A drawing as a file of its own.
pub fn standalone(svg: &str) -> String {
    let (head, rest) = svg.split_once('>').unwrap_or((svg, ""));
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{head}>{STYLE}{rest}\n")
}

/// A drawing that says why there is none.
pub fn sentence(text: &str) -> String {
    format!(
        r#"{}<text class="title" x="{}" y="{}" text-anchor="middle">{}</text></svg>"#,
        open(text, WIDTH),
        WIDTH / 2.0,
        HEIGHT / 2.0,
        escape(text)
    )
}

pub(super) fn open(description: &str, width: f64) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{}">"#,
        escape(description)
    )
}

/// The frame and the titles of both axes.
pub(super) fn axes(svg: &mut String, x_title: &str, y_title: &str) {
    let middle_x = (LEFT + RIGHT) / 2.0;
    let middle_y = (TOP + BOTTOM) / 2.0;
    push(
        svg,
        format_args!(
            r#"<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/><text class="title" x="{middle_x}" y="{}" text-anchor="middle">{}</text><text class="title up" transform="translate(14 {middle_y}) rotate(-90)" text-anchor="middle">{}</text>"#,
            HEIGHT - 12.0,
            escape(x_title),
            escape(y_title)
        ),
    );
}

pub(super) fn horizontal_tick(svg: &mut String, y: f64, text: &str) {
    push(
        svg,
        format_args!(
            r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1}" y2="{y:.1}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#,
            LEFT - 8.0,
            y + 4.0
        ),
    );
}

/// Appends to a text.
pub(super) fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
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
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// The scale that puts the smallest value at `from` and the largest at `to`.
    pub(super) fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
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

    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values within the range, and how to print them.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
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
    use super::*;

    fn count_of(text: &str, part: &str) -> usize {
        text.matches(part).count()
    }

    #[test]
    fn the_scree_plot_draws_every_ratio_and_their_sum() {
        let svg = scree(&[0.5, 0.25, 0.125], None);
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
        let svg = scree(&vec![0.001; 500], None);
        assert_eq!(count_of(&svg, r#"class="bar""#), MAX_BARS);
        assert!(svg.contains(">100</text>"));
        assert_eq!(count_of(&svg, r#"class="dot""#), 0);
    }

    #[test]
    fn ratios_that_are_no_numbers_leave_the_drawing_whole() {
        let svg = scree(&[f64::NAN, 1.5], None);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn what_was_asked_for_is_a_line() {
        assert!(!scree(&[0.5], None).contains("target"));
        let svg = scree(&[0.5, 0.4], Some(0.9));
        // 346 - 0.9 * 330
        assert!(
            svg.contains(r#"class="target" x1="68" x2="624" y1="49.0" y2="49.0""#),
            "{svg}"
        );
        assert!(svg.contains("asked for: 90.0 %"));
    }

    #[test]
    fn a_file_of_its_own_brings_its_colours() {
        let svg = standalone(&scree(&[0.5], None));
        assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"));
        assert_eq!(count_of(&svg, "<style>"), 1);
        let (before, _) = svg.split_once("<style>").unwrap();
        assert!(before.ends_with("cumulative\">"), "{before}");
        assert!(sentence("a < b").contains(">a &lt; b</text></svg>"));
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
