//! The network compiled for the CPU: what runs when nothing but fast inference is wanted.
//!
//! Batch norms are folded into the convolutions, weights packed in the order in which the kernels
//! read them, and every layer has its algorithm from its shape alone: 1x1 convolutions are matrix
//! products over all pixels, 3x3 convolutions with stride 1 go through Winograd's minimal filtering,
//! those with stride 2 and the 7x7 stem are direct. Additions of shortcuts and ReLU happen in the
//! kernels; where a shortcut is projected, its convolution and the block's last one are a single sum
//! over the channels of both inputs. [`crate::model::resnet50`] is the definition that this is held
//! against.
//!
//! In topology v1 a stage takes every second pixel of the one before and nothing else of it. The last
//! block of that stage computes only those: its 3x3 convolution has stride 2, and three quarters of
//! its last convolution are left out.
//!
//! In bfloat16 the first layer and the first block stay in f32: they see the plain areas of a
//! picture, where roundings are the same in every pixel and do not average out, and cause most of
//! the error of a network that is bfloat16 throughout, but take a sixth of the time. The last
//! block's output is not rounded.

mod bf16;
mod crew;
mod fold;
mod layers;
mod profile;
mod stem;
mod tiling;
mod winograd;
mod winograd_bf16;

use std::ops::Range;

use rayon::prelude::*;

use crate::image::Normalization;
use crate::kernels::pooling::larger;
use crate::kernels::{AlignedBuffer, BLOCK, CacheSizes, Isa, Kernels, KernelsBf16, Tile};
use crate::model::architecture::{Architecture, BLOCKS};
use crate::model::{Layer, Pool, Precision, Tensors, Topology};

use bf16::OperationBf16;
use fold::Folded;
use layers::{Extent, Filters, subsample};
use profile::Watch;
use stem::{Stem, StemRoom};
use winograd::Winograd;

pub use crew::Crew;
pub use profile::{Algorithm, StepProfile};

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
    /// Every second pixel of the input.
    Sampled,
    /// Between the first and the second convolution.
    Narrow1,
    /// Between the second and the third convolution; where the shortcut is projected, these maps lie
    /// behind its input instead.
    Narrow2,
}

const SLOTS: usize = 5;

/// Feature maps of an image in a slot.
#[derive(Debug, Clone, Copy)]
struct Maps {
    slot: Slot,
    /// Channel blocks of other maps in front of these, of the same size.
    behind: usize,
    blocks: usize,
    extent: Extent,
    precision: Precision,
}

impl Maps {
    /// Floats of the slot up to the end of these maps.
    fn floats(&self, images: usize) -> usize {
        images * (self.behind + self.blocks) * self.map_floats()
    }

    /// Where they lie in the slot.
    fn range(&self, images: usize) -> Range<usize> {
        images * self.behind * self.map_floats()..self.floats(images)
    }

