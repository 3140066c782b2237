//! The plan in bfloat16 against the reference data, against the burn module and against itself.

use super::*;
use crate::kernels::KernelsBf16;

/// Half the distance from 1 to the next bfloat16.
const UNIT: f64 = 1.0 / 256.0;

fn executor(
    state: &Tensors,
    topology: Topology,
    (layer, pool): (Layer, Pool),
    input: InputSpec,
    threads: usize,
    isa: Isa,
) -> PlanExecutor {
    let (state, bf16) = (state.clone(), Precision::Bf16);
    PlanExecutor::new(
        state, topology, layer, pool, 1e-5, input, threads, isa, bf16,
    )
    .expect("weights fit and the instruction set is there")
}

fn available() -> Vec<Isa> {
    let mut all = Isa::available();
    all.retain(|&isa| KernelsBf16::of(isa).is_some());
    all
}

/// Whether this machine computes in bfloat16 in bearable time.
fn is_fast() -> bool {
    let is_fast = KernelsBf16::of(Isa::Avx512).is_some();
    if !is_fast {
        eprintln!("skipped: this machine has no AVX512-BF16");
    }
    is_fast
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn photographs_give_nearly_the_golden_features() {
    let Some(folder) = reference::folder() else {
        return;
    };
    if !is_fast() {
        return;
    }
    let golden = reference::tensors(&folder.join("golden/features.safetensors"), |_| true);
    let weights = folder.join("weights/resnet50-msra-stage4.safetensors");
    let state = reference::tensors(&weights, |_| true);
    let photos = reference::photos(&folder);
    for topology in TOPOLOGIES {
        for layer in Layer::ALL {
            let output = (layer, Pool::None);
            let mut executor = executor(&state, topology, output, InputSpec::CAFFE, 2, Isa::Avx512);
            let features = executor.features(&slices(&photos)).expect("features");
            let channels = 256 << layer.index();
            let mut least = [1.0f64; 3];
            for (row, found) in features.chunks(executor.width()).enumerate() {
                let (mean, largest) = pooled(found, channels);
                let outputs = [
                    ("avg", mean),
                    ("max", largest),
                    ("flat_hwc", found.to_vec()),
                ];
                for (least, (suffix, found)) in least.iter_mut().zip(outputs) {
                    let key = format!("{topology}.{layer}.{suffix}");
                    let Some(expected) = golden.get(&key) else {
                        continue;
                    };
                    // The v1.5 file keeps the flattened output of one photograph of three.
                    let step = photos.len() / expected.shape[0];
                    if row % step == 0 {
                        let start = row / step * found.len();
                        let expected = &expected.data[start..start + found.len()];
                        *least = least.min(cosine(&found, expected));
                    }
                }
            }
            eprintln!("{topology} {layer}: least cosine of avg, max, flat {least:?}");
            // The random layer4 of the reference weights enlarges differences five to ten times,
            // and where nothing is pooled nothing averages out.
            let limits = [0.9995, 0.9993, 0.998];
            for (least, limit) in least.into_iter().zip(limits) {
                assert!(least >= limit, "{topology} {layer}: {least} < {limit}");
            }
        }
    }
}

#[test]
fn every_stage_is_near_the_burn_module() {
    let networks = [(4, 75), (4, 33), (20, 40), (4, 1)]
        .map(|(stem, side)| (draw(Architecture::of_width(stem), 12), side, available()));
    let full = is_fast().then(|| (seeded(11), 64, vec![Isa::Avx512]));
    for (state, side, isas) in networks.into_iter().chain(full) {
        let images = images(3, side);
        let input = caffe(side);
        for topology in TOPOLOGIES {
            let mut convolutions = 1;
            for layer in Layer::ALL {
                convolutions += 1 + 3 * crate::model::architecture::BLOCKS[layer.index()];
                let burn = BurnBackend::Flex;
                let output = (layer, Pool::None);
                let expected =
                    BurnExecutor::new(&state, topology, layer, Pool::None, 1e-5, input, burn, 2)
                        .expect("weights fit")
                        .features(&slices(&images))
                        .expect("features");
                // Every convolution meets three roundings: of its input, its weights and its
                // transformed input. Taken as independent, with a relative size of up to UNIT each,
                // they add up as their squares do.
                let limit = UNIT * (3.0 * convolutions as f64).sqrt();
                for &isa in &isas {
                    let mut executor = executor(&state, topology, output, input, 2, isa);
                    let found = executor.features(&slices(&images)).expect("features");
                    let rows = found.chunks(executor.width());
                    for (found, expected) in rows.zip(expected.chunks(executor.width())) {
                        let error = relative_l2(found, expected);
                        let of = format!("{isa} {side} {topology} {layer}");
                        assert!(error <= limit, "{of}: {error:e} above {limit:e}");
                        assert!(error > 0.0, "{of}: not rounded");
                    }
                }
            }
        }
    }
}

#[test]
fn an_image_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let state = draw(Architecture::of_width(20), 13);
    let images = images(16, 40);
    let slices = slices(&images);
    for isa in available() {
        for topology in TOPOLOGIES {
            let mut expected: Option<Vec<u32>> = None;
            for threads in [1, 2, 3] {
                let output = (Layer::Layer4, Pool::None);
                let mut executor = executor(&state, topology, output, caffe(40), threads, isa);
                for batch in [1, 5, 16] {
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
}

#[test]
fn an_overflow_stays_in_its_image() {
    let mut state = draw(Architecture::of_width(4), 16);
    // The last convolution overflows where its input is not zero; a black image without biases
    // gives zeros throughout.
    for (name, tensor) in &mut state {
        if name.ends_with("bias") || name.ends_with("running_mean") {
            tensor.data.fill(0.0);
        }
        if name == "layer1.0.conv3.weight" {
            tensor.data.iter_mut().for_each(|value| *value *= 1e38);
        }
    }
    let input = InputSpec {
        side: 40,
        normalization: Normalization {
            mean: [0.0; 3],
            ..Normalization::CAFFE
        },
    };
    let (black, bright) = (vec![0u8; input.bytes()], vec![200u8; input.bytes()]);
    for isa in available() {
        for layer in Layer::ALL {
            let output = (layer, Pool::Avg);
            let mut executor = executor(&state, Topology::V1_5, output, input, 1, isa);
            let batch: [&[u8]; 3] = [&black, &bright, &black];
            let error = executor.features(&batch).expect_err("overflow");
            assert!(
                matches!(error, ExecuteError::NotFinite { image: 1 }),
                "{isa} {layer}: {error}"
            );
            executor
                .features(&[&black[..]; 3])
                .expect("zeros are numbers");
        }
    }
}

#[test]
fn an_instruction_set_without_bfloat16_is_refused() {
    let state = draw(Architecture::of_width(2), 18);
    let (v1, bf16) = (Topology::V1, Precision::Bf16);
    let output = (Layer::Layer1, Pool::Avg);
    let refused = PlanExecutor::new(
        state.clone(),
        v1,
        output.0,
        output.1,
        1e-5,
        caffe(32),
        1,
        Isa::Avx2,
        bf16,
    );
    let error = refused.err().expect("AVX2 has no bfloat16");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("bf16"), "{error}");
    for isa in available() {
        let executor = executor(&state, v1, output, caffe(32), 1, isa);
        let f32 = super::executor(&state, v1, output, caffe(32), 1, isa);
        assert!(
            executor.describe().contains("bf16"),
            "{}",
            executor.describe()
        );
        assert_ne!(executor.arithmetic(), f32.arithmetic());
    }
}
