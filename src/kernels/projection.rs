//! The inner loops of the projection on principal components: scores, and what is left of a row.
//!
//! Every sum has one order, whatever the instruction set, and products and additions are fused on all
//! of them (`f64::mul_add`, which a processor without such an instruction computes slowly), so the bits
//! are the same everywhere. AVX-512 and AVX2 have vectors of their own here; for other processors, NEON
//! included, the vectors are arrays, and their code is what the compiler makes of them.

use super::Isa;

/// Partial sums of a dot product; they fill one vector of AVX-512 and two of AVX2.
const LANES: usize = 8;

/// Columns of a panel: four vectors of AVX-512.
pub const PANEL: usize = 32;

/// Components cut into panels of columns: `[panels, k, PANEL]`, with zeros after the last column.
#[derive(Debug, Clone)]
pub struct PackedComponents {
    entries: Vec<f64>,
    k: usize,
    panels: usize,
}

impl PackedComponents {
    /// Packs k components of `width` entries, given one after another.
    ///
    /// # Panics
    /// If there are not k times `width` entries.
    pub fn new(components: &[f64], k: usize, width: usize) -> Self {
        assert_eq!(components.len(), k * width, "k components of equal width");
        let panels = width.div_ceil(PANEL);
        let mut entries = vec![0.0; panels * k * PANEL];
        for panel in 0..panels {
            let start = panel * PANEL;
            let end = (start + PANEL).min(width);
            for component in 0..k {
                let to = (panel * k + component) * PANEL;
                entries[to..to + end - start]
                    .copy_from_slice(&components[component * width..][start..end]);
            }
        }
        PackedComponents { entries, k, panels }
    }

    /// How many numbers a row has with the zeros that fill its last panel.
    pub fn padded_width(&self) -> usize {
        self.panels * PANEL
    }

    /// The entries of one component in one panel.
    fn of(&self, panel: usize, component: usize) -> &[f64; PANEL] {
        let start = (panel * self.k + component) * PANEL;
        self.entries[start..start + PANEL]
            .try_into()
            .expect("a panel of its length")
    }
}

/// A vector of [`LANES`] numbers, on one instruction set.
///
/// # Safety
/// The functions may be called only where the processor has that instruction set.
trait Lanes: Copy {
    unsafe fn load(from: &[f64; LANES]) -> Self;
    unsafe fn splat(value: f64) -> Self;
    /// `self * other + sum`, rounded once.
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;
    unsafe fn store(self, to: &mut [f64; LANES]);
}

impl Lanes for [f64; LANES] {
    #[inline(always)]
    unsafe fn load(from: &[f64; LANES]) -> Self {
        *from
    }

