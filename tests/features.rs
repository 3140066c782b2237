//! `p8 pca`: components of feature vectors that stand in files.

use crate::support::{Images, P8, metrics, names, reference, scores};
use arrow::array::{ArrayRef, Float64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `p8 pca` on files, without images and weights.
pub fn pca(ranks: usize, features: &Path, output: &Path) -> P8 {
    P8::on(ranks)
        .args(["pca"])
        .args(["--features".as_ref(), features.as_os_str()])
        .args(["--output".as_ref(), output.as_os_str()])
}

/// What must be the same wherever the same features come from.
fn results(output: &Path) -> BTreeMap<String, Vec<u8>> {
    ["scores.parquet", "scores.csv", "model.safetensors"]
        .into_iter()
        .map(|name| (name.to_string(), std::fs::read(output.join(name)).unwrap()))
        .collect()
}

fn assert_same(one: &BTreeMap<String, Vec<u8>>, other: &BTreeMap<String, Vec<u8>>, which: &str) {
    for (name, bytes) in one {
        assert!(bytes == &other[name], "{name} differs: {which}");
    }
}

/// Numbers in [-1, 1) that look random, `rows` times `width`.
pub fn numbers(rows: usize, width: usize) -> Vec<f64> {
    let mut state = 7u64;
    (0..rows * width)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Exact in float32, too.
            ((state >> 44) as f64) / f64::from(1 << 19) - 1.0
        })
        .collect()
}

/// A NumPy file of version 1.0: magic, length of the header, a Python literal that ends at a multiple
/// of 64 bytes, values.
pub fn npy(path: &Path, descr: &str, fortran: bool, rows: usize, width: usize, values: &[u8]) {
    let order = if fortran { "True" } else { "False" };
    let text =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({rows}, {width}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{text:<0$}\n", length - 1).as_bytes());
    bytes.extend(values);
    std::fs::write(path, bytes).unwrap();
}

/// Vectors in a column of lists, some rows in each row group.
fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(
        std::fs::File::create(path).unwrap(),
        batch.schema(),
        Some(
            parquet::file::properties::WriterProperties::builder()
                .set_max_row_group_row_count(Some(37))
                .build(),
        ),
    )
    .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn lists(values: &[f64], width: usize) -> ArrayRef {
    let rows = values
        .chunks(width)
        .map(|row| Some(row.iter().map(|value| Some(*value)).collect::<Vec<_>>()));
    Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows))
}

#[test]
fn the_shards_of_a_run_give_the_result_of_the_run_at_every_rank_count() {
    let folder = tempfile::tempdir().unwrap();
    // Fewer rows than features, then more; images that fail leave blocks of other sizes.
    for (count, arguments) in [
        (9, ["-k", "4", "--layer", "layer4"]),
        (140, ["-k", "5", "--layer", "layer1"]),
    ] {
        let images = Images::new(count);
        images.file("circle/broken.jpg", b"not an image");
        let run = folder.path().join(format!("run-{count}"));
        P8::small(2, images.path(), &run).args(arguments).succeed();
        let expected = results(&run);
        for ranks in [1, 2, 3] {
            let output = folder.path().join(format!("pca-{count}-{ranks}"));
            pca(ranks, &run, &output).args(&arguments[..2]).succeed();
            assert_same(&expected, &results(&output), &format!("{ranks} ranks"));
            assert_eq!(
                names(&output),
                [
                    ".p8-settings.json",
                    "metrics.json",
                    "model.safetensors",
                    "report.html",
                    "scatter.svg",
                    "scores.csv",
                    "scores.parquet",
                    "scree.svg"
                ]
            );
        }
        let metrics = metrics(&folder.path().join(format!("pca-{count}-3")));
        assert_eq!(metrics["task"], "pca");
        assert_eq!(metrics["images"]["ok"], count);
        assert_eq!(metrics["images"]["computed"], 0);
        assert_eq!(metrics["weights"]["id"], "small.safetensors");
        let orthogonality = &metrics["certificate"]["orthogonality"]["value"];
        assert!(orthogonality.as_f64().unwrap() < 1e-12);
    }
}

