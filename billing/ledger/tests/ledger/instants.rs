//! Billed to the instant: short lives, resizes between polls, prices by flavor.

use nilometer_contract::Change::{Changed, Created, Deleted};
use nilometer_contract::{ResourceKind, Scope};
use nilometer_rating::{Detail, PriceBook};

use crate::bed::{Bed, period, second};
use crate::script::{counts, event, samples};

const CONTAINER: ResourceKind = ResourceKind::CONTAINER;
const NODE: ResourceKind = ResourceKind::NODE;
const VM: ResourceKind = ResourceKind::VM;

const BOOK: &str = r#"
name = "instants"
currency = "EUR"

[[price]]
meter = "lifetime"
kind = "vm"
match = { flavor = "small" }
price = "36"
per = "hour"
description = "small VM"

[[price]]
meter = "lifetime"
kind = "vm"
match = { flavor = "large" }
price = "360"
per = "hour"
description = "large VM"

[[price]]
meter = "lifetime"
kind = "container"
price = "3600"
per = "hour"
description = "container"

[[price]]
meter = "cpu.time"
kind = "vm"
match = { flavor = "large" }
price = "1"
per = "second"
description = "CPU of a large VM"
"#;

/// A VM of 61 s, a container of 3 s between two polls, and a VM resized in the middle of an hour,
/// whose CPU time has a price only while it is large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_and_resizes_are_priced_to_the_instant() {
    let (small, large) = ([("flavor", "small")], [("flavor", "large")]);
    let cpu = (0..=12).map(|n| (second(1_200 + n * 60), n as f64 * 6.0));
    let records = [
        event(Created, second(601), "vm-61", VM, &small),
        event(Deleted, second(662), "vm-61", VM, &small),
        event(Created, second(1_001), "box-3", CONTAINER, &[]),
        event(Deleted, second(1_004), "box-3", CONTAINER, &[]),
        event(Created, second(1_200), "vm-2", VM, &small),
        event(Changed, second(1_230), "vm-2", VM, &large),
        event(Deleted, second(1_920), "vm-2", VM, &large),
        samples("vm-2", VM, "cpu.time", cpu),
        samples("node-1", NODE, "cpu.time", (0..=140).map(|n| (second(n * 60), n as f64))),
    ];
    let (rows, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::parse(BOOK).unwrap()).await;
    site.holds(rows, events).await;
    for settled in [0, 1] {
        assert_eq!(site.ledger.metrics().settled.get(), settled);
        let draft = site
            .ledger
            .invoices
            .draft(&Scope::system(), "acme", &period(0, 1), Detail::Resources)
            .await
            .unwrap();
        let lines = draft.lines.iter().map(|line| {
            let resource = line.resource.as_deref().unwrap_or_default();
            format!("{} {resource}: {} s, {}", line.description, line.quantity, line.amount)
        });
        let lines: Vec<String> = lines.collect();
        let expected = [
            "small VM vm-2: 30 s, 0.30",
            "small VM vm-61: 61 s, 0.61",
            "large VM vm-2: 690 s, 69.00",
            "container box-3: 3 s, 3.00",
            // 0.1 s of CPU time a second, of which the first 30 s were on a small VM.
            "CPU of a large VM vm-2: 69 s, 69.00",
        ];
        assert_eq!(lines, expected);
        assert_eq!(draft.total.to_string(), "141.91");
        site.settle().await;
    }
    let cut = site
        .csv(
            "SELECT \"start\", \"end\", quantity FROM usage WHERE resource = 'vm-2' \
             AND meter = 'cpu.time' ORDER BY \"start\"",
        )
        .await;
    assert_eq!(cut.lines().count(), 3, "one row before the resize, one after: {cut}");
    site.stop().await;
}
