//! Conservation: nodes broken down to their children, to the last digit.

use std::sync::Arc;

use nilometer_contract::{
    Change, History, Labels, MICROS_PER_HOUR, Meter, Resource, ResourceKind, Timestamp, catalogue,
};
use nilometer_usage::{
    Breakdown, Names, NegativeUsage, ParentUsage, Points, Quantity, Tenure, UsageRow, Window,
    capacity_usage, conserve, series_usage, series_usage_by_parent,
};
use proptest::prelude::*;

use crate::script::{event, instant, micros, vm};

fn any_meter() -> Arc<Meter> {
    catalogue().find("cpu.time").unwrap().clone()
}

fn row(node: &str, quantity: i128) -> UsageRow {
    UsageRow {
        start: instant(0),
        end: instant(MICROS_PER_HOUR),
        resource: node.into(),
        kind: ResourceKind::NODE,
        meter: any_meter(),
        labels: Labels::none(),
        project: "".into(),
        quantity: Quantity(quantity),
        observed_micros: MICROS_PER_HOUR,
    }
}

fn child(parent: &str, id: &str, start: Timestamp, quantity: i128) -> ParentUsage {
    ParentUsage {
        start,
        end: instant(MICROS_PER_HOUR),
        parent: parent.into(),
        resource: id.into(),
        kind: ResourceKind::VM,
        meter: any_meter(),
        quantity: Quantity(quantity),
        observed_micros: MICROS_PER_HOUR,
    }
}

fn text(breakdown: &Breakdown) -> String {
    let children: Vec<String> =
        breakdown.children.iter().map(|(id, q)| format!("{id} {}", q.0)).collect();
    format!(
        "{}: {} + overhead {} + idle {} = {} + excess {}, measured {} + skew {}",
        breakdown.node,
        children.join(" + "),
        breakdown.overhead.0,
        breakdown.idle.0,
        breakdown.capacity.0,
        breakdown.excess.0,
        breakdown.measured.0,
        breakdown.skew.0,
    )
}

#[test]
fn a_node_is_its_children_its_overhead_and_its_idle_time() {
    let children = [
        child("n1", "vm-a", instant(0), 10),
        child("n1", "vm-b", instant(0), 25),
        // vm-a left and came back within the hour; vm-c belongs to nobody.
        child("n1", "vm-a", instant(9), 5),
        child("", "vm-c", instant(0), 99),
        // The children of n2 were read later than n2, those of n3 used more than n3 has.
        child("n2", "vm-d", instant(0), 60),
        child("n3", "vm-e", instant(0), 130),
    ];
    let capacity = [row("n1", 100), row("n2", 100), row("n3", 100)];
    let measured = [row("n1", 45), row("n2", 58), row("n3", 140)];
    let found = conserve(&capacity, &measured, &children).unwrap();
    assert_eq!(
        found.iter().map(text).collect::<Vec<_>>(),
        [
            "n1: vm-a 15 + vm-b 25 + overhead 5 + idle 55 = 100 + excess 0, measured 45 + skew 0",
            "n2: vm-d 60 + overhead 0 + idle 40 = 100 + excess 0, measured 58 + skew 2",
            "n3: vm-e 130 + overhead 10 + idle 0 = 100 + excess 40, measured 140 + skew 0",
        ]
    );
}

/// Cumulative seconds of CPU, read every ten minutes from the start of the hour.
fn cpu(readings: &[f64]) -> Points {
    let at = |n: usize| instant(micros("10m") * n as i64).0;
    Points::collect(readings.iter().enumerate().map(|(n, &value)| (at(n), value))).unwrap()
}

