//! Who we are to a REST catalog: nobody, a fixed token, or an OAuth2 client whose tokens are renewed in time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::exchange;
use crate::config::{RestAuth, RestConfig, Secret};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};

/// The scope of the REST specification's own token endpoint.
const SCOPE_DEFAULT: &str = "catalog";

/// A way to identify.
#[derive(Debug)]
pub(super) enum Auth {
    None,
    Bearer(Secret),
    OAuth2(Box<Client>),
}

/// An OAuth2 client (RFC 6749, section 4.4).
#[derive(Debug)]
pub(super) struct Client {
    env: Env,
    http: reqwest::Client,
    url: String,
    form: BTreeMap<String, String>,
    secret: Secret,
    request_timeout: Duration,
    /// Locked over a fetch: who comes meanwhile waits for its token instead of fetching another.
    token: Mutex<Option<Token>>,
}

#[derive(Debug)]
struct Token {
    text: Secret,
    /// From here on it is renewed; `None`: only when it is refused.
    renew_ms: Option<i64>,
    /// Until here it serves if renewing fails.
    expires_ms: Option<i64>,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    #[serde(default)]
    expires_in: Option<i64>,
}

impl Auth {
    pub(super) fn new(config: &RestConfig, env: &Env, http: reqwest::Client) -> Result<Self> {
        Ok(match &config.auth {
            RestAuth::None => Self::None,
            RestAuth::Bearer(token) => Self::Bearer(token.clone()),
            RestAuth::OAuth2 { client_id, client_secret, server_uri, scope, parameters } => {
                let mut form = parameters.clone();
                form.insert("grant_type".to_owned(), "client_credentials".to_owned());
                form.insert("client_id".to_owned(), client_id.clone());
                form.insert("scope".to_owned(), scope.clone().unwrap_or_else(|| SCOPE_DEFAULT.to_owned()));
                let base = config.uri.trim_end_matches('/');
                let url = match server_uri {
                    None => format!("{base}/v1/oauth/tokens"),
                    Some(uri) if uri.contains("://") => uri.clone(),
                    Some(path) => format!("{base}/{}", path.trim_start_matches('/')),
                };
                Self::OAuth2(Box::new(Client {
                    env: env.clone(),
                    http,
                    url,
                    form,
                    secret: client_secret.clone(),
                    request_timeout: config.request_timeout,
                    token: Mutex::new(None),
                }))
            }
        })
    }

    /// The bearer token to send now.
    ///
    /// # Errors
    /// `Denied` when the token server refuses us, `Unavailable` when it does not answer.
    pub(super) async fn token(&self) -> Result<Option<Secret>> {
        match self {
            Self::None => Ok(None),
            Self::Bearer(token) => Ok(Some(token.clone())),
            Self::OAuth2(client) => client.token().await.map(Some),
        }
    }

    /// Drops a token that was refused; says whether another can be had.
    pub(super) async fn forget(&self, refused: &Secret) -> bool {
        let Self::OAuth2(client) = self else { return false };
        let mut token = client.token.lock().await;
        // Another request may have replaced it meanwhile.
        if token.as_ref().is_some_and(|t| t.text == *refused) {
            *token = None;
        }
        true
    }
}

impl Client {
    async fn token(&self) -> Result<Secret> {
        let mut token = self.token.lock().await;
        let now = self.env.now_ms();
        if let Some(held) = token.as_ref().filter(|t| t.renew_ms.is_none_or(|at| now < at)) {
            return Ok(held.text.clone());
        }
        match self.fetch().await {
            Ok(fresh) => Ok(token.insert(fresh).text.clone()),
            Err(e) => match token.as_ref().filter(|t| t.expires_ms.is_some_and(|at| now < at)) {
                Some(held) => Ok(held.text.clone()),
                None => Err(e),
            },
        }
    }

    async fn fetch(&self) -> Result<Token> {
        let place = || format!("OAuth2 token from {}", self.url);
        let mut form = self.form.clone();
        form.insert("client_secret".to_owned(), self.secret.expose().to_owned());
        let now = self.env.now_ms();
        let answer = exchange(&self.env, self.http.post(&self.url).form(&form), self.request_timeout)
            .await
            .map_err(|lost| lost.into_error().within(place()))?;
        let status = answer.status;
        if !(200..300).contains(&status) {
            let kind = match status {
                408 | 429 | 500.. => ErrorKind::Unavailable,
                _ => ErrorKind::Denied,
            };
            return Err(Error::new(kind, format!("{}: the server answered {status}", place()))
                .with_hint("check client_id, client_secret, scope and server_uri"));
        }
        // The cause is left out: it might quote the token.
        let grant: Grant = serde_json::from_slice(&answer.body)
            .map_err(|_| ())
            .or_else(|()| Err(std::io::Error::other("the answer holds no access_token")))
            .context(ErrorKind::Unavailable, place)?;
        let life_ms = grant.expires_in.filter(|s| *s > 0).map(|s| s.saturating_mul(1000));
        Ok(Token {
            text: Secret::new(grant.access_token),
            renew_ms: life_ms.map(|life| now.saturating_add(life / 5 * 4)),
            expires_ms: life_ms.map(|life| now.saturating_add(life)),
        })
    }
}
