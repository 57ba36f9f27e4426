//! Every stored table.

use crate::schema::ColumnType::{self, Bytes, Day, Decimal, Float, Instant, Int, Text};
use crate::schema::{ColumnDef, TableDef};

const fn column(
    name: &'static str,
    kind: ColumnType,
    unit: &'static str,
    doc: &'static str,
) -> ColumnDef {
    ColumnDef { name, kind, unit, doc }
}

const QUANTITY: &str = "usage unit";
const RESOURCE: ColumnDef = column("resource", Text, "", "Resource id.");
const KIND: ColumnDef = column("kind", Text, "", "Kind of the resource.");
const PROJECT: ColumnDef = column("project", Text, "", "Project that pays.");
const NODE: ColumnDef = column("node", Text, "", "Node it ran on.");
const METER: ColumnDef = column("meter", Text, "", "Meter.");
const SOURCE: ColumnDef = column("source", Text, "", "Source that saw it.");
const LABELS: ColumnDef = column("labels", Text, "JSON", "Further labels; empty for none.");
const START: ColumnDef = column("start", Instant, "", "First instant.");
const END: ColumnDef = column("end", Instant, "", "First instant past the period.");
const TOPIC: ColumnDef = column("topic", Text, "", "Topic of the log.");
const PARTITION: ColumnDef = column("partition", Int, "", "Partition of the topic.");
const LOG: ColumnDef =
    column("log", Text, "", "Which log the offset counts in: another one once it was replaced.");
const OFFSET: ColumnDef =
    column("offset", Int, "", "Offset in the partition; -1 before the first.");

/// Samples as stored: join `series` for what they measure.
pub const SAMPLES: TableDef = TableDef {
    name: "samples",
    doc: "Observations, one row a sample; labels are in `series`.",
    columns: &[
        column("day", Day, "", "Day of `at`, the partition."),
        column("series", Int, "", "Which series; see the table `series`."),
        column("at", Instant, "", "Instant of observation."),
        column("value", Float, "meter's unit", "What was observed."),
        column("epoch", Int, "", "Epoch in which it was read, see the table `epochs`; 0 is none."),
    ],
    partition: Some("day"),
    order: &["series", "at"],
    time: Some("at"),
    retention_days: 400,
};

/// The dimension of the samples.
pub const SERIES: TableDef = TableDef {
    name: "series",
    doc: "What each series of `samples` measures; a row may stand more than once.",
    columns: &[
        column("series", Int, "", "Digest of all columns but `meter_kind` and `unit`."),
        METER,
        RESOURCE,
        KIND,
        PROJECT,
        NODE,
        SOURCE,
        LABELS,
        column("meter_kind", Text, "", "Kind of the meter: counter, gauge or delta."),
        column("unit", Text, "", "Base unit of the meter."),
    ],
    partition: None,
    order: &["series"],
    time: None,
    retention_days: 0,
};

/// The order of the samples' epochs.
pub const EPOCHS: TableDef = TableDef {
    name: "epochs",
    doc: "Stretches of the agents' clocks; a later one of an instance ends the earlier ones.",
    columns: &[
        column("epoch", Int, "", "Digest of the other columns."),
        column("instance", Text, "", "Source instance, whose epochs are in order."),
        column("sequence", Int, "", "Number of the epoch within its instance, from 1."),
        column("start", Instant, "", "First instant."),
    ],
    partition: None,
    order: &["instance", "sequence"],
    time: None,
    retention_days: 0,
};

