//! The network compiled for the CPU: what runs when nothing but fast inference is wanted.
//!
//! Batch norms are folded into the convolutions, weights packed in the order in which the kernels
//! read them, and every layer has its algorithm from its shape alone: 1x1 convolutions are matrix
//! products over all pixels, 3x3 convolutions with stride 1 go through Winograd's minimal filtering,
//! those with stride 2 and the 7x7 stem are direct. Additions of shortcuts and ReLU happen in the
//! kernels. [`crate::model::resnet50`] is the definition that this is held against.

mod fold;
mod layers;
mod winograd;

use rayon::prelude::*;

use crate::image::Normalization;
use crate::kernels::{AlignedBuffer, BLOCK, Isa, Kernels};
use crate::model::architecture::{Architecture, BLOCKS};
use crate::model::{Layer, Pool, Tensors, Topology};

use fold::Folded;
use layers::{Extent, Filters, Stem, larger, subsample};
use winograd::Winograd;

/// Images that go through the later stages together, at most. There, weights are larger than the
/// feature maps of an image, and reading them once for eight keeps memory out of the way.
pub const GROUP: usize = 8;

/// The last stage that images go through one by one: its feature maps are larger than its weights.
const LAST_ALONE: Layer = Layer::Layer2;

/// Room for feature maps, by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Input or output of a block.
    Even,
    /// Output or input of a block.
    Odd,
    /// Projected shortcut.
    Shortcut,
    /// Every second pixel of the input.
    Sampled,
    /// Between the first and the second convolution.
    Narrow1,
    /// Between the second and the third convolution.
    Narrow2,
}

const SLOTS: usize = 6;

/// Feature maps of an image in a slot.
#[derive(Debug, Clone, Copy)]
struct Maps {
    slot: Slot,
    blocks: usize,
    extent: Extent,
}

impl Maps {
    fn floats(&self, images: usize) -> usize {
        images * self.blocks * self.extent.pixels() * BLOCK
    }
}

/// What is done between two slots.
enum Operation {
    /// 1x1 convolution, perhaps with a shortcut to add.
    Pointwise(Filters, Option<Slot>),
    /// 3x3 convolution with stride 2.
    Direct(Filters),
    /// 3x3 convolution with stride 1.
    Winograd(Winograd),
    /// Stride 2 without convolution.
    Subsample,
}

/// An operation with its input and output.
struct Step {
    operation: Operation,
    from: Maps,
    to: Maps,
}

/// A run of steps for the same images.
struct Segment {
    steps: Vec<Step>,
}

/// The network for images of one size, on one instruction set.
pub struct Plan {
    kernels: Kernels,
    stem: Stem,
    /// For one image at a time.
    alone: Segment,
    /// For up to [`GROUP`] images together.
    together: Segment,
    /// Output of `alone`.
    middle: Maps,
    /// Output of the last step.
    output: Maps,
    channels: usize,
    pool: Pool,
}

/// All memory that one thread needs besides the plan.
pub struct Arena {
    alone: [AlignedBuffer; SLOTS],
    together: [AlignedBuffer; SLOTS],
    scratch: [AlignedBuffer; 3],
}

