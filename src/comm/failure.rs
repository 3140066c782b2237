//! One rank's failure ends all of them, with one exit code.
//!
//! Three ways lead out of a run: the ranks agree on a failure at the end of a stage and return
//! together ([`super::Comm::agree`]); a rank that fails inside a stage ends the job itself
//! ([`end_all`]), or the others would wait for ever; and a panic or a signal, on any thread, ends
//! the process without MPI_Finalize, which the launcher takes as the end of the job.

use super::mpi;
use crate::error::{Failure, Kind};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::ThreadId;

/// The exit code that this rank is about to leave with; 0 while it is not.
static LEAVING: AtomicU8 = AtomicU8::new(0);

/// Notes that this rank leaves because of a failure that was told. What the launcher sends from here on to end
/// the others is nothing to tell.
pub fn leave_with(code: u8) {
    LEAVING.store(code, Ordering::Release);
}

/// Prints the failure and ends every rank with its exit code. Main thread only.
pub fn end_all(rank: usize, size: usize, failure: &Failure) -> ! {
    report(rank, size, &failure.text);
    leave_with(failure.kind.exit_code());
    mpi::abort_world(failure.kind.exit_code());
    exit_now(failure.kind.exit_code())
}

/// Prints one line, with the rank where there are several: through the log where that has started,
/// so that it has the log's form.
pub fn report(rank: usize, size: usize, text: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::error!(rank, "{text}");
        return;
    }
    let mut stderr = std::io::stderr().lock();
    // Nothing can be done when the terminal is gone.
    let _ = if size > 1 {
        writeln!(stderr, "p8: error: rank {rank}: {text}")
    } else {
        writeln!(stderr, "p8: error: {text}")
    };
    let _ = stderr.flush();
}

/// Ends this process without running exit handlers, which belong to the main thread.
pub fn exit_now(code: u8) -> ! {
    signal_hook::low_level::exit(i32::from(code))
}

/// Makes a panic on any thread end the job with exit code 70.
///
/// `is_caught` says whether the panicking thread is inside a place that turns panics into errors
/// (the image decoders), where the job goes on.
pub fn end_on_panic(rank: usize, size: usize, is_caught: fn() -> bool) {
    let main: ThreadId = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if is_caught() {
            return;
        }
        let place = info
            .location()
            .map(|l| format!(" at {}:{}", l.file(), l.line()))
            .unwrap_or_default();
        let cause = info
            .payload()
            .downcast_ref::<&str>()
            .map(|s| s.to_string())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown cause".into());
        report(
            rank,
            size,
            &format!("internal error{place}: {cause}; this is a defect of p8, please report it"),
        );
        let code = Kind::Internal.exit_code();
        leave_with(code);
        if std::thread::current().id() == main {
            mpi::abort_world(code);
        }
        exit_now(code);
    }));
}

/// Makes SIGINT, SIGTERM and SIGUSR1 end this rank with exit code 75; finished blocks stay.
///
/// Shards are published by rename, so there is nothing to clean up that a next run would not.
///
/// # Errors
/// When the system refuses the handler.
pub fn end_on_signal(rank: usize, size: usize) -> Result<(), Failure> {
    let refused = |error: std::io::Error| {
        Failure::new(
            Kind::Internal,
            format!("cannot install the signal handlers: {error}"),
        )
    };
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(refused)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                match LEAVING.load(Ordering::Acquire) {
                    0 => {}
                    code => exit_now(code),
                }
                if let Some(text) = farewell(signal, rank, size) {
                    report(rank, size, &text);
                }
                exit_now(Kind::Stopped.exit_code());
            }
        })
        .map_err(refused)?;
    Ok(())
}

/// What a rank says that a signal ends. SIGTERM is what a launcher ends all ranks with, at the end of their time and
/// also where one of them has failed: rank 0 speaks for all then.
fn farewell(signal: i32, rank: usize, size: usize) -> Option<String> {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    let kept =
        format!("stopped by {name}; finished blocks are kept: run the same command again to go on");
    match (signal == SIGTERM && size > 1, rank) {
        (false, _) => Some(kept),
        (true, 0) => Some(format!(
            "{kept}, unless another rank has told an error, which then is the reason"
        )),
        (true, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_0_speaks_for_all_that_a_launcher_ends_and_who_is_meant_alone_for_itself() {
        let told = |signal, rank, size| farewell(signal, rank, size).unwrap_or_default();
        for (signal, rank, size) in [
            (SIGTERM, 0, 1),
            (SIGTERM, 0, 3),
            (SIGINT, 2, 3),
            (SIGUSR1, 1, 3),
        ] {
            let told = told(signal, rank, size);
            assert!(told.contains("finished blocks are kept"), "{told}");
            assert_eq!(told.contains("another rank"), signal == SIGTERM && size > 1);
        }
        assert_eq!(told(SIGTERM, 1, 3), "");
    }
}
