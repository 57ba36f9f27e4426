//! The ingester at work: one loop over everything that happens to it.
//!
//! ```text
//! log ─ fetch, decode (a task a partition) ─▶ loop: identity, memory ─▶ view
//!                                               └─ paced by the rate: cut ─▶ flush task ─▶ tables
//! ```
//!
//! At the bound of memory the loop stops taking records until the flush is done; the channel
//! fills, fetching waits, and the log keeps what is to come.
//!
//! What a log lost is noted only once all that was read of it before is in a flush. So the gap is
//! committed after those rows and begins at the last of them, and of two cuts the earlier has all
//! rows of a log that is no more.

use nilometer_contract::Causes;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use nilometer_store::{SERIES, SeriesColumn};
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::IngestConfig;
use crate::cut::Cut;
use crate::fetch::Event;
use crate::flush::{Overtaken, Tools, flush};
use crate::load::{Restored, load_restored};
use crate::ownership::IngestError;
use crate::rows::epochs_batch;
use crate::sink::Sink;
use crate::state::State;
use crate::tail::{COMMIT_BYTES, Tail};
use crate::turns::Turn;

/// Hours that a view tells of: a quarter.
const MOST_TOUCHED: usize = 24 * 92;
/// Bytes of rows of the small tables that are worth a commit.
const BUSY_BYTES: usize = 1 << 20;

/// An ingester that owns its tables.
pub(crate) struct Owner {
    tail: Tail,
    sink: Arc<Mutex<Sink>>,
    /// What waits until the next cut is made: records whose days are too many for it, and what
    /// says that a log lost records of which it has the last.
    held: Option<Event>,
    committed_at: Instant,
    refreshed_at: Instant,
    /// Repairs that are known here.
    restored: Restored,
}

impl Owner {
    /// Of tables that are claimed, and what is known of them.
    pub(crate) fn of(tail: Tail, sink: Sink, restored: Restored) -> Self {
        let now = Instant::now();
        let sink = Arc::new(Mutex::new(sink));
        Owner { tail, sink, held: None, committed_at: now, refreshed_at: now, restored }
    }

    /// Ingests until cancelled, then commits what it has received. Dropping the future stops all
    /// its work at once, as a crash would.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> Result<(), IngestError> {
        let reading = cancel.child_token();
        let _until_dropped = reading.clone().drop_guard();
        let mut events = self.tail.fetch(&reading);
        let mut flushing = JoinSet::new();
        let mut ticks = tokio::time::interval(self.tail.config.publish_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.tail.state.metrics.pulse.beat();
            let full = self.tail.is_full() || self.held.is_some();
            tokio::select! {
                Some(done) = flushing.join_next() => self.flushed(done).await?,
                event = events.recv(), if !full => match event {
                    Some(event) => self.apply(event).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    self.tail.settle().await;
                    self.tail.publish();
                }
            }
            if flushing.is_empty() {
                if let Some(cut) = self.due_cut() {
                    flushing.spawn(self.flush(cut));
                }
                if let Some(held) = self.held.take() {
                    self.apply(held).await;
                }
            }
        }
        while let Some(done) = flushing.join_next().await {
            self.flushed(done).await?;
        }
        self.drain().await
    }

    /// Applies an event as far as it belongs to the next cut, and holds the rest for the one
    /// after. What is held at a stop stays in the log.
    async fn apply(&mut self, event: Event) {
        if self.is_early(&event) {
            self.held = Some(event);
            return;
        }
        let Event::Samples { stream, mut records } = event else {
            return self.tail.apply(event).await;
        };
        let rest = records.split_off(self.tail.state.days.room(&records));
        if !records.is_empty() {
            self.tail.apply(Event::Samples { stream, records }).await;
        }
        self.held = (!rest.is_empty()).then_some(Event::Samples { stream, records: rest });
    }

    /// Commits what is left.
    async fn drain(mut self) -> Result<(), IngestError> {
        self.tail.settle_all().await;
        if let Some(cut) = self.cut() {
            let mut last = JoinSet::new();
            last.spawn(self.flush(cut));
            while let Some(done) = last.join_next().await {
                self.flushed(done).await?;
            }
        }
        self.tail.publish();
        Ok(())
    }

    /// Whether an event says what a log lost, and rows that were read of it before are in no cut.
    fn is_early(&self, event: &Event) -> bool {
        let state = &self.tail.state;
        match *event {
            Event::Truncated { stream, .. } => state.has_uncut(stream),
            Event::Begun { stream, .. } => {
                state.has_uncut(state.reads(stream.topic, stream.partition))
            }
            _ => false,
        }
    }

    /// What to flush now, if it is time: everything, or only a look at the tables.
    fn due_cut(&mut self) -> Option<Arc<Cut>> {
        let state = &self.tail.state;
        let (rows, bytes) = (state.memory.uncut_rows(), state.pending.bytes);
        let due = is_due(&self.tail.config, self.committed_at.elapsed(), rows, bytes)
            || self.held.is_some()
            || state.turns.is_behind();
        if due && state.suspects.is_empty() {
            self.committed_at = Instant::now();
            if let Some(cut) = self.cut() {
                return Some(cut);
            }
        }
        self.due_refresh().then(|| {
            let mut spans = self.tail.state.spans();
            spans.values_mut().for_each(|(from, next)| *next = from.unwrap_or(0));
            Arc::new(Cut { spans, refresh: true, ..Cut::default() })
        })
    }

    fn due_refresh(&mut self) -> bool {
        let due = self.refreshed_at.elapsed() >= self.tail.config.refresh_interval;
        if due {
            self.refreshed_at = Instant::now();
        }
        due
    }

    fn cut(&mut self) -> Option<Arc<Cut>> {
        let state = &mut self.tail.state;
        state.pending.spans = state.spans();
        state.pending.marks.clone_from(&state.marks);
        state.pending.lags.clone_from(&state.lags);
        state.pending.ends.clone_from(&state.ends);
        state.pending.logs.clone_from(&state.reading);
        state.days.begin_cut();
        if state.pending.is_empty() {
            return None;
        }
        let mut cut = std::mem::take(&mut state.pending);
        cut.samples = state.memory.cut();
        cut.hours = state.memory.take_hours();
        cut.series = series_batch(&mut self.tail.state);
        let epochs = std::mem::take(&mut self.tail.state.new_epochs);
        cut.epochs = (!epochs.is_empty()).then(|| epochs_batch(&epochs));
        cut.start = self.tail.state.beginning.to_store();
        cut.turn = self.tail.state.turns.cut();
        cut.at = self.tail.clock.now();
        cut.refresh = self.due_refresh();
        let cut = Arc::new(cut);
        self.tail.state.flushing = Some(cut.clone());
        Some(cut)
    }

    fn flush(&self, cut: Arc<Cut>) -> impl Future<Output = Result<(), Overtaken>> + Send + 'static {
        let tools = Tools {
            log: self.tail.log.clone(),
            clock: self.tail.clock.clone(),
            metrics: self.tail.state.metrics.clone(),
            shared: self.tail.state.shared.clone(),
            retry_pause: self.tail.config.retry_pause,
            keep_written: self.tail.config.vacuum_after / 4,
        };
        flush(self.sink.clone(), cut, tools)
    }

    async fn flushed(
        &mut self,
        done: Result<Result<(), Overtaken>, JoinError>,
    ) -> Result<(), IngestError> {
        match done {
            Ok(result) => result.map_err(IngestError::Overtaken)?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        let mut sink = self.sink.lock().await;
        self.tail.forget(&sink.samples);
        let Tail { state, publisher, .. } = &mut self.tail;
        let start = sink.metering_start().await.map_err(IngestError::Store)?;
        state.beginning.note_stored(start);
        // A repair beside put back what was unreadable when this one started.
        if let Err(error) = load_restored(&mut sink, &state.shared, &mut self.restored).await {
            warn!(error = %Causes(&error), "what was repaired cannot be read yet");
        }
        publisher.list(&sink);
        let turn = Turn::of(&mut sink.samples).await.map_err(IngestError::Store)?;
        let newest = sink.samples.files().extent().map_or(i64::MIN, |extent| extent.1);
        drop(sink);
        if let Some(cut) = state.flushing.take() {
            let version = publisher.sample_version();
            state.touched.extend(cut.hours.iter().map(|&hour| (hour, version)));
            while state.touched.len() > MOST_TOUCHED {
                state.touched.pop_first();
            }
            for (&key, &(from, next)) in &cut.spans {
                if from.unwrap_or(0) != next {
                    state.committed.insert(key, Some(next));
                }
            }
            let stored = cut.gaps.iter().map(|(_, gap)| gap);
            let mut gaps = state.shared.gaps.write().unwrap_or_else(|e| e.into_inner());
            gaps.add_stored(stored);
            drop(gaps);
            state.changes += 1;
            state.forget_stored_samples();
            state.forget_finished_logs();
        }
        state.note_restored(turn, newest);
        state.dirty = true;
        self.tail.publish();
        Ok(())
    }
}

