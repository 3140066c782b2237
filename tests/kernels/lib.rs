//! p8's kernels, and the kinds of failure that they name.

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/kernels/mod.rs"]
pub mod kernels;
