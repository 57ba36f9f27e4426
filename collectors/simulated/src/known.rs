//! The usage that must come of a fleet, worked out from its own integers.
//!
//! A second way to the same figures, on purpose simple and on purpose not that of the usage
//! engine: it sees the readings before they become floats, in order of time, and adds each up
//! by hour and project at once. The rules:
//!
//! - counter: usage is the sum of increases; a fall means a restart from zero. An increase
//!   between `t1` and `t2` spreads evenly: up to `t` it is `⌊increase × (t − t1) / (t2 − t1)⌋`
//!   in 10⁻¹² units, so that shares add up however they are cut. A resource begins at zero if
//!   its first reading comes within the hold time of its birth.
//! - gauge: level × time until the next reading, at most the hold time, never past the end.
//! - allocation: size × time between lifecycle changes.

use std::collections::HashMap;
use std::sync::Arc;

use nilometer_contract::{
    Change, MICROS_PER_HOUR, MICROS_PER_SECOND, Meter, MeterKind, Resource, ResourceKind,
    Timestamp, catalogue,
};

use crate::config::{ConfigError, FleetConfig};
use crate::fleet::Fleet;
use crate::reading::{Reading, Witness};

const PICO: i128 = 1_000_000_000_000;
const PICO_SECONDS_PER_MICRO: i128 = PICO / MICROS_PER_SECOND as i128;

/// Usage of one meter by one resource for one project in one clock hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownUsage {
    /// Start of the hour (UTC).
    pub hour: Timestamp,
    /// Resource id.
    pub resource: Arc<str>,
    /// Resource kind.
    pub kind: ResourceKind,
    /// Meter.
    pub meter: &'static Arc<Meter>,
    /// Project that owned the resource meanwhile; all its times of ownership in the hour count.
    pub project: Arc<str>,
    /// How much, in 10⁻¹² of the meter's usage unit. Never zero: what was not used has no row.
    pub pico: i128,
}

/// Usage over `[start, end)` when every step of the configuration's grid up to `end` inclusive
/// has been observed. `end` itself should be a step: what lies after the last one is not seen.
pub fn known_usage(
    config: &FleetConfig,
    start: Timestamp,
    end: Timestamp,
) -> Result<Vec<KnownUsage>, ConfigError> {
    let steps = (0..config.steps_until(end)).map(|n| config.step_at(n));
    known_usage_at(config, steps, start, end)
}

/// Usage over `[start, end)` when the fleet has been observed at the given instants, which
/// ascend. Rows are in order of hour, resource and meter.
pub fn known_usage_at(
    config: &FleetConfig,
    instants: impl IntoIterator<Item = Timestamp>,
    start: Timestamp,
    end: Timestamp,
) -> Result<Vec<KnownUsage>, ConfigError> {
    let mut fleet = Fleet::new(config)?;
    let mut ledger = Ledger { start: start.0, end: end.0, ..Ledger::default() };
    for at in instants {
        fleet.witness(at, &mut ledger);
    }
    Ok(ledger.finish())
}

#[derive(Default)]
struct Ledger {
    start: i64,
    end: i64,
    accounts: HashMap<Arc<str>, Account>,
    closed: Vec<KnownUsage>,
}

