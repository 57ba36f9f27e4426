//! A small fleet, and what must be there of it afterwards: its own samples, and bills from its
//! known usage.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nilometer_contract::{
    History, Labels, LifecycleEvent, MICROS_PER_HOUR, MICROS_PER_SECOND, Resource, SampleBatch,
    Timestamp,
};
use nilometer_rating::{Detail, Invoice, Period, PriceBook, invoice, rate};
use nilometer_simulated::{Fleet, FleetConfig, KnownUsage, known_usage};
use nilometer_usage::{Quantity, UsageRow};

use crate::process::Server;

/// Partitions of the topics of samples and events.
pub(crate) const PARTITIONS: u32 = 4;
/// Simulated seconds per second: an hour of billing in half a minute.
const FACTOR: u32 = 120;
const STEP_MICROS: i64 = 10 * MICROS_PER_SECOND;
/// 2026-11-02T00:00:00Z
const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);
const SETTLE: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
/// In which something comes if anything does.
const QUIET: Duration = Duration::from_secs(6);

/// Meter, resource and instant.
pub(crate) type Identity = (String, String, i64);

/// What came of the comparison of samples.
pub(crate) struct Verdict {
    pub(crate) samples: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Those that are lost.
    pub(crate) missing: BTreeSet<Identity>,
}

/// The fleet and everything that follows from it.
pub(crate) struct Oracle {
    fleet: FleetConfig,
    end: Timestamp,
    samples: BTreeMap<Identity, f64>,
    /// All that the fleet says, step by step.
    said: Vec<(SampleBatch, Vec<LifecycleEvent>)>,
    history: History,
    known: Vec<KnownUsage>,
}

impl Oracle {
    /// A small fleet that runs for so many seconds, and at least for an hour of its own time.
    pub(crate) fn new(seed: u64, seconds: i64) -> anyhow::Result<Self> {
        let (start, step_micros) = (START, STEP_MICROS);
        let lasts = seconds * i64::from(FACTOR) * MICROS_PER_SECOND;
        let end = start
            .plus_micros(lasts / STEP_MICROS * STEP_MICROS)
            .max(start.plus_micros(MICROS_PER_HOUR));
        let fleet = FleetConfig {
            seed,
            nodes: 3,
            vms_and_pods: 24,
            projects: 3,
            step_micros,
            start,
            ..FleetConfig::default()
        };
        let (mut samples, mut said) = (BTreeMap::new(), Vec::new());
        let mut history = History::default();
        for (_, seen) in Fleet::new(&fleet)?.steps(end, step_micros) {
            for event in &seen.events {
                history.apply(event.clone());
            }
            let batch = seen.samples.build();
            samples.extend(identities(&batch).zip(batch.value.iter().copied()));
            said.push((batch, seen.events));
        }
        let known = known_usage(&fleet, start, end)?;
        Ok(Oracle { fleet, end, samples, said, history, known })
    }

    /// All that the fleet says, step by step.
    pub(crate) fn said(&self) -> &[(SampleBatch, Vec<LifecycleEvent>)] {
        &self.said
    }

    /// The earliest instant of which not all samples are among these.
    pub(crate) fn first_not_in(&self, had: &BTreeSet<Identity>) -> Timestamp {
        let missing = self.samples.keys().filter(|identity| !had.contains(*identity));
        missing.map(|identity| Timestamp(identity.2)).min().unwrap_or(self.end)
    }

    /// Of processes that meter the fleet from now on, through Kafka or the embedded log.
    pub(crate) fn configuration(&self, bootstrap: &str) -> anyhow::Result<String> {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
        let fleet = &self.fleet;
        Ok(format!(
            r#"
[kafka]
bootstrap = "{bootstrap}"
[log]
partitions = {PARTITIONS}
[collect]
interval = "200ms"
node = "test"
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
ahead_max = "100years"
metering_start = "{start}"
[store.retention]
samples = "forever"
"#,
            seed = fleet.seed,
            nodes = fleet.nodes,
            workloads = fleet.vms_and_pods,
            projects = fleet.projects,
            step = fleet.step_micros,
            start = fleet.start,
            epoch = Timestamp(i64::try_from(epoch)?),
            end = self.end,
        ))
    }

    /// Waits until the last step is in the tables, and nothing more comes.
    pub(crate) async fn settle(&self, server: &Server) {
        self.settle_without(0, server).await;
    }

