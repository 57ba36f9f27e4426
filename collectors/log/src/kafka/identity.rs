//! Making sure that what was read came from the topic that was asked for.
//!
//! Each check that must be exact begins after the records came. All that wait for one topic share
//! the next check, and checks of a topic keep a distance, so they cost the cluster at most
//! [`SPACING`]⁻¹ requests a second and topic, and a fetch at most that delay, however many
//! partitions there are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::error::KafkaError;
use tokio::time::{Instant, sleep_until};

use super::{Inner, blocking, errors::is_unknown, ids, locked};
use crate::{Incarnation, LogError, TopicPartition};

/// Least time between two checks of one topic.
const SPACING: Duration = Duration::from_millis(20);

/// Age of an answer that will do where it need not be exact.
pub(super) const RECENT: Duration = Duration::from_secs(1);

/// Age of an answer that will do for a fetch that found nothing: so long a topic made anew, with
/// as many records as were read of the old one, may go unnoticed.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// What is known of topics, by name.
#[derive(Default)]
pub(super) struct Identities {
    topics: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Known>>>>>,
}

/// The last answer.
#[derive(Clone, Copy)]
struct Known {
    incarnation: Incarnation,
    asked_at: Instant,
}

/// Whether the partition is of this incarnation, by an answer asked for at `after` or later.
pub(super) async fn confirm(
    inner: &Arc<Inner>,
    at: &TopicPartition,
    asked: Incarnation,
    after: Instant,
) -> Result<(), LogError> {
    match of_topic(inner, &at.topic, Some(after)).await? {
        found if found == asked => Ok(()),
        found => Err(LogError::Replaced { at: at.clone(), asked, found }),
    }
}

/// What the topic is, by an answer asked for at `after` or later.
pub(super) async fn of_topic(
    inner: &Arc<Inner>,
    topic: &str,
    after: Option<Instant>,
) -> Result<Incarnation, LogError> {
    let known = locked(&inner.identities.topics).entry(topic.to_owned()).or_default().clone();
    let mut known = known.lock().await;
    if let Some(known) = *known {
        if after.is_some_and(|after| known.asked_at >= after) {
            return Ok(known.incarnation);
        }
        sleep_until(known.asked_at + SPACING).await;
    }
    let asked_at = Instant::now();
    let incarnation = ask(inner, topic).await?;
    *known = Some(Known { incarnation, asked_at });
    Ok(incarnation)
}

async fn ask(inner: &Arc<Inner>, topic: &str) -> Result<Incarnation, LogError> {
    let (inner, topic) = (inner.clone(), topic.to_owned());
    blocking(move || {
        let asked = ids::topic_id(&inner.asker, &topic, inner.config.timeout());
        inner.serve_events();
        asked.map_err(|code| {
            let what = format!("ask for the id of topic {topic}");
            let cause = KafkaError::MetadataFetch(code);
            if is_unknown(code) {
                locked(&inner.partitions).remove(&topic);
                return LogError::Unavailable { what, cause: Some(Box::new(cause)) };
            }
            inner.noticed.failed(what, cause)
        })
    })
    .await
}
