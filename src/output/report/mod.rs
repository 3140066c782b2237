//! `report.html`: the run on one page, for a person.
//!
//! The page is one file without scripts and without anything to fetch; its content security policy
//! forbids both. Every text that comes from outside is escaped.

mod charts;
mod scatter;
mod text;

use std::io::Write;

use serde_json::Value;

use crate::dataset::outcome::{Outcome, Status};
use crate::output::OutputError;
use crate::output::metrics::Metrics;

pub use scatter::{MAX_POINTS, Scatter};

use text::{count, escape, fill, number, percent, plural, rate, size, span};

const FILE: &str = "report.html";

/// Images without features that are named; the others are counted.
pub const MAX_FAILURES: usize = 200;

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The numbers of the run.
    pub metrics: &'a Metrics,
    /// The images on the first two components.
    pub scatter: &'a Scatter,
    /// The failed and skipped images in path order; what lies beyond [`MAX_FAILURES`] is not shown
    /// and may be left out.
    pub failures: &'a [Outcome],
}

impl Report<'_> {
    /// Writes the page.
    ///
    /// # Errors
    ///
    /// [`OutputError::Write`] where the sink refuses.
    pub fn write_to(&self, mut sink: impl Write) -> Result<(), OutputError> {
        sink.write_all(self.render().as_bytes())
            .map_err(|source| OutputError::Write { file: FILE, source })
    }

    /// The page as text.
    pub fn render(&self) -> String {
        let metrics = self.metrics;
        let title = format!(
            "Principal components of {}",
            plural(metrics.model.n, "image", "images")
        );
        let when = format!(
            "{} to {}, {}",
            escape(&metrics.started),
            escape(&metrics.finished),
            plural(metrics.environment.ranks as u64, "MPI rank", "MPI ranks")
        );
        fill(
            include_str!("page.html"),
            &[
                ("version", escape(&metrics.environment.p8_version)),
                ("title", title),
                ("css", include_str!("page.css").to_owned()),
                ("when", when),
                ("banner", banner(metrics)),
                ("warnings", warnings(metrics)),
                ("tiles", tiles(metrics)),
                ("scree", scree(metrics)),
                ("scatter", self.scatter.render(metrics)),
                ("model", model(metrics)),
                ("weights", weights(metrics)),
                ("certificate", certificate(&metrics.certificate)),
                ("phases", phases(metrics)),
                ("failures", self.failures()),
                ("environment", environment(metrics)),
                ("settings", settings(metrics)),
            ],
        )
    }

    fn failures(&self) -> String {
        let images = &self.metrics.images;
        let missing = images.failed + images.skipped;
        if missing == 0 {
            return format!(
                "<p class=\"caption\">None: {} has features.</p>",
                match images.listed {
                    1 => "the one listed image".to_owned(),
                    listed => format!("each of the {} listed images", count(listed)),
                }
            );
        }
        let shown = &self.failures[..self.failures.len().min(MAX_FAILURES)];
        let mut html = format!(
            "<p class=\"caption\">{} failed, {} skipped as not being images.{}</p>",
            plural(images.failed, "image", "images"),
            plural(images.skipped, "file", "files"),
            if (shown.len() as u64) < missing {
                format!(
                    " The first {} follow; all are in <code>outcomes.parquet</code>.",
                    count(shown.len() as u64)
                )
            } else {
                String::new()
            }
        );
        if shown.is_empty() {
            return html;
        }
        html.push_str(
            "<div class=\"scroll\"><table><thead><tr><th>image</th><th>status</th><th>reason</th>\
             <th class=\"num\">size</th></tr></thead><tbody>",
        );
        for outcome in shown {
            html.push_str(&format!(
                "<tr><td class=\"path mono\">{}</td><td class=\"{}\">{}</td><td>{}</td>\
                 <td class=\"num\">{}</td></tr>",
                escape(&outcome.path),
                match outcome.status {
                    Status::Failed => "wrong",
                    Status::Ok | Status::Skipped => "",
                },
                outcome.status.as_str(),
                escape(outcome.reason.as_deref().unwrap_or_default()),
                size(outcome.bytes)
            ));
        }
        html.push_str("</tbody></table></div>");
        html
    }
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
    if metrics.warnings.is_empty() {
        return String::new();
    }
    let items: String = metrics
        .warnings
        .iter()
        .map(|warning| format!("<li>{}</li>", escape(warning)))
        .collect();
    format!("<ul class=\"notes\">{items}</ul>")
}

