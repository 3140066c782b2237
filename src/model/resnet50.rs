//! The definition of the network: ResNet-50 without its classifier, as a burn module.
//!
//! He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition*, 2016. Field names are
//! torchvision's, and so are the paddings. Inference only: batch norms use their stored statistics.

use burn::module::{Module, Param, RunningState};
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};

use crate::model::architecture::{Architecture, ArchitectureError, BLOCKS};
use crate::model::{Layer, Pool, Tensors, Topology};

/// Three convolutions with a shortcut around them.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    downsample: Option<Downsample>,
}

/// The shortcut of the first block of a stage, where size or channels change.
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv2d,
    bn: BatchNorm,
}

impl Bottleneck {
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let x = relu(self.bn1.forward(self.conv1.forward(input.clone())));
        let x = relu(self.bn2.forward(self.conv2.forward(x)));
        let x = self.bn3.forward(self.conv3.forward(x));
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.bn.forward(downsample.conv.forward(input)),
            None => input,
        };
        relu(x + shortcut)
    }
}

/// ResNet-50 without its classifier.
#[derive(Module, Debug)]
pub struct ResNet50 {
    conv1: Conv2d,
    bn1: BatchNorm,
    maxpool: MaxPool2d,
    layer1: Vec<Bottleneck>,
    layer2: Vec<Bottleneck>,
    layer3: Vec<Bottleneck>,
    layer4: Vec<Bottleneck>,
}

impl ResNet50 {
    /// Puts the tensors of a state dict into a network on `device`, which must not differentiate.
    ///
    /// `epsilon` is what batch norms add to the variance: 1.001e-5 in Keras, 1e-5 elsewhere.
    ///
    /// # Errors
    ///
    /// The state dict is not that of a ResNet-50 of any width; see [`Architecture::infer`].
    pub fn load(
        state: &Tensors,
        topology: Topology,
        epsilon: f64,
        device: &Device,
    ) -> Result<ResNet50, ArchitectureError> {
        Architecture::infer(state)?;
        let loader = Loader {
            state,
            topology,
            epsilon,
            device,
        };
        Ok(ResNet50 {
            conv1: loader.conv("conv1", 2),
            bn1: loader.batch_norm("bn1"),
            maxpool: MaxPool2dConfig::new([3, 3])
                .with_strides([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(),
            layer1: loader.stage(Layer::Layer1),
            layer2: loader.stage(Layer::Layer2),
            layer3: loader.stage(Layer::Layer3),
            layer4: loader.stage(Layer::Layer4),
        })
    }

    /// The output of stage `last`, `[n, channels, height, width]`, for normalised images
    /// `[n, 3, side, side]`. Later stages are not computed.
    pub fn forward(&self, images: Tensor<4>, last: Layer) -> Tensor<4> {
        self.forward_with(images, last, |_, _| {})
    }

    /// As [`ResNet50::forward`], and shows the output of each stage on the way to `tap`.
    fn forward_with(
        &self,
        images: Tensor<4>,
        last: Layer,
        mut tap: impl FnMut(Layer, &Tensor<4>),
    ) -> Tensor<4> {
        let mut x = relu(self.bn1.forward(self.conv1.forward(images)));
        x = self.maxpool.forward(x);
        for layer in Layer::ALL {
            for block in self.stage(layer) {
                x = block.forward(x);
            }
            tap(layer, &x);
            if layer == last {
                break;
            }
        }
        x
    }

    fn stage(&self, layer: Layer) -> &[Bottleneck] {
        match layer {
            Layer::Layer1 => &self.layer1,
            Layer::Layer2 => &self.layer2,
            Layer::Layer3 => &self.layer3,
            Layer::Layer4 => &self.layer4,
        }
    }
}

/// One vector an image, `[n, features]`, from feature maps `[n, channels, height, width]`.
pub fn pool(maps: Tensor<4>, pool: Pool) -> Tensor<2> {
    match pool {
        Pool::Avg => maps.flatten::<3>(2, 3).mean_dim(2).flatten(1, 2),
        Pool::Max => maps.flatten::<3>(2, 3).max_dim(2).flatten(1, 2),
        Pool::None => maps.permute([0, 2, 3, 1]).flatten(1, 3),
    }
}

/// Builds modules around the tensors of a state dict that has been checked.
struct Loader<'a> {
    state: &'a Tensors,
    topology: Topology,
    epsilon: f64,
    device: &'a Device,
}

impl Loader<'_> {
    fn stage(&self, layer: Layer) -> Vec<Bottleneck> {
        let blocks = 0..BLOCKS[layer.index()];
        blocks.map(|block| self.bottleneck(layer, block)).collect()
    }

