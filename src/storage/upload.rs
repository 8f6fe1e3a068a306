//! Objects that are written as they come: in parts to clouds, through a hidden file to local disks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use tokio::task::JoinSet;

use super::counters::UnderWay;
use super::ledger::{Ledger, LedgerOwner};
use super::local::Staging;
use super::{Operation, Storage, StoreCounters, fault};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a part: every store takes 8 MiB, and some want all parts but the last alike.
const PART_BYTES: usize = 8 << 20;
/// After so many parts their size doubles, so that 10,000 of them, the most that S3 takes, hold 5 TiB.
const PARTS_BEFORE_DOUBLING: usize = 1000;
/// Parts that S3 takes.
const PARTS_MAX: usize = 10_000;
/// Bytes from which on what is written goes into its part as it is; what is smaller is gathered first.
const PIECE_BYTES: usize = 32 << 10;
/// Parts under way at once; with the one that fills, an upload holds three in memory, and what its last pieces were cut from.
const PARTS_UNDER_WAY: usize = 2;

/// One object under way. Nobody sees it before [`Upload::finish`]; dropped without, its leftovers stay in the ledger.
pub struct Upload {
    location: String,
    ledger: Option<(Ledger, LedgerOwner)>,
    counters: Arc<StoreCounters>,
    written: u64,
    sink: Sink,
    /// Until it is closed.
    under_way: Option<UnderWay>,
}

enum Sink {
    Local(Box<Staging>),
    Parts(Parts),
    /// Finished, aborted, or failed.
    Closed,
}

impl Upload {
    /// Begins an object; its name is in the ledger when this returns.
    ///
    /// # Errors
    /// `Config` for a bad location; those of the ledger; for local files `Denied` and `Unavailable`.
    pub(super) async fn start(storage: &Storage, at: &str, ledger: Option<(Ledger, LedgerOwner)>) -> Result<Self> {
        let (client, location) = storage.object(at)?;
        if let Some((ledger, owner)) = &ledger {
            ledger.stage(owner, at).await?;
        }
        let counters = Arc::clone(storage.counters());
        let under_way = Some(UnderWay::begin(&counters));
        let mut upload = Self { location: at.to_owned(), ledger, counters, written: 0, sink: Sink::Closed, under_way };
        if let Some(local) = &client.local {
            let id = local.draw_id();
            // Before there is a file: whoever is killed in between leaves none that nobody knows.
            upload.note_id(&id).await?;
            let staging = local.begin(&location.path, &id).await.map_err(|e| fault::wrap(&e, "write", at))?;
            upload.sink = Sink::Local(Box::new(staging));
            return Ok(upload);
        }
        let multipart = client.stack.parts.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("write {at}: this store cannot take an object in parts"))
        })?;
        upload.sink = Sink::Parts(Parts {
            objects: client.stack.objects,
            multipart,
            path: location.path,
            waiting: Waiting::default(),
            id: None,
            begun: 0,
            under_way: JoinSet::new(),
            done: Vec::new(),
        });
        Ok(upload)
    }

    /// Appends. Waits while two parts are under way.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`; the object is given up then, and what it left is removed as far as the store lets us.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let done = self.append(bytes).await;
        self.written = self.written.saturating_add(length);
        if let (Some(under_way), Sink::Parts(parts)) = (&mut self.under_way, &self.sink) {
            let sent = parts.under_way.len().saturating_mul(part_bytes(parts.begun));
            under_way.holds(u64::try_from(parts.waiting.bytes.saturating_add(sent)).unwrap_or(u64::MAX));
        }
        self.or_give_up(done).await
    }

    /// Completes the object and returns its size in bytes: from now on everybody sees it, whole.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub async fn finish(&mut self) -> Result<u64> {
        let done = match &mut self.sink {
            Sink::Local(staging) => {
                let done = staging.finish().await;
                self.counters.note(Operation::Put, &done, usize::try_from(self.written).unwrap_or(usize::MAX));
                done.map(|_| ()).map_err(|e| fault::wrap(&e, "write", &self.location))
            }
            Sink::Parts(parts) if parts.id.is_none() => {
                let all = std::mem::take(&mut parts.waiting).take(usize::MAX);
                let put = parts.objects.put(&parts.path, all).await;
                put.map(|_| ()).map_err(|e| fault::wrap(&e, "write", &self.location))
            }
            Sink::Parts(parts) => parts.complete(&self.location, self.written).await,
            Sink::Closed => Err(self.closed()),
        };
        self.or_give_up(done).await?;
        self.sink = Sink::Closed;
        self.under_way = None;
        Ok(self.written)
    }

    /// Gives the object up and removes its leftovers.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`: the leftovers stay, and stay in the ledger.
    pub async fn abort(&mut self) -> Result<()> {
        self.under_way = None;
        match std::mem::replace(&mut self.sink, Sink::Closed) {
            Sink::Local(mut staging) => staging.abort().await.map_err(|e| fault::wrap(&e, "abort", &self.location)),
            Sink::Parts(parts) => parts.abort(&self.location).await,
            Sink::Closed => Ok(()),
        }
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// Where the object will be.
    pub fn location(&self) -> &str {
        &self.location
    }

    async fn append(&mut self, bytes: Bytes) -> Result<()> {
        match &mut self.sink {
            Sink::Local(staging) => staging.write(&bytes).await.map_err(|e| fault::wrap(&e, "write", &self.location)),
            Sink::Parts(parts) => {
                parts.waiting.add(bytes);
                while let Sink::Parts(parts) = &mut self.sink {
                    if parts.waiting.bytes < part_bytes(parts.begun) {
                        break;
                    }
                    if parts.id.is_none() {
                        let id = parts.create().await.map_err(|e| fault::wrap(&e, "write", &self.location))?;
                        self.note_id(&id).await?;
                        continue;
                    }
                    let part = parts.waiting.take(part_bytes(parts.begun));
                    parts.send(part, &self.location).await?;
                }
                Ok(())
            }
            Sink::Closed => Err(self.closed()),
        }
    }

    async fn note_id(&self, id: &str) -> Result<()> {
        match &self.ledger {
            Some((ledger, owner)) => ledger.multipart(owner, &self.location, id).await,
            None => Ok(()),
        }
    }

    async fn or_give_up(&mut self, done: Result<()>) -> Result<()> {
        if done.is_err()
            && let Err(error) = self.abort().await
        {
            tracing::warn!(error = %error, "an unfinished upload stays behind; the ledger or the orphan sweep has it");
        }
        done
    }

    fn closed(&self) -> Error {
        Error::new(ErrorKind::Internal, format!("write {}: it was finished or given up before", self.location))
    }
}

