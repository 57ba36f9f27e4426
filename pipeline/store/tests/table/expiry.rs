//! Retention: by more than one clock, never what is held, a little at a time.

use std::time::Duration;

use nilometer_contract::Timestamp;
use nilometer_store::{Table, horizon, write_samples};

use crate::place::{Place, everywhere};
use crate::tables::{DAY, NOON, row, series_of};

everywhere!(days_are_partitions_and_old_ones_go);

/// The same rows every day, of series that tell the day.
async fn days(table: &mut Table, days: std::ops::Range<i64>) {
    for day in days {
        let rows = (0..10).map(|n| row(day, NOON + day * DAY + n));
        let adds = write_samples(table, rows.collect()).await.unwrap();
        table.append(adds, &[]).await.unwrap();
    }
}

async fn days_are_partitions_and_old_ones_go(place: Place) {
    let mut table = place.samples().await;
    days(&mut table, 0..5).await;
    assert!(table.expired(Timestamp(NOON), 1).is_none());
    let expired = table.expired(Timestamp(NOON + 2 * DAY), 1).unwrap();
    assert_eq!((expired.rows, expired.files()), (20, 2));
    assert_eq!(expired.span, (Timestamp(NOON), Timestamp(NOON + DAY + 9)));
    table.drop_expired(&expired, Vec::new(), Timestamp(NOON + 9 * DAY)).await.unwrap();
    assert_eq!(table.expired_before(), Timestamp(NOON + DAY + 10));
    let mut left = series_of(&table).await;
    left.dedup();
    assert_eq!(left, [2, 3, 4]);
}

#[tokio::test]
async fn no_clock_alone_decides_what_expires() {
    let place = Place::local();
    let mut table = place.samples().await;
    let kept = 10 * DAY;
    assert_eq!(horizon(&table, Timestamp(NOON), kept), None, "an empty table knows no time");
    days(&mut table, 0..30).await;
    let end = NOON + 29 * DAY + DAY / 2;
    let of_rows = Timestamp(end - kept);
    assert_eq!(horizon(&table, Timestamp(end + 500 * DAY), kept), Some(of_rows));
    let behind = Timestamp(NOON + 20 * DAY);
    assert_eq!(horizon(&table, behind, kept), Some(Timestamp(NOON + 10 * DAY)));
    // Stray samples of another century are no evidence.
    let stray = vec![row(99, NOON + 45_000 * DAY)];
    let adds = write_samples(&table, stray).await.unwrap();
    table.append(adds, &[]).await.unwrap();
    assert_eq!(table.latest_full_day(), Some(Timestamp(end)));
}

#[tokio::test]
async fn what_is_held_stays() {
    let place = Place::local();
    let mut table = place.samples().await;
    days(&mut table, 0..30).await;
    let clock = Timestamp(NOON + 30 * DAY);
    table.hold("billing", Timestamp(NOON + 3 * DAY)).await.unwrap();
    table.hold("audit", Timestamp(NOON + 9 * DAY)).await.unwrap();
    let mut again = place.samples().await;
    assert_eq!(horizon(&again, clock, 10 * DAY), Some(Timestamp(NOON + 3 * DAY)));
    again.hold("billing", Timestamp(NOON + 12 * DAY)).await.unwrap();
    assert_eq!(horizon(&again, clock, 10 * DAY), Some(Timestamp(NOON + 9 * DAY)));
    again.hold("audit", Timestamp(NOON + 29 * DAY)).await.unwrap();
    assert_eq!(horizon(&again, clock, 25 * DAY), Some(Timestamp(NOON + 4 * DAY + DAY / 2)));
}

#[tokio::test]
async fn one_run_drops_a_small_part() {
    let place = Place::local();
    let mut table = place.samples().await;
    days(&mut table, 0..30).await;
    let far = Timestamp(NOON + 500 * DAY);
    assert_eq!(table.expired(far, 100).unwrap().files(), 1, "one file at least");
    assert_eq!(table.expired(far, 10).unwrap().files(), 3);
    let expired = table.expired(far, 10).unwrap();
    table.drop_expired(&expired, Vec::new(), far).await.unwrap();
    assert_eq!(table.files().len(), 27);
}

#[tokio::test]
async fn the_pace_of_expiry_outlasts_whoever_keeps_it() {
    let place = Place::local();
    let mut table = place.samples().await;
    days(&mut table, 0..30).await;
    let hour = Duration::from_secs(3_600);
    let at = |minutes: i64| Timestamp(NOON + 500 * DAY + minutes * 60_000_000);
    // Each time in a process of its own. The first time the hour begins.
    assert!(!place.samples().await.may_expire(at(0), hour).await.unwrap());
    for minute in [1, 30, 59] {
        assert!(!place.samples().await.may_expire(at(minute), hour).await.unwrap());
    }
    let mut table = place.samples().await;
    assert!(table.may_expire(at(60), hour).await.unwrap());
    let expired = table.expired(at(0), 100).unwrap();
    table.drop_expired(&expired, Vec::new(), at(60)).await.unwrap();
    for minute in [61, 119] {
        assert!(!place.samples().await.may_expire(at(minute), hour).await.unwrap());
    }
    assert!(place.samples().await.may_expire(at(120), hour).await.unwrap());
    // A clock that was ahead and came back: the hour begins anew.
    assert!(!place.samples().await.may_expire(at(10), hour).await.unwrap());
    assert!(!place.samples().await.may_expire(at(69), hour).await.unwrap());
    assert!(place.samples().await.may_expire(at(70), hour).await.unwrap());
}
