//! Keras `.h5`: weights or a whole model by layer name, and the `.weights.h5` layout of Keras 3.
//!
//! Kernels are turned from `[height, width, in, out]` to `[out, in, height, width]`. Keras'
//! convolutions have biases and torchvision's have none: since a batch norm follows each of them,
//! `((x + b) - mean) / deviation` equals `(x - (mean - b)) / deviation`, so the bias is subtracted,
//! in double precision, from the running mean.

use std::collections::BTreeMap;
use std::path::Path;

use hdf5_pure::{AttrValue, DType, Dataset, Error, File, Group};

use super::keras_names::{self, Layer};
use super::{Contents, Family, ForeignError, Format, Tensor, Trained, WeightsError};

/// The variables of a convolution, in the order in which Keras stores them.
const CONVOLUTION: [&str; 2] = ["kernel", "bias"];
/// The variables of a batch norm, in the order in which Keras stores them.
const BATCH_NORM: [&str; 4] = ["gamma", "beta", "moving_mean", "moving_variance"];

/// A layer of the file with its variables, in the stored order.
struct StoredLayer {
    /// Keras' name of the layer; `None` where the file gives only a count.
    name: Option<String>,
    /// The group it stands in.
    path: String,
    /// Paths of the variables in the file.
    variables: Vec<String>,
}

/// Reads all tensors of the file, of whichever of the layouts it has.
pub(super) fn read(path: &Path) -> Result<Contents, WeightsError> {
    let keras = Keras {
        path,
        file: File::open_streaming(path).map_err(|error| WeightsError::Container {
            path: path.to_path_buf(),
            container: "HDF5",
            source: ForeignError::new(error),
        })?,
    };
    let root = keras.file.root();
    let groups = keras.wrap("/", root.groups())?;
    let whole_model = groups.iter().any(|name| name == "model_weights");
    let base = if whole_model { "model_weights" } else { "" };
    let top = if whole_model {
        keras.group(base)?
    } else {
        root
    };
    let (format, layers) = match keras.strings(&top, base, "layer_names")? {
        Some(names) => (Format::KerasH5, keras.layers_by_name(base, &names)?),
        None => (Format::KerasWeightsH5, keras.counted_layers(groups)?),
    };
    if layers.is_empty() {
        return Err(keras.layout("no layer has weights".to_owned()));
    }
    let (tensors, ignored) = keras.tensors(&layers)?;
    Ok(Contents {
        tensors,
        ignored,
        format,
        family: Family::Keras,
        trained: Trained::of(Family::Keras),
    })
}

/// An open file, and its path for messages.
struct Keras<'a> {
    path: &'a Path,
    file: File,
}