/// The series that are new since the last time, for their table.
pub(crate) fn series_batch(state: &mut State) -> Option<RecordBatch> {
    let slots = std::mem::take(&mut state.new_series);
    if slots.is_empty() {
        return None;
    }
    let index = state.shared.index.read().unwrap_or_else(|e| e.into_inner());
    let ids = slots.iter().map(|&slot| index.id(slot));
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("series", Arc::new(Int64Array::from_iter_values(ids)))];
    for column in SeriesColumn::ALL {
        let texts = slots.iter().map(|&slot| index.text(slot, column));
        columns.push((column.name(), Arc::new(StringArray::from_iter_values(texts))));
    }
    let meter = |&slot: &u32| index.catalogue().find(index.text(slot, SeriesColumn::Meter));
    let kinds = slots.iter().map(|slot| meter(slot).map_or("", |meter| meter.kind.as_str()));
    columns.push(("meter_kind", Arc::new(StringArray::from_iter_values(kinds))));
    let units = slots.iter().map(|slot| meter(slot).map_or("", |meter| meter.unit.as_str()));
    columns.push(("unit", Arc::new(StringArray::from_iter_values(units))));
    Some(SERIES.batch(columns))
}

/// Whether so many rows of samples, and bytes of other rows, are committed so long after the last
/// commit.
fn is_due(config: &IngestConfig, age: Duration, rows: usize, bytes: usize) -> bool {
    let worth = rows >= config.busy_rows || bytes >= BUSY_BYTES;
    age >= config.commit_interval
        || (worth && age >= config.busy_interval)
        || rows >= config.commit_rows
        || bytes >= COMMIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_paced_by_the_rate() {
        let config = IngestConfig::default();
        // Rows a second, and the seconds between commits that come of it.
        for (rate, expected) in
            [(0, 900), (50, 900), (112, 893), (2_000, 50), (20_000, 10), (1 << 18, 4)]
        {
            let due = (0..).find(|&second| {
                is_due(&config, Duration::from_secs(second), rate * second as usize, 0)
            });
            assert_eq!(due, Some(expected), "{rate} rows a second");
        }
        assert!(is_due(&config, Duration::from_secs(10), 0, BUSY_BYTES));
        assert!(!is_due(&config, Duration::from_secs(9), 0, BUSY_BYTES));
        assert!(is_due(&config, Duration::ZERO, 0, COMMIT_BYTES));
    }
}
