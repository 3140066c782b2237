//! Every format against the same network, as Keras, PyTorch and h5py wrote it.
//!
//! `tests/data/weights/make.py` tells how; the names, shapes and values compared here come from
//! PyTorch's copy of the network, not from p8.

use std::io::Read;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use tempfile::TempDir;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights")
}

/// Unpacks a gzipped fixture into a folder of its own.
fn unpacked(name: &str) -> (TempDir, PathBuf) {
    let packed = std::fs::File::open(fixtures().join(format!("{name}.gz"))).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read_packed(name: &str) -> StateDict {
    let (_folder, path) = unpacked(name);
    read(&path).unwrap()
}

/// The network in single precision, straight from the safetensors file.
fn reference() -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(fixtures().join("f32.safetensors")).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let (values, _) = view.data().as_chunks::<4>();
            let tensor = Tensor {
                shape: view.shape().to_vec(),
                data: values.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            };
            (name.to_owned(), tensor)
        })
        .collect()
}

/// Fails with the first name that differs instead of with thousands of numbers.
fn assert_same(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    let names = |tensors: &BTreeMap<String, Tensor>| tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (name, tensor) in found {
        assert_eq!(tensor.shape, expected[name].shape, "{name}");
        assert_eq!(tensor.data, expected[name].data, "{name}");
    }
}

#[test]
fn keras_files_of_every_layout_give_the_same_tensors() {
    let expected = reference();
    assert_eq!(expected.len(), 53 + 4 * 53);
    for (name, format) in [
        ("classic.h5", Format::KerasH5),
        ("classic-model.h5", Format::KerasH5),
        ("classic-2019.h5", Format::KerasH5),
        ("keras3.weights.h5", Format::KerasWeightsH5),
        ("unnamed.weights.h5", Format::KerasWeightsH5),
        ("nested.weights.h5", Format::KerasWeightsH5),
    ] {
        let state = read_packed(name);
        assert_same(&state.tensors, &expected);
        assert_eq!(state.origin.id, name);
        assert_eq!(state.origin.format, format, "{name}");
        assert_eq!(state.origin.family, Family::Keras);
        assert_eq!(state.origin.topology, TrainedTopology::V1);
        assert_eq!(state.origin.preprocess, TrainedPreprocess::Caffe);
        assert_eq!(state.origin.batch_norm_epsilon, 1.001e-5);
    }
}

#[test]
fn the_classifier_of_a_keras_model_is_ignored_by_name() {
    assert_eq!(
        read_packed("classic-model.h5").ignored,
        [
            "model_weights/predictions/predictions/bias",
            "model_weights/predictions/predictions/kernel"
        ]
    );
    assert_eq!(
        read_packed("nested.weights.h5").ignored,
        ["layers/dense/vars/0", "layers/dense/vars/1"]
    );
    assert!(read_packed("classic.h5").ignored.is_empty());
}

#[test]
fn both_pytorch_containers_give_the_same_tensors() {
    for name in ["zip.pth", "legacy.pth"] {
        let state = read_packed(name);
        assert_same(&state.tensors, &reference());
        assert_eq!(state.origin.format, Format::Pytorch);
        assert_eq!(state.origin.family, Family::Torchvision);
        assert_eq!(state.origin.topology, TrainedTopology::V1_5);
        assert_eq!(state.origin.preprocess, TrainedPreprocess::Torchvision);
        assert_eq!(state.origin.batch_norm_epsilon, 1e-5);
    }
    assert_eq!(read_packed("legacy.pth").ignored, ["optimizer.momentum"]);
}

#[test]
fn safetensors_of_every_width_give_the_same_tensors_but_for_rounding() {
    let rounded = |round: fn(f32) -> f32| {
        let mut tensors = reference();
        for value in tensors.values_mut().flat_map(|tensor| &mut tensor.data) {
            *value = round(*value);
        }
        tensors
    };
    for (name, expected) in [
        ("f32.safetensors", reference()),
        ("f64.safetensors", reference()),
        ("f16.safetensors", rounded(|v| f16::from_f32(v).to_f32())),
        ("bf16.safetensors", rounded(|v| bf16::from_f32(v).to_f32())),
    ] {
        let state = read(&fixtures().join(name)).unwrap();
        assert_same(&state.tensors, &expected);
        assert_eq!(state.origin.format, Format::Safetensors);
        assert_eq!(state.origin.topology, TrainedTopology::V1);
        assert_eq!(state.origin.preprocess, TrainedPreprocess::Caffe);
        assert_eq!(state.origin.batch_norm_epsilon, 1.001e-5);
    }
}

#[test]
fn content_decides_and_not_the_extension() {
    let (folder, path) = unpacked("zip.pth");
    let misnamed = folder.path().join("weights.h5");
    std::fs::rename(path, &misnamed).unwrap();
    assert_eq!(read(&misnamed).unwrap().origin.format, Format::Pytorch);
}

#[test]
fn a_checkpoint_that_would_run_a_command_is_refused_and_runs_nothing() {
    let (folder, path) = unpacked("hostile.pth");
    let error = read(&path).unwrap_err();
    assert!(
        matches!(&error, WeightsError::ForbiddenObject { class, .. } if class == "posix.system"),
        "{error}"
    );
    assert!(!folder.path().join("hostile-was-here").exists());
    assert!(!Path::new("hostile-was-here").exists());
}

#[test]
fn a_missing_file_is_an_error_of_the_weights() {
    use crate::error::{Classify, Kind, chain};
    let error = read(Path::new("no/such/file.pth")).unwrap_err();
    assert_eq!(error.kind(), Kind::Weights);
    assert_eq!(
        chain(&error),
        "cannot read weights \"no/such/file.pth\": No such file or directory (os error 2)"
    );
}

