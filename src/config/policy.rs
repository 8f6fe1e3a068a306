//! How a table is kept small: from globs over names, and from the table's own properties over them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use globset::{Glob, GlobMatcher};

use crate::config::document::{Node, Shape, suggest};
use crate::config::problem::{Place, Problems};
use crate::config::reading::{Reader, Value};
use crate::config::reference::{self, Field, Preset};
use crate::config::resolve::{Resolved, Surroundings};
use crate::config::window::Window;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// What the names of table properties begin with that are settings of a policy.
pub const PROPERTY_PREFIX: &str = "frazil.policy.";
const SECTION: &str = "policy.*.";

/// How one table is kept small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether anybody asked for maintenance of this table: a glob of the configuration, or the table itself.
    pub named: bool,
    /// How often it is looked at.
    pub every: Duration,
    /// When files may be rewritten; `None`: always.
    pub window: Option<Window>,
    /// Compaction.
    pub compact: CompactPolicy,
    /// Rewriting of manifests.
    pub manifests: ManifestsPolicy,
    /// Expiry.
    pub expire: ExpirePolicy,
}

/// When a rewrite pays. The table's `write.target-file-size-bytes` wins over `target_file_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactPolicy {
    /// Whether it is done at all.
    pub enabled: bool,
    /// Bytes that a data file should have.
    pub target_file_size: u64,
    /// A partition that got a file in this time is left alone.
    pub quiet: Duration,
    /// So many small files are merged all the same.
    pub hot_files_max: usize,
    /// So many small files are merged, however small.
    pub files_min: usize,
    /// So many delete files are too many for a file.
    pub deletes_max: usize,
    /// So many hundredths of deleted rows are too many for a file.
    pub deleted_percent: u64,
    /// Bytes that are rewritten at a look.
    pub bytes_max: u64,
    /// Whether pages may be copied as they are encoded.
    pub splice: bool,
}

/// When manifests are gathered. Their size is the table's `commit.manifest.target-size-bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestsPolicy {
    /// Whether it is done at all.
    pub enabled: bool,
    /// So many that could be fewer are gathered.
    pub count_min: usize,
}

/// How much history is kept. The table's `history.expire.*` win.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpirePolicy {
    /// Whether it is done at all.
    pub enabled: bool,
    /// Younger snapshots stay.
    pub keep: Duration,
    /// So many of each branch stay.
    pub min_snapshots: usize,
    /// Older tags and branches go.
    pub max_ref_age: Option<Duration>,
}

type Says = BTreeMap<&'static str, Value>;

/// Policies by globs over the names of tables.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    /// The nearest first.
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    matcher: GlobMatcher,
    says: Says,
}

fn fields() -> impl Iterator<Item = (&'static str, &'static Field)> {
    reference::fields().filter_map(|field| field.path.strip_prefix(SECTION).map(|name| (name, field)))
}

/// How near a glob is: the characters that are no wildcards.
fn nearness(glob: &str) -> usize {
    glob.chars().filter(|c| !"*?[]{},!".contains(*c)).count()
}

