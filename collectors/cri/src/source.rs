//! The source: a poll per interval, and the stream's tasks beside it.

use nilometer_contract::Causes;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nilometer_source::{Observation, Outlet, Source, SourceError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::api::PodSandboxStats;
use crate::client::{CALL_TIMEOUT, CallError};
use crate::lookup::Lookup;
use crate::poll::reconcile;
use crate::stream::{self, Kind};
use crate::{SOURCE, stats, worker};

/// Longest time spent on asking pods one by one, when asking for all at once failed.
const ONE_BY_ONE: Duration = Duration::from_secs(5);

/// Pods and containers of one runtime.
pub(crate) struct CriSource {
    lookup: Arc<Lookup>,
    tasks: Vec<JoinHandle<()>>,
    /// Answers, or closes, when the stream's first subscription stands or has failed.
    subscribed: Option<oneshot::Receiver<()>>,
    /// Whether the runtime has statistics of pods.
    pods_have_stats: bool,
}

impl CriSource {
    /// Starts the stream's tasks; they end with the source or with the outlet.
    pub(crate) fn new(lookup: Arc<Lookup>, kind: Kind, outlet: Outlet) -> Self {
        let mut tasks = Vec::new();
        let (opened, subscribed) = oneshot::channel();
        if kind != Kind::Absent {
            let (sender, receiver) = mpsc::channel(stream::QUEUE);
            tasks.push(tokio::spawn(stream::read(Arc::clone(&lookup), kind, sender, opened)));
            tasks.push(tokio::spawn(worker::run(Arc::clone(&lookup), receiver, outlet)));
        }
        CriSource { lookup, tasks, subscribed: Some(subscribed), pods_have_stats: true }
    }

    async fn pods_stats(&mut self) -> Vec<PodSandboxStats> {
        if !self.pods_have_stats {
            return Vec::new();
        }
        match self.lookup.client.pods_stats().await {
            Ok(stats) => stats,
            Err(error) if error.is_unimplemented() => {
                self.pods_have_stats = false;
                Vec::new()
            }
            // containerd 1.6 fails for all when one of them is just ending or has no cgroup.
            Err(_) => self.pods_stats_one_by_one().await,
        }
    }

    async fn pods_stats_one_by_one(&self) -> Vec<PodSandboxStats> {
        let deadline = Instant::now() + ONE_BY_ONE;
        let ids = self.lookup.ledger().living_sandboxes();
        let mut stats = Vec::new();
        for id in ids {
            if Instant::now() >= deadline {
                warn!(read = stats.len(), "statistics of further pods are left out this time");
                break;
            }
            if let Ok(Some(one)) = self.lookup.client.pod_stats(&id).await {
                stats.push(one);
            }
        }
        stats
    }
}

#[async_trait]
impl Source for CriSource {
    fn name(&self) -> &'static str {
        SOURCE
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let mut observation = Observation::begin(SOURCE, self.lookup.clock.as_ref());
        if let Some(subscribed) = self.subscribed.take() {
            // A list made before the subscription stands could miss what happens in between.
            let _ = tokio::time::timeout(CALL_TIMEOUT, subscribed).await;
        }
        let failed = |error: CallError| {
            SourceError::new("runtime's pods and containers cannot be listed", error)
        };
        observation.events = reconcile(&self.lookup).await.map_err(failed)?;
        let containers = self.lookup.client.container_stats().await;
        let containers = containers.unwrap_or_else(|error| {
            warn!(error = %Causes(&error), "statistics of containers are left out this time");
            Vec::new()
        });
        let pods = self.pods_stats().await;
        let now = self.lookup.clock.now();
        let mut ledger = self.lookup.ledger();
        stats::containers(&containers, &mut ledger, now, &mut observation.samples);
        let new = stats::pods(&pods, &mut ledger, now, &mut observation.samples);
        observation.events.extend(new);
        Ok(observation)
    }
}

impl Drop for CriSource {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
