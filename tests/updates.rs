//! A finished run whose images change: the network sees only what it has not seen.

use crate::support::{Images, P8, assert_same_bytes, metrics, names, signal, stable_files};
use std::path::Path;

fn run(ranks: usize, images: &Images, output: &Path) -> P8 {
    P8::small(ranks, images.path(), output).args(["--layer", "layer1"])
}

fn computed(output: &Path) -> u64 {
    metrics(output)["images"]["computed"].as_u64().unwrap()
}

#[test]
fn only_new_images_go_through_the_network_and_the_result_is_that_of_a_fresh_run() {
    let images = Images::new(126);
    images.file("circle/broken.jpg", b"not an image");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    run(2, &images, &output).succeed();
    assert_eq!(computed(&output), 127);
    let remove = |name: &str| std::fs::remove_file(images.path().join(name)).unwrap();
    let steps: [(&str, usize, u64, &dyn Fn()); 5] = [
        (
            "added at the end; blocks of two images instead of one",
            3,
            3,
            &|| {
                for number in 0..3 {
                    images.picture(&format!("zebra/{number}.png"), 200 + number);
                }
            },
        ),
        ("added in the middle", 1, 1, &|| {
            images.picture("noise/000.png", 300)
        }),
        ("removed", 2, 0, &|| {
            remove("circle/000.png");
            remove("noise/000.png");
        }),
        ("changed", 3, 1, &|| images.picture("noise/002.png", 400)),
        (
            "so many removed that blocks hold one image again",
            2,
            0,
            &|| {
                for number in 0..3 {
                    remove(&format!("zebra/{number}.png"));
                }
            },
        ),
    ];
    for (number, (what, ranks, new, change)) in steps.into_iter().enumerate() {
        change();
        let finished = run(ranks, &images, &output).succeed();
        assert_eq!(computed(&output), new, "{what}");
        assert!(
            finished.stderr.contains("from an earlier run"),
            "{finished}"
        );
        let fresh = folder.path().join(format!("fresh-{number}"));
        run(1, &images, &fresh).succeed();
        assert_same_bytes(&stable_files(&fresh), &stable_files(&output), what);
        assert_eq!(names(&fresh), names(&output), "{what}");
    }
}

#[test]
fn an_update_that_was_stopped_goes_on() {
    let images = Images::new(60);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output).succeed();
    // Before all others, and so many that blocks hold two images.
    for number in 0..90 {
        images.picture(&format!("a/{number:03}.png"), 500 + number);
    }
    let mut running = P8::small(2, images.path(), &output).start();
    let set_aside = output.join("features/.earlier");
    let shards = || {
        let there = names(&output.join("features"));
        there
            .iter()
            .filter(|name| name.starts_with("block-"))
            .count()
    };
    running.until("new blocks are finished", || {
        names(&set_aside).len() == 60 && shards() >= 5
    });
    for rank in running.rank_processes() {
        signal("KILL", rank);
    }
    running.wait();
    P8::small(3, images.path(), &output).succeed();
    let again = computed(&output);
    assert!(again < 90, "{again} of 90 new images were computed again");
    let fresh = folder.path().join("fresh");
    P8::small(2, images.path(), &fresh).succeed();
    assert_same_bytes(
        &stable_files(&fresh),
        &stable_files(&output),
        "after the stop",
    );
    assert_eq!(names(&fresh), names(&output));
}

#[test]
fn a_shard_that_was_set_aside_and_damaged_is_computed_again() {
    let images = Images::new(8);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    run(1, &images, &output).succeed();
    let before = stable_files(&output);
    let set_aside = output.join("features/.earlier");
    std::fs::create_dir(&set_aside).unwrap();
    for (block, is_damaged) in [(2, true), (5, false)] {
        let shard = output.join(format!("features/block-{block:06}.parquet"));
        let mut bytes = std::fs::read(&shard).unwrap();
        bytes[30] ^= u8::from(is_damaged);
        std::fs::write(set_aside.join(format!("{block}.parquet")), bytes).unwrap();
        std::fs::remove_file(shard).unwrap();
    }
    run(2, &images, &output)
        .succeed()
        .demand(0, &["computed again", "damaged"]);
    assert_eq!(computed(&output), 1);
    assert_same_bytes(&before, &stable_files(&output), "after the repair");
}
