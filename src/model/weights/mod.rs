//! Named tensors of a pretrained network.

use std::collections::BTreeMap;

/// One tensor of a state dict, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Sizes of the axes.
    pub shape: Vec<usize>,
    /// Values, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// Where a state dict came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {}

/// Named tensors under torchvision's names, convolutions OIHW.
#[derive(Debug, Clone)]
pub struct StateDict {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Where they came from.
    pub origin: Origin,
}
