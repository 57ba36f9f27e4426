//! Worked cases. The hold time is five minutes throughout.

use crate::script::{check, check_by_parent};

#[test]
fn a_counter_counts_its_increases() {
    // 30 s used in the first minute, 15 s in the second; after the last reading nobody looked.
    check(
        "counter",
        "created 0s project=a
         deleted 10m
         samples 0s=0 60s=30 120s=45",
        "0s..10m a 45 seen 2m",
    );
}

#[test]
fn a_fall_is_a_restart_from_zero() {
    check(
        "counter",
        "created 0s project=a
         deleted 4m
         samples 0s=100 60s=130 120s=7 180s=9 240s=0",
        "0s..4m a 39 seen 4m",
    );
}

#[test]
fn an_idle_counter_counts_nothing() {
    check(
        "counter",
        "created 0s project=a
         deleted 3m
         samples 0s=500 60s=500 120s=500 180s=500",
        "0s..3m a 0 seen 3m",
    );
}

#[test]
fn increases_spread_over_the_hours_they_lie_in() {
    // A third of the 10 s lies before the hour: 3.333333333333 s, and the rest after.
    check(
        "counter",
        "created 0s project=a
         samples 59m=0 62m=10
         as_of 62m",
        "0s..1h a 3.333333333333 seen 1m
         1h..1h2m a 6.666666666667 seen 2m",
    );
}

#[test]
fn increases_split_where_the_owner_changes() {
    check(
        "counter",
        "created 0s project=a
         changed 90s project=b
         changed 100s vcpus=4
         deleted 2m
         samples 0s=0 60s=60 120s=66",
        "0s..1m30s a 63 seen 1m30s
         1m30s..2m b 3 seen 30s",
    );
}

#[test]
fn a_counter_born_in_sight_stood_at_zero_then() {
    check(
        "counter",
        "created 10s project=a
         deleted 2m
         samples 40s=3 120s=5",
        "10s..2m a 5 seen 1m50s",
    );
}

#[test]
fn a_counter_older_than_its_first_reading_starts_with_it() {
    let expected = "10s..20m a 2 seen 1m";
    // The first reading comes more than the hold time after the creation.
    check("counter", "created 10s project=a\ndeleted 20m\nsamples 10m=40 11m=42", expected);
    // The creation was never seen: what was there before is not ours.
    check("counter", "changed 10s project=a\ndeleted 20m\nsamples 11s=40 71s=42", expected);
    // A reading at the instant of creation says what it stood at.
    check("counter", "created 10s project=a\ndeleted 20m\nsamples 10s=40 70s=42", expected);
}

#[test]
fn a_pod_between_two_polls_counts_in_full() {
    // Lived 3 s; the runtime told its last figures half a second after the end, and once more.
    check(
        "counter",
        "created 12s project=a
         deleted 15s
         samples 15s500ms=2.7 20s=2.9",
        "12s..15s a 2.7 seen 3s",
    );
    check("lifetime", "created 12s project=a\ndeleted 15s", "12s..15s a 3 seen 3s");
}

#[test]
fn the_final_reading_counts_up_to_the_end() {
    // At the end itself; or later, within the hold time.
    let expected = "0s..2m a 12 seen 2m";
    check("counter", "created 0s project=a\ndeleted 2m\nsamples 60s=10 120s=12 180s=99", expected);
    check("counter", "created 0s project=a\ndeleted 2m\nsamples 60s=10 130s=12 180s=99", expected);
    // Too late to be about this life.
    check(
        "counter",
        "created 0s project=a\ndeleted 2m\nsamples 60s=10 8m=12",
        "0s..2m a 10 seen 1m",
    );
}

#[test]
fn lives_are_metered_apart() {
    // Stopped at 2m, started again at 3m with counters from zero. The increase between the last
    // reading and the stop was never read.
    check(
        "counter",
        "created 0s project=a
         deleted 2m
         created 3m project=a
         samples 0s=0 110s=50 200s=60 4m=70
         as_of 4m",
        "0s..2m a 50 seen 1m50s
         3m..4m a 70 seen 1m",
    );
}

#[test]
fn a_pause_counts_but_is_not_observed() {
    check(
        "counter",
        "created 0s project=a
         samples 0s=0 2h=7200
         as_of 3h",
        "0s..1h a 3600 seen 5m
         1h..2h a 3600 seen 0s
         2h..3h a 0 seen 0s",
    );
}

#[test]
fn what_is_no_reading_is_a_gap() {
    check(
        "counter",
        "created 0s project=a
         samples 0s=0 60s=NaN 120s=-5 180s=1e300 240s=8
         as_of 4m",
        "0s..4m a 8 seen 4m",
    );
    check(
        "gauge",
        "created 0s project=a
         samples 0s=2 60s=inf 10m=5
         as_of 11m",
        "0s..11m a 900 seen 6m",
    );
}

