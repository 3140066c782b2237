//! The shape of the network, and whether a state dict has it.
//!
//! ResNet-50 of He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition*, 2016, table
//! 1: a stem, four stages of 3, 4, 6 and 3 bottleneck blocks, no classifier. All widths are
//! multiples of the stem's, which is read from the weights.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Classify, Kind};
use crate::model::weights::Tensor;
use crate::model::{Layer, Pool, Tensors};

/// Bottleneck blocks in each stage.
pub const BLOCKS: [usize; 4] = [3, 4, 6, 3];

/// Channels out of a block over channels inside it.
pub const EXPANSION: usize = 4;

/// Names listed in a message before it says how many more there are.
const LISTED: usize = 20;

/// A state dict that does not make this network.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ArchitectureError {
    /// Names or shapes differ from those of the network.
    #[error("weights do not fit a ResNet-50:{}", mismatch(missing, extra, wrong))]
    WeightsMismatch {
        /// Tensors that the network needs and the state dict lacks.
        missing: Vec<String>,
        /// Tensors that the network does not know.
        extra: Vec<String>,
        /// Tensors of another shape.
        wrong: Vec<WrongShape>,
    },
    /// Values with which no output is a number.
    #[error("weights hold NaN or infinite values in {}", list(names))]
    NotFinite {
        /// The tensors that hold them.
        names: Vec<String>,
    },
    /// Running variances below zero.
    #[error("weights hold negative variances in {}", list(names))]
    NegativeVariance {
        /// The tensors that hold them.
        names: Vec<String>,
    },
}

impl Classify for ArchitectureError {
    fn kind(&self) -> Kind {
        match self {
            ArchitectureError::WeightsMismatch { .. }
            | ArchitectureError::NotFinite { .. }
            | ArchitectureError::NegativeVariance { .. } => Kind::Weights,
        }
    }
}

/// A tensor whose shape is not the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongShape {
    /// Its name.
    pub name: String,
    /// The shape that the network needs.
    pub expected: Vec<usize>,
    /// The shape in the state dict.
    pub found: Vec<usize>,
    /// How many values the state dict has for it.
    pub values: usize,
}

impl fmt::Display for WrongShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {:?} instead of {:?}",
            self.name, self.found, self.expected
        )?;
        if self.found.iter().product::<usize>() != self.values {
            write!(f, " and holds {} values", self.values)?;
        }
        Ok(())
    }
}

fn mismatch(missing: &[String], extra: &[String], wrong: &[WrongShape]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!(" {} missing ({})", missing.len(), list(missing)));
    }
    if !extra.is_empty() {
        parts.push(format!(" {} unknown ({})", extra.len(), list(extra)));
    }
    if !wrong.is_empty() {
        parts.push(format!(
            " {} of a wrong shape ({})",
            wrong.len(),
            list(wrong)
        ));
    }
    parts.join(",")
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().take(LISTED).map(T::to_string).collect();
    let mut text = shown.join(", ");
    if items.len() > LISTED {
        text.push_str(&format!(" and {} more", items.len() - LISTED));
    }
    text
}

/// The widths of a network; everything else is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    stem: usize,
}

impl Architecture {
    /// ResNet-50 as published: 64 channels out of the stem.
    pub const RESNET50: Architecture = Architecture { stem: 64 };

    /// A network whose stem has `stem` channels, with all other widths in proportion.
    ///
    /// # Panics
    ///
    /// When there is no channel.
    pub fn of_width(stem: usize) -> Architecture {
        assert!(stem > 0, "a network has channels");
        Architecture { stem }
    }

    /// The architecture that a state dict is of.
    ///
    /// The width comes from `conv1.weight`; all else is then checked as in
    /// [`Architecture::check`]. A state dict without it is held against the published widths.
    ///
    /// # Errors
    ///
    /// See [`Architecture::check`].
    pub fn infer(state: &Tensors) -> Result<Architecture, ArchitectureError> {
        let architecture = state
            .get("conv1.weight")
            .and_then(|tensor| tensor.shape.first())
            .filter(|&&stem| stem > 0)
            .map_or(Architecture::RESNET50, |&stem| Architecture { stem });
        architecture.check(state)?;
        Ok(architecture)
    }

