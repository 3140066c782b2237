//! Growing an orthonormal basis by blocks of vectors.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::blas::{self, Transpose};
use super::gaussian::gaussian;
use super::{LinalgError, norms, qr, zeros};

const SEED: u64 = 0x7038_6261_7365;

/// Columns below this length, where A has norm 1 to 2, are what rounding left of columns that were
/// in the basis already.
const NOTHING: f64 = 1e-13;

/// The square of this part, with many like it, is lost in the rounding of numbers near 1.
const NO_CHANGE: f64 = 1e-9;

/// q `[n, b]`, above `[m, b]` and within `[b, b]` of a block over a basis of m vectors.
pub type Orthonormalized = (Array2<f64>, Array2<f64>, Array2<f64>);

/// `block = basis above + q within`, with orthonormal q, `[n, b]`, orthogonal to the basis.
///
/// Block Gram-Schmidt with a second pass after the block is normalised (Barlow and Smoktunowicz,
/// "Reorthogonalized block classical Gram-Schmidt", 2013). Where the block brings less than b new
/// directions, random ones take their place, and their rows of `within` are zero.
pub fn orthonormalize(
    basis: ArrayView2<f64>,
    mut block: Array2<f64>,
    drawn: &mut usize,
) -> Result<Orthonormalized, LinalgError> {
    let width = block.ncols();
    let mut above = take_out(basis, &mut block)?;
    let factored = qr::Factored::new(block.clone())?;
    let mut within = factored.r();
    let mut q = if within.diag().iter().all(|x| x.abs() > NOTHING) {
        factored.apply(&Array2::eye(width))?
    } else {
        let (q, r) = fill_up(block, drawn);
        within = r;
        q
    };
    let again = take_out(basis, &mut q)?;
    above += &again.dot(&within);
    // What was taken out of orthonormal columns changes their products by its square.
    if norms::frobenius(&again) <= NO_CHANGE {
        return Ok((q, above, within));
    }
    let factored = qr::Factored::new(q)?;
    let within = factored.r().dot(&within);
    Ok((factored.apply(&Array2::eye(width))?, above, within))
}

/// Vectors of the basis, and rows of a block, that a thread takes at once.
const BASIS_TILE: usize = 64;
const ROW_TILE: usize = 512;

/// Subtracts from the columns of `block` what lies in the basis, and returns the coefficients.
fn take_out(basis: ArrayView2<f64>, block: &mut Array2<f64>) -> Result<Array2<f64>, LinalgError> {
    let mut coefficients = zeros(basis.ncols(), block.ncols());
    let tiles: Vec<_> = coefficients
        .axis_chunks_iter_mut(Axis(0), BASIS_TILE)
        .zip(basis.axis_chunks_iter(Axis(1), BASIS_TILE))
        .collect();
    tiles.into_par_iter().try_for_each(|(to, basis)| {
        let (basis, block) = ((basis, Transpose::Yes), (block.view(), Transpose::No));
        blas::gemm(1.0, basis, block, 0.0, to)
    })?;
    let tiles: Vec<_> = block
        .axis_chunks_iter_mut(Axis(0), ROW_TILE)
        .zip(basis.axis_chunks_iter(Axis(0), ROW_TILE))
        .collect();
    tiles.into_par_iter().try_for_each(|(from, basis)| {
        let (basis, along) = ((basis, Transpose::No), (coefficients.view(), Transpose::No));
        blas::gemm(-1.0, basis, along, 1.0, from)
    })?;
    Ok(coefficients)
}

/// QR of a block whose columns may depend on each other, by columns: one that brings nothing new is
/// replaced by a random one, with a row of zeros in R.
fn fill_up(mut block: Array2<f64>, drawn: &mut usize) -> (Array2<f64>, Array2<f64>) {
    let (n, width) = block.dim();
    let mut r = zeros(width, width);
    for j in 0..width {
        let (before, mut rest) = block.view_mut().split_at(Axis(1), j);
        let mut column = rest.column_mut(0);
        let take_out = |column: &mut ndarray::ArrayViewMut1<f64>, r: Option<&mut Array2<f64>>| {
            let mut along = before.t().dot(column);
            *column -= &before.dot(&along);
            let again = before.t().dot(column);
            *column -= &before.dot(&again);
            along += &again;
            if let Some(r) = r {
                r.slice_mut(s![..j, j]).assign(&along);
            }
            norms::euclidean(column.iter())
        };
        let mut length = take_out(&mut column, Some(&mut r));
        if length > NOTHING {
            r[[j, j]] = length;
        } else {
            column.assign(&gaussian(SEED, *drawn, n, 1).column(0));
            *drawn += n;
            length = take_out(&mut column, None);
        }
        column /= length;
    }
    (block, r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::by_columns;

    #[test]
    fn directions_that_bring_nothing_are_replaced() {
        let basis = qr::Factored::new(gaussian(2, 0, 50, 6)).unwrap();
        let basis = basis.apply(&Array2::eye(6)).unwrap();
        let mut block = by_columns(gaussian(3, 0, 50, 4).view());
        let inside = basis.dot(&gaussian(4, 0, 6, 1));
        block.column_mut(1).assign(&inside.column(0));
        let twice = &block.column(0) * 2.0;
        block.column_mut(2).assign(&twice);
        let mut drawn = 0;
        let (q, above, within) = orthonormalize(basis.view(), block.clone(), &mut drawn).unwrap();
        assert!(drawn > 0);
        let back = basis.dot(&above) + q.dot(&within);
        assert!(norms::frobenius(&(&back - &block)) <= 1e-13);
        assert!(norms::frobenius(&q.t().dot(&basis)) <= 1e-13);
        let products = q.t().dot(&q);
        assert!(norms::frobenius(&(&products - &Array2::<f64>::eye(4))) <= 1e-13);
    }
}
