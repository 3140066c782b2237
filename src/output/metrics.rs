//! `metrics.json`: what a run did, with what, and how long it took.
//!
//! Times are seconds, sizes bytes, shares fractions of 1. The names of the phases are those of
//! [`Phase`]. A number that cannot be told (a rate after no time) is `null`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::output::OutputError;
use crate::store::s3;
use crate::timing::{Phase, Summary};

const FILE: &str = "metrics.json";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// What was done.
    pub task: Task,
    /// When the run began, as RFC 3339 in UTC.
    pub started: String,
    /// When its results were complete, as RFC 3339 in UTC.
    pub finished: String,
    /// Seconds between the two.
    pub elapsed_seconds: f64,
    /// What became of the images.
    pub images: Images,
    /// Images that this run pushed through the network, divided by the seconds from the first read
    /// to the last feature on the slowest rank; `None` where it pushed none.
    pub images_per_second: Option<f64>,
    /// Seconds from the start of the program to the features of its first batch, on the rank where
    /// that took longest; `None` where no features were computed.
    pub first_features_seconds: Option<f64>,
    /// Bytes of image files read by this run.
    pub bytes_read: u64,
    /// What all ranks asked of an object store until the results were written; `None` where none was used.
    pub s3: Option<s3::Traffic>,
    /// Time per phase over the ranks, in the order of a run.
    pub phases: BTreeMap<Phase, Summary>,
    /// Seconds of every phase on every rank, in the order of the ranks.
    #[serde(default)]
    pub seconds_by_rank: BTreeMap<Phase, Vec<f64>>,
    /// The files and folders of stored features, from the root on; empty where images were read.
    #[serde(default)]
    pub features: Vec<String>,
    /// The network's weights; `None` where the features came from files that do not tell.
    pub weights: Option<Weights>,
    /// The fitted model.
    pub model: ModelSummary,
    /// The numerical checks of the run and their limits; null where nothing was fitted.
    pub certificate: serde_json::Value,
    /// Where it ran.
    pub environment: Environment,
    /// Every setting, with where its value came from.
    pub settings: BTreeMap<String, Setting>,
    /// The command that gives the same results.
    #[serde(default)]
    pub command: String,
    /// What a user should know; also on the terminal and in the report.
    pub warnings: Vec<String>,
}

/// What a result was made by, by the name of the subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Features of images, and a model fitted to them.
    Run,
    /// A model fitted to stored features.
    Pca,
    /// Scores by a model that was fitted before.
    Transform,
}

/// Counts of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Images {
    /// Listed under the inputs: the sum of the next three.
    pub listed: u64,
    /// With a feature vector and scores.
    pub ok: u64,
    /// Not images.
    pub skipped: u64,
    /// Unreadable or not decodable.
    pub failed: u64,
    /// Listed images that an earlier run had finished.
    pub resumed: u64,
    /// Listed images that this run read and, where they are ok, pushed through the network.
    pub computed: u64,
}

/// The network's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// What was asked for: a name, a path, an address.
    pub id: String,
    /// SHA-256 of the weights, in lower-case hex.
    pub sha256: String,
    /// Whether they come from training.
    pub pretrained: bool,
    /// What a user must know about them; empty where there is nothing. The report shows it as a
    /// banner where they are not pretrained.
    pub note: String,
    /// Why they stand in for those that were asked for; empty where they do not.
    #[serde(default)]
    pub reason: String,
}

/// What a rank sent to single other ranks for the factorisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Counted.
    pub sent_bytes: u64,
    /// What the schedule says: boundary rows, half a square matrix for each node that travels, and what further passes
    /// over the rows send.
    pub predicted_bytes: u64,
}

/// The fitted model in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Images it was fitted on.
    pub n: u64,
    /// Features of an image.
    pub d: usize,
    /// Components kept.
    pub k: usize,
    /// Why so many.
    pub k_reason: String,
    /// How they were computed.
    pub solver: String,
    /// Why so.
    pub solver_reason: String,
    /// The precision of the factorisation.
    pub pca_precision: String,
    /// What each rank sent for the factorisation, by rank; empty where nothing was fitted.
    pub traffic: Vec<Traffic>,
    /// Share of the whole variance along each of the k components.
    pub explained_variance_ratio: Vec<f64>,
    /// The whole variance: the sum over all features, after scaling where that is on.
    pub total_variance: f64,
}

