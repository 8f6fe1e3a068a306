//! Standard input, one row a line.
//!
//! At least once: a pipe cannot be read again. Lines are numbered from where the checkpoint stands, and what the sender
//! sends again after a crash is stored again. Within one process nothing is repeated or lost: batches are kept until they
//! are committed, up to 64 MiB of them, so that a pipeline can go back to its checkpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::poll_immediate;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, Position, Range};
use crate::model::ids::PartitionId;
use crate::source::framing::{Cut, Framer, Sizes};
use crate::source::{Source, SourceEvent};

/// The only partition.
const PARTITION: &str = "stdin";
/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of batches that are kept for going back.
const KEPT_BYTES: usize = 64 << 20;

/// Lines from a pipe. A position is the number of lines up to it.
pub struct StdinSource {
    input: Box<dyn AsyncRead + Send + Unpin>,
    room: Vec<u8>,
    sizes: Sizes,
    framer: Framer,
    /// Batches that are not committed, or not yet given: those before `next` were given.
    kept: VecDeque<RawBatch>,
    next: usize,
    /// Where the last batch of `kept` ends.
    end: Option<Position>,
    begun: bool,
    ended: bool,
    idle: bool,
}

impl StdinSource {
    /// Reads `input` to its end; rows longer than `row_bytes_max` are rejected.
    pub fn new(input: impl AsyncRead + Send + Unpin + 'static, row_bytes_max: u64) -> Self {
        let sizes = Sizes::new(row_bytes_max);
        Self {
            input: Box::new(input),
            room: vec![0; READ_BYTES],
            sizes,
            framer: Framer::numbering(sizes, 0),
            kept: VecDeque::new(),
            next: 0,
            end: None,
            begun: false,
            ended: false,
            idle: false,
        }
    }

    /// The same, where lines of white space alone are rows if `blank_rows` says so. Call before `open`.
    #[must_use]
    pub fn with_blank_rows(mut self, blank_rows: bool) -> Self {
        self.sizes.blank_rows = blank_rows;
        self.framer = Framer::numbering(self.sizes, 0);
        self
    }

    fn keep(&mut self, cut: Cut) -> Result<()> {
        let line = i64::try_from(cut.through).context(ErrorKind::Internal, || "number the lines of standard input")?;
        let to = Position::Offset(line);
        let from = self.end.replace(to.clone());
        self.kept.push_back(cut.into_batch(PartitionId::new(PARTITION), Arc::from(PARTITION), Range { from, to }));
        let mut bytes: usize = self.kept.iter().map(|batch| batch.data.len()).sum();
        while self.next > 0 && bytes > KEPT_BYTES {
            bytes -= self.kept.pop_front().map_or(0, |batch| batch.data.len());
            self.next -= 1;
        }
        Ok(())
    }

    /// Waits for bytes and cuts them; says whether there is news to give first.
    async fn read(&mut self) -> Result<Option<SourceEvent>> {
        let waiting = poll_immediate(self.input.read(&mut self.room)).await;
        let count = match waiting {
            Some(count) => count,
            None => {
                if let Some(cut) = self.framer.cut() {
                    self.keep(cut)?;
                    return Ok(None);
                }
                if !std::mem::replace(&mut self.idle, true) {
                    return Ok(Some(SourceEvent::Idle));
                }
                self.input.read(&mut self.room).await
            }
        };
        let count = count.context(ErrorKind::Unavailable, || "read standard input")?;
        (self.begun, self.idle, self.ended) = (true, false, count == 0);
        let mut cuts = vec![];
        if self.ended {
            cuts.extend(self.framer.finish());
        } else {
            self.framer.feed(&self.room[..count], &mut cuts);
        }
        cuts.into_iter().try_for_each(|cut| self.keep(cut))?;
        Ok(None)
    }
}

