//! Plain loops, compiled for each instruction set.

use super::Isa;

/// Loops that the compiler vectorises.
pub trait Loops {
    /// What comes of them.
    type Output;

    /// Runs them. An implementation has to be `#[inline(always)]`, and so has what it calls: a function of its own
    /// would be compiled for the oldest processor.
    fn run(self) -> Self::Output;
}

/// Runs loops with the vectors of an instruction set. The compiler neither reorders sums nor fuses products with
/// them, so the bits are the same on all of them.
///
/// # Panics
/// If this machine lacks it.
pub fn vectorized<L: Loops>(isa: Isa, loops: L) -> L::Output {
    assert!(isa.is_available(), "{} is not available", isa.as_str());
    match isa {
        // SAFETY: the instruction set is there, checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { with_avx512(loops) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { with_avx2(loops) },
        _ => loops.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn with_avx512<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quotients, which are vectorised, and a sum, which is not.
    struct Quotients<'a>(&'a [f32], &'a [f64]);

    impl Loops for Quotients<'_> {
        type Output = (Vec<f64>, f64);

        #[inline(always)]
        fn run(self) -> (Vec<f64>, f64) {
            let columns = self.0.iter().zip(self.1);
            let quotients = columns.map(|(x, scale)| {
                let quotient = (f64::from(*x) - 0.1) / scale;
                if *scale > 0.0 { quotient } else { 0.0 }
            });
            let quotients: Vec<f64> = quotients.collect();
            let sum = quotients.iter().map(|x| x * x + 1.0).sum();
            (quotients, sum)
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.7).sin()).collect();
        let scale: Vec<f64> = (0..1003).map(|i| f64::from(i % 7) * 0.3).collect();
        let expected = Quotients(&x, &scale).run();
        assert_eq!(expected.0[7], 0.0);
        for isa in Isa::available() {
            assert_eq!(vectorized(isa, Quotients(&x, &scale)), expected, "{isa:?}");
        }
    }
}
