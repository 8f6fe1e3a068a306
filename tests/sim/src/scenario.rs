//! What a seed stands for: pipelines, instances, rates of faults, habits of the foreign engine.

use std::collections::BTreeMap;
use std::time::Duration;

use frazil::config::{
    ApiConfig, ColumnConfig, CommitConfig, Config, CreateConfig, DecodeConfig, FilesConfig, Limits, MaintenanceConfig,
    MetadataColumn, OnChange, OnRollback, PipelineConfig, Policies, RejectLimit, RejectsConfig, RejectsTo,
    ReplayConfig, Role, SchemaConfig, SourceConfig,
};
use frazil::env::Env;
use frazil::model::ids::{MAIN, PipelineName, TableName};

use crate::foreign::{Deed, Habits};
use crate::maintainer::{POLICIES, Upkeep};
use crate::topic::{Loss, Plan};
use crate::world::Rates;

/// The pipeline that keeps a daemon alive when all others are at their sources' ends: its folder stays empty.
pub const IDLER: &str = "inbox";

/// Where a pipeline's rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One pipeline, one table.
    Single,
    /// One pipeline, one table, and rejects beside it.
    Rejecting,
    /// One pipeline, a table for each event; some of them see no row for long.
    Routed,
    /// Two pipelines into one table.
    Shared,
}

/// From this seed on every table is kept small by us, and not those of one seed in twelve: for what maintenance alone can break.
pub const MAINTAINED_FROM: u64 = 1_000_000_000;

/// Commits that the daemons of a seed send at least.
const ATTEMPTS: u64 = 100;

/// One seed's world.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where the rows go.
    pub shape: Shape,
    /// The branch that the rows go to.
    pub target: &'static str,
    /// Whether columns come from the rows.
    pub evolves: bool,
    /// The table format.
    pub format: u8,
    /// Instances of the same pipelines.
    pub instances: u64,
    /// What the topic goes through whose partitions they share as members of a group; `None`: each reads all of a log of its own,
    /// to which nothing happens.
    pub topic: Option<Plan>,
    /// Commits that daemons send before the faults stop; 0: nothing goes wrong.
    pub attempts: u64,
    /// Source partitions.
    pub partitions: u32,
    /// Rows in each.
    pub rows: u32,
    /// Rows a second; `None`: as they are asked for.
    pub rate: Option<u64>,
    /// What goes wrong.
    pub rates: Rates,
    /// The policy at the beginning.
    pub on_rollback: OnRollback,
    /// What the foreign engine does.
    pub habits: Habits,
    /// Foreign engines at work.
    pub writers: u64,
    /// How much each does in all.
    pub deeds: u64,
    /// Its longest rest between two deeds.
    pub foreign_rest: Duration,
    /// How old snapshots become before our own expiry takes them; `None`: there is no such job.
    pub expires: Option<Duration>,
    /// How tables are kept small beside it; `None`: not by us.
    pub upkeep: Option<Upkeep>,
    /// Whether a process may be away for days.
    pub idles: bool,
    /// How long an epoch may stay open.
    pub freshness: Duration,
    /// How tables are laid out.
    pub partition_by: Vec<String>,
    merge_count: u64,
}

