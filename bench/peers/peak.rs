//! The most multiply-adds that the processor computes in a second, from registers alone: what no
//! direct convolution can pass.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// Steps of one measurement; each is one multiply-add into every accumulator.
const STEPS: usize = 1 << 24;

/// Measurements of which the fastest counts.
const REPEATS: usize = 20;

/// Rates of all threads together in GFLOP/s (a multiply-add is two operations): `f32`, and `bf16`
/// where the processor has dot products of bf16 pairs; `null` where there is no kernel.
pub fn measure(threads: usize) -> serde_json::Value {
    serde_json::json!({
        "threads": threads,
        "f32": together(threads, f32_loop()),
        "bf16": together(threads, bf16_loop()),
    })
}

/// A loop of [`STEPS`] steps, and the operations of one step.
type Loop = (fn(), usize);

fn together(threads: usize, lone: Option<Loop>) -> Option<f64> {
    let (steps, operations) = lone?;
    let best = (0..REPEATS)
        .map(|_| {
            let barrier = Barrier::new(threads);
            thread::scope(|scope| {
                let workers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            let start = Instant::now();
                            steps();
                            start.elapsed().as_secs_f64()
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap_or(f64::INFINITY))
                    .fold(0.0, f64::max)
            })
        })
        .fold(f64::INFINITY, f64::min);
    Some((threads * STEPS * operations) as f64 / best / 1e9)
}

#[cfg(target_arch = "x86_64")]
fn f32_loop() -> Option<Loop> {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instruction set.
        Some((|| unsafe { x86::f32_avx512() }, x86::ACCUMULATORS * 16 * 2))
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the instruction sets.
        Some((|| unsafe { x86::f32_avx2() }, x86::ACCUMULATORS * 8 * 2))
    } else {
        None
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16_loop() -> Option<Loop> {
    (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")).then(|| {
        // SAFETY: the processor has the instruction sets.
        let steps: fn() = || unsafe { x86::bf16_avx512() };
        (steps, x86::ACCUMULATORS * 32 * 2)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn f32_loop() -> Option<Loop> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn bf16_loop() -> Option<Loop> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{STEPS, black_box};
    use std::arch::x86_64::*;

    /// Independent sums: more than the latency times the throughput of a multiply-add, and few
    /// enough for the registers of AVX2.
    pub const ACCUMULATORS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub fn f32_avx512() {
        let (a, b) = (
            _mm512_set1_ps(black_box(0.5)),
            _mm512_set1_ps(black_box(1.0)),
        );
        let mut sums = [b; ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn f32_avx2() {
        let (a, b) = (
            _mm256_set1_ps(black_box(0.5)),
            _mm256_set1_ps(black_box(1.0)),
        );
        let mut sums = [b; ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16_avx512() {
        let one = _mm512_set1_ps(black_box(1.0));
        let pairs = _mm512_cvtne2ps_pbh(one, one);
        let mut sums = [one; ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
            }
        }
        black_box(sums);
    }
}
