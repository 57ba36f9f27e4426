//! The agent against a log that goes away, sources that misbehave, and its own death.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nilometer_collect::AgentError;
use nilometer_contract::{Change, GAPS, Gap, GapKind, SAMPLES};

use crate::bed::{Bed, Fleet, seconds};

#[tokio::test(start_paused = true)]
async fn the_first_observation_is_at_once_and_the_others_on_the_interval() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a", "b"]));
    run.until(25).await;
    assert_eq!(bed.log.instants("a"), [3, 10, 20]);
    assert_eq!(run.status.report().sources[0].alive, 2);
    let order = bed.log.topics_in_order();
    let first_sample = order.iter().position(|topic| topic == SAMPLES);
    assert_eq!(first_sample, Some(2), "both events come before any sample");
    run.stop().await;
    assert_eq!(bed.log.instants("a"), [3, 10, 20, 25], "the last observation is at the stop");
    assert_eq!(bed.spooled_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_reordered_while_the_log_is_away() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a", "b", "c", "d"]).with_births());
    run.until(15).await;
    bed.log.set_away(true);
    run.until(95).await;
    let report = run.status.report();
    assert!(report.log_error.is_some() && report.spool_bytes > 0);
    bed.log.set_away(false);
    run.until(125).await;
    run.stop().await;
    let every: Vec<i64> = [3].into_iter().chain((10..=120).step_by(10)).chain([125]).collect();
    for id in ["a", "b", "c", "d"] {
        assert_eq!(bed.log.instants(id), every);
    }
    let born = bed.log.events().iter().filter(|event| event.change == Change::Created).count();
    assert_eq!(born, 4 + every.len());
    let gaps = bed.log.gaps();
    assert_eq!(gaps.len(), 2, "one for each topic: {gaps:?}");
    for gap in gaps {
        assert_eq!((gap.kind, seconds(gap.start)), (GapKind::Late, 20), "{}", gap.reason);
        assert!((95..=101).contains(&seconds(gap.end)));
        assert_eq!(gap.partition, None);
    }
    assert_eq!(run.metric("nilometer_agent_dropped_samples_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_the_oldest_go_and_a_gap_says_so() {
    let mut bed = Bed::new();
    bed.spool_max_bytes = 80 * 1024;
    bed.log.set_away(true);
    let run = bed.start(Fleet::numbered(400));
    run.until(1_003).await;
    bed.log.set_away(false);
    run.until(1_015).await;
    run.stop().await;
    let observed = run.metric("nilometer_agent_samples_total");
    let kept = bed.log.samples().len() as f64;
    let mut gaps: Vec<Gap> = bed.log.gaps();
    gaps.retain(|gap| gap.kind == GapKind::Lost);
    let lost: u64 = gaps.iter().filter(|gap| gap.topic == SAMPLES).map(|gap| gap.samples).sum();
    assert!(lost > 0 && kept > 0.0);
    assert_eq!(kept + lost as f64, observed);
    assert_eq!(run.metric("nilometer_agent_dropped_samples_total"), lost as f64);
    for gap in gaps.iter().filter(|gap| gap.topic == SAMPLES) {
        assert_eq!((gap.agent.as_str(), gap.reason.as_str()), ("n", "spool full"));
        assert_eq!(seconds(gap.start), 3, "the oldest went first");
        let kept_from = bed.log.first_in(SAMPLES, gap.partition.unwrap());
        assert!(gap.end <= kept_from, "a gap ends where the kept records begin");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_turns_up_is_observed_at_once_and_then_with_the_others() {
    let bed = Bed::new();
    let run = bed.start_all(Vec::new());
    run.until(14).await;
    assert!(bed.log.samples().is_empty());
    run.turns_up(Fleet::of(&["a"])).await;
    run.until(35).await;
    assert_eq!(run.status.report().sources[0].alive, 1);
    run.stop().await;
    assert_eq!(bed.log.instants("a"), [14, 20, 30, 35]);
    assert_eq!(run.metric("nilometer_agent_clock_jumps_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_agent_left_is_sent_first() {
    let bed = Bed::new();
    bed.log.set_away(true);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(45).await;
    run.kill().await;
    assert!(bed.spooled_bytes() > 0);
    bed.log.set_away(false);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(62).await;
    run.stop().await;
    assert_eq!(bed.log.instants("a"), [3, 10, 20, 30, 40, 45, 50, 60, 62]);
    assert_eq!(bed.log.distinct_events(), ["created a @3"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_log_is_away_keeps_everything() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(15).await;
    bed.log.set_away(true);
    run.until(18).await;
    run.stop().await;
    bed.log.set_away(false);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(22).await;
    run.kill().await;
    // The second agent starts at the very instant at which the first stopped.
    assert_eq!(bed.log.instants("a"), [3, 10, 18, 20]);
}

#[tokio::test(start_paused = true)]
async fn resources_that_vanished_meanwhile_end_when_last_seen() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a", "b"]));
    run.until(35).await;
    run.kill().await;
    bed.advance_to(72).await;
    let run = bed.start(Fleet::of(&["a", "c"]));
    run.until(81).await;
    run.stop().await;
    assert_eq!(
        bed.log.distinct_events(),
        ["created a @3", "created b @3", "deleted b @30 estimated", "created c @72"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_taken_in_is_never_estimated_again() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a", "b"]));
    run.until(35).await;
    bed.log.set_away(true);
    run.push_end("b").await;
    // Killed before the log or the file of known resources could hear of it.
    run.until_taken(3.0).await;
    run.kill().await;
    bed.log.set_away(false);
    let run = bed.start(Fleet::of(&["a"]));
    run.until(50).await;
    run.stop().await;
    assert_eq!(bed.log.distinct_events(), ["created a @3", "created b @3", "deleted b @35"]);
}

/// At every observation one resource is born; the next agent does not find it any more.
#[tokio::test(start_paused = true)]
async fn killed_at_any_instant_it_tells_every_birth_and_every_end_once() {
    let bed = Bed::new();
    let mut random = 20_260_101_u64;
    let mut up_to = |most: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let (mut born, mut kills) = (0.0, 0);
    while kills < 60 {
        let run = bed.start(Fleet::of(&["a"]).with_births());
        for _ in 0..3 {
            bed.log.set_away(up_to(3) == 0);
            tokio::time::sleep(Duration::from_millis(1 + up_to(9_000))).await;
        }
        run.kill().await;
        born += run.metric("nilometer_agent_samples_total");
        kills += 1;
    }
    bed.log.set_away(false);
    let run = bed.start(Fleet::of(&["a"]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    run.stop().await;
    let mut told: BTreeMap<String, Vec<Change>> = BTreeMap::new();
    for event in bed.log.events() {
        told.entry(event.resource.id).or_default().push(event.change);
    }
    assert_eq!(told.remove("a"), Some(vec![Change::Created]));
    assert!(told.values().all(|changes| changes == &[Change::Created, Change::Deleted]));
    assert_eq!(told.len() as f64, born);
}

#[tokio::test(start_paused = true)]
async fn pushed_observations_are_sent_within_a_second() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(12).await;
    run.push_end("a").await;
    run.until(13).await;
    assert_eq!(bed.log.distinct_events(), ["created a @3", "deleted a @12"]);
    run.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_source_holds_up_itself_only() {
    let bed = Bed::new();
    let slow = Fleet::of(&["slow"]).named("slow").taking(Duration::from_secs(25));
    let run = bed.start_all(vec![slow, Fleet::of(&["a"])]);
    run.until(62).await;
    assert_eq!(bed.log.instants("a"), [3, 10, 20, 30, 40, 50, 60]);
    assert_eq!(bed.log.instants("slow"), [3, 30]);
    let report = run.status.report();
    assert_eq!((report.sources[0].skipped, report.sources[1].skipped), (4, 0));
    run.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_asked_again() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]).failing_at(10));
    run.until(12).await;
    assert!(run.status.report().sources[0].error.is_some());
    run.until(22).await;
    assert!(run.status.report().sources[0].error.is_none());
    assert_eq!(bed.log.instants("a"), [3, 20]);
    run.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_hangs_counts_as_away() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(12).await;
    bed.log.set_hanging(true);
    run.until(45).await;
    assert!(run.status.report().log_error.is_some());
    bed.log.set_hanging(false);
    run.until(65).await;
    assert!(run.status.report().log_error.is_none());
    run.stop().await;
    assert_eq!(bed.log.instants("a"), [3, 10, 20, 30, 40, 50, 60, 65]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_is_counted_and_told() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(15).await;
    bed.clock.jump(3_600);
    run.until(3_655).await;
    assert_eq!(run.metric("nilometer_agent_clock_jumps_total"), 1.0);
    bed.clock.jump(-1_800);
    run.until(1_895).await;
    assert_eq!(run.metric("nilometer_agent_clock_jumps_total"), 2.0);
    run.stop().await;
    let gaps: Vec<(String, i64, i64)> = bed
        .log
        .gaps()
        .iter()
        .map(|gap| (gap.reason.clone(), seconds(gap.start), seconds(gap.end)))
        .collect();
    let told = |start, end| ("the clock was stepped".to_owned(), start, end);
    assert_eq!(gaps, [told(20, 3_620), told(1_860, 3_660)]);
    assert!(bed.log.topics_in_order().contains(&GAPS.to_owned()));
}

/// A runtime stamps the last reading of what ended by its wall clock, which was just stepped.
#[tokio::test(start_paused = true)]
async fn a_last_reading_right_after_a_step_is_kept_and_in_order() {
    for step in [-100, 3_600] {
        let bed = Bed::new();
        let run = bed.start(Fleet::of(&["other"]));
        run.until(11).await;
        run.push_readings("vm", &[(11, 5.0)]).await;
        run.until(12).await;
        bed.clock.jump(step);
        run.push_readings("vm", &[(1, 0.0), (12 + step, 7.0)]).await;
        run.until(13 + step).await;
        assert_eq!(run.metric("nilometer_agent_clock_jumps_total"), 1.0);
        // Its instants are of before the step, and it is taken in after it.
        run.push_readings("late", &[(13, 9.0)]).await;
        bed.clock.jump(-step);
        run.until(35).await;
        run.stop().await;
        let second = (2, 12 + step, 7.0);
        assert_eq!(bed.log.readings("vm"), [(1, 11, 5.0), second], "{step}");
        assert_eq!(bed.log.readings("late").len(), 1, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_leaves_a_gap() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(15).await;
    bed.clock.stand_still(90);
    run.until(125).await;
    assert_eq!(run.metric("nilometer_agent_stalls_total"), 1.0);
    assert_eq!(run.metric("nilometer_agent_clock_jumps_total"), 0.0);
    run.stop().await;
    let gaps = bed.log.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((seconds(gaps[0].start), seconds(gaps[0].end)), (20, 110));
    assert_eq!(gaps[0].kind, GapKind::Unobserved);
}

/// Killed or stopped: before, none of them left a gap, and levels were taken to go on.
#[tokio::test(start_paused = true)]
async fn an_agent_that_did_not_run_leaves_a_gap() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(15).await;
    run.kill().await;
    bed.advance_to(165).await;
    let run = bed.start(Fleet::of(&["a"]));
    run.until(175).await;
    run.stop().await;
    // For less than the interval nobody misses it.
    bed.advance_to(180).await;
    let run = bed.start(Fleet::of(&["a"]));
    run.until(195).await;
    run.stop().await;
    let gaps = bed.log.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((seconds(gaps[0].start), seconds(gaps[0].end)), (20, 165));
    assert_eq!(
        (gaps[0].kind, gaps[0].reason.as_str()),
        (GapKind::Unobserved, "the agent did not run")
    );
}

#[tokio::test(start_paused = true)]
async fn two_agents_do_not_share_a_folder() {
    let bed = Bed::new();
    let run = bed.start(Fleet::of(&["a"]));
    run.until(5).await;
    let second = bed.start(Fleet::of(&["a"]));
    assert!(matches!(second.ended().await, Err(AgentError::Busy(_))));
    run.stop().await;
    assert_eq!(Arc::strong_count(&bed.log), 1, "a stopped agent lets go of the log");
}
