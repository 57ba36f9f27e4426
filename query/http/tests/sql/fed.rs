//! A table of others, fed by a topic of its own.

use nilometer_contract::ColumnType::{Instant, Text};
use nilometer_contract::{
    Cell, Cells, Feed, RowRule, RowSource, TableDef, Timestamp, column, columns,
};
use serde::Deserialize;

pub(crate) const DECISIONS: &str = "nilometer.decisions";

pub(crate) const DECISION_TABLE: TableDef = TableDef {
    name: "decisions",
    doc: "What was decided.",
    columns: &[
        column("at", Instant, "", "When."),
        column("id", Text, "", "Which."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
        column("kind", Text, "", "What kind."),
        column("decision", Text, "JSON", "All of it."),
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
    rule: RowRule::Operator,
    from: RowSource::Topic(Feed { topic: DECISIONS, decode: decision }),
};

fn decision(bytes: &[u8]) -> Result<Cells, String> {
    #[derive(Deserialize)]
    struct Decision {
        at: Timestamp,
        id: String,
        kind: String,
    }
    let read: Decision = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let json = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
    Ok(vec![
        ("decision", Cell::Text(json)),
        ("at", Cell::Instant(read.at)),
        ("id", Cell::Text(read.id)),
        ("kind", Cell::Text(read.kind)),
    ])
}
