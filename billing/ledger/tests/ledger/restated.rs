//! Hours that are stated anew: late samples, late events, pauses that end hours later.

use nilometer_contract::{Change, Gap, GapKind, ResourceKind, Scope};
use nilometer_rating::{Detail, PriceBook};
use nilometer_usage::Window;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, Site, hour, period, second, window};
use crate::bills::{billed, known_bill, projects};
use crate::script::{MINUTE, Record, Topic, counts, event, fleet, lively, samples};

const NODE: ResourceKind = ResourceKind::NODE;
const VM: ResourceKind = ResourceKind::VM;

/// What is settled is what the samples of this moment tell.
pub(crate) async fn is_exact(site: &Site, of: Window) {
    let stored = site.ledger.rating.usage(&Scope::system(), of, &Default::default()).await.unwrap();
    assert_eq!(stored, site.true_usage(of).await);
}

fn is_held_back(record: &Record) -> bool {
    let late = hour(0).plus_micros(50 * MINUTE)..hour(2).plus_micros(20 * MINUTE);
    record.topic == Topic::Samples && record.partition == 1 && late.contains(&record.at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_settle_their_hours_anew() {
    let (config, book) = (lively(21), PriceBook::built_in());
    let seen_until = hour(5).plus_micros(10 * MINUTE);
    let records = fleet(&config, seen_until);
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_held_back);
    let (prompt_samples, events) = counts(&prompt);
    let (late_samples, _) = counts(&late);
    let bed = Bed::new();
    bed.append(&prompt).await;
    let site = bed.start(&book).await;
    site.holds(prompt_samples, events).await;
    site.settle().await;
    assert_eq!(site.ledger.metrics().settled.get(), 4);
    is_exact(&site, window(0, 4)).await;
    let first = site.csv("SELECT count(DISTINCT known) FROM usage_history").await;
    bed.append(&late).await;
    site.holds(prompt_samples + late_samples, events).await;
    assert!(site.settle().await >= 3, "hours 0 to 2 at least are looked at again");
    assert!(site.ledger.metrics().restated.get() >= 3);
    is_exact(&site, window(0, 4)).await;
    let then = site.csv("SELECT count(DISTINCT known) FROM usage_history").await;
    assert_ne!(first, then, "both statements can be read");
    for project in projects(&site) {
        let draft = site
            .ledger
            .invoices
            .draft(&Scope::system(), &project, &period(0, 4), Detail::Prices)
            .await
            .unwrap();
        let known = known_bill(&site, &config, seen_until, &book, &project, (0, 4));
        assert_eq!(billed(&draft), known, "{project}");
    }
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_log_brings_is_not_taken_for_seen() {
    let (config, book) = (lively(21), PriceBook::built_in());
    let records = fleet(&config, hour(5).plus_micros(10 * MINUTE));
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_held_back);
    let ((prompt_samples, events), (late_samples, _)) = (counts(&prompt), counts(&late));
    let bed = Bed::new();
    bed.append(&prompt).await;
    let site = bed.start(&book).await;
    site.holds(prompt_samples, events).await;
    assert!(site.settle().await >= 4);
    site.stop().await;
    // Fewer records than the log that is gone had, and stored while nobody settles.
    let bed = bed.with_another_log();
    bed.append(&late).await;
    let site = bed.start(&book).await;
    site.holds(prompt_samples + late_samples, events).await;
    site.stop().await;
    let site = bed.start(&book).await;
    assert!(site.settle().await >= 3, "hours 0 to 2 at least are looked at again");
    is_exact(&site, window(0, 4)).await;
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

/// Samples whose labels are lost count in no usage, until those are back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_without_labels_is_settled_anew_with_them() {
    let records = fleet(&lively(21), hour(5).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let right = site.true_usage(window(0, 4)).await;
    site.stop().await;
    bed.lose_files(&nilometer_store::SERIES).await;
    let site = bed.start(&PriceBook::built_in()).await;
    assert!(site.settle().await >= 4);
    let stored = async || {
        site.ledger.rating.usage(&Scope::system(), window(0, 4), &Default::default()).await.unwrap()
    };
    assert_ne!(stored().await, right);
    let (repaired, _) = bed.repair().await;
    assert_eq!(repaired.lost, 0, "{repaired}");
    site.until("the labels are back", async || site.true_usage(window(0, 4)).await == right).await;
    site.settle().await;
    assert_eq!(stored().await, right);
    site.stop().await;
}

/// Before, hours began with the oldest sample of the last 32 days: 480 more here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sample_moves_the_start_of_metering() {
    let (vm, long_ago) = ([("flavor", "small")], second(-20 * 86_400));
    let records = [
        event(Change::Created, second(-30 * 86_400), "vm-1", VM, &vm),
        samples("vm-1", VM, "cpu.time", [(long_ago, 1.0)]),
        samples("vm-1", VM, "cpu.time", (0..=140).map(|n| (second(n * 60), n as f64))),
    ];
    let (rows, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(rows, events).await;
    let first = "SELECT min(\"start\") AS first FROM usage";
    let start = site.csv(first).await;
    assert!(start.contains(&hour(0).to_string()), "{start}");
    site.settle().await;
    assert_eq!(site.ledger.metrics().settled.get(), 1);
    assert_eq!(site.csv(first).await, start);
    assert_eq!(site.csv("SELECT count(*) FROM samples").await.trim(), format!("count(*)\n{rows}"));
    site.stop().await;
}

/// Two ledgers at once: one commits, the other finds out and goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ledgers_state_no_row_twice() {
    let records = fleet(&lively(23), hour(4).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let rival = site.rival(&bed).await;
    let cancel = CancellationToken::new();
    let (ours, theirs) =
        tokio::join!(site.ledger.settlement.settle(&cancel), rival.settlement.settle(&cancel));
    assert!(ours.is_ok() || theirs.is_ok(), "{ours:?} {theirs:?}");
    for ledger in [&site.ledger, &rival] {
        ledger.settlement.settle(&cancel).await.unwrap();
        let stored =
            ledger.rating.usage(&Scope::system(), window(0, 3), &Default::default()).await.unwrap();
        assert_eq!(stored, site.true_usage(window(0, 3)).await);
    }
    for table in ["usage", "charges"] {
        let rows = format!("SELECT count(*) AS n FROM {table}");
        let distinct = format!(
            "SELECT count(*) AS n FROM (SELECT DISTINCT \"start\", resource, meter FROM {table})"
        );
        assert_eq!(site.csv(&rows).await, site.csv(&distinct).await);
    }
    site.stop().await;
}

/// Left to itself, a ledger settles what is due, and stops when it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_ledger_settles_by_itself() {
    let bed = Bed::new();
    let site = bed.start(&PriceBook::built_in()).await;
    let (ledger, cancel) = (site.ledger.clone(), CancellationToken::new());
    let stop = cancel.clone();
    let running = tokio::spawn(async move { ledger.settlement.run(stop).await });
    let heart = beat(0, 200);
    bed.append(&[heart]).await;
    let began = std::time::Instant::now();
    while site.ledger.metrics().settled.get() < 2 {
        assert!(began.elapsed().as_secs() < 60, "two hours are settled within a minute");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    cancel.cancel();
    running.await.unwrap().unwrap();
    is_exact(&site, window(0, 2)).await;
    site.stop().await;
}

/// What arrives while nobody settles is found by its offsets after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_are_found_after_a_restart() {
    let records = fleet(&lively(22), hour(4).plus_micros(10 * MINUTE));
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_held_back);
    let (prompt_samples, events) = counts(&prompt);
    let bed = Bed::new();
    bed.append(&prompt).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(prompt_samples, events).await;
    site.settle().await;
    assert_eq!(site.ledger.metrics().settled.get(), 3);
    bed.append(&late).await;
    site.holds(prompt_samples + counts(&late).0, events).await;
    site.stop().await;
    let site = bed.start(&PriceBook::built_in()).await;
    assert!(site.settle().await >= 3);
    is_exact(&site, window(0, 3)).await;
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

fn beat(from: i64, upto: i64) -> Record {
    let minutes = (from..=upto).map(|minute| (second(minute * 60), minute as f64));
    samples("node-1", NODE, "cpu.time", minutes)
}

/// A counter that says nothing for hours bears on all of them when it speaks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_spreads_back_over_settled_hours() {
    let bed = Bed::new();
    let born = event(Change::Created, hour(0), "vm-1", VM, &[("vcpus", "2")]);
    let minutes = |from: i64, upto: i64| {
        let values = (from..=upto).map(|minute| (second(minute * 60 + 7), minute as f64 * 10.0));
        samples("vm-1", VM, "cpu.time", values)
    };
    let site = bed.start(&PriceBook::built_in()).await;
    let early = [born, beat(0, 370), minutes(0, 30)];
    let (rows, _) = counts(&early);
    bed.append(&early).await;
    site.holds(rows, 1).await;
    assert_eq!(site.settle().await, 5);
    is_exact(&site, window(0, 5)).await;
    // Silent from 00:30 on, it speaks again at 05:10, when 01:00 to 05:00 are settled.
    let more = [minutes(310, 370), beat(371, 440)];
    bed.append(&more).await;
    site.holds(rows + counts(&more).0, 1).await;
    assert!(site.settle().await >= 6);
    is_exact(&site, window(0, 6)).await;
    let usage = "SELECT sum(quantity) AS used FROM usage WHERE resource = 'vm-1' \
        AND meter = 'cpu.time' AND \"start\" >= TIMESTAMP '2026-11-02T02:00:00Z' \
        AND \"end\" <= TIMESTAMP '2026-11-02T04:00:00Z'";
    let used = site.csv(usage).await;
    assert_eq!(used, "used\n1200.000000000000\n", "ten seconds a minute, spread over the pause");
    assert_eq!(site.settle().await, 0, "following pauses comes to an end");
    // A straggler from the middle of the pause bears on hours on both sides of it.
    let straggler = samples("vm-1", VM, "cpu.time", [(second(180 * 60 + 7), 1_900.0)]);
    bed.append(&[straggler]).await;
    site.holds(rows + counts(&more).0 + 1, 1).await;
    site.settle().await;
    is_exact(&site, window(0, 6)).await;
    assert_ne!(site.csv(usage).await, used);
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

/// A deletion that is told hours later takes back what was billed since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_event_settles_the_hours_after_it_anew() {
    let bed = Bed::new();
    let born = event(Change::Created, hour(0), "vm-1", VM, &[("vcpus", "2")]);
    let site = bed.start(&PriceBook::built_in()).await;
    let early = [born, beat(0, 310)];
    let (rows, _) = counts(&early);
    bed.append(&early).await;
    site.holds(rows, 1).await;
    assert_eq!(site.settle().await, 4);
    let lived = "SELECT sum(quantity) AS lived FROM usage WHERE resource = 'vm-1' \
        AND meter = 'lifetime' AND \"start\" < TIMESTAMP '2026-11-02T04:00:00Z'";
    assert_eq!(site.csv(lived).await, "lived\n14400.000000000000\n");
    let died = event(Change::Deleted, second(3_661), "vm-1", VM, &[("vcpus", "2")]);
    bed.append(&[died]).await;
    site.holds(rows, 2).await;
    assert!(site.settle().await >= 3);
    assert_eq!(site.csv(lived).await, "lived\n3661.000000000000\n");
    is_exact(&site, window(0, 4)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_gap_settles_its_hours_anew() {
    let records = fleet(&lively(21), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    assert!(site.settle().await >= 2);
    let start = hour(0).plus_micros(20 * MINUTE);
    let gap = Gap {
        kind: GapKind::Unobserved,
        agent: "agent".to_owned(),
        node: String::new(),
        sources: Vec::new(),
        topic: nilometer_contract::SAMPLES.to_owned(),
        partition: None,
        start,
        end: start.plus_micros(10 * MINUTE),
        records: 0,
        samples: 0,
        reason: "nobody looked".to_owned(),
    };
    let payload = gap.encode().unwrap().into();
    bed.append(&[Record { topic: Topic::Gaps, partition: 0, at: start, rows: 1, payload }]).await;
    while !site.csv("SELECT count(*) FROM gaps").await.ends_with("\n1\n") {
        tokio::task::yield_now().await;
    }
    assert!(site.settle().await >= 1, "its hour is looked at again");
    is_exact(&site, window(0, 2)).await;
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}
