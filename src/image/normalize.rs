//! Levels of 8 bits to the numbers that the first layer was trained on.

/// The order of the channels in the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV and Caffe have it.
    Bgr,
}

/// `(level / scale - mean[c]) / std[c]` for channel `c` of the network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalization {
    /// Which colour channel 0 is.
    pub order: ChannelOrder,
    /// What a level is divided by first.
    pub scale: f32,
    /// What is taken away, in the order of the network's channels.
    pub mean: [f32; 3],
    /// What the rest is divided by, in the order of the network's channels.
    pub std: [f32; 3],
}

impl Normalization {
    /// Caffe's and Keras's (`preprocess_input` with mode `caffe`): the mean colour of ImageNet is taken away.
    pub const CAFFE: Normalization = Normalization {
        order: ChannelOrder::Bgr,
        scale: 1.0,
        mean: [103.939, 116.779, 123.68],
        std: [1.0, 1.0, 1.0],
    };

    /// torchvision's: mean and standard deviation of ImageNet, of levels from 0 to 1.
    pub const TORCHVISION: Normalization = Normalization {
        order: ChannelOrder::Rgb,
        scale: 255.0,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// The number for every level of one channel. Each operation is rounded to `f32`, as Keras and torchvision do.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|level| {
            (level as f32 / self.scale - self.mean[channel]) / self.std[channel]
        })
    }
}

/// Turns RGB pixels, row by row, into the input of the network: `[3, height, width]`.
pub fn normalize(pixels: &[u8], normalization: &Normalization) -> Vec<f32> {
    let (pixels, _) = pixels.as_chunks::<3>();
    let mut input = Vec::with_capacity(3 * pixels.len());
    for channel in 0..3 {
        let table = normalization.table(channel);
        let colour = match normalization.order {
            ChannelOrder::Rgb => channel,
            ChannelOrder::Bgr => 2 - channel,
        };
        input.extend(pixels.iter().map(|pixel| table[usize::from(pixel[colour])]));
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caffe_swaps_the_channels_and_takes_the_mean_away() {
        let (blue, green, red) = (103.939_f32, 116.779_f32, 123.68_f32);
        let input = normalize(&[1, 2, 3, 4, 5, 6], &Normalization::CAFFE);
        let expected = [
            3.0 - blue,
            6.0 - blue,
            2.0 - green,
            5.0 - green,
            1.0 - red,
            4.0 - red,
        ];
        assert_eq!(input, expected);
        for level in 0..=u8::MAX {
            let input = normalize(&[level, 7, 200], &Normalization::CAFFE);
            assert_eq!(input, [200.0 - blue, 7.0 - green, f32::from(level) - red]);
        }
    }

    #[test]
    fn torchvision_standardises_levels_from_0_to_1() {
        let input = normalize(&[0, 0, 0, 255, 255, 255], &Normalization::TORCHVISION);
        let expected = [
            (0.0 - 0.485) / 0.229,
            (1.0 - 0.485) / 0.229,
            (0.0 - 0.456) / 0.224,
            (1.0 - 0.456) / 0.224,
            (0.0 - 0.406) / 0.225,
            (1.0 - 0.406) / 0.225,
        ];
        for (got, want) in input.iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn no_image_gives_no_number() {
        assert!(normalize(&[], &Normalization::CAFFE).is_empty());
    }
}