    /// Checks that a state dict has every tensor of the network in the right shape, no other
    /// tensor, and values that can be computed with.
    ///
    /// A classifier (`fc.*`) and the counters of training (`*.num_batches_tracked`) are not used
    /// and not objected to.
    ///
    /// # Errors
    ///
    /// All missing, unknown and wrong-shaped tensors at once; else all tensors with NaN or
    /// infinite values; else all running variances with negative values.
    pub fn check(&self, state: &Tensors) -> Result<(), ArchitectureError> {
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        let mut known = BTreeSet::new();
        for (name, expected) in self.expected_tensors() {
            match state.get(&name) {
                None => missing.push(name.clone()),
                Some(tensor) => {
                    let values = tensor.data.len();
                    if tensor.shape != expected || values != expected.iter().product::<usize>() {
                        wrong.push(WrongShape {
                            name: name.clone(),
                            expected,
                            found: tensor.shape.clone(),
                            values,
                        });
                    }
                }
            }
            known.insert(name);
        }
        let extra: Vec<String> = state
            .keys()
            .filter(|name| !known.contains(*name) && !is_unused(name))
            .cloned()
            .collect();
        if !(missing.is_empty() && extra.is_empty() && wrong.is_empty()) {
            return Err(ArchitectureError::WeightsMismatch {
                missing,
                extra,
                wrong,
            });
        }

        let holding = |is_bad: &dyn Fn(&str, &Tensor) -> bool| -> Vec<String> {
            let tensors = state.iter().filter(|(name, _)| known.contains(*name));
            tensors
                .filter(|(name, tensor)| is_bad(name, tensor))
                .map(|(name, _)| name.clone())
                .collect()
        };
        let names = holding(&|_, tensor| tensor.first_not_finite().is_some());
        if !names.is_empty() {
            return Err(ArchitectureError::NotFinite { names });
        }
        let names = holding(&|name, tensor| {
            name.ends_with(".running_var") && tensor.data.iter().any(|&variance| variance < 0.0)
        });
        if !names.is_empty() {
            return Err(ArchitectureError::NegativeVariance { names });
        }
        Ok(())
    }

    /// Names and shapes of all tensors, in the order of the network.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        conv(&mut tensors, "conv1", [self.stem, 3, 7, 7]);
        batch_norm(&mut tensors, "bn1", self.stem);
        let mut channels = self.stem;
        for layer in Layer::ALL {
            let inner = self.bottleneck(layer);
            let outer = self.channels(layer);
            for block in 0..BLOCKS[layer.index()] {
                let at = format!("{layer}.{block}");
                conv(
                    &mut tensors,
                    &format!("{at}.conv1"),
                    [inner, channels, 1, 1],
                );
                batch_norm(&mut tensors, &format!("{at}.bn1"), inner);
                conv(&mut tensors, &format!("{at}.conv2"), [inner, inner, 3, 3]);
                batch_norm(&mut tensors, &format!("{at}.bn2"), inner);
                conv(&mut tensors, &format!("{at}.conv3"), [outer, inner, 1, 1]);
                batch_norm(&mut tensors, &format!("{at}.bn3"), outer);
                if block == 0 {
                    let name = format!("{at}.downsample.0");
                    conv(&mut tensors, &name, [outer, channels, 1, 1]);
                    batch_norm(&mut tensors, &format!("{at}.downsample.1"), outer);
                }
                channels = outer;
            }
        }
        tensors
    }

    /// Channels inside the blocks of a stage.
    pub fn bottleneck(&self, layer: Layer) -> usize {
        self.stem << layer.index()
    }

    /// Channels out of a stage.
    pub fn channels(&self, layer: Layer) -> usize {
        self.bottleneck(layer) * EXPANSION
    }

    /// Height, width and channels of a stage's output for square images of `side` pixels.
    pub fn output(&self, layer: Layer, side: usize) -> [usize; 3] {
        // The stem and its pool halve, as does every stage but the first; each rounds up.
        let side = (0..layer.index() + 2).fold(side, |side, _| side.div_ceil(2));
        [side, side, self.channels(layer)]
    }

    /// Length of one feature vector.
    pub fn features(&self, layer: Layer, pool: Pool, side: usize) -> usize {
        match pool {
            Pool::Avg | Pool::Max => self.channels(layer),
            Pool::None => self.output(layer, side).iter().product(),
        }
    }
}

fn conv(tensors: &mut Vec<(String, Vec<usize>)>, name: &str, shape: [usize; 4]) {
    tensors.push((format!("{name}.weight"), shape.to_vec()));
}

fn batch_norm(tensors: &mut Vec<(String, Vec<usize>)>, name: &str, channels: usize) {
    for part in ["weight", "bias", "running_mean", "running_var"] {
        tensors.push((format!("{name}.{part}"), vec![channels]));
    }
}

