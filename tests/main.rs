//! One test binary: the list of subjects.

mod support;

mod certificate;
mod cli;
mod documents;
mod emr;
mod failures;
mod features;
mod hosts;
mod outcomes;
mod parity;
mod pipeline;
mod plots;
mod precision;
mod python;
mod report;
mod resume;
mod s3;
mod s3_runs;
mod sample;
mod scripts;
mod slurm;
mod tidy;
mod transform;
mod updates;
