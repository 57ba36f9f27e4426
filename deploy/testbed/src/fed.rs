//! Two tables that an ingester does not know, each fed by a topic of its own.

use nilometer_contract::ColumnType::{Instant, Int, Text};
use nilometer_contract::{
    Cell, Cells, Feed, RowRule, RowSource, TableDef, Timestamp, column, columns,
};
use serde::Deserialize;

/// Topic of decisions.
pub const DECISIONS: &str = "nilometer.decisions";
/// Topic of requests.
pub const AUDIT: &str = "nilometer.audit";

/// The table of decisions.
pub const DECISION_TABLE: TableDef = TableDef {
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

/// The table of requests.
pub const AUDIT_TABLE: TableDef = TableDef {
    name: "audit",
    doc: "Who asked what.",
    columns: &[
        column("at", Instant, "", "When."),
        column("principal", Text, "", "Who."),
        column("route", Text, "", "What."),
        column("status", Int, "", "How it ended."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
    rule: RowRule::Operator,
    from: RowSource::Topic(Feed { topic: AUDIT, decode: request }),
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

fn request(bytes: &[u8]) -> Result<Cells, String> {
    #[derive(Deserialize)]
    struct Request {
        at: Timestamp,
        principal: String,
        route: String,
        status: i64,
    }
    let read: Request =
        serde_json::from_slice(bytes).map_err(|error| format!("not an audit record: {error}"))?;
    Ok(vec![
        ("at", Cell::Instant(read.at)),
        ("principal", Cell::Text(read.principal)),
        ("route", Cell::Text(read.route)),
        ("status", Cell::Int(read.status)),
    ])
}

/// A record of a request that was answered.
pub fn audit(at: Timestamp, route: &str) -> String {
    format!(r#"{{"at":"{at}","principal":"user:alice","route":"{route}","status":200}}"#)
}
