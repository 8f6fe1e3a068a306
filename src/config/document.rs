//! The configuration as written: TOML, environment and `--set` as one tree whose every value knows its place.
//!
//! Reading never stops at the first syntax error: the line is set aside, and the rest is read.

use std::collections::BTreeMap;

use toml_edit::{Document, Item, TableLike, Value as Toml};

use crate::config::problem::{Place, Problems, nearest};

/// How many syntax errors are shown before the rest of a file is given up.
const SYNTAX_ERRORS_MAX: usize = 20;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) shape: Shape,
    pub(crate) place: Place,
    /// Where its name was written; the same as `place` where it has none.
    pub(crate) name_place: Place,
}

impl Node {
    pub(crate) fn new(shape: Shape, place: Place) -> Self {
        Self { shape, name_place: place.clone(), place }
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Text(String),
    /// From the environment or `--set`: what it means depends on what is expected there.
    Loose(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// A date or time, which no setting takes.
    Moment(String),
}

impl Shape {
    /// What it is, for messages.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Loose(_) => "a text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Moment(_) => "a date or time",
        }
    }

    /// The value as it was written, for messages about settings that are not secret.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Text(text) | Self::Loose(text) => cut(&format!("{text:?}")),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Flag(value) => value.to_string(),
            Self::Moment(text) => text.clone(),
            Self::List(_) | Self::Table(_) => self.noun().to_owned(),
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A document, and whether parts of it were set aside.
pub(crate) struct Parsed {
    pub(crate) root: Node,
    /// Some of the text did not parse: what is missing may stand there.
    pub(crate) incomplete: bool,
}

/// Reads a TOML document.
pub(crate) fn parse(text: &str, problems: &mut Problems) -> Parsed {
    let mut text = text.to_owned();
    for _ in 0..SYNTAX_ERRORS_MAX {
        let lines = Lines::of(&text);
        match Document::parse(text.as_str()) {
            Ok(document) => {
                let incomplete = !problems.list.is_empty();
                let shape = Shape::Table(table(document.as_table(), &lines));
                return Parsed { root: Node::new(shape, Place::File { line: 1, column: 1 }), incomplete };
            }
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                problems.add(&lines.place(at), &[], syntax_message(error.message()));
                let Some(shorter) = without_line(&text, at) else { break };
                text = shorter;
            }
        }
    }
    let root = Node::new(Shape::Table(BTreeMap::new()), Place::File { line: 1, column: 1 });
    Parsed { root, incomplete: true }
}

fn syntax_message(message: &str) -> String {
    let one_line = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
    format!("this is not TOML: {one_line}")
}

/// The text with the line around `at` blanked, positions of all else kept; `None` when nothing is left to blank.
fn without_line(text: &str, at: usize) -> Option<String> {
    let at = at.min(text.len());
    let start = text.as_bytes()[..at].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let end = text.as_bytes()[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n);
    let mut bytes = text.as_bytes().to_vec();
    let line = bytes.get_mut(start..end)?;
    if line.iter().all(|b| *b == b' ') {
        return None;
    }
    line.fill(b' ');
    String::from_utf8(bytes).ok()
}

/// Where lines begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, at: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(at - start, |before| before.chars().count()) + 1;
        Place::File { line, column }
    }
}

fn table(table: &dyn TableLike, lines: &Lines<'_>) -> BTreeMap<String, Node> {
    let mut nodes = BTreeMap::new();
    for (name, item) in table.iter() {
        let key = table.key(name).and_then(toml_edit::Key::span);
        if let Some(mut node) = item_node(item, key.clone(), lines) {
            if let Some(span) = key {
                node.name_place = lines.place(span.start);
            }
            nodes.insert(name.to_owned(), node);
        }
    }
    nodes
}

fn item_node(item: &Item, key: Option<std::ops::Range<usize>>, lines: &Lines<'_>) -> Option<Node> {
    let at = |own: Option<std::ops::Range<usize>>| {
        own.or_else(|| key.clone()).map_or(Place::File { line: 1, column: 1 }, |span| lines.place(span.start))
    };
    match item {
        Item::None => None,
        Item::Value(value) => Some(value_node(value, key, lines)),
        Item::Table(own) => Some(Node::new(Shape::Table(table(own, lines)), at(own.span()))),
        Item::ArrayOfTables(own) => {
            let nodes =
                own.iter().map(|entry| Node::new(Shape::Table(table(entry, lines)), at(entry.span()))).collect();
            Some(Node::new(Shape::List(nodes), at(own.span())))
        }
    }
}

