//! The files of the report, and `p8 report`, which makes them again from those of a finished run.

use super::blocks::{Block, Blocks};
use super::context::Context;
use super::featurize::{read_shard, read_thumbnails};
use super::fetch;
use super::fitted_model;
use super::output_folder::Folder;
use super::settings::{Settings, StoredFeatures};
use super::stored;
use crate::comm::Comm;
use crate::dataset::outcome::{Outcome, Status};
use crate::dataset::slice::{self, Slices};
use crate::error::{Failure, Kind};
use crate::output::metrics::{Metrics, Task};
use crate::output::model_file::ModelFile;
use crate::output::outcomes::read_outcomes;
use crate::output::report::{Collector, Compared, Report, Scaling};
use crate::output::scores::read_scores;
use crate::output::shard;
use crate::pca;
use crate::store::{FinishedFile, Store, WholeFile};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use tracing::info;

/// The files that this module writes, in the order in which they are published.
pub const FILES: [&str; 3] = ["report.html", "scatter.svg", "scree.svg"];

/// The settings of `p8 report`.
#[derive(Debug, Clone)]
pub struct ReportTask {
    /// Points that are drawn at most.
    pub points: usize,
    /// Where the result is; most of the rest is not looked at.
    pub settings: Settings,
}

/// Writes the files of the report aside.
///
/// # Errors
/// When they cannot be written.
pub fn write(
    store: &Store,
    folder: &Folder,
    report: &Report,
) -> Result<Vec<FinishedFile>, Failure> {
    let texts = [report.page(), report.scatter_svg(), report.scree_svg()];
    let files = FILES.iter().zip(texts).map(|(name, text)| {
        let place = folder.result(name);
        let mut file: WholeFile = store.create(&place)?;
        file.write_all(text.as_bytes()).map_err(|error| {
            Failure::new(
                Kind::Io,
                format!("cannot write {:?}: {error}", place.to_string()),
            )
        })?;
        Ok(file.finish()?)
    });
    files.collect()
}

/// Makes the page and the drawings of a finished run again, from its files alone.
///
/// # Errors
/// The same failure on every rank; its kind decides the exit code.
pub fn report(task: &ReportTask, comm: &Comm) -> Result<(), Failure> {
    let context = Context::start(&task.settings, comm);
    let settings = &task.settings;
    let folder = Folder::of(settings);
    let result = comm.agree(if comm.rank() == 0 {
        Finished::read(task, &folder).map(Some)
    } else {
        Ok(None)
    })?;
    let mut told = match &result {
        Some(result) => serde_json::to_vec(&result.source).map_err(broken)?,
        None => Vec::new(),
    };
    comm.broadcast_bytes(&mut told, 0);
    let source: Source = comm.or_end(serde_json::from_slice(&told).map_err(broken));
    let blocks = match &source {
        Source::Shards {
            rows_per_block,
            width,
        } => shards(&context, &folder, rows_per_block, *width),
        Source::Stored { paths, column } => {
            let features = StoredFeatures {
                paths: paths.clone(),
                column: column.clone(),
            };
            stored::blocks(&stored::open(&features, &context)?, &context)
        }
    };
    let (metrics, compared) = result.map(|r| (r.metrics, r.compared)).unzip();
    let images = fetch::images(comm, &blocks, compared).map_err(|failure| {
        let root = folder.root().to_string();
        Failure::new(
            failure.kind,
            format!("cannot make a report of {root:?}: {failure}"),
        )
    });
    let images = comm.or_end(images);
    comm.agree(match (&metrics, &images) {
        (Some(metrics), Some(images)) => publish(settings, &folder, &Report { metrics, images }),
        _ => Ok(()),
    })
}

/// Gives the files of a report their names.
fn publish(settings: &Settings, folder: &Folder, report: &Report) -> Result<(), Failure> {
    for file in write(&settings.store, folder, report)? {
        file.publish()?;
    }
    let root = folder.root();
    info!("report    {root}/report.html");
    info!("          {root}/scatter.svg, scree.svg");
    Ok(())
}

/// Where the features of a result are.
#[derive(Debug, Serialize, Deserialize)]
enum Source {
    /// In the shards beside it.
    Shards {
        rows_per_block: Vec<usize>,
        width: usize,
    },
    /// Where `p8 pca` read them.
    Stored {
        paths: Vec<PathBuf>,
        column: Option<String>,
    },
}

/// The files of a finished run, as far as the report needs them.
struct Finished {
    metrics: Metrics,
    compared: Compared,
    source: Source,
}

