//! Tests of the whole page.

use super::*;
use crate::dataset::outcome::{Outcome, Status};
use crate::output::metrics::tests::sample;
use crate::output::metrics::{Setting, Weights};
use crate::output::shard::ShardRow;

const HOSTILE: &str = "<script>alert(1)</script>\"'&{{css}}";

/// Nine images of one label on as many components as the sample has.
fn images(label: &str, failures: &[Outcome], k: usize) -> Images {
    let mut collector = Collector::new(9, k, MAX_POINTS);
    for failure in failures {
        collector.add_outcome(failure);
    }
    for position in 0..9u16 {
        let row = ShardRow {
            index: u64::from(position),
            path: format!("{label}/{position}.jpg"),
            label: Some(label.to_owned()),
        };
        let scores: Vec<f32> = (0..k).map(|c| f32::from(position) - c as f32).collect();
        collector.add(&row, &scores, f32::from(position));
    }
    finished(collector, &|_| None)
}

/// The images of a collector, whose three features are their positions.
fn finished(collector: Collector, thumbnail: &dyn Fn(u64) -> Option<Vec<u8>>) -> Images {
    let mut compared = collector.compare(Scaling {
        divisors: vec![1.0; 3],
        standardized: true,
        deviations: None,
        total_variance: 8.0,
    });
    loop {
        let wanted = compared.wanted();
        if wanted.is_empty() {
            break;
        }
        let found = wanted.into_keys().map(|position| {
            let features = vec![position as f64; 3];
            (
                position,
                Found {
                    features,
                    ..Found::default()
                },
            )
        });
        compared.add(&found.collect()).unwrap();
    }
    let collected = compared.finish();
    let found = collected.wanted().into_iter().map(|(position, need)| {
        let found = Found {
            name: (need == Need::Named).then(|| (String::new(), None)),
            thumbnail: thumbnail(position),
            features: Vec::new(),
        };
        (position, found)
    });
    Images {
        found: found.collect(),
        collected,
    }
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
        images: &images("apple", failures, metrics.model.k),
    }
    .page()
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
        "<h3>PC1 <span>50.0 % of the variance</span></h3>",
        "mpirun -np 3 p8 --input a/ --variance 0.9",
        "<td class=\"num\">1.33</td>",
        "<title>rank 1: 1.1 s</title>",
        "There are no thumbnails",
        "<p><span class=\"passed\">The one check passed</span>: no error is above 1 % of its limit.</p>",
        "<h3>Beside the checks</h3>",
        "<a href=\"#failures\">",
        "wide: a tree over the features of all ranks, for fewer images than features",
        "2048, the sum over all features",
        "<tr><th>residual</th><td>1.5e-16 (limit 1e-12)</td></tr>",
        "<tr><th>commit</th><td>0123456789ab</td></tr>",
        "aria-label=\"rank 0: 0.62 s, rank 1: 1.1 s, rank 2: 1.2 s\"",
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
        assert!(html.contains(&format!("<tr><th>{} <span>", phase.as_str())));
    }
    assert!(!html.contains("class=\"banner\""));
}

