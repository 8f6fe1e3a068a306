//! `frazil import`: another product's settings as ours, and where it stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::cli::flags::{Flags, ImportConnect};
use crate::cli::import_report::said;
use crate::cli::{Exit, block_on, output, wiring};
use crate::config::load::{environment, from_text};
use crate::config::{Config, KafkaConfig, SourceConfig};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::migrate::connector::Connector;
use crate::migrate::control::{ControlRecord, Heard, Stop, committed, sinks, stopped};
use crate::migrate::note::Note;
use crate::migrate::translate::{Translation, Wish, translate};
use crate::model::ids::{MAIN, TableName};
use crate::model::table::TableState;
use crate::source::kafka_probe::{Probe, Told};

pub(crate) fn kafka_connect(flags: &Flags, own: &ImportConnect) -> Result<Exit> {
    let read = |path: &Path| fs::read_to_string(path).context(ErrorKind::Config, || format!("{}", path.display()));
    let worker = own.worker.as_deref().map(read).transpose()?;
    let connector = Connector::read(&read(&own.connector)?, worker.as_deref())?;
    let mut wish = Wish {
        uri: own.uri.clone(),
        warehouse: own.warehouse.clone(),
        brokers: own.brokers.clone(),
        offsets: Vec::new(),
    };
    let mut translated = translate(&connector, &wish);
    let losses = translated.notes.iter().filter(|note| Note::is_loss(note)).count();
    let accepted = losses == 0 || own.accept_losses;
    let mut stop = None;
    if accepted && !own.offline {
        let config = from_text("the new configuration", translated.toml.clone(), &[]).map_err(Error::from);
        let variables = environment();
        let unset =
            translated.secrets.iter().map(|(name, _)| name.as_str()).filter(|name| !variables.contains_key(*name));
        let config = config.map_err(|error| hinted(error, &unset.collect::<Vec<_>>()))?;
        let Some(found) = block_on(config.config.limits.workers, asked(&config.config, &connector))? else {
            return Ok(Exit::Interrupted);
        };
        wish.offsets = found.offsets.clone().into_iter().collect();
        translated = translate(&connector, &wish);
        stop = Some(found);
    }
    report(flags, &translated, stop.as_ref())?;
    if !accepted {
        let what = format!(
            "rows would differ by {}",
            output::counted(losses as u64, "property that has no counterpart").replace("counterparts", "counterpart")
        );
        return Err(Error::new(ErrorKind::Unsupported, what)
            .with_hint("see the list; --accept-losses writes the configuration all the same"));
    }
    write(flags, &translated.toml)?;
    Ok(Exit::Done)
}

/// What secrets that are not set come to; every other problem has its own way out.
fn hinted(error: Error, unset: &[&str]) -> Error {
    if unset.is_empty() {
        return error;
    }
    error.with_hint(format!("set {} to what the connector has, or give --offline", unset.join(", ")))
}

/// The connector's own view of the brokers. Its control topic is told by committed records alone, as the sink reads it, however it read
/// its rows: an answer that was aborted counts for nothing.
fn theirs(kafka: &KafkaConfig, group: &str) -> KafkaConfig {
    KafkaConfig { group: group.to_owned(), read_uncommitted: false, ..kafka.clone() }
}

fn write(flags: &Flags, toml: &str) -> Result<()> {
    let Some(path) = &flags.global.config else {
        // The report is the answer then.
        return if flags.global.json { Ok(()) } else { output::print(toml) };
    };
    let file = fs::File::options().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(toml.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| {
        Error::new(ErrorKind::Config, format!("{} cannot be written", path.display()))
            .with_source(error)
            .with_hint("name a file with -c that is not there yet")
    })
}

