//! Messages of a run, on standard error: plain lines for a person or JSON for a program.
//!
//! Rank 0 speaks for all; other ranks print warnings and errors only.

use crate::run::settings::{Level, Log, LogFormat};
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
        .with_writer(std::io::stderr)
        .with_max_level(level);
    // A second start, as in tests, keeps the first.
    let _ = match log.format {
        LogFormat::Human => builder.event_format(Plain { rank }).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// One line: the message, with a word in front where it is not plain information.
struct Plain {
    rank: usize,
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
        match severity {
            Severity::ERROR => write!(writer, "p8: error: ")?,
            Severity::WARN => write!(writer, "p8: warning: ")?,
            _ => {}
        }
        if self.rank > 0 {
            write!(writer, "rank {}: ", self.rank)?;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        writeln!(writer, "{}", message.0)
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
