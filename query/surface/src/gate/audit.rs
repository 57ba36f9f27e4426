//! What takes the records of who asked what.

use nilometer_contract::{Principal, Timestamp};

use crate::gate::AuditRecord;

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

/// A record of which nothing is known yet but when, from where and which route.
pub(crate) fn begun(at: Timestamp, from: String, route: String) -> AuditRecord {
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

pub(crate) fn set_principal(record: &mut AuditRecord, principal: &Principal) {
    record.principal = principal.name.to_string();
    record.role = principal.role.to_string();
    record.account = principal.account.as_deref().unwrap_or_default().to_owned();
}