impl Policies {
    /// The policies that were written.
    pub(crate) fn of(resolved: &Resolved) -> Self {
        let mut globs = resolved.names("policy");
        globs.sort_by(|a, b| nearness(b).cmp(&nearness(a)).then_with(|| a.cmp(b)));
        let rule = |glob: String| {
            // A glob that is none was reported where it was read.
            let matcher = Glob::new(&glob).ok()?.compile_matcher();
            let says = fields().filter_map(|(name, _)| {
                let path: Vec<&str> = ["policy", glob.as_str()].into_iter().chain(name.split('.')).collect();
                Some((name, resolved.setting(&path)?.value.clone()))
            });
            Some(Rule { matcher, says: says.collect() })
        };
        Self { rules: globs.into_iter().filter_map(rule).collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a glob names this table.
    pub fn names(&self, catalog: &str, table: &TableName) -> bool {
        self.rules.iter().any(|rule| rule.names(catalog, table))
    }

    /// The policy of a table with these properties.
    ///
    /// # Errors
    /// `Config` for a property that is no setting, or has no such value: names table and property.
    pub fn policy(&self, catalog: &str, table: &TableName, properties: &HashMap<String, String>) -> Result<Policy> {
        let own = written(table, properties)?;
        let rules = self.rules.iter().filter(|rule| rule.names(catalog, table));
        let layers: Vec<&Says> = std::iter::once(&own).chain(rules.map(|rule| &rule.says)).collect();
        let asked = self.names(catalog, table) || !own.is_empty();
        Ok(Policy { named: asked, ..Layered { layers }.policy() })
    }
}

impl Rule {
    fn names(&self, catalog: &str, table: &TableName) -> bool {
        let name = table.to_string();
        self.matcher.is_match(&name) || self.matcher.is_match(format!("{catalog}.{name}"))
    }
}

/// What a table's properties say.
fn written(table: &TableName, properties: &HashMap<String, String>) -> Result<Says> {
    let mut says = Says::new();
    let own: BTreeMap<&str, &String> = properties
        .iter()
        .filter_map(|(name, value)| name.strip_prefix(PROPERTY_PREFIX).map(|setting| (setting, value)))
        .collect();
    for (setting, text) in own {
        let place = || format!("table {table}: property {PROPERTY_PREFIX}{setting}");
        let Some((name, field)) = fields().find(|(name, _)| *name == setting) else {
            let known: Vec<&str> = fields().map(|(name, _)| name).collect();
            return Err(Error::new(ErrorKind::Config, format!("{}: there is no such setting", place()))
                .with_hint(suggest(setting, &known)));
        };
        let value = read(field, text).map_err(|(message, hint)| {
            let error = Error::new(ErrorKind::Config, format!("{}: {message}", place()));
            error.with_hint(hint.unwrap_or_else(|| "remove the property, or set it to a value that can be".to_owned()))
        })?;
        says.insert(name, value);
    }
    Ok(says)
}

/// Reads a value as it would be read from the environment.
fn read(field: &Field, text: &str) -> std::result::Result<Value, (String, Option<String>)> {
    let nothing = BTreeMap::new();
    let none = |_: &std::path::Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let around = Surroundings { host: String::new(), processors: 1, variables: &nothing, read_file: &none };
    let mut problems = Problems::of("");
    let node = Node::new(Shape::Loose(text.to_owned()), Place::Default);
    let value = Reader { around: &around, problems: &mut problems, path: &[] }.read(&node, field.kind);
    let problem = problems.list.into_iter().next();
    value.ok_or_else(|| problem.map_or_else(|| ("it cannot be read".to_owned(), None), |p| (p.message, p.hint)))
}

/// What is said, the nearest first.
struct Layered<'a> {
    layers: Vec<&'a Says>,
}

impl Layered<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.layers.iter().find_map(|says| says.get(name)) {
            return Some(value.clone());
        }
        let (_, field) = fields().find(|(own, _)| *own == name)?;
        match field.preset {
            Preset::Usually(text) => read(field, text).ok(),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Flag(true))
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Count(value) | Value::Bytes(value) | Value::Millis(value)) => Some(value),
            _ => None,
        }
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name).unwrap_or_default()).unwrap_or(usize::MAX)
    }

    fn duration(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name).unwrap_or_default())
    }

    fn policy(&self) -> Policy {
        let window = match self.value("window") {
            Some(Value::Text(text)) => Window::parse(&text).ok(),
            _ => None,
        };
        Policy {
            named: false,
            every: self.duration("every"),
            window,
            compact: CompactPolicy {
                enabled: self.flag("compact.enabled"),
                target_file_size: self.number("compact.target_file_size").unwrap_or_default().max(1),
                quiet: self.duration("compact.quiet"),
                hot_files_max: self.size("compact.hot_files_max"),
                files_min: self.size("compact.files_min"),
                deletes_max: self.size("compact.deletes_max"),
                deleted_percent: self.number("compact.deleted_percent").unwrap_or_default(),
                bytes_max: self.number("compact.bytes_max").unwrap_or(u64::MAX),
                splice: self.flag("compact.splice"),
            },
            manifests: ManifestsPolicy {
                enabled: self.flag("manifests.enabled"),
                count_min: self.size("manifests.count_min"),
            },
            expire: ExpirePolicy {
                enabled: self.flag("expire.enabled"),
                keep: self.duration("expire.keep"),
                min_snapshots: self.size("expire.min_snapshots"),
                max_ref_age: self.number("expire.max_ref_age").map(Duration::from_millis),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::from_text;

    fn policies(text: &str) -> Policies {
        from_text("t", text.to_owned(), &[]).expect("valid").config.policies
    }

    fn properties(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const TEXT: &str = r#"
        [policy."*"]
        every = "1h"
        expire = { keep = "30d", min_snapshots = 3 }
        [policy."lake.raw.*"]
        compact = { quiet = "1m" }
        expire = { keep = "2d" }
        [policy."lake.raw.shop"]
        compact = { files_min = 9 }
    "#;

    #[test]
    fn each_setting_is_of_the_nearest_glob_that_says_it() {
        let policies = policies(TEXT);
        let policy = policies.policy("lake", &"raw.shop".parse().expect("a name"), &HashMap::new()).expect("valid");
        assert!(policy.named && policy.compact.enabled && policy.expire.enabled);
        assert_eq!((policy.compact.files_min, policy.compact.quiet), (9, Duration::from_secs(60)));
        assert_eq!((policy.expire.keep, policy.expire.min_snapshots), (Duration::from_secs(2 * 86_400), 3));
        assert_eq!((policy.every, policy.compact.target_file_size), (Duration::from_secs(3_600), 512 << 20));
        let other = policies.policy("sea", &"raw.shop".parse().expect("a name"), &HashMap::new()).expect("valid");
        assert_eq!((other.compact.files_min, other.expire.keep), (5, Duration::from_secs(30 * 86_400)));
    }

    #[test]
    fn what_jobs_may_use_is_the_same_with_and_without_a_file() {
        let config = from_text("t", String::new(), &[]).expect("valid").config;
        assert_eq!(config.maintenance, crate::config::MaintenanceConfig::default());
    }

    #[test]
    fn a_tables_own_properties_win_over_every_glob() {
        let own = properties(&[("frazil.policy.compact.files_min", "7"), ("frazil.policy.window", "1:00-2:00")]);
        let policy = policies(TEXT).policy("lake", &"raw.shop".parse().expect("a name"), &own).expect("valid");
        assert_eq!(policy.compact.files_min, 7);
        assert_eq!(policy.window.map(|window| window.to_string()).as_deref(), Some("1:00-2:00"));
        let alone = Policies::default();
        let table: TableName = "raw.shop".parse().expect("a name");
        assert!(alone.policy("lake", &table, &own).expect("valid").named);
        assert!(!alone.policy("lake", &table, &HashMap::new()).expect("valid").named);
    }

    #[test]
    fn a_property_that_is_no_setting_is_an_error_with_table_and_hint() {
        let error = |name: &str, value: &str| {
            let own = properties(&[(name, value)]);
            let error = Policies::default().policy("lake", &"raw.shop".parse().expect("a name"), &own);
            let error = error.expect_err("no setting");
            format!("{error} ({})", error.hint().unwrap_or_default())
        };
        let unknown = error("frazil.policy.compact.quite", "1m");
        assert!(unknown.contains("table raw.shop: property frazil.policy.compact.quite"), "{unknown}");
        assert!(unknown.contains("compact.quiet"), "{unknown}");
        let wrong = error("frazil.policy.expire.keep", "long");
        assert!(wrong.contains("frazil.policy.expire.keep: \"long\" is not a duration"), "{wrong}");
    }
}
