//! From the tree as written to settings: every value checked against [`fields`], defaults filled in, nothing unknown left.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::document::{Node, Shape, suggest, tighten};
use crate::config::problem::{Place, Problems};
use crate::config::reading::{Reader, Value};
use crate::config::reference::{Field, Kind, Preset, fields};

/// What the machine knows and a default may be.
pub(crate) struct Surroundings<'a> {
    pub(crate) host: String,
    pub(crate) processors: usize,
    pub(crate) variables: &'a BTreeMap<String, String>,
    pub(crate) read_file: &'a dyn Fn(&std::path::Path) -> std::io::Result<Vec<u8>>,
}

/// Which settings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every setting that applies.
    All,
    /// What somebody wrote.
    Written,
}

/// A setting and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// Every setting that applies, by path, and the sections that are there.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    pub(crate) settings: BTreeMap<Vec<String>, Setting>,
    pub(crate) sections: BTreeMap<Vec<String>, Place>,
}

impl Resolved {
    /// The names chosen in a section such as `pipeline`.
    pub(crate) fn names(&self, section: &str) -> Vec<String> {
        let named = |path: &Vec<String>| match path.as_slice() {
            [first, name] if first == section => Some(name.clone()),
            _ => None,
        };
        self.sections.keys().filter_map(named).collect()
    }

    pub(crate) fn setting(&self, path: &[&str]) -> Option<&Setting> {
        self.settings.get(&path.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())
    }

    /// Where a setting was written, or its section when it was not.
    pub(crate) fn place(&self, path: &[&str]) -> Place {
        let mut path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        if let Some(setting) = self.settings.get(&path) {
            return setting.place.clone();
        }
        while !path.is_empty() {
            if let Some(place) = self.sections.get(&path) {
                return place.clone();
            }
            path.pop();
        }
        Place::Default
    }
}

/// Checks a tree against the table of fields.
pub(crate) fn resolve(root: &Node, around: &Surroundings<'_>, incomplete: bool, problems: &mut Problems) -> Resolved {
    let mut walk = Walk { around, incomplete, problems, resolved: Resolved::default() };
    walk.section(root, &mut Vec::new(), &mut Vec::new(), "");
    walk.resolved
}

struct Walk<'a> {
    around: &'a Surroundings<'a>,
    /// Some of the text did not parse: say nothing of what is missing.
    incomplete: bool,
    problems: &'a mut Problems,
    resolved: Resolved,
}