#[test]
fn a_level_holds_until_the_next_but_not_for_ever() {
    check(
        "gauge",
        "created 0s project=a
         deleted 61m
         samples 60s=4 120s=1 59m=10",
        // 60 s at 4, 300 s at 1, 60 s at 10; the hour's last minute and the next hour's first.
        "0s..1h a 1140 seen 7m
         1h..1h1m a 600 seen 1m",
    );
}

#[test]
fn a_level_ends_with_the_life_the_owner_and_now() {
    check(
        "gauge",
        "created 0s project=a
         changed 90s project=b
         deleted 2m
         samples 60s=4 2m=9 3m=9",
        "0s..1m30s a 120 seen 30s
         1m30s..2m b 120 seen 30s",
    );
    // Stopped and started again within the hold time: the level was of the life that ended.
    check(
        "gauge",
        "created 0s project=a
         deleted 2m
         created 3m project=a
         samples 60s=4 4m=5
         as_of 5m",
        "0s..2m a 240 seen 1m
         3m..5m a 300 seen 1m",
    );
    check("gauge", "created 0s project=a\nsamples 0s=3\nas_of 20s", "0s..20s a 60 seen 20s");
}

#[test]
fn an_amount_counts_at_its_instant() {
    check(
        "delta",
        "created 0s project=a
         changed 90m project=b
         deleted 2h10s
         samples 1m=5 1h=7 90m=1 2h10s=2 2h11s=100",
        "0s..1h a 5 seen 6m
         1h..1h30m a 7 seen 5m
         1h30m..2h b 1 seen 4m50s
         2h..2h10s b 2 seen 10s",
    );
}

#[test]
fn allocations_are_exact_to_the_instant() {
    // A VM that lived 61 s is charged 61 s.
    check("lifetime", "created 30s project=a\ndeleted 91s", "30s..1m31s a 61 seen 1m1s");
    // Resized at 10m, handed over at 20m, gone at 1h5m.
    check(
        "vcpus",
        "created 0s project=a vcpus=2
         changed 10m vcpus=4
         changed 20m project=b
         deleted 1h5m",
        "0s..20m a 3600 seen 20m
         20m..1h b 9600 seen 40m
         1h..1h5m b 1200 seen 5m",
    );
    // One microsecond of a millionth.
    check(
        "vcpus",
        "created 1us project=a vcpus=0.000001\ndeleted 2us",
        "1us..2us a 0.000000000001 seen 1us",
    );
}

#[test]
fn allocations_that_are_not_stated_or_not_numbers() {
    check("vcpus", "created 0s project=a\nas_of 1h", "");
    check(
        "vcpus",
        "created 0s project=a vcpus=many
         changed 10m vcpus=1
         as_of 30m",
        "0s..30m a 1200 seen 20m",
    );
    check(
        "vcpus",
        "created 0s project=a
         changed 10m vcpus=1
         as_of 30m",
        "10m..30m a 1200 seen 20m",
    );
}

#[test]
fn what_nobody_announced_lives_by_its_samples() {
    check(
        "counter",
        "samples 50m=5 55m=8 61m=12",
        "50m..1h p 6.333333333333 seen 10m
         1h..1h6m p 0.666666666667 seen 0s",
    );
    check("gauge", "samples 59m=1", "59m..1h p 60 seen 1m\n1h..1h4m p 240 seen 4m");
    check("gauge", "", "");
}

#[test]
fn windows_and_now_cut_rows() {
    let script = "created 0s project=a\nsamples 0s=0 60s=60 120s=180\n";
    check("counter", &format!("{script}window 30s 90s"), "30s..1m30s a 90 seen 1m");
    check("counter", &format!("{script}window 30s 90s\nas_of 1m"), "30s..1m a 30 seen 30s");
    check("counter", &format!("{script}window 30s 90s\nas_of 30s"), "");
    check("counter", &format!("{script}window 90s 30s"), "");
}

#[test]
fn a_move_splits_by_parent() {
    check_by_parent(
        "counter",
        "created 0s project=a parent=node-1
         changed 30s project=b
         changed 45s parent=node-2
         deleted 1m
         samples 0s=0 1m=60",
        "0s..45s node-1 45 seen 45s
         45s..1m node-2 15 seen 15s",
    );
}

#[test]
fn large_counters_lose_nothing() {
    // 2^53 - 1 bytes, then one more: the increase is one byte.
    check(
        "counter",
        "created 0s project=a
         deleted 10m
         samples 6m=9007199254740991 7m=9007199254740992",
        "0s..10m a 1 seen 1m",
    );
    // Three tenths of a nanosecond-exact clock.
    check(
        "counter",
        "created 0s project=a
         deleted 10m
         samples 6m=1000000.1 7m=1000000.2 8m=1000000.3",
        "0s..10m a 0.2 seen 2m",
    );
}