#[test]
fn numpy_and_parquet_of_the_same_numbers_give_the_same_bytes_at_every_rank_count() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    // Blocks of three rows, of which leaves are made that cross rank borders.
    let (rows, width) = (300, 6);
    let values = numbers(rows, width);
    let by_columns: Vec<f32> = (0..width)
        .flat_map(|column| values.iter().skip(column).step_by(width))
        .map(|value| *value as f32)
        .collect();
    let doubles: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let singles: Vec<u8> = by_columns.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&file("c.npy"), "<f8", false, rows, width, &doubles);
    npy(&file("fortran.npy"), "<f4", true, rows, width, &singles);
    parquet(&file("list.parquet"), vec![("v", lists(&values, width))]);
    let several = file("several");
    std::fs::create_dir(&several).unwrap();
    let cut = 101 * width;
    parquet(
        &several.join("a.parquet"),
        vec![("v", lists(&values[..cut], width))],
    );
    parquet(
        &several.join("b.parquet"),
        vec![("v", lists(&values[cut..], width))],
    );

    let mut expected = None;
    for (number, name) in ["c.npy", "fortran.npy", "list.parquet", "several"]
        .into_iter()
        .enumerate()
    {
        for ranks in [1, 2, 3] {
            let output = file(&format!("out-{number}-{ranks}"));
            pca(ranks, &file(name), &output).args(["-k", "3"]).succeed();
            let found = results(&output);
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_same(expected, &found, &format!("{name} at {ranks} ranks"));
        }
    }
    let output = file("out-0-2");
    let (header, scored) = scores(&output);
    assert_eq!(header.len(), 6);
    assert_eq!(
        (scored.len(), scored[299][0].as_str()),
        (rows, "row-0000299")
    );
    let metrics = metrics(&output);
    assert_eq!(
        (&metrics["model"]["n"], &metrics["model"]["d"]),
        (&300.into(), &6.into())
    );
    assert!(metrics["weights"].is_null());
    // The variance along a component is that of its scores.
    let column: Vec<f64> = scored.iter().map(|row| row[2].parse().unwrap()).collect();
    let variance = column.iter().map(|x| x * x).sum::<f64>() / 299.0;
    let ratio = metrics["model"]["explained_variance_ratio"][0]
        .as_f64()
        .unwrap();
    assert!((variance / 6.0 - ratio).abs() < 1e-6, "{variance} {ratio}");
}

#[test]
fn matrices_of_the_reference_give_its_singular_values_and_scores() {
    let Some(path) = reference("golden/pca.safetensors") else {
        return;
    };
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<f64> {
        let (words, _) = tensors.tensor(name).unwrap().data().as_chunks::<8>();
        words.iter().map(|word| f64::from_le_bytes(*word)).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    // Of both the data fix the first seven components.
    for (case, rows, width) in [("tall", 500, 40), ("wide", 30, 700)] {
        let file = folder.path().join(format!("{case}.npy"));
        let x = tensors.tensor(&format!("{case}.x")).unwrap();
        assert_eq!(x.shape(), [rows, width]);
        npy(&file, "<f8", false, rows, width, x.data());
        let output = folder.path().join(case);
        pca(2, &file, &output).args(["-k", "7"]).succeed();

        let stored = std::fs::read(output.join("model.safetensors")).unwrap();
        let model = safetensors::SafeTensors::deserialize(&stored).unwrap();
        let (words, _) = model
            .tensor("singular_values")
            .unwrap()
            .data()
            .as_chunks::<8>();
        let exact = values(&format!("{case}.standardized.singular_values_exact"));
        assert_eq!(words.len(), 7);
        for (word, exact_value) in words.iter().zip(&exact) {
            let difference = (f64::from_le_bytes(*word) - exact_value).abs();
            assert!(difference < 1e-12 * exact[0], "{case}: off by {difference}");
        }
        let expected = values(&format!("{case}.standardized.scores"));
        let (_, found) = scores(&output);
        for (row, expected) in found.iter().zip(expected.chunks(7)) {
            let found = row[2..9].iter().map(|text| text.parse::<f64>().unwrap());
            for (score, expected) in found.zip(expected) {
                // Scores are stored in single precision.
                assert!((score - expected).abs() < 1e-6 * exact[0], "{case}");
            }
        }
    }
}

#[test]
fn fewer_rows_than_columns_are_solved_from_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.npy");
    let values: Vec<u8> = numbers(5, 200)
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    npy(&file, "<f8", false, 5, 200, &values);
    let outputs: Vec<_> = [1, 3]
        .into_iter()
        .map(|ranks| {
            let output = folder.path().join(ranks.to_string());
            pca(ranks, &file, &output)
                .args(["--variance", "1"])
                .succeed();
            assert_eq!(metrics(&output)["model"]["k"], 4);
            results(&output)
        })
        .collect();
    assert_same(&outputs[0], &outputs[1], "3 ranks");
}

