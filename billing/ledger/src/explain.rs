//! Explanation: from a line to its charges, usage, samples and log offsets (invariant 16).
//!
//! ```text
//! line ──▶ charges ──▶ usage hours ──▶ samples or events ──▶ offsets in the log
//!          all of it   all of it       of one charge         of those samples
//! ```
//!
//! Every step is a query that anybody may run on the documented tables; what is shown of it is
//! what that very query gave, cut after [`MAX_SHOWN`] rows.

mod text;

use std::sync::Arc;

use nilometer_contract::{MeterKind, SAMPLES, Scope, partition_of};
use nilometer_engine::Rows;
use nilometer_http::{Format, render};
use nilometer_rating::{Charge, Query, TableNames, explain, samples_query, sources_query};
use nilometer_usage::{SOURCE_HOURS, USAGE};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::Core;
use crate::error::LedgerError;
use crate::invoices::{Bill, Invoices};
use crate::stored::parse::integers;
use crate::stored::rows::{CHARGES, INVOICES};
use crate::tables::{CHARGES_HISTORY, USAGE_HISTORY};

/// The tables that an explanation asks.
const TABLES: TableNames = TableNames {
    usage: USAGE.name,
    usage_history: USAGE_HISTORY,
    charges: CHARGES.name,
    charges_history: CHARGES_HISTORY,
    invoices: INVOICES.name,
    samples: nilometer_store::SAMPLES.name,
    events: nilometer_ingest::EVENTS.name,
    source_hours: SOURCE_HOURS.name,
};

/// What is found where more than one source sampled what a charge is of.
const WHOSE: &str = "sources of those samples, of which one counts in each hour";

/// Most rows shown of one step.
pub const MAX_SHOWN: usize = 24;

/// One step of an explanation.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What it finds, in words.
    pub finds: String,
    /// The question, in SQL that runs as it is.
    pub sql: String,
    /// The first rows of the answer; none when the step was not taken because it may find a lot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Map<String, Value>>>,
    /// Whether there are more.
    pub more: bool,
    /// The rows as a table for people.
    #[serde(skip)]
    pub(crate) table: String,
}

/// Where an invoice line comes from, down to the log.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The line and its arithmetic.
    #[serde(flatten)]
    pub line: nilometer_rating::Explanation,
    /// The way down.
    pub steps: Vec<Step>,
}

/// Explains invoice lines. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Explanations {
    pub(crate) core: Arc<Core>,
    pub(crate) invoices: Invoices,
}

impl Explanations {
    /// Explains a line of an issued invoice, of the draft of `bill`, or of a draft of the current
    /// month.
    ///
    /// Each step is asked within the scope. Offsets of the log are of records that many share, so
    /// only the operator is shown them; others get the question.
    pub async fn explain(
        &self,
        scope: &Scope,
        line: &str,
        bill: Option<&Bill>,
    ) -> Result<Explanation, LedgerError> {
        let drawn = self.invoices.drawn_with(scope, line, bill).await?;
        let catalogue = self.core.engine.tables().catalogue();
        let explained = explain(line, &drawn.invoice, &drawn.charges, &catalogue, &TABLES);
        let explained = explained.map_err(LedgerError::Explain)?;
        let mut steps = Vec::new();
        for query in &explained.queries {
            let all_of_it = matches!(query.finds, "samples" | "events");
            steps.push(match all_of_it {
                true => asked(&format!("all {} behind the line", query.finds), &query.sql),
                false => {
                    self.step(scope, &format!("{} of the line", query.finds), &query.sql).await?
                }
            });
        }
        let first = explained.charges.first();
        let charge = first.and_then(|first| {
            drawn.charges.iter().find(|charge| {
                charge.usage.start == first.start
                    && *charge.usage.resource == *first.resource
                    && charge.meter_name() == first.meter
            })
        });
        if let Some(charge) = charge {
            self.walk_down(scope, charge, &mut steps).await?;
        }
        Ok(Explanation { line: explained, steps })
    }

