//! The tables that the ingester makes of what it reads, beside those of samples.

use nilometer_contract::ColumnType::{Bytes, Instant, Int, Text};
use nilometer_contract::{RowRule, RowSource, TableDef, column, columns};
use nilometer_store::{SAMPLES, SERIES};

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
    rule: RowRule::Operator,
    from: RowSource::Ingester,
};

/// Lifecycle events.
pub const EVENTS: TableDef = TableDef {
    name: "events",
    doc: "Lifecycle events: a resource was created, changed or deleted.",
    columns: &[
        column("at", Instant, "", "When it happened."),
        column("change", Text, "", "created, changed or deleted."),
        columns::RESOURCE,
        columns::KIND,
        columns::PROJECT,
        column("name", Text, "", "What people call the resource."),
        columns::NODE,
        column("parent", Text, "", "Resource that it is part of."),
        column("attributes", Text, "JSON", "Labels, flavor, sizes."),
        columns::SOURCE,
        column("id", Text, "", "Digest of the event."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
    rule: RowRule::Project { project: "project", at: "at", until: None },
    from: RowSource::Ingester,
};

/// What is known to be missing.
pub const GAPS: TableDef = TableDef {
    name: "gaps",
    doc: "Times and offsets of which something is known to be missing or to have come late.",
    columns: &[
        columns::START,
        columns::END,
        column(
            "kind",
            Text,
            "",
            "lost: records are gone; unobserved: nobody looked; late: nothing is missing; \
             expired: older than it is kept; damaged: stored, but unreadable.",
        ),
        column("reason", Text, "", "Why."),
        columns::NODE,
        column("sources", Text, "", "Sources that it may concern, by commas; empty for any."),
        column("agent", Text, "", "Agent that reported it; empty for the ingester."),
        column("of_topic", Text, "", "Topic that misses records."),
        column("of_partition", Int, "", "Partition that misses records; -1 for all."),
        column("records", Int, "", "Records missing, at least; 0 where not known."),
        column("samples", Int, "", "Samples missing, where known."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
    ],
    partition: None,
    order: &["start"],
    time: Some("start"),
    retention_days: 0,
    rule: RowRule::Operator,
    from: RowSource::Ingester,
};

/// What could not be stored.
pub const DEAD_LETTERS: TableDef = TableDef {
    name: "dead_letters",
    doc: "Messages and samples that could not be stored, with the reason.",
    columns: &[
        column("at", Instant, "", "When the record was appended to the log."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
        column("row", Int, "", "Row of the record; -1 for all of it."),
        column("reason", Text, "", "Why."),
        column("payload", Bytes, "", "The record, or the sample as JSON."),
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 0,
    rule: RowRule::Operator,
    from: RowSource::Ingester,
};

/// Which offsets of the log each commit of samples covered.
pub const COMMITS: TableDef = TableDef {
    name: "commits",
    doc: "Offsets of the log that each commit of samples covered, with the span of their instants.",
    columns: &[
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
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
    rule: RowRule::Operator,
    from: RowSource::Ingester,
};

/// The tables of the ingester.
pub const TABLES: [&TableDef; 7] =
    [&SAMPLES, &SERIES, &EPOCHS, &COMMITS, &EVENTS, &GAPS, &DEAD_LETTERS];
