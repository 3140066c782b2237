//! Tests of the whole page.

use super::*;
use crate::output::metrics::tests::sample;
use crate::output::metrics::{Setting, Weights};
use crate::output::shard::ShardRow;

const HOSTILE: &str = "<script>alert(1)</script>\"'&{{css}}";

fn scatter(label: &str) -> Scatter {
    let mut scatter = Scatter::new(3);
    for position in 0..3u16 {
        let row = ShardRow {
            index: u64::from(position),
            path: format!("{label}/{position}.jpg"),
            label: Some(label.to_owned()),
        };
        scatter.offer(
            u64::from(position),
            &row,
            &[f32::from(position), 1.0, 0.0, 0.0],
        );
    }
    scatter
}

fn failure(path: &str, reason: &str) -> Outcome {
    Outcome {
        path: path.to_owned(),
        status: Status::Failed,
        reason: Some(reason.to_owned()),
        bytes: 1500,
        width: 0,
        height: 0,
        sha256: String::new(),
    }
}

fn render(metrics: &Metrics, failures: &[Outcome]) -> String {
    Report {
        metrics,
        scatter: &scatter("apple"),
        failures,
    }
    .render()
}

#[test]
fn the_page_says_what_the_run_did() {
    let html = render(
        &sample(),
        &[failure("a/broken.jpg", "unexpected end of file")],
    );
    for part in [
        "<h1>Principal components of 9 images</h1>",
        "2026-01-31T23:59:59Z to 2026-02-01T00:00:02Z, 3 MPI ranks",
        "of 12 listed images",
        "<p class=\"big\">93.8 %</p>",
        "4 components: the fewest that explain 0.9 of the variance.",
        "fewer images (9) than features (2048)",
        "PC1 (50.0 % of the variance)",
        "PC2 (25.0 % of the variance)",
        "<tr><th>residual</th><td>1.5e-16 (limit 1e-12)</td></tr>",
        "<tr><th>tree, leaves</th><td>3</td></tr>",
        "node-1, node-2",
        "<td>4 to 8</td>",
        "2 of 12 images failed",
        "a/broken.jpg",
        "unexpected end of file",
        "2 images failed, 1 file skipped",
        "7.25",
        "images per second; 3 from an earlier run",
        "[&quot;a/&quot;,&quot;b/&quot;]",
        "environment",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for phase in crate::timing::Phase::ALL {
        assert!(html.contains(&format!("<tr><th>{}</th>", phase.as_str())));
    }
    assert!(!html.contains("class=\"banner\""));
}

#[test]
fn the_page_needs_nothing_from_outside_and_runs_nothing() {
    let html = render(&sample(), &[]);
    for part in [
        "http://", "https://", "<script", "<link", "<img", "@import", "url(",
    ] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains("default-src 'none'"));
    assert!(html.contains("prefers-color-scheme: dark"));
    assert!(!html.contains("{{"), "every place is filled");
}

#[test]
fn no_text_from_outside_becomes_markup() {
    let mut metrics = sample();
    metrics.started = HOSTILE.into();
    metrics.finished = HOSTILE.into();
    metrics.weights = Some(Weights {
        id: HOSTILE.into(),
        sha256: HOSTILE.into(),
        note: HOSTILE.into(),
        pretrained: false,
    });
    metrics.model.k_reason = HOSTILE.into();
    metrics.model.solver = HOSTILE.into();
    metrics.model.solver_reason = HOSTILE.into();
    metrics.certificate = serde_json::json!({HOSTILE: HOSTILE, "list": [HOSTILE]});
    metrics.warnings = vec![HOSTILE.into()];
    let environment = &mut metrics.environment;
    for text in [
        &mut environment.p8_version,
        &mut environment.executor,
        &mut environment.blas,
        &mut environment.mpi,
        &mut environment.os,
        &mut environment.cpu,
        &mut environment.hosts[0],
    ] {
        *text = HOSTILE.into();
    }
    metrics.settings.insert(
        HOSTILE.into(),
        Setting {
            value: serde_json::json!([HOSTILE]),
            source: HOSTILE.into(),
        },
    );
    // What is drawn adds the titles of three points, with path and label, and one legend.
    for (k, shown) in [(0, 25), (4, 25 + 3 * 2 + 1)] {
        metrics.model.k = k;
        metrics.model.explained_variance_ratio = vec![0.1; k];
        let html = Report {
            metrics: &metrics,
            scatter: &scatter(HOSTILE),
            failures: &[failure(HOSTILE, HOSTILE)],
        }
        .render();
        assert!(!html.contains("<script"), "k = {k}");
        assert_eq!(html.matches(":root {").count(), 2, "k = {k}");
        let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;{{css}}";
        assert_eq!(html.matches(escaped).count(), shown, "k = {k}");
    }
}

