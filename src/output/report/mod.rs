//! `report.html`: the run on one page, for a person; and drawings of it for papers.
//!
//! The page is one file with nothing to fetch; its content security policy allows the one script that is
//! part of it and forbids everything else. Every text that comes from outside is escaped. A run gathers
//! images with [`Collector`] while scores go by, asks the ranks for the features that [`Compared`] wants and
//! for the thumbnails that [`Collected`] wants, and makes [`Images`] of it.

mod charts;
mod collect;
mod data;
mod facts;
mod gallery;
mod images;
mod legend;
mod neighbours;
mod pairs;
mod pictures;
mod scatter;
mod text;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::output::metrics::{Metrics, Task};

pub use collect::{Collected, Collector, Compared, MAX_POINTS, Need, POINTS_LIMIT};
pub use images::{Found, Images};
pub use pairs::Scaling;

use legend::Legend;
use pictures::Sheets;
use text::{count, escape, fill, percent, plural, rate, size, span};

/// Bytes of a page of [`MAX_POINTS`] points; what the rest of the page leaves of it goes to the
/// thumbnails of the points.
const PAGE_BYTES: usize = 4_800_000;

/// Bytes that the thumbnails of the points have in any case, by point.
const LEAST_BYTES: usize = 120;

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The numbers of the run.
    pub metrics: &'a Metrics,
    /// Its images.
    pub images: &'a Images,
}

impl Report<'_> {
    /// `report.html`.
    pub fn page(&self) -> String {
        let (metrics, images) = (self.metrics, self.images);
        let points = &images.collected.points;
        let ratios = &metrics.model.explained_variance_ratio;
        let legend = Legend::of(points);
        let has_map = metrics.model.k > 0 && !points.is_empty();
        let page = |sheets: &Sheets| {
            let data = match has_map {
                true => format!(
                    "<script type=\"application/json\" id=\"p8-data\">{}</script>",
                    data::json(points, ratios, &legend, sheets)
                ),
                false => String::new(),
            };
            self.render(data)
        };
        let thumbnails: Vec<Option<&[u8]>> = (0..points.len())
            .map(|place| images.thumbnail(place))
            .collect();
        if !has_map || thumbnails.iter().all(Option::is_none) {
            return page(&Sheets {
                shapes: vec![0; points.len()],
                ..Sheets::default()
            });
        }
        // Base64 takes four bytes for three, and each point a byte for the shape of its picture.
        let taken = page(&Sheets::default()).len() + 4 * points.len() / 3;
        let left = PAGE_BYTES.saturating_sub(taken) / 4 * 3;
        page(&Sheets::within(
            left.max(LEAST_BYTES * points.len()),
            &thumbnails,
        ))
    }

    /// `scatter.svg`: the images on the first two components.
    pub fn scatter_svg(&self) -> String {
        let points = &self.images.collected.points;
        let ratios = &self.metrics.model.explained_variance_ratio;
        scatter::file(points, ratios, &Legend::of(points))
    }

    /// `scree.svg`: the variance that each component explains, and all of them up to it.
    pub fn scree_svg(&self) -> String {
        let ratios = &self.metrics.model.explained_variance_ratio;
        charts::standalone(&match ratios.is_empty() {
            true => charts::sentence("There is no component to show."),
            false => charts::scree(ratios, target(self.metrics)),
        })
    }

    fn render(&self, data: String) -> String {
        let (metrics, images) = (self.metrics, self.images);
        let title = format!(
            "Principal components of {}",
            match is_of_vectors(metrics) {
                true => plural(metrics.model.n, "feature vector", "feature vectors"),
                false => plural(metrics.model.n, "image", "images"),
            }
        );
        let when = format!(
            "{} to {}, {}",
            escape(&metrics.started),
            escape(&metrics.finished),
            plural(metrics.environment.ranks as u64, "MPI rank", "MPI ranks")
        );
        let script = include_str!("page.js");
        fill(
            include_str!("page.html"),
            &[
                ("version", escape(&metrics.environment.p8_version)),
                ("title", title),
                ("css", include_str!("page.css").to_owned()),
                ("script_sha256", STANDARD.encode(Sha256::digest(script))),
                ("script", script.to_owned()),
                ("data", data),
                ("when", when),
                ("banner", banner(metrics)),
                ("warnings", warnings(metrics)),
                ("tiles", tiles(metrics)),
                ("map", gallery::map(images, metrics)),
                ("scree", scree(metrics)),
                ("separation", gallery::separation(images, metrics)),
                ("extremes", gallery::extremes(images, metrics)),
                ("outliers", gallery::outliers(images)),
                ("duplicates", gallery::duplicates(images)),
                ("command", facts::command(metrics)),
                ("model", facts::model(metrics)),
                ("weights", facts::weights(metrics)),
                ("certificate", facts::certificate(&metrics.certificate)),
                ("phases", facts::phases(metrics)),
                (
                    "failures",
                    facts::failures(&images.collected.failures, metrics),
                ),
                ("environment", facts::environment(metrics)),
                ("settings", facts::settings(metrics)),
                (
                    "outcomes",
                    match metrics.task {
                        Task::Run => {
                            ", what became of every listed image in <code>outcomes.parquet</code>"
                        }
                        Task::Pca | Task::Transform => "",
                    }
                    .to_owned(),
                ),
            ],
        )
    }
}