#[async_trait]
impl Source for StdinSource {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let at = checkpoint.positions.get(&PartitionId::new(PARTITION));
        let lines = match at {
            None => Some(0),
            Some(Position::Offset(lines)) => u64::try_from(*lines).ok(),
            Some(Position::Files(_)) => None,
        };
        let Some(lines) = lines else {
            return Err(Error::new(ErrorKind::Corrupt, "the checkpoint of standard input is no number of lines"));
        };
        if !self.begun {
            self.framer = Framer::numbering(self.sizes, lines);
            self.end = at.cloned();
            return Ok(());
        }
        let begins = self.kept.iter().position(|batch| batch.range.from.as_ref() == at);
        match begins {
            Some(batch) => self.next = batch,
            None if self.end.as_ref() == at => self.next = self.kept.len(),
            None => {
                let context = format!("standard input cannot be read again from line {} on", lines.saturating_add(1));
                return Err(Error::new(ErrorKind::Corrupt, context)
                    .with_hint("start frazil again and send the lines after that one again"));
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            if let Some(batch) = self.kept.get(self.next) {
                self.next += 1;
                return Ok(SourceEvent::Batch(batch.clone()));
            }
            if self.ended {
                return Ok(SourceEvent::End);
            }
            if let Some(event) = self.read().await? {
                return Ok(event);
            }
        }
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let at = checkpoint.positions.get(&PartitionId::new(PARTITION));
        while self.next > 0 {
            let done = self.kept.front().is_some_and(|batch| at.is_some_and(|at| at.covers(&batch.range.to)));
            if !done {
                break;
            }
            self.kept.pop_front();
            self.next -= 1;
        }
        Ok(())
    }

    fn identity(&self) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Reading;

    async fn whole(text: &'static str) -> Reading {
        let mut reading = Reading::default();
        assert!(reading.drain(&mut StdinSource::new(text.as_bytes(), 10), 2).await);
        reading
    }

    #[tokio::test]
    async fn lines_are_rows_and_the_last_one_needs_no_newline() {
        let reading = whole("a\r\n\nb\n0123456789a\nc").await;
        assert_eq!(reading.texts(), ["a", "b", "c"]);
        assert_eq!(reading.reasons(), ["the row has 11 bytes, more than row_bytes_max = 10"]);
        assert_eq!(reading.at, Some(Position::Offset(5)));
    }

    #[tokio::test]
    async fn an_empty_input_ends_without_a_batch() {
        let reading = whole("").await;
        assert_eq!((reading.at, reading.batches), (None, 0));
    }

    #[tokio::test]
    async fn lines_are_numbered_on_from_the_checkpoint() {
        let mut reading = Reading { at: Some(Position::Offset(7)), ..Reading::default() };
        let mut source = StdinSource::new(&b"x\n"[..], 10);
        source.open(&reading.checkpoint(&source, PARTITION)).await.expect("opens");
        assert!(reading.drain(&mut source, 1).await);
        assert_eq!(reading.rows, [("stdin".into(), 8, "x".into())]);
    }

    #[tokio::test]
    async fn what_has_come_is_given_before_waiting_and_can_be_given_again_until_it_is_released() {
        use tokio::io::AsyncWriteExt;
        let (mut sender, receiver) = tokio::io::duplex(1_000);
        let mut source = StdinSource::new(receiver, 10);
        let start = Reading::default();
        source.open(&start.checkpoint(&source, PARTITION)).await.expect("opens");
        sender.write_all(b"a\nhal").await.expect("room");
        let mut reading = Reading::default();
        assert!(!reading.drain(&mut source, 1).await);
        assert_eq!(reading.texts(), ["a"]);
        source.open(&start.checkpoint(&source, PARTITION)).await.expect("goes back");
        let mut again = Reading::default();
        again.some(&mut source, 1).await;
        assert_eq!(again.rows, reading.rows);
        source.release(&again.checkpoint(&source, PARTITION)).await.expect("released");
        let back = source.open(&start.checkpoint(&source, PARTITION)).await.expect_err("gone");
        assert_eq!(back.kind(), ErrorKind::Corrupt);
        source.open(&again.checkpoint(&source, PARTITION)).await.expect("goes on");
        sender.write_all(b"f\n").await.expect("room");
        drop(sender);
        assert!(again.drain(&mut source, 3).await);
        assert_eq!(again.texts(), ["a", "half"]);
    }
}
