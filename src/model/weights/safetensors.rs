//! `.safetensors`: f16, bf16, f32 or f64 tensors under torchvision's names.
//!
//! The header's metadata may say what torchvision's conventions do not fit. The first word counts:
//!
//! | key | values | default |
//! |---|---|---|
//! | `topology` | `v1`, `v1.5` | `v1.5` |
//! | `preprocess` | `caffe`, `torchvision` | `torchvision` |
//! | `channel_order` | `BGR` with `caffe`, `RGB` with `torchvision` | that of `preprocess` |
//! | `bn_eps` | a positive number | `1e-5` |

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};

use super::elements::{Element, to_f32};
use super::{
    Contents, Family, ForeignError, Format, Tensor, Trained, TrainedPreprocess, TrainedTopology,
    WeightsError, names,
};

/// Reads the whole file.
pub(super) fn read(path: &Path) -> Result<Contents, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Open {
        path: path.to_path_buf(),
        source,
    })?;
    let damaged = |error| WeightsError::Container {
        path: path.to_path_buf(),
        container: "safetensors",
        source: ForeignError::new(error),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let selection = names::select(path, file.names().into_iter())?;
    let mut tensors = BTreeMap::new();
    for (name, stored) in selection.kept {
        let view = file.tensor(&stored).map_err(damaged)?;
        let element = match view.dtype() {
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            Dtype::F32 => Element::F32,
            Dtype::F64 => Element::F64,
            other => {
                return Err(WeightsError::ElementType {
                    path: path.to_path_buf(),
                    tensor: stored,
                    found: other.to_string(),
                });
            }
        };
        let tensor = Tensor {
            shape: view.shape().to_vec(),
            data: to_f32(element, view.data()),
        };
        tensors.insert(name, tensor);
    }
    Ok(Contents {
        tensors,
        ignored: selection.ignored,
        format: Format::Safetensors,
        family: Family::Torchvision,
        trained: trained(path, header.metadata().as_ref())?,
    })
}

/// What the metadata says about the network, over torchvision's conventions.
fn trained(
    path: &Path,
    metadata: Option<&HashMap<String, String>>,
) -> Result<Trained, WeightsError> {
    let mut trained = Trained::of(Family::Torchvision);
    let value = |key: &str| metadata.and_then(|metadata| metadata.get(key));
    let unknown = |key, value: &str, expected| WeightsError::Metadata {
        path: path.to_path_buf(),
        key,
        value: value.to_owned(),
        expected,
    };
    if let Some(text) = value("topology") {
        trained.topology = match first_word(text) {
            "v1" => TrainedTopology::V1,
            "v1.5" => TrainedTopology::V1_5,
            _ => return Err(unknown("topology", text, "v1 or v1.5")),
        };
    }
    if let Some(text) = value("preprocess") {
        trained.preprocess = match first_word(text) {
            "caffe" => TrainedPreprocess::Caffe,
            "torchvision" => TrainedPreprocess::Torchvision,
            _ => return Err(unknown("preprocess", text, "caffe or torchvision")),
        };
    }
    if let Some(text) = value("channel_order") {
        let order = match trained.preprocess {
            TrainedPreprocess::Caffe => "BGR",
            TrainedPreprocess::Torchvision => "RGB",
        };
        if first_word(text) != order {
            return Err(unknown(
                "channel_order",
                text,
                match order {
                    "BGR" => "BGR, the order of preprocess caffe",
                    _ => "RGB, the order of preprocess torchvision",
                },
            ));
        }
    }
    if let Some(text) = value("bn_eps") {
        trained.batch_norm_epsilon = first_word(text)
            .parse()
            .ok()
            .filter(|epsilon: &f64| epsilon.is_finite() && *epsilon > 0.0)
            .ok_or_else(|| unknown("bn_eps", text, "a positive number"))?;
    }
    Ok(trained)
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&str, &str)]) -> Result<Trained, WeightsError> {
        let metadata = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        trained(Path::new("x.safetensors"), Some(&metadata))
    }

    #[test]
    fn without_metadata_the_conventions_are_torchvisions() {
        let expected = Trained::of(Family::Torchvision);
        assert_eq!(trained(Path::new("x"), None).unwrap(), expected);
        assert_eq!(told(&[("format", "pt")]).unwrap(), expected);
    }

    #[test]
    fn the_first_word_of_a_metadata_value_counts() {
        let trained = told(&[
            ("topology", "v1 (stride on first 1x1)"),
            ("preprocess", "caffe (BGR, mean 103.939,116.779,123.68)"),
            ("channel_order", "BGR"),
            ("bn_eps", "1e-3"),
        ])
        .unwrap();
        assert_eq!(trained.topology, TrainedTopology::V1);
        assert_eq!(trained.preprocess, TrainedPreprocess::Caffe);
        assert_eq!(trained.batch_norm_epsilon, 1e-3);
    }

    #[test]
    fn an_unknown_or_contradicting_value_is_an_error() {
        for pair in [
            ("topology", "v2"),
            ("preprocess", ""),
            ("channel_order", "BGR"),
            ("bn_eps", "0"),
            ("bn_eps", "nan"),
        ] {
            let error = told(&[pair]).unwrap_err();
            assert!(
                matches!(error, WeightsError::Metadata { key, .. } if key == pair.0),
                "{error}"
            );
        }
    }
}
