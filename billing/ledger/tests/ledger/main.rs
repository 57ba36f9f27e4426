//! Billing from the log to the invoice, on real tables.

#![allow(clippy::unwrap_used)]

mod bed;
mod bills;
mod clocks;
mod damage;
mod explanations;
mod http;
mod instants;
mod intruder;
mod invoices;
mod open;
mod orders;
mod readers;
mod restated;
mod script;
mod sources;