/// The share of the variance that decided how many components there are, where one did.
fn target(metrics: &Metrics) -> Option<f64> {
    let share = match &metrics.settings.get("variance")?.value {
        Value::String(text) => text.parse().ok()?,
        other => other.as_f64()?,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Whether nothing says that the rows are images.
fn is_of_vectors(metrics: &Metrics) -> bool {
    metrics.task == Task::Pca && metrics.weights.is_none()
}

fn banner(metrics: &Metrics) -> String {
    match &metrics.weights {
        Some(weights) if !weights.pretrained => format!(
            "<div class=\"banner\" role=\"alert\"><strong>The network was not pretrained.</strong>{}</div>",
            escape(&weights.note)
        ),
        Some(_) | None => String::new(),
    }
}

fn warnings(metrics: &Metrics) -> String {
    // That of weights that are not pretrained is the banner.
    let weights = metrics
        .weights
        .as_ref()
        .filter(|weights| !weights.pretrained);
    let in_banner = weights.map(|weights| &weights.note);
    let others = metrics
        .warnings
        .iter()
        .filter(|warning| Some(*warning) != in_banner);
    let items: String = others
        .map(|warning| format!("<li>{}</li>", escape(warning)))
        .collect();
    if items.is_empty() {
        return String::new();
    }
    format!("<ul class=\"notes\">{items}</ul>")
}

fn tiles(metrics: &Metrics) -> String {
    let images = &metrics.images;
    let tile = |big: String, small: String| {
        format!("<div class=\"tile\"><p class=\"big\">{big}</p><p>{small}</p></div>\n")
    };
    let mut html = tile(
        count(images.ok),
        if is_of_vectors(metrics) {
            "stored feature vectors".to_owned()
        } else if metrics.task == Task::Pca {
            "images whose features were stored".to_owned()
        } else if images.ok == images.listed {
            "images, all that were listed".to_owned()
        } else {
            format!(
                "of {}",
                plural(images.listed, "listed image", "listed images")
            )
        },
    );
    html.push_str(&tile(
        count(metrics.model.k as u64),
        format!(
            "{} of {}",
            if metrics.model.k == 1 {
                "component"
            } else {
                "components"
            },
            plural(metrics.model.d as u64, "feature", "features")
        ),
    ));
    html.push_str(&tile(
        percent(metrics.model.explained_variance_ratio.iter().sum()),
        "of the whole variance".to_owned(),
    ));
    match metrics.images_per_second {
        Some(value) if images.resumed > 0 => html.push_str(&tile(
            rate(value),
            format!(
                "images per second; {} from an earlier run",
                count(images.resumed)
            ),
        )),
        Some(value) => html.push_str(&tile(rate(value), "images per second".to_owned())),
        None if metrics.task == Task::Run && images.resumed > 0 => html.push_str(&tile(
            count(images.resumed),
            "from an earlier run, which computed all features".to_owned(),
        )),
        None => {}
    }
    html.push_str(&tile(
        span(metrics.elapsed_seconds),
        match metrics.bytes_read {
            0 => "in all".to_owned(),
            bytes => format!("in all, {} read", size(bytes)),
        },
    ));
    html
}

fn scree(metrics: &Metrics) -> String {
    let ratios = &metrics.model.explained_variance_ratio;
    if ratios.is_empty() {
        return format!(
            "<p class=\"empty\">There is no component to show: {}.</p>",
            escape(&metrics.model.k_reason)
        );
    }
    let mut rows = String::new();
    let mut sum = 0.0;
    for (position, &ratio) in ratios.iter().take(charts::MAX_BARS).enumerate() {
        sum += ratio;
        rows.push_str(&format!(
            "<tr><td>PC{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
            position + 1,
            percent(ratio),
            percent(sum)
        ));
    }
    let more = if ratios.len() > charts::MAX_BARS {
        format!(
            "<p>The first {} of {} components are drawn. All of them together explain {}.</p>",
            charts::MAX_BARS,
            count(ratios.len() as u64),
            percent(ratios.iter().sum())
        )
    } else {
        String::new()
    };
    let reason = escape(&metrics.model.k_reason);
    let components = plural(metrics.model.k as u64, "component", "components");
    let why = match reason.starts_with(&components) {
        true => reason,
        false => format!("{components}: {reason}"),
    };
    let asked = match target(metrics) {
        Some(_) => "<li><span class=\"target-key\"></span>asked for</li>",
        None => "",
    };
    format!(
        "{}<ul class=\"legend\"><li><span class=\"bar-key\"></span>each component</li>\
         <li><span class=\"line-key\"></span>cumulative</li>{asked}</ul><figcaption>{more}\
         <p>{why}.</p><details><summary>Values</summary><div class=\"scroll\"><table><thead><tr>\
         <th>component</th><th class=\"num\">share</th><th class=\"num\">cumulative</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></details></figcaption>",
        charts::scree(ratios, target(metrics))
    )
}

#[cfg(test)]
mod tests;
