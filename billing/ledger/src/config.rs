//! How billing behaves.

use std::time::Duration;

/// Settings of the ledger; checked values, not text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Whether it only answers from what another process settles and issues.
    pub reads_only: bool,
    /// How often it looks for hours to settle, or for what was settled elsewhere.
    pub interval: Duration,
    /// How far the newest sample and the clock must be past an hour's end before the hour is settled: longer
    /// than the hold time of any meter, and than agents usually need to resend what they spooled.
    pub grace: Duration,
    /// How long no commit may have touched an hour before it is settled. While the past is filled
    /// in, partitions run ahead of each other; waiting saves settling an hour again and again.
    pub quiet: Duration,
    /// Most hours settled in one go.
    pub batch_hours: usize,
    /// Most rows of usage in one go, by estimate; at least one hour is always taken.
    pub batch_rows: usize,
    /// Partitions of the topic of samples; by what the table `commits` tells when absent.
    pub partitions: Option<u32>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        LedgerConfig {
            reads_only: false,
            interval: Duration::from_secs(2),
            grace: Duration::from_secs(3_600 + 300),
            quiet: Duration::from_secs(12),
            batch_hours: 24,
            batch_rows: 1 << 20,
            partitions: None,
        }
    }
}
