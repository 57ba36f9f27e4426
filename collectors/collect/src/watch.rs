//! Asks the sources at every multiple of the interval, each in a task of its own.
//!
//! A source that is still busy is left out and counted; the others do not wait for it.
//!
//! Between two times it looks at the clocks: when the wall clock has parted from the epoch, the
//! next epoch begins; when more steady time than planned went by, nobody looked meanwhile, and
//! likewise between two runs of an agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nilometer_clock::{Clock, EpochClock};
use nilometer_contract::{Timestamp, micros};
use nilometer_source::{Observation, Source, SourceError};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Watched;
use crate::epochs::{Epochs, Step};
use crate::metrics::Metrics;
use crate::status::{SourceStatus, Status};

/// What the shipper is told.
pub(crate) enum Event {
    /// A source was asked.
    Observed(Box<Observed>),
    /// Nobody observed as planned from one instant to another.
    Unobserved { start: Timestamp, end: Timestamp, why: &'static str },
}

impl From<Step> for Event {
    fn from(Step { expected, found }: Step) -> Self {
        let (start, end) = (expected.min(found), expected.max(found));
        Event::Unobserved { start, end, why: "the clock was stepped" }
    }
}

/// What a source answered.
pub(crate) struct Observed {
    pub(crate) source: &'static str,
    pub(crate) started: Timestamp,
    pub(crate) took: Duration,
    pub(crate) result: Result<Observation, SourceError>,
}

/// What asking needs.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) interval: Duration,
    pub(crate) clock: Arc<EpochClock>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) metrics: Metrics,
    pub(crate) status: Arc<Status>,
}

/// A source in its task.
struct Post {
    name: &'static str,
    ticks: mpsc::Sender<()>,
    busy: Arc<AtomicBool>,
    died: bool,
}

impl Watch {
    /// Asks until cancelled, then once more; returns when all have answered or after `patience`.
    pub(crate) async fn run(
        self,
        sources: Vec<Box<dyn Source>>,
        epochs: Arc<Mutex<Epochs>>,
        mut late: mpsc::Receiver<Watched>,
        cancel: CancellationToken,
        patience: Duration,
    ) {
        self.account_for_absence(&epochs).await;
        let mut tasks = JoinSet::new();
        let mut posts: Vec<Post> =
            sources.into_iter().map(|source| self.post(source, &mut tasks)).collect();
        while !cancel.is_cancelled() {
            posts.iter_mut().for_each(|post| self.ask(post));
            epochs.lock().await.note_asked();
            let asked = (self.clock.now(), self.clock.steady());
            let planned = until_next(asked.0, self.interval);
            let next = tokio::time::sleep(planned);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = &mut next => break,
                    Some(Watched { source, found }) = late.recv() => {
                        let name = source.name();
                        let known = SourceStatus { name, found, ..SourceStatus::default() };
                        self.status.update(|report| report.sources.push(known));
                        let mut post = self.post(source, &mut tasks);
                        self.ask(&mut post);
                        posts.push(post);
                    }
                }
            }
            self.check_clocks(&epochs, asked, planned).await;
        }
        posts.iter_mut().for_each(|post| self.ask(post));
        epochs.lock().await.note_asked();
        drop(posts);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("stopped while a source was still busy");
        }
    }

    /// Reports the time in which no agent of this folder ran.
    async fn account_for_absence(&self, epochs: &Mutex<Epochs>) {
        let Some(asked) = epochs.lock().await.asked_before() else { return };
        let (start, end) = (asked.plus_micros(micros(self.interval)), self.clock.now());
        if start < end {
            tracing::info!(%start, %end, "the agent did not run");
            self.unobserved(start, end, "the agent did not run").await;
        }
    }

    fn post(&self, source: Box<dyn Source>, tasks: &mut JoinSet<()>) -> Post {
        let (ticks, asked) = mpsc::channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let post = Post { name: source.name(), ticks, busy: busy.clone(), died: false };
        tasks.spawn(self.clone().attend(source, asked, busy));
        post
    }

    fn ask(&self, post: &mut Post) {
        if post.ticks.is_closed() {
            if !std::mem::replace(&mut post.died, true) {
                tracing::error!(source = post.name, "source broke off");
                self.metrics.observe_errors.with_label_values(&[post.name]).inc();
                let error = Some("the source broke off".to_owned());
                self.status.update_source(post.name, |source| source.error = error);
            }
            return;
        }
        if post.busy.swap(true, Ordering::AcqRel) || post.ticks.try_send(()).is_err() {
            self.metrics.skipped_ticks.with_label_values(&[post.name]).inc();
            self.status.update_source(post.name, |source| source.skipped += 1);
        }
    }

    async fn attend(
        self,
        mut source: Box<dyn Source>,
        mut asked: mpsc::Receiver<()>,
        busy: Arc<AtomicBool>,
    ) {
        let name = source.name();
        while asked.recv().await.is_some() {
            let (started, from) = (self.clock.now(), Instant::now());
            let result = source.observe().await;
            let took = from.elapsed();
            let seconds = self.metrics.observe_seconds.with_label_values(&[name]);
            seconds.observe(took.as_secs_f64());
            let observed = Observed { source: name, started, took, result };
            if self.events.send(Event::Observed(Box::new(observed))).await.is_err() {
                return;
            }
            busy.store(false, Ordering::Release);
        }
    }

    async fn check_clocks(
        &self,
        epochs: &Mutex<Epochs>,
        (at, steady): (Timestamp, Duration),
        planned: Duration,
    ) {
        let late = self.clock.steady().saturating_sub(steady).saturating_sub(planned);
        if late > self.interval {
            let start = at.plus_micros(micros(planned));
            let end = self.clock.now();
            self.metrics.stalls.inc();
            tracing::warn!(%start, %end, "the process or its machine stood still");
            self.unobserved(start, end, "the process or its machine stood still").await;
        }
        // Not held while the event waits: who takes events in may wait for it.
        let step = epochs.lock().await.follow().await;
        if let Some(step) = step {
            self.metrics.clock_jumps.inc();
            let _ = self.events.send(step.into()).await;
        }
    }

    async fn unobserved(&self, start: Timestamp, end: Timestamp, why: &'static str) {
        let _ = self.events.send(Event::Unobserved { start, end, why }).await;
    }
}

/// Time until the next multiple of the interval; one that is nearly now was just had.
fn until_next(now: Timestamp, interval: Duration) -> Duration {
    let interval = micros(interval).max(1);
    let left = interval - now.0.rem_euclid(interval);
    let left = if left < interval / 10 { left + interval } else { left };
    Duration::from_micros(left.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_fall_on_multiples_of_the_interval() {
        let ten = Duration::from_secs(10);
        for (now, left) in [(0, 10_000), (3_000, 7_000), (10_000, 10_000), (9_999, 10_001)] {
            assert_eq!(until_next(Timestamp(now * 1_000), ten), Duration::from_millis(left));
        }
    }
}
