//! Prediction, scoring, placement and planning: values in, values out.
//!
//! ```text
//! samples, events ─► state ─► snapshot ─► place / plan ─► decision ─► record
//!                    (fold)   (numbers)
//! ```
//!
//! Everything here is a function of its arguments: no clock, no IO, no randomness but a seed
//! (invariant 17).

mod forecast;
mod histogram;
pub mod place;
pub mod plan;
pub mod policy;
pub mod record;
pub mod request;
mod reservations;
pub mod score;
pub mod snapshot;
pub mod state;
mod usage;

pub use forecast::{MOVABLE, Price};
pub use record::{DECISION_TABLE, DECISIONS, DecisionRecord};
