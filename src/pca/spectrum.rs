//! The singular values, how many of them count, and how many are kept.

use std::fmt;
use std::str::FromStr;

use super::fit::{Components, PcaSettings, Precision};

/// How many singular values are above rounding: max(n, d) eps times the largest.
///
/// Where only the leading singular values are computed, the others were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// This many.
    Exactly(usize),
    /// This many were computed, and all of them are above rounding.
    AtLeast(usize),
}

impl Rank {
    /// The number, whatever it is.
    pub fn known(self) -> usize {
        match self {
            Rank::Exactly(rank) | Rank::AtLeast(rank) => rank,
        }
    }
}

const AT_LEAST: &str = "at least ";

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rank::Exactly(rank) => write!(f, "{rank}"),
            Rank::AtLeast(rank) => write!(f, "{AT_LEAST}{rank}"),
        }
    }
}

impl FromStr for Rank {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(AT_LEAST) {
            Some(rank) => rank.parse().map(Rank::AtLeast),
            None => text.parse().map(Rank::Exactly),
        }
    }
}

/// Singular values of the centred (and scaled) rows, largest first, and the norm of all of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spectrum {
    /// `[min(n, d)]`, or the leading ones.
    pub values: Vec<f64>,
    /// Whether those are all that can be above rounding.
    pub complete: bool,
    /// The Frobenius norm of R, which is that of the rows.
    pub norm: f64,
}

/// How many components to keep, and why.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub k: usize,
    pub numerical_rank: Rank,
    pub reason: String,
}

impl Spectrum {
    /// Each value squared over the squared norm: the part of the whole variance. Zeros where there
    /// is no variance.
    pub fn ratios(&self) -> Vec<f64> {
        let unit = if self.norm > 0.0 { self.norm } else { 1.0 };
        self.values
            .iter()
            .map(|s| (s / unit) * (s / unit))
            .collect()
    }

    /// How many values stand above rounding, max(n, d) eps times the largest (the rule of LINPACK's
    /// successors, as in Golub and Van Loan, "Matrix Computations", 2013, section 5.4). In f32 it is
    /// min(n, d) eps, the rule for R alone: the other one would take everything for rounding from some
    /// millions of rows on.
    pub fn numerical_rank(&self, n: usize, d: usize, precision: Precision) -> Rank {
        let largest = self.values.first().copied().unwrap_or(0.0);
        let size = match precision {
            Precision::F32 => n.min(d),
            Precision::F64 => n.max(d),
        };
        let rounding = size as f64 * precision.eps() * largest;
        let above = self.values.iter().take_while(|s| **s > rounding).count();
        if self.complete || above < self.values.len() {
            Rank::Exactly(above)
        } else {
            Rank::AtLeast(above)
        }
    }

    /// How many components to keep of n rows and d columns.
    pub fn choose(&self, settings: &PcaSettings, n: usize, d: usize) -> Choice {
        let numerical_rank = self.numerical_rank(n, d, settings.precision);
        let rank = numerical_rank.known();
        let (k, reason) = match settings.components {
            _ if rank == 0 => (
                0,
                "no components: the rows do not differ from each other".into(),
            ),
            Components::Count(k) if k <= rank => {
                (k, format!("{} asked for", plural(k, "component")))
            }
            Components::Count(k) => (
                rank,
                format!(
                    "{} asked for, cut at the numerical rank {rank}",
                    plural(k, "component")
                ),
            ),
            Components::Variance(fraction) => {
                let percent = (fraction * 1e6).round() / 1e4;
                match self.fewest(fraction).filter(|k| *k <= rank) {
                    Some(1) => (
                        1,
                        format!("1 component reaches {percent} % of the variance"),
                    ),
                    Some(k) => (
                        k,
                        format!("{k} components reach {percent} % of the variance"),
                    ),
                    None => (
                        rank,
                        format!(
                            "cut at the numerical rank {rank}, short of {percent} % of the variance by rounding only"
                        ),
                    ),
                }
            }
        };
        Choice {
            k,
            numerical_rank,
            reason,
        }
    }

    /// The smallest k whose ratios add up to `fraction`.
    pub fn fewest(&self, fraction: f64) -> Option<usize> {
        let mut reached = 0.0;
        let enough = |ratio: &f64| {
            reached += ratio;
            reached >= fraction
        };
        self.ratios().iter().position(enough).map(|last| last + 1)
    }

