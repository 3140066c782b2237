//! The run in tables: model, weights, certificate, time, failures, environment, settings.

use serde_json::Value;

use super::charts;
use super::collect::MAX_FAILURES;
use super::text::{count, escape, number, percent, plural, size, span};
use crate::dataset::outcome::{Outcome, Status};
use crate::output::metrics::{Metrics, Task};
use crate::timing::{Phase, Summary};

/// The images that failed or were skipped, and why.
pub fn failures(failures: &[Outcome], metrics: &Metrics) -> String {
    if metrics.task == Task::Pca {
        return "<p class=\"caption\">Not known: no image was read, the features were stored.</p>"
            .to_owned();
    }
    let images = &metrics.images;
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
    let shown = &failures[..failures.len().min(MAX_FAILURES)];
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

/// A table of two columns; the values are HTML.
fn facts(rows: &[(&str, String)]) -> String {
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{value}</td></tr>", escape(name)))
        .collect();
    format!("<table><tbody>{rows}</tbody></table>")
}

/// The fitted model.
pub fn model(metrics: &Metrics) -> String {
    let model = &metrics.model;
    facts(&[
        ("images", count(model.n)),
        ("features", count(model.d as u64)),
        ("components", count(model.k as u64)),
        ("why so many", escape(&model.k_reason)),
        (
            "solver",
            format!("{}{}", escape(&model.solver), solver_means(&model.solver)),
        ),
        ("why this one", escape(&model.solver_reason)),
        (
            "whole variance",
            format!(
                "{}, the sum over all features{}",
                number(model.total_variance),
                match is_standardized(metrics) {
                    true => ": each that varies counts 1",
                    false => "",
                }
            ),
        ),
    ])
}

/// What the name of a solver says to who knows it.
fn solver_means(name: &str) -> &'static str {
    match name {
        "tsqr" => ": a tree over the images of all ranks, for at least as many images as features",
        "wide" => ": a tree over the features of all ranks, for fewer images than features",
        "randomized" => ": an approximation from random directions",
        _ => "",
    }
}

fn is_standardized(metrics: &Metrics) -> bool {
    match metrics.settings.get("standardize").map(|s| &s.value) {
        Some(Value::String(text)) => text == "true",
        Some(value) => value.as_bool() == Some(true),
        None => false,
    }
}

/// The weights of the network.
pub fn weights(metrics: &Metrics) -> String {
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
    // That of weights that are not pretrained is the banner.
    if weights.pretrained && !weights.note.is_empty() {
        rows.push(("note", escape(&weights.note)));
    }
    if !weights.reason.is_empty() {
        rows.push(("why these", escape(&weights.reason)));
    }
    facts(&rows)
}

/// What the checks of the certificate show where they pass, by their keys.
const CHECKS: [(&str, &str); 10] = [
    (
        "singular_values",
        "the images spread along each component as its singular value says",
    ),
    ("orthogonality", "the components are orthonormal"),
    ("total_variance", "the factor keeps the whole variance"),
    (
        "factor_residual",
        "the factor has the length of the rows in every direction",
    ),
    ("factor_orthogonality", "Q is orthonormal"),
    (
        "svd_residual",
        "the singular vectors are those of the factor, or of the rows",
    ),
    ("pca_residual", "the SVD gives the scores back"),
    (
        "left_orthogonality",
        "the scores of different components are uncorrelated",
    ),
    (
        "reconstruction",
        "what the components leave is what the singular values say",
    ),
    ("svd", "how much of the SVD was computed"),
];

/// A measured value and its limit.
struct Check {
    name: String,
    /// Both for a reader.
    html: String,
    value: f64,
    limit: f64,
}

