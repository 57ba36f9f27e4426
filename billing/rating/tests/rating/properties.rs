//! Properties over random usage: order, cuts and threads change nothing; parts make the whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{Labels, Resource, ResourceKind, Timestamp, catalogue};
use nilometer_rating::{
    Charge, Detail, Fraction, Invoice, Money, Period, PriceBook, explain, invoice, rate,
};
use nilometer_usage::{Quantity, UsageRow};
use proptest::prelude::*;

use crate::case::TABLES;

const HOUR: i64 = 3_600_000_000;
/// 2026-11-01T00:00:00Z in hours.
const FIRST: i64 = 498_192;
const METERS: [(&str, ResourceKind); 6] = [
    ("cpu.allocation", ResourceKind::VM),
    ("memory.allocation", ResourceKind::VM),
    ("cpu.time", ResourceKind::CONTAINER),
    ("memory.usage", ResourceKind::CONTAINER),
    ("net.tx.bytes", ResourceKind::INTERFACE),
    ("processes", ResourceKind::CONTAINER),
];

/// At most one row for each resource, meter and hour.
fn usage() -> impl Strategy<Value = Vec<UsageRow>> {
    let key = (0..METERS.len(), 0..4u8, 0..48i64);
    let value = (1..=HOUR, 0..=i128::from(u64::MAX) * 1_000_000, 0..3u8);
    proptest::collection::btree_map(key, value, 0..60).prop_map(|rows| {
        let row =
            |((meter, resource, hour), (length, quantity, project)): ((usize, _, _), (_, _, _))| {
                let (name, kind) = METERS[meter].clone();
                let start = Timestamp((FIRST + hour) * HOUR);
                UsageRow {
                    start,
                    end: start.plus_micros(length),
                    resource: format!("{kind}-{resource}").into(),
                    kind,
                    meter: catalogue().find(name).expect("a meter of the catalogue").clone(),
                    labels: Labels::none(),
                    project: format!("project-{project}").into(),
                    quantity: Quantity(quantity),
                    observed_micros: length - length / 3 * i64::from(resource % 2),
                }
            };
        rows.into_iter().map(row).collect()
    })
}

/// Cuts a row in two at a share of its length; the parts sum to the whole.
fn cut(row: &UsageRow, share: u8) -> Vec<UsageRow> {
    let length = row.end.0 - row.start.0;
    let at = length * i64::from(share) / 256;
    if at == 0 || at == length {
        return vec![row.clone()];
    }
    let observed = row.observed_micros.min(at);
    let quantity = Quantity(row.quantity.0 * i128::from(share) / 256);
    let middle = row.start.plus_micros(at);
    let left = UsageRow { end: middle, quantity, observed_micros: observed, ..row.clone() };
    let rest = Quantity(row.quantity.0 - quantity.0);
    let observed = row.observed_micros - observed;
    let right =
        UsageRow { start: middle, quantity: rest, observed_micros: observed, ..row.clone() };
    vec![left, right]
}

fn states() -> BTreeMap<String, Resource> {
    let mut states = BTreeMap::new();
    for (_, kind) in METERS {
        for number in 0..4 {
            let mut resource = Resource::new(format!("{kind}-{number}"), kind.clone());
            if number > 1 {
                resource.attributes.insert("vcpus".to_owned(), "2".to_owned());
            }
            states.insert(resource.id.clone(), resource);
        }
    }
    states
}

fn charges(usage: &[UsageRow]) -> Vec<Charge> {
    let states = states();
    let book = PriceBook::built_in();
    rate(usage, &book, |row| states.get(&*row.resource)).expect("usage that can be rated")
}

fn bill(charges: &[Charge], project: u8, detail: Detail) -> Invoice {
    let period = Period::parse("2026-11-01", "2026-11-03", "UTC").expect("a period");
    let project = format!("project-{project}");
    invoice(&project, &period, charges, &PriceBook::built_in(), detail).expect("an invoice")
}

