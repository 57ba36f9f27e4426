//! Audit records on their way into the log: bounded, in order, never in the way of an answer.
//!
//! A record waits in a queue; what does not fit, or what the log does not take before the process
//! ends, is counted in `nilometer_audit_lost_total`. A retry may append a record twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nilometer_log::{Log, LogError, TopicConfig, TopicPartition};
use nilometer_surface::gate::{AUDIT, Audit, AuditRecord};
use prometheus::{IntCounter, Registry};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Most records that wait for the log.
const MAX_WAITING: usize = 4_096;
/// Most records appended at once.
const BATCH: usize = 256;
const RETRY: Duration = Duration::from_secs(1);
/// Time that records still waiting get when the process stops.
const DRAIN: Duration = Duration::from_secs(5);

/// The queue's entrance.
pub(crate) struct AuditLog {
    waiting: mpsc::Sender<Bytes>,
    lost: IntCounter,
}

/// The queue's exit.
pub(crate) struct AuditWriter {
    log: Arc<dyn Log>,
    retention: Duration,
    waiting: mpsc::Receiver<Bytes>,
    lost: IntCounter,
}

/// A queue into the log.
pub(crate) fn audit_log(
    log: Arc<dyn Log>,
    retention: Duration,
    registry: &Registry,
) -> anyhow::Result<(AuditLog, AuditWriter)> {
    let help = "Audit records that did not get into the log";
    let lost = IntCounter::new("nilometer_audit_lost_total", help)?;
    registry.register(Box::new(lost.clone()))?;
    let (sender, waiting) = mpsc::channel(MAX_WAITING);
    let writer = AuditWriter { log, retention, waiting, lost: lost.clone() };
    Ok((AuditLog { waiting: sender, lost }, writer))
}

impl Audit for AuditLog {
    fn record(&self, record: AuditRecord) {
        let kept = record.encode().ok();
        if kept.is_none_or(|bytes| self.waiting.try_send(bytes.into()).is_err()) {
            self.lost.inc();
        }
    }
}

impl AuditWriter {
    /// Appends until there is nobody left who records.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let give_up = async {
            cancel.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::pin!(give_up);
        let mut batch = Vec::with_capacity(BATCH);
        while self.waiting.recv_many(&mut batch, BATCH).await > 0 {
            let count = batch.len() as u64;
            let written = tokio::select! {
                written = self.append(&batch) => written,
                () = &mut give_up => false,
            };
            if !written {
                self.lost.inc_by(count);
            }
            batch.clear();
        }
        Ok(())
    }

    /// Whether a batch is in the log; waits for a log that is away.
    async fn append(&self, batch: &[Bytes]) -> bool {
        let (name, partitions) = (AUDIT.to_owned(), 1);
        let topic = TopicConfig { name, partitions, retention: self.retention };
        let to = TopicPartition { topic: AUDIT.to_owned(), partition: 0 };
        let mut told = false;
        loop {
            let appended = async {
                self.log.ensure_topic(&topic).await?;
                self.log.append(&to, batch.to_vec()).await
            };
            match appended.await {
                Ok(_) => return true,
                Err(failure @ LogError::Unavailable { .. }) => {
                    if !std::mem::replace(&mut told, true) {
                        let error = &failure as &dyn std::error::Error;
                        warn!(error, "audit records wait for the log");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(failure) => {
                    error!(
                        error = &failure as &dyn std::error::Error,
                        "the log refuses audit records"
                    );
                    return false;
                }
            }
        }
    }
}
