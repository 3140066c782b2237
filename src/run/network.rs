//! The network of a run: rank 0 gets the weights, all ranks receive them.

use super::announce::size;
use super::progress::clock;
use super::settings::{Level, Log, SAMPLE_SEED, Settings, WeightsChoice};
use super::terminal::Line;
use crate::comm::Comm;
use crate::dataset::outcome::hex;
use crate::error::{Classify, Failure, Kind};
use crate::image::{Preprocess, SIDE};
use crate::kernels::{Isa, KernelsBf16};
use crate::model::executor::{ExecuteError, Executor, InputSpec};
use crate::model::plan_executor::PlanExecutor;
use crate::model::seeded::seeded;
use crate::model::weights::{
    self, Cache, Named, StateDict, Tensor, TrainedPreprocess, TrainedTopology, WeightsError,
    three_ways,
};
use crate::model::{Precision, Tensors, Topology};
use crate::output::metrics::Weights;
use crate::output::shard::Provenance;
use crate::store::Location;
use crate::store::s3::Address;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;
use tracing::{info, warn};

/// Said wherever a result shows itself when the weights were not trained.
const NOT_PRETRAINED: &str = "RANDOM WEIGHTS, NOT PRETRAINED: the features are those of an untrained network, so colours and textures separate, objects do not; do not draw conclusions from this result";

/// What becomes of a run whose weights cannot be had.
const SAMPLE_ONLY: &str = "only the sample run goes on like this: with images of your own p8 stops here, until it can download the weights or gets them as a file, --weights FILE";

/// What a run knows of its weights beside the numbers.
#[derive(Serialize, Deserialize)]
pub struct Network {
    /// Name for the log and the results: `keras`, `seeded:50`, a file name.
    pub id: String,
    /// SHA-256 of the weights' file; of seed and rule where there is none.
    pub sha256: String,
    /// Whether the weights were trained (as far as their source says).
    pub pretrained: bool,
    /// What nobody must miss about these weights.
    pub note: Option<String>,
    /// Why they stand in for those that were asked for, where they do.
    pub reason: Option<String>,
    /// Where the network strides.
    pub topology: Topology,
    /// Resizing and normalisation.
    pub preprocess: Preprocess,
    /// Epsilon of the batch norms.
    pub batch_norm_epsilon: f64,
}

/// Numbers that travel in one message, at least, as long as there are so many. Large enough to cost
/// no more than their bytes, small enough to be no burden beside the tensors.
const PARCEL: usize = 4 << 20;

/// The instruction set of the kernels on every rank: as pinned, or the fastest that all ranks have,
/// because features depend on it in their last bits.
///
/// # Errors
/// On all ranks, when one of them lacks the pinned one, or lacks it for the precision.
pub fn instruction_set(settings: &Settings, comm: &Comm) -> Result<Isa, Failure> {
    let common = Isa::common(comm.all_gather_u64(&[Isa::available_bits()]).concat());
    let isa = match settings.isa {
        Some(pinned) if !common.contains(&pinned) => {
            let common: Vec<&str> = common.into_iter().map(Isa::as_str).collect();
            return Err(Failure::new(
                Kind::Usage,
                format!(
                    "cannot compute with {pinned}, as P8_ISA asks: what all ranks have is {}",
                    common.join(", ")
                ),
            ));
        }
        Some(pinned) => pinned,
        None => common.last().copied().unwrap_or(Isa::Scalar),
    };
    match settings.precision {
        Precision::F32 => Ok(isa),
        Precision::Bf16 => can_compute_in_bf16(settings, comm, isa),
    }
}