    /// Floats of memory of one channel block of one image.
    fn map_floats(&self) -> usize {
        let values = self.extent.pixels() * BLOCK;
        match self.precision {
            Precision::F32 => values,
            Precision::Bf16 => values / 2,
        }
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
    /// What has to do with bfloat16.
    Bf16(OperationBf16),
}

/// An operation with its input and output.
struct Step {
    /// As in the state dict: `layer1.0.conv1`.
    name: String,
    operation: Operation,
    from: Maps,
    to: Maps,
    /// Pixels of the output in the definition of the network, for each that is computed.
    defined: usize,
}

/// A run of steps for the same images.
struct Segment {
    steps: Vec<Step>,
}

/// The network for images of one size, on one instruction set.
pub struct Plan {
    kernels: Kernels,
    /// Those of the layers in bfloat16, if there are any.
    kernels_bf16: Option<KernelsBf16>,
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
    scratch: [AlignedBuffer; 2],
    /// For as many threads as ever worked on the first layer together.
    stems: Vec<StemRoom>,
}

impl Plan {
    /// Compiles a state dict that [`Architecture::check`] accepts; none where this machine lacks the
    /// instruction set, or lacks it for this precision. `epsilon` is what batch norms add to the
    /// variance; no result depends on `caches`.
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
        precision: Precision,
        caches: &CacheSizes,
    ) -> Option<Plan> {
        let kernels = Kernels::of(isa)?;
        let kernels_bf16 = match precision {
            Precision::F32 => None,
            Precision::Bf16 => Some(KernelsBf16::of(isa)?),
        };
        let stem = Folded::take(&mut state, "conv1", "bn1", epsilon);
        let stem = Stem::new(stem, &kernels, caches, side, normalization);
        let mut compiler = Compiler {
            state,
            epsilon,
            topology,
            layer,
            precision,
            maps: stem_output(&stem),
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
            maps: mut output,
            mut drafts,
            ..
        } = compiler;
        // What is pooled is not rounded before.
        output.precision = Precision::F32;
        if let Some(last) = drafts.last_mut() {
            last.to = output;
        }
        if count_alone == drafts.len() {
            middle = output;
        }
        let finished = drafts
            .into_par_iter()
            .map(|draft| draft.finish(&kernels, kernels_bf16.as_ref(), caches));
        let mut alone = Segment {
            steps: finished.collect(),
        };
        let together = Segment {
            steps: alone.steps.split_off(count_alone),
        };
        Some(Plan {
            kernels,
            kernels_bf16,
            stem,
            alone,
            together,
            middle,
            output,
            channels: architecture.channels(layer),
            pool,
        })
    }

    /// Precision and instruction set: `bf16 avx512bf16`.
    pub fn arithmetic(&self) -> String {
        match self.kernels_bf16 {
            None => format!("{} {}", Precision::F32, self.kernels.isa),
            Some(kernels) => format!("{} {}", Precision::Bf16, kernels.isa_name),
        }
    }

