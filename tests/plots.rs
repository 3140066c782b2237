//! The drawings of `bench/plots.py` are those of the tables beside them.

use crate::support::{repository, skip};
use std::path::Path;
use std::process::Command;

/// Draws the tables of a folder into another; `None` where there is no Python.
fn draw(tables: &Path, drawings: &Path) -> Option<String> {
    let drawn = Command::new("python3")
        .arg(repository().join("bench/plots.py"))
        .arg("--results")
        .arg(tables)
        .arg("--output")
        .arg(drawings)
        .output();
    let Ok(output) = drawn else {
        skip("there is no python3");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_drawings_of_the_results_are_up_to_date() {
    let results = repository().join("bench/results");
    let folder = tempfile::tempdir().unwrap();
    if draw(&results, folder.path()).is_none() {
        return;
    }
    let mut compared = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name();
        let drawn = std::fs::read_to_string(folder.path().join(&name)).unwrap();
        let kept = std::fs::read_to_string(results.join(&name)).unwrap_or_default();
        assert!(
            drawn == kept,
            "{name:?} differs: run `python3 bench/plots.py`"
        );
        compared += 1;
    }
    assert!(compared >= 3, "{compared}");
}

#[test]
fn bars_are_as_long_as_their_numbers_and_curves_go_through_theirs() {
    let tables = tempfile::tempdir().unwrap();
    let table = "# Speed\n\nMade by `x` on 2026-01-01.\n\n## A <b>\n\n| | images/s, median |\n|---|---:|\n| **p8** | 40.0 |\n| other | 10.0 |\n| none | |\n";
    std::fs::write(tables.path().join("featurize.md"), table).unwrap();
    let table = "## 300 images\n\n| ranks | images/s |\n|---:|---:|\n| 1 | 10.0 |\n| 2 | 20.0 |\n\n## 2 ranks\n\n| images | whole run, seconds |\n|---:|---:|\n| 100 | 5.0 |\n";
    std::fs::write(tables.path().join("scaling.md"), table).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let Some(said) = draw(tables.path(), folder.path()) else {
        return;
    };
    assert!(said.contains("pca.svg: no table pca.md to draw"), "{said}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let attribute = |line: &str, name: &str| -> f64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    let bars = read("featurize.svg");
    assert!(bars.contains("A &lt;b&gt;"), "{bars}");
    let lengths: Vec<f64> = bars
        .lines()
        .filter(|line| line.starts_with("<rect"))
        .map(|line| attribute(line, "width"))
        .collect();
    assert_eq!(lengths.len(), 2);
    assert!((lengths[0] / lengths[1] - 4.0).abs() < 0.01, "{lengths:?}");
    let curve = read("scaling-ranks.svg");
    let dots: Vec<f64> = curve
        .lines()
        .filter(|line| line.starts_with("<circle"))
        .map(|line| 290.0 - attribute(line, "cy"))
        .collect();
    assert_eq!(dots.len(), 2);
    assert!((dots[1] / dots[0] - 2.0).abs() < 0.01, "{dots:?}");
    assert!(read("scaling-images.svg").contains(">5<"));
}
