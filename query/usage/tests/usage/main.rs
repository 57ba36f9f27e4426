//! Usage as an accountant would check it: worked cases in text, and properties of all cases.

#![allow(clippy::unwrap_used)] // test code throughout, helpers too

mod breakdowns;
mod cases;
mod clocks;
mod properties;
mod script;
mod sources;
