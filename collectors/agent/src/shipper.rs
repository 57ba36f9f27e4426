//! Takes in what sources see and brings it to the log; the one owner of all queues.
//!
//! Each turn of the loop waits for one of: an attempt at the log that landed, the second that
//! keeps house, an observation, the time to try again. While an attempt is under way
//! observations are taken in all the same.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::{LifecycleEvent, Timestamp};
use nilometer_log::LogError;
use nilometer_source::{Observation, SharedClock};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::batch;
use crate::entry::Entry;
use crate::file;
use crate::flight::{Cargo, Landed, Partitions};
use crate::gaps::Gaps;
use crate::known::Known;
use crate::lane::Lane;
use crate::line::{LONGEST_BACKOFF, Line};
use crate::metrics::Metrics;
use crate::status::Status;
use crate::watch::{Event, Observed};

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Shortest time over which the rate of samples is told.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The queues and what is known of the log.
pub(crate) struct Shipper {
    pub(crate) events: Lane,
    pub(crate) samples: Lane,
    pub(crate) gaps: Gaps,
    pub(crate) known: Known,
    pub(crate) metrics: Metrics,
    pub(crate) status: Arc<Status>,
    pub(crate) names: Topics,
    /// As configured until the log told.
    pub(crate) partitions: Partitions,
    pub(crate) line: Line,
    pub(crate) interval: Duration,
    pub(crate) clock: SharedClock,
    /// Samples taken in, by second.
    pub(crate) rate: VecDeque<(Instant, u64)>,
    pub(crate) started: Instant,
}

/// Names of the topics.
pub(crate) struct Topics {
    pub(crate) samples: String,
    pub(crate) events: String,
}

