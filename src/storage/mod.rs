//! The one door to objects: local files, memory, S3, Google Cloud Storage, Azure.
//!
//! What we assume of a store (docs/protocol.md), tested by the suite in `tests/contract_store`:
//! - a new object can be read as soon as its write was acknowledged;
//! - a written object never changes in place;
//! - a listing may lag behind, and has no order that anybody may rely on;
//! - an object written in parts is invisible until it is complete;
//! - local files are synced, file and folder, before their write is acknowledged.
//!
//! Locations are texts, taken literally (see [`location`]).

pub mod anchors;
mod client;
pub mod counters;
pub mod disk;
mod fault;
pub mod iceberg_io;
mod layers;
pub mod ledger;
mod local;
pub mod location;
pub(crate) mod memory;
pub mod upload;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::Semaphore;

pub use client::check_options;
pub use memory::MemoryStore;
pub use upload::Upload;

use crate::config::{Config, StoreConfig};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use client::{ClientOptions, Connections};
use counters::{Operation, StoreCounters};
use layers::Stack;
use ledger::{Ledger, LedgerOwner};
use local::LocalStore;
use location::{Location, Scheme};

/// Clients kept at once; the one that was not used longest goes first. Vended credentials make new ones every hour.
const CLIENTS_MAX: usize = 256;

/// How to reach stores, and how hard to try.
#[derive(Debug, Clone, Default)]
pub struct StorageOptions {
    /// Options by URL prefix; the longest prefix of a location wins.
    pub stores: Vec<StoreConfig>,
    /// Requests under way at once over all stores; 0 means 1.
    pub requests_max: usize,
    /// Times one request is tried again after an answer that was none.
    pub retries: usize,
}

/// Access to every store. Cheap to clone; clones share clients, limit and counters.
#[derive(Clone)]
pub struct Storage {
    shared: Arc<Shared>,
    vended: Arc<HashMap<String, String>>,
}

struct Shared {
    options: StorageOptions,
    env: Env,
    limit: Arc<Semaphore>,
    counters: Arc<StoreCounters>,
    clients: Mutex<Clients>,
    http: Connections,
}

#[derive(Default)]
struct Clients {
    /// By store and options, secrets among them: this map is never shown.
    by_key: BTreeMap<(Scheme, String, ClientOptions), (u64, Client)>,
    /// Stores that a caller put in place, by prefix.
    mounts: Vec<(String, Client)>,
    uses: u64,
}

/// A store behind its layers.
#[derive(Clone)]
struct Client {
    stack: Stack,
    /// Local files are written in a way of their own.
    local: Option<LocalStore>,
}

/// Which content of an object its reader has begun with, by the store's tag of it; unknown before the first read, and where a
/// store has no tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version(Option<String>);

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// Its location, written the way the listed prefix was.
    pub location: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since the Unix epoch, by the store's clock.
    pub modified_ms: i64,
    /// The store's tag of its content, where it has one.
    pub etag: Option<String>,
}

impl StorageOptions {
    /// The options of a configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            stores: config.stores.clone(),
            requests_max: config.limits.store_requests,
            retries: config.limits.store_retries,
        }
    }
}

impl Storage {
    /// Access by these options. Nothing is contacted before the first request.
    pub fn new(options: StorageOptions, env: Env) -> Self {
        let limit = Arc::new(Semaphore::new(options.requests_max.clamp(1, Semaphore::MAX_PERMITS)));
        let shared = Shared {
            options,
            env,
            limit,
            counters: Arc::default(),
            clients: Mutex::default(),
            http: Connections::default(),
        };
        Self { shared: Arc::new(shared), vended: Arc::default() }
    }

    /// The same access, preferring credentials that a catalog vends with a table (Iceberg's property names, such as
    /// `s3.access-key-id`; others are ignored). The same credentials share one client.
    ///
    /// # Errors
    /// None today: what is wrong with a credential shows at the first request.
    pub fn vended(&self, config: &HashMap<String, String>) -> Result<Self> {
        Ok(Self { shared: Arc::clone(&self.shared), vended: Arc::new(config.clone()) })
    }

