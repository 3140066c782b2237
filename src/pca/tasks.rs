//! Work for the threads of the pool, whose results the thread that hands it out takes in one by one.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use super::PcaError;

/// Tasks of one thread, each with a result T.
pub(super) struct Tasks<'scope, 'env, T> {
    scope: &'scope rayon::ScopeFifo<'env>,
    /// Tasks whose result has not been taken.
    running: usize,
    sender: Sender<T>,
    receiver: Receiver<T>,
}

impl<'scope, 'env, T: Send + 'env> Tasks<'scope, 'env, T> {
    /// No tasks yet.
    pub fn new(scope: &'scope rayon::ScopeFifo<'env>) -> Self {
        let (sender, receiver) = channel();
        Tasks {
            scope,
            running: 0,
            sender,
            receiver,
        }
    }

    /// How many results there are yet to be taken.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Has some work done by the pool, in the order in which it is handed out.
    pub fn spawn(&mut self, work: impl FnOnce() -> T + Send + 'env) {
        self.running += 1;
        let sender = self.sender.clone();
        self.scope.spawn_fifo(move |_| {
            // The thread that would take it is gone only if it has an error already.
            let _ = sender.send(work());
        });
    }

    /// Waits for the next result; there has to be one to come. A thread of the pool itself, which a caller may
    /// be, works instead of waiting.
    pub fn next(&mut self) -> T {
        self.running -= 1;
        loop {
            match self.receiver.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Empty) if rayon::yield_now().is_some() => {}
                Err(_) => return self.receiver.recv().expect("a task that runs answers"),
            }
        }
    }

    /// Of an error and those of the tasks that still run, that of the first block.
    pub fn first_error(
        &mut self,
        mut error: PcaError,
        error_of: impl Fn(T) -> Option<PcaError>,
    ) -> PcaError {
        while self.running > 0 {
            if let Some(other) = error_of(self.next()) {
                error = earlier(error, other);
            }
        }
        error
    }
}

/// The error of the earlier block, where both name one: which of several is met first is a matter of timing.
fn earlier(one: PcaError, other: PcaError) -> PcaError {
    match (&one, &other) {
        (PcaError::NotFinite { block: a, .. }, PcaError::NotFinite { block: b, .. }) if b < a => {
            other
        }
        _ => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_bad_blocks_the_first_is_named() {
        let bad = |block| PcaError::NotFinite {
            block,
            row: 0,
            column: 0,
        };
        let named = rayon::in_place_scope_fifo(|scope| {
            let mut tasks = Tasks::new(scope);
            for block in [7, 3, 9, 5] {
                tasks.spawn(move || (block % 2 == 1).then(|| bad(block)));
            }
            tasks.spawn(|| None);
            let error = tasks.next().unwrap_or(bad(8));
            tasks.first_error(error, |error| error)
        });
        assert!(matches!(named, PcaError::NotFinite { block: 3, .. }));
    }

    #[test]
    fn every_result_comes_once_in_and_outside_of_a_pool_of_one_thread() {
        let collect = || {
            rayon::in_place_scope_fifo(|scope| {
                let mut tasks = Tasks::new(scope);
                for number in 0..20_usize {
                    tasks.spawn(move || number * number);
                }
                assert_eq!(tasks.running(), 20);
                let mut results: Vec<usize> = (0..20).map(|_| tasks.next()).collect();
                assert_eq!(tasks.running(), 0);
                results.sort_unstable();
                results
            })
        };
        let expected: Vec<usize> = (0..20).map(|number| number * number).collect();
        assert_eq!(collect(), expected);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        assert_eq!(pool.build().unwrap().install(collect), expected);
    }
}