/// The instruction set again where every rank has bfloat16 kernels for it. There is nothing to fall
/// back on: f32 takes longer and gives other features, and plain loops, which are for tests and have
/// to be pinned, take a hundred times as long.
fn can_compute_in_bf16(settings: &Settings, comm: &Comm, isa: Isa) -> Result<Isa, Failure> {
    let has = u64::from(KernelsBf16::of(Isa::Avx512).is_some());
    let all = comm.all_gather_u64(&[has]).concat();
    let lacking = all.iter().position(|&has| has == 0);
    let cause = match (settings.isa, lacking) {
        (Some(Isa::Scalar), _) | (_, None) if KernelsBf16::of(isa).is_some() => return Ok(isa),
        (Some(pinned), _) if pinned != Isa::Avx512 => {
            format!("there are no bfloat16 kernels for {pinned}, which P8_ISA pins")
        }
        (_, rank) => format!(
            "the processor of rank {} does not have AVX-512 with its extension AVX512-BF16",
            rank.unwrap_or(0)
        ),
    };
    Err(Failure::new(
        Kind::Usage,
        format!("cannot compute with --precision bf16: {cause}; use --precision f32"),
    ))
}

/// Loads the weights on rank 0 and broadcasts them.
///
/// # Errors
/// On all ranks, with the names of the ways to supply weights where there are none.
pub fn load(settings: &Settings, comm: &Comm) -> Result<(Network, Tensors), Failure> {
    let loaded = comm.agree(if comm.rank() == 0 {
        load_here(settings, comm).map(Some)
    } else {
        Ok(None)
    })?;
    if comm.size() == 1
        && let Some(loaded) = loaded
    {
        return Ok(loaded);
    }
    Ok(comm.or_end(broadcast(comm, loaded)))
}

/// Gives all ranks what rank 0 has: a header, then the numbers of a few tensors at a time.
fn broadcast(
    comm: &Comm,
    loaded: Option<(Network, Tensors)>,
) -> Result<(Network, Tensors), Failure> {
    let mut header = match &loaded {
        Some((network, tensors)) => {
            let shapes: Vec<(&String, &Vec<usize>)> = tensors
                .iter()
                .map(|(name, tensor)| (name, &tensor.shape))
                .collect();
            serde_json::to_vec(&(network, shapes)).map_err(broken)?
        }
        None => Vec::new(),
    };
    comm.broadcast_bytes(&mut header, 0);
    let (network, shapes): (Network, Vec<(String, Vec<usize>)>) =
        serde_json::from_slice(&header).map_err(broken)?;
    let mut mine = loaded.map(|(_, tensors)| tensors).unwrap_or_default();
    let mut rest = shapes.as_slice();
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let (parcel, later) = rest.split_at(parcel_of(rest));
        rest = later;
        bytes.clear();
        for (name, _) in parcel {
            if let Some(tensor) = mine.get(name) {
                append(&mut bytes, &tensor.data);
            }
        }
        comm.broadcast_bytes(&mut bytes, 0);
        if comm.rank() == 0 {
            continue;
        }
        let (mut words, _) = bytes.as_chunks::<4>();
        for (name, shape) in parcel {
            let (first, behind) = words
                .split_at_checked(shape.iter().product())
                .ok_or_else(|| broken("the message is cut"))?;
            let tensor = Tensor {
                shape: shape.clone(),
                data: first.iter().map(|word| f32::from_le_bytes(*word)).collect(),
            };
            mine.insert(name.clone(), tensor);
            words = behind;
        }
    }
    Ok((network, mine))
}

/// How many of the next tensors make a message.
fn parcel_of(shapes: &[(String, Vec<usize>)]) -> usize {
    let mut numbers = 0;
    let is_open = |(_, shape): &&(String, Vec<usize>)| {
        let has_room = numbers < PARCEL;
        numbers += shape.iter().product::<usize>();
        has_room
    };
    shapes.iter().take_while(is_open).count()
}

fn append(bytes: &mut Vec<u8>, numbers: &[f32]) {
    let start = bytes.len();
    bytes.resize(start + size_of_val(numbers), 0);
    let (words, _) = bytes[start..].as_chunks_mut::<4>();
    for (word, number) in words.iter_mut().zip(numbers) {
        *word = number.to_le_bytes();
    }
}

