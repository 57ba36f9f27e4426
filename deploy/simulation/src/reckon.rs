//! Usage reckoned a second way: plain, from readings in order of true time.
//!
//! - counter: the sum of increases; after a fall, the new value, and after one between two epochs
//!   nothing. An increase between two readings
//!   spreads evenly, each share cut to 10⁻¹² units from the start on. A counter stood at zero at
//!   a birth that was announced, if its first reading comes within the hold time.
//!   The first reading at or after the end, which may be an estimate, is the final one.
//! - gauge: level × time until the next reading, at most the hold time.
//! - allocation: size × time between lifecycle changes.

use std::collections::BTreeMap;

use nilometer_contract::{History, MICROS_PER_HOUR, ResourceKind, Segment, Timestamp};
use nilometer_usage::Window;

use crate::bills::HOLD_MICROS;
use crate::source::Reading;

/// What is added up in one figure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    pub(crate) hour: Timestamp,
    pub(crate) resource: String,
    pub(crate) kind: ResourceKind,
    pub(crate) meter: String,
    pub(crate) project: String,
}

/// Usage in 10⁻¹² units of each account; none of it is zero.
pub(crate) fn reckon(
    history: &History,
    readings: &[Reading],
    window: Window,
    newest: Timestamp,
) -> BTreeMap<Account, i128> {
    let mut series: BTreeMap<(&str, &str), Vec<&Reading>> = BTreeMap::new();
    for reading in readings {
        series.entry((&reading.resource, reading.meter)).or_default().push(reading);
    }
    let (start, end) = (window.start.0, window.end.0.min(newest.0));
    let mut reckoning = Reckoning { start, end, accounts: BTreeMap::new() };
    for ((resource, meter), readings) in series {
        // Of one whose events were lost nothing is compared.
        let Some(lifetime) = history.get(resource) else { continue };
        if lifetime.segments().is_empty() {
            continue;
        }
        match meter {
            "cpu.time" => reckoning.counter(lifetime.segments(), &readings),
            _ => reckoning.gauge(lifetime.segments(), &readings),
        }
    }
    for (_, lifetime) in history.iter() {
        reckoning.allocations(lifetime.segments());
    }
    reckoning.accounts.retain(|_, pico| *pico != 0);
    reckoning.accounts
}

struct Reckoning {
    start: i64,
    end: i64,
    accounts: BTreeMap<Account, i128>,
}

impl Reckoning {
    fn counter(&mut self, segments: &[Segment], readings: &[&Reading]) {
        let nanos = |reading: &Reading| (reading.value * 1e9).round() as i128;
        let born = segments.first().map_or(0, |segment| segment.start.0);
        let died = segments.last().and_then(|segment| segment.end).map_or(i64::MAX, |end| end.0);
        let mut before = readings
            .first()
            .filter(|first| first.at.0 > born && first.at.0 - born <= HOLD_MICROS)
            .map(|first| (born, 0, first.epoch));
        for reading in readings {
            let (at, value) = (reading.at.0, nanos(reading));
            if let Some((from, last, epoch)) = before {
                let increase = match value < last {
                    false => value - last,
                    true if epoch == reading.epoch => value,
                    true => 0,
                };
                let (increase, until) = (increase * 1_000, at.min(died));
                self.cut(segments, reading.meter, (from, until), |share| {
                    increase * i128::from(share - from) / i128::from(until - from)
                });
            }
            if at >= died {
                return;
            }
            before = Some((at, value, reading.epoch));
        }
    }

    fn gauge(&mut self, segments: &[Segment], readings: &[&Reading]) {
        let died = segments.last().and_then(|segment| segment.end);
        for (n, reading) in readings.iter().enumerate() {
            let (from, level) = (reading.at.0, reading.value as i128);
            let next = readings.get(n + 1).map_or(i64::MAX, |next| next.at.0);
            let until = next.min(from + HOLD_MICROS).min(died.map_or(i64::MAX, |died| died.0));
            self.cut(segments, reading.meter, (from, until), |share| {
                level * i128::from(share - from) * 1_000_000
            });
        }
    }

    fn allocations(&mut self, segments: &[Segment]) {
        for segment in segments {
            let from = segment.start.0;
            let until = segment.end.map_or(i64::MAX, |end| end.0);
            let vcpus = segment.state.attributes.get("vcpus").and_then(|text| text.parse().ok());
            for (meter, size) in [("cpu.allocation", vcpus.unwrap_or(0)), ("lifetime", 1)] {
                let size: i128 = size;
                self.cut(segments, meter, (from, until), |share| {
                    size * i128::from(share - from) * 1_000_000
                });
            }
        }
    }

    /// Cuts a span at hours and at changes of owner, and adds each piece where it belongs;
    /// `share` says how much there is up to an instant.
    fn cut(
        &mut self,
        segments: &[Segment],
        meter: &str,
        (from, until): (i64, i64),
        share: impl Fn(i64) -> i128,
    ) {
        let (mut at, until) = (from.max(self.start), until.min(self.end));
        while at < until {
            let hour = at.div_euclid(MICROS_PER_HOUR) * MICROS_PER_HOUR;
            let place = segments.partition_point(|segment| segment.start.0 <= at).max(1) - 1;
            let next = segments.get(place + 1).map_or(i64::MAX, |segment| segment.start.0);
            let to = until.min(hour + MICROS_PER_HOUR).min(next);
            let state = &segments[place].state;
            let account = Account {
                hour: Timestamp(hour),
                resource: state.id.clone(),
                kind: state.kind.clone(),
                meter: meter.to_owned(),
                project: state.project.clone(),
            };
            *self.accounts.entry(account).or_default() += share(to) - share(at);
            at = to;
        }
    }
}