impl Finished {
    fn read(task: &ReportTask, folder: &Folder) -> Result<Self, Failure> {
        let store = &task.settings.store;
        let metrics = whole(store, folder, "metrics.json")?;
        let metrics: Metrics = serde_json::from_slice(&metrics)
            .map_err(|error| unusable(folder, "metrics.json", &error))?;
        if metrics.task == Task::Transform {
            return Err(Failure::new(
                Kind::Usage,
                format!(
                    "cannot make a report of {:?}: it holds scores by a model that was fitted elsewhere; a \
                     report is made of the result that the model belongs to",
                    folder.root().to_string()
                ),
            ));
        }
        let model = whole(store, folder, "model.safetensors")?;
        let (model, _) = ModelFile::read(&model)
            .map_err(Failure::from)
            .and_then(fitted_model::from_file)
            .map_err(|failure| unusable(folder, "model.safetensors", &failure))?;
        let mut collector = Collector::new(metrics.images.ok, model.k(), task.points);
        let source = match metrics.task {
            Task::Run => {
                let mut listed: Vec<bool> = Vec::new();
                local(store, folder, "outcomes.parquet", |file| {
                    let each = |outcome: Outcome| {
                        collector.add_outcome(&outcome);
                        listed.push(outcome.status == Status::Ok);
                    };
                    read_outcomes(file, each).map_err(Failure::from)
                })?;
                Source::Shards {
                    rows_per_block: rows_per_block(&listed),
                    width: model.width(),
                }
            }
            Task::Pca | Task::Transform => stored_features(&metrics, folder)?,
        };
        let mut rows = 0;
        local(store, folder, "scores.parquet", |file| {
            let each = |row: &shard::ShardRow, scores: &[f32], error: f32| {
                rows += 1;
                collector.add(row, scores, error);
            };
            read_scores(file, each).map_err(Failure::from)
        })?;
        if rows != metrics.images.ok {
            let problem = format!(
                "it has {rows} rows, metrics.json says {}",
                metrics.images.ok
            );
            return Err(unusable(folder, "scores.parquet", &problem));
        }
        Ok(Finished {
            compared: collector.compare(Scaling::of(&model)),
            metrics,
            source,
        })
    }
}

/// Rows of each block of a run, from whether each of its listed images is ok: how images are cut into
/// blocks depends on their number alone.
fn rows_per_block(listed: &[bool]) -> Vec<usize> {
    let slices = Slices::new(listed.len(), 1);
    (0..slices.blocks())
        .map(|block| {
            listed[slices.images_of(block)]
                .iter()
                .filter(|ok| **ok)
                .count()
        })
        .collect()
}

/// The blocks of a run as its shards hold them, dealt out to the ranks of this program.
fn shards<'a>(
    context: &'a Context,
    folder: &Folder,
    rows_per_block: &[usize],
    width: usize,
) -> Blocks<'a> {
    let store = &context.settings.store;
    let (of_read, of_thumbnails) = (folder.clone(), folder.clone());
    Blocks {
        rows_per_block: rows_per_block.to_vec(),
        owner_of_block: slice::owners(rows_per_block.len(), context.comm.size()),
        width,
        read: Box::new(move |block| {
            let shard = read_shard(store, &of_read.shard(block))?;
            let shape = (shard.rows.len(), shard.width);
            let features = Array2::from_shape_vec(shape, shard.features)
                .map_err(|error| Failure::new(Kind::Internal, format!("block {block}: {error}")))?;
            Ok(Block {
                rows: shard.rows,
                features: pca::Block::from(features),
                outcomes: shard.outcomes,
            })
        }),
        thumbnails: Box::new(move |block| read_thumbnails(store, &of_thumbnails.shard(block))),
    }
}

/// Where `p8 pca` had its features from.
fn stored_features(metrics: &Metrics, folder: &Folder) -> Result<Source, Failure> {
    let setting = |name: &str| metrics.settings.get(name);
    // An earlier version noted the files in the setting alone, as they were typed.
    let typed = setting("features").and_then(|setting| setting.value.as_str());
    let paths: Vec<PathBuf> = match (metrics.features.as_slice(), typed) {
        ([], Some(typed)) => typed.split(", ").map(PathBuf::from).collect(),
        ([], None) => {
            let problem = "it does not say where the features are";
            return Err(unusable(folder, "metrics.json", &problem));
        }
        (noted, _) => noted.iter().map(PathBuf::from).collect(),
    };
    let column = setting("column")
        .filter(|setting| setting.source != "default")
        .and_then(|setting| setting.value.as_str());
    Ok(Source::Stored {
        paths,
        column: column.map(str::to_owned),
    })
}

/// A whole file of the result.
fn whole(store: &Store, folder: &Folder, name: &str) -> Result<bytes::Bytes, Failure> {
    let read = store.read_if_there(&folder.result(name))?;
    read.ok_or_else(|| missing(folder, name))
}

/// Gives a file of the result, or a copy of it, to a reader.
fn local(
    store: &Store,
    folder: &Folder,
    name: &str,
    read: impl FnOnce(File) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let place = folder.result(name);
    if place.path().is_some_and(|path| !path.exists()) {
        return Err(missing(folder, name));
    }
    let copy = store.local_copy(&place)?;
    let file = File::open(copy.path()).map_err(|error| unusable(folder, name, &error))?;
    read(file).map_err(|failure| unusable(folder, name, &failure))
}

fn broken(cause: serde_json::Error) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on where the features are: {cause}"),
    )
}

fn missing(folder: &Folder, name: &str) -> Failure {
    Failure::new(
        Kind::Input,
        format!(
            "cannot make a report of {:?}: {name} is not there; the folder has to hold the whole result of \
             a finished run",
            folder.root().to_string()
        ),
    )
}

fn unusable(folder: &Folder, name: &str, cause: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Io,
        format!("cannot use {:?}: {cause}", folder.result(name).to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_blocks_follow_from_what_became_of_the_images() {
        // Up to 128 images a block holds one.
        assert_eq!(rows_per_block(&[true, false, true]), [1, 0, 1]);
        // 300 images are cut into blocks of 3.
        let listed: Vec<bool> = (0..300).map(|image| image % 3 != 0).collect();
        assert_eq!(rows_per_block(&listed), [2; 100]);
    }
}
