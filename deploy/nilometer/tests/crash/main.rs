//! The crash test: real processes, killed with SIGKILL at random instants, while a fleet of known
//! usage streams through; afterwards every sample is there once and the bill equals the known one
//! to the last digit.
//!
//! ```text
//! nilometer collect ──▶ embedded log or Kafka ──▶ nilometer ingest ──▶ tables
//!      ✗ kill                 ✗ kill                  ✗ kill            │
//! fleet, oracle ───────────────────────── compare ──────────────── nilometer bill
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../shared/oracle.rs"]
mod oracle;
#[path = "../shared/process.rs"]
mod process;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use nilometer_testbed::kafka::Kafka;

use crate::oracle::Oracle;
use crate::process::{Server, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogKind {
    Embedded,
    Kafka,
}

/// Kills agent, log and ingester at random and compares the bill.
#[derive(Debug, Parser)]
struct Arguments {
    /// Processes to kill.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Log to run with; both when not given.
    #[arg(long, value_enum)]
    log: Option<LogKind>,
    /// Seed of the fleet and of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What test runners pass; ignored.
    #[arg(hide = true, num_args = 0.., allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let logs = match arguments.log {
        Some(log) => vec![log],
        None => vec![LogKind::Embedded, LogKind::Kafka],
    };
    let runtime = tokio::runtime::Runtime::new()?;
    for log in logs {
        let folder = tempfile::tempdir()?;
        let mut run = match Run::start(folder.path(), log, &arguments)? {
            Some(run) => run,
            None => continue,
        };
        let outcome = runtime.block_on(run.all());
        if outcome.is_err() {
            let kept = folder.keep();
            eprintln!("the data is kept in {}", kept.display());
        }
        println!("{}", outcome?);
    }
    Ok(())
}

/// A small generator, so that a seed names one sequence of kills for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Run {
    dice: Dice,
    kills: u32,
    log: LogKind,
    kafka: Option<Kafka>,
    settings: Settings,
    agent: Server,
    ingester: Server,
    oracle: Oracle,
}

impl Run {
    /// Starts everything; none when the machine has no Kafka, which the test bed says.
    fn start(
        folder: &std::path::Path,
        log: LogKind,
        arguments: &Arguments,
    ) -> anyhow::Result<Option<Self>> {
        let kafka = match log {
            LogKind::Embedded => None,
            LogKind::Kafka => match Kafka::start(&folder.join("kafka"))? {
                Some(kafka) => Some(kafka),
                None => return Ok(None),
            },
        };
        // Kills come every second or so; half a minute of quiet follows them.
        let oracle = Oracle::new(arguments.seed, i64::from(arguments.kills) + 20)?;
        let bootstrap = kafka.as_ref().map(Kafka::bootstrap).unwrap_or_default();
        let settings = Settings::write(folder, &oracle.configuration(&bootstrap)?)?;
        let ingester = Server::start(&settings, "ingest")?;
        let agent = Server::start(&settings, "collect")?;
        let dice = Dice(arguments.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let kills = arguments.kills;
        Ok(Some(Run { dice, kills, log, kafka, settings, agent, ingester, oracle }))
    }

    async fn all(&mut self) -> anyhow::Result<String> {
        for kill in 1..=self.kills {
            let pause = Duration::from_millis(200 + self.dice.roll(1_300));
            tokio::time::sleep(pause).await;
            self.kill_one().with_context(|| format!("kill {kill}"))?;
        }
        self.oracle.settle(&self.ingester).await;
        let verdict = self.oracle.compare(&self.ingester).await?;
        self.agent.stop()?;
        self.ingester.stop()?;
        let biller = Server::start(&self.settings, "bill")?;
        let bill = self.oracle.compare_bills(&biller).await;
        let equal = match &bill {
            Ok(()) => "equal",
            Err(_) => "different",
        };
        let line = format!(
            "kills={} samples={} lost={} doubled={} bill={equal}",
            self.kills, verdict.samples, verdict.lost, verdict.doubled
        );
        bill.with_context(|| line.clone())?;
        if verdict.lost + verdict.doubled > 0 {
            bail!("{line}");
        }
        Ok(line)
    }

    fn kill_one(&mut self) -> anyhow::Result<()> {
        let victims = if self.log == LogKind::Kafka { 5 } else { 4 };
        match self.dice.roll(victims) {
            0 | 1 => self.agent.kill_and_restart(&self.settings),
            2 | 3 => self.ingester.kill_and_restart(&self.settings),
            _ => match &mut self.kafka {
                Some(kafka) => kafka.restart(),
                None => Ok(()),
            },
        }
    }
}
