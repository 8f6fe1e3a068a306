//! Advisory claims: which of several processes looks after a table for a while.
//!
//! A claim is one small object beside the table's metadata. It only keeps two from doing the same work: whoever does not see
//! it, or takes it over by mistake, wastes work and breaks nothing. It expires by the clock of the one who looks at it.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::table::TableState;
use crate::storage::Storage;

const NAME: &str = "frazil-claim.json";
const VERSION: u32 = 1;
/// A holder's clock may be ahead by so much; a claim that ends later is believed to be broken.
const AHEAD_MAX_MS: i64 = 2 * 86_400_000;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    v: u32,
    /// The instance, for people.
    holder: String,
    token: Uuid,
    until_ms: i64,
}

/// Who else looks after a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The instance.
    pub holder: String,
    /// Until when at least, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// A table that this process looks after. Release it when done; else it expires.
#[derive(Debug)]
pub struct Claim {
    env: Env,
    storage: Storage,
    location: String,
    holder: String,
    token: Uuid,
    lasts: Duration,
}

impl Claim {
    /// Claims a table for `holder`, for so long if it is not renewed. A claim that the same holder left behind when it died is its own.
    ///
    /// # Errors
    /// Whatever the store says: then nothing is claimed, and nothing depends on it.
    pub async fn take(
        env: &Env,
        storage: &Storage,
        state: &TableState,
        holder: &str,
        lasts: Duration,
    ) -> Result<Result<Self, Held>> {
        let folder = state.property("write.metadata.path").map_or_else(
            || format!("{}/metadata", state.metadata.location().trim_end_matches('/')),
            |path| path.trim_end_matches('/').to_owned(),
        );
        let claim = Self {
            env: env.clone(),
            storage: storage.clone(),
            location: format!("{folder}/{NAME}"),
            holder: holder.to_owned(),
            token: env.uuid(),
            lasts,
        };
        match storage.write_new(&claim.location, claim.note()?).await {
            Ok(()) => return Ok(Ok(claim)),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        if let Some(held) = claim.held().await? {
            return Ok(Err(held));
        }
        // It has expired. Of several that take it over, the last one has it.
        storage.write(&claim.location, claim.note()?).await?;
        Ok(match claim.held().await? {
            Some(held) => Err(held),
            None => Ok(claim),
        })
    }

    /// Does `work`, renewing the claim meanwhile.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.env.sleep(self.lasts / 3) => {
                    let renewed = match self.note() {
                        Ok(note) => self.storage.write(&self.location, note).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = renewed {
                        tracing::debug!(claim = self.location, "not renewed: {error}");
                    }
                }
            }
        }
    }

    /// Gives the table free.
    pub async fn release(self) {
        // Somebody may have taken it over after it expired: then it is theirs.
        let other = matches!(self.held().await, Ok(Some(_)));
        if !other && let Err(error) = self.storage.delete(&self.location).await {
            tracing::debug!(claim = self.location, "not released, it expires: {error}");
        }
    }

    fn note(&self) -> Result<Bytes> {
        let lasts = i64::try_from(self.lasts.as_millis()).unwrap_or(i64::MAX);
        let until_ms = self.env.now_ms().saturating_add(lasts);
        let note = Note { v: VERSION, holder: self.holder.clone(), token: self.token, until_ms };
        serde_json::to_vec(&note).map(Bytes::from).context(ErrorKind::Internal, || "note a claim")
    }

    /// Who else holds it now.
    async fn held(&self) -> Result<Option<Held>> {
        let bytes = match self.storage.read(&self.location).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What is no claim of a version that is known holds nothing: the worst is work done twice.
        let Ok(note) = serde_json::from_slice::<Note>(&bytes) else { return Ok(None) };
        let now = self.env.now_ms();
        let holds = note.v == VERSION
            && note.token != self.token
            && note.holder != self.holder
            && note.until_ms > now
            && note.until_ms.saturating_sub(now) < AHEAD_MAX_MS;
        Ok(holds.then_some(Held { holder: note.holder, until_ms: note.until_ms }))
    }
}

impl From<Held> for Error {
    fn from(held: Held) -> Self {
        Self::new(ErrorKind::Conflict, format!("{} looks after it", held.holder))
    }
}
