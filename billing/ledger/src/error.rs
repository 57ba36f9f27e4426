//! Why billing could not do what was asked, and how that is told over HTTP.

use axum::http::StatusCode;
use datafusion::error::DataFusionError;
use nilometer_contract::Causes;
use nilometer_contract::Timestamp;
use nilometer_engine::{MeterError, QueryError};
use nilometer_http::Problem;
use nilometer_rating::{ExplainError, InvalidPeriod, InvoiceError, RateError};
use nilometer_store::{CommitError, Holder, LeaseError, StoreError};

/// Why billing could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A table could not be opened or written.
    #[error("the tables of billing cannot be used")]
    Store(#[source] StoreError),
    /// A commit did not happen; after [`CommitError::Stale`] or a conflict somebody else bills.
    #[error("billing cannot commit")]
    Commit(#[source] CommitError),
    /// Another process settles and issues.
    #[error("billing is done by {0}: ask that one, or stop it first")]
    Owned(Box<Holder>),
    /// This process does not bill.
    #[error(
        "this process only reads what is billed: ask the one that runs `nilometer bill` or `up`"
    )]
    ReadsOnly,
    /// The ownership of billing could not be asked for, or was lost.
    #[error("billing is not owned")]
    Lease(#[source] LeaseError),
    /// A query of ours failed.
    #[error("billing cannot query")]
    Query(#[source] QueryError),
    /// Stored rows could not be read.
    #[error("stored rows of billing cannot be read")]
    Read(#[source] DataFusionError),
    /// Usage could not be told.
    #[error("usage cannot be told")]
    Meter(#[source] MeterError),
    /// Usage that cannot be rated.
    #[error("usage cannot be rated")]
    Rate(#[source] RateError),
    /// No invoice can be drawn up.
    #[error("the invoice cannot be drawn up")]
    Invoice(#[source] InvoiceError),
    /// Texts that are not a period.
    #[error(transparent)]
    Period(#[from] InvalidPeriod),
    /// The line cannot be explained.
    #[error("the line cannot be explained")]
    Explain(#[source] ExplainError),
    /// Some hours of the period are not settled yet.
    #[error(
        "usage before {end} is not final yet: samples are known up to {newest}, and an hour is \
         final {grace_seconds} s after its end; issue again after that"
    )]
    NotFinal {
        /// End of the period.
        end: Timestamp,
        /// Newest sample.
        newest: Timestamp,
        /// How far the newest sample must be past the end.
        grace_seconds: u64,
    },
    /// Hours of the period can be rated by the price book in force no more.
    #[error(
        "hours before {before} were rated by another price book, and what rating them anew rests \
         on has expired: issue this period with bill.price_book as it was"
    )]
    OtherBook {
        /// From here on hours can be rated.
        before: Timestamp,
    },
    /// Issued invoices are missing, so it is not known what was billed before.
    #[error(
        "{0} of table invoices cannot be read, and no invoice is issued while it is not known \
         which ones were: restore it from a backup, then run `nilometer repair`"
    )]
    LostInvoices(String),
    /// Part of the period was billed before.
    #[error(
        "invoice {id} was issued for {start} to {end}, which overlaps; choose a period that starts \
         at or after its end, corrections of it come by themselves"
    )]
    Overlaps {
        /// The invoice in the way.
        id: String,
        /// Start of its period.
        start: Timestamp,
        /// End of its period.
        end: Timestamp,
    },
    /// No such invoice was issued.
    #[error("no invoice {0} was issued; GET /v1/invoices lists those that were")]
    NoInvoice(String),
    /// No such project in the period, as far as who asks may know.
    #[error("no project {0} in all of that period, or not one of yours")]
    NoProject(String),
    /// No such line.
    #[error(
        "no line {0} on any issued invoice or current draft; for a line of another draft give \
         project, start and end (and tz) of that bill"
    )]
    NoLine(String),
    /// A price book that an invoice was made with is not there, or is not what it was.
    #[error("price book {0} cannot be read back")]
    Book(String),
    /// The object store refused a price book.
    #[error("price book cannot be kept")]
    Object(#[source] object_store::Error),
    /// Two ledgers in one registry of metrics.
    #[error("metrics of billing are registered already")]
    Metrics(#[source] prometheus::Error),
}

impl From<DataFusionError> for LedgerError {
    fn from(error: DataFusionError) -> Self {
        LedgerError::Read(error)
    }
}

impl From<QueryError> for LedgerError {
    fn from(error: QueryError) -> Self {
        LedgerError::Query(error)
    }
}

impl From<InvoiceError> for LedgerError {
    fn from(error: InvoiceError) -> Self {
        LedgerError::Invoice(error)
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        let known = |status, title: &str| Problem::new(status, title, Causes(&error).to_string());
        match &error {
            LedgerError::Period(_) => known(StatusCode::UNPROCESSABLE_ENTITY, "bad period"),
            LedgerError::NotFinal { .. }
            | LedgerError::Invoice(InvoiceError::PeriodOpen { .. }) => {
                known(StatusCode::CONFLICT, "too early")
            }
            LedgerError::Owned(_) | LedgerError::ReadsOnly => {
                known(StatusCode::CONFLICT, "billed by another process")
            }
            LedgerError::OtherBook { .. } => known(StatusCode::CONFLICT, "rated by another book"),
            LedgerError::LostInvoices(_) => known(StatusCode::CONFLICT, "invoices are missing"),
            LedgerError::Overlaps { .. } => known(StatusCode::CONFLICT, "billed already"),
            LedgerError::NoInvoice(_) => known(StatusCode::NOT_FOUND, "no such invoice"),
            LedgerError::NoProject(_) => known(StatusCode::NOT_FOUND, "no such project"),
            LedgerError::NoLine(_) => known(StatusCode::NOT_FOUND, "no such line"),
            LedgerError::Explain(_) => known(StatusCode::CONFLICT, "cannot be explained"),
            other => Problem::internal(other),
        }
    }
}
