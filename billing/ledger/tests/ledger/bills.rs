//! The bill of a fleet is what its known usage costs, to the last digit, open or settled, before
//! and after a restart.

use std::collections::BTreeMap;

use nilometer_contract::{Labels, ResourceKind, Scope, Timestamp};
use nilometer_ledger::Ledger;
use nilometer_rating::{Detail, Invoice, Money, PriceBook, round_to_minor_unit};
use nilometer_simulated::{FleetConfig, known_usage};
use nilometer_usage::{Quantity, UsageRow};

use crate::bed::{Bed, Site, hour, period, window};
use crate::script::{MINUTE, counts, fleet, lively};

/// Quantity and amount by price and kind.
type Sums = BTreeMap<(String, ResourceKind), (Quantity, Money)>;

/// What the known usage of some hours costs a project.
///
/// A second way to the bill: per row of the fleet's own integers the price is looked up, and
/// quantities are added up; neither the usage engine nor the rating of rows has a hand in it.
pub(crate) fn known_bill(
    site: &Site,
    config: &FleetConfig,
    seen_until: Timestamp,
    book: &PriceBook,
    project: &str,
    hours: (i64, i64),
) -> Sums {
    let history = site.tables.shared.history.read().unwrap();
    let mut sums: BTreeMap<(String, ResourceKind), Quantity> = BTreeMap::new();
    let known = known_usage(config, config.start, seen_until).unwrap();
    let ours = known.iter().filter(|row| {
        *row.project == *project && (hour(hours.0)..hour(hours.1)).contains(&row.hour)
    });
    for row in ours {
        let end = row.hour.plus_micros(60 * MINUTE);
        let lifetime = history.get(&row.resource).expect("a known resource was announced");
        let mut segments = lifetime.segments().iter().filter(|segment| {
            segment.state.project == project
                && segment.start < end
                && segment.end.is_none_or(|at| at > row.hour)
        });
        let segment = segments.next().expect("it belonged to the project then");
        let start = segment.start.max(row.hour);
        let usage = UsageRow {
            start,
            end,
            resource: row.resource.clone(),
            kind: row.kind.clone(),
            meter: row.meter.clone(),
            labels: Labels::none(),
            project: row.project.clone(),
            quantity: Quantity(row.pico),
            observed_micros: 0,
        };
        if let Some(entry) = book.price_for(&usage, Some(&segment.state)) {
            *sums.entry((entry.id.clone(), row.kind.clone())).or_default() += usage.quantity;
        }
    }
    let priced = sums.into_iter().map(|((entry, kind), quantity)| {
        let exact = book.entry(&entry).unwrap().amount_of(quantity);
        ((entry, kind), (quantity, round_to_minor_unit(&exact, book.currency())))
    });
    priced.collect()
}

/// What an invoice bills, without lines of nothing.
pub(crate) fn billed(invoice: &Invoice) -> Sums {
    let lines = invoice.lines.iter().filter(|line| line.quantity != Quantity::ZERO);
    let line = lines.map(|line| {
        let key = (line.price_entry.clone(), line.kind.clone());
        (key, (line.quantity, line.amount.clone()))
    });
    line.collect()
}

/// Projects of a site, with the operator's own.
pub(crate) fn projects(site: &Site) -> Vec<String> {
    let history = site.tables.shared.history.read().unwrap();
    let segments = history.iter().flat_map(|(_, lifetime)| lifetime.segments());
    let projects: std::collections::BTreeSet<String> =
        segments.map(|segment| segment.state.project.clone()).collect();
    projects.into_iter().collect()
}

pub(crate) async fn drafts(ledger: &Ledger, projects: &[String], hours: (i64, i64)) -> String {
    let mut text = String::new();
    for project in projects {
        for detail in [Detail::Prices, Detail::Resources] {
            let draft = ledger
                .invoices
                .draft(&Scope::system(), project, &period(hours.0, hours.1), detail)
                .await
                .unwrap();
            text.push_str(&draft.to_json());
        }
    }
    text
}

/// Everything that `usage` and `charges` say of the first four hours.
pub(crate) async fn said(site: &Site) -> String {
    let before = hour(4);
    let mut text = String::new();
    for (table, order) in [
        ("usage", "\"start\", resource, meter, project"),
        ("charges", "\"start\", resource, meter, project"),
    ] {
        let sql = format!(
            "SELECT * FROM {table} WHERE \"start\" < TIMESTAMP '{before}' ORDER BY {order}"
        );
        text.push_str(&site.csv(&sql).await);
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_is_what_known_usage_costs() {
    let (config, book) = (lively(11), PriceBook::built_in());
    let seen_until = hour(5).plus_micros(10 * MINUTE);
    let records = fleet(&config, seen_until);
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&book).await;
    site.holds(samples, events).await;
    let projects = projects(&site);
    assert!(projects.len() >= 3, "{projects:?}");
    let open = (drafts(&site.ledger, &projects, (0, 4)).await, said(&site).await);
    for project in &projects {
        let draft = site
            .ledger
            .invoices
            .draft(&Scope::system(), project, &period(0, 4), Detail::Prices)
            .await
            .unwrap();
        let known = known_bill(&site, &config, seen_until, &book, project, (0, 4));
        assert_eq!(billed(&draft), known, "{project}");
        assert!(!known.is_empty() || project.is_empty());
    }
    assert_eq!(site.settle().await, 4, "the newest sample is 70 minutes past the fourth hour");
    assert_eq!(site.settle().await, 0);
    let settled = (drafts(&site.ledger, &projects, (0, 4)).await, said(&site).await);
    assert!(open == settled, "settling changes no byte");
    let stored = site
        .ledger
        .rating
        .usage(&Scope::system(), window(0, 4), &Default::default())
        .await
        .unwrap();
    assert_eq!(stored, site.true_usage(window(0, 4)).await);
    site.stop().await;

    let site = bed.start(&book).await;
    assert_eq!(site.settle().await, 0, "what is settled stays settled");
    let again = (drafts(&site.ledger, &projects, (0, 4)).await, said(&site).await);
    assert!(settled == again, "a restart changes no byte");
    site.stop().await;
}

/// A query about one project and hour says what the whole table says of it; no row comes twice
/// where settled and open hours meet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_change_nothing_but_what_is_asked() {
    let records = fleet(&lively(12), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    assert_eq!(site.settle().await, 2);
    for table in ["usage", "charges"] {
        let sum = "count(*) AS rows, sum(quantity) AS quantity";
        let all = format!(
            "SELECT project, {sum} FROM (SELECT * FROM {table} LIMIT 1000000) \
             WHERE \"start\" >= TIMESTAMP '{}' AND \"start\" < TIMESTAMP '{}' \
             AND meter = 'cpu.allocation' GROUP BY project ORDER BY project",
            hour(1),
            hour(3)
        );
        let filtered = all.replace(&format!("(SELECT * FROM {table} LIMIT 1000000)"), table);
        let (all, filtered) = (site.csv(&all).await, site.csv(&filtered).await);
        assert_eq!(all, filtered);
        assert!(all.lines().count() > 3, "{all}");
        let count = site.csv(&format!("SELECT count(*) FROM {table}")).await;
        let distinct = site
            .csv(&format!(
                "SELECT count(*) FROM (SELECT DISTINCT \"start\", \"end\", resource, meter, \
                 project FROM {table})"
            ))
            .await;
        assert_eq!(count, distinct);
        assert!(!count.ends_with("\n0\n"), "{count}");
    }
    site.stop().await;
}
