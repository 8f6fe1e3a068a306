//! What is worth rewriting. Pure: a function of a snapshot's files, the policy and the time, so that it can be printed,
//! explained and tested; a plan that was carried out leaves nothing for the same plan.
//!
//! Per partition, files that must go (many of their rows are deleted, an older spec or sort order, far too large) are rewritten together with
//! the small ones beside them; small ones alone when there are enough of them, or enough for a whole file. A group's files roll
//! at the target size, so that one short file is left of it, and no later plan takes one file for a reason to do anything.
//! Two exceptions, which need a second round: a partition above [`Policy::group_bytes_max`] leaves a short file per group, and
//! files of an older spec may meet in partitions of the new one.

use std::collections::HashMap;

use crate::compact::files::{DataEntry, DeleteKind, LiveFiles};
use crate::compact::merge::Rung;

/// Below these hundredths of the target a file is small.
const SMALL: u64 = 75;
/// Above these hundredths of the target a file is far too large.
const LARGE: u64 = 180;
/// What a core decodes and encodes in a second, in bytes of Parquet: measured, see docs/benchmarks.md.
const DECODED_PER_SECOND: u64 = 300_000_000;
const ENCODED_PER_SECOND: u64 = 100_000_000;
/// What it copies in a second where pages stay as they are, some of them packed anew.
const COPIED_PER_SECOND: u64 = 200_000_000;

/// When a rewrite pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Bytes that a data file should have.
    pub target_bytes: u64,
    /// So many small files of one partition are merged, however few bytes they have together.
    pub files_min: usize,
    /// A file is rewritten when so many hundredths of its rows are known to be deleted.
    pub deleted_percent: u64,
    /// A file is rewritten when so many delete files reach it.
    pub deletes_max: usize,
    /// A partition that got a file in this time is left alone, unless deletes weigh on it; 0: never.
    pub quiet_ms: i64,
    /// So many small files are merged though their partition is still written to: they hurt readers.
    pub hot_files_max: usize,
    /// Everything is rewritten, whether it pays or not.
    pub rewrite_all: bool,
    /// Bytes that are rewritten and committed together at most.
    pub group_bytes_max: u64,
    /// Bytes that all groups may have; the first is not held to it.
    pub bytes_max: u64,
    /// The spec that new files have.
    pub spec_id: i32,
    /// The sort order that new files have, if any.
    pub sort_order_id: Option<i32>,
    /// Whether pages may be copied as they are encoded.
    pub splice: bool,
}

impl Policy {
    /// The usual policy, for a table whose new files have this size and spec.
    pub fn new(target_bytes: u64, spec_id: i32) -> Self {
        Self {
            target_bytes: target_bytes.max(1),
            files_min: 5,
            deleted_percent: 30,
            deletes_max: 10,
            quiet_ms: 0,
            hot_files_max: 50,
            rewrite_all: false,
            group_bytes_max: 100 << 30,
            bytes_max: u64::MAX,
            spec_id,
            sort_order_id: None,
            splice: true,
        }
    }
}

/// Files that are rewritten and committed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Their partition, as a place in [`LiveFiles::partitions`].
    pub partition: usize,
    /// The data files, as places in [`LiveFiles::data`], in the order in which their rows go out.
    pub inputs: Vec<usize>,
    /// Every delete file that may delete a row of one, as places in [`LiveFiles::deletes`].
    pub deletes: Vec<usize>,
    /// Bytes of the data files.
    pub bytes_in: u64,
    /// Their rows.
    pub rows_in: u64,
    /// Bytes expected of the new files.
    pub bytes_out: u64,
    /// New files expected.
    pub files_out: u64,
    /// Expected work of one core, in milliseconds.
    pub core_ms: u64,
    /// How rows are expected to come into the new files: what is found in the old ones may ask for another way.
    pub rung: Rung,
    /// Expected requests to the store.
    pub requests: u64,
    /// Why, in words.
    pub why: String,
}

/// Files that are left as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Their partition.
    pub partition: usize,
    /// How many.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Why, in words.
    pub why: String,
}

