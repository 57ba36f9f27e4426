//! Two sources of one VM: one life, one usage, one bill, whatever order they come in.

use std::ops::Range;

use nilometer_contract::{Change, ResourceKind, Scope, catalogue};
use nilometer_ledger::Bill;
use nilometer_rating::{Detail, PriceBook};
use nilometer_store::text_hash;
use nilometer_usage::UsageRow;

use crate::bed::{Bed, Site, hour, period, second, window};
use crate::restated::is_exact;
use crate::script::{Record, Topic, event_by, samples, samples_by};

const VM: ResourceKind = ResourceKind::VM;
const NODE: ResourceKind = ResourceKind::NODE;
const HOURS: i64 = 4;
const BOOK: &str = "name = 'two'\ncurrency = 'EUR'\n\
    [[price]]\nmeter = 'cpu.time'\nkind = 'vm'\nprice = '1'\nper = 'hour'\n\
    [[price]]\nmeter = 'memory.usage'\nkind = 'vm'\nprice = '1000000'\nper = 'GiB*hour'\n\
    [[price]]\nmeter = 'cpu.allocation'\nkind = 'vm'\nprice = '1'\nper = 'hour'\n";

/// What a source says of the VM's life: it repeats itself, and resizes it at the same instant.
fn life(source: &str, attributes: &[(&str, &str)]) -> Vec<Record> {
    let with = |size: &'static str| -> Vec<(&str, &str)> {
        attributes.iter().copied().chain([("vcpus", size)]).collect()
    };
    let (small, large) = (with("2"), with("4"));
    let at = |change, seconds, state: &[(&str, &str)]| {
        event_by(source, change, second(seconds), "vm-1", VM, state)
    };
    vec![
        at(Change::Created, 0, &small),
        at(Change::Changed, 1_000, &small),
        at(Change::Changed, 5_000, &large),
        at(Change::Changed, 6_000, &large),
        at(Change::Deleted, 13_500, &large),
    ]
}

/// Minutely samples of the VM, each some seconds past the minute.
fn sampled(
    source: &str,
    past: i64,
    factor: f64,
    minutes: impl IntoIterator<Item = i64>,
) -> Vec<Record> {
    let all: Vec<i64> = minutes.into_iter().collect();
    let parts = all.chunks(10).flat_map(|minutes| {
        ["cpu.time", "memory.usage"].map(|meter| {
            let values =
                minutes.iter().map(|&n| (second(n * 60 + past), factor * (100 + n) as f64));
            samples_by(source, "vm-1", VM, meter, values)
        })
    });
    parts.collect()
}

/// The node's own samples: time goes on.
fn node() -> Vec<Record> {
    vec![samples("node-1", NODE, "cpu.time", (0..=330).map(|n| (second(n * 60), n as f64)))]
}

/// What the two sources say, as far as they do.
fn libvirt(minutes: impl IntoIterator<Item = i64>) -> Vec<Record> {
    let parts = sampled("libvirt", 0, 1.0, minutes);
    life("libvirt", &[("domain", "i-1")]).into_iter().chain(parts).collect()
}

fn guest() -> Vec<Record> {
    life("guest", &[("image", "debian")])
        .into_iter()
        .chain(sampled("guest", 7, 3.0, 0..230))
        .collect()
}

/// Records in an order of their own, some of them twice.
fn shuffled(mut records: Vec<Record>, seed: u64) -> Vec<Record> {
    let place = |record: &Record| {
        text_hash(&format!(
            "{seed} {:?} {}",
            record.topic,
            text_hash(&format!("{:?}", record.payload))
        ))
    };
    let again: Vec<Record> =
        records.iter().filter(|record| place(record) % 4 == 0).cloned().collect();
    records.sort_by_key(place);
    records.extend(again);
    records
}

/// Rows and bill of all hours, with no dead letter; the process restarts after `halt` records.
async fn settled(records: &[Record], halt: usize) -> (Vec<UsageRow>, String) {
    let mut distinct: Vec<&Record> = Vec::new();
    for record in records {
        if !distinct.iter().any(|one| one.payload == record.payload) {
            distinct.push(record);
        }
    }
    let (count, events) = crate::script::counts(distinct);
    let (bed, book) = (Bed::new(), PriceBook::parse_with(BOOK, catalogue()).unwrap());
    bed.append(&records[..halt]).await;
    let site = bed.start(&book).await;
    site.until("half is read", async || site.tables.now().newest > hour(0)).await;
    site.settle().await;
    site.stop().await;
    bed.append(&records[halt..]).await;
    let site = bed.start(&book).await;
    site.holds(count, events).await;
    site.settle().await;
    assert_eq!(site.settle().await, 0, "it comes to an end");
    is_exact(&site, window(0, HOURS)).await;
    assert_eq!(site.csv("SELECT count(*) FROM dead_letters").await.trim(), "count(*)\n0");
    let found = (of_vm(&site).await, bill(&site).await);
    site.stop().await;
    found
}

async fn of_vm(site: &Site) -> Vec<UsageRow> {
    let (scope, all) = (Scope::system(), Default::default());
    let rows = site.ledger.rating.usage(&scope, window(0, HOURS), &all).await.unwrap().into_iter();
    rows.filter(|row| *row.resource == *"vm-1").collect()
}

