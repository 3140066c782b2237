//! The whole program, from JPEG files to scores, against values that other programs computed in
//! float64 from the same photographs and weights.

use crate::support::{P8, reference};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;
use p8::kernels::Isa;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::{Path, PathBuf};

struct Reference {
    photos: PathBuf,
    weights: PathBuf,
    golden: PathBuf,
}

fn all() -> Option<Reference> {
    Some(Reference {
        photos: reference("images/photos")?,
        weights: reference("weights/resnet50-msra-stage4.safetensors")?,
        golden: reference("golden")?,
    })
}

/// A tensor of a golden file as float64.
fn golden(file: &Path, key: &str) -> Vec<f64> {
    let bytes = std::fs::read(file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(key).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            let words = tensor.data().chunks_exact(4);
            words
                .map(|w| f64::from(f32::from_le_bytes(w.try_into().unwrap())))
                .collect()
        }
        safetensors::Dtype::F64 => {
            let words = tensor.data().chunks_exact(8);
            words
                .map(|w| f64::from_le_bytes(w.try_into().unwrap()))
                .collect()
        }
        other => panic!("{key} is {other:?}"),
    }
}

/// The rows of a list column over all shards, in the order of the images.
pub fn features(output: &Path) -> Vec<Vec<f64>> {
    let mut shards: Vec<PathBuf> = std::fs::read_dir(output.join("features"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    shards.sort();
    let mut rows = Vec::new();
    for shard in shards {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(shard).unwrap());
        for batch in reader.unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let lists = batch.column_by_name("features").unwrap().as_list::<i32>();
            for row in 0..lists.len() {
                let values = lists.value(row);
                rows.push(
                    values
                        .as_primitive::<Float32Type>()
                        .values()
                        .iter()
                        .map(|&v| f64::from(v))
                        .collect(),
                );
            }
        }
    }
    rows
}

