//! The results: scores of every image, the model, the report and the measurements, published last
//! and whole.

use super::announce;
use super::blocks::Blocks;
use super::command::{Ran, command};
use super::context::Context;
use super::fetch;
use super::fitted_model;
use super::memory;
use super::output_folder::{Folder, begin_replacing};
use super::project::{Spill, collect, project};
use super::report;
use crate::error::Failure;
use crate::linalg;
use crate::output::metrics::{
    Environment, Images, Metrics, ModelSummary, Setting, Task, Traffic, Weights, rfc3339,
};
use crate::output::outcomes::OutcomesParquet;
use crate::output::report::{Collector, MAX_POINTS, Report, Scaling};
use crate::output::scores::{ScoreBlock, ScoresCsv, ScoresParquet};
use crate::output::shard::Provenance;
use crate::pca::{self, Certificate, Model};
use crate::store::{FinishedFile, s3};
use crate::timing::{Phase, summarize};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

/// Everything that the results are made from.
pub struct Finished<'a> {
    /// Which results there are.
    pub task: Task,
    /// Ranks, threads, clocks.
    pub context: &'a Context<'a>,
    /// Where the results go.
    pub folder: &'a Folder,
    /// The features.
    pub blocks: &'a Blocks<'a>,
    /// The fitted model.
    pub model: &'a Model,
    /// What each rank sent for it; empty where it was fitted before.
    pub traffic: Vec<Traffic>,
    /// Where the features come from.
    pub origin: &'a Origin,
    /// Counts over all ranks.
    pub counts: Counts,
    /// A sentence where the ranks' processors differ.
    pub unlike_hosts: Option<String>,
}

/// Where features come from.
pub struct Origin {
    /// What decides them; empty where that is not known.
    pub provenance: Provenance,
    /// The weights, where they are known.
    pub weights: Option<Weights>,
    /// What computed them.
    pub executor: String,
    /// The files and folders that hold them, from the root on; empty where the network computes them.
    pub files: Vec<String>,
}

/// What a task went through.
pub struct Counts {
    /// Images by outcome.
    pub images: Images,
    /// Rate from the first read to the last feature; `None` where nothing was computed.
    pub images_per_second: Option<f64>,
    /// Seconds from the start of the program to the first features, on the rank where that took
    /// longest; `None` where nothing was computed.
    pub first_features_seconds: Option<f64>,
    /// Bytes of image files that were read.
    pub bytes_read: u64,
    /// Whether images were listed, so that each of them has an outcome and a place in a shard.
    pub lists_images: bool,
}

/// Projects on all ranks, checks the model, and writes the results on rank 0.
///
/// # Errors
/// On all ranks, when the certificate fails; nothing is published then.
pub fn publish(run: &Finished) -> Result<(), Failure> {
    let comm = run.context.comm;
    let projected = project(run.context, run.blocks, run.model, run.folder.root());
    let (spill, parts) = comm.or_end(projected);
    let certificate = match run.task {
        Task::Run | Task::Pca => check(run, parts)?,
        Task::Transform => None,
    };
    let ranks = Ranks::gather(run);
    // A failure ends the job from here: the others may wait for rank 0 to take their blocks.
    let elapsed_seconds = comm.or_end(match ranks {
        Some(ranks) => write_results(run, spill, certificate, ranks).map(Some),
        // The others only hand over their blocks.
        None => collect(comm, run.blocks, spill, |_| Ok(())).and_then(|()| {
            if run.task != Task::Transform {
                fetch::images(comm, run.blocks, None)?;
            }
            Ok(None)
        }),
    });
    comm.barrier();
    if let Some(elapsed_seconds) = elapsed_seconds {
        announce::results_of(run, elapsed_seconds);
    }
    Ok(())
}

/// The certificate, on rank 0; all ranks fail where it does.
fn check(run: &Finished, parts: Vec<pca::CertificatePart>) -> Result<Option<Certificate>, Failure> {
    let comm = run.context.comm;
    let mut certificate =
        pca::gather_parts(comm, parts).map(|parts| pca::certify(run.model, &parts));
    if run.context.settings.verify {
        let phases = &run.context.phases;
        let exact = phases.time(Phase::Verify, || comm.or_end(verify(run)));
        if let Some(certificate) = &mut certificate {
            certificate.exact = exact;
        }
    }
    comm.agree(match &certificate {
        Some(certificate) => certificate.verdict().map_err(Failure::from),
        None => Ok(()),
    })?;
    let exact = certificate.as_ref().and_then(|made| made.exact.as_ref());
    if let Some(exact) = exact {
        announce::verified(exact, run.model);
    }
    Ok(certificate)
}

/// The exact checks, on rank 0, for which every rank reads its features once more.
fn verify(run: &Finished) -> Result<Option<pca::Exact>, Failure> {
    let comm = run.context.comm;
    let mut verification = pca::Verification::new(comm, run.model);
    for block in run.blocks.of_rank(comm.rank()) {
        verification.add(run.model, &(run.blocks.read)(block)?.features);
    }
    Ok(verification.finish(comm, run.model))
}

