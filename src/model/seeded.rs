//! Weights from a random generator, for runs without pretrained ones.
//!
//! A random network still maps like images to like vectors, but it knows nothing of objects.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::model::Tensors;
use crate::model::architecture::Architecture;
use crate::model::weights::Tensor;

/// Scale of the last batch norm of every block: 1/sqrt(16 blocks), so that the sixteen branches
/// together add about as much as they started with, instead of doubling at each block. De and
/// Smith, *Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep
/// Networks*, 2020.
const BRANCH_SCALE: f32 = 0.25;

/// The weights of a full ResNet-50 drawn from `seed`: the same values on every machine.
///
/// Convolutions have mean 0 and variance 2 / fan-in (He, Zhang, Ren and Sun, *Delving Deep into
/// Rectifiers*, 2015), which keeps the size of the activations from layer to layer. Batch norms
/// shift nothing and scale by 1, the last one of each block by 1/4; as nothing is shifted, the size
/// of the input passes through to the output.
pub fn seeded(seed: u64) -> Tensors {
    draw(Architecture::RESNET50, seed)
}

/// Weights of any width. Each tensor has a random stream of its own.
pub fn draw(architecture: Architecture, seed: u64) -> Tensors {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut tensors = Tensors::new();
    for (stream, (name, shape)) in (0..).zip(architecture.expected_tensors()) {
        let count = shape.iter().product();
        let data = if let [_, fan_in @ ..] = shape.as_slice()
            && !fan_in.is_empty()
        {
            let mut random = ChaCha8Rng::from_seed(key);
            random.set_stream(stream);
            let variance = 2.0 / fan_in.iter().product::<usize>() as f64;
            bell_shaped(&mut random, variance, count)
        } else {
            vec![constant(&name); count]
        };
        tensors.insert(name, Tensor { shape, data });
    }
    tensors
}

/// `count` values of mean 0 and the given variance, each the sum of four uniform ones.
///
/// The sum of four is close to normal and takes only integer sums, one multiplication and one
/// correctly rounded square root, whereas the usual methods take logarithms and cosines, whose last
/// bit differs between C libraries.
fn bell_shaped(random: &mut ChaCha8Rng, variance: f64, count: usize) -> Vec<f32> {
    const MEAN: i32 = 2 * 65535;
    // A uniform integer below n has the variance (n^2 - 1) / 12.
    const VARIANCE: f64 = 4.0 * (65536.0 * 65536.0 - 1.0) / 12.0;
    let scale = (variance / VARIANCE).sqrt();
    let mut value = || {
        let word = random.next_u64();
        let sum: i32 = (0..4).map(|i| i32::from((word >> (16 * i)) as u16)).sum();
        (f64::from(sum - MEAN) * scale) as f32
    };
    (0..count).map(|_| value()).collect()
}

/// The value that fills a tensor of a batch norm.
fn constant(name: &str) -> f32 {
    if name.ends_with(".bias") || name.ends_with(".running_mean") {
        0.0
    } else if name.ends_with(".bn3.weight") {
        BRANCH_SCALE
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_a_state_dict_that_fits() {
        let state = seeded(50);
        assert_eq!(Architecture::infer(&state), Ok(Architecture::RESNET50));
    }

    #[test]
    fn values_come_from_the_published_key_stream() {
        // First 16 bytes of ChaCha8 with a key and nonce of zeros, from Strombergson, "Test Vectors
        // for the Stream Cipher ChaCha", 2013, TC1.
        let stream: [u8; 16] = [
            0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6, 0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09,
            0xa5, 0xa1,
        ];
        let state = seeded(0);
        let conv1 = &state["conv1.weight"];
        for (bytes, &value) in stream.chunks(8).zip(&conv1.data) {
            let words = bytes
                .chunks(2)
                .map(|b| f64::from(u16::from_le_bytes([b[0], b[1]])));
            let uniform = words.map(|word| (word + 0.5) / 65536.0 - 0.5).sum::<f64>();
            // The uniform law on an interval of length 1 has the variance 1/12; four add up.
            let expected = uniform / (4.0f64 / 12.0).sqrt() * (2.0f64 / (3 * 7 * 7) as f64).sqrt();
            assert!(
                (f64::from(value) - expected).abs() < 1e-6,
                "{value} {expected}"
            );
        }
    }

    #[test]
    fn convolutions_have_mean_zero_and_variance_two_over_fan_in() {
        let state = seeded(7);
        for name in ["layer3.2.conv2.weight", "layer4.0.downsample.0.weight"] {
            let tensor = &state[name];
            let n = tensor.data.len() as f64;
            let fan_in: usize = tensor.shape[1..].iter().product();
            let mean = tensor.data.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let square = tensor
                .data
                .iter()
                .map(|&v| f64::from(v).powi(2))
                .sum::<f64>()
                / n;
            let expected = 2.0 / fan_in as f64;
            // Five standard errors of the mean and of the variance.
            assert!(
                mean.abs() < 5.0 * (expected / n).sqrt(),
                "{name}: mean {mean}"
            );
            let error = (square / expected - 1.0).abs();
            assert!(error < 5.0 * (2.0 / n).sqrt(), "{name}: variance {square}");
        }
    }

    #[test]
    fn tensors_and_seeds_differ() {
        let (one, two) = (seeded(1), seeded(2));
        let first = |state: &Tensors, name: &str| state[name].data[..8].to_vec();
        assert_ne!(first(&one, "conv1.weight"), first(&two, "conv1.weight"));
        let (a, b) = ("layer1.1.conv1.weight", "layer1.2.conv1.weight");
        assert_ne!(first(&one, a), first(&one, b));
        assert_eq!(one, seeded(1));
    }
}