    /// Answers all locations that begin with `prefix` from `store`, behind the usual layers: the simulator's faulty
    /// stores come in here. The key is what follows the store's root, as ever.
    pub fn mount<S: ObjectStore + MultipartStore>(&self, prefix: &str, store: Arc<S>) {
        let stack = Stack { objects: Arc::clone(&store) as Arc<dyn ObjectStore>, parts: Some(store) };
        let client = Client { stack: self.shared.layered(stack), local: None };
        self.shared.with_clients(|clients| clients.mounts.push((prefix.to_owned(), client)));
    }

    /// Counters of all requests.
    pub fn counters(&self) -> &Arc<StoreCounters> {
        &self.shared.counters
    }

    /// The store of a location and the key in it, for those who speak `object_store`.
    ///
    /// # Errors
    /// `Config` or `Unsupported` for a location that is none, or a store whose options are wrong.
    pub fn resolve(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let (client, location) = self.client(Location::folder(location)?)?;
        Ok((client.stack.objects, location.path))
    }

    /// A whole object.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`.
    pub async fn read(&self, location: &str) -> Result<Bytes> {
        let (client, at) = self.object(location)?;
        let got = async { client.stack.objects.get(&at.path).await?.bytes().await };
        got.await.map_err(|e| fault::wrap(&e, "read", location))
    }

