//! Rank 0 lists the images; every rank gets the part it works on.

use super::settings::Settings;
use crate::comm::Comm;
use crate::dataset::DatasetError;
use crate::dataset::list::{Entry, Filter, list as list_files};
use crate::dataset::slice::Slices;
use crate::error::{Classify, Failure, Kind};
use crate::image;
use std::io::ErrorKind;
use std::ops::Range;

/// The images of the run, as one rank knows them.
pub struct Listing {
    /// How all images are cut into blocks, and the blocks among the ranks.
    pub slices: Slices,
    /// The blocks of this rank.
    pub blocks: Range<usize>,
    /// The images of these blocks.
    entries: Vec<Entry>,
    /// Bytes of all images.
    pub bytes: u64,
}

impl Listing {
    /// The images of one of this rank's blocks.
    pub fn entries_of(&self, block: usize) -> &[Entry] {
        let first = self.slices.images_of(self.blocks.start).start;
        let range = self.slices.images_of(block);
        &self.entries[range.start - first..range.end - first]
    }

    /// The images of all of this rank's blocks.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Lists on rank 0 and hands every rank its slice.
///
/// # Errors
/// On all ranks when the inputs cannot be listed or hold no image.
pub fn list(settings: &Settings, comm: &Comm) -> Result<Listing, Failure> {
    let all = comm.agree(if comm.rank() == 0 {
        list_here(settings)
    } else {
        Ok(Vec::new())
    })?;
    let counted = [all.len() as u64, all.iter().map(|e| e.bytes).sum()];
    let counted = &comm.all_gather_u64(&counted)[0];
    let slices = Slices::new(counted[0] as usize, comm.size());
    let images_of_rank = |rank: usize| {
        let blocks = slices.blocks_of(rank);
        if blocks.is_empty() {
            0..0
        } else {
            slices.images_of(blocks.start).start..slices.images_of(blocks.end - 1).end
        }
    };
    let entries = if comm.rank() == 0 {
        for rank in 1..comm.size() {
            comm.send_bytes(&comm.or_end(encode(&all[images_of_rank(rank)])), rank);
        }
        all[images_of_rank(0)].to_vec()
    } else {
        comm.or_end(decode(&comm.receive_bytes(0)))
    };
    Ok(Listing {
        blocks: slices.blocks_of(comm.rank()),
        slices,
        entries,
        bytes: counted[1],
    })
}

fn list_here(settings: &Settings) -> Result<Vec<Entry>, Failure> {
    let filter = filter(settings.glob.as_deref())?;
    list_files(&settings.store, &settings.inputs, &filter).map_err(|error| match &error {
        DatasetError::NotThere { input, source }
            if is_default(settings) && source.kind() == ErrorKind::NotFound =>
        {
            let input = input.display();
            let text = format!(
                "cannot find the input \"{input}\": the sample images lie in the folder of p8's source; run p8 there, or name your own images with --input"
            );
            Failure::new(error.kind(), text)
        }
        _ => error.into(),
    })
}

/// Which files count as images, by `--glob`.
///
/// # Errors
/// When the pattern is malformed.
pub fn filter(glob: Option<&str>) -> Result<Filter, DatasetError> {
    match glob {
        None => Ok(Filter::Extensions(image::EXTENSIONS)),
        Some(pattern) => Filter::pattern(pattern),
    }
}

/// Whether nobody named an input.
fn is_default(settings: &Settings) -> bool {
    let mut listed = settings.listed.iter();
    listed.any(|setting| setting.name == "input" && setting.source == "default")
}

fn encode(entries: &[Entry]) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(entries).map_err(broken)
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry>, Failure> {
    serde_json::from_slice(bytes).map_err(broken)
}

fn broken(error: serde_json::Error) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("cannot pass on the list of images: {error}"),
    )
}