fn pick<T: Copy>(env: &Env, from: &[T]) -> T {
    from[usize::try_from(env.below(from.len() as u64)).unwrap_or(0)]
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub fn of(seed: u64, env: &Env) -> Self {
        Self::drawn(env, seed >= MAINTAINED_FROM)
    }

    /// Draws a scenario.
    pub fn draw(env: &Env) -> Self {
        Self::drawn(env, false)
    }

    fn drawn(env: &Env, maintained: bool) -> Self {
        use Shape::{Rejecting, Routed, Shared, Single};
        let shape = pick(env, &[Single, Single, Rejecting, Routed, Routed, Shared]);
        let evolves = shape != Rejecting && env.below(4) == 0;
        let partitions = 1 + u32::try_from(env.below(2)).unwrap_or(0);
        // Its steps are ten minutes apart: there must be something to do for so long.
        let expires = (env.below(5) == 0).then(|| Duration::from_secs(30 + env.below(400)));
        let trouble = pick(env, &[0, 5, 15, 30, 50]);
        let rates = Rates {
            catalog: trouble,
            store: pick(env, &[0, 1, 4]).min(trouble),
            disk: pick(env, &[0, 0, 1]).min(trouble),
            stale: pick(env, &[0, 0, 0, 10]).min(trouble),
            slow: env.below(16) == 0,
            intrusions: pick(env, &[0, 0, 3, 10]),
        };
        let mut habits = Habits::new();
        if env.below(8) > 0 {
            for deed in DEEDS {
                let weight = env.below(3);
                if weight > 0 && (deed != Deed::DropColumn || evolves) {
                    habits.insert(deed, weight);
                }
            }
        }
        if env.below(6) > 0 {
            habits.remove(&Deed::DropBranch);
        }
        if env.below(4) > 0 {
            habits.remove(&Deed::Recreate);
        }
        // Property gone, every carrier expired, every file written anew or deleted: a new instance cannot know of the pipeline.
        let rewrites = [Deed::Compact, Deed::Delete, Deed::Overwrite].iter().any(|deed| habits.contains_key(deed));
        if habits.contains_key(&Deed::Expire) && rewrites {
            habits.remove(&Deed::Reset);
        }
        let freshness = match expires {
            Some(_) => Duration::from_secs(pick(env, &[5, 10, 15])),
            None => Duration::from_millis(pick(env, &[300, 1_000, 2_500])),
        };
        // Rows for all attempts: as many as come in the time that one takes, and some more.
        let seconds = freshness.as_secs() + trouble / 10 + if rates.slow { 15 } else { 1 };
        let rate = (pick(env, &[1, 2, 5]) / seconds).max(1);
        let rows = ATTEMPTS * rate * seconds * 3 / 2 / u64::from(partitions);
        let partition_by = match env.below(3) {
            0 => vec!["bucket(2, customer_id)".to_owned()],
            1 => vec!["day(event_time)".to_owned()],
            _ => vec![],
        };
        let mut scenario = Self {
            shape,
            target: pick(env, &[MAIN, MAIN, MAIN, "rows"]),
            evolves,
            format: if env.below(2) == 0 { 2 } else { 3 },
            instances: 1 + env.below(2),
            topic: None,
            attempts: ATTEMPTS,
            partitions,
            rows: u32::try_from(rows).unwrap_or(u32::MAX),
            rate: Some(rate),
            rates,
            on_rollback: pick(env, &[OnRollback::Halt, OnRollback::Rewind, OnRollback::Keep]),
            habits,
            writers: 1,
            deeds: 20 + env.below(60),
            foreign_rest: Duration::from_secs(pick(env, &[2, 8, 20])),
            expires,
            upkeep: None,
            idles: env.below(4) == 0,
            freshness,
            partition_by,
            merge_count: pick(env, &[2, 4, 8, 8, 16]),
        };
        let often = env.below(12) == 0;
        scenario.upkeep = (often || maintained).then(|| scenario.draw_upkeep(env));
        if scenario.upkeep.is_some() && !scenario.habits.is_empty() {
            for deed in [Deed::DropTag, Deed::DeletePositions, Deed::DeleteKeys] {
                let weight = env.below(4);
                if weight > 0 {
                    scenario.habits.insert(deed, weight);
                }
            }
        }
        // Drawn last, so that what a seed stood for before there were topics it stands for still, where it has none.
        if env.below(if scenario.instances > 1 { 2 } else { 5 }) == 0 {
            scenario.draw_topic(env);
        }
        scenario
    }

    /// What becomes of a topic, and of the group that reads it.
    fn draw_topic(&mut self, env: &Env) {
        self.partitions += 1;
        if self.instances > 1 && env.below(4) == 0 {
            self.instances += 1;
        }
        let transactions = env.below(2) == 0;
        let plan = Plan {
            transactions,
            holds: env.below(2) == 0 && transactions,
            retention: pick(env, &[0, 0, 2, 4]),
            skips: env.below(2) == 0,
            loss: if env.below(4) == 0 { Some(pick(env, &[Loss::Tail, Loss::Tail, Loss::Anew])) } else { None },
            eager: env.below(3) == 0,
            tombstones: true,
        };
        // Whoever sets positions says that the log is the right one: nothing tells a log from another after that.
        let sets = |deed: &Deed| {
            use Deed::{CherryPick, DropBranch, Expire, KeepByOperator, Recreate, Reset, RewindByOperator, RollBack};
            matches!(
                deed,
                CherryPick | DropBranch | Expire | KeepByOperator | Recreate | Reset | RewindByOperator | RollBack
            )
        };
        let loss = plan.loss.filter(|_| self.expires.is_none());
        if loss.is_some() {
            self.idles = false;
            self.habits.retain(|deed, _| !sets(deed));
        }
        self.topic = Some(Plan { loss, ..plan });
    }

    /// Who maintains, at least one of three: the jobs know the main branch alone.
    fn draw_upkeep(&self, env: &Env) -> Upkeep {
        let (jobs, rounds) = (env.below(2) == 0, env.below(2) == 0);
        let verbs = env.below(2) == 0 || self.target != MAIN || !(jobs || rounds);
        let policy = usize::try_from(env.below(POLICIES.len() as u64)).unwrap_or(0);
        Upkeep { jobs, rounds, verbs, policy, rest: Duration::from_secs(pick(env, &[10, 40, 120])) }
    }

    /// Whether an epoch feeds more than its anchor.
    pub fn seals(&self) -> bool {
        matches!(self.shape, Shape::Rejecting | Shape::Routed)
    }

    /// Whether this halt is one that the protocol asks for in this scenario, with no way out that a program could take.
    pub fn is_due(&self, halt: &str, dropped: bool) -> bool {
        let another = [
            "is another table now",
            "has no snapshot, but a checkpoint",
            "has written here before",
            "knows of none",
            "is another one than when its part",
            "holds other positions than its part",
        ];
        if dropped && another.iter().any(|text| halt.contains(text)) {
            return true;
        }
        // The property would say what of an older record is finished, and that there was more.
        let resets = self.habits.contains_key(&Deed::Reset);
        let rolls = [Deed::RollBack, Deed::RewindByOperator, Deed::KeepByOperator];
        let rolls_back = rolls.iter().any(|deed| self.habits.contains_key(deed));
        // A part that was cut for what its table held halts where that table was set back since: docs/adr/0010.
        if rolls_back && self.seals() && halt.contains("holds other positions than its part") {
            return true;
        }
        if resets && rolls_back {
            let lost = ["knows of none", "is gone", "older than its anchor knows"];
            if lost.iter().any(|text| halt.contains(text)) {
                return true;
            }
        }
        let forgets = self.habits.contains_key(&Deed::Expire) || self.expires.is_some();
        // A part that was in, was rolled back and expired; then somebody set the positions back.
        if forgets
            && rolls_back
            && self.seals()
            && halt.contains("its part of the sealed epoch")
            && halt.contains("is gone")
        {
            return true;
        }
        if self.habits.contains_key(&Deed::CherryPick) && halt.contains("cherry-picked snapshot newer") {
            return true;
        }
        let unknown = [
            "nothing shows whether its rows are in",
            "history is cut short",
            "rolled back to before this pipeline's first checkpoint",
        ];
        (forgets && unknown.iter().any(|text| halt.contains(text)))
            || (forgets && self.habits.contains_key(&Deed::Reset) && halt.contains("has written here before"))
            || (self.idles && self.seals() && halt.contains("more than a day ago"))
    }

    /// Names, anchors and seeds of the pipelines that have rows.
    pub fn pipelines(&self) -> Vec<(&'static str, TableName, u64)> {
        let table = |text: &str| text.parse().expect("a table name");
        match self.shape {
            Shape::Single | Shape::Rejecting => vec![("p", table("shop.events"), 1)],
            Shape::Routed => vec![("p", table("shop.purchase"), 1)],
            Shape::Shared => vec![("p", table("shop.events"), 1), ("q", table("shop.events"), 2)],
        }
    }

    /// The tables that a foreign engine may know.
    pub fn tables(&self) -> Vec<TableName> {
        let names: &[&str] = match self.shape {
            Shape::Single | Shape::Shared => &["shop.events"],
            Shape::Rejecting => &["shop.events", "shop.events__rejects"],
            Shape::Routed => &["shop.purchase", "shop.page_view", "shop.add_to_cart", "shop.refund"],
        };
        names.iter().map(|name| name.parse().expect("a table name")).collect()
    }

    /// The rows of a source.
    pub fn replay(&self, seed: u64) -> ReplayConfig {
        ReplayConfig { seed, partitions: self.partitions, rate: self.rate, rows: Some(u64::from(self.rows)) }
    }

    /// The configuration of an instance.
    pub fn config(&self, instance: &str, on_rollback: OnRollback) -> Config {
        let table = if self.shape == Shape::Routed { "shop.{event}" } else { "shop.events" };
        let mut sources = BTreeMap::new();
        let mut pipelines = BTreeMap::new();
        for (name, anchor, seed) in self.pipelines() {
            sources.insert(name.to_owned(), SourceConfig::Replay(self.replay(seed)));
            pipelines.insert(PipelineName::new(name), self.pipeline(name, table, &anchor, on_rollback));
        }
        let inbox: TableName = "shop.inbox".parse().expect("a table name");
        let files = FilesConfig {
            path: "memory:///inbox".into(),
            glob: "**".into(),
            poll: Duration::from_secs(120),
            until_end: false,
            row_bytes_max: 1 << 20,
            skip_lines: 0,
            expansion_max: 100,
            late_files_max: 100,
        };
        sources.insert(IDLER.to_owned(), SourceConfig::Files(files));
        pipelines.insert(PipelineName::new(IDLER), self.pipeline(IDLER, "shop.inbox", &inbox, on_rollback));
        let jobs = self.upkeep.filter(|upkeep| upkeep.jobs);
        Config {
            instance: instance.into(),
            state_dir: "/nowhere".into(),
            role: Role::All,
            catalogs: BTreeMap::new(),
            stores: vec![],
            registries: BTreeMap::new(),
            sources,
            pipelines,
            policies: jobs.map_or_else(Policies::default, |upkeep| upkeep.policies(self.expires.is_some())),
            maintenance: if jobs.is_some() { Upkeep::budget() } else { MaintenanceConfig::default() },
            limits: Limits {
                memory: 64 << 20,
                open_files: 8,
                tables: 16,
                store_requests: 16,
                store_retries: 3,
                workers: 2,
            },
            api: ApiConfig { listen: None, token: None },
            shutdown_grace: Duration::from_secs(20),
        }
    }

    fn properties(&self) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        properties.insert("commit.manifest.min-count-to-merge".to_owned(), self.merge_count.to_string());
        if self.upkeep.is_some() {
            // A codec's working memory is what rewriting small files costs most.
            properties.insert("write.parquet.compression-codec".to_owned(), "uncompressed".to_owned());
        }
        properties
    }

    fn pipeline(&self, source: &str, table: &str, anchor: &TableName, on_rollback: OnRollback) -> PipelineConfig {
        let column = |name: &str, kind: &str, required| ColumnConfig { name: name.into(), kind: kind.into(), required };
        let columns = if self.evolves {
            vec![]
        } else {
            vec![
                column("event_id", "string", false),
                column("event", "string", false),
                column("event_time", "timestamptz", false),
                column("customer_id", "long", false),
                column("quantity", "int", false),
                column("coupon", "string", self.shape == Shape::Rejecting),
            ]
        };
        PipelineConfig {
            decode: DecodeConfig::default(),
            source: source.into(),
            catalog: "lake".into(),
            table: table.into(),
            anchor: Some(anchor.to_string()),
            branch: self.target.into(),
            create: CreateConfig {
                columns,
                partition: self.partition_by.clone(),
                sort: vec![],
                properties: self.properties(),
                location: None,
                format_version: self.format,
            },
            schema: SchemaConfig {
                on_change: if self.evolves { OnChange::Evolve } else { OnChange::Freeze },
                infer_rows: 10,
                columns_max: 200,
            },
            commit: CommitConfig {
                freshness: self.freshness,
                rows_max: 4_000,
                bytes_max: 1 << 30,
                target_file_size: None,
            },
            rejects: RejectsConfig { to: RejectsTo::Table, halt_above: RejectLimit::NEVER },
            metadata: [
                ("_number".to_owned(), MetadataColumn::Number),
                ("_partition".to_owned(), MetadataColumn::Partition),
            ]
            .into(),
            on_rollback,
        }
    }
}

const DEEDS: [Deed; 19] = [
    Deed::CherryPick,
    Deed::Spec,
    Deed::Append,
    Deed::Compact,
    Deed::Delete,
    Deed::Overwrite,
    Deed::Expire,
    Deed::RollBack,
    Deed::Reset,
    Deed::AddColumn,
    Deed::Tag,
    Deed::Branch,
    Deed::Property,
    Deed::CleanDocuments,
    Deed::DropColumn,
    Deed::Recreate,
    Deed::DropBranch,
    Deed::RewindByOperator,
    Deed::KeepByOperator,
];
