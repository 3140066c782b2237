//! Passes over the rows of all ranks: what they and their transpose do to some directions.
//!
//! X are the centred (and scaled) rows, `[n, d]`, which stay where they are and are read once for each
//! pass. A pass over directions V, `[d, l]`, computes `Y = X V` and `Z = X^T Y` block by block, and R of
//! `Y = Q R`. With the SVD `R = P S W^T`, S are the singular values of X within these directions, V W
//! their vectors, and Z W is X^T X times these. S comes from a QR of Y and not from X^T X, whose small
//! values rounding would swallow.
//!
//! Z is summed and R merged along a tree over blocks, so the bits depend neither on the ranks nor on
//! their threads, which share out the blocks of a rank. A node of few rows has these as they are: R of many
//! rows at once is several times as fast as R of a few, again and again. Memory of a rank: a few matrices of
//! d x l and as many of those rows, one for each level of the tree and each block in work, and these blocks. 4 n d l
//! operations.

use std::collections::{BTreeMap, VecDeque};

use ndarray::{Array2, ArrayView2, Axis, ShapeBuilder, s};

use super::PcaError;
use super::block::{Block, on_rows};
use super::center::Mean;
use super::exchange::Exchange;
use super::fit::Rows;
use super::tasks::Tasks;
use super::tree::{Merge, Plan, Step, take};
use crate::kernels::Isa;
use crate::kernels::vectorized::{Loops, vectorized};
use crate::linalg::blas::{Transpose, gemm};
use crate::linalg::{Scalar, by_columns, norms, qr, svd, zeros};

/// Tasks of a thread that are handed out at a time, so that none waits long for the others.
const TASKS_A_THREAD: usize = 2;

/// A task is made of so many bytes of small blocks that handing it out costs little beside it.
const BYTES_OF_TASK: usize = 1 << 22;

/// Rows of a block that are multiplied at a time: their deviations stay in the cache between the products.
const ROWS_AT_ONCE: usize = 128;

/// Blocks in work take no more than this together, unless it is one alone.
const BYTES_AT_ONCE: usize = 1 << 30;

/// Bytes of a block of so many rows of d columns in work: the rows as they came, the deviations of some, and twice its
/// image of l directions.
fn bytes_of_block(block_rows: usize, d: usize, l: usize) -> usize {
    let rows = block_rows + ROWS_AT_ONCE.min(block_rows);
    f64::BYTES * (d * rows + 2 * l * (d + block_rows))
}

/// How many blocks of so many bytes a task is made of, and how many tasks are in work at once on so many threads.
fn tasks_of(bytes: usize, threads: usize) -> (usize, usize) {
    let blocks = (BYTES_OF_TASK / bytes.max(1)).max(1);
    let at_once = BYTES_AT_ONCE / (blocks * bytes).max(1);
    (blocks, at_once.clamp(1, TASKS_A_THREAD * threads.max(1)))
}

/// Rows of images that a node has as they are, of l directions; of more it has R.
fn most_stacked(l: usize) -> usize {
    /// A QR of more rows is no faster.
    const ENOUGH: usize = 512;
    ENOUGH.max(4 * l)
}

/// How high the R of a node is that is made of so many rows of images of l directions.
fn height_of(rows: usize, l: usize) -> usize {
    if rows > most_stacked(l) { l } else { rows }
}

/// Bytes of a rank in a pass with l directions over n rows of d columns, in blocks of so many rows: the directions
/// and their image, a partial image for each level of the tree, and the blocks in work.
pub(super) fn memory_bytes(
    (n, d): (usize, usize),
    l: usize,
    block_rows: usize,
    threads: usize,
) -> f64 {
    let levels = (1.0 + n as f64 / block_rows as f64).log2().ceil();
    let block_rows = block_rows.min(n);
    let bytes = bytes_of_block(block_rows, d, l);
    let (blocks, at_once) = tasks_of(bytes, threads);
    let numbers = (4.0 + levels) * ((d + most_stacked(l)) * l) as f64;
    f64::BYTES as f64 * numbers + (at_once * blocks * bytes) as f64
}

/// Mean and scale of the columns of all rows, and the norm of the rows after both.
pub(super) struct Columns {
    pub mean: Mean,
    pub scale: Vec<f64>,
    pub norm: f64,
}

/// Rows to be centred (and scaled).
struct Deviations<'a, F, T> {
    rows: ArrayView2<'a, F>,
    columns: &'a Columns,
    /// One row after another.
    to: &'a mut [T],
}