impl Plan {
    /// Compiles a state dict that [`Architecture::check`] accepts; none where this machine lacks the
    /// instruction set. `epsilon` is what batch norms add to the variance.
    ///
    /// Packing takes most of the time, and all threads of the pool that this runs in. The weights
    /// as trained go as they are packed, so that memory never holds all of both.
    #[expect(clippy::too_many_arguments, reason = "each is one choice of the user")]
    pub fn compile(
        mut state: Tensors,
        architecture: Architecture,
        topology: Topology,
        layer: Layer,
        pool: Pool,
        epsilon: f64,
        side: usize,
        normalization: &Normalization,
        isa: Isa,
    ) -> Option<Plan> {
        let kernels = Kernels::of(isa)?;
        let stem = Folded::take(&mut state, "conv1", "bn1", epsilon);
        let stem = Stem::new(stem, &kernels, side, normalization);
        let mut compiler = Compiler {
            state,
            epsilon,
            topology,
            maps: Maps {
                slot: Slot::Even,
                blocks: stem.out_blocks(),
                extent: stem.output(),
            },
            drafts: Vec::new(),
        };
        let mut middle = compiler.maps;
        let mut count_alone = 0;
        for stage in Layer::ALL.into_iter().filter(|&stage| stage <= layer) {
            compiler.stage(stage);
            if stage <= LAST_ALONE {
                middle = compiler.maps;
                count_alone = compiler.drafts.len();
            }
        }
        let Compiler {
            maps: output,
            drafts,
            ..
        } = compiler;
        let finished = drafts.into_par_iter().map(|draft| draft.finish(&kernels));
        let mut alone = Segment {
            steps: finished.collect(),
        };
        let together = Segment {
            steps: alone.steps.split_off(count_alone),
        };
        Some(Plan {
            kernels,
            stem,
            alone,
            together,
            middle,
            output,
            channels: architecture.channels(layer),
            pool,
        })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// Memory for one thread.
    pub fn arena(&self) -> Arena {
        let together = if self.together.steps.is_empty() {
            0
        } else {
            GROUP
        };
        let stem = Maps {
            slot: Slot::Even,
            blocks: self.stem.out_blocks(),
            extent: self.stem.output(),
        };
        let mut scratch = [
            self.stem.bordered_floats(),
            self.stem.patch_floats(&self.kernels),
            self.stem.convolved_floats(),
        ];
        for (segment, images) in [(&self.alone, 1), (&self.together, together)] {
            for step in &segment.steps {
                let room = match &step.operation {
                    Operation::Direct(filters) => [filters.bordered_floats(step.from.extent), 0],
                    Operation::Winograd(winograd) => winograd.room(&self.kernels, images).into(),
                    Operation::Pointwise(..) | Operation::Subsample => [0, 0],
                };
                for (size, floats) in scratch.iter_mut().zip(room) {
                    *size = floats.max(*size);
                }
            }
        }
        Arena {
            alone: slots(&self.alone, stem, 1),
            together: slots(&self.together, self.middle, together),
            scratch: scratch.map(AlignedBuffer::zeroed),
        }
    }

    /// Features of up to [`GROUP`] images of the plan's size, one row each.
    pub fn run(&self, arena: &mut Arena, images: &[&[u8]], features: &mut [f32]) {
        let count = images.len();
        let width = features.len() / count;
        for (index, image) in images.iter().enumerate() {
            let [bordered, patches, convolved] = &mut arena.scratch;
            let first = &mut arena.alone[Slot::Even as usize];
            self.stem
                .run(&self.kernels, image, bordered, patches, convolved, first);
            self.alone
                .run(&self.kernels, 1, &mut arena.alone, &mut arena.scratch);
            let maps = &arena.alone[self.middle.slot as usize];
            if self.together.steps.is_empty() {
                let row = &mut features[index * width..][..width];
                self.pool(maps, (0, 1), row);
            } else {
                let map = self.middle.extent.pixels() * BLOCK;
                let to = &mut arena.together[self.middle.slot as usize];
                for block in 0..self.middle.blocks {
                    let to = &mut to[(block * count + index) * map..][..map];
                    to.copy_from_slice(&maps[block * map..][..map]);
                }
            }
        }
        if !self.together.steps.is_empty() {
            self.together.run(
                &self.kernels,
                count,
                &mut arena.together,
                &mut arena.scratch,
            );
            let maps = &arena.together[self.output.slot as usize];
            for (index, row) in features.chunks_exact_mut(width).enumerate() {
                self.pool(maps, (index, count), row);
            }
        }
    }

    /// The features of image `index` of `count` from the output of the last step.
    fn pool(&self, maps: &[f32], (index, count): (usize, usize), row: &mut [f32]) {
        let pixels = self.output.extent.pixels();
        for (block, first) in (0..self.channels).step_by(BLOCK).enumerate() {
            let channels = BLOCK.min(self.channels - first);
            let (maps, _) = maps[(block * count + index) * pixels * BLOCK..].as_chunks::<BLOCK>();
            let maps = &maps[..pixels];
            match self.pool {
                Pool::Avg => {
                    let mean = mean(maps);
                    row[first..][..channels].copy_from_slice(&mean[..channels]);
                }
                Pool::Max => {
                    let largest = maps[1..].iter().fold(maps[0], |a, b| larger(&a, b));
                    row[first..][..channels].copy_from_slice(&largest[..channels]);
                }
                Pool::None => {
                    for (row, pixel) in row.chunks_exact_mut(self.channels).zip(maps) {
                        row[first..][..channels].copy_from_slice(&pixel[..channels]);
                    }
                }
            }
        }
    }
}

/// The mean of each channel, summed in f64.
fn mean(pixels: &[[f32; BLOCK]]) -> [f32; BLOCK] {
    let mut sums = [0.0f64; BLOCK];
    for pixel in pixels {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(value);
        }
    }
    sums.map(|sum| (sum / pixels.len() as f64) as f32)
}

/// Room for all maps of a segment, its input among them, of so many images.
fn slots(segment: &Segment, input: Maps, images: usize) -> [AlignedBuffer; SLOTS] {
    let mut floats = [0; SLOTS];
    for maps in segment.steps.iter().map(|step| step.to).chain([input]) {
        let size = &mut floats[maps.slot as usize];
        *size = maps.floats(images).max(*size);
    }
    floats.map(AlignedBuffer::zeroed)
}

