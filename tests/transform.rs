//! `p8 transform`: scores by a model that was fitted before.

use crate::support::{Images, P8, metrics, names, scores, small_weights};
use std::path::Path;

fn transform(ranks: usize, model: &Path, output: &Path) -> P8 {
    P8::on(ranks)
        .args(["transform"])
        .args(["--model".as_ref(), model.as_os_str()])
        .args(["--output".as_ref(), output.as_os_str()])
}

fn of_images(ranks: usize, model: &Path, images: &Path, output: &Path) -> P8 {
    transform(ranks, model, output)
        .args(["--weights".as_ref(), small_weights().as_os_str()])
        .args(["--input".as_ref(), images.as_os_str()])
}

fn assert_same_files(one: &Path, other: &Path, files: &[&str], which: &str) {
    for name in files {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(one) == read(other), "{name} differs: {which}");
    }
}

#[test]
fn the_training_images_get_the_scores_of_the_fit_bit_for_bit() {
    let images = Images::new(20);
    images.file("circle/broken.jpg", b"not an image");
    let folder = tempfile::tempdir().unwrap();
    let fit = folder.path().join("fit");
    P8::small(2, images.path(), &fit)
        .args(["-k", "3", "--whiten", "--layer", "layer2", "--pool", "max"])
        .args(["--preprocess", "torchvision", "--topology", "v1.5"])
        .succeed();
    let model = fit.join("model.safetensors");
    for ranks in [1, 3] {
        let output = folder.path().join(format!("scored-{ranks}"));
        of_images(ranks, &model, images.path(), &output).succeed();
        let files = ["scores.csv", "scores.parquet", "outcomes.parquet"];
        assert_same_files(&fit, &output, &files, "images");
        let metrics = metrics(&output);
        assert_eq!(metrics["task"], "transform");
        assert!(metrics["certificate"].is_null(), "nothing was fitted");
        assert_eq!(metrics["settings"]["pool"]["value"], "max");
        assert_eq!(metrics["settings"]["pool"]["source"], "model");
        let there = names(&output);
        assert!(!there.iter().any(|name| name == "model.safetensors"));
        assert!(!there.iter().any(|name| name == "report.html"));
        let stored = folder.path().join(format!("stored-{ranks}"));
        transform(ranks, &model, &stored)
            .args(["--features".as_ref(), fit.as_os_str()])
            .succeed();
        assert_same_files(&fit, &stored, &files[..2], "stored features");
    }

    // A score does not depend on the other images, and a new image needs no new model.
    let few = Images::new(0);
    few.picture("circle/new.png", 77);
    std::fs::copy(
        images.path().join("circle/000.png"),
        few.path().join("circle/000.png"),
    )
    .unwrap();
    let output = folder.path().join("few");
    of_images(2, &model, few.path(), &output).succeed();
    let (_, rows) = scores(&output);
    let (_, fitted) = scores(&fit);
    let name = |row: &&Vec<String>| row[0].ends_with("circle/000.png");
    let known = fitted.iter().find(name).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows.iter().find(name).unwrap()[1..], known[1..]);
}

#[test]
fn a_model_of_other_weights_or_preprocessing_is_refused() {
    let images = Images::new(5);
    let folder = tempfile::tempdir().unwrap();
    let fit = folder.path().join("fit");
    P8::small(1, images.path(), &fit)
        .args(["-k", "2"])
        .succeed();
    let model = fit.join("model.safetensors");
    let output = folder.path().join("out");
    let run = || of_images(2, &model, images.path(), &output);

    // The last weight, changed in its lowest bit.
    let mut bytes = std::fs::read(small_weights()).unwrap();
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    let other = folder.path().join("other.safetensors");
    std::fs::write(&other, bytes).unwrap();
    let asked = metrics(&fit)["weights"]["sha256"]
        .as_str()
        .unwrap()
        .to_string();
    transform(2, &model, &output)
        .args(["--weights".as_ref(), other.as_os_str()])
        .args(["--input".as_ref(), images.path().as_os_str()])
        .fail(6, &["other.safetensors", "small.safetensors", &asked]);
    transform(2, &model, &output)
        .args(["--input".as_ref(), images.path().as_os_str()])
        .fail(2, &["small.safetensors", "--weights"]);
    run()
        .args(["--preprocess", "torchvision"])
        .fail(2, &["--preprocess torchvision", "fitted with caffe"]);
    run()
        .env("P8_LAYER", "layer1")
        .fail(2, &["--layer layer1", "fitted with layer4"]);
    run().args(["--preprocess", "caffe"]).succeed();

    let other_layer = folder.path().join("layer3");
    P8::small(1, images.path(), &other_layer)
        .args(["--layer", "layer3"])
        .succeed();
    transform(1, &model, &output)
        .args(["--features".as_ref(), other_layer.as_os_str()])
        .fail(3, &["32 features", "64 features"]);
    let other_pool = folder.path().join("max");
    P8::small(1, images.path(), &other_pool)
        .args(["--pool", "max"])
        .succeed();
    transform(1, &model, &output)
        .args(["--features".as_ref(), other_pool.as_os_str()])
        .args(["--overwrite"])
        .fail(3, &["pool: max there, avg in the model"]);
}

#[test]
fn what_is_no_model_or_no_place_for_results_is_refused() {
    let images = Images::new(3);
    let folder = tempfile::tempdir().unwrap();
    let fit = folder.path().join("fit");
    P8::small(1, images.path(), &fit).succeed();
    let model = fit.join("model.safetensors");
    let output = folder.path().join("out");
    of_images(2, &model, images.path(), &fit)
        .args(["--overwrite"])
        .fail(2, &["the model and its results are there"]);
    let damaged = folder.path().join("damaged.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - 8]).unwrap();
    of_images(2, &damaged, images.path(), &output).fail(4, &["damaged.safetensors"]);
    of_images(2, &small_weights(), images.path(), &output).fail(4, &["cannot read model"]);
    of_images(2, &folder.path().join("none"), images.path(), &output).fail(4, &["none"]);
    transform(2, &model, &output).fail(2, &["--input"]);
    P8::on(2)
        .args(["transform", "--input", "x"])
        .fail(2, &["--model"]);
    of_images(1, &model, images.path(), &output)
        .args(["-k", "2"])
        .fail(2, &["'-k'"]);
}
