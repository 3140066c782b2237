//! What is typed, and what comes back.

use crate::support::{Images, P8, metrics, names};

#[test]
fn help_and_version_are_printed_once_for_all_ranks() {
    let help = P8::on(3).args(["--help"]).succeed();
    assert_eq!(help.stdout.matches("Usage: p8").count(), 1, "{help}");
    for option in [
        "--input",
        "--weights",
        "--variance",
        "--threads",
        "pca",
        "transform",
        "doctor",
        "Exit codes",
    ] {
        assert!(help.stdout.contains(option), "{option} is not in {help}");
    }
    let version = P8::on(2).args(["--version"]).succeed();
    assert_eq!(
        version.stdout.trim(),
        format!("p8 {}", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_wrong_argument_ends_with_2_at_every_rank_count_and_names_it() {
    for ranks in [1, 3] {
        for (arguments, word) in [
            (vec!["--no-such-option"], "--no-such-option"),
            (vec!["--components", "zero"], "--components"),
            (vec!["--pool", "median"], "median"),
            (vec!["-k", "3", "--variance", "0.5"], "--variance"),
            (vec!["--label", "regex:("], "--label"),
            (vec!["surprise"], "surprise"),
        ] {
            let finished = P8::on(ranks).args(&arguments).run();
            finished.demand(2, &[word]);
            let said = finished
                .stderr
                .lines()
                .filter(|line| line.contains("error:") && line.contains(word));
            assert_eq!(said.count(), 1, "said once: {finished}");
        }
        P8::on(ranks)
            .env("P8_THREADS", "many")
            .fail(2, &["P8_THREADS", "many"]);
        P8::on(ranks)
            .env("P8_ISA", "sse9")
            .fail(2, &["P8_ISA", "sse9", "avx512"]);
        P8::on(ranks).args(["--glob", "["]).fail(2, &["--glob"]);
    }
}

#[test]
fn flag_environment_file_and_default_are_taken_in_this_order() {
    let images = Images::new(6);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let config = folder.path().join("p8.toml");
    std::fs::write(
        &config,
        "components = 4\nlayer = \"layer3\"\nlabel = \"none\"\n",
    )
    .unwrap();
    P8::small(2, images.path(), &output)
        .args(["--config".as_ref(), config.as_os_str()])
        .args(["-k", "2"])
        .env("P8_COMPONENTS", "3")
        .env("P8_LAYER", "layer2")
        .succeed();
    let metrics = metrics(&output);
    let setting = |name: &str| {
        let setting = &metrics["settings"][name];
        (
            setting["value"].as_str().unwrap().to_string(),
            setting["source"].as_str().unwrap().to_string(),
        )
    };
    assert_eq!(setting("components"), ("2".into(), "flag".into()));
    assert_eq!(setting("layer"), ("layer2".into(), "environment".into()));
    assert_eq!(setting("label"), ("none".into(), "file".into()));
    assert_eq!(setting("pool"), ("avg".into(), "default".into()));
    assert_eq!(metrics["model"]["k"], 2);
}

#[test]
fn a_pinned_instruction_set_computes_and_is_told() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let finished = P8::small(2, images.path(), &output)
        .env("P8_ISA", "scalar")
        .succeed();
    assert!(finished.stderr.contains("scalar"), "{finished}");
    let executor = metrics(&output)["environment"]["executor"].to_string();
    assert!(executor.contains("scalar"), "{executor}");
}

#[test]
fn an_instruction_set_that_no_rank_has_is_refused_with_those_that_all_have() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let lacking = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neon"
    };
    P8::small(2, images.path(), &folder.path().join("out"))
        .env("P8_ISA", lacking)
        .fail(2, &[lacking, "P8_ISA", "what all ranks have is scalar"]);
}

#[test]
fn a_dry_run_tells_the_plan_and_computes_nothing() {
    let images = Images::new(10);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let finished = P8::small(2, images.path(), &output)
        .args(["--dry-run"])
        .succeed();
    for word in [
        "10 images",
        "10 blocks",
        "2 ranks",
        "wide",
        "it can be written",
    ] {
        assert!(finished.stdout.contains(word), "{word}: {finished}");
    }
    assert!(names(&output).is_empty());
}

#[test]
fn the_doctor_answers_for_every_rank() {
    let finished = P8::on(3).args(["doctor"]).succeed();
    for word in [
        "rank 0",
        "rank 1",
        "rank 2",
        "cores",
        "MPI",
        "OpenBLAS",
        "keras not cached",
    ] {
        assert!(finished.stdout.contains(word), "{word}: {finished}");
    }
}

#[test]
fn json_logs_are_json_and_quiet_is_quiet() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let finished = P8::small(2, images.path(), &output)
        .args(["--log", "json"])
        .succeed();
    let lines: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    assert!(lines.len() > 3);
    for line in lines {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(value["message"].is_string());
    }
    let quiet = P8::small(2, images.path(), &output).args(["-q"]).succeed();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_result_of_other_settings_is_refused_unless_it_may_be_replaced() {
    let images = Images::new(4);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["-k", "2"])
        .succeed();
    let before = std::fs::read(output.join("scores.csv")).unwrap();
    P8::small(3, images.path(), &output)
        .args(["-k", "1"])
        .fail(2, &["components: 2 there, 1 now", "--overwrite"]);
    assert_eq!(std::fs::read(output.join("scores.csv")).unwrap(), before);
    P8::small(3, images.path(), &output)
        .args(["-k", "2"])
        .succeed();
    P8::small(3, images.path(), &output)
        .args(["-k", "1", "--overwrite"])
        .succeed();
    assert_eq!(metrics(&output)["model"]["k"], 1);
    // A result that does not say what made it is somebody's, too.
    std::fs::remove_file(output.join(".p8-settings.json")).unwrap();
    P8::small(1, images.path(), &output)
        .args(["-k", "1"])
        .fail(2, &["--overwrite"]);
}
