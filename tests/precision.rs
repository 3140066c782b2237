//! The network in bfloat16: whole runs, and the refusal where it cannot be had.

use crate::parity::{features, relative_l2, scores};
use crate::support::{Images, P8, assert_same_bytes, metrics, reference, stable_files};
use p8::kernels::{Isa, KernelsBf16};
use std::path::Path;

/// The precision in the metadata of a model file.
fn precision_of_model(output: &Path) -> String {
    let bytes = std::fs::read(output.join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    header.metadata().as_ref().unwrap()["precision"].clone()
}

#[test]
fn the_precision_is_told_everywhere_and_features_of_two_precisions_are_not_mixed() {
    let images = Images::new(6);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    // Plain loops run on every machine, and only where they are asked for.
    let run =
        |ranks, output: &Path| P8::small(ranks, images.path(), output).env("P8_ISA", "scalar");
    let resumed = || metrics(&output)["images"]["resumed"].as_u64().unwrap();
    run(2, &output).succeed();
    assert_eq!(precision_of_model(&output), "f32");
    run(2, &output)
        .args(["--precision", "bf16"])
        .fail(2, &["precision: f32 there, bf16 now", "--overwrite"]);

    let finished = run(2, &output)
        .args(["--precision", "bf16", "--overwrite"])
        .succeed();
    assert!(finished.stderr.contains("bf16 scalar"), "{finished}");
    assert_eq!(resumed(), 0, "nothing in f32 is taken");
    assert_eq!(precision_of_model(&output), "bf16");
    let told = metrics(&output);
    assert_eq!(told["settings"]["precision"]["value"], "bf16");
    let executor = told["environment"]["executor"].as_str().unwrap();
    assert!(executor.contains("bf16"), "{executor}");

    let other = folder.path().join("other");
    run(3, &other).env("P8_PRECISION", "bf16").succeed();
    let source = metrics(&other)["settings"]["precision"]["source"].clone();
    assert_eq!(source, "environment");
    assert_same_bytes(
        &stable_files(&output),
        &stable_files(&other),
        "2 ranks against 3",
    );
    run(2, &output).args(["--precision", "bf16"]).succeed();
    assert_eq!(resumed(), 6);
    run(2, &output).args(["--overwrite"]).succeed();
    assert_eq!(resumed(), 0, "nothing in bf16 is taken");
}

#[test]
fn bfloat16_is_refused_where_the_instruction_set_is_missing() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = || P8::small(2, images.path(), &output).args(["--precision", "bf16"]);
    if Isa::Avx2.is_available() {
        run().env("P8_ISA", "avx2").fail(
            2,
            &["--precision bf16", "avx2", "P8_ISA", "--precision f32"],
        );
    }
    if KernelsBf16::of(Isa::Avx512).is_none() {
        run().fail(2, &["--precision bf16", "AVX512-BF16", "--precision f32"]);
        return;
    }
    let finished = run().succeed();
    assert!(finished.stderr.contains("bf16 avx512bf16"), "{finished}");
}

#[test]
fn features_and_scores_of_the_photographs_are_near_those_of_f32() {
    let (Some(photos), Some(weights)) = (
        reference("images/photos"),
        reference("weights/resnet50-msra-stage4.safetensors"),
    ) else {
        return;
    };
    if KernelsBf16::of(Isa::Avx512).is_none() {
        eprintln!("skipped: this machine has no AVX512-BF16");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for topology in ["v1", "v1.5"] {
        let run = |precision: &str| {
            let output = folder.path().join(format!("{topology}-{precision}"));
            P8::on(2)
                .args(["--input".as_ref(), photos.as_os_str()])
                .args(["--weights".as_ref(), weights.as_os_str()])
                .args(["--output".as_ref(), output.as_os_str()])
                .args(["--topology", topology, "--precision", precision, "-k", "7"])
                .succeed();
            (features(&output), scores(&output))
        };
        let ((expected, expected_scores), (found, found_scores)) = (run("f32"), run("bf16"));
        assert_eq!(found.len(), 9);
        for (photo, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let cosine =
                dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
            assert!(cosine >= 0.9995, "{topology}, photograph {photo}: {cosine}");
            assert!(cosine < 1.0, "{topology}: nothing was rounded");
        }
        // The sign of a component hangs on its largest entry, and two may be of nearly the same size.
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let found_scores: Vec<Vec<f64>> = found_scores
            .iter()
            .zip(&expected_scores)
            .map(|(found, expected)| {
                let sign = dot(found, expected).signum();
                found.iter().map(|value| sign * value).collect()
            })
            .collect();
        // As the reference measures scores: the norm of all differences over that of all scores.
        let error = relative_l2(&found_scores.concat(), &expected_scores.concat());
        assert!(error <= 0.02, "{topology}: scores differ by {error:e}");
        for (k, (found, expected)) in found_scores.iter().zip(&expected_scores).enumerate() {
            // Components of nearly the same singular value turn into each other.
            let error = relative_l2(found, expected);
            eprintln!("{topology}: component {} differs by {error:.1e}", k + 1);
            assert!(
                error <= 0.05,
                "{topology}: component {} by {error:e}",
                k + 1
            );
        }
    }
}
