//! How far all ranks are with the images, told on rank 0.

use super::settings::Log;
use super::terminal::Line;
use crate::comm::Comm;
use std::time::{Duration, Instant};

/// Between two notes of a rank.
const NOTE_INTERVAL: Duration = Duration::from_millis(200);
/// A rate of fewer images says nothing: bad ones are done at once, good ones by the batch.
const TELLING: u64 = 8;
/// What is said of images of an earlier run, in a log and where there is little room.
const LONG: &str = "from an earlier run";
const SHORT: &str = "kept";
/// A bar that is shorter says nothing.
const SHORTEST_BAR: usize = 8;

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
    line: Line,
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
            line: Line::start(comm, log, "features"),
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
    }

    fn tell(&mut self, finished: bool) {
        if self.comm.rank() == 0 {
            self.ranks[0] = (self.mine, finished);
            self.listen();
            self.show();
        } else if finished || self.noted.is_none_or(|at| at.elapsed() > NOTE_INTERVAL) {
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
        let (total, sum, elapsed) = (self.total, self.sum(), self.started.elapsed());
        let columns = self.line.columns();
        self.line.tell(|| match columns {
            Some(columns) => {
                let text = text(total, sum, elapsed, SHORT);
                with_bar("features  ", sum.images, total, &text, columns)
            }
            None => format!("features  {}", text(total, sum, elapsed, LONG)),
        });
    }
}

/// The text with a bar before it where both fit into the columns, else as much of the text as does.
fn with_bar(name: &str, done: u64, total: u64, text: &str, columns: usize) -> String {
    let taken = name.len() + text.chars().count() + "[] ".len();
    let room = columns.saturating_sub(taken).min(30);
    if room < SHORTEST_BAR {
        let mut text = text;
        while name.len() + text.chars().count() > columns
            && let Some((shorter, _)) = text.rsplit_once(", ")
        {
            text = shorter;
        }
        return format!("{name}{text}");
    }
    let full = (room as u64 * done / total.max(1)).min(room as u64) as usize;
    format!(
        "{name}[{}{}] {text}",
        "#".repeat(full),
        "-".repeat(room - full)
    )
}

/// `40/100 images, 8.0 images/s, 0:08 left, 1 bad`; the rate counts only what was computed now.
fn text(total: u64, done: Done, elapsed: Duration, resumed: &str) -> String {
    let computed = done.images - done.resumed;
    let rate = computed as f64 / elapsed.as_secs_f64().max(1e-9);
    let mut line = format!("{}/{total} images", done.images);
    if computed >= TELLING || (computed > 0 && done.images == total) {
        line.push_str(&format!(", {rate:.1} images/s"));
        if done.images < total {
            let left = ((total - done.images) as f64 / rate) as u64;
            line.push_str(&format!(", {} left", clock(left)));
        }
    }
    line.push_str(&format!(", {} bad", done.bad));
    if done.resumed > 0 {
        line.push_str(&format!(", {} {resumed}", done.resumed));
    }
    line
}

/// `0:08`, `1:02:03`.
pub fn clock(seconds: u64) -> String {
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
            text(100, done, Duration::from_secs(10), SHORT),
            "60/100 images, 4.0 images/s, 0:10 left, 1 bad, 20 kept"
        );
        let first = Done {
            images: 1,
            resumed: 0,
            bad: 1,
        };
        assert_eq!(
            text(100, first, Duration::from_secs(3), SHORT),
            "1/100 images, 1 bad"
        );
        assert_eq!(
            text(5, Done::default(), Duration::ZERO, LONG),
            "0/5 images, 0 bad"
        );
    }

    #[test]
    fn the_line_of_a_terminal_fits_80_columns_at_any_size() {
        let done = Done {
            images: 400_000,
            resumed: 1_000,
            bad: 12,
        };
        for (total, seconds) in [(1_000_000, 36_000), (1_000, 1), (9, 0)] {
            let images = done.images.min(total);
            let resumed = done.resumed.min(images);
            let done = Done {
                images,
                resumed,
                ..done
            };
            let text = text(total, done, Duration::from_secs(seconds), SHORT);
            let line = with_bar("features  ", done.images, total, &text, 79);
            assert!(line.chars().count() <= 79, "{line:?}");
        }
        let line = with_bar("features  ", 3, 4, "3/4 images", 50);
        assert_eq!(
            line,
            format!("features  [{}{}] 3/4 images", "#".repeat(20), "-".repeat(7))
        );
    }

    #[test]
    fn hours_show_only_when_there_are_some() {
        assert_eq!(clock(8), "0:08");
        assert_eq!(clock(3723), "1:02:03");
    }
}
