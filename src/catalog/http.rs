//! One HTTP exchange with a REST catalog: identified, bounded in time and size, and honest about whether it left.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::auth::Auth;
use crate::config::RestConfig;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};

/// The most bytes an answer may have.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// How long an unused connection is kept.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest that a server may make us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// No complete answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The request did not leave: no token, no name, no connection, no TLS.
    NotSent(Error),
    /// It may have arrived.
    Unanswered(Error),
}

impl Lost {
    /// The error, where it does not matter whether the request left.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::NotSent(e) | Self::Unanswered(e) => e,
        }
    }
}

/// A request to be sent, again after a refused token.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Option<Bytes>,
}

impl Request {
    pub(super) fn new(method: Method, url: String) -> Self {
        Self { method, url, headers: Vec::new(), body: None }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn json(mut self, body: &impl serde::Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).context(ErrorKind::Internal, || "write a request body")?;
        self.body = Some(body.into());
        Ok(self)
    }
}

/// A client of one catalog.
#[derive(Debug)]
pub(super) struct Http {
    env: Env,
    client: reqwest::Client,
    auth: Auth,
    request_timeout: Duration,
}

impl Http {
    pub(super) fn new(config: &RestConfig, env: &Env) -> Result<Self> {
        let client = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            // Below what servers keep: a request on a connection that just closed is a needless doubt.
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            // A redirected POST becomes a GET: a catalog that moved is a matter for the configuration.
            .redirect(reqwest::redirect::Policy::none())
            // Proxies by environment variable would be a second configuration.
            .no_proxy()
            .user_agent(concat!("frazil/", env!("CARGO_PKG_VERSION")))
            .default_headers(extra_headers(&config.headers)?)
            .build()
            .context(ErrorKind::Config, || "set up the HTTP client")?;
        let auth = Auth::new(config, env, client.clone())?;
        Ok(Self { env: env.clone(), client, auth, request_timeout: config.request_timeout })
    }

    /// Sends a request; a token that the server no longer takes is replaced once.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, Lost> {
        let token = self.auth.token().await.map_err(Lost::NotSent)?;
        let answer = self.exchange(request, token.as_ref().map(|t| t.expose())).await?;
        if !matches!(answer.status, 401 | 419) {
            return Ok(answer);
        }
        let Some(refused) = token else { return Ok(answer) };
        if !self.auth.forget(&refused).await {
            return Ok(answer);
        }
        let token = self.auth.token().await.map_err(Lost::NotSent)?;
        self.exchange(request, token.as_ref().map(|t| t.expose())).await
    }

    async fn exchange(&self, request: &Request, token: Option<&str>) -> Result<Answer, Lost> {
        let mut builder = self.client.request(request.method.clone(), &request.url);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = token {
            builder = builder.bearer_auth(token);
        }
        if let Some(body) = &request.body {
            builder = builder.header("content-type", "application/json").body(body.clone());
        }
        exchange(&self.env, builder, self.request_timeout).await
    }
}

/// Sends what `builder` holds and reads the whole answer within `limit`.
pub(super) async fn exchange(env: &Env, builder: reqwest::RequestBuilder, limit: Duration) -> Result<Answer, Lost> {
    let whole = async {
        let response = builder.send().await.map_err(of_transport)?;
        let status = response.status();
        let retry_after = retry_after(status, response.headers(), env.now_ms());
        Ok(Answer { status: status.as_u16(), retry_after, body: read_body(response).await? })
    };
    env.timeout(limit, whole).await.unwrap_or_else(|| {
        let text = format!("no answer within {} ms", limit.as_millis());
        Err(Lost::Unanswered(Error::new(ErrorKind::Unavailable, text)))
    })
}

async fn read_body(mut response: Response) -> Result<Bytes, Lost> {
    let too_large = || {
        let text = format!("the answer is larger than the {ANSWER_BYTES_MAX} bytes that one may have");
        Lost::Unanswered(Error::new(ErrorKind::Unsupported, text))
    };
    let announced = response.content_length().unwrap_or(0);
    if announced > ANSWER_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(of_transport)? {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn of_transport(error: reqwest::Error) -> Lost {
    // The place names the catalog; the URL may hold what is nobody's business.
    let error = error.without_url();
    if error.is_builder() {
        return Lost::NotSent(Error::new(ErrorKind::Config, "the request cannot be built").with_source(error));
    }
    if error.is_connect() {
        let hint = "check the catalog's uri, its name, its certificate, and that it runs";
        let text = Error::new(ErrorKind::Unavailable, "no connection to the catalog");
        return Lost::NotSent(text.with_source(error).with_hint(hint));
    }
    Lost::Unanswered(Error::new(ErrorKind::Unavailable, "the connection broke before the answer").with_source(error))
}

fn retry_after(status: StatusCode, headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis();
            Duration::from_millis(u64::try_from(at.saturating_sub(now_ms)).unwrap_or(0))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn extra_headers(headers: &BTreeMap<String, crate::config::Secret>) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let key = HeaderName::try_from(name).context(ErrorKind::Config, || format!("header name {name:?}"))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| Error::new(ErrorKind::Config, format!("the value of header {name:?} is no header value")))?;
        value.set_sensitive(true);
        map.insert(key, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date_and_is_bounded() {
        let wait = |status: u16, text: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("retry-after"),
                HeaderValue::from_str(text).expect("a header"),
            )]);
            // Wed, 21 Oct 2015 07:28:00 GMT is 1445412480 s.
            retry_after(StatusCode::from_u16(status).expect("a status"), &headers, 1_445_412_470_000)
        };
        assert_eq!(wait(429, "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait(429, "Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(wait(429, "Wed, 21 Oct 2015 07:27:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait(429, "99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(wait(429, "soon"), None);
        assert_eq!(wait(503, "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait(500, "3"), None);
    }
}
