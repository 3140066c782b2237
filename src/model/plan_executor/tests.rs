//! The plan against the reference data and against the burn module.

use super::*;
use crate::error::{Classify, Kind};
use crate::image::{ChannelOrder, Normalization};
use crate::model::burn_executor::{BurnBackend, BurnExecutor};
use crate::model::plan::{Algorithm, StepProfile};
use crate::model::reference::{self, relative_l2};
use crate::model::seeded::{draw, seeded};

mod bf16;

const TOPOLOGIES: [Topology; 2] = [Topology::V1, Topology::V1_5];

fn caffe(side: usize) -> InputSpec {
    InputSpec {
        side,
        ..InputSpec::CAFFE
    }
}

fn executor(
    state: &Tensors,
    topology: Topology,
    (layer, pool): (Layer, Pool),
    input: InputSpec,
    threads: usize,
    isa: Isa,
) -> PlanExecutor {
    PlanExecutor::new(
        state.clone(),
        topology,
        layer,
        pool,
        1e-5,
        input,
        threads,
        isa,
        Precision::F32,
    )
    .expect("weights fit and the instruction set is there")
}

/// Images with some structure, all different.
fn images(n: usize, side: usize) -> Vec<Vec<u8>> {
    let pixel = |image: usize, at: usize| {
        let (row, column) = (at / 3 / side, at / 3 % side);
        ((row * (image + 2)) ^ (column * (image + 3)) ^ (at % 3 * 85)) as u8
    };
    (0..n)
        .map(|image| (0..side * side * 3).map(|at| pixel(image, at)).collect())
        .collect()
}

fn slices(images: &[Vec<u8>]) -> Vec<&[u8]> {
    images.iter().map(Vec::as_slice).collect()
}

/// The instruction sets on which the full network takes no minutes.
fn fast() -> Vec<Isa> {
    let mut all = Isa::available();
    all.retain(|&isa| isa != Isa::Scalar);
    if all.is_empty() {
        eprintln!("skipped: this machine has none of NEON, AVX2 and AVX-512");
    }
    all
}

/// Mean and maximum of each channel of `[pixels, channels]`.
fn pooled(maps: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let pixels = (maps.len() / channels) as f64;
    let column = |channel: usize| maps.iter().skip(channel).step_by(channels);
    let mean = |channel| column(channel).map(|&v| f64::from(v)).sum::<f64>() / pixels;
    let largest = |channel| column(channel).copied().fold(f32::MIN, f32::max);
    (
        (0..channels).map(|channel| mean(channel) as f32).collect(),
        (0..channels).map(largest).collect(),
    )
}

#[test]
fn photographs_give_the_golden_features_of_the_full_network() {
    let Some(folder) = reference::folder() else {
        return;
    };
    let golden = reference::tensors(&folder.join("golden/features.safetensors"), |_| true);
    let state = reference::tensors(
        &folder.join("weights/resnet50-msra-stage4.safetensors"),
        |_| true,
    );
    let photos = reference::photos(&folder);
    for isa in fast() {
        let mut worst = std::collections::BTreeMap::<String, f64>::new();
        for topology in TOPOLOGIES {
            for layer in Layer::ALL {
                let kind = if layer == Layer::Layer4 {
                    Pool::None
                } else {
                    Pool::Avg
                };
                let output = (layer, kind);
                let mut executor = executor(&state, topology, output, InputSpec::CAFFE, 2, isa);
                let features = executor.features(&slices(&photos)).expect("features");
                for (row, found) in features.chunks(executor.width()).enumerate() {
                    let mut outputs = Vec::new();
                    if layer == Layer::Layer4 {
                        let (mean, largest) = pooled(found, 2048);
                        outputs.push(("avg", mean, 2e-5));
                        outputs.push(("max", largest, 2e-5));
                        outputs.push(("flat_hwc", found.to_vec(), 3e-5));
                    } else {
                        outputs.push(("avg", found.to_vec(), 2e-6));
                    }
                    for (suffix, found, limit) in outputs {
                        let key = format!("{topology}.{layer}.{suffix}");
                        let expected = &golden[&key];
                        // The v1.5 file keeps the flattened output of one photograph of three.
                        let step = photos.len() / expected.shape[0];
                        if row % step != 0 {
                            continue;
                        }
                        let start = row / step * found.len();
                        let expected = &expected.data[start..start + found.len()];
                        let error = relative_l2(&found, expected);
                        let entry = worst.entry(key.clone()).or_default();
                        *entry = entry.max(error);
                        assert!(error <= limit, "{isa} {key}, photograph {row}: {error:e}");
                    }
                }
            }
        }
        assert_eq!(worst.len(), golden.len());
        eprintln!("{isa}, largest relative errors: {worst:?}");
    }
}