impl<F: Scalar, T: Scalar> Loops for Deviations<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.rows.as_standard_layout();
        let Columns { mean, scale, .. } = self.columns;
        for (row, to) in rows.rows().into_iter().zip(self.to.chunks_mut(scale.len())) {
            let row = row.to_slice().expect("rows in one piece");
            let columns = mean.origin.iter().zip(&mean.offset).zip(scale);
            for ((to, x), ((origin, offset), scale)) in to.iter_mut().zip(row).zip(columns) {
                let deviation = ((x.as_f64() - origin) - offset) / scale;
                // A feature of scale 0 is constant.
                *to = T::of_f64(if *scale > 0.0 { deviation } else { 0.0 });
            }
        }
    }
}

/// What a pass brings together of some rows: R of `Y = X B` and `Z = X^T Y` for the first columns of B.
pub(super) struct Image {
    /// `[min(rows, columns of B), columns of B]`, stored by columns; of a node below the root no more than
    /// [`most_stacked`] rows, of which R is to be made.
    pub r: Array2<f64>,
    /// `[d, l]`, stored by columns.
    z: Array2<f64>,
}

impl Image {
    /// From R, stored by columns, and Z, whose first columns R has.
    pub fn new(r: Array2<f64>, z: Array2<f64>) -> Self {
        Image { r, z }
    }

    /// The image of a block.
    fn of<T: Scalar>(
        block: &Block,
        columns: &Columns,
        directions: ArrayView2<T>,
        width: usize,
    ) -> Result<Image, PcaError> {
        let (n, d) = block.dim();
        let (one, as_is) = (T::one(), Transpose::No);
        let mut y = zeros::<T>(n, directions.ncols());
        let mut z = zeros::<T>(d, width);
        let mut deviations = vec![T::zero(); ROWS_AT_ONCE.min(n) * d];
        for start in (0..n).step_by(ROWS_AT_ONCE) {
            let strip = s![start..(start + ROWS_AT_ONCE).min(n), ..];
            let mut y = y.slice_mut(strip);
            let deviations = &mut deviations[..y.nrows() * d];
            on_rows!(block, rows => {
                let rows = rows.slice(strip);
                let to = &mut *deviations;
                vectorized(Isa::detect(), Deviations { rows, columns, to });
            });
            // What is stored by rows is, stored by columns, the transpose.
            let x = ArrayView2::from_shape((d, y.nrows()).f(), &*deviations);
            let x = x.expect("a number for each of the rows'");
            let (turned, x) = ((x, Transpose::Yes), (x, as_is));
            gemm(one, turned, (directions, as_is), T::zero(), y.view_mut())?;
            let y = (y.slice(s![.., ..width]), as_is);
            gemm(one, x, y, one, z.view_mut())?;
        }
        Image::stacked(T::widened(y), T::widened(z))
    }

    /// From rows with the R that is wanted, stored by columns.
    fn stacked(rows: Array2<f64>, z: Array2<f64>) -> Result<Image, PcaError> {
        let (height, l) = rows.dim();
        if height_of(height, l) == height {
            return Ok(Image { r: rows, z });
        }
        Image { r: rows, z }.factored()
    }

    /// With a triangle for R.
    fn factored(self) -> Result<Image, PcaError> {
        Ok(Image {
            r: qr::Factored::new(self.r)?.r(),
            z: self.z,
        })
    }

    fn merge(self, later: Image) -> Result<Image, PcaError> {
        let height = self.r.nrows();
        let mut rows = zeros(height + later.r.nrows(), self.r.ncols());
        let (mut above, mut below) = rows.view_mut().split_at(Axis(0), height);
        above.assign(&self.r);
        below.assign(&later.r);
        Image::stacked(rows, self.z + later.z)
    }

    fn to_message(&self) -> Vec<f64> {
        let mut message = vec![self.r.nrows() as f64, self.r.ncols() as f64];
        message.extend(self.r.t());
        message.extend(self.z.t());
        message
    }

    /// Numbers of the message of a node with an R of this height, for l directions, `width` of them in Z.
    fn message_numbers(d: usize, height: usize, (l, width): (usize, usize)) -> usize {
        2 + height * l + d * width
    }

    fn from_message(message: &[f64], d: usize) -> Image {
        let (height, width) = (message[0] as usize, message[1] as usize);
        let (r, z) = message[2..].split_at(height * width);
        let matrix = |numbers: &[f64], rows: usize| {
            let columns = numbers.len() / rows.max(1);
            Array2::from_shape_vec((columns, rows), numbers.to_vec())
                .expect("a message of whole columns")
                .reversed_axes()
        };
        Image {
            r: matrix(r, height),
            z: matrix(z, d),
        }
    }

    /// Singular values and right singular vectors of X V: R of its columns alone is a part of R.
    pub fn values(&self) -> Result<svd::Svd, PcaError> {
        let width = self.z.ncols();
        let height = self.r.nrows().min(width);
        let r = by_columns(self.r.slice(s![..height, ..width]));
        if !r.iter().all(|x| x.is_finite()) {
            return Err(PcaError::Overflow);
        }
        Ok(svd::svd(r)?)
    }

