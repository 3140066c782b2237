//! The inner loops of the projection on principal components: scores, and what is left of a row.
//!
//! Every sum has one order, whatever the instruction set, and products and additions are fused on all
//! of them (`f64::mul_add`, which a processor without such an instruction computes slowly), so the bits
//! are the same everywhere. AVX-512 and AVX2 have vectors of their own here; for other processors, NEON
//! included, the vectors are arrays, and their code is what the compiler makes of them.

use std::ops::Range;

use super::Isa;

/// Partial sums of a dot product; they fill one vector of AVX-512 and two of AVX2.
const LANES: usize = 8;

/// A sum in parts: entry j of a row goes to part `j % LANES`.
pub type Sum = [f64; LANES];

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

    /// How many panels there are.
    pub fn panels(&self) -> usize {
        self.panels
    }

    /// The entries of one component in one panel.
    #[inline(always)]
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

/// Work that any vectors can do.
trait Work {
    /// Takes R rows and C components at a time.
    ///
    /// # Safety
    /// As [`Lanes`] says.
    unsafe fn run<V: Lanes, const R: usize, const C: usize>(self);
}

/// Does work with the vectors of an instruction set.
///
/// # Panics
/// If this machine lacks it.
fn dispatch(isa: Isa, work: impl Work) {
    assert!(isa.is_available(), "{} is not available", isa.as_str());
    // SAFETY: the instruction set is there, checked above; the last one needs none.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => with_avx512(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(work),
            _ => work.run::<[f64; LANES], 2, 2>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn with_avx512(work: impl Work) {
    // SAFETY: this function has the instruction set.
    unsafe { work.run::<std::arch::x86_64::__m512d, 4, 5>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(work: impl Work) {
    // SAFETY: this function has the instruction set.
    unsafe { work.run::<[std::arch::x86_64::__m256d; 2], 2, 2>() }
}

/// Adds to `sums` `[n, k]` the products of rows with the components, and to `squares` `[n]` the rows' squares, for
/// some panels of columns, of which alone `rows` `[n, PANEL panels]` are. 2 d k operations a row.
///
/// # Panics
/// If the lengths do not agree, or this machine lacks the instruction set.
pub fn add_products(
    isa: Isa,
    (components, panels): (&PackedComponents, Range<usize>),
    rows: &[f64],
    (sums, squares): (&mut [Sum], &mut [Sum]),
) {
    let (n, width) = (squares.len(), panels.len() * PANEL);
    let lengths = (rows.len(), sums.len());
    assert_eq!(lengths, (n * width, n * components.k), "sums for each row");
    assert!(panels.end <= components.panels, "panels of the components");
    dispatch(
        isa,
        Products {
            components,
            panels,
            rows,
            sums,
            squares,
        },
    );
}

struct Products<'a> {
    components: &'a PackedComponents,
    panels: Range<usize>,
    rows: &'a [f64],
    sums: &'a mut [Sum],
    squares: &'a mut [Sum],
}

impl Work for Products<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes, const R: usize, const C: usize>(mut self) {
        let (k, n) = (self.components.k, self.squares.len());
        // SAFETY: the caller has the instruction set; so for all functions with vectors.
        unsafe {
            for first in (0..k / C * C).step_by(C) {
                for row in (0..n / R * R).step_by(R) {
                    self.tile::<V, R, C>(row, first);
                }
                for row in n / R * R..n {
                    self.tile::<V, 1, C>(row, first);
                }
            }
            for first in k / C * C..k {
                for row in 0..n {
                    self.tile::<V, 1, 1>(row, first);
                }
            }
            for row in 0..n {
                self.square::<V>(row);
            }
        }
    }
}

impl Products<'_> {
    /// R rows from `row` on and C components from `first` on.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const R: usize, const C: usize>(&mut self, row: usize, first: usize) {
        let (width, k) = (self.panels.len() * PANEL, self.components.k);
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut sums: [[V; C]; R] = std::array::from_fn(|r| {
                std::array::from_fn(|c| V::load(&self.sums[(row + r) * k + first + c]))
            });
            for (index, panel) in self.panels.clone().enumerate() {
                let v: [&[[f64; LANES]]; C] =
                    std::array::from_fn(|c| lanes_of(self.components.of(panel, first + c)));
                let x: [&[[f64; LANES]]; R] = std::array::from_fn(|r| {
                    lanes_of(panel_of(&self.rows[(row + r) * width + index * PANEL..]))
                });
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
                for (c, sum) in sums.iter().enumerate() {
                    sum.store(&mut self.sums[(row + r) * k + first + c]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn square<V: Lanes>(&mut self, row: usize) {
        let width = self.panels.len() * PANEL;
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut sum = V::load(&self.squares[row]);
            for lanes in self.rows[row * width..][..width].as_chunks().0 {
                let x = V::load(lanes);
                sum = x.mul_add(x, sum);
            }
            sum.store(&mut self.squares[row]);
        }
    }
}

/// Adds to `squares` `[n]` those of what the leading components leave of rows with these `scores` `[n, any]`, for some
/// panels of columns, of which alone `rows` `[n, PANEL panels]` are. 2 d k operations a row.
///
/// # Panics
/// If the lengths do not agree, or this machine lacks the instruction set.
pub fn add_rest_squares(
    isa: Isa,
    (components, panels): (&PackedComponents, Range<usize>),
    rows: &[f64],
    scores: &[f64],
    squares: &mut [Sum],
) {
    let (n, width) = (squares.len(), panels.len() * PANEL);
    assert_eq!(rows.len(), n * width, "a sum for each row");
    assert!(panels.end <= components.panels, "panels of the components");
    if n == 0 {
        return;
    }
    let k = scores.len() / n;
    assert!(
        scores.len() == n * k && k <= components.k,
        "rows of scores, no more than there are components"
    );
    dispatch(
        isa,
        Rests {
            components,
            panels,
            rows,
            scores,
            k,
            squares,
        },
    );
}

struct Rests<'a> {
    components: &'a PackedComponents,
    panels: Range<usize>,
    rows: &'a [f64],
    scores: &'a [f64],
    k: usize,
    squares: &'a mut [Sum],
}

impl Work for Rests<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes, const R: usize, const C: usize>(mut self) {
        let n = self.squares.len();
        // SAFETY: the caller has the instruction set.
        unsafe {
            for index in 0..self.panels.len() {
                for row in (0..n / R * R).step_by(R) {
                    self.tile::<V, R>(index, row);
                }
                for row in n / R * R..n {
                    self.tile::<V, 1>(index, row);
                }
            }
        }
    }
}

