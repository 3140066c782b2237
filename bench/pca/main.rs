//! Rates of the factorisation, in one process, and what a run on many ranks would cost.
//!
//! `cargo bench --bench pca` prints three Markdown tables: medians of the building blocks and of whole
//! fits, the predicted seconds of some fits beside the measured ones, and the predicted cost at 3, 64
//! and 1024 ranks from the rates just measured. With `--quick` the matrices are small, which shows
//! that it runs and nothing else.

use std::sync::Arc;
use std::time::Instant;

use ndarray::{Array2, s};
use p8::linalg::blas::{Transpose, gemm};
use p8::linalg::gaussian::gaussian;
use p8::linalg::partial_svd::{Side, Wanted, leading};
use p8::linalg::{Scalar, blas_description, init, partial_eigen, qr, svd, triangle, zeros};
use p8::pca::{self, Block, Components, Exchange, Mapped, PcaSettings, Precision, Rows, Solver};

/// How often each is measured; the median counts.
const REPEATS: usize = 5;

/// A rank without others.
struct Alone;

impl Exchange for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send_bytes(&self, _: &[u8], _: usize) {
        unreachable!("one rank sends nothing")
    }

    fn receive_bytes(&self, _: usize) -> Vec<u8> {
        unreachable!("one rank receives nothing")
    }

    fn broadcast_bytes(&self, _: &mut Vec<u8>, _: usize) {}
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let d = if quick { 64 } else { 2048 };
    init();
    println!(
        "{}; {} threads\n",
        blas_description(),
        rayon::current_num_threads()
    );
    println!("| what | seconds | GFLOP/s |\n|---|---|---|");
    let rates = building_blocks(d);
    r_factors(quick);
    whole_fits(quick);
    println!();
    check(quick, &rates);
    println!();
    prediction(2048.0, &rates);
}

/// Seconds: the median of some runs, after one that is not counted.
fn median(mut work: impl FnMut()) -> f64 {
    work();
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[REPEATS / 2]
}

fn row(what: &str, seconds: f64, flops: Option<f64>) {
    let rate = flops.map_or(String::new(), |flops| {
        format!("{:.1}", flops / seconds / 1e9)
    });
    println!("| {what} | {seconds:.3} | {rate} |");
}

/// Operations a second in the leaves and in the merges, and the seconds of the SVD at the root; of products the
/// operations a second in the leaves and in the pass over the rows, and the seconds at the root.
struct Rates {
    leaf: f64,
    merge: f64,
    svd: f64,
    products: f64,
    pass: f64,
    search: f64,
}