#[test]
fn a_number_that_is_not_finite_is_refused_with_the_name_of_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let mut values = numbers(20, 3);
    values[16 * 3 + 1] = f64::NAN;
    let paths: Vec<String> = (0..20).map(|row| format!("photos/{row}.jpg")).collect();
    let named = folder.path().join("named.parquet");
    parquet(
        &named,
        vec![
            ("path", Arc::new(StringArray::from(paths)) as ArrayRef),
            ("features", lists(&values, 3)),
        ],
    );
    let output = folder.path().join("out");
    pca(2, &named, &output).fail(5, &["photos/16.jpg", "position 1"]);
    values[16 * 3 + 1] = f64::NEG_INFINITY;
    let array = folder.path().join("array.npy");
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&array, "<f8", false, 20, 3, &bytes);
    pca(3, &array, &output).fail(5, &["row-0000016"]);
    assert!(!output.join("scores.csv").exists());
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let output = file("out");
    let values = numbers(4, 3);
    parquet(
        &file("two.parquet"),
        vec![
            ("a", lists(&values, 3)),
            ("b", lists(&values, 3)),
            ("n", Arc::new(Float64Array::from(vec![0.0; 4])) as ArrayRef),
        ],
    );
    npy(&file("big.npy"), ">f8", false, 4, 3, &[0; 96]);
    npy(&file("none.npy"), "<f8", false, 0, 3, &[]);
    pca(2, &file("two.parquet"), &output).fail(3, &["a, b", "--column"]);
    pca(2, &file("two.parquet"), &output)
        .args(["--column", "n"])
        .fail(3, &["n is Float64"]);
    pca(2, &file("big.npy"), &output).fail(3, &["big.npy", ">f8"]);
    pca(1, &file("none.npy"), &output).fail(3, &["0 rows"]);
    pca(2, &file("nowhere"), &output).fail(3, &["nowhere"]);
    P8::on(2).args(["pca"]).fail(2, &["--features"]);
    pca(1, &file("two.parquet"), &output)
        .args(["--weights", "keras"])
        .fail(2, &["--weights"]);
    pca(1, Path::new("s3://bucket/prefix"), &output).fail(2, &["s3://bucket/prefix"]);
    pca(2, &file("two.parquet"), &output)
        .args(["--column", "b", "-k", "2"])
        .succeed();
    assert_eq!(metrics(&output)["settings"]["column"]["value"], "b");
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.npy");
    npy(&file, "<f4", false, 300, 2, &[0; 2400]);
    let output = folder.path().join("out");
    let finished = pca(2, &file, &output).args(["--dry-run"]).succeed();
    for word in [
        "300 rows",
        "2 features",
        "100 blocks",
        "tsqr",
        "can be written",
    ] {
        assert!(finished.stdout.contains(word), "{word}: {finished}");
    }
    assert!(!output.exists());
}

#[test]
fn the_result_of_a_run_is_replaced_only_when_asked_and_its_features_stay() {
    let images = Images::new(4);
    let folder = tempfile::tempdir().unwrap();
    let output: PathBuf = folder.path().join("out");
    P8::small(1, images.path(), &output).succeed();
    pca(1, &output, &output).fail(2, &["other settings", "--overwrite"]);
    pca(2, &output, &output)
        .args(["--overwrite", "-k", "1"])
        .succeed();
    assert_eq!(metrics(&output)["task"], "pca");
    assert!(output.join("features/block-000003.parquet").exists());
    assert!(
        !output.join("outcomes.parquet").exists(),
        "it was part of the other result"
    );
}
