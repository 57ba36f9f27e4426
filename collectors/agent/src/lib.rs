//! The agent: asks sources what they see and brings it to the log.
//!
//! ```text
//! sources ──observe──┐                    ┌─ events ─► spool (written through) ─┐
//!          each in   ├─► known resources ─┤                                     ├─► log
//! sources ──push─────┘   what vanished    └─ samples ─► memory ─ log away ─► spool┘
//!          a task of its own
//! ```
//!
//! *Events* are on disk before they are sent, so that one that was taken in is told in the end,
//! whatever dies. *Samples* are kept in memory while the log takes them and go to disk when it
//! does not; those in memory when the agent is killed are lost, and observed again. Nothing is
//! sent before what is older in its partition. What is sent again after a crash is dropped
//! downstream by its identity.
//!
//! Bounds: the spool has a size; past it the oldest go, are counted and become a gap. While the
//! log takes records nothing is dropped: a source that pushes faster than the log takes waits.

mod agent;
mod batch;
mod config;
mod entry;
mod epochs;
mod file;
mod flight;
mod gaps;
mod known;
mod lane;
mod line;
mod metrics;
mod shipper;
mod spool;
mod status;
mod watch;

pub use agent::{Agent, AgentError, Watched};
pub use config::{AgentConfig, ConfigError};
pub use spool::SpoolError;
pub use status::{SourceStatus, Status, StatusReport};
