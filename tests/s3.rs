//! Objects: every request against a real server of the protocol, with its signature checked, and every
//! fault that a network and a store can bring.

use crate::support::object_store::{ACCESS_KEY, BUCKET, Effect, ObjectStore, SECRET_KEY};
use aws_sdk_s3::config::Credentials;
use aws_smithy_async::time::StaticTimeSource;
use bytes::Bytes;
use md5::{Digest, Md5};
use p8::dataset::outcome::hex;
use p8::store::s3::{Address, Cause, S3, S3Error, S3Settings};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, SystemTime};

fn settings(store: &ObjectStore) -> S3Settings {
    S3Settings {
        endpoint_url: Some(store.endpoint().to_string()),
        region: Some("us-east-1".into()),
        path_style: true,
        attempts: 4,
        patience: Duration::from_secs(2),
        backoff: Duration::from_millis(20),
        ..S3Settings::default()
    }
}

fn client(store: &ObjectStore) -> S3 {
    client_of(&settings(store), ACCESS_KEY, SECRET_KEY)
}

fn client_of(settings: &S3Settings, key: &str, secret: &str) -> S3 {
    let credentials = Credentials::new(key, secret, None, None, "tests");
    S3::connect_with(settings, |loader| loader.credentials_provider(credentials)).unwrap()
}

fn at(key: &str) -> Address {
    Address {
        bucket: BUCKET.into(),
        key: key.into(),
    }
}

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8)
        .collect()
}

/// The whole message, as p8 prints it.
fn said(error: &S3Error) -> String {
    p8::error::chain(error)
}

/// Demands an error that names the object, and gives its cause.
fn refused<T>(result: Result<T, S3Error>, key: &str) -> Cause {
    let Err(error) = result else {
        panic!("{key} was not refused");
    };
    let text = said(&error);
    assert!(text.contains(&format!("\"s3://{BUCKET}/{key}\"")), "{text}");
    error.cause
}

#[test]
fn keys_of_every_kind_are_written_listed_and_read() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    let folders = [249, 248, 248, 247]
        .map(|length| "x".repeat(length))
        .join("/");
    let long = format!("odd/{folders}.");
    assert_eq!(long.len(), 1000);
    let mut keys = vec![
        "odd/a b.jpg",
        "odd/a+b.jpg",
        "odd/100%.jpg",
        "odd/%20.jpg",
        "odd/größe/果物 \u{1f34e}.jpg",
        "odd/a&b=c;d,e:f@g$h!.jpg",
        "odd/it's (1) [2] {3}~.jpg",
        "odd/what#is?this.jpg",
        "odd/\"quoted\".jpg",
        "odd/back\\slash.jpg",
        long.as_str(),
    ];
    keys.sort_unstable();
    for key in &keys {
        if *key == long {
            // The server keeps notes on what it is sent under names that the file system finds too long.
            let path = store.bucket().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, key).unwrap();
        } else {
            s3.write(&at(key), Bytes::from(key.as_bytes().to_vec()))
                .unwrap();
        }
    }
    s3.write(&at("other/not listed"), Bytes::new()).unwrap();
    s3.write(&at("oddity"), Bytes::new()).unwrap();
    let listed = s3.list(&at("odd")).unwrap();
    let found: Vec<&str> = listed
        .iter()
        .map(|object| object.address.key.as_str())
        .collect();
    assert_eq!(found, keys);
    for object in &listed {
        let key = &object.address.key;
        assert_eq!(object.bytes, key.len() as u64, "{key}");
        let bytes = s3.read(&object.address, Some(&object.etag)).unwrap();
        assert_eq!(bytes, key.as_bytes(), "{key}");
    }
    // Under its own name an object is itself; a bucket is all of it.
    assert_eq!(s3.list(&at("oddity")).unwrap().len(), 1);
    assert_eq!(s3.list(&at("")).unwrap().len(), keys.len() + 2);
    assert_eq!(s3.list(&at("nothing")).unwrap(), []);
    let moved = at("moved/größe +%.jpg");
    s3.rename(&at("odd/größe/果物 \u{1f34e}.jpg"), &moved)
        .unwrap();
    assert!(s3.read(&moved, None).is_ok());
    assert_eq!(s3.list(&at("odd")).unwrap().len(), keys.len() - 1);
    s3.remove(&moved).unwrap();
    s3.remove(&moved).unwrap();
    assert_eq!(s3.list(&at("moved")).unwrap(), []);
}

