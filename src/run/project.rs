//! Scores of every image, block by block to rank 0.

use super::blocks::{Block, Blocks};
use super::context::Context;
use super::terminal::Line;
use crate::comm::Comm;
use crate::dataset::outcome::Outcome;
use crate::error::{Failure, Kind};
use crate::output::shard::ShardRow;
use crate::pca::{self, CertificatePart, Model};
use crate::store::Location;
use crate::timing::Phase;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::ops::Range;

/// Blocks that are read ahead take about this many bytes at most, unless it is one alone.
const BYTES_AT_ONCE: usize = 64 << 20;

/// What rank 0 writes for one block.
pub struct ScoredBlock {
    /// The images that have scores.
    pub rows: Vec<ShardRow>,
    /// What became of every image of the block.
    pub outcomes: Vec<Outcome>,
    /// `[rows, k]`.
    pub scores: Vec<f32>,
    /// One value a row.
    pub reconstruction_error: Vec<f32>,
}

/// The scored blocks of this rank, in a file beside the results until rank 0 wants them: memory does
/// not grow with the number of images.
pub struct Spill {
    file: File,
    blocks: usize,
}

/// Projects the blocks of this rank; also returns what the certificate needs of each. The temporary
/// file is made in `folder`.
///
/// # Errors
/// Local to this rank: the caller has to end the job.
pub fn project(
    context: &Context,
    blocks: &Blocks,
    model: &Model,
    folder: &Location,
) -> Result<(Spill, Vec<CertificatePart>), Failure> {
    let _projecting = context.phases.start(Phase::Project);
    let mut writer = BufWriter::new(context.settings.store.scratch(folder)?);
    let mut parts = Vec::new();
    let projector = pca::Projector::new(model);
    let mut numbers = blocks.of_rank(context.comm.rank());
    let all = numbers.len();
    let mut line = Line::start(context.comm, context.settings.log, "scores");
    let mut read: Vec<(usize, Block)> = Vec::new();
    loop {
        line.tell(|| format!("scores    block {} of {all} on this rank", parts.len()));
        // The pool projects what was read last, while this thread reads on.
        let mut projected = Vec::new();
        let next = rayon::in_place_scope(|scope| {
            scope.spawn(|_| {
                std::mem::take(&mut read)
                    .into_par_iter()
                    .map(|(number, block)| {
                        // The fit has looked at every number; a model that was fitted before has not seen these.
                        pca::check_finite(number, &block.features)?;
                        let pca::Projected {
                            scores,
                            reconstruction_error,
                            part,
                        } = projector.project(&block.features);
                        let scored = ScoredBlock {
                            rows: block.rows,
                            outcomes: block.outcomes,
                            scores: scores.into_iter().collect(),
                            reconstruction_error,
                        };
                        Ok((to_bytes(&scored), part))
                    })
                    .collect_into_vec(&mut projected);
            });
            read_some(&mut numbers, blocks, context.threads)
        })?;
        let last = next.is_empty();
        read = next;
        for projected in projected {
            let (bytes, part) = projected.map_err(|error| blocks.failure(error))?;
            let bytes = bytes?;
            writer
                .write_all(&(bytes.len() as u64).to_le_bytes())
                .and_then(|()| writer.write_all(&bytes))
                .map_err(unspillable)?;
            parts.push(part);
        }
        if last {
            break;
        }
    }
    let mut file = writer
        .into_inner()
        .map_err(|error| unspillable(error.into_error()))?;
    file.rewind().map_err(unspillable)?;
    let blocks = parts.len();
    Ok((Spill { file, blocks }, parts))
}

/// Reads blocks for the threads of a rank: some for each of them, so that none waits long for the others, but no
/// more than a few at once where they are large; a block alone keeps several threads busy too.
fn read_some(
    numbers: &mut Range<usize>,
    blocks: &Blocks,
    threads: usize,
) -> Result<Vec<(usize, Block)>, Failure> {
    /// Blocks for each thread.
    const BLOCKS_A_THREAD: usize = 4;
    let (mut read, mut bytes) = (Vec::new(), 0);
    while read.len() < BLOCKS_A_THREAD * threads
        && bytes < BYTES_AT_ONCE
        && let Some(number) = numbers.next()
    {
        let block = (blocks.read)(number)?;
        let (rows, width) = block.features.dim();
        bytes += rows * width * block.features.number_bytes();
        read.push((number, block));
    }
    Ok(read)
}