/// The certificate: whether all passed, and a row for each value in it. It is an object of any depth; an
/// object of just a `value` and a `limit` is a check, and other rows name the way to a value.
pub fn certificate(value: &Value) -> String {
    fn walk(
        name: &str,
        value: &Value,
        others: &mut Vec<(String, String)>,
        checks: &mut Vec<Check>,
    ) {
        let Value::Object(entries) = value else {
            others.push((name.to_owned(), value_html(value)));
            return;
        };
        if let (2, Some(value), Some(limit)) =
            (entries.len(), entries.get("value"), entries.get("limit"))
        {
            checks.push(Check {
                name: name.to_owned(),
                html: format!("{} (limit {})", value_html(value), value_html(limit)),
                value: value.as_f64().unwrap_or(f64::NAN),
                limit: limit.as_f64().unwrap_or(f64::NAN),
            });
            return;
        }
        for (key, value) in entries {
            let phrase = CHECKS.iter().find(|(check, _)| check == key);
            let key = phrase.map_or_else(|| key.replace('_', " "), |(_, phrase)| (*phrase).into());
            let name = match name {
                "" => key,
                name => format!("{name}, {key}"),
            };
            walk(&name, value, others, checks);
        }
    }
    let (mut others, mut checks) = (Vec::new(), Vec::new());
    walk("", value, &mut others, &mut checks);
    // The verdict says that all passed; only exact checks are an object of their own that may be missing.
    others.retain(|(name, value)| !name.is_empty() && (name != "exact" || value != "\u{2013}"));
    if checks.is_empty() && others.is_empty() {
        return "<p class=\"caption\">This run has none.</p>".to_owned();
    }
    let checked = checks.iter().map(|check| (&check.name, &check.html));
    let noted = others.iter().map(|(name, html)| (name, html));
    let table = |title: &str, rows: Vec<(&str, String)>| match rows.is_empty() {
        true => String::new(),
        false => format!("{title}<div class=\"certificate\">{}</div>", facts(&rows)),
    };
    fn rows<'a>(all: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(&'a str, String)> {
        all.map(|(name, html)| (name.as_str(), html.clone()))
            .collect()
    }
    format!(
        "{}{}{}",
        verdict(&checks),
        table("", rows(checked)),
        table("<h3>Beside the checks</h3>", rows(noted))
    )
}

/// Whether the checks passed, and how nearly one did not.
fn verdict(checks: &[Check]) -> String {
    if checks.is_empty() {
        return String::new();
    }
    // What is no number has not passed.
    let passed = checks.iter().filter(|check| check.value <= check.limit);
    match checks.len() - passed.count() {
        0 => {
            let shares = checks.iter().map(|check| match check.limit > 0.0 {
                true => check.value / check.limit,
                false => 0.0,
            });
            let largest = shares.fold(0.0, f64::max);
            let most = match largest < 0.01 {
                true => "no error is above 1 % of its limit".to_owned(),
                false => format!("the largest error is {} of its limit", percent(largest)),
            };
            let all = match checks.len() {
                1 => "The one check".to_owned(),
                all => format!("All {all} checks"),
            };
            format!("<p><span class=\"passed\">{all} passed</span>: {most}.</p>")
        }
        failed => format!(
            "<p class=\"wrong\">{failed} of {} failed.</p>",
            plural(checks.len() as u64, "check", "checks")
        ),
    }
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

/// Time by phase: over the ranks, and on each of them.
pub fn phases(metrics: &Metrics) -> String {
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
            let of_rank = metrics.seconds_by_rank.get(phase);
            format!(
                "<tr><th>{} <span>{}</span></th><td class=\"fill\"><i style=\"width:{share:.1}%\"></i></td>\
                 <td class=\"ranks\">{}</td>\
                 <td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                 <td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
                phase.as_str(),
                phase_means(*phase),
                of_rank.map_or(String::new(), |seconds| charts::ranks(seconds)),
                span(summary.min),
                span(summary.mean),
                span(summary.max),
                imbalance(summary),
                summary.slowest_rank
            )
        })
        .collect();
    format!(
        "<p class=\"caption\">Over the ranks; imbalance is the longest time over the mean. The bars by rank \
         are to the scale of their phase. Reading and decoding are summed over the threads of a rank and \
         overlap with the network.</p><div class=\"scroll\"><table class=\"phases\"><thead><tr><th>phase</th>\
         <th>longest</th><th>by rank</th><th class=\"num\">min</th><th class=\"num\">mean</th>\
         <th class=\"num\">max</th><th class=\"num\">imbalance</th><th class=\"num\">slowest rank</th></tr>\
         </thead><tbody>{rows}</tbody></table></div>"
    )
}