/// What is known of a living resource.
struct Account {
    id: Arc<str>,
    kind: ResourceKind,
    born: i64,
    /// When each project took it over.
    owners: Vec<(i64, Arc<str>)>,
    /// Since when it has these sizes, in 10⁻⁶ of the unit.
    sized: i64,
    sizes: Vec<(&'static Arc<Meter>, i128)>,
    /// The newest reading of each meter.
    read: Vec<(&'static Arc<Meter>, i64, i128)>,
    /// What it used, by hour, meter and place in `owners`.
    used: HashMap<(i64, &'static Arc<Meter>, usize), i128>,
}

impl Witness for Ledger {
    fn change(&mut self, change: Change, at: i64, resource: &Resource) {
        let period = self.period();
        let id: Arc<str> = resource.id.as_str().into();
        let account =
            self.accounts.entry(id).or_insert_with_key(|id| Account::new(id, at, resource));
        account.count_sizes(period, at);
        account.sized = at;
        account.sizes = sizes(resource);
        if account.owners.last().is_none_or(|(_, owner)| **owner != *resource.project) {
            account.owners.push((at, resource.project.as_str().into()));
        }
        if change == Change::Deleted {
            account.count_levels(period, at);
            let account = self.accounts.remove(resource.id.as_str());
            self.closed.extend(account.into_iter().flat_map(Account::rows));
        }
    }

    fn read(&mut self, at: i64, resource: &Resource, readings: &[Reading]) {
        let period = self.period();
        let Some(account) = self.accounts.get_mut(resource.id.as_str()) else {
            panic!("a resource is created before it is read");
        };
        for &(meter, amount) in readings {
            account.count_reading(period, meter, (at, amount.pico()));
        }
    }
}

impl Ledger {
    fn period(&self) -> (i64, i64) {
        (self.start, self.end)
    }

    fn finish(mut self) -> Vec<KnownUsage> {
        let period = self.period();
        for (_, mut account) in self.accounts {
            account.count_sizes(period, self.end);
            account.count_levels(period, self.end);
            self.closed.extend(account.rows());
        }
        // A project that owned a resource twice in an hour has one row.
        self.closed.sort_unstable();
        self.closed.dedup_by(|later, kept| {
            let key =
                |row: &KnownUsage| (row.hour, row.resource.clone(), row.meter, row.project.clone());
            let same = key(later) == key(kept);
            kept.pico += if same { later.pico } else { 0 };
            same
        });
        self.closed
    }
}

impl Account {
    fn new(id: &Arc<str>, at: i64, resource: &Resource) -> Self {
        Account {
            id: id.clone(),
            kind: resource.kind.clone(),
            born: at,
            owners: Vec::new(),
            sized: at,
            sizes: Vec::new(),
            read: Vec::new(),
            used: HashMap::new(),
        }
    }

    fn rows(self) -> impl Iterator<Item = KnownUsage> {
        let Account { id, kind, owners, used, .. } = self;
        let row = move |((hour, meter, owner), pico): ((i64, &'static Arc<Meter>, usize), i128)| {
            let project = owners[owner].1.clone();
            let kind = kind.clone();
            KnownUsage { hour: Timestamp(hour), resource: id.clone(), kind, meter, project, pico }
        };
        used.into_iter().filter(|&(_, pico)| pico != 0).map(row)
    }

    fn count_reading(
        &mut self,
        period: (i64, i64),
        meter: &'static Arc<Meter>,
        (at, value): (i64, i128),
    ) {
        let entry = meter;
        let known = self.read.iter_mut().find(|known| known.0 == meter);
        let before = known.map(|known| std::mem::replace(known, (meter, at, value)));
        if before.is_none() {
            self.read.push((meter, at, value));
        }
        match (&entry.kind, before) {
            (MeterKind::Counter, Some((_, from, old))) => {
                let increase = if value < old { value } else { value - old };
                self.spread(period, meter, (from, at), increase);
            }
            (MeterKind::Counter, None) if at - self.born <= entry.hold_micros => {
                self.spread(period, meter, (self.born, at), value);
            }
            (MeterKind::Gauge, Some((_, from, level))) => {
                self.hold(period, meter, (from, at.min(from + entry.hold_micros)), level);
            }
            _ => {}
        }
    }

    fn count_levels(&mut self, period: (i64, i64), end: i64) {
        for n in 0..self.read.len() {
            let (meter, from, level) = self.read[n];
            let entry = meter;
            if entry.kind == MeterKind::Gauge {
                self.hold(period, meter, (from, end.min(from + entry.hold_micros)), level);
            }
        }
    }

    fn count_sizes(&mut self, period: (i64, i64), end: i64) {
        let sized = self.sized;
        for n in 0..self.sizes.len() {
            let (meter, size_micro) = self.sizes[n];
            self.cut(period, meter, (sized, end), |at| size_micro * i128::from(at - sized));
        }
    }

    fn hold(
        &mut self,
        period: (i64, i64),
        meter: &'static Arc<Meter>,
        span: (i64, i64),
        level: i128,
    ) {
        let a_micro = level / PICO * PICO_SECONDS_PER_MICRO;
        self.cut(period, meter, span, |at| a_micro * i128::from(at - span.0));
    }

    fn spread(
        &mut self,
        period: (i64, i64),
        meter: &'static Arc<Meter>,
        span: (i64, i64),
        increase: i128,
    ) {
        let (from, upto) = span;
        self.cut(period, meter, span, |at| {
            increase * i128::from(at - from) / i128::from(upto - from)
        });
    }

    /// Cuts `[from, upto)`, as far as it lies in the period, at hours and at changes of owner,
    /// and adds each piece where it belongs; `share` says how much there is up to an instant.
    fn cut(
        &mut self,
        (start, end): (i64, i64),
        meter: &'static Arc<Meter>,
        (from, upto): (i64, i64),
        share: impl Fn(i64) -> i128,
    ) {
        let mut at = from.max(start);
        let upto = upto.min(end);
        while at < upto {
            let hour = at.div_euclid(MICROS_PER_HOUR) * MICROS_PER_HOUR;
            let next = self.owners.partition_point(|&(since, _)| since <= at);
            let handed = self.owners.get(next).map_or(i64::MAX, |&(since, _)| since);
            let until = upto.min(hour + MICROS_PER_HOUR).min(handed);
            *self.used.entry((hour, meter, next - 1)).or_default() += share(until) - share(at);
            at = until;
        }
    }
}

/// The sizes that a resource's attributes allocate, in 10⁻⁶ of the unit.
fn sizes(resource: &Resource) -> Vec<(&'static Arc<Meter>, i128)> {
    let of = |meter: &'static Arc<Meter>| {
        let MeterKind::Allocation { attribute } = &meter.kind else { return None };
        if !meter.is_of(&resource.kind) {
            return None;
        }
        match attribute {
            None => Some((meter, 1_000_000)),
            Some(name) => Some((meter, micro(resource.attributes.get(name)?)?)),
        }
    };
    catalogue().meters().filter_map(of).collect()
}

/// A decimal number of at most six places, in 10⁻⁶.
fn micro(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part: i128 = format!("{part:0<6}").parse().ok()?;
    Some(whole.parse::<i128>().ok()? * 1_000_000 + part)
}
