//! Properties of all cases: parts sum to the whole, and nothing but the facts matters.
//!
//! Scenarios lie on a grid of 100 s, a third of the hold time, so that instants often coincide
//! with edges; some are off the grid by a few microseconds.

use std::ops::Range;

use nilometer_contract::{
    Change, Lifetime, MICROS_PER_HOUR, MICROS_PER_SECOND, MeterKind, Timestamp,
};
use nilometer_usage::{
    Points, Quantity, Reach, UsageRow, Window, is_reading, merge, neighbours, series_usage,
};
use proptest::prelude::*;

use crate::script::{Script, event, instant, meter, vm};

const GRID: i64 = 100 * MICROS_PER_SECOND;
pub(crate) const SAMPLED: [&str; 3] = ["counter", "gauge", "delta"];

pub(crate) fn time() -> impl Strategy<Value = Timestamp> {
    // Half of it close around an hour's edge, so that much happens within one hold time.
    let cell = prop_oneof![0..140_i64, 30..42_i64];
    (cell, prop_oneof![4 => Just(0), 1 => -3..4_i64])
        .prop_map(|(cell, off)| instant(cell * GRID + off))
}

fn value() -> impl Strategy<Value = f64> {
    let nanos = 0..1_000_000_000_000_000_i64;
    prop_oneof![
        9 => nanos.prop_map(|nano| nano as f64 / 1e9),
        3 => (0..3_u8).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(-1.0),
    ]
}

prop_compose! {
    pub(crate) fn scenario()(
        events in proptest::collection::vec((time(), 0..5_usize, 0..3_u8, 0..3_u8, 0..3_u8), 0..8),
        samples in proptest::collection::btree_map(time(), value(), 0..40),
        end in time(),
        as_of in prop_oneof![2 => Just(Timestamp::MAX), 1 => time()],
    ) -> Script {
        let kinds = [Change::Created, Change::Created, Change::Changed, Change::Changed, Change::Deleted];
        let events = events.into_iter().map(|(at, kind, project, parent, size)| {
            let mut state = vm(["a", "b", ""][usize::from(project)], ["", "n1", "n2"][usize::from(parent)]);
            if size > 0 {
                state.attributes.insert("vcpus".to_owned(), ["", "4", "0.25"][usize::from(size)].to_owned());
            }
            event(kinds[kind], at, state)
        });
        let samples = samples.into_iter().map(|(at, value)| (at.0, value)).collect();
        let window = Window { start: instant(-GRID), end: end.max(instant(GRID)) };
        Script { events: events.collect(), samples, window, as_of }
    }
}

/// The fewest samples that a window may be computed from.
pub(crate) fn fewest(script: &Script, name: &str, window: Window) -> Points {
    let meter = meter(name);
    let reach = neighbours(meter, script.lifetime().is_some());
    let readings = || script.samples.iter().filter(|sample| is_reading(&meter.kind, sample.1));
    let near = |reach: Reach, distance: i64| match reach {
        Reach::None => false,
        Reach::Within(micros) => distance <= micros,
        Reach::Nearest => true,
    };
    let (start, end) = (window.start.0, window.end.0);
    let before = readings().rfind(|sample| sample.0 < start);
    let after = readings().find(|sample| sample.0 >= end);
    let inside = script.samples.iter().filter(|sample| (start..end).contains(&sample.0));
    let outside = [
        before.filter(|sample| near(reach.before, start - sample.0)),
        after.filter(|sample| near(reach.after, sample.0 - end)),
    ];
    Points::collect(inside.chain(outside.into_iter().flatten()).copied()).unwrap()
}

fn parts(script: &Script, name: &str, cuts: &[Timestamp]) -> Vec<UsageRow> {
    let whole = script.window;
    let mut edges: Vec<Timestamp> =
        cuts.iter().map(|&cut| cut.clamp(whole.start, whole.end)).collect();
    edges.extend([whole.start, whole.end]);
    edges.sort();
    let windows = edges.windows(2).map(|edge| Window { start: edge[0], end: edge[1] });
    windows.flat_map(|w| script.rows_of(name, &fewest(script, name, w), w)).collect()
}

/// What a life's readings add: `whole` spread over `span`, seen up to `seen`.
struct Added {
    span: Range<i64>,
    seen: i64,
    whole: i128,
}

fn lives(lifetime: &Lifetime) -> Vec<(Range<i64>, bool)> {
    let mut lives: Vec<(Range<i64>, bool)> = Vec::new();
    for segment in lifetime.segments() {
        let (start, end) = (segment.start.0, segment.end.map_or(i64::MAX, |end| end.0));
        if let Some((life, _)) = lives.last_mut().filter(|(life, _)| life.end == start) {
            life.end = end;
        } else {
            let mut creations = lifetime.events().filter(|e| e.change == Change::Created);
            lives.push((start..end, creations.any(|event| event.at.0 == start)));
        }
    }
    lives
}