/// What rank 0 has to know of the others.
struct Ranks {
    phases: Vec<Vec<f64>>,
    hosts: Vec<String>,
    threads: Vec<usize>,
    peak_memory: Vec<u64>,
    s3: Option<s3::Traffic>,
}

impl Ranks {
    /// Collects it on rank 0; `None` elsewhere.
    fn gather(run: &Finished) -> Option<Ranks> {
        let comm = run.context.comm;
        let phases = comm.all_gather_f64(&run.context.phases.to_vec());
        let threads = comm.all_gather_u64(&[run.context.threads as u64]).concat();
        let peak = memory::peak_bytes().unwrap_or(0);
        let peak_memory = comm.all_gather_u64(&[peak]).concat();
        let s3 = traffic(run);
        let mut hosts: Vec<String> = comm
            .gather_bytes(run.context.place.host.as_bytes())?
            .iter()
            .map(|host| String::from_utf8_lossy(host).into_owned())
            .collect();
        hosts.sort();
        hosts.dedup();
        Some(Ranks {
            phases,
            hosts,
            threads: threads.into_iter().map(|n| n as usize).collect(),
            peak_memory,
            s3,
        })
    }
}

/// What all ranks asked of the object store.
fn traffic(run: &Finished) -> Option<s3::Traffic> {
    let mine = run.context.settings.store.traffic();
    let of_rank = mine.unwrap_or_default();
    let all = run.context.comm.all_gather_u64(&[
        u64::from(mine.is_some()),
        of_rank.requests,
        of_rank.retries,
        of_rank.bytes_received,
        of_rank.bytes_sent,
    ]);
    let sum = |column: usize| all.iter().map(|rank| rank[column]).sum();
    let users: u64 = sum(0);
    (users > 0).then(|| s3::Traffic {
        requests: sum(1),
        retries: sum(2),
        bytes_received: sum(3),
        bytes_sent: sum(4),
    })
}

/// The results of a task, in the order in which they are published; the last one says that all
/// others are there.
pub fn results(task: Task, lists_images: bool) -> Vec<&'static str> {
    let fits = task != Task::Transform;
    [
        ("outcomes.parquet", lists_images),
        ("scores.parquet", true),
        ("scores.csv", true),
        ("model.safetensors", fits),
        ("report.html", fits),
        ("scatter.svg", fits),
        ("scree.svg", fits),
        ("metrics.json", true),
    ]
    .into_iter()
    .filter_map(|(name, is_written)| is_written.then_some(name))
    .collect()
}

/// Writes every file aside, then gives them their names in the order of [`results`]. The answer is how many seconds
/// the results say that they took.
fn write_results(
    run: &Finished,
    spill: Spill,
    certificate: Option<Certificate>,
    mut ranks: Ranks,
) -> Result<f64, Failure> {
    let began = Instant::now();
    let store = &run.context.settings.store;
    let create = |name: &str| store.create(&run.folder.result(name));
    let k = run.model.k();
    let mut outcomes = match run.counts.lists_images {
        true => Some(OutcomesParquet::new(create("outcomes.parquet")?)?),
        false => None,
    };
    let mut parquet = ScoresParquet::new(create("scores.parquet")?, k)?;
    let mut csv = ScoresCsv::new(create("scores.csv")?, k)?;
    let mut collector = Collector::new(run.counts.images.ok, k, MAX_POINTS);
    collect(run.context.comm, run.blocks, spill, |block| {
        let scored = ScoreBlock {
            rows: &block.rows,
            pca: &block.scores,
            reconstruction_error: &block.reconstruction_error,
        };
        parquet.write(scored)?;
        csv.write(scored)?;
        if let Some(outcomes) = &mut outcomes {
            outcomes.write(&block.outcomes)?;
        }
        for (number, row) in block.rows.iter().enumerate() {
            let scores = &block.scores[number * k..(number + 1) * k];
            collector.add(row, scores, block.reconstruction_error[number]);
        }
        for outcome in &block.outcomes {
            collector.add_outcome(outcome);
        }
        Ok(())
    })?;
    let mut finished: Vec<FinishedFile> = Vec::new();
    if let Some(outcomes) = outcomes {
        finished.push(outcomes.finish()?.finish()?);
    }
    finished.push(parquet.finish()?.finish()?);
    finished.push(csv.finish()?.finish()?);
    if run.task != Task::Transform {
        let mut model = create("model.safetensors")?;
        fitted_model::to_file(run.model, &run.origin.provenance).write_to(&mut model)?;
        finished.push(model.finish()?);
    }

    let first_failed = collector.first_failed().map(str::to_owned);
    let images = match run.task {
        Task::Run | Task::Pca => {
            let compared = collector.compare(Scaling::of(run.model));
            fetch::images(run.context.comm, run.blocks, Some(compared))?
        }
        Task::Transform => None,
    };

    // What is left to write after this cannot count itself.
    ranks.phases[0][Phase::Publish as usize] += began.elapsed().as_secs_f64();
    let metrics = metrics(run, certificate.as_ref(), &ranks, first_failed.as_deref());
    announce::phases(&metrics.phases);
    if let Some(images) = &images {
        let report = Report {
            metrics: &metrics,
            images,
        };
        finished.extend(report::write(store, run.folder, &report)?);
    }
    let mut numbers = create("metrics.json")?;
    metrics.write_to(&mut numbers)?;
    finished.push(numbers.finish()?);

    begin_replacing(
        run.context.settings,
        run.folder,
        &results(run.task, run.counts.lists_images),
    )?;
    for file in finished {
        file.publish()?;
    }
    Ok(metrics.elapsed_seconds)
}

