//! How long each step of a plan takes, and what it computes.

use std::fmt;
use std::time::{Duration, Instant};

use crate::model::plan::{Arena, Crew, Operation, Plan, Step};

/// How a step computes its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// The first convolution, row by row of its patches, and the maximum behind it.
    Stem,
    /// A 1x1 convolution: a matrix product over the pixels.
    Pointwise,
    /// A 3x3 convolution with stride 2, tap by tap.
    Direct,
    /// A 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3).
    Winograd,
    /// A 3x3 convolution with stride 1 by Winograd's F(2x2, 3x3), in bfloat16.
    WinogradBf16,
    /// Every second pixel, which takes no arithmetic.
    Subsample,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Stem => "stem",
            Algorithm::Pointwise => "1x1",
            Algorithm::Direct => "direct",
            Algorithm::Winograd => "Winograd",
            Algorithm::WinogradBf16 => "Winograd 2x2",
            Algorithm::Subsample => "sample",
        })
    }
}

/// A step of a plan and the time it took.
#[derive(Debug, Clone, PartialEq)]
pub struct StepProfile {
    /// The layer's name in the state dict.
    pub name: String,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// Operations for an image in the definition of the convolution: two for every weight and
    /// pixel of the output, also of those that nobody looks at.
    pub direct_flop: f64,
    /// Operations for an image in the matrix products that are computed instead.
    pub executed_flop: f64,
    /// Seconds for all images.
    pub seconds: f64,
}

/// Told when steps begin and end.
pub(super) trait Watch {
    /// Another step begins.
    fn begins(&mut self);
    /// A step has ended, and the next one begins.
    fn has_done(&mut self, step: usize);
}

/// Nobody watches.
impl Watch for () {
    fn begins(&mut self) {}
    fn has_done(&mut self, _: usize) {}
}

/// Time by step.
struct Stopwatch {
    began: Instant,
    spent: Vec<Duration>,
}

impl Watch for Stopwatch {
    fn begins(&mut self) {
        self.began = Instant::now();
    }

    fn has_done(&mut self, step: usize) {
        let now = Instant::now();
        self.spent[step] += now - self.began;
        self.began = now;
    }
}

impl Plan {
    /// Runs the plan as [`Plan::run`] does, and answers what each step took, in their order.
    ///
    /// `features` gets as many values as there.
    pub fn profile(
        &self,
        crew: Crew,
        arena: &mut Arena,
        images: &[&[u8]],
        features: &mut [f32],
    ) -> Vec<StepProfile> {
        let steps = || self.alone.steps.iter().chain(&self.together.steps);
        let mut watch = Stopwatch {
            began: Instant::now(),
            spent: vec![Duration::ZERO; 1 + steps().count()],
        };
        self.run_watched(crew, arena, images, features, &mut watch);
        let flop = self.stem.flop();
        let stem = StepProfile {
            name: "conv1 and pool".into(),
            algorithm: Algorithm::Stem,
            direct_flop: flop,
            executed_flop: flop,
            seconds: 0.0,
        };
        let profiles = std::iter::once(stem).chain(steps().map(Step::profile));
        profiles
            .zip(watch.spent)
            .map(|(profile, spent)| StepProfile {
                seconds: spent.as_secs_f64(),
                ..profile
            })
            .collect()
    }
}

impl Step {
    /// What the step computes, without a time.
    fn profile(&self) -> StepProfile {
        let pixels = self.to.extent.pixels() as f64;
        let (algorithm, direct_flop, executed_flop) = match &self.operation {
            Operation::Pointwise(filters, _) => {
                let flop = 2.0 * filters.weights_per_pixel() as f64 * pixels;
                (Algorithm::Pointwise, flop, flop)
            }
            Operation::Direct(filters) => {
                let flop = 2.0 * filters.weights_per_pixel() as f64 * pixels;
                (Algorithm::Direct, flop, flop)
            }
            Operation::Winograd(winograd) => {
                let channels = 2.0 * winograd.channel_pairs() as f64;
                let products = winograd.products_of_image() as f64;
                (
                    Algorithm::Winograd,
                    channels * 9.0 * pixels,
                    channels * products,
                )
            }
            Operation::Subsample => (Algorithm::Subsample, 0.0, 0.0),
            Operation::Bf16(operation) => operation.flop(pixels),
        };
        StepProfile {
            name: self.name.clone(),
            algorithm,
            direct_flop: direct_flop * self.defined as f64,
            executed_flop,
            seconds: 0.0,
        }
    }
}
