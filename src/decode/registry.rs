//! A client of schema registries that speak Confluent's API: schemas by id, with those that they name.
//!
//! What a registry said of an id never changes, so it is kept, up to a number. A registry that does not answer, or answers
//! something else, is `Unavailable`: nothing follows from it for any row.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use serde::Deserialize;

use crate::config::tls::tls_hint;
use crate::config::{RegistryAuth, RegistryConfig};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// Registries by their configured names.
pub type Registries = BTreeMap<String, Arc<Registry>>;

/// The most bytes an answer may have.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Schemas that one may name, and those name, and so on.
const NAMED_MAX: usize = 256;
/// Requests for one answer before the registry counts as away.
const ATTEMPTS: u32 = 4;
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long an unused connection is kept.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// What Confluent's API answers for an id, a subject and a version that it does not know.
const UNKNOWN: [u32; 3] = [40403, 40401, 40402];
/// Subjects may have any character.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The languages of schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaKind {
    /// Avro.
    Avro,
    /// JSON Schema.
    Json,
    /// Protocol Buffers.
    Protobuf,
    /// Another one.
    Other,
}

impl SchemaKind {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Avro => "Avro",
            Self::Json => "JSON Schema",
            Self::Protobuf => "Protobuf",
            Self::Other => "a schema of an unknown kind",
        }
    }
}

/// A schema as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its language.
    pub kind: SchemaKind,
    /// Its text.
    pub text: String,
    /// The schemas that it names, each after those that it names itself.
    pub named: Vec<NamedSchema>,
}

/// A schema that another one names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSchema {
    /// How the other one calls it: a type's name, a file's, or a URI.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A registry.
#[derive(Debug)]
pub struct Registry {
    name: String,
    env: Env,
    client: reqwest::Client,
    /// Without a slash at its end. Its path is kept.
    url: String,
    auth: RegistryAuth,
    request_timeout: Duration,
    kept: Mutex<Kept>,
    kept_max: usize,
}

/// Answers by path, and when each was last used.
#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<String, (Arc<Answer>, u64)>,
    uses: u64,
}

/// What the API says of a schema.
#[derive(Debug, Deserialize)]
struct Answer {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
    subject: String,
    version: u64,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    error_code: u32,
}

/// One request's end.
enum Said {
    Found(Box<Answer>),
    Unknown,
}

impl Registry {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// `Config` when no HTTP client can be set up, of its certificates among others.
    pub fn new(name: &str, config: &RegistryConfig, env: &Env) -> Result<Self> {
        let builder = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            // Credentials go nowhere but where they are meant for.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("frazil/", env!("CARGO_PKG_VERSION")));
        let client = config.tls.client(builder).map_err(|error| error.within(format!("registry {name}")))?;
        Ok(Self {
            name: name.to_owned(),
            env: env.clone(),
            client,
            url: config.url.trim_end_matches('/').to_owned(),
            auth: config.auth.clone(),
            request_timeout: config.request_timeout,
            kept: Mutex::default(),
            kept_max: config.schemas_max,
        })
    }