impl Shipper {
    /// Takes in and brings on until every sender of `seen` is gone; then, for at most `patience`,
    /// brings what is left, and keeps on disk what the log did not take.
    pub(crate) async fn run(
        mut self,
        mut seen: mpsc::Receiver<Event>,
        mut pushed: mpsc::Receiver<Observation>,
        patience: Duration,
    ) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more_pushed = true;
        loop {
            self.launch();
            let takes = self.takes();
            let waits = self.line.flight.is_none() && self.has_cargo();
            let retry_at = self.line.retry_at;
            tokio::select! {
                biased;
                landed = self.line.landed() => self.land(landed),
                _ = housekeeping.tick() => self.keep_house().await,
                event = seen.recv(), if takes => match event {
                    Some(event) => self.take(event),
                    None => break,
                },
                observation = pushed.recv(), if takes && more_pushed => match observation {
                    Some(observation) => self.take_in(observation, None, Vec::new()),
                    None => more_pushed = false,
                },
                () = tokio::time::sleep_until(retry_at), if waits => {}
            }
        }
        while let Ok(observation) = pushed.try_recv() {
            self.take_in(observation, None, Vec::new());
        }
        self.stop(patience).await;
    }

    async fn stop(&mut self, patience: Duration) {
        let flush = async {
            self.line.retry_at = Instant::now();
            loop {
                self.launch();
                if self.line.flight.is_none() {
                    return;
                }
                let landed = self.line.landed().await;
                self.land(landed);
                if self.line.away {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, flush).await.is_err() {
            self.line.flight = None;
        }
        self.events.failed();
        self.samples.failed();
        self.keep_house().await;
        if !self.events.is_empty() || !self.samples.is_empty() {
            let bytes = self.events.spooled_bytes() + self.samples.spooled_bytes();
            tracing::warn!(bytes, "stopped with unsent records in the spool");
        }
    }

    /// While the log is away everything is taken in, into the spool; while it is there, sources
    /// wait rather than fill it.
    fn takes(&self) -> bool {
        self.line.away || (self.samples.has_room() && self.events.has_room())
    }

    fn has_cargo(&self) -> bool {
        let empty = self.events.is_empty() && self.samples.is_empty() && self.gaps.is_empty();
        !self.line.ensured || !empty
    }

    fn launch(&mut self) {
        let due = Instant::now() >= self.line.retry_at;
        if self.line.flight.is_some() || !due || !self.has_cargo() {
            return;
        }
        let events = self.events.front();
        // Samples follow only when no event is left behind that may belong to them.
        let all_events = events.as_ref().map_or(self.events.is_empty(), |window| window.is_all);
        let samples = if all_events { self.samples.front() } else { None };
        let partitions = self.line.ensured.then_some(self.partitions);
        let cargo = Cargo { partitions, gaps: self.gaps.front(), events, samples };
        if cargo.is_empty() {
            // Something waits, but the disk does not give it out now.
            self.line.retry_at = Instant::now() + LONGEST_BACKOFF;
            return;
        }
        self.line.flight = Some(Box::pin(self.line.route.clone().fly(cargo)));
    }

    fn land(&mut self, landed: Landed) {
        self.gaps.landed(landed.gaps_sent);
        let lanes = [
            (&mut self.events, landed.events_sent, landed.cargo.events, &self.names.events),
            (&mut self.samples, landed.samples_sent, landed.cargo.samples, &self.names.samples),
        ];
        for (lane, sent, unsent, topic) in lanes {
            if let Some(window) = sent {
                lane.sent(&window);
                let batches = self.metrics.batches.with_label_values(&[topic]);
                batches.inc_by(window.entries.len() as u64);
            }
            if unsent.is_some() {
                lane.failed();
            }
        }
        self.samples.trim();
        if let (true, Some(partitions)) = (landed.gaps_sent, landed.cargo.partitions) {
            self.partitions = partitions;
            self.line.ensured = true;
        }
        match landed.result {
            Ok(()) => self.log_is_there(),
            Err(error) => self.log_is_away(&error),
        }
    }

    fn log_is_there(&mut self) {
        if std::mem::replace(&mut self.line.away, false) {
            tracing::info!("log takes records");
            self.status.update(|report| report.log_error = None);
            self.metrics.log_up.set(1);
        }
        if let Some(outage) = self.line.works()
            && outage.began.elapsed() > self.interval
        {
            // What waited for the log longer than for the next observation came late.
            let (now, why) = (self.clock.now(), format!("the log was away: {}", outage.why));
            let (start, end) = (outage.since.min(now), outage.since.max(now));
            self.gaps.late(&self.names.samples, start, end, &why);
        }
    }

    fn log_is_away(&mut self, error: &LogError) {
        self.metrics.append_errors.inc();
        self.metrics.log_up.set(0);
        let cause = std::error::Error::source(error);
        if !std::mem::replace(&mut self.line.away, true) || !self.line.ensured {
            tracing::warn!(%error, cause, "log is away, records go to the spool");
        } else {
            tracing::debug!(%error, cause, "log is still away");
        }
        let text = error.to_string();
        self.line.fails(self.clock.now(), &text);
        self.status.update(|report| report.log_error = Some(text));
        self.samples.spill();
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Observed(observed) => self.take_observed(*observed),
            Event::Unobserved { start, end, why } => {
                self.gaps.unobserved(&self.names.samples, start, end, why);
            }
        }
    }

    fn take_observed(&mut self, observed: Observed) {
        let Observed { source, started, took, result } = observed;
        match result {
            Ok(observation) => {
                self.take_in(observation, Some(started), vec![source]);
                let alive = self.known.alive(source);
                let gauge = self.metrics.resources.with_label_values(&[source]);
                gauge.set(i64::try_from(alive).unwrap_or(i64::MAX));
                self.status.update_source(source, |status| {
                    status.alive = alive;
                    status.observed_at = Some(started);
                    status.error = None;
                });
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                tracing::warn!(source, %error, cause, "source could not observe");
                self.metrics.observe_errors.with_label_values(&[source]).inc();
                self.status.update_source(source, |status| status.error = Some(error.to_string()));
            }
        }
        self.status.update_source(source, |status| status.observe_time = Some(took));
    }

    /// Takes in an observation; `full` names the source of which it tells all there is.
    fn take_in(
        &mut self,
        observation: Observation,
        started: Option<Timestamp>,
        full: Vec<&'static str>,
    ) {
        let mut events = self.known.admit(observation.events, started);
        for source in full {
            let at = started.unwrap_or_default();
            events.extend(self.known.observed(source, at));
        }
        self.take_events(&events);
        let (epoch, samples) = (observation.epoch, observation.samples);
        let (count, not_finite) = (samples.len(), samples.not_finite());
        self.metrics.not_finite.inc_by(not_finite as u64);
        if !epoch.is_none() && epoch != self.clock.epoch() {
            // Some may be stamped within the epoch that began meanwhile; its gap covers them.
            self.metrics.torn_samples.inc_by(count as u64);
            return;
        }
        self.count_rate(count as u64);
        if count == 0 {
            return;
        }
        let records = batch::of_samples(samples.in_epoch(epoch), self.partitions.samples);
        let taken = self.metrics.samples.with_label_values(&[&records.source]);
        taken.inc_by(count as u64);
        let topic = self.names.samples.clone();
        self.lose(&topic, &records.refused, "breaks a bound of the contract");
        let dropped = self.samples.push(records.entries, self.line.away);
        self.lose(&topic, &dropped, "spool full");
    }

    fn take_events(&mut self, events: &[LifecycleEvent]) {
        if events.is_empty() {
            return;
        }
        for event in events {
            self.metrics.events.with_label_values(&[&event.source]).inc();
        }
        let records = batch::of_events(events, self.partitions.events);
        let topic = self.names.events.clone();
        self.lose(&topic, &records.refused, "breaks a bound of the contract");
        let dropped = self.events.push(records.entries, self.line.away);
        self.lose(&topic, &dropped, "spool full");
    }

    fn lose(&mut self, topic: &str, entries: &[Entry], reason: &str) {
        if entries.is_empty() {
            return;
        }
        let samples = entries.iter().map(|entry| u64::from(entry.samples)).sum();
        tracing::error!(topic, records = entries.len(), samples, reason, "records are lost");
        self.metrics.dropped_records.with_label_values(&[topic]).inc_by(entries.len() as u64);
        self.metrics.dropped_samples.inc_by(samples);
        self.status.update(|report| report.dropped += entries.len() as u64);
        self.gaps.dropped(topic, entries, reason);
    }

    fn count_rate(&mut self, samples: u64) {
        self.rate.push_back((Instant::now(), samples));
        self.trim_rate();
    }

    fn trim_rate(&mut self) {
        let window = self.interval.max(RATE_WINDOW);
        while self.rate.front().is_some_and(|(at, _)| at.elapsed() >= window) {
            self.rate.pop_front();
        }
    }

    /// Every second: what is on disk is made to last, and what was sent is removed.
    ///
    /// Sent events are removed only after the resources they speak of are written, so that at
    /// every instant the file and the spool together know all that was told.
    async fn keep_house(&mut self) {
        let draft = self.known.draft();
        let mut files: Vec<Arc<File>> = self.events.take_unsynced();
        files.extend(self.samples.take_unsynced());
        let work = tokio::task::spawn_blocking(move || {
            for file in files {
                file.sync_data()?;
            }
            draft.map_or(Ok(()), |(path, bytes)| file::replace(&path, &bytes))
        });
        match work.await.map_err(std::io::Error::other).flatten() {
            Ok(()) => self.events.trim(),
            Err(error) => {
                self.known.not_written();
                self.events.disk_failed(&error);
            }
        }
        self.tell_state();
    }

    fn tell_state(&mut self) {
        for (lane, topic) in
            [(&mut self.events, &self.names.events), (&mut self.samples, &self.names.samples)]
        {
            let bytes = i64::try_from(lane.spooled_bytes()).unwrap_or(i64::MAX);
            self.metrics.spool_bytes.with_label_values(&[topic]).set(bytes);
            let errors = std::mem::take(&mut lane.disk_errors);
            self.metrics.spool_errors.with_label_values(&[topic]).inc_by(errors);
        }
        self.trim_rate();
        let samples: u64 = self.rate.iter().map(|(_, samples)| samples).sum();
        let window = self.interval.max(RATE_WINDOW).min(self.started.elapsed());
        let seconds = window.max(HOUSEKEEPING).as_secs_f64();
        let spool_bytes = self.events.spooled_bytes() + self.samples.spooled_bytes();
        self.status.update(|report| {
            report.samples_per_second = samples as f64 / seconds;
            report.spool_bytes = spool_bytes;
        });
    }
}