impl Segment {
    fn run(
        &self,
        kernels: &Kernels,
        images: usize,
        slots: &mut [AlignedBuffer; SLOTS],
        [first, second, _]: &mut [AlignedBuffer; 3],
    ) {
        for Step {
            operation,
            from,
            to,
        } in &self.steps
        {
            // Input, output and shortcut of a step are different slots, so each can be lent apart.
            let mut lent: [Option<&mut AlignedBuffer>; SLOTS] = slots.each_mut().map(Some);
            let mut lend = |slot: Slot| lent[slot as usize].take();
            let (Some(input), Some(output)) = (lend(from.slot), lend(to.slot)) else {
                unreachable!("a step from a slot into itself");
            };
            let input = &input[..from.floats(images)];
            let output = &mut output[..to.floats(images)];
            match operation {
                Operation::Pointwise(filters, shortcut) => {
                    let residual = shortcut.and_then(&mut lend).map(|buffer| &buffer[..]);
                    let pixels = images * from.extent.pixels();
                    filters.run(kernels, pixels, input, residual, output);
                }
                Operation::Direct(filters) => {
                    filters.run_3x3_stride_2(kernels, from.extent, images, input, first, output);
                }
                Operation::Winograd(winograd) => {
                    winograd.run(kernels, images, input, (first, second), output);
                }
                Operation::Subsample => subsample(from.extent, input, output),
            }
        }
    }
}

/// A step whose weights are not packed yet.
struct Draft {
    task: Task,
    from: Maps,
    to: Maps,
}

/// What becomes an [`Operation`].
enum Task {
    Pointwise {
        folded: Folded,
        shortcut: Option<Slot>,
        relu: bool,
    },
    Direct(Folded),
    Winograd(Folded),
    Subsample,
}

impl Draft {
    fn finish(self, kernels: &Kernels) -> Step {
        let operation = match self.task {
            Task::Pointwise {
                folded,
                shortcut,
                relu,
            } => Operation::Pointwise(Filters::new(&folded, kernels, relu), shortcut),
            Task::Direct(folded) => Operation::Direct(Filters::new(&folded, kernels, true)),
            Task::Winograd(folded) => {
                Operation::Winograd(Winograd::new(&folded, kernels, self.from.extent))
            }
            Task::Subsample => Operation::Subsample,
        };
        Step {
            operation,
            from: self.from,
            to: self.to,
        }
    }
}

/// Walks the network and appends what is to be done.
struct Compiler {
    /// What has not been walked over yet.
    state: Tensors,
    epsilon: f64,
    topology: Topology,
    /// Where the walk stands.
    maps: Maps,
    drafts: Vec<Draft>,
}

impl Compiler {
    fn stage(&mut self, stage: Layer) {
        for block in 0..BLOCKS[stage.index()] {
            self.bottleneck(&format!("{stage}.{block}"), stage, block == 0);
        }
    }

    fn bottleneck(&mut self, at: &str, stage: Layer, is_first: bool) {
        let input = self.maps;
        let strides = is_first && stage != Layer::Layer1;
        let mut source = input;
        if strides {
            source = Maps {
                slot: Slot::Sampled,
                extent: input.extent.halved(),
                ..input
            };
            self.push(Task::Subsample, input, source);
        }
        let shortcut = if is_first {
            let name = format!("{at}.downsample");
            let folded = self.fold(&format!("{name}.0"), &format!("{name}.1"));
            self.pointwise(folded, false, None, source, Slot::Shortcut)
        } else {
            input
        };
        let mut conv = |index| self.fold(&format!("{at}.conv{index}"), &format!("{at}.bn{index}"));
        let [conv1, conv2, conv3] = [conv(1), conv(2), conv(3)];
        // The stride is on the first convolution or on the second.
        let strides_late = strides && self.topology == Topology::V1_5;
        let first = if strides_late { input } else { source };
        let narrow = self.pointwise(conv1, true, None, first, Slot::Narrow1);
        let (task, extent) = if strides_late {
            (Task::Direct(conv2), narrow.extent.halved())
        } else {
            (Task::Winograd(conv2), narrow.extent)
        };
        let second = Maps {
            slot: Slot::Narrow2,
            extent,
            ..narrow
        };
        self.push(task, narrow, second);
        let slot = match input.slot {
            Slot::Even => Slot::Odd,
            _ => Slot::Even,
        };
        self.maps = self.pointwise(conv3, true, Some(shortcut.slot), second, slot);
    }

    fn fold(&mut self, conv: &str, norm: &str) -> Folded {
        Folded::take(&mut self.state, conv, norm, self.epsilon)
    }

    fn pointwise(
        &mut self,
        folded: Folded,
        relu: bool,
        shortcut: Option<Slot>,
        from: Maps,
        slot: Slot,
    ) -> Maps {
        let to = Maps {
            slot,
            blocks: folded.out_channels.div_ceil(BLOCK),
            ..from
        };
        let task = Task::Pointwise {
            folded,
            shortcut,
            relu,
        };
        self.push(task, from, to);
        to
    }

    fn push(&mut self, task: Task, from: Maps, to: Maps) {
        self.drafts.push(Draft { task, from, to });
    }
}
