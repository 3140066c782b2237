//! The reduction tree: which rows form a leaf, who factors it, who merges with whom. Pure data.
//!
//! Leaves are fixed runs of consecutive blocks with enough rows, and the tree over the leaves
//! pairs neighbours level by level. Neither depends on the ranks, so neither do the bits of R. The
//! ranks only decide *where* a step happens: a leaf is factored by the owner of its first block,
//! and a merge happens at the owner of its left child, to which the right node travels.
//!
//! Ten blocks on three ranks; node numbers in brackets, the leaves first:
//!
//! ```text
//! rank       |     0     |       1       |     2     |
//! block      |  0  1  2  |  3  4  5  6   |  7  8  9  |
//! leaf        [  0 ][  1  ][  2  ][         3        ]
//! factored by    0     0      1             1           blocks 3, 7, 8, 9 move to the left
//!                 \   /        \           /
//! level 1         [4] 0          [5] 1                  both children on one rank: nothing moves
//!                    \          /
//! level 2             `-- [6] 0 '                       node 5 moves from rank 1 to rank 0
//! ```
//!
//! A rank walks its own steps in the order of [`Plan::steps`], and every step of that one list
//! involves at most two ranks; so the earliest unfinished step can always go on, even if a send
//! waits for its receiver, and the walk cannot hang. The list is made so that ranks do not wait for
//! each other more than they must: first everything inside a rank, then the leaves that cross a
//! boundary between ranks (every second one first, as neighbours may share a rank), then the rest
//! of the tree by levels. Inside a rank a merge follows as soon as its children are there, so a
//! rank holds O(log leaves) nodes, never one for each leaf.

use std::collections::BTreeMap;
use std::ops::Range;

/// A run of blocks whose rows are factored together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The blocks, in order.
    pub blocks: Range<usize>,
    /// The rank that factors it.
    pub owner: usize,
}

/// One node of the tree made of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// The new node.
    pub node: usize,
    /// The node over the earlier rows.
    pub left: usize,
    /// The node over the later rows.
    pub right: usize,
}

/// One step of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `rank` reads a block of its own and keeps the rows for their leaf.
    Read {
        /// The block.
        block: usize,
        /// Its owner.
        rank: usize,
    },
    /// The rows of a block travel to the owner of the leaf.
    Move {
        /// The block.
        block: usize,
        /// Its owner.
        from: usize,
        /// The owner of its leaf.
        to: usize,
    },
    /// `rank` factors a leaf, all of whose rows it holds.
    Factor {
        /// The leaf, which is also its node.
        leaf: usize,
        /// Its owner.
        rank: usize,
    },
    /// `at` merges two nodes; the right one comes from rank `from`, which may be `at` itself.
    Merge {
        /// What is merged.
        merge: Merge,
        /// The owner of the left node, and of the new one.
        at: usize,
        /// The owner of the right node.
        from: usize,
    },
}

/// The tree over some blocks, and where and when each of its steps happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The leaves; leaf i is node i.
    pub leaves: Vec<Leaf>,
    /// The inner nodes by level, left to right; node `leaves.len() + i` is made by merge i.
    pub merges: Vec<Merge>,
    /// Who does what, in an order that every rank may follow.
    pub steps: Vec<Step>,
    /// The rank that ends up with the root.
    pub root_rank: usize,
}

/// Cuts blocks into runs of at least `enough` rows: as many as go, and of nearly the same number of
/// rows, so that ranks and threads which share them out finish together. Where there is not enough for
/// two runs, one takes everything.
pub fn leaves(rows_per_block: &[usize], enough: usize) -> Vec<Range<usize>> {
    let enough = enough.max(1);
    let mut rows_left: usize = rows_per_block.iter().sum();
    let mut runs_left = most_runs(rows_per_block, enough);
    let mut runs: Vec<Range<usize>> = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (block, &count) in rows_per_block.iter().enumerate() {
        rows += count;
        let next = rows_per_block.get(block + 1).copied().unwrap_or(0);
        // Half of the next block or more would lie beyond the even share.
        let is_share = (2 * rows + next) * runs_left >= 2 * rows_left;
        if runs_left > 1 && rows >= enough && is_share {
            runs.push(start..block + 1);
            rows_left -= rows;
            runs_left -= 1;
            (start, rows) = (block + 1, 0);
        }
    }
    let end = rows_per_block.len();
    match runs.last_mut() {
        Some(last) if rows < enough => last.end = end,
        _ => runs.push(start..end),
    }
    runs
}

