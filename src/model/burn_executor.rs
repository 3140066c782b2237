//! Runs the burn module on the CPU.
//!
//! Every image goes through the network alone and on one thread, so that no operation can see the
//! size of the batch or the number of threads; images run side by side. burn's operations ask rayon
//! how wide they may run, so each thread is a rayon pool of its own, one thread wide. That is also
//! the fastest way: with a pool shared by all images, two threads had 0.88 of this rate.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::image::normalize;
use crate::kernels::Isa;
use crate::model::architecture::Architecture;
use crate::model::executor::{ExecuteError, Executor, InputSpec, all_finite};
use crate::model::resnet50::{ResNet50, pool};
use crate::model::{Layer, Pool, Tensors, Topology};

/// The implementations of burn's operations that run on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BurnBackend {
    /// burn-flex: im2col and a tiled matrix product.
    Flex,
    /// burn-ndarray: direct convolutions, about twenty times slower; kept as a second opinion.
    NdArray,
}

impl BurnBackend {
    /// The crate that implements it.
    pub fn as_str(self) -> &'static str {
        match self {
            BurnBackend::Flex => "burn-flex",
            BurnBackend::NdArray => "burn-ndarray",
        }
    }

    fn device(self) -> Device {
        match self {
            BurnBackend::Flex => Device::flex(),
            #[expect(deprecated, reason = "burn 0.22 is the last to have this backend")]
            BurnBackend::NdArray => Device::ndarray(),
        }
    }
}

/// The burn module on a CPU backend, with threads of its own.
pub struct BurnExecutor {
    network: ResNet50,
    layer: Layer,
    pool: Pool,
    width: usize,
    input: InputSpec,
    backend: BurnBackend,
    device: Device,
    workers: Vec<ThreadPool>,
}

impl BurnExecutor {
    /// Loads the weights and starts the threads.
    ///
    /// `epsilon` is that of the batch norms; see [`ResNet50::load`].
    ///
    /// # Errors
    ///
    /// The weights are not those of a ResNet-50, or the system gives no threads.
    ///
    /// # Panics
    ///
    /// When `threads` is zero.
    #[expect(clippy::too_many_arguments, reason = "each is one choice of the user")]
    pub fn new(
        state: &Tensors,
        topology: Topology,
        layer: Layer,
        pool: Pool,
        epsilon: f64,
        input: InputSpec,
        backend: BurnBackend,
        threads: usize,
    ) -> Result<BurnExecutor, ExecuteError> {
        assert!(threads > 0, "a network needs a thread to run on");
        let architecture = Architecture::infer(state)?;
        let device = backend.device();
        let network = ResNet50::load(state, topology, epsilon, &device)?;
        let worker = |index| {
            ThreadPoolBuilder::new()
                .num_threads(1)
                .thread_name(move |_| format!("network-{index}"))
                .build()
                .map_err(|source| ExecuteError::Threads { threads, source })
        };
        let workers = (0..threads).map(worker).collect::<Result<_, _>>()?;
        Ok(BurnExecutor {
            network,
            layer,
            pool,
            width: architecture.features(layer, pool, input.side),
            input,
            backend,
            device,
            workers,
        })
    }

    /// Features of one image.
    fn one(&self, image: &[u8]) -> Vec<f32> {
        let side = self.input.side;
        let data = TensorData::new(
            normalize(image, &self.input.normalization),
            [1, 3, side, side],
        );
        let maps = self
            .network
            .forward(Tensor::from_data(data, &self.device), self.layer);
        pool(maps, self.pool)
            .into_data()
            .try_into_vec()
            .expect("a network in f32 gives f32")
    }
}

impl Executor for BurnExecutor {
    fn describe(&self) -> String {
        let threads = self.workers.len();
        let plural = if threads == 1 { "" } else { "s" };
        format!(
            "{} on the CPU, {threads} thread{plural}",
            self.backend.as_str()
        )
    }

    fn arithmetic(&self) -> String {
        // Both backends choose kernels by the instruction set, which decides the order of sums.
        format!("{} f32 {}", self.backend.as_str(), Isa::detect())
    }

    fn width(&self) -> usize {
        self.width
    }