/// The scores of a run: for each component those of all images, in the order of the images.
pub fn scores(output: &Path) -> Vec<Vec<f64>> {
    let file = std::fs::File::open(output.join("scores.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut components: Vec<Vec<f64>> = Vec::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let lists = batch.column_by_name("pca").unwrap().as_fixed_size_list();
        let k = lists.value_length() as usize;
        components.resize(k, Vec::new());
        let values = lists.values().as_primitive::<Float32Type>().values();
        for (at, &value) in values.iter().enumerate() {
            components[at % k].push(f64::from(value));
        }
    }
    components
}

pub fn relative_l2(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference: f64 = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let size: f64 = expected.iter().map(|b| b * b).sum();
    (difference / size).sqrt()
}

impl Reference {
    fn p8(&self, output: &Path, arguments: &[&str]) -> P8 {
        P8::on(2)
            .args(["--input".as_ref(), self.photos.as_os_str()])
            .args(["--weights".as_ref(), self.weights.as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .args(arguments)
    }

    fn run(&self, output: &Path, arguments: &[&str]) {
        self.p8(output, arguments).succeed();
    }
}

#[test]
fn features_from_jpeg_files_are_those_of_float64() {
    let Some(reference) = all() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (topology, layer, pool, key, limit) in [
        ("v1", "layer1", "avg", "v1.layer1.avg", 2e-6),
        ("v1", "layer2", "avg", "v1.layer2.avg", 2e-6),
        ("v1", "layer3", "avg", "v1.layer3.avg", 2e-6),
        ("v1", "layer4", "avg", "v1.layer4.avg", 2e-5),
        ("v1", "layer4", "max", "v1.layer4.max", 2e-5),
        ("v1", "layer4", "none", "v1.layer4.flat_hwc", 5e-5),
        ("v1.5", "layer3", "avg", "v1.5.layer3.avg", 2e-6),
        ("v1.5", "layer4", "avg", "v1.5.layer4.avg", 2e-5),
    ] {
        let output = folder.path().join(key);
        reference.run(
            &output,
            &["--topology", topology, "--layer", layer, "--pool", pool],
        );
        let expected = golden(&reference.golden.join("features.safetensors"), key);
        let found = features(&output);
        assert_eq!(found.len(), 9);
        for (photo, (row, expected)) in found
            .iter()
            .zip(expected.chunks(expected.len() / 9))
            .enumerate()
        {
            let error = relative_l2(row, expected);
            assert!(
                error <= limit,
                "{key}, photograph {photo}: {error:e} is above {limit:e}"
            );
        }
    }
}

#[test]
fn every_instruction_set_of_this_machine_gives_the_features_of_float64() {
    let Some(reference) = all() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut fused: Option<Vec<Vec<f64>>> = None;
    for isa in Isa::available() {
        // Plain loops take a minute for the whole network, and show as much in its first stage.
        let (layer, limit) = match isa {
            Isa::Scalar => ("layer1", 2e-6),
            _ => ("layer4", 2e-5),
        };
        let output = folder.path().join(isa.as_str());
        let arguments = ["--topology", "v1.5", "--layer", layer, "--pool", "avg"];
        reference
            .p8(&output, &arguments)
            .env("P8_ISA", isa.as_str())
            .succeed();
        let key = format!("v1.5.{layer}.avg");
        let expected = golden(&reference.golden.join("features.safetensors"), &key);
        let found = features(&output);
        assert_eq!(found.len(), 9);
        for (row, expected) in found.iter().zip(expected.chunks(expected.len() / 9)) {
            let error = relative_l2(row, expected);
            assert!(error <= limit, "{isa}, {key}: {error:e} is above {limit:e}");
        }
        if isa != Isa::Scalar {
            let fused = fused.get_or_insert_with(|| found.clone());
            assert!(*fused == found, "{isa} gives other bits");
        }
    }
}

#[test]
fn scores_of_the_photographs_are_those_of_a_float64_svd() {
    let Some(reference) = all() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (pool, case) in [("avg", "photos2048"), ("none", "photos100352")] {
        let output = folder.path().join(case);
        reference.run(&output, &["--pool", pool, "-k", "7"]);
        let key = format!("{case}.standardized.scores");
        let expected = golden(&reference.golden.join("pca.safetensors"), &key);
        let components = scores(&output);
        assert_eq!(components.len(), 7);
        let found: Vec<f64> = (0..components[0].len())
            .flat_map(|image| components.iter().map(move |scores| scores[image]))
            .collect();
        // The limit of the reference for scores from float32 features is 2e-5; layer4 has random
        // convolutions that enlarge the differences of the features, which are up to 1.2e-5 here.
        let feature_key = match pool {
            "avg" => "v1.layer4.avg",
            _ => "v1.layer4.flat_hwc",
        };
        let exact = golden(&reference.golden.join("features.safetensors"), feature_key);
        let stray = vanished_columns(&features(&output), &exact);
        assert!(stray.len() <= 2, "{case}: {stray:?}");
        let expected = match stray.as_slice() {
            [] => expected,
            // What the reference would be without them, by another way: from the products of its rows.
            _ => scores_without(&exact, 9, &stray, components.len(), &expected),
        };
        let error = relative_l2(&found, &expected);
        assert!(error <= 2e-5, "{case}: {error:e}");
    }
}

/// Columns that vary in the reference by no more than 1e-6 and not at all here. Rounding decides on which side of the
/// threshold of a ReLU such a feature falls; standardised, it counts as much as any other, or not at all. The other
/// way round, and where more than that vanishes, nothing is excused.
fn vanished_columns(found: &[Vec<f64>], exact: &[f64]) -> Vec<usize> {
    let width = exact.len() / found.len();
    let vanished = |at: &usize| {
        let expected = || exact.iter().skip(*at).step_by(width);
        let first = exact[*at];
        found.iter().all(|row| row[*at] == found[0][*at])
            && expected().any(|x| *x != first)
            && expected().all(|x| x.abs() <= 1e-6)
    };
    (0..width).filter(vanished).collect()
}

/// Scores of the k leading components of the standardised rows without some columns, with the signs of `like`: the
/// eigenvectors of the n x n products of the rows, times the roots of their eigenvalues, by Jacobi's rotations.
fn scores_without(rows: &[f64], n: usize, without: &[usize], k: usize, like: &[f64]) -> Vec<f64> {
    let width = rows.len() / n;
    let mut products = vec![vec![0.0; n]; n];
    for at in (0..width).filter(|at| !without.contains(at)) {
        let column: Vec<f64> = (0..n).map(|row| rows[row * width + at]).collect();
        let mean = column.iter().sum::<f64>() / n as f64;
        let squares: f64 = column.iter().map(|x| (x - mean).powi(2)).sum();
        let scale = (squares / (n as f64 - 1.0)).sqrt();
        if column.iter().all(|x| *x == column[0]) {
            continue;
        }
        for (i, row) in products.iter_mut().enumerate() {
            for (j, product) in row.iter_mut().enumerate() {
                *product += (column[i] - mean) / scale * ((column[j] - mean) / scale);
            }
        }
    }
    let mut vectors: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    for (p, q) in (0..30).flat_map(|_| (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q)))) {
        let angle = 0.5 * (2.0 * products[p][q]).atan2(products[q][q] - products[p][p]);
        let (sine, cosine) = angle.sin_cos();
        let turn = |row: &mut Vec<f64>| {
            (row[p], row[q]) = (
                cosine * row[p] - sine * row[q],
                sine * row[p] + cosine * row[q],
            );
        };
        products.iter_mut().for_each(turn);
        vectors.iter_mut().for_each(turn);
        let (above, below) = products.split_at_mut(q);
        for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
            (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| products[*b][*b].total_cmp(&products[*a][*a]));
    let mut scores = vec![0.0; n * k];
    for (component, &at) in order[..k].iter().enumerate() {
        let values: Vec<f64> = (0..n)
            .map(|row| vectors[row][at] * products[at][at].sqrt())
            .collect();
        let along: f64 = (0..n)
            .map(|row| values[row] * like[row * k + component])
            .sum();
        for (row, value) in values.into_iter().enumerate() {
            scores[row * k + component] = value * along.signum();
        }
    }
    scores
}
