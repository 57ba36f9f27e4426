//! Lists of accounts, users and keys: as a table, CSV or JSON.

use std::io::Write;

use nilometer_accounts::{Account, ApiKey, Ownership, User};
use nilometer_contract::Timestamp;
use serde::Serialize;

use crate::cli::Form;

/// A row of a list.
pub(super) trait Row: Serialize {
    /// Names of the columns.
    const COLUMNS: &'static [&'static str];

    /// Its values, in the order of the columns.
    fn values(&self) -> Vec<String>;
}

impl Row for Account {
    const COLUMNS: &'static [&'static str] = &["account", "title", "created", "disabled"];

    fn values(&self) -> Vec<String> {
        let (created, disabled) = (self.created_at.to_string(), maybe(self.disabled_at));
        vec![self.name.clone(), self.title.clone(), created, disabled]
    }
}

impl Row for Ownership {
    const COLUMNS: &'static [&'static str] = &["project", "account", "from", "until"];

    fn values(&self) -> Vec<String> {
        let until = maybe(Some(self.end).filter(|end| *end < Timestamp::MAX));
        vec![self.project.clone(), self.account.clone(), self.start.to_string(), until]
    }
}

impl Row for User {
    const COLUMNS: &'static [&'static str] =
        &["user", "role", "account", "issuer", "subject", "created", "disabled"];

    fn values(&self) -> Vec<String> {
        let binding = self.binding.as_ref();
        vec![
            self.name.clone(),
            self.role.to_string(),
            self.account.clone().unwrap_or_default(),
            binding.map(|binding| binding.issuer.clone()).unwrap_or_default(),
            binding.map(|binding| binding.subject.clone()).unwrap_or_default(),
            self.created_at.to_string(),
            maybe(self.disabled_at),
        ]
    }
}

impl Row for ApiKey {
    const COLUMNS: &'static [&'static str] =
        &["key", "label", "role", "account", "user", "created", "expires", "revoked", "last used"];

    fn values(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.label.clone(),
            self.role.to_string(),
            self.account.clone().unwrap_or_default(),
            self.user.clone().unwrap_or_default(),
            self.created_at.to_string(),
            maybe(self.expires_at),
            maybe(self.revoked_at),
            maybe(self.last_used_at),
        ]
    }
}

/// Writes a list.
pub(super) fn list<R: Row>(out: &mut impl Write, rows: &[R], form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => {
            serde_json::to_writer_pretty(&mut *out, rows)?;
            writeln!(out)?;
        }
        Form::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(R::COLUMNS)?;
            for row in rows {
                csv.write_record(row.values())?;
            }
            csv.flush()?;
        }
        Form::Table => table(out, R::COLUMNS, &rows.iter().map(Row::values).collect::<Vec<_>>())?,
    }
    Ok(())
}

fn table(out: &mut impl Write, columns: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let head: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    let width = |column: usize| {
        let of = |row: &Vec<String>| row[column].chars().count();
        std::iter::once(&head).chain(rows).map(of).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn maybe(at: Option<Timestamp>) -> String {
    at.map(|at| at.to_string()).unwrap_or_default()
}
