//! Commits of rows that are under way in this process. Maintenance lets them go first: so a commit of rows never loses to more
//! than the one rewrite that was on its way when it set out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::ids::TableName;

type Key = (String, TableName);

/// What is under way, by catalog and table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    under_way: Arc<watch::Sender<BTreeMap<Key, usize>>>,
}

/// The commits to one table.
#[derive(Debug, Clone)]
pub struct TableTraffic {
    traffic: Traffic,
    key: Key,
}

/// A commit that is under way until this is dropped.
#[derive(Debug)]
pub struct Passage {
    table: TableTraffic,
}

impl Traffic {
    /// The commits to a table of a catalog.
    pub fn of(&self, catalog: &str, table: &TableName) -> TableTraffic {
        TableTraffic { traffic: self.clone(), key: (catalog.to_owned(), table.clone()) }
    }
}

impl TableTraffic {
    /// A commit sets out.
    pub fn enter(&self) -> Passage {
        self.traffic.under_way.send_modify(|under_way| *under_way.entry(self.key.clone()).or_default() += 1);
        Passage { table: self.clone() }
    }

    /// Returns when no commit is under way.
    pub async fn clear(&self) {
        let mut under_way = self.traffic.under_way.subscribe();
        // The sender lives as long as this table.
        let _ = under_way.wait_for(|under_way| !under_way.contains_key(&self.key)).await;
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.table.traffic.under_way.send_modify(|under_way| {
            if let Some(count) = under_way.get_mut(&self.table.key) {
                *count -= 1;
                if *count == 0 {
                    under_way.remove(&self.table.key);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_lane_is_clear_when_all_that_entered_it_have_left() {
        let traffic = Traffic::default();
        let of = |catalog, table: &str| traffic.of(catalog, &table.parse().expect("valid"));
        let own = of("lake", "db.t");
        let clear = |table: &TableTraffic| table.clear().now_or_never().is_some();
        assert!(clear(&own));
        let (first, second) = (own.enter(), of("lake", "db.t").enter());
        let mut waiting = Box::pin(own.clear());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(clear(&of("lake", "db.u")) && clear(&of("pond", "db.t")));
        drop(first);
        assert!(!clear(&own) && waiting.as_mut().now_or_never().is_none());
        drop(second);
        assert!(clear(&own) && waiting.now_or_never().is_some());
    }
}
