//! Tests of the whole stage against reference values in 80-digit arithmetic.

use std::collections::HashMap;
use std::path::PathBuf;

use ndarray::{Array2, ArrayD, s};
use safetensors::{Dtype, SafeTensors};

use super::block::on_rows;
use super::center::subtract_mean;
use super::evidence::KeptFactor;
use super::exchange::{Exchange, threads};
use super::{
    Block, Components, Model, PcaError, PcaSettings, Precision, Projector, Rows, Solver, fit,
};
use super::{Rank, Verification};
use super::{certify, gather_parts};
use crate::linalg::{by_columns, hostile, svd};

type Tensors = HashMap<String, ArrayD<f64>>;

fn folder() -> PathBuf {
    let reference = std::env::var_os("P8_REFERENCE").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference")),
        PathBuf::from,
    );
    reference.join("golden")
}

/// The tensors of a reference file, or `None`, said on stderr, where there is no reference.
fn tensors(file: &str) -> Option<Tensors> {
    let path = folder().join(file);
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("skipped: no reference at {}", path.display());
        return None;
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, view): (&str, safetensors::tensor::TensorView)| {
        let values: Vec<f64> = match view.dtype() {
            Dtype::F64 => view
                .data()
                .chunks_exact(8)
                .map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()))
                .collect(),
            Dtype::F32 => view
                .data()
                .chunks_exact(4)
                .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
                .collect(),
            other => panic!("{name} is {other:?}"),
        };
        (
            name.to_owned(),
            ArrayD::from_shape_vec(view.shape(), values).unwrap(),
        )
    };
    Some(file.iter().map(read).collect())
}

fn matrix(tensors: &Tensors, name: &str) -> Array2<f64> {
    tensors[name].clone().into_dimensionality().unwrap()
}

fn vector(tensors: &Tensors, name: &str) -> Vec<f64> {
    tensors[name].iter().copied().collect()
}

pub(super) fn settings(k: usize, standardize: bool, solver: Solver) -> PcaSettings {
    PcaSettings {
        components: Components::Count(k),
        standardize,
        whiten: false,
        solver,
        precision: Precision::F64,
        memory: None,
        keep_factor: false,
    }
}

/// Fits on `owner_of_block.last() + 1` ranks at least, `size` in all, and returns the model of every rank.
pub(super) fn fit_on(
    size: usize,
    x: &Block,
    rows_per_block: &[usize],
    owner_of_block: &[usize],
    settings: &PcaSettings,
) -> Vec<Model> {
    let layout = Rows {
        rows_per_block,
        owner_of_block,
        width: x.dim().1,
    };
    threads::on_ranks(size, |rank| {
        let mut last = None;
        let mut read = |block: usize| {
            assert_eq!(
                owner_of_block[block],
                rank.rank(),
                "a rank reads its own blocks"
            );
            let passes = [Solver::Randomized, Solver::Auto].contains(&settings.solver);
            let again = passes && last >= Some(block);
            assert!(
                last < Some(block) || again,
                "blocks are read in order and once a pass"
            );
            last = Some(block);
            let start: usize = rows_per_block[..block].iter().sum();
            let taken = s![start..start + rows_per_block[block], ..];
            Ok(on_rows!(x, x => x.slice(taken).to_owned().into()))
        };
        fit(rank, &layout, &mut read, settings).unwrap()
    })
}

/// All numbers of a model, to the bit.
fn bits(model: &Model) -> Vec<u64> {
    let Model {
        mean,
        scale,
        components,
        singular_values,
        total_variance,
        ..
    } = model;
    let parts = mean
        .iter()
        .chain(scale)
        .chain(components)
        .chain(singular_values);
    parts.chain([total_variance]).map(|x| x.to_bits()).collect()
}

/// Cuts n rows into blocks of `size` rows, with an empty block after every third.
pub(super) fn blocks(n: usize, size: usize) -> Vec<usize> {
    let mut blocks = Vec::new();
    for start in (0..n).step_by(size) {
        blocks.push(size.min(n - start));
        if blocks.len() % 4 == 3 {
            blocks.push(0);
        }
    }
    blocks
}

fn even(blocks: usize, size: usize) -> Vec<usize> {
    (0..blocks).map(|b| b * size / blocks).collect()
}