/// `[channels, pixels]` to `[pixels, channels]`.
fn channels_last(maps: &[f32], channels: usize) -> Vec<f32> {
    let pixels = maps.len() / channels;
    (0..pixels)
        .flat_map(|pixel| (0..channels).map(move |channel| maps[channel * pixels + pixel]))
        .collect()
}

#[test]
fn the_tiny_network_gives_the_golden_outputs_on_every_instruction_set() {
    let Some(folder) = reference::folder() else {
        return;
    };
    let golden = reference::tensors(&folder.join("tiny/tiny-golden.safetensors"), |_| true);
    let planes = golden["input.224.u8"].data.as_slice();
    let images: Vec<Vec<u8>> = planes
        .chunks(3 * 224 * 224)
        .map(|image| channels_last(image, 3).iter().map(|&v| v as u8).collect())
        .collect();
    let input = InputSpec {
        side: 224,
        normalization: Normalization {
            order: ChannelOrder::Rgb,
            scale: 1.0,
            mean: [128.0; 3],
            std: [64.0; 3],
        },
    };
    let mut compared = 0;
    for isa in Isa::available() {
        for (precision, topology) in [
            ("f32", Topology::V1),
            ("f32", Topology::V1_5),
            ("f16", Topology::V1),
            ("bf16", Topology::V1_5),
        ] {
            let file = format!("tiny/tiny-resnet50-{precision}.safetensors");
            let state = reference::tensors(&folder.join(file), |_| true);
            for layer in Layer::ALL {
                for (pool, stage) in [(Pool::None, layer.as_str()), (Pool::Avg, "avgpool")] {
                    let key = format!("{precision}.{topology}.224.{stage}");
                    let (expected, rows) = match golden.get(&key) {
                        Some(expected) => (expected, 0..2),
                        None => match golden.get(&format!("{key}.row1")) {
                            Some(expected) => (expected, 1..2),
                            None => continue,
                        },
                    };
                    if pool == Pool::Avg && layer != Layer::Layer4 {
                        continue;
                    }
                    let mut executor = executor(&state, topology, (layer, pool), input, 2, isa);
                    let features = executor.features(&slices(&images)).expect("features");
                    let rows = features.chunks(executor.width()).skip(rows.start);
                    let channels = 16 << layer.index();
                    for (found, expected) in rows.zip(expected.data.chunks(executor.width())) {
                        let error = relative_l2(found, &channels_last(expected, channels));
                        assert!(error <= 1e-5, "{isa} {key}: {error:e}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared >= 10 * Isa::available().len(), "{compared}");
}

/// Holds every stage of the plan against the burn module.
fn agrees_with_burn(state: &Tensors, side: usize, isas: &[Isa], limit: f64) {
    let images = images(3, side);
    for topology in TOPOLOGIES {
        for layer in Layer::ALL {
            let outputs = match layer {
                Layer::Layer4 => vec![Pool::None, Pool::Avg, Pool::Max],
                _ => vec![Pool::None],
            };
            for pool in outputs {
                let input = caffe(side);
                let (backend, threads) = (BurnBackend::Flex, 2);
                let expected =
                    BurnExecutor::new(state, topology, layer, pool, 1e-5, input, backend, threads)
                        .expect("weights fit")
                        .features(&slices(&images))
                        .expect("features");
                for &isa in isas {
                    let mut executor = executor(state, topology, (layer, pool), input, 2, isa);
                    let found = executor.features(&slices(&images)).expect("features");
                    let rows = found.chunks(executor.width());
                    for (found, expected) in rows.zip(expected.chunks(executor.width())) {
                        let error = relative_l2(found, expected);
                        let of = format!("{isa} {side} {topology} {layer} {pool}");
                        assert!(error <= limit, "{of}: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_stage_agrees_with_the_burn_module() {
    agrees_with_burn(&seeded(11), 64, &fast(), 1e-5);
}

#[test]
fn narrow_networks_and_odd_sizes_agree_with_the_burn_module() {
    for (stem, side) in [(2, 64), (4, 75), (4, 33), (20, 7), (4, 1)] {
        let state = draw(Architecture::of_width(stem), 12);
        agrees_with_burn(&state, side, &Isa::available(), 1e-5);
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn same_bits_everywhere(state: &Tensors, isa: Isa, threads: &[usize], batches: &[usize]) {
    let images = images(10, 64);
    let slices = slices(&images);
    let output = (Layer::Layer4, Pool::None);
    for topology in TOPOLOGIES {
        let mut expected: Option<Vec<u32>> = None;
        for &threads in threads {
            let mut executor = executor(state, topology, output, caffe(64), threads, isa);
            for &batch in batches {
                let found: Vec<u32> = slices
                    .chunks(batch)
                    .flat_map(|batch| bits(&executor.features(batch).expect("features")))
                    .collect();
                let expected = expected.get_or_insert_with(|| found.clone());
                let same = *expected == found;
                assert!(same, "{isa} {topology}, {threads} threads, batch {batch}");
            }
        }
    }
}

#[test]
fn an_image_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let narrow = draw(Architecture::of_width(4), 13);
    // Wide enough to have several groups of output channels in every layer.
    let wide = draw(Architecture::of_width(20), 13);
    for isa in Isa::available() {
        same_bits_everywhere(&narrow, isa, &[1, 2, 3], &[1, 2, 5, 10]);
    }
    for isa in fast() {
        same_bits_everywhere(&wide, isa, &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
    same_bits_everywhere(&seeded(14), Isa::detect(), &[1, 2], &[1, 10]);
}

#[test]
fn the_sizes_of_the_caches_show_in_no_bit() {
    let state = draw(Architecture::of_width(20), 19);
    let images = images(3, 75);
    let slices = slices(&images);
    for isa in fast() {
        for topology in TOPOLOGIES {
            let mut first: Option<Vec<u32>> = None;
            for level2 in [1, 20 << 10, 300 << 10, 8 << 20, 1 << 30] {
                let caches = CacheSizes {
                    level2,
                    ..CacheSizes::ASSUMED
                };
                let architecture = Architecture::infer(&state).expect("drawn to fit");
                let plan = Plan::compile(
                    state.clone(),
                    architecture,
                    topology,
                    Layer::Layer4,
                    Pool::None,
                    1e-5,
                    75,
                    &Normalization::CAFFE,
                    isa,
                    Precision::F32,
                    &caches,
                )
                .expect("the instruction set is there");
                let width = architecture.features(Layer::Layer4, Pool::None, 75);
                let mut features = vec![0.0; images.len() * width];
                plan.run(Crew::Alone, &mut plan.arena(), &slices, &mut features);
                let found = bits(&features);
                let first = first.get_or_insert_with(|| found.clone());
                assert!(*first == found, "{isa} {topology} {level2}");
            }
        }
    }
}

#[test]
fn threads_share_an_image_where_each_having_its_own_would_waste_a_quarter() {
    for (images, threads, together) in [
        (0, 2, true),
        (1, 1, false),
        (1, 2, true),
        (2, 2, false),
        (3, 2, true),
        (5, 2, false),
        (16, 2, false),
        (3, 4, true),
        (4, 4, false),
        (17, 16, true),
    ] {
        let found = is_better_together(images, threads);
        assert_eq!(found, together, "{images} images, {threads} threads");
    }
}

#[test]
fn a_profile_has_the_operations_of_the_published_network_and_the_features_of_a_run() {
    let isa = Isa::detect();
    let state = seeded(20);
    let images = images(1, 224);
    // Multiply-adds of the convolutions at 224x224, without the classifier's 2.05 million: v1 as
    // in the paper of He et al. 2016 (3.8e9), v1.5 as torchvision counts (4.09e9 with it).
    for (topology, multiply_adds) in [(Topology::V1, 3.855e9), (Topology::V1_5, 4.087e9)] {
        let plan = Plan::compile(
            state.clone(),
            Architecture::RESNET50,
            topology,
            Layer::Layer4,
            Pool::Avg,
            1e-5,
            224,
            &Normalization::CAFFE,
            isa,
            Precision::F32,
            &CacheSizes::ASSUMED,
        )
        .expect("it was detected");
        let mut arena = plan.arena();
        let (mut found, mut expected) = (vec![0.0; 2048], vec![0.0; 2048]);
        let steps = plan.profile(Crew::Alone, &mut arena, &slices(&images), &mut found);
        plan.run(Crew::Alone, &mut arena, &slices(&images), &mut expected);
        assert_eq!(bits(&found), bits(&expected));
        let direct: f64 = steps.iter().map(|step| step.direct_flop).sum();
        assert!(
            (direct / 2.0 / multiply_adds - 1.0).abs() < 2e-3,
            "{topology}: {direct:e}"
        );
        assert!(steps.iter().all(|step| step.seconds > 0.0));
        let winograd: Vec<&StepProfile> = steps
            .iter()
            .filter(|step| step.algorithm == Algorithm::Winograd)
            .collect();
        // Sixteen blocks, of which three are computed with a stride in either topology.
        assert_eq!(winograd.len(), 13);
        assert!(
            winograd
                .iter()
                .all(|step| step.executed_flop < 0.4 * step.direct_flop)
        );
    }
}

#[test]
fn avx2_and_avx512_give_the_same_bits() {
    let images = images(2, 64);
    let output = (Layer::Layer4, Pool::None);
    for state in [draw(Architecture::of_width(20), 15), seeded(15)] {
        for topology in TOPOLOGIES {
            let mut first = None;
            for isa in fast() {
                let mut executor = executor(&state, topology, output, caffe(64), 1, isa);
                let found = bits(&executor.features(&slices(&images)).expect("features"));
                let first = first.get_or_insert_with(|| found.clone());
                assert!(*first == found, "{isa} {topology}");
            }
        }
    }
}

/// Features of a group of images that may be no numbers, which [`Executor::features`] keeps back.
fn unchecked(executor: &mut PlanExecutor, images: &[&[u8]]) -> Vec<f32> {
    let mut features = vec![0.0; images.len() * executor.width];
    let arena = &mut executor.arenas[0];
    let plan = &executor.plan;
    plan.run(Crew::Alone, arena, images, &mut features);
    features
}

/// Multiplies the scale of a batch norm.
fn scale(state: &mut Tensors, norm: &str, factor: f32) {
    let weight = state.get_mut(&format!("{norm}.weight"));
    let weight = weight.expect("in the network");
    weight.data.iter_mut().for_each(|value| *value *= factor);
}

// Images are bytes and weights must be finite, so only an overflow brings infinity into the network,
// and with it, as infinity minus infinity, NaN.
#[test]
fn infinity_and_nan_stay_in_their_image() {
    let input = InputSpec {
        side: 64,
        normalization: Normalization {
            mean: [0.0; 3],
            ..Normalization::CAFFE
        },
    };
    // The white image is 255 times as large as the dim ones and overflows long before them.
    let mut images = images(6, input.side);
    for image in &mut images {
        image.iter_mut().for_each(|level| *level &= 1);
    }
    images[2].fill(255);
    let images = slices(&images);
    for topology in TOPOLOGIES {
        for isa in Isa::available() {
            let spoils = (0..=127).step_by(2).any(|exponent| {
                let mut state = draw(Architecture::of_width(4), 19);
                scale(&mut state, "bn1", 2f32.powi(exponent));
                let output = (Layer::Layer4, Pool::None);
                let mut executor = executor(&state, topology, output, input, 1, isa);
                let features = unchecked(&mut executor, &images);
                let rows: Vec<&[f32]> = features.chunks(executor.width).collect();
                if rows[2].iter().all(|value| value.is_finite()) {
                    return false;
                }
                for (index, row) in rows.iter().enumerate().filter(|&(index, _)| index != 2) {
                    assert!(row.iter().all(|value| value.is_finite()), "image {index}");
                    let alone = unchecked(&mut executor, &images[index..=index]);
                    assert!(bits(&alone) == bits(row), "{isa} {topology}, image {index}");
                }
                true
            });
            assert!(spoils, "{isa} {topology}: the white image never overflows");
        }
    }
}

#[test]
fn denormal_activations_are_computed_as_numbers() {
    let plain = draw(Architecture::of_width(4), 20);
    // Nothing is shifted in this network, so features are proportional to the scale. Both branches of
    // the first block end far below the smallest normal number, and so does all that follows.
    let mut tiny = plain.clone();
    scale(&mut tiny, "bn1", 2f32.powi(-60));
    for norm in ["layer1.0.bn3", "layer1.0.downsample.1"] {
        scale(&mut tiny, norm, 2f32.powi(-80));
    }
    let images = images(3, 64);
    for topology in TOPOLOGIES {
        for isa in Isa::available() {
            let output = (Layer::Layer4, Pool::None);
            let features = |state: &Tensors| {
                let mut executor = executor(state, topology, output, caffe(64), 1, isa);
                executor.features(&slices(&images)).expect("numbers")
            };
            let (expected, found) = (features(&plain), features(&tiny));
            assert!(found.iter().all(|value| *value < f32::MIN_POSITIVE));
            let found: Vec<f32> = found
                .iter()
                .map(|value| (f64::from(*value) * 2f64.powi(140)) as f32)
                .collect();
            let error = relative_l2(&found, &expected);
            // Denormal numbers keep a dozen of their bits here.
            assert!(error < 1e-2, "{isa} {topology}: {error:e}");
        }
    }
}

#[test]
fn an_image_that_overflows_is_named_and_spoils_no_other() {
    let mut state = draw(Architecture::of_width(4), 16);
    let gamma = state.get_mut("bn1.weight").expect("in the network");
    gamma.data.fill(f32::MAX);
    // A black image is all zeros and stays so; others overflow.
    let input = InputSpec {
        side: 64,
        normalization: Normalization {
            mean: [0.0; 3],
            ..Normalization::CAFFE
        },
    };
    let (black, bright) = (vec![0u8; input.bytes()], vec![200u8; input.bytes()]);
    for isa in Isa::available() {
        for layer in Layer::ALL {
            for pool in [Pool::Avg, Pool::Max, Pool::None] {
                let output = (layer, pool);
                let mut executor = executor(&state, Topology::V1_5, output, input, 1, isa);
                executor
                    .features(&[&black[..]; 3])
                    .expect("zeros are numbers");
                let batch: [&[u8]; 4] = [&black, &black, &bright, &black];
                let error = executor.features(&batch).expect_err("overflow");
                assert_eq!(error.kind(), Kind::Numerical);
                assert!(
                    matches!(error, ExecuteError::NotFinite { image: 2 }),
                    "{isa} {layer} {pool}: {error}"
                );
                // Nothing of it is left in the memory that the next batch uses.
                executor
                    .features(&[&black[..]; 3])
                    .expect("zeros are numbers");
            }
        }
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let state = draw(Architecture::of_width(2), 17);
    let output = (Layer::Layer1, Pool::Avg);
    let isa = Isa::Scalar;
    let mut executor = executor(&state, Topology::V1, output, caffe(32), 1, isa);
    let (right, wrong) = (vec![0; 32 * 32 * 3], vec![0; 31 * 32 * 3]);
    let error = executor.features(&[&right, &wrong]).expect_err("31 rows");
    assert_eq!(
        error.to_string(),
        "image 1 of a batch has 2976 bytes instead of 3072"
    );
    assert!(executor.features(&[]).expect("nothing to do").is_empty());
}

#[test]
fn the_executor_says_what_it_computes_with() {
    let state = draw(Architecture::of_width(2), 18);
    let output = (Layer::Layer1, Pool::Avg);
    for isa in Isa::available() {
        let executor = executor(&state, Topology::V1, output, caffe(32), 2, isa);
        for text in [executor.describe(), executor.arithmetic()] {
            assert!(text.contains(isa.as_str()), "{text}");
        }
        assert!(executor.describe().ends_with("2 threads"));
    }
}
