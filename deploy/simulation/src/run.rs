//! One run: the estate is metered while faults strike; then all is mended, and judged.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nilometer_ingest::repair;
use object_store::memory::InMemory;
use xxhash_rust::xxh3::xxh3_64;

use crate::broker::{Broker, RemoteLog};
use crate::check::{Killed, check};
use crate::damage::{Disk, flip_data};
use crate::estate::estate;
use crate::fault::{FAULTY_SECONDS, Fault, KINDS, Kind, plan};
use crate::host::{Host, Link};
use crate::hostile;
use crate::sites::{Ground, INTERVAL, Role, Site, ingest_config};
use crate::source::Said;
use crate::world::World;

/// Seconds of metering.
/// Least is 300 s past the hour, so that the hour can be settled.
pub(crate) const SECONDS: u64 = 1_200;
/// Longest simulated time of everything.
const LONGEST: Duration = Duration::from_secs(3 * 3_600);
/// Longest simulated time after the faults until all is read and stored.
const CATCH_UP_SECONDS: u64 = 900;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kinds of faults that may strike.
    pub kinds: Vec<Kind>,
}

impl Default for Options {
    fn default() -> Self {
        Options { kinds: KINDS.to_vec() }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Samples that sources gave.
    pub samples: u64,
    /// Of these, samples that are not stored, for a reason that is known.
    pub missing: u64,
    /// Faults that struck.
    pub faults: Vec<String>,
    /// Everything that happened, in order.
    pub trace: Vec<String>,
    /// Why the run is a failure; nothing when all is as it must be.
    pub failure: Option<String>,
}

impl Outcome {
    /// Digest of the trace: the same seed gives the same.
    pub fn digest(&self) -> u64 {
        xxh3_64(self.trace.join("\n").as_bytes())
    }
}

/// Runs a seed, in a runtime of its own; `folder` is empty and holds the spools meanwhile.
pub fn simulate(seed: u64, options: &Options, folder: &Path) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(4)
        .build()?;
    let outcome = runtime.block_on(async {
        let world = World::new(seed);
        let mut run = Run::new(&world, options, folder);
        let done = tokio::time::timeout(LONGEST, run.all()).await;
        let (verdict, failure) = match done {
            Ok(Ok(verdict)) => (Some(verdict), None),
            Ok(Err(error)) => (None, Some(format!("{error:#}"))),
            Err(_) => (None, Some(format!("not done after {LONGEST:?} of simulated time"))),
        };
        Outcome {
            samples: run.ground.said.readings().len() as u64,
            missing: verdict.unwrap_or_default(),
            faults: run.faults.iter().map(|fault| format!("{fault:?}")).collect(),
            trace: world.trace(),
            failure,
        }
    });
    runtime.shutdown_background();
    Ok(outcome)
}

/// A step of seconds to minutes, in either direction; whole tenths of a second, so that hosts
/// keep to their slots.
fn step_micros(fault: Fault) -> i64 {
    let tenths = (fault.begin * 7 + fault.target * 131) as i64 % 6_000 + 20;
    if fault.target.is_multiple_of(2) { tenths * 100_000 } else { -tenths * 100_000 }
}

struct Run {
    world: Arc<World>,
    ground: Ground,
    faults: Vec<Fault>,
    agents: Vec<Site>,
    /// Of the agents, in the same order.
    disks: Vec<Arc<Disk>>,
    /// The first is the one that is meant to be.
    ingesters: Vec<Site>,
    killed: Vec<Killed>,
}

impl Run {
    fn new(world: &Arc<World>, options: &Options, folder: &Path) -> Self {
        // So small that an outage fills it, with more to fill it with.
        let is_spool_small = world.pick("spool", 6) == 0;
        let nodes = if is_spool_small { 1 } else { 1 + world.pick("nodes", 2) };
        let ground = Ground {
            broker: Broker::new(world),
            objects: Arc::new(InMemory::new()),
            folder: folder.to_owned(),
            estate: Arc::new(estate(world, nodes, SECONDS)),
            said: Arc::new(Said::default()),
            spool_max_bytes: if is_spool_small { 64 << 10 } else { 1 << 30 },
            interval: if is_spool_small { Duration::from_secs(1) } else { INTERVAL },
        };
        // Clocks are never right to the second.
        let host = |name: String, slot| {
            let ahead = world.pick(&format!("{name} clock"), 40) as i64 * 100_000 - 2_000_000;
            // So that multiples of the interval by its clock fall into its slot.
            Host::new(world, &name, slot, ahead - slot as i64 * 1_000)
        };
        let agents = (0..nodes).map(|n| host(format!("node-{n}"), 10 + 10 * n));
        let agents: Vec<Site> = agents.map(|host| Site::new(&host, Role::Agent, &ground)).collect();
        let ingesters = (0..2).map(|n| host(format!("ingester-{n}"), 40 + 10 * n));
        Run {
            world: world.clone(),
            faults: plan(world, &options.kinds),
            disks: agents.iter().map(|site| Disk::watch(world, site.spool())).collect(),
            agents,
            ingesters: ingesters.map(|host| Site::new(&host, Role::Ingester, &ground)).collect(),
            ground,
            killed: Vec::new(),
        }
    }

