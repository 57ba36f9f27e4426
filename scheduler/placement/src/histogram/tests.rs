//! Histograms by their numbers: buckets, weights, the profile of the day.

use super::*;

const START: Timestamp = Timestamp(1_790_000_000 / 86_400 * 86_400 * MICROS_PER_SECOND);

fn minutes(count: i64) -> Timestamp {
    START.plus_micros(count * MICROS_PER_MINUTE)
}

#[test]
fn stays_small() {
    assert_eq!(size_of::<UsageHistogram>(), 200);
}

#[test]
fn percentile_is_within_a_bucket_above_the_true_one() {
    let mut histogram = UsageHistogram::new(START);
    for step in 0..600 {
        histogram.add(CPU, minutes(step), 60.0, 1.0 + (step % 100) as f64 / 100.0);
    }
    let peak = histogram.percentile(CPU).unwrap();
    assert!((1.94..=1.96 * 1.05).contains(&peak), "{peak}");
}

#[test]
fn an_old_outlier_fades_and_never_hides_the_present() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(CPU, START, 3_600.0, 50.0);
    for step in 1..10 * 1_440 {
        histogram.add(CPU, minutes(step), 60.0, 1.0);
    }
    let peak = histogram.percentile(CPU).unwrap();
    assert!((1.0..8.0).contains(&peak), "{peak}");
}

#[test]
fn the_rhythm_of_the_day_is_foreseen() {
    let mut histogram = UsageHistogram::new(START);
    for step in 0..3 * 1_440 {
        let busy = (step / 60) % 24 == 9;
        histogram.add(CPU, minutes(step), 60.0, if busy { 4.0 } else { 0.5 });
    }
    let at = |hour: i64| histogram.next_hour_peak(CPU, minutes(3 * 1_440 + hour * 60)).unwrap();
    assert!((4.0..4.4).contains(&at(8)), "the busy hour starts within the next: {}", at(8));
    assert!((0.5..0.6).contains(&at(3)), "quiet at night: {}", at(3));
}

#[test]
fn extremes_do_not_panic() {
    let mut histogram = UsageHistogram::new(Timestamp::MIN);
    assert_eq!(histogram.percentile(MEMORY), None);
    for (at, value) in [(Timestamp::MIN, 0.0), (Timestamp::MAX, 1e300), (Timestamp::MIN, 1.0)] {
        histogram.add(MEMORY, at, 1.0, value);
        assert!(histogram.next_hour_peak(MEMORY, at).is_some());
    }
}

/// Values of one shape that are easy to follow: steps of 5 % and 8 % from 1, a half-life of an hour.
const PLAIN: Shape = Shape { floor: 1.0, half_life_hours: 1.0, peak: 0.5 };

fn hours(count: i64) -> Timestamp {
    minutes(60 * count)
}

/// `value` after so many steps of a bucket.
fn bucket(steps: i32) -> f64 {
    BUCKET_GROWTH.powi(steps)
}

fn near(found: f64, expected: f64) -> bool {
    (found / expected - 1.0).abs() < 1e-6
}

#[test]
fn values_at_a_step_stay_there_and_others_round_up() {
    assert_eq!(steps(0.5, 1.0, 1.05), 0.0);
    assert_eq!(steps(1.0, 1.0, 1.05), 0.0);
    assert_eq!(steps(1.0001, 1.0, 1.05), 1.0);
    assert_eq!(steps(1.05 * 1.05, 1.0, 1.05), 2.0);
    assert_eq!(steps(8.0, 2.0, 2.0), 2.0, "a floor of 2 is the first step");
    assert_eq!(decode(0, PLAIN), 0.0);
    assert_eq!(decode(1, CPU), 0.001);
    assert!(near(decode(3, CPU), 0.001 * 1.08 * 1.08));
}

#[test]
fn minutes_and_hours_are_counted_from_1970() {
    let at = Timestamp(7_325 * MICROS_PER_SECOND);
    assert_eq!((minute(at), hour(at)), (122, 2));
    assert_eq!((minute(Timestamp(-MICROS_PER_HOUR)), hour(Timestamp(-MICROS_PER_HOUR))), (0, 0));
    assert_eq!(UsageHistogram::new(at).first(), Timestamp(7_320 * MICROS_PER_SECOND));
}

#[test]
fn the_percentile_is_the_bucket_that_holds_more_than_its_share_from_above() {
    let mut histogram = UsageHistogram::new(START);
    for (seconds, steps) in [(30.0, 4), (20.0, 2), (50.0, 0)] {
        histogram.add(PLAIN, START, seconds, bucket(steps));
    }
    let of = |peak| histogram.percentile(Shape { peak, ..PLAIN }).unwrap();
    for (peak, steps) in [(0.99, 4), (0.71, 4), (0.69, 2), (0.51, 2), (0.49, 0), (0.01, 0)] {
        assert!(near(of(peak), bucket(steps)), "{peak}: {}", of(peak));
    }
    assert!(near(of(0.5), bucket(0)), "just half the weight above is not more than half");
    let floor = Shape { floor: 3.0, peak: 0.99, ..PLAIN };
    assert!(near(histogram.percentile(floor).unwrap(), 3.0 * bucket(4)));
}

