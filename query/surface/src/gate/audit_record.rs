//! Who asked what: one record for each request that was answered or refused.

use nilometer_contract::ColumnType::{Instant, Int, Text};
use nilometer_contract::{
    Causes, Cell, Cells, Feed, RowRule, RowSource, TableDef, Timestamp, column, columns,
};
use serde::{Deserialize, Serialize};

/// Topic of who asked what (JSON).
pub const AUDIT: &str = "nilometer.audit";

/// Who asked what.
pub const AUDIT_TABLE: TableDef = TableDef {
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
    from: RowSource::Topic(Feed { topic: AUDIT, decode: cells }),
};

/// Longest record; a text that a client chose is cut before it comes near.
pub const MAX_AUDIT_BYTES: usize = 64 << 10;

/// One request and how it ended. It holds no secret: headers and bodies are not part of it, of
/// parameters the declared ones, and of a query what its route chose to note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// When it came.
    pub at: Timestamp,
    /// Who asked; empty of one that was refused before that was known.
    pub principal: String,
    /// Its role, or empty.
    pub role: String,
    /// Its account, or empty.
    pub account: String,
    /// Address and port that it came from, or empty within the program.
    pub from: String,
    /// Method and route.
    pub route: String,
    /// Parameters, or the text of a query, cut.
    pub query: String,
    /// Status of the answer.
    pub status: u16,
    /// From the first byte that was read to the last that was sent.
    pub micros: u64,
    /// Rows that were sent.
    pub rows: u64,
    /// Why the answer broke off after its first byte, or empty.
    pub failure: String,
}

/// Why bytes are no audit record.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAudit {
    /// More than [`MAX_AUDIT_BYTES`].
    #[error("an audit record of {0} bytes is longer than {MAX_AUDIT_BYTES}")]
    TooLong(usize),
    /// Not JSON, or other fields.
    #[error("not an audit record")]
    Json(#[source] serde_json::Error),
    /// An instant that no clock shows, or a number past what a table holds.
    #[error("an audit record with {0} out of bounds")]
    OutOfBounds(&'static str),
}

impl AuditRecord {
    /// Reads a record of the topic [`AUDIT`].
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidAudit> {
        if bytes.len() > MAX_AUDIT_BYTES {
            return Err(InvalidAudit::TooLong(bytes.len()));
        }
        let record: AuditRecord = serde_json::from_slice(bytes).map_err(InvalidAudit::Json)?;
        let fits = |number: u64| i64::try_from(number).is_ok();
        match record {
            _ if !record.at.is_plausible() => Err(InvalidAudit::OutOfBounds("at")),
            _ if !fits(record.micros) => Err(InvalidAudit::OutOfBounds("micros")),
            _ if !fits(record.rows) => Err(InvalidAudit::OutOfBounds("rows")),
            record => Ok(record),
        }
    }

    /// The record for the topic.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

fn cells(bytes: &[u8]) -> Result<Cells, String> {
    let record = AuditRecord::decode(bytes).map_err(|error| Causes(&error).to_string())?;
    let number = |number: u64| Cell::Int(i64::try_from(number).unwrap_or(i64::MAX));
    Ok(vec![
        ("at", Cell::Instant(record.at)),
        ("principal", Cell::Text(record.principal)),
        ("role", Cell::Text(record.role)),
        ("account", Cell::Text(record.account)),
        ("address", Cell::Text(record.from)),
        ("route", Cell::Text(record.route)),
        ("query", Cell::Text(record.query)),
        ("status", Cell::Int(i64::from(record.status))),
        ("micros", number(record.micros)),
        ("rows", number(record.rows)),
        ("failure", Cell::Text(record.failure)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AuditRecord {
        AuditRecord {
            at: Timestamp::from_seconds(1_793_577_600),
            principal: "user:alice".to_owned(),
            role: "viewer".to_owned(),
            account: "acme".to_owned(),
            from: "10.0.0.7:50000".to_owned(),
            route: "POST /v1/sql".to_owned(),
            query: "SELECT 1".to_owned(),
            status: 200,
            micros: 1_500,
            rows: 1,
            failure: String::new(),
        }
    }

    #[test]
    fn a_record_is_read_back() {
        let bytes = record().encode().unwrap();
        assert_eq!(AuditRecord::decode(&bytes).unwrap(), record());
    }

    #[test]
    fn what_is_none_is_refused() {
        for (why, bytes) in [
            ("not an audit record", b"{".to_vec()),
            ("not an audit record", br#"{"at":"2026-11-02T00:00:00Z"}"#.to_vec()),
            ("longer than", vec![b' '; MAX_AUDIT_BYTES + 1]),
            ("rows out of bounds", {
                let record = AuditRecord { rows: u64::MAX, ..record() };
                record.encode().unwrap()
            }),
            ("micros out of bounds", {
                let record = AuditRecord { micros: u64::MAX, ..record() };
                record.encode().unwrap()
            }),
            ("at out of bounds", {
                let record = AuditRecord { at: Timestamp::MAX, ..record() };
                record.encode().unwrap()
            }),
        ] {
            let error = AuditRecord::decode(&bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let longest = vec![b' '; MAX_AUDIT_BYTES];
        let error = AuditRecord::decode(&longest).unwrap_err();
        assert!(matches!(error, InvalidAudit::Json(_)), "{error}");
    }
}
