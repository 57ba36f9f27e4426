//! The binary: configuration, the roles it asks for, and the commands that ask a server.

mod access;
mod accounts;
mod audit;
mod cli;
mod client;
mod config;
mod crew;
mod demo;
mod folder;
mod http;
mod listen;
mod parts;
mod repair;
mod roles;
mod screen;
mod serve;
mod simulated;
mod sources;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::client::Server;
use crate::config::Config;
use crate::roles::Roles;

/// How long is waited for work that was told to stop and has missed its deadline.
const SHUTDOWN: Duration = Duration::from_secs(1);

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
    if let Command::Config { check } = cli.command {
        if check {
            Config::load(cli.config.as_deref())?;
        }
        let text = if check { "the configuration is good\n" } else { config::DEFAULTS };
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    if let Some(data) = cli.data {
        config.data.dir = data;
    }
    if let Some(http) = cli.http {
        config.listen.http = http;
    }
    if let Some(ca) = cli.ca {
        config.client.ca = ca;
    }
    if let Some(url) = cli.url {
        config.client.url = url;
    }
    let screen = matches!(cli.command, Command::Up(_)) && std::io::stdout().is_terminal();
    start_logging(&config, cli.verbose, screen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::of(&config, access::client_token(cli.token_file.as_deref(), &config)?);
    let done = runtime.block_on(dispatch(cli.command, config, server, screen));
    // What still runs is past its deadline; it is not waited for.
    runtime.shutdown_timeout(SHUTDOWN);
    done
}

async fn dispatch(
    command: Command,
    config: Config,
    server: Server,
    screen: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(up) => return roles::run(config, Roles::all(), Some(up), screen).await,
        Command::Collect => return roles::run(config, Roles::collect(), None, false).await,
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
        Command::Sources => sources::print(&config).await?,
        Command::Account(command) => accounts::account(command, &config).await?,
        Command::User(command) => accounts::user(command, &config).await?,
        Command::Key(command) => accounts::key(command, &config).await?,
        Command::Repair => return repair::run(&config).await,
        Command::Config { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Log lines go to stderr; while the screen is shown, to `nilometer.log` in the data folder.
fn start_logging(config: &Config, verbose: u8, screen: bool) -> anyhow::Result<()> {
    let level = match verbose {
        0 => "warn,nilometer=info,nilometer_ingest=info,nilometer_ledger=info",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("NILOMETER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if screen {
        std::fs::create_dir_all(&config.data.dir)?;
        let path = config.data.dir.join("nilometer.log");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        lines.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).init();
    }
    Ok(())
}
