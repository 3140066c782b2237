//! `model.safetensors`: what is needed to score new images.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `mean` | d | subtracted from a feature vector |
//! | `scale` | d | divides it then; 0 marks a constant feature, whose score is 0 |
//! | `components` | k, d | one component a row, orthonormal |
//! | `singular_values` | k | of the centred and scaled data |
//! | `explained_variance` | k | squared singular values over n - 1 |
//! | `explained_variance_ratio` | k | the same over the whole variance |
//!
//! All are F64 in the order of the table. The metadata are texts, given by the caller.
//!
//! The header is written here and not by the `safetensors` crate, which keeps metadata in a hash
//! map, so that two runs would write the same entries in another order. The crate reads it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Classify, Kind};
use crate::output::OutputError;

const FILE: &str = "model.safetensors";

/// Values that are turned into bytes at once.
const CHUNK_VALUES: usize = 1 << 13;

/// A fitted model, as stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelFile {
    /// What the model was fitted with and on: fingerprint, weights, layer, versions.
    pub metadata: BTreeMap<String, String>,
    /// Mean of every feature, `[d]`.
    pub mean: Vec<f64>,
    /// Divisor of every feature, `[d]`.
    pub scale: Vec<f64>,
    /// The components, `[k, d]`.
    pub components: Vec<f64>,
    /// Singular values, `[k]`, largest first.
    pub singular_values: Vec<f64>,
    /// Variance along every component, `[k]`.
    pub explained_variance: Vec<f64>,
    /// Its share of the whole variance, `[k]`.
    pub explained_variance_ratio: Vec<f64>,
}

/// Why a model could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// It is not a safetensors file, or a damaged one.
    #[error("cannot read model")]
    Format(#[source] SafeTensorError),
    /// It is a safetensors file, but not a model of p8.
    #[error("cannot read model: tensor {name:?} is missing")]
    Missing {
        /// The tensor that is missing.
        name: &'static str,
    },
    /// A tensor has another shape or type.
    #[error("cannot read model: tensor {name:?} is {found}, expected {expected}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// Type and shape it has.
        found: String,
        /// Type and shape it should have.
        expected: String,
    },
}

impl Classify for ModelFileError {
    fn kind(&self) -> Kind {
        match self {
            ModelFileError::Format(_)
            | ModelFileError::Missing { .. }
            | ModelFileError::Shape { .. } => Kind::Io,
        }
    }
}

impl ModelFile {
    /// Number of features.
    pub fn d(&self) -> usize {
        self.mean.len()
    }

    /// Number of components.
    pub fn k(&self) -> usize {
        self.singular_values.len()
    }

    /// Writes the file. Equal models give equal bytes.
    ///
    /// # Errors
    ///
    /// [`OutputError::Length`] where the lengths do not fit together, [`OutputError::Write`] where
    /// the sink refuses.
    pub fn write_to(&self, mut sink: impl Write) -> Result<(), OutputError> {
        let tensors = self.tensors();
        for tensor in &tensors {
            let expected = tensor.shape.iter().product();
            OutputError::check_length(FILE, tensor.name, expected, tensor.values.len())?;
        }
        let header = Header {
            metadata: &self.metadata,
            tensors: &tensors,
        };
        let mut header = serde_json::to_vec(&header).map_err(|error| OutputError::Encode {
            file: FILE,
            source: Box::new(error),
        })?;
        // The values start at a multiple of 8 bytes, so that a reader may map them.
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut write = |bytes: &[u8]| {
            sink.write_all(bytes)
                .map_err(|source| OutputError::Write { file: FILE, source })
        };
        write(&(header.len() as u64).to_le_bytes())?;
        write(&header)?;
        let mut bytes = Vec::with_capacity(CHUNK_VALUES * size_of::<f64>());
        for tensor in &tensors {
            for chunk in tensor.values.chunks(CHUNK_VALUES) {
                bytes.clear();
                bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
                write(&bytes)?;
            }
        }
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Any of [`ModelFileError`].
    pub fn read(bytes: &[u8]) -> Result<Self, ModelFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(ModelFileError::Format)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(ModelFileError::Format)?;
        let mean = read_tensor(&tensors, "mean", &[None])?;
        let singular_values = read_tensor(&tensors, "singular_values", &[None])?;
        let (d, k) = (Some(mean.len()), Some(singular_values.len()));
        Ok(ModelFile {
            metadata: header
                .metadata()
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            scale: read_tensor(&tensors, "scale", &[d])?,
            components: read_tensor(&tensors, "components", &[k, d])?,
            explained_variance: read_tensor(&tensors, "explained_variance", &[k])?,
            explained_variance_ratio: read_tensor(&tensors, "explained_variance_ratio", &[k])?,
            mean,
            singular_values,
        })
    }

