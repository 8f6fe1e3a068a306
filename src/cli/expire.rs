//! `frazil expire`: removes old snapshots, and the files that only they reach.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::flags::{Expire, Flags};
use crate::cli::output::{self, Align, Answer, columns, count, moment};
use crate::cli::{Exit, answer, table, wiring, with_config};
use crate::config::Config;
use crate::config::quantity::{DURATION_HINT, millis};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::expire::Wish;
use crate::maintain::expiry::{Expiry, Pace, Preview, Report};
use crate::model::ids::TableName;
use crate::storage::disk::LocalDisk;

/// What came of one table.
enum Found {
    Preview(Preview),
    Report(Report),
    Released(usize),
}

type Outcome = (TableName, Result<Found>);

pub(crate) fn expire(flags: &Flags, own: &Expire) -> Result<Exit> {
    with_config(flags, &own.of.from, async |config| work(flags, config, own).await)
}

async fn work(flags: &Flags, config: &Config, own: &Expire) -> Result<Exit> {
    let env = Env::system();
    let wish = wish(own)?;
    let catalog = table::chosen(config, &own.of.from, Some(&own.of.tables))?;
    let source = wiring::catalog(config, &catalog, &env).await?;
    let tables = table::matching(&source, &catalog, &own.of.tables).await?;
    if !own.dry_run && !own.yes && !output::confirmed(&question(&tables, own), "Go on? [y/N]")? {
        return Ok(Exit::Failed);
    }
    let run = Run { config, catalog: &catalog, own, wish, env: &env };
    loop {
        let mut outcomes: Vec<Outcome> = Vec::new();
        for name in &tables {
            outcomes.push((name.clone(), run.one(name).await));
        }
        let next = outcomes.iter().filter_map(|(_, found)| match found {
            Ok(Found::Report(report)) => report.next_ms,
            _ => None,
        });
        let next = next.min();
        answer(flags, &said(&outcomes))?;
        let healthy = outcomes.iter().all(|(_, found)| match found {
            Ok(Found::Report(report)) => report.failed.is_empty() && report.held.is_empty(),
            found => found.is_ok(),
        });
        match next.filter(|_| own.wait && healthy) {
            None => return Ok(if healthy { Exit::Done } else { Exit::Failed }),
            Some(at) => {
                let wait = u64::try_from(at.saturating_sub(env.now_ms())).unwrap_or(0);
                output::note(&format!("waits until {}", moment(at)));
                env.sleep(Duration::from_millis(wait)).await;
            }
        }
    }
}

fn wish(own: &Expire) -> Result<Wish> {
    let age = own.older_than.as_deref().map(|text| {
        let read = millis(text).map(Duration::from_millis);
        read.ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("--older-than cannot be {text:?}")).with_hint(DURATION_HINT)
        })
    });
    let count_min = own.retain_last.and_then(|count| usize::try_from(count).ok());
    Ok(Wish { age: age.transpose()?, count_min })
}

fn question(tables: &[TableName], own: &Expire) -> String {
    let names: Vec<String> = tables.iter().take(10).map(ToString::to_string).collect();
    let more = if tables.len() > names.len() { " and more" } else { "" };
    let what = if own.release_held { "forgets what is held of" } else { "removes old snapshots for good from" };
    format!("{what} {} tables: {}{more}", tables.len(), names.join(", "))
}

/// One run over tables.
struct Run<'a> {
    config: &'a Config,
    catalog: &'a str,
    own: &'a Expire,
    wish: Wish,
    env: &'a Env,
}

