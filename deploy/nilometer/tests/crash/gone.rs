//! What faults took, reckoned from the bytes that they destroyed, and what the tables must say of
//! it.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use nilometer_contract::{Change, Gap, GapKind, LifecycleEvent, Resource, SAMPLES, Timestamp};
use serde_json::Value;

use crate::held::Held;
use crate::oracle::Identity;
use crate::process::Server;

/// Which damage took a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The log was replaced by an empty one.
    LostLog,
    /// A flip in a segment of the log.
    LogFlip,
    /// A flip in a record of the agent's spool; `whole_header` if what the record says of itself
    /// is still there.
    SpoolFlip { whole_header: bool },
}

/// All that was destroyed and was nowhere else at that time.
#[derive(Default)]
pub(crate) struct Gone {
    /// With how many samples each had.
    records: Vec<(By, Held, u64)>,
    pub(crate) samples: BTreeSet<Identity>,
    pub(crate) events: BTreeSet<String>,
    /// Whether the log has lost anything, stored elsewhere or not.
    pub(crate) log_is_damaged: bool,
}

impl Gone {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds records of which the samples and events are nowhere but in `elsewhere`.
    pub(crate) fn add(
        &mut self,
        by: By,
        records: Vec<Held>,
        (samples, events): (&BTreeSet<Identity>, &BTreeSet<String>),
    ) {
        self.log_is_damaged |= !matches!(by, By::SpoolFlip { .. });
        for mut record in records {
            let whole = record.samples.len() as u64;
            record.samples.retain(|identity| !samples.contains(identity));
            record.event = record.event.filter(|event| !events.contains(event));
            self.samples.extend(record.samples.iter().cloned());
            self.events.extend(record.event.clone());
            self.records.push((by, record, whole));
        }
    }

    /// Every sample that is missing was destroyed and a gap says so; no gap says more.
    pub(crate) fn check_gaps(
        &self,
        gaps: &[Gap],
        missing: &BTreeSet<Identity>,
    ) -> anyhow::Result<()> {
        let lost = |gap: &&Gap| gap.kind == GapKind::Lost && gap.topic == SAMPLES;
        for (by, record, _) in &self.records {
            for identity in record.samples.intersection(missing) {
                let said = gaps.iter().filter(lost).any(|gap| says(gap, *by, record, identity));
                ensure!(said, "{identity:?} is gone by {by:?}, and no gap says so: {gaps:#?}");
            }
        }
        let said = |of: fn(&Gap) -> bool, what: fn(&Gap) -> u64| -> u64 {
            gaps.iter().filter(lost).filter(|gap| of(gap)).map(what).sum()
        };
        let by_log = said(|gap| gap.agent.is_empty(), |gap| gap.records);
        let (least, most) = self.count(By::LogFlip, missing, |_| 1);
        // Of a log that was replaced the ingester says how much it saw of it.
        let (_, replaced) = self.count(By::LostLog, missing, |_| 1);
        self.compare("records of the log", by_log, (least, most + replaced))?;
        let by_agent = said(|gap| !gap.agent.is_empty(), |gap| gap.samples);
        let flips = By::SpoolFlip { whole_header: true };
        self.compare("samples of the spool", by_agent, self.count(flips, missing, |whole| whole))
    }

    /// How many at least and at most are to be said: of records of which something is missing, and
    /// of all that were destroyed, since who lost one need not know that there is another copy.
    fn count(&self, by: By, missing: &BTreeSet<Identity>, of: fn(u64) -> u64) -> (u64, u64) {
        let of_samples =
            self.records.iter().filter(|(with, held, _)| *with == by && held.topic == SAMPLES);
        let counts = of_samples.map(|(_, record, whole)| {
            let is_missing = !record.samples.is_disjoint(missing);
            (if is_missing { of(*whole) } else { 0 }, of(*whole))
        });
        counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
    }

    fn compare(&self, what: &str, said: u64, (least, most): (u64, u64)) -> anyhow::Result<()> {
        ensure!(
            (least..=most).contains(&said),
            "gaps say that {said} {what} are lost, and {least} to {most} are"
        );
        Ok(())
    }
}

fn says(gap: &Gap, by: By, record: &Held, (_, _, at): &Identity) -> bool {
    let partition = gap.partition.is_none_or(|partition| partition == record.partition);
    match by {
        // The end is by the ingester's clock, which may have been stepped.
        By::LostLog | By::LogFlip => {
            gap.agent.is_empty() && partition && gap.start.0 <= record.appended_at
        }
        By::SpoolFlip { .. } => {
            !gap.agent.is_empty() && partition && (gap.start.0..gap.end.0).contains(at)
        }
    }
}

/// The gaps that a server shows.
pub(crate) async fn gaps(server: &Server) -> anyhow::Result<Vec<Gap>> {
    let query = r#"SELECT kind, agent, node, of_topic, of_partition, CAST(start AS BIGINT),
        CAST("end" AS BIGINT), records, samples FROM gaps"#;
    let answer = server.sql(query).await?;
    let row = |line: &str| {
        let mut parts = line.split(',');
        let mut part = || parts.next().context("a column is missing");
        let kind = format!("\"{}\"", part()?);
        Ok(Gap {
            kind: serde_json::from_str(&kind)?,
            agent: part()?.to_owned(),
            node: part()?.to_owned(),
            sources: Vec::new(),
            topic: part()?.to_owned(),
            partition: part()?.parse().ok(),
            start: Timestamp(part()?.parse()?),
            end: Timestamp(part()?.parse()?),
            records: part()?.parse()?,
            samples: part()?.parse()?,
            reason: "as the other says".to_owned(),
        })
    };
    answer.lines().skip(1).map(row).collect()
}

/// Ids of the events that a server shows.
pub(crate) async fn events(server: &Server) -> anyhow::Result<BTreeSet<String>> {
    let answer = server.sql("SELECT id FROM events").await?;
    Ok(answer.lines().skip(1).map(|line| line.trim().to_owned()).collect())
}

/// Events that a server shows of these resources, but for those that are known. An agent says of
/// what it finds again what it was, which is another event than the one that said it first.
pub(crate) async fn said_again(
    server: &Server,
    resources: &BTreeSet<&str>,
    known: &BTreeSet<String>,
) -> anyhow::Result<Vec<LifecycleEvent>> {
    if resources.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = resources.iter().map(|id| format!("'{id}'")).collect();
    let query = format!(
        "SELECT *, CAST(at AS BIGINT) AS micros FROM events WHERE resource IN ({})",
        names.join(", ")
    );
    let rows: Vec<Value> = serde_json::from_str(&server.sql_as(&query, "application/json").await?)?;
    let events = rows.iter().map(event).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(events.into_iter().filter(|event| !known.contains(&event.id())).collect())
}

fn event(row: &Value) -> anyhow::Result<LifecycleEvent> {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let change = match text("change").as_str() {
        "created" => Change::Created,
        "changed" => Change::Changed,
        _ => Change::Deleted,
    };
    let resource = Resource {
        project: text("project"),
        name: text("name"),
        node: text("node"),
        parent: Some(text("parent")).filter(|parent| !parent.is_empty()),
        attributes: serde_json::from_str(&text("attributes"))?,
        ..Resource::new(text("resource"), text("kind").parse()?)
    };
    let at = Timestamp(row["micros"].as_i64().context("no instant")?);
    let event = LifecycleEvent { change, at, resource, source: text("source") };
    ensure!(event.id() == text("id"), "{row} is not what it was made of");
    Ok(event)
}
