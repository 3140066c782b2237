//! Norms that neither overflow nor underflow: where squares could, everything is divided by the largest entry
//! first. They are computed in f64 for both precisions.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use super::scalar::Scalar;

/// The Euclidean norm of a vector. Zero only if every entry is zero; infinite or NaN entries give
/// a norm that is not finite.
pub fn euclidean<'a, T: Scalar>(vector: impl Iterator<Item = &'a T> + Clone) -> f64 {
    let vector = vector.map(|x| x.as_f64());
    let largest = vector
        .clone()
        .fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let unit = unit_for(largest);
    let sum: f64 = vector.map(|x| (x / unit) * (x / unit)).sum();
    unit * sum.sqrt()
}

/// What to divide by before squaring; 1 for a vector of zeros (and of NaN, which then shows).
fn unit_for(largest: f64) -> f64 {
    if largest > 0.0 { largest } else { 1.0 }
}

/// The Frobenius norm of a matrix, summed in the order of its storage.
pub fn frobenius<T: Scalar>(matrix: &Array2<T>) -> f64 {
    match matrix.as_slice_memory_order() {
        Some(entries) => euclidean(entries.iter()),
        None => euclidean(matrix.iter()),
    }
}

/// How many columns are walked side by side: one cache line of each of them fits the first-level
/// cache when they are stored one after another, and rows are read in runs when those are.
const PANEL: usize = 64;

/// Squares of numbers between these neither overflow nor vanish beside the largest one.
const SAFE: std::ops::Range<f64> = 1e-140..1e140;

/// The Euclidean norms of the columns of a matrix `[rows, columns]`, stored either way.
pub fn of_columns<T: Scalar>(matrix: ArrayView2<T>) -> Vec<f64> {
    let mut norms = Vec::with_capacity(matrix.ncols());
    for panel in matrix.axis_chunks_iter(Axis(1), PANEL) {
        let mut units = vec![0.0_f64; panel.ncols()];
        for row in panel.rows() {
            for_each(row, &mut units, |largest, x| {
                *largest = largest.max(x.abs())
            });
        }
        let mut sums = vec![0.0; panel.ncols()];
        let is_safe = |largest: &f64| *largest == 0.0 || SAFE.contains(largest);
        if units.iter().all(is_safe) {
            units.fill(1.0);
            for row in panel.rows() {
                for_each(row, &mut sums, |sum, x| *sum += x * x);
            }
        } else {
            for unit in &mut units {
                *unit = unit_for(*unit);
            }
            for row in panel.rows() {
                for ((sum, unit), x) in sums.iter_mut().zip(&units).zip(row) {
                    *sum += (x.as_f64() / unit) * (x.as_f64() / unit);
                }
            }
        }
        norms.extend(units.iter().zip(&sums).map(|(unit, sum)| unit * sum.sqrt()));
    }
    norms
}

/// Does something with every number of a row and its place among others.
#[inline(always)]
fn for_each<T: Scalar>(row: ArrayView1<T>, places: &mut [f64], work: impl Fn(&mut f64, f64)) {
    match row.to_slice() {
        Some(row) => places
            .iter_mut()
            .zip(row)
            .for_each(|(place, x)| work(place, x.as_f64())),
        None => places
            .iter_mut()
            .zip(row)
            .for_each(|(place, x)| work(place, x.as_f64())),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn huge_and_tiny_vectors_keep_their_norm() {
        for scale in [1.0, 1e200, 1e-200, 1e-310] {
            let norm = euclidean([3.0 * scale, -4.0 * scale].iter());
            assert!(
                (norm / (5.0 * scale) - 1.0).abs() < 1e-12,
                "{norm} at {scale}"
            );
        }
        assert_eq!(euclidean([0.0, -0.0].iter()), 0.0);
        assert_eq!(euclidean::<f64>([].iter()), 0.0);
    }

    #[test]
    fn what_is_not_finite_shows_in_the_norm() {
        assert!(!euclidean([1.0, f64::INFINITY].iter()).is_finite());
        assert!(!euclidean([f64::NAN, 1.0].iter()).is_finite());
        assert!(!euclidean([f64::NAN].iter()).is_finite());
        let columns = of_columns(array![[f64::NAN, 0.0], [0.0, f64::INFINITY]].view());
        assert!(columns.iter().all(|norm| !norm.is_finite()));
    }

    #[test]
    fn columns_are_measured_one_by_one() {
        let matrix = array![[3.0, 0.0], [4.0, -2.0]];
        assert_eq!(of_columns(matrix.view()), vec![5.0, 2.0]);
        let many = Array2::from_shape_fn((3, 150), |(_, j)| j as f64);
        for stored in [many.clone(), crate::linalg::by_columns(many.view())] {
            let norms = of_columns(stored.view());
            assert_eq!(norms.len(), 150);
            for (j, norm) in norms.iter().enumerate() {
                assert!((norm - j as f64 * 3_f64.sqrt()).abs() <= 1e-13 * norm);
            }
        }
        assert!((frobenius(&matrix) - 29_f64.sqrt()).abs() < 1e-15);
        // Columns whose squares are no numbers, alone and beside others.
        let scales = [
            1.0, 0.0, 1e200, 1e-200, 1e-310, 0.9e140, 1.1e140, 1.1e-140, 0.9e-140,
        ];
        for own in scales {
            for beside in [own, 1.0] {
                let matrix = array![[3.0 * own, 3.0 * beside], [4.0 * own, 4.0 * beside]];
                for stored in [matrix.clone(), crate::linalg::by_columns(matrix.view())] {
                    for (norm, scale) in of_columns(stored.view()).iter().zip([own, beside]) {
                        let limit = 1e-12 * 5.0 * scale;
                        assert!((norm - 5.0 * scale).abs() <= limit, "{norm} at {scale}");
                    }
                }
            }
        }
    }
}
