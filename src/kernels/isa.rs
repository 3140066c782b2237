//! The instruction sets that p8 has kernels for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use crate::error::{Classify, Kind};

/// An instruction set. On each architecture the faster one is the greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compiler makes of plain loops.
    Scalar,
    /// NEON, which every 64-bit Arm processor has: vectors of 4 floats.
    Neon,
    /// AVX2 with FMA: vectors of 8 floats.
    Avx2,
    /// AVX-512F: vectors of 16 floats.
    Avx512,
}

/// The name of an instruction set that p8 does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the instruction set {name:?}: p8 knows scalar, neon, avx2 and avx512")]
pub struct UnknownIsa {
    /// As given.
    pub name: String,
}

impl Classify for UnknownIsa {
    fn kind(&self) -> Kind {
        Kind::Usage
    }
}

impl Isa {
    /// Every instruction set in ascending order.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// The name in settings and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether processor and operating system have it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => false,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Those that this program has kernels for, from the slowest to the fastest.
    pub fn compiled() -> Vec<Isa> {
        let is_compiled = |isa: &Isa| match isa {
            Isa::Scalar => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Avx2 | Isa::Avx512 => cfg!(target_arch = "x86_64"),
        };
        Isa::ALL.into_iter().filter(is_compiled).collect()
    }

    /// Those that this machine has, from the slowest to the fastest.
    pub fn available() -> Vec<Isa> {
        Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The fastest one that this machine has.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Scalar)
    }

    /// Those that this machine has as a set, one bit for each: what machines tell each other.
    pub fn available_bits() -> u64 {
        Isa::available()
            .into_iter()
            .fold(0, |bits, isa| bits | 1 << isa as u64)
    }

    /// Those that all machines have, ascending. The first is [`Isa::Scalar`], and it is the only one
    /// where architectures differ.
    pub fn common(available_bits: impl IntoIterator<Item = u64>) -> Vec<Isa> {
        let common = available_bits
            .into_iter()
            .fold(u64::MAX, |common, bits| common & bits);
        let is_common = |isa: &Isa| *isa == Isa::Scalar || common >> *isa as u64 & 1 == 1;
        Isa::ALL.into_iter().filter(is_common).collect()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.as_str() == name)
            .ok_or_else(|| UnknownIsa { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
    }

    #[test]
    fn another_name_is_an_error_of_usage_that_lists_the_known_ones() {
        let error = "sse9".parse::<Isa>().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        for isa in Isa::ALL {
            assert!(error.to_string().contains(isa.as_str()), "{error}");
        }
        assert!(error.to_string().contains("\"sse9\""), "{error}");
    }

    #[test]
    fn the_detected_instruction_set_is_the_last_of_the_available_ones() {
        let available = Isa::available();
        assert_eq!(available.first(), Some(&Isa::Scalar));
        assert_eq!(available.last(), Some(&Isa::detect()));
        assert!(available.is_sorted());
        let compiled = Isa::compiled();
        assert!(available.iter().all(|isa| compiled.contains(isa)));
    }

    #[test]
    fn the_instruction_sets_of_this_architecture_are_there() {
        assert_eq!(Isa::Neon.is_available(), cfg!(target_arch = "aarch64"));
        if !cfg!(target_arch = "x86_64") {
            assert!(!Isa::Avx2.is_available() && !Isa::Avx512.is_available());
        }
    }

    #[test]
    fn machines_have_in_common_what_each_of_them_has() {
        let bits = |isas: &[Isa]| isas.iter().fold(0, |bits, &isa| bits | 1 << isa as u64);
        let (scalar, neon) = (bits(&[Isa::Scalar]), bits(&[Isa::Scalar, Isa::Neon]));
        let avx2 = bits(&[Isa::Scalar, Isa::Avx2]);
        let avx512 = bits(&[Isa::Scalar, Isa::Avx2, Isa::Avx512]);
        for (machines, common) in [
            (vec![scalar], vec![Isa::Scalar]),
            (vec![neon, neon], vec![Isa::Scalar, Isa::Neon]),
            (vec![neon, scalar], vec![Isa::Scalar]),
            (vec![avx512, avx2, avx512], vec![Isa::Scalar, Isa::Avx2]),
            (vec![avx512, neon], vec![Isa::Scalar]),
            (vec![avx2, neon, avx2], vec![Isa::Scalar]),
        ] {
            assert_eq!(Isa::common(machines.clone()), common, "{machines:?}");
        }
        let here = Isa::available_bits();
        assert_eq!(Isa::common([here, here]), Isa::available());
    }
}
