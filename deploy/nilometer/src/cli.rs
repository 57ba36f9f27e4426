//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nilometer_process::{CommonOptions, NodeCommand};

use crate::accounts::args::{AccountCommand, KeyCommand, UserCommand};

/// Meters every VM, pod and service, bills the usage to the cent, and scores the nodes.
#[derive(Debug, Parser)]
#[command(name = "nilometer", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: CommonOptions,
    /// Server to ask, such as https://billing.example:8600, before the configuration's.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Certificates, in PEM, that sign the server's, before the configuration's.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File of the key that clients send; - is standard input. Else it is NILOMETER_TOKEN, or
    /// listen.token of the configuration.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine in one process.
    Up(Up),
    #[command(flatten)]
    Node(NodeCommand),
    /// Run the ingester alone: from the log into the tables; serves queries of what it holds.
    Ingest,
    /// Run a query node alone, over tables that an ingester elsewhere keeps.
    Query,
    /// Print a project's bill; without a project, run the billing role alone.
    Bill(Bill),
    /// Run the scheduler alone: consume the log, answer where workloads should run.
    Schedule,
    /// Run the controller alone: print a dry-run plan at intervals.
    Control,
    /// Ask a running server a question in SQL.
    Sql(Sql),
    /// Walk from an invoice line to its charges, usage, samples and log offsets.
    Explain(Explain),
    /// Print the controller's dry-run plan of a running server.
    Plan,
    /// Read every file of the tables, and restore from the log what is damaged.
    Repair,
    /// Manage accounts and the projects that they own; back up and restore.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Manage users and their roles.
    #[command(subcommand)]
    User(UserCommand),
    /// Manage API keys.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Add a simulated fleet, with a past that is filled in first.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Nodes of the simulated fleet.
    #[arg(long, default_value_t = 50, requires = "demo")]
    pub(crate) nodes: u32,
    /// VMs and pods of the simulated fleet.
    #[arg(long, default_value_t = 1_000, requires = "demo")]
    pub(crate) workloads: u32,
    /// Projects of the simulated fleet.
    #[arg(long, default_value_t = 10, requires = "demo")]
    pub(crate) projects: u32,
    /// Past of the simulated fleet, at one-minute resolution.
    #[arg(long, default_value = "24h", requires = "demo", value_parser = humantime::parse_duration)]
    pub(crate) history: std::time::Duration,
    /// Seed of the simulated fleet.
    #[arg(long, default_value_t = 1, requires = "demo")]
    pub(crate) seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Bill {
    /// Project to bill.
    #[arg(long, requires = "start", requires = "end")]
    pub(crate) project: Option<String>,
    /// First day or instant, such as 2026-11-01.
    #[arg(long)]
    pub(crate) start: Option<String>,
    /// First day or instant past the period.
    #[arg(long)]
    pub(crate) end: Option<String>,
    /// Time zone of days, such as Europe/Berlin.
    #[arg(long, default_value = "UTC")]
    pub(crate) tz: String,
    /// A line for each price, or for each resource and price.
    #[arg(long, value_enum, default_value_t = Detail::Prices)]
    pub(crate) detail: Detail,
    /// Issue the invoice: from then on it never changes.
    #[arg(long, requires = "project")]
    pub(crate) issue: bool,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Form::Table)]
    pub(crate) format: Form,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Sql {
    /// The query.
    pub(crate) query: String,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Form::Table)]
    pub(crate) format: Form,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Explain {
    /// Id of the invoice line, from the bill.
    pub(crate) line: String,
    /// Project, for a line of a bill that is not issued.
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// Start of that bill.
    #[arg(long)]
    pub(crate) start: Option<String>,
    /// End of that bill.
    #[arg(long)]
    pub(crate) end: Option<String>,
    /// Time zone of its days.
    #[arg(long, default_value = "UTC")]
    pub(crate) tz: String,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Form::Table)]
    pub(crate) format: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Detail {
    Prices,
    Resources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Table,
    Csv,
    Json,
}

impl Detail {
    /// As the server has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Detail::Prices => "prices",
            Detail::Resources => "resources",
        }
    }
}

impl Form {
    /// The media type to ask for.
    pub(crate) fn accept(self) -> &'static str {
        match self {
            Form::Table => "text/plain",
            Form::Csv => "text/csv",
            Form::Json => "application/json",
        }
    }
}