fn building_blocks(d: usize) -> Rates {
    let size = d as f64;
    let a = gaussian(1, 0, d, d);
    let mut product = zeros(d, d);
    let flops = 2.0 * size.powi(3);
    let seconds = median(|| {
        let (x, y) = ((a.view(), Transpose::No), (a.view(), Transpose::No));
        gemm(1.0, x, y, 0.0, product.view_mut()).expect("shapes agree");
    });
    row(
        &format!("dgemm {d} x {d}, one thread"),
        seconds,
        Some(flops),
    );

    let tall = gaussian(2, 0, 4 * d, d);
    let leaf_flops = 2.0 * size * size * (4.0 * size - size / 3.0);
    let leaf = median(|| drop(qr::Factored::new(tall.clone()).expect("a finite matrix")));
    row(
        &format!("QR of a leaf, {} x {d}", 4 * d),
        leaf,
        Some(leaf_flops),
    );

    let triangle = |rows| {
        let part = p8::linalg::by_columns(tall.slice(rows));
        qr::Factored::new(part).expect("a finite matrix").r()
    };
    let (top, bottom) = (triangle(s![..d, ..]), triangle(s![d..2 * d, ..]));
    let tall = p8::linalg::by_columns(tall.slice(s![..2 * d, ..]));
    let merge_flops = 2.0 / 3.0 * size.powi(3);
    let merge = median(|| {
        drop(qr::Merged::new(top.clone(), &zeros(1, d), &bottom).expect("finite triangles"));
    });
    row(
        &format!("merge of two triangles of {d}"),
        merge,
        Some(merge_flops),
    );

    // Features of a network fall off like a power of their number.
    let mut falling = tall.clone();
    for (j, mut column) in falling.columns_mut().into_iter().enumerate() {
        column /= (1.0 + j as f64).sqrt();
    }
    let r = qr::Factored::new(falling).expect("a finite matrix").r();
    let full = median(|| drop(svd::svd(r.clone()).expect("it converges")));
    row(&format!("SVD of R, all {d} values"), full, None);
    let k = d / 40;
    let partial = median(|| {
        drop(
            leading(&r, Side::Right, Wanted::Count(k), d / 3, f64::EPSILON)
                .expect("a finite triangle"),
        );
    });
    row(&format!("SVD of R, the {k} largest values"), partial, None);

    let mut squares = zeros(d, d);
    let turned = p8::linalg::by_columns(tall.t());
    let products = median(|| {
        triangle::gram((turned.view(), Transpose::No), 0.0, squares.view_mut())
            .expect("shapes agree");
    });
    let products_flops = 2.0 * size.powi(3);
    row(
        &format!("products of the columns of {} x {d}", 2 * d),
        products,
        Some(products_flops),
    );
    let turned = p8::linalg::by_columns(r.t());
    triangle::gram((turned.view(), Transpose::No), 0.0, squares.view_mut()).expect("shapes agree");
    let search = median(|| {
        let found = partial_eigen::leading(squares.clone(), Wanted::Count(k), d / 3, f64::EPSILON);
        drop(found.expect("finite products"));
    });
    row(
        &format!("eigenvectors of products, the {k} largest"),
        search,
        None,
    );
    let directions = gaussian(6, 0, d, k);
    let mut scores = zeros(2 * d, k);
    let mut back = zeros(d, k);
    let pass = median(|| {
        let forth = (
            (tall.view(), Transpose::No),
            (directions.view(), Transpose::No),
        );
        gemm(1.0, forth.0, forth.1, 0.0, scores.view_mut()).expect("shapes agree");
        let (x, y) = (
            (tall.view(), Transpose::Yes),
            (scores.view(), Transpose::No),
        );
        gemm(1.0, x, y, 0.0, back.view_mut()).expect("shapes agree");
    });
    let pass_flops = 8.0 * size * size * k as f64;
    row(
        &format!(
            "X V and X^T X V, {} x {d}, {k} directions, one thread",
            2 * d
        ),
        pass,
        Some(pass_flops),
    );
    let threads = rayon::current_num_threads() as f64;
    Rates {
        leaf: leaf_flops / leaf,
        merge: merge_flops / merge,
        svd: partial,
        products: products_flops / products,
        pass: threads * pass_flops / pass,
        search,
    }
}

/// R of many rows beside a matrix product, both on all threads: what the tree makes of the machine.
fn r_factors(quick: bool) {
    let shapes = if quick {
        vec![(300, 64)]
    } else {
        vec![(20_000, 2048), (4000, 2048)]
    };
    for (n, d) in shapes {
        let blocks = Blocks::new(n, d);
        let (product, double) = (product_rate::<f64>(d), blocks.r_seconds(Precision::F64));
        let (single_product, single) = (product_rate::<f32>(d), blocks.r_seconds(Precision::F32));
        for (precision, product, seconds) in
            [("f64", product, double), ("f32", single_product, single)]
        {
            let size = d as f64;
            let flops = 2.0 * size * size * (n as f64 - size / 3.0);
            let part = 100.0 * flops / seconds / product;
            let cube = 2.0 * size.powi(3);
            let what = format!("products of {d} x {d} on all threads, {precision}");
            row(&what, cube / product, Some(cube));
            let what = format!("R of {n} x {d}, {precision}: {part:.0} % of that rate");
            row(&what, seconds, Some(flops));
        }
    }
}

