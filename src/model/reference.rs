//! Reads the reference data that the tests of this module are held against.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::model::Tensors;
use crate::model::weights::Tensor;

/// The folder with the reference data; says on stderr when there is none.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("P8_REFERENCE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference")),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no reference data at {}", folder.display());
    None
}

/// The floating-point and byte tensors of a safetensors file whose names `keep` accepts.
pub fn tensors(path: &Path, keep: impl Fn(&str) -> bool) -> Tensors {
    let bytes = std::fs::read(path).expect("reference file");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors format");
    file.iter()
        .filter(|(name, _)| keep(name))
        .filter_map(|(name, view)| {
            let raw = view.data();
            let data = match view.dtype() {
                Dtype::F32 => values(raw, f32::from_le_bytes),
                Dtype::F16 => values(raw, |bytes| f16::from_le_bytes(bytes).to_f32()),
                Dtype::BF16 => values(raw, |bytes| bf16::from_le_bytes(bytes).to_f32()),
                Dtype::U8 => values(raw, |[byte]| f32::from(byte)),
                _ => return None,
            };
            let shape = view.shape().to_vec();
            Some((name.to_owned(), Tensor { shape, data }))
        })
        .collect()
}

fn values<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, rest) = raw.as_chunks::<N>();
    assert!(rest.is_empty());
    chunks.iter().map(|&bytes| value(bytes)).collect()
}

/// The nine photographs in the order of the golden rows: 224x224 RGB8, (height, width, channel).
pub fn photos(folder: &Path) -> Vec<Vec<u8>> {
    let path = folder.join("golden/preprocess.safetensors");
    let photos = tensors(&path, |name| name.starts_with("bicubic/photos/"));
    assert_eq!(photos.len(), 9);
    photos
        .into_values()
        .map(|photo| photo.data.iter().map(|&value| value as u8).collect())
        .collect()
}

/// Euclidean norm of the difference over that of `expected`.
pub fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f64| value * value;
    let pairs = found.iter().zip(expected);
    let error: f64 = pairs
        .map(|(&f, &e)| square(f64::from(f) - f64::from(e)))
        .sum();
    let norm: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    (error / norm).sqrt()
}