impl Keras<'_> {
    /// The layers of the older layout: `layer_names` on top, `weight_names` on every layer.
    fn layers_by_name(
        &self,
        base: &str,
        names: &[String],
    ) -> Result<Vec<StoredLayer>, WeightsError> {
        let mut layers: Vec<StoredLayer> = Vec::new();
        for name in names {
            let group_path = join(base, name);
            let group = self.group(&group_path)?;
            let weights = self
                .strings(&group, &group_path, "weight_names")?
                .ok_or_else(|| self.layout(format!("layer \"{name}\" has no weight_names")))?;
            for weight in weights {
                // A model used as a layer lists the variables of all its layers, each under its
                // layer's name: the last part but one.
                let mut parts = weight.rsplit('/').skip(1);
                let layer = parts.next().unwrap_or(name);
                let layer_path = join(&group_path, weight.rsplit_once('/').map_or("", |(l, _)| l));
                let variable = join(&group_path, &weight);
                match layers.iter_mut().find(|known| known.path == layer_path) {
                    Some(known) => known.variables.push(variable),
                    None => layers.push(StoredLayer {
                        name: Some(layer.to_owned()),
                        path: layer_path,
                        variables: vec![variable],
                    }),
                }
            }
        }
        Ok(layers)
    }

    /// The layers of the Keras 3 layout: `layers/<kind>_<count>/vars/<n>`, at any depth.
    fn counted_layers(&self, top: Vec<String>) -> Result<Vec<StoredLayer>, WeightsError> {
        let mut layers = Vec::new();
        let mut pending = top;
        while let Some(path) = pending.pop() {
            let group = self.group(&path)?;
            for child in self.wrap(&path, group.groups())? {
                let child_path = join(&path, &child);
                if child != "vars" {
                    pending.push(child_path);
                    continue;
                }
                let vars = self.group(&child_path)?;
                let mut numbers = Vec::new();
                for dataset in self.wrap(&child_path, vars.datasets())? {
                    let number: usize = dataset.parse().map_err(|_| {
                        self.layout(format!("\"{child_path}\" holds \"{dataset}\", not a count"))
                    })?;
                    numbers.push(number);
                }
                // An optimizer's state has the same layout and is no layer.
                if numbers.is_empty() || path.split('/').any(|part| part == "optimizer") {
                    continue;
                }
                numbers.sort_unstable();
                let name = self.strings(&vars, &child_path, "name")?;
                layers.push(StoredLayer {
                    name: name.and_then(|names| names.into_iter().next()),
                    path: path.clone(),
                    variables: numbers
                        .iter()
                        .map(|number| format!("{child_path}/{number}"))
                        .collect(),
                });
            }
        }
        layers.sort_by(|a, b| a.path.cmp(&b.path));
        self.name_counted(&mut layers)?;
        Ok(layers)
    }

    /// Gives the layers that have no name the one that follows from their count.
    fn name_counted(&self, layers: &mut [StoredLayer]) -> Result<(), WeightsError> {
        let places = keras_names::counted_places();
        for (kind, suffix) in [("conv2d", "conv"), ("batch_normalization", "bn")] {
            let mut counted: Vec<(usize, &mut StoredLayer)> = layers
                .iter_mut()
                .filter(|layer| layer.name.is_none())
                .filter_map(|layer| Some((count(&layer.path, kind)?, layer)))
                .collect();
            if counted.is_empty() {
                continue;
            }
            if counted.len() != places.len() {
                return Err(self.layout(format!(
                    "{} layers \"{kind}\" without names, a ResNet-50 has {}",
                    counted.len(),
                    places.len()
                )));
            }
            counted.sort_by_key(|(number, _)| *number);
            for ((_, layer), place) in counted.into_iter().zip(&places) {
                layer.name = Some(format!("{place}_{suffix}"));
            }
        }
        for layer in layers.iter_mut().filter(|layer| layer.name.is_none()) {
            let kind = layer.path.rsplit('/').next().unwrap_or_default();
            layer.name = Some(kind.to_owned());
        }
        Ok(())
    }

    /// All tensors under torchvision's names with the biases folded, and what is left out.
    fn tensors(
        &self,
        layers: &[StoredLayer],
    ) -> Result<(BTreeMap<String, Tensor>, Vec<String>), WeightsError> {
        let mut tensors = Named {
            path: self.path,
            tensors: BTreeMap::new(),
            stored: BTreeMap::new(),
        };
        let mut ignored = Vec::new();
        let mut biases = Vec::new();
        for layer in layers {
            let name = layer.name.as_deref().unwrap_or_default();
            match keras_names::layer(name) {
                Some(Layer::Classifier) => ignored.extend(layer.variables.iter().cloned()),
                Some(Layer::Convolution { name, norm }) => {
                    let mut variables = self.variables(layer, &CONVOLUTION, 1)?;
                    if variables.len() == 2
                        && let Some((stored, bias)) = variables.pop()
                    {
                        biases.push((norm, stored, bias));
                    }
                    for (stored, kernel) in variables {
                        let kernel = self.oihw(&stored, kernel)?;
                        tensors.insert(format!("{name}.weight"), stored, kernel)?;
                    }
                }
                Some(Layer::BatchNorm(name)) => {
                    let variables = self.variables(layer, &BATCH_NORM, BATCH_NORM.len())?;
                    let roles = ["weight", "bias", "running_mean", "running_var"];
                    for (role, (stored, tensor)) in roles.into_iter().zip(variables) {
                        tensors.insert(format!("{name}.{role}"), stored, tensor)?;
                    }
                }
                None => {
                    for stored in &layer.variables {
                        match self.tensor(stored) {
                            Ok(tensor) => {
                                tensors.insert(stored.clone(), stored.clone(), tensor)?;
                            }
                            // Counters and the seeds of dropout layers are integers.
                            Err(WeightsError::ElementType { tensor, .. }) => ignored.push(tensor),
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
        let mut tensors = tensors.tensors;
        for (norm, stored, bias) in biases {
            // Without its batch norm the network is incomplete, which the names will tell.
            let Some(mean) = tensors.get_mut(&format!("{norm}.running_mean")) else {
                continue;
            };
            if mean.shape != bias.shape {
                return Err(self.layout(format!(
                    "\"{stored}\" has shape {:?}, the batch norm behind it {:?}",
                    bias.shape, mean.shape
                )));
            }
            for (mean, bias) in mean.data.iter_mut().zip(&bias.data) {
                *mean = (f64::from(*mean) - f64::from(*bias)) as f32;
            }
        }
        ignored.sort_unstable();
        Ok((tensors, ignored))
    }

    /// The variables of a layer in the order of `roles`, at least `least` of them, with their paths.
    fn variables(
        &self,
        layer: &StoredLayer,
        roles: &[&str],
        least: usize,
    ) -> Result<Vec<(String, Tensor)>, WeightsError> {
        if !(least..=roles.len()).contains(&layer.variables.len()) {
            return Err(self.layout(format!(
                "layer \"{}\" has {} variables instead of {}",
                layer.path,
                layer.variables.len(),
                roles.join(", ")
            )));
        }
        layer
            .variables
            .iter()
            .map(|stored| Ok((stored.clone(), self.tensor(stored)?)))
            .collect()
    }

    /// A variable as it is stored.
    fn tensor(&self, stored: &str) -> Result<Tensor, WeightsError> {
        let dataset = self.wrap(stored, self.file.dataset(stored))?;
        let shape = self.wrap(stored, dataset.shape())?;
        let shape = shape
            .into_iter()
            .map(usize::try_from)
            .collect::<Result<Vec<usize>, _>>()
            .map_err(|_| self.layout(format!("\"{stored}\" does not fit into memory")))?;
        let data = self.values(stored, &dataset)?;
        if data.len() != shape.iter().product::<usize>() {
            return Err(self.layout(format!("\"{stored}\" is shorter than its shape")));
        }
        Ok(Tensor { shape, data })
    }

    fn values(&self, stored: &str, dataset: &Dataset) -> Result<Vec<f32>, WeightsError> {
        match self.wrap(stored, dataset.dtype())? {
            DType::F32 => self.wrap(stored, dataset.read_f32()),
            DType::F64 => {
                let values = self.wrap(stored, dataset.read_f64())?;
                Ok(values.into_iter().map(|value| value as f32).collect())
            }
            other => Err(WeightsError::ElementType {
                path: self.path.to_path_buf(),
                tensor: stored.to_owned(),
                found: other.to_string(),
            }),
        }
    }

    /// A kernel `[height, width, in, out]` as `[out, in, height, width]`.
    fn oihw(&self, stored: &str, kernel: Tensor) -> Result<Tensor, WeightsError> {
        let [height, width, inputs, outputs] = kernel.shape[..] else {
            return Err(self.layout(format!(
                "kernel \"{stored}\" has shape {:?} instead of four extents",
                kernel.shape
            )));
        };
        let mut data = Vec::with_capacity(kernel.data.len());
        for output in 0..outputs {
            for input in 0..inputs {
                for position in 0..height * width {
                    data.push(kernel.data[(position * inputs + input) * outputs + output]);
                }
            }
        }
        Ok(Tensor {
            shape: vec![outputs, inputs, height, width],
            data,
        })
    }

    /// A list of strings that Keras keeps in an attribute, or in several (`name0`, `name1`, ...) when
    /// it is longer than an object header allows.
    fn strings(
        &self,
        group: &Group,
        path: &str,
        name: &str,
    ) -> Result<Option<Vec<String>>, WeightsError> {
        // An empty list has no strings to tell its type from.
        let list = |value: &AttrValue| value.as_strings().map_or_else(Vec::new, <[_]>::to_vec);
        let attributes = self.wrap(path, group.attrs())?;
        if let Some(value) = attributes.get(name) {
            return Ok(Some(list(value)));
        }
        let chunks: Vec<String> = (0..)
            .map_while(|chunk| attributes.get(&format!("{name}{chunk}")))
            .flat_map(list)
            .collect();
        Ok((!chunks.is_empty()).then_some(chunks))
    }

    fn group(&self, path: &str) -> Result<Group, WeightsError> {
        self.wrap(path, self.file.group(path))
    }

    fn wrap<T>(&self, object: &str, result: Result<T, Error>) -> Result<T, WeightsError> {
        result.map_err(|error| WeightsError::Tensor {
            path: self.path.to_path_buf(),
            tensor: object.to_owned(),
            source: ForeignError::new(error),
        })
    }

    fn layout(&self, what: String) -> WeightsError {
        WeightsError::KerasLayout {
            path: self.path.to_path_buf(),
            what,
        }
    }
}

/// Tensors by torchvision's name, each with the name that it has in the file.
struct Named<'a> {
    path: &'a Path,
    tensors: BTreeMap<String, Tensor>,
    stored: BTreeMap<String, String>,
}

impl Named<'_> {
    fn insert(&mut self, name: String, stored: String, tensor: Tensor) -> Result<(), WeightsError> {
        if let Some(first) = self.stored.insert(name.clone(), stored.clone()) {
            return Err(WeightsError::Duplicate {
                path: self.path.to_path_buf(),
                tensor: name,
                first,
                second: stored,
            });
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }
}

fn join(base: &str, name: &str) -> String {
    match (base, name) {
        ("", name) => name.to_owned(),
        (base, "") => base.to_owned(),
        (base, name) => format!("{base}/{name}"),
    }
}

/// The count in the last part of a path: 0 for `conv2d`, 3 for `conv2d_3`.
fn count(path: &str, kind: &str) -> Option<usize> {
    let rest = path.rsplit('/').next()?.strip_prefix(kind)?;
    match rest.strip_prefix('_') {
        Some(number) => number.parse().ok(),
        None => rest.is_empty().then_some(0),
    }
}