impl Rests<'_> {
    /// R rows from `row` on in one of the panels.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const R: usize>(&mut self, index: usize, row: usize) {
        const PARTS: usize = PANEL / LANES;
        let width = self.panels.len() * PANEL;
        let panel = self.panels.start + index;
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut x: [[V; PARTS]; R] = std::array::from_fn(|r| {
                let row = lanes_of(panel_of(&self.rows[(row + r) * width + index * PANEL..]));
                std::array::from_fn(|part| V::load(&row[part]))
            });
            for component in 0..self.k {
                let v = lanes_of(self.components.of(panel, component));
                let v: [V; PARTS] = std::array::from_fn(|part| V::load(&v[part]));
                for (r, x) in x.iter_mut().enumerate() {
                    let score = V::splat(-self.scores[(row + r) * self.k + component]);
                    for (x, v) in x.iter_mut().zip(v) {
                        *x = score.mul_add(v, *x);
                    }
                }
            }
            for (r, x) in x.iter().enumerate() {
                let mut sum = V::load(&self.squares[row + r]);
                for x in x {
                    sum = x.mul_add(*x, sum);
                }
                sum.store(&mut self.squares[row + r]);
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

/// What the parts of a sum are together.
pub fn total(sum: &Sum) -> f64 {
    let [a, b, c, d, e, f, g, h] = *sum;
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
            let columns = packed.panels() * PANEL;
            // The last component counts in the products alone, as the directions of probes do.
            let kept = k.saturating_sub(1);
            for (isa, at_once) in Isa::available()
                .into_iter()
                .flat_map(|isa| [(isa, 1), (isa, 3)])
            {
                let mut sums = vec![[0.0; LANES]; n * k];
                let mut squares = vec![[0.0; LANES]; n];
                let mut rests = squares.clone();
                let cut = |panels: &Range<usize>| -> Vec<f64> {
                    let columns = rows.chunks_exact(columns);
                    columns
                        .flat_map(|row| &row[panels.start * PANEL..panels.end * PANEL])
                        .copied()
                        .collect()
                };
                let runs = (0..packed.panels()).step_by(at_once);
                let runs = runs.map(|start| start..(start + at_once).min(packed.panels()));
                for panels in runs.clone() {
                    let (rows, of) = (cut(&panels), (&packed, panels));
                    add_products(isa, of, &rows, (&mut sums, &mut squares));
                }
                let scores: Vec<f64> = sums.iter().map(total).collect();
                let leading: Vec<f64> = scores
                    .chunks(k.max(1))
                    .flat_map(|scores| &scores[..kept])
                    .copied()
                    .collect();
                for panels in runs {
                    let (rows, of) = (cut(&panels), (&packed, panels));
                    add_rest_squares(isa, of, &rows, &leading, &mut rests);
                }
                for r in 0..n {
                    let row = &rows[r * columns..][..width];
                    for c in 0..k {
                        let mut sum = [0.0; LANES];
                        for (j, (x, v)) in row.iter().zip(&components[c * width..]).enumerate() {
                            sum[j % LANES] = x.mul_add(*v, sum[j % LANES]);
                        }
                        assert_eq!(scores[r * k + c], total(&sum), "{isa:?}");
                    }
                    let (mut square, mut rest) = ([0.0; LANES], [0.0; LANES]);
                    for (j, x) in row.iter().enumerate() {
                        let left = (0..kept).fold(*x, |x, c| {
                            (-scores[r * k + c]).mul_add(components[c * width + j], x)
                        });
                        square[j % LANES] = x.mul_add(*x, square[j % LANES]);
                        rest[j % LANES] = left.mul_add(left, rest[j % LANES]);
                    }
                    assert_eq!((squares[r], rests[r]), (square, rest), "{isa:?}");
                }
            }
        }
    }
}
