//! What one process does: the roles it was asked for, wired bottom-up and drained top-down.
//!
//! ```text
//! start   log → tables → ingester → engine → ledger → scheduler → agents → HTTP
//! stop    agents ─▶ controller, scheduler, ledger, maintenance ─▶ ingester ─▶ HTTP
//! ```
//!
//! Each arrow of the stop waits for what is on its left, so what was observed is in the log and
//! what was received is committed, within one deadline.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nilometer_agent::{Agent, Status};
use nilometer_clock::{Clock, EpochClock, SharedClock, SystemClock};
use nilometer_controller::Controller;
use nilometer_engine::Engine;
use nilometer_http::Surface;
use nilometer_ingest::{Follower, IngestConfig, Ingester, Metrics, Tables, maintain};
use nilometer_ledger::{Ledger, LedgerConfig};
use nilometer_log::Log;
use nilometer_placement::plan::Plan;
use nilometer_serve::{NodePrices, Scheduler};
use nilometer_store::{Holder, Storage};
use prometheus::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::access;
use crate::cli::Up;
use crate::config::Config;
use crate::crew::Crew;
use crate::demo::{Demo, Progress};
use crate::folder;
use crate::http::{Readiness, bind};
use crate::screen::{Screen, Shown};
use crate::sources::{Missing, discover, look_again};

/// Longest time from the order to stop until the process ends.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Which roles a process has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    /// The command that asks for them.
    name: &'static str,
    collect: bool,
    ingest: bool,
    query: bool,
    bill: bool,
    schedule: bool,
    control: bool,
}

impl Roles {
    pub(crate) fn all() -> Self {
        Roles {
            name: "up",
            collect: true,
            ingest: true,
            query: true,
            bill: true,
            schedule: true,
            control: false,
        }
    }

    pub(crate) fn collect() -> Self {
        Roles { name: "collect", collect: true, ..Roles::default() }
    }

    pub(crate) fn ingest() -> Self {
        Roles { name: "ingest", ingest: true, query: true, ..Roles::default() }
    }

    pub(crate) fn query() -> Self {
        Roles { name: "query", query: true, ..Roles::default() }
    }

    pub(crate) fn bill() -> Self {
        Roles { name: "bill", query: true, bill: true, ..Roles::default() }
    }

    pub(crate) fn schedule() -> Self {
        Roles { name: "schedule", schedule: true, ..Roles::default() }
    }

    pub(crate) fn control() -> Self {
        Roles { name: "control", schedule: true, control: true, ..Roles::default() }
    }
}

/// A process being wired.
pub(crate) struct Process {
    pub(crate) config: Config,
    pub(crate) clock: SharedClock,
    pub(crate) registry: Registry,
    pub(crate) registries: Vec<Registry>,
    pub(crate) readiness: Vec<Readiness>,
    pub(crate) surface: Surface,
    agents: Crew,
    workers: Crew,
    ingesters: Crew,
    pub(crate) servers: Crew,
    shown: Shown,
}

/// Runs the roles until a signal, or until one of them fails.
pub(crate) async fn run(
    config: Config,
    roles: Roles,
    up: Option<Up>,
    screen: bool,
) -> anyhow::Result<ExitCode> {
    config.listen.check()?;
    std::fs::create_dir_all(&config.data.dir)
        .with_context(|| format!("cannot make the data folder {}", config.data.dir.display()))?;
    // Before anything is bound, claimed or written: a start that fails leaves others at work.
    let holder = Holder::here(roles.name, SystemClock.now());
    let _lock = match roles.collect {
        true => Some(folder::lock(&config.data.dir, &holder)?),
        false => None,
    };
    let listener = bind(config.listen.http).await?;
    let address = listener.local_addr()?;
    let authenticators = access::authenticators(&config, address, Arc::new(SystemClock)).await?;
    let url = config.listen.url(address);
    let mut process = Process::new(config, url.clone());
    let log = process.wire(roles, up.as_ref()).await?;
    process.serve_http(listener, log, authenticators)?;
    let shown = process.shown.clone();
    let cancel = process.workers.cancel.clone();
    let screen = Screen::new(shown, screen);
    process.workers.spawn("screen", screen.run(cancel));
    info!(url, "listening");
    process.wait().await
}

impl Process {
    fn new(config: Config, url: String) -> Self {
        let registry = Registry::new();
        let shown = Shown { url, log: config.log_name(), ..Shown::default() };
        Process {
            config,
            clock: Arc::new(SystemClock),
            registries: vec![registry.clone()],
            registry,
            readiness: Vec::new(),
            surface: Surface::new(),
            agents: Crew::default(),
            workers: Crew::default(),
            ingesters: Crew::default(),
            servers: Crew::default(),
            shown,
        }
    }

