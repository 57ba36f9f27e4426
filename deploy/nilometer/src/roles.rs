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

use anyhow::Context;
use nilometer_clock::{Clock, SystemClock};
use nilometer_controller::Controller;
use nilometer_engine::Engine;
use nilometer_ingest::{Follower, IngestConfig, Ingester, Metrics, Tables, maintain};
use nilometer_ledger::{Ledger, LedgerConfig};
use nilometer_log::Log;
use nilometer_placement::plan::Plan;
use nilometer_process::{Process, bind, lock};
use nilometer_serve::{NodePrices, Scheduler};
use nilometer_store::Storage;
use prometheus::Registry;

use crate::access;
use crate::cli::Up;
use crate::config::Config;
use crate::demo::{Demo, Progress};
use crate::screen::{Screen, Shown};

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

/// A process being wired, and what its roles share.
struct Program {
    config: Config,
    process: Process,
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
    let _lock = match roles.collect {
        true => {
            let command = format!("nilometer {}", roles.name);
            Some(lock(&config.data.dir, &command, SystemClock.now())?)
        }
        false => None,
    };
    let listener = bind(config.listen.http).await?;
    let address = listener.local_addr()?;
    let authenticators = access::authenticators(&config, address, Arc::new(SystemClock)).await?;
    let url = config.listen.url(address);
    let mut program = Program::new(config, url.clone());
    let log = program.wire(roles, up.as_ref()).await?;
    let Program { config, mut process, shown } = program;
    let audited = (log, config.log.retention);
    process.serve_http(&config.listen, listener, audited, authenticators)?;
    let cancel = process.workers.cancel.clone();
    let screen = Screen::new(shown, screen);
    process.workers.spawn("screen", screen.run(cancel));
    process.announce(&url);
    process.wait().await
}

impl Program {
    fn new(config: Config, url: String) -> Self {
        let shown = Shown { url, log: config.settings().log_name(), ..Shown::default() };
        Program { config, process: Process::default(), shown }
    }

    async fn wire(&mut self, roles: Roles, up: Option<&Up>) -> anyhow::Result<Arc<dyn Log>> {
        let log = self.config.settings().open_log(self.process.clock.clone())?;
        let demo = up.filter(|up| up.demo);
        let demo = demo
            .map(|up| Demo::open(&self.config, up, log.clone(), self.process.clock.clone()))
            .transpose()?;
        if let Some(demo) = &demo {
            // Its past is filled in, and billed.
            self.config.ingest.metering_start = Some(demo.start());
        }
        if roles.ingest || roles.query {
            let storage = self.config.open_storage(self.process.clock.clone())?;
            let tables = match roles.ingest {
                true => self.ingest(log.clone(), &storage, roles.name).await?,
                false => self.follow(log.clone(), &storage).await?,
            };
            let engine = Engine::new(&storage, tables, self.config.limits())?;
            self.process.serve(nilometer_http::surface(&engine));
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
            let collecting = self.process.collect(&self.config.settings(), log.clone()).await?;
            self.shown.agent = Some(collecting.status);
            self.shown.missing = collecting.missing;
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
        let metrics = Metrics::register(&self.process.registry)?;
        self.show_ingest(&metrics);
        let config = IngestConfig { role, ..self.config.ingest()? };
        let opened = Ingester::open(
            config.clone(),
            log,
            storage,
            self.process.clock.clone(),
            metrics.clone(),
        );
        let ingester = opened.await.context("ingestion cannot start")?;
        let (tables, mut owns) = (ingester.tables(), ingester.owns());
        let cancel = self.process.writers.cancel.clone();
        self.process.writers.spawn("ingest", async move { Ok(ingester.run(cancel).await?) });
        let (storage, clock) = (storage.clone(), self.process.clock.clone());
        let cancel = self.process.workers.cancel.clone();
        self.process.workers.spawn("maintenance", async move {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                owned = owns.wait_for(|owns| *owns) => drop(owned),
            }
            Ok(maintain(storage, config, metrics, clock, cancel).await?)
        });
        Ok(tables)
    }