    fn features(&mut self, images: &[&[u8]]) -> Result<Vec<f32>, ExecuteError> {
        self.input.check(images)?;
        let mut features = vec![0.0; images.len() * self.width];
        let rows = features.chunks_exact_mut(self.width);
        let queue = Mutex::new(rows.zip(images));
        on_every(&self.workers, &|| {
            loop {
                // The lock is held for no longer than taking the next image from the queue.
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((row, image)) = next else { break };
                row.copy_from_slice(&self.one(image));
            }
        });
        all_finite(features, self.width)
    }
}

/// Runs `task` once in each pool, all at the same time, and waits; a panic in one comes out here.
fn on_every(pools: &[ThreadPool], task: &(dyn Fn() + Sync)) {
    if let [first, rest @ ..] = pools {
        first.in_place_scope(|scope| {
            scope.spawn(|_| task());
            on_every(rest, task);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{Classify, Kind};
    use crate::image::{ChannelOrder, Normalization};
    use crate::model::reference::{self, relative_l2};
    use crate::model::seeded::seeded;

    fn executor(
        state: &Tensors,
        (layer, pool): (Layer, Pool),
        side: usize,
        backend: BurnBackend,
        threads: usize,
    ) -> BurnExecutor {
        let input = InputSpec {
            side,
            ..InputSpec::CAFFE
        };
        let topology = Topology::V1_5;
        BurnExecutor::new(state, topology, layer, pool, 1e-5, input, backend, threads)
            .expect("weights fit")
    }

    /// Images with some structure, all different.
    fn images(n: usize, side: usize) -> Vec<Vec<u8>> {
        let pixel = |image: usize, at: usize| {
            let (row, column) = (at / 3 / side, at / 3 % side);
            ((row * (image + 2)) ^ (column * (image + 3)) ^ (at % 3 * 85)) as u8
        };
        (0..n)
            .map(|image| (0..side * side * 3).map(|at| pixel(image, at)).collect())
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    /// Features of `images` in batches of `batch`, by `executor`.
    fn in_batches(executor: &mut BurnExecutor, images: &[Vec<u8>], batch: usize) -> Vec<u32> {
        let slices: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let batches = slices.chunks(batch);
        batches
            .flat_map(|batch| bits(&executor.features(batch).expect("features")))
            .collect()
    }

    fn same_bits_everywhere(
        state: &Tensors,
        output: (Layer, Pool),
        images: &[Vec<u8>],
        side: usize,
        backend: BurnBackend,
        batches: &[usize],
    ) {
        let mut alone = executor(state, output, side, backend, 1);
        let expected = in_batches(&mut alone, images, 1);
        assert_eq!(expected.len(), images.len() * alone.width());
        for threads in [1, 2, 3] {
            let mut executor = executor(state, output, side, backend, threads);
            for &batch in batches {
                let found = in_batches(&mut executor, images, batch);
                let same = found == expected;
                assert!(same, "{} threads {threads} batch {batch}", backend.as_str());
            }
        }
    }

    #[test]
    fn an_image_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
        let output = (Layer::Layer4, Pool::None);
        let state = seeded(3);
        same_bits_everywhere(
            &state,
            output,
            &images(5, 64),
            64,
            BurnBackend::Flex,
            &[1, 2, 5],
        );
    }

    #[test]
    fn the_ndarray_backend_has_the_same_bits_too() {
        let Some(folder) = reference::folder() else {
            return;
        };
        let state =
            reference::tensors(&folder.join("tiny/tiny-resnet50-f32.safetensors"), |_| true);
        let output = (Layer::Layer4, Pool::Avg);
        let backend = BurnBackend::NdArray;
        same_bits_everywhere(&state, output, &images(5, 64), 64, backend, &[1, 2, 5]);
    }

    #[test]
    fn seeded_features_keep_the_size_of_the_input_and_tell_images_apart() {
        let images = images(2, 64);
        let slices: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let size = |values: &[f32]| {
            let sum: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            (sum / values.len() as f64).sqrt()
        };
        let input = InputSpec {
            side: 64,
            ..InputSpec::CAFFE
        };
        let input_size = size(&normalize(&images[0], &input.normalization));
        let state = seeded(50);
        for layer in Layer::ALL {
            let output = (layer, Pool::None);
            let mut executor = executor(&state, output, 64, BurnBackend::Flex, 2);
            let features = executor.features(&slices).expect("features");
            let (first, second) = features.split_at(executor.width());
            let growth = size(first) / input_size;
            assert!((0.2..5.0).contains(&growth), "{layer}: {growth}");
            let difference = relative_l2(first, second);
            assert!(difference > 0.05, "{layer}: {difference}");
        }
    }

    #[test]
    fn the_executor_gives_the_golden_features_of_a_photograph() {
        let Some(folder) = reference::folder() else {
            return;
        };
        let key = "v1.layer3.avg";
        let golden = reference::tensors(&folder.join("golden/features.safetensors"), |k| k == key);
        let state = reference::tensors(
            &folder.join("weights/resnet50-msra-stage4.safetensors"),
            |_| true,
        );
        let photos = reference::photos(&folder);
        let photos: Vec<&[u8]> = photos[..2].iter().map(Vec::as_slice).collect();
        let run = |input| {
            let (topology, layer, pool) = (Topology::V1, Layer::Layer3, Pool::Avg);
            let backend = BurnBackend::Flex;
            BurnExecutor::new(&state, topology, layer, pool, 1e-5, input, backend, 2)
                .expect("weights fit")
                .features(&photos)
                .expect("features")
        };
        let expected = &golden[key].data[..2 * 1024];
        let right = run(InputSpec::CAFFE);
        let red_first = Normalization {
            order: ChannelOrder::Rgb,
            mean: [123.68, 116.779, 103.939],
            ..Normalization::CAFFE
        };
        let wrong = run(InputSpec {
            normalization: red_first,
            ..InputSpec::CAFFE
        });
        for row in 0..2 {
            let row = row * 1024..(row + 1) * 1024;
            let error = relative_l2(&right[row.clone()], &expected[row.clone()]);
            assert!(error <= 2e-6, "{error:e}");
            let error = relative_l2(&wrong[row.clone()], &expected[row]);
            assert!(error > 0.3, "red first should be far off, is {error:e}");
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused() {
        let state = seeded(1);
        let output = (Layer::Layer1, Pool::Avg);
        let mut executor = executor(&state, output, 32, BurnBackend::Flex, 1);
        let (right, wrong) = (vec![0; 32 * 32 * 3], vec![0; 31 * 32 * 3]);
        let error = executor.features(&[&right, &wrong]).expect_err("31 rows");
        assert_eq!(error.kind(), Kind::Internal);
        assert_eq!(
            error.to_string(),
            "image 1 of a batch has 2976 bytes instead of 3072"
        );
    }

    #[test]
    fn overflow_is_an_error_and_not_a_feature() {
        let mut state = seeded(1);
        let gamma = state.get_mut("bn1.weight").expect("in the network");
        gamma.data.fill(f32::MAX);
        let output = (Layer::Layer1, Pool::Avg);
        let mut executor = executor(&state, output, 32, BurnBackend::Flex, 1);
        let error = executor
            .features(&[&images(1, 32)[0]])
            .expect_err("overflow");
        assert_eq!(error.kind(), Kind::Numerical);
    }

    #[test]
    fn an_empty_batch_has_no_features() {
        let output = (Layer::Layer1, Pool::Avg);
        let mut executor = executor(&seeded(1), output, 32, BurnBackend::Flex, 1);
        assert!(executor.features(&[]).expect("nothing to do").is_empty());
        assert_eq!(executor.describe(), "burn-flex on the CPU, 1 thread");
    }

    fn pools(n: usize) -> Vec<ThreadPool> {
        let pool = |_| ThreadPoolBuilder::new().num_threads(1).build();
        (0..n).map(pool).collect::<Result<_, _>>().expect("threads")
    }

    #[test]
    fn pools_are_one_thread_wide_and_work_at_the_same_time() {
        let all_at_work = Barrier::new(3);
        on_every(&pools(3), &|| {
            assert_eq!(rayon::current_num_threads(), 1);
            all_at_work.wait();
        });
    }

    #[test]
    #[should_panic(expected = "in the second pool")]
    fn a_panic_in_a_pool_comes_out() {
        let started = AtomicUsize::new(0);
        on_every(&pools(2), &|| {
            assert_eq!(
                started.fetch_add(1, Ordering::SeqCst),
                0,
                "in the second pool"
            );
        });
    }
}