/// The largest number of runs of at least `enough` rows.
fn most_runs(rows_per_block: &[usize], enough: usize) -> usize {
    let (mut runs, mut rows) = (0, 0);
    for count in rows_per_block {
        rows += count;
        if rows >= enough {
            runs += 1;
            rows = 0;
        }
    }
    runs
}

/// The merges that pair neighbours level by level; an odd node at the end waits for the next level.
pub fn merges(leaves: usize) -> Vec<Merge> {
    let mut merges = Vec::new();
    let mut level: Vec<usize> = (0..leaves).collect();
    while level.len() > 1 {
        let mut next = Vec::with_capacity(level.len().div_ceil(2));
        for pair in level.chunks(2) {
            match *pair {
                [left, right] => {
                    let node = leaves + merges.len();
                    merges.push(Merge { node, left, right });
                    next.push(node);
                }
                _ => next.extend_from_slice(pair),
            }
        }
        level = next;
    }
    merges
}

impl Plan {
    /// Plans leaves of at least `enough` rows over blocks of `rows_per_block` rows, of which block
    /// b belongs to rank `owner_of_block[b]`.
    ///
    /// # Panics
    /// If there is no block, the lengths differ, or the owners are not in ascending order.
    pub fn new(rows_per_block: &[usize], owner_of_block: &[usize], enough: usize) -> Plan {
        assert!(!rows_per_block.is_empty(), "a plan needs a block");
        assert_eq!(
            rows_per_block.len(),
            owner_of_block.len(),
            "one owner a block"
        );
        assert!(
            owner_of_block.is_sorted(),
            "ranks own runs of blocks in rank order"
        );
        let leaves: Vec<Leaf> = leaves(rows_per_block, enough)
            .into_iter()
            .map(|blocks| Leaf {
                owner: owner_of_block[blocks.start],
                blocks,
            })
            .collect();
        let merges = merges(leaves.len());
        let steps = Scheduler::new(&leaves, &merges).schedule(owner_of_block);
        Plan {
            root_rank: leaves[0].owner,
            leaves,
            merges,
            steps,
        }
    }
}

/// The rank that makes each node, by node.
fn owners(leaves: &[Leaf], merges: &[Merge]) -> Vec<usize> {
    let mut owners: Vec<usize> = leaves.iter().map(|leaf| leaf.owner).collect();
    for merge in merges {
        owners.push(owners[merge.left]);
    }
    owners
}

/// Writes the list of steps while it follows which nodes are made.
struct Scheduler<'a> {
    leaves: &'a [Leaf],
    merges: &'a [Merge],
    owner: Vec<usize>,
    /// The merge that takes each node; `None` for the root.
    taken_by: Vec<Option<usize>>,
    made: Vec<bool>,
    steps: Vec<Step>,
}

impl<'a> Scheduler<'a> {
    fn new(leaves: &'a [Leaf], merges: &'a [Merge]) -> Self {
        let nodes = leaves.len() + merges.len();
        let mut taken_by = vec![None; nodes];
        for (index, merge) in merges.iter().enumerate() {
            taken_by[merge.left] = Some(index);
            taken_by[merge.right] = Some(index);
        }
        Scheduler {
            leaves,
            merges,
            owner: owners(leaves, merges),
            taken_by,
            made: vec![false; nodes],
            steps: Vec::new(),
        }
    }

