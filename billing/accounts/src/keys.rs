//! API keys: shown once, stored as a hash, with a role, until they expire or are revoked.

use nilometer_clock::SharedClock;
use nilometer_contract::{Role, Timestamp};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use crate::database::{Database, instant, maybe_instant, role, select};
use crate::error::{AccountsError, check_role};
use crate::name::check_text;
use crate::{accounts, token, users};

/// An API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its public part, which names it in lists, logs and audits.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// The account that it sees; none of an operator, an agent or a scheduler.
    pub account: Option<String>,
    /// Whose it is; a key may be nobody's.
    pub user: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The instant from which on it is not valid.
    pub expires_at: Option<Timestamp>,
    /// Since when it is not valid.
    pub revoked_at: Option<Timestamp>,
    /// When it was last let in, to about a minute.
    pub last_used_at: Option<Timestamp>,
}

/// A key as it was created: the only time that its secret is to be had.
#[derive(Clone, Debug)]
pub struct CreatedKey {
    /// The key.
    pub key: ApiKey,
    /// What clients send as `Authorization: Bearer …`.
    pub token: SecretString,
}

/// A key to create.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// What it is for.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// The account that it sees; of a user's key the user's, unless the user is an operator.
    pub account: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
    /// The instant from which on it is not valid; none is never.
    pub expires_at: Option<Timestamp>,
}

/// What is stored of a key and of whose it is, for authentication.
pub(crate) struct StoredKey {
    pub(crate) key: ApiKey,
    pub(crate) hash: String,
    /// Of a user's key: role, account and whether the user is enabled.
    pub(crate) owner: Option<Owner>,
}

pub(crate) struct Owner {
    pub(crate) role: Role,
    pub(crate) account: Option<String>,
    pub(crate) enabled: bool,
}

/// The keys that are stored.
#[derive(Clone)]
pub struct KeyTable {
    database: Database,
    clock: SharedClock,
}

impl KeyTable {
    pub(crate) fn new(database: Database, clock: SharedClock) -> Self {
        KeyTable { database, clock }
    }

    /// All of them, oldest first, those that are not valid any more included.
    ///
    /// # Errors
    ///
    /// If the database fails; so do all of these.
    pub async fn list(&self) -> Result<Vec<ApiKey>, AccountsError> {
        let query = sqlx::query(select!(keys "ORDER BY created_at, id"));
        query.fetch_all(self.database.pool()).await?.iter().map(key).collect()
    }

    /// Creates one.
    ///
    /// # Errors
    ///
    /// If role, account and user do not go together, or it would have expired.
    pub async fn create(&self, request: KeyRequest) -> Result<CreatedKey, AccountsError> {
        check_text("label", &request.label)?;
        let now = self.clock.now();
        if let Some(at) = request.expires_at.filter(|at| *at <= now) {
            return Err(AccountsError::Expired(at));
        }
        let mut turn = self.database.write().await?;
        let request = with_user(&mut turn, request).await?;
        check_role(request.role, request.account.as_deref())?;
        if let Some(name) = &request.account
            && accounts::known(&mut turn, name).await?.disabled_at.is_some()
        {
            return Err(AccountsError::Disabled { what: "account", name: name.clone() });
        }
        let created = insert_new(&mut turn, request, now).await?;
        turn.commit().await?;
        Ok(created)
    }

    /// Creates a first key of an operator, if there never was a key; of several processes that
    /// start together, one does.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn create_first(&self) -> Result<Option<CreatedKey>, AccountsError> {
        let mut turn = self.database.write().await?;
        let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM api_keys");
        if count.fetch_one(&mut *turn).await? > 0 {
            return Ok(None);
        }
        let request = KeyRequest {
            label: "first operator key".to_owned(),
            role: Role::Operator,
            account: None,
            user: None,
            expires_at: None,
        };
        let created = insert_new(&mut turn, request, self.clock.now()).await?;
        turn.commit().await?;
        Ok(Some(created))
    }

    /// Makes a key invalid for ever. Revoking it again changes nothing.
    ///
    /// # Errors
    ///
    /// If there is none of this id.
    pub async fn revoke(&self, id: &str) -> Result<ApiKey, AccountsError> {
        let mut turn = self.database.write().await?;
        sqlx::query("UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2")
            .bind(self.clock.now().0)
            .bind(id)
            .execute(&mut *turn)
            .await?;
        let query = sqlx::query(select!(keys "WHERE id = $1")).bind(id);
        let found = query.fetch_optional(&mut *turn).await?.as_ref().map(key).transpose()?;
        turn.commit().await?;
        found.ok_or_else(|| AccountsError::Unknown { what: "key", name: id.to_owned() })
    }

    /// What is stored of the key of an id.
    pub(crate) async fn stored(&self, id: &str) -> Result<Option<StoredKey>, AccountsError> {
        let row = sqlx::query(
            "SELECT k.id, k.hash, k.label, k.role, k.account, k.user_name, k.created_at, \
             k.expires_at, k.revoked_at, k.last_used_at, u.role AS owner_role, u.account AS owner_account, \
             u.disabled_at AS owner_disabled_at FROM api_keys k \
             LEFT JOIN users u ON u.name = k.user_name WHERE k.id = $1",
        )
        .bind(id)
        .fetch_optional(self.database.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (key, hash) = (key(&row)?, row.try_get("hash")?);
        let owner = match key.user {
            None => None,
            Some(_) => Some(Owner {
                role: role(&row, "owner_role")?,
                account: row.try_get("owner_account")?,
                enabled: maybe_instant(&row, "owner_disabled_at")?.is_none(),
            }),
        };
        Ok(Some(StoredKey { key, hash, owner }))
    }

    /// Records that a key was used; never moves back.
    pub(crate) async fn used(&self, id: &str, at: Timestamp) -> Result<(), AccountsError> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at = $1 \
             WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)",
        )
        .bind(at.0)
        .bind(id)
        .execute(self.database.pool())
        .await?;
        Ok(())
    }
}

