//! Loading a table: never older than what was seen before, and never another one under its name.

use crate::commit::drive::stale_wait;
use crate::commit::protocol::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::model::table::TableState;

/// Loads in a row that may be older than one already seen, before the catalog is not believed any more.
pub(super) const STALE_MAX: u32 = 20;
pub(super) const FROM_THE_PAST: &str = "the catalog answers from the past";

impl Committer {
    /// Loads the table, never older than what was seen before: waits for a catalog that answers from the past.
    ///
    /// # Errors
    /// As [`Committer::load_once`].
    pub async fn load(&mut self) -> Result<TableState> {
        loop {
            if let Some(state) = self.load_once().await? {
                return Ok(state);
            }
            self.env.sleep(stale_wait(&self.env, self.stale)).await;
        }
    }

    /// The table has had this sequence number: whatever shows a lower one is from the past.
    pub fn has_seen(&mut self, seq: i64) {
        self.seen_seq = self.seen_seq.max(seq);
    }

    /// Loads the table once; nothing when the answer is older than what was seen before.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Corrupt` when it is another table now or the catalog answers from the past for good.
    pub async fn load_once(&mut self) -> Result<Option<TableState>> {
        let state = self.catalog.load(&self.table).await?;
        self.recognise(&state)?;
        self.storage = self.shared.vended(&state.config)?;
        if state.metadata.last_sequence_number() >= self.seen_seq {
            self.seen_seq = state.metadata.last_sequence_number();
            self.stale = 0;
            return Ok(Some(state));
        }
        self.stale += 1;
        if self.stale < STALE_MAX {
            return Ok(None);
        }
        self.stale = 0;
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("table {}: the catalog answers with states older than ones it gave before", self.table),
        )
        .with_hint(
            "the table's metadata was set back, or a replica lags: see that it is current, then restart the pipeline",
        ))
    }

    /// The head, when `error` may come of a state that is not: files that it names may be gone since, and credentials that
    /// came with it may have run out.
    pub(super) async fn outdated(&mut self, state: &TableState, error: &Error) -> Result<Option<TableState>> {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) {
            return Ok(None);
        }
        let Some(head) = self.load_once().await? else {
            return Err(Error::new(ErrorKind::Unavailable, format!("table {}: {FROM_THE_PAST}", self.table)));
        };
        let same = head.metadata.last_updated_ms() == state.metadata.last_updated_ms()
            && head.metadata_location == state.metadata_location
            && head.config == state.config;
        Ok((!same).then_some(head))
    }

    pub(super) fn recognise(&mut self, state: &TableState) -> Result<()> {
        let uuid = state.metadata.uuid();
        match self.uuid {
            Some(held) if held != uuid => Err(Error::new(
                ErrorKind::Corrupt,
                format!("table {} is another table now: uuid {uuid}, not {held}", self.table),
            )
            .with_hint(
                "it was dropped and created anew: bring the old one back, or set the positions in the new one with \
                 `frazil checkpoint set`, then restart the pipeline",
            )),
            held => {
                if let Some(ledger) = self.ledger.as_ref().filter(|_| held.is_none()) {
                    ledger.means(&self.table, uuid);
                }
                self.uuid = Some(uuid);
                Ok(())
            }
        }
    }
}