#[test]
fn values_far_below_the_top_share_the_last_bucket() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(PLAIN, START, 60.0, bucket(5));
    histogram.add(PLAIN, START, 60.0, bucket(30));
    assert_eq!(histogram.weights[25], 60.0, "moved down as the top rose");
    histogram.add(PLAIN, START, 60.0, bucket(60));
    assert_eq!((histogram.top, histogram.weights[0], histogram.weights[30]), (60, 60.0, 60.0));
    assert_eq!(histogram.weights[LAST], 60.0, "what fell off the end");
    histogram.add(PLAIN, START, 7.0, 0.0);
    assert_eq!(histogram.weights[LAST], 67.0, "what never reached so high");
    assert_eq!(histogram.weights.iter().sum::<f32>(), 187.0, "nothing is lost");
    let low = histogram.percentile(Shape { peak: 0.01, ..PLAIN }).unwrap();
    assert!(near(low, bucket(60 - 39)), "too high, never too low: {low}");
    histogram.add(PLAIN, START, 1.0, 1e300);
    assert_eq!(histogram.weights[LAST], 187.0, "all else is far below");
}

#[test]
fn a_weight_halves_in_each_half_life() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(PLAIN, START, 60.0, bucket(0));
    assert_eq!(histogram.weights[0], 60.0);
    histogram.add(PLAIN, hours(1), 60.0, bucket(0));
    assert_eq!(histogram.weights[0], 60.0 + 120.0, "twice the weight of the first");
    assert_eq!(histogram.reference, minute(START));
    histogram.add(PLAIN, hours(2), 60.0, bucket(0));
    assert_eq!(histogram.reference, minute(hours(2)), "scaled to the present");
    assert_eq!(histogram.weights[0], 180.0 / 4.0 + 60.0);
    let slow = Shape { half_life_hours: 2.0, ..PLAIN };
    assert_eq!(histogram.weight(slow, hours(4)), 2.0);
    assert_eq!(histogram.weight(PLAIN, hours(1)), 0.5);
}

#[test]
fn a_top_that_faded_anchors_the_buckets_no_more() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(PLAIN, START, 60.0, bucket(20));
    histogram.add(PLAIN, START, 60.0, bucket(12));
    histogram.add(PLAIN, hours(9), 60.0, bucket(3));
    assert_eq!(histogram.top, 20, "2 in 62 are more than a thousandth");
    histogram.add(PLAIN, hours(18), 60.0, bucket(3));
    assert_eq!(histogram.top, 20, "rescaled before the new value was added");
    histogram.add(PLAIN, hours(27), 60.0, bucket(3));
    assert_eq!(histogram.top, 3);
    assert!((60.0..60.5).contains(&histogram.weights[0]), "{:?}", histogram.weights);
    assert!(histogram.weights[1..].iter().all(|&weight| weight == 0.0));
    let peak = histogram.percentile(PLAIN).unwrap();
    assert!(near(peak, bucket(3)), "{peak}");
}

#[test]
fn new_values_are_right_after_all_weights_vanished() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(PLAIN, START, 60.0, bucket(2));
    histogram.add(PLAIN, hours(24 * 365), 60.0, bucket(0));
    assert!(near(histogram.percentile(PLAIN).unwrap(), bucket(0)));
    assert_eq!(histogram.weights.iter().sum::<f32>(), 60.0);
}

#[test]
fn the_profile_keeps_the_highest_of_each_hour_and_fades_by_the_day() {
    let mut histogram = UsageHistogram::new(START);
    let code = |value: f64| (steps(value, 1.0, PROFILE_GROWTH) + 1.0) as u8;
    histogram.add(PLAIN, hours(3), 60.0, 4.0);
    histogram.add(PLAIN, hours(3), 60.0, 2.0);
    assert_eq!(histogram.profile[3], code(4.0));
    assert_eq!(histogram.profile[2], 0, "never observed");
    histogram.add(PLAIN, hours(24 + 2), 60.0, 2.0);
    assert_eq!(histogram.profile[3], code(4.0), "23 hours later it has not been entered again");
    histogram.add(PLAIN, hours(24 + 3), 60.0, 0.0);
    assert_eq!(histogram.profile[3], code(4.0) - PROFILE_FADE);
    assert_eq!(histogram.profile[2], code(2.0));
    histogram.add(PLAIN, hours(3 * 24 + 4), 60.0, 0.0);
    assert_eq!(histogram.profile[3], code(4.0) - 3 * PROFILE_FADE, "two more days");
    assert_eq!(histogram.profile[2], code(2.0) - 2 * PROFILE_FADE);
    assert_eq!(histogram.profile[5], 0, "what was never observed stays so");
    histogram.add(PLAIN, hours(200 * 24), 60.0, 0.0);
    assert_eq!(histogram.profile[3], 1, "faded, but observed");
    // An earlier value changes its own hour, and the hour does not go back.
    histogram.add(PLAIN, hours(100 * 24), 60.0, 9.0);
    assert_eq!(histogram.hour, hour(hours(200 * 24)));
    assert_eq!(histogram.profile[0], code(9.0));
}

#[test]
fn the_next_hour_is_foreseen_from_two_hours_of_the_day_or_the_percentile() {
    let mut histogram = UsageHistogram::new(START);
    histogram.add(PLAIN, hours(0), 3_600.0, 8.0);
    histogram.add(PLAIN, hours(1), 3_600.0, 2.0);
    let at = |hour| histogram.next_hour_peak(PLAIN, hours(hour)).unwrap();
    let rounded = |value: f64| decode((steps(value, 1.0, PROFILE_GROWTH) + 1.0) as u8, PLAIN);
    assert!(near(at(24), rounded(8.0)), "both hours are known: the higher");
    let percentile = histogram.percentile(PLAIN).unwrap();
    assert!(near(at(25), percentile.max(rounded(2.0))), "of one hour nothing is known");
    assert!(near(at(23), rounded(8.0)), "the known hour is higher than the percentile");
    assert!(near(at(30), percentile));
    assert_eq!(UsageHistogram::new(START).next_hour_peak(PLAIN, START), None);
}