    fn bottleneck(&self, layer: Layer, block: usize) -> Bottleneck {
        let at = format!("{layer}.{block}");
        let stride = if block == 0 && layer != Layer::Layer1 {
            2
        } else {
            1
        };
        let (stride1, stride2) = match self.topology {
            Topology::V1 => (stride, 1),
            Topology::V1_5 => (1, stride),
        };
        Bottleneck {
            conv1: self.conv(&format!("{at}.conv1"), stride1),
            bn1: self.batch_norm(&format!("{at}.bn1")),
            conv2: self.conv(&format!("{at}.conv2"), stride2),
            bn2: self.batch_norm(&format!("{at}.bn2")),
            conv3: self.conv(&format!("{at}.conv3"), 1),
            bn3: self.batch_norm(&format!("{at}.bn3")),
            downsample: (block == 0).then(|| Downsample {
                conv: self.conv(&format!("{at}.downsample.0"), stride),
                bn: self.batch_norm(&format!("{at}.downsample.1")),
            }),
        }
    }

    /// A convolution without bias whose padding keeps the size, up to the stride.
    fn conv(&self, name: &str, stride: usize) -> Conv2d {
        let weight = self.tensor::<4>(&format!("{name}.weight"));
        let [_, _, height, width] = weight.dims();
        let (y, x) = (height / 2, width / 2);
        Conv2d {
            weight: Param::from_tensor(weight),
            bias: None,
            stride: [stride, stride],
            kernel_size: [height, width],
            dilation: [1, 1],
            groups: 1,
            padding: PaddingConfig2d::Explicit(y, x, y, x),
        }
    }

    fn batch_norm(&self, name: &str) -> BatchNorm {
        let part = |part: &str| self.tensor::<1>(&format!("{name}.{part}"));
        BatchNorm {
            gamma: Param::from_tensor(part("weight")),
            beta: Param::from_tensor(part("bias")),
            training: Param::from_bool(false),
            running_mean: RunningState::new(part("running_mean")),
            running_var: RunningState::new(part("running_var")),
            momentum: 0.0,
            epsilon: self.epsilon,
        }
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let tensor = &self.state[name];
        let data = TensorData::new(tensor.data.clone(), tensor.shape.clone());
        Tensor::from_data(data, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Normalization, normalize};
    use crate::model::reference::{self, relative_l2};

    const EPSILON: f64 = 1e-5;

    fn load(state: &Tensors, topology: Topology) -> ResNet50 {
        ResNet50::load(state, topology, EPSILON, &Device::flex()).expect("weights fit")
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32 values")
    }

    fn input(data: Vec<f32>, n: usize, side: usize, device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(data, [n, 3, side, side]), device)
    }

    const TOPOLOGIES: [Topology; 2] = [Topology::V1, Topology::V1_5];

    /// Outputs of every stage and `avgpool` under their names.
    fn outputs(network: &ResNet50, images: Tensor<4>) -> Vec<(&'static str, Vec<f32>)> {
        let mut outputs = Vec::new();
        let maps = network.forward_with(images, Layer::Layer4, |layer, maps| {
            outputs.push((layer.as_str(), values(maps.clone())));
        });
        outputs.push(("avgpool", values(pool(maps, Pool::Avg))));
        outputs
    }

    #[test]
    fn the_tiny_network_gives_the_golden_outputs_at_every_stage() {
        let Some(folder) = reference::folder() else {
            return;
        };
        let golden = reference::tensors(&folder.join("tiny/tiny-golden.safetensors"), |_| true);
        let u8_pixels = &golden["input.224.u8"].data;
        let large: Vec<f32> = u8_pixels.iter().map(|&v| (v - 128.0) / 64.0).collect();
        let mut compared = 0;
        for precision in ["f32", "f16", "bf16"] {
            let file = format!("tiny/tiny-resnet50-{precision}.safetensors");
            let state = reference::tensors(&folder.join(file), |_| true);
            for topology in TOPOLOGIES {
                let network = load(&state, topology);
                let cases = [
                    (1, 64, golden["input.64"].data.clone()),
                    (2, 224, large.clone()),
                ];
                for (n, side, pixels) in cases {
                    let images = input(pixels, n, side, &Device::flex());
                    for (stage, found) in outputs(&network, images) {
                        let key = format!("{precision}.{topology}.{side}.{stage}");
                        let (found, expected) = match golden.get(&key) {
                            Some(expected) => (found.as_slice(), expected),
                            None => match golden.get(&format!("{key}.row1")) {
                                Some(expected) => (&found[found.len() / 2..], expected),
                                None => continue,
                            },
                        };
                        let error = relative_l2(found, &expected.data);
                        assert!(error <= 1e-5, "{key}: {error:e}");
                        compared += 1;
                    }
                }
            }
        }
        // All tensors of the golden file but the two inputs and the output of the stem.
        assert_eq!(compared, golden.len() - 3);
    }

