//! What the figures were measured on.

use p8::kernels::{CacheSizes, Isa};

/// One paragraph: processor, cores, instruction set, caches, system.
pub fn describe(isa: Isa, caches: &CacheSizes) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} cores, {isa}, caches {caches}, {} {}, p8 {}.",
        processor().unwrap_or_else(|| "unknown processor".into()),
        std::env::consts::OS,
        std::env::consts::ARCH,
        env!("CARGO_PKG_VERSION"),
    )
}

/// The processor's name for itself, where Linux tells it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
