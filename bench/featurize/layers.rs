//! The network, layer by layer.

use std::sync::Barrier;
use std::time::Instant;

use p8::image::{Normalization, SIDE};
use p8::kernels::{CacheSizes, Isa};
use p8::model::architecture::Architecture;
use p8::model::plan::{Crew, GROUP, Plan, StepProfile};
use p8::model::seeded::seeded;
use p8::model::{Layer, Pool, Precision, Topology};

use crate::median;
use crate::peak;

/// Prints the table of a topology, with as many threads as told, each with a group of images of its
/// own. Answers the seconds of an image, all threads working.
pub fn table(
    topology: Topology,
    precision: Precision,
    isa: Isa,
    threads: usize,
    rounds: usize,
) -> f64 {
    let plan = compile(topology, precision, isa);
    let peak = peak::flops(isa, threads);
    let (steps, whole) = measure(&plan, threads, rounds);
    println!(
        "## Topology {topology}, {precision}, {}\n",
        plural(threads, "thread")
    );
    println!(
        "Multiply-adds of f32 in registers: {:.1} GFLOP/s. Time of a layer is that of one image on one thread; rates are those of all threads.\n",
        peak / 1e9
    );
    println!("| layer | algorithm | GFLOP | executed | ms | GFLOP/s | of the peak |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for step in &steps {
        row(&step.name, &step.algorithm.to_string(), step, threads, peak);
    }
    let sum = |of: fn(&StepProfile) -> f64| steps.iter().map(of).sum::<f64>();
    let all = StepProfile {
        direct_flop: sum(|step| step.direct_flop),
        executed_flop: sum(|step| step.executed_flop),
        seconds: whole,
        ..steps[0].clone()
    };
    row("**whole network**", "", &all, threads, peak);
    println!(
        "\n{:.1} images/s; by the definition of the convolutions {:.1} GFLOP/s, {:.0} % of the peak.\n",
        threads as f64 / whole,
        threads as f64 * all.direct_flop / whole / 1e9,
        100.0 * threads as f64 * all.direct_flop / whole / peak
    );
    whole / threads as f64
}

fn row(name: &str, algorithm: &str, step: &StepProfile, threads: usize, peak: f64) {
    let rate = threads as f64 * step.executed_flop / step.seconds;
    let [rate, part] = if step.executed_flop > 0.0 {
        [
            format!("{:.1}", rate / 1e9),
            format!("{:.0} %", 100.0 * rate / peak),
        ]
    } else {
        [String::new(), String::new()]
    };
    println!(
        "| {name} | {algorithm} | {:.3} | {:.3} | {:.3} | {rate} | {part} |",
        step.direct_flop / 1e9,
        step.executed_flop / 1e9,
        step.seconds * 1e3
    );
}

fn compile(topology: Topology, precision: Precision, isa: Isa) -> Plan {
    let plan = Plan::compile(
        seeded(50),
        Architecture::RESNET50,
        topology,
        Layer::Layer4,
        Pool::Avg,
        1e-5,
        SIDE as usize,
        &Normalization::CAFFE,
        isa,
        precision,
        &CacheSizes::detect(),
    );
    plan.unwrap_or_else(|| unreachable!("the instruction set was detected"))
}

/// The steps of the network, and the seconds of all together.
type Round = (Vec<StepProfile>, f64);

/// Seconds of an image on one thread: of every step, and of all, each the median over threads and
/// rounds.
fn measure(plan: &Plan, threads: usize, rounds: usize) -> (Vec<StepProfile>, f64) {
    let pixels = (SIDE * SIDE * 3) as usize;
    let width = Architecture::RESNET50.features(Layer::Layer4, Pool::Avg, SIDE as usize);
    let images: Vec<Vec<u8>> = (0..GROUP)
        .map(|image| {
            (0..pixels)
                .map(|at| ((at * (image + 3)) % 251) as u8)
                .collect()
        })
        .collect();
    let barrier = Barrier::new(threads);
    let work = || {
        let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let mut arena = plan.arena();
        let mut features = vec![0.0; GROUP * width];
        // The first round pays for fresh memory and is not counted.
        plan.run(Crew::Alone, &mut arena, &images, &mut features);
        let mut measured = Vec::new();
        for _ in 0..rounds {
            barrier.wait();
            let began = Instant::now();
            let steps = plan.profile(Crew::Alone, &mut arena, &images, &mut features);
            measured.push((steps, began.elapsed().as_secs_f64()));
        }
        measured
    };
    let measured: Vec<Round> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = handles.into_iter().map(|handle| handle.join());
        joined.filter_map(Result::ok).flatten().collect()
    });
    let middle =
        |of: &dyn Fn(&Round) -> f64| median(measured.iter().map(of).collect()) / GROUP as f64;
    let steps = measured[0]
        .0
        .iter()
        .enumerate()
        .map(|(index, step)| StepProfile {
            seconds: middle(&|round| round.0[index].seconds),
            ..step.clone()
        });
    (steps.collect(), middle(&|round| round.1))
}

pub fn plural(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
