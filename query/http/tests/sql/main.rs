//! Questions to a real store that a real ingester fills.

#![allow(clippy::unwrap_used)] // test code throughout, helpers too

mod clocks;
mod damage;
mod estate;
mod golden;
mod http;
mod intruder;
mod known;
mod limits;
mod pruning;
mod routes;
mod sources;
mod stream;
