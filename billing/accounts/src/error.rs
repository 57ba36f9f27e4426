//! Why users, accounts or keys could not be read or changed.

use std::path::PathBuf;

use nilometer_contract::{Role, Timestamp};

/// Why users, accounts or keys could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// `accounts.database` is no place.
    #[error(
        "accounts.database is refused: {0}; leave it empty for SQLite in the data folder, or write \
         postgres://user@host/database"
    )]
    Location(String),
    /// The file of SQLite cannot be made.
    #[error("the database of accounts {} cannot be made or opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No connection.
    #[error("the database of accounts, {database}, cannot be reached")]
    Connect {
        /// Which one, without its password.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be brought to this version.
    #[error(
        "the database of accounts, {database}, cannot be brought to this version's tables; if a \
         newer nilometer has used it, run that one"
    )]
    Migrate {
        /// Which one.
        database: String,
        /// Why.
        #[source]
        source: Box<sqlx::migrate::MigrateError>,
    },
    /// A statement failed.
    #[error("the database of accounts failed")]
    Database(#[from] sqlx::Error),
    /// A stored row makes no sense to this version.
    #[error("the database of accounts holds {what} {value:?}, which this version does not know")]
    Stored {
        /// What it is.
        what: &'static str,
        /// What is stored.
        value: String,
    },
    /// The operating system gave no random bits.
    #[error("the operating system gave no random bits for a key")]
    Random(#[source] std::io::Error),
    /// Not a name.
    #[error(
        "the name of an {what} is 1 to 63 of a-z, 0-9, '.', '-', '_' and '@', and begins with a \
         letter or digit; \"{name}\" is not"
    )]
    InvalidName {
        /// What was to be named.
        what: &'static str,
        /// The name, escaped.
        name: String,
    },
    /// Not a text.
    #[error("a {what} is 1 to 255 bytes without control characters; \"{text}\" is not")]
    InvalidText {
        /// What it was to be.
        what: &'static str,
        /// The text, escaped.
        text: String,
    },
    /// Nothing has this name.
    #[error("there is no {what} {name:?}; `nilometer {what} list` shows those there are")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("{what} {name:?} exists already")]
    Exists {
        /// What was to be added.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The subject is another user's.
    #[error("the subject {subject:?} of issuer {issuer:?} is user {user:?} already")]
    Bound {
        /// Name of the issuer.
        issuer: String,
        /// The subject.
        subject: String,
        /// Whose it is.
        user: String,
    },
    /// The role asks for an account, or for none.
    #[error("{}", role_account(*role))]
    RoleAccount {
        /// The role.
        role: Role,
    },
    /// Machines are no users.
    #[error("a user is no {0}: make a key for it instead, `nilometer key create --role {0}`")]
    NoUserRole(Role),
    /// A user's key may do no more than the user.
    #[error("user {user:?} is {has} and can have no key of role {asked}")]
    RoleTooHigh {
        /// The user.
        user: String,
        /// His role.
        has: Role,
        /// The role asked for.
        asked: Role,
    },
    /// A user's key is for the user's account.
    #[error("user {user:?} belongs to account {has:?} and can have no key of account {asked:?}")]
    OtherAccount {
        /// The user.
        user: String,
        /// His account.
        has: String,
        /// The account asked for.
        asked: String,
    },
    /// Disabled accounts and users get nothing new.
    #[error("{what} {name:?} is disabled; `nilometer {what} enable {name}` first")]
    Disabled {
        /// What is disabled.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The key would never be valid.
    #[error("the key would expire at {0}, which is past")]
    Expired(Timestamp),
    /// The period is empty or beyond what a sample may carry.
    #[error("from {start} until {end} is no period: it is empty, or not within 2000 to 2199")]
    Period {
        /// First instant.
        start: Timestamp,
        /// First instant past it.
        end: Timestamp,
    },
    /// The project is another's, or the same account's already.
    #[error(
        "project {project:?} belongs to account {account:?} from {start} until {}; end that with \
         `nilometer account release {project} --at …`, or give --transfer to take it over",
        open_end(*end)
    )]
    Overlap {
        /// The project.
        project: String,
        /// Who has it.
        account: String,
        /// Since when.
        start: Timestamp,
        /// Until when.
        end: Timestamp,
    },
    /// The project has no owner at that instant.
    #[error("project {project:?} belongs to no account at {at}")]
    NotOwned {
        /// The project.
        project: String,
        /// The instant.
        at: Timestamp,
    },
    /// What is there would be lost.
    #[error(
        "the database of accounts, {0}, is not empty; give --replace to delete what it holds, keys \
         included"
    )]
    NotEmpty(String),
    /// Not a backup, or a damaged one.
    #[error("this is no backup of accounts that can be restored: {0}")]
    Backup(String),
}

/// The end of a period, for people.
pub(crate) fn open_end(end: Timestamp) -> String {
    match end >= Timestamp::MAX {
        true => "further notice".to_owned(),
        false => end.to_string(),
    }
}

fn role_account(role: Role) -> String {
    match needs_account(role) {
        true => format!("the role {role} is one within an account: say which"),
        false => format!("the role {role} is one without an account: leave it out"),
    }
}

/// Whether a role is one within an account.
pub(crate) fn needs_account(role: Role) -> bool {
    matches!(role, Role::AccountAdministrator | Role::Viewer)
}

/// Checks that a role has an account exactly if it is one within an account.
pub(crate) fn check_role(role: Role, account: Option<&str>) -> Result<(), AccountsError> {
    match needs_account(role) == account.is_some() {
        true => Ok(()),
        false => Err(AccountsError::RoleAccount { role }),
    }
}