    fn schedule(mut self, owner_of_block: &[usize]) -> Vec<Step> {
        let leaves = self.leaves;
        let crosses = |leaf: &Leaf| {
            owner_of_block[leaf.blocks.clone()]
                .iter()
                .any(|o| *o != leaf.owner)
        };
        // Inside the ranks, in block order. Of a leaf that crosses a boundary every rank reads its
        // own part here, so that blocks are read in order and once.
        for (index, leaf) in leaves.iter().enumerate() {
            for block in leaf.blocks.clone() {
                self.steps.push(Step::Read {
                    block,
                    rank: owner_of_block[block],
                });
            }
            if !crosses(leaf) {
                self.factor(index);
            }
        }
        let crossing: Vec<usize> = (0..leaves.len()).filter(|i| crosses(&leaves[*i])).collect();
        let (even, odd) = (
            crossing.iter().step_by(2),
            crossing.iter().skip(1).step_by(2),
        );
        for &index in even.chain(odd) {
            let leaf = &leaves[index];
            for block in leaf.blocks.clone() {
                if owner_of_block[block] != leaf.owner {
                    let from = owner_of_block[block];
                    self.steps.push(Step::Move {
                        block,
                        from,
                        to: leaf.owner,
                    });
                }
            }
            self.factor(index);
        }
        for index in 0..self.merges.len() {
            if !self.made[self.merges[index].node] {
                self.merge(index);
            }
        }
        self.steps
    }

    /// Factors a leaf, then makes every node above it that its rank can make alone.
    fn factor(&mut self, leaf: usize) {
        self.steps.push(Step::Factor {
            leaf,
            rank: self.leaves[leaf].owner,
        });
        self.made[leaf] = true;
        let mut node = leaf;
        while let Some(index) = self.taken_by[node] {
            let Merge {
                left,
                right,
                node: above,
            } = self.merges[index];
            let local = self.owner[left] == self.owner[right];
            if !(local && self.made[left] && self.made[right]) {
                return;
            }
            self.merge(index);
            node = above;
        }
    }

    fn merge(&mut self, index: usize) {
        let merge = self.merges[index];
        let (at, from) = (self.owner[merge.left], self.owner[merge.right]);
        self.steps.push(Step::Merge { merge, at, from });
        self.made[merge.node] = true;
    }
}

/// Takes something that a step needs out of what a rank holds.
///
/// # Panics
/// If it is not there; a plan brings everything before it is used.
pub fn take<T>(held: &mut BTreeMap<usize, T>, key: usize) -> T {
    held.remove(&key)
        .expect("the plan brings everything before it is used")
}

/// Gives `count` things to `size` ranks in runs whose lengths differ by one at most; returns the
/// rank of each.
pub fn even_runs(count: usize, size: usize) -> Vec<usize> {
    (0..count).map(|i| i * size.min(count) / count).collect()
}