/// Operations a second of all threads together, each with a matrix product of its own.
fn product_rate<T: Scalar>(d: usize) -> f64 {
    let a = p8::linalg::by_columns(gaussian(1, 0, d, d).mapv(T::of_f64).view());
    let threads = rayon::current_num_threads();
    let seconds = median(|| {
        rayon::broadcast(|_| {
            let mut product = zeros::<T>(d, d);
            let (x, y) = ((a.view(), Transpose::No), (a.view(), Transpose::No));
            gemm(T::one(), x, y, T::zero(), product.view_mut()).expect("shapes agree");
        });
    });
    threads as f64 * 2.0 * (d as f64).powi(3) / seconds
}

fn whole_fits(quick: bool) {
    let shapes = if quick {
        vec![
            (Solver::Auto, 600, 256),
            (Solver::Tsqr, 300, 64),
            (Solver::Wide, 20, 300),
            (Solver::Randomized, 300, 64),
        ]
    } else {
        vec![
            (Solver::Auto, 20_000, 2048),
            (Solver::Tsqr, 20_000, 2048),
            (Solver::Randomized, 20_000, 2048),
            (Solver::Wide, 100, 100_352),
            (Solver::Wide, 1000, 100_352),
            (Solver::Randomized, 1000, 100_352),
        ]
    };
    for (solver, n, d) in shapes {
        let k = if n < 1000 && d != 64 { 7 } else { 50 };
        let blocks = Blocks::new(n, d);
        for precision in [Precision::F64, Precision::F32] {
            let seconds = blocks.seconds(solver, precision, k);
            let what = format!(
                "{} {n} x {d} to {k}, {}",
                solver.as_str(),
                precision.as_str()
            );
            row(&what, seconds, None);
        }
    }
}

/// Rows of features in blocks, f32 as the network gives them, made before the clock runs and read where they lie, as
/// those of a mapped file are.
struct Blocks {
    rows_per_block: Vec<usize>,
    width: usize,
    blocks: Vec<Arc<Vec<f32>>>,
}

impl Blocks {
    fn new(n: usize, width: usize) -> Self {
        let block = 128;
        let rows_per_block: Vec<usize> =
            (0..n).step_by(block).map(|at| block.min(n - at)).collect();
        let blocks = rows_per_block
            .iter()
            .enumerate()
            .map(|(index, count)| falling(index * block, *count, width))
            .map(|rows| Arc::new(rows.into_raw_vec_and_offset().0))
            .collect();
        Blocks {
            rows_per_block,
            width,
            blocks,
        }
    }

    /// Seconds of the R factor.
    fn r_seconds(&self, precision: Precision) -> f64 {
        let owner_of_block = vec![0; self.rows_per_block.len()];
        let rows = self.rows(&owner_of_block);
        median(|| {
            let mut read = |block: usize| Ok(self.read(block));
            drop(pca::r_factor(&Alone, &rows, &mut read, precision).expect("finite rows"));
        })
    }

    /// The rows of a block.
    fn read(&self, block: usize) -> Block {
        let shape = (self.rows_per_block[block], self.width);
        Block::Mapped32(Mapped::new(self.blocks[block].clone(), 0, shape))
    }

    fn rows<'a>(&'a self, owner_of_block: &'a [usize]) -> Rows<'a> {
        Rows {
            rows_per_block: &self.rows_per_block,
            owner_of_block,
            width: self.width,
        }
    }

    /// Seconds of a fit of k components.
    fn seconds(&self, solver: Solver, precision: Precision, k: usize) -> f64 {
        let owner_of_block = vec![0; self.rows_per_block.len()];
        let rows = self.rows(&owner_of_block);
        let settings = PcaSettings {
            components: Components::Count(k),
            standardize: true,
            whiten: false,
            solver,
            precision,
            memory: None,
            keep_factor: false,
        };
        median(|| {
            let mut read = |block: usize| Ok(self.read(block));
            drop(pca::fit(&Alone, &rows, &mut read, &settings).expect("finite rows"));
        })
    }
}

fn falling(first: usize, rows: usize, d: usize) -> Array2<f32> {
    let few = 64.min(d);
    let mixed = gaussian(3, first, rows, few).dot(&gaussian(4, 0, few, d));
    let noise = gaussian(5, first, rows, d);
    Array2::from_shape_fn((rows, d), |at| (mixed[at] + noise[at]) as f32)
}

