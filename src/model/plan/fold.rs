//! A convolution and the batch norm behind it as one convolution with a bias.

use crate::kernels::{AlignedBuffer, BLOCK, Kernels, PackedWeights};
use crate::model::Tensors;

/// A convolution with bias: `sum(scale * weights * input) + bias`.
pub struct Folded {
    /// `[out_channels, in_channels, height * width]`, as trained.
    pub weights: Vec<f32>,
    /// `[out_channels]`: what the batch norm multiplies them with.
    pub scale: Vec<f64>,
    /// `[out_channels]`.
    pub bias: Vec<f64>,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Height times width.
    pub taps: usize,
}

impl Folded {
    /// Takes `conv` out of a state dict that has been checked, and folds `norm` into it, in f64:
    /// with the scale `s = gamma / sqrt(variance + epsilon)`, weights become `s * weights` and the
    /// bias `beta - s * mean`.
    pub fn take(state: &mut Tensors, conv: &str, norm: &str, epsilon: f64) -> Folded {
        let Some(tensor) = state.remove(&format!("{conv}.weight")) else {
            unreachable!("the state dict was checked: {conv}");
        };
        let part = |part: &str| &state[&format!("{norm}.{part}")].data;
        let (gamma, beta) = (part("weight"), part("bias"));
        let (mean, variance) = (part("running_mean"), part("running_var"));
        let scale: Vec<f64> = gamma
            .iter()
            .zip(variance)
            .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
            .collect();
        let bias = scale.iter().zip(beta).zip(mean);
        Folded {
            bias: bias
                .map(|((scale, &beta), &mean)| f64::from(beta) - f64::from(mean) * scale)
                .collect(),
            scale,
            weights: tensor.data,
            out_channels: tensor.shape[0],
            in_channels: tensor.shape[1],
            taps: tensor.shape[2..].iter().product(),
        }
    }

    /// The sum of two convolutions of 1x1 as one, over the channels of this one's input, filled up to
    /// whole blocks, and behind them those of the other's.
    pub fn joined(self, other: Folded) -> Folded {
        let front = self.in_channels.next_multiple_of(BLOCK);
        let in_channels = front + other.in_channels;
        let mut weights = vec![0.0; self.out_channels * in_channels];
        for (out_channel, row) in weights.chunks_exact_mut(in_channels).enumerate() {
            let (first, second) = row.split_at_mut(front);
            for (part, row) in [(&self, first), (&other, second)] {
                let filters = &part.weights[out_channel * part.in_channels..][..part.in_channels];
                for (to, &weight) in row.iter_mut().zip(filters) {
                    *to = (f64::from(weight) * part.scale[out_channel]) as f32;
                }
            }
        }
        Folded {
            weights,
            scale: vec![1.0; self.out_channels],
            bias: self
                .bias
                .iter()
                .zip(&other.bias)
                .map(|(a, b)| a + b)
                .collect(),
            out_channels: self.out_channels,
            in_channels,
            taps: 1,
        }
    }

    /// The filter of an output and an input channel as trained, `[taps]`.
    pub fn filter(&self, out_channel: usize, in_channel: usize) -> &[f32] {
        &self.weights[(out_channel * self.in_channels + in_channel) * self.taps..][..self.taps]
    }

    /// The scaled weights, rounded to f32 and packed for an input of feature maps.
    pub fn packed(&self, kernels: &Kernels) -> PackedWeights {
        self.packed_for_depth(kernels, BLOCK)
    }

    /// The same for an input of blocks of `depth` channels.
    pub fn packed_for_depth(&self, kernels: &Kernels, depth: usize) -> PackedWeights {
        let channels = (self.out_channels, self.in_channels);
        let (taps, blocks) = ((self.taps, depth), kernels.max_blocks);
        PackedWeights::computed(channels, taps, blocks, |outs, in_channel, rows| {
            for (lane, out_channel) in outs.enumerate() {
                let scale = self.scale[out_channel];
                for (row, &weight) in rows.iter_mut().zip(self.filter(out_channel, in_channel)) {
                    row[lane] = (f64::from(weight) * scale) as f32;
                }
            }
        })
    }

    /// The bias rounded to f32, filled up with zeros to whole channel blocks.
    pub fn rounded_bias(&self) -> AlignedBuffer {
        let mut bias = AlignedBuffer::zeroed(self.out_channels.next_multiple_of(BLOCK));
        for (to, &from) in bias.iter_mut().zip(&self.bias) {
            *to = from as f32;
        }
        bias
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::model::weights::Tensor;

    #[test]
    fn the_folded_convolution_is_the_convolution_and_its_batch_norm() {
        let tensor = |shape: &[usize], data: &[f32]| Tensor {
            shape: shape.to_vec(),
            data: data.to_vec(),
        };
        let mut state = Tensors::from([
            (
                "c.weight".into(),
                tensor(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]),
            ),
            ("n.weight".into(), tensor(&[2], &[3.0, -1.0])),
            ("n.bias".into(), tensor(&[2], &[0.5, 0.25])),
            ("n.running_mean".into(), tensor(&[2], &[10.0, 20.0])),
            ("n.running_var".into(), tensor(&[2], &[3.0, 15.0])),
        ]);
        let folded = Folded::take(&mut state, "c", "n", 1.0);
        assert_eq!(
            (folded.out_channels, folded.in_channels, folded.taps),
            (2, 1, 2)
        );
        // 3 / sqrt(3 + 1) and -1 / sqrt(15 + 1).
        for kernels in Isa::available().into_iter().filter_map(Kernels::of) {
            let packed = folded.packed(&kernels);
            let width = packed.out_blocks_of(0) * BLOCK;
            let weight = |out_channel: usize, tap: usize| packed.tap(0, tap)[out_channel];
            assert_eq!(width, BLOCK);
            assert_eq!([weight(0, 0), weight(0, 1)], [1.5, 3.0]);
            assert_eq!([weight(1, 0), weight(1, 1)], [-0.75, -1.0]);
        }
        assert_eq!(folded.bias, [0.5 - 15.0, 0.25 + 5.0]);
        let bias = folded.rounded_bias();
        assert_eq!(bias[..3], [-14.5, 5.25, 0.0]);
        assert_eq!(bias.len(), BLOCK);
    }

    #[test]
    fn joined_convolutions_read_whole_blocks_and_then_the_others_channels() {
        let part = |scale: f64, in_channels: usize| Folded {
            weights: (0..2 * in_channels).map(|at| at as f32 + 1.0).collect(),
            scale: vec![scale, -scale],
            bias: vec![scale, 1.0],
            out_channels: 2,
            in_channels,
            taps: 1,
        };
        let joined = part(0.5, 3).joined(part(2.0, 2));
        let mut expected = vec![0.0; 2 * (BLOCK + 2)];
        expected[..3].copy_from_slice(&[0.5, 1.0, 1.5]);
        expected[BLOCK..][..2].copy_from_slice(&[2.0, 4.0]);
        expected[BLOCK + 2..][..3].copy_from_slice(&[-2.0, -2.5, -3.0]);
        expected[2 * BLOCK + 2..].copy_from_slice(&[-6.0, -8.0]);
        assert_eq!(joined.weights, expected);
        assert_eq!((joined.bias, joined.scale), (vec![2.5, 2.0], vec![1.0; 2]));
        assert_eq!((joined.in_channels, joined.out_channels), (BLOCK + 2, 2));
    }
}
