//! What the daemon's own log says that it met: decisions that nobody outside can see.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::world::{LIVE, World};

/// Listens to this thread's events until the guard is dropped.
pub fn hear(world: Arc<World>) -> DefaultGuard {
    let heard = Registry::default().with(Ear { world });
    if LIVE.load(Ordering::Relaxed) {
        let log = tracing_subscriber::fmt::layer().without_time().with_writer(std::io::stderr);
        let wanted = tracing_subscriber::filter::LevelFilter::DEBUG;
        return tracing::subscriber::set_default(heard.with(log.with_filter(wanted)));
    }
    tracing::subscriber::set_default(heard)
}

/// Where a daemon's jobs are told of.
const JOBS: &str = "frazil::daemon::jobs";

struct Ear {
    world: Arc<World>,
}

impl<S: Subscriber> Layer<S> for Ear {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if LIVE.load(Ordering::Relaxed) || is_told(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        LIVE.load(Ordering::Relaxed) || is_told(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !is_told(event.metadata()) {
            return;
        }
        let mut said = Said { kind: event.metadata().target(), ..Said::default() };
        event.record(&mut said);
        if said.message == "looked" {
            self.world.looked(&said.instance, &said.table, &said.verdict);
        } else if said.kind == JOBS {
            self.world.job(&said.job, &said.end, &said.runbook, &said.table, &said.message);
        } else if let Some(decided) = said.message.strip_prefix("decided: ") {
            self.world.cover(format!("checkpoint table × row {}", row(decided, said.same)));
        }
    }
}

fn is_told(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "frazil::commit::protocol" && *metadata.level() == tracing::Level::TRACE
        || metadata.target() == "frazil::commit::checkpoint"
        || metadata.target() == JOBS
}

/// Which row of docs/protocol.md's checkpoint table said this.
fn row(decided: &str, same: bool) -> &'static str {
    match decided {
        "new" => "3 new",
        "take" if same => "5 same origin",
        "take" => "7 property's snapshot is in",
        "investigate" => "10 investigated",
        other => {
            let rows = [
                ("has written here before", "2 witness without record"),
                ("branch has no snapshot", "4 no head"),
                ("hold different positions", "5 maps differ"),
                ("property is gone", "6 property absent"),
                ("property is older", "6 property older"),
                ("cherry-picked", "8 cherry-picked"),
                ("rolled back below", "9 halt"),
                ("rolled back: rows are read again", "9 rewind"),
                ("before this pipeline's first", "9 rewind without ancestor"),
                ("history is cut short", "9 keep with a broken chain"),
                ("rolled back: its rows stay away", "9 keep"),
                ("files are live", "10 live entry"),
                ("nothing shows whether", "10 halt"),
            ];
            rows.into_iter().find(|(text, _)| other.contains(text)).map_or("of none", |(_, row)| row)
        }
    }
}

#[derive(Default)]
struct Said {
    kind: &'static str,
    job: String,
    end: String,
    runbook: String,
    message: String,
    table: String,
    instance: String,
    verdict: String,
    same: bool,
}

impl Visit for Said {
    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "same" {
            self.same = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let slot = match field.name() {
            "instance" => &mut self.instance,
            "table" => &mut self.table,
            "job" => &mut self.job,
            "end" => &mut self.end,
            "runbook" => &mut self.runbook,
            _ => return,
        };
        value.clone_into(slot);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let slot = match field.name() {
            "message" => &mut self.message,
            "table" => &mut self.table,
            "verdict" => &mut self.verdict,
            "instance" => &mut self.instance,
            _ => return,
        };
        slot.clear();
        let _ = write!(slot, "{value:?}");
    }
}