    /// Memory for one thread.
    pub fn arena(&self) -> Arena {
        let together = if self.together.steps.is_empty() {
            0
        } else {
            GROUP
        };
        let stem = stem_output(&self.stem);
        let mut scratch = [self.stem.bordered_floats(), 0];
        for (segment, images) in [(&self.alone, 1), (&self.together, together)] {
            for step in &segment.steps {
                let room = match &step.operation {
                    Operation::Direct(filters) => [filters.bordered_floats(step.from.extent), 0],
                    Operation::Winograd(winograd) => winograd.room(images).into(),
                    Operation::Pointwise(..) | Operation::Subsample => [0, 0],
                    Operation::Bf16(operation) => operation.room(step.from, images),
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
            stems: Vec::new(),
        }
    }

    /// Features of up to [`GROUP`] images of the plan's size, one row each.
    pub fn run(&self, crew: Crew, arena: &mut Arena, images: &[&[u8]], features: &mut [f32]) {
        self.run_watched(crew, arena, images, features, &mut ());
    }

    fn run_watched(
        &self,
        crew: Crew,
        arena: &mut Arena,
        images: &[&[u8]],
        features: &mut [f32],
        watch: &mut impl Watch,
    ) {
        let count = images.len();
        let width = features.len() / count;
        // The stem is step 0.
        let first_together = 1 + self.alone.steps.len();
        for (index, image) in images.iter().enumerate() {
            let Arena {
                alone,
                scratch,
                stems,
                ..
            } = arena;
            let first = &mut alone[Slot::Even as usize][..stem_output(&self.stem).floats(1)];
            watch.begins();
            self.stem
                .run(&self.kernels, crew, image, &mut scratch[0], stems, first);
            watch.has_done(0);
            self.alone
                .run(&self.kernels, crew, 1, alone, scratch, (watch, 1));
            let maps = &arena.alone[self.middle.slot as usize];
            if self.together.steps.is_empty() {
                let row = &mut features[index * width..][..width];
                self.pool(maps, (0, 1), row);
            } else {
                let map = self.middle.map_floats();
                let to = &mut arena.together[self.middle.slot as usize];
                for block in 0..self.middle.blocks {
                    let to = &mut to[(block * count + index) * map..][..map];
                    to.copy_from_slice(&maps[block * map..][..map]);
                }
            }
        }
        if !self.together.steps.is_empty() {
            watch.begins();
            self.together.run(
                &self.kernels,
                crew,
                count,
                &mut arena.together,
                &mut arena.scratch,
                (watch, first_together),
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
    /// Runs all steps; the watch counts them from `first_step`.
    fn run(
        &self,
        kernels: &Kernels,
        crew: Crew,
        images: usize,
        slots: &mut [AlignedBuffer; SLOTS],
        [first, second]: &mut [AlignedBuffer; 2],
        (watch, first_step): (&mut impl Watch, usize),
    ) {
        for (index, step) in self.steps.iter().enumerate() {
            let Step {
                operation,
                from,
                to,
                ..
            } = step;
            // Input, output and shortcut of a step are different slots, so each can be lent apart.
            let mut lent: [Option<&mut AlignedBuffer>; SLOTS] = slots.each_mut().map(Some);
            let mut lend = |slot: Slot| lent[slot as usize].take();
            let (Some(input), Some(output)) = (lend(from.slot), lend(to.slot)) else {
                unreachable!("a step from a slot into itself");
            };
            let input = &input[from.range(images)];
            let output = &mut output[to.range(images)];
            match operation {
                Operation::Pointwise(filters, shortcut) => {
                    let residual = shortcut.and_then(&mut lend).map(|buffer| &buffer[..]);
                    let pixels = images * from.extent.pixels();
                    let conv =
                        |tile: &Tile<'_>, output: &mut [f32]| kernels.conv_tile(tile, output);
                    filters.run(kernels, crew, pixels, input, residual, output, conv);
                }
                Operation::Direct(filters) => {
                    let from = from.extent;
                    filters.run_3x3_stride_2(kernels, crew, from, images, input, first, output);
                }
                Operation::Winograd(winograd) => {
                    winograd.run(kernels, crew, images, input, (first, second), output);
                }
                Operation::Subsample => subsample(from.extent, input, output),
                Operation::Bf16(operation) => {
                    let residual = operation.shortcut().and_then(&mut lend);
                    let residual = residual.map(|buffer| &buffer[..]);
                    let maps = (*from, *to);
                    operation.run(
                        kernels,
                        crew,
                        images,
                        maps,
                        input,
                        residual,
                        (first, second),
                        output,
                    );
                }
            }
            watch.has_done(first_step + index);
        }
    }
}

/// Where the first layer leaves its output.
fn stem_output(stem: &Stem) -> Maps {
    Maps {
        slot: Slot::Even,
        behind: 0,
        blocks: stem.out_blocks(),
        extent: stem.output(),
        precision: Precision::F32,
    }
}

/// A step whose weights are not packed yet.
struct Draft {
    name: String,
    task: Task,
    from: Maps,
    to: Maps,
    defined: usize,
}

/// What becomes an [`Operation`].
enum Task {
    Pointwise(Folded, Option<Slot>),
    Direct(Folded),
    Winograd(Folded),
    Subsample,
}

impl Draft {
    /// Packs the weights; a step with bfloat16 at one of its ends takes those kernels.
    fn finish(
        self,
        kernels: &Kernels,
        kernels_bf16: Option<&KernelsBf16>,
        caches: &CacheSizes,
    ) -> Step {
        let is_f32 = self.from.precision == Precision::F32 && self.to.precision == Precision::F32;
        let kernels_bf16 = kernels_bf16.filter(|_| !is_f32);
        let operation = match self.task {
            task if let Some(kernels_bf16) = kernels_bf16 => {
                let from = self.from;
                Operation::Bf16(OperationBf16::new(
                    task,
                    kernels,
                    kernels_bf16,
                    caches,
                    from,
                ))
            }
            Task::Pointwise(folded, shortcut) => {
                Operation::Pointwise(Filters::new(&folded, kernels, caches), shortcut)
            }
            Task::Direct(folded) => Operation::Direct(Filters::new(&folded, kernels, caches)),
            Task::Winograd(folded) => {
                let extent = self.from.extent;
                Operation::Winograd(Winograd::new(&folded, kernels, caches, extent))
            }
            Task::Subsample => Operation::Subsample,
        };
        Step {
            name: self.name,
            operation,
            from: self.from,
            to: self.to,
            defined: self.defined,
        }
    }
}

/// Where a block stands.
#[derive(Clone, Copy)]
struct Place {
    stage: Layer,
    is_first: bool,
    /// Whether only every second pixel of its output is wanted.
    is_sampled: bool,
}

/// Walks the network and appends what is to be done.
struct Compiler {
    /// What has not been walked over yet.
    state: Tensors,
    epsilon: f64,
    topology: Topology,
    /// The last stage.
    layer: Layer,
    precision: Precision,
    /// Where the walk stands.
    maps: Maps,
    drafts: Vec<Draft>,
}

impl Compiler {
    fn stage(&mut self, stage: Layer) {
        let blocks = BLOCKS[stage.index()];
        // Whether the next stage takes every second pixel and nobody else looks at them.
        let is_sampled = self.topology == Topology::V1 && stage < self.layer;
        for block in 0..blocks {
            let at = format!("{stage}.{block}");
            let place = Place {
                stage,
                is_first: block == 0,
                is_sampled: is_sampled && block + 1 == blocks,
            };
            self.bottleneck(&at, place);
        }
    }

    fn bottleneck(&mut self, at: &str, place: Place) {
        let input = self.maps;
        // The stride is on the first convolution or on the second; in v1 the stage before has
        // taken it.
        let strides_late =
            place.is_first && place.stage != Layer::Layer1 && self.topology == Topology::V1_5;
        let mut source = input;
        if strides_late || place.is_sampled {
            source = Maps {
                slot: Slot::Sampled,
                extent: input.extent.halved(),
                ..input
            };
            self.push(format!("{at}.sample"), Task::Subsample, input, source, 1);
        }
        let mut conv = |index| self.fold(&format!("{at}.conv{index}"), &format!("{at}.bn{index}"));
        let [conv1, conv2, mut conv3] = [conv(1), conv(2), conv(3)];
        let to = (Slot::Narrow1, input.precision);
        let narrow = self.pointwise(format!("{at}.conv1"), conv1, None, input, to, 1);
        let (task, extent) = if strides_late || place.is_sampled {
            (Task::Direct(conv2), narrow.extent.halved())
        } else {
            (Task::Winograd(conv2), narrow.extent)
        };
        let mut second = Maps {
            slot: Slot::Narrow2,
            extent,
            ..narrow
        };
        if place.is_first {
            second.slot = source.slot;
            second.behind = source.blocks;
        }
        let defined = if place.is_sampled { 4 } else { 1 };
        self.push(format!("{at}.conv2"), task, narrow, second, defined);
        let mut name = format!("{at}.conv3");
        let mut shortcut = Some(source.slot);
        if place.is_first {
            // The projection of the shortcut and the last convolution are one sum over the channels
            // of both inputs.
            let projection = format!("{at}.downsample");
            conv3 = self
                .fold(&format!("{projection}.0"), &format!("{projection}.1"))
                .joined(conv3);
            name = format!("{projection} + conv3");
            second.behind = 0;
            second.blocks += source.blocks;
            shortcut = None;
        }
        let slot = match input.slot {
            Slot::Even => Slot::Odd,
            _ => Slot::Even,
        };
        // From the output of the first block on, maps are in the precision of the plan.
        let to = (slot, self.precision);
        self.maps = self.pointwise(name, conv3, shortcut, second, to, defined);
    }

    fn fold(&mut self, conv: &str, norm: &str) -> Folded {
        Folded::take(&mut self.state, conv, norm, self.epsilon)
    }

    fn pointwise(
        &mut self,
        name: String,
        folded: Folded,
        shortcut: Option<Slot>,
        from: Maps,
        (slot, precision): (Slot, Precision),
        defined: usize,
    ) -> Maps {
        let to = Maps {
            slot,
            behind: 0,
            blocks: folded.out_channels.div_ceil(BLOCK),
            extent: from.extent,
            precision,
        };
        let task = Task::Pointwise(folded, shortcut);
        self.push(name, task, from, to, defined);
        to
    }

    fn push(&mut self, name: String, task: Task, from: Maps, to: Maps, defined: usize) {
        self.drafts.push(Draft {
            name,
            task,
            from,
            to,
            defined,
        });
    }
}