/// Where a run took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of p8.
    pub p8_version: String,
    /// The commit of its source.
    #[serde(default)]
    pub commit: String,
    /// What it was built for, and with which profile.
    #[serde(default)]
    pub target: String,
    /// What built it.
    #[serde(default)]
    pub compiler: String,
    /// Number of MPI ranks.
    pub ranks: usize,
    /// Names of the hosts, each once.
    pub hosts: Vec<String>,
    /// Threads of every rank, in the order of the ranks.
    pub threads_per_rank: Vec<usize>,
    /// Largest resident memory of every rank in bytes, in the order of the ranks; 0 where the
    /// system does not tell it.
    pub peak_memory_bytes_per_rank: Vec<u64>,
    /// What ran the network: implementation, device, instruction set.
    pub executor: String,
    /// The BLAS library and the core it chose.
    pub blas: String,
    /// Version of the MPI library.
    pub mpi: String,
    /// Operating system and architecture of rank 0.
    pub os: String,
    /// CPU of rank 0.
    pub cpu: String,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Its value.
    pub value: serde_json::Value,
    /// Where that came from: flag, environment, file or default.
    pub source: String,
}

impl Metrics {
    /// Writes the file: indented, with a line feed at its end.
    ///
    /// # Errors
    ///
    /// [`OutputError::Write`] where the sink refuses.
    pub fn write_to(&self, mut sink: impl Write) -> Result<(), OutputError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| OutputError::Encode {
            file: FILE,
            source: Box::new(error),
        })?;
        text.push(b'\n');
        sink.write_all(&text)
            .map_err(|source| OutputError::Write { file: FILE, source })
    }
}

