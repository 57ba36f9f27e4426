//! The scheduler's own metrics.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Counters and gauges; names start with `nilometer_scheduler_`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Records not read yet, by topic and partition.
    pub(crate) lag: IntGaugeVec,
    /// Records read, by topic.
    pub(crate) records: IntCounterVec,
    /// Records that could not be decoded, by topic.
    pub(crate) undecodable: IntCounterVec,
    /// Records that were gone from the log before they were read, by topic.
    pub(crate) missed: IntCounterVec,
    /// Answers given, by kind.
    pub(crate) decisions: IntCounterVec,
    /// Answers whose record could not be kept: queue full, too long, or the log away at the end.
    pub(crate) unrecorded: IntCounter,
    /// Time an answer took, in seconds.
    pub(crate) answer_seconds: Histogram,
    /// Nodes on the board.
    pub(crate) nodes: IntGauge,
    /// Nodes without believable samples.
    pub(crate) stale_nodes: IntGauge,
    /// Series remembered.
    pub(crate) series: IntGauge,
    /// Decisions in flight.
    pub(crate) in_flight: IntGauge,
    /// Events and samples left out at a bound.
    pub(crate) left_out: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("nilometer_scheduler_{name}"), help);
        let buckets = vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        let took = opts("answer_seconds", "Time an answer took.");
        let took = HistogramOpts { common_opts: took, buckets };
        let gauge = |name, help| IntGauge::with_opts(opts(name, help));
        let by_topic = |name, help| IntCounterVec::new(opts(name, help), &["topic"]);
        let metrics = Metrics {
            lag: IntGaugeVec::new(
                opts("lag_records", "Records not read yet."),
                &["topic", "partition"],
            )?,
            records: by_topic("records_total", "Records read.")?,
            undecodable: by_topic("undecodable_total", "Records that could not be decoded.")?,
            missed: by_topic("missed_total", "Records gone before they were read.")?,
            decisions: IntCounterVec::new(opts("decisions_total", "Answers given."), &["kind"])?,
            unrecorded: IntCounter::with_opts(opts(
                "unrecorded_total",
                "Answers whose record could not be kept.",
            ))?,
            answer_seconds: Histogram::with_opts(took)?,
            nodes: gauge("nodes", "Nodes known.")?,
            stale_nodes: gauge("stale_nodes", "Nodes without believable samples.")?,
            series: gauge("series", "Series remembered.")?,
            in_flight: gauge("in_flight", "Decisions not covered by a sample yet.")?,
            left_out: gauge("left_out", "Events and samples left out at a bound.")?,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.lag.clone()))?;
        for counters in [&self.records, &self.undecodable, &self.missed, &self.decisions] {
            registry.register(Box::new(counters.clone()))?;
        }
        registry.register(Box::new(self.unrecorded.clone()))?;
        registry.register(Box::new(self.answer_seconds.clone()))?;
        let gauges =
            [&self.nodes, &self.stale_nodes, &self.series, &self.in_flight, &self.left_out];
        gauges.into_iter().try_for_each(|gauge| registry.register(Box::new(gauge.clone())))
    }
}
