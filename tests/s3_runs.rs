//! Whole runs with images, weights, models and results in an object store.

use crate::support::object_store::{ACCESS_KEY, BUCKET, Effect, ObjectStore, SECRET_KEY};
use crate::support::{Images, P8, names, scores, skip, small_weights};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn s3(key: &str) -> String {
    format!("s3://{BUCKET}/{key}")
}

/// A store that holds images under `photos` and the small weights.
fn store_with(images: &Images) -> ObjectStore {
    let store = ObjectStore::start();
    put(&store, images);
    std::fs::copy(small_weights(), store.bucket().join("small.safetensors")).unwrap();
    store
}

fn put(store: &ObjectStore, images: &Images) {
    for name in names(images.path()) {
        let to = store.bucket().join("photos").join(&name);
        let bytes = std::fs::read(images.path().join(&name)).unwrap();
        // A file that is written again is a new object.
        if !std::fs::read(&to).is_ok_and(|there| there == bytes) {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    }
}

/// p8 with the credentials of the store at this endpoint, and nothing else of this machine's settings.
fn p8(ranks: usize, endpoint: &str) -> P8 {
    P8::on(ranks)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .args(["--endpoint-url", endpoint, "--path-style"])
}

fn run(ranks: usize, store: &ObjectStore) -> P8 {
    p8(ranks, store.endpoint())
        .args(["--input", &s3("photos"), "--output", &s3("out"), "-k", "3"])
        .args(["--weights", &s3("small.safetensors")])
}

/// The numbers behind the names in `scores.csv`.
fn numbers(output: &Path) -> Vec<Vec<String>> {
    let (_, rows) = scores(output);
    rows.into_iter().map(|row| row[1..].to_vec()).collect()
}

#[test]
fn a_run_from_s3_to_s3_gives_the_numbers_of_a_local_one() {
    let images = Images::new(20);
    images.file("broken/x.jpg", b"\xff\xd8\xff no picture");
    let store = store_with(&images);
    let local = tempfile::tempdir().unwrap();
    P8::small(1, images.path(), local.path())
        .args(["-k", "3"])
        .succeed();
    run(3, &store).succeed();
    let out = store.bucket().join("out");
    assert_eq!(numbers(&out), numbers(local.path()));
    let (_, rows) = scores(&out);
    assert_eq!(rows[0][0], s3("photos/circle/000.png"));
    let results = |folder: &Path| -> Vec<String> {
        let shown = |name: &String| !name.contains("write-test") && !name.starts_with(".s3s");
        names(folder).into_iter().filter(shown).collect()
    };
    assert_eq!(results(&out), results(local.path()));

    let metrics = crate::support::metrics(&out);
    let of_images: u64 = names(images.path())
        .iter()
        .map(|name| std::fs::metadata(images.path().join(name)).unwrap().len())
        .sum();
    assert_eq!(metrics["bytes_read"], of_images);
    let received = metrics["s3"]["bytes_received"].as_u64().unwrap();
    assert!(received > of_images, "{received}");
    assert!(metrics["s3"]["bytes_sent"].as_u64().unwrap() > 0);
    assert!(metrics["s3"]["requests"].as_u64().unwrap() > 21);
    assert_eq!(metrics["s3"]["retries"], 0);

    // The same bytes at another number of ranks.
    let first = crate::support::stable_files(&out);
    run(2, &store)
        .args(["--overwrite", "--resume", "false"])
        .succeed();
    crate::support::assert_same_bytes(&first, &crate::support::stable_files(&out), "2 ranks");
    // Nothing is fetched twice.
    store.heal();
    run(4, &store).succeed();
    assert_eq!(store.requests("photos/circle").len(), 0);
    // Another result is not overwritten by accident.
    run(1, &store)
        .args(["--pool", "max"])
        .fail(2, &["s3://p8-tests/out", "pool", "--overwrite"]);
}

#[test]
fn images_that_are_added_are_the_only_ones_that_are_fetched() {
    let images = Images::new(20);
    let store = store_with(&images);
    run(2, &store).succeed();
    images.picture("added/new.png", 77);
    put(&store, &images);
    store.heal();
    run(3, &store).succeed();
    let fetched = store.requests("GET /p8-tests/photos/");
    assert_eq!(fetched.len(), 1, "{fetched:?}");
    assert!(fetched[0].contains("added/new.png"));
    let fresh = store_with(&images);
    run(1, &fresh).succeed();
    let numbers_of = |store: &ObjectStore| numbers(&store.bucket().join("out"));
    assert_eq!(numbers_of(&store), numbers_of(&fresh));
    // A changed object is another image, whatever its name.
    images.picture("added/new.png", 78);
    put(&store, &images);
    store.heal();
    run(2, &store).succeed();
    assert_eq!(store.requests("GET /p8-tests/photos/").len(), 1);
}

#[test]
fn a_model_in_s3_scores_new_images() {
    let images = Images::new(12);
    let store = store_with(&images);
    run(2, &store).succeed();
    let scored = tempfile::tempdir().unwrap();
    P8::on(2)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .args(["transform", "--model", &s3("out/model.safetensors")])
        .args([
            "--input",
            &s3("photos"),
            "--weights",
            &s3("small.safetensors"),
        ])
        .args(["--endpoint-url", store.endpoint(), "--path-style"])
        .args(["--output".as_ref(), scored.path().as_os_str()])
        .succeed();
    assert_eq!(numbers(scored.path()), numbers(&store.bucket().join("out")));
}

#[test]
fn an_object_that_is_gone_costs_that_image_alone() {
    let images = Images::new(9);
    let store = store_with(&images);
    store.fault(
        "GET",
        "circle/003.jpg",
        usize::MAX,
        Effect::answer(404, "NoSuchKey"),
    );
    store.fault(
        "GET",
        "stripe/004.jpg",
        usize::MAX,
        Effect::answer(403, "AccessDenied"),
    );
    let finished = run(2, &store).succeed();
    let said = &finished.stderr;
    assert!(
        said.contains("circle/003.jpg") && said.contains("no object of this key"),
        "{said}"
    );
    assert!(
        said.contains("stripe/004.jpg") && said.contains("AccessDenied"),
        "{said}"
    );
    assert_eq!(numbers(&store.bucket().join("out")).len(), 7);
}

#[test]
fn credentials_that_expire_end_the_run_and_the_next_one_goes_on() {
    let images = Images::new(60);
    let store = store_with(&images);
    // The last ones of the last rank.
    store.fault(
        "GET",
        "/photos/stripe/05",
        usize::MAX,
        Effect::answer(400, "ExpiredToken"),
    );
    run(2, &store).fail(
        4,
        &[
            "expired",
            "s3://p8-tests/photos/",
            "finished blocks are kept",
        ],
    );
    let blocks = names(&store.bucket().join("out/features"));
    let kept = blocks
        .iter()
        .filter(|name| name.starts_with("block-"))
        .count();
    assert!(kept > 0, "{blocks:?}");
    assert!(!store.bucket().join("out/metrics.json").exists());
    store.heal();
    run(2, &store).succeed();
    let fetched = store.requests("GET /p8-tests/photos/").len();
    assert!(fetched < 60, "{fetched}");
    assert_eq!(numbers(&store.bucket().join("out")).len(), 60);
}

#[test]
fn faults_that_pass_leave_no_trace_in_the_results() {
    let images = Images::new(15);
    let store = store_with(&images);
    run(1, &store).succeed();
    let out = store.bucket().join("out");
    let quiet = crate::support::stable_files(&out);
    store.heal();
    store.fault("GET", "circle/000", 2, Effect::answer(503, "SlowDown"));
    store.fault("GET", "stripe/001", 1, Effect::Drop);
    store.fault("GET", "noise/002", 2, Effect::CutAfter(100));
    store.fault(
        "PUT",
        "features/block-000001",
        1,
        Effect::answer(500, "InternalError"),
    );
    store.fault("PUT", "scores.csv", 1, Effect::Drop);
    run(3, &store)
        .args(["--overwrite", "--resume", "false"])
        .succeed();
    crate::support::assert_same_bytes(&quiet, &crate::support::stable_files(&out), "with faults");
    let retries = &crate::support::metrics(&out)["s3"]["retries"];
    assert_eq!(
        retries.as_u64(),
        Some(6),
        "all but the one of scores.csv, which comes after the count"
    );
}

#[test]
fn what_is_wrong_is_said_before_the_work_begins() {
    let images = Images::new(3);
    let store = store_with(&images);
    let endpoint = store.endpoint();
    p8(2, endpoint)
        .args(["--input", &s3("nothing"), "--output", &s3("out")])
        .fail(3, &["no image found", "s3://p8-tests/nothing"]);
    p8(2, endpoint)
        .args(["--input", "s3://no-such-bucket/x", "--output", &s3("out")])
        .fail(4, &["s3://no-such-bucket/x", "no bucket of this name"]);
    p8(2, endpoint)
        .args(["--input", &s3("photos"), "--output", &s3("out")])
        .args(["--weights", &s3("none.safetensors")])
        .fail(
            6,
            &["s3://p8-tests/none.safetensors", "no object of this key"],
        );
    store.fault(
        "PUT",
        "/out/",
        usize::MAX,
        Effect::answer(403, "AccessDenied"),
    );
    run(2, &store).fail(4, &["cannot write \"s3://p8-tests/out/", "AccessDenied"]);
    P8::on(2)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .args([
            "--input",
            &s3("photos"),
            "--endpoint-url",
            endpoint,
            "--path-style",
        ])
        .fail(4, &["no credentials were found", "--anonymous"]);
    P8::on(1)
        .args(["--input", "s3a://bucket/photos"])
        .fail(2, &["s3a://bucket/photos", "s3://bucket/prefix"]);
}

#[test]
fn a_dry_run_leaves_nothing_and_the_doctor_sees_the_store() {
    let images = Images::new(5);
    let store = store_with(&images);
    let before = names(&store.bucket());
    let finished = run(2, &store).args(["--dry-run"]).succeed();
    assert!(finished.stdout.contains("5 images"), "{finished}");
    assert!(
        finished
            .stdout
            .contains("s3://p8-tests/out (it can be written)"),
        "{finished}"
    );
    assert_eq!(names(&store.bucket()), before);
    let doctor = |input: &str| {
        P8::on(2)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .args(["doctor", "--input", input, "--path-style"])
            .args(["--endpoint-url", store.endpoint()])
    };
    let finished = doctor(&s3("photos")).succeed();
    let seen = finished
        .stdout
        .matches("s3://p8-tests/photos: 5 images, ")
        .count();
    assert_eq!(seen, 2, "{finished}");
    doctor(&s3("nothing")).fail(3, &["no image found", "s3://p8-tests/nothing"]);
    // Who may list may not read.
    store.fault(
        "GET",
        "/photos/",
        usize::MAX,
        Effect::answer(403, "AccessDenied"),
    );
    doctor(&s3("photos")).fail(4, &["s3://p8-tests/photos/", "AccessDenied"]);
}

#[test]
fn a_report_in_s3_is_made_again_whole() {
    let images = Images::new(13);
    images.file("broken/x.jpg", b"\xff\xd8\xff no picture");
    let store = store_with(&images);
    run(2, &store).succeed();
    let out = store.bucket().join("out");
    let report = |ranks: usize, output: &str| {
        P8::on(ranks)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .args(["report", "--output", output, "--path-style"])
            .args(["--endpoint-url", store.endpoint()])
    };
    let files = ["report.html", "scatter.svg", "scree.svg"];
    let read = || files.map(|name| std::fs::read_to_string(out.join(name)).unwrap());
    let expected = read();
    assert!(expected[0].trim_end().ends_with("</html>"));
    for ranks in [1, 3] {
        for name in files {
            std::fs::remove_file(out.join(name)).unwrap();
        }
        store.heal();
        report(ranks, &s3("out")).succeed();
        assert!(read() == expected, "{ranks} ranks");
        // Neither images nor weights are needed.
        assert_eq!(store.requests("/photos/").len(), 0);
        assert_eq!(store.requests("small.safetensors").len(), 0);
    }
    // Below an address that holds no result.
    report(1, &s3("nothing")).fail(3, &["s3://p8-tests/nothing", "metrics.json"]);
}

/// A second opinion: another program that speaks the protocol, where it is installed.
#[test]
fn moto_agrees() {
    let there = Command::new("moto_server").arg("--help").output();
    if !there.is_ok_and(|help| help.status.success()) {
        // It is a second opinion, so that its absence is no failure anywhere.
        eprintln!("skipped: moto_server is not installed");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut server = Command::new("moto_server")
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if began.elapsed() > Duration::from_secs(60) {
            let _ = server.kill();
            let _ = server.wait();
            skip("moto_server does not start");
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let endpoint = format!("http://127.0.0.1:{port}");
    let ended = std::panic::catch_unwind(|| with_moto(&endpoint));
    server.kill().unwrap();
    server.wait().unwrap();
    ended.unwrap();
}

fn with_moto(endpoint: &str) {
    use p8::store::s3::{Address, S3, S3Settings};
    let images = Images::new(12);
    let settings = S3Settings {
        endpoint_url: Some(endpoint.into()),
        path_style: true,
        ..S3Settings::default()
    };
    let credentials =
        aws_sdk_s3::config::Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests");
    let client =
        S3::connect_with(&settings, |loader| loader.credentials_provider(credentials)).unwrap();
    assert!(
        ureq::put(&format!("{endpoint}/{BUCKET}"))
            .send_empty()
            .is_ok()
    );
    let at = |key: &str| Address {
        bucket: BUCKET.into(),
        key: key.into(),
    };
    for name in names(images.path()) {
        let bytes = std::fs::read(images.path().join(&name)).unwrap();
        client
            .write(&at(&format!("photos/a b+c/{name}")), bytes.into())
            .unwrap();
    }
    let long = format!("long/{}", "x".repeat(995));
    client
        .write(&at(&long), bytes::Bytes::from_static(b"long"))
        .unwrap();
    assert_eq!(client.read(&at(&long), None).unwrap(), "long");
    let weights = std::fs::read(small_weights()).unwrap();
    client
        .write(&at("small.safetensors"), weights.into())
        .unwrap();
    let local = tempfile::tempdir().unwrap();
    P8::small(1, images.path(), local.path())
        .args(["-k", "3"])
        .succeed();
    for ranks in [3, 2] {
        p8(ranks, endpoint)
            .args(["--input", &s3("photos"), "--output", &s3("out"), "-k", "3"])
            .args(["--weights", &s3("small.safetensors")])
            .succeed();
    }
    let scored = client.read(&at("out/scores.csv"), None).unwrap();
    let back = tempfile::tempdir().unwrap();
    std::fs::write(back.path().join("scores.csv"), &scored).unwrap();
    assert_eq!(numbers(back.path()), numbers(local.path()));
    // Moto looks at If-Match.
    let listed = client.list(&at("long")).unwrap();
    client
        .write(&at(&long), bytes::Bytes::from_static(b"other"))
        .unwrap();
    let error = client.read(&at(&long), Some(&listed[0].etag)).unwrap_err();
    assert!(error.is_of_object(), "{error:?}");
}