#[test]
fn two_and_a_half_thousand_objects_come_in_pages() {
    let store = ObjectStore::start();
    let folder = store.bucket().join("many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2500 {
        File::create(folder.join(format!("{number:04}.jpg"))).unwrap();
    }
    let s3 = client(&store);
    let listed = s3.list(&at("many/")).unwrap();
    assert_eq!(listed.len(), 2500);
    for (number, object) in listed.iter().enumerate() {
        assert_eq!(object.address.key, format!("many/{number:04}.jpg"));
    }
    assert_eq!(s3.traffic().requests, 3);
    assert_eq!(s3.traffic().retries, 0);
}

#[test]
fn a_large_file_goes_in_parts_and_comes_back() {
    let store = ObjectStore::start();
    let patient = S3Settings {
        patience: Duration::from_secs(60),
        ..settings(&store)
    };
    let s3 = client_of(&patient, ACCESS_KEY, SECRET_KEY);
    let bytes = pattern(200_000_003);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    s3.write_file(&at("large.bin"), file).unwrap();
    assert_eq!(store.requests("partNumber=").len(), 12);
    assert_eq!(
        media_types(&store, "large.bin?uploads"),
        ["application/octet-stream"]
    );
    assert!(s3.read(&at("large.bin"), None).unwrap() == bytes);
    let traffic = s3.traffic();
    assert_eq!(traffic.bytes_sent, bytes.len() as u64);
    assert_eq!(traffic.bytes_received, bytes.len() as u64);
}

/// The types that requests for a target named.
fn media_types(store: &ObjectStore, target: &str) -> Vec<String> {
    let of_head = |head: String| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_type = name.eq_ignore_ascii_case("content-type");
            is_type.then(|| value.trim().to_string())
        })
    };
    let heads = store.requests(target).into_iter();
    heads.filter_map(of_head).collect()
}

#[test]
fn a_browser_shows_what_is_written_because_its_type_is_named() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    for (key, media_type) in [
        ("out/report.html", "text/html; charset=utf-8"),
        ("out/scatter.svg", "image/svg+xml"),
        ("out/metrics.json", "application/json"),
        ("out/scores.csv", "text/csv; charset=utf-8"),
        ("out/scores.parquet", "application/vnd.apache.parquet"),
        ("out/model.safetensors", "application/octet-stream"),
        ("out.html/report", "application/octet-stream"),
    ] {
        s3.write(&at(key), Bytes::from_static(b"text")).unwrap();
        assert_eq!(media_types(&store, key), [media_type], "{key}");
    }
    // A large one is sent in parts, and its type with the first request.
    s3.write(&at("out/large.html"), Bytes::from(pattern(65 << 20)))
        .unwrap();
    assert_eq!(
        media_types(&store, "large.html?uploads"),
        ["text/html; charset=utf-8"]
    );
}

#[test]
fn an_upload_that_fails_leaves_the_old_object_and_no_parts() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    s3.write(&at("large.bin"), Bytes::from_static(b"old"))
        .unwrap();
    store.fault(
        "PUT",
        "partNumber=3",
        usize::MAX,
        Effect::answer(403, "AccessDenied"),
    );
    let refusal = s3.write(&at("large.bin"), Bytes::from(pattern(80 << 20)));
    assert!(matches!(
        refused(refusal, "large.bin"),
        Cause::Denied { .. }
    ));
    assert_eq!(store.requests("DELETE").len(), 1);
    let left: Vec<_> = std::fs::read_dir(store.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("upload"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(s3.read(&at("large.bin"), None).unwrap(), "old");
}

#[test]
fn throttling_is_waited_out_and_said_when_it_does_not_end() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    s3.write(&at("a"), Bytes::from_static(b"hello")).unwrap();
    store.fault("GET", "/a", 3, Effect::answer(503, "SlowDown"));
    assert_eq!(s3.read(&at("a"), None).unwrap(), "hello");
    assert_eq!(s3.traffic().retries, 3);
    store.fault("GET", "/a", usize::MAX, Effect::answer(503, "SlowDown"));
    match refused(s3.read(&at("a"), None), "a") {
        Cause::Throttled { code, attempts } => {
            assert_eq!((code.as_str(), attempts), ("SlowDown", 4))
        }
        other => panic!("{other:?}"),
    }
    // One success, three failures before it, four after it.
    assert_eq!(store.requests("GET").len(), 8);
}

