//! The producer: turns what was observed into records of the log, and appends them.
//!
//! ```text
//! observation ─┬─ samples ─► by partition ─► split at the bounds of the wire ─┐
//!              ├─ events ──► one record each ─────────────────────────────────┼─► records ─► log
//! gaps ────────┴───────────► one record each ─────────────────────────────────┘
//! ```
//!
//! Everything about one resource lies in one partition of its topic, in order. What breaks a bound
//! of the contract is refused with the reason, and takes nothing else with it. A record appended
//! twice is dropped downstream by its identity, so an append that failed is repeated.
//!
//! It keeps no records: who must not lose them keeps them until they are appended.

mod append;
mod record;
mod samples;

pub use append::{Producer, Unappended};
pub use record::{Produced, ProducerRecord, Refusal, Refused, Topic, Topics};