fn tiles(metrics: &Metrics) -> String {
    let images = &metrics.images;
    let tile = |big: String, small: String| {
        format!("<div class=\"tile\"><p class=\"big\">{big}</p><p>{small}</p></div>\n")
    };
    let mut html = tile(
        count(images.ok),
        if images.ok == images.listed {
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
    html.push_str(&tile(
        metrics
            .images_per_second
            .map_or("\u{2013}".to_owned(), rate),
        if images.resumed > 0 {
            format!(
                "images per second; {} from an earlier run",
                count(images.resumed)
            )
        } else {
            "images per second".to_owned()
        },
    ));
    html.push_str(&tile(
        span(metrics.elapsed_seconds),
        format!("in all, {} read", size(metrics.bytes_read)),
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
    format!(
        "{}<ul class=\"legend\"><li><span class=\"bar-key\"></span>each component</li>\
         <li><span class=\"line-key\"></span>cumulative</li></ul><figcaption>{more}\
         <p>{}: {}.</p><details><summary>Values</summary><div class=\"scroll\"><table><thead><tr>\
         <th>component</th><th class=\"num\">share</th><th class=\"num\">cumulative</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></details></figcaption>",
        charts::scree(ratios),
        plural(metrics.model.k as u64, "component", "components"),
        escape(&metrics.model.k_reason)
    )
}

/// A table of two columns; the values are HTML.
fn facts(rows: &[(&str, String)]) -> String {
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{value}</td></tr>", escape(name)))
        .collect();
    format!("<table><tbody>{rows}</tbody></table>")
}

fn model(metrics: &Metrics) -> String {
    let model = &metrics.model;
    facts(&[
        ("images", count(model.n)),
        ("features", count(model.d as u64)),
        ("components", count(model.k as u64)),
        ("why so many", escape(&model.k_reason)),
        ("solver", escape(&model.solver)),
        ("why this one", escape(&model.solver_reason)),
        ("whole variance", number(model.total_variance)),
    ])
}

fn weights(metrics: &Metrics) -> String {
    let Some(weights) = &metrics.weights else {
        return "<p class=\"caption\">The features came from files that do not say what computed \
                them.</p>"
            .to_owned();
    };
    let mut rows = vec![
        ("weights", escape(&weights.id)),
        (
            "pretrained",
            if weights.pretrained {
                "yes".to_owned()
            } else {
                "<span class=\"wrong\">no</span>".to_owned()
            },
        ),
        (
            "SHA-256",
            format!("<span class=\"mono\">{}</span>", escape(&weights.sha256)),
        ),
    ];
    if !weights.note.is_empty() {
        rows.push(("note", escape(&weights.note)));
    }
    facts(&rows)
}

/// The certificate is an object of any depth; a row names the way to a value. An object of just a
/// `value` and a `limit` is one row.
fn certificate(value: &Value) -> String {
    fn walk(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
        match value {
            Value::Object(entries)
                if entries.len() == 2
                    && entries.contains_key("value")
                    && entries.contains_key("limit") =>
            {
                let (value, limit) = (&entries["value"], &entries["limit"]);
                let html = format!("{} (limit {})", value_html(value), value_html(limit));
                rows.push((name.to_owned(), html));
            }
            Value::Object(entries) => {
                for (key, value) in entries {
                    let key = key.replace('_', " ");
                    let name = if name.is_empty() {
                        key
                    } else {
                        format!("{name}, {key}")
                    };
                    walk(&name, value, rows);
                }
            }
            other => rows.push((name.to_owned(), value_html(other))),
        }
    }
    let mut rows = Vec::new();
    walk("", value, &mut rows);
    rows.retain(|(name, _)| !name.is_empty());
    if rows.is_empty() {
        return "<p class=\"caption\">This run has none.</p>".to_owned();
    }
    let rows: Vec<(&str, String)> = rows
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    facts(&rows)
}

fn value_html(value: &Value) -> String {
    match value {
        Value::Null => "\u{2013}".to_owned(),
        Value::Bool(true) => "<span class=\"passed\">yes</span>".to_owned(),
        Value::Bool(false) => "<span class=\"wrong\">no</span>".to_owned(),
        Value::Number(value) => match value.as_f64() {
            Some(float) if value.is_f64() => number(float),
            _ => escape(&value.to_string()),
        },
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn phases(metrics: &Metrics) -> String {
    let longest = metrics
        .phases
        .values()
        .fold(0.0, |longest: f64, summary| longest.max(summary.max));
    let rows: String = metrics
        .phases
        .iter()
        .map(|(phase, summary)| {
            let share = if longest > 0.0 {
                100.0 * summary.max / longest
            } else {
                0.0
            };
            format!(
                "<tr><th>{}</th><td class=\"fill\"><i style=\"width:{share:.1}%\"></i></td>\
                 <td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                 <td class=\"num\">{}</td></tr>",
                phase.as_str(),
                span(summary.min),
                span(summary.mean),
                span(summary.max),
                summary.slowest_rank
            )
        })
        .collect();
    format!(
        "<p class=\"caption\">Over the ranks. Reading and decoding are summed over the threads of a rank \
         and overlap with the network.</p><div class=\"scroll\"><table><thead><tr><th>phase</th><th></th>\
         <th class=\"num\">min</th><th class=\"num\">mean</th><th class=\"num\">max</th>\
         <th class=\"num\">slowest rank</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn environment(metrics: &Metrics) -> String {
    let environment = &metrics.environment;
    let hosts: Vec<String> = environment.hosts.iter().map(|host| escape(host)).collect();
    let threads = &environment.threads_per_rank;
    let threads = match (threads.iter().min(), threads.iter().max()) {
        (Some(min), Some(max)) if min == max => min.to_string(),
        (Some(min), Some(max)) => format!("{min} to {max}"),
        _ => "\u{2013}".to_owned(),
    };
    facts(&[
        ("p8", escape(&environment.p8_version)),
        ("MPI", escape(&environment.mpi)),
        ("ranks", count(environment.ranks as u64)),
        ("threads per rank", threads),
        ("hosts", hosts.join(", ")),
        ("network ran on", escape(&environment.executor)),
        ("BLAS", escape(&environment.blas)),
        ("CPU", escape(&environment.cpu)),
        ("system", escape(&environment.os)),
    ])
}

fn settings(metrics: &Metrics) -> String {
    let rows: String = metrics
        .settings
        .iter()
        .map(|(name, setting)| {
            let value = match &setting.value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            format!(
                "<tr><th>{}</th><td class=\"mono\">{}</td><td>{}</td></tr>",
                escape(name),
                escape(&value),
                escape(&setting.source)
            )
        })
        .collect();
    format!(
        "<table><thead><tr><th>setting</th><th>value</th><th>from</th></tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}

#[cfg(test)]
mod tests;
