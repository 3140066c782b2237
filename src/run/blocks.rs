//! Feature vectors in blocks, from the network or from files, and the model that is fitted to them.

use super::announce;
use super::context::Context;
use super::memory;
use super::terminal::Line;
use crate::comm::Comm;
use crate::dataset::outcome::Outcome;
use crate::error::{Failure, Kind};
use crate::output::metrics::Traffic;
use crate::output::shard::ShardRow;
use crate::pca::{self, Components, Model, PcaError, Solver};
use crate::timing::Phase;
use std::ops::Range;

/// One block.
pub struct Block {
    /// The images that have features.
    pub rows: Vec<ShardRow>,
    /// Their feature vectors, `[rows, width]`.
    pub features: pca::Block,
    /// What became of every listed image; empty where no images were listed.
    pub outcomes: Vec<Outcome>,
}

/// Reads one of this rank's blocks.
pub type Read<'a> = dyn Fn(usize) -> Result<Block, Failure> + 'a;

/// Reads the small pictures of one of this rank's blocks, one a row, where there are any.
pub type ReadThumbnails<'a> = dyn Fn(usize) -> Result<Vec<Option<Vec<u8>>>, Failure> + 'a;

/// All blocks of a task, each of them whole on one rank.
pub struct Blocks<'a> {
    /// Rows of each block.
    pub rows_per_block: Vec<usize>,
    /// The rank of each block, ascending.
    pub owner_of_block: Vec<usize>,
    /// Length of a feature vector.
    pub width: usize,
    /// How this rank reads one of its own.
    pub read: Box<Read<'a>>,
    /// How this rank reads the small pictures of one of its own.
    pub thumbnails: Box<ReadThumbnails<'a>>,
}

impl Blocks<'_> {
    /// The blocks of a rank.
    pub fn of_rank(&self, rank: usize) -> Range<usize> {
        let first = self.owner_of_block.partition_point(|owner| *owner < rank);
        let end = self.owner_of_block.partition_point(|owner| *owner <= rank);
        first..end
    }

    /// A failure of the linear algebra in the words of the user: who has the row that it names.
    pub fn failure(&self, error: PcaError) -> Failure {
        if let PcaError::NotFinite { block, row, column } = error
            && let Ok(block) = (self.read)(block)
            && let Some(named) = block.rows.get(row)
        {
            return Failure::new(
                Kind::Numerical,
                format!(
                    "cannot use the features of {:?}: the one at position {column} is not a finite number",
                    named.path
                ),
            );
        }
        Failure::from(error)
    }
}

/// A model, and what the ranks told each other to find it.
pub struct Fitted {
    /// The same on every rank.
    pub model: Model,
    /// By rank.
    pub traffic: Vec<Traffic>,
}

/// Fits the model to the rows of all ranks.
pub fn fit(context: &Context, blocks: &Blocks) -> Fitted {
    let comm: &Comm = context.comm;
    let rows = pca::Rows {
        rows_per_block: &blocks.rows_per_block,
        owner_of_block: &blocks.owner_of_block,
        width: blocks.width,
    };
    let settings = &memory::limited(context.settings.pca, comm);
    announce::memory(&rows, settings, comm.size(), context.threads);
    let counted = pca::Counted::new(comm);
    // A rank without rows learns from the others how wide their numbers are.
    let mut number_bytes = 0;
    let mine = blocks.of_rank(comm.rank()).len().max(1);
    let mut reads = 0;
    let mut line = Line::start(comm, context.settings.log, "pca       factorising");
    let model = context.phases.time(Phase::Fit, || {
        let mut read = |block| {
            reads += 1;
            line.tell(|| factorising(reads, mine));
            let features = (blocks.read)(block)?.features;
            number_bytes = features.number_bytes();
            Ok(features)
        };
        let model = pca::fit(&counted, &rows, &mut read, settings);
        comm.or_end(model.map_err(|error| blocks.failure(error)))
    });
    drop(line);
    announce::model(&model);
    let told = comm.all_gather_f64(&[counted.sent() as f64, number_bytes as f64]);
    let number_bytes = told.iter().map(|told| told[1] as usize).max().unwrap_or(0);
    let k = match (model.solver, settings.components) {
        (Solver::Randomized, Components::Count(asked)) => asked,
        _ => model.k(),
    };
    let shape = (comm.size(), k, number_bytes);
    let way = (model.solver, model.evidence.route);
    let predicted = pca::predicted_bytes(way, model.precision, &rows, shape);
    let traffic = told.iter().zip(predicted);
    let traffic = traffic.map(|(told, predicted_bytes)| Traffic {
        sent_bytes: told[0] as u64,
        predicted_bytes,
    });
    Fitted {
        traffic: traffic.collect(),
        model,
    }
}

/// How far this rank is with its blocks; a solver may go through them several times.
fn factorising(reads: usize, blocks: usize) -> String {
    let (pass, block) = (1 + (reads - 1) / blocks, 1 + (reads - 1) % blocks);
    let passes = if pass > 1 {
        format!(", pass {pass}")
    } else {
        String::new()
    };
    format!("pca       factorising, block {block} of {blocks} on this rank{passes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_over_the_blocks_are_counted() {
        assert_eq!(
            factorising(3, 4),
            "pca       factorising, block 3 of 4 on this rank"
        );
        assert_eq!(
            factorising(5, 4),
            "pca       factorising, block 1 of 4 on this rank, pass 2"
        );
    }
}
