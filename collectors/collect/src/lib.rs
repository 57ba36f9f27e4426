//! The agent: asks sources what they see and brings it to the log.
//!
//! ```text
//! sources ──observe──┐                    ┌─ events ─► spool (written through) ─┐
//!          each in   ├─► known resources ─┤                                     ├─► log
//! sources ──push─────┘   what vanished    └─ samples ─► memory ─ log away ─► spool┘
//!          a task of its own
//! ```
//!
//! *Events* are on disk before they are sent, so that one that was taken in is reported in the end,
//! whatever dies. *Samples* are kept in memory while the log takes them and go to disk when it
//! does not; those in memory when the agent is killed are lost, and observed again. Nothing is
//! sent before what is older in its partition. What is sent again after a crash is dropped
//! downstream by its identity.
//!
//! Partitions are sent, acknowledged and tried again each on its own: one that fails holds back no
//! other. A record that the log refuses for good goes to the dead letters on the agent's disk.
//!
//! Bounds: the spool has a size; past it the oldest go, are counted and become a gap. Nothing is
//! dropped while partitions take records: a source that is faster than they waits. Whatever is lost
//! becomes a gap that says of when, of which partition and of which sources, and gaps are on disk
//! before that of which they tell is gone. Which files outlive a loss of power: see `file`.

mod agent;
mod config;
mod dead_letters;
mod entry;
mod epochs;
mod file;
mod gaps;
mod known;
mod late;
mod lines;
mod metrics;
mod partition;
mod queue;
mod retry;
mod send;
mod shipper;
mod spool;
mod status;
mod watch;

pub use agent::{Agent, AgentError, Watched};
pub use config::{AgentConfig, ConfigError};
pub use spool::SpoolError;
pub use status::{SourceStatus, Status, StatusReport};
