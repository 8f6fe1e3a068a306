//! Reading a configuration: the layers, and the only place that reads the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::assemble::assemble;
use crate::config::document::{overlay_environment, overlay_sets, parse};
use crate::config::problem::{Place, Problems};
use crate::config::resolve::{Resolved, Surroundings, resolve};
use crate::config::stores;
use crate::config::validate::validate;

/// The largest configuration file, and the largest file with a secret.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Everything that a configuration is made of. What it holds decides alone what comes out.
pub struct Layers<'a> {
    /// What the file is called in messages.
    pub file: String,
    /// The file's text.
    pub text: String,
    /// Environment variables: `FRAZIL__…` are a layer, the others are for secrets.
    pub variables: BTreeMap<String, String>,
    /// `--set` arguments, later ones win.
    pub sets: Vec<String>,
    /// The default of `instance`.
    pub host: String,
    /// The default of `limits.workers`.
    pub processors: usize,
    /// Reads the file of a secret, or of a schema.
    pub read_file: &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>,
}

/// A valid configuration and where each of its settings comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The settings behind it, for `config show`.
    pub resolved: Resolved,
    /// What the file is called; empty when there is none.
    pub file: String,
}

impl Layers<'_> {
    /// The configuration these layers make.
    ///
    /// # Errors
    /// Everything that is wrong with it, ordered by place.
    pub fn load(self) -> Result<Loaded, Problems> {
        let mut problems = Problems::of(&self.file);
        let mut parsed = parse(&self.text, &mut problems);
        overlay_environment(&mut parsed.root, &self.variables, &mut problems);
        overlay_sets(&mut parsed.root, &self.sets, &mut problems);
        let around = Surroundings {
            host: plain_name(&self.host),
            processors: self.processors.clamp(1, 1_024),
            variables: &self.variables,
            read_file: self.read_file,
        };
        let resolved = resolve(&parsed.root, &around, parsed.incomplete, &mut problems);
        let mut config = assemble(&resolved);
        if !parsed.incomplete {
            validate(&config, &resolved, &mut problems);
        }
        if problems.list.is_empty() {
            stores::under_environment(&mut config.stores, &self.variables);
            return Ok(Loaded { config, resolved, file: self.file });
        }
        problems.sort();
        Err(problems)
    }
}

/// Loads the configuration at `path` with this process's environment; without a path, from environment and `sets` alone.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Loaded, Problems> {
    let file = path.map(|path| path.display().to_string()).unwrap_or_default();
    let text = match path {
        None => String::new(),
        Some(path) => read_bounded(path).map_err(|error| {
            let mut problems = Problems::of(&file);
            let hint = "name the configuration file with -c";
            problems.add_with_hint(&Place::Default, &[], format!("the file cannot be read: {error}"), hint);
            problems
        })?,
    };
    from_text(&file, text, sets)
}

/// Loads a configuration from text with this process's environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn from_text(file: &str, text: String, sets: &[String]) -> Result<Loaded, Problems> {
    let variables = environment();
    let host = host_name(&variables);
    let layers = Layers {
        file: file.to_owned(),
        text,
        variables,
        sets: sets.to_vec(),
        host,
        processors: processors(),
        read_file: &read_bytes,
    };
    layers.load()
}

/// The processors that this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// This process's environment, as far as it is text.
#[allow(clippy::disallowed_methods)] // the one reader of the environment
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The file that `-c` names when it is not given: `frazil.toml` in the working folder, where there is one.
pub fn default_file() -> Option<PathBuf> {
    let path = PathBuf::from("frazil.toml");
    path.is_file().then_some(path)
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 16 MiB"));
    }
    Ok(bytes)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn host_name(variables: &BTreeMap<String, String>) -> String {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let named = files.iter().filter_map(|path| read_bounded(Path::new(path)).ok());
    let set = ["HOSTNAME", "COMPUTERNAME"].iter().filter_map(|name| variables.get(*name).cloned());
    named
        .chain(set)
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "frazil".to_owned())
}

/// A host's name as an instance name: other characters become `-`.
fn plain_name(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
    let name: String = host.chars().take(64).map(plain).collect();
    if name.is_empty() { "frazil".to_owned() } else { name }
}
