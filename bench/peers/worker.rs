//! p8's side of `bench/peers/featurize.py`: the network alone on prepared pixels.
//!
//! `export` writes what all sides compute from, so that they share weights and pixels; `peak`
//! measures what the processor can do at most; `serve` loads the network once and then computes on
//! command, so that loading is not measured and sides can alternate:
//!
//! ```text
//! run 3              -> seconds 1.934        three times the whole batch
//! features FILE      -> done                 the features of the batch as little-endian f32
//! ```

mod peak;

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use p8::image::{Exif, Limits, Preprocess, SIDE, decode, prepare};
use p8::kernels::Isa;
use p8::model::executor::{Executor, InputSpec};
use p8::model::plan_executor::PlanExecutor;
use p8::model::seeded::seeded;
use p8::model::weights::{TrainedPreprocess, TrainedTopology, read};
use p8::model::{Layer, Pool, Precision, Topology};
use p8::run::settings::WeightsChoice;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Bytes of one prepared image.
const IMAGE: usize = (SIDE * SIDE * 3) as usize;

/// The worker that the comparison starts.
#[derive(Parser)]
enum Command {
    /// Write weights and prepared pixels for all sides
    Export {
        /// seeded:N or a weights file that p8 reads
        #[arg(long)]
        weights: WeightsChoice,
        /// Folder with images, at any depth
        #[arg(long)]
        images: PathBuf,
        /// How many prepared images; they repeat where the folder has fewer
        #[arg(long)]
        batch: usize,
        /// Folder that gets `weights.safetensors` and `pixels.bin`
        #[arg(long)]
        to: PathBuf,
    },
    /// Print the processor's multiply-add rate from registers, as JSON in GFLOP/s
    Peak {
        /// Threads that compute at the same time
        #[arg(long)]
        threads: usize,
    },
    /// Load the network and answer commands from standard input
    Serve {
        /// Folder that `export` wrote
        #[arg(long)]
        model: PathBuf,
        /// Where the network strides
        #[arg(long)]
        topology: Topology,
        /// Arithmetic of the network
        #[arg(long)]
        precision: Precision,
        /// Threads of the network
        #[arg(long)]
        threads: usize,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    match Command::parse() {
        Command::Export {
            weights,
            images,
            batch,
            to,
        } => export(&weights, &images, batch, &to),
        Command::Peak { threads } => {
            println!("{}", peak::measure(threads));
            Ok(())
        }
        Command::Serve {
            model,
            topology,
            precision,
            threads,
        } => {
            let executor = load(&model, topology, precision, threads)?;
            let pixels = fs::read(model.join("pixels.bin"))?;
            serve(executor, &pixels)
        }
    }
}

fn export(
    weights: &WeightsChoice,
    images: &Path,
    batch: usize,
    to: &Path,
) -> Result<(), Box<dyn Error>> {
    let (tensors, topology, preprocess, epsilon) = match weights {
        WeightsChoice::Seeded(seed) => (seeded(*seed), Topology::V1, Preprocess::Caffe, 1e-5),
        WeightsChoice::Path(path) => {
            let state = read(path)?;
            let topology = match state.origin.topology {
                TrainedTopology::V1 => Topology::V1,
                TrainedTopology::V1_5 => Topology::V1_5,
            };
            let epsilon = state.origin.batch_norm_epsilon;
            let preprocess = preprocess_of(state.origin.preprocess);
            (state.tensors, topology, preprocess, epsilon)
        }
        WeightsChoice::Named(named) => {
            return Err(format!("give the file of the weights {}", named.name()).into());
        }
        WeightsChoice::S3(address) => {
            return Err(format!("give a local copy of {address}").into());
        }
    };
    fs::create_dir_all(to)?;
    let bytes: Vec<(&String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.data.iter();
            (name, values.flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, bytes)| {
            let shape = tensors[*name].shape.clone();
            Ok((*name, TensorView::new(Dtype::F32, shape, bytes)?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let metadata = HashMap::from([
        ("topology".to_owned(), topology.as_str().to_owned()),
        ("preprocess".to_owned(), preprocess.as_str().to_owned()),
        ("bn_eps".to_owned(), epsilon.to_string()),
    ]);
    safetensors::serialize_to_file(views, Some(metadata), &to.join("weights.safetensors"))?;
    fs::write(to.join("pixels.bin"), pixels(images, preprocess, batch)?)?;
    Ok(())
}

fn preprocess_of(trained: TrainedPreprocess) -> Preprocess {
    match trained {
        TrainedPreprocess::Caffe => Preprocess::Caffe,
        TrainedPreprocess::Torchvision => Preprocess::Torchvision,
    }
}

/// `batch` prepared images, RGB row by row, from the files of a folder in the order of their paths.
fn pixels(folder: &Path, preprocess: Preprocess, batch: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut paths: Vec<PathBuf> = walkdir::WalkDir::new(folder)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(format!("no .jpg files under {}", folder.display()).into());
    }
    let mut pixels = Vec::with_capacity(batch * IMAGE);
    for path in paths.iter().cycle().take(batch) {
        let decoded = decode(&fs::read(path)?, Exif::Apply, &Limits::default())?;
        pixels.extend(prepare(&decoded.image, preprocess).pixels);
    }
    Ok(pixels)
}

/// The executor that p8 uses by default, with average pooling of the last stage.
fn load(
    model: &Path,
    topology: Topology,
    precision: Precision,
    threads: usize,
) -> Result<PlanExecutor, Box<dyn Error>> {
    let state = read(&model.join("weights.safetensors"))?;
    let input = InputSpec {
        side: SIDE as usize,
        normalization: preprocess_of(state.origin.preprocess).normalization(),
    };
    let epsilon = state.origin.batch_norm_epsilon;
    let (layer, pool, isa) = (Layer::Layer4, Pool::Avg, Isa::detect());
    Ok(PlanExecutor::new(
        state.tensors,
        topology,
        layer,
        pool,
        epsilon,
        input,
        threads,
        isa,
        precision,
    )?)
}

fn serve(mut executor: PlanExecutor, pixels: &[u8]) -> Result<(), Box<dyn Error>> {
    let images: Vec<&[u8]> = pixels.chunks_exact(IMAGE).collect();
    executor.features(&images)?;
    let mut answers = io::stdout().lock();
    let about = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "detail": executor.describe(),
    });
    writeln!(answers, "ready {about}")?;
    answers.flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("run", times)) => {
                let times: usize = times.parse()?;
                let start = Instant::now();
                for _ in 0..times {
                    std::hint::black_box(executor.features(&images)?);
                }
                writeln!(answers, "seconds {}", start.elapsed().as_secs_f64())?;
            }
            Some(("features", path)) => {
                let features = executor.features(&images)?;
                let bytes: Vec<u8> = features.iter().flat_map(|v| v.to_le_bytes()).collect();
                fs::write(path, bytes)?;
                writeln!(answers, "done")?;
            }
            _ => return Err(format!("no command: {line}").into()),
        }
        answers.flush()?;
    }
    Ok(())
}