fn metrics(
    run: &Finished,
    certificate: Option<&Certificate>,
    ranks: &Ranks,
    first_failed: Option<&str>,
) -> Metrics {
    let finished = SystemTime::now();
    let phases: BTreeMap<Phase, _> = summarize(&ranks.phases).into_iter().collect();
    let model = run.model;
    Metrics {
        task: run.task,
        started: rfc3339(run.context.started),
        finished: rfc3339(finished),
        elapsed_seconds: finished
            .duration_since(run.context.started)
            .unwrap_or_default()
            .as_secs_f64(),
        images: run.counts.images,
        images_per_second: run.counts.images_per_second,
        first_features_seconds: run.counts.first_features_seconds,
        bytes_read: run.counts.bytes_read,
        s3: ranks.s3,
        phases,
        seconds_by_rank: seconds_by_rank(&ranks.phases),
        features: run.origin.files.clone(),
        weights: run.origin.weights.clone(),
        model: ModelSummary {
            n: model.n,
            d: model.width(),
            k: model.k(),
            k_reason: model.k_reason.clone(),
            solver: model.solver.as_str().into(),
            solver_reason: model.solver_reason.clone(),
            pca_precision: model.precision.as_str().into(),
            traffic: run.traffic.clone(),
            explained_variance_ratio: model.explained_variance_ratio.clone(),
            total_variance: model.total_variance,
        },
        certificate: serde_json::to_value(certificate).unwrap_or_default(),
        environment: Environment {
            p8_version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("P8_BUILD_COMMIT").into(),
            target: concat!(env!("P8_BUILD_TARGET"), ", ", env!("P8_BUILD_PROFILE")).into(),
            compiler: env!("P8_BUILD_COMPILER").into(),
            ranks: run.context.comm.size(),
            hosts: ranks.hosts.clone(),
            threads_per_rank: ranks.threads.clone(),
            peak_memory_bytes_per_rank: ranks.peak_memory.clone(),
            executor: run.origin.executor.clone(),
            blas: linalg::blas_description(),
            mpi: run.context.comm.mpi_library(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name(),
        },
        settings: run
            .context
            .settings
            .listed
            .iter()
            .map(|setting| {
                let value = Setting {
                    value: setting.value.clone().into(),
                    source: setting.source.clone(),
                };
                (setting.name.clone(), value)
            })
            .collect(),
        command: command(
            Ran {
                task: run.task,
                features: &run.origin.files,
                weights: run.origin.weights.as_ref(),
                ranks: run.context.comm.size(),
                folder: std::env::current_dir().ok().as_deref(),
            },
            run.context.settings,
        ),
        warnings: warnings(run, first_failed),
    }
}

/// Seconds of every phase on every rank.
fn seconds_by_rank(ranks: &[Vec<f64>]) -> BTreeMap<Phase, Vec<f64>> {
    let of = |phase: Phase| ranks.iter().map(|rank| rank[phase as usize]).collect();
    Phase::ALL
        .into_iter()
        .map(|phase| (phase, of(phase)))
        .collect()
}

fn warnings(run: &Finished, first_failed: Option<&str>) -> Vec<String> {
    let weights = run.origin.weights.iter();
    let mut warnings: Vec<String> = weights
        .map(|weights| weights.note.clone())
        .filter(|note| !note.is_empty())
        .collect();
    warnings.extend(run.context.place.binding_warning());
    warnings.extend(run.unlike_hosts.clone());
    let images = run.counts.images;
    if images.failed > 0 {
        let which = match (first_failed, images.failed - 1) {
            (None, _) => String::new(),
            (Some(first), 0) => format!(": {first}"),
            (Some(first), more) => format!(": {first} and {more} more"),
        };
        warnings.push(format!(
            "{} of {} failed{which}",
            images.failed,
            announce::count(images.listed as usize, "image")
        ));
    }
    warnings
}

/// The processor of this host as it names itself.
pub fn cpu_name() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_string())
}
