//! Every picture of the reference folder against the pixels of Pillow and torchvision.
//!
//! The folder is not part of the repository; without it these tests say so and pass.

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::*;

/// What `golden/preprocess` says.
struct Reference {
    root: PathBuf,
    table: serde_json::Value,
    tensors: Vec<u8>,
}

impl Reference {
    fn open() -> Option<Reference> {
        let root = std::env::var_os("P8_REFERENCE").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference")),
            PathBuf::from,
        );
        if !root.is_dir() {
            eprintln!("skipped: no reference data in {}", root.display());
            return None;
        }
        let table = fs::read(root.join("golden/preprocess.json")).unwrap();
        Some(Reference {
            table: serde_json::from_slice(&table).unwrap(),
            tensors: fs::read(root.join("golden/preprocess.safetensors")).unwrap(),
            root,
        })
    }

    /// Key, row of the table and bytes of the file of every picture.
    fn images(&self) -> Vec<(&str, &serde_json::Value, Vec<u8>)> {
        let rows = self.table["images"].as_object().unwrap();
        let images: Vec<_> = rows
            .iter()
            .map(|(key, row)| {
                let path = self.root.join(row["path"].as_str().unwrap());
                (key.as_str(), row, fs::read(path).unwrap())
            })
            .collect();
        assert_eq!(images.len(), 29);
        images
    }

    fn image(&self, name: &str) -> Vec<u8> {
        fs::read(self.root.join("images").join(name)).unwrap()
    }

    fn tensor(&self, key: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.tensors).unwrap();
        tensors.tensor(key).unwrap().data().to_vec()
    }
}

fn as_stored(bytes: &[u8]) -> Decoded {
    decode(bytes, Exif::Ignore, &Limits::default()).unwrap()
}

fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Pillow cuts 16-bit grey at 255; p8 scales it.
const SCALED_UNLIKE_PILLOW: &str = "edge/gray16.png";

#[test]
fn full_size_pixels_are_those_of_pillow() {
    let Some(reference) = Reference::open() else {
        return;
    };
    let mut compared = 0;
    for (key, row, bytes) in reference.images() {
        if row["decodes"] == false || key == SCALED_UNLIKE_PILLOW {
            continue;
        }
        let decoded = as_stored(&bytes);
        let size = (
            row["width"].as_u64().unwrap(),
            row["height"].as_u64().unwrap(),
        );
        assert_eq!(
            (decoded.stored_width.into(), decoded.stored_height.into()),
            size,
            "{key}"
        );
        assert_eq!(
            dimensions(&bytes),
            Some((decoded.stored_width, decoded.stored_height))
        );
        let digest = hex(&Sha256::digest(&decoded.image.pixels));
        assert_eq!(digest, row["rgb_sha256"].as_str().unwrap(), "{key}");
        compared += 1;
    }
    assert_eq!(compared, 24);
}

#[test]
fn caffe_preparation_is_pillows_resize() {
    let Some(reference) = Reference::open() else {
        return;
    };
    for (key, row, bytes) in reference.images() {
        if row["decodes"] == false || key == SCALED_UNLIKE_PILLOW {
            continue;
        }
        let image = as_stored(&bytes).image;
        let square = prepare(&image, Preprocess::Caffe);
        let golden = reference.tensor(&format!("bicubic/{key}"));
        assert_eq!(
            largest_difference(&square.pixels, &golden),
            0,
            "bicubic {key}"
        );
        let square = resize(&image, SIDE, SIDE, Filter::Bilinear);
        let golden = reference.tensor(&format!("bilinear/{key}"));
        assert_eq!(
            largest_difference(&square.pixels, &golden),
            0,
            "bilinear {key}"
        );
    }
}

