//! How much memory this rank has used.

/// The largest resident size of this process so far, in bytes, as Linux counts it; `None` where the
/// system does not say.
pub fn peak_bytes() -> Option<u64> {
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// The high-water mark in the text of `/proc/<process>/status`.
fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        let status = "Name:\tp8\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t  1 kB\n";
        assert_eq!(peak_of(status), Some(123_456 * 1024));
        assert_eq!(peak_of("Name:\tp8\n"), None);
    }

    #[test]
    fn memory_that_was_used_counts() {
        let Some(before) = peak_bytes() else {
            eprintln!("skipped: this system does not tell the peak of a process");
            return;
        };
        let used = std::hint::black_box(vec![1u8; before as usize + (1 << 20)]);
        assert!(peak_bytes().is_some_and(|after| after > used.len() as u64));
    }
}