    fn tensors(&self) -> [Tensor<'_>; 6] {
        let (d, k) = (self.d(), self.k());
        let tensor = |name, shape: &[usize], values| Tensor {
            name,
            shape: shape.to_vec(),
            values,
        };
        [
            tensor("mean", &[d], &self.mean),
            tensor("scale", &[d], &self.scale),
            tensor("components", &[k, d], &self.components),
            tensor("singular_values", &[k], &self.singular_values),
            tensor("explained_variance", &[k], &self.explained_variance),
            tensor(
                "explained_variance_ratio",
                &[k],
                &self.explained_variance_ratio,
            ),
        ]
    }
}

struct Tensor<'a> {
    name: &'static str,
    shape: Vec<usize>,
    values: &'a [f64],
}

/// The JSON object at the head of the file, with its entries in a fixed order.
struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [Tensor<'a>],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Entry<'a> {
            dtype: &'static str,
            shape: Cow<'a, [usize]>,
            data_offsets: [usize; 2],
        }
        let mut map = serializer.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry("__metadata__", self.metadata)?;
        let mut start = 0;
        for tensor in self.tensors {
            let end = start + size_of_val(tensor.values);
            let entry = Entry {
                dtype: "F64",
                shape: Cow::Borrowed(&tensor.shape),
                data_offsets: [start, end],
            };
            map.serialize_entry(tensor.name, &entry)?;
            start = end;
        }
        map.end()
    }
}