#[test]
fn what_is_no_weights_file_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.h5");
    for bytes in [
        &b""[..],
        b"<!DOCTYPE html><html>",
        b"version https://git-lfs",
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, WeightsError::Unrecognised { .. }),
            "{error}"
        );
    }
    std::fs::write(
        &path,
        [&b"PK\x03\x04"[..], &[0; 26], b"metadata.json"].concat(),
    )
    .unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, WeightsError::KerasArchive { .. }),
        "{error}"
    );
}

#[test]
fn a_truncated_file_of_any_format_is_an_error_and_no_panic() {
    for name in [
        "zip.pth",
        "legacy.pth",
        "classic.h5",
        "keras3.weights.h5",
        "classic-2019.h5",
    ] {
        let (_folder, path) = unpacked(name);
        let whole = std::fs::read(&path).unwrap();
        for eighths in 0..8 {
            std::fs::write(&path, &whole[..whole.len() * eighths / 8]).unwrap();
            assert!(read(&path).is_err(), "{name} cut to {eighths}/8");
        }
    }
    let whole = std::fs::read(fixtures().join("f32.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    for length in [0, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(read(&path).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn a_damaged_file_of_any_format_gives_whole_tensors_or_an_error() {
    // Knuth's multiplicative generator, so that a failure can be repeated.
    let mut state = 50u64;
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for name in [
        "zip.pth",
        "legacy.pth",
        "classic-2019.h5",
        "keras3.weights.h5",
    ] {
        let (_folder, path) = unpacked(name);
        let whole = std::fs::read(&path).unwrap();
        for round in 0..40 {
            let mut damaged = whole.clone();
            for _ in 0..20 {
                // Headers matter most, and most of them stand near the start.
                let reach = if round % 2 == 0 { 4096 } else { whole.len() };
                damaged[below(reach)] = below(256) as u8;
            }
            std::fs::write(&path, damaged).unwrap();
            if let Ok(state) = read(&path) {
                for (tensor, value) in state.tensors {
                    let length = value.shape.iter().product::<usize>();
                    assert_eq!(value.data.len(), length, "{name} {round} {tensor}");
                }
            }
        }
    }
}

/// A safetensors file with one tensor.
fn one_tensor(dtype: &str, shape: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let header = format!(
        "{{\"conv1.weight\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{}]}}}}",
        bytes.len()
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.safetensors");
    std::fs::write(&path, file).unwrap();
    (folder, path)
}

#[test]
fn values_that_are_no_numbers_are_refused_with_their_place() {
    let bytes: Vec<u8> = [1.0f32, f32::NAN]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let (_folder, path) = one_tensor("F32", "[2]", &bytes);
    let error = read(&path).unwrap_err();
    assert!(
        matches!(&error, WeightsError::NotFinite { tensor, index: 1, .. } if tensor == "conv1.weight"),
        "{error}"
    );
    let (_folder, path) = one_tensor("I64", "[1]", &[0; 8]);
    let error = read(&path).unwrap_err();
    assert!(matches!(error, WeightsError::ElementType { .. }), "{error}");
}

#[test]
fn the_reference_weights_agree_across_their_formats() {
    let root = std::env::var_os("P8_REFERENCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference"),
        PathBuf::from,
    );
    if !root.is_dir() {
        eprintln!("skipped: no reference data at {}", root.display());
        return;
    }
    let tiny = |name: &str| read(&root.join("tiny").join(name)).unwrap();
    let expected = tiny("tiny-resnet50-f32.safetensors");
    assert_eq!(expected.tensors.len(), 265);
    // 53 counters and the two tensors of the classifier.
    assert_eq!(expected.ignored.len(), 55);
    for name in ["tiny-resnet50.pth", "tiny-resnet50-legacy.pth"] {
        let state = tiny(name);
        assert_same(&state.tensors, &expected.tensors);
        assert_eq!(state.ignored, expected.ignored);
    }
    // One part in 2^11 and 2^8 of the value, or half the smallest subnormal half.
    for (name, relative) in [
        ("tiny-resnet50-f16.safetensors", 2f32.powi(-11)),
        ("tiny-resnet50-bf16.safetensors", 2f32.powi(-8)),
    ] {
        for (tensor, rounded) in tiny(name).tensors {
            for (rounded, exact) in rounded.data.iter().zip(&expected.tensors[&tensor].data) {
                let bound = (exact.abs() * relative).max(2f32.powi(-25));
                assert!(
                    (rounded - exact).abs() <= bound,
                    "{name} {tensor}: {rounded} {exact}"
                );
            }
        }
    }

    let large = read(&root.join("weights/resnet50-msra-stage4.safetensors")).unwrap();
    assert_eq!(large.tensors.len(), 265);
    assert_eq!(large.origin.topology, TrainedTopology::V1);
    assert_eq!(large.origin.preprocess, TrainedPreprocess::Caffe);
    assert_eq!(large.origin.batch_norm_epsilon, 1e-5);
    let sums = std::fs::read_to_string(root.join("SHA256SUMS")).unwrap();
    assert!(sums.contains(&large.origin.sha256));
}

#[test]
fn the_first_value_that_is_no_number_is_found_wherever_it_stands() {
    let mut tensor = Tensor {
        shape: vec![10_000],
        data: vec![f32::MAX; 10_000],
    };
    assert_eq!(tensor.first_not_finite(), None);
    for (place, value) in [(9999, f32::NAN), (4096, f32::INFINITY), (17, f32::NAN)] {
        tensor.data[place] = value;
        assert_eq!(tensor.first_not_finite(), Some(place));
    }
}
