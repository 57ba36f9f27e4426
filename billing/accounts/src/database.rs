//! The database: SQLite or PostgreSQL, one set of statements for both.
//!
//! Writers take turns: each transaction that writes first takes the whole database (SQLite) or a
//! lock on the table of accounts (PostgreSQL), so that what it checks still holds when it commits.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nilometer_contract::{Role, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sqlx::any::{AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, Row, SqlSafeStr, Transaction};
use tracing::warn;
use url::Url;

use crate::error::AccountsError;

/// Connections of one process.
const CONNECTIONS_MAX: u32 = 4;
/// How long a request waits for one.
const ACQUIRE_MAX: Duration = Duration::from_secs(5);
/// Others may keep tables of their own in the same database.
const MIGRATIONS_TABLE: &str = "accounts_migrations";
/// Name of SQLite's file in the data folder.
const FILE: &str = "accounts.sqlite";

/// A query for rows of a table. Columns are named: a later version may add some while this one runs.
macro_rules! select {
    (accounts $rest:literal) => {
        concat!("SELECT name, title, created_at, disabled_at FROM accounts ", $rest)
    };
    (ownerships $rest:literal) => {
        concat!("SELECT project, start_at, end_at, account FROM ownerships ", $rest)
    };
    (users $rest:literal) => {
        concat!(
            "SELECT name, role, account, issuer, subject, created_at, disabled_at FROM users ",
            $rest
        )
    };
    (keys $rest:literal) => {
        concat!(
            "SELECT id, hash, label, role, account, user_name, created_at, expires_at, \
             revoked_at, last_used_at FROM api_keys ",
            $rest
        )
    };
}
pub(crate) use select;

/// A statement that sets since when a row named `$2` is disabled, `$1`, or that it is not where
/// that is null; one that is disabled already stays so since when it was.
macro_rules! set_disabled {
    ($table:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " SET disabled_at = CASE WHEN $1 IS NULL THEN NULL \
             ELSE COALESCE(disabled_at, $1) END WHERE name = $2"
        )
    };
}
pub(crate) use set_disabled;

/// Where users, accounts and keys are kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A URL of PostgreSQL, which may hold a password.
    Postgres(SecretString),
}

impl Location {
    /// As configured: empty is SQLite in the data folder.
    ///
    /// # Errors
    ///
    /// If it is anything but empty or a URL of PostgreSQL.
    pub fn parse(setting: &SecretString, data_dir: &Path) -> Result<Self, AccountsError> {
        let text = setting.expose_secret();
        if text.is_empty() {
            return Ok(Location::Sqlite(data_dir.join(FILE)));
        }
        // The parser's error would not show the URL, but neither would it help.
        let url: Url = text.parse().map_err(|_| AccountsError::Location("not a URL".to_owned()))?;
        match url.scheme() {
            "postgres" | "postgresql" => Ok(Location::Postgres(setting.clone())),
            other => Err(AccountsError::Location(format!("{other}:// is not supported"))),
        }
    }

    /// For people: the file, or host and database.
    fn name(&self) -> String {
        match self {
            Location::Sqlite(path) => path.display().to_string(),
            Location::Postgres(url) => match url.expose_secret().parse::<Url>() {
                Ok(url) => format!("postgres://{}{}", url.host_str().unwrap_or(""), url.path()),
                Err(_) => "postgres://".to_owned(),
            },
        }
    }

    fn url(&self) -> Result<SecretString, AccountsError> {
        let path = match self {
            Location::Postgres(url) => return Ok(url.clone()),
            Location::Sqlite(path) => path,
        };
        let file = |source| AccountsError::File { path: path.clone(), source };
        let full = std::path::absolute(path).map_err(file)?;
        let text = full.to_str().ok_or_else(|| AccountsError::Location("not UTF-8".to_owned()))?;
        let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        Ok(SecretString::from(format!("sqlite://{escaped}?mode=rw")))
    }
}

/// An open database. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pool: AnyPool,
    name: String,
    sqlite: bool,
}

