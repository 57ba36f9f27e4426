//! What readings and events make of the fleet, without a hypervisor.

use nilometer_contract::{Change, History, LifecycleEvent, Timestamp};
use nilometer_source::Observation;
use proptest::prelude::*;

use crate::description::Description;
use crate::fleet::{Birth, Fleet, Reading, SOURCE, Verdict};
use crate::protocol::{DomainRef, Uuid, Value};
use crate::stats::{DomainStats, State};

const UUID: Uuid = Uuid([7; 16]);
const START: Timestamp = Timestamp(1_795_000_000_000_000);

fn at(seconds: i64) -> Timestamp {
    START.plus_micros(seconds * 1_000_000)
}

fn domain(id: i32) -> DomainRef {
    DomainRef { name: "vm".to_owned(), uuid: UUID, id }
}

fn reading(id: i32, seconds: i64, state: i64, capacity: Option<u64>) -> Reading {
    let mut values = vec![
        ("state.state", Value::Signed(state)),
        ("cpu.time", Value::Unsigned(1_500_000_000)),
        ("balloon.maximum", Value::Unsigned(65_536)),
        ("vcpu.current", Value::Unsigned(2)),
        ("block.count", Value::Unsigned(1)),
        ("block.0.name", Value::Text("vda")),
    ];
    values.extend(capacity.map(|bytes| ("block.0.capacity", Value::Unsigned(bytes))));
    let stats = DomainStats::from_values(&values);
    let asked = at(seconds).plus_micros(-10);
    Reading { domain: domain(id), stats, asked, at: at(seconds) }
}

/// Takes in one full answer as the watcher does.
fn take(fleet: &mut Fleet, readings: &[Reading], out: &mut Observation) {
    fleet.forget_ends();
    fleet.reconcile(readings, out);
    for reading in readings {
        match fleet.judge(reading) {
            Verdict::Skip => {}
            Verdict::Admit => {
                fleet.admit(reading, Description::default(), Birth::Found(START), out);
            }
            Verdict::Describe | Verdict::Update => fleet.update(reading, out),
        }
    }
}

fn edges(out: &Observation) -> Vec<(Change, Timestamp)> {
    let vm = UUID.to_string();
    let of_vm = out.events.iter().filter(|event| event.resource.id == vm);
    of_vm.map(|event| (event.change, event.at)).collect()
}

fn last(out: &Observation) -> &LifecycleEvent {
    out.events.last().unwrap()
}

#[test]
fn a_found_domain_starts_at_its_birth_and_is_not_repeated() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    take(&mut fleet, &[reading(1, 20, 1, Some(100))], &mut out);
    assert_eq!(edges(&out), [(Change::Created, START)]);
    assert_eq!(out.events.len(), 2, "the VM and its disk");
    let batch = out.samples.build();
    assert!(!batch.is_empty() && batch.at.iter().all(|&sample| sample >= at(10).0));
}

#[test]
fn a_birth_that_was_seen_starts_its_counters_at_zero() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    let first = reading(1, 1, 1, Some(100));
    fleet.admit(&first, Description::default(), Birth::Seen(START), &mut out);
    let batch = out.samples.build();
    assert_eq!((batch.at[0], batch.value[0]), (START.0, 0.0));
    assert!(batch.value.contains(&1.5));
}

/// libvirt says 0 of what it cannot read any more, and that the domain runs until it has noticed.
#[test]
fn a_process_that_is_gone_is_not_read() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    let process = |seconds, cpu: u64, wait: [u64; 2]| {
        let mut one = reading(1, seconds, 1, Some(100));
        one.stats = DomainStats::from_values(&[
            ("state.state", Value::Signed(1)),
            ("cpu.time", Value::Unsigned(cpu)),
            ("cpu.user", Value::Unsigned(cpu)),
            ("balloon.current", Value::Unsigned(64)),
            ("balloon.rss", Value::Unsigned(cpu)),
            ("vcpu.0.delay", Value::Unsigned(wait[0])),
            ("vcpu.1.delay", Value::Unsigned(wait[1])),
        ]);
        one
    };
    take(&mut fleet, &[process(10, 0, [0, 0])], &mut out);
    take(&mut fleet, &[process(20, 17_000_000_000, [5, 5])], &mut out);
    // Gone between the first virtual CPU and the second, and then wholly.
    take(&mut fleet, &[process(30, 17_000_000_001, [6, 0])], &mut out);
    take(&mut fleet, &[process(40, 0, [0, 0])], &mut out);
    let batch = out.samples.build();
    let of = |meter: &str| -> Vec<(i64, f64)> {
        let rows = (0..batch.len())
            .filter(|&row| batch.meters.name.value(usize::from(batch.meter[row])) == meter);
        rows.map(|row| ((batch.at[row] - START.0) / 1_000_000, batch.value[row])).collect()
    };
    assert_eq!(of("cpu.time"), [(10, 0.0), (20, 17.0), (30, 17.000000001)]);
    assert_eq!(of("cpu.user.time"), of("cpu.time"));
    assert_eq!(of("cpu.wait.time"), [(10, 0.0), (20, 1e-8)]);
    assert_eq!(of("memory.resident").len(), 2);
    assert_eq!(of("memory.total").len(), 4);
}

