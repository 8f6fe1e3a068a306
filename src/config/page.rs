//! docs/configuration.md, from the table of all settings.

use std::fmt::Write as _;

use crate::config::quantity::{show_bytes, show_millis};
use crate::config::reference::Kind::{
    Address, Bytes, Character, Choice, Choices, Count, Duration, File, Flag, Glob, List, Path, Secret, Secrets, Share,
    Text, Texts, Uri, Window,
};
use crate::config::reference::Preset::{Empty, Host, Is, Processors, Required, Unset, Usually};
use crate::config::reference::{Kind, Preset, fields};

impl Kind {
    /// What it takes, in words.
    pub fn words(self) -> String {
        match self {
            Text => "text".to_owned(),
            Character => "one character".to_owned(),
            Path => "path".to_owned(),
            File => "path of a file".to_owned(),
            Glob => "glob".to_owned(),
            Uri => "URI".to_owned(),
            Address => "address:port".to_owned(),
            Flag => "true or false".to_owned(),
            Count(low, high) => format!("{low} to {high}"),
            Bytes(low, high) => format!("bytes, {} to {}", show_bytes(low), show_bytes(high)),
            Duration(low, high) => format!("duration, {} to {}", show_millis(low), show_millis(high)),
            Share => "share, 0% to 100%, alone or `in` 1s to 1d".to_owned(),
            Secret => "secret".to_owned(),
            Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Texts => "table of texts".to_owned(),
            Secrets => "table of secrets".to_owned(),
            Choices(_) => "table of words".to_owned(),
            List => "list of texts".to_owned(),
            Window => "hours, and a time zone".to_owned(),
        }
    }
}

impl Preset {
    fn words(self) -> String {
        match self {
            Required => "**required**".to_owned(),
            Unset => "unset".to_owned(),
            Is(text) | Usually(text) => format!("`{text}`"),
            Empty => "empty".to_owned(),
            Host => "the host's name".to_owned(),
            Processors => "number of processors".to_owned(),
        }
    }
}

const INTRODUCTION: &str = "\
# Configuration

This page is generated from the table in `src/config/reference.rs`; `frazil config reference` prints it.

A configuration is one TOML file, given with `-c`. Later layers win: built-in defaults, the file, environment variables,
`--set`. An environment variable is named `FRAZIL__section__name__setting`, parts joined by two underscores, letters in any
case (`FRAZIL__LIMITS__MEMORY=2GiB`). `--set` takes a TOML path (`--set pipeline.shop.commit.freshness=10s`, names with dots
quoted: `--set 'store.\"s3://lake\".region=eu-north-1'`). `frazil check -c FILE` reports every problem at once;
`frazil config show --resolved -c FILE` shows what applies and where it comes from.

- **bytes**: a number and `B`, `KiB`, `MiB`, `GiB`, `TiB` (or the decimal `kB`, `MB`, `GB`, `TB`).
- **duration**: a number and `ms`, `s`, `m`, `h`, `d`; several in a row add up (`1h30m`).
- **share**: `1%` or `0.01`.
- **secret**: the text itself, `{ file = \"/run/secrets/x\" }` or `{ env = \"NAME\" }`; shown as `***` everywhere.
- **path**: relative ones start at the working folder.
";

const POLICY: &str = "\
How tables are kept small, by globs over `catalog.namespace.table` and `namespace.table`. The daemon maintains the tables that a
policy names, and no others. Each setting is taken from the nearest glob that says it: the one with most characters that are no
wildcards. A table property `frazil.policy.SETTING`, such as `frazil.policy.compact.quiet` = `1h`, wins over every glob, and
Iceberg's own properties (`write.target-file-size-bytes`, `history.expire.*`) win over both.
";

/// docs/configuration.md.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut section = "";
    for field in fields() {
        let own = field.path.split_once('.').map_or("", |(first, _)| first);
        if own != section || page.len() == INTRODUCTION.len() {
            section = own;
            let title = match own {
                "" => "Top level".to_owned(),
                "catalog" | "registry" | "source" | "pipeline" => format!("`[{own}.NAME]`"),
                "policy" => "`[policy.\"GLOB\"]`".to_owned(),
                "store" => "`[store.\"URL\"]`".to_owned(),
                _ => format!("`[{own}]`"),
            };
            let _ = write!(page, "\n## {title}\n");
            if own == "policy" {
                let _ = write!(page, "\n{POLICY}");
            }
            let _ = write!(page, "\n| setting | takes | default | meaning |\n|---|---|---|---|\n");
        }
        let only = if field.only.is_empty() { String::new() } else { format!(" (`type = \"{}\"`)", field.only) };
        let _ = writeln!(
            page,
            "| `{}`{only} | {} | {} | {} |",
            field.path.replace('*', "NAME"),
            field.kind.words(),
            field.preset.words(),
            field.meaning.replace('|', "\\|"),
        );
    }
    page
}
