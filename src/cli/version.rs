//! `p8 --version`: where this program comes from and what it can do.

use crate::kernels::Isa;
use crate::linalg;
use std::sync::LazyLock;

/// The long form, a fact a line. The MPI library is known when the ranks start: `p8 doctor` tells it.
pub fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let kernels: Vec<&str> = Isa::compiled().into_iter().rev().map(Isa::as_str).collect();
        let bf16 = if Isa::compiled().contains(&Isa::Avx512) {
            "f32, bf16 (with AVX512-BF16)"
        } else {
            "f32"
        };
        let lines = [
            ("commit", env!("P8_BUILD_COMMIT").to_string()),
            (
                "target",
                format!("{}, {}", env!("P8_BUILD_TARGET"), env!("P8_BUILD_PROFILE")),
            ),
            ("compiler", env!("P8_BUILD_COMPILER").to_string()),
            ("kernels", format!("{}; {bf16}", kernels.join(", "))),
            ("BLAS", linalg::blas_description()),
            (
                "S3",
                "reads and writes s3://bucket/prefix addresses".to_string(),
            ),
        ];
        let mut text = env!("CARGO_PKG_VERSION").to_string();
        for (name, value) in lines {
            text.push_str(&format!("\n{name:<10}{value}"));
        }
        text
    });
    &TEXT
}
