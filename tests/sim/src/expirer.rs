//! `frazil expire` as a job that is started now and then beside ingest, through the same faults, with a disk of its own.

use std::sync::Arc;
use std::time::Duration;

use frazil::commit::protocol::Committer;
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use frazil::maintain::expire::Wish;
use frazil::maintain::expiry::{Expiry, Pace, Report};
use frazil::model::ids::TableName;
use frazil::storage::disk::MemoryDisk;
use frazil::storage::{Storage, StorageOptions};

use crate::catalog::NetworkCatalog;
use crate::process::{Process, ProcessClock};
use crate::store::{NetworkStore, ProcessDisk};
use crate::world::World;

/// What an expirer's commits are told by.
pub const NAME: &str = "x";

/// The expirer over all its runs.
#[derive(Debug)]
pub struct Expirer {
    world: Arc<World>,
    wish: Wish,
    disk: Arc<MemoryDisk>,
    runs: u64,
}

impl Expirer {
    /// An expirer that keeps what is younger than `age`.
    pub fn new(world: Arc<World>, age: Duration) -> Self {
        let wish = Wish { age: Some(age), count_min: Some(1) };
        Self { world, wish, disk: Arc::new(MemoryDisk::new()), runs: 0 }
    }

    /// Its disk.
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Runs now and then, for ever.
    pub async fn work(mut self, tables: Vec<TableName>) {
        loop {
            tokio::time::sleep(Duration::from_secs(60) + self.world.time(Duration::from_secs(300))).await;
            for table in &tables {
                self.run(table).await;
            }
        }
    }

    /// One run on one table, that may die at any call. `None`: it did.
    pub async fn run(&mut self, table: &TableName) -> Option<Result<Report, Error>> {
        self.runs += 1;
        let world = Arc::clone(&self.world);
        let dies_at = if world.rates().catalog > 0 && world.happens(20) && world.step() {
            1 + world.env.below(60)
        } else {
            u64::MAX
        };
        let process = Process::new(format!("{NAME}{}", self.runs), dies_at);
        let clock = ProcessClock { process: Arc::clone(&process), clock: world.clock };
        let env = Env::simulated(Arc::new(clock), world.env.bits());
        let storage = Storage::new(StorageOptions { stores: vec![], requests_max: 16, retries: 3 }, env.clone());
        storage.mount("memory:///", Arc::new(NetworkStore::new(Arc::clone(&world), Arc::clone(&process))));
        let catalog = Arc::new(NetworkCatalog::new(Arc::clone(&world), Arc::clone(&process)));
        let disk = ProcessDisk::new(Arc::clone(&world), Arc::clone(&process), Arc::clone(&self.disk));
        let mut committer = Committer::new(env.clone(), catalog, storage, None, table.clone(), process.name.clone());
        let mut expiry =
            Expiry { env: &env, disk: &disk, committer: &mut committer, wish: self.wish, pace: Pace::default() };
        let done = tokio::select! {
            biased;
            () = process.death() => None,
            done = expiry.run_due() => Some(done),
        };
        match &done {
            None => {
                world.note(&process.name, "is dead");
                world.cover("expirer × crash");
            }
            Some(Ok(report)) => self.tell(&process.name, report),
            Some(Err(error)) => {
                world.note(&process.name, &format!("{table}: {error}"));
                world.cover(format!("expirer × ends with {:?}", error.kind()));
                let passing = [ErrorKind::Unavailable, ErrorKind::Conflict, ErrorKind::NotFound];
                let dropped = world.with_auditor(|a| a.is_dropped(table));
                if !passing.contains(&error.kind()) && !dropped {
                    world.violation(format!("an expiry of {table} ends with {error}"));
                }
            }
        }
        process.kill();
        self.disk.crash_keeping(|_, unsynced| usize::try_from(world.env.below(unsynced as u64 + 1)).unwrap_or(0));
        done
    }

    fn tell(&self, name: &str, report: &Report) {
        let steps = [
            ("noted", report.noted.len()),
            ("removed", report.removed.len()),
            ("deleted", report.files),
            ("held", report.held.len()),
        ];
        for (step, count) in steps.into_iter().filter(|(_, count)| *count > 0) {
            self.world.note(name, &format!("{count} {step}"));
            self.world.cover(format!("expirer × {step}"));
        }
    }
}
