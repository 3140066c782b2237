//! What happens to an image before the network: decoding and resizing.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use p8::image::{Exif, Filter, Limits, Preprocess, Rgb8, decode, prepare, resize};
use p8::model::Topology;

use crate::layers::plural;
use crate::median;

/// Sizes of photographs: those of the notebook's data set, of ImageNet, and of a camera.
const SIZES: [(u32, u32); 4] = [(100, 100), (400, 400), (500, 375), (4000, 3000)];

/// Prints what an image costs one thread, beside what the network costs it.
pub fn table(rounds: usize, network: &[(Topology, usize, f64)]) {
    println!("## Before the network, 1 thread\n");
    println!("| step | ms |");
    println!("|---|---:|");
    let photograph = Path::new(env!("CARGO_MANIFEST_DIR")).join("training_data/banana_1");
    let file = std::fs::read_dir(&photograph)
        .ok()
        .and_then(|mut files| files.next()?.ok())
        .and_then(|file| std::fs::read(file.path()).ok());
    if let Some(bytes) = file
        && let Ok(decoded) = decode(&bytes, Exif::default(), &Limits::default())
    {
        let Rgb8 { width, height, .. } = decoded.image;
        let time = milliseconds(rounds, || {
            let _ = black_box(decode(&bytes, Exif::default(), &Limits::default()));
        });
        println!(
            "| decode a JPEG of {width}x{height}, {} bytes | {time:.3} |",
            bytes.len()
        );
    }
    for (width, height) in SIZES {
        let picture = picture(width, height);
        let time = milliseconds(rounds, || {
            black_box(resize(&picture, 224, 224, Filter::Bicubic));
        });
        println!("| resize {width}x{height} to 224x224, bicubic | {time:.3} |");
    }
    let picture = picture(500, 375);
    let time = milliseconds(rounds, || {
        black_box(prepare(&picture, Preprocess::Torchvision));
    });
    println!("| prepare 500x375 as torchvision does | {time:.3} |");
    for (topology, threads, seconds) in network {
        let seconds_of_a_thread = seconds * *threads as f64;
        println!(
            "| network {topology}, one of {} | {:.3} |",
            plural(*threads, "thread"),
            seconds_of_a_thread * 1e3
        );
    }
}

fn milliseconds(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let times = (0..rounds).map(|_| {
        let began = Instant::now();
        work();
        began.elapsed().as_secs_f64()
    });
    1e3 * median(times.collect())
}

/// A picture without pattern.
fn picture(width: u32, height: u32) -> Rgb8 {
    let level = |at: u32| (at.wrapping_mul(0x9e37_79b1) >> 13) as u8;
    Rgb8 {
        width,
        height,
        pixels: (0..width * height * 3).map(level).collect(),
    }
}
