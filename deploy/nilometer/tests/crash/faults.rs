//! What is done between the kills.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use nilometer_testbed::clock::JumpingClock;

use crate::Run;
use crate::process::Server;

/// Longest step of the agent's clock; in it the fleet goes on, so the test lasts that much longer.
const AGENT_STEP_SECONDS: u64 = 5;
/// Longest step of the ingester's clock: 30 days.
const INGESTER_STEP_SECONDS: u64 = 30 * 86_400;

/// A fault that is over when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Agent or ingester stands still for a while.
    Freeze,
    /// The clock of agent or ingester is stepped, and back.
    Clock,
    /// A second ingester of the same tables starts, and is killed.
    Owner,
    /// The same while the first stands still, which then goes on.
    Zombie,
    /// A bit flips in a file of a table, and `repair` restores what it held.
    Table,
    /// A bit flips in the agent's spool.
    Spool,
    /// A bit flips in a segment of the embedded log.
    Log,
    /// The log is replaced by an empty one.
    Lost,
}

/// Clocks of the processes.
pub(crate) struct Clocks {
    pub(crate) agent: JumpingClock,
    pub(crate) ingester: JumpingClock,
}

impl Clocks {
    /// None where the machine has no libfaketime, which the test bed says.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Option<Self>> {
        let folders = ["clock-of-agent", "clock-of-ingester"].map(|name| folder.join(name));
        for folder in &folders {
            std::fs::create_dir_all(folder)?;
        }
        let [agent, ingester] = [JumpingClock::new(&folders[0])?, JumpingClock::new(&folders[1])?];
        Ok(agent.zip(ingester).map(|(agent, ingester)| Clocks { agent, ingester }))
    }
}

impl Fault {
    const ALL: [Fault; 8] = [
        Fault::Freeze,
        Fault::Clock,
        Fault::Owner,
        Fault::Zombie,
        Fault::Table,
        Fault::Spool,
        Fault::Log,
        Fault::Lost,
    ];

    /// `all`, `none`, or names with commas between.
    pub(crate) fn named(text: &str) -> anyhow::Result<Vec<Fault>> {
        let one = |name: &str| {
            let named = |fault: &&Fault| format!("{fault:?}").eq_ignore_ascii_case(name);
            let known = Fault::ALL.iter().find(named).copied();
            known.ok_or_else(|| anyhow::anyhow!("no fault {name}; there are {:?}", Fault::ALL))
        };
        match text {
            "all" => Ok(Fault::ALL.to_vec()),
            "none" => Ok(Vec::new()),
            names => names.split(',').map(one).collect(),
        }
    }
}

impl Run {
    /// The faults that may strike now: `repair` can restore from a whole log alone, so tables are
    /// damaged before the log is.
    fn may_strike(&self, late: bool) -> Vec<Fault> {
        let with_tables = self.faults.contains(&Fault::Table);
        let may = |fault: &&Fault| match fault {
            Fault::Table => !self.gone.log_is_damaged,
            Fault::Log => self.kafka.is_none() && (late || !with_tables),
            Fault::Lost => late || !with_tables,
            _ => true,
        };
        self.faults.iter().filter(may).copied().collect()
    }

    /// Does one of the faults, and ends it; `late` in the second half.
    pub(crate) async fn strike(&mut self, late: bool) -> anyhow::Result<()> {
        let faults = self.may_strike(late);
        if faults.is_empty() {
            return Ok(());
        }
        let fault = faults[self.dice.roll(faults.len() as u64) as usize];
        self.say(&format!("{fault:?}"));
        self.struck += 1;
        let lasts = Duration::from_millis(300 + self.dice.roll(1_700));
        let is_agent = self.dice.roll(2) == 0;
        match fault {
            Fault::Freeze => {
                let frozen = if is_agent { &self.agent } else { &self.ingester };
                frozen.freeze(true)?;
                tokio::time::sleep(lasts).await;
                frozen.freeze(false)?;
            }
            Fault::Clock => self.step_clock(is_agent, lasts).await?,
            Fault::Owner => self.second_owner(lasts).await?,
            Fault::Zombie => {
                self.ingester.freeze(true)?;
                self.second_owner(lasts).await?;
                self.ingester.freeze(false)?;
            }
            Fault::Table => self.flip_table().await?,
            Fault::Spool => self.flip_spool().await?,
            Fault::Log => self.flip_log().await?,
            Fault::Lost => self.lose_log().await?,
        }
        // One that found another in its place ends; a service manager starts it again.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.ingester.restart_ended(&self.ingesting)?;
        if self.agent.restart_ended(&self.settings)? {
            bail!("the agent ended of itself after {fault:?}");
        }
        Ok(())
    }

    async fn step_clock(&mut self, is_agent: bool, lasts: Duration) -> anyhow::Result<()> {
        let Some(clocks) = &self.clocks else { return Ok(()) };
        let (clock, longest) = match is_agent {
            true => (&clocks.agent, AGENT_STEP_SECONDS),
            false => (&clocks.ingester, INGESTER_STEP_SECONDS),
        };
        let seconds = 1 + self.dice.roll(longest) as i64;
        let back = self.dice.roll(2) == 0;
        clock.set(if back { -seconds } else { seconds })?;
        tokio::time::sleep(lasts).await;
        clock.set(0)
    }

    async fn second_owner(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let second = Server::start(&self.ingesting, "ingest")?;
        // Long enough to open the tables and to commit.
        tokio::time::sleep(lasts * 2).await;
        drop(second);
        Ok(())
    }
}
