//! The whole program on whole folders: what it writes, and the same bytes at every rank count.

use crate::support::{
    Images, P8, RANKS, assert_same_bytes, metrics, names, reference, repository, scores,
    small_weights, stable_files,
};

/// Runs at every rank count and at two thread counts and compares everything with one rank.
fn same_bytes_everywhere(command: impl Fn(usize, &std::path::Path) -> P8) {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    command(1, &first).args(["--threads", "1"]).succeed();
    let expected = stable_files(&first);
    for ranks in RANKS {
        for threads in ["1", "3"] {
            let output = folder.path().join(format!("{ranks}-{threads}"));
            command(ranks, &output)
                .args(["--threads", threads])
                .succeed();
            let which = format!("{ranks} ranks of {threads} threads against one");
            assert_same_bytes(&expected, &stable_files(&output), &which);
        }
    }
}

#[test]
fn few_images_give_the_same_bytes_at_every_rank_and_thread_count() {
    let images = Images::new(9);
    images.file("circle/broken.jpg", b"not an image");
    same_bytes_everywhere(|ranks, output| P8::small(ranks, images.path(), output));
}

#[test]
fn more_images_than_features_give_the_same_bytes_at_every_rank_count() {
    // 140 rows, 8 features: leaves of at least 16 rows, blocks of 2, so leaves cross rank borders.
    let images = Images::new(140);
    same_bytes_everywhere(|ranks, output| {
        P8::small(ranks, images.path(), output).args(["-k", "5", "--layer", "layer1"])
    });
}

#[test]
fn flattened_features_give_the_same_bytes_at_every_rank_count() {
    let images = Images::new(5);
    same_bytes_everywhere(|ranks, output| {
        P8::small(ranks, images.path(), output).args([
            "--pool",
            "none",
            "-k",
            "3",
            "--preprocess",
            "torchvision",
            "--topology",
            "v1.5",
        ])
    });
}

