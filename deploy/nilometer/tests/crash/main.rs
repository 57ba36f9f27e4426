//! The crash test: real processes, killed with SIGKILL at random instants, frozen, with clocks that
//! step and with a second ingester, while a fleet of known usage streams through; afterwards every
//! sample is there once and the bill equals the known one to the last digit.
//!
//! ```text
//! nilometer collect ──▶ embedded log or Kafka ──▶ nilometer ingest ──▶ tables
//!      ✗ kill                 ✗ kill                  ✗ kill            │
//!      ✗ freeze, clock                                ✗ freeze, clock,  │
//!                                                       second owner    │
//! fleet, oracle ───────────────────────── compare ──────────────── nilometer bill
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod faults;
#[path = "../shared/oracle.rs"]
mod oracle;
#[path = "../shared/process.rs"]
mod process;

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use nilometer_testbed::clock::JumpingClock;
use nilometer_testbed::kafka::Kafka;

use crate::faults::{Clocks, Fault};
use crate::oracle::Oracle;
use crate::process::{Server, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogKind {
    Embedded,
    Kafka,
}

/// Kills agent, log and ingester at random, does worse between, and compares the bill.
#[derive(Debug, Parser)]
struct Arguments {
    /// Processes to kill.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Log to run with; both when not given.
    #[arg(long, value_enum)]
    log: Option<LogKind>,
    /// Faults between the kills: all, none, or some of freeze, clock, owner, zombie.
    #[arg(long, default_value = "all")]
    faults: String,
    /// Seed of the fleet, of the kills and of the faults.
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
    faults: Vec<Fault>,
    struck: u32,
    clocks: Option<Clocks>,
    /// Of the agent.
    settings: Settings,
    /// Of ingesters: the same, with a clock of their own.
    ingesting: Settings,
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
        let mut faults = Fault::named(&arguments.faults)?;
        let clocks = match faults.contains(&Fault::Clock) {
            true => Clocks::new(folder)?,
            false => None,
        };
        if clocks.is_none() {
            faults.retain(|fault| *fault != Fault::Clock);
        }
        // Kills come every second or so, and faults take another; half a minute of quiet follows.
        let each = if faults.is_empty() { 1 } else { 2 };
        let oracle = Oracle::new(arguments.seed, i64::from(arguments.kills) * each + 20)?;
        let bootstrap = kafka.as_ref().map(Kafka::bootstrap).unwrap_or_default();
        // So short that a second ingester takes over from one that stands still.
        let text = oracle.configuration(&bootstrap)? + "[store.lease]\nterm = \"1s\"\n";
        let environment = |of: fn(&Clocks) -> &JumpingClock| {
            clocks.as_ref().map(|clocks| of(clocks).environment()).unwrap_or_default()
        };
        let settings = Settings::write(folder, &text)?.with_environment(environment(|c| &c.agent));
        let ingesting =
            Settings::write(folder, &text)?.with_environment(environment(|c| &c.ingester));
        let ingester = Server::start(&ingesting, "ingest")?;
        let agent = Server::start(&settings, "collect")?;
        let dice = Dice(arguments.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let kills = arguments.kills;
        Ok(Some(Run {
            dice,
            kills,
            log,
            kafka,
            faults,
            struck: 0,
            clocks,
            settings,
            ingesting,
            agent,
            ingester,
            oracle,
        }))
    }

    async fn all(&mut self) -> anyhow::Result<String> {
        for kill in 1..=self.kills {
            let pause = Duration::from_millis(200 + self.dice.roll(1_300));
            tokio::time::sleep(pause).await;
            self.kill_one().with_context(|| format!("kill {kill}"))?;
            if !self.faults.is_empty() && self.dice.roll(2) == 0 {
                self.strike().await.with_context(|| format!("fault after kill {kill}"))?;
            }
        }
        // One that was overtaken notices at its next commit.
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.ingester.restart_ended(&self.ingesting)?;
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
            "kills={} faults={} samples={} lost={} doubled={} bill={equal}",
            self.kills, self.struck, verdict.samples, verdict.lost, verdict.doubled
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
            2 | 3 => self.ingester.kill_and_restart(&self.ingesting),
            _ => match &mut self.kafka {
                Some(kafka) => kafka.restart(),
                None => Ok(()),
            },
        }
    }
}
