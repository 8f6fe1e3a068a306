//! `frazil compact`: rewrites small files, and files with deletes, into few whole ones.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::flags::{Compact, Flags};
use crate::cli::output::{self, Align, Answer, columns, count};
use crate::cli::{Exit, answer, wiring, with_config};
use crate::compact::merge::{MEMORY_MIN, Rung};
use crate::config::Config;
use crate::config::quantity::{self, BYTES_HINT};
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::compaction::{Compaction, Fate, Planned, Report, Rules, Wish};
use crate::maintain::partitions::PartitionFilter;
use crate::model::ids::TableName;

type Outcome = (TableName, Result<Report>);

pub(crate) fn compact(flags: &Flags, own: &Compact) -> Result<Exit> {
    with_config(flags, &own.of.from, async |config| work(flags, config, own).await)
}

async fn work(flags: &Flags, config: &Config, own: &Compact) -> Result<Exit> {
    let (wish, rules) = (wish(own)?, rules(own)?);
    let outcomes: Vec<Outcome> = wiring::on_each(config, &own.of, own.dry_run, async |place, name| {
        let (env, leftovers) = (&place.env, &place.leftovers);
        let mut compaction = Compaction { env, committer: &mut place.committer(name).await?, leftovers, wish };
        match own.dry_run {
            true => compaction.preview(&rules).await,
            false => compaction.run_by(&rules, &CancellationToken::new()).await,
        }
    })
    .await?;
    answer(flags, &said(&outcomes, own))?;
    let healthy = |report: &Report| {
        let bad = |fate: &Option<Fate>| matches!(fate, Some(Fate::Refused(_) | Fate::Open(_)));
        !report.groups.iter().any(|(_, fate)| bad(fate))
    };
    let healthy = outcomes.iter().all(|(_, report)| report.as_ref().is_ok_and(healthy));
    Ok(if healthy { Exit::Done } else { Exit::Failed })
}

fn rules(own: &Compact) -> Result<Rules> {
    let only = own.only.as_deref().map(PartitionFilter::parse).transpose()?;
    let parallel = usize::try_from(own.parallel).unwrap_or(1);
    let mut rules = Rules { branch: own.branch.clone(), only, parallel, ..Rules::default() };
    rules.policy.splice = !own.no_splice;
    Ok(rules)
}

fn wish(own: &Compact) -> Result<Wish> {
    let target_bytes = own.target_file_size.as_deref().map(|text| bytes("--target-file-size", text)).transpose()?;
    let memory = memory(&own.max_memory, own.parallel)?;
    Ok(Wish { target_bytes, rewrite_all: own.rewrite_all, memory })
}

fn bytes(flag: &str, text: &str) -> Result<u64> {
    let read = quantity::bytes(text).filter(|bytes| *bytes > 0);
    read.ok_or_else(|| Error::new(ErrorKind::Config, format!("{flag} cannot be {text:?}")).with_hint(BYTES_HINT))
}

/// What `--max-memory` says, enough for so many rewrites.
pub(crate) fn memory(text: &str, parallel: u32) -> Result<u64> {
    let memory = bytes("--max-memory", text)?;
    if memory / u64::from(parallel.max(1)) < MEMORY_MIN {
        let least = output::bytes(MEMORY_MIN);
        return Err(Error::new(ErrorKind::Config, format!("--max-memory cannot be {text:?}"))
            .with_hint(format!("each rewrite needs at least {least}: give more, or lower --parallel")));
    }
    Ok(memory)
}

fn said(outcomes: &[Outcome], own: &Compact) -> Answer {
    let head = [
        ("table", Align::Left),
        ("groups", Align::Right),
        ("files", Align::Right),
        ("size", Align::Right),
        ("new files", Align::Right),
        ("new size", Align::Right),
        ("what", Align::Left),
    ];
    let mut rows = Vec::new();
    let mut notes = String::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(report) => {
                notes.push_str(&noted(name, report, own));
                rows.push(row(name, report));
            }
            Err(error) => {
                let nothing = || "0".to_owned();
                let what = format!("failed: {}", output::told(error));
                let cells = [name.to_string(), nothing(), nothing(), nothing(), nothing(), nothing(), what];
                rows.push(cells.to_vec());
            }
        }
    }
    Answer {
        json: json!({ "tables": outcomes.iter().map(entry).collect::<Vec<Value>>() }),
        text: notes + &columns(&head, &rows),
    }
}