#[test]
fn the_page_needs_nothing_from_outside_and_runs_its_own_script_only() {
    let html = render(&sample(), &[]);
    for part in ["https://", "<link", "@import", "url(", "src=\"h", "import("] {
        assert!(!html.contains(part), "{part}");
    }
    // The names of the formats of SVG are no addresses that anything fetches.
    assert!(
        !html
            .replace("http://www.w3.org/2000/svg", "")
            .contains("http://")
    );
    assert_eq!(
        html.matches("<script").count(),
        2,
        "the data and the script"
    );
    assert!(html.contains("default-src 'none'"));
    let script = html
        .rsplit_once("<script>")
        .unwrap()
        .1
        .split_once("</script>")
        .unwrap()
        .0;
    let digest = STANDARD.encode(Sha256::digest(script));
    assert!(html.contains(&format!("script-src 'sha256-{digest}'\">")));
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
        reason: HOSTILE.into(),
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
    metrics.command = HOSTILE.into();
    for k in [0, 4] {
        metrics.model.k = k;
        metrics.model.explained_variance_ratio = vec![0.1; k];
        let images = images(HOSTILE, &[failure(HOSTILE, HOSTILE)], k);
        let report = Report {
            metrics: &metrics,
            images: &images,
        };
        let html = report.page();
        assert!(!html.contains("<script>alert"), "k = {k}");
        // The script, and the data where there are any.
        assert_eq!(html.matches("<script").count(), 1 + k.min(1), "k = {k}");
        assert_eq!(html.matches(":root {").count(), 2, "k = {k}");
        let escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;{{css}}";
        // Every text above stands somewhere.
        assert!(html.matches(escaped).count() >= 25, "k = {k}");
        for svg in [report.scatter_svg(), report.scree_svg()] {
            assert!(!svg.contains("<script") && svg.ends_with("</svg>\n"));
        }
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
        reason: "cannot reach http://m/w.h5".into(),
    });
    metrics.settings.insert(
        "weights".into(),
        Setting {
            value: "keras".into(),
            source: "default".into(),
        },
    );
    let html = render(&metrics, &[]);
    let banner = html.find("The network was not pretrained.").unwrap();
    assert!(html.contains("</strong>seeded:50 stands in for the weights.</div>"));
    assert!(banner < html.find("class=\"tiles\"").unwrap());
    // The cause once; and what was used instead of what was asked for.
    assert_eq!(html.matches("http://m/w.h5").count(), 1);
    assert!(html.contains("seeded:50 in the place of keras</td><td>what could be had<"));
    // Nobody takes the separation for that of objects.
    let (_, separation) = html.split_once("How labels separate").unwrap();
    let caveat = separation.find("these are colours and textures, not objects");
    assert!(caveat.unwrap() < separation.find("Distances are those on").unwrap());
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
}

/// A picture that no other one looks like.
fn picture(seed: u32) -> Vec<u8> {
    let pixels =
        (0..3 * 64 * 64u32).map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8);
    let noise = crate::image::Rgb8 {
        width: 64,
        height: 64,
        pixels: pixels.collect(),
    };
    crate::image::encode_jpeg(&noise, 75).unwrap()
}

#[test]
fn ten_thousand_images_with_thumbnails_are_less_than_5_mb() {
    let mut metrics = sample();
    metrics.model.k = 200;
    metrics.model.explained_variance_ratio = vec![0.004; 200];
    let pictures: Vec<Vec<u8>> = (0..50).map(picture).collect();
    let mut collector = Collector::new(12_000, 200, MAX_POINTS);
    for position in 0..12_000u64 {
        let row = ShardRow {
            index: position,
            path: format!(
                "/data/a rather long folder/label {}/{position:07}.jpg",
                position / 500
            ),
            label: Some(format!("label {}", position / 500)),
        };
        let scores: Vec<f32> = (0..200)
            .map(|c| ((position * 7919 + c * 104_729) % 1009) as f32)
            .collect();
        collector.add(&row, &scores, (position % 997) as f32);
    }
    let images = finished(collector, &|position| {
        Some(pictures[position as usize % 50].clone())
    });
    let html = Report {
        metrics: &metrics,
        images: &images,
    }
    .page();
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    assert!(html.len() > 3_000_000, "room is left: {} bytes", html.len());
    assert!(html.contains("of 12,000 images are drawn: 10,000 evenly spaced in path order"));
    assert!(html.contains("The first 24 of 200 components can be chosen."));
}

#[test]
fn every_picture_has_its_label_and_an_outlier_its_scale() {
    let images = images("apple", &[], 2);
    let extremes = gallery::extremes(&images, &sample());
    // Three of nine at each end of both components.
    assert_eq!(extremes.matches("<figure").count(), 12);
    assert_eq!(
        extremes.matches("</span><span>apple</span><span>").count(),
        12
    );
    // The errors are 0 to 8.
    let outliers = gallery::outliers(&images);
    for part in [
        "The 4 of 9 images with the largest errors.",
        "; 4 is the median",
        "<span class=\"file\">8.jpg</span><span>apple</span><span>2.0 \u{d7} median</span>",
    ] {
        assert!(outliers.contains(part), "{part}: {outliers}");
    }
}

