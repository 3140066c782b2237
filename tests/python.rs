//! The blocks of docs/python.md, run by the real libraries beside a real result.

use crate::support::documents::blocks;
use crate::support::{Images, P8, repository, scores, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An interpreter with the libraries of `tests/requirements-python.txt`, as `scripts/test` makes it.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("P8_TESTS_PYTHON").map(PathBuf::from);
    match python {
        Some(python) if python.exists() => Some(python),
        _ => {
            skip("P8_TESTS_PYTHON names no Python with the libraries: ./scripts/test makes it");
            None
        }
    }
}

/// A result of images of which one is bad, in `p8-out` of a folder.
fn result() -> tempfile::TempDir {
    let images = Images::new(9);
    images.file("circle/broken.png", b"no picture");
    let folder = tempfile::tempdir().unwrap();
    P8::small(2, images.path(), &folder.path().join("p8-out"))
        .args(["-k", "3"])
        .succeed();
    folder
}

/// Runs a program of Python beside the result; what it prints.
fn run(python: &Path, folder: &Path, code: &str) -> String {
    let output = Command::new(python)
        .args(["-W", "error::DeprecationWarning:__main__", "-c", code])
        .current_dir(folder)
        .env("SPARK_LOCAL_IP", "127.0.0.1")
        .env("PYSPARK_PYTHON", python)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{code}\n{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_block_of_the_page_on_python_runs_and_sees_the_images() {
    let Some(python) = python() else { return };
    let folder = result();
    let blocks = blocks("docs/python.md");
    let of = |library: &str| blocks.iter().filter(|b| b.code.contains(library)).count();
    for library in ["pandas", "polars", "duckdb", "pyspark"] {
        assert!(of(library) >= 2, "{library} reads scores and shards");
    }
    for block in blocks.iter().filter(|block| block.kind == "python") {
        let printed = run(&python, folder.path(), &block.code);
        let word = match &block.code {
            code if code.contains("safe_open") => "components",
            code if code.contains("features.shape") => "(9, 64) float32",
            code if code.contains("size(features)") => "64",
            code if code.contains("features") => "circle/",
            _ => "circle",
        };
        assert!(printed.contains(word), "{word}:\n{}\n{printed}", block.code);
    }
}

#[test]
fn no_block_that_reads_a_file_is_longer_than_four_lines() {
    let mut read = 0;
    for block in blocks("docs/python.md") {
        let projects = block.code.contains("load_file");
        if block.kind == "python" && !projects {
            assert!(block.code.lines().count() <= 4, "{}", block.code);
            read += 1;
        }
    }
    assert!(read > 8, "scores, shards and the model: {read} blocks");
}

#[test]
fn the_ten_lines_that_project_give_the_scores_of_p8() {
    let Some(python) = python() else { return };
    let folder = result();
    let blocks = blocks("docs/python.md");
    let block = blocks
        .iter()
        .find(|block| block.code.contains("load_file"))
        .unwrap();
    assert!(block.code.lines().count() <= 10, "{}", block.code);
    let check = "\nnp.savetxt('scores.txt', np.column_stack([scores, error]), fmt='%.17g')\n";
    run(&python, folder.path(), &format!("{}{check}", block.code));
    let projected = std::fs::read_to_string(folder.path().join("scores.txt")).unwrap();
    let (_, rows) = scores(&folder.path().join("p8-out"));
    assert_eq!(projected.lines().count(), rows.len());
    let number = |text: &str| text.parse::<f64>().unwrap();
    let largest = rows
        .iter()
        .flat_map(|row| &row[2..])
        .map(|text| number(text).abs())
        .fold(0.0, f64::max);
    for (line, row) in projected.lines().zip(&rows) {
        for (mine, theirs) in line.split(' ').zip(&row[2..]) {
            let difference = (number(mine) - number(theirs)).abs();
            // The scores are rounded to float32, the features are float32 as well.
            assert!(difference <= 1e-6 * largest, "{line} against {row:?}");
        }
    }
}

#[test]
fn the_libraries_are_pinned() {
    let file = repository().join("tests/requirements-python.txt");
    let text = std::fs::read_to_string(file).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.contains("=="), "{line}");
    }
}
