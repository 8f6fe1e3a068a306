//! `frazil table`: looks, never changes.

use std::sync::Arc;

use globset::GlobBuilder;

use crate::catalog::Catalog;
use crate::catalog::listing::tables_below;
use crate::cli::flags::{CatalogChoice, Flags, TableChoice, TableVerb};
use crate::cli::output::Answer;
use crate::cli::{Exit, answer, checkpoint, describe, files, load, wiring, with_config};
use crate::config::Config;
use crate::config::load::from_text;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// The name of a catalog that the command line describes by itself.
const DIRECT: &str = "direct";

pub(crate) fn table(flags: &Flags, verb: &TableVerb) -> Result<Exit> {
    let from = match verb {
        TableVerb::List { from, .. } => from,
        TableVerb::Show(choice) | TableVerb::History(choice) | TableVerb::Checkpoint(choice) => &choice.from,
        TableVerb::Files { choice, .. } => &choice.from,
    };
    with_config(flags, from, async |config| answer(flags, &ask(config, verb).await?))
}

async fn ask(config: &Config, verb: &TableVerb) -> Result<Answer> {
    let env = Env::system();
    match verb {
        TableVerb::List { namespace, from } => {
            let name = chosen(config, from, None)?;
            let catalog = wiring::catalog(config, &name, &env).await?;
            let below: Vec<String> = namespace.iter().flat_map(|text| text.split('.')).map(str::to_owned).collect();
            Ok(describe::list(&tables_below(&catalog, &below).await?))
        }
        TableVerb::Show(choice) => Ok(describe::show(&state(config, choice, &env).await?)),
        TableVerb::History(choice) => Ok(describe::history(&state(config, choice, &env).await?)),
        TableVerb::Checkpoint(choice) => checkpoint::checkpoint(&state(config, choice, &env).await?),
        TableVerb::Files { choice, snapshot, at } => {
            let state = state(config, choice, &env).await?;
            let Some(snapshot) = files::snapshot_of(&state, *snapshot, at.as_deref())? else {
                return Ok(files::files(&state, None, &[]));
            };
            let io = wiring::file_io(config, &state, &env).await?;
            let rows = files::read(&state, snapshot, &io).await?;
            Ok(files::files(&state, Some(snapshot), &rows))
        }
    }
}

async fn state(config: &Config, choice: &TableChoice, env: &Env) -> Result<TableState> {
    let (name, table) = named(config, choice)?;
    let loaded = wiring::catalog(config, &name, env).await?.load(&table).await;
    loaded.map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.with_hint("`frazil table list` shows the tables there are"),
        _ => error,
    })
}

/// The tables of the catalog whose name, with or without the catalog's, matches.
pub(crate) async fn matching(source: &Arc<dyn Catalog>, catalog: &str, glob: &str) -> Result<Vec<TableName>> {
    let matcher = GlobBuilder::new(glob).build();
    let matcher = matcher.context(ErrorKind::Config, || format!("glob {glob:?}"))?.compile_matcher();
    let all = tables_below(source, &[]).await?;
    let meant = |name: &TableName| matcher.is_match(name.to_string()) || matcher.is_match(format!("{catalog}.{name}"));
    let found: Vec<TableName> = all.into_iter().filter(meant).collect();
    if found.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, format!("no table of {catalog} matches {glob:?}"))
            .with_hint("`frazil table list` shows the tables there are"));
    }
    Ok(found)
}

/// The configuration of `-c`, or one with the catalog that the flags describe.
pub(crate) fn configured(flags: &Flags, from: &CatalogChoice) -> Result<Config> {
    let quote = |text: &str| toml_edit::Value::from(text).to_string();
    let mut text = match (&from.uri, &from.embedded) {
        (Some(uri), _) => format!("[catalog.{DIRECT}]\ntype = \"rest\"\nuri = {}\n", quote(uri)),
        (None, Some(path)) => {
            format!("[catalog.{DIRECT}]\ntype = \"embedded\"\npath = {}\n", quote(&path.to_string_lossy()))
        }
        (None, None) => return load(flags).map(|loaded| loaded.config),
    };
    if let Some(warehouse) = &from.warehouse {
        text.push_str(&format!("warehouse = {}\n", quote(warehouse)));
    }
    Ok(from_text("(command line)", text, &flags.global.set)?.config)
}

/// The catalog that is meant; `table` may begin with its name.
pub(crate) fn chosen(config: &Config, from: &CatalogChoice, table: Option<&str>) -> Result<String> {
    if let Some(name) = &from.catalog {
        return Ok(name.clone());
    }
    if let Some(name) = table.and_then(|table| prefix(config, table)) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = config.catalogs.keys().map(String::as_str).collect();
    match names.as_slice() {
        [name] => Ok((*name).to_owned()),
        [] => Err(Error::new(ErrorKind::Config, "no catalog is named")
            .with_hint("name a configuration with -c, or a catalog with --uri or --embedded")),
        names => Err(Error::new(ErrorKind::Config, "the configuration has several catalogs")
            .with_hint(format!("choose one with --catalog: {}", names.join(", ")))),
    }
}

fn prefix<'a>(config: &Config, table: &'a str) -> Option<&'a str> {
    let (first, rest) = table.split_once('.')?;
    (rest.contains('.') && config.catalogs.contains_key(first)).then_some(first)
}

pub(crate) fn named(config: &Config, choice: &TableChoice) -> Result<(String, TableName)> {
    let name = chosen(config, &choice.from, Some(&choice.table))?;
    let own = choice.from.catalog.is_none() && prefix(config, &choice.table) == Some(name.as_str());
    let table = match choice.table.split_once('.') {
        Some((_, rest)) if own => rest,
        _ => &choice.table,
    };
    Ok((name, table.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(table: &str, catalog: Option<&str>) -> TableChoice {
        let from = CatalogChoice { catalog: catalog.map(str::to_owned), uri: None, embedded: None, warehouse: None };
        TableChoice { table: table.to_owned(), from }
    }

    fn config(names: &[&str]) -> Config {
        let text: String = names.iter().map(|name| format!("[catalog.{name}]\ntype = \"memory\"\n")).collect();
        from_text("t", text, &[]).expect("valid").config
    }

    #[test]
    fn a_table_is_found_with_and_without_its_catalog() {
        let read = |names: &[&str], table: &str, catalog: Option<&str>| {
            named(&config(names), &choice(table, catalog)).map(|(name, table)| format!("{name}/{table}")).ok()
        };
        assert_eq!(read(&["lake"], "raw.shop", None).as_deref(), Some("lake/raw.shop"));
        assert_eq!(read(&["lake"], "lake.raw.shop", None).as_deref(), Some("lake/raw.shop"));
        assert_eq!(read(&["lake"], "lake.shop", None).as_deref(), Some("lake/lake.shop"));
        assert_eq!(read(&["lake", "sea"], "sea.raw.shop", None).as_deref(), Some("sea/raw.shop"));
        assert_eq!(read(&["lake", "sea"], "sea.raw.shop", Some("lake")).as_deref(), Some("lake/sea.raw.shop"));
        assert_eq!(read(&["lake", "sea"], "raw.shop", None), None);
        assert_eq!(read(&[], "raw.shop", None), None);
    }
}
