//! The sign of a singular vector, which the mathematics leaves open.

use ndarray::Array2;

/// Entries whose magnitudes differ by less than this part of the largest count as equal, so that
/// rounding does not decide which of them fixes the sign.
const TIE: f64 = 1e-9;

/// Turns every row of `components` `[k, d]` so that its entry of largest magnitude is positive;
/// among equals the first one counts.
pub fn fix(components: &mut Array2<f64>) {
    for mut component in components.rows_mut() {
        let largest = component
            .iter()
            .fold(0.0_f64, |largest, x| largest.max(x.abs()));
        let decisive = component.iter().find(|x| x.abs() >= largest * (1.0 - TIE));
        if decisive.is_some_and(|x| *x < 0.0) {
            component.mapv_inplace(|x| -x);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_largest_entry_becomes_positive() {
        let mut components = array![[0.1, -0.9, 0.3], [0.2, 0.1, 0.8]];
        fix(&mut components);
        assert_eq!(components, array![[-0.1, 0.9, -0.3], [0.2, 0.1, 0.8]]);
    }

    #[test]
    fn the_first_of_equal_entries_decides() {
        let mut components = array![[-0.5, 0.5 + 1e-12], [0.5, -0.5 - 1e-12]];
        fix(&mut components);
        assert!(components[[0, 0]] > 0.0 && components[[1, 0]] > 0.0);
    }

    #[test]
    fn zero_rows_and_empty_matrices_stay() {
        let mut components = array![[0.0, 0.0]];
        fix(&mut components);
        assert_eq!(components, array![[0.0, 0.0]]);
        fix(&mut Array2::zeros((0, 4)));
    }
}
