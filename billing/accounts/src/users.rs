//! Users: people with a role, of an account unless they are operators.

use nilometer_clock::SharedClock;
use nilometer_contract::{Role, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Executor, Row, Transaction};

use crate::accounts;
use crate::database::{Database, instant, maybe_instant, role, select, set_disabled};
use crate::error::{AccountsError, check_role};
use crate::name::{check_name, check_text};

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name, for ever.
    pub name: String,
    /// What the user may do; no key of his may do more.
    pub role: Role,
    /// The account that the user belongs to; none of an operator.
    pub account: Option<String>,
    /// Who the user is to an OIDC issuer.
    pub binding: Option<Binding>,
    /// When the user was added.
    pub created_at: Timestamp,
    /// Since when neither the user nor any key of his is let in.
    pub disabled_at: Option<Timestamp>,
}

/// Who a user is to an OIDC issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Name of the issuer in the configuration.
    pub issuer: String,
    /// Value of the issuer's claim that tells users apart, `sub` unless configured otherwise.
    pub subject: String,
}

/// A user to add.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The account, of roles within one.
    pub account: Option<String>,
    /// Who the user is to an OIDC issuer.
    pub binding: Option<Binding>,
}

/// The users that are stored.
#[derive(Clone)]
pub struct UserTable {
    database: Database,
    clock: SharedClock,
}

impl UserTable {
    pub(crate) fn new(database: Database, clock: SharedClock) -> Self {
        UserTable { database, clock }
    }

    /// All of them, by name.
    ///
    /// # Errors
    ///
    /// If the database fails; so do all of these.
    pub async fn list(&self) -> Result<Vec<User>, AccountsError> {
        let query = sqlx::query(select!(users "ORDER BY name"));
        query.fetch_all(self.database.pool()).await?.iter().map(user).collect()
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// If the name or the subject is taken, or role and account do not go together.
    pub async fn add(&self, new: NewUser) -> Result<User, AccountsError> {
        check_name("user", &new.name)?;
        check_user_role(new.role, new.account.as_deref())?;
        if let Some(binding) = &new.binding {
            check_text("issuer", &binding.issuer)?;
            check_text("subject", &binding.subject)?;
        }
        let mut turn = self.database.write().await?;
        if find(&mut turn, &new.name).await?.is_some() {
            return Err(AccountsError::Exists { what: "user", name: new.name });
        }
        if let Some(name) = &new.account {
            accounts::known(&mut turn, name).await?;
        }
        if let Some(Binding { issuer, subject }) = &new.binding
            && let Some(other) = bound(&mut *turn, issuer, subject).await?
        {
            let (issuer, subject) = (issuer.clone(), subject.clone());
            return Err(AccountsError::Bound { issuer, subject, user: other.name });
        }
        let NewUser { name, role, account, binding } = new;
        let created_at = self.clock.now();
        let user = User { name, role, account, binding, created_at, disabled_at: None };
        insert(&mut turn, &user).await?;
        turn.commit().await?;
        Ok(user)
    }

    /// Gives a user another role, and account. His keys keep theirs, but do no more than he may.
    ///
    /// # Errors
    ///
    /// If there is no such user or account, or role and account do not go together.
    pub async fn set_role(
        &self,
        name: &str,
        role: Role,
        account: Option<&str>,
    ) -> Result<(), AccountsError> {
        check_user_role(role, account)?;
        let mut turn = self.database.write().await?;
        known(&mut turn, name).await?;
        if let Some(account) = account {
            accounts::known(&mut turn, account).await?;
        }
        sqlx::query("UPDATE users SET role = $1, account = $2 WHERE name = $3")
            .bind(role.as_str())
            .bind(account)
            .bind(name)
            .execute(&mut *turn)
            .await?;
        Ok(turn.commit().await?)
    }

    /// Lets neither a user nor any key of his in any more, or in again.
    ///
    /// There is no deletion: names stand in audits, and must not be another's later.
    ///
    /// # Errors
    ///
    /// If there is none of this name.
    pub async fn set_enabled(&self, name: &str, enabled: bool) -> Result<(), AccountsError> {
        let mut turn = self.database.write().await?;
        known(&mut turn, name).await?;
        let since = (!enabled).then(|| self.clock.now());
        sqlx::query(set_disabled!("users"))
            .bind(since.map(|at| at.0))
            .bind(name)
            .execute(&mut *turn)
            .await?;
        Ok(turn.commit().await?)
    }

    /// The user that is this subject to an issuer.
    pub(crate) async fn bound(
        &self,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<User>, AccountsError> {
        bound(self.database.pool(), issuer, subject).await
    }
}

/// People are operators, administrators of an account, or viewers.
fn check_user_role(role: Role, account: Option<&str>) -> Result<(), AccountsError> {
    match role {
        Role::Agent | Role::Scheduler => Err(AccountsError::NoUserRole(role)),
        Role::Operator | Role::AccountAdministrator | Role::Viewer => check_role(role, account),
    }
}

async fn find(
    turn: &mut Transaction<'static, Any>,
    name: &str,
) -> Result<Option<User>, AccountsError> {
    let query = sqlx::query(select!(users "WHERE name = $1")).bind(name);
    query.fetch_optional(&mut **turn).await?.as_ref().map(user).transpose()
}

/// The user of this name, who must be known.
pub(crate) async fn known(
    turn: &mut Transaction<'static, Any>,
    name: &str,
) -> Result<User, AccountsError> {
    let found = find(turn, name).await?;
    found.ok_or_else(|| AccountsError::Unknown { what: "user", name: name.to_owned() })
}

async fn bound<'e>(
    executor: impl Executor<'e, Database = Any>,
    issuer: &str,
    subject: &str,
) -> Result<Option<User>, AccountsError> {
    let query = sqlx::query(select!(users "WHERE issuer = $1 AND subject = $2"));
    let found = query.bind(issuer).bind(subject).fetch_optional(executor).await?;
    found.as_ref().map(user).transpose()
}

pub(crate) async fn insert(
    turn: &mut Transaction<'static, Any>,
    user: &User,
) -> Result<(), AccountsError> {
    let binding = user.binding.as_ref();
    sqlx::query(
        "INSERT INTO users (name, role, account, issuer, subject, created_at, disabled_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(user.name.as_str())
    .bind(user.role.as_str())
    .bind(user.account.as_deref())
    .bind(binding.map(|binding| binding.issuer.as_str()))
    .bind(binding.map(|binding| binding.subject.as_str()))
    .bind(user.created_at.0)
    .bind(user.disabled_at.map(|at| at.0))
    .execute(&mut **turn)
    .await?;
    Ok(())
}

pub(crate) fn user(row: &AnyRow) -> Result<User, AccountsError> {
    let (issuer, subject): (Option<String>, Option<String>) =
        (row.try_get("issuer")?, row.try_get("subject")?);
    Ok(User {
        name: row.try_get("name")?,
        role: role(row, "role")?,
        account: row.try_get("account")?,
        binding: issuer.zip(subject).map(|(issuer, subject)| Binding { issuer, subject }),
        created_at: instant(row, "created_at")?,
        disabled_at: maybe_instant(row, "disabled_at")?,
    })
}