/// What to do with a snapshot's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is rewritten, what helps readers most for its bytes first.
    pub groups: Vec<Group>,
    /// What is not.
    pub left: Vec<Left>,
}

/// Why a file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Wished,
    Spec,
    Order,
    Deletes,
    Large,
    Small,
    Nothing,
}

/// Deletes by what they reach.
#[derive(Default)]
struct Index<'a> {
    by_target: HashMap<&'a str, Vec<usize>>,
    /// By partition: sequence numbers, sorted, of position deletes that do not say whose they are, and of equality deletes.
    positions: HashMap<usize, Vec<(i64, usize)>>,
    keys: HashMap<usize, Vec<(i64, usize)>>,
    /// Equality deletes of every partition.
    everywhere: Vec<(i64, usize)>,
}

/// The plan for `files` at `now_ms`.
pub fn plan(files: &LiveFiles, policy: &Policy, now_ms: i64) -> Plan {
    let index = Index::of(files);
    let mut by_partition: Vec<Vec<usize>> = vec![Vec::new(); files.partitions.len()];
    for (at, file) in files.data.iter().enumerate() {
        if let Some(own) = by_partition.get_mut(file.partition) {
            own.push(at);
        }
    }
    let mut plan = Plan::default();
    for (partition, own) in by_partition.into_iter().enumerate().filter(|(_, own)| !own.is_empty()) {
        let chosen = Chooser { files, policy, index: &index, partition }.choose(&own, now_ms, &mut plan.left);
        let mut open: Vec<(usize, Need)> = Vec::new();
        let mut bytes = 0_u64;
        for (at, need) in chosen {
            let more = files.data[at].bytes;
            if !open.is_empty() && bytes.saturating_add(more) > policy.group_bytes_max {
                plan.groups.push(group(files, policy, &index, partition, &std::mem::take(&mut open)));
                bytes = 0;
            }
            bytes = bytes.saturating_add(more);
            open.push((at, need));
        }
        if !open.is_empty() {
            plan.groups.push(group(files, policy, &index, partition, &open));
        }
    }
    plan.groups.sort_by_key(|group| {
        let saved = (group.inputs.len() + group.deletes.len()) as u64;
        let per_gib = u128::from(saved.saturating_sub(group.files_out)) * (1 << 30) / u128::from(group.bytes_in.max(1));
        (std::cmp::Reverse(per_gib), group.partition, group.inputs.first().copied())
    });
    plan.keep_within(policy.bytes_max);
    plan
}

impl Plan {
    /// Leaves the last groups for another time, so that no more than these bytes are rewritten; but one always is.
    fn keep_within(&mut self, bytes_max: u64) {
        let mut bytes = 0_u64;
        let fits = self.groups.iter().take_while(|group| {
            bytes = bytes.saturating_add(group.bytes_in);
            bytes <= bytes_max
        });
        let kept = fits.count().max(1).min(self.groups.len());
        self.left.extend(self.groups.drain(kept..).map(|group| Left {
            partition: group.partition,
            files: group.inputs.len(),
            bytes: group.bytes_in,
            why: format!("more than is rewritten at a time; {}", group.why),
        }));
    }
}

/// Chooses among the files of one partition.
struct Chooser<'a> {
    files: &'a LiveFiles,
    policy: &'a Policy,
    index: &'a Index<'a>,
    partition: usize,
}

