//! `frazil config`.

use crate::cli::flags::{ConfigVerb, Flags};
use crate::cli::output::{self, Answer};
use crate::cli::{Exit, answer, load};
use crate::config::page;
use crate::config::resolve::Scope;
use crate::error::Result;

pub(crate) fn config(flags: &Flags, verb: &ConfigVerb) -> Result<Exit> {
    match verb {
        ConfigVerb::Show { resolved } => {
            let scope = if *resolved { Scope::All } else { Scope::Written };
            let settings = load(flags)?.resolved;
            answer(flags, &Answer { json: settings.to_json(scope), text: settings.to_toml(scope) })
        }
        ConfigVerb::Reference => {
            output::print(&page::page())?;
            Ok(Exit::Done)
        }
    }
}