#[test]
fn the_reason_for_the_number_of_components_says_it_once() {
    let mut metrics = sample();
    metrics.model.k_reason = "4 components reach 90 % of the variance".into();
    assert!(render(&metrics, &[]).contains("<p>4 components reach 90 % of the variance.</p>"));
}

#[test]
fn labels_of_folders_are_said_to_be_that() {
    let mut metrics = sample();
    for (rule, is_said) in [("parent", true), ("regex:(a)", false)] {
        let setting = Setting {
            value: rule.into(),
            source: "default".into(),
        };
        metrics.settings.insert("label".into(), setting);
        let html = render(&metrics, &[]);
        assert_eq!(html.contains("be it the input folder itself"), is_said);
    }
}

#[test]
fn the_certificate_says_in_words_what_passed() {
    let check = |value: f64| serde_json::json!({"value": value, "limit": 2e-12});
    let html = facts::certificate(&serde_json::json!({
        "pca_residual": check(1e-13),
        "exact": {"left_orthogonality": check(5e-13)},
        "svd": "all of them",
    }));
    for part in [
        "All 2 checks passed</span>: the largest error is 25.0 % of its limit.",
        "<th>the SVD gives the scores back</th><td>1e-13 (limit 2e-12)</td>",
        "<th>exact, the scores of different components are uncorrelated</th>",
        "<th>how much of the SVD was computed</th><td>all of them</td>",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
    for value in [serde_json::json!(3e-12), serde_json::Value::Null] {
        let html = facts::certificate(&serde_json::json!({
            "orthogonality": check(0.0),
            "svd_residual": {"value": value, "limit": 2e-12},
        }));
        assert!(html.contains("1 of 2 checks failed."), "{html}");
    }
}

#[test]
fn stored_features_are_not_said_to_be_listed_or_read() {
    let mut metrics = sample();
    metrics.task = Task::Pca;
    metrics.images.resumed = 9;
    metrics.images_per_second = None;
    metrics.bytes_read = 0;
    for weights in [metrics.weights.clone(), None] {
        metrics.weights = weights;
        let html = render(&metrics, &[]);
        for part in [
            "listed",
            "an earlier run",
            "0 bytes",
            "images per second",
            "outcomes.parquet",
        ] {
            assert!(!html.contains(part), "{part}");
        }
        assert!(html.contains("Not known: no image was read, the features were stored."));
        let what = match metrics.weights {
            Some(_) => "images whose features were stored",
            None => "stored feature vectors",
        };
        assert!(html.contains(what), "{what}");
    }
    assert!(render(&metrics, &[]).contains("<h1>Principal components of 9 feature vectors</h1>"));
}

#[test]
fn a_run_that_took_everything_from_an_earlier_one_says_so() {
    let mut metrics = sample();
    metrics.images_per_second = None;
    assert!(render(&metrics, &[]).contains("from an earlier run, which computed all features"));
}

#[test]
fn captions_follow_the_scaling_and_rounding_makes_no_outliers() {
    let with = |standardized: bool, total_variance: f64| {
        let mut images = images("a", &[], 2);
        images.collected.scaling.standardized = standardized;
        images.collected.scaling.total_variance = total_variance;
        let metrics = sample();
        gallery::outliers(&images)
            + &gallery::duplicates(&images)
            + &gallery::separation(&images, &metrics)
    };
    let html = with(true, 8.0);
    assert!(html.contains("the centred and standardized features"));
    assert!(html.contains("between standardized features"));
    assert!(html.contains("have one label only, so there is no silhouette"));
    let html = with(false, 8.0);
    assert!(html.contains("of the centred features") && html.contains("between unscaled features"));
    assert!(!html.contains("standardized"));
    // The errors are up to 8.
    assert!(with(true, 1e12).contains("None stands out: the components explain every image"));
}

#[test]
fn pairs_that_could_not_be_looked_for_everywhere_are_said_to_be_likely() {
    let mut images = images("a", &[], 1);
    assert!(!gallery::duplicates(&images).contains("likeliest"));
    images.collected.nearest.likeliest = Some(360);
    assert!(gallery::duplicates(&images).contains("among the 360 likeliest pairs"));
    images.collected.nearest.distinct = 1;
    assert!(
        gallery::duplicates(&images).contains("All 9 images that were compared are the same file.")
    );
}
