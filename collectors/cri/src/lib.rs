//! Source: pods and containers of a CRI runtime.

pub mod api;
pub mod client;