#[test]
fn a_vm_that_moves_counts_on_each_node_while_it_is_there() {
    let mut history = History::default();
    for (id, death) in [("n1", None), ("n2", Some("45m"))] {
        let mut node = Resource::new(id, ResourceKind::NODE);
        node.attributes.insert("vcpus".to_owned(), "2".to_owned());
        history.apply(event(Change::Created, instant(0), node.clone()));
        if let Some(at) = death {
            history.apply(event(Change::Deleted, instant(micros(at)), node));
        }
    }
    history.apply(event(Change::Created, instant(0), vm("a", "n1")));
    history.apply(event(Change::Changed, instant(micros("25m")), vm("a", "n2")));
    history.apply(event(Change::Deleted, instant(micros("40m")), vm("a", "n2")));

    let hold_micros = micros("10m");
    let meter = Arc::new(Meter { hold_micros, ..Meter::clone(&any_meter()) });
    let hour = Window { start: instant(0), end: instant(MICROS_PER_HOUR) };
    let (mut capacity, mut measured, mut children) = (vec![], vec![], vec![]);
    for (resource, points) in [
        ("n1", cpu(&[0.0, 700.0, 1400.0, 1800.0, 1810.0, 1820.0, 1830.0])),
        ("n2", cpu(&[0.0, 10.0, 20.0, 340.0, 990.0, 995.0])),
        // Migrating resets the counter: 300 s on n2 after 1500 s that were mostly on n1.
        ("vm-1", cpu(&[0.0, 600.0, 1200.0, 1500.0, 300.0])),
    ] {
        let lifetime = history.get(resource).unwrap();
        let tenure = Tenure::announced(resource.into(), lifetime, &mut Names::default());
        let series = points.series(&meter);
        let now = Timestamp::MAX;
        if resource == "vm-1" {
            series_usage_by_parent(&series, &tenure, hour, now, &mut children);
        } else {
            series_usage(&series, &tenure, hour, now, &mut measured);
            capacity_usage(&tenure, &meter, hour, now, &mut capacity);
        }
    }
    let seconds = |q: Quantity| q.to_string();
    let found = conserve(&capacity, &measured, &children).unwrap();
    let lines = found.iter().map(|node| {
        let parts = [node.children_used(), node.overhead, node.idle, node.capacity];
        format!("{} {}", node.node, parts.map(seconds).join(" "))
    });
    // n2 lived for 45 minutes; children, overhead, idle, capacity in seconds.
    assert_eq!(lines.collect::<Vec<_>>(), ["n1 1350 480 5370 7200", "n2 450 545 4405 5400"]);
}

#[test]
fn usage_below_zero_is_refused() {
    let children = [child("n1", "vm-a", instant(0), -1)];
    let (resource, hour) = (Arc::from("vm-a"), instant(0));
    assert_eq!(
        conserve(&[row("n1", 100)], &[row("n1", 45)], &children),
        Err(NegativeUsage { resource, hour, quantity: Quantity(-1) })
    );
}

#[test]
fn nested_estates_count_each_unit_once() {
    // Two pods in a VM on a hypervisor: what the hypervisor gave is pods, overheads and idle time.
    let capacity = [row("hypervisor", 1_000), row("vm", 400)];
    let measured = [row("hypervisor", 300), row("vm", 250)];
    let children = [
        child("hypervisor", "vm", instant(0), 250),
        child("vm", "pod-a", instant(0), 90),
        child("vm", "pod-b", instant(0), 110),
    ];
    let found = conserve(&capacity, &measured, &children).unwrap();
    let [hypervisor, vm] = found.as_slice() else { panic!("two nodes") };
    let leaves = vm.children_used() + vm.overhead;
    assert_eq!(leaves, hypervisor.children_used());
    assert_eq!(leaves + hypervisor.overhead + hypervisor.idle, hypervisor.capacity);
    assert_eq!((vm.overhead, vm.idle), (Quantity(50), Quantity(150)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn parts_sum_to_the_node_whatever_the_rows(
        capacity in proptest::collection::vec((0..4_u8, 0..1_000_000_i128), 0..8),
        measured in proptest::collection::vec((0..4_u8, 0..1_000_000_i128), 0..8),
        children in proptest::collection::vec((0..4_u8, 0..6_u8, 0..400_000_i128), 0..20),
        seed in any::<prop::sample::Index>(),
    ) {
        let rows = |list: &[(u8, i128)]| -> Vec<UsageRow> {
            list.iter().map(|&(n, quantity)| row(&format!("n{n}"), quantity)).collect()
        };
        let mut children: Vec<ParentUsage> = children
            .iter()
            .map(|&(n, c, quantity)| child(&format!("n{n}"), &format!("c{c}"), instant(0), quantity))
            .collect();
        let found = conserve(&rows(&capacity), &rows(&measured), &children).unwrap();
        for node in &found {
            let zero = Quantity::ZERO;
            let used = node.children_used() + node.overhead;
            prop_assert_eq!(used + node.idle, node.capacity + node.excess);
            prop_assert_eq!(used, node.measured + node.skew);
            let parts = [node.overhead, node.idle, node.skew, node.excess];
            prop_assert!(parts.into_iter().all(|part| part >= zero));
            prop_assert!(node.overhead == zero || node.skew == zero);
            prop_assert!(node.idle == zero || node.excess == zero);
        }
        // Nothing is lost: every child's usage is in some breakdown.
        let given: Quantity = children.iter().map(|row| row.quantity).sum();
        prop_assert_eq!(found.iter().map(Breakdown::children_used).sum::<Quantity>(), given);
        if !children.is_empty() {
            let middle = seed.index(children.len());
            children.rotate_left(middle);
            prop_assert_eq!(conserve(&rows(&capacity), &rows(&measured), &children).unwrap(), found);
        }
    }
}
