//! What an error of `object_store` means here.

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind};

/// The most characters of a server's answer that an error repeats.
const ANSWER_CHARS_MAX: usize = 600;

/// The kind of a store's error.
pub(super) fn kind(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => ErrorKind::NotFound,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => ErrorKind::Conflict,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Unsupported,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => ErrorKind::Config,
        E::Generic { source, .. } => generic(source.as_ref()),
        _ => ErrorKind::Internal,
    }
}

/// Whether the same request may succeed in a moment. A full disk may too, but not in a moment.
pub(super) fn is_transient(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    generic(source.as_ref()) == ErrorKind::Unavailable && io_kind(source.as_ref()) != Some(io::ErrorKind::StorageFull)
}

/// An error of ours: what was done, to which location, and the store's own words.
pub(super) fn wrap(error: &object_store::Error, verb: &str, location: &str) -> Error {
    let kind = kind(error);
    let wrapped = Error::new(kind, format!("{verb} {location}")).with_source(words(error));
    match kind {
        ErrorKind::Denied if io_kind_of(error).is_some() => wrapped.with_hint("let this user read and write there"),
        ErrorKind::Denied => wrapped.with_hint("check the credentials of this store and what they are allowed to do"),
        ErrorKind::Config if io_kind_of(error).is_some() => {
            wrapped.with_hint("a file stands where a folder is needed: move it away, or name another folder")
        }
        ErrorKind::Config => wrapped.with_hint("check region, endpoint and options of this store"),
        ErrorKind::Unavailable if io_kind_of(error) == Some(io::ErrorKind::StorageFull) => {
            wrapped.with_hint("free space on this disk; work goes on by itself")
        }
        _ => wrapped,
    }
}

/// The store's words, each once: its errors repeat the text of what they wrap.
fn words(error: &object_store::Error) -> String {
    use object_store::Error as E;
    let text = match error {
        E::NotFound { .. } => "not found".to_owned(),
        E::AlreadyExists { .. } => "exists already".to_owned(),
        E::Generic { source, .. } | E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => {
            let mut text = source.to_string();
            let mut below = source.source();
            while let Some(inner) = below {
                let more = inner.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                below = inner.source();
            }
            text
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(ANSWER_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn generic(error: &(dyn StdError + 'static)) -> ErrorKind {
    if let Some(kind) = io_kind(error) {
        return of_io(kind);
    }
    let text = error.to_string();
    if ["Requested range was invalid", "Out of range of file", "status code: 416"].iter().any(|s| text.contains(s)) {
        return ErrorKind::Corrupt; // the object is shorter than whoever asked was told
    }
    let mut below = Some(error);
    while let Some(inner) = below {
        if let Some(http) = inner.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Timeout => ErrorKind::Unavailable,
                HttpErrorKind::Interrupted | HttpErrorKind::Decode => ErrorKind::Unavailable,
                // An address that is none, a TLS set-up that cannot be: the request never left.
                _ if text.contains("builder error") => ErrorKind::Config,
                _ => ErrorKind::Unavailable,
            };
        }
        below = inner.source();
    }
    of_answer(&text)
}

/// `object_store` keeps its request errors private: the status is in their text alone.
fn of_answer(text: &str) -> ErrorKind {
    if text.contains("Received redirect without LOCATION") {
        return ErrorKind::Config;
    }
    if ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"].iter().any(|code| text.contains(code)) {
        return ErrorKind::Denied;
    }
    let status = text
        .split_once("status code: ")
        .and_then(|(_, rest)| rest.get(..3))
        .and_then(|digits| digits.parse::<u16>().ok());
    match status {
        Some(408 | 429 | 500..=599) => ErrorKind::Unavailable,
        Some(401 | 403) => ErrorKind::Denied,
        Some(404) => ErrorKind::NotFound,
        Some(_) => ErrorKind::Config,
        // No status: a success whose body says otherwise, or a body that broke off.
        None => ErrorKind::Unavailable,
    }
}

/// The kind of an error of the operating system.
pub(super) fn of_io(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput => ErrorKind::Config,
        _ => ErrorKind::Unavailable,
    }
}

fn io_kind_of(error: &object_store::Error) -> Option<io::ErrorKind> {
    match error {
        object_store::Error::Generic { source, .. } => io_kind(source.as_ref()),
        _ => None,
    }
}

/// The operating system's error, unless it came by way of a connection.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut below = Some(error);
    while let Some(inner) = below {
        if inner.is::<HttpError>() {
            return None;
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        below = inner.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_answer_decides_its_kind() {
        let table = [
            ("Server returned non-2xx status code: 503 Service Unavailable: ", ErrorKind::Unavailable),
            ("Server returned non-2xx status code: 429 Too Many Requests: ", ErrorKind::Unavailable),
            ("Server returned error response: <Code>InternalError</Code>", ErrorKind::Unavailable),
            ("Server returned non-2xx status code: 400 Bad Request: <Code>ExpiredToken</Code>", ErrorKind::Denied),
            ("Server returned non-2xx status code: 400 Bad Request: ", ErrorKind::Config),
            ("Received redirect without LOCATION, this normally", ErrorKind::Config),
        ];
        for (text, kind) in table {
            assert_eq!(of_answer(text), kind, "{text}");
        }
    }

    #[test]
    fn a_full_disk_is_waited_for_but_not_tried_again_at_once() {
        let full = object_store::Error::Generic {
            store: "local",
            source: Box::new(io::Error::from(io::ErrorKind::StorageFull)),
        };
        assert_eq!((kind(&full), is_transient(&full)), (ErrorKind::Unavailable, false));
        let error = wrap(&full, "write", "/t/f");
        assert_eq!(error.to_string(), "write /t/f: no storage space");
        assert!(error.hint().is_some_and(|h| h.contains("free space")));
    }
}
