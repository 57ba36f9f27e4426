//! The agent's own metrics, all `nilometer_agent_*`.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Buckets of observations, in seconds.
const SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Handles of all metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) samples: IntCounterVec,
    pub(crate) not_finite: IntCounter,
    pub(crate) events: IntCounterVec,
    pub(crate) batches: IntCounterVec,
    pub(crate) append_errors: IntCounter,
    pub(crate) failing_partitions: IntGaugeVec,
    pub(crate) dead_letters: IntCounterVec,
    pub(crate) log_up: IntGauge,
    pub(crate) spool_bytes: IntGaugeVec,
    pub(crate) spool_errors: IntCounterVec,
    pub(crate) dropped_records: IntCounterVec,
    pub(crate) dropped_samples: IntCounter,
    pub(crate) observe_seconds: HistogramVec,
    pub(crate) observe_errors: IntCounterVec,
    pub(crate) skipped_ticks: IntCounterVec,
    pub(crate) resources: IntGaugeVec,
    pub(crate) clock_jumps: IntCounter,
    pub(crate) stalls: IntCounter,
    pub(crate) torn_samples: IntCounter,
}

impl Metrics {
    /// Registers them; a registry that has them already is refused.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("nilometer_agent_{name}"), help);
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(opts(name, help))?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let counters = |name: &str, help: &str, label: &str| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(opts(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let gauges = |name: &str, help: &str, label: &str| -> Result<_, prometheus::Error> {
            let gauges = IntGaugeVec::new(opts(name, help), &[label])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let seconds = HistogramOpts::new(
            "nilometer_agent_observe_seconds",
            "Time that one observation of a source took.",
        );
        let observe_seconds = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["source"])?;
        registry.register(Box::new(observe_seconds.clone()))?;
        let log_up = IntGauge::with_opts(opts("log_up", "1 while every partition takes records."))?;
        registry.register(Box::new(log_up.clone()))?;
        Ok(Metrics {
            samples: counters("samples_total", "Samples taken in.", "source")?,
            not_finite: counter("not_finite_total", "Values left out, not being finite.")?,
            events: counters("events_total", "Lifecycle events taken in.", "source")?,
            batches: counters("batches_total", "Records brought to the log.", "topic")?,
            append_errors: counter("append_errors_total", "Failed attempts at the log.")?,
            failing_partitions: gauges(
                "failing_partitions",
                "Partitions that do not take records now.",
                "topic",
            )?,
            dead_letters: counters("dead_letters_total", "Records the log refuses.", "topic")?,
            log_up,
            spool_bytes: gauges("spool_bytes", "Bytes of unsent records on disk.", "topic")?,
            spool_errors: counters("spool_errors_total", "Failures of the disk.", "topic")?,
            dropped_records: counters("dropped_total", "Records dropped at a bound.", "topic")?,
            dropped_samples: counter("dropped_samples_total", "Samples in dropped records.")?,
            observe_seconds,
            observe_errors: counters("observe_errors_total", "Failed observations.", "source")?,
            skipped_ticks: counters(
                "skipped_ticks_total",
                "Observations left out because the source was still busy.",
                "source",
            )?,
            resources: gauges("resources", "Resources alive.", "source")?,
            clock_jumps: counter("clock_jumps_total", "Steps of the clock over an interval.")?,
            stalls: counter("stalls_total", "Times that the process or its machine stood still.")?,
            torn_samples: counter(
                "torn_samples_total",
                "Samples left out because another epoch began while they were read.",
            )?,
        })
    }
}