fn value_node(value: &Toml, key: Option<std::ops::Range<usize>>, lines: &Lines<'_>) -> Node {
    let span = value.span().or(key);
    let place = span.map_or(Place::File { line: 1, column: 1 }, |span| lines.place(span.start));
    let shape = match value {
        Toml::String(text) => Shape::Text(text.value().clone()),
        Toml::Integer(number) => Shape::Integer(*number.value()),
        Toml::Float(number) => Shape::Float(*number.value()),
        Toml::Boolean(flag) => Shape::Flag(*flag.value()),
        Toml::Datetime(moment) => Shape::Moment(moment.value().to_string()),
        Toml::Array(array) => Shape::List(array.iter().map(|entry| value_node(entry, None, lines)).collect()),
        Toml::InlineTable(own) => Shape::Table(table(own, lines)),
    };
    Node::new(shape, place)
}

/// A loose text as a TOML value, all of it at `place`.
pub(crate) fn tighten(text: &str, place: &Place) -> Option<Node> {
    let value: Toml = text.parse().ok()?;
    let mut node = value_node(&value, None, &Lines::of(""));
    relocate(&mut node, place);
    Some(node)
}

fn relocate(node: &mut Node, place: &Place) {
    node.place = place.clone();
    node.name_place = place.clone();
    match &mut node.shape {
        Shape::List(nodes) => nodes.iter_mut().for_each(|node| relocate(node, place)),
        Shape::Table(nodes) => nodes.values_mut().for_each(|node| relocate(node, place)),
        _ => {}
    }
}

/// Lays environment variables `FRAZIL__a__b` over the tree. Parts match existing names whatever their case; else they are
/// taken in lower case.
pub(crate) fn overlay_environment(root: &mut Node, variables: &BTreeMap<String, String>, problems: &mut Problems) {
    for (name, value) in variables {
        let Some(path) = name.strip_prefix("FRAZIL__") else { continue };
        let parts: Vec<String> = path.split("__").map(str::to_owned).collect();
        let place = Place::Environment(name.clone());
        if parts.iter().any(String::is_empty) {
            problems.add_with_hint(&place, &[], "this names no setting", "write FRAZIL__section__setting");
            continue;
        }
        put(root, &parts, value, &place, CaseOf::Any, problems);
    }
}

/// Lays `--set a.b=c` over the tree.
pub(crate) fn overlay_sets(root: &mut Node, sets: &[String], problems: &mut Problems) {
    for set in sets {
        let name = set.split('=').next().unwrap_or_default().trim();
        let place = Place::Set(name.to_owned());
        let parsed = split_set(set).and_then(|(path, value)| Some((toml_edit::Key::parse(path).ok()?, value)));
        let Some((keys, value)) = parsed else {
            problems.add_with_hint(&place, &[], "this is no assignment", "write --set section.setting=value");
            continue;
        };
        let parts: Vec<String> = keys.iter().map(|key| key.get().to_owned()).collect();
        put(root, &parts, value, &place, CaseOf::Exact, problems);
    }
}

/// The path and the value, parted by the first `=` outside quotes.
fn split_set(set: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in set.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '=') => return Some((set[..at].trim(), set[at + 1..].trim())),
            _ => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CaseOf {
    Exact,
    Any,
}

fn put(root: &mut Node, path: &[String], value: &str, place: &Place, case: CaseOf, problems: &mut Problems) {
    let Some((last, above)) = path.split_last() else { return };
    let mut node = root;
    let mut names: Vec<String> = Vec::new();
    for part in above {
        let Some(nodes) = children(node) else { return not_a_table(&names, place, problems) };
        let name = resolve_name(nodes, part, case);
        names.push(name.clone());
        node = nodes.entry(name).or_insert_with(|| Node::new(Shape::Table(BTreeMap::new()), place.clone()));
    }
    let Some(nodes) = children(node) else { return not_a_table(&names, place, problems) };
    let name = resolve_name(nodes, last, case);
    nodes.insert(name, Node::new(Shape::Loose(value.to_owned()), place.clone()));
}

/// The entries of a table; a loose text that reads as one becomes one.
fn children(node: &mut Node) -> Option<&mut BTreeMap<String, Node>> {
    if let Shape::Loose(text) = &node.shape {
        *node = tighten(text, &node.place)?;
    }
    match &mut node.shape {
        Shape::Table(nodes) => Some(nodes),
        _ => None,
    }
}

fn not_a_table(path: &[String], place: &Place, problems: &mut Problems) {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    problems.add(place, &path, "this is a single value, nothing can be set below it");
}

fn resolve_name(nodes: &BTreeMap<String, Node>, part: &str, case: CaseOf) -> String {
    if case == CaseOf::Exact || nodes.contains_key(part) {
        return part.to_owned();
    }
    let same = nodes.keys().find(|name| name.eq_ignore_ascii_case(part));
    same.cloned().unwrap_or_else(|| part.to_lowercase())
}

/// A hint that names the nearest of `known`, or all of them.
pub(crate) fn suggest(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    }
}
