//! The network: its weights, its definition as a burn module, and what runs it.
//!
//! [`weights`] reads a state dict or [`seeded`] draws one, [`architecture`] checks it,
//! [`resnet50`] is the definition, and an [`executor`] turns prepared images into features.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub mod weights;

pub mod architecture;
pub mod burn_executor;
pub mod executor;
pub mod plan;
pub mod plan_executor;
pub mod resnet50;
pub mod seeded;

#[cfg(test)]
mod reference;

/// The tensors of a network under torchvision's names, convolutions OIHW.
pub type Tensors = BTreeMap<String, weights::Tensor>;

/// Where a downsampling block has its stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
pub enum Topology {
    /// On the first 1x1 convolution: Caffe and Keras.
    #[serde(rename = "v1")]
    #[value(name = "v1")]
    V1,
    /// On the 3x3 convolution: torchvision and timm.
    #[serde(rename = "v1.5")]
    #[value(name = "v1.5")]
    V1_5,
}

impl Topology {
    /// The name on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Topology::V1 => "v1",
            Topology::V1_5 => "v1.5",
        }
    }
}

/// The stage whose output becomes the features.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Layer {
    /// Stride 4, 256 channels.
    Layer1,
    /// Stride 8, 512 channels.
    Layer2,
    /// Stride 16, 1024 channels.
    Layer3,
    /// Stride 32, 2048 channels.
    Layer4,
}

impl Layer {
    /// Every stage, in the order of the network.
    pub const ALL: [Layer; 4] = [Layer::Layer1, Layer::Layer2, Layer::Layer3, Layer::Layer4];

    /// The name on the command line, in files and in the state dict.
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Layer1 => "layer1",
            Layer::Layer2 => "layer2",
            Layer::Layer3 => "layer3",
            Layer::Layer4 => "layer4",
        }
    }

    /// Position in [`Layer::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// How the pixels of a feature map become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Pool {
    /// The mean of each channel.
    Avg,
    /// The largest value of each channel.
    Max,
    /// Everything, flattened in (height, width, channel) order as Keras does.
    None,
}

impl Pool {
    /// The name on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Pool::Avg => "avg",
            Pool::Max => "max",
            Pool::None => "none",
        }
    }
}

/// Arithmetic of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Precision {
    /// 32-bit floating point
    F32,
    /// bfloat16 with sums in 32 bits, about 1.7 times as fast; needs AVX-512 with AVX512-BF16
    Bf16,
}

impl Precision {
    /// The name on the command line and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_name_everywhere<T>(name: fn(T) -> &'static str)
    where
        T: ValueEnum + Serialize + fmt::Display + Copy + PartialEq + fmt::Debug,
        T: for<'de> Deserialize<'de>,
    {
        for &value in T::value_variants() {
            let text = name(value);
            let typed = value.to_possible_value().expect("no variant is hidden");
            assert_eq!(typed.get_name(), text);
            assert_eq!(value.to_string(), text);
            let json = serde_json::to_string(&value).expect("a unit variant serializes");
            assert_eq!(json, format!("{text:?}"));
            let back: T = serde_json::from_str(&json).expect("and reads back");
            assert_eq!(back, value);
        }
    }

    #[test]
    fn a_choice_has_one_name_on_the_command_line_in_files_and_in_messages() {
        one_name_everywhere(Topology::as_str);
        one_name_everywhere(Layer::as_str);
        one_name_everywhere(Pool::as_str);
        one_name_everywhere(Precision::as_str);
    }

    #[test]
    fn layers_are_counted_from_zero() {
        for (index, layer) in Layer::ALL.into_iter().enumerate() {
            assert_eq!(layer.index(), index);
        }
    }
}
