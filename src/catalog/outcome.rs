//! What an answer of a REST catalog means: the error's `type` first, then the status. A table, tested row by row.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::Outcome;
use super::http::{Answer, Lost};
use crate::error::{Error, ErrorKind, Result};

/// How long to wait when a server that throttles does not say.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(1);

/// What an answer that is no success says about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not done, says the server.
    Refused(ErrorKind),
    /// Not done; ask again later.
    Throttled,
    /// Done or not done.
    Unknown,
}

/// The verdict on an answer with this status and the `type` of its error body, if it had one.
///
/// Types that speak about the commit count whatever the status, because servers differ in status (commit state unknown as
/// 400, conflicts as 400). Other types count only below 500: from a server that broke, they name what broke, maybe after
/// the commit.
pub fn verdict(status: u16, kind: Option<&str>) -> Verdict {
    match kind {
        Some("CommitStateUnknownException") => return Verdict::Unknown,
        Some("CommitFailedException" | "AlreadyExistsException") => return Verdict::Refused(ErrorKind::Conflict),
        _ => {}
    }
    if !(400..500).contains(&status) {
        return Verdict::Unknown;
    }
    match kind {
        Some("ThrottlingException" | "TooManyRequestsException" | "SlowDownException") => return Verdict::Throttled,
        Some(
            "NoSuchTableException"
            | "NoSuchNamespaceException"
            | "NoSuchViewException"
            | "NoSuchWarehouseException"
            | "NotFoundException"
            | "EntityNotFoundException",
        ) => return Verdict::Refused(ErrorKind::NotFound),
        Some("NamespaceNotEmptyException" | "ConflictException" | "ConcurrentModificationException") => {
            return Verdict::Refused(ErrorKind::Conflict);
        }
        Some(
            "NotAuthorizedException"
            | "ForbiddenException"
            | "AccessDeniedException"
            | "AuthenticationTimeoutException",
        ) => {
            return Verdict::Refused(ErrorKind::Denied);
        }
        Some("UnsupportedOperationException") => return Verdict::Refused(ErrorKind::Unsupported),
        _ => {}
    }
    match status {
        401 | 403 | 407 | 419 => Verdict::Refused(ErrorKind::Denied),
        404 | 410 => Verdict::Refused(ErrorKind::NotFound),
        405 | 406 => Verdict::Refused(ErrorKind::Unsupported),
        // A gateway may say 408 after it passed the request on.
        408 => Verdict::Unknown,
        409 | 412 => Verdict::Refused(ErrorKind::Conflict),
        429 => Verdict::Throttled,
        _ => Verdict::Refused(ErrorKind::Input),
    }
}

/// The body of a success, or the outcome of a change.
///
/// # Errors
/// The outcome when there was no success; never `Committed`.
pub(super) fn of_change(answer: Result<Answer, Lost>, place: &str) -> Result<Bytes, Outcome> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Lost::NotSent(e)) => return Err(Outcome::NotSent(e.within(place))),
        Err(Lost::Unanswered(e)) => return Err(Outcome::Unknown(e.within(place))),
    };
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let problem = Problem::read(&answer);
    Err(match verdict(answer.status, problem.kind()) {
        Verdict::Refused(kind) => Outcome::Refused(problem.error(kind, place)),
        Verdict::Throttled => Outcome::Throttled(answer.retry_after.unwrap_or(THROTTLE_DEFAULT)),
        // A gateway that has nobody to ask says so with 503, and when to come again; the commit may be done all the same.
        Verdict::Unknown => {
            Outcome::Unknown(problem.error(ErrorKind::Unavailable, place).with_wait(answer.retry_after))
        }
    })
}

/// The body of a success, or the error of a request whose caller needs no more than that.
///
/// # Errors
/// The kinds of the outcome table; `Unavailable` for all that may pass.
pub(super) fn of_request(answer: Result<Answer, Lost>, place: &str) -> Result<Bytes> {
    let answer = answer.map_err(|lost| lost.into_error().within(place))?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let problem = Problem::read(&answer);
    if (300..400).contains(&answer.status) {
        return Err(problem
            .error(ErrorKind::Config, place)
            .with_hint("the server redirects: set the catalog's uri to where it leads"));
    }
    Err(match verdict(answer.status, problem.kind()) {
        Verdict::Refused(kind) => problem.error(kind, place),
        Verdict::Throttled | Verdict::Unknown => {
            problem.error(ErrorKind::Unavailable, place).with_wait(answer.retry_after)
        }
    })
}

/// An answer without success, as far as it can be read.
struct Problem {
    status: u16,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Body {
    error: Model,
}

/// The specification's `ErrorModel`.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    message: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl Problem {
    fn read(answer: &Answer) -> Self {
        let model = serde_json::from_slice(&answer.body).ok().map(|Body { error }| error);
        Self { status: answer.status, model }
    }

    fn kind(&self) -> Option<&str> {
        self.model.as_ref()?.kind.as_deref()
    }

