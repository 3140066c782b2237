//! What the report wants to know of some images, from the ranks that have them.

use super::blocks::{Block, Blocks};
use crate::comm::Comm;
use crate::error::{Failure, Kind};
use crate::output::report::{Collected, Compared, Found, Images, Need};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The images of the report: the nearest pairs among those that rank 0 compares, and the pictures of all
/// that it shows. The answer is there on rank 0 only.
///
/// # Errors
/// Local to this rank: the caller has to end the job.
pub fn images(
    comm: &Comm,
    blocks: &Blocks,
    mut compared: Option<Compared>,
) -> Result<Option<Images>, Failure> {
    loop {
        let wanted = compared.as_mut().map(Compared::wanted);
        let Some(found) = fetch(comm, blocks, wanted.unwrap_or_default())? else {
            break;
        };
        if let Some(compared) = &mut compared {
            compared.add(&found).map_err(|[found, scored]| {
                Failure::new(
                    Kind::Input,
                    format!(
                        "the stored features are not those of its scores ({found:?} stands in the place of \
                         {scored:?})"
                    ),
                )
            })?;
        }
    }
    let collected = compared.map(Compared::finish);
    let wanted = collected.as_ref().map(Collected::wanted);
    let found = fetch(comm, blocks, wanted.unwrap_or_default())?.unwrap_or_default();
    Ok(collected.map(|collected| Images { collected, found }))
}

/// What rank 0 wants to know of some images, told by the ranks that have them, one block at a time; `None`
/// where it wants nothing. What is wanted counts on rank 0 only, and so does what was found.
fn fetch(
    comm: &Comm,
    blocks: &Blocks,
    wanted: BTreeMap<u64, Need>,
) -> Result<Option<BTreeMap<u64, Found>>, Failure> {
    let wanted: Vec<(u64, Need)> = wanted.into_iter().collect();
    let mut bytes = serde_json::to_vec(&wanted).map_err(broken)?;
    comm.broadcast_bytes(&mut bytes, 0);
    let wanted: Vec<(u64, Need)> = serde_json::from_slice(&bytes).map_err(broken)?;
    if wanted.is_empty() {
        return Ok(None);
    }
    let by_block = by_block(&wanted, &blocks.rows_per_block);
    let mut found = BTreeMap::new();
    for (block, images) in &by_block {
        let owner = blocks.owner_of_block[*block];
        if owner == comm.rank() {
            let parts = look_up(blocks, *block, images)?;
            if owner == 0 {
                found.extend(parts);
            } else {
                comm.send_bytes(&to_bytes(&parts)?, 0);
            }
        } else if comm.rank() == 0 {
            found.extend(from_bytes(&comm.receive_bytes(owner))?);
        }
    }
    Ok(Some(found))
}

/// An image that is wanted: its row in the block, its position, and what of it.
type Wanted = (usize, u64, Need);

/// The images that are wanted of each block, in order.
fn by_block(wanted: &[(u64, Need)], rows_per_block: &[usize]) -> Vec<(usize, Vec<Wanted>)> {
    let mut blocks = Vec::new();
    let mut wanted = wanted.iter().peekable();
    let mut first = 0u64;
    for (block, &rows) in rows_per_block.iter().enumerate() {
        let end = first + rows as u64;
        let mut images = Vec::new();
        while let Some((position, need)) = wanted.next_if(|(position, _)| *position < end) {
            images.push(((position - first) as usize, *position, *need));
        }
        if !images.is_empty() {
            blocks.push((block, images));
        }
        first = end;
    }
    blocks
}