impl Chooser<'_> {
    fn choose(&self, own: &[usize], now_ms: i64, left: &mut Vec<Left>) -> Vec<(usize, Need)> {
        let mut leave = |files: &[usize], why: String| {
            if !files.is_empty() {
                let bytes = files.iter().map(|at| self.files.data[*at].bytes).sum();
                left.push(Left { partition: self.partition, files: files.len(), bytes, why });
            }
        };
        let (own, foreign): (Vec<usize>, Vec<usize>) = own.iter().partition(|at| self.files.data[**at].readable);
        leave(&foreign, "no Parquet files, or encrypted".to_owned());
        let needs: Vec<(usize, Need)> = own.iter().map(|at| (*at, self.need(&self.files.data[*at]))).collect();
        let of = |wanted: fn(Need) -> bool| -> Vec<usize> {
            needs.iter().filter(|(_, need)| wanted(*need)).map(|(at, _)| *at).collect()
        };
        let newest = own.iter().filter_map(|at| self.files.data[*at].added_ms).max();
        let warm = self.policy.quiet_ms > 0
            && newest.is_some_and(|at| now_ms.saturating_sub(at) < self.policy.quiet_ms)
            && !needs.iter().any(|(_, need)| matches!(need, Need::Deletes | Need::Wished))
            && of(|need| need == Need::Small).len() < self.policy.hot_files_max.max(2);
        if warm {
            leave(&own, "the partition is still written to".to_owned());
            return Vec::new();
        }
        leave(&of(|need| need == Need::Nothing), "of a good size".to_owned());
        let forced = of(|need| !matches!(need, Need::Nothing | Need::Small));
        let small = of(|need| need == Need::Small);
        let bytes: u64 = small.iter().map(|at| self.files.data[*at].bytes).sum();
        let enough = small.len() > 1 && (small.len() >= self.policy.files_min || bytes >= self.policy.target_bytes);
        if forced.is_empty() && !enough {
            let min = self.policy.files_min;
            leave(&small, format!("small, but fewer than {min} and not enough for one whole file"));
            return Vec::new();
        }
        needs.into_iter().filter(|(_, need)| *need != Need::Nothing).collect()
    }

    fn need(&self, file: &DataEntry) -> Need {
        let policy = self.policy;
        let (count, rows) = self.index.weight(self.files, file);
        let spec = self.files.partitions.get(file.partition).map(|partition| partition.spec_id);
        let hundredths = |part: u64, whole: u64| u128::from(part) * 100 / u128::from(whole.max(1));
        if policy.rewrite_all {
            Need::Wished
        } else if spec != Some(policy.spec_id) {
            Need::Spec
        } else if count >= policy.deletes_max.max(1)
            || (rows > 0 && hundredths(rows, file.rows) >= u128::from(policy.deleted_percent))
        {
            Need::Deletes
        } else if file.sort_order_id.is_some_and(|order| policy.sort_order_id.is_some_and(|own| own != order)) {
            // A file that says of no order may be in the right one: not all writers say it.
            Need::Order
        } else if hundredths(file.bytes, policy.target_bytes) > u128::from(LARGE) {
            Need::Large
        } else if hundredths(file.bytes, policy.target_bytes) < u128::from(SMALL) {
            Need::Small
        } else {
            Need::Nothing
        }
    }
}

impl<'a> Index<'a> {
    fn of(files: &'a LiveFiles) -> Self {
        let mut index = Self::default();
        for (at, deletes) in files.deletes.iter().enumerate() {
            let global = files.partitions.get(deletes.partition).is_some_and(|partition| partition.global);
            match (&deletes.kind, &deletes.target) {
                (DeleteKind::Equality(_), _) if global => index.everywhere.push((deletes.seq, at)),
                (DeleteKind::Equality(_), _) => {
                    index.keys.entry(deletes.partition).or_default().push((deletes.seq, at));
                }
                (_, Some(target)) => index.by_target.entry(target).or_default().push(at),
                (_, None) => index.positions.entry(deletes.partition).or_default().push((deletes.seq, at)),
            }
        }
        let lists = index.positions.values_mut().chain(index.keys.values_mut()).chain([&mut index.everywhere]);
        lists.for_each(|list| list.sort_unstable());
        index
    }

    /// How many delete files may delete rows of a file, and how many of its rows are surely deleted.
    fn weight(&self, files: &LiveFiles, file: &DataEntry) -> (usize, u64) {
        let own = self.by_target.get(file.location.as_str());
        let rows = own.into_iter().flatten().filter_map(|at| files.deletes.get(*at)).map(|deletes| deletes.rows).sum();
        let positions = from(self.positions.get(&file.partition), file.seq);
        let keys = from(self.keys.get(&file.partition), file.seq.saturating_add(1));
        let everywhere = from(Some(&self.everywhere), file.seq.saturating_add(1));
        (own.map_or(0, Vec::len) + positions.len() + keys.len() + everywhere.len(), rows)
    }

