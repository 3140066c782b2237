//! What is typed, and what comes back.

use crate::support::{Images, P8, metrics, names};

#[test]
fn help_and_version_are_printed_once_for_all_ranks() {
    let help = P8::on(3).args(["--help"]).succeed();
    assert_eq!(help.stdout.matches("Usage: p8").count(), 1, "{help}");
    for option in [
        "Examples:",
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
    let short = P8::on(2).args(["-V"]).succeed();
    let name_and_version = format!("p8 {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(short.stdout.trim(), name_and_version);
}

#[test]
fn the_first_screen_is_short_and_leads_to_a_page_for_every_topic() {
    let lines = |arguments: &[&str]| {
        let page = P8::on(2).args(arguments).succeed().stdout;
        assert_eq!(page.matches("Examples:").count(), 1, "{page}");
        page.lines().count()
    };
    assert!(lines(&["-h"]) <= 40);
    assert!(lines(&["run", "-h"]) <= 40);
    assert!(lines(&["help"]) <= 40);
    assert!(lines(&["help", "network"]) <= 40);
    let solver = P8::on(2).args(["help", "solver"]).succeed();
    assert!(solver.stdout.contains("--solver <NAME>"), "{solver}");
    P8::on(1)
        .args(["help", "netwrok"])
        .fail(2, &["\"netwrok\"", "network, components"]);
}

#[test]
fn away_from_its_source_p8_says_where_the_sample_images_are() {
    let folder = tempfile::tempdir().unwrap();
    P8::on(2).in_folder(folder.path()).fail(
        3,
        &[
            "\"training_data\"",
            "in the folder of p8's source",
            "--input",
        ],
    );
    // Nor is who has them, and cannot read them.
    std::os::unix::fs::symlink("training_data", folder.path().join("training_data")).unwrap();
    let unreadable = P8::on(1).in_folder(folder.path()).run();
    unreadable.demand(3, &["\"training_data\"", "symbolic links"]);
    assert!(!unreadable.stderr.contains("sample images"), "{unreadable}");
    // Who names an input is not told of samples.
    let named = P8::on(1).args(["--input", "/no/such/folder"]).run();
    named.demand(3, &["\"/no/such/folder\"", "No such file"]);
    assert!(!named.stderr.contains("sample images"), "{named}");
}

#[test]
fn the_long_version_tells_commit_target_kernels_and_libraries() {
    let version = P8::on(1).args(["--version"]).succeed();
    assert!(version.stdout.starts_with("p8 "), "{version}");
    let value = |name: &str| {
        let line = version.stdout.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {version}"));
        line[name.len()..].trim().to_string()
    };
    let git = std::process::Command::new("git")
        .args(["-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD"])
        .current_dir(crate::support::repository())
        .output();
    match git {
        Ok(git) if git.status.success() => {
            assert_eq!(value("commit"), String::from_utf8_lossy(&git.stdout).trim());
        }
        _ => assert_eq!(value("commit"), "unknown"),
    }
    assert!(
        value("target").starts_with(std::env::consts::ARCH),
        "{version}"
    );
    assert!(value("kernels").contains("scalar"), "{version}");
    assert!(value("BLAS").contains("OpenBLAS"), "{version}");
    assert!(value("S3").contains("s3://"), "{version}");
}

#[test]
fn completions_and_manual_are_printed_once_for_all_ranks_whatever_the_settings() {
    let script = P8::on(2)
        .args(["completions", "bash"])
        .env("P8_CONFIG", "/no/such/file")
        .env("P8_THREADS", "many")
        .succeed();
    assert_eq!(
        script.stdout.matches("complete -F").count() % 2,
        0,
        "{script}"
    );
    assert_eq!(script.stdout.matches("_p8() {").count(), 1, "{script}");
    let page = P8::on(2).args(["man", "pca"]).succeed();
    assert_eq!(page.stdout.matches(".TH p8-pca 1").count(), 1, "{page}");
    P8::on(1)
        .args(["man", "pac"])
        .fail(2, &["\"pac\"", "transform"]);
    P8::on(1)
        .args(["completions", "tcsh"])
        .fail(2, &["tcsh", "zsh"]);
}

#[test]
fn bash_completes_options_and_their_values() {
    let script = P8::on(1).args(["completions", "bash"]).succeed().stdout;
    let complete = |words: &str| {
        let last = words.split(' ').count();
        let ask = format!(
            "COMP_WORDS=(p8 {words}); COMP_CWORD={last}; _p8 p8 \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last} - 1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = std::process::Command::new("bash")
            .args(["-c", &format!("{script}\n{ask}")])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    assert_eq!(complete("--max"), "--max-bad-fraction");
    assert_eq!(complete("--pool m"), "max");
    assert_eq!(complete("trans"), "transform");
    assert_eq!(complete("pca --col"), "--column");
}

#[test]
fn a_variable_that_is_no_option_is_named_with_the_one_that_is_meant() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let finished = P8::small(2, images.path(), &output)
        .env("P8_COMPONENT", "2")
        .env("P8_BENCH_VENV", "x")
        .env("P8_TESTS_MAY_SKIP", "1")
        .succeed();
    let said = finished.stderr.matches("is not read").count();
    assert_eq!(said, 1, "{finished}");
    finished.demand(0, &["P8_COMPONENT is not read: is P8_COMPONENTS meant?"]);
}

#[test]
fn on_a_terminal_lines_fit_80_columns_and_progress_rewrites_its_own() {
    let images = Images::new(90);
    images.file("circle/broken.jpg", b"no picture");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    // `script` gives the command a terminal, also to mpirun, whose ranks have pipes.
    let words = [
        "mpirun -np 2",
        env!("CARGO_BIN_EXE_p8"),
        "--threads 1 --weights",
        crate::support::small_weights().to_str().unwrap(),
        "--input",
        images.path().to_str().unwrap(),
        "--output",
        output.to_str().unwrap(),
    ]
    .join(" ");
    let run = |more: &str| {
        let mut command = std::process::Command::new("script");
        for name in std::env::vars_os().map(|(name, _)| name) {
            if name.to_string_lossy().starts_with("P8_") {
                command.env_remove(name);
            }
        }
        let output = command
            .args(["-qec", &format!("{words} {more}"), "/dev/null"])
            .env("TERM", "xterm")
            // Slow enough to be seen.
            .env("P8_ISA", "scalar")
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = run("");
    let pictures: Vec<&str> = said
        .split("\r\x1b[K")
        .skip(1)
        .map(|picture| picture.split('\r').next().unwrap())
        .collect();
    assert!(
        pictures
            .iter()
            .any(|picture| picture.contains(" images/s, ")),
        "{said}"
    );
    for line in pictures.iter().copied().chain(said.split("\r\n")) {
        let shown = line.rsplit("\x1b[K").next().unwrap();
        // A path cannot be broken.
        if !shown.contains(output.to_str().unwrap()) {
            assert!(shown.chars().count() < 80, "{shown:?}");
        }
    }
    let last = said.trim_end().rsplit("\r\n").collect::<Vec<_>>();
    for words in [
        "look at this first",
        "90 images in ",
        "1 bad",
        "what is wrong with the others",
    ] {
        assert!(
            last.iter().any(|line| line.contains(words)),
            "{words}: {said}"
        );
    }
    assert_eq!(run("--overwrite --resume false -q"), "");
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
        P8::on(ranks)
            .args(["transform"])
            .fail(2, &["for example p8 transform --model"]);
        P8::on(ranks)
            .args(["pca"])
            .fail(2, &["for example p8 pca --features"]);
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
fn without_weights_plan_and_doctor_say_where_they_would_come_from() {
    let images = Images::new(2);
    let plan = P8::on(1)
        .args([
            "--dry-run".as_ref(),
            "--input".as_ref(),
            images.path().as_os_str(),
        ])
        .succeed();
    let doctor = P8::on(1).args(["doctor"]).succeed();
    for said in [plan, doctor] {
        let words = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "not in the cache /",
            "needs the network",
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "a run over other images stops",
        ] {
            assert!(words.contains(part), "{part}: {said}");
        }
    }
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
fn the_doctor_lists_and_reads_its_inputs_on_every_rank() {
    let images = Images::new(12);
    let doctor = |input: &std::path::Path| {
        P8::on(2).args(["doctor".as_ref(), "--input".as_ref(), input.as_os_str()])
    };
    let seen = doctor(images.path()).succeed();
    assert_eq!(seen.stdout.matches(": 12 images, ").count(), 2, "{seen}");
    assert!(seen.stdout.contains("circle/000.png (40 x 30"), "{seen}");
    let jpegs = doctor(images.path()).args(["--glob", "*.jpg"]).succeed();
    assert_eq!(jpegs.stdout.matches(": 3 images, ").count(), 2, "{jpegs}");

    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9.jpg");
    std::fs::write(images.path().join(odd), b"x").unwrap();
    let seen = doctor(images.path()).succeed();
    assert!(seen.stdout.contains("13 images, "), "{seen}");
    let words = seen.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("1 of them with a name that is not UTF-8"),
        "{seen}"
    );
}

#[test]
fn an_input_that_cannot_be_read_ends_the_doctor_with_the_code_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = |ranks: usize, input: &std::path::Path| {
        P8::on(ranks).args(["doctor".as_ref(), "--input".as_ref(), input.as_os_str()])
    };
    for ranks in [1, 3] {
        let missing = doctor(ranks, &folder.path().join("missing")).run();
        missing.demand(3, &["missing", "No such file", "--input"]);
        // All the same the ranks have told what they see.
        assert!(
            missing.stdout.contains("an input cannot be read"),
            "{missing}"
        );
        assert!(missing.stdout.contains("OpenBLAS"), "{missing}");
    }
    doctor(2, folder.path()).fail(3, &["no image found", "--glob"]);
    doctor(1, "/dev/null".as_ref()).fail(3, &["neither a folder nor a regular file"]);
    // A list alone says nothing about what can be read.
    std::os::unix::fs::symlink("nowhere", folder.path().join("a.jpg")).unwrap();
    doctor(2, folder.path()).fail(4, &["cannot read", "a.jpg"]);
    let images = Images::new(1);
    let whole = images.path().join("circle/000.png");
    std::fs::copy(whole, folder.path().join("b.png")).unwrap();
    doctor(2, folder.path()).succeed();
    for ranks in [1, 2] {
        P8::on(ranks)
            .args(["doctor", "--glob", "[", "--input", "x"])
            .fail(2, &["--glob"]);
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
