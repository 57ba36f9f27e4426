//! Who a bearer token stands for: users, accounts and the projects that they own, API keys, OIDC.
//!
//! ```text
//! bearer ─▶ Accounts ─▶ cache ─▶ Authenticator: API key │ operator token │ OIDC issuer
//!                                     │ Identity: name, role, account
//!                                     ▼
//!           Principal ◀── scope ◀── Directory: SQLite or PostgreSQL
//! ```
//!
//! The [`Directory`] is what is stored and how it is changed; [`Accounts`] answers one question,
//! [`Accounts::authenticate`]. A revocation, a disabled user and a changed ownership take effect
//! within [`Config::cache_life`] in every process, since none asks the database more seldom.
//!
//! Secrets are [`SecretString`]s: they show in no `Debug` output, and in the database only as a hash.

mod accounts;
mod authenticate;
mod backup;
mod cache;
mod config;
mod database;
mod directory;
mod error;
mod keys;
mod name;
mod oidc;
mod secret;
mod token;
mod users;

pub use accounts::{Account, AccountTable, Ownership};
pub use authenticate::{Accounts, Authenticator, Denied, Identity, Rejection};
pub use backup::{Backup, Restored};
pub use config::{Config, InvalidConfig, OidcConfig, Rule};
pub use database::Location;
pub use directory::Directory;
pub use error::AccountsError;
pub use keys::{ApiKey, CreatedKey, KeyRequest, KeyTable};
pub use secrecy::{ExposeSecret, SecretString};
pub use secret::deserialize as deserialize_secret;
pub use users::{Binding, NewUser, User, UserTable};