/// The partner of `rank` in one round of an exchange between all pairs; `None` where it has a rest.
///
/// In round c, 0 <= c < size, ranks a and b with a + b = c (mod size) meet. Every pair meets once, and
/// a round pairs each rank with at most one other, so all pairs of a round exchange at once.
pub fn partner(round: usize, rank: usize, size: usize) -> Option<usize> {
    let partner = (round + size - rank) % size;
    (partner != rank).then_some(partner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Uneven blocks, some of them empty.
    fn rows(blocks: usize) -> Vec<usize> {
        (0..blocks)
            .map(|b| if b % 5 == 3 { 0 } else { 1 + (b * 7) % 4 })
            .collect()
    }

    #[test]
    fn the_picture_above_is_what_the_plan_says() {
        let owner = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2];
        let plan = Plan::new(&[1; 10], &owner, 2);
        assert_eq!(leaves(&[1; 10], 2).len(), 5);
        let plan_of_picture = Plan::new(&[1, 1, 1, 1, 1, 1, 1, 0, 0, 1], &owner, 2);
        let runs: Vec<_> = plan_of_picture
            .leaves
            .iter()
            .map(|l| (l.blocks.clone(), l.owner))
            .collect();
        assert_eq!(runs, [(0..2, 0), (2..4, 0), (4..6, 1), (6..10, 1)]);
        let moved: Vec<usize> = plan_of_picture
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Move { block, .. } => Some(*block),
                _ => None,
            })
            .collect();
        assert_eq!(moved, [3, 7, 8, 9]);
        assert_eq!(
            plan_of_picture.steps.last(),
            Some(&Step::Merge {
                merge: Merge {
                    node: 6,
                    left: 4,
                    right: 5
                },
                at: 0,
                from: 1
            })
        );
        assert_eq!(plan.root_rank, 0);
    }

    #[test]
    fn leaves_cover_every_block_once_and_are_large_enough() {
        for blocks in 1..=200 {
            let rows = rows(blocks);
            for enough in [0, 1, 2, 7, 50, 10_000] {
                let runs = leaves(&rows, enough);
                let covered: Vec<usize> = runs.iter().flat_map(Clone::clone).collect();
                assert_eq!(covered, (0..blocks).collect::<Vec<_>>());
                let sizes = runs
                    .iter()
                    .map(|run| rows[run.clone()].iter().sum::<usize>());
                assert!(runs.len() == 1 || sizes.min() >= Some(enough));
            }
        }
    }

    #[test]
    fn leaves_have_about_the_same_number_of_rows() {
        for blocks in 1..=300 {
            for (block, enough) in [(157, 4096), (128, 4096), (1, 5), (3, 7)] {
                let runs = leaves(&vec![block; blocks], enough);
                let sizes: Vec<usize> = runs.iter().map(|run| block * run.len()).collect();
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                assert!(most - least <= 2 * block, "{blocks} blocks: {sizes:?}");
                // No run could be taken from the others: they are as many as go.
                assert_eq!(runs.len(), (blocks / enough.div_ceil(block)).max(1));
            }
        }
        // 20000 rows in blocks of 157: four leaves, which two ranks share evenly.
        let mut rows = vec![157; 127];
        rows.push(61);
        assert_eq!(leaves(&rows, 4096), [0..32, 32..64, 64..96, 96..128]);
    }

    #[test]
    fn the_tree_is_the_same_for_every_number_of_ranks() {
        for blocks in 1..=200 {
            let rows = rows(blocks);
            let alone = Plan::new(&rows, &vec![0; blocks], 5);
            for size in 1..=16 {
                let plan = Plan::new(&rows, &even_runs(blocks, size), 5);
                assert_eq!(plan.merges, alone.merges);
                let runs = |plan: &Plan| {
                    plan.leaves
                        .iter()
                        .map(|l| l.blocks.clone())
                        .collect::<Vec<_>>()
                };
                assert_eq!(runs(&plan), runs(&alone));
            }
        }
    }

    /// Walks the steps as ranks with waiting sends would and checks that everything is there when
    /// it is needed, where it is needed, and exactly once.
    fn check(plan: &Plan, owner_of_block: &[usize]) {
        let mut rows_at: HashSet<(usize, usize)> = HashSet::new();
        let mut nodes_at: HashSet<(usize, usize)> = HashSet::new();
        let mut read = vec![0; owner_of_block.len()];
        for step in &plan.steps {
            match *step {
                Step::Read { block, rank } => {
                    assert_eq!(owner_of_block[block], rank);
                    assert!(rows_at.insert((block, rank)));
                    read[block] += 1;
                }
                Step::Move { block, from, to } => {
                    assert_ne!(from, to);
                    assert!(rows_at.remove(&(block, from)));
                    assert!(rows_at.insert((block, to)));
                }
                Step::Factor { leaf, rank } => {
                    for block in plan.leaves[leaf].blocks.clone() {
                        assert!(
                            rows_at.remove(&(block, rank)),
                            "leaf {leaf} lacks block {block}"
                        );
                    }
                    assert!(nodes_at.insert((leaf, rank)));
                }
                Step::Merge { merge, at, from } => {
                    assert!(nodes_at.remove(&(merge.left, at)));
                    assert!(nodes_at.remove(&(merge.right, from)));
                    assert!(nodes_at.insert((merge.node, at)));
                }
            }
        }
        let root = plan.leaves.len() + plan.merges.len() - 1;
        assert!(rows_at.is_empty() && read.iter().all(|count| *count == 1));
        assert_eq!(nodes_at, HashSet::from([(root, plan.root_rank)]));
    }

    #[test]
    fn every_row_and_node_is_where_a_step_needs_it() {
        for blocks in 1..=200 {
            let rows = rows(blocks);
            for size in 1..=16 {
                let owner = even_runs(blocks, size);
                check(&Plan::new(&rows, &owner, 1 + blocks % 9), &owner);
            }
        }
        // Ranks without blocks before, between and after the others; one leaf over all ranks.
        for owner in [vec![2, 2, 5, 5], vec![3, 4, 5, 6], vec![0, 0, 0, 9]] {
            for enough in [1, 2, 3, 100] {
                check(&Plan::new(&[1, 1, 1, 1], &owner, enough), &owner);
            }
        }
    }

    #[test]
    fn a_rank_reads_its_blocks_in_order() {
        let owner = even_runs(50, 4);
        let plan = Plan::new(&rows(50), &owner, 11);
        for rank in 0..4 {
            let read: Vec<usize> = plan
                .steps
                .iter()
                .filter_map(|step| match step {
                    Step::Read {
                        block,
                        rank: reader,
                    } if *reader == rank => Some(*block),
                    _ => None,
                })
                .collect();
            assert!(read.is_sorted() && !read.is_empty());
        }
    }

    #[test]
    fn a_rank_holds_few_nodes_and_few_rows() {
        let blocks = 4096;
        let owner = even_runs(blocks, 3);
        let plan = Plan::new(&vec![1; blocks], &owner, 2);
        let (mut nodes, mut most_nodes) = ([0_usize; 3], 0);
        let (mut held, mut most_held) = ([0_usize; 3], 0);
        for step in &plan.steps {
            match *step {
                Step::Read { rank, .. } => held[rank] += 1,
                Step::Move { from, to, .. } => {
                    held[from] -= 1;
                    held[to] += 1;
                }
                Step::Factor { leaf, rank } => {
                    held[rank] -= plan.leaves[leaf].blocks.len();
                    nodes[rank] += 1;
                }
                // The left node becomes the new one.
                Step::Merge { from, .. } => nodes[from] -= 1,
            }
            most_nodes = most_nodes.max(nodes.into_iter().max().unwrap_or(0));
            most_held = most_held.max(held.into_iter().max().unwrap_or(0));
        }
        assert!(most_nodes <= 2 * 12, "{most_nodes} nodes at once");
        assert!(most_held <= 2 * 3, "{most_held} blocks at once");
    }

    #[test]
    fn every_pair_of_ranks_meets_once() {
        for size in 1..=16 {
            let mut met = HashSet::new();
            for round in 0..size {
                for rank in 0..size {
                    if let Some(other) = partner(round, rank, size) {
                        assert_eq!(partner(round, other, size), Some(rank));
                        assert!(met.insert((rank, other)), "{rank} meets {other} twice");
                    }
                }
            }
            assert_eq!(met.len(), size * (size - 1));
        }
    }

    #[test]
    fn even_runs_differ_by_one_at_most() {
        for count in 1..=200_usize {
            for size in 1..=16_usize {
                let runs = even_runs(count, size);
                assert!(runs.is_sorted());
                let lengths: Vec<usize> = (0..size.min(count))
                    .map(|r| runs.iter().filter(|o| **o == r).count())
                    .collect();
                assert_eq!(lengths.iter().sum::<usize>(), count);
                let (least, most) = (lengths.iter().min(), lengths.iter().max());
                assert!(most.unwrap() - least.unwrap() <= 1);
            }
        }
    }
}