/// Hands the blocks of all ranks to rank 0 in their order, one at a time.
///
/// # Errors
/// Local to this rank: the caller has to end the job.
pub fn collect(
    comm: &Comm,
    blocks: &Blocks,
    mine: Spill,
    mut write: impl FnMut(ScoredBlock) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = BufReader::new(mine.file);
    for _ in 0..mine.blocks {
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(unspillable)?;
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        reader.read_exact(&mut bytes).map_err(unspillable)?;
        if comm.rank() > 0 {
            comm.send_bytes(&bytes, 0);
        } else {
            write(from_bytes(&bytes)?)?;
        }
    }
    if comm.rank() == 0 {
        for rank in 1..comm.size() {
            for _ in blocks.of_rank(rank) {
                write(from_bytes(&comm.receive_bytes(rank))?)?;
            }
        }
    }
    Ok(())
}

fn unspillable(error: std::io::Error) -> Failure {
    Failure::new(
        Kind::Io,
        format!("cannot keep the scores in a temporary file: {error}"),
    )
}

/// The texts of a block; its numbers follow as bytes.
#[derive(Serialize, Deserialize)]
struct Texts {
    rows: Vec<(u64, String, Option<String>)>,
    outcomes: Vec<Outcome>,
    scores: usize,
}

fn to_bytes(block: &ScoredBlock) -> Result<Vec<u8>, Failure> {
    let texts = Texts {
        rows: block
            .rows
            .iter()
            .map(|row| (row.index, row.path.clone(), row.label.clone()))
            .collect(),
        outcomes: block.outcomes.clone(),
        scores: block.scores.len(),
    };
    let texts = serde_json::to_vec(&texts).map_err(broken)?;
    let mut bytes = (texts.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&texts);
    for value in block.scores.iter().chain(&block.reconstruction_error) {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    Ok(bytes)
}

fn from_bytes(bytes: &[u8]) -> Result<ScoredBlock, Failure> {
    let cut = || broken("the message is cut");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let (texts, numbers) = rest
        .split_at_checked(u64::from_le_bytes(*length) as usize)
        .ok_or_else(cut)?;
    let texts: Texts = serde_json::from_slice(texts).map_err(broken)?;
    let mut scores: Vec<f32> = numbers
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    if scores.len() != texts.scores + texts.rows.len() {
        return Err(cut());
    }
    let reconstruction_error = scores.split_off(texts.scores);
    Ok(ScoredBlock {
        rows: texts
            .rows
            .into_iter()
            .map(|(index, path, label)| ShardRow { index, path, label })
            .collect(),
        outcomes: texts.outcomes,
        scores,
        reconstruction_error,
    })
}

fn broken(cause: impl std::fmt::Display) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on the scores: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::outcome::Status;

    #[test]
    fn a_block_comes_back_as_it_was() {
        let block = ScoredBlock {
            rows: vec![ShardRow {
                index: 7,
                path: "größe/\u{fffd}\n.jpg".into(),
                label: Some("größe".into()),
            }],
            outcomes: vec![Outcome {
                path: "x".into(),
                status: Status::Failed,
                reason: Some("truncated".into()),
                bytes: 3,
                width: 1,
                height: 2,
                sha256: "ab".into(),
            }],
            scores: vec![1.5, f32::MIN_POSITIVE],
            reconstruction_error: vec![0.25],
        };
        let bytes = to_bytes(&block).unwrap();
        let back = from_bytes(&bytes).unwrap();
        assert_eq!(back.rows, block.rows);
        assert_eq!(back.outcomes, block.outcomes);
        assert_eq!(back.scores, block.scores);
        assert_eq!(back.reconstruction_error, block.reconstruction_error);
        assert!(from_bytes(&bytes[..bytes.len() - 4]).is_err());
    }
}
