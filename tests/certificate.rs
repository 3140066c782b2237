//! A BLAS that computes wrongly, under a real run.

use crate::features::{npy, numbers, pca};
use crate::support::metrics;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands before the real BLAS and spoils every eighth column of every product of matrices, as a kernel
/// with one wrong lane does, by a part that rounding does not explain: `DOUBLE` of numbers of f64, a tenth of those
/// of f32.
const SPOILER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

typedef void gemm(const char *, const char *, const int *, const int *, const int *, const void *,
                  const void *, const int *, const void *, const int *, const void *, void *,
                  const int *);

#define SPOILED(NAME, NUMBER, PART)                                                                \
    void NAME(const char *transpose_a, const char *transpose_b, const int *m, const int *n,        \
              const int *k, const void *alpha, const void *a, const int *lda, const void *b,       \
              const int *ldb, const void *beta, void *c, const int *ldc) {                         \
        static gemm *real;                                                                         \
        if (!real)                                                                                 \
            real = (gemm *)dlsym(RTLD_NEXT, #NAME);                                                \
        real(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);              \
        for (size_t j = 7; j < (size_t)*n; j += 8)                                                 \
            for (size_t i = 0; i < (size_t)*m; i++)                                                \
                ((NUMBER *)c)[j * (size_t)*ldc + i] *= 1 + PART;                                   \
    }

SPOILED(dgemm_, double, DOUBLE)
SPOILED(sgemm_, float, 1e-1f)

typedef void syrk(const char *, const char *, const int *, const int *, const double *,
                  const double *, const int *, const double *, double *, const int *);

void dsyrk_(const char *triangle, const char *transpose, const int *n, const int *k,
            const double *alpha, const double *a, const int *lda, const double *beta, double *c,
            const int *ldc) {
    static syrk *real;
    if (!real)
        real = (syrk *)dlsym(RTLD_NEXT, "dsyrk_");
    real(triangle, transpose, n, k, alpha, a, lda, beta, c, ldc);
    for (size_t j = 7; j < (size_t)*n; j += 8)
        for (size_t i = 0; i <= j; i++)
            c[j * (size_t)*ldc + i] *= 1 + DOUBLE;
}
"#;

/// Compiles the spoiler, which changes numbers of f64 by this part.
fn spoiler(folder: &Path, part: &str) -> PathBuf {
    let (source, library) = (
        folder.join("spoiler.c"),
        folder.join(format!("spoiler-{part}.so")),
    );
    std::fs::write(&source, SPOILER).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", &format!("-DDOUBLE={part}"), "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .expect("a C compiler, which p8 is built with");
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    library
}

#[test]
fn verified_runs_say_how_exact_their_factorisation_is() {
    let folder = tempfile::tempdir().unwrap();
    for (solver, k, rows, width, is_factored) in [
        ("tsqr", "3", 400, 30, true),
        ("wide", "3", 40, 500, true),
        ("auto", "30", 400, 30, true),
        ("auto", "3", 40, 500, false),
        ("randomized", "3", 400, 30, false),
    ] {
        let features = folder.path().join(format!("{solver}-{rows}.npy"));
        let values = numbers(rows, width);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        npy(&features, "<f8", false, rows, width, &bytes);
        let output = folder.path().join(format!("{solver}-{rows}"));
        let run = pca(2, &features, &output)
            .args(["--solver", solver, "-k", k, "--verify", "true"])
            .succeed();
        let told = if is_factored {
            "of the factorisation the residual"
        } else if rows < width {
            "no factorisation was compared with the features (--solver wide makes one)"
        } else {
            "no factorisation was compared with the features (--solver tsqr makes one)"
        };
        let told = format!("verified  the components in all directions; {told}");
        assert!(run.stderr.contains(&told), "{solver}: {run}");
        let metrics = metrics(&output);
        let exact = &metrics["certificate"]["exact"];
        assert!(exact["pca_residual"].is_object(), "{solver}: {exact}");
        for check in ["factor_residual", "factor_orthogonality"] {
            let check = exact.get(check);
            assert_eq!(check.is_some(), is_factored, "{solver}: {exact}");
            if let Some(check) = check {
                let number = |name: &str| check[name].as_f64().unwrap();
                assert!(number("value") <= number("limit"), "{solver}: {exact}");
                // LAPACK's threshold for its test ratios.
                let most = 30.0 * rows.max(width) as f64 * f64::EPSILON;
                assert!(number("value") <= most, "{solver}: {exact}");
            }
        }
        for traffic in metrics["model"]["traffic"].as_array().unwrap() {
            assert_eq!(
                traffic["sent_bytes"], traffic["predicted_bytes"],
                "{solver}"
            );
        }
    }
}

#[test]
fn a_blas_that_multiplies_wrongly_ends_the_run_and_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    // To f32, products of f64 may be off by what f32 does not show.
    let libraries = [("f64", "1e-8"), ("f32", "1e-1")]
        .map(|(precision, part)| (precision, spoiler(folder.path(), part)));
    for (solver, rows, width) in [
        ("auto", 700, 300),
        ("tsqr", 700, 300),
        ("wide", 200, 500),
        ("randomized", 400, 300),
    ] {
        let features = folder.path().join(format!("{solver}.npy"));
        let values = numbers(rows, width);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        npy(&features, "<f8", false, rows, width, &bytes);
        for (precision, library) in &libraries {
            let output = folder.path().join(format!("{solver}-{precision}"));
            let run = |name: &str| {
                pca(2, &features, &output.join(name)).args([
                    "--solver",
                    solver,
                    "--pca-precision",
                    precision,
                    "-k",
                    "3",
                ])
            };
            run("right").succeed();
            run("wrong")
                .env("LD_PRELOAD", library)
                .fail(5, &["cannot certify", "OPENBLAS_CORETYPE=Haswell"]);
            let wrong = output.join("wrong");
            for result in ["model.safetensors", "scores.parquet", "metrics.json"] {
                assert!(
                    !wrong.join(result).exists(),
                    "{solver} {precision}: {result}"
                );
            }
        }
    }
}