/// What the cost model of `bench/pca/README.md` says of a run.
struct Cost {
    leaves: f64,
    /// Operations of the rank with the most, by a QR.
    flops: f64,
    levels: f64,
    message: f64,
    sent: f64,
    seconds: f64,
    /// The same for products that the rows confirm.
    products_flops: f64,
    products_seconds: f64,
}

/// The cost model with the rates measured here, for d / 40 components.
fn cost(images: f64, ranks: f64, d: f64, rates: &Rates) -> Cost {
    /// Bytes a second and seconds a message of a network of 10 Gbit/s.
    const BANDWIDTH: f64 = 1.1e9;
    const LATENCY: f64 = 5e-5;
    // How many leaves with at least so many rows there are, how many ranks have any, and how many one has at most.
    let shares = |leaf_rows: f64| {
        let leaves = (images / leaf_rows).floor().max(1.0);
        let working = ranks.min(leaves);
        (leaves, working, (leaves / working).ceil())
    };
    let (leaves, working, own) = shares(4.0 * d);
    let leaf_flops = own * 2.0 * d * d * (images / leaves - d / 3.0);
    let levels = working.log2().ceil();
    let merge_flops = (own - 1.0 + levels) * 2.0 / 3.0 * d.powi(3);
    let message = 8.0 * (d * (d + 1.0) / 2.0 + 2.0 * d + 3.0);
    let k = (d / 40.0).floor();
    let image = 8.0 * (d * k + (k + 2.0).powi(2) + 2.0);
    let (products_leaves, products_working, products_own) =
        shares((images / 4.0).clamp((d / 2.0).ceil(), 2.0 * d));
    let products_flops = products_own * d * d * images / products_leaves;
    let pass_flops = 4.0 * d * k * images / ranks;
    let travel_of = |levels: f64, bytes: f64| levels * (bytes / BANDWIDTH + LATENCY);
    let travel = |bytes| travel_of(levels, bytes);
    let products_levels = products_working.log2().ceil();
    Cost {
        products_flops: products_flops + pass_flops,
        products_seconds: products_flops / rates.products
            + pass_flops / rates.pass
            + travel_of(products_levels, message)
            + travel_of(ranks.log2().ceil(), image)
            + rates.search,
        leaves,
        flops: leaf_flops + merge_flops,
        levels,
        message,
        sent: (working - 1.0) * message,
        seconds: leaf_flops / rates.leaf + merge_flops / rates.merge + travel(message) + rates.svd,
    }
}

/// The model beside fits of this one rank.
fn check(quick: bool, rates: &Rates) {
    println!(
        "| images on this rank | QR, predicted seconds | measured | products, predicted seconds | measured |"
    );
    println!("|---|---|---|---|---|");
    let (d, counts) = if quick {
        (256, vec![600])
    } else {
        (2048, vec![10_000, 20_000, 40_000])
    };
    for images in counts {
        let predicted = cost(images as f64, 1.0, d as f64, rates);
        let blocks = Blocks::new(images, d);
        let measured = |solver| blocks.seconds(solver, Precision::F64, d / 40);
        println!(
            "| {images} | {:.2} | {:.2} | {:.2} | {:.2} |",
            predicted.seconds,
            measured(Solver::Tsqr),
            predicted.products_seconds,
            measured(Solver::Auto)
        );
    }
}

fn prediction(d: f64, rates: &Rates) {
    println!(
        "| images | ranks | leaves | levels between ranks | MB a message | MB sent in all | QR: GFLOP a rank | seconds | products: GFLOP a rank | seconds |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for images in [1e6, 1e8, 1e9_f64] {
        for ranks in [3.0, 64.0, 1024.0_f64] {
            let cost = cost(images, ranks, d, rates);
            println!(
                "| {images:.0e} | {ranks} | {} | {} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} | {:.1} |",
                cost.leaves,
                cost.levels,
                cost.message / 1e6,
                cost.sent / 1e6,
                cost.flops / 1e9,
                cost.seconds,
                cost.products_flops / 1e9,
                cost.products_seconds,
            );
        }
    }
}