/// Reads one tensor; a length of `None` takes whatever is there.
fn read_tensor(
    tensors: &SafeTensors<'_>,
    name: &'static str,
    shape: &[Option<usize>],
) -> Result<Vec<f64>, ModelFileError> {
    let tensor = tensors
        .tensor(name)
        .map_err(|_| ModelFileError::Missing { name })?;
    let fits = tensor.shape().len() == shape.len()
        && tensor
            .shape()
            .iter()
            .zip(shape)
            .all(|(&found, expected)| expected.is_none_or(|expected| expected == found));
    if tensor.dtype() != Dtype::F64 || !fits {
        let expected: Vec<String> = shape
            .iter()
            .map(|length| length.map_or("?".to_owned(), |length| length.to_string()))
            .collect();
        return Err(ModelFileError::Shape {
            name,
            found: format!("{} {:?}", tensor.dtype(), tensor.shape()),
            expected: format!("F64 [{}]", expected.join(", ")),
        });
    }
    let (values, _) = tensor.data().as_chunks::<8>();
    Ok(values
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    fn sample(d: usize, k: usize) -> ModelFile {
        let values = |count: usize, step: f64| -> Vec<f64> {
            (0..count).map(|i| (i as f64 * step).sin() / 3.0).collect()
        };
        ModelFile {
            metadata: [
                ("weights", "keras"),
                ("fingerprint", "00ff"),
                ("layer", "layer4"),
                ("note", "größe \"quoted\"\n"),
                ("a", ""),
            ]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
            mean: values(d, 0.3),
            scale: values(d, 0.7),
            components: values(k * d, 1.1),
            singular_values: values(k, 1.3),
            explained_variance: values(k, 1.7),
            explained_variance_ratio: values(k, 1.9),
        }
    }

    fn written(model: &ModelFile) -> Vec<u8> {
        let mut bytes = Vec::new();
        model.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_model_comes_back_bit_for_bit() {
        for (d, k) in [(5, 3), (1, 1), (2048, 7), (4, 0), (0, 0)] {
            let mut model = sample(d, k);
            if let Some(first) = model.mean.first_mut() {
                *first = -0.0;
            }
            let read = ModelFile::read(&written(&model)).unwrap();
            assert_eq!(read, model, "d = {d}, k = {k}");
            assert_eq!((read.d(), read.k()), (d, k));
            let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read.mean), bits(&model.mean));
        }
    }

    #[test]
    fn equal_models_give_equal_bytes() {
        let model = sample(4, 2);
        let again = ModelFile {
            // Entered in another order.
            metadata: model.metadata.clone().into_iter().rev().collect(),
            ..model.clone()
        };
        assert_eq!(written(&model), written(&again));
    }

    #[test]
    fn the_header_is_in_order_and_the_values_are_aligned() {
        let model = ModelFile {
            metadata: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            ..sample(2, 1)
        };
        let bytes = written(&model);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(length % 8, 0);
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        assert_eq!(
            header.trim_end(),
            concat!(
                r#"{"__metadata__":{"a":"1","b":"2"},"#,
                r#""mean":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"#,
                r#""scale":{"dtype":"F64","shape":[2],"data_offsets":[16,32]},"#,
                r#""components":{"dtype":"F64","shape":[1,2],"data_offsets":[32,48]},"#,
                r#""singular_values":{"dtype":"F64","shape":[1],"data_offsets":[48,56]},"#,
                r#""explained_variance":{"dtype":"F64","shape":[1],"data_offsets":[56,64]},"#,
                r#""explained_variance_ratio":{"dtype":"F64","shape":[1],"data_offsets":[64,72]}}"#,
            )
        );
        assert_eq!(bytes.len(), 8 + length + 72);
    }

    #[test]
    fn lengths_that_do_not_fit_are_not_written() {
        let mut model = sample(4, 2);
        model.components.pop();
        let error = model.write_to(&mut Vec::new()).unwrap_err();
        assert_eq!(
            Failure::from(error),
            Failure::new(
                Kind::Internal,
                "cannot encode model.safetensors: components has 7 values, expected 8"
            )
        );
    }

    #[test]
    fn what_is_no_model_is_refused_with_a_reason() {
        let message = |bytes: &[u8]| {
            let failure = Failure::from(ModelFile::read(bytes).unwrap_err());
            assert_eq!(failure.kind, Kind::Io);
            failure.text
        };
        let bytes = written(&sample(4, 2));
        assert_eq!(message(b"short"), "cannot read model: header too small");
        for length in 0..bytes.len() {
            message(&bytes[..length]);
        }
        let replaced = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len());
            let text = bytes.windows(from.len());
            let position = text
                .clone()
                .position(|part| part == from.as_bytes())
                .unwrap();
            let mut changed = bytes.clone();
            changed[position..position + to.len()].copy_from_slice(to.as_bytes());
            changed
        };
        assert_eq!(
            message(&replaced("\"scale\"", "\"skale\"")),
            "cannot read model: tensor \"scale\" is missing"
        );
        assert_eq!(
            message(&replaced("\"shape\":[2,4]", "\"shape\":[4,2]")),
            "cannot read model: tensor \"components\" is F64 [4, 2], expected F64 [2, 4]"
        );
        assert_eq!(
            message(&replaced("F64", "I64")),
            "cannot read model: tensor \"mean\" is I64 [4], expected F64 [?]"
        );
    }
}
