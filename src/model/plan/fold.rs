//! A convolution and the batch norm behind it as one convolution with a bias.

use crate::kernels::{AlignedBuffer, BLOCK};
use crate::model::Tensors;

/// A convolution with bias: `sum(weights * input) + bias`.
pub struct Folded {
    /// `[out_channels, in_channels, height * width]`.
    pub weights: Vec<f64>,
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
    /// Folds `conv` and `norm` of a state dict that has been checked, in f64: with the scale
    /// `s = gamma / sqrt(variance + epsilon)`, weights become `s * weights` and the bias
    /// `beta - s * mean`.
    pub fn new(state: &Tensors, conv: &str, norm: &str, epsilon: f64) -> Folded {
        let tensor = &state[&format!("{conv}.weight")];
        let [out_channels, in_channels] = [tensor.shape[0], tensor.shape[1]];
        let taps = tensor.shape[2..].iter().product::<usize>();
        let part =
            |part: &str, channel: usize| f64::from(state[&format!("{norm}.{part}")].data[channel]);
        let mut weights = Vec::with_capacity(tensor.data.len());
        let mut bias = Vec::with_capacity(out_channels);
        let filters = tensor.data.chunks_exact(in_channels * taps);
        for (channel, filter) in filters.enumerate() {
            let scale = part("weight", channel) / (part("running_var", channel) + epsilon).sqrt();
            weights.extend(filter.iter().map(|&weight| f64::from(weight) * scale));
            bias.push(part("bias", channel) - part("running_mean", channel) * scale);
        }
        Folded {
            weights,
            bias,
            out_channels,
            in_channels,
            taps,
        }
    }

    /// The weights rounded to f32.
    pub fn rounded(&self) -> Vec<f32> {
        self.weights.iter().map(|&weight| weight as f32).collect()
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
    use crate::model::weights::Tensor;

    #[test]
    fn the_folded_convolution_is_the_convolution_and_its_batch_norm() {
        let tensor = |shape: &[usize], data: &[f32]| Tensor {
            shape: shape.to_vec(),
            data: data.to_vec(),
        };
        let state = Tensors::from([
            (
                "c.weight".into(),
                tensor(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]),
            ),
            ("n.weight".into(), tensor(&[2], &[3.0, -1.0])),
            ("n.bias".into(), tensor(&[2], &[0.5, 0.25])),
            ("n.running_mean".into(), tensor(&[2], &[10.0, 20.0])),
            ("n.running_var".into(), tensor(&[2], &[3.0, 15.0])),
        ]);
        let folded = Folded::new(&state, "c", "n", 1.0);
        assert_eq!(
            (folded.out_channels, folded.in_channels, folded.taps),
            (2, 1, 2)
        );
        // 3 / sqrt(3 + 1) and -1 / sqrt(15 + 1).
        assert_eq!(folded.rounded(), [1.5, 3.0, -0.75, -1.0]);
        assert_eq!(folded.bias, [0.5 - 15.0, 0.25 + 5.0]);
        let bias = folded.rounded_bias();
        assert_eq!(bias[..3], [-14.5, 5.25, 0.0]);
        assert_eq!(bias.len(), BLOCK);
    }
}