/// A level in millionths, as exact decimal formatting rounds it.
fn micro(value: f64) -> i128 {
    format!("{value:.6}").replace('.', "").parse().unwrap()
}

/// The rules written down once more, plainly: the readings of each life as a list.
fn added(script: &Script, name: &str) -> Vec<Added> {
    let (meter, hold) = (meter(name), 300 * MICROS_PER_SECOND);
    let nano = |value: f64| (value * 1e9).round() as i128;
    let value_at = |at: i64| script.samples.iter().find(|sample| sample.0 == at).unwrap().1;
    let readings: Vec<(i64, i128)> = script
        .samples
        .iter()
        .filter(|(_, value)| value.is_finite() && (*value >= 0.0 || name != "counter"))
        .map(|&(at, value)| (at, nano(value)))
        .collect();
    let lives = script.lifetime().map_or(Vec::new(), |lifetime| lives(&lifetime));
    let mut all = Vec::new();
    for (n, (life, born)) in lives.iter().enumerate() {
        let rebirth = lives.get(n + 1).map_or(i64::MAX, |next| next.0.start);
        let late = |at: i64| at >= life.end && at - life.end <= hold && at < rebirth;
        let mut list: Vec<(i64, i128)> =
            readings.iter().copied().filter(|r| life.contains(&r.0)).collect();
        list.extend(readings.iter().find(|r| late(r.0)));
        match meter.kind {
            MeterKind::Counter => {
                let first = list.first().map_or(life.start, |r| r.0);
                if *born && first > life.start && first <= life.start + hold {
                    list.insert(0, (life.start, 0));
                }
                all.extend(list.windows(2).map(|pair| {
                    let ((from, before), (to, now)) = (pair[0], pair[1]);
                    let to = to.min(life.end);
                    let increase = if now < before { now } else { now - before };
                    Added { span: from..to, seen: to.min(from + hold), whole: increase * 1_000 }
                }));
            }
            MeterKind::Gauge => {
                for &(at, _) in list.iter().filter(|r| r.0 < life.end) {
                    let next = readings.iter().find(|r| r.0 > at).map_or(i64::MAX, |r| r.0);
                    let to = next.min(at + hold).min(life.end);
                    let level = micro(value_at(at));
                    all.push(Added { span: at..to, seen: to, whole: level * i128::from(to - at) });
                }
            }
            _ => {
                let mut before = life.start;
                for &(at, nano) in &list {
                    let last = at.min(life.end - 1);
                    all.push(Added { span: last..last + 1, seen: last, whole: nano * 1_000 });
                    let (from, to) = (before.max(at - hold), at.min(life.end));
                    all.push(Added { span: from..to.max(from), seen: to, whole: 0 });
                    before = at;
                }
            }
        }
    }
    all
}

fn expected(added: &[Added], start: i64, end: i64) -> (Quantity, i64) {
    let (mut quantity, mut observed) = (0, 0);
    for part in added {
        let (from, to) = (part.span.start, part.span.end);
        let length = i128::from(to - from);
        let upto = |at: i64| part.whole * i128::from(at.clamp(from, to) - from);
        if length > 0 {
            quantity += upto(end).div_euclid(length) - upto(start).div_euclid(length);
        }
        observed += (part.seen.min(end) - from.max(start)).max(0);
    }
    (Quantity(quantity), observed)
}