/// Lifecycle events.
pub const EVENTS: TableDef = TableDef {
    name: "events",
    doc: "Lifecycle events: a resource was created, changed or deleted.",
    columns: &[
        column("at", Instant, "", "When it happened."),
        column("change", Text, "", "created, changed or deleted."),
        RESOURCE,
        KIND,
        PROJECT,
        column("name", Text, "", "What people call the resource."),
        NODE,
        column("parent", Text, "", "Resource that it is part of."),
        column("attributes", Text, "JSON", "Labels, flavor, sizes."),
        SOURCE,
        column("id", Text, "", "Digest of the event."),
        TOPIC,
        PARTITION,
        LOG,
        OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
};

/// Usage by hour.
pub const USAGE: TableDef = TableDef {
    name: "usage",
    doc: "Exact usage by hour, resource and meter; the newest `known` of a period counts.",
    columns: &[
        START,
        END,
        RESOURCE,
        KIND,
        METER,
        LABELS,
        PROJECT,
        column("quantity", Decimal, QUANTITY, "How much."),
        column("unit", Text, "", "Unit of the quantity."),
        column("coverage", Float, "fraction", "Part of the period that was observed."),
        column("observed_micros", Int, "microseconds", "Time that was observed."),
        column("known", Int, "", "Version of `samples` that it rests on."),
    ],
    partition: None,
    order: &["start", "project", "resource"],
    time: Some("start"),
    retention_days: 0,
};

/// Rated usage.
pub const CHARGES: TableDef = TableDef {
    name: "charges",
    doc: "Usage times price, before rounding.",
    columns: &[
        START,
        END,
        PROJECT,
        RESOURCE,
        KIND,
        METER,
        LABELS,
        column("quantity", Decimal, QUANTITY, "How much."),
        column("unit", Text, "", "Unit of the quantity."),
        column("price", Text, "currency", "Price of one `per`."),
        column("per", Text, "", "What the price is for."),
        column("currency", Text, "", "ISO 4217 code."),
        column("amount", Decimal, "currency", "Quantity × price ÷ per, cut after 12 digits."),
        column("price_book", Text, "", "Version of the price book."),
        column("price_entry", Text, "", "Entry of the price book."),
        column("observed_micros", Int, "microseconds", "Time of the usage that was observed."),
        column("known", Int, "", "Version of `samples` that it rests on."),
    ],
    partition: None,
    order: &["start", "project", "resource"],
    time: Some("start"),
    retention_days: 0,
};

/// Invoices, a row a line.
pub const INVOICES: TableDef = TableDef {
    name: "invoices",
    doc: "Issued invoices, one row a line; immutable.",
    columns: &[
        column("id", Text, "", "Number of the invoice."),
        PROJECT,
        START,
        END,
        column("currency", Text, "", "ISO 4217 code."),
        column("status", Text, "", "issued."),
        column("issued_at", Instant, "", "When it was issued."),
        column("line", Text, "", "Id of the line."),
        column("description", Text, "", "What the line is for."),
        KIND,
        METER,
        column("quantity", Decimal, QUANTITY, "Sum of the usage."),
        column("unit", Text, "", "Unit of the quantity."),
        column("price", Text, "currency", "Price of one `per`."),
        column("per", Text, "", "What the price is for."),
        column("amount", Decimal, "currency", "Rounded once, half to even."),
        column("coverage", Float, "fraction", "Part of the period that was observed."),
        column("total", Decimal, "currency", "Sum of the invoice's lines."),
        column("price_book", Text, "", "Version of the price book."),
        column("digest", Text, "", "Digest of the invoice's contents."),
        column("document", Text, "JSON", "The sealed invoice; on its first row only."),
    ],
    partition: None,
    order: &["issued_at"],
    time: Some("start"),
    retention_days: 0,
};

/// What the scheduler and controller chose.
pub const DECISIONS: TableDef = TableDef {
    name: "decisions",
    doc: "Placements, plans and scheduler answers, with what they rested on.",
    columns: &[
        column("at", Instant, "", "When it was made."),
        column("id", Text, "", "Digest of the decision."),
        column("kind", Text, "", "placement, filter, prioritize or plan."),
        column("decision", Text, "JSON", "Inputs, forecast, choice and reasons."),
        TOPIC,
        PARTITION,
        LOG,
        OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
};

/// Who asked what.
pub const AUDIT: TableDef = TableDef {
    name: "audit",
    doc: "Requests over HTTP: who asked what, from where, and how it ended.",
    columns: &[
        column("at", Instant, "", "When it came."),
        column("principal", Text, "", "Who asked; empty of one that was refused before."),
        column("role", Text, "", "Role of the principal, or empty."),
        column("account", Text, "", "Account of the principal, or empty."),
        column("address", Text, "", "Where it came from; empty within the program."),
        column("route", Text, "", "Method and route."),
        column("query", Text, "", "Parameters, or the text of a query, cut."),
        column("status", Int, "", "HTTP status of the answer."),
        column("micros", Int, "microseconds", "From the request until the answer was sent."),
        column("rows", Int, "", "Rows that were sent."),
        column("failure", Text, "", "Why the answer broke off, or empty."),
        TOPIC,
        PARTITION,
        LOG,
        OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
};

/// What is known to be missing.
pub const GAPS: TableDef = TableDef {
    name: "gaps",
    doc: "Times and offsets of which something is known to be missing or to have come late.",
    columns: &[
        START,
        END,
        column(
            "kind",
            Text,
            "",
            "lost: records are gone; unobserved: nobody looked; late: nothing is missing; \
             expired: older than it is kept; damaged: stored, but unreadable.",
        ),
        column("reason", Text, "", "Why."),
        NODE,
        column("sources", Text, "", "Sources that it may concern, by commas; empty for any."),
        column("agent", Text, "", "Agent that reported it; empty for the ingester."),
        column("of_topic", Text, "", "Topic that misses records."),
        column("of_partition", Int, "", "Partition that misses records; -1 for all."),
        column("records", Int, "", "Records missing, at least; 0 where not known."),
        column("samples", Int, "", "Samples missing, where known."),
        TOPIC,
        PARTITION,
        LOG,
        OFFSET,
    ],
    partition: None,
    order: &["start"],
    time: Some("start"),
    retention_days: 0,
};

/// What could not be stored.
pub const DEAD_LETTERS: TableDef = TableDef {
    name: "dead_letters",
    doc: "Messages and samples that could not be stored, with the reason.",
    columns: &[
        column("at", Instant, "", "When the record was appended to the log."),
        TOPIC,
        PARTITION,
        LOG,
        OFFSET,
        column("row", Int, "", "Row of the record; -1 for all of it."),
        column("reason", Text, "", "Why."),
        column("payload", Bytes, "", "The record, or the sample as JSON."),
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 0,
};

/// Which offsets of the log each commit of samples covered.
pub const COMMITS: TableDef = TableDef {
    name: "commits",
    doc: "Offsets of the log that each commit of samples covered, with the span of their instants.",
    columns: &[
        TOPIC,
        PARTITION,
        LOG,
        column("start_offset", Int, "", "First offset."),
        column("end_offset", Int, "", "First offset past the commit."),
        column("first_at", Instant, "", "Earliest sample of the commit, of any partition."),
        column("last_at", Instant, "", "Latest sample of the commit, of any partition."),
        column("committed_at", Instant, "", "When it was committed."),
    ],
    partition: None,
    order: &["last_at", "partition"],
    time: Some("last_at"),
    retention_days: 400,
};

/// Every table that lies in the store.
pub const STORED: [&TableDef; 12] = [
    &SAMPLES,
    &SERIES,
    &EPOCHS,
    &COMMITS,
    &EVENTS,
    &USAGE,
    &CHARGES,
    &INVOICES,
    &DECISIONS,
    &AUDIT,
    &GAPS,
    &DEAD_LETTERS,
];
