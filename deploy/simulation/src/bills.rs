//! Usage and bills of a run, from a process that starts after it, against a plain reckoning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nilometer_contract::{History, Labels, MICROS_PER_HOUR, Resource, Scope, Timestamp, catalogue};
use nilometer_engine::{Engine, Limits, Selection};
use nilometer_ingest::{Follower, Ingester, Metrics, Tables};
use nilometer_ledger::Ledger;
use nilometer_log::Log;
use nilometer_rating::{Detail, Invoice, Period, invoice, rate};
use nilometer_usage::{Quantity, UsageRow, Window};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::broker::RemoteLog;
use crate::check::Found;
use crate::host::Host;
use crate::lives::{Known, lives};
use crate::reckon::{Account, reckon};
use crate::sites::{Ground, ingest_config, ledger_config, price_book};
use crate::world::World;

const HOURS: [&str; 2] = ["2026-11-02T00:00:00Z", "2026-11-02T02:00:00Z"];
const FIRST_HOUR_END: &str = "2026-11-02T01:00:00Z";

/// Compares usage and bills with what they must be.
pub(crate) async fn check(
    ground: &Ground,
    world: &Arc<World>,
    found: &Found,
    hosts: &[Known],
) -> anyhow::Result<()> {
    let host = Host::new(world, "judge", 80, 0);
    let log: Arc<dyn Log> = Arc::new(RemoteLog::new(&ground.broker, &host));
    let storage = ground.bare_storage()?;
    let (clock, cancel) = (host.clock.clone(), CancellationToken::new());
    let config = ingest_config();
    // What is stored must be told alike by who keeps the tables and by who only reads them.
    let (tables, running) = match world.pick("judge", 2) {
        0 => {
            let metrics = Metrics::register(&Registry::new())?;
            let opened = Ingester::open(config, log, &storage, clock.clone(), metrics);
            let ingester = opened.await.context("an ingester cannot start")?;
            (ingester.tables(), tokio::spawn(ingester.run(cancel.clone())))
        }
        _ => {
            let metrics = Metrics::register_follower(&Registry::new())?;
            let opened = Follower::open(config, log, &storage, clock.clone(), metrics);
            let follower = opened.await.context("a follower cannot start")?;
            (follower.tables(), tokio::spawn(follower.run(cancel.clone())))
        }
    };
    let engine = Engine::new(&storage, tables.clone(), Limits::default())?;
    let (config, book) = (ledger_config(), price_book()?);
    let registry = Registry::new();
    let ledger = Ledger::open_with(config, engine.clone(), &storage, book, clock, &registry);
    let ledger = ledger.await.context("a ledger cannot start")?;
    // Longer than hours must be quiet before they are settled.
    host.wait(0, Duration::from_secs(30)).await;
    ledger.settlement.settle(&cancel).await.context("settling")?;

    {
        let history = tables.shared.history.read().unwrap_or_else(|e| e.into_inner());
        lives(&history, ground, found, hosts).context("lives")?;
    }
    let accounts = usage(ground, world, &engine, &tables, found, hosts).await?;
    let judge = Judge { ledger: &ledger, accounts: &accounts, tables: &tables, found };
    judge.bills(world).await?;
    cancel.cancel();
    running.await.context("the reader panicked")??;
    Ok(())
}

fn window() -> anyhow::Result<Window> {
    let (start, end) = (HOURS[0].parse()?, HOURS[1].parse()?);
    Ok(Window { start, end })
}

/// Usage of each resource is as reckoned; returns what was reckoned.
async fn usage(
    ground: &Ground,
    world: &World,
    engine: &Engine,
    tables: &Tables,
    found: &Found,
    hosts: &[Known],
) -> anyhow::Result<BTreeMap<Account, i128>> {
    let newest = tables.now().newest;
    let history = tables.shared.history.read().unwrap_or_else(|e| e.into_inner()).clone();
    let reckoned = reckon(&history, &found.stored, window()?, newest);
    let mut metered: BTreeMap<Account, i128> = BTreeMap::new();
    for row in engine.meter().usage(&Scope::system(), window()?, &Selection::default()).await? {
        let account = Account::of(&row);
        *metered.entry(account).or_default() += row.quantity.0;
    }
    metered.retain(|_, pico| *pico != 0);
    let mut by_state: BTreeMap<Account, i128> = BTreeMap::new();
    for row in
        engine.meter().usage_by_state(&Scope::system(), window()?, &Selection::default()).await?
    {
        *by_state.entry(Account::of(&row)).or_default() += row.quantity.0;
    }
    by_state.retain(|_, pico| *pico != 0);
    if let Some((of, pico)) = by_state.iter().find(|(of, pico)| metered.get(of) != Some(pico)) {
        bail!("usage by state of {of:?} is {pico}, and in all {:?}", metered.get(of));
    }
    let accounts: BTreeSet<&Account> = metered.keys().chain(reckoned.keys()).collect();
    for account in accounts {
        let (is, must) = (metered.get(account), reckoned.get(account));
        if is != must && !found.touched.contains(&account.resource) {
            bail!("usage of {account:?} is {is:?}, reckoned {must:?}");
        }
    }
    for thing in ground.estate.iter() {
        let total = |meter: &str| -> i128 {
            let of = |account: &&Account| account.resource == thing.id && account.meter == meter;
            metered.keys().filter(of).map(|account| metered[account]).sum()
        };
        let mut readings = found.stored.iter().filter(|reading| reading.resource == thing.id);
        let Some(first) = readings.next() else { continue };
        let last = readings.next_back().unwrap_or(first);
        // A counter counts from birth when its first reading comes soon after it.
        let from = if first.seen - thing.born <= HOLD_MICROS { thing.born } else { first.seen };
        let cpu = thing.cpu_nanos_between(from, last.seen) * 1_000;
        ensure!(total("cpu.time") <= cpu, "CPU time of {} exceeds what is true, {cpu}", thing.id);
        // A level is held up to the newest sample of any host, by that host's clock; where one was
        // stepped, for as long as a reading counts at most.
        let stepped = hosts.iter().any(|known| known.host.clock.was_stepped());
        let apart = if stepped { HOLD_MICROS } else { CLOCKS_APART_MICROS };
        let end = match thing.died {
            // Nobody was told of its end.
            Some(died) if found.unannounced.contains(&thing.id) => died + HOLD_MICROS,
            Some(died) => died,
            None => world.elapsed() + apart,
        };
        let memory = i128::from(thing.memory_bytes()) * i128::from(end - from) * 1_000_000;
        ensure!(total("memory.usage") <= memory, "memory of {} exceeds what is true", thing.id);
    }
    Ok(reckoned)
}

