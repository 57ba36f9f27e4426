//! The judgement: what is stored against what sources gave, and bills against what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use nilometer_contract::{
    EVENTS, GAPS, Gap, LifecycleEvent, SAMPLES, SampleBatch, decode, partition_of,
};

use crate::bills;
use crate::broker::{Landed, Refused};
use crate::host::Host;
use crate::lives::Known;
use crate::sites::{Ground, INTERVAL, PARTITIONS};
use crate::source::Reading;
use crate::tables::{GapRow, Identity, Letter, Stored};
use crate::world::World;

/// Samples that are younger when their agent is killed may be in its memory alone: those of an
/// attempt at the log that has not failed yet, and the last observations.
const IN_MEMORY_MICROS: i64 = 10_000_000 + 3 * INTERVAL.as_micros() as i64;

/// How long an observation takes, at most.
const TORN_MICROS: i64 = 1_000_000;

/// A process that was killed.
#[derive(Clone, Debug)]
pub(crate) struct Killed {
    host: String,
    life: u64,
    at: i64,
    /// Older samples were on disk.
    since: i64,
}

impl Killed {
    /// Killed now; `disk_away` is since when it had no disk, if it had none.
    pub(crate) fn now(host: &Host, life: u64, disk_away: Option<i64>) -> Self {
        let at = host.world.elapsed();
        let since = disk_away.unwrap_or(at) - IN_MEMORY_MICROS;
        Killed { host: host.name.clone(), life, at, since }
    }
}

/// What became of the samples that sources gave.
#[derive(Default)]
pub(crate) struct Found {
    /// Readings in the tables, in order of true time.
    pub(crate) stored: Vec<Reading>,
    /// Resources of which a reading is missing, or may be.
    pub(crate) touched: BTreeSet<String>,
    /// Resources of which an event may be missing.
    pub(crate) unannounced: BTreeSet<String>,
    /// Readings that are missing, all for a reason.
    missing: u64,
}

/// Judges a run that has ended; says how many samples are missing for a known reason.
pub(crate) async fn check(
    ground: &Ground,
    world: &Arc<World>,
    killed: &[Killed],
    hosts: &[Arc<Host>],
) -> anyhow::Result<u64> {
    let mut stored = Stored::read(&ground.bare_storage()?).await.context("the tables")?;
    add_unheard(ground, &mut stored);
    world.note(format!("{} identities are stored", stored.samples.len()));
    let readings = ground.said.readings().clone();
    ensure!(!readings.is_empty(), "the run says nothing");
    let removed = removed(ground);
    let mut found = samples(&stored, &readings, killed, &removed)?;
    letters(ground, &stored)?;
    for host in hosts {
        count_lost(&stored, &readings, &found, killed, &host.name, &unheard(ground, &host.name))?;
        stood_still(&stored, killed, host)?;
    }
    world.note(format!("{} samples are missing for a reason", found.missing));
    let touched = readings.iter().filter(|reading| may_be_touched(&stored, reading));
    found.touched.extend(touched.map(|reading| reading.resource.clone()));
    found.unannounced = unannounced(ground);
    found.touched.extend(found.unannounced.iter().cloned());
    let known = hosts.iter().map(|host| Known {
        host: host.clone(),
        killed: killed.iter().any(|killed| killed.host == host.name),
    });
    let known: Vec<Known> = known.collect();
    bills::check(ground, world, &found, &known).await.context("bills")?;
    Ok(found.missing)
}

/// Every reading is stored once, or missing for a reason; nothing else is stored.
fn samples(
    stored: &Stored,
    readings: &[Reading],
    killed: &[Killed],
    removed: &Removed,
) -> anyhow::Result<Found> {
    let mut left = stored.samples.clone();
    let mut found = Found::default();
    for reading in readings {
        let identity: Identity = (reading.meter.to_owned(), reading.resource.clone(), reading.at.0);
        let values = left.get_mut(&identity);
        let place = values.iter().flat_map(|values| values.iter()).position(same(reading));
        match place.zip(values) {
            Some((place, values)) => {
                values.remove(place);
                found.stored.push(reading.clone());
            }
            None if was_killed(reading, killed) => found.missing += 1,
            None if stored.gaps.iter().any(|gap| {
                covers(gap, reading) || tears(gap, reading) || was_in_file(gap, reading)
            }) || is_removed(stored, removed, &identity) =>
            {
                found.touched.insert(reading.resource.clone());
                found.missing += 1;
            }
            None => {
                let (there, taken) = (stored.samples.get(&identity), removed.get(&identity));
                let lost = stored.gaps.iter().filter(|gap| gap.kind == "lost");
                let lost: Vec<String> = lost.map(|gap| format!("\n  {gap:?}")).collect();
                bail!(
                    "{reading:?} is not stored, and nothing says why; there is {there:?}, taken \
                     from the log {taken:?}, gaps:{}",
                    lost.concat()
                )
            }
        }
    }
    left.retain(|_, values| !values.is_empty());
    if let Some((identity, values)) = left.first_key_value() {
        bail!("{identity:?} = {values:?} is stored twice, or no source gave it");
    }
    Ok(found)
}

