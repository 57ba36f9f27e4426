//! The command line of users, accounts and keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nilometer_contract::Role;

use crate::accounts::when::{Expiry, When};
use crate::cli::Form;

/// Accounts, and the projects and namespaces that they own.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// List the accounts.
    List {
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
    },
    /// Add an account.
    Add {
        /// Its name, for ever.
        name: String,
        /// What people call it.
        #[arg(long, default_value = "")]
        title: String,
    },
    /// Let nobody of an account in any more; its projects stay its own.
    Disable {
        /// The account.
        name: String,
    },
    /// Let those of an account in again.
    Enable {
        /// The account.
        name: String,
    },
    /// List which projects belong to whom, and when.
    Projects {
        /// One account only.
        name: Option<String>,
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
    },
    /// Give a project of OpenStack or a namespace of Kubernetes to an account, for a time.
    Assign {
        /// The account.
        account: String,
        /// The project, as in `SELECT DISTINCT project FROM resources`.
        project: String,
        /// First instant, such as 2026-11-01 (UTC) or 2026-11-01T06:00:00Z.
        #[arg(long, default_value = "now")]
        from: When,
        /// First instant past it; until further notice if left out.
        #[arg(long)]
        until: Option<When>,
        /// Take it over from whom it belongs to in that time.
        #[arg(long)]
        transfer: bool,
    },
    /// End the ownership of a project.
    Release {
        /// The project.
        project: String,
        /// First instant at which it is nobody's.
        #[arg(long, default_value = "now")]
        at: When,
    },
    /// Write all accounts, users and keys (as hashes) to a file that either database can read.
    Backup {
        /// A new file; - is standard output.
        file: PathBuf,
    },
    /// Store what a backup holds, in an empty database.
    Restore {
        /// The backup; - is standard input.
        file: PathBuf,
        /// Delete first what the database holds, keys included.
        #[arg(long)]
        replace: bool,
    },
}

/// Users: people with a role.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List the users.
    List {
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
    },
    /// Add a user.
    Add {
        /// The name, for ever.
        name: String,
        #[command(flatten)]
        role: RoleArgs,
        /// Who the user is to an OIDC issuer: the issuer's name in the configuration.
        #[arg(long, requires = "subject")]
        issuer: Option<String>,
        /// And there, the claim that tells users apart (`sub`, unless configured otherwise).
        #[arg(long, requires = "issuer")]
        subject: Option<String>,
    },
    /// Give a user another role; keys of his do no more than it from then on.
    Role {
        /// The user.
        name: String,
        #[command(flatten)]
        role: RoleArgs,
    },
    /// Let neither a user nor any key of his in any more.
    Disable {
        /// The user.
        name: String,
    },
    /// Let a user in again.
    Enable {
        /// The user.
        name: String,
    },
}

/// A user's role.
#[derive(Clone, Debug, Args)]
pub(crate) struct RoleArgs {
    /// operator, account_administrator or viewer.
    #[arg(long)]
    pub(crate) role: Role,
    /// The account, unless it is an operator.
    #[arg(long)]
    pub(crate) account: Option<String>,
}

/// API keys: what clients send as `Authorization: Bearer …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List the keys, with when each was last used.
    List {
        /// Form of the answer.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        format: Form,
    },
    /// Create a key and print it, this once.
    Create(CreateKey),
    /// Make a key invalid, for ever.
    Revoke {
        /// Its id, from the list.
        id: String,
    },
}

/// A key to create.
#[derive(Clone, Debug, Args)]
pub(crate) struct CreateKey {
    /// operator, account_administrator, viewer, agent or scheduler; of a user's key, the user's role
    /// if left out.
    #[arg(long, required_unless_present = "user")]
    pub(crate) role: Option<Role>,
    /// The account, of an account_administrator or a viewer.
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// Whose key it is; it does no more than the user may, and ends with the user.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// What it is for.
    #[arg(long, default_value = "created on the command line")]
    pub(crate) label: String,
    /// When it ends: after a time such as 90days, on a day, at an instant, or never.
    #[arg(long)]
    pub(crate) expires: Expiry,
    /// Write the key to a new file that its owner alone can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Form of the answer; the table is the key alone.
    #[arg(long, value_enum, default_value_t = Form::Table)]
    pub(crate) format: Form,
}
