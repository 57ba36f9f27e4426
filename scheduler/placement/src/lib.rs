//! Prediction, scoring, placement and planning: pure core, streaming state, recorded decisions.
//!
//! ```text
//! samples, events ─► estate ─► board ─► place / plan ─► decision ─► record
//!   (the log)        (fold)   (numbers)    (pure)                   (the log)
//! ```
//!
//! Everything up to the record is a function of its arguments: no clock, no IO, no randomness but
//! a seed. [`Scheduler`] is the shell: it reads the log, answers over HTTP, and writes records.

pub mod board;
mod config;
pub mod estate;
mod extender;
pub mod forecast;
mod http;
pub mod ledger;
mod metrics;
pub mod place;
pub mod plan;
mod pod;
pub mod policy;
pub mod record;
pub mod request;
mod scheduler;
pub mod score;
pub mod series;
pub mod sketch;
mod stream;

pub use config::Config;
pub use record::{DECISIONS, DecisionRecord};
pub use scheduler::{Now, PriceOf, Scheduler, SchedulerError};