/// What was sent to be refused was refused, each record once unless the log lost it, and nothing
/// else was.
fn letters(ground: &Ground, stored: &Stored) -> anyhow::Result<()> {
    // Offsets come again in a log that was replaced.
    let mut left: BTreeMap<Refused, i64> = BTreeMap::new();
    for place in ground.broker.hostile() {
        *left.entry(place).or_default() += 1;
    }
    for letter in &stored.letters {
        let Letter { topic, partition, offset, row } = letter.clone();
        let place = (topic, partition, offset, row.max(-1));
        let of_place = left.entry(place).or_default();
        *of_place -= 1;
        ensure!(*of_place >= 0, "{letter:?} is not to be refused");
    }
    for landed in ground.broker.removed() {
        let (partition, offset) = (i64::from(landed.partition), landed.record.offset as i64);
        for row in [-1, 0] {
            left.entry((landed.topic.clone(), partition, offset, row)).and_modify(|n| *n -= 1);
        }
    }
    left.retain(|_, count| *count > 0);
    ensure!(left.is_empty(), "not among the dead letters: {left:?}");
    Ok(())
}

/// Adds the gaps that agents recorded and the log lost, if the ingester says that it lost some.
fn add_unheard(ground: &Ground, stored: &mut Stored) {
    if !stored.gaps.iter().any(|gap| gap.kind == "lost" && gap.of_topic == GAPS) {
        return;
    }
    for landed in ground.broker.removed().iter().filter(|landed| landed.topic == GAPS) {
        let Ok(gap) = Gap::decode(&landed.record.payload) else { continue };
        let row = GapRow {
            kind: gap.kind.as_str().to_owned(),
            agent: gap.agent,
            node: gap.node,
            of_topic: gap.topic,
            of_partition: gap.partition.map_or(-1, i64::from),
            start: gap.start.0,
            end: gap.end.0,
            samples: gap.samples as i64,
            reason: gap.reason,
        };
        if !stored.gaps.contains(&row) {
            stored.gaps.push(row);
        }
    }
}

/// Resources of which the log lost an event.
fn unannounced(ground: &Ground) -> BTreeSet<String> {
    let removed = ground.broker.removed();
    let events = removed.iter().filter(|landed| landed.topic == EVENTS);
    let events = events.filter_map(|landed| LifecycleEvent::decode(&landed.record.payload).ok());
    events.map(|event| event.resource.id).collect()
}

/// Samples in records that a fault took from the log: partition and when it was appended.
type Removed = BTreeMap<Identity, (i64, i64)>;

fn removed(ground: &Ground) -> Removed {
    let place = |landed: Landed| (i64::from(landed.partition), landed.record.appended_at_micros);
    identities(ground.broker.removed()).map(|(identity, of)| (identity, place(of))).collect()
}

/// Samples in records.
fn identities(landed: Vec<Landed>) -> impl Iterator<Item = (Identity, Landed)> {
    let of_samples = landed.into_iter().filter(|landed| landed.topic == SAMPLES);
    of_samples.flat_map(|landed| {
        let batch = decode(&landed.record.payload).ok();
        let of = move |batch: SampleBatch| {
            let identity = |row: usize| {
                let meter = batch.meters.name.value(usize::from(batch.meter[row])).to_owned();
                let resource = batch.subjects.id.value(batch.resource[row] as usize).to_owned();
                ((meter, resource, batch.at[row]), landed.clone())
            };
            (0..batch.len()).map(identity).collect::<Vec<_>>()
        };
        batch.map(of).unwrap_or_default()
    })
}

/// Whether the log lost it, and the ingester says so of that partition and time.
fn is_removed(stored: &Stored, removed: &Removed, identity: &Identity) -> bool {
    let Some(&(partition, appended)) = removed.get(identity) else { return false };
    stored.gaps.iter().any(|gap| {
        (gap.kind.as_str(), gap.agent.as_str()) == ("lost", "")
            && (gap.of_topic.as_str(), gap.of_partition) == (SAMPLES, partition)
            // From an instant of the log's clock to one of the ingester's.
            && (gap.start..=gap.end + bills::CLOCKS_APART_MICROS).contains(&appended)
    })
}