impl Walk<'_> {
    /// Reads one section; `pattern` is `path` with `*` for names, `only` the `type` of the entry it belongs to.
    fn section(&mut self, node: &Node, path: &mut Vec<String>, pattern: &mut Vec<&'static str>, only: &str) {
        let Some((nodes, place)) = self.entries(node, path) else { return };
        if !path.is_empty() {
            self.resolved.sections.insert(path.clone(), place.clone());
        }
        let known = next_parts(pattern);
        if known.contains("*") {
            for (name, child) in &nodes {
                self.name(name, path, &child.name_place);
                self.entry(child, path, name, pattern, "*", only);
            }
            return;
        }
        let own_type = nodes.get("type").and_then(|node| match &node.shape {
            Shape::Text(text) | Shape::Loose(text) => Some(text.clone()),
            _ => None,
        });
        let only = own_type.as_deref().unwrap_or(only);
        for (name, child) in &nodes {
            match known.get(name.as_str()) {
                Some(part) if fits(pattern, part, only) => self.entry(child, path, name, pattern, part, only),
                Some(part) => self.misplaced(child, path, pattern, part, only),
                None if self.incomplete && path.is_empty() => {} // its section's head may be what did not parse
                None => {
                    let here: Vec<&str> = known.iter().copied().filter(|part| fits(pattern, part, only)).collect();
                    let full = joined(path, name);
                    let noun = if matches!(child.shape, Shape::Table(_)) { "section" } else { "setting" };
                    self.problems.add_with_hint(
                        &child.name_place,
                        &full,
                        format!("there is no such {noun}"),
                        suggest(name, &here),
                    );
                }
            }
        }
        for part in known {
            if !nodes.contains_key(part) && fits(pattern, part, only) {
                self.absent(&place, path, pattern, part, only);
            }
        }
    }

    fn entries(&mut self, node: &Node, path: &[String]) -> Option<(BTreeMap<String, Node>, Place)> {
        let tight = match &node.shape {
            Shape::Loose(text) => tighten(text, &node.place),
            _ => None,
        };
        match &tight.as_ref().unwrap_or(node).shape {
            Shape::Table(nodes) => Some((nodes.clone(), node.place.clone())),
            other => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let message = format!("this is {}, but a section belongs here", other.noun());
                let hint = format!("write [{}] and its settings below it", crate::config::problem::dotted(&path));
                self.problems.add_with_hint(&node.place, &path, message, hint);
                None
            }
        }
    }

    fn entry(
        &mut self,
        node: &Node,
        path: &mut Vec<String>,
        name: &str,
        pattern: &mut Vec<&'static str>,
        part: &'static str,
        only: &str,
    ) {
        path.push(name.to_owned());
        pattern.push(part);
        match leaf(pattern, only) {
            Some(field) => self.value(node, path, field.kind),
            None => self.section(node, path, pattern, only),
        }
        path.pop();
        pattern.pop();
    }

    fn value(&mut self, node: &Node, path: &[String], kind: Kind) {
        if path.first().is_some_and(|first| first == "store") && path.len() == 2 {
            self.resolved.sections.insert(path.to_vec(), node.place.clone());
        }
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut reader = Reader { around: self.around, problems: self.problems, path: &names };
        if let Some(value) = reader.read(node, kind) {
            self.resolved.settings.insert(path.to_vec(), Setting { value, place: node.place.clone() });
        }
    }

    /// A setting or section that nobody wrote.
    fn absent(
        &mut self,
        place: &Place,
        path: &mut Vec<String>,
        pattern: &mut Vec<&'static str>,
        part: &'static str,
        only: &str,
    ) {
        pattern.push(part);
        match leaf(pattern, only) {
            Some(field) => self.preset(field, place, path, part),
            None if part != "*" && !needs_words(pattern) && !next_parts(pattern).contains("*") => {
                path.push(part.to_owned());
                for below in next_parts(pattern) {
                    if fits(pattern, below, only) {
                        self.absent(place, path, pattern, below, only);
                    }
                }
                path.pop();
            }
            None => {}
        }
        pattern.pop();
    }

    fn preset(&mut self, field: &Field, place: &Place, path: &[String], part: &str) {
        let mut full = path.to_vec();
        full.push(part.to_owned());
        let text = match field.preset {
            Preset::Required if self.incomplete => return,
            Preset::Required => {
                let names: Vec<&str> = full.iter().map(String::as_str).collect();
                let hint = format!("add {part} = … ({})", field.kind.words().replace('`', ""));
                return self.problems.add_with_hint(place, &names, "this is required and missing", hint);
            }
            Preset::Unset | Preset::Usually(_) => return,
            Preset::Empty => {
                let value = if matches!(field.kind, Kind::List) {
                    Value::List(Vec::new())
                } else {
                    Value::Texts(BTreeMap::new())
                };
                self.resolved.settings.insert(full, Setting { value, place: Place::Default });
                return;
            }
            Preset::Is(text) => text.to_owned(),
            Preset::Host => self.around.host.clone(),
            Preset::Processors => self.around.processors.to_string(),
        };
        let node = Node::new(Shape::Loose(text), Place::Default);
        self.value(&node, &full, field.kind);
    }

    fn misplaced(&mut self, node: &Node, path: &[String], pattern: &[&'static str], part: &str, only: &str) {
        let owners: BTreeSet<&str> =
            below(pattern, part).map(|field| field.only).filter(|own| !own.is_empty()).collect();
        let owners: Vec<String> = owners.iter().map(|own| format!("type = {own:?}")).collect();
        // An unknown or missing type is reported by itself; which settings belong to it cannot be said.
        let valid = fields().any(|field| field.only == only);
        if valid && !only.is_empty() {
            let message = format!("this belongs to {}, and the type here is {only:?}", owners.join(" or "));
            self.problems.add_with_hint(
                &node.name_place,
                &joined(path, part),
                message,
                "remove it, or change the type",
            );
        }
    }

    fn name(&mut self, name: &str, path: &[String], place: &Place) {
        let section = path.first().map_or("", String::as_str);
        let full = joined(path, name);
        if section == "store" {
            // A scheme alone is all of its buckets.
            let ends = name.ends_with('/') && !name.ends_with("://");
            if !name.contains("://") || ends {
                let hint =
                    "write the scheme and the bucket, such as [store.\"s3://bucket\"], without a slash at the end";
                self.problems.add_with_hint(place, &full, "this is no prefix of locations", hint);
            }
            return;
        }
        if section == "policy" {
            if let Err(error) = globset::Glob::new(name) {
                let hint = "write a glob over catalog.namespace.table, such as \"lake.raw.*\"";
                self.problems.add_with_hint(place, &full, format!("{name:?} is no glob: {}", error.kind()), hint);
            }
            return;
        }
        let dot = section == "pipeline";
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || (dot && b == b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let hint = "use 1 to 64 letters, digits, `_` and `-`";
            self.problems.add_with_hint(place, &full, format!("{name:?} is no name"), hint);
        }
    }
}

fn joined<'a>(path: &'a [String], last: &'a str) -> Vec<&'a str> {
    path.iter().map(String::as_str).chain([last]).collect()
}

/// The fields at or below `pattern.part`.
fn below<'a>(pattern: &'a [&'static str], part: &'a str) -> impl Iterator<Item = &'static Field> + 'a {
    fields().filter(move |field| {
        let mut parts = field.path.split('.');
        pattern.iter().all(|own| parts.next() == Some(own)) && parts.next() == Some(part)
    })
}

/// What may stand below `pattern`, whatever the type.
fn next_parts(pattern: &[&'static str]) -> BTreeSet<&'static str> {
    let next = |field: &'static Field| {
        let mut parts = field.path.split('.');
        pattern.iter().all(|own| parts.next() == Some(own)).then(|| parts.next()).flatten()
    };
    fields().filter_map(next).collect()
}

fn fits(pattern: &[&'static str], part: &str, only: &str) -> bool {
    below(pattern, part).any(|field| field.only.is_empty() || field.only == only)
}

fn leaf(pattern: &[&'static str], only: &str) -> Option<&'static Field> {
    fields().find(|field| {
        (field.only.is_empty() || field.only == only) && field.path.split('.').eq(pattern.iter().copied())
    })
}

/// Whether a section cannot be made of defaults alone.
fn needs_words(pattern: &[&'static str]) -> bool {
    let (last, above) = match pattern.split_last() {
        Some(parts) => parts,
        None => return false,
    };
    below(above, last).any(|field| matches!(field.preset, Preset::Required))
}
