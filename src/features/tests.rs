//! Files of every form, read back in every cut.

use super::*;
use crate::dataset::outcome::{Outcome, Status};
use crate::error::Failure;
use crate::output::shard::{self, Provenance, Shard};
use crate::pca::Block;
use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int64Array, LargeListArray,
    ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Float32Type, Float64Type};
use ndarray::array;
use parquet_crate::arrow::ArrowWriter;
use parquet_crate::file::properties::WriterProperties;
use std::path::Path;
use std::sync::Arc;

use ::parquet as parquet_crate;

/// A NumPy file as the specification has it: magic, version, length of the header, a Python literal
/// padded with spaces to a multiple of 64 bytes with a line feed at its end, values.
fn npy(version: u8, descr: &str, fortran: bool, shape: &str, values: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let prefix = if version == 1 { 10 } else { 12 };
    while (prefix + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend((header.len() as u16).to_le_bytes());
    } else {
        bytes.extend((header.len() as u32).to_le_bytes());
    }
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    bytes
}

fn singles(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn open(path: &Path) -> Result<Catalog, FeaturesError> {
    Catalog::open(&[path.to_path_buf()], None)
}

fn all(catalog: &Catalog) -> NamedRows {
    Reader::new(catalog.clone())
        .read(0..catalog.rows())
        .unwrap()
}

fn message(result: Result<Catalog, FeaturesError>) -> String {
    let failure = Failure::from(result.unwrap_err());
    assert_eq!(failure.kind, Kind::Input, "{failure}");
    failure.text
}

fn parquet(columns: Vec<(&str, ArrayRef)>, group_rows: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Lists of float32: row r holds 10 r and 10 r + 1.
fn lists(rows: usize) -> ArrayRef {
    let rows = (0..rows).map(|row| Some([10 * row, 10 * row + 1].map(|v| Some(v as f32))));
    Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
}

#[test]
fn numpy_arrays_of_both_types_orders_and_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let expected = array![[1.0, 2.5, -3.0], [4.0, f64::MAX, 6.0]];
    let by_rows: Vec<f64> = expected.iter().copied().collect();
    let by_columns: Vec<f64> = expected.t().iter().copied().collect();
    for version in [1, 2, 3] {
        for (fortran, values) in [(false, &by_rows), (true, &by_columns)] {
            let bytes = npy(version, "<f8", fortran, "(2, 3)", &doubles(values));
            let catalog = open(&write(&folder, "double.npy", &bytes)).unwrap();
            assert_eq!((catalog.rows(), catalog.width), (2, 3));
            let read = all(&catalog);
            assert_eq!(read.features.to_scalar::<f64>(), expected);
            assert_eq!(read.names[1].path, "row-0000001");
            assert_eq!((read.names[1].index, &read.names[1].label), (1, &None));

            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            let bytes = npy(version, "<f4", fortran, "(2, 3)", &singles(&narrow));
            let catalog = open(&write(&folder, "single.npy", &bytes)).unwrap();
            assert_eq!(
                all(&catalog).features.to_scalar::<f64>(),
                expected.mapv(|v| f64::from(v as f32))
            );
        }
    }
}

#[test]
fn other_numpy_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let values = doubles(&[0.0; 6]);
    for (bytes, word) in [
        (npy(1, ">f8", false, "(2, 3)", &values), ">f8"),
        (npy(1, "<i8", false, "(2, 3)", &values), "<i8"),
        (npy(1, "<f2", false, "(2, 3)", &values), "<f2"),
        (npy(1, "|O", false, "(2, 3)", &values), "|O"),
        (npy(1, "<f8", false, "(6,)", &values), "[6]"),
        (npy(1, "<f8", false, "(1, 2, 3)", &values), "[1, 2, 3]"),
        (npy(1, "<f8", false, "(3, 3)", &values), "cut short"),
        (
            npy(1, "<f8", false, "(2305843009213693952, 4)", &values),
            "cut short",
        ),
        (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "header"),
    ] {
        let path = write(&folder, "x.npy", &bytes);
        let said = message(open(&path));
        assert!(said.contains(word) && said.contains("x.npy"), "{said}");
    }
    let path = write(&folder, "y.npy", b"nothing of the kind");
    assert!(message(open(&path)).contains("neither a Parquet file nor a NumPy array"));
}

