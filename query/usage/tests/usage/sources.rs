//! Several sources of one meter: one counts in each hour.

use std::collections::BTreeMap;
use std::fmt::Write;

use nilometer_contract::{MICROS_PER_SECOND, Timestamp};
use nilometer_usage::{
    Points, Quantity, SourceChoice, UsageRow, Window, is_reading, merge, series_usage, whole_hours,
};
use proptest::prelude::*;

use crate::properties::{SAMPLED, fewest, scenario, time};
use crate::script::{Script, instant, meter, row_text};

/// What happened to one resource, as its sources sampled it, the first one first.
#[derive(Clone, Debug)]
struct Sources {
    scripts: Vec<Script>,
}

impl Sources {
    /// One script whose samples are of several sources: `samples` lines start with a number.
    fn parse(text: &str) -> Self {
        let (mut common, mut samples) = (String::new(), BTreeMap::<usize, String>::new());
        for line in text.lines().map(str::trim) {
            match line.split_once(' ').map(|(first, rest)| (first.parse(), rest)) {
                Some((Ok(source), rest)) => writeln!(samples.entry(source).or_default(), "{rest}"),
                _ => writeln!(common, "{line}"),
            }
            .unwrap();
        }
        let scripts = samples.values().map(|own| Script::parse(&format!("{common}{own}")));
        Sources { scripts: scripts.collect() }
    }

    /// The rows that count in a window, from no more samples than it needs; sources are taken in
    /// in an order that begins with `first`.
    fn rows(&self, name: &str, window: Window, first: usize) -> Vec<UsageRow> {
        let whole = whole_hours(window);
        let (mut choice, mut rows) = (SourceChoice::default(), Vec::new());
        let points: Vec<Points> =
            self.scripts.iter().map(|script| fewest(script, name, whole)).collect();
        let count = self.scripts.len();
        for source in (0..count).map(|n| (n + first) % count) {
            let (script, points) = (&self.scripts[source], &points[source]);
            let (series, tenure) = (points.series(meter(name)), script.tenure(name, points));
            choice.note(source, &series, &tenure, window, script.as_of);
        }
        for (source, (script, points)) in self.scripts.iter().zip(&points).enumerate() {
            let mut own = Vec::new();
            let (series, tenure) = (points.series(meter(name)), script.tenure(name, points));
            series_usage(&series, &tenure, window, script.as_of, &mut own);
            rows.extend(own.into_iter().filter(|row| choice.counts(source, row.start)));
        }
        rows
    }
}

fn check(name: &str, script: &str, expected: &str) {
    let sources = Sources::parse(script);
    let rows = sources.rows(name, sources.scripts[0].window, 0);
    let found: Vec<String> = merge(rows).iter().map(row_text).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(found, expected, "{name} of\n{script}");
}

#[test]
fn the_first_source_with_a_reading_counts_in_each_hour() {
    // The first one is silent in the second hour; in the third it has one reading.
    check(
        "gauge",
        "created 0s project=a
         window 0s 3h
         0 samples 0s=10 5m=10 2h59m=10
         1 samples 0s=7 1h=7 1h5m=7 2h=7",
        "0s..1h a 6000 seen 10m
         1h..2h a 4200 seen 10m
         2h..3h a 600 seen 1m",
    );
}

#[test]
fn in_an_hour_without_a_reading_the_first_that_reaches_into_it_counts() {
    // The first one's level ends before the hour, the second one's reaches into it.
    check(
        "gauge",
        "created 0s project=a
         window 0s 3h
         0 samples 50m=10
         1 samples 58m=7",
        "0s..1h a 3000 seen 5m
         1h..2h a 1260 seen 3m
         2h..3h a 0 seen 0s",
    );
    // A pause of the first one reaches over an hour of the second one.
    check(
        "counter",
        "created 0s project=a
         window 0s 4h
         0 samples 0s=0 3h30m=210
         1 samples 1h10m=100 1h15m=130 1h20m=150",
        "0s..1h a 60 seen 5m
         1h..2h a 50 seen 10m
         2h..3h a 60 seen 0s
         3h..4h a 30 seen 0s",
    );
}

