//! Accounts, and the projects that they own in their time.
//!
//! A project is one of OpenStack or a namespace of Kubernetes; here it is a text. It belongs to at
//! most one account at any instant: periods of one project do not overlap.

use nilometer_clock::SharedClock;
use nilometer_contract::{Timestamp, Validity};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use crate::database::{Database, instant, maybe_instant, select, set_disabled};
use crate::error::AccountsError;
use crate::name::{check_name, check_text};

/// Who pays, and sees the rows of its projects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its name, for ever.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// Since when nobody of it is let in.
    pub disabled_at: Option<Timestamp>,
}

/// A project belongs to an account over `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ownership {
    /// The account.
    pub account: String,
    /// The project.
    pub project: String,
    /// First instant.
    pub start: Timestamp,
    /// First instant past it; [`Timestamp::MAX`] where none is known.
    pub end: Timestamp,
}

/// The accounts that are stored.
#[derive(Clone)]
pub struct AccountTable {
    database: Database,
    clock: SharedClock,
}

impl AccountTable {
    pub(crate) fn new(database: Database, clock: SharedClock) -> Self {
        AccountTable { database, clock }
    }

    /// All of them, by name.
    ///
    /// # Errors
    ///
    /// If the database fails; so do all of these.
    pub async fn list(&self) -> Result<Vec<Account>, AccountsError> {
        let query = sqlx::query(select!(accounts "ORDER BY name"));
        query.fetch_all(self.database.pool()).await?.iter().map(account).collect()
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// If the name is none, or taken.
    pub async fn add(&self, name: &str, title: &str) -> Result<Account, AccountsError> {
        check_name("account", name)?;
        if !title.is_empty() {
            check_text("title", title)?;
        }
        let mut turn = self.database.write().await?;
        if find(&mut turn, name).await?.is_some() {
            return Err(AccountsError::Exists { what: "account", name: name.to_owned() });
        }
        let account = Account {
            name: name.to_owned(),
            title: title.to_owned(),
            created_at: self.clock.now(),
            disabled_at: None,
        };
        insert(&mut turn, &account).await?;
        turn.commit().await?;
        Ok(account)
    }

    /// Lets nobody of an account in any more, or in again. Disabling again changes nothing.
    ///
    /// There is no deletion: names stand in audits and invoices, and must not be another's later.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub async fn set_enabled(&self, name: &str, enabled: bool) -> Result<(), AccountsError> {
        let mut turn = self.database.write().await?;
        known(&mut turn, name).await?;
        let since = (!enabled).then(|| self.clock.now());
        sqlx::query(set_disabled!("accounts"))
            .bind(since.map(|at| at.0))
            .bind(name)
            .execute(&mut *turn)
            .await?;
        Ok(turn.commit().await?)
    }

    /// Who owns what and when, by project and start; of one account if one is named.
    ///
    /// # Errors
    ///
    /// If the account is not known.
    pub async fn ownerships(&self, account: Option<&str>) -> Result<Vec<Ownership>, AccountsError> {
        let mut turn = self.database.snapshot().await?;
        if let Some(name) = account {
            known(&mut turn, name).await?;
        }
        let query = match account {
            None => sqlx::query(select!(ownerships "ORDER BY project, start_at")),
            Some(name) => {
                sqlx::query(select!(ownerships "WHERE account = $1 ORDER BY project, start_at"))
                    .bind(name)
            }
        };
        query.fetch_all(&mut *turn).await?.iter().map(ownership).collect()
    }

    /// Gives a project to an account over a period. With `transfer`, what others own of the project
    /// within the period is theirs no more; without it, that is refused.
    ///
    /// # Errors
    ///
    /// If the account is unknown or disabled, the period empty, or the project another's in it.
    pub async fn assign(
        &self,
        account: &str,
        project: &str,
        period: Validity,
        transfer: bool,
    ) -> Result<Ownership, AccountsError> {
        check_text("project", project)?;
        let Validity { start, end } = period;
        if start >= end || start < Timestamp::MIN || end > Timestamp::MAX {
            return Err(AccountsError::Period { start, end });
        }
        let mut turn = self.database.write().await?;
        if known(&mut turn, account).await?.disabled_at.is_some() {
            return Err(AccountsError::Disabled { what: "account", name: account.to_owned() });
        }
        for other in of_project(&mut turn, project).await? {
            if other.end <= start || end <= other.start {
                continue;
            }
            if !transfer || other.account == account {
                let Ownership { account, start, end, project } = other;
                return Err(AccountsError::Overlap { project, account, start, end });
            }
            delete(&mut turn, &other).await?;
            let before = Ownership { end: start.min(other.end), ..other.clone() };
            let after = Ownership { start: end.max(other.start), ..other };
            for rest in [before, after] {
                if rest.start < rest.end {
                    insert_ownership(&mut turn, &rest).await?;
                }
            }
        }
        let owned =
            Ownership { account: account.to_owned(), project: project.to_owned(), start, end };
        insert_ownership(&mut turn, &owned).await?;
        turn.commit().await?;
        Ok(owned)
    }

