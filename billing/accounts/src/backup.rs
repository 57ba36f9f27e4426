//! Backups: all that is stored, as one JSON document that either database can be restored from.
//!
//! A backup has the hashes of keys, which let nobody in, and no key itself.

use nilometer_contract::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Any, Row, Transaction};

use crate::accounts::{self, Account, Ownership};
use crate::database::select;
use crate::directory::Directory;
use crate::error::AccountsError;
use crate::keys::{self, ApiKey};
use crate::secret::Digest;
use crate::users::{self, User};

/// Version of the document; each that was ever written can be restored.
const FORMAT: u32 = 1;

/// All that is stored, at one instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Version of the document.
    nilometer_accounts: u32,
    /// SHA-256 of the contents, to find damage.
    sha256: String,
    contents: Contents,
}

/// How much a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Accounts.
    pub accounts: usize,
    /// Periods in which a project is an account's.
    pub ownerships: usize,
    /// Users.
    pub users: usize,
    /// Keys.
    pub keys: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    taken_at: Timestamp,
    accounts: Vec<Account>,
    ownerships: Vec<Ownership>,
    users: Vec<User>,
    keys: Vec<HashedKey>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct HashedKey {
    #[serde(flatten)]
    key: ApiKey,
    sha256: String,
}

impl Backup {
    /// As it is written to a file.
    ///
    /// # Errors
    ///
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, AccountsError> {
        let json = serde_json::to_vec_pretty(self);
        json.map_err(|error| AccountsError::Backup(error.to_string()))
    }

    /// As it was read from a file.
    ///
    /// # Errors
    ///
    /// If it is no backup, one of a later version, or a damaged one.
    pub fn from_json(text: &[u8]) -> Result<Self, AccountsError> {
        let refused = |why: String| AccountsError::Backup(why);
        let backup: Backup = serde_json::from_slice(text).map_err(|e| refused(e.to_string()))?;
        if backup.nilometer_accounts != FORMAT {
            let format = backup.nilometer_accounts;
            return Err(refused(format!("it is of version {format}, and {FORMAT} is known here")));
        }
        match backup.contents.sha256()? == backup.sha256 {
            true => Ok(backup),
            false => Err(refused("its checksum is another: it was changed or damaged".to_owned())),
        }
    }

    /// How much it holds.
    pub fn holds(&self) -> Restored {
        let Contents { accounts, ownerships, users, keys, .. } = &self.contents;
        Restored {
            accounts: accounts.len(),
            ownerships: ownerships.len(),
            users: users.len(),
            keys: keys.len(),
        }
    }
}

impl Contents {
    fn sha256(&self) -> Result<String, AccountsError> {
        let json = serde_json::to_vec(self).map_err(|e| AccountsError::Backup(e.to_string()))?;
        Ok(Digest::of(&json).to_hex())
    }
}

impl Directory {
    /// All that is stored, at one instant.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn backup(&self) -> Result<Backup, AccountsError> {
        let mut turn = self.database().snapshot().await?;
        let contents = read(&mut turn, self.clock().now()).await?;
        turn.rollback().await?;
        let sha256 = contents.sha256()?;
        Ok(Backup { nilometer_accounts: FORMAT, sha256, contents })
    }

    /// Stores what a backup holds, all of it or nothing. What is stored already is an error, or is
    /// deleted with `replace`.
    ///
    /// # Errors
    ///
    /// If something is stored already, or the database fails.
    pub async fn restore(&self, backup: &Backup, replace: bool) -> Result<Restored, AccountsError> {
        let mut turn = self.database().write().await?;
        let present = read(&mut turn, backup.contents.taken_at).await?;
        let empty =
            present.accounts.is_empty() && present.users.is_empty() && present.keys.is_empty();
        if !empty && !replace {
            return Err(AccountsError::NotEmpty(self.name().to_owned()));
        }
        for delete in [
            "DELETE FROM api_keys",
            "DELETE FROM users",
            "DELETE FROM ownerships",
            "DELETE FROM accounts",
        ] {
            sqlx::query(delete).execute(&mut *turn).await?;
        }
        let Contents { accounts, ownerships, users, keys, .. } = &backup.contents;
        for account in accounts {
            accounts::insert(&mut turn, account).await?;
        }
        for owned in ownerships {
            accounts::insert_ownership(&mut turn, owned).await?;
        }
        for user in users {
            users::insert(&mut turn, user).await?;
        }
        for HashedKey { key, sha256 } in keys {
            keys::insert(&mut turn, key, sha256).await?;
        }
        turn.commit().await?;
        Ok(backup.holds())
    }
}

async fn read(
    turn: &mut Transaction<'static, Any>,
    taken_at: Timestamp,
) -> Result<Contents, AccountsError> {
    let accounts = sqlx::query(select!(accounts "ORDER BY name"));
    let accounts = accounts.fetch_all(&mut **turn).await?;
    let ownerships = sqlx::query(select!(ownerships "ORDER BY project, start_at"));
    let ownerships = ownerships.fetch_all(&mut **turn).await?;
    let users = sqlx::query(select!(users "ORDER BY name")).fetch_all(&mut **turn).await?;
    let keys = sqlx::query(select!(keys "ORDER BY created_at, id"));
    let keys = keys.fetch_all(&mut **turn).await?;
    let hashed = |row| Ok(HashedKey { key: keys::key(row)?, sha256: row.try_get("hash")? });
    Ok(Contents {
        taken_at,
        accounts: accounts.iter().map(accounts::account).collect::<Result<_, _>>()?,
        ownerships: ownerships.iter().map(accounts::ownership).collect::<Result<_, _>>()?,
        users: users.iter().map(users::user).collect::<Result<_, _>>()?,
        keys: keys.iter().map(hashed).collect::<Result<_, AccountsError>>()?,
    })
}
