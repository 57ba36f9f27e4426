//! The table `usage`, for whoever stores or shows rows.

use nilometer_contract::ColumnType::{Decimal, Float, Int, Text};
use nilometer_contract::{RowRule, RowSource, TableDef, column, columns};

/// Usage by hour.
pub const USAGE: TableDef = TableDef {
    name: "usage",
    doc: "Exact usage by hour, resource and meter; the newest `known` of a period counts.",
    columns: &[
        columns::START,
        columns::END,
        columns::RESOURCE,
        columns::KIND,
        columns::METER,
        columns::LABELS,
        columns::PROJECT,
        column("quantity", Decimal, "usage unit", "How much."),
        column("unit", Text, "", "Unit of the quantity."),
        column("coverage", Float, "fraction", "Part of the period that was observed."),
        column("observed_micros", Int, "microseconds", "Time that was observed."),
        column("known", Int, "", "Version of `samples` that it rests on."),
    ],
    partition: None,
    order: &["start", "project", "resource"],
    time: Some("start"),
    retention_days: 0,
    rule: RowRule::Project { project: "project", at: "start", until: None },
    from: RowSource::Computed,
};

/// Whose samples count.
pub const SOURCE_HOURS: TableDef = TableDef {
    name: "source_hours",
    doc: "Hours in which several sources sampled one meter of a resource: the samples of one of \
          them count for usage, by the precedence of sources; those of the others are kept and add \
          to nothing.",
    columns: &[
        columns::START,
        columns::END,
        columns::RESOURCE,
        columns::KIND,
        columns::METER,
        column("project", Text, "", "Project that had the resource; empty if several had it."),
        columns::SOURCE,
        column("samples", Int, "", "Samples of the source in the hour."),
        column("counted", Int, "", "How many of them count: all, or none."),
    ],
    partition: None,
    order: &["start", "resource"],
    time: Some("start"),
    retention_days: 0,
    rule: RowRule::Project { project: "project", at: "start", until: None },
    from: RowSource::Computed,
};