    fn show_ingest(&mut self, metrics: &Metrics) {
        self.shown.ingest = Some(metrics.clone());
        let metrics = metrics.clone();
        self.process.readiness.push(Arc::new(move || metrics.readiness()));
    }

    async fn follow(&mut self, log: Arc<dyn Log>, storage: &Storage) -> anyhow::Result<Tables> {
        let metrics = Metrics::register_follower(&self.process.registry)?;
        self.show_ingest(&metrics);
        let (config, clock) = (self.config.ingest()?, self.process.clock.clone());
        let follower = Follower::open(config, log, storage, clock, metrics).await;
        let follower = follower.context("the tables cannot be followed")?;
        let tables = follower.tables();
        let cancel = self.process.workers.cancel.clone();
        self.process.workers.spawn("tables", async move { Ok(follower.run(cancel).await?) });
        Ok(tables)
    }

    async fn bill(
        &mut self,
        engine: Engine,
        storage: &Storage,
        role: &'static str,
    ) -> anyhow::Result<()> {
        let book = self.config.price_book()?;
        let ledger =
            Ledger::open(engine, storage, book, self.process.clock.clone(), &self.process.registry);
        let ledger = ledger.await.context("billing cannot start")?;
        self.process.serve(ledger.surface());
        self.shown.ledger = Some(ledger.clone());
        let ready = ledger.clone();
        self.process.readiness.push(Arc::new(move || ready.settlement.readiness()));
        let (lease, cancel) = (self.config.lease(), self.process.workers.cancel.clone());
        self.process.workers.spawn("bill", async move {
            Ok(ledger.settlement.run_owned(role, lease, cancel).await?)
        });
        Ok(())
    }

    /// The tables and routes of billing where another process bills: their rows are the same in
    /// every process.
    async fn show_bills(&mut self, engine: Engine, storage: &Storage) -> anyhow::Result<()> {
        let (book, clock) = (self.config.price_book()?, self.process.clock.clone());
        let config = LedgerConfig {
            reads_only: true,
            interval: IngestConfig::default().refresh_interval,
            ..LedgerConfig::default()
        };
        let ledger =
            Ledger::open_with(config, engine, storage, book, clock, &self.process.registry);
        let ledger = ledger.await.context("what is billed cannot be read")?;
        self.process.serve(ledger.surface());
        let cancel = self.process.workers.cancel.clone();
        self.process.workers.spawn("bills", async move {
            ledger.settlement.follow(&cancel).await;
            Ok(())
        });
        Ok(())
    }

    fn schedule(&mut self, log: Arc<dyn Log>, control: bool) -> anyhow::Result<()> {
        let (config, clock) = (self.config.scheduler(), self.process.clock.clone());
        let prices = NodePrices::new(self.config.price_book()?, self.config.catalogue()?);
        let scheduler = Scheduler::new(log, config, prices, clock, &self.process.registry)?;
        self.process.serve(scheduler.surface());
        let ready = scheduler.clone();
        self.process.readiness.push(Arc::new(move || match ready.is_caught_up() {
            true => Ok(()),
            false => Err("the scheduler is reading the log".to_owned()),
        }));
        let cancel = self.process.workers.cancel.clone();
        let running = scheduler.clone();
        self.process.workers.spawn("schedule", async move { Ok(running.run(cancel).await?) });
        if control {
            let config = nilometer_controller::Config { interval: self.config.control.interval };
            let controller = Controller::new(scheduler, config)?;
            let print = |plan: &Plan| crate::screen::say(&plan.to_string());
            self.process
                .workers
                .spawn("control", controller.run(print, self.process.workers.cancel.clone()));
        }
        Ok(())
    }

    fn demo(&mut self, demo: Demo) -> anyhow::Result<()> {
        let progress: Arc<Progress> = demo.progress();
        self.shown.demo = Some(progress);
        let labels = std::collections::HashMap::from([("agent".to_owned(), "demo".to_owned())]);
        let registry = Registry::new_custom(None, Some(labels))?;
        self.process.registries.push(registry.clone());
        let cancel = self.process.agents.cancel.clone();
        self.process.agents.spawn("demo", demo.run(registry, cancel));
        Ok(())
    }
}