#[test]
fn a_size_left_out_stays_and_a_new_one_changes_at_the_reading() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    take(&mut fleet, &[reading(1, 20, 1, None)], &mut out);
    assert_eq!(edges(&out).len(), 1);
    take(&mut fleet, &[reading(1, 30, 1, Some(300))], &mut out);
    assert_eq!(edges(&out)[1..], [(Change::Changed, at(30))]);
    let changed = out.events.iter().rfind(|event| event.change == Change::Changed).unwrap();
    assert_eq!(changed.resource.attributes["disk_bytes"], "300");
}

#[test]
fn a_size_that_was_not_known_at_first_counts_from_the_start() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, None)], &mut out);
    take(&mut fleet, &[reading(1, 20, 1, Some(100))], &mut out);
    let mut history = History::default();
    for event in out.events {
        history.apply(event);
    }
    for id in [UUID.to_string(), format!("{UUID}/disk/vda")] {
        let segments = history.get(&id).unwrap().segments();
        assert_eq!(segments.len(), 1, "{segments:?}");
        assert_eq!(segments[0].start, START);
        assert_eq!(segments[0].state.attributes["disk_bytes"], "100");
    }
}

#[test]
fn an_event_dates_the_end_exactly() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    fleet.ended(UUID, at(13), &mut out);
    assert_eq!(edges(&out), [(Change::Created, START), (Change::Deleted, at(13))]);
    assert!(out.events[2..].iter().all(|event| event.at == at(13)));
    // An answer that was asked for before the end does not bring it back.
    let stale = reading(1, 13, 1, Some(100));
    assert_eq!(fleet.judge(&stale), Verdict::Skip);
}

#[test]
fn an_end_without_event_is_estimated_after_one_reading_of_grace() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    take(&mut fleet, &[], &mut out);
    assert_eq!(edges(&out).len(), 1);
    take(&mut fleet, &[], &mut out);
    assert_eq!(edges(&out)[1..], [(Change::Deleted, at(10))]);
    assert_eq!(last(&out).resource.attributes["end"], "estimated");
}

#[test]
fn a_restart_without_events_is_two_lives() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    take(&mut fleet, &[reading(2, 20, 1, Some(100))], &mut out);
    assert_eq!(edges(&out).len(), 1, "one reading of grace");
    take(&mut fleet, &[reading(2, 30, 1, Some(100))], &mut out);
    let changes: Vec<_> = edges(&out).into_iter().map(|(change, _)| change).collect();
    assert_eq!(changes, [Change::Created, Change::Deleted, Change::Created]);
}

#[test]
fn what_an_event_said_later_than_the_question_stands() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    fleet.turned(UUID, State::Paused, at(20), &mut out);
    take(&mut fleet, &[reading(1, 20, 1, Some(100))], &mut out);
    assert_eq!(edges(&out)[1..], [(Change::Changed, at(20))]);
    assert_eq!(last(&out).resource.attributes["state"], "paused");
    take(&mut fleet, &[reading(1, 30, 1, Some(100))], &mut out);
    assert_eq!(last(&out).resource.attributes["state"], "running");
}

#[test]
fn a_migration_is_neither_an_end_nor_an_early_start() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    fleet.departed(UUID, at(13));
    assert_eq!(edges(&out).len(), 1);
    fleet.arriving(UUID);
    take(&mut fleet, &[reading(4, 20, 3, Some(100))], &mut out);
    assert_eq!(edges(&out).len(), 1, "it still runs on the other host");
    assert!(fleet.arrived(UUID));
    take(&mut fleet, &[reading(4, 21, 1, Some(100))], &mut out);
    assert_eq!(edges(&out).len(), 2);
}

#[test]
fn after_an_absence_a_new_process_is_a_new_life() {
    let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
    take(&mut fleet, &[reading(1, 10, 1, Some(100))], &mut out);
    let same = [reading(1, 60, 1, Some(100))];
    fleet.reconcile_all(&same, |_| Some(START), &mut out);
    assert_eq!(edges(&out).len(), 1);
    // libvirt counts its runtime ids anew, so the id alone does not tell.
    fleet.reconcile_all(&same, |_| Some(at(40)), &mut out);
    assert_eq!(edges(&out)[1..], [(Change::Deleted, at(10))]);
}

proptest! {
    /// Whatever libvirt shows and tells, edges of one VM alternate and lie in order.
    #[test]
    fn lives_never_overlap(steps in proptest::collection::vec((0u8..6, 1i32..4), 1..40)) {
        let (mut fleet, mut out) = (Fleet::new("n".into()), Observation::new(SOURCE));
        for (second, (step, id)) in (10i64..).step_by(10).zip(steps) {
            match step {
                0 => take(&mut fleet, &[], &mut out),
                1 => fleet.ended(UUID, at(second), &mut out),
                2 => fleet.turned(UUID, State::Paused, at(second), &mut out),
                _ => {
                    let one = reading(id, second, 1, Some(100));
                    fleet.forget_ends();
                    fleet.reconcile(std::slice::from_ref(&one), &mut out);
                    match fleet.judge(&one) {
                        Verdict::Skip => {}
                        Verdict::Admit => {
                            let birth = Birth::Seen(at(second).plus_micros(-1_000));
                            fleet.admit(&one, Description::default(), birth, &mut out);
                        }
                        _ => fleet.update(&one, &mut out),
                    }
                }
            }
        }
        let mut alive = false;
        let mut previous = START;
        for (change, at) in edges(&out) {
            prop_assert_eq!(alive, change != Change::Created);
            alive = change != Change::Deleted;
            prop_assert!(at >= previous, "{change:?} at {at} after {previous}");
            previous = at;
        }
    }
}