fn sorted(mut rows: Vec<UsageRow>) -> Vec<UsageRow> {
    rows.sort();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Every row agrees with the rules written down plainly, and rows cover exactly the life.
    #[test]
    fn rows_agree_with_the_plain_rules(script in scenario()) {
        prop_assume!(!script.events.is_empty());
        let lifetime = script.lifetime().unwrap();
        let end = script.window.end.min(script.as_of).0;
        let start = script.window.start.0;
        let lived: i64 = lives(&lifetime)
            .iter()
            .map(|(life, _)| (life.end.min(end) - life.start.max(start)).max(0))
            .sum();
        for name in SAMPLED {
            let (rows, added) = (script.rows(name), added(&script, name));
            for row in &rows {
                let found = (row.quantity, row.observed_micros);
                prop_assert_eq!(found, expected(&added, row.start.0, row.end.0), "{} {:?}", name, row);
                prop_assert!((0..=row.end.0 - row.start.0).contains(&row.observed_micros));
                prop_assert!(row.end.0 <= row.start.hour().0 + MICROS_PER_HOUR);
                prop_assert_eq!(&*row.project, &*lifetime.at(row.start).unwrap().state.project);
            }
            prop_assert_eq!(rows.iter().map(|row| row.end.0 - row.start.0).sum::<i64>(), lived);
            prop_assert!(rows.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }

    /// Windows cut anywhere, each from the fewest samples, in any order, give the whole.
    #[test]
    fn parts_sum_to_the_whole(
        script in scenario(),
        cuts in proptest::collection::vec(time(), 0..6),
        turn in any::<prop::sample::Index>(),
        group in any::<prop::sample::Index>(),
    ) {
        for name in ["counter", "gauge", "delta", "lifetime", "vcpus"] {
            let whole = sorted(script.rows(name));
            let mut parts = parts(&script, name, &cuts);
            prop_assert_eq!(&merge(parts.clone()), &whole, "{}", name);
            if parts.is_empty() {
                continue;
            }
            let (turn, group) = (turn.index(parts.len()), group.index(parts.len()));
            parts.rotate_left(turn);
            parts.reverse();
            let mut grouped = merge(parts.split_off(group));
            grouped.extend(merge(parts));
            prop_assert_eq!(merge(grouped), whole, "{}", name);
        }
    }

    /// Nor do order and repeats of samples and events.
    #[test]
    fn order_and_repeats_do_not_matter(
        script in scenario(),
        events in any::<prop::sample::Index>(),
        samples in any::<prop::sample::Index>(),
    ) {
        let mut other = script.clone();
        if !other.events.is_empty() {
            let turn = events.index(other.events.len());
            other.events.extend_from_within(turn..);
            other.events.rotate_left(turn);
        }
        if !other.samples.is_empty() {
            let turn = samples.index(other.samples.len());
            other.samples.extend_from_within(turn..);
            other.samples.rotate_left(turn);
            other.samples.reverse();
        }
        for name in SAMPLED {
            prop_assert_eq!(other.rows(name), script.rows(name), "{}", name);
        }
    }

    /// Splitting by parent instead of by project loses nothing and sees the same.
    #[test]
    fn parents_and_projects_share_the_same_usage(script in scenario()) {
        for name in SAMPLED {
            let (rows, by_parent) = (script.rows(name), script.rows_by_parent(name));
            let hours = |start: Timestamp| start.hour();
            for hour in rows.iter().map(|row| hours(row.start)) {
                let project: Vec<_> = rows.iter().filter(|row| hours(row.start) == hour).collect();
                let parent: Vec<_> = by_parent.iter().filter(|row| hours(row.start) == hour).collect();
                prop_assert_eq!(
                    project.iter().map(|row| row.quantity).sum::<Quantity>(),
                    parent.iter().map(|row| row.quantity).sum::<Quantity>()
                );
                prop_assert_eq!(
                    project.iter().map(|row| row.observed_micros).sum::<i64>(),
                    parent.iter().map(|row| row.observed_micros).sum::<i64>()
                );
            }
        }
    }

    /// A size is charged for each microsecond that it was held, and for none more.
    #[test]
    fn allocations_are_size_times_life(script in scenario()) {
        prop_assume!(!script.events.is_empty());
        let end = script.window.end.min(script.as_of);
        let mut whole = 0_i128;
        for segment in script.lifetime().unwrap().segments() {
            let upto = segment.end.unwrap_or(end).min(end);
            let held = upto.0 - segment.start.max(script.window.start).0;
            let quarters = match segment.state.attributes.get("vcpus").map(String::as_str) {
                Some("4") => 16,
                Some("0.25") => 1,
                _ => 0,
            };
            whole += quarters * 250_000 * i128::from(held.max(0));
        }
        let rows = script.rows("vcpus");
        prop_assert_eq!(rows.iter().map(|row| row.quantity).sum::<Quantity>(), Quantity(whole));
        prop_assert!(rows.iter().all(|row| row.observed_micros == row.end.0 - row.start.0));
    }

    /// No sample whatever panics, though it lie at the ends of time.
    #[test]
    fn nothing_that_was_sampled_panics(
        samples in proptest::collection::vec((any::<i64>(), any::<f64>()), 0..20),
        start in any::<i64>(),
        end in any::<i64>(),
    ) {
        let mut script = Script::parse("created 0s project=a");
        script.samples = samples;
        script.samples.sort_by_key(|sample| sample.0);
        script.samples.dedup_by_key(|sample| sample.0);
        let points = script.points();
        for name in SAMPLED {
            let (meter, tenure) = (meter(name), script.tenure(name, &points));
            // Few hours, since each is a row.
            let (start, end) = (Timestamp(start), Timestamp(start.saturating_add(end % (9 * MICROS_PER_HOUR))));
            let window = Window { start, end };
            series_usage(&points.series(meter), &tenure, window, script.as_of, &mut Vec::new());
        }
    }
}
