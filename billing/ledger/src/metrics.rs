//! What billing says of itself, for `/metrics` and for the screen.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// Counters and gauges of one ledger.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Hours settled for the first time.
    pub settled: IntCounter,
    /// Hours stated anew because something about them turned out differently.
    pub restated: IntCounter,
    /// Hours settled while a clock was ahead, and open again since it is back.
    pub withdrawn: IntCounter,
    /// Damaged files of the tables of billing set aside.
    pub set_aside: IntCounter,
    /// Hours looked at again of which nothing had changed.
    pub confirmed: IntCounter,
    /// Rows of usage rated for settling.
    pub rated_rows: IntCounter,
    /// Hours that could be settled now and are not yet.
    pub due: IntGauge,
    /// Seconds from the end of the last settled hour to the newest sample.
    pub lag_seconds: IntGauge,
    /// Seconds that settling a batch of hours took.
    pub seconds: Histogram,
    /// Rounds that failed and are tried again.
    pub failures: IntCounter,
    /// Invoices issued.
    pub invoices: IntCounter,
}

impl Metrics {
    /// Registers all; two ledgers in one registry are a mistake and an error.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("nilometer_billing_{name}"), help);
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::with_opts(opts(name, help))?;
            registry.register(Box::new(counter.clone())).map(|()| counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::with_opts(opts(name, help))?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let buckets = prometheus::exponential_buckets(0.01, 2.0, 14)?;
        let seconds =
            HistogramOpts::from(opts("settle_seconds", "Time to settle a batch of hours."));
        let seconds = Histogram::with_opts(seconds.buckets(buckets))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Metrics {
            settled: counter("settled_hours_total", "Hours settled for the first time.")?,
            restated: counter("restated_hours_total", "Settled hours that were stated anew.")?,
            withdrawn: counter("withdrawn_hours_total", "Hours settled too early, open again.")?,
            set_aside: counter("damaged_files_total", "Damaged files of billing set aside.")?,
            confirmed: counter("confirmed_hours_total", "Settled hours checked and unchanged.")?,
            rated_rows: counter("rated_rows_total", "Rows of usage rated for settling.")?,
            due: gauge("due_hours", "Hours that wait to be settled.")?,
            lag_seconds: gauge("lag_seconds", "Newest sample less end of the last settled hour.")?,
            seconds,
            failures: counter("failures_total", "Rounds of settling that failed.")?,
            invoices: counter("invoices_total", "Invoices issued.")?,
        })
    }
}
