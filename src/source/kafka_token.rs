//! Tokens for SASL OAUTHBEARER (RFC 7628), by OAuth2 client credentials (RFC 6749, section 4.4).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::config::kafka::KafkaSasl;
use crate::config::tls::tls_hint;
use crate::config::{ClientTls, Secret};
use crate::error::{Context, Error, ErrorKind, Result};

/// Until the token server has answered.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A token that does not say how long it lives is asked for again after this.
const LIFE_SECONDS: i64 = 300;

/// A client of a token server.
pub(super) struct Tokens {
    http: reqwest::Client,
    runtime: Handle,
    uri: String,
    form: BTreeMap<String, String>,
    secret: Secret,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: Option<i64>,
}

/// What of a token's own claims matters here.
#[derive(Deserialize, Default)]
struct Claims {
    sub: Option<String>,
    iat: Option<i64>,
    exp: Option<i64>,
}

impl Tokens {
    /// The client that `sasl` describes, which must be of that kind.
    ///
    /// # Errors
    /// `Config` where the certificates that it is to trust cannot be used.
    pub(super) fn new(sasl: &KafkaSasl) -> Result<Self> {
        let KafkaSasl::OAuth2 { token_uri, client_id, client_secret, scope, parameters, ca } = sasl else {
            return Err(Error::new(ErrorKind::Internal, "a token client without a token server"));
        };
        let mut form = parameters.clone();
        form.insert("grant_type".to_owned(), "client_credentials".to_owned());
        form.insert("client_id".to_owned(), client_id.clone());
        form.extend(scope.clone().map(|scope| ("scope".to_owned(), scope)));
        let tls = ca.as_deref().map(ClientTls::also_trusting).transpose();
        let builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let http = tls.and_then(|tls| tls.unwrap_or_default().client(builder));
        Ok(Self {
            http: http.map_err(|error| error.within("tls.ca, for sasl.token_uri"))?,
            runtime: Handle::try_current().context(ErrorKind::Internal, || "no runtime")?,
            uri: token_uri.clone(),
            form,
            secret: client_secret.clone(),
        })
    }

    /// A new token. Blocks: for the thread that polls.
    pub(super) fn fetch(&self) -> Result<OAuthToken> {
        let grant = self.runtime.block_on(self.grant())?;
        let claims = claims(&grant.access_token);
        let life = grant.expires_in.filter(|seconds| *seconds > 0);
        let end = match (claims.exp, claims.iat.zip(life)) {
            (Some(end), _) => end.checked_mul(1_000),
            (None, Some((begin, life))) => begin.checked_add(life).and_then(|end| end.checked_mul(1_000)),
            (None, None) => None,
        };
        Ok(OAuthToken {
            principal_name: claims.sub.unwrap_or_default(),
            // librdkafka takes a time; an opaque token has none, and is asked for again soon.
            lifetime_ms: end.unwrap_or_else(|| now_ms().saturating_add(life.unwrap_or(LIFE_SECONDS) * 1_000)),
            token: grant.access_token,
        })
    }

    async fn grant(&self) -> Result<Grant> {
        let place = || format!("OAuth2 token from {}", self.uri);
        let mut form = self.form.clone();
        form.insert("client_secret".to_owned(), self.secret.expose().to_owned());
        let sent = self.http.post(&self.uri).form(&form).send().await;
        let answer = sent.map_err(|error| {
            let hint = tls_hint(&error, "tls.");
            let away = Error::new(ErrorKind::Unavailable, place()).with_source(error.without_url());
            hint.into_iter().fold(away, Error::with_hint)
        })?;
        let status = answer.status();
        if !status.is_success() {
            let again = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
            let kind = if again { ErrorKind::Unavailable } else { ErrorKind::Denied };
            return Err(Error::new(kind, format!("{}: the server answered {status}", place()))
                .with_hint("check sasl.client_id, sasl.client_secret, sasl.scope and sasl.token_uri"));
        }
        // The cause is left out: it might quote the token.
        let unreadable =
            || Error::new(ErrorKind::Unavailable, format!("{}: the answer holds no access_token", place()));
        answer.json().await.map_err(|_| unreadable())
    }
}

#[allow(clippy::disallowed_methods)] // a lifetime for librdkafka, which keeps its own time
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The claims of a JSON web token; none of one that is opaque.
fn claims(token: &str) -> Claims {
    let part = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    part.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_how_long() {
        let body = URL_SAFE_NO_PAD.encode(br#"{"sub":"frazil","exp":1900000000,"x":[1]}"#);
        let own = claims(&format!("e30.{body}.sig"));
        assert_eq!((own.sub.as_deref(), own.exp), (Some("frazil"), Some(1_900_000_000)));
        assert_eq!(claims("opaque").sub, None);
    }
}