fn load_here(settings: &Settings, comm: &Comm) -> Result<(Network, Tensors), Failure> {
    match &settings.weights {
        WeightsChoice::Seeded(seed) => Ok(untrained(settings, *seed, None)),
        WeightsChoice::Path(path) => Ok(trained(settings, weights::read(path)?)),
        WeightsChoice::S3(address) => Ok(trained(settings, of_object(settings, address)?)),
        WeightsChoice::Named(named) => named_weights(settings, comm, *named),
    }
}

/// The weights in an object.
///
/// # Errors
/// When it cannot be read, or holds no weights.
pub fn of_object(settings: &Settings, address: &Address) -> Result<StateDict, Failure> {
    let place = Location::S3(address.clone());
    let copy = settings.store.local_copy(&place).map_err(|error| {
        let kind = match error.is_absence() {
            true => Kind::Weights,
            false => error.kind(),
        };
        Failure::new(kind, crate::error::chain(&error))
    })?;
    weights::read(copy.path()).map_err(|error| {
        let failure = Failure::from(error);
        Failure::new(failure.kind, format!("\"{address}\": {failure}"))
    })
}

/// Weights from the cache or the network; random ones where the sample run can have neither.
fn named_weights(
    settings: &Settings,
    comm: &Comm,
    named: Named,
) -> Result<(Network, Tensors), Failure> {
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
    let mut download = Download::new(named.name());
    let fetched = Cache::new(folder)
        .fetch(named, mirror, &mut |arrived, of| {
            download.tell(comm, settings.log, arrived, of);
        })
        .and_then(|path| named.read(&path));
    drop(download);
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

/// What is known beforehand of named weights that are not in the cache: where a run gets them, and what it does
/// where it cannot.
pub fn to_download(named: Named, cache_folder: Option<&Path>, mirror: Option<&str>) -> String {
    let Some(folder) = cache_folder else {
        return "not in a cache: neither XDG_CACHE_HOME nor HOME is set, so that there is no folder to download to; give a file with --weights".into();
    };
    format!(
        "not in the cache {}: the first run needs the network, to download them (about 100 MB) from {}; where that cannot be reached the sample run goes on with random weights, and a run over other images stops, unless it gets a file with --weights",
        folder.display(),
        named.url(mirror)
    )
}

/// Tells how a download goes on, from its first bytes on: there may be none.
struct Download {
    name: &'static str,
    running: Option<(Line, Instant, u64)>,
}

impl Download {
    fn new(name: &'static str) -> Self {
        Download {
            name,
            running: None,
        }
    }

    fn tell(&mut self, comm: &Comm, log: Log, arrived: u64, of: Option<u64>) {
        let (line, began, before) = self.running.get_or_insert_with(|| {
            let whole = of.map_or(String::new(), |bytes| format!(", {}", size(bytes as f64)));
            info!("weights   downloading {}{whole}", self.name);
            (Line::start(comm, log, "weights"), Instant::now(), arrived)
        });
        // A part of an earlier attempt was there already.
        let rate = arrived.saturating_sub(*before) as f64 / began.elapsed().as_secs_f64().max(1e-9);
        line.tell(|| match of {
            Some(of) if rate > 0.0 => format!(
                "weights   {} of {}, {}/s, {} left",
                size(arrived as f64),
                size(of as f64),
                size(rate),
                clock((of.saturating_sub(arrived) as f64 / rate) as u64)
            ),
            _ => format!("weights   {}, {}/s", size(arrived as f64), size(rate)),
        });
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

fn trained(settings: &Settings, state: StateDict) -> (Network, Tensors) {
    let origin = state.origin;
    let network = Network {
        id: origin.id,
        sha256: origin.sha256,
        pretrained: true,
        note: None,
        reason: None,
        topology: settings.topology.unwrap_or(match origin.topology {
            TrainedTopology::V1 => Topology::V1,
            TrainedTopology::V1_5 => Topology::V1_5,
        }),
        preprocess: settings.preprocess.unwrap_or(match origin.preprocess {
            TrainedPreprocess::Caffe => Preprocess::Caffe,
            TrainedPreprocess::Torchvision => Preprocess::Torchvision,
        }),
        batch_norm_epsilon: origin.batch_norm_epsilon,
    };
    (network, state.tensors)
}

fn untrained(settings: &Settings, seed: u64, reason: Option<&str>) -> (Network, Tensors) {
    let reason = reason.map(|cause| format!("the pretrained weights could not be had: {cause}"));
    let told = match &reason {
        None => NOT_PRETRAINED.to_string(),
        Some(reason) => format!("{NOT_PRETRAINED} ({reason}); {SAMPLE_ONLY}"),
    };
    if settings.log.level == Level::Quiet {
        // The one thing that is said even then.
        eprintln!("p8: warning: {told}");
    } else {
        warn!("{told}");
    }
    let network = Network {
        id: format!("seeded:{seed}"),
        sha256: hex(&<sha2::Sha256 as sha2::Digest>::digest(format!(
            "p8 seeded weights 1: {seed}"
        ))),
        pretrained: false,
        note: Some(NOT_PRETRAINED.to_string()),
        reason,
        topology: settings.topology.unwrap_or(Topology::V1),
        preprocess: settings.preprocess.unwrap_or(Preprocess::Caffe),
        batch_norm_epsilon: 1e-5,
    };
    (network, seeded(seed))
}

impl Network {
    /// What the results say about the weights.
    pub fn weights(&self) -> Weights {
        Weights {
            id: self.id.clone(),
            sha256: self.sha256.clone(),
            pretrained: self.pretrained,
            note: self.note.clone().unwrap_or_default(),
            reason: self.reason.clone().unwrap_or_default(),
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
            reason: String::new(),
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

    /// Makes what computes features on this rank from the weights, which are given up for it.
    ///
    /// # Errors
    /// When tensors are missing, extra or of a wrong shape.
    pub fn executor(
        &self,
        tensors: Tensors,
        settings: &Settings,
        threads: usize,
        isa: Isa,
    ) -> Result<Box<dyn Executor>, Failure> {
        let input = InputSpec {
            side: SIDE as usize,
            normalization: self.preprocess.normalization(),
        };
        let executor = PlanExecutor::new(
            tensors,
            self.topology,
            settings.layer,
            settings.pool,
            self.batch_norm_epsilon,
            input,
            threads,
            isa,
            settings.precision,
        )
        .map_err(|error: ExecuteError| {
            let failure = Failure::from(error);
            Failure::new(failure.kind, format!("weights {}: {failure}", self.id))
        })?;
        Ok(Box::new(executor))
    }
}

fn broken(cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on the weights: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_cover_all_tensors_and_hold_little_more_than_they_should() {
        let sizes = [1, PARCEL - 1, 5, PARCEL, 3 * PARCEL, 2, 7];
        let shapes: Vec<(String, Vec<usize>)> = sizes
            .iter()
            .map(|&size| (size.to_string(), vec![size]))
            .collect();
        let mut rest = shapes.as_slice();
        let mut parcels = Vec::new();
        while !rest.is_empty() {
            let (parcel, later) = rest.split_at(parcel_of(rest));
            parcels.push(parcel.iter().map(|(_, shape)| shape[0]).collect::<Vec<_>>());
            rest = later;
        }
        assert_eq!(parcels.concat(), sizes);
        for parcel in &parcels {
            let all_but_last: usize = parcel.iter().rev().skip(1).sum();
            assert!(all_but_last < PARCEL, "{parcel:?}");
        }
        assert!(parcels.len() <= 4, "{parcels:?}");
    }

    #[test]
    fn numbers_are_little_endian_bytes() {
        let mut bytes = vec![9];
        append(&mut bytes, &[1.0, -2.5]);
        assert_eq!(bytes, [9, 0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    }
}