    /// From one charge to what it was made from, and to the log.
    async fn walk_down(
        &self,
        scope: &Scope,
        charge: &Charge,
        steps: &mut Vec<Step>,
    ) -> Result<(), LedgerError> {
        let Query { finds, sql } = samples_query(charge, &TABLES);
        let of = format!(
            "{finds} of the first charge: {} of {} from {} to {}",
            charge.meter_name(),
            charge.usage.resource,
            charge.usage.start,
            charge.usage.end
        );
        steps.push(self.step(scope, &of, &sql).await?);
        let meter = &charge.usage.meter;
        if matches!(meter.kind, MeterKind::Allocation { .. }) {
            // Events carry their own offsets.
            return Ok(());
        }
        let sources = self.step(scope, WHOSE, &sources_query(charge, &TABLES).sql).await?;
        steps
            .extend(Some(sources).filter(|step| step.rows.as_ref().is_some_and(|r| !r.is_empty())));
        let Some(partitions) = self.partitions().await? else { return Ok(()) };
        let partition = partition_of(&charge.usage.resource, partitions);
        let from = charge.usage.start.plus_micros(-meter.hold_micros);
        let upto = charge.usage.end.plus_micros(meter.hold_micros);
        let sql = format!(
            "SELECT topic, partition, start_offset, end_offset, first_at, last_at, committed_at \
             FROM commits WHERE topic = '{SAMPLES}' AND partition = {partition} \
             AND first_at < TIMESTAMP '{upto}' AND last_at >= TIMESTAMP '{from}' \
             ORDER BY start_offset"
        );
        let of = format!("offsets of the log with those samples, in partition {partition}");
        steps.push(match scope.is_system() {
            true => self.step(scope, &of, &sql).await?,
            false => asked(&format!("{of}, which the operator can look up"), &sql),
        });
        Ok(())
    }

    /// Number of partitions of the samples: configured, or what commits tell of; none before the
    /// first commit.
    async fn partitions(&self) -> Result<Option<u32>, LedgerError> {
        if self.core.config.partitions.is_some() {
            return Ok(self.core.config.partitions);
        }
        let sql = format!(
            "SELECT coalesce(max(partition) + 1, 0) AS partitions FROM commits \
             WHERE topic = '{SAMPLES}'"
        );
        let rows = self.core.engine.query(&Scope::system(), &sql).await?;
        let mut found = None;
        for batch in &rows.batches {
            found = found.into_iter().chain(integers(batch, "partitions")?).max();
        }
        Ok(found.and_then(|count| u32::try_from(count).ok()).filter(|&count| count > 0))
    }

    async fn step(&self, scope: &Scope, finds: &str, sql: &str) -> Result<Step, LedgerError> {
        let bounded = format!("{sql} LIMIT {}", MAX_SHOWN + 1);
        let Rows { schema, batches, missing } = self.core.engine.query(scope, &bounded).await?;
        let count: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        let mut left = MAX_SHOWN;
        let shown = batches.iter().map(|batch| {
            let part = batch.slice(0, batch.num_rows().min(left));
            left -= part.num_rows();
            part
        });
        let rows = Rows { schema, batches: shown.collect(), missing };
        let unreadable = |error| LedgerError::Read(error);
        let json = render(&rows, Format::Json).map_err(|error| unreadable(error.into()))?;
        let table = render(&rows, Format::Table).map_err(|error| unreadable(error.into()))?;
        Ok(Step {
            finds: finds.to_owned(),
            sql: sql.to_owned(),
            rows: Some(serde_json::from_slice(&json).unwrap_or_default()),
            more: count > MAX_SHOWN,
            table: String::from_utf8_lossy(&table).into_owned(),
        })
    }
}

/// A step that is told and not taken.
fn asked(finds: &str, sql: &str) -> Step {
    let (finds, sql) = (finds.to_owned(), sql.to_owned());
    Step { finds, sql, rows: None, more: false, table: String::new() }
}