    /// Every delete file that may delete rows of these files of one partition, in the order of the table's.
    fn reaching(&self, files: &LiveFiles, partition: usize, inputs: &[usize]) -> Vec<usize> {
        let inputs = || inputs.iter().filter_map(|at| files.data.get(*at));
        let lowest = inputs().map(|file| file.seq).min().unwrap_or(i64::MAX);
        let later = lowest.saturating_add(1);
        let shared = [
            from(self.positions.get(&partition), lowest),
            from(self.keys.get(&partition), later),
            from(Some(&self.everywhere), later),
        ];
        let own = inputs().filter_map(|file| self.by_target.get(file.location.as_str())).flatten().copied();
        let mut all: Vec<usize> = shared.into_iter().flatten().map(|(_, at)| *at).chain(own).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The part of a sorted list from sequence number `seq` on.
fn from(list: Option<&Vec<(i64, usize)>>, seq: i64) -> &[(i64, usize)] {
    let list = list.map_or(&[][..], Vec::as_slice);
    &list[list.partition_point(|(at, _)| *at < seq)..]
}

fn group(files: &LiveFiles, policy: &Policy, index: &Index<'_>, partition: usize, chosen: &[(usize, Need)]) -> Group {
    let inputs: Vec<usize> = chosen.iter().map(|(at, _)| *at).collect();
    let deletes = index.reaching(files, partition, &inputs);
    let of = |at: &usize| &files.data[*at];
    let bytes_in: u64 = inputs.iter().map(|at| of(at).bytes).sum();
    let rows_in: u64 = inputs.iter().map(|at| of(at).rows).sum();
    let gone: u64 = inputs.iter().map(|at| index.weight(files, of(at)).1.min(of(at).rows)).sum();
    let share = u128::from(bytes_in) * u128::from(rows_in.saturating_sub(gone)) / u128::from(rows_in.max(1));
    let bytes_out = u64::try_from(share).unwrap_or(u64::MAX);
    let files_out = bytes_out.div_ceil(policy.target_bytes);
    let millis = |bytes: u64, speed: u64| bytes.saturating_mul(1000) / speed;
    let own_spec = files.partitions.get(partition).is_some_and(|own| own.spec_id == policy.spec_id);
    let rung = if policy.splice && own_spec && deletes.is_empty() { Rung::Splice } else { Rung::Merge };
    let core_ms = match rung {
        Rung::Splice => millis(bytes_in, COPIED_PER_SECOND),
        Rung::Merge => millis(bytes_in, DECODED_PER_SECOND).saturating_add(millis(bytes_out, ENCODED_PER_SECOND)),
    };
    Group {
        partition,
        bytes_in,
        rows_in,
        bytes_out,
        files_out,
        core_ms,
        rung,
        requests: (inputs.len() + deletes.len()) as u64 + files_out * 2 + 4,
        why: why(policy, chosen),
        inputs,
        deletes,
    }
}

fn why(policy: &Policy, chosen: &[(usize, Need)]) -> String {
    let count = |wanted: Need| chosen.iter().filter(|(_, need)| *need == wanted).count();
    let part = |wanted: Need, words: String| {
        let files = count(wanted);
        (files > 0).then(|| format!("{files} {} {words}", if files == 1 { "file" } else { "files" }))
    };
    let mib = policy.target_bytes as f64 / f64::from(1 << 20);
    let parts = [
        part(Need::Wished, "as asked for".to_owned()),
        part(Need::Spec, "of an older partition spec".to_owned()),
        part(Need::Order, "in an older sort order".to_owned()),
        part(Need::Deletes, "with many deletes".to_owned()),
        part(Need::Large, format!("far above {mib:.1} MiB")),
        part(Need::Small, format!("well below {mib:.1} MiB")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
