use bytes::Bytes;

use super::*;
use crate::error::Failure;

fn outcome(path: &str, status: Status) -> Outcome {
    Outcome {
        path: path.to_owned(),
        status,
        reason: (status != Status::Ok).then(|| "not an \"image\"\n".to_owned()),
        bytes: 12_345,
        width: 400,
        height: 399,
        sha256: "ab".repeat(32),
    }
}

/// A block of `rows` images and one failed image, with values that are not round.
fn sample(rows: usize, width: usize) -> Shard {
    let names = ["a/b.jpg", "größe façade 果物 1.jpg", "quote\".png", ""];
    let mut outcomes = vec![outcome("broken.jpg", Status::Failed)];
    let rows: Vec<ShardRow> = (0..rows)
        .map(|row| ShardRow {
            index: 7 + row as u64,
            path: format!("{row:05} {}", names[row % names.len()]),
            label: (row % 3 != 1).then(|| names[row % names.len()].to_owned()),
        })
        .collect();
    outcomes.extend(rows.iter().map(|row| outcome(&row.path, Status::Ok)));
    let features = (0..rows.len() * width)
        .map(|value| (value as f32 * 0.37).sin().max(0.0))
        .collect();
    let thumbnails = (0..rows.len())
        .map(|row| (row % 4 != 2).then(|| vec![row as u8; row % 7]))
        .collect();
    Shard {
        block: 12,
        fingerprint: "f".repeat(64),
        width,
        rows,
        features,
        thumbnails,
        identities: outcomes
            .iter()
            .map(|o| format!("id of {}", o.path))
            .collect(),
        outcomes,
        provenance: provenance(),
    }
}

fn provenance() -> Provenance {
    [("weights", "größe.pth"), ("fingerprint", "00ff")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn reread(shard: &Shard) -> Shard {
    decode(Bytes::from(encode(shard).unwrap())).unwrap()
}

#[test]
fn a_block_comes_back_as_it_was() {
    for (rows, width) in [(1, 1), (3, 2048), (256, 7), (5, 0), (1, 100_352)] {
        let shard = sample(rows, width);
        assert_eq!(reread(&shard), shard, "{rows} rows of {width}");
    }
}

#[test]
fn unusual_values_come_back_bit_for_bit() {
    let mut shard = sample(2, 4);
    let values = [
        f32::NAN,
        f32::from_bits(0x7fc0_1234),
        f32::NEG_INFINITY,
        -0.0,
        f32::MIN_POSITIVE / 2.0,
        f32::MAX,
        1.0e-45,
        0.1,
    ];
    shard.features = values.to_vec();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&reread(&shard).features), bits(&values));
}

#[test]
fn a_block_whose_images_all_failed_comes_back() {
    for width in [0, 2048] {
        let mut shard = sample(0, width);
        shard.outcomes.push(outcome("notes.txt", Status::Skipped));
        shard.identities.push("id".to_owned());
        assert_eq!(reread(&shard), shard);
    }
    let empty = Shard {
        outcomes: Vec::new(),
        identities: Vec::new(),
        ..sample(0, 0)
    };
    assert_eq!(reread(&empty), empty);
}

#[test]
fn rows_that_span_batches_and_row_groups_come_back() {
    // 100 rows of 100352 are five batches and two row groups.
    let shard = sample(100, 100_352);
    let bytes = Bytes::from(encode(&shard).unwrap());
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&bytes)
        .unwrap();
    assert_eq!(metadata.num_row_groups(), 2);
    assert!(decode(bytes).unwrap() == shard);
}

#[test]
fn equal_blocks_give_equal_bytes() {
    let shard = sample(9, 33);
    assert_eq!(encode(&shard).unwrap(), encode(&shard.clone()).unwrap());
}

#[test]
fn the_header_is_read_from_the_footer_alone() {
    let shard = sample(9, 5000);
    let mut bytes = encode(&shard).unwrap();
    // Everything before the footer may be lost.
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap());
    let start = bytes.len() - TAIL_BYTES - footer as usize - SHA256_BYTES;
    bytes[..start].fill(0xff);
    let header = read_header(&Bytes::from(bytes)).unwrap();
    assert_eq!(
        header,
        ShardHeader {
            block: 12,
            fingerprint: "f".repeat(64),
            rows: 9,
            width: 5000,
            outcomes: shard.outcomes,
            identities: shard.identities,
            provenance: provenance(),
        }
    );
}

#[test]
fn a_shard_is_read_from_a_file() {
    use std::io::Write;
    let shard = sample(4, 17);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&encode(&shard).unwrap()).unwrap();
    assert_eq!(read_header(&file).unwrap().rows, 4);
    assert_eq!(decode(file).unwrap(), shard);
}