    fn error(&self, kind: ErrorKind, place: &str) -> Error {
        let mut context = format!("{place}: the catalog answered {}", self.status);
        if let Some(model) = &self.model {
            for text in [&model.kind, &model.message].into_iter().flatten() {
                context.push_str(": ");
                // Some servers put a whole stack trace here.
                context.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500));
            }
        }
        let error = Error::new(kind, context);
        match kind {
            ErrorKind::Denied => error.with_hint("check the catalog's credentials, their scope and their grants"),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str) -> Bytes {
        format!(r#"{{"error":{{"message":"said\nso","type":"{kind}","code":400}}}}"#).into()
    }

    /// One row per case: what came, what it means for a change, what it means for a load.
    #[test]
    fn the_outcome_table() {
        use ErrorKind::{Conflict, Denied, Input, NotFound, Unavailable, Unsupported};
        use Verdict::{Refused, Throttled, Unknown};
        let rows = [
            (409, Some("CommitFailedException"), Refused(Conflict), Conflict),
            (400, Some("CommitFailedException"), Refused(Conflict), Conflict),
            (500, Some("CommitFailedException"), Refused(Conflict), Conflict),
            (409, Some("AlreadyExistsException"), Refused(Conflict), Conflict),
            (500, Some("CommitStateUnknownException"), Unknown, Unavailable),
            (400, Some("CommitStateUnknownException"), Unknown, Unavailable),
            (409, Some("CommitStateUnknownException"), Unknown, Unavailable),
            (429, Some("CommitStateUnknownException"), Unknown, Unavailable),
            (404, Some("NoSuchTableException"), Refused(NotFound), NotFound),
            (400, Some("NoSuchNamespaceException"), Refused(NotFound), NotFound),
            (500, Some("NotFoundException"), Unknown, Unavailable),
            (409, Some("NamespaceNotEmptyException"), Refused(Conflict), Conflict),
            (400, Some("ThrottlingException"), Throttled, Unavailable),
            (503, Some("SlowDownException"), Unknown, Unavailable),
            (400, Some("BadRequestException"), Refused(Input), Input),
            (400, Some("ValidationException"), Refused(Input), Input),
            (500, Some("ValidationException"), Unknown, Unavailable),
            (400, Some("ForbiddenException"), Refused(Denied), Denied),
            (406, Some("UnsupportedOperationException"), Refused(Unsupported), Unsupported),
            (400, None, Refused(Input), Input),
            (401, None, Refused(Denied), Denied),
            (403, None, Refused(Denied), Denied),
            (404, None, Refused(NotFound), NotFound),
            (405, None, Refused(Unsupported), Unsupported),
            (408, None, Unknown, Unavailable),
            (409, None, Refused(Conflict), Conflict),
            (412, None, Refused(Conflict), Conflict),
            (419, None, Refused(Denied), Denied),
            (422, None, Refused(Input), Input),
            (429, None, Throttled, Unavailable),
            (500, None, Unknown, Unavailable),
            (501, None, Unknown, Unavailable),
            (502, None, Unknown, Unavailable),
            (503, None, Unknown, Unavailable),
            (504, None, Unknown, Unavailable),
            (302, None, Unknown, ErrorKind::Config),
            (100, None, Unknown, Unavailable),
        ];
        for (status, kind, expected, of_load) in rows {
            assert_eq!(verdict(status, kind), expected, "{status} {kind:?}");
            let body = kind.map_or_else(Bytes::new, body);
            let answer = || Ok(Answer { status, retry_after: Some(Duration::from_secs(7)), body: body.clone() });
            let outcome = of_change(answer(), "commit").expect_err("no success");
            let told = match outcome {
                Outcome::Refused(e) => Refused(e.kind()),
                Outcome::Throttled(after) if after == Duration::from_secs(7) => Throttled,
                Outcome::Unknown(e) if e.kind() == Unavailable && e.wait() == Some(Duration::from_secs(7)) => Unknown,
                other => panic!("{status} {kind:?}: {other:?}"),
            };
            assert_eq!(told, expected, "{status} {kind:?}");
            let load = of_request(answer(), "load").expect_err("no success");
            assert_eq!(load.kind(), of_load, "{status} {kind:?}");
            assert_eq!(load.wait().is_some(), of_load == Unavailable, "{status} {kind:?}");
        }
    }

    #[test]
    fn what_was_never_sent_is_told_from_what_was_never_answered() {
        let error = || Error::new(ErrorKind::Unavailable, "gone");
        assert!(matches!(of_change(Err(Lost::NotSent(error())), "c"), Err(Outcome::NotSent(_))));
        assert!(matches!(of_change(Err(Lost::Unanswered(error())), "c"), Err(Outcome::Unknown(_))));
        assert_eq!(of_request(Err(Lost::Unanswered(error())), "c").expect_err("lost").to_string(), "c: gone");
    }

    #[test]
    fn the_servers_words_are_shown_in_one_line() {
        let answer = Answer { status: 409, retry_after: None, body: body("CommitFailedException") };
        let error = of_request(Ok(answer), "commit to table a.b").expect_err("no success");
        assert_eq!(error.to_string(), "commit to table a.b: the catalog answered 409: CommitFailedException: said so");
    }
}
