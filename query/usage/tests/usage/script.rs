//! A small language for cases: what happened to one resource, line by line, and the rows it gave.
//!
//! ```text
//! created 0s project=a vcpus=2      an event; project and parent, the rest are attributes
//! changed 90m project=b
//! deleted 2h
//! samples 0s=0 60s=30               at=value
//! window 0s 3h                      default: the first day
//! as_of 2h30m                       default: the window's end
//! ```
//!
//! Times count from 2026-11-01T00:00:00Z. A row reads `start..end owner quantity seen observed`.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use nilometer_contract::{
    Catalogue, Change, History, Labels, LifecycleEvent, Lifetime, MICROS_PER_SECOND, Meter,
    Resource, ResourceKind, Timestamp,
};
use nilometer_usage::{
    Names, ParentUsage, Points, Tenure, UsageRow, Window, allocation_usage, series_usage,
    series_usage_by_parent,
};

/// One meter of each kind, with a hold of five minutes.
pub(crate) static METERS: LazyLock<Catalogue> = LazyLock::new(|| {
    let meters = [
        ("counter", "kind = 'counter'\nunit = 'seconds'"),
        ("gauge", "kind = 'gauge'\nunit = 'bytes'"),
        ("delta", "kind = 'delta'\nunit = '1'"),
        ("lifetime", "kind = 'allocation'\nunit = '1'"),
        ("vcpus", "kind = 'allocation'\nunit = '1'\nattribute = 'vcpus'"),
    ];
    let mut text = "default_hold_seconds = 300\n[[kind]]\nname = 'vm'\n".to_owned();
    for (name, rest) in meters {
        let entry = format!("name = '{name}'\n{rest}\nresources = ['vm']\ndescription = ''");
        writeln!(text, "[[meter]]\n{entry}").unwrap();
    }
    Catalogue::parse(&text).unwrap()
});

pub(crate) fn meter(name: &str) -> &'static Arc<Meter> {
    METERS.find(name).unwrap()
}

/// The instant `micros` after the origin.
pub(crate) fn instant(micros: i64) -> Timestamp {
    let origin: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    origin.plus_micros(micros)
}

const UNITS: [(&str, i64); 5] = [
    ("h", 3_600 * MICROS_PER_SECOND),
    ("m", 60 * MICROS_PER_SECOND),
    ("s", MICROS_PER_SECOND),
    ("ms", 1_000),
    ("us", 1),
];

/// Reads `1h30m`, `61s`, `1s500ms`, `-5s`.
pub(crate) fn micros(text: &str) -> i64 {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut total = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).expect("a unit");
        let (number, tail) = rest.split_at(digits);
        let upto = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(upto);
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).expect("h, m, s, ms, us");
        total += number.parse::<i64>().expect("a number") * size;
        rest = tail;
    }
    sign * total
}

