//! The crash test: real processes, killed with SIGKILL at random instants, frozen, with clocks that
//! step, with a second ingester, with flipped bytes and a lost log, while a fleet of known usage
//! streams through; afterwards every sample is there once and the bill equals the known one to the
//! last digit. What was destroyed and was nowhere else is in `gaps`, nothing else is missing, and
//! the bill is that of a pipeline that was given the rest in peace.
//!
//! ```text
//! nilometer collect ──▶ embedded log or Kafka ──▶ nilometer ingest ──▶ tables
//!      ✗ kill                 ✗ kill                  ✗ kill            │ ✗ flip, repair
//!      ✗ freeze, clock        ✗ flip, lost            ✗ freeze, clock,  │
//!      ✗ flip in the spool                              second owner    │
//! fleet, oracle ───────────────────────── compare ──────────────── nilometer bill
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod damage;
mod faults;
mod gone;
mod held;
#[path = "../shared/oracle.rs"]
mod oracle;
#[path = "../shared/process.rs"]
mod process;
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use nilometer_contract::LifecycleEvent;
use nilometer_testbed::clock::JumpingClock;
use nilometer_testbed::kafka::Kafka;

use crate::faults::{Clocks, Fault};
use crate::gone::{Gone, events, gaps, said_again};
use crate::oracle::Oracle;
use crate::process::{Server, Settings};
use crate::twin::Left;

/// Longest time until everything is stored, and after which an ingester that ended is started again.
const SETTLE: Duration = Duration::from_secs(300);
const SLICE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogKind {
    Embedded,
    Kafka,
}

/// Kills agent, log and ingester at random, does worse between, and compares the bill.
#[derive(Debug, Parser)]
struct Arguments {
    /// Processes to kill; few by default, for a run among the other tests.
    #[arg(long, default_value_t = 16)]
    kills: u32,
    /// Log to run with; both when not given.
    #[arg(long, value_enum)]
    log: Option<LogKind>,
    /// Faults between the kills: all, none, or some of freeze, clock, owner, zombie, table, spool,
    /// log, lost.
    #[arg(long, default_value = "all")]
    faults: String,
    /// Seed of the fleet, of the kills and of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Says what is done, and when.
    #[arg(long)]
    trace: bool,
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
    folder: PathBuf,
    started: Instant,
    trace: bool,
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
    gone: Gone,
    /// Files in which a bit was flipped, once each, and the byte of it.
    flipped: BTreeMap<PathBuf, usize>,
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
        let each = if faults.is_empty() { 1 } else { 3 };
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
            folder: folder.to_owned(),
            started: Instant::now(),
            trace: arguments.trace,
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
            gone: Gone::default(),
            flipped: BTreeMap::new(),
        }))
    }

    /// Waits until all that is not gone is stored. An ingester that was overtaken notices at its next
    /// commit and ends; a service manager starts it again.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < SETTLE {
            self.ingester.restart_ended(&self.ingesting)?;
            let gone = self.gone.samples.len() as u64;
            let settling = self.oracle.settle_without(gone, &self.ingester);
            if tokio::time::timeout(SLICE, settling).await.is_ok() {
                return Ok(());
            }
        }
        bail!("not everything was stored in {SETTLE:?}")
    }

    fn say(&self, what: &str) {
        if self.trace {
            eprintln!("{:6.1} s: {what}", self.started.elapsed().as_secs_f64());
        }
    }

    async fn all(&mut self) -> anyhow::Result<String> {
        self.until_begun().await?;
        for kill in 1..=self.kills {
            let pause = Duration::from_millis(200 + self.dice.roll(1_300));
            tokio::time::sleep(pause).await;
            self.kill_one().with_context(|| format!("kill {kill}"))?;
            if !self.faults.is_empty() && self.dice.roll(2) == 0 {
                let late = kill * 2 > self.kills;
                self.strike(late).await.with_context(|| format!("fault after kill {kill}"))?;
            }
        }
        self.settle().await?;
        let verdict = self.oracle.compare(&self.ingester).await?;
        let there = events(&self.ingester).await?;
        let said = || self.oracle.said().iter().flat_map(|(_, events)| events);
        let (known, unheard): (BTreeSet<String>, BTreeSet<String>) =
            said().map(LifecycleEvent::id).partition(|id| there.contains(id));
        let of_unheard = said().filter(|event| unheard.contains(&event.id()));
        let of_unheard = of_unheard.map(|event| event.resource.id.as_str()).collect();
        let said_again = said_again(&self.ingester, &of_unheard, &known).await?;
        let lost_samples: Vec<_> = verdict.missing.difference(&self.gone.samples).collect();
        let lost_events: Vec<_> = unheard.difference(&self.gone.events).collect();
        let lost = lost_samples.len() + lost_events.len();
        let gaps = gaps(&self.ingester).await?;
        self.agent.stop()?;
        self.ingester.stop()?;
        let biller = Server::start(&self.settings, "bill")?;
        let bill = match self.gone.is_empty() {
            true => self.oracle.compare_bills(&biller).await,
            false => {
                let (missing, unheard, gaps) = (&verdict.missing, &unheard, &gaps[..]);
                let left = Left { missing, unheard, said_again, gaps };
                let twin = twin::biller(&self.folder, &self.oracle, &left).await?;
                self.oracle.compare_bills_of(&twin, &biller).await
            }
        };
        let equal = match &bill {
            Ok(()) => "equal",
            Err(_) => "different",
        };
        let line = format!(
            "kills={} faults={} samples={} lost={lost} doubled={} bill={equal}",
            self.kills, self.struck, verdict.samples, verdict.doubled
        );
        self.say(&format!("{} samples are gone, as they must be", verdict.missing.len()));
        if lost > 0 || verdict.doubled > 0 {
            let (samples, events) = (lost_samples.iter().take(10), lost_events.iter().take(10));
            let first: (Vec<_>, Vec<_>) = (samples.collect(), events.collect());
            bail!("{line}; lost are {first:?}");
        }
        self.gone.check_gaps(&gaps, &verdict.missing).with_context(|| line.clone())?;
        bill.with_context(|| line.clone())?;
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