/// A time as RFC 3339 in UTC with whole seconds: `2026-01-31T23:59:59Z`.
pub fn rfc3339(time: SystemTime) -> String {
    // A clock that was never set may say anything; before 1970 the formatter would refuse.
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// The metrics of a small run on three ranks; also for the tests of the report.
    pub(crate) fn sample() -> Metrics {
        let summary = |max: f64| Summary {
            min: 0.5 * max,
            mean: 0.75 * max,
            max,
            slowest_rank: 2,
        };
        Metrics {
            task: Task::Run,
            started: "2026-01-31T23:59:59Z".into(),
            finished: "2026-02-01T00:00:02Z".into(),
            elapsed_seconds: 2.875,
            images: Images {
                listed: 12,
                ok: 9,
                skipped: 1,
                failed: 2,
                resumed: 3,
                computed: 9,
            },
            images_per_second: Some(7.25),
            first_features_seconds: Some(0.75),
            bytes_read: 451_000,
            s3: Some(s3::Traffic {
                requests: 120,
                retries: 3,
                bytes_received: 451_000,
                bytes_sent: 0,
            }),
            phases: Phase::ALL
                .into_iter()
                .map(|phase| (phase, summary(0.25 * (1.0 + phase as u32 as f64))))
                .collect(),
            seconds_by_rank: BTreeMap::from([(Phase::Network, vec![0.625, 1.0625, 1.25])]),
            features: Vec::new(),
            weights: Some(Weights {
                id: "keras".into(),
                sha256: "ab".repeat(32),
                pretrained: true,
                note: String::new(),
                reason: String::new(),
            }),
            model: ModelSummary {
                n: 9,
                d: 2048,
                k: 4,
                k_reason: "the fewest that explain 0.9 of the variance".into(),
                solver: "wide".into(),
                solver_reason: "fewer images (9) than features (2048)".into(),
                pca_precision: "f64".into(),
                traffic: vec![Traffic {
                    sent_bytes: 12,
                    predicted_bytes: 12,
                }],
                explained_variance_ratio: vec![0.5, 0.25, 0.125, 0.0625],
                total_variance: 2048.0,
            },
            certificate: serde_json::json!({
                "residual": {"value": 1.5e-16, "limit": 1e-12},
                "tree": {"leaves": 3},
                "passed": true,
            }),
            environment: Environment {
                p8_version: "0.1.0".into(),
                commit: "0123456789ab".into(),
                target: "x86_64-unknown-linux-gnu, release".into(),
                compiler: "rustc 1.90.0".into(),
                ranks: 3,
                hosts: vec!["node-1".into(), "node-2".into()],
                threads_per_rank: vec![4, 4, 8],
                peak_memory_bytes_per_rank: vec![300_000_000, 290_000_000, 0],
                executor: "burn-flex on cpu, AVX-512".into(),
                blas: "OpenBLAS 0.3.21 SkylakeX".into(),
                mpi: "Open MPI 4.1.4".into(),
                os: "linux x86_64".into(),
                cpu: "Example CPU".into(),
            },
            settings: BTreeMap::from([
                (
                    "variance".to_owned(),
                    Setting {
                        value: 0.9.into(),
                        source: "flag".into(),
                    },
                ),
                (
                    "input".to_owned(),
                    Setting {
                        value: serde_json::json!(["a/", "b/"]),
                        source: "environment".into(),
                    },
                ),
            ]),
            command: "mpirun -np 3 p8 --input a/ --variance 0.9".into(),
            warnings: vec!["2 of 12 images failed".into()],
        }
    }

    fn written(metrics: &Metrics) -> String {
        let mut bytes = Vec::new();
        metrics.write_to(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn metrics_come_back_as_they_were() {
        let metrics = sample();
        let text = written(&metrics);
        assert!(text.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<Metrics>(&text).unwrap(), metrics);
        assert_eq!(text, written(&metrics));
    }

    #[test]
    fn the_names_in_the_file_are_those_that_are_promised() {
        let json: serde_json::Value = serde_json::from_str(&written(&sample())).unwrap();
        assert_eq!(json["phases"]["network"]["max_seconds"], 1.25);
        assert_eq!(json["phases"]["network"]["min_seconds"], 0.625);
        assert_eq!(json["phases"]["network"]["mean_seconds"], 0.9375);
        assert_eq!(json["phases"]["network"]["slowest_rank"], 2);
        assert_eq!(json["task"], "run");
        assert_eq!(json["images"]["failed"], 2);
        assert_eq!(json["images"]["computed"], 9);
        assert_eq!(json["images_per_second"], 7.25);
        assert_eq!(json["first_features_seconds"], 0.75);
        assert_eq!(json["bytes_read"], 451_000);
        assert_eq!(json["s3"]["retries"], 3);
        assert_eq!(json["certificate"]["passed"], true);
        assert_eq!(json["environment"]["threads_per_rank"][2], 8);
        assert_eq!(
            json["environment"]["peak_memory_bytes_per_rank"][1],
            290_000_000
        );
        assert_eq!(json["settings"]["variance"]["source"], "flag");
        assert_eq!(json["weights"]["pretrained"], true);
        assert_eq!(json["model"]["explained_variance_ratio"][1], 0.25);
        assert_eq!(json["warnings"][0], "2 of 12 images failed");
    }

    #[test]
    fn phases_stand_in_the_order_of_a_run() {
        let text = written(&sample());
        let positions: Vec<usize> = Phase::ALL
            .iter()
            .map(|phase| text.find(&format!("\"{}\": {{", phase.as_str())).unwrap())
            .collect();
        assert!(positions.is_sorted(), "{positions:?}");
    }

    #[test]
    fn a_rate_that_cannot_be_told_is_null() {
        let metrics = Metrics {
            images_per_second: None,
            ..sample()
        };
        assert!(written(&metrics).contains("\"images_per_second\": null"));
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        // date -u -d @1706745599 +%FT%TZ
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_706_745_599_900);
        assert_eq!(rfc3339(time), "2024-01-31T23:59:59Z");
        for before in [0, 1] {
            let time = SystemTime::UNIX_EPOCH - Duration::from_secs(before);
            assert_eq!(rfc3339(time), "1970-01-01T00:00:00Z");
        }
    }
}