#[test]
fn torchvision_preparation_is_its_preset() {
    let Some(reference) = Reference::open() else {
        return;
    };
    let mut compared = 0;
    for (key, _, bytes) in reference.images() {
        if !key.starts_with("photos/") {
            continue;
        }
        let square = prepare(&as_stored(&bytes).image, Preprocess::Torchvision);
        let input = normalize(&square.pixels, &Preprocess::Torchvision.normalization());
        let golden = reference.tensor(&format!("torchvision/{key}"));
        let (golden, _) = golden.as_chunks::<4>();
        assert_eq!(input.len(), golden.len());
        for (got, want) in input.iter().zip(golden) {
            let want = f32::from_le_bytes(*want);
            // One rounding apart at most: a level would be 0.017.
            assert!(
                (got - want).abs() <= 2.0 * f32::EPSILON,
                "{key}: {got} {want}"
            );
        }
        compared += 1;
    }
    assert_eq!(compared, 9);
}

#[test]
fn grey_of_16_bits_is_scaled_where_pillow_cuts_it() {
    let Some(reference) = Reference::open() else {
        return;
    };
    let image = as_stored(&reference.image("edge/gray16.png")).image;
    // The formula that the picture was made with: x / 199 * 40000 + y / 149 * 25535, rounded.
    for y in 0..150u32 {
        for x in 0..200u32 {
            let value = f64::from(x) / 199.0 * 40000.0 + f64::from(y) / 149.0 * 25535.0;
            let expected = (value.round() as u32 >> 8) as u8;
            let at = (y * 200 + x) as usize * 3;
            assert_eq!(image.pixels[at..at + 3], [expected; 3], "{x},{y}");
        }
    }
}

#[test]
fn an_orientation_of_6_turns_the_picture_clockwise() {
    let Some(reference) = Reference::open() else {
        return;
    };
    let bytes = reference.image("edge/exif-orientation-6.jpg");
    let stored = as_stored(&bytes).image;
    let decoded = decode(&bytes, Exif::Apply, &Limits::default()).unwrap();
    assert_eq!((decoded.stored_width, decoded.stored_height), (300, 200));
    let upright = decoded.image;
    assert_eq!((upright.width, upright.height), (200, 300));
    for y in 0..200 {
        for x in 0..300 {
            // The left edge of what is stored is the upper edge of what is seen.
            let seen = (x * 200 + (199 - y)) * 3;
            let lies = (y * 300 + x) * 3;
            assert_eq!(
                upright.pixels[seen..seen + 3],
                stored.pixels[lies..lies + 3]
            );
        }
    }
}

#[test]
fn the_four_bad_files_fail_each_for_its_reason() {
    let Some(reference) = Reference::open() else {
        return;
    };
    let limits = Limits::default();
    let reason = |name| decode(&reference.image(name), Exif::Apply, &limits).unwrap_err();
    assert_eq!(reason("edge/empty.jpg"), DecodeError::Empty);
    assert_eq!(reason("edge/text.jpg"), DecodeError::NotAnImage);
    assert_eq!(reason("edge/truncated.jpg"), DecodeError::Truncated);
    assert_eq!(
        reason("edge/bomb-60000x60000.png"),
        DecodeError::TooLarge {
            width: 60000,
            height: 60000,
            limits,
        }
    );
    assert_eq!(
        dimensions(&reference.image("edge/bomb-60000x60000.png")),
        Some((60000, 60000))
    );
    assert_eq!(
        dimensions(&reference.image("edge/truncated.jpg")),
        Some((400, 300))
    );
}

#[test]
fn every_picture_cut_short_is_a_failure() {
    let Some(reference) = Reference::open() else {
        return;
    };
    for (key, row, bytes) in reference.images() {
        if row["decodes"] == false || bytes.len() < 100 || key.contains("large") {
            continue;
        }
        for sixteenths in 1..16 {
            let cut = &bytes[..bytes.len() * sixteenths / 16];
            let error = decode(cut, Exif::Apply, &Limits::default()).unwrap_err();
            assert_eq!(error, DecodeError::Truncated, "{key} {sixteenths}/16");
        }
    }
}
