//! The shell of billing: what connects pure rating with usage, the tables, SQL and HTTP.
//!
//! ```text
//!  samples, events ─▶ Meter ─▶ usage ─▶ rate ─▶ charges ─▶ invoice ─▶ issue
//!                               │                │                      │
//!          settle, hour by hour └─▶ `usage`      └─▶ `charges`          └─▶ `invoices`
//! ```
//!
//! An hour is *open* until it is settled: whoever asks about it gets usage computed from the
//! samples of this moment, so a sample is on the rated line as soon as it is visible. Once
//! *settled* its rows lie in the tables, with the version `known` of the samples that they rest
//! on. When something about a settled hour turns out differently, the hour is stated anew under a
//! newer `known`; the newest statement counts, the older ones stay readable in `usage_history`
//! and `charges_history` (invariant 15).

mod books;
mod config;
mod core;
mod error;
mod explain;
mod http;
mod invoices;
mod ledger;
mod metrics;
mod rating;
mod settlement;
mod stored;
mod tables;

pub use config::LedgerConfig;
pub use error::LedgerError;
pub use explain::{Explanation, Explanations, MAX_SHOWN, Step};
pub use invoices::{Bill, Invoices};
pub use ledger::Ledger;
pub use metrics::Metrics;
pub use rating::Rating;
pub use settlement::Settlement;
pub use stored::rows::{CHARGES, INVOICES};
