//! Normal random numbers that depend on a seed and a position alone.

use std::f64::consts::TAU;

use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::zeros;

/// A matrix `[rows, columns]`, stored by columns, of independent numbers with mean 0 and variance 1.
/// A row depends on `seed`, its own number (counted from `first_row`) and the columns alone, so ranks
/// that hold different rows of one matrix agree without talking.
///
/// The numbers come from ChaCha with 8 rounds, one stream a row, by the method of Box and Muller,
/// "A note on the generation of random normal deviates" (1958).
pub fn gaussian(seed: u64, first_row: usize, rows: usize, columns: usize) -> Array2<f64> {
    let mut matrix = zeros(rows, columns);
    for (offset, mut row) in matrix.rows_mut().into_iter().enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((first_row + offset) as u64);
        // In (0, 1]: its logarithm is finite.
        let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        for x in &mut row {
            let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), TAU * uniform());
            *x = radius * angle.cos();
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;

    #[test]
    fn rows_do_not_depend_on_where_the_matrix_begins() {
        let whole = gaussian(3, 0, 20, 4);
        assert_eq!(gaussian(3, 7, 5, 4), whole.slice(s![7..12, ..]));
        assert_ne!(gaussian(4, 0, 20, 4), whole);
    }

    #[test]
    fn the_numbers_are_normal() {
        let numbers = gaussian(1, 0, 2000, 20);
        let count = numbers.len() as f64;
        let moment = |power: i32| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / count;
        // Six standard errors of each moment.
        assert!(moment(1).abs() < 6.0 / count.sqrt());
        assert!((moment(2) - 1.0).abs() < 6.0 * (2.0 / count).sqrt());
        assert!((moment(4) - 3.0).abs() < 6.0 * (96.0 / count).sqrt());
        let (a, b) = (numbers.column(0), numbers.column(1));
        assert!(a.dot(&b).abs() / 2000.0 < 6.0 / 2000_f64.sqrt());
    }
}