    async fn all(&mut self) -> anyhow::Result<u64> {
        self.agents.iter_mut().for_each(Site::start);
        self.ingesters[0].start();
        self.strike().await?;
        self.mend().await?;
        self.world.until(SECONDS).await;
        for site in &mut self.agents {
            site.stop().await?;
        }
        self.catch_up().await?;
        for site in &mut self.ingesters {
            site.stop().await?;
        }
        if self.faults.iter().any(|fault| fault.kind == Kind::DataFlipped) {
            self.repair().await.context("the repair")?;
        }
        check(&self.ground, &self.world, &self.killed, &self.hosts()).await
    }

    fn hosts(&self) -> Vec<Arc<Host>> {
        self.agents.iter().map(|site| site.host.clone()).collect()
    }

    /// Lets every fault begin and end.
    async fn strike(&mut self) -> anyhow::Result<()> {
        let mut moments: Vec<(u64, bool, Fault)> = Vec::new();
        for fault in self.faults.clone() {
            moments.extend([(fault.begin, true, fault), (fault.end, false, fault)]);
        }
        moments.sort_unstable();
        for (at, begins, fault) in moments {
            self.world.until(at).await;
            let verb = if begins { "begins" } else { "ends" };
            self.world.note(format!("fault {:?} of {} {verb}", fault.kind, fault.target));
            if begins {
                self.begin(fault).await?
            } else {
                self.end(fault).await?
            }
            for site in self.agents.iter_mut().chain(&mut self.ingesters) {
                site.check().await?;
            }
        }
        self.world.until(FAULTY_SECONDS).await;
        Ok(())
    }

    fn target(&mut self, fault: Fault) -> &mut Site {
        let count = self.agents.len() as u64;
        match fault.kind {
            Kind::AgentKilled | Kind::PowerLost | Kind::SpoolFlipped | Kind::SpoolAway => {
                &mut self.agents[(fault.target % count) as usize]
            }
            Kind::IngesterKilled
            | Kind::StoreAway
            | Kind::StoreFull
            | Kind::StoreSlow
            | Kind::StoreLossy => &mut self.ingesters[0],
            Kind::SecondOwner => &mut self.ingesters[1],
            _ => match fault.target % (count + 1) {
                0 => &mut self.ingesters[0],
                n => &mut self.agents[n as usize - 1],
            },
        }
    }

    async fn begin(&mut self, fault: Fault) -> anyhow::Result<()> {
        let away = Link { away: true, ..Link::default() };
        let full = Link { full: true, ..Link::default() };
        let slow = Link { slow: Duration::from_secs(1 + fault.target % 14), ..Link::default() };
        let lossy = Link { lossy: 200 + 10 * fault.target, ..Link::default() };
        let disk = self.disks[(fault.target % self.disks.len() as u64) as usize].clone();
        let (world, broker) = (self.world.clone(), self.ground.broker.clone());
        let key = format!("{fault:?}");
        let site = self.target(fault);
        match fault.kind {
            Kind::AgentKilled | Kind::IngesterKilled => {
                let away = disk.away_since().filter(|_| site.role == Role::Agent);
                let killed = Killed::now(&site.host, site.life, away);
                site.kill().await;
                self.killed.push(killed);
            }
            // So that there is something in the spool, or in the log that was not read.
            Kind::PowerLost | Kind::SpoolFlipped | Kind::LogTruncated | Kind::LogReplaced => {
                *site.host.log() = away;
            }
            Kind::SpoolAway => disk.set_away(&world, true)?,
            Kind::ClockStepped => site.host.clock.step(step_micros(fault)),
            Kind::DataFlipped => flip_data(&world, &self.ground.objects, &key).await?,
            Kind::FarFuture => hostile::send_far_future(&broker)?,
            Kind::LogAway => *site.host.log() = away,
            Kind::LogSlow => *site.host.log() = slow,
            Kind::LogLossy => *site.host.log() = lossy,
            Kind::StoreAway => *site.host.store() = away,
            Kind::StoreFull => *site.host.store() = full,
            Kind::StoreSlow => *site.host.store() = slow,
            Kind::StoreLossy => *site.host.store() = lossy,
            Kind::Frozen => site.host.freeze(true),
            Kind::Slept => site.host.set_asleep(true),
            Kind::SecondOwner if !site.is_running() => site.start(),
            Kind::SecondOwner => {}
            Kind::BrokerAway => {
                let sites = self.agents.iter().chain(&self.ingesters);
                sites.for_each(|site| *site.host.log() = away);
            }
            Kind::Repeated => hostile::repeat(&broker, &world, fault.target)?,
            Kind::Hostile => hostile::send(&broker, &world, fault.target)?,
        }
        Ok(())
    }

