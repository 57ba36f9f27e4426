//! Options and commands that the binaries have in common.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::settings::Settings;

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct CommonOptions {
    /// Configuration file; the command `config` prints one with every key documented.
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the data, before the configuration's.
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of HTTP, before the configuration's; for clients, the server to ask.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// More log lines; twice for everything.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Commands of a node.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeCommand {
    /// Run the agent alone: observe this machine and append to the log.
    Collect,
    /// Say what this machine has to observe, and what not.
    Sources,
    /// Print the configuration with every key documented; with --check, check a file.
    Config {
        /// Check the file given by --config instead.
        #[arg(long)]
        check: bool,
    },
}

impl CommonOptions {
    /// Settings with what the command line has instead.
    ///
    /// # Errors
    ///
    /// If the configuration is refused.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::load(self.config.as_deref())?;
        if let Some(data) = &self.data {
            settings.data.dir.clone_from(data);
        }
        if let Some(http) = self.http {
            settings.listen.http = http;
        }
        Ok(settings)
    }
}

/// Prints what every key means, or that a file is good once `load` took it.
///
/// # Errors
///
/// If the file is refused, or standard output is closed.
pub fn print_config<T>(
    check: bool,
    load: impl FnOnce() -> anyhow::Result<T>,
    defaults: &[&str],
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if check {
        load()?;
        return Ok(out.write_all(b"the configuration is good\n")?);
    }
    out.write_all(CONFIG_HEAD.as_bytes())?;
    for part in defaults {
        write!(out, "\n{part}")?;
    }
    Ok(())
}

/// What stands above all keys.
const CONFIG_HEAD: &str = "\
# Every setting with its default. The command `config` prints this page.
# Durations are texts such as \"10s\", \"5m\", \"7days\"; sizes such as \"512MiB\", \"1GB\".
";
