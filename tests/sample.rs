//! `mpirun -np 3 p8` without any option, on a machine without network.

use crate::support::{P8, RANKS, assert_same_bytes, metrics, repository, scores, stable_files};
use std::path::Path;

/// A folder with the sample images and nothing else, as a fresh clone has them.
fn clone() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(
        repository().join("training_data"),
        folder.path().join("training_data"),
    )
    .unwrap();
    folder
}

#[test]
fn the_sample_run_goes_on_with_random_weights_and_says_so_everywhere() {
    let folder = clone();
    let finished = P8::on(3).in_folder(folder.path()).succeed();
    let output = folder.path().join("p8-out");
    let unmistakable = "NOT PRETRAINED";
    assert!(finished.stderr.contains(unmistakable), "{finished}");
    assert!(
        finished
            .stderr
            .contains("with images of your own p8 stops here"),
        "{finished}"
    );
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(page.contains(unmistakable));
    assert!(page.contains("seeded:50 in the place of keras"));
    let cause = "could not be had: ";
    assert_eq!(page.matches(cause).count(), 1, "the cause stands once");
    let metrics = metrics(&output);
    assert_eq!(metrics["weights"]["pretrained"], false);
    assert_eq!(metrics["weights"]["id"], "seeded:50");
    assert!(
        metrics["weights"]["note"]
            .as_str()
            .unwrap()
            .contains(unmistakable)
    );
    assert!(
        metrics["warnings"][0]
            .as_str()
            .unwrap()
            .contains(unmistakable)
    );
    let (_, rows) = scores(&output);
    let labels: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(labels.len(), 9);
    assert!(
        labels
            .chunks(3)
            .all(|three| three[0] == three[1] && three[1] == three[2]),
        "{labels:?}"
    );
}

#[test]
fn even_a_quiet_run_says_that_weights_are_random_and_a_cache_is_not_needed() {
    let folder = clone();
    let finished = P8::on(2)
        .in_folder(folder.path())
        .args(["-q"])
        .env("XDG_CACHE_HOME", "/proc/cannot")
        .succeed();
    assert!(finished.stderr.contains("NOT PRETRAINED"), "{finished}");
}

#[test]
fn the_sample_images_give_the_same_bytes_at_every_rank_count() {
    let folder = clone();
    let run = |ranks: usize| {
        let output = Path::new("out").join(ranks.to_string());
        P8::on(ranks)
            .in_folder(folder.path())
            .args(["--weights", "seeded:50"])
            .args(["--output".as_ref(), output.as_os_str()])
            .succeed();
        stable_files(&folder.path().join(output))
    };
    let expected = run(1);
    for ranks in &RANKS[1..] {
        assert_same_bytes(
            &expected,
            &run(*ranks),
            &format!("{ranks} ranks against one"),
        );
    }
}
