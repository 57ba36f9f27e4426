//! Single attempts at the log: a topic made ready, or records appended to one partition.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nilometer_log::{Log, LogError, TopicConfig, TopicPartition};

use crate::config::AgentConfig;

/// The topics that the agent writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Gaps,
    Events,
    Samples,
}

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The topic has so many partitions.
    Ready(Topic, Result<u32, LogError>),
    /// Records of a partition were appended.
    Sent(Topic, u32, Result<(), LogError>),
}

/// An attempt under way.
pub(crate) type Attempt = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Where records go, and how long one attempt may take.
pub(crate) struct Route {
    log: Arc<dyn Log>,
    timeout: Duration,
    /// As in [`Topic`].
    topics: [TopicConfig; 3],
}

impl Route {
    pub(crate) fn new(config: &AgentConfig, log: Arc<dyn Log>) -> Self {
        let topics = [config.gaps.clone(), config.events.clone(), config.samples.clone()];
        Route { log, timeout: config.append_timeout, topics }
    }

    /// The topic's configuration.
    pub(crate) fn topic(&self, topic: Topic) -> &TopicConfig {
        &self.topics[topic as usize]
    }

    /// Makes sure that a topic is there.
    pub(crate) fn make_ready(self: &Arc<Self>, topic: Topic) -> Attempt {
        let route = self.clone();
        Box::pin(async move { Outcome::Ready(topic, route.try_ready(route.topic(topic)).await) })
    }

    /// Appends records to a partition.
    pub(crate) fn send(self: &Arc<Self>, topic: Topic, partition: u32, of: Vec<Bytes>) -> Attempt {
        let route = self.clone();
        Box::pin(async move {
            let to = TopicPartition { topic: route.topic(topic).name.clone(), partition };
            let appended = route.in_time(route.log.append(&to, of)).await;
            Outcome::Sent(topic, partition, appended.map(drop))
        })
    }

    async fn try_ready(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        let partitions = self.in_time(self.log.ensure_topic(topic)).await?;
        if partitions == 0 {
            let what = format!("topic {} has no partitions; create it anew", topic.name);
            return Err(LogError::Invalid(what));
        }
        if partitions != topic.partitions {
            let (there, configured) = (partitions, topic.partitions);
            tracing::warn!(topic.name, there, configured, "the topic has other partitions");
        }
        Ok(partitions)
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
