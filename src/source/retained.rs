//! A source that cannot be read again, made replayable within the process: what is not released is kept.

use std::collections::VecDeque;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::batch::RawBatch;
use crate::model::checkpoint::Checkpoint;
use crate::source::{Source, SourceEvent};

/// Keeps every batch of `inner` until it is released, so that a pipeline that begins again loses nothing.
///
/// Memory is bounded by what a pipeline leaves uncommitted: one epoch and the batches decoded ahead.
pub struct Retained {
    inner: Box<dyn Source>,
    kept: VecDeque<RawBatch>,
    /// Batches of `kept` that were given since the last `open`.
    given: usize,
    opened: bool,
}

impl Retained {
    /// A replayable form of `inner`, which is opened once.
    pub fn new(inner: Box<dyn Source>) -> Self {
        Self { inner, kept: VecDeque::new(), given: 0, opened: false }
    }

    /// Whether the rows of `batch` are in.
    fn is_in(batch: &RawBatch, checkpoint: &Checkpoint) -> bool {
        checkpoint.positions.get(&batch.partition).is_some_and(|held| held.covers(&batch.range.to))
    }
}

#[async_trait]
impl Source for Retained {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.given = self.kept.iter().take_while(|batch| Self::is_in(batch, checkpoint)).count();
        if !self.opened {
            self.inner.open(checkpoint).await?;
            self.opened = true;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        if let Some(batch) = self.kept.get(self.given) {
            self.given += 1;
            return Ok(SourceEvent::Batch(batch.clone()));
        }
        let event = self.inner.next().await?;
        if let SourceEvent::Batch(batch) = &event {
            self.kept.push_back(batch.clone());
            self.given += 1;
        }
        Ok(event)
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        while self.kept.front().is_some_and(|batch| Self::is_in(batch, checkpoint)) {
            self.kept.pop_front();
            self.given = self.given.saturating_sub(1);
        }
        self.inner.release(checkpoint).await
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::model::checkpoint::{Position, Range};
    use crate::model::ids::PartitionId;

    /// Numbers from 0 on, one a batch, never again.
    struct Once(i64);

    #[async_trait]
    impl Source for Once {
        async fn open(&mut self, _: &Checkpoint) -> Result<()> {
            assert_eq!(self.0, 0, "opened once");
            Ok(())
        }

        async fn next(&mut self) -> Result<SourceEvent> {
            self.0 += 1;
            let from = (self.0 > 1).then(|| Position::Offset(self.0 - 1));
            Ok(SourceEvent::Batch(RawBatch {
                partition: PartitionId::new("p"),
                range: Range { from, to: Position::Offset(self.0) },
                origin: Arc::from("once"),
                data: Bytes::new(),
                rows: vec![],
                rejects: vec![],
            }))
        }

        async fn release(&mut self, _: &Checkpoint) -> Result<()> {
            Ok(())
        }

        fn identity(&self) -> String {
            String::new()
        }
    }

    async fn next(source: &mut Retained) -> Position {
        match source.next().await.expect("never fails") {
            SourceEvent::Batch(batch) => batch.range.to,
            other => panic!("{other:?}"),
        }
    }

    fn at(offset: i64) -> Checkpoint {
        Checkpoint { positions: [(PartitionId::new("p"), Position::Offset(offset))].into(), ..Checkpoint::default() }
    }

    #[tokio::test]
    async fn what_was_not_committed_is_given_again_and_what_was_is_forgotten() {
        let mut source = Retained::new(Box::new(Once(0)));
        source.open(&Checkpoint::default()).await.expect("opens");
        for offset in 1..=5 {
            assert_eq!(next(&mut source).await, Position::Offset(offset));
        }
        source.release(&at(2)).await.expect("releases");
        source.open(&at(3)).await.expect("opens again");
        assert_eq!(source.kept.len(), 3);
        for offset in 4..=7 {
            assert_eq!(next(&mut source).await, Position::Offset(offset));
        }
    }
}
