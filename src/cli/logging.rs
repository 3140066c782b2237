//! Messages of a run, on standard error: plain lines for a person or JSON for a program.
//!
//! Rank 0 speaks for all; other ranks print warnings and errors only.

use crate::run::settings::{Level, Log, LogFormat};
use crate::run::terminal::{self, Messages};
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Level as Severity, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging on this rank.
pub fn start(log: Log, rank: usize) {
    let level = match (log.level, rank) {
        (Level::Quiet, _) => LevelFilter::ERROR,
        (_, 1..) => LevelFilter::WARN,
        (Level::Normal, 0) => LevelFilter::INFO,
        (Level::Verbose, 0) => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(|| Messages)
        .with_max_level(level);
    // A second start, as in tests, keeps the first.
    let _ = match log.format {
        LogFormat::Human => {
            let wraps = terminal::is_there(log);
            builder.event_format(Plain { rank, wraps }).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// One line: the message, with a word in front where it is not plain information.
struct Plain {
    rank: usize,
    /// Whether long messages are broken into lines, as a person wants them.
    wraps: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let severity = *event.metadata().level();
        // Libraries speak to their authors; their information is not for the user of p8.
        if !event.metadata().target().starts_with("p8") && severity > Severity::WARN {
            return Ok(());
        }
        let mut line = match severity {
            Severity::ERROR => "p8: error: ",
            Severity::WARN => "p8: warning: ",
            _ => "",
        }
        .to_string();
        if self.rank > 0 {
            line.push_str(&format!("rank {}: ", self.rank));
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        line.push_str(&message.0);
        match self.wraps {
            true => writeln!(writer, "{}", terminal::wrapped(&line, 10)),
            false => writeln!(writer, "{line}"),
        }
    }
}

/// The message of an event without its other fields, which are for the JSON form.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