#[test]
fn lists_of_every_kind_are_read_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let values = [[1.0, 2.0], [3.0, 4.5], [5.0, 1e300]];
    let wide = || values.map(|row| Some(row.map(Some)));
    let flat: Vec<f64> = values.concat();
    let item = Arc::new(arrow::datatypes::Field::new(
        "item",
        arrow::datatypes::DataType::Float64,
        true,
    ));
    let columns: [ArrayRef; 3] = [
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(wide())),
        Arc::new(LargeListArray::from_iter_primitive::<Float64Type, _, _>(
            wide(),
        )),
        Arc::new(FixedSizeListArray::new(
            item,
            2,
            Arc::new(Float64Array::from(flat)),
            None,
        )),
    ];
    let paths: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("größe")]));
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), Some(8), None]));
    for column in columns {
        let bytes = parquet(
            vec![
                ("path", paths.clone()),
                ("vector", column),
                ("label", labels.clone()),
            ],
            2,
        );
        let read = all(&open(&write(&folder, "lists.parquet", &bytes)).unwrap());
        assert_eq!(
            read.features.to_scalar::<f64>(),
            array![[1.0, 2.0], [3.0, 4.5], [5.0, 1e300]]
        );
        let names: Vec<&str> = read.names.iter().map(|name| name.path.as_str()).collect();
        assert_eq!(names, ["a", "row-0000001", "größe"]);
        let labels: Vec<Option<&str>> = read.names.iter().map(|n| n.label.as_deref()).collect();
        assert_eq!(labels, [Some("7"), Some("8"), None]);
    }
}

#[test]
fn the_column_is_the_one_that_is_named_or_the_only_one_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0]));
    let two = write(
        &folder,
        "two.parquet",
        &parquet(
            vec![("a", lists(2)), ("b", lists(2)), ("n", numbers.clone())],
            9,
        ),
    );
    let named = |path: &Path, name| Catalog::open(&[path.to_path_buf()], Some(name));
    assert_eq!(named(&two, "b").unwrap().width, 2);
    let said = message(open(&two));
    assert!(said.contains("a, b") && said.contains("--column"), "{said}");
    let said = message(named(&two, "c"));
    assert!(
        said.contains("no column c") && said.contains("a, b"),
        "{said}"
    );
    let said = message(named(&two, "n"));
    assert!(said.contains("Float32 and no list"), "{said}");
    let usual = parquet(vec![("a", lists(2)), ("features", lists(2))], 9);
    assert!(open(&write(&folder, "usual.parquet", &usual)).is_ok());
    let none = parquet(vec![("n", numbers)], 9);
    let said = message(open(&write(&folder, "none.parquet", &none)));
    assert!(said.contains("no column of lists"), "{said}");
}

