//! The whole pipeline, from agents to invoices, in one process where everything can fail.
//!
//! ```text
//!             estate: what is true, as functions of true time
//!                │ read by each host's clock
//!  hosts:   agent, agent ──▶ broker ──▶ ingester that bills ──▶ objects
//!              │    ✗ links that are away, slow, lossy; kills; frozen hosts; …   │
//!            spools                                                              │
//!                └──── judge: every sample, every gap, every bill ◀──────────────┘
//! ```
//!
//! A seed determines estate, clocks and faults. Time is tokio's, paused: a run of half an hour
//! takes under a second. The product runs as it is, on simulated clocks, log and object store.
//! At the end everything is mended, and judged against what is true.

mod bills;
mod broker;
mod check;
mod damage;
mod estate;
mod fault;
mod host;
mod hostile;
mod lives;
mod reckon;
mod run;
mod sites;
mod source;
mod store;
mod tables;
mod world;

pub use fault::{KINDS, Kind, NOT_YET};
pub use run::{Options, Outcome, simulate};