fn same(reading: &Reading) -> impl Fn(&f64) -> bool {
    let value = reading.value;
    move |found| *found == value
}

fn was_killed(reading: &Reading, killed: &[Killed]) -> bool {
    killed.iter().any(|killed| {
        (&killed.host, killed.life) == (&reading.host, reading.life)
            && (killed.since..=killed.at).contains(&reading.seen)
    })
}

fn covers(gap: &GapRow, reading: &Reading) -> bool {
    let partition = i64::from(partition_of(&reading.resource, PARTITIONS));
    gap.kind == "lost"
        && gap.of_topic == SAMPLES
        && (gap.of_partition < 0 || gap.of_partition == partition)
        && gap.agent == reading.host
        && (gap.start..gap.end).contains(&reading.at.0)
}

/// Whether it may be of a damaged file, and the log has it no more.
fn was_in_file(gap: &GapRow, reading: &Reading) -> bool {
    gap.kind == "lost"
        && gap.reason.contains("damaged files of samples")
        && (gap.start..gap.end).contains(&reading.at.0)
}

/// Whether a gap says that something of its host may be missing, which usage takes into account.
fn may_be_touched(stored: &Stored, reading: &Reading) -> bool {
    let concerns = |gap: &GapRow| gap.node.is_empty() || gap.node == reading.host;
    stored.gaps.iter().any(|gap| gap.kind != "late" && concerns(gap))
}

/// An observation during which a clock was stepped is not kept.
fn tears(gap: &GapRow, reading: &Reading) -> bool {
    let span = gap.start - TORN_MICROS..=gap.end + TORN_MICROS;
    gap.reason.contains("clock was stepped")
        && gap.agent == reading.host
        && span.contains(&reading.at.0)
}

/// An agent whose host stood still says so, but for the observations at both ends.
fn stood_still(stored: &Stored, killed: &[Killed], host: &Host) -> anyhow::Result<()> {
    let was_killed = killed.iter().any(|killed| killed.host == host.name);
    if was_killed || host.clock.was_set() {
        return Ok(());
    }
    let ends = 2 * INTERVAL.as_micros() as i64;
    for (from, to) in host.stood_still() {
        let (start, end) = (host.clock.shown_at(from).0, host.clock.shown_at(to).0);
        let says = |gap: &&GapRow| gap.kind == "unobserved" && gap.agent == host.name;
        let said = stored.gaps.iter().filter(says);
        let most = said.map(|gap| gap.end.min(end) - gap.start.max(start)).max();
        let right = end - start <= ends || most.is_some_and(|most| most >= end - start - ends);
        ensure!(right, "{} stood still from {start} to {end}, and nothing says so", host.name);
    }
    Ok(())
}

/// Samples that the log has of a host, without the host having heard of it.
fn unheard(ground: &Ground, host: &str) -> BTreeSet<Identity> {
    identities(ground.broker.unheard(host)).map(|(identity, _)| identity).collect()
}

/// What an agent says that it lost is what is missing, to the sample; where the agent was killed
/// as well, at most that. What it says that may be in the log is missing or unheard of.
fn count_lost(
    stored: &Stored,
    readings: &[Reading],
    found: &Found,
    killed: &[Killed],
    host: &str,
    unheard: &BTreeSet<Identity>,
) -> anyhow::Result<()> {
    let of_host =
        |gap: &&&GapRow| gap.agent == host && gap.kind == "lost" && gap.of_topic == SAMPLES;
    // One that was sent again is there twice.
    let said: BTreeSet<&GapRow> = stored.gaps.iter().filter(|gap| of_host(&gap)).collect();
    let (at_most, lost): (Vec<&GapRow>, Vec<&GapRow>) =
        said.into_iter().partition(|gap| gap.reason.contains("at most"));
    let samples = |gaps: Vec<&GapRow>| gaps.iter().map(|gap| gap.samples).sum::<i64>();
    let (lost, at_most) = (samples(lost), samples(at_most));
    let given = readings.iter().filter(|reading| reading.host == host).count() as i64;
    let there = found.stored.iter().filter(|reading| reading.host == host).count() as i64;
    let missing = given - there;
    let killed = killed.iter().any(|killed| killed.host == host);
    let by_log = stored.gaps.iter().any(|gap| gap.agent.is_empty() && gap.kind == "lost");
    let most = lost + at_most;
    let least = most - at_most.min(unheard.len() as i64);
    let right = if killed || by_log { lost <= missing } else { (least..=most).contains(&missing) };
    ensure!(
        right,
        "{host} says that {lost} samples are lost and {at_most} at most, of {} it did not hear that \
         they arrived, and {missing} are missing",
        unheard.len()
    );
    Ok(())
}