    async fn wire(&mut self, roles: Roles, up: Option<&Up>) -> anyhow::Result<Arc<dyn Log>> {
        let log = self.config.open_log(self.clock.clone())?;
        let demo = up.filter(|up| up.demo);
        let demo = demo
            .map(|up| Demo::open(&self.config, up, log.clone(), self.clock.clone()))
            .transpose()?;
        if let Some(demo) = &demo {
            // Its past is filled in, and billed.
            self.config.ingest.metering_start = Some(demo.start());
        }
        if roles.ingest || roles.query {
            let storage = self.config.open_storage(self.clock.clone())?;
            let tables = match roles.ingest {
                true => self.ingest(log.clone(), &storage, roles.name).await?,
                false => self.follow(log.clone(), &storage).await?,
            };
            let engine = Engine::new(&storage, tables, self.config.limits())?;
            self.serve(nilometer_http::surface(&engine));
            self.shown.engine = Some(engine.clone());
            match roles.bill {
                true => self.bill(engine, &storage, roles.name).await?,
                false => self.show_bills(engine, &storage).await?,
            }
        }
        if roles.schedule {
            self.schedule(log.clone(), roles.control)?;
        }
        if roles.collect {
            self.collect(log.clone()).await?;
        }
        if let Some(demo) = demo {
            self.demo(demo)?;
        }
        Ok(log)
    }