#[test]
fn the_checksum_is_that_of_the_little_endian_values() {
    // printf '\x00\x00\x80\x3f\x00\x00\x00\xc0' | sha256sum
    assert_eq!(
        features_sha256(&[1.0, -2.0]),
        "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b"
    );
}

#[test]
fn a_truncated_shard_is_refused_at_every_length() {
    let bytes = encode(&sample(3, 8)).unwrap();
    for length in 0..bytes.len() {
        let part = Bytes::copy_from_slice(&bytes[..length]);
        assert!(read_header(&part).is_err(), "header of {length} bytes");
        assert!(decode(part).is_err(), "{length} bytes");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let bytes = encode(&sample(3, 8)).unwrap();
    for position in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1 << (position % 8);
        assert!(decode(Bytes::from(damaged)).is_err(), "byte {position}");
    }
}

#[test]
fn a_damaged_page_does_not_hide_what_the_footer_says() {
    let shard = sample(3, 8);
    let mut bytes = encode(&shard).unwrap();
    bytes[40] ^= 1;
    let bytes = Bytes::from(bytes);
    assert_eq!(read_header(&bytes).unwrap().outcomes, shard.outcomes);
    assert_eq!(
        decode(bytes).unwrap_err().to_string(),
        "feature shard is damaged: p8.pages_sha256 does not match its content"
    );
}

#[test]
fn what_is_no_shard_is_refused_with_a_reason() {
    let message = |bytes: Vec<u8>| {
        let failure = Failure::from(decode(Bytes::from(bytes)).unwrap_err());
        assert_eq!(failure.kind, Kind::Io);
        failure.text
    };
    let text = "cannot read feature shard: it is cut short, damaged or not written by p8";
    assert_eq!(message(b"not a parquet file".to_vec()), text);
    assert_eq!(message(Vec::new()), text);
    let foreign = |rows: &[ShardRow]| {
        let mut writer = ArrowWriter::try_new(Vec::new(), schema(), None).unwrap();
        writer.write(&batch(rows, &[], 0).unwrap()).unwrap();
        writer.into_inner().unwrap()
    };
    assert_eq!(message(foreign(&sample(3, 0).rows)), text);

    // The same with the checksum that a shard has before its footer.
    let mut bytes = foreign(&[]);
    let end = bytes.len() - TAIL_BYTES;
    let length = u32::from_le_bytes(*bytes[end..].first_chunk().unwrap()) as usize;
    let sha256 = Sha256::digest(&bytes[end - length..end]);
    bytes.splice(end - length..end - length, sha256);
    assert_eq!(
        message(bytes),
        "cannot read feature shard: its footer has no p8.block"
    );
}

#[test]
fn a_block_that_contradicts_itself_is_not_written() {
    let message = |change: fn(&mut Shard)| {
        let mut shard = sample(3, 4);
        change(&mut shard);
        let failure = Failure::from(encode(&shard).unwrap_err());
        assert_eq!(failure.kind, Kind::Internal);
        failure.text
    };
    assert_eq!(
        message(|shard| shard.features.truncate(11)),
        "feature shard contradicts itself: 3 rows of width 4 with 11 features"
    );
    assert_eq!(
        message(|shard| shard.outcomes.truncate(2)),
        "feature shard contradicts itself: row \"00001 größe façade 果物 1.jpg\" has no outcome in \
         its place"
    );
    assert_eq!(
        message(|shard| {
            shard.rows.pop();
            shard.thumbnails.pop();
            shard.features.truncate(8);
        }),
        "feature shard contradicts itself: \"00002 quote\\\".png\" is ok but has no row"
    );
    assert_eq!(
        message(|shard| shard.identities.truncate(1)),
        "feature shard contradicts itself: 1 identities of 4 images"
    );
    assert!(message(|shard| shard.rows[0].index = u64::MAX).contains("cannot encode"));
}

#[test]
fn thumbnails_are_read_without_the_features_and_may_be_missing() {
    let shard = sample(9, 2048);
    let bytes = Bytes::from(encode(&shard).unwrap());
    assert_eq!(decode_thumbnails(bytes.clone()).unwrap(), shard.thumbnails);
    assert!(shard.thumbnails.iter().any(Option::is_none));
    let mut damaged = bytes.to_vec();
    let in_footer = damaged.len() - 100;
    damaged[in_footer] ^= 1;
    assert!(matches!(
        decode_thumbnails(Bytes::from(damaged)),
        Err(ShardError::Footer)
    ));
    let mut short = shard;
    short.thumbnails.pop();
    assert!(matches!(
        encode(&short),
        Err(ShardError::Inconsistent { .. })
    ));
}
