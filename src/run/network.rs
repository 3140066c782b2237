//! The network of a run: rank 0 gets the weights, all ranks receive them.

use super::settings::{Level, SAMPLE_SEED, Settings, WeightsChoice};
use crate::comm::Comm;
use crate::dataset::outcome::hex;
use crate::error::{Failure, Kind};
use crate::image::{Preprocess, SIDE};
use crate::kernels::Isa;
use crate::model::executor::{ExecuteError, Executor, InputSpec};
use crate::model::plan_executor::PlanExecutor;
use crate::model::seeded::seeded;
use crate::model::weights::{
    self, Cache, Named, StateDict, Tensor, TrainedPreprocess, TrainedTopology, WeightsError,
    three_ways,
};
use crate::model::{Tensors, Topology};
use crate::output::metrics::Weights;
use crate::output::shard::Provenance;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing::warn;

/// Said wherever a result shows itself when the weights were not trained.
const NOT_PRETRAINED: &str = "RANDOM WEIGHTS, NOT PRETRAINED: the features are those of an untrained network, so colours and textures separate, objects do not; do not draw conclusions from this result";

/// Weights with everything that belongs to them.
pub struct Network {
    /// Name for the log and the results: `keras`, `seeded:50`, a file name.
    pub id: String,
    /// SHA-256 of the weights' file; of seed and rule where there is none.
    pub sha256: String,
    /// Whether the weights were trained (as far as their source says).
    pub pretrained: bool,
    /// What nobody must miss about these weights.
    pub note: Option<String>,
    /// Where the network strides.
    pub topology: Topology,
    /// Resizing and normalisation.
    pub preprocess: Preprocess,
    /// Epsilon of the batch norms.
    pub batch_norm_epsilon: f64,
    tensors: Tensors,
}

/// What travels before the numbers.
#[derive(Serialize, Deserialize)]
struct Header {
    id: String,
    sha256: String,
    pretrained: bool,
    note: Option<String>,
    topology: Topology,
    preprocess: Preprocess,
    batch_norm_epsilon: f64,
    tensors: Vec<(String, Vec<usize>)>,
}

/// The instruction set of the kernels on every rank: as pinned, or the fastest that all ranks have,
/// because features depend on it in their last bits.
///
/// # Errors
/// On all ranks, when one of them lacks the pinned one.
pub fn instruction_set(settings: &Settings, comm: &Comm) -> Result<Isa, Failure> {
    let common = Isa::common(comm.all_gather_u64(&[Isa::available_bits()]).concat());
    match settings.isa {
        Some(pinned) if !common.contains(&pinned) => {
            let common: Vec<&str> = common.into_iter().map(Isa::as_str).collect();
            Err(Failure::new(
                Kind::Usage,
                format!(
                    "cannot compute with {pinned}, as P8_ISA asks: what all ranks have is {}",
                    common.join(", ")
                ),
            ))
        }
        Some(pinned) => Ok(pinned),
        None => Ok(common.last().copied().unwrap_or(Isa::Scalar)),
    }
}

/// Loads the weights on rank 0 and broadcasts them.
///
/// # Errors
/// On all ranks, with the names of the ways to supply weights where there are none.
pub fn load(settings: &Settings, comm: &Comm) -> Result<Network, Failure> {
    let mut bytes = comm.agree(if comm.rank() == 0 {
        load_here(settings).and_then(|network| network.to_bytes())
    } else {
        Ok(Vec::new())
    })?;
    comm.broadcast_bytes(&mut bytes, 0);
    Ok(comm.or_end(Network::from_bytes(&bytes)))
}

fn load_here(settings: &Settings) -> Result<Network, Failure> {
    match &settings.weights {
        WeightsChoice::Seeded(seed) => Ok(untrained(settings, *seed, None)),
        WeightsChoice::Path(path) => Ok(trained(settings, weights::read(path)?)),
        WeightsChoice::Named(named) => named_weights(settings, *named),
    }
}

/// Weights from the cache or the network; random ones where the sample run can have neither.
fn named_weights(settings: &Settings, named: Named) -> Result<Network, Failure> {
    let Some(folder) = &settings.cache_folder else {
        let cause = "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set";
        if settings.is_sample_run {
            return Ok(untrained(settings, SAMPLE_SEED, Some(cause)));
        }
        return Err(Failure::new(
            Kind::Weights,
            format!(
                "cannot get the weights \"{}\": {cause}; {}",
                named.name(),
                three_ways()
            ),
        ));
    };
    let mirror = settings.weights_mirror.as_deref();
    let on_terminal = std::io::stderr().is_terminal();
    let fetched = Cache::new(folder)
        .fetch(named, mirror, on_terminal)
        .and_then(|path| named.read(&path));
    match fetched {
        Ok(state) => Ok(trained(settings, state)),
        Err(error) => {
            let cause = crate::error::chain(&error);
            if settings.is_sample_run && is_absence(&error) {
                return Ok(untrained(settings, SAMPLE_SEED, Some(&cause)));
            }
            Err(Failure::new(
                Kind::Weights,
                format!("{cause}; {}", three_ways()),
            ))
        }
    }
}

/// Whether the weights could not be had, as against weights that are wrong, which nothing excuses.
/// A refusal may come from a proxy that lets nothing through.
fn is_absence(error: &WeightsError) -> bool {
    error.is_network()
        || matches!(
            error,
            WeightsError::Refused { .. } | WeightsError::Cache { .. }
        )
}