/// What the reference says about a case in a mode: its rank, and how many leading components are
/// fixed by the data.
fn facts(case: &str, mode: &str) -> (usize, usize) {
    let text = std::fs::read_to_string(folder().join("pca.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let facts = &json["cases"][case]["modes"][mode];
    let number = |name: &str| facts[name].as_u64().unwrap() as usize;
    (number("rank"), number("well_determined_components"))
}

/// Compares a model of `x` with the reference of a case in a mode.
fn assert_golden(tensors: &Tensors, case: &str, mode: &str, x: &Array2<f64>, model: &Model) {
    let name = |what: &str| format!("{case}.{mode}.{what}");
    let exact = vector(tensors, &name("singular_values_exact"));
    let largest = exact[0];
    assert_eq!(model.width(), x.ncols());
    for (i, s) in exact.iter().enumerate() {
        match model.singular_values.get(i) {
            Some(found) => assert!(
                (found - s).abs() <= 1e-12 * largest,
                "{case} {mode} {i}: {found} {s}"
            ),
            None if i >= model.numerical_rank.known() => {
                let rounding = x.nrows().max(x.ncols()) as f64 * f64::EPSILON;
                assert!(
                    *s <= 2.0 * rounding * largest,
                    "{case} {mode}: {s} is below the rank"
                );
            }
            None => {}
        }
    }
    let mean = vector(tensors, &format!("{case}.mean"));
    for ((found, exact), column) in model.mean.iter().zip(&mean).zip(x.columns()) {
        let size = column.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
        let difference = (found - exact).abs();
        assert!(
            difference <= 4.0 * f64::EPSILON * size,
            "{case} mean {found} {exact}"
        );
    }
    if model.standardized {
        for (found, exact) in model
            .scale
            .iter()
            .zip(vector(tensors, &format!("{case}.scale")))
        {
            assert!(
                (found - exact).abs() <= 1e-13 * exact,
                "{case} scale {found} {exact}"
            );
        }
    }
    let ratios = vector(tensors, &name("explained_variance_ratio"));
    for (found, exact) in model.explained_variance_ratio.iter().zip(&ratios) {
        assert!(
            (found - exact).abs() <= 1e-12,
            "{case} {mode} ratio {found} {exact}"
        );
    }
    let components = matrix(tensors, &name("components"));
    let scores = matrix(tensors, &name("scores"));
    let (rank, fixed) = facts(case, mode);
    assert_eq!(
        model.numerical_rank,
        Rank::Exactly(rank),
        "{case} {mode} rank"
    );
    assert!(fixed <= model.k());
    let projected = Projector::new(model).project(&x.clone().into()).scores;
    for i in 0..fixed {
        for (found, exact) in model.components.row(i).iter().zip(components.row(i)) {
            assert!(
                (found - exact).abs() <= 1e-10,
                "{case} {mode} component {i}: {found} {exact}"
            );
        }
        let size = scores
            .column(i)
            .iter()
            .fold(0.0_f64, |size, x| size.max(x.abs()));
        for (found, exact) in projected.column(i).iter().zip(scores.column(i)) {
            // Scores are f32: half a unit in its last place, and the error of the component.
            let limit = 6e-8 * exact.abs() + 1e-9 * size;
            assert!(
                (f64::from(*found) - exact).abs() <= limit,
                "{case} {mode} score {i}: {found} {exact}"
            );
        }
    }
}

const CASES: [&str; 8] = [
    "tall",
    "wide",
    "rank_deficient",
    "constant_column",
    "huge_mean",
    "single_row",
    "two_rows",
    "identical_rows",
];

#[test]
fn every_reference_case_is_reproduced_at_every_rank_count() {
    let Some(tensors) = tensors("pca.safetensors") else {
        return;
    };
    for case in CASES {
        let x = matrix(&tensors, &format!("{case}.x"));
        let (n, d) = x.dim();
        for (mode, standardize) in [("centered", false), ("standardized", true)] {
            let settings = settings(n.min(d), standardize, Solver::Auto);
            for size in [1, 3, 8, 64, 500] {
                let rows = blocks(n, size);
                let alone =
                    fit_on(1, &x.clone().into(), &rows, &vec![0; rows.len()], &settings).remove(0);
                assert_golden(&tensors, case, mode, &x, &alone);
                for ranks in 2..=7 {
                    for model in fit_on(
                        ranks,
                        &x.clone().into(),
                        &rows,
                        &even(rows.len(), ranks),
                        &settings,
                    ) {
                        assert!(
                            bits(&model) == bits(&alone),
                            "{case} {mode} on {ranks} ranks"
                        );
                        assert_eq!(model.k_reason, alone.k_reason);
                    }
                }
            }
        }
    }
}

#[test]
fn tsqr_solves_fewer_rows_than_columns_too() {
    let Some(tensors) = tensors("pca.safetensors") else {
        return;
    };
    for case in ["wide", "two_rows", "single_row", "identical_rows"] {
        let x = matrix(&tensors, &format!("{case}.x"));
        let settings = settings(x.nrows(), true, Solver::Tsqr);
        let rows = blocks(x.nrows(), 4);
        for model in fit_on(3, &x.clone().into(), &rows, &even(rows.len(), 3), &settings) {
            assert_golden(&tensors, case, "standardized", &x, &model);
        }
    }
}

#[test]
fn network_features_of_photographs_give_the_reference_scores() {
    let (Some(tensors), Some(features)) =
        (tensors("pca.safetensors"), tensors("features.safetensors"))
    else {
        return;
    };
    for (case, source) in [
        ("photos2048", "v1.layer4.avg"),
        ("photos100352", "v1.layer4.flat_hwc"),
    ] {
        let x = matrix(&features, source);
        let settings = settings(7, true, Solver::Auto);
        let alone = fit_on(1, &x.clone().into(), &[9], &[0], &settings).remove(0);
        assert_eq!((alone.k(), alone.numerical_rank), (7, Rank::Exactly(8)));
        assert_golden(&tensors, case, "standardized", &x, &alone);
        let scores = matrix(&tensors, &format!("{case}.standardized.scores"));
        let found = Projector::new(&alone)
            .project(&x.clone().into())
            .scores
            .mapv(f64::from);
        let norm = |m: &Array2<f64>| m.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(norm(&(&found - &scores)) <= 2e-5 * norm(&scores), "{case}");
        for ranks in [2, 3, 7] {
            let owner = even(9, ranks);
            let by_one = fit_on(ranks, &x.clone().into(), &[1; 9], &owner, &settings);
            assert!(
                by_one.iter().all(|model| bits(model) == bits(&alone)),
                "{case} on {ranks} ranks"
            );
        }
    }
}

#[test]
fn ranks_without_rows_change_nothing() {
    for (n, d) in [(30, 4), (6, 600), (1, 3), (3, 1), (4, 4), (5, 4), (3, 4)] {
        let x = hostile::uniform(n, d, 21) + 3.0;
        let settings = settings(d, true, Solver::Auto);
        let mut rows = vec![0, n / 2, 0, n - n / 2, 0];
        let alone = fit_on(1, &x.clone().into(), &rows, &[0; 5], &settings).remove(0);
        for owner in [
            [0, 0, 0, 2, 2],
            [1, 1, 3, 3, 3],
            [3, 3, 3, 3, 3],
            [0, 1, 2, 3, 4],
        ] {
            for model in fit_on(6, &x.clone().into(), &rows, &owner, &settings) {
                assert!(bits(&model) == bits(&alone), "{n} x {d}, {owner:?}");
            }
        }
        rows.push(0);
        let more = fit_on(2, &x.clone().into(), &rows, &[0, 0, 0, 0, 0, 1], &settings).remove(0);
        assert!(
            bits(&more) == bits(&alone),
            "an empty block changes nothing"
        );
    }
}

#[test]
fn a_leaf_over_many_ranks_and_ranks_of_many_leaves_agree() {
    let x = hostile::uniform(400, 9, 22);
    let settings = settings(9, false, Solver::Tsqr);
    for size in [1, 2, 5, 18, 19, 40, 399] {
        let rows = blocks(400, size);
        let alone = fit_on(1, &x.clone().into(), &rows, &vec![0; rows.len()], &settings).remove(0);
        for ranks in [2, 3, 5, 16] {
            for model in fit_on(
                ranks,
                &x.clone().into(),
                &rows,
                &even(rows.len(), ranks),
                &settings,
            ) {
                assert!(
                    bits(&model) == bits(&alone),
                    "blocks of {size} on {ranks} ranks"
                );
            }
        }
    }
}

/// The singular values of the tree against those of one SVD of all centred rows, to within LAPACK's
/// threshold: 30 max(n, d) eps of the largest; on three ranks with the bits of one.
#[test]
fn hostile_matrices_have_the_singular_values_of_one_svd() {
    let shapes = [
        (60, 7),
        (100, 1),
        (25, 24),
        (24, 24),
        (23, 24),
        (5, 1200),
        (2, 700),
        (300, 40),
        (40, 300),
    ];
    for (n, d) in shapes {
        for (name, x) in hostile::all(n.max(d), n.min(d)) {
            let x = if n >= d { x } else { x.t().to_owned() };
            check_hostile(name, &x.clone().into(), Precision::F64);
            check_hostile(name, &hostile::in_single(name, &x).into(), Precision::F32);
        }
    }
}

fn check_hostile(name: &str, x: &Block, precision: Precision) {
    let (n, d) = x.dim();
    let mut centered = by_columns(x.to_scalar::<f64>().view());
    subtract_mean(centered.view_mut());
    let expected = svd::svd(centered).unwrap().values;
    let rows = blocks(n, 4);
    let settings = PcaSettings {
        precision,
        ..settings(d, false, Solver::Auto)
    };
    let model = fit_on(3, x, &rows, &even(rows.len(), 3), &settings).remove(0);
    let alone = fit_on(1, x, &rows, &vec![0; rows.len()], &settings).remove(0);
    assert!(bits(&model) == bits(&alone), "{name} {n} x {d}: ranks");
    let least = match precision {
        Precision::F32 => f64::from(f32::MIN_POSITIVE),
        Precision::F64 => f64::MIN_POSITIVE,
    };
    let limit = 30.0 * n.max(d) as f64 * precision.eps() * expected[0].max(least);
    for (found, exact) in model.singular_values.iter().zip(&expected) {
        assert!(
            (found - exact).abs() <= limit,
            "{name} {n} x {d} {precision:?}: {found} {exact}"
        );
    }
    let beyond_f64 = precision == Precision::F64 && ["denormal", "huge"].contains(&name);
    if !beyond_f64 && name != "denormal" {
        let certificate = certify(&model, &[Projector::new(&model).project(x).part]);
        assert!(
            certificate.verdict().is_ok(),
            "{name} {n} x {d} {precision:?}: {certificate:?}"
        );
    }
}

#[test]
fn rows_that_do_not_differ_have_no_components() {
    for (n, d) in [(1, 5), (4, 5), (12, 5), (1, 1)] {
        let x = Array2::from_shape_fn((n, d), |(_, j)| 1e6 + 0.1 * j as f64);
        let model = fit_on(
            1,
            &x.clone().into(),
            &[n],
            &[0],
            &settings(3, true, Solver::Auto),
        )
        .remove(0);
        assert_eq!(
            (model.k(), model.numerical_rank, model.total_variance),
            (0, Rank::Exactly(0), 0.0)
        );
        assert!(model.scale.iter().all(|scale| *scale == 0.0));
        let projected = Projector::new(&model).project(&x.clone().into());
        assert!(
            projected
                .reconstruction_error
                .iter()
                .all(|error| *error == 0.0)
        );
        assert!(certify(&model, &[projected.part]).verdict().is_ok());
    }
}

#[test]
fn whitened_scores_have_unit_variance() {
    let x = hostile::uniform(80, 6, 23);
    let settings = PcaSettings {
        whiten: true,
        ..settings(6, true, Solver::Auto)
    };
    let model = fit_on(1, &x.clone().into(), &[80], &[0], &settings).remove(0);
    for scores in Projector::new(&model)
        .project(&x.clone().into())
        .scores
        .columns()
    {
        let variance: f64 = scores.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 79.0;
        assert!((variance - 1.0).abs() < 1e-6, "{variance}");
    }
}

#[test]
fn the_certificate_of_several_ranks_is_that_of_one() {
    let x = hostile::uniform(90, 7, 24);
    let rows = blocks(90, 4);
    let certificate_on = |ranks: usize| {
        let owner = even(rows.len(), ranks);
        let model = fit_on(
            ranks,
            &x.clone().into(),
            &rows,
            &owner,
            &settings(7, true, Solver::Auto),
        )
        .remove(0);
        let gathered = threads::on_ranks(ranks, |rank| {
            let layout = Rows {
                rows_per_block: &rows,
                owner_of_block: &owner,
                width: 7,
            };
            let parts = layout.blocks_of(rank.rank()).map(|block| {
                let start: usize = rows[..block].iter().sum();
                let part = x.slice(s![start..start + rows[block], ..]).to_owned();
                Projector::new(&model).project(&part.into()).part
            });
            gather_parts(rank, parts.collect())
        });
        certify(&model, gathered[0].as_ref().unwrap())
    };
    let alone = certificate_on(1);
    assert!(alone.verdict().is_ok(), "{alone:?}");
    for ranks in 2..=5 {
        assert_eq!(certificate_on(ranks), alone);
    }
}

#[test]
fn what_cannot_be_fitted_is_refused_on_every_rank() {
    let empty = Rows {
        rows_per_block: &[0, 0],
        owner_of_block: &[0, 1],
        width: 3,
    };
    let errors = threads::on_ranks(2, |rank| {
        fit(
            rank,
            &empty,
            &mut |_| unreachable!(),
            &settings(1, true, Solver::Auto),
        )
        .unwrap_err()
    });
    assert!(errors.iter().all(|error| matches!(
        error,
        PcaError::Empty {
            rows: 0,
            columns: 3
        }
    )));
    let tall = Rows {
        rows_per_block: &[4],
        owner_of_block: &[0],
        width: 3,
    };
    let errors = threads::on_ranks(2, |rank| {
        fit(
            rank,
            &tall,
            &mut |_| unreachable!(),
            &settings(1, true, Solver::Wide),
        )
        .unwrap_err()
    });
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, PcaError::TooManyRows { .. }))
    );
}

