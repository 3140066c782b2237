//! What a core can multiply and add when nothing but registers is touched.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use p8::kernels::Isa;

/// Multiply-adds that do not wait for each other: more than latency times units of any processor.
const CHAINS: usize = 16;

/// Steps of each chain in a measurement, some ten milliseconds.
const STEPS: usize = 2_000_000;

/// Operations a second of so many threads together, two for a multiply-add: the best of some runs,
/// since a peak is what can be reached.
pub fn flops(isa: Isa, threads: usize) -> f64 {
    (0..9).map(|_| run(isa, threads)).fold(0.0, f64::max)
}

fn run(isa: Isa, threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let seconds = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let began = Instant::now();
                    black_box(multiply_add(isa));
                    began.elapsed().as_secs_f64()
                })
            })
            .collect();
        handles
            .into_iter()
            .filter_map(|handle| handle.join().ok())
            .fold(0.0, f64::max)
    });
    2.0 * (lanes(isa) * CHAINS * STEPS * threads) as f64 / seconds
}

fn lanes(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 8,
        _ => 4,
    }
}

fn multiply_add(isa: Isa) -> f32 {
    match isa {
        // SAFETY: the instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::avx512() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::avx2() },
        _ => plain(),
    }
}

/// Multiplies and adds vectors of four, as the scalar kernels are compiled to do.
fn plain() -> f32 {
    let (factor, addend) = (black_box([0.999f32; 4]), black_box([1e-3f32; 4]));
    let mut sums = [[1.0f32; 4]; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = sum[lane] * factor[lane] + addend[lane];
            }
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, STEPS};

    #[target_feature(enable = "avx512f")]
    pub fn avx512() -> f32 {
        let factor = _mm512_set1_ps(black_box(0.999));
        let addend = _mm512_set1_ps(black_box(1e-3));
        let mut sums = [addend; CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, addend);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2() -> f32 {
        let factor = _mm256_set1_ps(black_box(0.999));
        let addend = _mm256_set1_ps(black_box(1e-3));
        // Twelve of the sixteen registers; the rest is done by a second loop.
        let mut sums = [addend; CHAINS];
        let (first, second) = sums.split_at_mut(CHAINS / 2);
        for part in [first, second] {
            let mut chains = [addend; CHAINS / 2];
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = _mm256_fmadd_ps(*chain, factor, addend);
                }
            }
            part.copy_from_slice(&chains);
        }
        sums.into_iter()
            .map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum)))
            .sum()
    }
}
