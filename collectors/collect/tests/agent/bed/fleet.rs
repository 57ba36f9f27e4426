//! A source that sees the same resources every time, unless told otherwise.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nilometer_clock::Clock;
use nilometer_contract::{Change, LifecycleEvent, Resource, ResourceKind, Timestamp};
use nilometer_source::{Observation, Source, SourceError};

use super::{BedClock, seconds};

pub struct Fleet {
    name: &'static str,
    ids: Vec<String>,
    births: bool,
    takes: Duration,
    fails_at: Option<i64>,
    clock: Option<Arc<BedClock>>,
    started: bool,
}

impl Fleet {
    pub fn of(ids: &[&str]) -> Self {
        Fleet {
            name: "fleet",
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
            births: false,
            takes: Duration::ZERO,
            fails_at: None,
            clock: None,
            started: false,
        }
    }

    pub fn numbered(count: usize) -> Self {
        Fleet { ids: (0..count).map(|n| format!("vm-{n}")).collect(), ..Fleet::of(&[]) }
    }

    pub fn named(self, name: &'static str) -> Self {
        Fleet { name, ..self }
    }

    /// One more resource is born at each observation.
    pub fn with_births(self) -> Self {
        Fleet { births: true, ..self }
    }

    pub fn taking(self, takes: Duration) -> Self {
        Fleet { takes, ..self }
    }

    pub fn failing_at(self, second: i64) -> Self {
        Fleet { fails_at: Some(second), ..self }
    }

    pub fn told_by(self, clock: Arc<BedClock>) -> Self {
        Fleet { clock: Some(clock), ..self }
    }

    fn created(&self, id: &str, at: Timestamp) -> LifecycleEvent {
        LifecycleEvent {
            change: Change::Created,
            at,
            resource: Resource::new(id, ResourceKind::VM),
            source: self.name.to_owned(),
        }
    }
}

#[async_trait]
impl Source for Fleet {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let at = self.clock.as_ref().unwrap().now();
        tokio::time::sleep(self.takes).await;
        if self.fails_at == Some(seconds(at)) {
            return Err(SourceError { what: "told to fail".to_owned(), cause: None });
        }
        let mut out = Observation::new(self.name);
        if !std::mem::replace(&mut self.started, true) {
            out.events = self.ids.iter().map(|id| self.created(id, at)).collect();
        }
        if self.births {
            out.events.push(self.created(&format!("born-{}", at.0), at));
        }
        for id in &self.ids {
            let subject = out.samples.subject(&Resource::new(id, ResourceKind::VM));
            out.samples.push_named(subject, "cpu.time", at, seconds(at) as f64);
        }
        Ok(out)
    }
}