    async fn ingest(
        &mut self,
        log: Arc<dyn Log>,
        storage: &Storage,
        role: &'static str,
    ) -> anyhow::Result<Tables> {
        let metrics = Metrics::register(&self.registry)?;
        self.show_ingest(&metrics);
        let config = IngestConfig { role, ..self.config.ingest()? };
        let opened =
            Ingester::open(config.clone(), log, storage, self.clock.clone(), metrics.clone());
        let ingester = opened.await.context("ingestion cannot start")?;
        let (tables, mut owns) = (ingester.tables(), ingester.owns());
        let cancel = self.ingesters.cancel.clone();
        self.ingesters.spawn("ingest", async move { Ok(ingester.run(cancel).await?) });
        let (storage, clock) = (storage.clone(), self.clock.clone());
        let cancel = self.workers.cancel.clone();
        self.workers.spawn("maintenance", async move {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                owned = owns.wait_for(|owns| *owns) => drop(owned),
            }
            Ok(maintain(storage, config, metrics, clock, cancel).await?)
        });
        Ok(tables)
    }

    fn serve(&mut self, surface: Surface) {
        self.surface = std::mem::take(&mut self.surface).merge(surface);
    }

    fn show_ingest(&mut self, metrics: &Metrics) {
        self.shown.ingest = Some(metrics.clone());
        let metrics = metrics.clone();
        self.readiness.push(Arc::new(move || metrics.readiness()));
    }

    async fn follow(&mut self, log: Arc<dyn Log>, storage: &Storage) -> anyhow::Result<Tables> {
        let metrics = Metrics::register_follower(&self.registry)?;
        self.show_ingest(&metrics);
        let (config, clock) = (self.config.ingest()?, self.clock.clone());
        let follower = Follower::open(config, log, storage, clock, metrics).await;
        let follower = follower.context("the tables cannot be followed")?;
        let tables = follower.tables();
        let cancel = self.workers.cancel.clone();
        self.workers.spawn("tables", async move { Ok(follower.run(cancel).await?) });
        Ok(tables)
    }

    async fn bill(
        &mut self,
        engine: Engine,
        storage: &Storage,
        role: &'static str,
    ) -> anyhow::Result<()> {
        let book = self.config.price_book()?;
        let ledger = Ledger::open(engine, storage, book, self.clock.clone(), &self.registry);
        let ledger = ledger.await.context("billing cannot start")?;
        self.serve(ledger.surface());
        self.shown.ledger = Some(ledger.clone());
        let ready = ledger.clone();
        self.readiness.push(Arc::new(move || ready.settlement.readiness()));
        let (lease, cancel) = (self.config.lease(), self.workers.cancel.clone());
        self.workers.spawn("bill", async move {
            Ok(ledger.settlement.run_owned(role, lease, cancel).await?)
        });
        Ok(())
    }

    /// The tables and routes of billing where another process bills: their rows are the same in
    /// every process.
    async fn show_bills(&mut self, engine: Engine, storage: &Storage) -> anyhow::Result<()> {
        let (book, clock) = (self.config.price_book()?, self.clock.clone());
        let config = LedgerConfig {
            reads_only: true,
            interval: IngestConfig::default().refresh_interval,
            ..LedgerConfig::default()
        };
        let ledger = Ledger::open_with(config, engine, storage, book, clock, &self.registry);
        let ledger = ledger.await.context("what is billed cannot be read")?;
        self.serve(ledger.surface());
        let cancel = self.workers.cancel.clone();
        self.workers.spawn("bills", async move {
            ledger.settlement.follow(&cancel).await;
            Ok(())
        });
        Ok(())
    }

    fn schedule(&mut self, log: Arc<dyn Log>, control: bool) -> anyhow::Result<()> {
        let (config, clock) = (self.config.scheduler(), self.clock.clone());
        let prices = NodePrices::new(self.config.price_book()?, self.config.catalogue()?);
        let scheduler = Scheduler::new(log, config, prices, clock, &self.registry)?;
        self.serve(scheduler.surface());
        let ready = scheduler.clone();
        self.readiness.push(Arc::new(move || match ready.is_caught_up() {
            true => Ok(()),
            false => Err("the scheduler is reading the log".to_owned()),
        }));
        let cancel = self.workers.cancel.clone();
        let running = scheduler.clone();
        self.workers.spawn("schedule", async move { Ok(running.run(cancel).await?) });
        if control {
            let config = nilometer_controller::Config { interval: self.config.control.interval };
            let controller = Controller::new(scheduler, config)?;
            let print = |plan: &Plan| crate::screen::say(&plan.to_string());
            self.workers.spawn("control", controller.run(print, self.workers.cancel.clone()));
        }
        Ok(())
    }

    async fn collect(&mut self, log: Arc<dyn Log>) -> anyhow::Result<()> {
        let (outlet, pushed) = mpsc::channel(64);
        let epochs = Arc::new(EpochClock::new(self.clock.clone()));
        let clock: SharedClock = epochs.clone();
        let found = discover(&self.config, &clock, &outlet).await;
        for watched in &found.watched {
            info!(source = watched.source.name(), found = watched.found, "source found");
        }
        for absent in &found.absent {
            info!(source = absent.label, reason = absent.reason, "source not found");
        }
        let config = self.config.agent("node");
        let registry = &self.registry;
        let agent = Agent::new(config, found.watched, pushed, log, epochs, registry)?;
        let missing = Missing::new(found.absent.into());
        let (late, turned_up) = mpsc::channel(1);
        let agent = agent.with_late_sources(turned_up);
        let looking = look_again(self.config.clone(), clock, outlet, Arc::clone(&missing), late);
        tokio::spawn(looking);
        self.show_agent(agent.status(), missing);
        let cancel = self.agents.cancel.clone();
        self.agents.spawn("collect", async move { Ok(agent.run(cancel).await?) });
        Ok(())
    }

    fn show_agent(&mut self, status: Arc<Status>, missing: Missing) {
        let report = status.clone();
        self.readiness.push(Arc::new(move || match report.report().log_error {
            Some(error) => Err(format!("the log does not take records: {error}")),
            None => Ok(()),
        }));
        self.shown.agent = Some(status);
        self.shown.missing = missing;
    }

    fn demo(&mut self, demo: Demo) -> anyhow::Result<()> {
        let progress: Arc<Progress> = demo.progress();
        self.shown.demo = Some(progress);
        let labels = std::collections::HashMap::from([("agent".to_owned(), "demo".to_owned())]);
        let registry = Registry::new_custom(None, Some(labels))?;
        self.registries.push(registry.clone());
        let cancel = self.agents.cancel.clone();
        self.agents.spawn("demo", demo.run(registry, cancel));
        Ok(())
    }

    /// Waits for a signal or a failure, then stops in order.
    async fn wait(mut self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let lost = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            lost = self.agents.lost() => Some(lost),
            lost = self.workers.lost() => Some(lost),
            lost = self.ingesters.lost() => Some(lost),
            lost = self.servers.lost() => Some(lost),
        };
        let mut good = lost.is_none();
        if let Some((role, ended)) = lost {
            let reason =
                ended.map_or_else(|error| format!("{error:#}"), |()| "it ended".to_owned());
            error!(role, reason, "a role failed, stopping");
        }
        info!("stopping: what was received is committed");
        let drained = tokio::time::timeout(STOP_DEADLINE, async {
            let mut good = true;
            for crew in
                [&mut self.agents, &mut self.workers, &mut self.ingesters, &mut self.servers]
            {
                good &= crew.drain().await;
            }
            good
        });
        match drained.await {
            Ok(well) => good &= well,
            Err(_) => {
                warn!(deadline = ?STOP_DEADLINE, "not everything stopped in time; the log keeps what is not committed");
                good = false;
            }
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
