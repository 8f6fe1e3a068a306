//! `frazil maintain`: for each table what is due, once. The form for cron.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::flags::{Flags, Maintain};
use crate::cli::output::{self, Align, Answer, columns, moment};
use crate::cli::{Exit, answer, compact, table, wiring, with_config};
use crate::commit::traffic::Traffic;
use crate::config::Config;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::maintain::leftovers::Leftovers;
use crate::maintain::round::{Options, Round, TableReport};
use crate::maintain::upkeep::{Consent, End, Figures, Job, Step};
use crate::storage::disk::{Disk, LocalDisk};

pub(crate) fn maintain(flags: &Flags, own: &Maintain) -> Result<Exit> {
    with_config(flags, &own.of.from, async |config| work(flags, config, own).await)
}

async fn work(flags: &Flags, config: &Config, own: &Maintain) -> Result<Exit> {
    let env = Env::system().with_cores(config.limits.workers);
    let memory = compact::memory(&own.max_memory, own.parallel)?;
    let name = table::chosen(config, &own.of.from, Some(&own.of.tables))?;
    let (disk, hold) = wiring::workplace(config, own.dry_run, &env).await?;
    let notes = Arc::new(LocalDisk::new(config.state_dir.join("expiry"), env.clone()));
    let mut round = round(config, name, &env, disk, notes).await?;
    round.options.parallel = usize::try_from(own.parallel).unwrap_or(1);
    round.options.memory = memory;
    if own.yes {
        round.options.consent = Consent::All;
    }
    let tables = table::matching(&round.catalog, &round.name, &own.of.tables).await?;
    let reports =
        if own.dry_run { round.preview(&tables).await } else { round.run(&tables, &CancellationToken::new()).await };
    drop(hold);
    answer(flags, &said(&reports))?;
    Ok(if reports.iter().any(TableReport::has_failed) { Exit::Partial } else { Exit::Done })
}

/// Maintenance of the tables of a catalog; `disk` has what is under way, `notes` the steps of expiry.
pub(crate) async fn round(
    config: &Config,
    name: String,
    env: &Env,
    disk: Arc<dyn Disk>,
    notes: Arc<dyn Disk>,
) -> Result<Round> {
    Ok(Round {
        env: env.clone(),
        catalog: wiring::catalog(config, &name, env).await?,
        name,
        storage: wiring::storage(config, env),
        // Beside the daemon of this configuration.
        holder: format!("frazil maintain of {}", config.instance),
        traffic: Traffic::default(),
        instance: config.instance.clone(),
        policies: Arc::new(config.policies.clone()),
        leftovers: Arc::new(Leftovers::open(disk).await?),
        notes,
        options: Options {
            loads: config.maintenance.loads,
            parallel: 1,
            memory: config.maintenance.memory,
            claim: config.maintenance.claim,
            consent: Consent::Named,
        },
    })
}

fn said(reports: &[TableReport]) -> Answer {
    let head = [("table", Align::Left), ("job", Align::Left), ("end", Align::Left), ("what", Align::Left)];
    let mut rows = Vec::new();
    for report in reports {
        let mut table = report.table.to_string();
        for step in &report.steps {
            let cells = [std::mem::take(&mut table), job(step), step.end.as_str().to_owned(), step.words.clone()];
            rows.push(cells.to_vec());
        }
        if report.steps.is_empty() {
            let what = match report.next_ms {
                Some(at) => format!("nothing is due; the next step of expiry is from {}", moment(at)),
                None => "nothing is due".to_owned(),
            };
            rows.push(vec![table, String::new(), String::new(), what]);
        }
    }
    let summary = Summary::of(reports);
    Answer {
        json: json!({
            "tables": reports.iter().map(entry).collect::<Vec<Value>>(),
            "summary": {
                "tables": reports.len(), "healthy": summary.healthy, "failed": summary.failed,
                "files": summary.figures.files_in, "bytes": summary.figures.bytes_in,
                "new-files": summary.figures.files_out, "new-bytes": summary.figures.bytes_out,
                "manifests": summary.figures.manifests_in, "new-manifests": summary.figures.manifests_out,
                "remapped-deletes": summary.figures.remapped,
                "snapshots": summary.figures.snapshots, "files-deleted": summary.figures.files_deleted,
            },
        }),
        text: columns(&head, &rows) + &summary.line(reports.len()),
    }
}

fn job(step: &Step) -> String {
    match step.job {
        Job::Look => String::new(),
        job => job.as_str().to_owned(),
    }
}

/// All tables together.
struct Summary {
    healthy: usize,
    failed: usize,
    figures: Figures,
}

impl Summary {
    fn of(reports: &[TableReport]) -> Self {
        let mut sum = Figures::default();
        for step in reports.iter().flat_map(|report| &report.steps) {
            let own = &step.figures;
            sum.files_in += own.files_in;
            sum.bytes_in += own.bytes_in;
            sum.files_out += own.files_out;
            sum.bytes_out += own.bytes_out;
            sum.manifests_in += own.manifests_in;
            sum.manifests_out += own.manifests_out;
            sum.remapped += own.remapped;
            sum.snapshots += own.snapshots;
            sum.files_deleted += own.files_deleted;
        }
        Self {
            healthy: reports.iter().filter(|report| report.steps.is_empty()).count(),
            failed: reports.iter().filter(|report| report.has_failed()).count(),
            figures: sum,
        }
    }

    fn line(&self, tables: usize) -> String {
        let sum = &self.figures;
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        format!(
            "{}, {} with nothing due{failed}; {} of {} to {} of {}, {}, {} deleted\n",
            output::counted(tables as u64, "table"),
            self.healthy,
            output::counted(sum.files_in, "file"),
            output::bytes(sum.bytes_in),
            output::count(sum.files_out),
            output::bytes(sum.bytes_out),
            output::counted(sum.snapshots, "snapshot"),
            output::counted(sum.files_deleted, "file"),
        )
    }
}

fn entry(report: &TableReport) -> Value {
    let step = |step: &Step| {
        let figures = &step.figures;
        let mut value = json!({
            "job": step.job.as_str(), "end": step.end.as_str(), "what": step.words,
            "files": figures.files_in, "bytes": figures.bytes_in, "new-files": figures.files_out,
            "new-bytes": figures.bytes_out, "manifests": figures.manifests_in, "new-manifests": figures.manifests_out,
            "remapped-deletes": figures.remapped, "snapshots": figures.snapshots, "files-deleted": figures.files_deleted,
        });
        if let End::Failed(error) = &step.end {
            value["hint"] = json!(Error::hint(error));
        }
        value
    };
    json!({
        "table": report.table.to_string(),
        "steps": report.steps.iter().map(step).collect::<Vec<Value>>(),
        "next": report.next_ms.map(moment),
    })
}