/// Bytes of the part with this index.
fn part_bytes(index: usize) -> usize {
    PART_BYTES << (index / PARTS_BEFORE_DOUBLING).min(9)
}

/// What was written and is in no part yet. Nothing is copied but what is small, or shared with somebody: whoever cut it from
/// something larger may go on holding that.
#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Waiting {
    fn add(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() < PIECE_BYTES || !piece.is_unique() {
            self.small.extend_from_slice(&piece);
        } else {
            self.gather();
            self.pieces.push_back(piece);
        }
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// So many bytes, or as many as there are.
    fn take(&mut self, bytes: usize) -> PutPayload {
        self.gather();
        let (mut part, mut left) = (Vec::new(), bytes);
        while left > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            if piece.len() > left {
                self.pieces.push_front(piece.split_off(left));
            }
            left -= piece.len();
            self.bytes -= piece.len();
            part.push(piece);
        }
        part.into_iter().collect()
    }
}

struct Parts {
    objects: Arc<dyn ObjectStore>,
    multipart: Arc<dyn MultipartStore>,
    path: Path,
    waiting: Waiting,
    id: Option<String>,
    begun: usize,
    under_way: JoinSet<object_store::Result<(usize, PartId)>>,
    done: Vec<(usize, PartId)>,
}

impl Parts {
    async fn create(&mut self) -> object_store::Result<String> {
        let id = self.multipart.create_multipart(&self.path).await?;
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Sends a part once fewer than two are under way.
    async fn send(&mut self, part: PutPayload, location: &str) -> Result<()> {
        while self.under_way.len() >= PARTS_UNDER_WAY {
            self.join(location).await?;
        }
        if self.begun >= PARTS_MAX {
            return Err(Error::new(ErrorKind::Unsupported, format!("write {location}: more than {PARTS_MAX} parts"))
                .with_hint("lower the target file size"));
        }
        let Some(id) = self.id.clone() else {
            return Err(Error::new(ErrorKind::Internal, format!("write {location}: a part before its upload")));
        };
        let (index, multipart, path) = (self.begun, Arc::clone(&self.multipart), self.path.clone());
        self.begun += 1;
        self.under_way
            .spawn(async move { multipart.put_part(&path, &id, index, part).await.map(|part| (index, part)) });
        Ok(())
    }

    /// Waits for one part.
    async fn join(&mut self, location: &str) -> Result<()> {
        match self.under_way.join_next().await {
            None => Ok(()),
            Some(Ok(Ok(part))) => {
                self.done.push(part);
                Ok(())
            }
            Some(Ok(Err(error))) => Err(fault::wrap(&error, "write", location)),
            Some(Err(error)) => {
                Err(Error::new(ErrorKind::Internal, format!("write {location}: a part's task failed"))
                    .with_source(error))
            }
        }
    }

    async fn complete(&mut self, location: &str, written: u64) -> Result<()> {
        if self.waiting.bytes > 0 {
            let last = std::mem::take(&mut self.waiting).take(usize::MAX);
            self.send(last, location).await?;
        }
        while !self.under_way.is_empty() {
            self.join(location).await?;
        }
        let Some(id) = &self.id else { return Ok(()) };
        self.done.sort_unstable_by_key(|(index, _)| *index);
        let parts = std::mem::take(&mut self.done).into_iter().map(|(_, part)| part).collect();
        let Err(error) = self.multipart.complete_multipart(&self.path, id, parts).await else { return Ok(()) };
        // A completion whose answer was lost is answered "no such upload" when it is repeated. Names are unique, so
        // an object of the right size is ours.
        match self.objects.head(&self.path).await {
            Ok(meta) if meta.size == written => Ok(()),
            _ => Err(fault::wrap(&error, "write", location)),
        }
    }

    async fn abort(mut self, location: &str) -> Result<()> {
        // A part that lands after the abort would stay for ever.
        self.under_way.shutdown().await;
        let Some(id) = &self.id else { return Ok(()) };
        super::gone(self.multipart.abort_multipart(&self.path, id).await, location)
    }
}

impl AsyncFileWriter for Upload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { Self::write(self, bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async move { self.finish().await.map(|_| ()).map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("location", &self.location)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every store wants all parts but the last alike.
    #[test]
    fn parts_are_alike_and_nothing_large_is_copied_that_nobody_else_holds() {
        let mut waiting = Waiting::default();
        let own = Bytes::from(vec![1_u8; 3 * PIECE_BYTES]);
        let shared = Bytes::from(vec![2_u8; 3 * PIECE_BYTES]);
        let (at, theirs) = (own.as_ptr(), shared.slice(..2 * PIECE_BYTES));
        for piece in [Bytes::from_static(b"few"), own, theirs.clone(), Bytes::from_static(b"more")] {
            waiting.add(piece);
        }
        let all = 3 + 5 * PIECE_BYTES + 4;
        assert_eq!(waiting.bytes, all);
        let parts = [PIECE_BYTES, PIECE_BYTES, usize::MAX].map(|bytes| waiting.take(bytes));
        let lengths = parts.each_ref().map(PutPayload::content_length);
        assert_eq!((lengths, waiting.bytes), ([PIECE_BYTES, PIECE_BYTES, all - 2 * PIECE_BYTES], 0));
        let pieces: Vec<Bytes> = parts.into_iter().flatten().collect();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == at) && shared.len() == 3 * PIECE_BYTES);
        let copied = |piece: &Bytes| !shared.as_ptr_range().contains(&piece.as_ptr());
        assert!(pieces.iter().all(copied) && pieces.concat()[3 + 3 * PIECE_BYTES..][..2 * PIECE_BYTES] == theirs[..]);
    }
}