/// What is done in a phase.
fn phase_means(phase: Phase) -> &'static str {
    match phase {
        Phase::List => "listing the inputs",
        Phase::Weights => "getting the weights",
        Phase::Read => "reading images",
        Phase::Decode => "decoding, resizing",
        Phase::Network => "computing features",
        Phase::Shard => "storing features",
        Phase::Fit => "finding components",
        Phase::Project => "computing scores",
        Phase::Verify => "exact checks",
        Phase::Publish => "writing results",
        Phase::Wait => "waiting for others",
    }
}

/// The longest time over the mean; a dash where that is too short to mean anything.
fn imbalance(summary: &Summary) -> String {
    match summary.mean > 0.005 {
        true => format!("{:.2}", summary.max / summary.mean),
        false => "\u{2013}".to_owned(),
    }
}

/// The command that gives the same results.
pub fn command(metrics: &Metrics) -> String {
    if metrics.command.is_empty() {
        return "<p class=\"caption\">Not noted by the version that wrote these results.</p>"
            .to_owned();
    }
    format!(
        "<pre class=\"command\">{}</pre><p class=\"caption\">It begins in the folder that this run was started in, \
         and writes beside this result. Any number of ranks gives the same scores and the same model, bit for \
         bit.</p>",
        escape(&metrics.command)
    )
}

/// Versions, hosts and threads.
pub fn environment(metrics: &Metrics) -> String {
    let environment = &metrics.environment;
    let hosts: Vec<String> = environment.hosts.iter().map(|host| escape(host)).collect();
    let threads = &environment.threads_per_rank;
    let threads = match (threads.iter().min(), threads.iter().max()) {
        (Some(min), Some(max)) if min == max => min.to_string(),
        (Some(min), Some(max)) => format!("{min} to {max}"),
        _ => "\u{2013}".to_owned(),
    };
    let mut rows = vec![("p8", escape(&environment.p8_version))];
    for (name, value) in [
        ("commit", &environment.commit),
        ("built for", &environment.target),
        ("built by", &environment.compiler),
    ] {
        // Earlier versions did not note it.
        if !value.is_empty() {
            rows.push((name, escape(value)));
        }
    }
    rows.extend([
        ("MPI", escape(&environment.mpi)),
        ("ranks", count(environment.ranks as u64)),
        ("threads per rank", threads),
        ("hosts", hosts.join(", ")),
        ("network ran on", escape(&environment.executor)),
        ("BLAS", escape(&environment.blas)),
        ("CPU", escape(&environment.cpu)),
        ("system", escape(&environment.os)),
    ]);
    facts(&rows)
}

/// Every setting, and where it came from.
pub fn settings(metrics: &Metrics) -> String {
    let rows: String = metrics
        .settings
        .iter()
        .map(|(name, setting)| {
            let value = match &setting.value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let instead = metrics.weights.as_ref().filter(|used| {
                let is_of_weights = metrics.task == Task::Run && name == "weights";
                is_of_weights && !used.reason.is_empty() && used.id != value
            });
            let (value, source) = match instead {
                Some(used) => (
                    format!("{} in the place of {value}", used.id),
                    "what could be had".to_owned(),
                ),
                None => (value, setting.source.clone()),
            };
            format!(
                "<tr><th>{}</th><td class=\"mono\">{}</td><td>{}</td></tr>",
                escape(name),
                escape(&value),
                escape(&source)
            )
        })
        .collect();
    format!(
        "<table><thead><tr><th>setting</th><th>value</th><th>from</th></tr></thead>\
         <tbody>{rows}</tbody></table>"
    )
}
