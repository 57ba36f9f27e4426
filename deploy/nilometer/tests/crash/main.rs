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

mod oracle;
#[path = "../process.rs"]
mod process;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use nilometer_contract::{MICROS_PER_HOUR, MICROS_PER_SECOND, Timestamp};
use nilometer_testbed::kafka::Kafka;

use crate::oracle::Oracle;
use crate::process::{Server, Settings};

/// Simulated seconds per second: an hour of billing in half a minute.
const FACTOR: u32 = 120;
const STEP_MICROS: i64 = 10 * MICROS_PER_SECOND;
/// 2026-11-02T00:00:00Z
const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);
const SETTLE: Duration = Duration::from_secs(300);

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

fn configuration(bootstrap: &str, oracle: &Oracle) -> anyhow::Result<String> {
    let fleet = oracle.fleet();
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    let epoch = Timestamp(i64::try_from(micros)?);
    Ok(format!(
        r#"
[kafka]
bootstrap = "{bootstrap}"
[log]
partitions = 4
[collect]
interval = "200ms"
node = "crash-test"
sources = ["simulated"]
[simulated]
seed = {seed}
nodes = {nodes}
workloads = {workloads}
projects = {projects}
step = "{step}us"
start = "{start}"
epoch = "{epoch}"
factor = {FACTOR}
end = "{end}"
[ingest]
commit_interval = "700ms"
"#,
        seed = fleet.seed,
        nodes = fleet.nodes,
        workloads = fleet.vms_and_pods,
        projects = fleet.projects,
        step = fleet.step_micros,
        start = fleet.start,
        end = oracle.end(),
    ))
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
        let seconds = i64::from(arguments.kills) + 20;
        let lasts = seconds * i64::from(FACTOR) * MICROS_PER_SECOND;
        let end = START
            .plus_micros(lasts / STEP_MICROS * STEP_MICROS)
            .max(START.plus_micros(MICROS_PER_HOUR));
        let oracle = Oracle::new(arguments.seed, START, end, STEP_MICROS)?;
        let bootstrap = kafka.as_ref().map(Kafka::bootstrap).unwrap_or_default();
        let settings = Settings::write(folder, &configuration(&bootstrap, &oracle)?)?;
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
        self.settle().await?;
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

    /// Waits until the last step is in the tables, and nothing more comes.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let stored = self.oracle.stored(&self.ingester).await;
            if let Ok(stored) = &stored
                && *stored >= self.oracle.samples()
            {
                return Ok(());
            }
            if started.elapsed() > SETTLE {
                let wanted = self.oracle.samples();
                eprintln!("after {SETTLE:?}: stored {stored:?} of {wanted}");
                return Ok(());
            }
        }
    }
}