fn duration(mut micros: i64) -> String {
    let mut text = String::new();
    for (unit, size) in UNITS {
        if micros / size > 0 {
            write!(text, "{}{unit}", micros / size).unwrap();
            micros %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// What happened to one resource.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) events: Vec<LifecycleEvent>,
    pub(crate) samples: Vec<(i64, f64)>,
    pub(crate) window: Window,
    pub(crate) as_of: Timestamp,
}

pub(crate) fn vm(project: &str, parent: &str) -> Resource {
    let mut resource = Resource::new("vm-1", ResourceKind::VM);
    resource.project = project.to_owned();
    resource.parent = Some(parent.to_owned()).filter(|parent| !parent.is_empty());
    resource
}

pub(crate) fn event(change: Change, at: Timestamp, resource: Resource) -> LifecycleEvent {
    LifecycleEvent { change, at, resource, source: "test".to_owned() }
}

impl Script {
    pub(crate) fn parse(text: &str) -> Self {
        let day = Window { start: instant(0), end: instant(24 * UNITS[0].1) };
        let mut script =
            Script { events: vec![], samples: vec![], window: day, as_of: Timestamp::MAX };
        let mut state = vm("", "");
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let pairs = || words.iter().filter_map(|word| word.split_once('='));
            let time = |n: usize| instant(micros(words[n]));
            let change = match words[0] {
                "created" => Change::Created,
                "changed" => Change::Changed,
                "deleted" => Change::Deleted,
                "samples" => {
                    let sample = |(at, value): (&str, &str)| {
                        (instant(micros(at)).0, value.parse().expect("a number"))
                    };
                    script.samples.extend(pairs().map(sample));
                    continue;
                }
                "window" => {
                    script.window = Window { start: time(1), end: time(2) };
                    continue;
                }
                "as_of" => {
                    script.as_of = time(1);
                    continue;
                }
                other => panic!("unknown word {other}"),
            };
            for (key, value) in pairs() {
                match key {
                    "project" => state.project = value.to_owned(),
                    "parent" => state.parent = Some(value.to_owned()),
                    _ => drop(state.attributes.insert(key.to_owned(), value.to_owned())),
                }
            }
            script.events.push(event(change, time(1), state.clone()));
        }
        script
    }

    pub(crate) fn lifetime(&self) -> Option<Lifetime> {
        let mut history = History::default();
        for event in &self.events {
            history.apply(event.clone());
        }
        history.get("vm-1").cloned()
    }

    pub(crate) fn tenure(&self, name: &str, points: &Points) -> Tenure {
        let meter = meter(name);
        match self.lifetime() {
            Some(life) => Tenure::announced("vm-1".into(), &life, &mut Names::default()),
            None => {
                let series = points.series(meter);
                Tenure::sighted("vm-1".into(), ResourceKind::VM, "p".into(), &series)
            }
        }
    }

    /// The rows of a meter from these samples, over a window.
    pub(crate) fn rows_of(&self, name: &str, points: &Points, window: Window) -> Vec<UsageRow> {
        let (meter, mut rows) = (meter(name), Vec::new());
        let tenure = self.tenure(name, points);
        allocation_usage(&tenure, meter, window, self.as_of, &mut rows);
        series_usage(&points.series(meter), &tenure, window, self.as_of, &mut rows);
        rows
    }

    pub(crate) fn points(&self) -> Points {
        Points::collect(self.samples.iter().copied()).unwrap()
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<UsageRow> {
        self.rows_of(name, &self.points(), self.window)
    }

    pub(crate) fn rows_by_parent(&self, name: &str) -> Vec<ParentUsage> {
        let (meter, points, mut rows) = (meter(name), self.points(), Vec::new());
        let tenure = self.tenure(name, &points);
        let series = points.series(meter);
        series_usage_by_parent(&series, &tenure, self.window, self.as_of, &mut rows);
        rows
    }
}

pub(crate) fn row_text(row: &UsageRow) -> String {
    let offset = |at: Timestamp| duration(at.0 - instant(0).0);
    let (start, end) = (offset(row.start), offset(row.end));
    let observed = duration(row.observed_micros);
    format!("{start}..{end} {} {} seen {observed}", Arc::clone(&row.project), row.quantity)
}

/// Runs a script and compares the rows of a meter with what they should be.
pub(crate) fn check(name: &str, script: &str, expected: &str) {
    let found: Vec<String> = Script::parse(script).rows(name).iter().map(row_text).collect();
    let lines = expected.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let expected: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(found, expected, "{name} of\n{script}");
}

/// The same by parent; the row's owner is the parent.
pub(crate) fn check_by_parent(name: &str, script: &str, expected: &str) {
    let rows = Script::parse(script).rows_by_parent(name).into_iter().map(|row| UsageRow {
        start: row.start,
        end: row.end,
        resource: row.resource,
        kind: row.kind,
        meter: row.meter,
        labels: Labels::none(),
        project: row.parent,
        quantity: row.quantity,
        observed_micros: row.observed_micros,
    });
    let found: Vec<String> = rows.map(|row| row_text(&row)).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(found, expected, "{name} of\n{script}");
}
