//! The tables of samples: rows and what they measure.

use nilometer_contract::ColumnType::{Day, Float, Instant, Int, Text};
use nilometer_contract::{RowRule, RowSource, TableDef, column, columns};

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
    rule: RowRule::Project { project: "project", at: "at", until: None },
    from: RowSource::Ingester,
};

/// The dimension of the samples.
pub const SERIES: TableDef = TableDef {
    name: "series",
    doc: "What each series of `samples` measures; a row may stand more than once.",
    columns: &[
        column("series", Int, "", "Digest of all columns but `meter_kind` and `unit`."),
        columns::METER,
        columns::RESOURCE,
        columns::KIND,
        columns::PROJECT,
        columns::NODE,
        columns::SOURCE,
        columns::LABELS,
        column("meter_kind", Text, "", "Kind of the meter: counter, gauge or delta."),
        column("unit", Text, "", "Base unit of the meter."),
    ],
    partition: None,
    order: &["series"],
    time: None,
    retention_days: 0,
    rule: RowRule::Operator,
    from: RowSource::Ingester,
};
