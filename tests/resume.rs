//! A run that was stopped goes on where it was, also on another number of ranks.

use crate::support::{Images, P8, assert_same_bytes, metrics, names, signal, stable_files};
use std::path::Path;

/// Shards that are there under their final names.
fn shards(output: &Path) -> Vec<String> {
    names(&output.join("features"))
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn a_stopped_run_goes_on_at_another_rank_count_with_the_same_bytes() {
    let images = Images::new(120);
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    P8::small(2, images.path(), &whole).succeed();

    let cut = folder.path().join("cut");
    let mut running = P8::small(3, images.path(), &cut).start();
    running.until("ten blocks are finished", || shards(&cut).len() >= 10);
    for rank in running.rank_processes() {
        signal("TERM", rank);
    }
    running
        .wait()
        .demand(75, &["stopped by SIGTERM", "run the same command again"]);
    let kept = shards(&cut).len();
    assert!((10..120).contains(&kept), "{kept} blocks were finished");
    assert!(
        !cut.join("scores.csv").exists(),
        "a stopped run has no result"
    );

    P8::small(5, images.path(), &cut).succeed();
    let resumed = metrics(&cut)["images"]["resumed"].as_u64().unwrap() as usize;
    assert_eq!(resumed, kept, "finished blocks are not computed again");
    assert_same_bytes(
        &stable_files(&whole),
        &stable_files(&cut),
        "resumed against whole",
    );
    assert!(names(&cut).iter().all(|name| !name.contains("unfinished")));
}

#[test]
fn a_run_that_was_killed_goes_on() {
    let images = Images::new(60);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut running = P8::small(3, images.path(), &output).start();
    running.until("three blocks are finished", || shards(&output).len() >= 3);
    let ranks = running.rank_processes();
    signal("KILL", ranks[ranks.len() / 2]);
    assert_ne!(running.wait().code, 0);
    let kept = shards(&output).len();
    P8::small(2, images.path(), &output).succeed();
    assert_eq!(metrics(&output)["images"]["resumed"], kept);
}

#[test]
fn only_what_changed_is_computed_again() {
    let images = Images::new(12);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = || P8::small(2, images.path(), &output);
    let resumed = || metrics(&output)["images"]["resumed"].as_u64().unwrap();
    run().succeed();
    assert_eq!(resumed(), 0);
    run().succeed();
    assert_eq!(resumed(), 12, "nothing changed");
    images.picture("circle/000.png", 99);
    run().succeed();
    assert_eq!(resumed(), 11, "one file changed");
    run().args(["--resume", "false"]).succeed();
    assert_eq!(resumed(), 0, "resume was turned off");
    run().args(["--layer", "layer3", "--overwrite"]).succeed();
    assert_eq!(resumed(), 0, "other features");
    run()
        .args(["--layer", "layer3", "--overwrite", "-k", "2"])
        .succeed();
    assert_eq!(
        resumed(),
        12,
        "another number of components needs no features"
    );
}

#[test]
fn a_damaged_shard_is_computed_again_and_that_is_said() {
    let images = Images::new(6);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output).succeed();
    let before = stable_files(&output);
    let shard = output.join("features/block-000002.parquet");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let shard = output.join("features/block-000004.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[20] ^= 0x40;
    std::fs::write(&shard, bytes).unwrap();
    let finished = P8::small(3, images.path(), &output).succeed();
    finished.demand(
        0,
        &["block 2 is computed again", "block 4 is computed again"],
    );
    assert_eq!(metrics(&output)["images"]["resumed"], 4);
    assert_same_bytes(&before, &stable_files(&output), "after the repair");
}

#[test]
fn other_labels_need_no_features_and_reach_the_shards() {
    let images = Images::new(5);
    let folder = tempfile::tempdir().unwrap();
    let (fresh, changed) = (folder.path().join("fresh"), folder.path().join("changed"));
    P8::small(1, images.path(), &fresh)
        .args(["--label", "none"])
        .succeed();
    P8::small(2, images.path(), &changed).succeed();
    P8::small(2, images.path(), &changed)
        .args(["--label", "none", "--overwrite"])
        .succeed();
    assert_eq!(metrics(&changed)["images"]["resumed"], 5);
    assert_same_bytes(&stable_files(&fresh), &stable_files(&changed), "new labels");
}

#[test]
fn a_result_that_cannot_be_replaced_whole_is_no_result() {
    let images = Images::new(4);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output).succeed();
    // A folder in the place of the model stops the replacement half-way.
    std::fs::remove_file(output.join("model.safetensors")).unwrap();
    std::fs::create_dir_all(output.join("model.safetensors/x")).unwrap();
    P8::small(2, images.path(), &output)
        .args(["-k", "1", "--overwrite"])
        .fail(4, &["model.safetensors"]);
    assert!(
        !output.join("metrics.json").exists(),
        "nothing vouches for a mixture"
    );
    std::fs::remove_dir_all(output.join("model.safetensors")).unwrap();
    P8::small(2, images.path(), &output)
        .args(["-k", "1"])
        .succeed();
    assert_eq!(metrics(&output)["model"]["k"], 1);
}

#[test]
fn shards_of_images_that_are_gone_are_removed() {
    let images = Images::new(8);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output).succeed();
    std::fs::remove_file(images.path().join("stripe/007.bmp")).unwrap();
    // A killed run over many more images leaves gaps.
    std::fs::write(output.join("features/block-000031.parquet"), "left over").unwrap();
    P8::small(2, images.path(), &output).succeed();
    assert_eq!(shards(&output).len(), 7);
}

#[test]
fn leftovers_of_a_killed_run_are_cleared_away() {
    let images = Images::new(2);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    std::fs::create_dir_all(output.join("features")).unwrap();
    std::fs::write(
        output.join("features/.block-000000.parquet.p8-unfinished-1"),
        "half",
    )
    .unwrap();
    std::fs::write(output.join(".scores.csv.p8-unfinished-1"), "half").unwrap();
    P8::small(1, images.path(), &output).succeed();
    assert!(
        names(&output)
            .iter()
            .all(|name| !name.contains("unfinished"))
    );
}
