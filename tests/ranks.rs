//! The communicator on real ranks: this program starts itself under mpirun, at every rank count.
//!
//! Without arguments it is the launcher. With the name of a program it is one rank, and what it
//! asserts there ends the job with exit code 70 when it does not hold.

use ndarray::Array2;
use p8::comm::{Comm, failure};
use p8::error::{Failure, Kind};
use p8::pca::{self, Components, Model, PcaSettings, Precision, Rows, Solver};
use std::process::{Command, ExitCode, Output};

const RANKS: [usize; 6] = [1, 2, 3, 4, 5, 7];

/// Name, what a rank does, expected exit code, words on standard error.
type Program = (
    &'static str,
    fn(&Comm) -> Result<(), Failure>,
    i32,
    &'static [&'static str],
);

const PROGRAMS: [Program; 7] = [
    ("broadcast", broadcast, 0, &[]),
    ("gather", gather, 0, &[]),
    ("ring", ring, 0, &[]),
    ("notes", notes, 0, &[]),
    ("agree", agree, 0, &[]),
    ("solvers", solvers, 0, &[]),
    (
        "panic",
        panic,
        70,
        &["internal error at tests/ranks.rs", "on purpose"],
    ),
];

fn main() -> ExitCode {
    match std::env::args().nth(1) {
        Some(name) if !name.starts_with('-') => rank(&name),
        _ => launch(),
    }
}

/// Runs one rank of a program.
fn rank(name: &str) -> ExitCode {
    let program = PROGRAMS
        .iter()
        .find(|program| program.0 == name)
        .expect("a known program");
    let comm = Comm::start().expect("MPI starts");
    failure::end_on_panic(comm.rank(), comm.size(), || false);
    comm.or_end(program.1(&comm));
    comm.barrier();
    ExitCode::SUCCESS
}

/// Runs every program at every rank count and checks how it ends.
fn launch() -> ExitCode {
    let mut failed = 0;
    let mut passed = 0;
    for (name, _, code, words) in PROGRAMS {
        for ranks in RANKS {
            let output = mpirun(ranks, name);
            let said = String::from_utf8_lossy(&output.stderr);
            let ok =
                output.status.code() == Some(code) && words.iter().all(|word| said.contains(word));
            println!(
                "test {name} on {ranks} ranks ... {}",
                if ok { "ok" } else { "FAILED" }
            );
            if ok {
                passed += 1;
            } else {
                failed += 1;
                println!(
                    "ended with {}, expected {code}; it said\n{said}",
                    output.status
                );
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n"
    );
    ExitCode::from(u8::from(failed > 0))
}

fn mpirun(ranks: usize, program: &str) -> Output {
    Command::new("mpirun")
        .args(["-np", &ranks.to_string()])
        .arg(std::env::current_exe().expect("this program has a path"))
        .arg(program)
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
            ("OMPI_MCA_hwloc_base_binding_policy", "none"),
            ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ])
        .output()
        .expect("mpirun starts")
}

/// Different bytes for every sender and length.
fn message(rank: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + rank * 7) as u8).collect()
}

/// Lengths around the limits of MPI's protocols: nothing, eager, rendezvous.
const LENGTHS: [usize; 5] = [0, 1, 4095, 70_000, 3_000_001];

fn broadcast(comm: &Comm) -> Result<(), Failure> {
    for root in 0..comm.size() {
        for length in LENGTHS {
            let mut data = if comm.rank() == root {
                message(root, length)
            } else {
                vec![9; 3]
            };
            comm.broadcast_bytes(&mut data, root);
            assert_eq!(data, message(root, length));
        }
        let mut numbers = if comm.rank() == root {
            vec![f64::MIN_POSITIVE, -0.0, f64::NAN]
        } else {
            Vec::new()
        };
        comm.broadcast_f64(&mut numbers, root);
        let bits: Vec<u64> = numbers.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [f64::MIN_POSITIVE, -0.0, f64::NAN].map(f64::to_bits));
    }
    Ok(())
}

fn gather(comm: &Comm) -> Result<(), Failure> {
    for length in LENGTHS {
        let gathered = comm.gather_bytes(&message(comm.rank(), length * comm.rank()));
        assert_eq!(gathered.is_some(), comm.rank() == 0);
        for (rank, bytes) in gathered.unwrap_or_default().into_iter().enumerate() {
            assert_eq!(bytes, message(rank, length * rank));
        }
    }
    let mine: Vec<u64> = (0..comm.rank() as u64).collect();
    let all = comm.all_gather_u64(&mine);
    for (rank, numbers) in all.into_iter().enumerate() {
        assert_eq!(numbers, (0..rank as u64).collect::<Vec<_>>());
    }
    assert_eq!(
        comm.all_gather_f64(&[comm.rank() as f64]).concat().len(),
        comm.size()
    );
    Ok(())
}

