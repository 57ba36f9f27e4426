//! What the ingester says of itself, for `/metrics` and for the screen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nilometer_store::Holder;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::pulse::Pulse;

/// Counters and gauges of one ingester, or of a follower.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Samples taken in.
    pub samples: IntCounter,
    /// Samples that were stored before and were dropped as repeats.
    pub repeats: IntCounter,
    /// Samples taken in that lie before the start of metering.
    pub unmetered: IntCounter,
    /// Records read, by topic.
    pub records: IntCounterVec,
    /// Bytes read, by topic.
    pub bytes: IntCounterVec,
    /// Messages and samples that went to the dead letters.
    pub dead_letters: IntCounter,
    /// Of those, what was beyond a bound, by its name.
    pub refused: IntCounterVec,
    /// Gaps recorded.
    pub gaps: IntCounter,
    /// Lifecycle events that were new.
    pub events: IntCounter,
    /// Records between the position read and the end, by topic and partition.
    pub lag: IntGaugeVec,
    /// Rows in memory.
    pub memory_rows: IntGauge,
    /// Series known.
    pub series: IntGauge,
    /// Commits done.
    pub commits: IntCounter,
    /// Commits that failed and were tried again.
    pub commit_failures: IntCounter,
    /// Fetches that failed and were tried again.
    pub fetch_failures: IntCounter,
    /// Seconds from append to visibility, per record.
    pub freshness: Histogram,
    /// Seconds that a commit took.
    pub commit_seconds: Histogram,
    /// Files merged away.
    pub compacted_files: IntCounter,
    /// Rows dropped as retention has it.
    pub expired_rows: IntCounter,
    /// Damaged files set aside.
    pub set_aside: IntCounter,
    /// Instant of the newest sample, seconds since the epoch.
    pub newest: IntGauge,
    /// The start of metering, seconds since the epoch; 0 if there is none.
    pub metering_start: IntGauge,
    /// Partitions that are not applied up to where they ended at the start.
    pub starting: IntGauge,
    /// Partitions that cannot be read now.
    pub unread: IntGauge,
    /// 1 while a commit fails.
    pub uncommitted: IntGauge,
    /// 1 while this process owns the tables.
    pub owner: IntGauge,
    /// 1 for the owner that is waited for.
    pub waiting: IntGaugeVec,
    pub(crate) pulse: Pulse,
    waits_for: Arc<Mutex<Option<String>>>,
}

/// Longest time in which a loop must come round to be ready.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

impl Metrics {
    /// Registers all of an ingester; two in one registry are a mistake and an error.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::register_as(registry, "ingest")
    }

    /// Registers all of a follower, which reads the same and stores nothing.
    pub fn register_follower(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::register_as(registry, "follow")
    }

    fn register_as(registry: &Registry, role: &str) -> Result<Self, prometheus::Error> {
        let full = |name: &str| format!("nilometer_{role}_{name}");
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(full(name), help)?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let counters = |name: &str, label: &str, help: &str| {
            let counter = IntCounterVec::new(Opts::new(full(name), help), &[label])?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(full(name), help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let opts = HistogramOpts::new(full(name), help);
            let buckets = vec![0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 60.0];
            let histogram = Histogram::with_opts(opts.buckets(buckets))?;
            registry.register(Box::new(histogram.clone())).map(|()| histogram)
        };
        let lag = IntGaugeVec::new(
            Opts::new(full("lag_records"), "Records not read yet"),
            &["topic", "partition"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        let opts = Opts::new(full("waiting_for_owner"), "1 for the owner that is waited for");
        let waiting = IntGaugeVec::new(opts, &["owner"])?;
        registry.register(Box::new(waiting.clone()))?;
        Ok(Metrics {
            samples: counter("samples_total", "Samples taken in, each once")?,
            repeats: counter("repeated_samples_total", "Samples dropped as repeats")?,
            unmetered: counter("unmetered_samples_total", "Samples from before metering starts")?,
            records: counters("records_total", "topic", "Records read")?,
            bytes: counters("bytes_total", "topic", "Bytes read")?,
            dead_letters: counter("dead_letters_total", "Messages and samples not storable")?,
            refused: counters("refused_total", "bound", "Events and samples beyond a bound")?,
            gaps: counter("gaps_total", "Gaps recorded")?,
            events: counter("events_total", "New lifecycle events")?,
            lag,
            memory_rows: gauge("memory_rows", "Rows not in a file yet")?,
            series: gauge("series", "Series known")?,
            commits: counter("commits_total", "Commits done")?,
            commit_failures: counter("commit_failures_total", "Commits tried again")?,
            fetch_failures: counter("fetch_failures_total", "Fetches tried again")?,
            freshness: seconds("freshness_seconds", "From append to visibility")?,
            commit_seconds: seconds("commit_seconds", "Duration of a commit")?,
            compacted_files: counter("compacted_files_total", "Files merged away")?,
            expired_rows: counter("expired_rows_total", "Rows dropped as retention has it")?,
            set_aside: counter("damaged_files_total", "Damaged files set aside")?,
            metering_start: gauge("metering_start_seconds", "The start of metering")?,
            newest: gauge("newest_sample_seconds", "Instant of the newest sample")?,
            starting: gauge("starting_partitions", "Partitions not applied up to their end yet")?,
            unread: gauge("unreadable_partitions", "Partitions that cannot be read now")?,
            uncommitted: gauge("commit_failing", "1 while a commit fails")?,
            owner: gauge("owner", "1 while this process owns the tables")?,
            waiting,
            pulse: Pulse::default(),
            waits_for: Arc::default(),
        })
    }

    /// Records not read yet, of all partitions.
    pub fn lag_records(&self) -> i64 {
        let families = self.lag.collect();
        let lags = families.iter().flat_map(|family| family.get_metric());
        lags.map(|lag| lag.get_gauge().get_value() as i64).sum()
    }

    /// Another process owns the tables.
    pub(crate) fn waits_for(&self, holder: &Holder) {
        self.waiting.reset();
        self.waiting.with_label_values(&[&holder.to_string()]).set(1);
        let waits = format!("the tables are owned by {holder}; waiting for it");
        *self.waits_for.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(waits);
    }

    /// This process owns the tables.
    pub(crate) fn owned(&self) {
        self.waiting.reset();
        self.owner.set(1);
        *self.waits_for.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    /// Whether all is applied and shown that the log had at the start, and nothing is in the way
    /// of what comes; else what is.
    pub fn readiness(&self) -> Result<(), String> {
        if let Some(owner) = &*self.waits_for.lock().unwrap_or_else(|e| e.into_inner()) {
            return Err(owner.clone());
        }
        if let Some(silence) = self.pulse.silence().filter(|it| *it > LONGEST_SILENCE) {
            return Err(format!("nothing has been applied for {} s", silence.as_secs()));
        }
        if self.unread.get() > 0 {
            return Err(format!("{} partitions of the log cannot be read", self.unread.get()));
        }
        if self.uncommitted.get() > 0 {
            return Err("a commit fails and is tried again".to_owned());
        }
        match self.starting.get() {
            0 => Ok(()),
            more => Err(format!("the log is being applied, {more} partitions to go")),
        }
    }
}
