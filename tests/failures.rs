//! Whatever goes wrong ends all ranks within seconds, with one message and the right exit code.

use crate::support::{Images, P8, RANKS, names, signal, small_weights};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// "Within seconds", on a machine that runs other tests at the same time.
const SECONDS: Duration = Duration::from_secs(30);

/// Shards that are there under their final names.
fn finished_blocks(features: &Path) -> usize {
    let names = names(features);
    names
        .iter()
        .filter(|name| name.starts_with("block-"))
        .count()
}

#[test]
fn inputs_without_images_end_with_3() {
    let empty = tempfile::tempdir().unwrap();
    let output = tempfile::tempdir().unwrap();
    let missing = empty.path().join("missing");
    for ranks in RANKS {
        let finished = P8::small(ranks, empty.path(), output.path())
            .fail(3, &["no image found", empty.path().to_str().unwrap()]);
        assert!(finished.elapsed < SECONDS);
        assert!(!finished.stderr.contains("stopped by"), "{finished}");
        P8::small(ranks, &missing, output.path())
            .fail(3, &["cannot find the input", "missing", "No such file"]);
    }
}

#[test]
fn a_folder_that_cannot_be_read_ends_with_3() {
    let images = Images::new(3);
    let locked = images.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = tempfile::tempdir().unwrap();
    std::fs::set_permissions(output.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(images.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(finished) = as_nobody(&P8::small(2, images.path(), &output.path().join("out"))) else {
        return;
    };
    finished.demand(3, &["cannot list the folder", "locked", "ermission denied"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_ends_with_4() {
    let images = Images::new(3);
    for ranks in RANKS {
        let file = images.path().join("circle/000.png");
        let finished = P8::small(ranks, images.path(), &file.join("out"))
            .fail(4, &["cannot create the folder", "000.png/out"]);
        assert!(finished.elapsed < SECONDS);
    }
    let locked = tempfile::tempdir().unwrap();
    std::fs::set_permissions(images.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(locked.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    if let Some(finished) = as_nobody(&P8::small(2, images.path(), &locked.path().join("out"))) {
        finished.demand(4, &["cannot create the folder", "ermission denied"]);
    }
}

/// Runs p8 as a user without rights where the tests run as root; root may read and write anything.
fn as_nobody(command: &P8) -> Option<crate::support::Finished> {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        return Some(command.run());
    }
    let reachable = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "test",
            "-x",
            env!("CARGO_BIN_EXE_p8"),
            "-a",
            "-r",
        ])
        .arg(small_weights())
        .status();
    if !reachable.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a user without rights cannot reach this checkout");
        return None;
    }
    Some(
        command
            .clone()
            .under(&[
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ])
            .run(),
    )
}

#[test]
fn a_full_disk_ends_with_4_and_keeps_what_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user cannot mount a small tmpfs");
        return;
    }
    let images = Images::new(60);
    let output = disk.join("out");
    let finished = P8::small(3, images.path(), &output)
        .args(["--pool", "none"])
        .run();
    let left = names(&output);
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(unmounted.success());
    finished.demand(4, &["cannot write", "block-", "No space left on device"]);
    assert!(finished.elapsed < SECONDS);
    assert!(
        left.iter().any(|name| name.starts_with("features/block-")),
        "{left:?}"
    );
    assert!(!left.iter().any(|name| name == "scores.csv"), "{left:?}");
}

#[test]
fn an_error_on_one_rank_ends_the_others() {
    let images = Images::new(9);
    for ranks in [2, 3, 7] {
        let output = tempfile::tempdir().unwrap();
        // The last block belongs to the last rank: a folder in its place cannot be replaced by a file.
        std::fs::create_dir_all(output.path().join("features/block-000008.parquet/x")).unwrap();
        let last = format!("p8: error: rank {}: ", ranks - 1);
        let finished = P8::small(ranks, images.path(), output.path())
            .fail(4, &[&last, "block-000008.parquet"]);
        assert!(finished.elapsed < SECONDS);
        // Rank 0 alone tells that the launcher ended it, and not as if that were the reason.
        let told = finished.stderr.lines().filter(|l| l.contains("stopped by"));
        let told: Vec<&str> = told.collect();
        assert!(told.len() <= 1, "{finished}");
        assert!(
            told.iter().all(|line| line.contains("unless another rank")),
            "{finished}"
        );

        let output = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(output.path().join("features/block-000000.parquet/x")).unwrap();
        let finished = P8::small(ranks, images.path(), output.path())
            .fail(4, &["p8: error: cannot write", "block-000000.parquet"]);
        assert!(!finished.stderr.contains("stopped by"), "{finished}");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let images = Images::new(100);
    let output = tempfile::tempdir().unwrap();
    let mut running = P8::small(3, images.path(), output.path()).start();
    running.until("a block is finished", || {
        finished_blocks(&output.path().join("features")) > 0
    });
    signal("KILL", running.rank_processes()[1]);
    let finished = running.wait();
    assert_ne!(finished.code, 0);
    assert!(finished.elapsed < SECONDS);
}

#[test]
fn a_signal_to_one_rank_or_to_a_program_alone_ends_with_75() {
    let images = Images::new(100);
    for name in ["TERM", "INT", "USR1"] {
        let output = tempfile::tempdir().unwrap();
        let features = output.path().join("features");
        let mut running = P8::small(3, images.path(), output.path()).start();
        running.until("a block is finished", || finished_blocks(&features) > 0);
        signal(name, running.rank_processes()[2]);
        let finished = running.wait();
        finished.demand(75, &[&format!("SIG{name}"), "finished blocks are kept"]);
        assert!(finished.elapsed < SECONDS);
    }
    let output = tempfile::tempdir().unwrap();
    let features = output.path().join("features");
    let mut running = P8::small(1, images.path(), output.path()).start_alone();
    running.until("a block is finished", || finished_blocks(&features) > 0);
    signal("TERM", running.id());
    running.wait().demand(75, &["SIGTERM"]);
}

#[test]
fn a_signal_to_mpirun_ends_the_job_and_keeps_what_was_finished() {
    let images = Images::new(100);
    // Open MPI hands USR1 on to the ranks; TERM and INT it answers itself, with a code of its own.
    for (name, code) in [("USR1", Some(75)), ("TERM", None), ("INT", None)] {
        let output = tempfile::tempdir().unwrap();
        let features = output.path().join("features");
        let mut running = P8::small(3, images.path(), output.path()).start();
        running.until("a block is finished", || finished_blocks(&features) > 0);
        signal(name, running.id());
        let finished = running.wait();
        assert_ne!(finished.code, 0, "{finished}");
        assert!(code.is_none_or(|code| finished.code == code), "{finished}");
        assert!(finished.elapsed < SECONDS);
        assert!(finished_blocks(&features) > 0);
        P8::small(2, images.path(), output.path()).succeed();
    }
}

#[test]
fn too_many_bad_images_end_with_3_and_every_one_is_named() {
    let images = Images::new(4);
    for number in 0..6 {
        images.file(&format!("bad/{number}.jpg"), b"no picture");
    }
    for ranks in RANKS {
        let output = tempfile::tempdir().unwrap();
        let words = [
            "6 of 10 images are bad",
            "bad/0.jpg",
            "bad/5.jpg",
            "--max-bad-fraction",
        ];
        P8::small(ranks, images.path(), output.path()).fail(3, &words);
        assert!(!output.path().join("scores.csv").exists());
        P8::small(ranks, images.path(), output.path())
            .args(["--max-bad-fraction", "0.7"])
            .succeed();
    }
    let only_bad = Images::new(0);
    only_bad.file("a.jpg", b"");
    let output = tempfile::tempdir().unwrap();
    P8::small(2, only_bad.path(), output.path())
        .args(["--max-bad-fraction", "1"])
        .fail(3, &["no image is left", "a.jpg"]);
}

#[test]
fn weights_that_do_not_fit_end_with_6_and_are_named() {
    let images = Images::new(2);
    let output = tempfile::tempdir().unwrap();
    let with = |weights: &Path, ranks: usize| {
        P8::on(ranks)
            .args(["--input".as_ref(), images.path().as_os_str()])
            .args(["--output".as_ref(), output.path().as_os_str()])
            .args(["--weights".as_ref(), weights.as_os_str()])
    };
    for ranks in RANKS {
        with(Path::new("no/such.pth"), ranks).fail(6, &["no/such.pth"]);
    }
    let text = output.path().join("text.pth");
    std::fs::write(&text, "not weights").unwrap();
    with(&text, 3).fail(6, &["text.pth"]);
    // One tensor removed and one too many: both are named.
    let bytes = std::fs::read(small_weights()).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<(String, safetensors::tensor::TensorView)> = tensors.tensors();
    views.retain(|(name, _)| name != "layer3.2.conv2.weight");
    let extra = views[0].1.clone();
    views.push(("layer9.weight".into(), extra));
    let odd = output.path().join("odd.safetensors");
    std::fs::write(&odd, safetensors::serialize(views, None).unwrap()).unwrap();
    with(&odd, 3).fail(
        6,
        &["layer3.2.conv2.weight", "layer9.weight", "odd.safetensors"],
    );
}

#[test]
fn without_network_and_cache_an_own_run_ends_with_6_and_names_the_ways_out() {
    let images = Images::new(2);
    let output = tempfile::tempdir().unwrap();
    for ranks in RANKS {
        let finished = P8::on(ranks)
            .args(["--input".as_ref(), images.path().as_os_str()])
            .args(["--output".as_ref(), output.path().as_os_str()])
            .run();
        finished.demand(
            6,
            &[
                "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
                "--weights",
                "P8_WEIGHTS_MIRROR",
            ],
        );
        assert!(finished.elapsed < SECONDS);
    }
}