fn is_unused(name: &str) -> bool {
    name.starts_with("fc.") || name.ends_with(".num_batches_tracked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reference;

    fn ones(architecture: Architecture) -> Tensors {
        architecture
            .expected_tensors()
            .into_iter()
            .map(|(name, shape)| {
                let data = vec![1.0; shape.iter().product()];
                (name, Tensor { shape, data })
            })
            .collect()
    }

    const SMALL: Architecture = Architecture { stem: 2 };

    #[test]
    fn resnet50_has_the_published_number_of_parameters() {
        let tensors = Architecture::RESNET50.expected_tensors();
        let values = |statistics: bool| -> usize {
            let chosen = tensors
                .iter()
                .filter(|(name, _)| name.contains(".running_") == statistics);
            chosen
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum()
        };
        // torchvision counts 25,557,032 for the whole network; its classifier has 2,049,000.
        assert_eq!(values(false), 25_557_032 - 2_049_000);
        assert_eq!(tensors.len(), 265);
        assert_eq!(values(false) + values(true), 23_561_152);
    }

    #[test]
    fn the_width_is_read_from_the_stem() {
        assert_eq!(Architecture::infer(&ones(SMALL)), Ok(SMALL));
    }

    #[test]
    fn reference_weights_fit() {
        let Some(folder) = reference::folder() else {
            return;
        };
        for (file, stem) in [
            ("tiny/tiny-resnet50-f32.safetensors", 4),
            ("tiny/tiny-resnet50-bf16.safetensors", 4),
            ("weights/resnet50-msra-stage4.safetensors", 64),
        ] {
            let state = reference::tensors(&folder.join(file), |_| true);
            assert_eq!(
                Architecture::infer(&state),
                Ok(Architecture { stem }),
                "{file}"
            );
        }
    }

    #[test]
    fn everything_that_does_not_fit_is_listed_at_once() {
        let mut state = ones(SMALL);
        state.remove("bn1.bias");
        state.remove("layer4.2.conv3.weight");
        let mut short = Tensor {
            shape: vec![2],
            data: vec![1.0],
        };
        state.insert("bn1.weight".into(), short.clone());
        short.shape = vec![1];
        state.insert("layer1.0.bn1.bias".into(), short.clone());
        state.insert("head.bias".into(), short.clone());
        state.insert("fc.bias".into(), short.clone());
        state.insert("bn1.num_batches_tracked".into(), short);
        let error = Architecture::infer(&state).expect_err("four tensors do not fit");
        assert_eq!(error.kind(), Kind::Weights);
        assert_eq!(
            error.to_string(),
            "weights do not fit a ResNet-50: \
             2 missing (bn1.bias, layer4.2.conv3.weight), \
             1 unknown (head.bias), \
             2 of a wrong shape (bn1.weight is [2] instead of [2] and holds 1 values, \
             layer1.0.bn1.bias is [1] instead of [2])"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut state = ones(SMALL);
        state.clear();
        let text = Architecture::infer(&state).expect_err("empty").to_string();
        assert!(
            text.contains("265 missing (conv1.weight, bn1.weight, "),
            "{text}"
        );
        assert!(text.ends_with(" and 245 more)"), "{text}");
    }

    #[test]
    fn nan_and_infinity_are_refused_by_name() {
        let mut state = ones(SMALL);
        for (name, value) in [
            ("conv1.weight", f32::NAN),
            ("layer2.1.bn3.running_mean", f32::NEG_INFINITY),
        ] {
            let tensor = state.get_mut(name).expect("a tensor of the network");
            *tensor.data.last_mut().expect("not empty") = value;
        }
        let error = Architecture::infer(&state).expect_err("not finite");
        assert_eq!(error.kind(), Kind::Weights);
        assert_eq!(
            error.to_string(),
            "weights hold NaN or infinite values in conv1.weight, layer2.1.bn3.running_mean"
        );
    }

    #[test]
    fn a_negative_variance_is_refused_by_name() {
        let mut state = ones(SMALL);
        let name = "layer3.0.downsample.1.running_var";
        let tensor = state.get_mut(name).expect("a tensor of the network");
        tensor.data[1] = -1e-6;
        let error = Architecture::infer(&state).expect_err("negative variance");
        assert_eq!(
            error.to_string(),
            format!("weights hold negative variances in {name}")
        );
    }

    #[test]
    fn outputs_have_the_published_sizes() {
        let resnet = Architecture::RESNET50;
        assert_eq!(resnet.output(Layer::Layer1, 224), [56, 56, 256]);
        assert_eq!(resnet.output(Layer::Layer4, 224), [7, 7, 2048]);
        assert_eq!(resnet.features(Layer::Layer4, Pool::None, 224), 100_352);
        assert_eq!(resnet.features(Layer::Layer4, Pool::Avg, 224), 2048);
        assert_eq!(resnet.features(Layer::Layer3, Pool::Max, 224), 1024);
    }
}
