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

mod archive;
mod charges;
mod config;
mod cost;
mod error;
mod explain;
mod explain_text;
mod find;
mod hold;
mod http;
mod invoices;
mod issue;
mod ledger;
mod look;
mod mend;
mod metrics;
mod routes;
mod rows;
mod rows_read;
mod settle;
mod state;
mod tables;
mod tenancy;
mod withdraw;

pub use config::LedgerConfig;
pub use error::LedgerError;
pub use explain::{Explanation, MAX_SHOWN, Step};
pub use find::Bill;
pub use ledger::Ledger;
pub use metrics::Metrics;
pub use rows::{CHARGES, INVOICES};
