//! One error type for the whole program, and the one place that says what each kind of error means for a running pipeline.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with a kind that decides what happens next, a context for people, and the error below it.
///
/// Never carries a secret: whoever builds one from a URL or a header redacts it first.
pub struct Error {
    kind: ErrorKind,
    context: String,
    hint: Option<String>,
    wait: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// How the program reacts differs between kinds; within a kind it never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration or a command line is wrong.
    Config,
    /// A row, file or message that we were given is not what it claims to be.
    Input,
    /// A table, object or folder is not there.
    NotFound,
    /// A definite refusal: a requirement did not hold, or the thing exists already.
    Conflict,
    /// Credentials are missing or do not suffice.
    Denied,
    /// A server, a disk or the network does not answer, is full, or asks to wait.
    Unavailable,
    /// Persistent data contradicts itself, or a safety rule says stop.
    Corrupt,
    /// Valid, but not something this version can do.
    Unsupported,
    /// Another instance owns these positions now.
    Fenced,
    /// A broken assumption of our own.
    Internal,
}

/// What a pipeline does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directive {
    /// Wait with back-off and do the same again.
    Retry,
    /// Put the row aside with its reason and go on.
    Quarantine,
    /// Drop the open epoch, re-open the source at the table's checkpoint.
    Restart,
    /// Stop this pipeline and say why; other pipelines go on.
    Halt,
}

impl ErrorKind {
    /// What a pipeline does about an error of this kind.
    pub fn directive(self) -> Directive {
        match self {
            Self::Unavailable => Directive::Retry,
            Self::Input => Directive::Quarantine,
            Self::Fenced | Self::Conflict => Directive::Restart,
            Self::Config | Self::NotFound | Self::Denied | Self::Corrupt | Self::Unsupported | Self::Internal => {
                Directive::Halt
            }
        }
    }

    /// The entry of docs/runbook.md that an operator should read.
    pub fn runbook(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Input => "input",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Fenced => "fenced",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// An error of `kind`; `context` is a sentence without a full stop that names the place.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, wait: None, source: None }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with the way out, as an instruction.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error of a server that asks to wait for so long.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait;
        self
    }

    /// The same error, seen from further out: `outer: context`.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }

    /// The kind, which decides what happens next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// How long a server asks to wait before it is asked again, where it does.
    pub fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// What a pipeline does about this error.
    pub fn directive(&self) -> Directive {
        self.kind.directive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut below = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(error) = below {
            write!(f, ": {error}")?;
            below = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Adds a kind and a place to errors of libraries.
pub trait Context<T> {
    /// Wraps a foreign error as `kind`, with `context` evaluated only on failure.
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context<S: Into<String>>(self, kind: ErrorKind, context: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::new(kind, context()).with_source(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_shown_once() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Unavailable, "write a.parquet").with_source(io);
        assert_eq!(error.to_string(), "write a.parquet: disk on fire");
        assert_eq!(error.within("table t").to_string(), "table t: write a.parquet: disk on fire");
    }
}
