//! `p8 doctor`: what each rank sees of its machine.

use super::announce::{count, size};
use super::settings::Log;
use super::{listing, network, terminal};
use crate::comm::Comm;
use crate::comm::hosts::Place;
use crate::dataset::list::{Entry, Filter, list};
use crate::error::{Classify, Failure, Kind, chain};
use crate::image;
use crate::kernels::{CacheSizes, Isa};
use crate::linalg;
use crate::model::weights::{Cache, Named};
use crate::store::{Location, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The settings of `p8 doctor`.
#[derive(Debug, Clone)]
pub struct DoctorSettings {
    /// Threads a rank; `None`: the host's cores divided among its ranks.
    pub threads: Option<usize>,
    /// Where named weights are kept.
    pub cache_folder: Option<PathBuf>,
    /// Where named weights are downloaded from instead of their home.
    pub weights_mirror: Option<String>,
    /// What every rank tries to list and to read.
    pub inputs: Vec<Location>,
    /// `--glob`.
    pub glob: Option<String>,
    /// How objects are reached.
    pub store: Store,
    /// How warnings are printed.
    pub log: Log,
}

/// One rank's answers.
#[derive(Debug, Serialize, Deserialize)]
struct Findings {
    host: String,
    host_cores: usize,
    bound_cores: usize,
    threads: usize,
    instruction_set: String,
    caches: String,
    cpu: String,
    mpi: String,
    blas: String,
    cache: String,
    weights: Vec<(String, bool)>,
    /// What is to be known of the default weights where they are not in the cache.
    to_download: String,
    inputs: Vec<Access>,
    warning: Option<String>,
}

/// What came of reading an input.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Access {
    input: String,
    /// What is there, or why it cannot be read.
    found: String,
    /// The exit code of a run that could not read it.
    problem: Option<u8>,
}

/// Images that are tried before an input counts as unreadable: one bad file costs only itself.
const TRIED: usize = 8;

/// Prints what every rank sees, rank by rank, on rank 0.
///
/// # Errors
/// On all ranks when one of them cannot read an input, with the exit code of a run that could not; and when
/// the ranks cannot be asked.
pub fn doctor(settings: &DoctorSettings, comm: &Comm) -> Result<(), Failure> {
    linalg::init();
    let place = Place::find(comm);
    let filter = comm.agree(listing::filter(settings.glob.as_deref()).map_err(Failure::from))?;
    let mine = findings(settings, &filter, comm, place);
    let problem = problem(&mine);
    let mine = comm.or_end(serde_json::to_vec(&mine).map_err(broken));
    if let Some(all) = comm.gather_bytes(&mine) {
        print(&all, comm);
    }
    comm.agree(problem.map_or(Ok(()), Err))
}

fn print(all: &[Vec<u8>], comm: &Comm) {
    println!(
        "p8 {}, {}",
        env!("CARGO_PKG_VERSION"),
        count(all.len(), "rank")
    );
    let found = all.iter().map(|bytes| serde_json::from_slice(bytes));
    let found: Vec<Findings> = comm.or_end(found.collect::<Result<_, _>>().map_err(broken));
    for (rank, found) in found.iter().enumerate() {
        println!("{}", terminal::wrapped(&page(rank, found), 12));
    }
    println!("\n{}", terminal::wrapped(&verdict(&found), 6));
}

/// The first input that this rank cannot read.
fn problem(mine: &Findings) -> Option<Failure> {
    mine.inputs.iter().find_map(|access| {
        let kind = Kind::from_exit_code(access.problem?)?;
        Some(Failure::new(kind, access.found.clone()))
    })
}

fn findings(settings: &DoctorSettings, filter: &Filter, comm: &Comm, place: Place) -> Findings {
    let cache = Cache::new(settings.cache_folder.clone().unwrap_or_default());
    Findings {
        host_cores: place.host_cores,
        bound_cores: place.bound_cores,
        threads: settings.threads.unwrap_or(place.default_threads()),
        instruction_set: Isa::detect().to_string(),
        caches: CacheSizes::detect().to_string(),
        cpu: super::publish::cpu_name(),
        mpi: comm.mpi_library(),
        blas: linalg::blas_description(),
        cache: settings.cache_folder.as_ref().map_or(
            "none: neither XDG_CACHE_HOME nor HOME is set".into(),
            |folder| folder.display().to_string(),
        ),
        weights: Named::ALL
            .into_iter()
            .map(|named| {
                (
                    named.name().to_string(),
                    matches!(cache.find(named), Ok(Some(_))),
                )
            })
            .collect(),
        to_download: network::to_download(
            Named::Keras,
            settings.cache_folder.as_deref(),
            settings.weights_mirror.as_deref(),
        ),
        inputs: settings
            .inputs
            .iter()
            .map(|input| access(&settings.store, input, filter))
            .collect(),
        warning: place.binding_warning(),
        host: place.host,
    }
}

/// What is in an input as seen from here, and whether it can be read.
fn access(store: &Store, input: &Location, filter: &Filter) -> Access {
    let (found, problem) = match look(store, input, filter) {
        Ok(found) => (found, None),
        Err(failure) => (failure.text, Some(failure.kind.exit_code())),
    };
    Access {
        input: input.to_string(),
        found,
        problem,
    }
}