/// Whether one of a role may have a key of another.
pub(crate) fn covers(has: Role, asked: Role) -> bool {
    match has {
        Role::Operator => true,
        Role::AccountAdministrator => matches!(asked, Role::AccountAdministrator | Role::Viewer),
        Role::Viewer | Role::Agent | Role::Scheduler => asked == has,
    }
}

/// Fills in what follows from whose key it is, and checks that he may have it.
async fn with_user(
    turn: &mut Transaction<'static, Any>,
    mut request: KeyRequest,
) -> Result<KeyRequest, AccountsError> {
    let Some(name) = &request.user else { return Ok(request) };
    let user = users::known(turn, name).await?;
    if user.disabled_at.is_some() {
        return Err(AccountsError::Disabled { what: "user", name: user.name });
    }
    let asked = request.role;
    if !covers(user.role, asked) {
        return Err(AccountsError::RoleTooHigh { user: user.name, has: user.role, asked });
    }
    if let Some(has) = user.account {
        match &request.account {
            Some(asked) if *asked != has => {
                let asked = asked.clone();
                return Err(AccountsError::OtherAccount { user: user.name, has, asked });
            }
            _ => request.account = Some(has),
        }
    }
    Ok(request)
}

async fn insert_new(
    turn: &mut Transaction<'static, Any>,
    request: KeyRequest,
    now: Timestamp,
) -> Result<CreatedKey, AccountsError> {
    let minted = token::mint()?;
    let key = ApiKey {
        id: minted.id,
        label: request.label,
        role: request.role,
        account: request.account,
        user: request.user,
        created_at: now,
        expires_at: request.expires_at,
        revoked_at: None,
        last_used_at: None,
    };
    insert(turn, &key, &minted.digest.to_hex()).await?;
    Ok(CreatedKey { key, token: minted.token })
}

pub(crate) async fn insert(
    turn: &mut Transaction<'static, Any>,
    key: &ApiKey,
    hash: &str,
) -> Result<(), AccountsError> {
    sqlx::query(
        "INSERT INTO api_keys (id, hash, label, role, account, user_name, created_at, expires_at, \
         revoked_at, last_used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(key.id.as_str())
    .bind(hash)
    .bind(key.label.as_str())
    .bind(key.role.as_str())
    .bind(key.account.as_deref())
    .bind(key.user.as_deref())
    .bind(key.created_at.0)
    .bind(key.expires_at.map(|at| at.0))
    .bind(key.revoked_at.map(|at| at.0))
    .bind(key.last_used_at.map(|at| at.0))
    .execute(&mut **turn)
    .await?;
    Ok(())
}

pub(crate) fn key(row: &AnyRow) -> Result<ApiKey, AccountsError> {
    Ok(ApiKey {
        id: row.try_get("id")?,
        label: row.try_get("label")?,
        role: role(row, "role")?,
        account: row.try_get("account")?,
        user: row.try_get("user_name")?,
        created_at: instant(row, "created_at")?,
        expires_at: maybe_instant(row, "expires_at")?,
        revoked_at: maybe_instant(row, "revoked_at")?,
        last_used_at: maybe_instant(row, "last_used_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_no_more_than_its_user() {
        use Role::{AccountAdministrator, Agent, Operator, Scheduler, Viewer};
        assert!(Role::ALL.into_iter().all(|asked| covers(Operator, asked)));
        for (has, may) in [
            (AccountAdministrator, &[AccountAdministrator, Viewer][..]),
            (Viewer, &[Viewer]),
            (Agent, &[Agent]),
            (Scheduler, &[Scheduler]),
        ] {
            for asked in Role::ALL {
                assert_eq!(covers(has, asked), may.contains(&asked), "{has} {asked}");
            }
        }
    }
}