/// How far clocks of two hosts are apart at most, unless a fault steps one.
pub(crate) const CLOCKS_APART_MICROS: i64 = 4_000_000;
/// How long a reading counts for.
pub(crate) const HOLD_MICROS: i64 = 300_000_000;

struct Judge<'j> {
    ledger: &'j Ledger,
    accounts: &'j BTreeMap<Account, i128>,
    tables: &'j Tables,
    found: &'j Found,
}

impl Judge<'_> {
    /// Bills of projects none of whose resources is touched are as reckoned, to the last digit.
    async fn bills(&self, world: &World) -> anyhow::Result<()> {
        let projects: BTreeSet<&str> =
            self.accounts.keys().map(|account| account.project.as_str()).collect();
        for project in projects.into_iter().filter(|project| !project.is_empty()) {
            let touched = |account: &&Account| {
                account.project == project && self.found.touched.contains(&account.resource)
            };
            let exact = !self.accounts.keys().any(|account| touched(&account));
            let whole = Period::parse(HOURS[0], HOURS[1], "UTC")?;
            let draft = self
                .ledger
                .invoices
                .draft(&Scope::system(), project, &whole, Detail::Prices)
                .await?;
            if exact {
                self.compare(project, &whole, &draft)?;
            }
            let hour = Period::parse(HOURS[0], FIRST_HOUR_END, "UTC")?;
            let now = world.now();
            let issued = self.ledger.invoices.issue(project, &hour, Detail::Prices, now).await?;
            if exact {
                self.compare(project, &hour, &issued)?;
            }
            world.note(format!("{project} owes {} and {}", draft.total, issued.total));
        }
        Ok(())
    }

    fn compare(&self, project: &str, period: &Period, found: &Invoice) -> anyhow::Result<()> {
        let rows: Vec<UsageRow> = self
            .accounts
            .iter()
            .filter(|(account, _)| account.project == project && account.hour < period.end())
            .map(|(account, &pico)| account.row(pico))
            .collect::<anyhow::Result<_>>()?;
        let history = self.tables.shared.history.read().unwrap_or_else(|e| e.into_inner());
        let book = price_book()?;
        let charges = rate(&rows, &book, |row| state(&history, row))?;
        let expected = invoice(project, period, &charges, &book, Detail::Prices)?;
        let (must, is) = (lines(&expected), lines(found));
        ensure!(must == is, "bill of {project}: must be {must:?}, is {is:?}");
        ensure!(expected.total == found.total, "bill of {project}: the totals differ");
        Ok(())
    }
}

fn lines(invoice: &Invoice) -> BTreeMap<String, String> {
    let used = invoice.lines.iter().filter(|line| line.quantity != Quantity(0));
    used.map(|line| (line.description.clone(), format!("{} = {}", line.quantity, line.amount)))
        .collect()
}

/// A state of the row's resource in its hour: prices do not depend on which.
fn state<'h>(history: &'h History, row: &UsageRow) -> Option<&'h Resource> {
    let segments = history.get(&row.resource)?.segments();
    let lived = |segment: &&nilometer_contract::Segment| {
        segment.start < row.end && segment.end.is_none_or(|end| end > row.start)
    };
    segments.iter().find(lived).map(|segment| segment.state.as_ref())
}

impl Account {
    fn of(row: &UsageRow) -> Self {
        Account {
            hour: Timestamp(row.start.0.div_euclid(MICROS_PER_HOUR) * MICROS_PER_HOUR),
            resource: row.resource.to_string(),
            kind: row.kind.clone(),
            meter: row.meter.name.to_string(),
            project: row.project.to_string(),
        }
    }

    fn row(&self, pico: i128) -> anyhow::Result<UsageRow> {
        Ok(UsageRow {
            start: self.hour,
            end: self.hour.plus_micros(MICROS_PER_HOUR),
            resource: self.resource.as_str().into(),
            kind: self.kind.clone(),
            meter: catalogue().find(&self.meter).context("no such meter")?.clone(),
            labels: Labels::none(),
            project: self.project.as_str().into(),
            quantity: Quantity(pico),
            observed_micros: 0,
        })
    }
}
