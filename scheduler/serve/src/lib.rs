//! The scheduler's service: the shell around the pure functions of `nilometer-placement`.
//!
//! ```text
//! samples, events ─► state ─► snapshot ─► place / plan ─► decision ─► record
//!   (the log)                    (pure functions)                  (the log)
//! ```
//!
//! [`Scheduler`] reads the log, keeps the state, answers over HTTP and as an extender of
//! kube-scheduler, and records every answer.

mod config;
mod extender;
mod http;
mod metrics;
mod pod;
mod prices;
mod routes;
mod scheduler;
mod stream;

pub use config::Config;
pub use prices::NodePrices;
pub use scheduler::{Scheduler, SchedulerError};
