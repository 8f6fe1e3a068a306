//! `frazil check`.

use serde_json::{Value, json};

use crate::cli::flags::{Check, Flags};
use crate::cli::output::{self, Answer};
use crate::cli::{Exit, answer, block_on, load_or_problems, no_file, wiring};
use crate::config::{Config, Loaded, Problems};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;

pub(crate) fn check(flags: &Flags, own: &Check) -> Result<Exit> {
    let loaded = match load_or_problems(flags) {
        Ok(loaded) => loaded,
        Err(problems) if flags.global.json => {
            output::answer(&Answer { json: problems_json(&problems), text: String::new() }, true)?;
            return Ok(Exit::Usage);
        }
        Err(problems) => return Err(Error::from(problems)),
    };
    if loaded.file.is_empty() {
        return Err(no_file());
    }
    let findings = if own.connect {
        let Some(findings) = block_on(loaded.config.limits.workers, connect(&loaded.config))? else {
            return Ok(Exit::Interrupted);
        };
        findings
    } else {
        Vec::new()
    };
    let failed = findings.iter().any(|finding| finding.error.is_some());
    answer(flags, &report(&loaded, &findings))?;
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// What asking said about one catalog or table.
struct Finding {
    place: String,
    good: String,
    error: Option<Error>,
}

async fn connect(config: &Config) -> Result<Vec<Finding>> {
    let env = Env::system();
    let mut findings = Vec::new();
    for name in config.catalogs.keys() {
        let place = format!("catalog.{name}");
        let catalog = match wiring::catalog(config, name, &env).await {
            Ok(catalog) => catalog,
            Err(error) => {
                findings.push(Finding { place, good: String::new(), error: Some(error) });
                continue;
            }
        };
        let answered = catalog.namespaces(&[]).await;
        let good = format!("answers, {} namespaces", answered.as_ref().map_or(0, Vec::len));
        findings.push(Finding { place, good, error: answered.err() });
        for (pipeline, own) in config.pipelines.iter().filter(|(_, own)| own.catalog == *name) {
            let table = own.anchor.as_deref().unwrap_or(&own.table);
            let place = format!("pipeline.{pipeline}");
            let found = match table.parse::<TableName>() {
                Ok(table) => catalog.load(&table).await.map(|_| format!("{table} is there")),
                Err(error) => Err(error),
            };
            findings.push(match found {
                Ok(good) => Finding { place, good, error: None },
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Finding { place, good: format!("{table} will be created"), error: None }
                }
                Err(error) => Finding { place, good: String::new(), error: Some(error) },
            });
        }
    }
    Ok(findings)
}

fn report(loaded: &Loaded, findings: &[Finding]) -> Answer {
    let config = &loaded.config;
    let counted = |count: usize, noun: &str| output::counted(count as u64, noun);
    let mut text = format!(
        "{} is valid: {}, {}, {}\n",
        loaded.file,
        counted(config.pipelines.len(), "pipeline"),
        counted(config.sources.len(), "source"),
        counted(config.catalogs.len(), "catalog")
    );
    for finding in findings {
        let said = finding.error.as_ref().map_or_else(|| finding.good.clone(), output::error_text);
        text.push_str(&format!("{}: {said}\n", finding.place));
    }
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| match &finding.error {
            None => json!({ "place": finding.place, "ok": true, "message": finding.good }),
            Some(error) => {
                json!({ "place": finding.place, "ok": false, "message": error.to_string(), "hint": error.hint() })
            }
        })
        .collect();
    Answer { json: json!({ "valid": true, "file": loaded.file, "problems": [], "findings": findings }), text }
}

fn problems_json(problems: &Problems) -> Value {
    let list: Vec<Value> = problems
        .list
        .iter()
        .map(|problem| {
            json!({
                "place": problem.place.within(&problems.file),
                "path": problem.path,
                "message": problem.message,
                "hint": problem.hint,
            })
        })
        .collect();
    json!({ "valid": false, "file": problems.file, "problems": list, "findings": [] })
}