#[test]
fn a_bad_block_is_named() {
    let layout = Rows {
        rows_per_block: &[2, 2, 2],
        owner_of_block: &[0, 0, 0],
        width: 4,
    };
    // One of four components comes from products, where nobody asks for a solver.
    for solver in [Solver::Tsqr, Solver::Auto, Solver::Randomized] {
        let fit_with = |make: &(dyn Fn(usize) -> Array2<f64> + Sync)| {
            let mut errors = threads::on_ranks(1, |rank| {
                fit(
                    rank,
                    &layout,
                    &mut |block| Ok(Block::from(make(block))),
                    &settings(1, true, solver),
                )
                .unwrap_err()
            });
            errors.remove(0)
        };
        let error =
            fit_with(&|block| Array2::from_elem((2, 4), if block == 1 { f64::NAN } else { 1.0 }));
        assert!(
            matches!(
                error,
                PcaError::NotFinite {
                    block: 1,
                    row: 0,
                    column: 0
                }
            ),
            "{error}"
        );
        let error = fit_with(&|_| Array2::zeros((2, 5)));
        assert!(
            matches!(
                error,
                PcaError::Shape {
                    block: 0,
                    columns: 5,
                    ..
                }
            ),
            "{error}"
        );
        let error = fit_with(&|block| Array2::from_elem((2, 4), [-1.7e308, 1.7e308, 0.0][block]));
        assert!(matches!(error, PcaError::Overflow), "{error}");
    }
}