    /// Bytes `range` of an object.
    ///
    /// # Errors
    /// As [`Storage::read`], and `Corrupt` when the object ends before the range does.
    pub async fn read_range(&self, location: &str, range: Range<u64>) -> Result<Bytes> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        let (client, at) = self.object(location)?;
        let bytes = client.stack.objects.get_range(&at.path, range.clone()).await;
        let bytes = bytes.map_err(|e| fault::wrap(&e, "read", location))?;
        whole(location, range, bytes)
    }

    /// A whole object, or bytes `range` of it, of the content that `version` is. An unknown version becomes that of what came.
    ///
    /// # Errors
    /// As [`Storage::read_range`], and `Corrupt` when another object has taken its place.
    pub async fn read_version(
        &self,
        location: &str,
        range: Option<Range<u64>>,
        version: &mut Version,
    ) -> Result<Bytes> {
        let replaced = || Error::new(ErrorKind::Corrupt, format!("{location} was replaced while it was read"));
        let (client, at) = self.object(location)?;
        let options = GetOptions::new().with_range(range.clone());
        // A weak tag matches nothing in a condition: it is compared here alone.
        let tag = version.0.clone().filter(|tag| !tag.starts_with("W/"));
        let got = async {
            let got = client.stack.objects.get_opts(&at.path, options.with_if_match(tag)).await?;
            let now = got.meta.e_tag.clone();
            Ok((now, got.bytes().await?))
        };
        let (now, bytes) = got.await.map_err(|error| match error {
            object_store::Error::Precondition { .. } => replaced(),
            error => fault::wrap(&error, "read", location),
        })?;
        if version.0.is_some() && now.is_some() && version.0 != now {
            return Err(replaced()); // the store does not know conditions
        }
        version.0 = now.or(version.0.take());
        match range {
            Some(range) => whole(location, range, bytes),
            None => Ok(bytes),
        }
    }

    /// An object's size in bytes.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub async fn size(&self, location: &str) -> Result<u64> {
        Ok(self.entry(location).await?.size)
    }

    /// An object's size, time and tag.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub async fn entry(&self, location: &str) -> Result<ObjectEntry> {
        let (client, at) = self.object(location)?;
        let meta = client.stack.objects.head(&at.path).await.map_err(|e| fault::wrap(&e, "look at", location))?;
        Ok(entry(&at, meta))
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// As [`Storage::read`], without `NotFound`.
    pub async fn exists(&self, location: &str) -> Result<bool> {
        match self.entry(location).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a whole object, over one that is there.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    pub async fn write(&self, location: &str, bytes: Bytes) -> Result<()> {
        self.put(location, bytes, PutMode::Overwrite).await
    }

    /// Writes a whole object that must not be there yet. Of several that try at once exactly one succeeds.
    ///
    /// # Errors
    /// `Conflict` when it exists, `Denied`, `Unavailable`.
    pub async fn write_new(&self, location: &str, bytes: Bytes) -> Result<()> {
        self.put(location, bytes, PutMode::Create).await
    }

    /// Deletes an object; one that is not there is deleted already.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    pub async fn delete(&self, location: &str) -> Result<()> {
        let (client, at) = self.object(location)?;
        gone(client.stack.objects.delete(&at.path).await, location)
    }

    /// Deletes many objects, in bulk where the store can; each with its own answer, in the order given.
    pub async fn delete_all(&self, locations: Vec<String>) -> Vec<(String, Result<()>)> {
        let mut by_store: BTreeMap<String, Vec<(usize, Path)>> = BTreeMap::new();
        let mut answers: Vec<Option<Result<()>>> = locations.iter().map(|_| None).collect();
        for (index, text) in locations.iter().enumerate() {
            match Location::object(text) {
                Ok(at) => by_store.entry(at.root).or_default().push((index, at.path)),
                Err(error) => answers[index] = Some(Err(error)),
            }
        }
        for named in by_store.into_values() {
            let Some((first, _)) = named.first() else { continue };
            let Ok((client, _)) = self.object(&locations[*first]) else { continue };
            let paths: Vec<Path> = named.iter().map(|(_, path)| path.clone()).collect();
            let bulk: Vec<_> =
                client.stack.objects.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed()).collect().await;
            if bulk.iter().all(Result::is_ok) && bulk.len() == named.len() {
                named.iter().for_each(|(index, _)| answers[*index] = Some(Ok(())));
            }
        }
        // A failed bulk request does not say which names it failed for: those are asked for one by one.
        let mut told = Vec::with_capacity(locations.len());
        for (location, answer) in locations.into_iter().zip(answers) {
            let answer = match answer {
                Some(answer) => answer,
                None => self.delete(&location).await,
            };
            told.push((location, answer));
        }
        told
    }

    /// The objects below the folder `prefix`, at any depth; with `after`, only those whose name is greater (byte order).
    ///
    /// The order is the store's own and may be none; what was written a moment ago may be missing. A folder that is not
    /// there has no objects.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectEntry>> {
        let begun = || -> Result<_> {
            let (client, at) = self.client(Location::folder(prefix)?)?;
            let after = after.map(Location::folder).transpose()?;
            let objects = client.stack.objects;
            let listed = match after {
                Some(after) => objects.list_with_offset(Some(&at.path), &after.path),
                None => objects.list(Some(&at.path)),
            };
            Ok((listed, at))
        };
        match begun() {
            Err(error) => stream::once(async move { Err(error) }).boxed(),
            Ok((listed, at)) => {
                let prefix = prefix.to_owned();
                listed.map_ok(move |meta| entry(&at, meta)).map_err(move |e| fault::wrap(&e, "list", &prefix)).boxed()
            }
        }
    }

    /// Begins an object that is written as it comes. With a ledger, its name is noted durably before anything is created.
    ///
    /// # Errors
    /// As [`Storage::write`], and those of the ledger.
    pub async fn upload(&self, location: &str, ledger: Option<(Ledger, LedgerOwner)>) -> Result<Upload> {
        Upload::start(self, location, ledger).await
    }

    /// Removes what an unfinished [`Upload`] left, by the id that the ledger has; one that is gone is removed already.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    pub async fn abort_upload(&self, location: &str, upload_id: &str) -> Result<()> {
        let (client, at) = self.object(location)?;
        let done = match (&client.local, &client.stack.parts) {
            (Some(local), _) => local.discard(&at.path, upload_id).await,
            (None, Some(parts)) => parts.abort_multipart(&at.path, &upload_id.to_owned()).await,
            (None, None) => Ok(()),
        };
        gone(done, location)
    }

    async fn put(&self, location: &str, bytes: Bytes, mode: PutMode) -> Result<()> {
        let (client, at) = self.object(location)?;
        let put = client.stack.objects.put_opts(&at.path, bytes.into(), PutOptions::from(mode)).await;
        put.map(|_| ()).map_err(|e| fault::wrap(&e, "write", location))
    }

    fn object(&self, location: &str) -> Result<(Client, Location)> {
        self.client(Location::object(location)?)
    }

    fn client(&self, location: Location) -> Result<(Client, Location)> {
        let text = location.sibling(&location.path);
        let shared = &self.shared;
        let mounted =
            shared.with_clients(|clients| longest(&clients.mounts, |(prefix, _)| prefix, &text).map(|m| m.1.clone()));
        if let Some(client) = mounted {
            return Ok((client, location));
        }
        let options = self.options(&location, &text);
        let key = (location.scheme, location.bucket.clone(), options);
        if let Some(client) = shared.with_clients(|clients| clients.find(&key)) {
            return Ok((client, location));
        }
        let client = shared.open(&location, &key.2)?;
        // Two callers may have opened it at once; the first stays, so that all share one.
        let client = shared.with_clients(|clients| clients.find(&key).unwrap_or_else(|| clients.keep(key, client)));
        Ok((client, location))
    }

    fn options(&self, location: &Location, text: &str) -> ClientOptions {
        if matches!(location.scheme, Scheme::Local | Scheme::Memory) {
            return ClientOptions::new();
        }
        let configured: ClientOptions = longest(&self.shared.options.stores, |store| &store.prefix, text)
            .map(|store| store.options.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.expose().to_owned())).collect())
            .unwrap_or_default();
        client::merge(&configured, &client::vended(location.scheme, &location.bucket, &self.vended))
    }
}

