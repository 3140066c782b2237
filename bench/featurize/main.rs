//! Where the time of a feature vector goes: every layer of the network, and what happens to an image
//! before it.
//!
//! `cargo bench --bench featurize` prints tables in Markdown: for each layer the operations of its
//! definition and those that are executed, the time of an image, and the rate as a part of what the
//! same threads reach in the same run when they multiply and add f32 in registers alone; bfloat16,
//! where the processor has it, may reach twice that. With
//! `-- --rounds N` every figure is the median of N rounds (default 9), with `-- --threads 1,2` the
//! tables are for so many threads, each with images of its own; default: 1 and all cores.

mod layers;
mod machine;
mod peak;
mod pictures;

use p8::kernels::{CacheSizes, Isa, Kernels, KernelsBf16};
use p8::model::{Precision, Topology};

fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("featurize: {message}");
            std::process::exit(2);
        }
    };
    let isa = Isa::detect();
    let Some(kernels) = Kernels::of(isa) else {
        unreachable!("the instruction set was detected");
    };
    println!("# Featurization, layer by layer\n");
    println!("{}\n", machine::describe(isa, &CacheSizes::detect()));
    println!(
        "Kernel {}, medians of {} rounds, groups of {} images of 224x224.\n",
        kernels.conv_name,
        options.rounds,
        p8::model::plan::GROUP
    );
    let mut network = Vec::new();
    let has_bf16 = KernelsBf16::of(isa).is_some();
    for topology in [Topology::V1, Topology::V1_5] {
        for &threads in &options.threads {
            let table =
                |precision| layers::table(topology, precision, isa, threads, options.rounds);
            network.push((topology, threads, table(Precision::F32)));
            if has_bf16 {
                table(Precision::Bf16);
            }
        }
    }
    pictures::table(options.rounds, &network);
}

struct Options {
    rounds: usize,
    threads: Vec<usize>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Options {
            rounds: 9,
            threads: if cores > 1 { vec![1, cores] } else { vec![1] },
        };
        while let Some(argument) = arguments.next() {
            let mut numbers = || -> Result<Vec<usize>, String> {
                let text = arguments.next().unwrap_or_default();
                let numbers = text
                    .split(',')
                    .map(|part| part.parse().ok().filter(|&n| n > 0));
                numbers
                    .collect::<Option<Vec<usize>>>()
                    .ok_or_else(|| format!("{argument} takes numbers from 1, not {text:?}"))
            };
            match argument.as_str() {
                // Cargo says it to every benchmark.
                "--bench" => {}
                "--rounds" => options.rounds = numbers()?[0],
                "--threads" => options.threads = numbers()?,
                other => return Err(format!("unknown option {other:?}")),
            }
        }
        Ok(options)
    }
}

/// The middle of some values, the lower one of two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