/// What there is to say of single groups: what did not work always, the rest when asked.
fn noted(name: &TableName, report: &Report, own: &Compact) -> String {
    let mut notes = String::new();
    let place = |partition: &str| match partition {
        "" => name.to_string(),
        partition => format!("{name} {partition}"),
    };
    for (planned, fate) in &report.groups {
        let place = place(&planned.partition);
        match fate {
            Some(Fate::Refused(error)) => notes.push_str(&format!("{place}: refused: {}\n", output::told(error))),
            Some(Fate::Lost(why)) => notes.push_str(&format!("{place}: given up: {why}\n")),
            Some(Fate::Open(error)) => notes.push_str(&format!("{place}: not committed: {}\n", output::told(error))),
            Some(Fate::Done { remapped, .. }) if *remapped > 0 => {
                let rows = output::counted(*remapped, "row");
                notes.push_str(&format!("{place}: {rows} deleted meanwhile are deleted in the new files\n"));
            }
            Some(Fate::Done { .. }) | None => {}
        }
        if own.explain || fate.is_none() {
            let rung = match fate {
                Some(Fate::Done { rung, .. }) => *rung,
                _ => planned.group.rung,
            };
            notes.push_str(&format!("{place}: {}\n", reason(planned, rung)));
        }
    }
    for left in report.left.iter().filter(|_| own.explain) {
        let (files, size) = (output::counted(left.files as u64, "file"), output::bytes(left.bytes));
        notes.push_str(&format!("{}: {files} of {size} stay: {}\n", place(&left.partition), left.why));
    }
    if report.swept.waiting > 0 {
        let files = output::counted(report.swept.waiting as u64, "file");
        notes.push_str(&format!("{name}: {files} of earlier runs wait for the proof that nothing has them\n"));
    }
    notes
}

fn reason(planned: &Planned, rung: Rung) -> String {
    let group = &planned.group;
    let deletes = match planned.deletes {
        0 => String::new(),
        some => format!(" with {}", output::counted(some as u64, "delete file")),
    };
    format!(
        "{} of {}{deletes} become about {} of {}, in some {}, by {}: {}",
        output::counted(group.inputs.len() as u64, "file"),
        output::bytes(group.bytes_in),
        output::counted(group.files_out, "file"),
        output::bytes(group.bytes_out),
        seconds(group.core_ms),
        rung.name(),
        group.why
    )
}

fn seconds(millis: u64) -> String {
    format!("{}.{} core-seconds", millis / 1000, millis % 1000 / 100)
}

/// Files and bytes of groups, as they were and as they are now or would be.
fn sums<'a>(groups: impl Iterator<Item = &'a (Planned, Option<Fate>)>) -> [u64; 5] {
    groups.fold([0; 5], |[groups, files, bytes, new_files, new_bytes], (planned, fate)| {
        let group = &planned.group;
        let (made, size) = match fate {
            Some(Fate::Done { files, bytes, .. }) => (*files as u64, *bytes),
            _ => (group.files_out, group.bytes_out),
        };
        let inputs = group.inputs.len() as u64;
        [groups + 1, files + inputs, bytes + group.bytes_in, new_files + made, new_bytes + size]
    })
}

fn row(name: &TableName, report: &Report) -> Vec<String> {
    let good = |fate: &Option<Fate>| matches!(fate, None | Some(Fate::Done { .. }));
    let [groups, files, bytes, new_files, new_bytes] = sums(report.groups.iter().filter(|(_, fate)| good(fate)));
    let bad = report.groups.len() as u64 - groups;
    let planned = report.groups.iter().any(|(_, fate)| fate.is_none());
    let what = match (report.groups.is_empty(), planned, bad) {
        (true, ..) => "nothing pays".to_owned(),
        (_, true, _) => "would be rewritten".to_owned(),
        (_, _, 0) => "done".to_owned(),
        _ => format!("{} not done, see above", output::counted(bad, "group")),
    };
    let size = output::bytes;
    vec![name.to_string(), count(groups), count(files), size(bytes), count(new_files), size(new_bytes), what]
}

fn entry((name, outcome): &Outcome) -> Value {
    let name = name.to_string();
    let report = match outcome {
        Ok(report) => report,
        Err(error) => return json!({"table": name, "error": error.to_string(), "hint": error.hint()}),
    };
    let group = |(planned, fate): &(Planned, Option<Fate>)| {
        let group = &planned.group;
        let mut value = json!({
            "partition": planned.partition, "files": group.inputs.len(), "deletes": planned.deletes,
            "bytes": group.bytes_in, "rows": group.rows_in, "expected-files": group.files_out,
            "expected-bytes": group.bytes_out, "core-ms": group.core_ms, "requests": group.requests, "why": group.why,
        });
        let ended = match fate {
            None => json!({"fate": "planned", "rung": group.rung.name()}),
            Some(Fate::Done { files, bytes, deleted, remapped, rung }) => json!({
                "fate": "done", "new-files": files, "new-bytes": bytes, "deleted-rows": deleted,
                "remapped-deletes": remapped, "rung": rung.name(),
            }),
            Some(Fate::Refused(error)) => json!({"fate": "refused", "error": error.to_string(), "hint": error.hint()}),
            Some(Fate::Lost(why)) => json!({"fate": "lost", "error": why}),
            Some(Fate::Open(error)) => json!({"fate": "open", "error": error.to_string()}),
        };
        if let (Some(value), Value::Object(ended)) = (value.as_object_mut(), ended) {
            value.extend(ended);
        }
        value
    };
    let left = report
        .left
        .iter()
        .map(|left| json!({"partition": left.partition, "files": left.files, "bytes": left.bytes, "why": left.why}));
    json!({
        "table": name,
        "groups": report.groups.iter().map(group).collect::<Vec<_>>(),
        "left": left.collect::<Vec<_>>(),
        "leftovers": {"deleted": report.swept.deleted, "waiting": report.swept.waiting},
    })
}