#[test]
fn a_store_that_does_not_answer_is_asked_again_and_then_named() {
    let store = ObjectStore::start();
    let patient = settings(&store);
    let s3 = client_of(
        &S3Settings {
            patience: Duration::from_millis(300),
            ..patient
        },
        ACCESS_KEY,
        SECRET_KEY,
    );
    s3.write(&at("a"), Bytes::from_static(b"hello")).unwrap();
    let silence = || Effect::Silence(Duration::from_secs(3));
    store.fault("GET", "/a", 2, silence());
    assert_eq!(s3.read(&at("a"), None).unwrap(), "hello");
    store.fault("GET", "/a", usize::MAX, silence());
    let cause = refused(s3.read(&at("a"), None), "a");
    assert!(matches!(cause, Cause::Timeout { attempts: 4 }), "{cause:?}");
}

#[test]
fn a_lost_connection_is_made_again() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    s3.write(&at("a"), Bytes::from_static(b"hello")).unwrap();
    store.fault("GET", "/a", 2, Effect::Drop);
    assert_eq!(s3.read(&at("a"), None).unwrap(), "hello");
    store.fault("PUT", "/b", 2, Effect::Drop);
    s3.write(&at("b"), Bytes::from_static(b"there")).unwrap();
    assert_eq!(s3.read(&at("b"), None).unwrap(), "there");
    store.fault("GET", "/a", usize::MAX, Effect::Drop);
    let cause = refused(s3.read(&at("a"), None), "a");
    assert!(matches!(cause, Cause::Connection { .. }), "{cause:?}");
    // Nobody listens there.
    let nowhere = S3Settings {
        endpoint_url: Some("http://127.0.0.1:9".into()),
        ..settings(&store)
    };
    let s3 = client_of(&nowhere, ACCESS_KEY, SECRET_KEY);
    let error = s3.list(&at("a")).unwrap_err();
    assert!(matches!(error.cause, Cause::Connection { .. }), "{error:?}");
    assert!(said(&error).contains("refused"), "{}", said(&error));
}

#[test]
fn a_body_that_breaks_off_goes_on_where_it_ended() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    let bytes = pattern(3_000_000);
    s3.write(&at("photo.jpg"), Bytes::from(bytes.clone()))
        .unwrap();
    store.fault("GET", "photo.jpg", 1, Effect::CutAfter(1_000_000));
    store.fault("GET", "photo.jpg", 1, Effect::CutAfter(1_500_000));
    assert!(s3.read(&at("photo.jpg"), None).unwrap() == bytes);
    let requests = store.requests("GET /p8-tests/photo.jpg");
    let range = |head: &String| {
        head.lines().find_map(|line| {
            Some(
                line.to_ascii_lowercase()
                    .strip_prefix("range: ")?
                    .to_string(),
            )
        })
    };
    let ranges: Vec<Option<String>> = requests.iter().map(range).collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=1000000-".into()),
            Some("bytes=2500000-".into())
        ]
    );
    assert_eq!(s3.traffic().retries, 2);
    // It ends at some time.
    store.fault("GET", "photo.jpg", usize::MAX, Effect::CutAfter(0));
    let cause = refused(s3.read(&at("photo.jpg"), None), "photo.jpg");
    assert!(matches!(cause, Cause::Connection { .. }), "{cause:?}");
}

#[test]
fn an_object_that_changes_is_refused() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    let bytes = pattern(3_000_000);
    // What a store has as the ETag of an object that was sent as a whole.
    let etag = format!("\"{}\"", hex(&Md5::digest(&bytes)));
    s3.write(&at("photo.jpg"), Bytes::from(bytes)).unwrap();
    assert!(s3.read(&at("photo.jpg"), Some(&etag)).is_ok());
    store.heal();
    let other: Vec<u8> = pattern(3_000_000).into_iter().rev().collect();
    // In the middle of a body: no mixture of the two is ever taken for one.
    store.fault("GET", "photo.jpg", 1, Effect::CutAfter(1_000_000));
    store.fault(
        "GET",
        "photo.jpg",
        1,
        Effect::Silence(Duration::from_secs(1)),
    );
    let result = std::thread::scope(|scope| {
        let reading = scope.spawn(|| s3.read(&at("photo.jpg"), Some(&etag)));
        while store.requests("GET /p8-tests/photo.jpg").is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        client(&store)
            .write(&at("photo.jpg"), Bytes::from(other))
            .unwrap();
        reading.join().unwrap()
    });
    assert!(matches!(refused(result, "photo.jpg"), Cause::Changed));
    // And before the first byte.
    let late = s3.read(&at("photo.jpg"), Some(&etag));
    assert!(matches!(refused(late, "photo.jpg"), Cause::Changed));
    store.fault(
        "GET",
        "photo.jpg",
        1,
        Effect::answer(412, "PreconditionFailed"),
    );
    let refusal = s3.read(&at("photo.jpg"), Some(&etag));
    assert!(matches!(refused(refusal, "photo.jpg"), Cause::Changed));
}

