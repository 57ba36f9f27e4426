//! Takes an observation in, part by part, and records what is lost.

use std::collections::VecDeque;
use std::vec;

use nilometer_clock::Clock;
use nilometer_contract::{BatchBuilder, Causes, LifecycleEvent, Timestamp};
use nilometer_producer::{Produced, Refused, Topic};
use nilometer_source::Observation;
use tokio::time::Instant;

use super::Shipper;
use crate::entry::Entry;
use crate::epochs::is_stepped;
use crate::gaps::AT_MOST;
use crate::queue::{Loss, SPOOL_FULL};
use crate::watch::{Event, Observed};

/// Most events taken in at once.
const PART_EVENTS: usize = 64;
/// About most bytes of samples taken in at once; a smaller spool takes less.
const PART_BYTES: usize = 256 << 10;
const REFUSED: &str = "breaks a bound of the contract";

/// An observation of which a part is still to be taken in.
pub(crate) struct Intake {
    /// When it started; nothing for a pushed one.
    started: Option<Timestamp>,
    events: vec::IntoIter<LifecycleEvent>,
    /// The source of which it says all there is.
    full: Option<&'static str>,
    /// Ends of what the source does not mention any more.
    ends: vec::IntoIter<LifecycleEvent>,
    samples: Option<BatchBuilder>,
    entries: VecDeque<Entry>,
}

impl Intake {
    /// Ends that are recorded again.
    pub(crate) fn of_ends(ends: Vec<LifecycleEvent>) -> Self {
        let (events, ends) = (Vec::new().into_iter(), ends.into_iter());
        let entries = VecDeque::new();
        Intake { started: None, events, full: None, ends, samples: None, entries }
    }

    fn has_events(&self) -> bool {
        self.events.len() + self.ends.len() > 0
    }
}

