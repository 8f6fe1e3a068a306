//! What is wrong with one row.

use std::borrow::Cow;
use std::fmt::Write;

/// Why a row is not decoded, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(Box<Inner>);

/// The parts of a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// The JSON path; empty where the row as a whole is concerned.
    pub path: String,
    /// Why, as a sentence without a full stop.
    pub reason: String,
    /// Whether the row as a whole is concerned: a path is never added.
    whole: bool,
    /// Whether a schema exists that the row would fit and that the current one may evolve to.
    pub evolvable: bool,
}

impl std::ops::Deref for Fault {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Fault {
    /// A fault of the whole row.
    #[cold]
    pub fn row(reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { path: String::new(), reason: reason.into(), whole: true, evolvable: false }))
    }

    /// A fault of the value that is being read.
    #[cold]
    pub fn value(reason: impl Into<String>) -> Self {
        Self(Box::new(Inner { path: String::new(), reason: reason.into(), whole: false, evolvable: false }))
    }

    /// The same, where a change of the schema would help.
    #[must_use]
    pub fn evolvable(mut self) -> Self {
        self.0.evolvable = true;
        self
    }

    /// The same, seen from the object that holds the value under `name`.
    #[cold]
    #[must_use]
    pub fn in_field(mut self, name: &str) -> Self {
        if !self.0.whole {
            let inner = std::mem::take(&mut self.0.path);
            let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
            self.0.path = format!("{}{dot}{inner}", shortened(name));
        }
        self
    }

    /// The same, seen from the array that holds the value at `index`.
    #[cold]
    #[must_use]
    pub fn in_element(mut self, index: usize) -> Self {
        if !self.0.whole {
            let inner = std::mem::take(&mut self.0.path);
            let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
            let _ = write!(self.0.path, "[{index}]{dot}{inner}");
        }
        self
    }
}

/// A name as it is shown: rows choose their keys, and a reject is small.
pub fn shortened(name: &str) -> Cow<'_, str> {
    const SHOWN: usize = 128;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}…", name.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(name),
    }
}

/// A value as it is shown in a reason: short.
pub fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_from_the_outside_in() {
        let fault = Fault::value("no").in_field("price").in_element(3).in_element(0).in_field("items");
        assert_eq!(fault.path, "items[0][3].price");
        assert_eq!(Fault::row("no").in_field("price").path, "");
        assert_eq!(Fault::value("no").in_field(&"é".repeat(1_000_000)).path.chars().count(), 129);
    }
}
