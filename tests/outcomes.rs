//! One row for every listed image, whatever it is.

use crate::support::{Images, P8, metrics, reference, scores};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use std::collections::BTreeMap;
use std::path::Path;

/// `outcomes.parquet` as path -> (status, reason, width, height).
fn outcomes(output: &Path) -> BTreeMap<String, (String, Option<String>, i64, i64)> {
    let file = std::fs::File::open(output.join("outcomes.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| {
            let row = row.unwrap();
            let column: BTreeMap<String, Field> = row
                .get_column_iter()
                .map(|(name, field)| (name.clone(), field.clone()))
                .collect();
            let text = |name: &str| match &column[name] {
                Field::Str(text) => Some(text.clone()),
                Field::Null => None,
                other => panic!("{name} is {other:?}"),
            };
            let number = |name: &str| match column[name] {
                Field::Long(number) => number,
                ref other => panic!("{name} is {other:?}"),
            };
            let size = (number("width"), number("height"));
            (
                text("path").unwrap(),
                (text("status").unwrap(), text("reason"), size.0, size.1),
            )
        })
        .collect()
}

#[test]
fn every_awkward_file_of_the_reference_has_its_outcome() {
    let Some(edge) = reference("images/edge") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for ranks in [1, 3] {
        let output = folder.path().join(ranks.to_string());
        P8::small(ranks, &edge, &output).succeed();
        let outcomes = outcomes(&output);
        let of = |name: &str| {
            let key = edge.join(name).display().to_string();
            outcomes
                .get(&key)
                .unwrap_or_else(|| panic!("{key} is not among {:?}", outcomes.keys()))
        };
        assert_eq!(outcomes.len(), 20);
        for (name, word) in [
            ("truncated.jpg", "truncated"),
            ("empty.jpg", "empty"),
            ("text.jpg", "not an image"),
            ("bomb-60000x60000.png", "60000"),
        ] {
            let (status, reason, ..) = of(name);
            assert_eq!(status, "failed", "{name}");
            assert!(
                reason.as_ref().unwrap().contains(word),
                "{name}: {reason:?}"
            );
        }
        assert_eq!(
            outcomes
                .values()
                .filter(|outcome| outcome.0 == "ok")
                .count(),
            16
        );
        assert_eq!(
            (of("large-5000x3000.jpg").2, of("large-5000x3000.jpg").3),
            (5000, 3000)
        );
        assert_eq!(
            (of("bomb-60000x60000.png").2, of("bomb-60000x60000.png").3),
            (60000, 60000)
        );
        assert_eq!(of("größe façade 果物 1.jpg").0, "ok");
        assert_eq!(scores(&output).1.len(), 16);
        let images = &metrics(&output)["images"];
        assert_eq!(
            (&images["listed"], &images["ok"], &images["failed"]),
            (&20.into(), &16.into(), &4.into())
        );
    }
}

#[test]
fn one_bad_image_costs_only_itself() {
    let images = Images::new(5);
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    P8::small(2, images.path(), &clean)
        .args(["-k", "2"])
        .succeed();
    images.file("circle/0000.jpg", b"\xff\xd8\xff\xe0 and then nothing");
    let output = folder.path().join("out");
    let finished = P8::small(2, images.path(), &output)
        .args(["-k", "2"])
        .succeed();
    assert!(
        finished.stderr.contains("bad image") && finished.stderr.contains("circle/0000.jpg"),
        "{finished}"
    );
    assert_eq!(outcomes(&output).len(), 6);
    // The scores of the others are what they were without it.
    assert_eq!(scores(&output), scores(&clean));
}

#[test]
fn a_file_that_claims_to_be_no_image_is_skipped_and_is_not_counted_as_bad() {
    let images = Images::new(3);
    for number in 0..9 {
        images.file(&format!("notes/{number}.txt"), b"words");
    }
    images.file("notes/fake.jpg", b"words");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output)
        .args(["--glob", "*"])
        .succeed();
    let counted = |status: &str| {
        outcomes(&output)
            .values()
            .filter(|outcome| outcome.0 == status)
            .count()
    };
    assert_eq!(
        (counted("ok"), counted("skipped"), counted("failed")),
        (3, 9, 1)
    );
}

#[test]
fn an_image_that_vanishes_or_cannot_be_opened_has_failed() {
    let images = Images::new(3);
    std::os::unix::fs::symlink("nowhere", images.path().join("circle/link.jpg")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    P8::small(2, images.path(), &output).succeed();
    let key = images.path().join("circle/link.jpg").display().to_string();
    let (status, reason, ..) = &outcomes(&output)[&key];
    assert_eq!(status, "failed");
    assert!(
        reason.as_ref().unwrap().contains("No such file"),
        "{reason:?}"
    );
}
