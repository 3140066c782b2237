//! p8 turns a collection of images into principal components.
//!
//! The modules stand in the order of the pipeline; imports flow from the top of this list to the
//! bottom only. `ARCHITECTURE.md` is the map.

pub mod cli;
pub mod run;

pub mod dataset;
pub mod features;
pub mod image;
pub mod model;
pub mod output;
pub mod pca;

pub mod comm;
pub mod kernels;
pub mod linalg;
pub mod store;

pub mod error;
pub mod timing;
