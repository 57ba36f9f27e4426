//! The steps of an explanation as read-only SQL.

use nilometer_contract::{Meter, MeterKind, Timestamp};

use super::{Query, TableNames};
use crate::invoice::{Correction, Invoice, Line};

/// The way from a line to its samples: which line, of which invoice, over which `[start, end)`.
pub(super) struct Steps<'l> {
    pub(super) line: &'l Line,
    pub(super) invoice: &'l Invoice,
    pub(super) span: (Timestamp, Timestamp),
    /// What the line is of, where that is known.
    pub(super) meter: Option<&'l Meter>,
    pub(super) tables: &'l TableNames,
}

impl Steps<'_> {
    /// The queries for charges, usage, and what the usage was made from.
    pub(super) fn queries(&self) -> Vec<Query> {
        let charges = self.charges();
        let columns = "c.\"start\", c.\"end\", c.resource, c.quantity, c.unit, c.price, c.per";
        let order = "ORDER BY c.resource, c.\"start\"";
        let from = format!(
            "FROM {} u JOIN (SELECT c.*",
            self.table(self.tables.usage, self.tables.usage_history)
        );
        let usage = [
            "SELECT u.\"start\", u.\"end\", u.resource, u.quantity, u.unit, u.coverage",
            &from,
            &charges,
            ") c ON u.resource = c.resource AND u.meter = c.meter AND u.labels = c.labels",
            "AND u.project = c.project",
            "AND u.\"start\" = c.\"start\" ORDER BY u.resource, u.\"start\"",
        ];
        let mut found = vec![
            Query {
                finds: "charges",
                sql: format!("SELECT {columns}, c.amount {charges} {order}"),
            },
            Query { finds: "usage", sql: usage.join(" ") },
        ];
        let resources = format!("resource IN (SELECT c.resource {charges})");
        found.extend(self.meter.map(|meter| origin(meter, &resources, self.span, self.tables)));
        found
    }

    /// `FROM … WHERE …` for the charges of the line and no others, under the name `c`.
    fn charges(&self) -> String {
        let Self { line, invoice, span: (start, end), .. } = self;
        let is = |column: &str, value: &str| format!("c.{column} = {}", quoted(value));
        let mut conditions = vec![
            is("project", &invoice.project),
            is("price_book", &line.price_book),
            is("price_entry", &line.price_entry),
            is("kind", line.kind.as_str()),
        ];
        conditions.extend(line.resource.as_ref().map(|resource| is("resource", resource)));
        conditions.push(format!("c.\"start\" >= {}", instant(*start)));
        conditions.push(format!("c.\"end\" <= {}", instant(*end)));
        format!(
            "FROM {} c WHERE {}",
            self.table(self.tables.charges, self.tables.charges_history),
            conditions.join(" AND ")
        )
    }

    /// What to read usage or charges from.
    ///
    /// The tables themselves say what is known now. When the invoice says what it knew, the
    /// tables of histories are read, which keep every statement ever made about an hour: of each
    /// hour, the newest statement not newer than that; the oldest where all are newer, because what
    /// was stated before is gone with a damaged file and was stated anew.
    fn table(&self, name: &str, history: &str) -> String {
        let Some(known) = self.invoice.known else { return name.to_owned() };
        let (start, end) = self.span;
        let hour = |column: &str| format!("date_bin(INTERVAL '1 hour', {column})");
        [
            format!("(SELECT h.* FROM {history} h JOIN"),
            format!("(SELECT {} AS hour,", hour("\"start\"")),
            format!(
                "coalesce(max(CASE WHEN known <= {known} THEN known END), min(known)) AS known"
            ),
            format!("FROM {history}"),
            format!("WHERE \"start\" >= {} AND \"start\" < {}", instant(start), instant(end)),
            format!("GROUP BY 1) n ON {} = n.hour AND h.known = n.known", hour("h.\"start\"")),
            format!("WHERE h.\"start\" >= {} AND h.\"start\" < {})", instant(start), instant(end)),
        ]
        .join(" ")
    }
}

/// The query that finds the line of an issued invoice that another line corrects.
pub(super) fn corrected_query(correction: &Correction, tables: &TableNames) -> Query {
    let (of, id) = (quoted(&correction.invoice), quoted(&correction.line));
    let columns = "id, line, description, quantity, unit, price, per, amount, price_book";
    let TableNames { invoices, .. } = tables;
    let sql = format!("SELECT {columns} FROM {invoices} WHERE id = {of} AND line = {id}");
    Query { finds: "invoices", sql }
}

/// What usage of a meter over a span is made from: samples, with the neighbours on both sides
/// that reach into it, or the lifecycle events up to its end.
pub(super) fn origin(
    meter: &Meter,
    resources: &str,
    (start, end): (Timestamp, Timestamp),
    TableNames { samples, events, .. }: &TableNames,
) -> Query {
    let reach = |at: Timestamp, by: i64| instant(at.plus_micros(by));
    match meter.kind {
        MeterKind::Allocation { .. } => Query {
            finds: "events",
            sql: format!(
                "SELECT * FROM {events} WHERE {resources} AND at < {} ORDER BY resource, at",
                instant(end)
            ),
        },
        MeterKind::Counter | MeterKind::Delta | MeterKind::Gauge => Query {
            finds: "samples",
            sql: format!(
                "SELECT at, resource, source, value FROM {samples} WHERE meter = {} AND \
                 {resources} AND at >= {} AND at < {} ORDER BY resource, at",
                quoted(&meter.name),
                reach(start, -meter.hold_micros),
                reach(end, meter.hold_micros),
            ),
        },
    }
}

pub(super) fn instant(at: Timestamp) -> String {
    format!("TIMESTAMP '{at}'")
}

/// A text as an SQL literal.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
