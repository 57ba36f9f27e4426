//! Prediction, scoring, placement and planning: values in, values out.
//!
//! ```text
//! samples, events ─► estate ─► board ─► place / plan ─► decision ─► record
//!                    (fold)   (numbers)
//! ```
//!
//! Everything here is a function of its arguments: no clock, no IO, no randomness but a seed
//! (invariant 17).

pub mod board;
pub mod estate;
pub mod forecast;
pub mod ledger;
pub mod place;
pub mod plan;
pub mod policy;
pub mod record;
pub mod request;
pub mod score;
pub mod series;
pub mod sketch;

pub use record::{DECISIONS, DecisionRecord};