#[test]
fn what_is_contested_is_listed_with_the_one_that_counts() {
    let script = "created 0s project=a
         window 0s 2h
         0 samples 1h=1 1h10m=NaN
         1 samples 10m=2 1h=2 1h1m=2
         2 samples 1h2m=3";
    let sources = Sources::parse(script);
    let mut choice = SourceChoice::default();
    let window = Window { start: instant(0), end: instant(2 * 3_600 * MICROS_PER_SECOND) };
    for (source, script) in sources.scripts.iter().enumerate() {
        let points = script.points();
        let (series, tenure) = (points.series(meter("gauge")), script.tenure("gauge", &points));
        choice.note(source, &series, &tenure, window, script.as_of);
    }
    let contested = choice.contested().map(|found| {
        let hours = (found.hour.0 - instant(0).0) / (3_600 * MICROS_PER_SECOND);
        (hours, found.source, found.readings, found.counts)
    });
    let expected = [(1, 0, 1, true), (1, 1, 2, false), (1, 2, 1, false)];
    assert_eq!(contested.collect::<Vec<_>>(), expected);
}

fn some_sources() -> impl Strategy<Value = Sources> {
    (scenario(), proptest::collection::vec(scenario(), 1..3)).prop_map(|(first, others)| {
        let others =
            others.into_iter().map(|other| Script { samples: other.samples, ..first.clone() });
        Sources { scripts: std::iter::once(first.clone()).chain(others).collect() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Of each hour the rows are those of one source alone: the first that has a reading in it.
    #[test]
    fn each_hour_is_of_one_source(sources in some_sources(), first in 0..3_usize) {
        let window = sources.scripts[0].window;
        prop_assume!(!sources.scripts[0].events.is_empty());
        for name in SAMPLED {
            let rows = sources.rows(name, window, first);
            let alone: Vec<Vec<UsageRow>> =
                sources.scripts.iter().map(|script| script.rows(name)).collect();
            let of = |rows: &[UsageRow], hour: Timestamp| -> Vec<UsageRow> {
                rows.iter().filter(|row| row.start.hour() == hour).cloned().collect()
            };
            let hours: std::collections::BTreeSet<Timestamp> =
                alone.iter().flatten().map(|row| row.start.hour()).collect();
            for hour in hours {
                let end = hour.plus_micros(3_600 * MICROS_PER_SECOND).0;
                let reads = |script: &Script| script.samples.iter().any(|&(at, value)| {
                    (hour.0..end).contains(&at) && is_reading(&meter(name).kind, value)
                });
                let found = of(&rows, hour);
                match sources.scripts.iter().position(reads) {
                    Some(source) => prop_assert_eq!(found, of(&alone[source], hour)),
                    None => prop_assert!(alone.iter().any(|alone| of(alone, hour) == found)),
                }
            }
            prop_assert_eq!(rows, sources.rows(name, window, 0), "the order of sources");
        }
    }

    /// Usage of any window agrees with that of its hours.
    #[test]
    fn parts_sum_to_the_whole(
        sources in some_sources(),
        cuts in proptest::collection::vec(time(), 0..6),
    ) {
        let whole = sources.scripts[0].window;
        let mut edges: Vec<Timestamp> =
            cuts.iter().map(|&cut| cut.clamp(whole.start, whole.end)).collect();
        edges.extend([whole.start, whole.end]);
        edges.sort();
        for name in SAMPLED {
            let windows = edges.windows(2).map(|edge| Window { start: edge[0], end: edge[1] });
            let parts = windows.flat_map(|window| sources.rows(name, window, 0)).collect();
            prop_assert_eq!(merge(parts), merge(sources.rows(name, whole, 0)), "{}", name);
        }
    }

    /// A source that repeats what the first one says changes nothing.
    #[test]
    fn a_second_source_never_adds(script in scenario(), skip in any::<prop::sample::Index>()) {
        let whole = script.window;
        for name in SAMPLED {
            let mut twin = script.clone();
            // It may miss something, too.
            if !twin.samples.is_empty() {
                twin.samples.remove(skip.index(twin.samples.len()));
            }
            let alone = merge(script.rows(name));
            let both = Sources { scripts: vec![script.clone(), twin] };
            let rows = merge(both.rows(name, whole, 1));
            if script.events.is_empty() {
                continue;
            }
            let sum = |rows: &[UsageRow]| rows.iter().map(|row| row.quantity).sum::<Quantity>();
            prop_assert_eq!(sum(&rows), sum(&alone), "{}", name);
            prop_assert_eq!(rows, alone, "{}", name);
        }
    }
}
