//! The results: scores of every image, the model, the report and the measurements, published last
//! and whole.

use super::announce::{self, count};
use super::featurize::Job;
use super::network::Network;
use super::output_folder::{RESULTS, begin_replacing, remove_stale_shards};
use super::project::{Spill, collect, project};
use super::tally::Tally;
use crate::comm::hosts::Place;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::Failure;
use crate::linalg;
use crate::model::executor::Executor;
use crate::output::metrics::{Environment, Metrics, ModelSummary, Setting, Weights, rfc3339};
use crate::output::model_file::ModelFile;
use crate::output::outcomes::OutcomesParquet;
use crate::output::report::{MAX_FAILURES, Report, Scatter};
use crate::output::scores::{ScoreBlock, ScoresCsv, ScoresParquet};
use crate::pca::{self, Certificate, Model};
use crate::store::local::{FinishedFile, WholeFile};
use crate::timing::{Phase, summarize};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};
use tracing::info;

/// Everything that the results are made from.
pub struct Finished<'a> {
    /// The finished blocks and where they are.
    pub job: &'a Job<'a>,
    /// Counts over all ranks.
    pub tally: &'a Tally,
    /// The weights.
    pub network: &'a Network,
    /// What computed the features.
    pub executor: &'a dyn Executor,
    /// The fitted model.
    pub model: &'a Model,
    /// Where this rank runs.
    pub place: &'a Place,
    /// A sentence where the ranks' processors differ.
    pub unlike_hosts: Option<String>,
    /// When the run began.
    pub started: SystemTime,
}

/// Projects on all ranks, checks the model, and writes the results on rank 0.
///
/// # Errors
/// On all ranks, when the certificate fails (nothing is published then) or a file cannot be written.
pub fn publish(run: &Finished) -> Result<(), Failure> {
    let comm = run.job.comm;
    let (spill, parts) = comm.or_end(project(run.job, run.model));
    let certificate = check(run, parts)?;
    let ranks = Ranks::gather(run);
    comm.agree(match (ranks, certificate) {
        (Some(ranks), Some(certificate)) => write_results(run, spill, &certificate, ranks),
        // The others only hand over their blocks.
        _ => collect(run.job, spill, |_| Ok(())),
    })?;
    if comm.rank() == 0 {
        let folder = run.job.folder.root().display();
        info!("results   {folder}/report.html: look at this first");
        info!(
            "          {folder}/scores.csv, scores.parquet: {} with their scores",
            count(run.tally.images.ok as usize, "image")
        );
        info!("          {folder}/outcomes.parquet, model.safetensors, metrics.json, features/");
    }
    Ok(())
}

/// The certificate, on rank 0; all ranks fail where it does.
fn check(run: &Finished, parts: Vec<pca::CertificatePart>) -> Result<Option<Certificate>, Failure> {
    let comm = run.job.comm;
    let certificate =
        pca::gather_parts(comm, parts, run.model.k()).map(|parts| pca::certify(run.model, &parts));
    comm.agree(match &certificate {
        Some(certificate) => certificate.verdict().map_err(Failure::from),
        None => Ok(()),
    })?;
    Ok(certificate)
}

/// What rank 0 has to know of the others.
struct Ranks {
    phases: Vec<Vec<f64>>,
    hosts: Vec<String>,
    threads: Vec<usize>,
}

impl Ranks {
    /// Collects it on rank 0; `None` elsewhere.
    fn gather(run: &Finished) -> Option<Ranks> {
        let comm = run.job.comm;
        let phases = comm.all_gather_f64(&run.job.phases.to_vec());
        let threads = comm.all_gather_u64(&[run.job.threads as u64]).concat();
        let mut hosts: Vec<String> = comm
            .gather_bytes(run.place.host.as_bytes())?
            .iter()
            .map(|host| String::from_utf8_lossy(host).into_owned())
            .collect();
        hosts.sort();
        hosts.dedup();
        Some(Ranks {
            phases,
            hosts,
            threads: threads.into_iter().map(|n| n as usize).collect(),
        })
    }
}