/// Every rank sends to the next one and receives from the one before, even ranks first.
fn ring(comm: &Comm) -> Result<(), Failure> {
    if comm.size() == 1 {
        return Ok(());
    }
    let (next, before) = (
        (comm.rank() + 1) % comm.size(),
        (comm.rank() + comm.size() - 1) % comm.size(),
    );
    for length in LENGTHS {
        let check = |data: Vec<u8>| assert_eq!(data, message(before, length));
        if comm.rank() == 0 {
            comm.send_bytes(&message(comm.rank(), length), next);
            check(comm.receive_bytes(before));
        } else {
            check(comm.receive_bytes(before));
            comm.send_bytes(&message(comm.rank(), length), next);
        }
    }
    Ok(())
}

/// Notes arrive at rank 0, all of them, in the order of each sender.
fn notes(comm: &Comm) -> Result<(), Failure> {
    const COUNT: u64 = 50;
    if comm.rank() > 0 {
        for number in 0..COUNT {
            comm.note([number, comm.rank() as u64, 0, 0]);
        }
    } else {
        let mut seen = vec![0; comm.size()];
        while seen[1..].iter().any(|&count| count < COUNT) {
            if let Some((from, [number, sender, ..])) = comm.next_note() {
                assert_eq!(sender, from as u64);
                assert_eq!(number, seen[from]);
                seen[from] += 1;
            }
        }
    }
    Ok(())
}

/// All ranks report the failure of the lowest failing one, and success is everyone's.
fn agree(comm: &Comm) -> Result<(), Failure> {
    assert_eq!(comm.agree(Ok(comm.rank())), Ok(comm.rank()));
    let last = comm.size() - 1;
    let mine = if comm.rank() == last {
        Err(Failure::new(Kind::Io, "disk full"))
    } else {
        Ok(())
    };
    let failure = comm.agree(mine).expect_err("one rank failed");
    assert_eq!(failure.kind, Kind::Io);
    assert!(failure.text.contains("disk full"));
    assert!(
        comm.size() == 1 || failure.text.contains(&format!("rank {last}")),
        "{failure}"
    );
    Ok(())
}

/// Every solver gives the model that one rank alone would find, to the bit.
fn solvers(comm: &Comm) -> Result<(), Failure> {
    const ROWS: [usize; 9] = [7, 3, 0, 12, 5, 1, 9, 0, 8];
    for (width, solver) in [
        (11, Solver::Tsqr),
        (60, Solver::Wide),
        (11, Solver::Randomized),
        (60, Solver::Randomized),
    ] {
        let settings = PcaSettings {
            components: Components::Count(4),
            standardize: true,
            whiten: false,
            solver,
            precision: Precision::F64,
            memory: None,
            keep_factor: false,
        };
        let mut read = |block: usize| {
            // Any numbers that depend on block, row and column alone.
            let value = |(row, column)| (((block * 31 + row * 7 + 1) * (column + 2)) as f64).sin();
            Ok(Array2::from_shape_fn((ROWS[block], width), value).into())
        };
        let mut fit_with = |comm: &Comm, owner_of_block: &[usize]| {
            let rows = Rows {
                rows_per_block: &ROWS,
                owner_of_block,
                width,
            };
            pca::fit(comm, &rows, &mut read, &settings).map_err(Failure::from)
        };
        let owners: Vec<usize> = (0..ROWS.len())
            .map(|block| block * comm.size() / ROWS.len())
            .collect();
        let model = fit_with(comm, &owners)?;
        let bits = |model: &Model| -> Vec<u8> {
            let numbers = model.components.iter().chain(&model.singular_values);
            let numbers = numbers.chain(&model.mean).chain(&model.scale);
            numbers.flat_map(|x| x.to_le_bytes()).collect()
        };
        // All blocks on one rank: the others have no rows, and nothing depends on them.
        let alone = fit_with(comm, &[0; ROWS.len()])?;
        assert_eq!(model.k(), 4);
        let everywhere = comm.all_gather_bytes(&bits(&model));
        for found in everywhere.iter().chain([&bits(&alone)]) {
            assert!(
                *found == bits(&model),
                "{solver:?} on {} ranks",
                comm.size()
            );
        }
    }
    Ok(())
}

/// One rank panics while the others wait for it.
fn panic(comm: &Comm) -> Result<(), Failure> {
    assert!(comm.rank() != comm.size() - 1, "on purpose");
    comm.barrier();
    Ok(())
}
