//! `frazil manifests`: gathers many small manifests into few, ordered by partition.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::flags::{Flags, ManifestsFlags};
use crate::cli::output::{self, Align, Answer, columns, count};
use crate::cli::{Exit, answer, wiring, with_config};
use crate::config::Config;
use crate::error::Result;
use crate::maintain::manifests::{Manifests, Plan, Report};
use crate::model::ids::TableName;

/// Whoever asks for one table wants it done wherever one manifest fewer comes of it.
const COUNT_MIN: usize = 2;

/// What came of one table.
enum Found {
    Planned(Option<Plan>),
    Done(Report),
}

type Outcome = (TableName, Result<Found>);

pub(crate) fn manifests(flags: &Flags, own: &ManifestsFlags) -> Result<Exit> {
    with_config(flags, &own.of.from, async |config| work(flags, config, own).await)
}

async fn work(flags: &Flags, config: &Config, own: &ManifestsFlags) -> Result<Exit> {
    let outcomes: Vec<Outcome> = wiring::on_each(config, &own.of, own.dry_run, async |place, name| {
        let (env, leftovers, branch) = (&place.env, &place.leftovers, own.branch.as_str());
        let committer = &mut place.committer(name).await?;
        let mut manifests = Manifests { env, committer, leftovers, branch, count_min: COUNT_MIN };
        Ok(match own.dry_run {
            true => Found::Planned(manifests.preview().await?),
            false => Found::Done(manifests.run(&CancellationToken::new()).await?),
        })
    })
    .await?;
    answer(flags, &said(&outcomes))?;
    let healthy = outcomes.iter().all(|(_, found)| match found {
        Ok(Found::Done(report)) => report.bad.is_none(),
        found => found.is_ok(),
    });
    Ok(if healthy { Exit::Done } else { Exit::Failed })
}

fn said(outcomes: &[Outcome]) -> Answer {
    let head = [
        ("table", Align::Left),
        ("manifests", Align::Right),
        ("entries", Align::Right),
        ("new manifests", Align::Right),
        ("what", Align::Left),
    ];
    let mut rows = Vec::new();
    let mut notes = String::new();
    for (name, found) in outcomes {
        let (counts, what) = match found {
            Ok(Found::Planned(Some(plan))) => {
                ([plan.manifests_in, plan.entries, plan.manifests_out], "would be rewritten".to_owned())
            }
            Ok(Found::Planned(None)) => ([0; 3], "nothing pays".to_owned()),
            Ok(Found::Done(report)) => {
                if report.swept.waiting > 0 {
                    let files = output::counted(report.swept.waiting as u64, "file");
                    let line = format!("{name}: {files} of earlier runs wait for the proof that nothing has them\n");
                    notes.push_str(&line);
                }
                let what = match (&report.bad, &report.lost) {
                    (Some(error), _) => format!("not committed: {error}"),
                    (None, Some(why)) => format!("given up: {why}"),
                    (None, None) if report.manifests_in == 0 => "nothing pays".to_owned(),
                    (None, None) => "done".to_owned(),
                };
                ([report.manifests_in, report.entries, report.manifests_out], what)
            }
            Err(error) => ([0; 3], format!("failed: {}", output::told(error))),
        };
        let counts = counts.map(|number| count(number as u64));
        rows.push([vec![name.to_string()], counts.to_vec(), vec![what]].concat());
    }
    Answer {
        json: json!({ "tables": outcomes.iter().map(entry).collect::<Vec<Value>>() }),
        text: notes + &columns(&head, &rows),
    }
}

fn entry((name, found): &Outcome) -> Value {
    let name = name.to_string();
    match found {
        Ok(Found::Planned(plan)) => {
            let plan = plan.clone().unwrap_or_default();
            json!({
                "table": name, "dry-run": true, "manifests": plan.manifests_in, "entries": plan.entries, "bytes": plan.bytes,
                "new-manifests": plan.manifests_out,
            })
        }
        Ok(Found::Done(report)) => json!({
            "table": name, "manifests": report.manifests_in, "entries": report.entries,
            "new-manifests": report.manifests_out, "lost": report.lost,
            "error": report.bad.as_ref().map(ToString::to_string),
            "leftovers": {"deleted": report.swept.deleted, "waiting": report.swept.waiting},
        }),
        Err(error) => json!({"table": name, "error": error.to_string(), "hint": error.hint()}),
    }
}