    /// Clients of all registries of a configuration.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn all(configs: &BTreeMap<String, RegistryConfig>, env: &Env) -> Result<Registries> {
        let made = configs.iter().map(|(name, config)| Ok((name.clone(), Arc::new(Self::new(name, config, env)?))));
        made.collect()
    }

    /// How it is called in messages.
    pub fn name(&self) -> String {
        format!("registry {}", self.name)
    }

    /// The schema with this id, with all that it names; `None` where the registry says that it has none.
    ///
    /// # Errors
    /// `Unavailable` while it does not answer, answers as no registry does, or lacks a schema that another names; `Denied` when
    /// it refuses us; `Unsupported` when the schema is too large, or names too many.
    pub async fn by_id(&self, id: u32) -> Result<Option<Registered>> {
        let Some(answer) = self.answer(&format!("schemas/ids/{id}")).await? else { return Ok(None) };
        let mut named = Vec::new();
        self.collect(&answer, &mut named).await.map_err(|error| error.within(format!("schema {id}")))?;
        Ok(Some(Registered { kind: kind(answer.kind.as_deref()), text: answer.schema.clone(), named }))
    }

    /// Whether it is there and takes our credentials: asks once for its subjects, and answers how many it has.
    ///
    /// # Errors
    /// As [`Self::by_id`].
    pub async fn ping(&self) -> Result<usize> {
        let response = self.request("subjects").await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(self.refusal(status, "subjects"));
        }
        let body = self.body(response).await?;
        let subjects: Vec<String> = serde_json::from_slice(&body).map_err(|_| self.foreign())?;
        Ok(subjects.len())
    }

    /// The texts that `answer` names, innermost first.
    async fn collect(&self, answer: &Answer, named: &mut Vec<NamedSchema>) -> Result<()> {
        let (mut seen, mut open) = (BTreeSet::new(), Vec::new());
        open.push((None::<NamedSchema>, references(answer)));
        // A stack instead of recursion: the depth is the registry's to say.
        while let Some((text, waiting)) = open.last_mut() {
            let Some(next) = waiting.pop() else {
                named.extend(text.take());
                open.pop();
                continue;
            };
            let place = format!("version {} of subject {:?}", next.version, next.subject);
            if !seen.insert((next.subject.clone(), next.version)) {
                continue;
            }
            if seen.len() > NAMED_MAX {
                let text = format!("it names more than {NAMED_MAX} schemas");
                return Err(Error::new(ErrorKind::Unsupported, text).within(self.name()));
            }
            let subject = utf8_percent_encode(&next.subject, PLAIN);
            let found = self.answer(&format!("subjects/{subject}/versions/{}", next.version)).await?;
            let found = found.ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, format!("{}: {place} is named and not there", self.name()))
                    .with_hint("register it again; it was deleted, or is not everywhere yet")
            })?;
            open.push((Some(NamedSchema { name: next.name, text: found.schema.clone() }), references(&found)));
        }
        Ok(())
    }

    /// What the registry has at a path, asked for until it answers or `ATTEMPTS` are used up.
    async fn answer(&self, path: &str) -> Result<Option<Arc<Answer>>> {
        if let Some(kept) = self.kept(path) {
            return Ok(Some(kept));
        }
        let mut attempt = 0;
        loop {
            match self.exchange(path).await {
                Ok(Said::Found(answer)) => return Ok(Some(self.keep(path, *answer))),
                Ok(Said::Unknown) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Unavailable && attempt + 1 < ATTEMPTS => {
                    tracing::debug!(registry = self.name, attempt, "asks again: {error}");
                    self.env.sleep(self.env.backoff(WAIT_MIN, WAIT_MAX, attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn exchange(&self, path: &str) -> Result<Said> {
        let response = self.request(path).await?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 404) {
            return Err(self.refusal(status, path));
        }
        let body = self.body(response).await?;
        if status == 404 {
            // Only the API's own 404 says that there is no such schema: another one comes from a server that is none.
            let known = serde_json::from_slice::<Refusal>(&body).is_ok_and(|own| UNKNOWN.contains(&own.error_code));
            return if known { Ok(Said::Unknown) } else { Err(self.refusal(404, path)) };
        }
        serde_json::from_slice(&body).map(|answer| Said::Found(Box::new(answer))).map_err(|_| self.foreign())
    }

    async fn request(&self, path: &str) -> Result<Response> {
        let builder = self.client.get(format!("{}/{path}", self.url));
        let builder = match &self.auth {
            RegistryAuth::None => builder,
            RegistryAuth::Basic { user, password } => builder.basic_auth(user, Some(password.expose())),
            RegistryAuth::Bearer(token) => builder.bearer_auth(token.expose()),
        };
        let builder = builder.header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        let Some(answered) = self.env.timeout(self.request_timeout, builder.send()).await else {
            return Err(self.late());
        };
        answered.map_err(|error| {
            let hint = tls_hint(&error, &format!("registry.{}.", self.name));
            let plain = || "check the registry's url, its name, its certificate, and that it runs".to_owned();
            Error::new(ErrorKind::Unavailable, format!("{}: no answer", self.name()))
                // The URL may hold what is nobody's business.
                .with_source(error.without_url())
                .with_hint(hint.unwrap_or_else(plain))
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let broke = |error: reqwest::Error| {
            Error::new(ErrorKind::Unavailable, format!("{}: the answer broke off", self.name()))
                .with_source(error.without_url())
        };
        let whole = async {
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(broke)? {
                if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                    let text = format!("{}: an answer of more than {ANSWER_BYTES_MAX} bytes", self.name());
                    return Err(Error::new(ErrorKind::Unsupported, text));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        self.env.timeout(self.request_timeout, whole).await.unwrap_or_else(|| Err(self.late()))
    }

    fn late(&self) -> Error {
        let text = format!("{}: no answer within {} ms", self.name(), self.request_timeout.as_millis());
        Error::new(ErrorKind::Unavailable, text)
    }

    /// What it means that something answers which is no registry.
    fn foreign(&self) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{}: what answers is no schema registry", self.name()))
            .with_hint("check the registry's url: some have a path, such as /apis/ccompat/v7")
    }

    fn refusal(&self, status: u16, path: &str) -> Error {
        let text = format!("{}: GET {path} was answered with {status}", self.name());
        match status {
            401 | 403 => Error::new(ErrorKind::Denied, text).with_hint("check user and password, or token"),
            408 | 429 | 500.. => Error::new(ErrorKind::Unavailable, text),
            // A door without a registry behind it for the moment says such things too.
            _ => Error::new(ErrorKind::Unavailable, text)
                .with_hint("check the registry's url: some have a path, such as /apis/ccompat/v7"),
        }
    }

    fn kept(&self, path: &str) -> Option<Arc<Answer>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.uses += 1;
        let now = kept.uses;
        let (answer, used) = kept.answers.get_mut(path)?;
        *used = now;
        Some(Arc::clone(answer))
    }

    fn keep(&self, path: &str, answer: Answer) -> Arc<Answer> {
        let answer = Arc::new(answer);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.answers.len() >= self.kept_max {
            let oldest = kept.answers.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            oldest.map(|path| kept.answers.remove(&path));
        }
        let now = kept.uses;
        kept.answers.insert(path.to_owned(), (Arc::clone(&answer), now));
        answer
    }
}

/// In the order in which they are taken off the end: as they are written.
fn references(answer: &Answer) -> Vec<Reference> {
    let mut references = answer.references.clone().unwrap_or_default();
    references.reverse();
    references
}

fn kind(word: Option<&str>) -> SchemaKind {
    match word {
        None | Some("AVRO") => SchemaKind::Avro,
        Some("JSON") => SchemaKind::Json,
        Some("PROTOBUF") => SchemaKind::Protobuf,
        Some(_) => SchemaKind::Other,
    }
}

#[cfg(test)]
pub(crate) mod tests;
