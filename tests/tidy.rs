//! Rules of ARCHITECTURE.md that a program can check.

use crate::support::repository;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The modules from top to bottom; those in one line do not know each other unless `STAGES` or
/// `VALUES` say so.
const LAYERS: [&[&str]; 5] = [
    &["cli"],
    &["run"],
    &["dataset", "image", "model", "pca", "output", "features"],
    &["comm", "store", "linalg", "kernels"],
    &["timing", "error"],
];

/// Stages in the order of the pipeline: a later one may name the values of an earlier one.
const STAGES: [&str; 6] = ["dataset", "image", "model", "pca", "output", "features"];

/// Where `unsafe` may stand: wrappers around foreign functions, and the folder of the kernels.
const UNSAFE: [&str; 7] = [
    "src/linalg/lapack.rs",
    "src/linalg/blas.rs",
    "src/linalg/scalar.rs",
    "src/linalg/triangle.rs",
    "src/image/jpeg.rs",
    "src/features/npy.rs",
    "src/kernels/",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every line of code (comments left out) with its file, relative to the repository.
fn lines() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for path in sources(&repository().join("src")) {
        let name = path
            .strip_prefix(repository())
            .unwrap()
            .display()
            .to_string();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.trim().is_empty() {
                lines.push((name.clone(), code.to_string()));
            }
        }
    }
    assert!(lines.len() > 1000, "the sources were found");
    lines
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn imports_flow_downward_only() {
    let mut checked = 0;
    for (file, code) in lines() {
        let below = file.strip_prefix("src/").unwrap();
        let here = below.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(mine) = layer(here) else {
            continue;
        };
        for path in code.split("crate::").skip(1) {
            let there: String = path
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some(theirs) = layer(&there) else {
                continue;
            };
            checked += 1;
            let stage = |name: &str| STAGES.iter().position(|stage| *stage == name);
            let allowed = here == there
                || mine < theirs
                // The communicator and the store report failures; a stage names an earlier one's values.
                || (mine == theirs && stage(&there) < stage(here))
                // The command line names the types of the settings that it fills, and those of what it parses.
                || (here == "run" && code.contains("clap"));
            assert!(
                allowed,
                "{file} imports {there}, which stands above or beside it: {code}"
            );
        }
    }
    assert!(checked > 100, "{checked} imports were looked at");
}

#[test]
fn only_one_file_names_the_mpi_bindings() {
    for (file, code) in lines() {
        let names_mpi = code.trim_start().starts_with("use mpi::") || code.contains("ffi::MPI_");
        assert!(!names_mpi || file == "src/comm/mpi.rs", "{file}: {code}");
    }
}

#[test]
fn unsafe_stands_in_wrappers_and_kernels_only_and_says_why() {
    let mut files = BTreeSet::new();
    for (file, code) in lines() {
        let is_unsafe = code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe");
        if is_unsafe {
            let allowed = UNSAFE.iter().any(|allowed| file.starts_with(allowed));
            assert!(allowed, "{file}: {code}");
            files.insert(file);
        }
    }
    for allowed in UNSAFE {
        let used = files.iter().any(|file| file.starts_with(allowed));
        assert!(used, "{allowed} has no unsafe code");
    }
    for file in files {
        let text = std::fs::read_to_string(repository().join(&file)).unwrap();
        let blocks = text.matches("unsafe {").count();
        let reasons = text.matches("SAFETY:").count();
        assert!(
            reasons * 2 >= blocks,
            "{file}: {blocks} unsafe blocks, {reasons} reasons"
        );
    }
}

#[test]
fn nothing_below_the_command_line_reads_an_argument_or_the_environment() {
    let readers = ["env::var", "env::args", "env::temp_dir", "env::home_dir"];
    let mut above = 0;
    for (file, code) in lines() {
        if !readers.iter().any(|reader| code.contains(reader)) {
            continue;
        }
        if file.starts_with("src/cli/") {
            above += 1;
            continue;
        }
        let is_exception = code.contains("env::temp_dir") && file.starts_with("src/store/")
            // The tests of a module stand beside it.
            || code.contains("P8_REFERENCE");
        assert!(is_exception, "{file}: {code}");
    }
    assert!(above > 0, "the command line reads them");
}

#[test]
fn the_release_is_optimised_across_crates_and_stripped() {
    let text = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let release = &manifest["profile"]["release"];
    assert_eq!(release["lto"].as_str(), Some("thin"));
    assert_eq!(release["strip"].as_str(), Some("symbols"));
}

#[test]
fn nothing_is_left_open() {
    // Spelled in two parts, or this line would be found.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    for path in sources(&repository().join("src"))
        .into_iter()
        .chain(sources(&repository().join("tests")))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} has {mark}", path.display());
        }
    }
}

#[test]
fn every_module_of_the_map_is_there_and_every_module_is_on_the_map() {
    let map = std::fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    for module in LAYERS.concat() {
        assert!(
            map.contains(&format!("`{module}`")),
            "{module} is not on the map"
        );
    }
    for word in map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.ends_with(".rs"))
    {
        let known = ["src", ""]
            .iter()
            .any(|folder| repository().join(folder).join(word).exists());
        assert!(known, "the map names {word}, which is not there");
    }
}

#[test]
fn the_kernels_own_tests_use_the_dependencies_of_p8() {
    let packages = |lock: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(repository().join(lock)).unwrap();
        let packages = text.split("[[package]]").skip(1);
        packages
            .filter(|package| package.contains("checksum = "))
            .map(|package| package.lines().take(5).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let (own, all) = (packages("tests/kernels/Cargo.lock"), packages("Cargo.lock"));
    assert!(own.len() > 5, "{own:?}");
    let other: Vec<_> = own.difference(&all).collect();
    assert!(other.is_empty(), "not in Cargo.lock: {other:?}");
}
