//! The commands that manage accounts, users and keys, on the database of the configuration.

pub(crate) mod args;
mod show;
pub(crate) mod when;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use nilometer_accounts::{
    Backup, Binding, CreatedKey, Directory, ExposeSecret, KeyRequest, NewUser, Restored,
};
use nilometer_clock::{SharedClock, SystemClock};
use nilometer_contract::{Timestamp, Validity};
use serde_json::json;

use crate::access;
use crate::accounts::args::{AccountCommand, CreateKey, KeyCommand, UserCommand};
use crate::cli::Form;
use crate::config::Config;

pub(crate) async fn account(command: AccountCommand, config: &Config) -> anyhow::Result<()> {
    let (directory, now) = open(config).await?;
    let accounts = &directory.accounts;
    match command {
        AccountCommand::List { format } => {
            show::list(&mut std::io::stdout().lock(), &accounts.list().await?, format)
        }
        AccountCommand::Add { name, title } => {
            accounts.add(&name, &title).await?;
            say(&format!("account {name} added"))
        }
        AccountCommand::Disable { name } => {
            accounts.set_enabled(&name, false).await?;
            say(&format!("account {name} disabled, {}", within(config)))
        }
        AccountCommand::Enable { name } => {
            accounts.set_enabled(&name, true).await?;
            say(&format!("account {name} enabled"))
        }
        AccountCommand::Projects { name, format } => {
            let owned = accounts.ownerships(name.as_deref()).await?;
            show::list(&mut std::io::stdout().lock(), &owned, format)
        }
        AccountCommand::Assign { account, project, from, until, transfer } => {
            let end = until.map_or(Timestamp::MAX, |until| until.instant(now));
            let period = Validity { start: from.instant(now), end };
            let owned = accounts.assign(&account, &project, period, transfer).await?;
            show::list(&mut std::io::stdout().lock(), &[owned], Form::Table)
        }
        AccountCommand::Release { project, at } => {
            let owned = accounts.release(&project, at.instant(now)).await?;
            say(&format!("project {project} is not {}'s from {} on", owned.account, owned.end))
        }
        AccountCommand::Backup { file } => {
            let backup = directory.backup().await?;
            let mut text = backup.to_json()?;
            text.push(b'\n');
            match file.as_os_str() == "-" {
                true => std::io::stdout().write_all(&text)?,
                false => write_private(&file, &text)?,
            }
            say(&format!("backed up {}", counted(backup.holds())))
        }
        AccountCommand::Restore { file, replace } => {
            let backup = Backup::from_json(&read(&file)?)?;
            let restored = directory.restore(&backup, replace).await?;
            say(&format!("restored {} into {}", counted(restored), directory.name()))
        }
    }
}

pub(crate) async fn user(command: UserCommand, config: &Config) -> anyhow::Result<()> {
    let (directory, _) = open(config).await?;
    let users = &directory.users;
    match command {
        UserCommand::List { format } => {
            show::list(&mut std::io::stdout().lock(), &users.list().await?, format)
        }
        UserCommand::Add { name, role, issuer, subject } => {
            let binding = issuer.zip(subject);
            let binding = binding.map(|(issuer, subject)| Binding { issuer, subject });
            let args::RoleArgs { role, account } = role;
            users.add(NewUser { name: name.clone(), role, account, binding }).await?;
            say(&format!("user {name} added as {role}"))
        }
        UserCommand::Role { name, role } => {
            users.set_role(&name, role.role, role.account.as_deref()).await?;
            say(&format!("user {name} is {} now, {}", role.role, within(config)))
        }
        UserCommand::Disable { name } => {
            users.set_enabled(&name, false).await?;
            say(&format!("user {name} disabled, {}", within(config)))
        }
        UserCommand::Enable { name } => {
            users.set_enabled(&name, true).await?;
            say(&format!("user {name} enabled"))
        }
    }
}

pub(crate) async fn key(command: KeyCommand, config: &Config) -> anyhow::Result<()> {
    let (directory, now) = open(config).await?;
    match command {
        KeyCommand::List { format } => {
            show::list(&mut std::io::stdout().lock(), &directory.keys.list().await?, format)
        }
        KeyCommand::Create(create) => create_key(&directory, create, now).await,
        KeyCommand::Revoke { id } => {
            directory.keys.revoke(&id).await?;
            say(&format!("key {id} revoked, {}", within(config)))
        }
    }
}

async fn create_key(directory: &Directory, ask: CreateKey, now: Timestamp) -> anyhow::Result<()> {
    let role = match (ask.role, &ask.user) {
        (Some(role), _) => role,
        (None, user) => {
            let users = directory.users.list().await?;
            let found = users.iter().find(|known| Some(&known.name) == user.as_ref());
            found
                .context("there is no such user; `nilometer user list` shows those there are")?
                .role
        }
    };
    let request = KeyRequest {
        label: ask.label,
        role,
        account: ask.account,
        user: ask.user,
        expires_at: ask.expires.instant(now),
    };
    let created = directory.keys.create(request).await?;
    let written = hand_over(&created, ask.out.as_deref(), ask.format);
    if written.is_err() {
        // Nobody has it: it must not stay valid.
        directory.keys.revoke(&created.key.id).await?;
    }
    written
}

/// Gives the secret to its owner, this once: to a file, or to standard output.
fn hand_over(created: &CreatedKey, file: Option<&Path>, form: Form) -> anyhow::Result<()> {
    let CreatedKey { key, token } = created;
    let token = token.expose_secret();
    if let Some(path) = file {
        write_private(path, format!("{token}\n").as_bytes())?;
    }
    let mut out = std::io::stdout().lock();
    match (form, file) {
        (Form::Json, file) => {
            let mut answer = serde_json::to_value(key)?;
            if file.is_none() {
                answer["key"] = json!(token);
            }
            serde_json::to_writer_pretty(&mut out, &answer)?;
            writeln!(out)?;
        }
        (Form::Csv, _) => show::list(&mut out, std::slice::from_ref(key), Form::Csv)?,
        (Form::Table, None) => writeln!(out, "{token}")?,
        (Form::Table, Some(_)) => {}
    }
    out.flush()?;
    let ends = key.expires_at.map_or("never".to_owned(), |at| format!("at {at}"));
    say(&format!(
        "key {} created as {}; it expires {ends}, and is shown this once",
        key.id, key.role
    ))
}

async fn open(config: &Config) -> anyhow::Result<(Directory, Timestamp)> {
    let clock: SharedClock = Arc::new(SystemClock);
    let now = clock.now();
    Ok((access::directory(config, clock).await?, now))
}

/// What was done, for people: on stderr, so that stdout is the answer alone.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

fn within(config: &Config) -> String {
    format!("everywhere within {}", humantime::format_duration(config.accounts.cache_life))
}

fn counted(holds: Restored) -> String {
    let Restored { accounts, ownerships, users, keys } = holds;
    format!("{accounts} accounts, {ownerships} ownerships, {users} users, {keys} keys")
}

/// Writes a new file that its owner alone can read, to the disk.
fn write_private(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}; it must be a new file", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(failed)?;
    file.write_all(text).and_then(|()| file.sync_all()).with_context(failed)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    match path.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut text).map(drop),
        false => std::fs::File::open(path).and_then(|mut f| f.read_to_end(&mut text)).map(drop),
    }
    .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
