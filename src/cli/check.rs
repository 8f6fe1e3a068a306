//! `frazil check`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::catalog::profile;
use crate::catalog::{Capabilities, Catalog};
use crate::cli::flags::{Check, Flags};
use crate::cli::output::{self, Answer};
use crate::cli::{Exit, answer, block_on, load_or_problems, no_file, wiring};
use crate::config::{CatalogConfig, Config, KafkaConfig, Loaded, Problems, SourceConfig};
use crate::decode::Format;
use crate::decode::registry::Registry;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::source::kafka::KafkaSource;

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
    let mut findings = formats(&loaded.config);
    if own.connect {
        let Some(asked) =
            block_on(loaded.config.limits.workers, connect(&loaded.config, own.catalog_profile.as_deref()))?
        else {
            return Ok(Exit::Interrupted);
        };
        findings.extend(asked);
    }
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

impl Finding {
    fn of(place: &str, answered: Result<String>) -> Self {
        let place = place.to_owned();
        match answered {
            Ok(good) => Self { place, good, error: None },
            Err(error) => Self { place, good: String::new(), error: Some(error) },
        }
    }
}

/// Schemas in files that rows cannot be read with.
fn formats(config: &Config) -> Vec<Finding> {
    let env = Env::system();
    let registries = match Registry::all(&config.registries, &env) {
        Ok(registries) => registries,
        Err(error) => return vec![Finding::of("registry", Err(error))],
    };
    let wrong = config.pipelines.iter().filter_map(|(name, own)| {
        let error = Format::of(&own.decode, &registries, &env).err()?;
        Some(Finding::of(&format!("pipeline.{name}"), Err(error)))
    });
    wrong.collect()
}

async fn connect(config: &Config, profile: Option<&str>) -> Result<Vec<Finding>> {
    let env = Env::system();
    let mut findings = Vec::new();
    for (name, registry) in Registry::all(&config.registries, &env)? {
        let answered = registry.ping().await;
        let said = answered.map(|found| format!("answers, has {}", output::counted(found as u64, "subject")));
        findings.push(Finding::of(&format!("registry.{name}"), said));
    }
    for (name, settings) in &config.catalogs {
        let place = format!("catalog.{name}");
        let known = match settings {
            CatalogConfig::Rest(rest) => rest.profile.as_deref().or(profile),
            _ => None,
        };
        for said in known.map(product).transpose()?.unwrap_or_default() {
            findings.push(Finding { place: place.clone(), good: said, error: None });
        }
        let catalog = match wiring::catalog(config, name, &env).await {
            Ok(catalog) => catalog,
            Err(error) => {
                findings.push(Finding { place, good: String::new(), error: Some(error) });
                continue;
            }
        };
        let answered = catalog.namespaces(&[]).await;
        findings.push(Finding::of(
            &place,
            answered.map(|found| format!("answers, has {}", output::counted(found.len() as u64, "namespace"))),
        ));
        findings.push(Finding::of(&place, catalog.capabilities().await.map(|own| abilities(&own))));
        // Where tables lie or will lie, with what the catalog vends for them.
        let mut folders: BTreeMap<String, HashMap<String, String>> = BTreeMap::new();
        if let Some(warehouse) = warehouse(settings) {
            folders.insert(warehouse.to_owned(), HashMap::new());
        }
        for (pipeline, own) in config.pipelines.iter().filter(|(_, own)| own.catalog == *name) {
            let table = own.anchor.as_deref().unwrap_or(&own.table);
            let found = found(catalog.as_ref(), table).await;
            match &found {
                // Where data files go: some stores take nothing beside a table's own folders.
                Ok(Some(state)) => drop(folders.insert(data_folder(state), state.config.as_ref().clone())),
                _ => folders.extend(own.create.location.clone().map(|location| (location, HashMap::new()))),
            }
            let said =
                |found: Option<_>| format!("{table} {}", if found.is_some() { "is there" } else { "will be created" });
            findings.push(Finding::of(&format!("pipeline.{pipeline}"), found.map(said)));
        }
        for (folder, vended) in folders {
            let tried = wiring::probe(config, &folder, &vended, &env).await;
            findings.push(Finding::of(&place, tried.map(|()| format!("{folder} can be written, read and deleted"))));
        }
    }
    for (name, source) in &config.sources {
        if let SourceConfig::Kafka(kafka) = source {
            let topics = topics(kafka, &env).await;
            findings.push(Finding::of(&format!("source.{name}"), topics));
        }
    }
    Ok(findings)
}

/// What a Kafka cluster says of the topics to read.
async fn topics(config: &KafkaConfig, env: &Env) -> Result<String> {
    let found = KafkaSource::new(config.clone(), env.clone())?.topics().await?;
    let partitions = found.values().sum::<usize>() as u64;
    let (topics, partitions) = (output::counted(found.len() as u64, "topic"), output::counted(partitions, "partition"));
    Ok(format!("answers, has {topics} to read with {partitions}"))
}

fn data_folder(state: &TableState) -> String {
    let own = || format!("{}/data", state.metadata.location().trim_end_matches('/'));
    state.property("write.data.path").map_or_else(own, str::to_owned)
}

/// Where the catalog creates tables, as far as the configuration says so with a location.
fn warehouse(settings: &CatalogConfig) -> Option<&str> {
    match settings {
        CatalogConfig::Embedded { warehouse, .. } => Some(warehouse),
        // Where tables of a REST catalog lie, and whether anything else may lie there, it alone knows.
        CatalogConfig::Rest(_) | CatalogConfig::Memory { .. } => None,
    }
}

/// What is there under a table's name.
async fn found(catalog: &dyn Catalog, table: &str) -> Result<Option<TableState>> {
    let name: TableName = table.parse()?;
    match catalog.load(&name).await {
        Ok(state) => Ok(Some(state)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn abilities(own: &Capabilities) -> String {
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let announced = if own.endpoints.is_empty() {
        "announces no endpoints".to_owned()
    } else {
        format!("announces {}", output::counted(own.endpoints.len() as u64, "endpoint"))
    };
    format!(
        "{announced}; commits over several tables: {}; storage credentials with each table: {}",
        word(own.multi_table_commit),
        word(own.vends_credentials)
    )
}

/// What is known of a product, a line each.
fn product(name: &str) -> Result<Vec<String>> {
    let known = profile::profile(name)?;
    let tried = if known.verified.is_empty() {
        "from its documentation".to_owned()
    } else {
        format!("as tried with version {}", known.verified)
    };
    let mut said = vec![format!("{}, {tried}: {} known deviations", known.title, known.quirks.len())];
    if !known.is_reachable() {
        said.push(format!("{} takes signed requests only, which this version cannot make", known.title));
    }
    said.extend(known.quirks.into_iter().map(|quirk| format!("{}: {}", quirk.id, quirk.says)));
    Ok(said)
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