/// Where the connector stopped.
async fn asked(config: &Config, connector: &Connector) -> Result<Stop> {
    connector.tells_where_it_stopped()?;
    let env = Env::system();
    let kafka = config.sources.values().find_map(|source| match source {
        SourceConfig::Kafka(kafka) => Some(kafka),
        _ => None,
    });
    let Some(kafka) = kafka else { return Ok(Stop::default()) };
    let (group, topic, events) = (connector.consumer_group(), connector.control_topic(), connector.group());
    let (topics, pattern) = (kafka.topics.clone(), kafka.pattern()?);
    let keep = move |told: Told| ControlRecord::read(&events, (told.partition, told.offset), told.key, &told.value);
    let found = Probe::new(&theirs(kafka, &group), &env)?.group(topics.clone(), pattern.clone(), topic, keep).await?;
    if found.members > 0 {
        let what = format!(
            "the connector still runs: its group {group} has {}",
            output::counted(found.members as u64, "member")
        );
        return Err(Error::new(ErrorKind::Conflict, what)
            .with_hint("stop and delete it, wait until it is gone, and import again"));
    }
    if connector.may_be_tabulars() && found.offsets.is_empty() {
        let probe = Probe::new(&theirs(kafka, &connector.tabular_group()), &env)?;
        let other = probe.group(topics, pattern, String::new(), |_| Ok(None::<()>)).await?;
        connector.is_in_no_group_of_tabulars(other.offsets.len(), found.offsets.len())?;
    }
    let mut tables = BTreeMap::new();
    for (name, pipeline) in &config.pipelines {
        let catalog = wiring::catalog(config, &pipeline.catalog, &env).await?;
        let table: TableName = pipeline.table.parse()?;
        let upto = match catalog.load(&table).await {
            Ok(state) => upto(&state, &pipeline.table, connector, !found.offsets.is_empty())?,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.within(format!("pipeline {name}"))),
        };
        tables.insert(pipeline.table.clone(), upto);
    }
    let heard = Heard { records: found.records, begins: found.begins };
    stopped(&heard, &group, found.offsets, &tables)
}

/// Up to where a table has the connector's files. What its snapshots say of another sink is none of them, but shows a wrong name where
/// the group has nothing.
fn upto(
    state: &TableState,
    table: &str,
    connector: &Connector,
    has_offsets: bool,
) -> Result<Option<BTreeMap<i32, i64>>> {
    let branch = connector.branch(table).unwrap_or_else(|| MAIN.to_owned());
    let upto = committed(state, &branch, &connector.control_topic(), &connector.group())?;
    if upto.is_none() {
        connector.is_named(table, &sinks(state, &branch)?, has_offsets)?;
    }
    Ok(upto)
}

fn report(flags: &Flags, translated: &Translation, stop: Option<&Stop>) -> Result<()> {
    let answer = said(translated, stop);
    if flags.global.json {
        return output::answer(&answer, true);
    }
    output::note(answer.text.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_topic_is_read_without_what_was_aborted() {
        let text = "[source.a]\ntype = \"kafka\"\nbrokers = [\"127.0.0.1:1\"]\ngroup = \"ours\"\ntopics = [\"t\"]\n\
                    isolation = \"read_uncommitted\"\ntls.enabled = \"off\"\n\
                    [catalog.lake]\ntype = \"rest\"\nuri = \"http://127.0.0.1:1\"\n\
                    [pipeline.a]\nsource = \"a\"\ntable = \"lake.d.t\"\n";
        let config = from_text("a", text.to_owned(), &[]).map_err(Error::from).expect("a configuration").config;
        let Some(SourceConfig::Kafka(kafka)) = config.sources.values().next() else { panic!("a source") };
        let theirs = theirs(kafka, "connect-a");
        assert!(kafka.read_uncommitted && !theirs.read_uncommitted);
        assert_eq!(theirs.group, "connect-a");
    }

    #[test]
    fn a_problem_keeps_its_own_way_out_where_all_secrets_are_set() {
        let problem = || Error::new(ErrorKind::Config, "wrong").with_hint("its own");
        assert_eq!(hinted(problem(), &[]).hint(), Some("its own"));
        assert_eq!(hinted(problem(), &["A"]).hint(), Some("set A to what the connector has, or give --offline"));
    }
}
