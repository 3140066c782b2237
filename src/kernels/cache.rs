//! Sizes of the processor's caches, from which follows how much is worked on at a time.

use std::fmt;
use std::path::Path;

/// Where Linux describes the caches of a processor.
const FOLDER: &str = "/sys/devices/system/cpu/cpu0/cache";

/// Bytes of each cache that one core has, its share where cores have a cache together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSizes {
    /// First-level data cache.
    pub level1: usize,
    /// Second-level cache.
    pub level2: usize,
    /// Last-level cache; that of level 2 where there is no other.
    pub last: usize,
    /// Whether the system told these sizes.
    pub is_known: bool,
}

impl CacheSizes {
    /// What is taken where the system does not tell: no server of the last years has less.
    pub const ASSUMED: CacheSizes = CacheSizes {
        level1: 32 << 10,
        level2: 512 << 10,
        last: 1 << 20,
        is_known: false,
    };

    /// The sizes of this machine; on another system than Linux, and where a virtual machine hides
    /// them, [`CacheSizes::ASSUMED`].
    pub fn detect() -> CacheSizes {
        CacheSizes::read(Path::new(FOLDER)).unwrap_or(CacheSizes::ASSUMED)
    }

    /// The sizes in a folder as `/sys/devices/system/cpu/cpu0/cache`.
    fn read(folder: &Path) -> Option<CacheSizes> {
        let mut shares = [None; 4];
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let text = |name: &str| {
                let text = std::fs::read_to_string(entry.path().join(name)).ok()?;
                Some(text.trim().to_owned())
            };
            // The folder also holds files that describe no cache.
            let (Some(kind), Some(level), Some(size)) = (text("type"), text("level"), text("size"))
            else {
                continue;
            };
            let cores = text("shared_cpu_list").and_then(|list| count(&list));
            let share = bytes(&size)? / cores.unwrap_or(1).max(1);
            let level: usize = level.parse().ok()?;
            if kind != "Instruction" && share > 0 && level < shares.len() {
                shares[level] = Some(share);
            }
        }
        let [_, level1, level2, level3] = shares;
        Some(CacheSizes {
            level1: level1?,
            level2: level2?,
            last: level3.or(level2)?.max(level2?),
            is_known: true,
        })
    }
}

impl fmt::Display for CacheSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [level1, level2, last] = [self.level1, self.level2, self.last].map(|size| size >> 10);
        let source = if self.is_known { "" } else { " (assumed)" };
        write!(f, "{level1}, {level2} and {last} KiB a core{source}")
    }
}

/// The bytes in a size such as `32K` or `16M`.
fn bytes(size: &str) -> Option<usize> {
    let (digits, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        _ => (size, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// How many processors stand in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    list.split(',')
        .map(|part| match part.split_once('-') {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
                (last + 1).checked_sub(first)
            }
            None => part.parse::<usize>().ok().map(|_| 1),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as the system's: level, kind, size and processors of each cache.
    fn folder(caches: &[(&str, &str, &str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (index, (level, kind, size, processors)) in caches.iter().enumerate() {
            let cache = folder.path().join(format!("index{index}"));
            std::fs::create_dir(&cache).unwrap();
            for (name, text) in [
                ("level", level),
                ("type", kind),
                ("size", size),
                ("shared_cpu_list", processors),
            ] {
                std::fs::write(cache.join(name), format!("{text}\n")).unwrap();
            }
        }
        std::fs::write(folder.path().join("uevent"), "").unwrap();
        folder
    }

    #[test]
    fn a_core_has_its_share_of_every_cache() {
        let folder = folder(&[
            ("1", "Data", "48K", "0,64"),
            ("1", "Instruction", "32K", "0,64"),
            ("2", "Unified", "2M", "0,64"),
            ("3", "Unified", "32768K", "0-7,64-71"),
        ]);
        assert_eq!(
            CacheSizes::read(folder.path()),
            Some(CacheSizes {
                level1: 24 << 10,
                level2: 1 << 20,
                last: 2 << 20,
                is_known: true,
            })
        );
    }

    #[test]
    fn the_second_level_may_be_the_last() {
        let folder = folder(&[("1", "Data", "64K", "0"), ("2", "Unified", "512K", "0")]);
        let sizes = CacheSizes::read(folder.path()).unwrap();
        assert_eq!((sizes.level2, sizes.last), (512 << 10, 512 << 10));
        assert_eq!(sizes.to_string(), "64, 512 and 512 KiB a core");
    }

    #[test]
    fn what_cannot_be_read_is_no_size() {
        for caches in [
            &[("1", "Data", "32K", "0")][..],
            &[("1", "Data", "?", "0"), ("2", "Unified", "1M", "0")],
            &[("1", "Data", "32K", "0"), ("2", "Unified", "0K", "0")],
            &[],
        ] {
            assert_eq!(CacheSizes::read(folder(caches).path()), None);
        }
        assert_eq!(CacheSizes::read(Path::new("/nowhere")), None);
        assert!(CacheSizes::ASSUMED.to_string().ends_with("(assumed)"));
    }
}
