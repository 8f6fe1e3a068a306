//! How each pipeline is, as the daemon says and probes ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::model::ids::PipelineName;
use crate::telemetry::metrics::Metrics;

/// How a pipeline is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineHealth {
    /// It opens its source and tables.
    Starting,
    /// Rows go through.
    Running,
    /// Something outside does not answer; it goes on by itself.
    Waiting(String),
    /// It stopped and needs an operator.
    Halted(String),
    /// Its source has ended and everything is committed.
    Finished,
}

impl PipelineHealth {
    /// The state's name, one of `telemetry::metrics::STATES`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting(_) => "waiting",
            Self::Halted(_) => "halted",
            Self::Finished => "finished",
        }
    }

    /// Why it waits or halted.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting(reason) | Self::Halted(reason) => Some(reason),
            Self::Starting | Self::Running | Self::Finished => None,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Running | Self::Finished)
    }
}

/// How maintenance of one table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHealth {
    /// `idle`, `queued`, `running` or `failing`.
    pub state: &'static str,
    /// What was done or found last, and why.
    pub last: Vec<String>,
    /// When it is looked at next, in milliseconds since the epoch.
    pub next_ms: i64,
    /// Failures in a row.
    pub failures: u32,
}

/// The health of all pipelines and jobs: cheap to clone, clones share one state.
#[derive(Debug, Clone)]
pub struct Health {
    pipelines: Arc<Mutex<BTreeMap<PipelineName, PipelineHealth>>>,
    /// By table, with its catalog; nothing where no jobs run.
    jobs: Arc<Mutex<Option<BTreeMap<String, JobHealth>>>>,
    metrics: Metrics,
}

impl Health {
    /// No pipeline yet. Each change is counted in `metrics` as well.
    pub fn new(metrics: Metrics) -> Self {
        Self { pipelines: Arc::default(), jobs: Arc::default(), metrics }
    }

    /// This pipeline is so from now on.
    pub fn set(&self, pipeline: &PipelineName, health: PipelineHealth) {
        self.metrics.pipeline_state(pipeline.as_str(), health.as_str());
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.clone(), health);
    }

    /// All pipelines, in order.
    pub fn pipelines(&self) -> BTreeMap<PipelineName, PipelineHealth> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Jobs run, and maintenance of these tables is so.
    pub fn set_jobs(&self, jobs: BTreeMap<String, JobHealth>) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = Some(jobs);
    }

    /// Maintenance of all tables, in order; nothing where no jobs run.
    pub fn jobs(&self) -> Option<BTreeMap<String, JobHealth>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every pipeline runs or has finished; before the daemon named any, or began with its jobs, it does not. A job that
    /// fails is tried again and makes nothing unready.
    pub fn is_ready(&self) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let held = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        (jobs || !held.is_empty()) && held.values().all(PipelineHealth::is_ready)
    }

    /// What `/status` answers: pipelines as for `/readyz`, and the jobs.
    pub fn status(&self) -> Value {
        let jobs = self.jobs().map(|jobs| {
            let entry = |(table, job): (String, JobHealth)| {
                let next = chrono::DateTime::from_timestamp_millis(job.next_ms);
                let next = next.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
                (table, json!({ "state": job.state, "last": job.last, "next": next, "failures": job.failures }))
            };
            jobs.into_iter().map(entry).collect::<serde_json::Map<String, Value>>()
        });
        let mut status = self.to_json();
        status["jobs"] = json!(jobs);
        status
    }

    /// What `/readyz` answers.
    pub fn to_json(&self) -> Value {
        let pipelines: serde_json::Map<String, Value> = self
            .pipelines()
            .into_iter()
            .map(|(name, health)| {
                let mut entry = json!({ "state": health.as_str() });
                if let Some(reason) = health.reason() {
                    entry["reason"] = json!(reason);
                }
                (name.to_string(), entry)
            })
            .collect();
        json!({ "ready": self.is_ready(), "pipelines": pipelines })
    }
}