impl Run<'_> {
    async fn one(&self, name: &TableName) -> Result<Found> {
        let (mut committer, _) = wiring::committer(self.config, self.catalog, name, self.env, None).await?;
        let folder: PathBuf = self.config.state_dir.join("expiry");
        let disk = LocalDisk::new(folder, self.env.clone());
        let pace = Pace { deletes_per_second: self.own.delete_rate, ..Pace::default() };
        let mut expiry = Expiry { env: self.env, disk: &disk, committer: &mut committer, wish: self.wish, pace };
        Ok(if self.own.dry_run {
            Found::Preview(expiry.preview().await?)
        } else if self.own.release_held {
            Found::Released(expiry.release().await?)
        } else {
            Found::Report(expiry.run_due().await?)
        })
    }
}

fn said(outcomes: &[Outcome]) -> Answer {
    let head = [
        ("table", Align::Left),
        ("snapshots", Align::Right),
        ("files", Align::Right),
        ("size", Align::Right),
        ("what", Align::Left),
    ];
    let mut rows = Vec::new();
    let mut notes = String::new();
    for (name, found) in outcomes {
        let (snapshots, files, bytes, what) = match found {
            Ok(Found::Preview(preview)) => {
                for id in &preview.choice.snapshots {
                    notes.push_str(&format!("{name}: snapshot {id} would go\n"));
                }
                for gone in &preview.choice.refs {
                    notes.push_str(&format!("{name}: ref {gone} would go\n"));
                }
                let dead = &preview.dead;
                for file in [&dead.data, &dead.statistics, &dead.manifests, &dead.lists].into_iter().flatten() {
                    notes.push_str(&format!("{name}: {file} would be deleted\n"));
                }
                (preview.choice.snapshots.len(), preview.dead.len(), preview.dead.bytes, "would go".to_owned())
            }
            Ok(Found::Report(report)) => {
                for (file, error) in &report.failed {
                    notes.push_str(&format!("{name}: {file} stays: {error}\n"));
                }
                report.held.iter().for_each(|why| notes.push_str(&format!("{name}: files are kept: {why}\n")));
                (report.removed.len(), report.files, report.bytes, due(report))
            }
            Ok(Found::Released(batches)) => (0, 0, 0, format!("forgot {batches} removals")),
            Err(error) => (0, 0, 0, format!("failed: {}", output::told(error))),
        };
        rows.push(vec![name.to_string(), count(snapshots as u64), count(files as u64), output::bytes(bytes), what]);
    }
    Answer {
        json: json!({ "tables": outcomes.iter().map(entry).collect::<Vec<Value>>() }),
        text: notes + &columns(&head, &rows),
    }
}

fn due(report: &Report) -> String {
    let next = report.next_ms.map(|at| format!("next step from {}", moment(at)));
    let noted = (!report.noted.is_empty()).then(|| format!("{} noted", report.noted.len()));
    let held = (!report.held.is_empty()).then(|| "files are kept, see above".to_owned());
    let parts: Vec<String> = noted.into_iter().chain(next).chain(held).collect();
    if parts.is_empty() { "nothing is due".to_owned() } else { parts.join(", ") }
}

fn entry((name, found): &Outcome) -> Value {
    let name = name.to_string();
    match found {
        Ok(Found::Preview(preview)) => json!({
            "table": name, "dry-run": true, "snapshots": preview.choice.snapshots, "refs": preview.choice.refs,
            "files": preview.dead.data, "statistics": preview.dead.statistics, "manifests": preview.dead.manifests,
            "manifest-lists": preview.dead.lists, "bytes": preview.dead.bytes, "unreadable": preview.dead.unreadable,
        }),
        Ok(Found::Report(report)) => json!({
            "table": name, "noted": report.noted, "removed": report.removed, "refs": report.refs, "deleted": report.files,
            "bytes": report.bytes, "held": report.held, "next": report.next_ms.map(moment),
            "failed": report.failed.iter().map(|(file, e)| json!({"file": file, "error": e.to_string()})).collect::<Vec<_>>(),
        }),
        Ok(Found::Released(batches)) => json!({"table": name, "released": batches}),
        Err(error) => json!({"table": name, "error": error.to_string(), "hint": error.hint()}),
    }
}
