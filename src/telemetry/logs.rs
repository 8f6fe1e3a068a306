//! Logs: to standard error, for people on a terminal, as JSON for machines. Never a secret: types that hold one do not print it.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Error, ErrorKind, Result};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// With terminal colours.
    Yes,
    /// Plain text.
    No,
}

/// The level when nobody says.
pub const LEVEL: &str = "info";

/// Starts logging to standard error for the whole process. A second call changes nothing.
///
/// `filter` is a level (`info`) or directives (`frazil=debug,warn`).
///
/// # Errors
/// `Config` when `filter` is neither.
pub fn start(format: Format, colour: Colour, filter: &str) -> Result<()> {
    start_to(std::io::stderr, format, colour, filter)
}

/// Starts logging to `writer`, as [`start`] does.
///
/// # Errors
/// `Config` when `filter` is no filter.
pub fn start_to<W>(writer: W, format: Format, colour: Colour, filter: &str) -> Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(filter).map_err(|e| {
        Error::new(ErrorKind::Config, format!("{filter:?} is no log filter"))
            .with_source(e)
            .with_hint("use error, warn, info, debug or trace, or directives such as frazil=debug,warn")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // An error here means that logging was started before, by a test or an embedding program.
    let _started = match format {
        Format::Pretty => lines.with_ansi(colour == Colour::Yes).compact().with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_with_a_way_out() {
        let error = start_to(std::io::sink, Format::Json, Colour::No, "frazil=loud").expect_err("no such level");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().is_some());
    }
}