    /// `Z W`: each column is X^T X times an approximate singular vector.
    pub fn turned(&self, svd: &svd::Svd) -> Result<Array2<f64>, PcaError> {
        product(&self.z, svd)
    }

    /// `|X^T u - s v|` of every triplet, for the vectors V W as columns `[d, values]` and u = X v / s; 0 where
    /// X^T X v = s^2 v.
    pub fn residuals(&self, svd: &svd::Svd, vectors: &Array2<f64>) -> Result<Vec<f64>, PcaError> {
        // X^T u - s v = (X^T X v - s^2 v) / s.
        let mut differences = self.turned(svd)?;
        for ((mut difference, vector), value) in differences
            .columns_mut()
            .into_iter()
            .zip(vectors.columns())
            .zip(&svd.values)
        {
            difference.scaled_add(-value * value, &vector);
        }
        let lengths = norms::of_columns(differences.view()).into_iter();
        Ok(lengths
            .zip(&svd.values)
            .map(|(length, value)| if length == 0.0 { 0.0 } else { length / value })
            .collect())
    }

    /// An orthonormal basis of X^T X times the vectors: one more step of subspace iteration.
    pub fn next_basis(&self) -> Result<Array2<f64>, PcaError> {
        let svd = self.values()?;
        let turned = self.turned(&svd)?;
        if turned.ncols() == self.z.ncols() {
            return qr_basis(turned);
        }
        // Fewer rows than directions: what is beyond them stays as it was.
        let mut whole = self.z.clone();
        whole.slice_mut(s![.., ..turned.ncols()]).assign(&turned);
        qr_basis(whole)
    }
}

/// `matrix W` for the right singular vectors W.
pub(super) fn product(matrix: &Array2<f64>, svd: &svd::Svd) -> Result<Array2<f64>, PcaError> {
    let mut product = zeros(matrix.nrows(), svd.values.len());
    let turned = (svd.vt.view(), Transpose::Yes);
    gemm(1.0, plain(matrix), turned, 0.0, product.view_mut())?;
    Ok(product)
}

/// An orthonormal basis of the columns of a matrix `[d, l]`.
pub(super) fn qr_basis(matrix: Array2<f64>) -> Result<Array2<f64>, PcaError> {
    let width = matrix.ncols();
    Ok(qr::Factored::new(matrix)?.apply(&Array2::eye(width))?)
}

/// A matrix as a factor of a product.
pub(super) fn plain(matrix: &Array2<f64>) -> (ArrayView2<'_, f64>, Transpose) {
    (matrix.view(), Transpose::No)
}

/// The blocks that have rows, and the tree over them: every block is a leaf.
fn plan(rows: &Rows) -> (Vec<usize>, Plan) {
    let filled = |block: &usize| rows.rows_per_block[*block] > 0;
    let blocks: Vec<usize> = (0..rows.rows_per_block.len()).filter(filled).collect();
    let of = |values: &[usize]| -> Vec<usize> { blocks.iter().map(|&b| values[b]).collect() };
    let plan = Plan::new(&of(rows.rows_per_block), &of(rows.owner_of_block), 1);
    (blocks, plan)
}

/// Adds the bytes that each rank sends to another for passes over these rows, each with so many
/// directions, some of them in Z; and for each node that travels this many numbers more.
pub(super) fn add_bytes(
    sent: &mut [u64],
    rows: &Rows,
    passes: &[(usize, usize)],
    more_numbers: usize,
) {
    let (blocks, plan) = plan(rows);
    let mut add = |numbers_of: &dyn Fn(usize) -> usize| {
        for step in &plan.steps {
            if let Step::Merge { merge, at, from } = *step
                && at != from
            {
                sent[from] += (f64::BYTES * numbers_of(merge.right)) as u64;
            }
        }
    };
    add(&|_| more_numbers);
    for &directions in passes {
        let (l, _) = directions;
        let heights = blocks.iter().map(|&block| rows.rows_per_block[block]);
        let mut heights: Vec<usize> = heights.map(|height| height_of(height, l)).collect();
        for merge in &plan.merges {
            heights.push(height_of(heights[merge.left] + heights[merge.right], l));
        }
        add(&|node| Image::message_numbers(rows.width, heights[node], directions));
    }
}

/// The walk over the tree of blocks.
pub(super) struct Walk<'a, C> {
    pub comm: &'a C,
    plan: Plan,
    blocks: Vec<usize>,
    /// Rows of the largest block.
    block_rows: usize,
    width: usize,
}