fn bytes(charges: &[Charge]) -> String {
    let bill = |project| {
        let details = [Detail::Prices, Detail::Resources];
        details.map(|detail| bill(charges, project, detail)).map(|it| it.to_json() + &it.to_csv())
    };
    (0..3).flat_map(bill).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn order_changes_no_byte(
        (usage, shuffled) in usage().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle()))
    ) {
        prop_assert_eq!(charges(&usage), charges(&shuffled));
    }

    #[test]
    fn threads_change_no_byte(usage in usage(), threads in 1usize..8) {
        let whole = charges(&usage);
        let mut parts: Vec<Vec<Charge>> = std::thread::scope(|scope| {
            let size = usage.len().div_ceil(threads).max(1);
            let rate = |part| scope.spawn(move || charges(part));
            let running: Vec<_> = usage.chunks(size).map(rate).collect();
            running.into_iter().map(|it| it.join().expect("a thread that rates")).collect()
        });
        parts.reverse();
        prop_assert_eq!(bytes(&whole), bytes(&parts.concat()));
    }

    #[test]
    fn cuts_within_an_hour_change_no_byte(usage in usage(), shares in any::<[u8; 60]>()) {
        let rows = usage.iter().zip(shares).flat_map(|(row, share)| cut(row, share));
        let cut: Vec<UsageRow> = rows.collect();
        prop_assert_eq!(bytes(&charges(&usage)), bytes(&charges(&cut)));
    }

    #[test]
    fn lines_add_up_to_totals_and_charges_to_lines(usage in usage()) {
        let charges = charges(&usage);
        for (project, detail) in [(0, Detail::Prices), (1, Detail::Resources), (2, Detail::Prices)] {
            let invoice = bill(&charges, project, detail);
            let zero = Money::zero(invoice.currency);
            let sum = invoice.lines.iter().fold(zero, |sum, line| sum.plus(&line.amount));
            prop_assert_eq!(&sum, &invoice.total);
            for line in &invoice.lines {
                let explained = explain(&line.id, &invoice, &charges, catalogue(), &TABLES).expect("an explanation");
                let sum = explained.charges.iter().fold(Fraction::zero(), |sum, charge| {
                    sum.plus(&charge.amount_exact)
                });
                prop_assert_eq!(&sum, &line.amount_exact);
            }
            let of_lines = charges.iter().filter(|charge| invoice.line_of(charge).is_some());
            let ours = charges.iter().filter(|charge| *charge.usage.project == *invoice.project);
            prop_assert_eq!(of_lines.count(), ours.count(), "each charge is on a line");
        }
    }

    #[test]
    fn the_longest_prices_overflow_nothing(
        quantity in 0..=i128::MAX,
        whole in 0..1_000_000_000_000_000_000u64,
        fraction in 0..1_000_000_000_000u64,
    ) {
        let text = format!(
            "name = 'long'\ncurrency = 'EUR'\n[[price]]\nmeter = 'net.rx.packets'\nper = '1'\n\
             price = '{whole}.{fraction:012}'"
        );
        let book = PriceBook::parse(&text).expect("a book");
        let start = Timestamp(FIRST * HOUR);
        let row = UsageRow {
            start,
            end: start.plus_micros(HOUR),
            resource: Arc::from("eth0"),
            kind: ResourceKind::INTERFACE,
            meter: catalogue().find("net.rx.packets").expect("a meter").clone(),
                labels: Labels::none(),
            project: Arc::from("acme"),
            quantity: Quantity(quantity),
            observed_micros: HOUR,
        };
        let charges = rate(&[row], &book, |_| None).expect("a charge");
        let period = Period::parse("2026-11", "2026-12", "UTC").expect("a period");
        let bill = invoice("acme", &period, &charges, &book, Detail::Prices).expect("an invoice");
        let one = format!("{quantity}/1000000000000").parse::<Fraction>().expect("a fraction");
        prop_assert_eq!(&charges[0].entry.count_in(charges[0].usage.quantity), &one);
        prop_assert_eq!(bill.lines[0].amount.to_string(), bill.total.to_string());
        prop_assert!(bill.total.to_string().len() <= 27 + 18 + 3);
    }
}
