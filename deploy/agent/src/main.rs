//! The agent as a program of its own, for nodes: what `nilometer collect` does, with the same
//! options, configuration, signals, metrics and health, and without all that it does not need.
//!
//! The code is that of `nilometer`, in `deploy/process`; only who may ask differs: an agent has no
//! database of accounts, so that it knows `listen.token` and certificates alone.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nilometer_process::{
    CommonOptions, NODE_DEFAULTS, NodeCommand, Process, Settings, bind, block_on, lock,
    print_config, print_sources, start_logging, without_accounts,
};

/// Worker threads: an agent mostly waits, and each thread costs memory.
const THREADS: usize = 2;

/// Observes VMs, pods and this machine, and appends what it sees to the log.
#[derive(Debug, Parser)]
#[command(name = "nilometer-agent", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    options: CommonOptions,
    #[command(subcommand)]
    command: NodeCommand,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "nilometer-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let NodeCommand::Config { check } = cli.command {
        print_config(check, || cli.options.settings(), &[NODE_DEFAULTS])?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = cli.options.settings()?;
    start_logging(cli.options.verbose, None)?;
    block_on(Some(THREADS), async {
        match cli.command {
            NodeCommand::Collect => collect(settings).await,
            NodeCommand::Sources => print_sources(&settings).await.map(|()| ExitCode::SUCCESS),
            NodeCommand::Config { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn collect(settings: Settings) -> anyhow::Result<ExitCode> {
    let folder = &settings.data.dir;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let mut process = Process::default();
    let _lock = lock(folder, "nilometer-agent collect", process.clock.now())?;
    let listener = bind(settings.listen.http).await?;
    let address = listener.local_addr()?;
    let log = settings.open_log(process.clock.clone())?;
    process.collect(&settings, log.clone()).await?;
    let authenticators = without_accounts(&settings.listen, address);
    let audited = (log, settings.log.retention);
    process.serve_http(&settings.listen, listener, audited, authenticators)?;
    process.announce(&settings.listen.url(address));
    process.wait().await
}
