//! A catalog that loses answers, lies about its own success, and applies requests minutes late: for tests.
#![cfg(test)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iceberg::TableUpdate;

use super::over::catalog_over_inner;
use super::{Catalog, CreateTable, Outcome, PreparedCommit};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// What a faulty catalog does with a request that changes something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Done, and the answer is lost.
    LostYes,
    /// Not done, and no answer.
    LostNo,
    /// Refused without a reason.
    Refused,
    /// Done, then refused: a server that retried by itself.
    LyingNo,
    NotSent,
    Throttled,
    /// Not done, says nobody: a gateway asks to come again after half a minute.
    Busy,
    /// No answer now; applied when a later request comes.
    Late,
}

const FAULTS: [Fault; 7] =
    [Fault::LostYes, Fault::LostNo, Fault::Refused, Fault::LyingNo, Fault::NotSent, Fault::Throttled, Fault::Late];

/// Draws a fault for `rate` percent of the requests to `inner`.
#[derive(Debug)]
pub(crate) struct FaultyCatalog {
    inner: Arc<dyn Catalog>,
    env: Env,
    rate: u64,
    late: Mutex<Vec<PreparedCommit>>,
    script: Mutex<VecDeque<Fault>>,
    hangs: AtomicBool,
    past: Mutex<VecDeque<TableState>>,
}

impl FaultyCatalog {
    pub(crate) fn new(inner: Arc<dyn Catalog>, env: Env, rate: u64) -> Self {
        let (late, script, past) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, env, rate, late, script, hangs: AtomicBool::new(false), past }
    }

    /// What becomes of the next requests that change something, before chance decides again.
    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().expect("unpoisoned").extend(faults);
    }

    /// The next commit that decides a sealed epoch is done, and never answered.
    pub(crate) fn hang_at_a_decision(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    /// The next load of its table answers with this state, as if the table had moved right after it. Said again: the one after.
    pub(crate) fn answers_once(&self, past: TableState) {
        self.past.lock().expect("unpoisoned").push_back(past);
    }

    fn draw(&self) -> Fault {
        if let Some(fault) = self.script.lock().expect("unpoisoned").pop_front() {
            return fault;
        }
        if self.env.below(100) >= self.rate {
            return Fault::None;
        }
        FAULTS[usize::try_from(self.env.below(FAULTS.len() as u64)).expect("small")]
    }
}

fn decides(commit: &PreparedCommit) -> bool {
    commit.updates.iter().any(|update| match update {
        TableUpdate::SetProperties { updates } => updates.values().any(|text| text.contains("\"sealed\":[")),
        _ => false,
    })
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "connection reset")
}

catalog_over_inner! {
    FaultyCatalog {
        async fn load(&self, table: &TableName) -> Result<TableState> {
            if self.env.below(100) < self.rate / 4 {
                return Err(lost());
            }
            let past = self.past.lock().expect("unpoisoned").pop_front_if(|state| state.name == *table);
            match past {
                Some(state) => Ok(state),
                None => self.inner.load(table).await,
            }
        }

        async fn commit(&self, commit: &PreparedCommit) -> Outcome {
            let overdue = if self.env.below(3) == 0 { self.late.lock().expect("unpoisoned").pop() } else { None };
            if let Some(late) = overdue {
                let _ = self.inner.commit(&late).await;
            }
            self.env.sleep(Duration::from_millis(self.env.below(200))).await;
            if decides(commit) && self.hangs.swap(false, Ordering::Relaxed) {
                let _ = self.inner.commit(commit).await;
                return std::future::pending().await;
            }
            match self.draw() {
                Fault::None => self.inner.commit(commit).await,
                Fault::LostYes => {
                    let _ = self.inner.commit(commit).await;
                    Outcome::Unknown(lost())
                }
                Fault::LostNo => Outcome::Unknown(lost()),
                Fault::Busy => Outcome::Unknown(lost().with_wait(Some(Duration::from_secs(30)))),
                Fault::Refused => Outcome::Refused(Error::new(ErrorKind::Conflict, "no")),
                Fault::LyingNo => {
                    let _ = self.inner.commit(commit).await;
                    Outcome::Refused(Error::new(ErrorKind::Conflict, "no, after all"))
                }
                Fault::NotSent => Outcome::NotSent(lost()),
                Fault::Throttled => Outcome::Throttled(Duration::from_secs(1)),
                Fault::Late => {
                    self.late.lock().expect("unpoisoned").push(commit.clone());
                    Outcome::Unknown(lost())
                }
            }
        }

        async fn create(&self, table: &CreateTable) -> Outcome {
            match self.draw() {
                Fault::LostYes => {
                    let _ = self.inner.create(table).await;
                    Outcome::Unknown(lost())
                }
                Fault::LyingNo => {
                    let _ = self.inner.create(table).await;
                    Outcome::Refused(Error::new(ErrorKind::Conflict, "it exists already"))
                }
                Fault::Busy => Outcome::Unknown(lost().with_wait(Some(Duration::from_secs(30)))),
                Fault::LostNo | Fault::NotSent | Fault::Late => Outcome::Unknown(lost()),
                Fault::Throttled => Outcome::Throttled(Duration::from_secs(1)),
                Fault::None | Fault::Refused => self.inner.create(table).await,
            }
        }
    }
}
