//! One attempt to bring records to the log.
//!
//! In order: topics that are not known to exist, gaps, events, samples. Partitions of one topic
//! go side by side; within one the order is kept. What comes after a failure is not tried, so
//! nothing overtakes. On a failure all of a window is sent again: what that doubles is dropped
//! downstream by its identity.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use nilometer_contract::partition_of;
use nilometer_log::{Log, LogError, TopicConfig, TopicPartition};

use crate::config::AgentConfig;
use crate::entry::Entry;
use crate::lane::Window;

/// Where records go, and how long one step may take.
pub(crate) struct Route {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) timeout: Duration,
    node: String,
    samples: TopicConfig,
    events: TopicConfig,
    gaps: TopicConfig,
}

/// Partitions of each topic as they are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partitions {
    pub(crate) samples: u32,
    pub(crate) events: u32,
    pub(crate) gaps: u32,
}

/// What to bring.
pub(crate) struct Cargo {
    /// Nothing before the log told.
    pub(crate) partitions: Option<Partitions>,
    pub(crate) gaps: Vec<Vec<u8>>,
    pub(crate) events: Option<Window>,
    pub(crate) samples: Option<Window>,
}

/// How it went: what is still in the cargo may not be in the log.
pub(crate) struct Landed {
    pub(crate) cargo: Cargo,
    pub(crate) gaps_sent: bool,
    pub(crate) events_sent: Option<Window>,
    pub(crate) samples_sent: Option<Window>,
    pub(crate) result: Result<(), LogError>,
}

impl Cargo {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_some()
            && self.gaps.is_empty()
            && self.events.is_none()
            && self.samples.is_none()
    }
}

impl Route {
    pub(crate) fn new(config: &AgentConfig, log: Arc<dyn Log>) -> Self {
        Route {
            log,
            timeout: config.append_timeout,
            node: config.node.clone(),
            samples: config.samples.clone(),
            events: config.events.clone(),
            gaps: config.gaps.clone(),
        }
    }

    /// Brings the cargo as far as it goes.
    pub(crate) async fn fly(self: Arc<Self>, cargo: Cargo) -> Landed {
        let mut landed = Landed {
            cargo,
            gaps_sent: false,
            events_sent: None,
            samples_sent: None,
            result: Ok(()),
        };
        landed.result = self.try_all(&mut landed).await;
        landed
    }

    async fn try_all(&self, landed: &mut Landed) -> Result<(), LogError> {
        let cargo = &mut landed.cargo;
        let partitions = match cargo.partitions {
            Some(partitions) => partitions,
            None => self.ensure().await?,
        };
        cargo.partitions = Some(partitions);
        if !cargo.gaps.is_empty() {
            let partition = partition_of(&self.node, partitions.gaps);
            let payloads = std::mem::take(&mut cargo.gaps).into_iter().map(Bytes::from).collect();
            self.append(&self.gaps.name, partition, payloads).await?;
        }
        landed.gaps_sent = true;
        if let Some(window) = &cargo.events {
            self.append_all(&self.events.name, partitions.events, &window.entries).await?;
        }
        landed.events_sent = cargo.events.take();
        if let Some(window) = &cargo.samples {
            self.append_all(&self.samples.name, partitions.samples, &window.entries).await?;
        }
        landed.samples_sent = cargo.samples.take();
        Ok(())
    }

    async fn ensure(&self) -> Result<Partitions, LogError> {
        let ensure = async |topic: &TopicConfig| {
            let partitions = self.in_time(self.log.ensure_topic(topic)).await?;
            match partitions {
                0 => Err(LogError::Invalid(format!("topic {} has no partitions", topic.name))),
                _ if partitions != topic.partitions => {
                    let (there, configured) = (partitions, topic.partitions);
                    tracing::warn!(topic.name, there, configured, "topic has other partitions");
                    Ok(partitions)
                }
                _ => Ok(partitions),
            }
        };
        Ok(Partitions {
            samples: ensure(&self.samples).await?,
            events: ensure(&self.events).await?,
            gaps: ensure(&self.gaps).await?,
        })
    }

    async fn append_all(
        &self,
        topic: &str,
        partitions: u32,
        entries: &[Entry],
    ) -> Result<(), LogError> {
        let mut payloads: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
        for entry in entries {
            // A record made when the topic was thought to have more partitions finds a place.
            let partition = entry.partition % partitions;
            payloads.entry(partition).or_default().push(entry.payload.clone());
        }
        let appends = payloads.into_iter().map(|(n, payloads)| self.append(topic, n, payloads));
        join_all(appends).await.into_iter().collect()
    }

    async fn append(
        &self,
        topic: &str,
        partition: u32,
        payloads: Vec<Bytes>,
    ) -> Result<(), LogError> {
        let to = TopicPartition { topic: topic.to_owned(), partition };
        self.in_time(self.log.append(&to, payloads)).await.map(|_| ())
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(elapsed) => Err(LogError::Unavailable {
                what: format!("no answer within {:?}", self.timeout),
                cause: Some(elapsed.into()),
            }),
        }
    }
}