impl Shared {
    fn with_clients<T>(&self, work: impl FnOnce(&mut Clients) -> T) -> T {
        work(&mut self.clients.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn layered(&self, stack: Stack) -> Stack {
        stack.layered(self.env.clone(), self.options.retries, Arc::clone(&self.limit), Arc::clone(&self.counters))
    }

    fn open(&self, location: &Location, options: &ClientOptions) -> Result<Client> {
        let (stack, local) = match location.scheme {
            Scheme::Local => {
                let local = LocalStore::new(self.env.clone());
                (Stack { objects: Arc::new(local.clone()), parts: None }, Some(local))
            }
            Scheme::Memory => {
                let memory = Arc::new(MemoryStore::new(self.env.clone()));
                (Stack { objects: Arc::clone(&memory) as Arc<dyn ObjectStore>, parts: Some(memory) }, None)
            }
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => (client::connect(location, options, &self.http)?, None),
        };
        Ok(Client { stack: self.layered(stack), local })
    }
}

impl Clients {
    fn find(&mut self, key: &(Scheme, String, ClientOptions)) -> Option<Client> {
        self.uses += 1;
        let (used, client) = self.by_key.get_mut(key)?;
        *used = self.uses;
        Some(client.clone())
    }

    fn keep(&mut self, key: (Scheme, String, ClientOptions), client: Client) -> Client {
        // A memory store is its only copy: it never goes.
        let oldest = self.by_key.iter().filter(|((scheme, ..), _)| *scheme != Scheme::Memory);
        let oldest = oldest.min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest.filter(|_| self.by_key.len() >= CLIENTS_MAX) {
            self.by_key.remove(&oldest);
        }
        self.by_key.insert(key, (self.uses, client.clone()));
        client
    }
}

/// The entry with the longest prefix of `text` that ends where a folder's name does.
fn longest<'a, T>(entries: &'a [T], prefix: impl Fn(&T) -> &String, text: &str) -> Option<&'a T> {
    let text = canonical(text);
    let holds = |entry: &&T| {
        let prefix = canonical(prefix(entry));
        text.strip_prefix(prefix.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    entries.iter().filter(holds).max_by_key(|entry| prefix(entry).len())
}

/// The text with one name for each store: what is configured for `s3://` holds for `s3a://` too.
fn canonical(text: &str) -> Cow<'_, str> {
    const SAME: [(&str, &str); 5] =
        [("s3a:", "s3:"), ("s3n:", "s3:"), ("abfs:", "abfss:"), ("file:///", "/"), ("file:/", "/")];
    let other = SAME.iter().find_map(|(from, to)| text.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    other.map_or(Cow::Borrowed(text), Cow::Owned)
}

fn entry(at: &Location, meta: object_store::ObjectMeta) -> ObjectEntry {
    ObjectEntry {
        location: at.sibling(&meta.location),
        size: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
        etag: meta.e_tag,
    }
}

/// That all came that was asked for.
fn whole(location: &str, range: Range<u64>, bytes: Bytes) -> Result<Bytes> {
    if bytes.len() as u64 == range.end.saturating_sub(range.start) {
        return Ok(bytes);
    }
    let (got, start, end) = (bytes.len(), range.start, range.end);
    Err(Error::new(ErrorKind::Corrupt, format!("read {location}: bytes {start} to {end} were asked for, {got} came")))
}

fn gone(answer: object_store::Result<()>, location: &str) -> Result<()> {
    match answer {
        Err(error) if fault::kind(&error) != ErrorKind::NotFound => Err(fault::wrap(&error, "delete", location)),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("stores", &self.shared.options.stores).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