    #[inline(always)]
    unsafe fn splat(value: f64) -> Self {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        std::array::from_fn(|lane| self[lane].mul_add(other[lane], sum[lane]))
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [f64; LANES]) {
        *to = self;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The vectors of AVX-512 and AVX2.

    use std::arch::x86_64::{
        __m256d, __m512d, _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_set1_pd, _mm256_storeu_pd,
        _mm512_fmadd_pd, _mm512_loadu_pd, _mm512_set1_pd, _mm512_storeu_pd,
    };

    use super::{LANES, Lanes};

    // SAFETY, for every block below: the array has the eight numbers that are read or written, and
    // the caller has the instruction set.
    impl Lanes for __m512d {
        #[inline(always)]
        unsafe fn load(from: &[f64; LANES]) -> Self {
            unsafe { _mm512_loadu_pd(from.as_ptr()) }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            unsafe { _mm512_set1_pd(value) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
            unsafe { _mm512_fmadd_pd(self, other, sum) }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f64; LANES]) {
            unsafe { _mm512_storeu_pd(to.as_mut_ptr(), self) }
        }
    }

    impl Lanes for [__m256d; 2] {
        #[inline(always)]
        unsafe fn load(from: &[f64; LANES]) -> Self {
            let from = from.as_ptr();
            unsafe { [_mm256_loadu_pd(from), _mm256_loadu_pd(from.add(4))] }
        }

        #[inline(always)]
        unsafe fn splat(value: f64) -> Self {
            unsafe { [_mm256_set1_pd(value); 2] }
        }

        #[inline(always)]
        unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
            unsafe {
                [
                    _mm256_fmadd_pd(self[0], other[0], sum[0]),
                    _mm256_fmadd_pd(self[1], other[1], sum[1]),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f64; LANES]) {
            let to = to.as_mut_ptr();
            unsafe {
                _mm256_storeu_pd(to, self[0]);
                _mm256_storeu_pd(to.add(4), self[1]);
            }
        }
    }
}

/// Replaces padded rows `[n, padded_width]` by what the components leave of them, and writes the
/// scores `[n, k]`. A row's results do not depend on the other rows. 4 d k operations a row.
///
/// # Panics
/// If the lengths do not agree, or this machine lacks the instruction set.
pub fn project(isa: Isa, components: &PackedComponents, rows: &mut [f64], scores: &mut [f64]) {
    let width = components.padded_width();
    assert!(isa.is_available(), "{} is not available", isa.as_str());
    assert!(
        scores.len() * width == rows.len() * components.k && (width > 0 || rows.is_empty()),
        "as many rows of scores as rows"
    );
    // SAFETY: the instruction set is there, checked above; the last one needs none.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => project_avx512(components, rows, scores),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => project_avx2(components, rows, scores),
            _ => project_tiled::<[f64; LANES], 2, 2>(components, rows, scores),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn project_avx512(components: &PackedComponents, rows: &mut [f64], scores: &mut [f64]) {
    // SAFETY: this function has the instruction set.
    unsafe { project_tiled::<std::arch::x86_64::__m512d, 4, 5>(components, rows, scores) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn project_avx2(components: &PackedComponents, rows: &mut [f64], scores: &mut [f64]) {
    // SAFETY: this function has the instruction set.
    unsafe { project_tiled::<[std::arch::x86_64::__m256d; 2], 2, 2>(components, rows, scores) }
}

/// Takes R rows and C components at a time.
///
/// # Safety
/// As [`Lanes`] says; so for all functions with vectors.
#[inline(always)]
unsafe fn project_tiled<V: Lanes, const R: usize, const C: usize>(
    components: &PackedComponents,
    rows: &mut [f64],
    scores: &mut [f64],
) {
    let (width, k) = (components.padded_width(), components.k);
    if k == 0 || width == 0 {
        return;
    }
    let together = rows.len() / width / R * R;
    let (rows, last_rows) = rows.split_at_mut(together * width);
    let (scores, last_scores) = scores.split_at_mut(together * k);
    let groups = rows.chunks_exact_mut(R * width);
    for (rows, scores) in groups.zip(scores.chunks_exact_mut(R * k)) {
        // SAFETY: the caller has the instruction set.
        unsafe { project_rows::<V, R, C>(components, rows, scores) };
    }
    let singles = last_rows.chunks_exact_mut(width);
    for (row, scores) in singles.zip(last_scores.chunks_exact_mut(k)) {
        // SAFETY: as above.
        unsafe { project_rows::<V, 1, C>(components, row, scores) };
    }
}

#[inline(always)]
unsafe fn project_rows<V: Lanes, const R: usize, const C: usize>(
    components: &PackedComponents,
    rows: &mut [f64],
    scores: &mut [f64],
) {
    let k = components.k;
    // SAFETY: the caller has the instruction set.
    unsafe {
        for first in (0..k / C * C).step_by(C) {
            dots::<V, R, C>(components, rows, first, scores);
        }
        for first in k / C * C..k {
            dots::<V, R, 1>(components, rows, first, scores);
        }
        subtract::<V, R>(components, rows, scores);
    }
}

/// The dot products of R rows with C components from `first` on.
#[inline(always)]
unsafe fn dots<V: Lanes, const R: usize, const C: usize>(
    components: &PackedComponents,
    rows: &[f64],
    first: usize,
    scores: &mut [f64],
) {
    let width = components.padded_width();
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        for panel in 0..components.panels {
            let v: [&[[f64; LANES]]; C] =
                std::array::from_fn(|c| lanes_of(components.of(panel, first + c)));
            let x: [&[[f64; LANES]]; R] =
                std::array::from_fn(|r| lanes_of(panel_of(&rows[r * width + panel * PANEL..])));
            for part in 0..PANEL / LANES {
                let v: [V; C] = std::array::from_fn(|c| V::load(&v[c][part]));
                for r in 0..R {
                    let x = V::load(&x[r][part]);
                    for c in 0..C {
                        sums[r][c] = x.mul_add(v[c], sums[r][c]);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, sums) in sums.iter().enumerate() {
                let mut lanes = [0.0; LANES];
                sums.store(&mut lanes);
                scores[r * components.k + first + c] = add_lanes(&lanes);
            }
        }
    }
}

/// Subtracts every component times its score from R rows.
#[inline(always)]
unsafe fn subtract<V: Lanes, const R: usize>(
    components: &PackedComponents,
    rows: &mut [f64],
    scores: &[f64],
) {
    const PARTS: usize = PANEL / LANES;
    let (width, k) = (components.padded_width(), components.k);
    // SAFETY: the caller has the instruction set.
    unsafe {
        for panel in 0..components.panels {
            let mut x: [[V; PARTS]; R] = std::array::from_fn(|r| {
                let row = lanes_of(panel_of(&rows[r * width + panel * PANEL..]));
                std::array::from_fn(|part| V::load(&row[part]))
            });
            for component in 0..k {
                let v = lanes_of(components.of(panel, component));
                let v: [V; PARTS] = std::array::from_fn(|part| V::load(&v[part]));
                for r in 0..R {
                    let score = V::splat(-scores[r * k + component]);
                    for part in 0..PARTS {
                        x[r][part] = score.mul_add(v[part], x[r][part]);
                    }
                }
            }
            for (r, x) in x.iter().enumerate() {
                let row = &mut rows[r * width + panel * PANEL..][..PANEL];
                for (x, to) in x.iter().zip(row.as_chunks_mut::<LANES>().0) {
                    x.store(to);
                }
            }
        }
    }
}

#[inline(always)]
fn panel_of(rest: &[f64]) -> &[f64; PANEL] {
    rest.first_chunk().expect("rows are padded to whole panels")
}

#[inline(always)]
fn lanes_of(panel: &[f64; PANEL]) -> &[[f64; LANES]] {
    panel.as_chunks().0
}

/// The squared norm of a padded row, with the sums of [`project`]'s dot products.
pub fn squared_norm(row: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    for run in row.chunks_exact(LANES) {
        for lane in 0..LANES {
            sums[lane] += run[lane] * run[lane];
        }
    }
    add_lanes(&sums)
}

#[inline(always)]
fn add_lanes(sums: &[f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = *sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    /// Numbers in [-1, 1).
    fn uniform(count: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let draw = |_| (random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        (0..count).map(draw).collect()
    }

    /// Rows with zeros up to whole panels.
    fn padded(n: usize, width: usize, seed: u64) -> Vec<f64> {
        let rows = uniform(n * width, seed);
        let mut padded = Vec::new();
        for row in rows.chunks_exact(width) {
            padded.extend(row);
            padded.resize(padded.len().next_multiple_of(PANEL), 0.0);
        }
        padded
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        for (n, width, k) in [(1, 1, 1), (3, 31, 2), (4, 32, 4), (9, 100, 7), (8, 64, 0)] {
            let components = uniform(k * width, 1);
            let packed = PackedComponents::new(&components, k, width);
            let rows = padded(n, width, 2);
            let columns = packed.padded_width();
            for isa in Isa::available() {
                let (mut rest, mut scores) = (rows.clone(), vec![0.0; n * k]);
                project(isa, &packed, &mut rest, &mut scores);
                for r in 0..n {
                    let row = &rows[r * columns..][..width];
                    for c in 0..k {
                        let mut sums = [0.0; LANES];
                        for (j, (x, v)) in row.iter().zip(&components[c * width..]).enumerate() {
                            sums[j % LANES] = x.mul_add(*v, sums[j % LANES]);
                        }
                        assert_eq!(scores[r * k + c], add_lanes(&sums), "{isa:?}");
                    }
                    for j in 0..width {
                        let left = (0..k).fold(row[j], |x, c| {
                            (-scores[r * k + c]).mul_add(components[c * width + j], x)
                        });
                        assert_eq!(rest[r * columns + j], left, "{isa:?}");
                    }
                    assert!(
                        rest[r * columns + width..][..columns - width]
                            .iter()
                            .all(|x| *x == 0.0)
                    );
                }
            }
        }
    }
}
