//! The schemas that rows were written with: one that is configured, or those that rows name by their ids in a registry.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::{StreamExt, stream};

use crate::decode::avro_schema::WriterSchema;
use crate::decode::fault::Fault;
use crate::decode::registry::{Registered, Registry, SchemaKind};
use crate::env::Env;
use crate::error::{ErrorKind, Result};
use crate::model::batch::RawBatch;

/// Requests to a registry under way at once for one batch.
const PARALLEL: usize = 8;
/// A schema that was only just registered may not be everywhere yet: how long until it is asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an id that the registry does not know is not asked for again.
const REFUSED_MS: i64 = 60_000;
/// Ids that are kept, and what their schemas may weigh together.
const IDS_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;

/// A schema in one of the languages that registries have.
pub trait Written: std::fmt::Debug + Send + Sync + Sized + 'static {
    /// The language.
    const KIND: SchemaKind;

    /// Reads one.
    ///
    /// # Errors
    /// `Input` when it is none, or no table can hold its rows.
    fn read(registered: &Registered) -> Result<Self>;
}

impl Written for WriterSchema {
    const KIND: SchemaKind = SchemaKind::Avro;

    fn read(registered: &Registered) -> Result<Self> {
        let named: Vec<&str> = registered.named.iter().map(|named| named.text.as_str()).collect();
        Self::parse(&registered.text, &named)
    }
}

/// Where writers' schemas come from. Clones share what is known.
#[derive(Debug)]
pub enum Writers<S = WriterSchema> {
    /// Every row is a datum of this schema and nothing else.
    Fixed(Arc<S>),
    /// Every row begins with a byte 0 and the four bytes of its schema's id.
    Registry(Arc<Ids<S>>),
}

impl<S> Clone for Writers<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Fixed(schema) => Self::Fixed(Arc::clone(schema)),
            Self::Registry(ids) => Self::Registry(Arc::clone(ids)),
        }
    }
}

/// What a registry said of ids.
#[derive(Debug)]
pub struct Ids<S> {
    registry: Arc<Registry>,
    env: Env,
    known: RwLock<Known<S>>,
}

#[derive(Debug)]
struct Known<S> {
    writers: HashMap<u32, Writer<S>>,
    bytes: usize,
}

#[derive(Debug)]
enum Writer<S> {
    Read(Arc<S>),
    /// No row of it can be decoded; asked for again from then on, where the registry may come to know it.
    Refused(Arc<str>, Option<i64>),
}

/// A row's parts.
#[derive(Debug)]
pub(crate) struct Framed<'a> {
    /// The id of its schema; `None`: the configured one.
    pub(crate) id: Option<u32>,
    /// Its values.
    pub(crate) datum: &'a [u8],
}

/// The id of its schema that a row begins with, behind a byte 0, and its values.
#[inline]
pub(crate) fn split_id(row: &[u8]) -> Result<(u32, &[u8]), Fault> {
    match row {
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [] => Err(Fault::row("the row is empty")),
        [0, ..] => Err(Fault::row("the row ends within the id of its schema")),
        [first, ..] => Err(Fault::row(format!(
            "the row begins with byte {first:#04x}, not with 0x00 and the id of its schema in the registry"
        ))),
    }
}

impl<S: Written> Writers<S> {
    /// Schemas of a registry.
    pub fn of_registry(registry: Arc<Registry>, env: &Env) -> Self {
        let known = RwLock::new(Known { writers: HashMap::new(), bytes: 0 });
        Self::Registry(Arc::new(Ids { registry, env: env.clone(), known }))
    }

    /// The same with nothing known yet, where too much is: else none. What decodes with the old ones goes on.
    pub fn renewed(&self) -> Option<Self> {
        let Self::Registry(ids) = self else { return None };
        let known = ids.known.read().unwrap_or_else(PoisonError::into_inner);
        let full = known.writers.len() >= IDS_MAX || known.bytes >= BYTES_MAX;
        full.then(|| Self::of_registry(Arc::clone(&ids.registry), &ids.env))
    }

