//! The processes: an agent on each node, and ingesters that also bill. Each is started, killed
//! and started again as a service manager would.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use nilometer_clock::{EpochClock, SharedClock, SystemClock};
use nilometer_collect::{Agent, AgentConfig, Watched};
use nilometer_contract::{EVENTS, GAPS, SAMPLES};
use nilometer_engine::{Engine, Limits};
use nilometer_ingest::{IngestConfig, Ingester, Metrics, maintain};
use nilometer_ledger::{Ledger, LedgerConfig};
use nilometer_log::{Log, TopicConfig};
use nilometer_rating::PriceBook;
use nilometer_store::{CompactionPolicy, Storage};
use object_store::ObjectStore;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, RemoteLog};
use crate::estate::Thing;
use crate::host::Host;
use crate::source::{EstateSource, Said};
use crate::store::RemoteStore;

/// Partitions of the topics of samples and events.
pub(crate) const PARTITIONS: u32 = 2;
/// How long a service manager waits before it starts again what ended.
const RESTART: Duration = Duration::from_secs(5);
/// Usual, and longest, time between two observations.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// What outlives processes.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) broker: Arc<Broker>,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) folder: PathBuf,
    pub(crate) estate: Arc<Vec<Thing>>,
    pub(crate) said: Arc<Said>,
    pub(crate) spool_max_bytes: u64,
    pub(crate) interval: Duration,
}

/// What runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Agent,
    Ingester,
}

/// A process under supervision.
pub(crate) struct Site {
    pub(crate) host: Arc<Host>,
    pub(crate) role: Role,
    ground: Ground,
    /// How often it was started.
    pub(crate) life: u64,
    running: Option<Running>,
}

struct Running {
    cancel: CancellationToken,
    task: JoinHandle<()>,
    /// Of an ingester that is open.
    metrics: Shown,
}

type Shown = Arc<Mutex<Option<Metrics>>>;

impl Ground {
    /// The tables as a part of a host's process sees them, by its number from 0 to 2.
    fn storage(&self, host: &Arc<Host>, part: u64) -> anyhow::Result<Storage> {
        let store = Arc::new(RemoteStore::new(&self.objects, host, part));
        Ok(Storage::local(&self.folder.join("tables"), Arc::new(SystemClock))?.through(|_| store))
    }

    /// The tables as they are, past every fault.
    pub(crate) fn bare_storage(&self) -> anyhow::Result<Storage> {
        let objects = self.objects.clone();
        Ok(Storage::local(&self.folder.join("tables"), Arc::new(SystemClock))?.through(|_| objects))
    }
}

impl Site {
    pub(crate) fn new(host: &Arc<Host>, role: Role, ground: &Ground) -> Self {
        Site { host: host.clone(), role, ground: ground.clone(), life: 0, running: None }
    }

    /// Where an agent spools.
    pub(crate) fn spool(&self) -> PathBuf {
        spool(&self.ground.folder, &self.host)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it; from now on it is started again whenever it ends of itself.
    pub(crate) fn start(&mut self) {
        self.life += 1;
        let (cancel, metrics) = (CancellationToken::new(), Shown::default());
        let (host, ground, life, role) =
            (self.host.clone(), self.ground.clone(), self.life, self.role);
        let (stop, shown) = (cancel.clone(), metrics.clone());
        let task = tokio::spawn(async move {
            while !stop.is_cancelled() {
                host.wait(0, Duration::ZERO).await;
                host.world.note(format!("{} starts", host.name));
                let process = async {
                    match role {
                        Role::Ingester => ingest(&ground, &host, &shown, stop.clone()).await,
                        Role::Agent => collect(&ground, &host, life, stop.clone()).await,
                    }
                };
                let ended = host.run(process).await;
                let how = ended.map_or_else(|error| format!("{error:#}"), |()| "well".to_owned());
                host.world.note(format!("{} ended: {how}", host.name));
                if !stop.is_cancelled() {
                    host.wait(0, RESTART).await;
                }
            }
        });
        self.running = Some(Running { cancel, task, metrics });
    }

    /// Ends it at this instant: nothing more of it runs.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            drop(running.task.await);
            self.host.world.note(format!("{} killed", self.host.name));
        }
    }

    /// Stops it as a signal does; says whether it ended well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.cancel.cancel();
        running.task.await.with_context(|| format!("{} panicked", self.host.name))
    }

    /// Whether it panicked, which no fault may make it do.
    pub(crate) async fn check(&mut self) -> anyhow::Result<()> {
        if self.running.as_ref().is_some_and(|running| running.task.is_finished()) {
            return self.stop().await;
        }
        Ok(())
    }

    /// Whether an ingester has read all there is.
    pub(crate) fn has_caught_up(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let metrics = running.metrics.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let read = |metrics: &Metrics| metrics.readiness().is_ok() && metrics.lag_records() == 0;
        metrics.as_ref().is_some_and(read)
    }
}