    async fn end(&mut self, fault: Fault) -> anyhow::Result<()> {
        let disk = self.disks[(fault.target % self.disks.len() as u64) as usize].clone();
        let (world, broker) = (self.world.clone(), self.ground.broker.clone());
        let key = format!("{fault:?}");
        let site = self.target(fault);
        match fault.kind {
            Kind::AgentKilled | Kind::IngesterKilled if !site.is_running() => {
                // It starts on a disk that is there.
                if site.role == Role::Agent {
                    disk.set_away(&world, false)?;
                }
                site.start();
            }
            Kind::AgentKilled | Kind::IngesterKilled => {}
            Kind::PowerLost | Kind::SpoolFlipped => {
                *site.host.log() = Link::default();
                let killed = Killed::now(&site.host, site.life, disk.away_since());
                site.kill().await;
                disk.set_away(&world, false)?;
                match fault.kind {
                    Kind::PowerLost => disk.lose_power(&world, &key)?,
                    _ => disk.flip(&world, &key)?,
                }
                site.start();
                self.killed.push(killed);
            }
            Kind::LogTruncated | Kind::LogReplaced => {
                *site.host.log() = Link::default();
                match fault.kind {
                    Kind::LogTruncated => broker.drop_oldest((fault.target % 8) as usize),
                    _ => broker.replace(),
                }
            }
            Kind::SpoolAway => disk.set_away(&world, false)?,
            Kind::ClockStepped => site.host.clock.step(-step_micros(fault)),
            Kind::Repeated | Kind::Hostile | Kind::DataFlipped | Kind::FarFuture => {}
            Kind::LogAway | Kind::LogSlow | Kind::LogLossy => *site.host.log() = Link::default(),
            Kind::StoreAway | Kind::StoreFull | Kind::StoreSlow | Kind::StoreLossy => {
                *site.host.store() = Link::default();
            }
            Kind::Frozen => site.host.freeze(false),
            Kind::Slept => site.host.set_asleep(false),
            Kind::SecondOwner => site.kill().await,
            Kind::BrokerAway => {
                let sites = self.agents.iter().chain(&self.ingesters);
                sites.for_each(|site| *site.host.log() = Link::default());
            }
        }
        Ok(())
    }

    /// Everything is as it should be from now on.
    async fn mend(&mut self) -> anyhow::Result<()> {
        self.world.note("all is mended");
        self.ingesters[1].kill().await;
        for disk in &self.disks {
            disk.set_away(&self.world, false)?;
        }
        for site in self.agents.iter_mut().chain(&mut self.ingesters[..1]) {
            *site.host.log() = Link::default();
            *site.host.store() = Link::default();
            site.host.set_asleep(false);
            if !site.is_running() {
                site.start();
            }
        }
        Ok(())
    }

    /// What is done about damage: files say what they lost, and what the log has is back.
    async fn repair(&self) -> anyhow::Result<()> {
        let host = Host::new(&self.world, "repair", 75, 0);
        let log = Arc::new(RemoteLog::new(&self.ground.broker, &host));
        let (storage, config) = (self.ground.bare_storage()?, ingest_config());
        let repaired = repair(&storage, log.clone(), &config, drop).await?;
        self.world.note(format!("{repaired}"));
        let again = repair(&storage, log, &config, drop).await?;
        ensure!((again.damaged, again.restored, again.lost) == (0, 0, 0), "again: {again}");
        Ok(())
    }

    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let from = self.world.elapsed() as u64 / 1_000_000;
        // What is told of lag is five seconds old at most.
        for seconds in (10..CATCH_UP_SECONDS).step_by(5) {
            self.world.until(from + seconds).await;
            self.ingesters[0].check().await.context("the ingester")?;
            if self.ingesters[0].has_caught_up() {
                return Ok(());
            }
        }
        bail!("the log is not read up {CATCH_UP_SECONDS} s after all was mended")
    }
}