#[test]
fn any_cut_over_files_and_row_groups_gives_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "f/1.parquet", &parquet(vec![("v", lists(23))], 5));
    write(&folder, "f/0.parquet", &parquet(vec![("v", lists(4))], 5));
    write(
        &folder,
        "f/empty.parquet",
        &parquet(vec![("v", lists(0))], 5),
    );
    let values: Vec<f32> = (0..14).map(|v| v as f32).collect();
    let array = npy(1, "<f4", true, "(7, 2)", &singles(&values));
    write(&folder, "f/2.npy", &array);
    write(&folder, "f/_SUCCESS", b"");
    write(&folder, "f/.hidden.parquet", b"PAR1");
    let catalog = open(&folder.path().join("f")).unwrap();
    assert_eq!((catalog.files(), catalog.rows(), catalog.width), (4, 34, 2));
    let expected = all(&catalog);
    let Block::F32(features) = &expected.features else {
        panic!("all files hold float32");
    };
    assert_eq!(features.row(3), array![30.0, 31.0]);
    assert_eq!(features.row(4), array![0.0, 1.0]);
    assert_eq!(features.row(33), array![6.0, 13.0]);
    assert_eq!(expected.names[33].path, "row-0000033");
    for step in [1, 2, 3, 7, 34] {
        let mut reader = Reader::new(catalog.clone());
        // Twice, as the fit and the projection do.
        for start in (0..34).step_by(step).chain((0..34).step_by(step)) {
            let end = (start + step).min(34);
            let part = reader.read(start..end).unwrap();
            assert_eq!(part.names, expected.names[start..end]);
            let rows = features.slice(ndarray::s![start..end, ..]).to_owned();
            assert_eq!(part.features, Block::F32(rows), "{start}..{end}");
        }
    }
    // As many blocks as images would have: 34 of one row.
    assert_eq!(catalog.blocks(), vec![1; 34]);
    // One file of float64 among them makes all blocks so, wherever they are cut.
    let array = npy(1, "<f8", false, "(1, 2)", &doubles(&[0.1, 0.2]));
    write(&folder, "f/3.npy", &array);
    let catalog = open(&folder.path().join("f")).unwrap();
    let mut reader = Reader::new(catalog);
    for (rows, first) in [(0..2, 0.0), (33..35, 6.0), (34..35, 0.1)] {
        let features = reader.read(rows).unwrap().features;
        assert_eq!(features.number_bytes(), 8, "a file holds float64");
        assert_eq!(features.row(0)[0], first);
    }
}

#[test]
fn rows_of_one_array_in_c_order_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f64> = (0..12).map(f64::from).collect();
    let double = npy(1, "<f8", false, "(6, 2)", &doubles(&values));
    let narrow: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let single = npy(1, "<f4", false, "(6, 2)", &singles(&narrow));
    let turned = npy(1, "<f8", true, "(6, 2)", &doubles(&values));
    for (name, bytes, kind) in [
        ("a.npy", &double, "mapped"),
        ("b.npy", &single, "mapped"),
        ("c.npy", &turned, "copied"),
    ] {
        let mut reader = Reader::new(open(&write(&folder, name, bytes)).unwrap());
        let (whole, part) = (reader.read(0..6).unwrap(), reader.read(2..5).unwrap());
        let found = match part.features {
            Block::Mapped32(_) | Block::Mapped64(_) => "mapped",
            Block::F32(_) | Block::F64(_) => "copied",
        };
        assert_eq!(found, kind, "{name}");
        for row in 0..3 {
            assert_eq!(
                part.features.row(row),
                whole.features.row(2 + row),
                "{name}"
            );
            assert_eq!(part.names[row].path, whole.names[2 + row].path);
        }
        let expected = if kind == "mapped" {
            vec![4.0, 5.0]
        } else {
            vec![2.0, 8.0]
        };
        assert_eq!(part.features.row(0), expected, "{name}");
    }
    // Rows of two files, and a file of single precision beside one of double precision.
    let mut reader = Reader::new(open(folder.path()).unwrap());
    for (rows, expected) in [(5..7, [10.0, 11.0]), (6..8, [0.0, 1.0])] {
        let features = reader.read(rows).unwrap().features;
        assert!(matches!(features, Block::F64(_)));
        assert_eq!(features.row(0), expected);
    }
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let read = |rows: Vec<Option<Vec<Option<f32>>>>| {
        let column: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows));
        let path = write(&folder, "rows.parquet", &parquet(vec![("v", column)], 99));
        let catalog = open(&path)?;
        Reader::new(catalog.clone()).read(0..catalog.rows())
    };
    let row = |values: &[f32]| Some(values.iter().map(|v| Some(*v)).collect::<Vec<_>>());
    let said = |rows| Failure::from(read(rows).unwrap_err()).text;
    let text = said(vec![row(&[1.0, 2.0]), row(&[1.0, 2.0]), row(&[1.0])]);
    assert!(
        text.contains("row 2 of") && text.contains("it has 1 features"),
        "{text}"
    );
    let text = said(vec![row(&[1.0, 2.0]), None]);
    assert!(text.contains("row 1 of") && text.contains("null"), "{text}");
    let text = said(vec![row(&[1.0]), Some(vec![None])]);
    assert!(text.contains("row 1 of") && text.contains("null"), "{text}");

    write(
        &folder,
        "w/0.npy",
        &npy(1, "<f4", false, "(1, 2)", &singles(&[0.0; 2])),
    );
    write(
        &folder,
        "w/1.npy",
        &npy(1, "<f4", false, "(1, 3)", &singles(&[0.0; 3])),
    );
    let text = message(open(&folder.path().join("w")));
    assert!(
        text.contains("it has 3 features") && text.contains("has 2"),
        "{text}"
    );
}

