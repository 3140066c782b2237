//! One test binary: the list of subjects.

mod support;

mod cli;
mod failures;
mod features;
mod outcomes;
mod parity;
mod pipeline;
mod resume;
mod sample;
mod scripts;
mod tidy;
mod transform;
mod updates;
