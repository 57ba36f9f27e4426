//! A log in memory that can be away, or not answer.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_contract::{EVENTS, GAPS, Gap, LifecycleEvent, SAMPLES, Timestamp, decode};
use nilometer_log::{Incarnation, Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};

use super::seconds;

#[derive(Default)]
pub struct BedLog {
    appended: Mutex<Vec<(TopicPartition, Bytes)>>,
    away: AtomicBool,
    /// The next failure takes the records in, but its answer is lost.
    answer_is_lost: AtomicBool,
    hanging: AtomicBool,
    /// Partitions that take nothing.
    failing: Mutex<BTreeSet<(String, u32)>>,
    /// Records that hold this text are refused.
    refused: Mutex<Option<&'static str>>,
}

impl BedLog {
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
        self.answer_is_lost.store(away, Ordering::Relaxed);
    }

    pub fn set_hanging(&self, hanging: bool) {
        self.hanging.store(hanging, Ordering::Relaxed);
    }

    pub fn set_failing(&self, topic: &str, partition: u32, failing: bool) {
        let (mut all, partition) = (self.failing.lock().unwrap(), (topic.to_owned(), partition));
        assert!(if failing { all.insert(partition) } else { all.remove(&partition) });
    }

    pub fn refuse(&self, text: &'static str) {
        *self.refused.lock().unwrap() = Some(text);
    }

    /// How many records were appended, and how many different ones.
    pub fn appended(&self) -> (usize, usize) {
        let appended = self.appended.lock().unwrap();
        let distinct: BTreeSet<_> = appended.iter().collect();
        (appended.len(), distinct.len())
    }

    pub fn topics_in_order(&self) -> Vec<String> {
        self.appended.lock().unwrap().iter().map(|(to, _)| to.topic.clone()).collect()
    }

    fn payloads(&self, topic: &str) -> Vec<(u32, Bytes)> {
        let appended = self.appended.lock().unwrap();
        let of_topic = appended.iter().filter(|(to, _)| to.topic == topic);
        of_topic.map(|(to, payload)| (to.partition, payload.clone())).collect()
    }

    /// Events without repeats, in order of their first arrival.
    pub fn events(&self) -> Vec<LifecycleEvent> {
        let mut told = BTreeSet::new();
        let events = self.payloads(EVENTS).into_iter();
        let events = events.map(|(_, payload)| LifecycleEvent::decode(&payload).unwrap());
        events.filter(|event| told.insert(event.id())).collect()
    }

    /// `change id @second`, in order of time.
    pub fn distinct_events(&self) -> Vec<String> {
        let mut events = self.events();
        events.sort_by_key(|event| (event.at, event.resource.id.clone()));
        let line = |event: &LifecycleEvent| {
            let estimated = event.resource.attributes.get("end").map(|end| format!(" {end}"));
            let (change, id) = (event.change.as_str(), &event.resource.id);
            format!("{change} {id} @{}{}", seconds(event.at), estimated.unwrap_or_default())
        };
        events.iter().map(line).collect()
    }

    /// Samples without repeats, as resource and instant, in order of their first arrival.
    pub fn samples(&self) -> Vec<(String, Timestamp)> {
        let (mut told, mut samples) = (BTreeSet::new(), Vec::new());
        for (_, payload) in self.payloads(SAMPLES) {
            let batch = decode(&payload).unwrap();
            for row in 0..batch.len() {
                let id = batch.subjects.id.value(batch.resource[row] as usize).to_owned();
                let sample = (id, Timestamp(batch.at[row]));
                if told.insert(sample.clone()) {
                    samples.push(sample);
                }
            }
        }
        samples
    }

    /// Seconds of one resource's samples, in order of their first arrival.
    pub fn instants(&self, id: &str) -> Vec<i64> {
        let samples = self.samples();
        samples.iter().filter(|(of, _)| of == id).map(|(_, at)| seconds(*at)).collect()
    }

    /// What was read of a counter: epoch by its number, second and value.
    pub fn readings(&self, id: &str) -> Vec<(u64, i64, f64)> {
        let batches = self.payloads(SAMPLES).into_iter();
        let batches = batches.map(|(_, payload)| decode(&payload).unwrap());
        let rows = batches.flat_map(|batch| (0..batch.len()).map(move |row| (batch.clone(), row)));
        let of_id = rows
            .filter(|(batch, row)| batch.subjects.id.value(batch.resource[*row] as usize) == id);
        of_id
            .map(|(batch, row)| {
                let at = seconds(Timestamp(batch.at[row]));
                (batch.epoch.sequence, at, batch.value[row])
            })
            .collect()
    }

    /// Instant of the first sample in a partition.
    pub fn first_in(&self, topic: &str, partition: u32) -> Timestamp {
        let payloads = self.payloads(topic);
        let mut of_partition = payloads.iter().filter(|(there, _)| *there == partition);
        Timestamp(decode(&of_partition.next().unwrap().1).unwrap().at[0])
    }

    pub fn gaps(&self) -> Vec<Gap> {
        let payloads = self.payloads(GAPS);
        payloads.iter().map(|(_, payload)| Gap::decode(payload).unwrap()).collect()
    }

    fn unavailable() -> LogError {
        LogError::Unavailable { what: "told to be away".to_owned(), cause: None }
    }
}

#[async_trait]
impl Log for BedLog {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(Self::unavailable()),
            false => Ok(topic.partitions),
        }
    }

    async fn incarnation(&self, _: &TopicPartition) -> Result<Incarnation, LogError> {
        Err(LogError::Invalid("an agent does not read".to_owned()))
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        while self.hanging.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let away = self.away.load(Ordering::Relaxed);
        if away && !self.answer_is_lost.swap(false, Ordering::Relaxed) {
            return Err(Self::unavailable());
        }
        if self.failing.lock().unwrap().contains(&(to.topic.clone(), to.partition)) {
            return Err(Self::unavailable());
        }
        if let Some(text) = *self.refused.lock().unwrap() {
            let is_in = |payload: &Bytes| payload.windows(text.len()).any(|w| w == text.as_bytes());
            if payloads.iter().any(is_in) {
                return Err(LogError::Refused("told to refuse".to_owned()));
            }
        }
        let mut appended = self.appended.lock().unwrap();
        let offset = appended.iter().filter(|(there, _)| there == to).count() as u64;
        appended.extend(payloads.into_iter().map(|payload| (to.clone(), payload)));
        if away { Err(Self::unavailable()) } else { Ok(offset) }
    }

    async fn fetch(
        &self,
        _: &TopicPartition,
        _: Incarnation,
        _: u64,
        _: usize,
        _: Duration,
    ) -> Result<Vec<Record>, LogError> {
        Err(LogError::Invalid("an agent does not read".to_owned()))
    }

    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        Err(LogError::Invalid("an agent does not read".to_owned()))
    }

    async fn truncate(&self, _: &TopicPartition, _: u64) -> Result<(), LogError> {
        Err(LogError::Invalid("an agent does not truncate".to_owned()))
    }
}