/// Writes every file aside, then gives them their names in the order of [`RESULTS`].
fn write_results(
    run: &Finished,
    spill: Spill,
    certificate: &Certificate,
    mut ranks: Ranks,
) -> Result<(), Failure> {
    let began = Instant::now();
    let create = |name: &str| WholeFile::create(&run.job.folder.result(name));
    let k = run.model.k();
    let mut outcomes = OutcomesParquet::new(create("outcomes.parquet")?)?;
    let mut parquet = ScoresParquet::new(create("scores.parquet")?, k)?;
    let mut csv = ScoresCsv::new(create("scores.csv")?, k)?;
    let mut scatter = Scatter::new(run.tally.images.ok);
    let mut failures: Vec<Outcome> = Vec::new();
    let mut position = 0;
    collect(run.job, spill, |block| {
        let scored = ScoreBlock {
            rows: &block.rows,
            pca: &block.scores,
            reconstruction_error: &block.reconstruction_error,
        };
        parquet.write(scored)?;
        csv.write(scored)?;
        outcomes.write(&block.outcomes)?;
        for (row, scores) in block.rows.iter().zip(block.scores.chunks(k.max(1))) {
            scatter.offer(position, row, scores);
            position += 1;
        }
        let bad = block
            .outcomes
            .into_iter()
            .filter(|o| o.status != Status::Ok);
        failures.extend(bad.take(MAX_FAILURES.saturating_sub(failures.len())));
        Ok(())
    })?;
    let outcomes = outcomes.finish()?.finish()?;
    let parquet = parquet.finish()?.finish()?;
    let csv = csv.finish()?.finish()?;

    let mut model = create("model.safetensors")?;
    model_file(run).write_to(&mut model)?;
    let model = model.finish()?;

    // What is left to write after this cannot count itself.
    ranks.phases[0][Phase::Publish as usize] += began.elapsed().as_secs_f64();
    let metrics = metrics(run, certificate, &ranks);
    announce::phases(&metrics.phases);
    let mut report = create("report.html")?;
    Report {
        metrics: &metrics,
        scatter: &scatter,
        failures: &failures,
    }
    .write_to(&mut report)?;
    let report = report.finish()?;
    let mut numbers = create("metrics.json")?;
    metrics.write_to(&mut numbers)?;
    let numbers = numbers.finish()?;

    let folder = run.job.folder;
    remove_stale_shards(folder, run.job.listing.slices.blocks())?;
    begin_replacing(run.job.settings, folder)?;
    let finished: [FinishedFile; RESULTS.len()] = [outcomes, parquet, csv, model, report, numbers];
    for file in finished {
        file.publish()?;
    }
    Ok(())
}

fn model_file(run: &Finished) -> ModelFile {
    let settings = run.job.settings;
    let model = run.model;
    let metadata = [
        ("fingerprint", run.job.fingerprint.clone()),
        ("weights", run.network.id.clone()),
        ("weights_sha256", run.network.sha256.clone()),
        ("pretrained", run.network.pretrained.to_string()),
        ("topology", run.network.topology.as_str().into()),
        ("preprocess", run.network.preprocess.as_str().into()),
        ("exif", settings.exif.as_str().into()),
        ("layer", settings.layer.as_str().into()),
        ("pool", settings.pool.as_str().into()),
        ("precision", "f32".into()),
        ("standardize", model.standardized.to_string()),
        ("whiten", model.whiten.to_string()),
        ("solver", model.solver.as_str().into()),
        ("n", model.n.to_string()),
        ("total_variance", format!("{:?}", model.total_variance)),
        ("p8_version", env!("CARGO_PKG_VERSION").into()),
    ];
    ModelFile {
        metadata: metadata
            .into_iter()
            .map(|(key, value): (&str, String)| (key.to_string(), value))
            .collect(),
        mean: model.mean.clone(),
        scale: model.scale.clone(),
        components: model.components.iter().copied().collect(),
        singular_values: model.singular_values.clone(),
        explained_variance: model.explained_variance.clone(),
        explained_variance_ratio: model.explained_variance_ratio.clone(),
    }
}

fn metrics(run: &Finished, certificate: &Certificate, ranks: &Ranks) -> Metrics {
    let finished = SystemTime::now();
    let phases: BTreeMap<Phase, _> = summarize(&ranks.phases).into_iter().collect();
    let model = run.model;
    Metrics {
        started: rfc3339(run.started),
        finished: rfc3339(finished),
        elapsed_seconds: finished
            .duration_since(run.started)
            .unwrap_or_default()
            .as_secs_f64(),
        images: run.tally.images,
        images_per_second: run.tally.images_per_second(),
        bytes_read: run.tally.bytes_read,
        phases,
        weights: Weights {
            id: run.network.id.clone(),
            sha256: run.network.sha256.clone(),
            pretrained: run.network.pretrained,
            note: run.network.note.clone().unwrap_or_default(),
        },
        model: ModelSummary {
            n: model.n,
            d: model.width(),
            k: model.k(),
            k_reason: model.k_reason.clone(),
            solver: model.solver.as_str().into(),
            solver_reason: model.solver_reason.clone(),
            explained_variance_ratio: model.explained_variance_ratio.clone(),
            total_variance: model.total_variance,
        },
        certificate: serde_json::to_value(certificate).unwrap_or_default(),
        environment: Environment {
            p8_version: env!("CARGO_PKG_VERSION").into(),
            ranks: run.job.comm.size(),
            hosts: ranks.hosts.clone(),
            threads_per_rank: ranks.threads.clone(),
            executor: run.executor.describe(),
            blas: linalg::blas_description(),
            mpi: run.job.comm.mpi_library(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name(),
        },
        settings: run
            .job
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
        warnings: warnings(run),
    }
}

fn warnings(run: &Finished) -> Vec<String> {
    let mut warnings: Vec<String> = run.network.note.iter().cloned().collect();
    warnings.extend(run.place.binding_warning());
    warnings.extend(run.unlike_hosts.clone());
    let images = run.tally.images;
    if images.failed > 0 {
        warnings.push(format!(
            "{} of {} images failed",
            images.failed, images.listed
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