    /// Ends the ownership of a project that holds at an instant, at that instant.
    ///
    /// # Errors
    ///
    /// If nobody owns the project then.
    pub async fn release(&self, project: &str, at: Timestamp) -> Result<Ownership, AccountsError> {
        let mut turn = self.database.write().await?;
        let owned = of_project(&mut turn, project).await?;
        let owned = owned.into_iter().find(|owned| owned.start <= at && at < owned.end);
        let Some(owned) = owned else {
            return Err(AccountsError::NotOwned { project: project.to_owned(), at });
        };
        delete(&mut turn, &owned).await?;
        let rest = Ownership { end: at, ..owned };
        if rest.start < rest.end {
            insert_ownership(&mut turn, &rest).await?;
        }
        turn.commit().await?;
        Ok(rest)
    }

    /// Projects of an account and when each is its own; none of an unknown or disabled account.
    pub(crate) async fn projects(
        &self,
        account: &str,
    ) -> Result<Option<Vec<(String, Validity)>>, AccountsError> {
        let rows = sqlx::query(
            "SELECT a.disabled_at, o.project, o.start_at, o.end_at FROM accounts a \
             LEFT JOIN ownerships o ON o.account = a.name WHERE a.name = $1",
        )
        .bind(account)
        .fetch_all(self.database.pool())
        .await?;
        let mut projects = Vec::new();
        for row in &rows {
            if maybe_instant(row, "disabled_at")?.is_some() {
                return Ok(None);
            }
            let project: Option<String> = row.try_get("project")?;
            if let Some(project) = project {
                let (start, end) = (instant(row, "start_at")?, instant(row, "end_at")?);
                projects.push((project, Validity { start, end }));
            }
        }
        Ok((!rows.is_empty()).then_some(projects))
    }
}

/// The account of this name.
pub(crate) async fn find(
    turn: &mut Transaction<'static, Any>,
    name: &str,
) -> Result<Option<Account>, AccountsError> {
    let query = sqlx::query(select!(accounts "WHERE name = $1")).bind(name);
    query.fetch_optional(&mut **turn).await?.as_ref().map(account).transpose()
}

/// The account of this name, which must be known.
pub(crate) async fn known(
    turn: &mut Transaction<'static, Any>,
    name: &str,
) -> Result<Account, AccountsError> {
    let found = find(turn, name).await?;
    found.ok_or_else(|| AccountsError::Unknown { what: "account", name: name.to_owned() })
}

pub(crate) async fn insert(
    turn: &mut Transaction<'static, Any>,
    account: &Account,
) -> Result<(), AccountsError> {
    sqlx::query(
        "INSERT INTO accounts (name, title, created_at, disabled_at) VALUES ($1, $2, $3, $4)",
    )
    .bind(account.name.as_str())
    .bind(account.title.as_str())
    .bind(account.created_at.0)
    .bind(account.disabled_at.map(|at| at.0))
    .execute(&mut **turn)
    .await?;
    Ok(())
}

pub(crate) async fn insert_ownership(
    turn: &mut Transaction<'static, Any>,
    owned: &Ownership,
) -> Result<(), AccountsError> {
    sqlx::query(
        "INSERT INTO ownerships (project, start_at, end_at, account) VALUES ($1, $2, $3, $4)",
    )
    .bind(owned.project.as_str())
    .bind(owned.start.0)
    .bind(owned.end.0)
    .bind(owned.account.as_str())
    .execute(&mut **turn)
    .await?;
    Ok(())
}

async fn delete(
    turn: &mut Transaction<'static, Any>,
    owned: &Ownership,
) -> Result<(), AccountsError> {
    sqlx::query("DELETE FROM ownerships WHERE project = $1 AND start_at = $2")
        .bind(owned.project.as_str())
        .bind(owned.start.0)
        .execute(&mut **turn)
        .await?;
    Ok(())
}

async fn of_project(
    turn: &mut Transaction<'static, Any>,
    project: &str,
) -> Result<Vec<Ownership>, AccountsError> {
    let query = sqlx::query(select!(ownerships "WHERE project = $1 ORDER BY start_at"));
    query.bind(project).fetch_all(&mut **turn).await?.iter().map(ownership).collect()
}

pub(crate) fn account(row: &AnyRow) -> Result<Account, AccountsError> {
    Ok(Account {
        name: row.try_get("name")?,
        title: row.try_get("title")?,
        created_at: instant(row, "created_at")?,
        disabled_at: maybe_instant(row, "disabled_at")?,
    })
}

pub(crate) fn ownership(row: &AnyRow) -> Result<Ownership, AccountsError> {
    Ok(Ownership {
        account: row.try_get("account")?,
        project: row.try_get("project")?,
        start: instant(row, "start_at")?,
        end: instant(row, "end_at")?,
    })
}