#[test]
fn real_photographs_through_the_real_network_give_the_same_bytes_at_every_rank_count() {
    let (Some(photos), Some(weights)) = (
        reference("images/photos"),
        reference("weights/resnet50-msra-stage4.safetensors"),
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |ranks: usize| {
        let output = folder.path().join(ranks.to_string());
        P8::on(ranks)
            .args(["--input".as_ref(), photos.as_os_str()])
            .args(["--weights".as_ref(), weights.as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .args(["--topology", "v1", "--preprocess", "caffe", "-k", "7"])
            .succeed();
        stable_files(&output)
    };
    let expected = run(1);
    for ranks in &RANKS[1..] {
        assert_same_bytes(
            &expected,
            &run(*ranks),
            &format!("{ranks} ranks against one"),
        );
    }
    // Three carrots, three pears, three apples: the first component alone must not mix them all up.
    let (_, rows) = scores(&folder.path().join("3"));
    assert_eq!(rows.len(), 9);
}

#[test]
fn a_run_writes_every_file_of_the_contract_and_nothing_else() {
    let images = Images::new(7);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(3, images.path(), &output)
        .args(["-k", "4"])
        .succeed();
    assert!(
        metrics(&output)["phases"]["publish"]["max_seconds"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    let mut expected: Vec<String> = (0..7)
        .map(|block| format!("features/block-{block:06}.parquet"))
        .collect();
    expected.extend(
        [
            ".p8-settings.json",
            "metrics.json",
            "model.safetensors",
            "outcomes.parquet",
            "report.html",
            "scatter.svg",
            "scores.csv",
            "scores.parquet",
            "scree.svg",
        ]
        .map(String::from),
    );
    expected.sort();
    assert_eq!(names(&output), expected);

    let (header, rows) = scores(&output);
    assert_eq!(
        header,
        [
            "path",
            "label",
            "pc1",
            "pc2",
            "pc3",
            "pc4",
            "reconstruction_error"
        ]
    );
    let paths: Vec<&String> = rows.iter().map(|row| &row[0]).collect();
    assert!(paths.is_sorted() && paths.len() == 7);
    assert!(
        rows.iter()
            .all(|row| row[0].contains(&format!("/{}/", row[1]))),
        "the label is the folder"
    );

    let metrics = metrics(&output);
    assert_eq!(metrics["images"]["listed"], 7);
    assert_eq!(metrics["images"]["ok"], 7);
    assert_eq!(metrics["model"]["k"], 4);
    assert_eq!(metrics["model"]["d"], 64);
    assert_eq!(metrics["model"]["solver"], "wide");
    assert_eq!(metrics["environment"]["ranks"], 3);
    assert_eq!(metrics["settings"]["components"]["source"], "flag");
    assert_eq!(metrics["settings"]["layer"]["source"], "default");
    assert!(metrics["images_per_second"].as_f64().unwrap() > 0.0);
    let first_features = metrics["first_features_seconds"].as_f64().unwrap();
    assert!(first_features > 0.0);
    let peaks: Vec<u64> =
        serde_json::from_value(metrics["environment"]["peak_memory_bytes_per_rank"].clone())
            .unwrap();
    assert!(peaks.len() == 3 && peaks.iter().all(|&peak| peak > 1 << 20));
    assert!(
        metrics["certificate"]["orthogonality"]["value"]
            .as_f64()
            .unwrap()
            < 1e-12
    );
    let ratios: Vec<f64> =
        serde_json::from_value(metrics["model"]["explained_variance_ratio"].clone()).unwrap();
    assert!(ratios.iter().sum::<f64>() <= 1.0 + 1e-12 && ratios.is_sorted_by(|a, b| a >= b));
}

#[test]
fn scores_have_the_variance_that_the_model_states() {
    let images = Images::new(60);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["-k", "3"])
        .succeed();
    let metrics = metrics(&output);
    let total = metrics["model"]["total_variance"].as_f64().unwrap();
    let (_, rows) = scores(&output);
    for component in 0..3 {
        let column: Vec<f64> = rows
            .iter()
            .map(|row| row[2 + component].parse().unwrap())
            .collect();
        let mean = column.iter().sum::<f64>() / 60.0;
        let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 59.0;
        let stated = metrics["model"]["explained_variance_ratio"][component]
            .as_f64()
            .unwrap()
            * total;
        assert!(
            (variance - stated).abs() < 1e-5 * stated,
            "component {component}: {variance} and {stated}"
        );
        assert!(mean.abs() < 1e-5 * stated.sqrt(), "scores are centred");
    }
}

#[test]
fn whitened_scores_have_unit_variance() {
    let images = Images::new(40);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["-k", "2", "--whiten"])
        .succeed();
    let (_, rows) = scores(&output);
    for component in 0..2 {
        let squares: f64 = rows
            .iter()
            .map(|row| row[2 + component].parse::<f64>().unwrap().powi(2))
            .sum();
        assert!((squares / 39.0 - 1.0).abs() < 1e-4, "{squares}");
    }
}

#[test]
fn random_projections_state_their_error_and_pass_the_exact_checks() {
    let images = Images::new(30);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["-k", "3", "--solver", "randomized", "--verify", "true"])
        .succeed();
    let metrics = metrics(&output);
    assert_eq!(metrics["model"]["solver"], "randomized");
    let certificate = &metrics["certificate"];
    assert_eq!(certificate["approximation"]["directions"], 13);
    assert!(certificate["approximation"]["residual"].as_f64().unwrap() < 0.1);
    for check in ["pca_residual", "left_orthogonality", "reconstruction"] {
        let check = &certificate["exact"][check];
        assert!(check["value"].as_f64().unwrap() <= check["limit"].as_f64().unwrap());
    }
}

#[test]
fn variance_decides_the_number_of_components() {
    let images = Images::new(30);
    let folder = tempfile::tempdir().unwrap();
    let run = |fraction: &str| {
        let output = folder.path().join(fraction);
        P8::small(1, images.path(), &output)
            .args(["--variance", fraction])
            .succeed();
        let ratios: Vec<f64> =
            serde_json::from_value(metrics(&output)["model"]["explained_variance_ratio"].clone())
                .unwrap();
        ratios
    };
    for fraction in ["0.5", "0.9", "1"] {
        let ratios = run(fraction);
        let wanted: f64 = fraction.parse().unwrap();
        let (sum, before) = (
            ratios.iter().sum::<f64>(),
            ratios[..ratios.len() - 1].iter().sum::<f64>(),
        );
        assert!(
            sum >= wanted - 1e-9 && before < wanted,
            "{fraction}: {ratios:?}"
        );
    }
}

#[test]
fn one_image_and_more_ranks_than_images_are_fine() {
    let images = Images::new(1);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(4, images.path(), &output).succeed();
    let (_, rows) = scores(&output);
    assert_eq!(rows.len(), 1);
    assert_eq!(metrics(&output)["model"]["k"], 0);
}

#[test]
fn a_program_started_without_mpirun_is_one_rank() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let finished = P8::small(1, images.path(), &output).start_alone().wait();
    finished.demand(0, &["1 rank on 1 host"]);
    assert_eq!(metrics(&output)["environment"]["ranks"], 1);
}

#[test]
fn labels_globs_and_odd_names_come_through() {
    let images = Images::new(0);
    images.picture("größe façade/果物 1.png", 1);
    images.picture("a,\"b\"/x y.png", 2);
    images.picture("a,\"b\"/z.jpg", 3);
    images.picture("<script>/1.png", 4);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["--glob", "*.png", "--label", "regex:([^/]+)/[^/]+$"])
        .succeed();
    let (_, rows) = scores(&output);
    let labels: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(labels, ["<script>", "a,\"b\"", "größe façade"]);
    let report = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(report.contains("&lt;script&gt;/1.png"));
    // The data and the script of the page, and no third one.
    assert_eq!(report.matches("<script").count(), 2);
    let none = folder.path().join("none");
    P8::small(2, images.path(), &none)
        .args(["--label", "none"])
        .succeed();
    assert!(scores(&none).1.iter().all(|row| row[1].is_empty()));
}