/// Lists an input as a run does, and reads one image of it.
fn look(store: &Store, input: &Location, filter: &Filter) -> Result<String, Failure> {
    let entries = list(store, std::slice::from_ref(input), filter)?;
    let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut found = format!("{}, {}", count(entries.len(), "image"), size(bytes as f64));
    if let Location::S3(_) = input {
        found.push_str(&format!(", region {}", store.s3()?.region()));
    }
    let is_replaced = |entry: &&Entry| entry.key.contains(char::REPLACEMENT_CHARACTER);
    let odd = entries.iter().filter(is_replaced).count();
    if odd > 0 {
        found.push_str(&format!(
            ", {odd} of them with a name that is not UTF-8 (results show \u{fffd} there)"
        ));
    }
    let mut failure = None;
    for entry in entries.iter().take(TRIED) {
        match entry.read(store) {
            Ok(bytes) => {
                let seen = match image::dimensions(&bytes) {
                    Some((width, height)) => format!("{width} x {height} pixels"),
                    None => "no image that p8 can decode".into(),
                };
                found.push_str(&format!("; opened {} ({seen})", entry.key));
                return Ok(found);
            }
            Err(error) => {
                failure.get_or_insert(Failure::new(error.kind(), chain(&error)));
            }
        }
    }
    Err(failure.unwrap_or_else(|| Failure::new(Kind::Input, "there is no image")))
}

fn page(rank: usize, found: &Findings) -> String {
    let weights: Vec<String> = found
        .weights
        .iter()
        .map(|(name, cached)| format!("{name} {}", if *cached { "cached" } else { "not cached" }))
        .collect();
    let mut page = format!("\nrank {rank} on {}\n", found.host);
    for (what, value) in [
        (
            "processor",
            format!("{} ({})", found.cpu, found.instruction_set),
        ),
        (
            "cores",
            format!(
                "{} on the host, {} for this rank, {} used",
                found.host_cores,
                found.bound_cores,
                count(found.threads, "thread")
            ),
        ),
        ("caches", found.caches.clone()),
        ("MPI", found.mpi.clone()),
        ("BLAS", found.blas.clone()),
        (
            "weights",
            format!("{} in {}", weights.join(", "), found.cache),
        ),
    ] {
        page.push_str(&format!("  {what:<10}{value}\n"));
    }
    for Access { input, found, .. } in &found.inputs {
        page.push_str(&format!("  input     {input}: {found}\n"));
    }
    if let Some(warning) = &found.warning {
        page.push_str(&format!("  warning   {warning}\n"));
    }
    page
}

/// What a person should do about it all, if anything.
fn verdict(found: &[Findings]) -> String {
    let mut advice = Vec::new();
    if found.iter().any(|rank| rank.warning.is_some()) {
        advice.push(
            "ranks are bound to fewer cores than they could use: see the warnings above".into(),
        );
    }
    let unreadable: Vec<String> = found
        .iter()
        .enumerate()
        .filter(|(_, rank)| rank.inputs.iter().any(|access| access.problem.is_some()))
        .map(|(rank, _)| rank.to_string())
        .collect();
    if !unreadable.is_empty() {
        let ranks = unreadable.join(", ");
        advice.push(format!(
            "an input cannot be read on rank {ranks}: see the causes above"
        ));
    }
    let sets: BTreeSet<&str> = found.iter().map(|r| r.instruction_set.as_str()).collect();
    if sets.len() > 1 {
        let sets: Vec<&str> = sets.into_iter().collect();
        advice.push(format!(
            "the ranks have unlike processors ({}): the network runs on what all of them have",
            sets.join(", ")
        ));
    }
    // Rank 0 gets the weights for all.
    let default = Named::Keras.name();
    let lacks_default = |rank: &&Findings| {
        let mut weights = rank.weights.iter();
        !weights.any(|(name, cached)| name == default && *cached)
    };
    if let Some(rank) = found.first().filter(lacks_default) {
        advice.push(format!(
            "the default weights, {default}, are {}",
            rank.to_download
        ));
    }
    if advice.is_empty() {
        return "everything that p8 needs is there".into();
    }
    advice
        .iter()
        .map(|sentence| format!("note: {sentence}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn broken(error: serde_json::Error) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on what a rank found: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Findings {
        Findings {
            host: "node1".into(),
            host_cores: 8,
            bound_cores: 8,
            threads: 8,
            instruction_set: "avx2".into(),
            caches: String::new(),
            cpu: String::new(),
            mpi: String::new(),
            blas: String::new(),
            cache: String::new(),
            weights: vec![("keras".into(), true), ("torchvision-v1".into(), false)],
            to_download: network::to_download(Named::Keras, Some("/c".as_ref()), Some("http://m")),
            inputs: vec![Access {
                input: "photos".into(),
                found: "9 images".into(),
                problem: None,
            }],
            warning: None,
        }
    }

    #[test]
    fn where_nothing_is_amiss_the_verdict_says_so() {
        assert_eq!(
            verdict(&[healthy(), healthy()]),
            "everything that p8 needs is there"
        );
    }

    #[test]
    fn the_verdict_names_what_is_amiss_and_where() {
        let mut other = healthy();
        other.inputs[0].problem = Some(3);
        other.instruction_set = "avx512".into();
        let mut first = healthy();
        first.weights[0].1 = false;
        let said = verdict(&[first, other]);
        assert_eq!(said.lines().count(), 3, "{said}");
        for words in [
            "on rank 1",
            "avx2, avx512",
            "keras, are not in the cache /c: the first run needs the network",
            "http://m/resnet50_weights",
            "a run over other images stops",
            "--weights",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