#[test]
fn what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let said = message(open(&folder.path().join("nowhere")));
    assert!(said.contains("cannot find the features"), "{said}");
    let said = message(open(folder.path()));
    assert!(said.contains("no .parquet and no .npy"), "{said}");
}

fn a_shard(block: usize, rows: usize, layer: &str) -> Vec<u8> {
    let names: Vec<ShardRow> = (0..rows)
        .map(|row| ShardRow {
            index: (10 * block + row) as u64,
            path: format!("{block}/{row}.jpg"),
            label: Some(block.to_string()),
        })
        .collect();
    let outcome = |path: &str| Outcome {
        path: path.into(),
        status: Status::Ok,
        reason: None,
        bytes: 1,
        width: 1,
        height: 1,
        sha256: String::new(),
    };
    let provenance: Provenance = [("layer".to_string(), layer.to_string())].into();
    shard::encode(&Shard {
        block,
        fingerprint: "f".into(),
        width: 2,
        features: (0..2 * rows).map(|v| (100 * block + v) as f32).collect(),
        outcomes: names.iter().map(|row| outcome(&row.path)).collect(),
        identities: vec![String::new(); rows],
        thumbnails: (0..rows)
            .map(|row| (row != 1).then(|| vec![block as u8, row as u8]))
            .collect(),
        rows: names,
        provenance,
    })
    .unwrap()
}

#[test]
fn shards_keep_their_blocks_names_and_provenance() {
    let folder = tempfile::tempdir().unwrap();
    for (block, rows) in [3, 0, 2].into_iter().enumerate() {
        let name = format!("out/features/block-{block:06}.parquet");
        write(&folder, &name, &a_shard(block, rows, "layer4"));
    }
    write(&folder, "out/scores.parquet", b"not looked at");
    let catalog = open(&folder.path().join("out")).unwrap();
    assert_eq!(catalog.blocks(), [3, 0, 2]);
    assert_eq!(catalog.provenance["layer"], "layer4");
    assert_eq!(catalog, open(&folder.path().join("out/features")).unwrap());
    let read = Reader::new(catalog).read(2..5).unwrap();
    assert_eq!(
        read.features.to_scalar::<f64>(),
        array![[4.0, 5.0], [200.0, 201.0], [202.0, 203.0]]
    );
    assert_eq!(read.names[1].path, "2/0.jpg");
    assert_eq!(read.names[2].index, 21);

    write(
        &folder,
        "out/features/block-000003.parquet",
        &a_shard(3, 1, "layer3"),
    );
    let said = message(open(&folder.path().join("out")));
    assert!(said.contains("computed with other settings"), "{said}");
}

#[test]
fn a_damaged_shard_is_not_read_as_any_parquet_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = a_shard(0, 3, "layer4");
    bytes[30] ^= 1;
    let catalog = open(&write(&folder, "block-000000.parquet", &bytes)).unwrap();
    let error = Reader::new(catalog).read(0..3).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(crate::error::chain(&error).contains("damaged"));
}
