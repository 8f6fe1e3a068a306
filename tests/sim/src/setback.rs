//! What the auditor knows of setbacks: tables and branches that were dropped, and what operators said of rows that went.

use frazil::model::checkpoint::{Position, Record};
use frazil::model::ids::TableName;

use crate::audit::{Auditor, Known, Row, reached};
use crate::world::key;

impl Auditor {
    /// A table is dropped, and another one takes its name.
    pub fn drop_table(&mut self, table: &TableName) {
        let Some(seen) = self.tables.remove(table) else { return };
        self.loses_all(table);
        self.dropped.push((table.clone(), seen));
    }

    /// A table's branch is dropped. Whether it is for the first time.
    pub fn drop_branch(&mut self, table: &TableName, head: i64) -> bool {
        if self.headless.contains_key(table) {
            return false;
        }
        self.headless.insert(table.clone(), head);
        self.loses_all(table);
        true
    }

    /// All that a table ever had is gone, what others deleted from it included. The source is read again where the anchor is:
    /// what a table beside it has lost stays away.
    fn loses_all(&mut self, table: &TableName) {
        let rows: Vec<Row> = self.home.iter().filter(|(_, home)| *home == table).map(|(row, _)| *row).collect();
        self.rolled_back.extend(rows.iter().copied());
        self.accept_again(table);
        self.set_back.insert(table.clone());
        if self.pipelines.iter().all(|p| p.anchor != *table) {
            self.away.extend(rows);
        }
    }

    /// The positions that a pipeline had in a table before its branch was dropped.
    pub fn headless_record(&self, table: &TableName, pipeline: &str) -> Option<Record> {
        self.record_at(table, *self.headless.get(table)?, pipeline)
    }

    /// Whether any table or branch was dropped.
    pub fn any_dropped(&self) -> bool {
        !self.dropped.is_empty() || !self.headless.is_empty()
    }

    /// Whether a table of this name was dropped.
    pub fn is_dropped(&self, table: &TableName) -> bool {
        self.dropped.iter().any(|(name, _)| name == table)
    }

    /// The tables that had this name before the one of `uuid`, as long as that one has no checkpoint under `key`.
    pub fn dropped_uuids(&self, table: &TableName, uuid: uuid::Uuid, key: &str) -> Vec<uuid::Uuid> {
        let now = self.tables.get(table).filter(|seen| seen.uuid == uuid);
        // Where the anchor was dropped as well nobody knows of the tables beside it any more.
        let anchors = self.pipelines.iter().map(|p| &p.anchor).filter(|anchor| *anchor != table);
        if anchors.into_iter().any(|anchor| self.is_dropped(anchor)) {
            return Vec::new();
        }
        if now.is_some_and(|seen| seen.snapshots.values().any(|known| known.records.contains_key(key))) {
            return Vec::new();
        }
        self.dropped.iter().filter(|(name, _)| name == table).map(|(_, seen)| seen.uuid).collect()
    }

    /// The positions that a pipeline had in a table before it was dropped last.
    pub fn dropped_record(&self, table: &TableName, pipeline: &str) -> Option<Record> {
        let key = format!("frazil.checkpoint.{pipeline}@{}", self.target);
        let (_, seen) = self.dropped.iter().rfind(|(name, _)| name == table)?;
        seen.record(seen.head, &key).cloned()
    }

    /// The furthest that a pipeline ever was in a table.
    pub fn furthest(&self, table: &TableName, pipeline: &str) -> Option<Record> {
        let key = format!("frazil.checkpoint.{pipeline}@{}", self.target);
        let dropped = self.dropped.iter().filter(|(name, _)| name == table).map(|(_, seen)| seen);
        let known = self.tables.get(table).into_iter().chain(dropped).flat_map(|seen| seen.snapshots.values());
        let records = known.filter_map(|known| known.records.get(&key));
        let far = |r: &&Record| {
            r.checkpoint.positions.values().map(|p| if let Position::Offset(at) = p { *at } else { 0 }).sum::<i64>()
        };
        records.max_by_key(far).cloned()
    }

    /// The positions that a pipeline has in a table now.
    pub fn record_now(&self, table: &TableName, pipeline: &str) -> Option<Record> {
        self.record_at(table, self.tables.get(table)?.head?, pipeline)
    }

    /// The positions that a pipeline has at a snapshot.
    pub fn record_at(&self, table: &TableName, snapshot: i64, pipeline: &str) -> Option<Record> {
        let key = format!("frazil.checkpoint.{pipeline}@{}", self.target);
        self.tables.get(table)?.record(Some(snapshot), &key).cloned()
    }

    /// Whether the epoch of this sealed object was decided once, and its anchor was set back to before that.
    pub fn is_undone(&self, sealed: &str) -> bool {
        let names = |known: &Known| {
            known.records.values().any(|r| r.sealed.iter().any(|location| key(location).as_ref() == sealed))
        };
        let anchors = self.pipelines.iter().filter_map(|p| self.tables.get(&p.anchor));
        let mut decided = anchors.filter(|seen| seen.snapshots.values().any(names)).peekable();
        decided.peek().is_some() && decided.all(|seen| !seen.chain(seen.head).any(|(_, known)| names(known)))
    }

    /// Whether a checkpoint names this sealed object.
    pub fn is_decided(&self, sealed: &str) -> bool {
        let records = self.pipelines.iter().filter_map(|p| self.record(&p.anchor, p));
        records.flat_map(|record| &record.sealed).any(|location| key(location).as_ref() == sealed)
    }

    /// An operator goes on at the anchor's checkpoint, or where it was before the anchor was dropped: what is not there below it
    /// stays away, parts of a decided epoch that nobody finishes any more included.
    pub fn accept_gaps(&mut self, pipeline: &str, before: Option<&Record>) {
        let Some(own) = self.pipelines.iter().find(|p| p.name == pipeline).cloned() else { return };
        let (Ok(count), record) =
            (self.readable(), before.cloned().or_else(|| self.record(&own.anchor, &own).cloned()))
        else {
            return;
        };
        for partition in 0..own.partitions {
            let reached = reached(record.as_ref(), &partition.to_string()).unwrap_or(-1);
            let rows = (0..own.rows).filter(|n| i64::from(*n) <= reached).map(|n| own.row(partition, n));
            self.away.extend(rows.filter(|row| count[*row as usize] == 0));
        }
    }

    /// An operator says that what a rollback took of a pipeline's rows from a table stays away. Until that is in, it also goes for
    /// what another rollback takes meanwhile.
    pub fn accept(&mut self, table: &TableName, pipeline: &str) {
        self.accepting.insert((table.clone(), pipeline.to_owned()));
        self.accept_again(table);
    }

    /// A table was set back: what operators are about to say of it goes for what it lost now.
    pub fn accept_again(&mut self, table: &TableName) {
        let stays = |row: &Row| self.accepting.contains(&(table.clone(), self.place(*row).0));
        let here = self.rolled_back.iter().filter(|row| self.home.get(row) == Some(table));
        let rows: Vec<Row> = here.copied().filter(stays).collect();
        self.away.extend(rows);
    }

    /// An operator's word on a table is in.
    pub fn accepted(&mut self, table: &TableName, pipeline: &str) {
        self.accepting.remove(&(table.clone(), pipeline.to_owned()));
    }
}