    /// Gets to know the schemas of a batch's rows. Ids that the registry does not know, and schemas that no table can hold, are
    /// known as such afterwards: their rows are rejects.
    ///
    /// # Errors
    /// Those of the registry: `Unavailable` while it does not answer, `Denied` when it refuses us.
    pub async fn learn(&self, raw: &RawBatch) -> Result<()> {
        let Self::Registry(ids) = self else { return Ok(()) };
        let wanted = ids.unknown(raw);
        if wanted.is_empty() {
            return Ok(());
        }
        let missing = ids.ask(wanted).await?;
        if missing.is_empty() {
            return Ok(());
        }
        ids.env.sleep(AGAIN).await;
        let missing = ids.ask(missing).await?;
        let until = ids.env.now_ms().saturating_add(REFUSED_MS);
        for id in missing {
            let reason = format!("{} has no schema with the id {id}", ids.registry.name());
            ids.note(id, Writer::Refused(reason.into(), Some(until)), 0);
        }
        Ok(())
    }

    /// The schema of the first row that has one.
    pub fn first(&self, raw: &RawBatch) -> Option<Arc<S>> {
        raw.rows.iter().find_map(|row| self.known(self.framed(raw.bytes(*row)).ok()?.id).ok())
    }

    /// Takes a row apart.
    #[inline]
    pub(crate) fn framed<'a>(&self, row: &'a [u8]) -> Result<Framed<'a>, Fault> {
        match (self, row) {
            (_, []) => Err(Fault::row("the row is empty")),
            (Self::Fixed(_), datum) => Ok(Framed { id: None, datum }),
            (Self::Registry(_), row) => split_id(row).map(|(id, datum)| Framed { id: Some(id), datum }),
        }
    }

    /// A schema that was learned.
    pub(crate) fn known(&self, id: Option<u32>) -> Result<Arc<S>, Fault> {
        match (self, id) {
            (Self::Fixed(schema), _) => Ok(Arc::clone(schema)),
            (Self::Registry(ids), Some(id)) => {
                match ids.known.read().unwrap_or_else(PoisonError::into_inner).writers.get(&id) {
                    Some(Writer::Read(schema)) => Ok(Arc::clone(schema)),
                    Some(Writer::Refused(reason, _)) => Err(Fault::row(reason.to_string())),
                    None => Err(Fault::row(format!("the registry was not asked for the schema with the id {id}"))),
                }
            }
            (Self::Registry(_), None) => Err(Fault::row("the row names no schema")),
        }
    }
}

impl<S: Written> Ids<S> {
    /// Ids in a batch of which nothing is known, or nothing good and that long ago.
    fn unknown(&self, raw: &RawBatch) -> BTreeSet<u32> {
        let (mut wanted, mut last) = (BTreeSet::new(), None);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for row in &raw.rows {
            let [0, a, b, c, d, ..] = raw.bytes(*row) else { continue };
            let id = u32::from_be_bytes([*a, *b, *c, *d]);
            if last.replace(id) == Some(id) {
                continue;
            }
            let asks = match known.writers.get(&id) {
                Some(Writer::Read(_) | Writer::Refused(_, None)) => false,
                Some(Writer::Refused(_, Some(until))) => self.env.now_ms() >= *until,
                None => true,
            };
            if asks {
                wanted.insert(id);
            }
        }
        wanted
    }

    /// Asks the registry for schemas; answers the ids that it does not know.
    async fn ask(&self, ids: BTreeSet<u32>) -> Result<BTreeSet<u32>> {
        let asked = stream::iter(ids).map(|id| async move { (id, self.registry.by_id(id).await) });
        let mut answers = asked.buffer_unordered(PARALLEL);
        let mut missing = BTreeSet::new();
        while let Some((id, found)) = answers.next().await {
            match found {
                Ok(Some(registered)) => {
                    let bytes =
                        registered.text.len() + registered.named.iter().map(|named| named.text.len()).sum::<usize>();
                    self.note(id, self.read(id, &registered), bytes);
                }
                Ok(None) => drop(missing.insert(id)),
                // It will not become smaller.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.note(id, Writer::Refused(error.to_string().into(), None), 0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    fn read(&self, id: u32, registered: &Registered) -> Writer<S> {
        let place = format!("schema {id} of {}", self.registry.name());
        if registered.kind != S::KIND {
            let reason = format!("{place} is {}, not {}", registered.kind.as_str(), S::KIND.as_str());
            return Writer::Refused(reason.into(), None);
        }
        match S::read(registered) {
            Ok(schema) => Writer::Read(Arc::new(schema)),
            Err(error) => {
                tracing::warn!("{place}: rows of it are rejected: {error}");
                Writer::Refused(format!("{place}: {error}").into(), None)
            }
        }
    }

    fn note(&self, id: u32, writer: Writer<S>, bytes: usize) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.bytes = known.bytes.saturating_add(bytes);
        known.writers.insert(id, writer);
    }
}
