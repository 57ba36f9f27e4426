//! The binary: configuration, the roles it asks for, and the commands that ask a server.

mod access;
mod accounts;
mod cli;
mod client;
mod config;
mod demo;
mod listen;
mod parts;
mod repair;
mod roles;
mod screen;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use nilometer_process::{
    NODE_DEFAULTS, NodeCommand, block_on, print_config, print_sources, start_logging,
};

use crate::cli::{Cli, Command};
use crate::client::Server;
use crate::config::Config;
use crate::roles::Roles;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "nilometer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let options = &cli.options;
    let load = || Config::load(options.config.as_deref());
    if let Command::Node(NodeCommand::Config { check }) = cli.command {
        print_config(check, load, &[NODE_DEFAULTS, config::OWN_DEFAULTS])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = load()?;
    if let Some(data) = &options.data {
        config.data.dir.clone_from(data);
    }
    if let Some(http) = options.http {
        config.listen.http = http;
    }
    if let Some(ca) = cli.ca {
        config.client.ca = ca;
    }
    if let Some(url) = cli.url {
        config.client.url = url;
    }
    let screen = matches!(cli.command, Command::Up(_)) && std::io::stdout().is_terminal();
    // A terminal that shows the screen has no room for log lines.
    let file = screen.then(|| config.data.dir.join("nilometer.log"));
    start_logging(options.verbose, file.as_deref())?;
    let server = Server::of(&config, access::client_token(cli.token_file.as_deref(), &config)?);
    block_on(None, dispatch(cli.command, config, server, screen))
}

async fn dispatch(
    command: Command,
    config: Config,
    server: Server,
    screen: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(up) => return roles::run(config, Roles::all(), Some(up), screen).await,
        Command::Node(NodeCommand::Collect) => {
            return roles::run(config, Roles::collect(), None, false).await;
        }
        Command::Ingest => return roles::run(config, Roles::ingest(), None, false).await,
        Command::Query => return roles::run(config, Roles::query(), None, false).await,
        Command::Bill(bill) if bill.project.is_none() => {
            return roles::run(config, Roles::bill(), None, false).await;
        }
        Command::Schedule => return roles::run(config, Roles::schedule(), None, false).await,
        Command::Control => return roles::run(config, Roles::control(), None, false).await,
        Command::Bill(bill) => server.bill(&bill).await?,
        Command::Sql(sql) => server.sql(&sql).await?,
        Command::Explain(explain) => server.explain(&explain).await?,
        Command::Plan => server.plan().await?,
        Command::Node(NodeCommand::Sources) => print_sources(&config.settings()).await?,
        Command::Account(command) => accounts::account(command, &config).await?,
        Command::User(command) => accounts::user(command, &config).await?,
        Command::Key(command) => accounts::key(command, &config).await?,
        Command::Repair => return repair::run(&config).await,
        Command::Node(NodeCommand::Config { .. }) => {}
    }
    Ok(ExitCode::SUCCESS)
}