    #[test]
    fn the_wrong_topology_is_far_off() {
        let Some(folder) = reference::folder() else {
            return;
        };
        let golden = reference::tensors(&folder.join("tiny/tiny-golden.safetensors"), |_| true);
        let state =
            reference::tensors(&folder.join("tiny/tiny-resnet50-f32.safetensors"), |_| true);
        for (topology, other) in [("v1", Topology::V1_5), ("v1.5", Topology::V1)] {
            let network = load(&state, other);
            let images = input(golden["input.64"].data.clone(), 1, 64, &Device::flex());
            for (stage, found) in outputs(&network, images) {
                if stage == "layer1" {
                    continue;
                }
                let error =
                    relative_l2(&found, &golden[&format!("f32.{topology}.64.{stage}")].data);
                assert!(
                    error > 0.02,
                    "{stage} of {other} against {topology}: {error:e}"
                );
            }
        }
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
        let device = Device::flex();
        let mut worst = std::collections::BTreeMap::<String, f64>::new();
        for topology in TOPOLOGIES {
            let network = load(&state, topology);
            for (row, photo) in photos.iter().enumerate() {
                let pixels = normalize(photo, &Normalization::CAFFE);
                let mut outputs = Vec::new();
                let images = input(pixels, 1, 224, &device);
                let last = network.forward_with(images, Layer::Layer4, |layer, maps| {
                    outputs.push((layer, Pool::Avg, values(pool(maps.clone(), Pool::Avg))));
                });
                for kind in [Pool::Max, Pool::None] {
                    outputs.push((Layer::Layer4, kind, values(pool(last.clone(), kind))));
                }
                for (layer, kind, found) in outputs {
                    let (suffix, limit) = match (layer, kind) {
                        (Layer::Layer4, Pool::None) => ("flat_hwc", 5e-5),
                        (Layer::Layer4, _) => (kind.as_str(), 2e-5),
                        _ => (kind.as_str(), 2e-6),
                    };
                    let key = format!("{topology}.{layer}.{suffix}");
                    let expected = &golden[&key];
                    // The v1.5 file keeps the flattened output of one photograph of three.
                    let step = photos.len() / expected.shape[0];
                    if row % step != 0 {
                        continue;
                    }
                    let start = row / step * found.len();
                    let error = relative_l2(&found, &expected.data[start..start + found.len()]);
                    assert!(error <= limit, "{key}, photograph {row}: {error:e}");
                    let entry = worst.entry(key).or_default();
                    *entry = entry.max(error);
                }
            }
        }
        assert_eq!(worst.len(), golden.len());
        eprintln!("largest relative errors: {worst:?}");
    }

    #[test]
    fn the_ndarray_backend_agrees_with_flex() {
        let Some(folder) = reference::folder() else {
            return;
        };
        let golden = reference::tensors(&folder.join("tiny/tiny-golden.safetensors"), |_| true);
        let state =
            reference::tensors(&folder.join("tiny/tiny-resnet50-f32.safetensors"), |_| true);
        #[expect(
            deprecated,
            reason = "the contract of p8 keeps burn-ndarray selectable"
        )]
        let ndarray = Device::ndarray();
        for topology in TOPOLOGIES {
            let [flex, ndarray] = [&Device::flex(), &ndarray].map(|device| {
                let network = ResNet50::load(&state, topology, EPSILON, device).expect("fits");
                outputs(
                    &network,
                    input(golden["input.64"].data.clone(), 1, 64, device),
                )
            });
            for ((stage, found), (_, expected)) in ndarray.iter().zip(&flex) {
                let error = relative_l2(found, expected);
                assert!(error <= 1e-5, "{topology} {stage}: {error:e}");
            }
        }
    }

    #[test]
    fn pooling_takes_mean_maximum_or_everything_channels_last() {
        // Two channels of 1x3 pixels.
        let data = TensorData::new(vec![1.0f32, 2.0, 6.0, -5.0, -7.0, -9.0], [1, 2, 1, 3]);
        let maps = Tensor::<4>::from_data(data, &Device::flex());
        assert_eq!(values(pool(maps.clone(), Pool::Avg)), [3.0, -7.0]);
        assert_eq!(values(pool(maps.clone(), Pool::Max)), [6.0, -5.0]);
        assert_eq!(
            values(pool(maps, Pool::None)),
            [1.0, -5.0, 2.0, -7.0, 6.0, -9.0]
        );
    }

    /// `[h, w, c]` to `[c, h, w]`.
    fn channels_first(tensor: &crate::model::weights::Tensor) -> Vec<f32> {
        let &[_, height, width, channels] = tensor.shape.as_slice() else {
            panic!("NHWC expected, not {:?}", tensor.shape);
        };
        (0..channels)
            .flat_map(|c| (0..height * width).map(move |at| tensor.data[at * channels + c]))
            .collect()
    }

    #[test]
    fn keras_computes_the_same_from_the_same_weights() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights");
        let expected = reference::tensors(&folder.join("expected.safetensors"), |_| true);
        let state = crate::model::weights::read(&folder.join("f32.safetensors")).expect("weights");
        let device = Device::flex();
        let network =
            ResNet50::load(&state.tensors, Topology::V1, 1.001e-5, &device).expect("fits");
        let image = &expected["input"];
        let image = input(channels_first(image), 1, image.shape[1], &device);
        for (name, found) in &outputs(&network, image)[..4] {
            let error = relative_l2(found, &channels_first(&expected[*name]));
            assert!(error <= 1e-5, "{name}: {error:e}");
        }
    }
}
