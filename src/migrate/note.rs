//! What became of each property.

/// What became of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is this setting now.
    Taken(String),
    /// Nothing takes its place, because nothing needs it.
    Idle(&'static str),
    /// Nothing here does it; and what to do about it.
    Missing {
        /// The way out.
        hint: String,
        /// Whether rows differ without it.
        lossy: bool,
    },
}

/// A property and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The property.
    pub property: String,
    /// What became of it.
    pub fate: Fate,
}

impl Note {
    /// Whether rows differ because of it.
    pub fn is_loss(&self) -> bool {
        matches!(self.fate, Fate::Missing { lossy: true, .. })
    }
}