async fn bill(site: &Site) -> String {
    let invoices = &site.ledger.invoices;
    let (scope, period) = (Scope::system(), period(0, HOURS));
    let draft = invoices.draft(&scope, "acme", &period, Detail::Resources).await.unwrap();
    let lines = draft.lines.iter().map(|line| format!("{} {}\n", line.meter, line.amount));
    format!("{}{}", lines.collect::<String>(), draft.total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_are_billed_as_the_first_one_alone() {
    let first: Vec<Record> = node().into_iter().chain(libvirt(0..230)).collect();
    let alone = settled(&first, 1).await;
    assert!(alone.1.lines().count() == 4, "{}", alone.1);
    for seed in 0..4 {
        let records = shuffled(first.iter().cloned().chain(guest()).collect(), seed);
        let halt = 1 + seed as usize * records.len() / 4;
        assert_eq!(settled(&records, halt).await, alone, "order {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_source_stands_in_hour_by_hour() {
    let all: Vec<Record> = [node(), guest()].concat();
    let (guest_alone, _) = settled(&all, 1).await;
    let libvirt = libvirt((0..58).chain(185..230));
    let (libvirt_alone, _) = settled(&[node(), libvirt.clone()].concat(), 1).await;
    let is_of = |row: &UsageRow, hours: Range<i64>| {
        (hour(hours.start)..hour(hours.end)).contains(&row.start)
            && ["cpu.time", "memory.usage"].contains(&&*row.meter.name)
    };
    let stands_in = guest_alone.iter().filter(|row| is_of(row, 1..3));
    let rest = libvirt_alone.iter().filter(|row| !is_of(row, 1..3));
    let mut expected: Vec<UsageRow> = stands_in.chain(rest).cloned().collect();
    expected.sort();
    for seed in 0..2 {
        let records = shuffled([all.clone(), libvirt.clone()].concat(), seed);
        let (mut found, _) = settled(&records, records.len() / 2).await;
        found.sort();
        assert_eq!(found, expected, "order {seed}");
    }
}

/// The hours of the pause are the other source's and stay so; before, the hour in which the pause
/// began was not looked at again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_pause_settles_the_hour_anew_in_which_it_began() {
    let bed = Bed::new();
    let early = [node(), libvirt(0..50), sampled("guest", 7, 3.0, 0..230)].concat();
    let late = sampled("libvirt", 0, 1.0, 190..200);
    let (count, events) = crate::script::counts(&early);
    bed.append(&early).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(count, events).await;
    assert!(site.settle().await >= HOURS as usize);
    let before = of_vm(&site).await;
    let (more, _) = crate::script::counts(&late);
    bed.append(&late).await;
    site.holds(count + more, events).await;
    site.settle().await;
    is_exact(&site, window(0, HOURS)).await;
    let after = of_vm(&site).await;
    let in_hour = |rows: &[UsageRow], n: i64| -> Vec<UsageRow> {
        rows.iter().filter(|row| row.start.hour() == hour(n)).cloned().collect()
    };
    let changed = [0, 1, 2, 3].map(|n| in_hour(&before, n) != in_hour(&after, n));
    assert_eq!(changed, [true, false, false, true]);
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

/// An explanation shows the samples of all, and whose of them count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_says_whose_samples_count() {
    let bed = Bed::new();
    let records = [node(), libvirt(0..230), guest()].concat();
    let (count, events) = crate::script::counts(&records);
    bed.append(&records).await;
    let site = bed.start(&PriceBook::parse_with(BOOK, catalogue()).unwrap()).await;
    site.holds(count, events).await;
    site.settle().await;
    let (scope, period) = (Scope::system(), period(0, HOURS));
    let invoices = &site.ledger.invoices;
    let draft = invoices.draft(&scope, "acme", &period, Detail::Resources).await.unwrap();
    let line = draft.lines.iter().find(|line| line.meter == "cpu.time").unwrap();
    let bill = Bill { project: "acme".to_owned(), period };
    let explained = site.ledger.explanations.explain(&scope, &line.id, Some(&bill)).await.unwrap();
    let step = explained.steps.iter().find(|step| step.sql.contains("source_hours")).unwrap();
    let rows = step.rows.as_ref().unwrap();
    let of = |n: usize| (rows[n]["source"].as_str(), rows[n]["counted"].as_i64());
    assert_eq!((of(0), of(1)), ((Some("guest"), Some(0)), (Some("libvirt"), Some(60))));
    assert_eq!(rows.len(), 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_that_do_not_count_are_kept_and_listed() {
    let bed = Bed::new();
    let records = [node(), libvirt(0..58), guest()].concat();
    let (count, events) = crate::script::counts(&records);
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(count, events).await;
    let kept = "SELECT source, count(*) AS n FROM samples WHERE meter = 'cpu.time' AND resource = \
                'vm-1' GROUP BY 1 ORDER BY 1";
    assert_eq!(site.csv(kept).await, "source,n\nguest,230\nlibvirt,58\n");
    let listed = "SELECT source, samples, counted FROM source_hours WHERE meter = 'cpu.time' \
                  ORDER BY start, source";
    let hours = "source,samples,counted\nguest,60,0\nlibvirt,58,58\n";
    assert_eq!(site.csv(listed).await, hours, "in the other hours nothing is contested");
    let part = "SELECT sum(samples - counted) AS n FROM source_hours WHERE resource = 'vm-1' \
                AND project = 'acme'";
    assert_eq!(site.csv(part).await, "n\n120\n");
    let lives = "SELECT count(*) AS n FROM resources WHERE resource = 'vm-1'";
    assert_eq!(site.csv(lives).await, "n\n2\n", "before and after it was resized");
    let both = "SELECT count(*) AS n FROM resources WHERE resource = 'vm-1' AND attributes LIKE \
                '%debian%' AND attributes LIKE '%i-1%'";
    assert_eq!(site.csv(both).await, "n\n2\n", "with what either source states");
    assert!(records.iter().any(|record| record.topic == Topic::Events));
    site.stop().await;
}
