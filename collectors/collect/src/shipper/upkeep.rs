//! What is done every second: files are made to last, what was sent is removed, figures are told.

use std::time::Duration;

use nilometer_producer::Topic;
use tokio::time::Instant;

use super::{Shipper, UPKEEP};
use crate::known::Draft;

/// Shortest time over which the rate of samples is told.
const RATE_WINDOW: Duration = Duration::from_secs(10);

impl Shipper {
    /// Makes what is on disk last, and removes what was sent.
    ///
    /// Sent events are removed only after the resources they speak of are written, so that at
    /// every instant the file and the spool together know all that was said.
    pub(super) async fn keep_up(&mut self) {
        if self.events.is_empty() && self.intake.is_none() {
            self.known.all_sent();
        }
        let draft = self.known.draft();
        let unsynced = [self.events.take_unsynced(), self.samples.take_unsynced()];
        let work = tokio::task::spawn_blocking(move || {
            unsynced.into_iter().try_for_each(|unsynced| unsynced.sync())?;
            draft.map_or(Ok(()), Draft::keep)
        });
        match work.await.map_err(std::io::Error::other).flatten() {
            Ok(()) => self.events.trim(),
            Err(error) => {
                self.known.not_written();
                self.events.disk_failed(&error);
            }
        }
        self.gaps.save();
        self.report();
        self.report_log();
    }

    fn report(&mut self) {
        for (queue, topic) in
            [(&mut self.events, Topic::Events), (&mut self.samples, Topic::Samples)]
        {
            let topic = &self.producer.topics().of(topic).name;
            let bytes = i64::try_from(queue.spooled_bytes()).unwrap_or(i64::MAX);
            self.metrics.spool_bytes.with_label_values(&[topic]).set(bytes);
            let errors = std::mem::take(&mut queue.disk_errors);
            self.metrics.spool_errors.with_label_values(&[topic]).inc_by(errors);
        }
        self.trim_rate();
        let samples: u64 = self.rate.iter().map(|(_, samples)| samples).sum();
        let window = self.interval.max(RATE_WINDOW).min(self.started.elapsed());
        let seconds = window.max(UPKEEP).as_secs_f64();
        let spool_bytes = self.events.spooled_bytes() + self.samples.spooled_bytes();
        self.status.update(|report| {
            report.samples_per_second = samples as f64 / seconds;
            report.spool_bytes = spool_bytes;
        });
    }

    /// Says which partitions fail, and records what came late once they do not any more.
    pub(super) fn report_log(&mut self) {
        let mut failing = self.failing();
        for late in self.log.late.take(failing > 0) {
            let topic = &self.producer.topics().of(late.topic).name;
            let why = format!("the log was away: {}", late.why);
            self.gaps.late((topic, late.partition), (late.start, late.end), &why);
        }
        for (queue, topic) in [(&self.events, Topic::Events), (&self.samples, Topic::Samples)] {
            let count = i64::try_from(queue.failing().count()).unwrap_or(i64::MAX);
            let topic = &self.producer.topics().of(topic).name;
            self.metrics.failing_partitions.with_label_values(&[topic]).set(count);
        }
        let is_up = failing == 0 && self.log.topics.iter().all(|topic| topic.partitions.is_some());
        let was_up = self.metrics.log_up.get() == 1;
        if is_up != was_up {
            self.metrics.log_up.set(i64::from(is_up));
            if is_up {
                tracing::info!("the log takes records");
            }
        }
        let error = self.why_failing().map(|why| {
            failing -= 1;
            if failing > 0 { format!("{why}, and {failing} more") } else { why }
        });
        self.status.update(|report| {
            if report.log_error != error {
                report.log_error = error;
            }
        });
    }

    /// Where and why an attempt failed, of one that still does.
    fn why_failing(&self) -> Option<String> {
        let topics = [Topic::Gaps, Topic::Events, Topic::Samples].into_iter().zip(&self.log.topics);
        let mut topics = topics.filter_map(|(topic, state)| {
            Some(format!("{}: {}", self.producer.topics().of(topic).name, state.retry.why()?))
        });
        let of_queue = |topic: Topic, queue: &crate::queue::Queue| {
            let (number, partition) = queue.failing().next()?;
            let why = partition.retry.why()?;
            Some(format!("{} partition {number}: {why}", self.producer.topics().of(topic).name))
        };
        let first = topics.next().or_else(|| of_queue(Topic::Events, &self.events));
        first.or_else(|| of_queue(Topic::Samples, &self.samples)).or_else(|| {
            let why = self.log.gaps_retry.why()?;
            Some(format!("{}: {why}", self.producer.topics().of(Topic::Gaps).name))
        })
    }

    pub(super) fn trim_rate(&mut self) {
        let window = self.interval.max(RATE_WINDOW);
        let old = |(at, _): &(Instant, u64)| at.elapsed() >= window;
        while self.rate.front().is_some_and(old) {
            self.rate.pop_front();
        }
    }
}
