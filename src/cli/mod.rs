//! The command line: every flag in `flags`, one file per family of commands, everything printed through `output`.

mod check;
pub mod checkpoint;
mod compact;
mod config;
mod demo;
pub mod describe;
mod edit;
mod expire;
pub mod files;
pub mod flags;
mod health;
mod import;
pub mod import_report;
mod live;
mod maintain;
mod manifests;
pub mod output;
mod process;
mod table;
mod verify;
mod verify_lacks;
pub mod verify_report;
pub mod wiring;

use std::ffi::OsString;
use std::io::IsTerminal as _;

use clap::{CommandFactory as _, Parser as _};

use crate::cli::flags::{CatalogChoice, Flags, ImportVerb, LogFormat, Verb};
use crate::cli::output::Answer;
use crate::cli::process::Process;
use crate::config::load::environment;
use crate::config::{Config, Loaded, Problems};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::logs;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// It did not work.
    Failed,
    /// The configuration or the command line is wrong.
    Usage,
    /// A pipeline halted and needs an operator.
    Halted,
    /// Some tables could not be maintained; the others were.
    Partial,
    /// Rows are missing, or there more than once.
    Unequal,
    /// It could not be told whether each row is there once.
    Unproven,
    /// A signal ended it before it was done.
    Interrupted,
}

impl Exit {
    /// The code, as `frazil --help` documents it.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Halted => 3,
            Self::Partial => 4,
            Self::Unequal => 5,
            Self::Unproven => 6,
            Self::Interrupted => 130,
        }
    }
}

/// Runs one command line, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let flags = match Flags::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            // Help and version come this way too; a closed pipe is no reason to complain.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match start_logs(&flags).and_then(|()| dispatch(&flags)) {
        Ok(exit) => exit,
        Err(error) => {
            output::error(&error);
            if error.kind() == ErrorKind::Config { Exit::Usage } else { Exit::Failed }
        }
    }
}

fn start_logs(flags: &Flags) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let variables = environment();
    let format = match flags.global.log_format {
        Some(LogFormat::Pretty) => logs::Format::Pretty,
        Some(LogFormat::Json) => logs::Format::Json,
        None if terminal => logs::Format::Pretty,
        None => logs::Format::Json,
    };
    let colour = if terminal && !variables.contains_key("NO_COLOR") { logs::Colour::Yes } else { logs::Colour::No };
    // Reading commands and the demo show their own answer: only what goes wrong is logged beside it.
    let usual = if matches!(flags.verb, Verb::Run(_)) { logs::LEVEL } else { "warn" };
    let filter = match (&flags.global.log_level, variables.get("RUST_LOG")) {
        (Some(level), _) => level.as_str(),
        (None, _) if flags.global.quiet => "error",
        (None, Some(filter)) => filter.as_str(),
        (None, None) => usual,
    };
    logs::start(format, colour, filter)
}

fn dispatch(flags: &Flags) -> Result<Exit> {
    match &flags.verb {
        Verb::Run(own) => {
            let role = own.role.iter().map(|role| format!("role={role}"));
            process::run_daemon(load_with(flags, role)?)
        }
        Verb::Check(own) => check::check(flags, own),
        Verb::Demo(own) => demo::demo(flags, own),
        Verb::Table(own) => table::table(flags, own),
        Verb::Checkpoint(own) => edit::edit(flags, own),
        Verb::Compact(own) => compact::compact(flags, own),
        Verb::Manifests(own) => manifests::manifests(flags, own),
        Verb::Expire(own) => expire::expire(flags, own),
        Verb::Maintain(own) => maintain::maintain(flags, own),
        Verb::Health(own) => health::health(flags, own),
        Verb::Import(ImportVerb::KafkaConnect(own)) => import::kafka_connect(flags, own),
        Verb::Verify(own) => verify::verify(flags, own),
        Verb::Config(own) => config::config(flags, own),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Flags::command(), "frazil", &mut script);
            output::print(&String::from_utf8_lossy(&script)).map(|()| Exit::Done)
        }
    }
}

/// The configuration that `-c` names, or `frazil.toml` of the working folder.
fn load(flags: &Flags) -> Result<Loaded> {
    load_or_problems(flags).map_err(Error::from)
}

/// The same with further settings over it.
fn load_with(flags: &Flags, more: impl Iterator<Item = String>) -> Result<Loaded> {
    let file = flags.global.config.clone().or_else(crate::config::load::default_file);
    let sets: Vec<String> = flags.global.set.iter().cloned().chain(more).collect();
    crate::config::load::load(file.as_deref(), &sets).map_err(Error::from)
}

fn load_or_problems(flags: &Flags) -> std::result::Result<Loaded, Problems> {
    let file = flags.global.config.clone().or_else(crate::config::load::default_file);
    crate::config::load::load(file.as_deref(), &flags.global.set)
}

fn no_file() -> Error {
    Error::new(ErrorKind::Config, "there is no configuration")
        .with_hint("name one with -c, or put frazil.toml into the working folder")
}

/// Prints an answer as the flags ask.
fn answer(flags: &Flags, answer: &Answer) -> Result<Exit> {
    output::answer(answer, flags.global.json)?;
    Ok(Exit::Done)
}

/// Runs `work` to its end, or until a signal.
/// Runs a verb with the configuration of the catalog that it asks, until it ends or a signal comes.
fn with_config(flags: &Flags, from: &CatalogChoice, work: impl AsyncFnOnce(&Config) -> Result<Exit>) -> Result<Exit> {
    let config = table::configured(flags, from)?;
    Ok(block_on(config.limits.workers, work(&config))?.unwrap_or(Exit::Interrupted))
}

fn block_on<T>(workers: usize, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    Process::start(workers, 0)?.until_signal(work)
}
