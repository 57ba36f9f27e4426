//! Clocks that are wrong for a while: what they let be settled too early is settled when it is over.

use std::sync::Arc;

use nilometer_contract::{Change, ResourceKind, Scope};
use nilometer_rating::{Detail, PriceBook};
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, SetClock, Site, hour, period, second, window};
use crate::script::{Record, counts, event, samples};

const NODE: ResourceKind = ResourceKind::NODE;
const VM: ResourceKind = ResourceKind::VM;

fn beat(from: i64, upto: i64) -> Record {
    let minutes = (from..=upto).map(|minute| (second(minute * 60), minute as f64));
    samples("node-1", NODE, "cpu.time", minutes)
}

async fn settled_hours(site: &Site) -> String {
    let csv = site.csv("SELECT count(DISTINCT \"start\") AS hours FROM usage_history").await;
    csv.lines().nth(1).unwrap_or_default().to_owned()
}

/// Agent, log and ingester of one machine share its clock, so nothing else says that it is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_that_a_clock_ahead_settled_are_open_when_it_is_back() {
    let (book, clock) = (PriceBook::built_in(), Arc::new(SetClock::default()));
    let bed = Bed::new();
    clock.set(second(141 * 60));
    let site = bed.start_at(&book, clock.clone()).await;
    let born = event(Change::Created, hour(0), "vm-1", VM, &[("vcpus", "2"), ("project", "p")]);
    let early = [born, beat(0, 140)];
    let (mut rows, events) = counts(&early);
    bed.append(&early).await;
    site.holds(rows, events).await;
    assert_eq!(site.settle().await, 1);
    // Half a day ahead, for less than a minute.
    clock.set(hour(12).plus_micros(45_000_000));
    bed.append(&[samples(
        "node-1",
        NODE,
        "cpu.time",
        [(hour(12), 141.0), (second(12 * 3_600 + 30), 142.0)],
    )])
    .await;
    rows += 2;
    site.holds(rows, events).await;
    site.settle().await;
    assert_eq!(
        site.ledger.metrics().settled.get(),
        10,
        "hours that are over, as far as one can say"
    );
    // Back.
    clock.set(second(142 * 60));
    let latest = "SELECT max(\"end\") AS latest FROM usage";
    let billed =
        "SELECT sum(quantity) AS lived FROM usage WHERE resource = 'vm-1' AND meter = 'lifetime'";
    let lived = format!("lived\n{}.000000000000\n", 142 * 60);
    site.settle().await;
    assert_eq!(site.csv(latest).await, format!("latest\n{}\n", second(142 * 60)));
    assert_eq!(site.csv(billed).await, lived);
    assert_eq!(site.ledger.metrics().withdrawn.get(), 8);
    assert_eq!(site.ledger.metrics().due.get(), 0);
    assert_eq!(site.ledger.metrics().lag_seconds.get(), 22 * 60);
    let (ahead, detail) = (period(6, 9), Detail::Prices);
    let draft = site.ledger.invoices.draft(&Scope::system(), "p", &ahead, detail).await.unwrap();
    assert!(draft.lines.is_empty(), "{:?}", draft.lines);
    assert!(site.ledger.invoices.issue("p", &ahead, detail, hour(11)).await.is_err());
    // A process that starts now knows, too.
    site.stop().await;
    let site = bed.start_at(&book, clock.clone()).await;
    assert_eq!(site.settle().await, 0);
    assert_eq!(site.csv(billed).await, lived);
    // What the hours really had comes, and they are settled as they end.
    clock.set(second(400 * 60));
    let dies =
        event(Change::Deleted, second(300 * 60), "vm-1", VM, &[("vcpus", "2"), ("project", "p")]);
    let late = [beat(141, 400), dies];
    bed.append(&late).await;
    site.holds(rows + counts(&late).0, events + 1).await;
    site.settle().await;
    let stored = site
        .ledger
        .rating
        .usage(&Scope::system(), window(0, 5), &Default::default())
        .await
        .unwrap();
    assert_eq!(stored, site.true_usage(window(0, 5)).await);
    assert_eq!(site.csv(billed).await, format!("lived\n{}.000000000000\n", 300 * 60));
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

/// A clock that is behind for a while takes back hours that are over, and gives them again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_that_a_clock_behind_opened_are_settled_again() {
    let (book, clock) = (PriceBook::built_in(), Arc::new(SetClock::default()));
    let bed = Bed::new();
    clock.set(second(400 * 60));
    let site = bed.start_at(&book, clock.clone()).await;
    bed.append(&[beat(0, 400)]).await;
    site.holds(401, 0).await;
    assert_eq!(site.settle().await, 5);
    let stored = site
        .ledger
        .rating
        .usage(&Scope::system(), window(0, 5), &Default::default())
        .await
        .unwrap();
    clock.set(second(150 * 60));
    assert_eq!(site.ledger.settlement.settle(&CancellationToken::new()).await.unwrap(), 0);
    assert_eq!(site.ledger.metrics().withdrawn.get(), 3);
    clock.set(second(401 * 60));
    assert_eq!(site.settle().await, 3);
    assert_eq!(
        site.ledger
            .rating
            .usage(&Scope::system(), window(0, 5), &Default::default())
            .await
            .unwrap(),
        stored
    );
    assert_eq!(settled_hours(&site).await, "5");
    site.stop().await;
}