fn trained(settings: &Settings, state: StateDict) -> Network {
    let origin = state.origin;
    Network {
        id: origin.id,
        sha256: origin.sha256,
        pretrained: true,
        note: None,
        topology: settings.topology.unwrap_or(match origin.topology {
            TrainedTopology::V1 => Topology::V1,
            TrainedTopology::V1_5 => Topology::V1_5,
        }),
        preprocess: settings.preprocess.unwrap_or(match origin.preprocess {
            TrainedPreprocess::Caffe => Preprocess::Caffe,
            TrainedPreprocess::Torchvision => Preprocess::Torchvision,
        }),
        batch_norm_epsilon: origin.batch_norm_epsilon,
        tensors: state.tensors,
    }
}

fn untrained(settings: &Settings, seed: u64, reason: Option<&str>) -> Network {
    let note = match reason {
        None => NOT_PRETRAINED.to_string(),
        Some(cause) => {
            format!("{NOT_PRETRAINED} (the pretrained weights could not be had: {cause})")
        }
    };
    if settings.log.level == Level::Quiet {
        // The one thing that is said even then.
        eprintln!("p8: warning: {note}");
    } else {
        warn!("{note}");
    }
    Network {
        id: format!("seeded:{seed}"),
        sha256: hex(&<sha2::Sha256 as sha2::Digest>::digest(format!(
            "p8 seeded weights 1: {seed}"
        ))),
        pretrained: false,
        note: Some(note),
        topology: settings.topology.unwrap_or(Topology::V1),
        preprocess: settings.preprocess.unwrap_or(Preprocess::Caffe),
        batch_norm_epsilon: 1e-5,
        tensors: seeded(seed),
    }
}

impl Network {
    /// What the results say about the weights.
    pub fn weights(&self) -> Weights {
        Weights {
            id: self.id.clone(),
            sha256: self.sha256.clone(),
            pretrained: self.pretrained,
            note: self.note.clone().unwrap_or_default(),
        }
    }

    /// The same of features that were stored; `None` where their weights are not known.
    pub fn weights_of(provenance: &Provenance) -> Option<Weights> {
        let pretrained = provenance.get("pretrained")? == "true";
        Some(Weights {
            id: provenance.get("weights")?.clone(),
            sha256: provenance.get("weights_sha256")?.clone(),
            pretrained,
            note: if pretrained {
                String::new()
            } else {
                NOT_PRETRAINED.to_string()
            },
        })
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        format!(
            "{}{}, ResNet-50 {}, preprocessing {}",
            self.id,
            if self.pretrained {
                ""
            } else {
                " (NOT PRETRAINED)"
            },
            self.topology.as_str(),
            self.preprocess.as_str()
        )
    }

    /// Makes what computes features from these weights on this rank.
    ///
    /// # Errors
    /// When tensors are missing, extra or of a wrong shape.
    pub fn executor(
        &self,
        settings: &Settings,
        threads: usize,
        isa: Isa,
    ) -> Result<Box<dyn Executor>, Failure> {
        let input = InputSpec {
            side: SIDE as usize,
            normalization: self.preprocess.normalization(),
        };
        let executor = PlanExecutor::new(
            &self.tensors,
            self.topology,
            settings.layer,
            settings.pool,
            self.batch_norm_epsilon,
            input,
            threads,
            isa,
        )
        .map_err(|error: ExecuteError| {
            let failure = Failure::from(error);
            Failure::new(failure.kind, format!("weights {}: {failure}", self.id))
        })?;
        Ok(Box::new(executor))
    }

    fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        let header = Header {
            id: self.id.clone(),
            sha256: self.sha256.clone(),
            pretrained: self.pretrained,
            note: self.note.clone(),
            topology: self.topology,
            preprocess: self.preprocess,
            batch_norm_epsilon: self.batch_norm_epsilon,
            tensors: self
                .tensors
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shape.clone()))
                .collect(),
        };
        let header = serde_json::to_vec(&header).map_err(broken)?;
        let values: usize = self.tensors.values().map(|tensor| tensor.data.len()).sum();
        let mut bytes = Vec::with_capacity(8 + header.len() + 4 * values);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&header);
        for tensor in self.tensors.values() {
            for value in &tensor.data {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Network, Failure> {
        let (length, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| broken("the message is empty"))?;
        let length = u64::from_le_bytes(*length) as usize;
        let (header, mut numbers) = rest
            .split_at_checked(length)
            .ok_or_else(|| broken("the message is cut"))?;
        let header: Header = serde_json::from_slice(header).map_err(broken)?;
        let mut tensors = Tensors::new();
        for (name, shape) in header.tensors {
            let (mine, rest) = numbers
                .split_at_checked(4 * shape.iter().product::<usize>())
                .ok_or_else(|| broken("the message is cut"))?;
            let data = mine
                .chunks_exact(4)
                .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect();
            tensors.insert(name, Tensor { shape, data });
            numbers = rest;
        }
        Ok(Network {
            id: header.id,
            sha256: header.sha256,
            pretrained: header.pretrained,
            note: header.note,
            topology: header.topology,
            preprocess: header.preprocess,
            batch_norm_epsilon: header.batch_norm_epsilon,
            tensors,
        })
    }
}

fn broken(cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on the weights: {cause}"),
    )
}