/// Rows whose components fall off, around a mean.
fn decaying(n: usize, d: usize) -> Array2<f64> {
    let rank = n.min(d);
    let spectrum: Vec<f64> = (0..rank).map(|i| 0.6_f64.powi(i as i32)).collect();
    let tall = hostile::with_spectrum(n.max(d), &spectrum, 31);
    let x = if n >= d { tall } else { tall.t().to_owned() };
    x * 10.0 + 2.5
}

#[test]
fn random_projections_find_the_components_of_a_full_svd_at_every_rank_count() {
    for (n, d) in [
        (200, 40),
        (40, 200),
        (90, 90),
        (12, 400),
        (300, 1),
        (1, 5),
        (2, 30),
    ] {
        let x = decaying(n, d);
        let mut centered = by_columns(x.view());
        subtract_mean(centered.view_mut());
        let exact = svd::svd(centered).unwrap();
        let rows = blocks(n, 7);
        let k = 5.min(d);
        let settings = settings(k, false, Solver::Randomized);
        let alone = fit_on(1, &x.clone().into(), &rows, &vec![0; rows.len()], &settings).remove(0);
        assert_eq!(alone.solver, Solver::Randomized);
        let limit = 30.0 * n.max(d) as f64 * f64::EPSILON * exact.values[0];
        for (i, (found, value)) in alone.singular_values.iter().zip(&exact.values).enumerate() {
            assert!((found - value).abs() <= limit, "{n} x {d}: {found} {value}");
            let along = alone.components.row(i).dot(&exact.vt.row(i)).abs();
            assert!(
                (along - 1.0).abs() < 1e-9,
                "{n} x {d}, component {i}: {along}"
            );
        }
        let error = alone.evidence.approximation.unwrap();
        assert!(error.residual < 1e-6, "{n} x {d}: {error:?}");
        assert_eq!(error.directions, (k + 10).min(n).min(d));
        let part = Projector::new(&alone).project(&x.clone().into()).part;
        let certificate = certify(&alone, &[part]);
        assert!(certificate.verdict().is_ok(), "{n} x {d}: {certificate:?}");
        for ranks in [2, 3, 4, 5, 7] {
            for model in fit_on(
                ranks,
                &x.clone().into(),
                &rows,
                &even(rows.len(), ranks),
                &settings,
            ) {
                assert!(bits(&model) == bits(&alone), "{n} x {d} on {ranks} ranks");
                assert_eq!(model.evidence, alone.evidence);
            }
        }
    }
}