impl Shipper {
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Observed(observed) => self.take_observed(*observed),
            Event::Unobserved { start, end, why } => {
                self.gaps.unobserved(
                    &self.producer.topics().of(Topic::Samples).name,
                    start,
                    end,
                    why,
                );
            }
        }
    }

    fn take_observed(&mut self, observed: Observed) {
        let Observed { source, started, took, result } = observed;
        match result {
            Ok(observation) => {
                self.take_in(observation, Some(started), Some(source));
                self.status.update_source(source, |status| {
                    status.observed_at = Some(started);
                    status.error = None;
                });
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                tracing::warn!(source, error = %Causes(&error), cause, "source could not observe");
                self.metrics.observe_errors.with_label_values(&[source]).inc();
                self.status.update_source(source, |status| status.error = Some(error.to_string()));
            }
        }
        self.status.update_source(source, |status| status.observe_time = Some(took));
    }

    /// Begins to take in what a source pushed: often the last reading of something, which nobody
    /// reads again. Its source may have it from a runtime that goes by the wall clock, so after a
    /// step the instants fit the epoch before no more, and those of the next not yet. The next
    /// epoch begins at once, and the readings are stamped on arrival.
    pub(super) async fn take_pushed(&mut self, mut observation: Observation) {
        let has_order = !observation.epoch.is_none() && !observation.samples.is_empty();
        if has_order {
            let is_stepped = is_stepped(&self.clock);
            let step = self.epochs.lock().await.follow().await;
            if let Some(step) = step {
                self.metrics.clock_jumps.inc();
                self.take(step.into());
            }
            let epoch = self.clock.epoch();
            if is_stepped || epoch != observation.epoch {
                let samples = observation.samples.moved_to(&epoch, self.clock.now());
                observation = Observation { epoch, samples, ..observation };
            }
        }
        self.take_in(observation, None, None);
    }

    /// Begins to take in an observation; `full` names the source of which it tells all there is.
    pub(super) fn take_in(
        &mut self,
        observation: Observation,
        started: Option<Timestamp>,
        full: Option<&'static str>,
    ) {
        let Observation { epoch, samples, events } = observation;
        self.metrics.not_finite.inc_by(samples.not_finite() as u64);
        let samples = if !epoch.is_none() && epoch != self.clock.epoch() {
            // Some may be stamped within the epoch that began meanwhile; its gap covers them.
            self.metrics.torn_samples.inc_by(samples.len() as u64);
            None
        } else {
            Some(samples.in_epoch(epoch))
        };
        let (events, ends) = (events.into_iter(), Vec::new().into_iter());
        let entries = VecDeque::new();
        self.intake = Some(Intake { started, events, full, ends, samples, entries });
    }

    /// Whether the next part of an observation finds room.
    pub(super) fn has_room_for(&self, intake: &Intake) -> bool {
        match intake.has_events() {
            true => self.events.has_room(),
            false => self.samples.has_room(),
        }
    }

    /// Takes in the next part of the observation under way.
    pub(super) async fn feed(&mut self) {
        if let Some(mut intake) = self.intake.take()
            && self.feed_part(&mut intake)
        {
            self.intake = Some(intake);
        }
        if self.events.is_tight() && self.events.can_trim() {
            self.keep_up().await;
        }
        self.bound(Topic::Events).await;
        self.bound(Topic::Samples).await;
    }

    /// Takes in one part; returns whether more is left.
    fn feed_part(&mut self, intake: &mut Intake) -> bool {
        if intake.has_events() {
            self.feed_events(intake);
        } else if let Some(source) = intake.full.take() {
            intake.ends = self.known.missing(source).into_iter();
            if intake.has_events() {
                // Asked again once the ends are taken in.
                intake.full = Some(source);
                return true;
            }
            self.known.seen(source, intake.started.unwrap_or_default());
            let alive = self.known.alive(source);
            let gauge = self.metrics.resources.with_label_values(&[source]);
            gauge.set(i64::try_from(alive).unwrap_or(i64::MAX));
            self.status.update_source(source, |status| status.alive = alive);
        } else if let Some(samples) = intake.samples.take() {
            self.begin_samples(samples, intake);
        } else {
            let most = PART_BYTES.min(self.samples.part_bytes());
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < most
                && let Some(entry) = intake.entries.pop_front()
            {
                bytes += entry.size();
                part.push(entry);
            }
            self.samples.push(part);
            self.record_losses(Topic::Samples);
        }
        intake.has_events()
            || intake.full.is_some()
            || intake.samples.is_some()
            || !intake.entries.is_empty()
    }

    fn feed_events(&mut self, intake: &mut Intake) {
        let said: Vec<LifecycleEvent> = intake.events.by_ref().take(PART_EVENTS).collect();
        let mut events = self.known.admit(said, intake.started);
        let ends: Vec<LifecycleEvent> = intake.ends.by_ref().take(PART_EVENTS).collect();
        ends.iter().for_each(|event| self.known.ended(event));
        events.extend(ends);
        for event in &events {
            self.metrics.events.with_label_values(&[&event.source]).inc();
        }
        let Produced { records, refused } = self.producer.events(&events);
        self.lose_refused(Topic::Events, refused);
        self.events.push(records.into_iter().map(Entry::from).collect());
        self.record_losses(Topic::Events);
    }

    fn begin_samples(&mut self, samples: BatchBuilder, intake: &mut Intake) {
        let count = samples.len() as u64;
        self.rate.push_back((Instant::now(), count));
        self.trim_rate();
        if count == 0 {
            return;
        }
        self.metrics.samples.with_label_values(&[samples.source()]).inc_by(count);
        let Produced { records, refused } = self.producer.samples(samples);
        self.lose_refused(Topic::Samples, refused);
        intake.entries = records.into_iter().map(Entry::from).collect();
    }

    /// Drops the oldest segments of a spool that is over its bound, after recording what is lost.
    pub(super) async fn bound(&mut self, topic: Topic) {
        if topic == Topic::Events && self.events.is_over() && self.events.can_trim() {
            self.keep_up().await;
        }
        while let Some(queue) = self.queue(topic)
            && queue.is_over()
        {
            let lost = queue.oldest();
            self.lose(topic, &lost, SPOOL_FULL);
            if !self.queue(topic).is_some_and(|queue| queue.drop_oldest()) {
                break;
            }
        }
    }

    /// Records what the queues of a topic found to be lost.
    pub(super) fn record_losses(&mut self, topic: Topic) {
        let losses = self.queue(topic).map(|queue| queue.take_losses()).unwrap_or_default();
        for loss in losses {
            match loss {
                Loss::Records(entries, reason) => self.lose(topic, &entries, reason),
                Loss::Hidden { partition, records, tried, start, end } => {
                    let end = end.unwrap_or_else(|| self.clock.now()).max(start);
                    let name = self.producer.topics().of(topic).name.clone();
                    let at_most = if tried { format!("; {AT_MOST}") } else { String::new() };
                    let reason = &format!("damage in the spool hides them{at_most}");
                    tracing::error!(topic = name, partition, records, reason, "records are lost");
                    self.metrics.dropped_records.with_label_values(&[&name]).inc_by(records);
                    self.status.update(|report| report.dropped += records);
                    let what = (records, Vec::new());
                    self.gaps.lost_somehow((&name, Some(partition)), (start, end), what, reason);
                }
            }
        }
    }

    /// A record that the log refuses goes to the dead letters, and a gap says so.
    pub(super) fn set_aside(&mut self, topic: Topic, entry: &Entry, why: &str) {
        let name = self.producer.topics().of(topic).name.clone();
        let reason = match self.dead_letters.keep(&name, entry, why) {
            Ok(()) => format!("the log refuses it, kept as a dead letter of the agent: {why}"),
            Err(error) => {
                tracing::error!(error = %Causes(&error), "a dead letter cannot be kept");
                format!("the log refuses it, and it could not be kept as a dead letter: {why}")
            }
        };
        self.metrics.dead_letters.with_label_values(&[&name]).inc();
        self.lose(topic, std::slice::from_ref(entry), &reason);
    }

    fn lose_refused(&mut self, topic: Topic, refused: Vec<Refused>) {
        for Refused { record, why } in &refused {
            let (source, samples) = (&*record.source, record.samples);
            tracing::error!(source, samples, error = %Causes(why), "an observation cannot be reported");
        }
        let entries: Vec<Entry> = refused.into_iter().map(|it| Entry::from(it.record)).collect();
        self.lose(topic, &entries, REFUSED);
    }

    pub(super) fn lose(&mut self, topic: Topic, entries: &[Entry], reason: &str) {
        if entries.is_empty() {
            return;
        }
        let topic = &self.producer.topics().of(topic).name;
        let samples = entries.iter().map(|entry| u64::from(entry.samples)).sum();
        tracing::error!(topic, records = entries.len(), samples, reason, "records are lost");
        self.metrics.dropped_records.with_label_values(&[topic]).inc_by(entries.len() as u64);
        self.metrics.dropped_samples.inc_by(samples);
        self.status.update(|report| report.dropped += entries.len() as u64);
        self.gaps.lost(topic, entries, reason);
    }
}
