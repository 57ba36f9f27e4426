//! A small fleet, and what must be there of it afterwards: its own samples, and bills from its
//! known usage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use nilometer_contract::{History, MICROS_PER_HOUR, MICROS_PER_SECOND, Resource, Timestamp};
use nilometer_rating::{Detail, Invoice, Period, PriceBook, invoice, rate};
use nilometer_simulated::{Fleet, FleetConfig, KnownUsage, known_usage};
use nilometer_usage::{Quantity, UsageRow};

use crate::process::Server;

/// Partitions of the topics of samples and events.
const PARTITIONS: u32 = 4;
/// Simulated seconds per second: an hour of billing in half a minute.
const FACTOR: u32 = 120;
const STEP_MICROS: i64 = 10 * MICROS_PER_SECOND;
/// 2026-11-02T00:00:00Z
const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);
const SETTLE: Duration = Duration::from_secs(300);

/// Meter, resource and instant.
type Identity = (String, String, i64);

/// What came of the comparison of samples.
pub(crate) struct Verdict {
    pub(crate) samples: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// The fleet and everything that follows from it.
pub(crate) struct Oracle {
    fleet: FleetConfig,
    end: Timestamp,
    samples: BTreeMap<Identity, f64>,
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
        let mut samples = BTreeMap::new();
        let mut history = History::default();
        for (_, seen) in Fleet::new(&fleet)?.steps(end, step_micros) {
            for event in seen.events {
                history.apply(event);
            }
            let batch = seen.samples.build();
            for row in 0..batch.len() {
                let meter = batch.meters.value(usize::from(batch.meter[row])).to_owned();
                let resource = batch.subjects.id.value(batch.resource[row] as usize).to_owned();
                samples.insert((meter, resource, batch.at[row]), batch.value[row]);
            }
        }
        let known = known_usage(&fleet, start, end)?;
        Ok(Oracle { fleet, end, samples, history, known })
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
        let started = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let stored = self.stored(server).await;
            if let Ok(stored) = &stored
                && *stored >= self.samples()
            {
                return;
            }
            if started.elapsed() > SETTLE {
                eprintln!("after {SETTLE:?}: stored {stored:?} of {}", self.samples());
                return;
            }
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
        let query = "SELECT meter, resource, CAST(at AS BIGINT) AS at, value FROM samples";
        let answer = server.sql(query).await?;
        let mut missing = self.samples.clone();
        let (mut samples, mut doubled) = (0, 0);
        for line in answer.lines().skip(1) {
            let mut parts = line.split(',');
            let mut part = || parts.next().context("a column is missing");
            let identity = (part()?.to_owned(), part()?.to_owned(), part()?.parse()?);
            let value: f64 = part()?.parse()?;
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
        Ok(Verdict { samples, lost: missing.len() as u64, doubled })
    }

    /// Each project's bill, line by line, to the last digit.
    pub(crate) async fn compare_bills(&self, server: &Server) -> anyhow::Result<()> {
        let book = PriceBook::built_in();
        let end = Timestamp(self.end.hour().0);
        let period = Period::parse(&self.fleet.start.to_string(), &end.to_string(), "UTC")?;
        let projects: std::collections::BTreeSet<&str> =
            self.known.iter().map(|known| &*known.project).collect();
        for project in projects {
            let expected = self.bill(project, &period, &book)?;
            let path = format!(
                "/v1/invoices?project={project}&start={}&end={end}&tz=UTC",
                self.fleet.start
            );
            let answer = server.get(&path, "application/json").await?;
            let found: Invoice = serde_json::from_str(&answer).context("not an invoice")?;
            compare_lines(project, &expected, &found)?;
        }
        Ok(())
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
                kind: known.kind,
                meter: known.meter,
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
