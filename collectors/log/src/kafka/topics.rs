//! Topics of the cluster: making them, and knowing how many partitions they have.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    admin::{NewTopic, TopicReplication},
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tokio::time::{Instant, sleep};

use super::{
    Inner, blocking,
    errors::{is_permanent, is_unknown},
    locked,
};
use crate::{LogError, TopicConfig, TopicPartition};

/// How often the cluster is asked whether a topic just made is known.
const POLL: Duration = Duration::from_millis(50);

/// Makes the topic unless it is there; returns how many partitions it has.
pub(super) async fn ensure(inner: &Arc<Inner>, topic: &TopicConfig) -> Result<u32, LogError> {
    if let Some(count) = count(inner, &topic.name).await? {
        return Ok(count);
    }
    create(inner, topic).await?;
    let started = Instant::now();
    loop {
        if let Some(count) = count(inner, &topic.name).await? {
            return Ok(count);
        }
        if started.elapsed() > inner.config.timeout() {
            let what = format!("topic {} was made but is not known yet", topic.name);
            return Err(LogError::Unavailable { what, cause: None });
        }
        sleep(POLL).await;
    }
}

async fn create(inner: &Arc<Inner>, topic: &TopicConfig) -> Result<(), LogError> {
    let what = format!("create topic {}", topic.name);
    let Some(partitions) = i32::try_from(topic.partitions).ok().filter(|n| *n > 0) else {
        return Err(LogError::Invalid(format!("{what}: {} partitions", topic.partitions)));
    };
    let retention = i64::try_from(topic.retention.as_millis()).unwrap_or(i64::MAX).to_string();
    let longest = inner.config.message_bytes();
    let mut new =
        NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(inner.config.replication))
            .set("cleanup.policy", "delete")
            .set("retention.ms", &retention)
            // By the log's clock, as the record says.
            .set("message.timestamp.type", "LogAppendTime");
    // Otherwise the cluster's own limit holds.
    if inner.config.max_record_bytes > 1_000_000 {
        new = new.set("max.message.bytes", &longest);
    }
    let admin = inner.admin()?;
    let made = admin.create_topics([&new], &inner.admin_options()).await;
    match made.map_err(|e| inner.noticed.failed(what.clone(), e))?.into_iter().next() {
        Some(Err((_, Code::TopicAlreadyExists))) | Some(Ok(_)) | None => Ok(()),
        Some(Err((_, code))) if is_permanent(code) => {
            Err(LogError::Invalid(format!("{what}: {code}")))
        }
        Some(Err((_, code))) => {
            let cause = Some(Box::new(KafkaError::AdminOp(code)) as _);
            Err(LogError::Unavailable { what, cause })
        }
    }
}

/// Whether there is such a partition; asks the cluster only where that is not known.
pub(super) async fn check(inner: &Arc<Inner>, at: &TopicPartition) -> Result<(), LogError> {
    let known = locked(&inner.partitions).get(&at.topic).copied();
    if known.is_some_and(|count| at.partition < count) {
        return Ok(());
    }
    match count(inner, &at.topic).await? {
        Some(count) if at.partition < count => Ok(()),
        Some(_) => Err(LogError::Invalid(format!("no partition {} of {}", at.partition, at.topic))),
        None if locked(&inner.ensured).contains_key(&at.topic) => {
            let what = format!("topic {} is gone from Kafka", at.topic);
            Err(LogError::Unavailable { what, cause: None })
        }
        None => Err(LogError::Invalid(format!("no topic {:?}", at.topic))),
    }
}

/// The same before an append: a topic that is gone, but was asked for before, is made again.
pub(super) async fn check_or_make(inner: &Arc<Inner>, at: &TopicPartition) -> Result<(), LogError> {
    let checked = check(inner, at).await;
    let ensured = locked(&inner.ensured).get(&at.topic).cloned();
    match (checked, ensured) {
        (Err(LogError::Unavailable { cause: None, .. }), Some(topic)) => {
            tracing::error!(topic = topic.name, "made again, since it is gone from Kafka");
            ensure(inner, &topic).await?;
            check(inner, at).await
        }
        (checked, _) => checked,
    }
}

/// How many partitions the topic has now; None if there is no such topic.
async fn count(inner: &Arc<Inner>, topic: &str) -> Result<Option<u32>, LogError> {
    let (inner, topic) = (inner.clone(), topic.to_owned());
    blocking(move || {
        let what = || format!("look up topic {topic}");
        let asked = inner.asker.fetch_metadata(Some(&topic), inner.config.timeout());
        inner.serve_events();
        let answer = asked.map_err(|e| inner.noticed.failed(what(), e))?;
        inner.noticed.answer();
        let found = answer.topics().iter().find(|t| t.name() == topic);
        match found.map(|found| (found.error().map(Code::from), found.partitions().len())) {
            Some((None, count)) if count > 0 => {
                let count = count as u32;
                locked(&inner.partitions).insert(topic, count);
                Ok(Some(count))
            }
            None | Some((None, _)) => Ok(None),
            Some((Some(code), _)) if is_unknown(code) => Ok(None),
            Some((Some(code), _)) => {
                Err(inner.noticed.failed(what(), KafkaError::MetadataFetch(code)))
            }
        }
    })
    .await
}