/// What is wanted of a block of this rank.
fn look_up(blocks: &Blocks, block: usize, images: &[Wanted]) -> Result<Vec<(u64, Found)>, Failure> {
    let mut thumbnails = match images.iter().any(|(_, _, need)| *need != Need::Features) {
        true => (blocks.thumbnails)(block)?,
        false => Vec::new(),
    };
    let whole: Option<Block> = match images.iter().any(|(_, _, need)| *need != Need::Picture) {
        true => Some((blocks.read)(block)?),
        false => None,
    };
    let found = images.iter().map(|&(row, position, need)| {
        let whole = whole.as_ref().filter(|_| need != Need::Picture);
        let thumbnail = thumbnails.get_mut(row).filter(|_| need != Need::Features);
        let found = Found {
            name: whole.map(|whole| (whole.rows[row].path.clone(), whole.rows[row].label.clone())),
            thumbnail: thumbnail.and_then(Option::take),
            features: match whole {
                Some(whole) if need == Need::Features => whole.features.row(row),
                _ => Vec::new(),
            },
        };
        (position, found)
    });
    Ok(found.collect())
}

/// What stands before the bytes of one image.
#[derive(Serialize, Deserialize)]
struct Head {
    position: u64,
    name: Option<(String, Option<String>)>,
    thumbnail: Option<usize>,
    features: usize,
}

fn to_bytes(parts: &[(u64, Found)]) -> Result<Vec<u8>, Failure> {
    let heads: Vec<Head> = parts
        .iter()
        .map(|(position, found)| Head {
            position: *position,
            name: found.name.clone(),
            thumbnail: found.thumbnail.as_ref().map(Vec::len),
            features: found.features.len(),
        })
        .collect();
    let heads = serde_json::to_vec(&heads).map_err(broken)?;
    let mut bytes = (heads.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&heads);
    for (_, found) in parts {
        bytes.extend_from_slice(found.thumbnail.as_deref().unwrap_or_default());
        bytes.extend(found.features.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(bytes)
}

fn from_bytes(bytes: &[u8]) -> Result<Vec<(u64, Found)>, Failure> {
    let cut = || broken("the message is cut");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let (heads, mut rest) = rest
        .split_at_checked(u64::from_le_bytes(*length) as usize)
        .ok_or_else(cut)?;
    let heads: Vec<Head> = serde_json::from_slice(heads).map_err(broken)?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count).ok_or_else(cut)?;
        rest = left;
        Ok::<_, Failure>(taken)
    };
    let parts = heads.into_iter().map(|head| {
        let thumbnail = match head.thumbnail {
            Some(length) => Some(take(length)?.to_vec()),
            None => None,
        };
        let (words, _) = take(8 * head.features)?.as_chunks::<8>();
        let found = Found {
            name: head.name,
            thumbnail,
            features: words.iter().map(|word| f64::from_le_bytes(*word)).collect(),
        };
        Ok((head.position, found))
    });
    parts.collect()
}

fn broken(cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on images for the report: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_looked_for_in_their_blocks() {
        let wanted = [
            (0, Need::Picture),
            (4, Need::Features),
            (5, Need::Named),
            (9, Need::Picture),
        ];
        assert_eq!(
            by_block(&wanted, &[3, 0, 2, 3, 2]),
            [
                (0, vec![(0, 0, Need::Picture)]),
                (2, vec![(1, 4, Need::Features)]),
                (3, vec![(0, 5, Need::Named)]),
                (4, vec![(1, 9, Need::Picture)]),
            ]
        );
        assert_eq!(by_block(&[], &[3]), []);
    }

    #[test]
    fn what_was_found_comes_over_as_it_was() {
        let parts = vec![
            (
                7,
                Found {
                    name: Some(("größe/1.jpg".into(), Some("größe".into()))),
                    thumbnail: Some(vec![1, 2, 3]),
                    features: vec![0.5, f64::MIN_POSITIVE],
                },
            ),
            (9, Found::default()),
            (
                10,
                Found {
                    name: Some(("x".into(), None)),
                    thumbnail: Some(Vec::new()),
                    features: Vec::new(),
                },
            ),
        ];
        let bytes = to_bytes(&parts).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap(), parts);
        assert!(from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(from_bytes(&[1]).is_err());
    }
}
