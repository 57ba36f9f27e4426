//! Price books, charges, invoices and their explanation.
//!
//! ```text
//!  usage rows ─┐
//!              ├─► rate ──► charges ──► invoice ──► lines, rounded once each ──► text, JSON, CSV
//!  price book ─┘                          │
//!                                         └─► explain: line → charges → usage → samples, as SQL
//! ```
//!
//! Everything here is a pure function of its arguments: no IO, no clock, and no floats
//! (invariants 9 and 14). Amounts are exact fractions until [`round_to_minor_unit`] rounds each
//! invoice line once (invariant 13).

mod book;
mod currency;
mod decimal;
mod digest;
mod explain;
mod fraction;
mod hourly;
mod invoice;
mod pattern;
mod per;
mod period;
mod rate;
mod render;
mod suggest;

pub use book::{
    BookError, BookHeading, MAX_BOOK_BYTES, MAX_ENTRIES, Place, PriceBook, PriceEntry, Problem,
};
pub use currency::{Currency, UnknownCurrency};
pub use decimal::{InvalidPrice, MAX_PRICE_FRACTION_DIGITS, MAX_PRICE_INTEGER_DIGITS, Price};
pub use explain::{
    ExplainError, Explanation, MAX_EXPLAINED, Query, TableNames, explain, samples_query,
    sources_query,
};
pub use fraction::{Fraction, InvalidNumber, Money, round_to_minor_unit};
pub use invoice::{
    Correction, Coverage, Detail, FORMAT, Invoice, InvoiceError, IssuedInvoice, Line, MAX_GAPS,
    Millionths, Status, corrections, invoice,
};
pub use pattern::Pattern;
pub use per::{InvalidPer, Per};
pub use period::{InvalidPeriod, Period};
pub use rate::{Charge, ChargeRow, RateError, SHOWN_DIGITS, rate};
