//! Draws `training_data`: nine pictures of fruits, three each of an apple, a banana and a pear.
//!
//! The pictures imitate the Fruits-360 data set (Mureșan and Oltean, "Fruit recognition from images
//! using deep learning", 2018): one fruit turned by a motor, cut out on white, a folder for each
//! label and a file named after the angle for each view. They are drawn, not photographed, so that
//! the repository can carry them under its own licence.
//!
//! Every fruit is a signed distance function (the shapes and the smooth union follow Inigo Quilez's
//! articles on distance functions), found by sphere tracing (Hart, "Sphere tracing: a geometric
//! method for the antialiased ray tracing of implicit surfaces", 1996). Skins are painted with
//! gradient noise (Perlin, "An image synthesizer", 1985; "Improving noise", 2002) and cellular noise
//! (Worley, "A cellular texture basis function", 1996). Light comes from a softbox, a fill and the
//! white room; diffuse light wraps around the terminator in place of scattering inside the flesh.
//!
//! ```text
//! cargo run --release --example draw_training_data -- --output training_data
//! ```
//!
//! The pictures are the same bytes in each run on a machine, whatever the number of threads.

mod field;
mod fruits;
mod render;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use fruits::{Apple, Banana, Fruit, Pear};
use render::{Pose, render};

/// Quality of the JPEG files, 1 to 100.
const QUALITY: u8 = 88;

/// Draw the nine fruit pictures that p8 runs on by default.
#[derive(Parser)]
struct Arguments {
    /// Folder that gets one subfolder per fruit
    #[arg(long, value_name = "FOLDER", default_value = "training_data")]
    output: PathBuf,
}

/// A fruit and the three ways it is shown.
struct Series {
    label: &'static str,
    fruit: &'static dyn Fruit,
    poses: [Pose; 3],
}

const fn pose(spin: f64, lean: f64, tilt: f64, width: u32, height: u32) -> Pose {
    Pose {
        spin,
        lean,
        tilt,
        size: (width, height),
    }
}

const SERIES: [Series; 3] = [
    Series {
        label: "apple_red_1",
        fruit: &Apple,
        poses: [
            pose(18.0, -6.0, 24.0, 402, 396),
            pose(138.0, -6.0, 24.0, 398, 388),
            pose(264.0, -6.0, 24.0, 404, 400),
        ],
    },
    Series {
        label: "banana_1",
        fruit: &Banana,
        poses: [
            pose(18.0, 38.0, 8.0, 388, 402),
            pose(138.0, 38.0, 8.0, 392, 400),
            pose(210.0, 38.0, 8.0, 400, 396),
        ],
    },
    Series {
        label: "pear_1",
        fruit: &Pear,
        poses: [
            pose(18.0, 7.0, 10.0, 384, 408),
            pose(138.0, 7.0, 10.0, 380, 404),
            pose(258.0, 7.0, 10.0, 386, 410),
        ],
    },
];

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    for series in &SERIES {
        let folder = arguments.output.join(series.label);
        fs::create_dir_all(&folder)?;
        for pose in &series.poses {
            let path = folder.join(format!("r0_{:03.0}.jpg", pose.spin));
            write_jpeg(&render(series.fruit, pose), &path)?;
            println!("{}", path.display());
        }
    }
    Ok(())
}

fn write_jpeg(picture: &RgbImage, path: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    JpegEncoder::new_with_quality(&mut file, QUALITY)
        .encode_image(picture)
        .map_err(io::Error::other)?;
    file.flush()
}
