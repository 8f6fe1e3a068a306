//! What is wrong with a configuration: every problem with its place, its path, and the way out.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file, counted from 1; columns count characters.
    File {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In this environment variable.
    Environment(String),
    /// In this `--set`.
    Set(String),
    /// Nowhere: the built-in default.
    Default,
}

impl Place {
    /// The place as the prefix of a message; `file` is what the file is called.
    pub fn within(&self, file: &str) -> String {
        match self {
            Self::File { line, column } => format!("{file}:{line}:{column}"),
            Self::Environment(name) => format!("environment {name}"),
            Self::Set(text) => format!("--set {text}"),
            Self::Default if file.is_empty() => "configuration".to_owned(),
            Self::Default => file.to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, .. } => write!(f, "file, line {line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Set(_) => f.write_str("--set"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong. Never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The setting, as `pipeline.shop.commit.freshness`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Problem {
    fn to_line(&self) -> String {
        format!("{:?} {} {}", self.place, self.path, self.message)
    }
}

/// All that is wrong with one configuration; never empty where it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// What the file is called.
    pub file: String,
    /// The problems, in the order of their places.
    pub list: Vec<Problem>,
}

impl Problems {
    /// No problems yet, in this file.
    pub fn of(file: impl Into<String>) -> Self {
        Self { file: file.into(), list: Vec::new() }
    }

    /// Notes a problem without a known way out.
    pub fn add(&mut self, place: &Place, path: &[&str], message: impl Into<String>) {
        self.list.push(Problem { place: place.clone(), path: dotted(path), message: message.into(), hint: None });
    }

    /// Notes a problem with its way out.
    pub fn add_with_hint(&mut self, place: &Place, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let problem =
            Problem { place: place.clone(), path: dotted(path), message: message.into(), hint: Some(hint.into()) };
        self.list.push(problem);
    }

    /// Orders the problems by place, and drops repetitions.
    pub fn sort(&mut self) {
        self.list.sort_by(|a, b| a.place.cmp(&b.place).then_with(|| a.path.cmp(&b.path)));
        let mut seen = std::collections::BTreeSet::new();
        self.list.retain(|problem| seen.insert(problem.to_line()));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: ", problem.place.within(&self.file))?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        let count = problems.list.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        Self::new(ErrorKind::Config, format!("{count} {noun} in the configuration\n{problems}"))
    }
}

/// A path as people write it: parts that are no bare TOML key are quoted.
pub fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    path.iter().map(|part| key_text(part.as_ref())).collect::<Vec<_>>().join(".")
}

/// One part of a path, quoted where TOML needs it.
pub fn key_text(part: &str) -> String {
    let bare = !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { part.to_owned() } else { format!("{part:?}") }
}

/// "did you mean" for a name that is not among `known`.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let score = strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
        if score > 0.8 && best.is_none_or(|(held, _)| score > held) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}
