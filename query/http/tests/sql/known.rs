//! Usage of a simulated fleet through log, ingester and store, against what is known of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{MICROS_PER_HOUR, Scope, Timestamp, catalogue};
use nilometer_engine::{Engine, Limits, Rows, Selection, USAGE_SCHEMA, usage_batch};
use nilometer_http::{Format, render};
use nilometer_simulated::{ChurnConfig, Fleet, FleetConfig, known_usage_at};
use nilometer_store::{CompactionPolicy, SAMPLES, compact};
use nilometer_usage::{Quantity, UsageRow, Window};

use crate::estate::{Estate, Lie};

const MINUTE: i64 = 60_000_000;
const LONG: i64 = 150 * MINUTE;

fn config() -> FleetConfig {
    let churn = ChurnConfig {
        replacements_per_hour: 20,
        jobs_per_hour: 30,
        resizes_per_hour: 10,
        moves_per_hour: 20,
        transfers_per_hour: 10,
        reboots_per_hour: 10,
    };
    let (nodes, vms_and_pods, projects) = (3, 16, 3);
    let step_micros = MINUTE;
    let defaults = FleetConfig::default();
    FleetConfig { seed: 7, nodes, vms_and_pods, projects, step_micros, churn, ..defaults }
}

/// Usage by hour, resource, meter and project; nothing for what was not used.
type Sums = BTreeMap<(Timestamp, Arc<str>, Arc<str>, Arc<str>), i128>;

fn known(config: &FleetConfig, window: Window) -> Sums {
    let steps = (0..config.steps_until(config.start.plus_micros(LONG))).map(|n| config.step_at(n));
    let rows = known_usage_at(config, steps, window.start, window.end).unwrap();
    rows.into_iter()
        .map(|row| ((row.hour, row.resource, row.meter.name.clone(), row.project), row.pico))
        .collect()
}

fn sums(rows: &[UsageRow]) -> Sums {
    let mut sums = Sums::new();
    for row in rows {
        let key =
            (row.start.hour(), row.resource.clone(), row.meter.name.clone(), row.project.clone());
        *sums.entry(key).or_default() += row.quantity.0;
    }
    sums.retain(|_, pico| *pico != 0);
    sums
}

fn windows(config: &FleetConfig) -> Vec<Window> {
    let at = |micros: i64| config.start.plus_micros(micros);
    [
        (0, LONG),
        (0, MICROS_PER_HOUR),
        (MICROS_PER_HOUR, 2 * MICROS_PER_HOUR),
        (17 * MINUTE + 1, 18 * MINUTE + 3),
        (59 * MINUTE, 121 * MINUTE + 7_654_321),
        (LONG - 1, LONG),
        (-MICROS_PER_HOUR, 5 * MINUTE),
    ]
    .map(|(start, end)| Window { start: at(start), end: at(end) })
    .to_vec()
}

async fn check(engine: &Engine, config: &FleetConfig) {
    let meter = engine.meter();
    assert_eq!(meter.newest(), config.start.plus_micros(LONG));
    let all = Selection::default();
    for window in windows(config) {
        let (told, known) = (
            sums(&meter.usage(&Scope::system(), window, &all).await.unwrap()),
            known(config, window),
        );
        assert_eq!(told.len(), known.len(), "{window:?}");
        for (key, pico) in known {
            assert_eq!(told.get(&key), Some(&pico), "{key:?} in {window:?}");
        }
    }
    check_selections(engine, windows(config)[4]).await;
    check_sql(engine, windows(config)[0]).await;
    check_conservation(engine, windows(config)[0]).await;
}

/// A selection tells what it selects of the whole, and changes nothing of it.
async fn check_selections(engine: &Engine, window: Window) {
    let whole =
        engine.meter().usage(&Scope::system(), window, &Selection::default()).await.unwrap();
    let (first, last) = (whole.first().unwrap(), whole.last().unwrap());
    for row in [first, last] {
        let meter = Some(row.meter.name.to_string());
        for selection in [
            Selection { project: Some(row.project.to_string()), ..Selection::default() },
            Selection { resource: Some(row.resource.to_string()), ..Selection::default() },
            Selection { kind: Some(row.kind.clone()), ..Selection::default() },
            Selection {
                meter: meter.clone(),
                kind: Some(row.kind.clone()),
                ..Selection::default()
            },
        ] {
            let part = engine.meter().usage(&Scope::system(), window, &selection).await.unwrap();
            let mut expected = whole.clone();
            expected.retain(|row| {
                selection.project.as_deref().is_none_or(|it| it == &*row.project)
                    && selection.resource.as_deref().is_none_or(|it| it == &*row.resource)
                    && selection.meter.as_deref().is_none_or(|it| it == &*row.meter.name)
                    && selection.kind.as_ref().is_none_or(|it| *it == row.kind)
            });
            assert!(!part.is_empty() && part == expected, "{selection:?}");
        }
    }
}

/// `usage` says in SQL what the meter says.
async fn check_sql(engine: &Engine, window: Window) {
    let rows = engine.meter().usage(&Scope::system(), window, &Selection::default()).await.unwrap();
    let expected = Rows {
        schema: USAGE_SCHEMA.clone(),
        batches: vec![usage_batch(&rows).unwrap()],
        missing: Vec::new(),
    };
    let lines = |rows: &Rows| {
        let text = String::from_utf8(render(rows, Format::Csv).unwrap()).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let told = engine.query(&Scope::system(), "SELECT * FROM usage").await.unwrap();
    assert_eq!(lines(&told), lines(&expected));
    let sql = "SELECT * FROM usage WHERE meter = 'cpu.time' AND kind = 'vm' AND quantity > 1";
    let told = engine.query(&Scope::system(), sql).await.unwrap();
    let cpu = catalogue().find("cpu.time").unwrap();
    let one = Quantity(1_000_000_000_000);
    let wanted =
        |row: &&UsageRow| row.meter == *cpu && row.kind.as_str() == "vm" && row.quantity > one;
    let count = rows.iter().filter(wanted).count();
    assert_eq!(lines(&told).len(), 1 + count);
    assert!(count > 5);
}

async fn check_conservation(engine: &Engine, window: Window) {
    for meter in ["cpu.time", "memory.usage"] {
        let hours = engine.meter().conservation(&Scope::system(), window, meter).await.unwrap();
        assert!(hours.len() > 9 && hours.iter().any(|hour| hour.children.len() > 2), "{meter}");
        for hour in hours {
            let all = hour.children_used() + hour.overhead + hour.idle;
            assert_eq!(all, hour.capacity + hour.excess, "{hour:?}");
            assert_eq!((hour.skew, hour.excess), (Quantity::ZERO, Quantity::ZERO), "{hour:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_s_usage_is_known_to_the_last_digit() {
    let config = config();
    let mut estate = Estate::new(Limits::default()).await;
    let mut fleet = Fleet::new(&config).unwrap();
    // All in memory, then all in files, then in merged ones that another process reads.
    estate.fleet(&mut fleet, config.start.plus_micros(LONG)).await;
    estate.settle(Lie::InMemory).await;
    check(&estate.engine, &config).await;
    estate.settle(Lie::InFiles).await;
    assert!(estate.engine.tables().now().tables["samples"].memory.is_empty());
    check(&estate.engine, &config).await;
    let mut samples = estate.storage.table(&SAMPLES).await.unwrap();
    let merge = CompactionPolicy { fan_in: 1, ..CompactionPolicy::default() };
    compact(&mut samples, merge, nilometer_contract::Timestamp::default()).await.unwrap();
    let follower = estate.follower().await;
    check(&estate.engine_over(follower.tables()), &config).await;
}