#[test]
fn random_projections_of_hostile_matrices_are_certified() {
    for (n, d) in [(60, 25), (25, 60)] {
        for (name, x) in hostile::all(60, 25) {
            let x = if n >= d { x } else { x.t().to_owned() };
            let rows = blocks(n, 8);
            for standardize in [false, true] {
                let settings = settings(6, standardize, Solver::Randomized);
                let model =
                    fit_on(2, &x.clone().into(), &rows, &even(rows.len(), 2), &settings).remove(0);
                if !["denormal", "huge"].contains(&name) {
                    let certificate = certify(
                        &model,
                        &[Projector::new(&model).project(&x.clone().into()).part],
                    );
                    assert!(
                        certificate.verdict().is_ok(),
                        "{name} {n} x {d}: {certificate:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_error_of_random_projections_bounds_what_they_leave_out() {
    // Nothing falls off: no iteration could separate the components.
    let x = hostile::uniform(300, 120, 32);
    let model = fit_on(
        1,
        &x.clone().into(),
        &[300],
        &[0],
        &settings(4, false, Solver::Randomized),
    )
    .remove(0);
    let error = model.evidence.approximation.unwrap();
    let mut centered = by_columns(x.view());
    subtract_mean(centered.view_mut());
    let exact = svd::svd(centered).unwrap().values;
    assert!(
        error.residual > 1e-6 && error.rest >= exact[error.directions] / exact[0],
        "{error:?}"
    );
    for found in &model.singular_values {
        let nearest = exact
            .iter()
            .map(|s| (s - found).abs())
            .fold(f64::MAX, f64::min);
        assert!(nearest <= error.residual * exact[0], "{nearest} {error:?}");
    }
}

#[test]
fn the_leading_part_of_many_columns_gives_the_model_of_the_whole() {
    let (n, d) = (700, 300);
    let spectrum: Vec<f64> = (0..d).map(|i| 0.9_f64.powi(i)).collect();
    let x = hostile::with_spectrum(n, &spectrum, 33) + 1.5;
    for (x, solver) in [(x.clone(), Solver::Tsqr), (x.t().to_owned(), Solver::Wide)] {
        let rows = blocks(x.nrows(), 64);
        let fitted = |k| {
            fit_on(
                2,
                &x.clone().into(),
                &rows,
                &even(rows.len(), 2),
                &settings(k, false, solver),
            )
            .remove(0)
        };
        let (part, whole) = (fitted(9), fitted(60));
        assert_eq!(
            part.numerical_rank,
            Rank::AtLeast(9),
            "{}",
            part.evidence.svd
        );
        assert!(
            matches!(whole.numerical_rank, Rank::Exactly(_)),
            "{}",
            whole.evidence.svd
        );
        assert_eq!(part.total_variance, whole.total_variance);
        for i in 0..9 {
            let (a, b) = (part.singular_values[i], whole.singular_values[i]);
            assert!((a - b).abs() <= 1e-13, "{a} {b}");
            let along = part.components.row(i).dot(&whole.components.row(i));
            assert!((along - 1.0).abs() < 1e-11, "component {i}: {along}");
        }
        let certificate = certify(&part, &[Projector::new(&part).project(&x.into()).part]);
        assert!(certificate.verdict().is_ok(), "{certificate:?}");
    }
}

#[test]
fn rows_come_back_from_their_scores() {
    for (n, d) in [(30, 8), (8, 30)] {
        let mut x = hostile::uniform(n, d, 34) * 3.0 + 7.0;
        x.column_mut(2).fill(-4.5);
        for standardize in [false, true] {
            for whiten in [false, true] {
                let settings = PcaSettings {
                    whiten,
                    ..settings(d, standardize, Solver::Auto)
                };
                let model = fit_on(1, &x.clone().into(), &[n], &[0], &settings).remove(0);
                let scores = Projector::new(&model)
                    .project(&x.clone().into())
                    .scores
                    .mapv(f64::from);
                let back = model.inverse_transform(&scores);
                // Scores are f32.
                for (a, b) in back.iter().zip(&x) {
                    assert!((a - b).abs() <= 1e-4, "{a} {b}");
                }
                assert!(
                    back.column(2)
                        .iter()
                        .all(|x| (x + 4.5).abs() <= if standardize { 0.0 } else { 1e-6 })
                );
                // With fewer components: the definition, mean + scale (scores V).
                let few = fit_on(
                    1,
                    &x.clone().into(),
                    &[n],
                    &[0],
                    &PcaSettings {
                        components: Components::Count(2),
                        ..settings
                    },
                )
                .remove(0);
                let scores = Array2::from_shape_fn((3, 2), |(i, j)| i as f64 - j as f64);
                let back = few.inverse_transform(&scores);
                for ((i, j), found) in back.indexed_iter() {
                    let along = |c: usize| {
                        let unit = if whiten {
                            few.explained_variance[c].sqrt()
                        } else {
                            1.0
                        };
                        scores[[i, c]] * unit * few.components[[c, j]]
                    };
                    let expected = few.mean[j] + few.scale[j] * (along(0) + along(1));
                    assert!((found - expected).abs() <= 1e-13, "{found} {expected}");
                }
            }
        }
    }
}

#[test]
fn the_exact_checks_pass_for_every_solver_and_fail_for_a_wrong_model() {
    let x = hostile::uniform(80, 9, 35) + 1.0;
    let owner = [0, 1, 2];
    let rows = [30, 0, 50];
    let layout = Rows {
        rows_per_block: &rows,
        owner_of_block: &owner,
        width: 9,
    };
    let exact = |model: &Model| {
        let mut all = threads::on_ranks(3, |rank| {
            let mut verification = Verification::new(rank, model);
            for block in layout.blocks_of(rank.rank()) {
                let start: usize = rows[..block].iter().sum();
                let part = x.slice(s![start..start + rows[block], ..]).to_owned();
                verification.add(model, &part.into());
            }
            verification.finish(rank, model)
        });
        assert!(all[1].is_none() && all[2].is_none());
        let mut certificate = certify(
            model,
            &[Projector::new(model).project(&x.clone().into()).part],
        );
        certificate.exact = all.swap_remove(0);
        certificate.verdict().map_err(|error| error.to_string())
    };
    for solver in [Solver::Tsqr, Solver::Randomized] {
        let settings = PcaSettings {
            keep_factor: true,
            ..settings(4, true, solver)
        };
        let right = fit_on(1, &x.clone().into(), &[80], &[0], &settings).remove(0);
        assert_eq!(exact(&right), Ok(()));
        let mut wrong = right.clone();
        match &mut wrong.evidence.factor {
            Some(KeptFactor { r: Some(r), .. }) => r[[2, 2]] *= 1.0 + 1e-9,
            _ => assert_eq!(solver, Solver::Randomized),
        }
        if solver == Solver::Tsqr {
            let error = exact(&wrong).unwrap_err();
            assert!(
                error.contains("the whole residual of the factorisation"),
                "{error}"
            );
        }
        let mut wrong = right.clone();
        wrong.components.row_mut(1).assign(&right.components.row(2));
        assert!(exact(&wrong).is_err());
    }
}