#[test]
fn weights_that_are_not_pretrained_are_announced_first() {
    let mut metrics = sample();
    metrics.weights = Some(Weights {
        id: "seeded:50".into(),
        sha256: String::new(),
        pretrained: false,
        note: "seeded:50 stands in for the weights.".into(),
    });
    let html = render(&metrics, &[]);
    let banner = html.find("The network was not pretrained.").unwrap();
    assert!(html.contains("</strong>seeded:50 stands in for the weights.</div>"));
    assert!(banner < html.find("class=\"tiles\"").unwrap());
    metrics.weights = None;
    let html = render(&metrics, &[]);
    assert!(!html.contains("class=\"banner\""));
    assert!(html.contains("files that do not say what computed"));
}

#[test]
fn the_first_failures_are_named_and_the_others_counted() {
    let mut metrics = sample();
    metrics.images.failed = 1234;
    metrics.images.skipped = 0;
    let failures: Vec<Outcome> = (0..300)
        .map(|number| failure(&format!("bad-{number:04}.jpg"), "cut short"))
        .collect();
    let html = render(&metrics, &failures);
    assert!(html.contains("1,234 images failed, 0 files skipped"));
    assert!(html.contains("The first 200 follow"));
    assert!(html.contains("bad-0199.jpg") && !html.contains("bad-0200.jpg"));
}

#[test]
fn a_run_without_failures_says_so() {
    let mut metrics = sample();
    metrics.images = crate::output::metrics::Images {
        listed: 1,
        ok: 1,
        ..Default::default()
    };
    assert!(render(&metrics, &[]).contains("None: the one listed image has features."));
}

#[test]
fn one_image_or_no_component_or_one_leaves_a_whole_page() {
    for k in [0, 1] {
        let mut metrics = sample();
        metrics.model.n = 1;
        metrics.model.k = k;
        metrics.model.k_reason = "one image has no variance".into();
        metrics.model.explained_variance_ratio = vec![1.0; k];
        metrics.images_per_second = None;
        metrics.phases.clear();
        metrics.certificate = serde_json::Value::Null;
        let html = render(&metrics, &[]);
        assert!(html.contains("<h1>Principal components of 1 image</h1>"));
        assert!(!html.contains("NaN") && !html.contains("inf%"));
        assert_eq!(html.contains("There is no component to show"), k == 0);
        assert!(html.ends_with("</html>\n"));
    }
}

#[test]
fn many_components_are_told_in_words() {
    let mut metrics = sample();
    metrics.model.k = 250;
    metrics.model.explained_variance_ratio = vec![0.0036; 250];
    let html = render(&metrics, &[]);
    assert!(html.contains("The first 100 of 250 components are drawn."));
    assert!(html.contains("All of them together explain 90.0 %."));
}

#[test]
fn equal_values_give_an_equal_page() {
    assert_eq!(render(&sample(), &[]), render(&sample(), &[]));
    let mut bytes = Vec::new();
    let metrics = sample();
    Report {
        metrics: &metrics,
        scatter: &scatter("apple"),
        failures: &[],
    }
    .write_to(&mut bytes)
    .unwrap();
    assert_eq!(bytes, render(&metrics, &[]).into_bytes());
}
