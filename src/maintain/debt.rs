//! What a table owes: files that readers open in vain, and history that nobody needs, as far as its metadata shows. For tables
//! of any writer; changes nothing.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use crate::commit::manifests;
use crate::compact::files::LiveFiles;
use crate::config::policy::Policy;
use crate::error::Result;
use crate::maintain::compaction::Compaction;
use crate::maintain::expire;
use crate::maintain::keepers::{Keeper, rewriters, writer};
use crate::maintain::round::Round;
use crate::maintain::upkeep::{rules, usual};
use crate::model::ids::{MAIN, TableName};
use crate::model::table::TableState;

/// Snapshots that weigh as much as one file that readers open in vain.
const SNAPSHOTS_OF_A_FILE: u64 = 10;

/// How a table is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Debt {
    /// Data files of the head.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The size that half of them stay below; nothing where manifests cannot be read.
    pub p50_bytes: Option<u64>,
    /// Delete files of the head.
    pub delete_files: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Of these, what expiry would remove.
    pub expirable: u64,
    /// Bytes of the metadata document.
    pub metadata_bytes: Option<u64>,
    /// Manifests of the head.
    pub manifests: Option<u64>,
    /// Their bytes.
    pub manifest_bytes: Option<u64>,
    /// Files that compaction would rewrite, with deletes; and those that it would leave in their place.
    pub rewrite: (u64, u64),
    /// Bytes that it would read.
    pub rewrite_bytes: u64,
    /// Its work, in milliseconds of a core.
    pub core_ms: u64,
    /// Who manages the table by itself.
    pub keeper: Option<String>,
    /// Whether a policy of the configuration or the table itself asks for maintenance.
    pub named: bool,
    /// Who wrote the head.
    pub writer: Option<String>,
    /// Engines that rewrote files, and in how many snapshots.
    pub rewriters: BTreeMap<String, usize>,
    /// What could not be looked at, or cannot be done, and why.
    pub notes: Vec<String>,
}

impl Debt {
    /// Files fewer for readers after compaction, delete files included.
    pub fn gain(&self) -> u64 {
        self.rewrite.0.saturating_sub(self.rewrite.1)
    }

    /// One number to sort by: files that readers open in vain, and a tenth of the snapshots that could go.
    pub fn score(&self) -> u64 {
        self.gain().saturating_add(self.expirable / SNAPSHOTS_OF_A_FILE)
    }

    fn of_metadata(state: &TableState, policy: &Policy) -> Self {
        let head = state.metadata.current_snapshot();
        let total = |name: &str| {
            let text = head.and_then(|head| head.summary().additional_properties.get(name));
            text.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default()
        };
        Self {
            files: total("total-data-files"),
            bytes: total("total-files-size"),
            delete_files: total("total-delete-files"),
            snapshots: state.metadata.snapshots().count() as u64,
            keeper: Keeper::of(state).map(|keeper| format!("{} ({})", keeper.name, keeper.sign)),
            named: policy.named,
            writer: head.and_then(|head| writer(&head.summary().additional_properties)),
            rewriters: rewriters(state),
            ..Self::default()
        }
    }

    fn take_files(&mut self, files: &LiveFiles) {
        let mut sizes: Vec<u64> = files.data.iter().map(|file| file.bytes).collect();
        self.files = sizes.len() as u64;
        self.bytes = sizes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes));
        self.delete_files = files.deletes.len() as u64;
        self.p50_bytes = median(&mut sizes);
    }
}

impl Round {
    /// How these tables are, in their order.
    pub async fn debts(&self, tables: &[TableName]) -> Vec<(TableName, Result<Debt>)> {
        let mut looks: Vec<BoxFuture<'_, Result<Debt>>> = Vec::new();
        for table in tables {
            looks.push(self.debt(table).boxed());
        }
        let looks: Vec<_> = stream::iter(looks).buffered(self.options.loads.max(1)).collect().await;
        tables.iter().cloned().zip(looks).collect()
    }

    async fn debt(&self, table: &TableName) -> Result<Debt> {
        let mut committer = self.committer(table);
        let state = committer.load().await?;
        let mut notes = Vec::new();
        let policy = match self.policies.policy(&self.name, table, state.metadata.properties()) {
            Ok(policy) => policy,
            Err(error) => {
                notes.push(error.to_string());
                self.policies.policy(&self.name, table, &Default::default())?
            }
        };
        let mut debt = Debt { notes, ..Debt::of_metadata(&state, &policy) };
        let storage = committer.storage().clone();
        if let Some(location) = &state.metadata_location {
            debt.metadata_bytes = storage.size(location).await.ok();
        }
        if let Some(head) = state.head(MAIN) {
            let list = manifests::list(&storage, head.manifest_list(), state.metadata.format_version()).await;
            match list {
                Ok(list) => {
                    debt.manifests = Some(list.len() as u64);
                    let bytes = list.iter().map(|manifest| u64::try_from(manifest.manifest_length).unwrap_or(0));
                    debt.manifest_bytes = Some(bytes.sum());
                }
                Err(error) => debt.notes.push(error.to_string()),
            }
        }
        let age = expire::Policy::of(&state, &usual(&policy.expire), expire::Wish::default())
            .and_then(|policy| expire::choose(&state, &policy, expire::Wish::default(), self.env.now_ms()));
        match age {
            Ok(choice) => debt.expirable = choice.snapshots.len() as u64,
            Err(error) => debt.notes.push(error.to_string()),
        }
        // What is hot now will be quiet: the debt is the same.
        let mut rules = rules(&policy.compact);
        rules.policy.quiet_ms = 0;
        let wish = crate::maintain::compaction::Wish { target_bytes: None, rewrite_all: false, memory: 0 };
        let compaction = Compaction { env: &self.env, committer: &mut committer, leftovers: &self.leftovers, wish };
        let planned = match state.check_known() {
            Ok(()) => compaction.plan(state, &rules).await,
            Err(error) => Err(error),
        };
        match planned {
            Ok(None) => {}
            Ok(Some(base)) => {
                debt.take_files(base.files());
                for group in base.groups() {
                    debt.rewrite.0 += (group.inputs.len() + group.deletes.len()) as u64;
                    debt.rewrite.1 += group.files_out;
                    debt.rewrite_bytes += group.bytes_in;
                    debt.core_ms += group.core_ms;
                }
            }
            Err(error) => debt.notes.push(error.to_string()),
        }
        Ok(debt)
    }
}

/// The upper one of the two in the middle, where there are two.
fn median(sizes: &mut [u64]) -> Option<u64> {
    let middle = sizes.len() / 2;
    (!sizes.is_empty()).then(|| *sizes.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_in_the_middle_is_told_of_files_in_any_order() {
        for (mut sizes, expected) in
            [(vec![], None), (vec![4], Some(4)), (vec![9, 1, 5], Some(5)), (vec![8, 2, 6, 4], Some(6))]
        {
            assert_eq!(median(&mut sizes), expected, "{sizes:?}");
        }
    }
}