    /// The same where up to so many samples are gone.
    pub(crate) async fn settle_without(&self, gone: u64, server: &Server) {
        let (started, mut before) = (Instant::now(), None);
        loop {
            tokio::time::sleep(if gone == 0 { SECOND } else { QUIET }).await;
            let stored = self.stored(server).await.ok();
            let left = self.samples() - stored.unwrap_or(0).min(self.samples());
            if stored.is_some() && (left == 0 || left <= gone && stored == before) {
                return;
            }
            if started.elapsed() > SETTLE {
                eprintln!("after {SETTLE:?}: {left} of {} are not stored", self.samples());
                return;
            }
            before = stored;
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples.len() as u64
    }

    /// How many samples the server has.
    pub(crate) async fn stored(&self, server: &Server) -> anyhow::Result<u64> {
        let answer = server.sql("SELECT count(*) AS n FROM samples").await?;
        Ok(answer.lines().nth(1).context("no count")?.trim().parse()?)
    }

    /// Every sample of the fleet is there once, and nothing else.
    pub(crate) async fn compare(&self, server: &Server) -> anyhow::Result<Verdict> {
        let mut missing = self.samples.clone();
        let (mut samples, mut doubled) = (0, 0);
        for (identity, value) in visible(server).await? {
            samples += 1;
            match missing.remove(&identity) {
                Some(expected) if expected == value => {}
                Some(expected) => bail!("{identity:?} is {value}, not {expected}"),
                None => {
                    eprintln!("not expected, or twice: {identity:?} = {value}");
                    doubled += 1;
                }
            }
        }
        for identity in missing.keys().take(10) {
            eprintln!("lost: {identity:?}");
        }
        let missing: BTreeSet<Identity> = missing.into_keys().collect();
        Ok(Verdict { samples, lost: missing.len() as u64, doubled, missing })
    }

    /// Each project's bill, line by line, to the last digit.
    pub(crate) async fn compare_bills(&self, server: &Server) -> anyhow::Result<()> {
        let book = PriceBook::built_in();
        let (start, end) = (self.fleet.start.to_string(), self.end.hour().to_string());
        let period = Period::parse(&start, &end, "UTC")?;
        for project in self.projects() {
            let expected = self.bill(project, &period, &book)?;
            compare_lines(project, &expected, &self.bill_of(project, server).await?)?;
        }
        Ok(())
    }

    /// Each project's bill of one server against another's, line by line, to the last digit.
    pub(crate) async fn compare_bills_of(
        &self,
        expected: &Server,
        found: &Server,
    ) -> anyhow::Result<()> {
        for project in self.projects() {
            let expected = self.bill_of(project, expected).await?;
            compare_lines(project, &expected, &self.bill_of(project, found).await?)?;
        }
        Ok(())
    }

    fn projects(&self) -> BTreeSet<&str> {
        self.known.iter().map(|known| &*known.project).collect()
    }

    async fn bill_of(&self, project: &str, server: &Server) -> anyhow::Result<Invoice> {
        let (start, end) = (self.fleet.start, self.end.hour());
        let path = format!("/v1/invoices?project={project}&start={start}&end={end}&tz=UTC");
        let answer = server.get(&path, "application/json").await?;
        serde_json::from_str(&answer).context("not an invoice")
    }

    fn bill(&self, project: &str, period: &Period, book: &PriceBook) -> anyhow::Result<Invoice> {
        let rows: Vec<UsageRow> = self
            .known
            .iter()
            .filter(|known| &*known.project == project && known.hour < period.end())
            .map(|known| UsageRow {
                start: known.hour,
                end: known.hour.plus_micros(MICROS_PER_HOUR),
                resource: Arc::clone(&known.resource),
                kind: known.kind.clone(),
                meter: known.meter.clone(),
                labels: Labels::none(),
                project: Arc::clone(&known.project),
                quantity: Quantity(known.pico),
                observed_micros: 0,
            })
            .collect();
        let charges = rate(&rows, book, |row| self.state(row))?;
        Ok(invoice(project, period, &charges, book, Detail::Prices)?)
    }

    /// A state of the row's resource in its hour: prices of the built-in book do not depend on
    /// which.
    fn state(&self, row: &UsageRow) -> Option<&Resource> {
        let segments = self.history.get(&row.resource)?.segments();
        let lived = |segment: &&nilometer_contract::Segment| {
            segment.start < row.end && segment.end.is_none_or(|end| end > row.start)
        };
        segments.iter().find(lived).map(|segment| segment.state.as_ref())
    }
}

/// Of each sample of a batch.
pub(crate) fn identities(batch: &SampleBatch) -> impl Iterator<Item = Identity> {
    (0..batch.len()).map(|row| {
        let meter = batch.meters.name.value(usize::from(batch.meter[row])).to_owned();
        let resource = batch.subjects.id.value(batch.resource[row] as usize).to_owned();
        (meter, resource, batch.at[row])
    })
}

/// All samples that a server shows.
pub(crate) async fn visible(server: &Server) -> anyhow::Result<Vec<(Identity, f64)>> {
    let query = "SELECT meter, resource, CAST(at AS BIGINT) AS at, value FROM samples";
    let answer = server.sql(query).await?;
    let row = |line: &str| {
        let mut parts = line.split(',');
        let mut part = || parts.next().context("a column is missing");
        let identity = (part()?.to_owned(), part()?.to_owned(), part()?.parse()?);
        Ok((identity, part()?.parse()?))
    };
    answer.lines().skip(1).map(row).collect()
}

fn compare_lines(project: &str, expected: &Invoice, found: &Invoice) -> anyhow::Result<()> {
    let lines = |invoice: &Invoice| -> BTreeMap<String, String> {
        let used = invoice.lines.iter().filter(|line| line.quantity != Quantity(0));
        used.map(|line| {
            let name = format!("{} of {}", line.meter, line.kind);
            (name, format!("{} {} = {:?}", line.quantity, line.unit, line.amount))
        })
        .collect()
    };
    let (expected_lines, found_lines) = (lines(expected), lines(found));
    if expected_lines.is_empty() {
        bail!("the bill of {project} has no lines: the test says nothing");
    }
    for name in expected_lines.keys().chain(found_lines.keys()) {
        let (expected, found) = (expected_lines.get(name), found_lines.get(name));
        if expected != found {
            bail!("bill of {project}, {name}: expected {expected:?}, found {found:?}");
        }
    }
    if expected.total != found.total {
        bail!("bill of {project}: expected {:?}, found {:?}", expected.total, found.total);
    }
    Ok(())
}
