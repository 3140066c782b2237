//! How far all ranks are, told on rank 0: a line that rewrites itself on a terminal, else a line
//! every 30 seconds.

use super::settings::{Level, Log, LogFormat};
use crate::comm::Comm;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};
use tracing::info;

/// Between two lines of a log.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Between two pictures of the line on a terminal, and between two notes of a rank.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);

/// What one rank has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Images that are finished, good or bad.
    pub images: u64,
    /// Those of them that were taken from an earlier run.
    pub resumed: u64,
    /// Bad ones among the finished.
    pub bad: u64,
}

/// Collects what the ranks have done.
pub struct Progress<'a> {
    comm: &'a Comm,
    total: u64,
    started: Instant,
    mine: Done,
    noted: Option<Instant>,
    /// On rank 0: the last word of every rank, and whether it has finished.
    ranks: Vec<(Done, bool)>,
    on_terminal: bool,
    shown: Option<Instant>,
}

impl<'a> Progress<'a> {
    /// Starts the clock; `total` images on all ranks.
    pub fn start(comm: &'a Comm, total: usize, log: Log) -> Self {
        Progress {
            comm,
            total: total as u64,
            started: Instant::now(),
            mine: Done::default(),
            noted: None,
            ranks: vec![(Done::default(), false); comm.size()],
            on_terminal: log.level != Level::Quiet
                && log.format == LogFormat::Human
                && comm.rank() == 0
                && std::io::stderr().is_terminal(),
            shown: None,
        }
    }

    /// Adds to what this rank has done.
    pub fn add(&mut self, done: Done) {
        self.mine.images += done.images;
        self.mine.resumed += done.resumed;
        self.mine.bad += done.bad;
        self.tell(false);
    }

    /// Ends the stage: rank 0 waits here until every rank has said that it is finished.
    pub fn finish(mut self) {
        self.tell(true);
        if self.comm.rank() > 0 {
            return;
        }
        while self.ranks.iter().any(|(_, finished)| !finished) {
            self.listen();
            self.show();
            std::thread::sleep(Duration::from_millis(5));
        }
        self.clear();
        info!(
            images = self.total,
            "features  {} in {:.1} s",
            line(self.total, self.sum(), self.started.elapsed()),
            self.started.elapsed().as_secs_f64()
        );
    }

    fn tell(&mut self, finished: bool) {
        if self.comm.rank() == 0 {
            self.ranks[0] = (self.mine, finished);
            self.listen();
            self.show();
        } else if finished || self.noted.is_none_or(|at| at.elapsed() > TERMINAL_INTERVAL) {
            self.noted = Some(Instant::now());
            self.comm.note([
                self.mine.images,
                self.mine.resumed,
                self.mine.bad,
                u64::from(finished),
            ]);
        }
    }

    fn listen(&mut self) {
        while let Some((rank, [images, resumed, bad, finished])) = self.comm.next_note() {
            let done = Done {
                images,
                resumed,
                bad,
            };
            self.ranks[rank] = (done, finished != 0);
        }
    }

    fn sum(&self) -> Done {
        self.ranks
            .iter()
            .fold(Done::default(), |sum, (done, _)| Done {
                images: sum.images + done.images,
                resumed: sum.resumed + done.resumed,
                bad: sum.bad + done.bad,
            })
    }

    fn show(&mut self) {
        let interval = if self.on_terminal {
            TERMINAL_INTERVAL
        } else {
            LOG_INTERVAL
        };
        if self.shown.unwrap_or(self.started).elapsed() < interval {
            return;
        }
        self.shown = Some(Instant::now());
        let text = line(self.total, self.sum(), self.started.elapsed());
        if self.on_terminal {
            // Nothing can be done when the terminal is gone.
            let _ = write!(std::io::stderr(), "\r\x1b[Kfeatures  {text}");
        } else {
            info!("features  {text}");
        }
    }

    fn clear(&self) {
        if self.on_terminal && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `40/100 images, 8.0 images/s, 0:08 left, 1 bad`; the rate counts only what was computed now.
fn line(total: u64, done: Done, elapsed: Duration) -> String {
    let computed = done.images - done.resumed;
    let rate = computed as f64 / elapsed.as_secs_f64().max(1e-9);
    let mut text = format!("{}/{total} images", done.images);
    if done.resumed > 0 {
        text.push_str(&format!(" ({} from an earlier run)", done.resumed));
    }
    if computed > 0 {
        text.push_str(&format!(", {rate:.1} images/s"));
        if done.images < total {
            let left = ((total - done.images) as f64 / rate) as u64;
            text.push_str(&format!(", {} left", clock(left)));
        }
    }
    text.push_str(&format!(", {} bad", done.bad));
    text
}

/// `0:08`, `1:02:03`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_counts_only_what_was_computed_now() {
        let done = Done {
            images: 60,
            resumed: 20,
            bad: 1,
        };
        assert_eq!(
            line(100, done, Duration::from_secs(10)),
            "60/100 images (20 from an earlier run), 4.0 images/s, 0:10 left, 1 bad"
        );
        assert_eq!(
            line(5, Done::default(), Duration::ZERO),
            "0/5 images, 0 bad"
        );
    }

    #[test]
    fn hours_show_only_when_there_are_some() {
        assert_eq!(clock(8), "0:08");
        assert_eq!(clock(3723), "1:02:03");
    }
}
