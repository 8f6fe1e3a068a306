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

/// The health of all pipelines: cheap to clone, clones share one state.
#[derive(Debug, Clone)]
pub struct Health {
    pipelines: Arc<Mutex<BTreeMap<PipelineName, PipelineHealth>>>,
    metrics: Metrics,
}

impl Health {
    /// No pipeline yet. Each change is counted in `metrics` as well.
    pub fn new(metrics: Metrics) -> Self {
        Self { pipelines: Arc::default(), metrics }
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

    /// Whether every pipeline runs or has finished; before the daemon named any, none does.
    pub fn is_ready(&self) -> bool {
        let held = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        !held.is_empty() && held.values().all(PipelineHealth::is_ready)
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
