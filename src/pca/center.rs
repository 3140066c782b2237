//! The mean of some rows, and the rows as deviations from it.

use ndarray::{Array1, ArrayViewMut2, Axis};

/// How many columns are walked side by side, so that rows stored either way are read in runs.
const PANEL: usize = 64;

/// The mean of some rows as the sum of two vectors `[d]`.
///
/// The first is one of the rows, so the second is as small as the spread of the rows: the
/// difference of two such means keeps all its digits when the means themselves are huge, and is
/// exactly zero in a column that is constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Mean {
    /// The first of the rows.
    pub origin: Vec<f64>,
    /// The mean of the rows minus `origin`.
    pub offset: Vec<f64>,
}

impl Mean {
    /// The mean as one vector.
    pub fn value(&self) -> Vec<f64> {
        self.origin
            .iter()
            .zip(&self.offset)
            .map(|(origin, offset)| origin + offset)
            .collect()
    }

    /// `other - self`.
    pub fn distance_to(&self, other: &Mean) -> Vec<f64> {
        let origins = self.origin.iter().zip(&other.origin);
        let offsets = self.offset.iter().zip(&other.offset);
        origins
            .zip(offsets)
            .map(|((a, b), (c, d))| (b - a) + (d - c))
            .collect()
    }
}

/// Subtracts the mean from `rows`, `[n, d]`, n >= 1, and returns it.
///
/// Two passes over the rows with the correction of the second (Chan, Golub and LeVeque,
/// "Algorithms for computing the sample variance", 1983), after a shift by the first row.
pub fn subtract_mean(mut rows: ArrayViewMut2<f64>) -> Mean {
    let n = rows.nrows() as f64;
    let mut mean = Mean {
        origin: Vec::new(),
        offset: Vec::new(),
    };
    for mut panel in rows.axis_chunks_iter_mut(Axis(1), PANEL) {
        let origin = panel.row(0).to_owned();
        let mut sum = Array1::<f64>::zeros(panel.ncols());
        for mut row in panel.rows_mut() {
            row -= &origin;
            sum += &row;
        }
        let mut offset = sum / n;
        let mut rest = Array1::<f64>::zeros(panel.ncols());
        for mut row in panel.rows_mut() {
            row -= &offset;
            rest += &row;
        }
        rest /= n;
        for mut row in panel.rows_mut() {
            row -= &rest;
        }
        offset += &rest;
        mean.origin.extend(origin);
        mean.offset.extend(offset);
    }
    mean
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::linalg::{by_columns, hostile};

    #[test]
    fn constant_columns_become_exactly_zero() {
        let mut rows = Array2::from_shape_fn((7, 3), |(_, j)| [0.1, 1e12 + 0.3, -7e-300][j]);
        let mean = subtract_mean(rows.view_mut());
        assert!(rows.iter().all(|x| *x == 0.0));
        assert_eq!(mean.value(), vec![0.1, 1e12 + 0.3, -7e-300]);
    }

    #[test]
    fn a_huge_mean_costs_no_digits() {
        // Multiples of 2^-10 next to 2^40 are exact, and so are their deviations.
        let small = hostile::uniform(64, 5, 3).mapv(|x| (x * 1024.0).round() / 1024.0);
        let mut near = small.clone();
        let mut far = &small + 2_f64.powi(40);
        let near_mean = subtract_mean(near.view_mut());
        let far_mean = subtract_mean(far.view_mut());
        assert_eq!(near, far);
        let distance = near_mean.distance_to(&far_mean);
        assert!(
            distance.iter().all(|x| *x == 2_f64.powi(40)),
            "{distance:?}"
        );
    }

    #[test]
    fn storage_does_not_change_the_bits() {
        let rows = hostile::uniform(33, 150, 4);
        let (mut by_row, mut by_column) = (rows.clone(), by_columns(rows.view()));
        assert_eq!(
            subtract_mean(by_row.view_mut()),
            subtract_mean(by_column.view_mut())
        );
        assert_eq!(by_row, by_column);
    }

    #[test]
    fn one_row_is_its_own_mean() {
        let mut rows = array![[3.0, -1.5]];
        assert_eq!(subtract_mean(rows.view_mut()).value(), vec![3.0, -1.5]);
        assert_eq!(rows, array![[0.0, 0.0]]);
    }
}