#[test]
fn what_cannot_help_is_not_tried_again() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    assert!(matches!(
        refused(s3.read(&at("none"), None), "none"),
        Cause::NoSuchKey
    ));
    assert_eq!(store.requests("GET").len(), 1);
    s3.write(&at("a"), Bytes::new()).unwrap();
    let of = |code: &'static str, status: u16| {
        store.heal();
        store.fault("GET", "/a", usize::MAX, Effect::answer(status, code));
        let cause = refused(s3.read(&at("a"), None), "a");
        assert_eq!(store.requests("GET").len(), 1, "{code}");
        cause
    };
    assert!(matches!(of("AccessDenied", 403), Cause::Denied { .. }));
    assert!(matches!(of("ExpiredToken", 400), Cause::Expired));
    assert!(matches!(
        of("InvalidAccessKeyId", 403),
        Cause::BadCredentials { .. }
    ));
    assert!(matches!(of("InvalidObjectState", 403), Cause::Archived));
    store.heal();
    let elsewhere = Address {
        bucket: "no-such-bucket".into(),
        key: "a/".into(),
    };
    let error = s3.list(&elsewhere).unwrap_err();
    assert!(matches!(error.cause, Cause::NoSuchBucket), "{error:?}");
    assert!(
        said(&error).contains("s3://no-such-bucket/a/"),
        "{}",
        said(&error)
    );
}

#[test]
fn the_region_of_the_bucket_is_named() {
    let store = ObjectStore::start();
    let s3 = client(&store);
    store.fault(
        "GET",
        "list-type=2",
        usize::MAX,
        Effect::Answer {
            status: 301,
            code: "PermanentRedirect",
            headers: vec![("x-amz-bucket-region", "eu-west-3".into())],
        },
    );
    let error = s3.list(&at("a")).unwrap_err();
    let text = said(&error);
    assert!(
        text.contains("us-east-1") && text.contains("--region eu-west-3"),
        "{text}"
    );
}

#[test]
fn a_wrong_clock_is_corrected_where_that_helps_and_else_named() {
    let store = ObjectStore::start();
    client(&store)
        .write(&at("a"), Bytes::from_static(b"hello"))
        .unwrap();
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    for clock in [now - hour, now + hour] {
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests");
        let s3 = S3::connect_with(&settings(&store), |loader| {
            loader
                .credentials_provider(credentials)
                .time_source(StaticTimeSource::new(clock))
        })
        .unwrap();
        assert_eq!(s3.read(&at("a"), None).unwrap(), "hello");
        assert_eq!(s3.traffic().retries, 1);
    }
    let s3 = client(&store);
    store.fault(
        "GET",
        "/a",
        usize::MAX,
        Effect::answer(403, "RequestTimeTooSkewed"),
    );
    let cause = refused(s3.read(&at("a"), None), "a");
    assert!(matches!(cause, Cause::ClockSkew { .. }), "{cause:?}");
}

#[test]
fn a_store_that_is_not_amazons_is_spared_checksums_unless_they_are_wanted() {
    let store = ObjectStore::start();
    let with_checksum = |head: &String| head.to_ascii_lowercase().contains("x-amz-checksum-");
    for all_checksums in [false, true] {
        store.heal();
        let s3 = client_of(
            &S3Settings {
                all_checksums,
                ..settings(&store)
            },
            ACCESS_KEY,
            SECRET_KEY,
        );
        s3.write(&at("a"), Bytes::from_static(b"hello")).unwrap();
        assert_eq!(s3.read(&at("a"), None).unwrap(), "hello");
        let requests = store.requests("/p8-tests/a");
        assert_eq!(requests.len(), 2);
        assert!(
            requests
                .iter()
                .all(|head| with_checksum(head) == all_checksums)
        );
    }
}

#[test]
fn signatures_are_checked_and_anonymous_requests_have_none() {
    let store = ObjectStore::start();
    let s3 = client_of(&settings(&store), ACCESS_KEY, "not the secret");
    let cause = refused(s3.read(&at("a"), None), "a");
    assert!(matches!(cause, Cause::BadCredentials { .. }), "{cause:?}");
    let signed = |head: &String| head.to_ascii_lowercase().contains("authorization:");
    assert!(store.requests("GET").iter().all(signed));
    store.heal();
    let anonymous = S3Settings {
        anonymous: true,
        ..settings(&store)
    };
    let s3 = S3::connect(&anonymous).unwrap();
    let cause = refused(s3.read(&at("a"), None), "a");
    assert!(matches!(cause, Cause::Denied { .. }), "{cause:?}");
    assert!(!store.requests("GET").iter().any(signed));
}