impl Database {
    /// Opens it, makes it if it is a file that is not there, and brings its tables to this version.
    pub(crate) async fn open(location: &Location) -> Result<Self, AccountsError> {
        install_default_drivers();
        let (name, url) = (location.name(), location.url()?);
        if let Location::Sqlite(path) = location {
            make_file(path).map_err(|source| AccountsError::File { path: path.clone(), source })?;
        }
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_MAX)
            .connect(url.expose_secret())
            .await;
        let pool =
            options.map_err(|source| AccountsError::Connect { database: name.clone(), source })?;
        let sqlite = matches!(location, Location::Sqlite(_));
        let database = Database { pool, name, sqlite };
        database.migrate().await?;
        Ok(database)
    }

    /// For people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// For statements that stand alone.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// A transaction that writes; no other one does until it ends.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, AccountsError> {
        if self.sqlite {
            return Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?);
        }
        let mut transaction = self.pool.begin().await?;
        sqlx::query("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    }

    /// A transaction that reads one state.
    pub(crate) async fn snapshot(&self) -> Result<Transaction<'static, Any>, AccountsError> {
        let begin = match self.sqlite {
            true => "BEGIN",
            false => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        };
        Ok(self.pool.begin_with(begin).await?)
    }

    async fn migrate(&self) -> Result<(), AccountsError> {
        let failed = |source: sqlx::migrate::MigrateError| AccountsError::Migrate {
            database: self.name.clone(),
            source: Box::new(source),
        };
        let mut migrator = Migrator::with_migrations(vec![Migration::new(
            1,
            "accounts".into(),
            MigrationType::Simple,
            include_str!("../migrations/0001_accounts.sql").into_sql_str(),
            false,
        )]);
        migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
        if !self.sqlite {
            // It takes an advisory lock, so that processes that start together take turns.
            return migrator.run(&self.pool).await.map_err(failed);
        }
        // Readers are not kept waiting by a writer.
        sqlx::query("PRAGMA journal_mode = WAL").execute(&self.pool).await?;
        let mut turn = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        migrator.run_direct(None, &mut *turn, false).await.map_err(failed)?;
        Ok(turn.commit().await?)
    }
}

/// Makes the file for its owner alone, before SQLite does; SQLite's other files take its mode.
fn make_file(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).create(true).mode(0o600).truncate(false).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        warn!(file = %path.display(), mode = format!("{mode:o}"), "others could read the file of accounts; its mode is set to 600");
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
    }
    Ok(())
}

/// A stored instant.
pub(crate) fn instant(row: &AnyRow, column: &str) -> Result<Timestamp, AccountsError> {
    Ok(Timestamp(row.try_get(column)?))
}

/// A stored instant that may be missing.
pub(crate) fn maybe_instant(
    row: &AnyRow,
    column: &str,
) -> Result<Option<Timestamp>, AccountsError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}

/// A stored role.
pub(crate) fn role(row: &AnyRow, column: &str) -> Result<Role, AccountsError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| AccountsError::Stored { what: "the role", value: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(setting: &str) -> Result<Location, AccountsError> {
        Location::parse(&setting.into(), Path::new("data"))
    }

    #[test]
    fn a_password_is_not_shown() {
        let location = parse("postgres://ada:hunter2@db.example:5433/nilometer").unwrap();
        assert_eq!(location.name(), "postgres://db.example/nilometer");
        assert!(!format!("{location:?}").contains("hunter2"));
        for bad in ["mysql://ada:hunter2@db/x", "hunter2", "sqlite://hunter2"] {
            let why = parse(bad).unwrap_err();
            assert!(!format!("{why} {why:?}").contains("hunter2"), "{why}");
            assert!(why.to_string().contains("postgres://"), "{why}");
        }
    }

    #[test]
    fn nothing_is_a_file_in_the_data_folder() {
        assert_eq!(parse("").unwrap().name(), "data/accounts.sqlite");
    }
}
