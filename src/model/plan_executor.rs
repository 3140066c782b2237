//! Runs the network's plan on the CPU.
//!
//! A batch is cut into groups of images; each thread takes a group at a time through the network,
//! with memory of its own. Where that would leave threads without work, as for a single image, all
//! threads take the groups through the network together, one after another. The result of an image
//! depends on none of this.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::kernels::{CacheSizes, Isa};
use crate::model::architecture::Architecture;
use crate::model::executor::{ExecuteError, Executor, InputSpec, all_finite};
use crate::model::plan::{Arena, Crew, GROUP, Plan};
use crate::model::{Layer, Pool, Precision, Tensors, Topology};

/// The compiled network with threads of its own.
pub struct PlanExecutor {
    plan: Plan,
    width: usize,
    input: InputSpec,
    threads: ThreadPool,
    arenas: Vec<Arena>,
}

impl PlanExecutor {
    /// Compiles the network for an instruction set and starts the threads.
    ///
    /// `epsilon` is what batch norms add to the variance: 1.001e-5 in Keras, 1e-5 elsewhere.
    ///
    /// # Errors
    ///
    /// The weights are not those of a ResNet-50, the processor lacks the instruction set, or the
    /// system gives no threads.
    ///
    /// # Panics
    ///
    /// When `threads` is zero.
    #[expect(clippy::too_many_arguments, reason = "each is one choice of the user")]
    pub fn new(
        state: Tensors,
        topology: Topology,
        layer: Layer,
        pool: Pool,
        epsilon: f64,
        input: InputSpec,
        threads: usize,
        isa: Isa,
        precision: Precision,
    ) -> Result<PlanExecutor, ExecuteError> {
        assert!(threads > 0, "a network needs a thread to run on");
        let architecture = Architecture::infer(&state)?;
        let pool_of_threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("network-{index}"))
            .build()
            .map_err(|source| ExecuteError::Threads { threads, source })?;
        let plan = pool_of_threads
            .install(|| {
                Plan::compile(
                    state,
                    architecture,
                    topology,
                    layer,
                    pool,
                    epsilon,
                    input.side,
                    &input.normalization,
                    isa,
                    precision,
                    &CacheSizes::detect(),
                )
            })
            .ok_or(ExecuteError::InstructionSet { isa, precision })?;
        let arenas = (0..threads).map(|_| plan.arena()).collect();
        Ok(PlanExecutor {
            plan,
            width: architecture.features(layer, pool, input.side),
            input,
            threads: pool_of_threads,
            arenas,
        })
    }
}

impl Executor for PlanExecutor {
    fn describe(&self) -> String {
        let threads = self.arenas.len();
        let plural = if threads == 1 { "" } else { "s" };
        let arithmetic = self.plan.arithmetic();
        format!("p8's own kernels on the CPU, {arithmetic}, {threads} thread{plural}")
    }

    fn arithmetic(&self) -> String {
        format!("plan {}", self.plan.arithmetic())
    }

    fn width(&self) -> usize {
        self.width
    }

    fn features(&mut self, images: &[&[u8]]) -> Result<Vec<f32>, ExecuteError> {
        self.input.check(images)?;
        let mut features = vec![0.0; images.len() * self.width];
        let (plan, width, threads) = (&self.plan, self.width, self.arenas.len());
        if is_better_together(images.len(), threads) {
            let arena = &mut self.arenas[0];
            let rows = features.chunks_mut(GROUP * width);
            self.threads.install(|| {
                for (rows, images) in rows.zip(images.chunks(GROUP)) {
                    plan.run(Crew::Pool(threads), arena, images, rows);
                }
            });
            return all_finite(features, width);
        }
        let share = images.len().div_ceil(threads).clamp(1, GROUP);
        let rows = features.chunks_mut(share * width);
        let queue = Mutex::new(rows.zip(images.chunks(share)));
        let queue = &queue;
        self.threads.in_place_scope(|scope| {
            for arena in &mut self.arenas {
                scope.spawn(move |_| {
                    loop {
                        // The lock is held for no longer than taking the next group.
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((rows, images)) = next else { break };
                        plan.run(Crew::Alone, arena, images, rows);
                    }
                });
            }
        });
        all_finite(features, self.width)
    }
}

/// Whether a batch is done sooner when all threads share every layer than when each has images of
/// its own: sharing costs waiting for each other at every layer, which pays where more than a
/// quarter of the threads' time would go to waste.
fn is_better_together(images: usize, threads: usize) -> bool {
    let rounds = images.div_ceil(threads);
    4 * images <= 3 * rounds * threads
}

#[cfg(test)]
mod tests;