fn spool(folder: &Path, host: &Host) -> PathBuf {
    folder.join("spool").join(&host.name)
}

fn topic(name: &str, partitions: u32) -> TopicConfig {
    let retention = Duration::from_secs(7 * 86_400);
    TopicConfig { name: name.to_owned(), partitions, retention }
}

async fn collect(
    ground: &Ground,
    host: &Arc<Host>,
    life: u64,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut config = AgentConfig::new(&host.name, spool(&ground.folder, host));
    config.interval = ground.interval;
    config.spool_max_bytes = ground.spool_max_bytes;
    config.samples = topic(SAMPLES, PARTITIONS);
    config.events = topic(EVENTS, PARTITIONS);
    config.gaps = topic(GAPS, 1);
    name_instance(&config.spool_dir, &host.name)?;
    let clock = Arc::new(EpochClock::new(host.clock.clone()));
    let source = Box::new(EstateSource::new(host, &clock, life, &ground.estate, &ground.said));
    let sources = vec![Watched { source, found: "simulated".to_owned() }];
    let log: Arc<dyn Log> = Arc::new(RemoteLog::new(&ground.broker, host));
    let (_, pushed) = mpsc::channel(1);
    let agent = Agent::new(config, sources, pushed, log, clock, &Registry::new())?;
    Ok(agent.run(cancel).await?)
}

/// Gives a new spool the name that the agent would draw at random.
fn name_instance(spool: &Path, host: &str) -> anyhow::Result<()> {
    let path = spool.join("epoch.json");
    if !path.exists() {
        std::fs::create_dir_all(spool)?;
        let form = format!(r#"{{"instance":"{host}/simulated","sequence":0}}"#);
        std::fs::write(path, form)?;
    }
    Ok(())
}

/// Settings of an ingester: as usual, but for a small estate and a short run.
pub(crate) fn ingest_config() -> IngestConfig {
    IngestConfig {
        partitions: PARTITIONS,
        commit_interval: Duration::from_secs(60),
        refresh_interval: Duration::from_secs(120),
        publish_interval: Duration::from_secs(1),
        maintenance_interval: Duration::from_secs(300),
        compaction: CompactionPolicy { fan_in: 6, ..CompactionPolicy::default() },
        ..IngestConfig::default()
    }
}

/// Settings of billing.
pub(crate) fn ledger_config() -> LedgerConfig {
    LedgerConfig {
        interval: Duration::from_secs(60),
        // Short, so that hours are settled before all of their samples came.
        grace: Duration::from_secs(20),
        partitions: Some(PARTITIONS),
        ..LedgerConfig::default()
    }
}

async fn ingest(
    ground: &Ground,
    host: &Arc<Host>,
    shown: &Shown,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::register(&Registry::new())?;
    let [storage, for_upkeep, for_bills] =
        [ground.storage(host, 0)?, ground.storage(host, 1)?, ground.storage(host, 2)?];
    let log: Arc<dyn Log> = Arc::new(RemoteLog::new(&ground.broker, host));
    let clock: SharedClock = host.clock.clone();
    let config = ingest_config();
    let opened = Ingester::open(config.clone(), log, &storage, clock.clone(), metrics.clone());
    let ingester = opened.await?;
    *shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(metrics.clone());
    let engine = Engine::new(&storage, ingester.tables(), Limits::default())?;
    let (config_of_bills, registry) = (ledger_config(), Registry::new());
    let (book, time) = (price_book()?, clock.clone());
    let ledger = Ledger::open_with(config_of_bills, engine, &for_bills, book, time, &registry);
    let ledger = ledger.await?;
    let ((), (), ()) = tokio::try_join!(
        async { anyhow::Ok(ingester.run(cancel.clone()).await?) },
        async {
            // Each part has instants of its own, so that their order is always the same.
            host.wait(7, Duration::ZERO).await;
            anyhow::Ok(maintain(for_upkeep, config, metrics, clock, cancel.clone()).await?)
        },
        async {
            host.wait(8, Duration::ZERO).await;
            anyhow::Ok(ledger.settlement.run(cancel.clone()).await?)
        },
    )?;
    Ok(())
}

/// What VMs pay for: what they are given, what they use, and what they hold.
pub(crate) fn price_book() -> anyhow::Result<PriceBook> {
    Ok(PriceBook::parse(
        r#"
name = "simulated"
currency = "EUR"
[[price]]
meter = "cpu.allocation"
kind = "vm"
price = "0.020"
per = "hour"
description = "VM: vCPU"
[[price]]
meter = "cpu.time"
kind = "vm"
price = "0.030"
per = "hour"
description = "VM: CPU time used"
[[price]]
meter = "memory.usage"
kind = "vm"
price = "7.5"
per = "GiB*hour"
description = "VM: memory used"
"#,
    )?)
}