    pub fn to_message(&self) -> Vec<f64> {
        let mut message = vec![self.norm, f64::from(u8::from(self.complete))];
        message.extend(&self.values);
        message
    }

    pub fn from_message(message: &[f64]) -> Spectrum {
        Spectrum {
            norm: message[0],
            complete: message[1] != 0.0,
            values: message[2..].to_vec(),
        }
    }
}

/// `1 row`, `3 rows`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pca::Solver;

    fn spectrum(values: &[f64]) -> Spectrum {
        let norm = values.iter().map(|s| s * s).sum::<f64>().sqrt();
        Spectrum {
            values: values.to_vec(),
            complete: true,
            norm,
        }
    }

    fn choose(spectrum: &Spectrum, components: Components, n: usize, d: usize) -> Choice {
        let settings = PcaSettings {
            components,
            standardize: true,
            whiten: false,
            solver: Solver::Auto,
            precision: Precision::F64,
            memory: None,
            keep_factor: false,
        };
        spectrum.choose(&settings, n, d)
    }

    #[test]
    fn a_count_is_cut_at_the_numerical_rank_and_says_so() {
        let spectrum = spectrum(&[4.0, 2.0, 1.0, 1e-17]);
        let choice = choose(&spectrum, Components::Count(2), 10, 4);
        assert_eq!(
            (choice.k, choice.reason.as_str()),
            (2, "2 components asked for")
        );
        let choice = choose(&spectrum, Components::Count(4), 10, 4);
        assert_eq!((choice.k, choice.numerical_rank), (3, Rank::Exactly(3)));
        assert_eq!(
            choice.reason,
            "4 components asked for, cut at the numerical rank 3"
        );
    }

    #[test]
    fn a_fraction_takes_the_fewest_components_that_reach_it() {
        // Variances 16, 4, 1 of 21: 76.2 %, 95.2 %, 100 %.
        let spectrum = spectrum(&[4.0, 2.0, 1.0]);
        for (fraction, k) in [
            (0.1, 1),
            (0.76, 1),
            (0.77, 2),
            (0.95, 2),
            (0.96, 3),
            (1.0, 3),
        ] {
            assert_eq!(
                choose(&spectrum, Components::Variance(fraction), 9, 3).k,
                k,
                "{fraction}"
            );
        }
        let reason = choose(&spectrum, Components::Variance(0.95), 9, 3).reason;
        assert_eq!(reason, "2 components reach 95 % of the variance");
    }

    #[test]
    fn rows_without_variance_have_no_components() {
        let choice = choose(&spectrum(&[0.0, 0.0]), Components::Variance(0.95), 5, 2);
        assert_eq!((choice.k, choice.numerical_rank), (0, Rank::Exactly(0)));
        assert_eq!(spectrum(&[0.0, 0.0]).ratios(), vec![0.0, 0.0]);
    }

    #[test]
    fn ratios_of_denormal_values_do_not_vanish() {
        let spectrum = Spectrum {
            values: vec![3e-310, 4e-310],
            complete: true,
            norm: 5e-310,
        };
        let ratios = spectrum.ratios();
        assert!(
            (ratios[0] - 0.36).abs() < 1e-9 && (ratios[1] - 0.64).abs() < 1e-9,
            "{ratios:?}"
        );
    }

    #[test]
    fn leading_values_tell_the_least_that_the_rank_can_be() {
        let mut leading = spectrum(&[4.0, 2.0, 1.0]);
        leading.complete = false;
        assert_eq!(
            leading.numerical_rank(10, 9, Precision::F64),
            Rank::AtLeast(3)
        );
        leading.values.push(1e-17);
        // The values that were not computed are no larger than the last one.
        assert_eq!(
            leading.numerical_rank(10, 9, Precision::F64),
            Rank::Exactly(3)
        );
        let message = leading.to_message();
        assert_eq!(Spectrum::from_message(&message), leading);
    }

    #[test]
    fn a_rank_reads_back_as_it_is_written() {
        for (rank, text) in [(Rank::Exactly(7), "7"), (Rank::AtLeast(50), "at least 50")] {
            assert_eq!(rank.to_string(), text);
            assert_eq!(text.parse(), Ok(rank));
        }
        assert!("at least".parse::<Rank>().is_err());
    }
}