#[test]
fn every_layer_and_pool_has_its_width() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    // The small network has 8, 16, 32 and 64 channels on 56, 28, 14 and 7 pixels a side.
    for (layer, pool, width) in [
        ("layer1", "avg", 8),
        ("layer2", "max", 16),
        ("layer3", "avg", 32),
        ("layer4", "max", 64),
        ("layer4", "none", 7 * 7 * 64),
    ] {
        let output = folder.path().join(format!("{layer}-{pool}"));
        P8::small(1, images.path(), &output)
            .args(["--layer", layer, "--pool", pool])
            .succeed();
        assert_eq!(metrics(&output)["model"]["d"], width, "{layer} {pool}");
    }
}

#[test]
fn keras_and_pytorch_files_of_one_network_give_the_same_scores() {
    let images = Images::new(5);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let path = folder.path().join(name);
        let packed =
            std::fs::File::open(repository().join(format!("tests/data/weights/{name}.gz")))
                .unwrap();
        let mut weights = std::fs::File::create(&path).unwrap();
        std::io::copy(&mut flate2::read::GzDecoder::new(packed), &mut weights).unwrap();
        let output = folder.path().join(format!("out-{name}"));
        P8::on(2)
            .args(["--weights".as_ref(), path.as_os_str()])
            .args(["--input".as_ref(), images.path().as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .args(["--topology", "v1", "--preprocess", "caffe", "-k", "2"])
            .succeed();
        scores(&output).1
    };
    let keras = run("classic.h5");
    assert_eq!(keras, run("keras3.weights.h5"));
    // PyTorch's own epsilon is 1e-5 instead of 1.001e-5: the scores are close, not equal.
    for (one, other) in keras.iter().zip(run("zip.pth")) {
        for (a, b) in one[2..4].iter().zip(&other[2..4]) {
            let (a, b): (f64, f64) = (a.parse().unwrap(), b.parse().unwrap());
            assert!((a - b).abs() < 1e-2 * (1.0 + a.abs()), "{a} {b}");
        }
    }
}

#[test]
fn the_weights_are_named_in_every_result() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(1, images.path(), &output).succeed();
    let bytes = std::fs::read(output.join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let sha256 = metrics(&output)["weights"]["sha256"]
        .as_str()
        .unwrap()
        .to_string();
    assert_eq!(metadata["weights_sha256"], sha256);
    assert_eq!(metadata["layer"], "layer4");
    assert_eq!(metadata["n"], "3");
    assert!(small_weights().exists());
}

/// What the hosts of a cluster may do unasked: the linear algebra of one rank runs on the kernels of another
/// processor.
#[cfg(target_arch = "x86_64")]
#[test]
fn ranks_on_unlike_processors_are_warned_of() {
    let images = Images::new(4);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let unlike = r#"OPENBLAS_CORETYPE=Haswell
        [ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 0 ] || OPENBLAS_CORETYPE=Sandybridge
        export OPENBLAS_CORETYPE
        exec "$@""#;
    let finished = P8::small(2, images.path(), &output)
        .launcher(["sh", "-c", unlike, "sh"])
        .succeed();
    let warned = "run on unlike processors";
    assert!(finished.stderr.contains(warned), "{finished}");
    let warnings = metrics(&output)["warnings"].to_string();
    assert!(warnings.contains(warned), "{warnings}");
}
