//! The agent against partitions that fail, records that the log refuses, and damage on its disk.

use std::fs;
use std::path::PathBuf;

use nilometer_contract::{EVENTS, Gap, GapKind, SAMPLES, partition_of};

use crate::bed::{Bed, Fleet, seconds};

const PARTITIONS: u32 = 8;

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("vm-{n}")).collect()
}

fn lost(bed: &Bed, topic: &str) -> Vec<Gap> {
    let mut gaps = bed.log.gaps();
    gaps.retain(|gap| gap.kind == GapKind::Lost && gap.topic == topic);
    gaps
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fails_holds_back_no_other_and_nothing_is_sent_twice() {
    let bed = Bed::new();
    let run = bed.start(Fleet::numbered(64).with_births());
    run.until(15).await;
    bed.log.set_failing(SAMPLES, 3, true);
    bed.log.set_failing(EVENTS, 2, true);
    run.until(95).await;
    let (before, after) = ([3, 10], [3, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    for id in ids(64) {
        let stuck = partition_of(&id, PARTITIONS) == 3;
        assert_eq!(bed.log.instants(&id), if stuck { &before[..] } else { &after[..] }, "{id}");
    }
    let report = run.status.report();
    assert!(report.log_error.is_some_and(|error| error.contains("partition")));
    assert!(report.spool_bytes > 0);
    bed.log.set_failing(SAMPLES, 3, false);
    bed.log.set_failing(EVENTS, 2, false);
    run.until(155).await;
    run.stop().await;
    for id in ids(64) {
        assert_eq!(bed.log.instants(&id).len(), 17, "{id}");
    }
    let born =
        bed.log.events().iter().filter(|event| event.resource.id.starts_with("born")).count();
    assert_eq!(born, 17);
    let (appended, distinct) = bed.log.appended();
    assert_eq!(appended, distinct, "what a partition took is not sent again");
    let late: Vec<_> =
        bed.log.gaps().iter().map(|gap| (gap.kind, gap.topic.clone(), gap.partition)).collect();
    let expected = |topic: &str, partition| (GapKind::Late, topic.to_owned(), Some(partition));
    assert_eq!(late, [expected(EVENTS, 2), expected(SAMPLES, 3)]);
    assert_eq!(bed.spooled_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_log_refuses_is_set_aside_and_a_gap_tells() {
    let bed = Bed::new();
    let poison = "poison";
    bed.log.refuse(poison);
    let beside = ids(64)
        .into_iter()
        .filter(|id| partition_of(id, PARTITIONS) == partition_of(poison, PARTITIONS));
    let all: Vec<String> = beside.chain([poison.to_owned()]).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let run = bed.start(Fleet::of(&all));
    run.until(5).await;
    run.push_end(all[0]).await;
    run.until(8).await;
    run.kill().await;
    assert_eq!(bed.log.events().len(), all.len(), "each is born but the one, and one ended");
    let [event] = &lost(&bed, EVENTS)[..] else { panic!("{:?}", bed.log.gaps()) };
    assert_eq!((event.records, event.sources.as_slice()), (1, &["fleet".to_owned()][..]));
    assert_eq!(
        (seconds(event.start), event.partition),
        (3, Some(partition_of(poison, PARTITIONS)))
    );
    let letters: Vec<PathBuf> =
        fs::read_dir(bed.dir().join("dead_letters")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(letters.len(), 1);
    assert!(
        letters
            .iter()
            .all(|path| fs::read(path).unwrap().windows(6).any(|w| w == poison.as_bytes()))
    );
    assert_eq!(run.metric("nilometer_agent_dead_letters_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_observation_larger_than_the_spool_loses_nothing_while_the_log_is_there() {
    let mut bed = Bed::new();
    bed.spool_max_bytes = 64 * 1024;
    let run = bed.start(Fleet::numbered(3_000));
    run.until(25).await;
    run.stop().await;
    assert_eq!(bed.log.events().len(), 3_000);
    assert_eq!(bed.log.samples().len(), 3_000 * 4);
    assert_eq!(run.metric("nilometer_agent_dropped_total"), 0.0);
    assert!(bed.log.gaps().is_empty(), "{:?}", bed.log.gaps());
}

#[tokio::test(start_paused = true)]
async fn what_an_observation_loses_while_the_log_is_away_is_in_gaps() {
    let mut bed = Bed::new();
    bed.spool_max_bytes = 64 * 1024;
    bed.log.set_away(true);
    let run = bed.start(Fleet::numbered(3_000));
    run.until(8).await;
    run.kill().await;
    bed.log.set_away(false);
    // What was lost is known to the next agent too, although the first was killed.
    let run = bed.start(Fleet::of(&[]));
    run.until(9).await;
    run.kill().await;
    let events = lost(&bed, EVENTS);
    let records: u64 = events.iter().map(|gap| gap.records).sum();
    let born = bed.log.events().iter().filter(|event| event.change.as_str() == "created").count();
    assert!(records > 0 && born > 0);
    assert_eq!(born as u64 + records, 3_000);
    let samples: u64 = lost(&bed, SAMPLES).iter().map(|gap| gap.samples).sum();
    assert_eq!(bed.log.samples().len() as u64 + samples, 3_000);
    for gap in bed.log.gaps().iter().filter(|gap| gap.kind == GapKind::Lost) {
        assert_eq!((gap.node.as_str(), gap.sources.as_slice()), ("n", &["fleet".to_owned()][..]));
        assert_eq!((seconds(gap.start), seconds(gap.end)), (3, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn damage_in_the_spool_of_a_dead_agent_costs_one_record_and_a_gap_tells() {
    let bed = Bed::new();
    bed.log.set_away(true);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(75).await;
    run.kill().await;
    let segment = bed.dir().join("samples/0000000000000000.seg");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&segment, bytes).unwrap();
    bed.log.set_away(false);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(85).await;
    run.stop().await;
    let all = [3, 10, 20, 30, 40, 50, 60, 70, 75, 80, 85];
    let there = bed.log.instants("a");
    let [gone] = all.into_iter().filter(|at| !there.contains(at)).collect::<Vec<_>>()[..] else {
        panic!("{there:?}")
    };
    let [gap] = &lost(&bed, SAMPLES)[..] else { panic!("{:?}", bed.log.gaps()) };
    assert!((seconds(gap.start)..=seconds(gap.end)).contains(&gone));
    assert_eq!((gap.records, gap.node.as_str()), (1, "n"));
}
