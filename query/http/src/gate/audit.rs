//! Who asked what: one record for each request that was answered or refused.

use nilometer_contract::{Principal, Timestamp};
use serde::{Deserialize, Serialize};

/// One request and how it ended. It holds no secret: headers and bodies are not part of it, of
/// parameters the declared ones, and of a query what the handler chose to note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it came.
    pub at: Timestamp,
    /// Who asked; empty of one that was refused before that was known.
    pub principal: String,
    /// Its role, or empty.
    pub role: String,
    /// Its account, or empty.
    pub account: String,
    /// Address and port it came from, or empty within the program.
    pub from: String,
    /// Method and route.
    pub route: String,
    /// Parameters, and the text of a query, cut.
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

/// Takes records. It never waits: what it cannot keep, it counts.
pub trait Audit: Send + Sync {
    /// Takes one record.
    fn record(&self, record: AuditRecord);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoAudit;

impl Audit for NoAudit {
    fn record(&self, _: AuditRecord) {}
}

impl AuditRecord {
    pub(crate) fn of(at: Timestamp, from: String, route: String) -> Self {
        AuditRecord {
            at,
            principal: String::new(),
            role: String::new(),
            account: String::new(),
            from,
            route,
            query: String::new(),
            status: 0,
            micros: 0,
            rows: 0,
            failure: String::new(),
        }
    }

    pub(crate) fn set_principal(&mut self, principal: &Principal) {
        self.principal = principal.name.to_string();
        self.role = principal.role.to_string();
        self.account = principal.account.as_deref().unwrap_or_default().to_owned();
    }
}