impl<'a, C: Exchange> Walk<'a, C> {
    /// Over these rows, at least one.
    pub fn new(comm: &'a C, rows: &Rows) -> Self {
        let (blocks, plan) = plan(rows);
        Walk {
            comm,
            plan,
            blocks,
            block_rows: rows.rows_per_block.iter().copied().max().unwrap_or(0),
            width: rows.width,
        }
    }

    /// The rank that gets the result of a pass.
    pub fn root_rank(&self) -> usize {
        self.plan.root_rank
    }

    /// Makes a node of every block and its number, of about so many directions, and merges them; the rank of the root
    /// gets the last one.
    pub fn reduce<N: Send>(
        &self,
        read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
        directions: usize,
        leaf: impl Fn(usize, &Block) -> Result<N, PcaError> + Sync,
        merge: impl Fn(N, N) -> Result<N, PcaError>,
        to_message: impl Fn(&N) -> Vec<f64>,
        from_message: impl Fn(&[f64]) -> N,
    ) -> Result<Option<N>, PcaError> {
        let me = self.comm.rank();
        let mut mine: VecDeque<usize> = self
            .plan
            .steps
            .iter()
            .filter_map(|step| match *step {
                Step::Factor { leaf, rank } if rank == me => Some(leaf),
                _ => None,
            })
            .collect();
        let bytes = bytes_of_block(self.block_rows, self.width, directions);
        let (blocks, at_once) = tasks_of(bytes, rayon::current_num_threads());
        rayon::in_place_scope_fifo(|scope| {
            let mut nodes: BTreeMap<usize, N> = BTreeMap::new();
            let mut tasks = Tasks::new(scope);
            for step in &self.plan.steps {
                match *step {
                    Step::Factor { leaf: index, rank } if rank == me => loop {
                        // While this thread merges, the pool has blocks to go on with.
                        while tasks.running() < at_once && !mine.is_empty() {
                            let next = mine.drain(..blocks.min(mine.len()));
                            let next = next.map(|leaf| Ok((leaf, read(self.blocks[leaf])?)));
                            let next = next.collect::<Result<Vec<_>, PcaError>>()?;
                            let (numbers, leaf) = (&self.blocks, &leaf);
                            tasks.spawn(move || {
                                let next = next.into_iter();
                                let made =
                                    next.map(|(at, rows)| Ok((at, leaf(numbers[at], &rows)?)));
                                made.collect::<Result<Vec<_>, PcaError>>()
                            });
                        }
                        if nodes.contains_key(&index) {
                            break;
                        }
                        let made = tasks.next();
                        nodes.extend(made.map_err(|error| tasks.first_error(error, Result::err))?);
                    },
                    Step::Merge {
                        merge: Merge { node, left, right },
                        at,
                        from,
                    } if at == me => {
                        let left = take(&mut nodes, left);
                        let right = if from == me {
                            take(&mut nodes, right)
                        } else {
                            from_message(&self.comm.receive::<f64>(from))
                        };
                        nodes.insert(node, merge(left, right)?);
                    }
                    Step::Merge { merge, at, from } if from == me => {
                        self.comm
                            .send(&to_message(&take(&mut nodes, merge.right)), at);
                    }
                    // A block is a leaf of its own, so rows never move.
                    Step::Read { .. }
                    | Step::Move { .. }
                    | Step::Factor { .. }
                    | Step::Merge { .. } => {}
                }
            }
            Ok(nodes.pop_first().map(|(_, root)| root))
        })
    }

    /// A pass over the rows, which were read before and found finite: the image of all rows, at the root.
    pub fn pass<T: Scalar>(
        &self,
        read: &mut dyn FnMut(usize) -> Result<Block, PcaError>,
        columns: &Columns,
        directions: ArrayView2<f64>,
        width: usize,
    ) -> Result<Option<Image>, PcaError> {
        let directions = by_columns(directions.mapv(T::of_f64).view());
        let image = self.reduce(
            read,
            directions.ncols(),
            |_, block| Image::of(block, columns, directions.view(), width),
            Image::merge,
            Image::to_message,
            |message| Image::from_message(message, self.width),
        )?;
        image.map(Image::factored).transpose()
    }
}

/// Gives every rank a matrix of one of them, stored by columns.
pub(super) fn broadcast_by_columns(
    comm: &impl Exchange,
    root: usize,
    matrix: Option<Array2<f64>>,
    (rows, columns): (usize, usize),
) -> Array2<f64> {
    let mut numbers = matrix.map_or_else(Vec::new, |m| m.t().iter().copied().collect());
    comm.broadcast(&mut numbers, root);
    Array2::from_shape_vec((columns, rows), numbers)
        .expect("every rank knows the shape of the matrix")
        .reversed_axes()
}
