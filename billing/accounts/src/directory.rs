//! What is stored: accounts, users and keys, and how they are changed.

use nilometer_clock::SharedClock;

use crate::accounts::AccountTable;
use crate::database::{Database, Location};
use crate::error::AccountsError;
use crate::keys::KeyTable;
use crate::users::UserTable;

/// The stored accounts, users and keys. Clones share the database's connections.
#[derive(Clone)]
pub struct Directory {
    database: Database,
    clock: SharedClock,
    /// Accounts and the projects that they own.
    pub accounts: AccountTable,
    /// Users.
    pub users: UserTable,
    /// API keys.
    pub keys: KeyTable,
}

impl Directory {
    /// Opens the database, makes it if it is a file that is not there, and brings its tables to
    /// this version.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached or is of a newer version.
    pub async fn open(location: &Location, clock: SharedClock) -> Result<Self, AccountsError> {
        let database = Database::open(location).await?;
        Ok(Directory {
            accounts: AccountTable::new(database.clone(), clock.clone()),
            users: UserTable::new(database.clone(), clock.clone()),
            keys: KeyTable::new(database.clone(), clock.clone()),
            database,
            clock,
        })
    }

    /// Which database it is, for people; never with a password.
    pub fn name(&self) -> &str {
        self.database.name()
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }
}
