//! Events past their retention: what ended goes, what lives keeps its facts.

use nilometer_contract::Change::{Changed, Created, Deleted};
use nilometer_contract::{Change, History, LifecycleEvent, Timestamp};
use nilometer_ingest::EVENTS;
use nilometer_ingest::Tables;
use tokio_util::sync::CancellationToken;

use crate::place::{Place, T0, event, eventually, patient};
use crate::upkeep::go_round;

const DAY: i64 = 86_400;
const KEPT_DAYS: u64 = 400;

/// An event so many days ago.
fn ago(days: i64, change: Change, resource: &str, project: &str) -> LifecycleEvent {
    let mut event = event(change, resource, -days * DAY);
    event.resource.project = project.to_owned();
    event
}

/// A machine that is three years old, one that ended before the retention, one that ended within.
fn years() -> Vec<LifecycleEvent> {
    vec![
        ago(1_100, Created, "vm-old", "a"),
        ago(1_000, Changed, "vm-old", "b"),
        ago(900, Changed, "vm-old", "c"),
        ago(800, Created, "vm-gone", "a"),
        ago(700, Deleted, "vm-gone", "a"),
        ago(600, Created, "vm-past", "a"),
        ago(100, Deleted, "vm-past", "a"),
    ]
}

/// A place with these events in files of their own, and a sample of today.
async fn place_of(events: &[LifecycleEvent]) -> Place {
    let place = Place::new();
    place.samples(0, &[("cpu.time", "vm-old", 0, 1.0)]).await;
    for event in events {
        place.event(0, event).await;
        place.ingest(patient()).await;
    }
    place
}

/// Instants and projects of the states of a resource, in days ago.
fn states(history: &History, resource: &str) -> Vec<(i64, String)> {
    let states = history.get(resource).map(|lifetime| lifetime.segments()).unwrap_or_default();
    let days = |at: Timestamp| (Timestamp::from_seconds(T0).0 - at.0) / 1_000_000 / DAY;
    states.iter().map(|it| (days(it.start), it.state.project.clone())).collect()
}

fn all_states(tables: &Tables) -> [Vec<(i64, String)>; 3] {
    let history = tables.shared.history.read().unwrap();
    ["vm-old", "vm-gone", "vm-past"].map(|resource| states(&history, resource))
}

fn expected() -> [Vec<(i64, String)>; 3] {
    let of = |days: i64, project: &str| (days, project.to_owned());
    [vec![of(1_100, "a"), of(900, "c")], vec![], vec![of(600, "a")]]
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_forgets_what_ended_and_keeps_what_lives() {
    let place = place_of(&years()).await;
    let running = place.start(patient()).await;
    assert_eq!(all_states(&running.tables), expected());
    running.stop().await.unwrap();
    assert_eq!(all_states(&place.follower().await.tables()), expected());
    assert_eq!(place.stored_in("events").await.len(), 7, "the table lets go by and by");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_keeps_what_is_needed_of_old_events() {
    let place = place_of(&years()).await;
    let metrics = go_round(&place, KEPT_DAYS, Timestamp::from_seconds(T0)).await;
    assert_eq!(metrics.expired_rows.get(), 3);
    let left = place.stored_in("events").await;
    assert_eq!(left.len(), 4, "{left:#?}");
    assert!(!left.iter().any(|line| line.contains("vm-gone")), "{left:#?}");
    let gaps = place.stored_in("gaps").await;
    assert!(gaps.iter().any(|gap| gap.contains("3 rows of events")), "{gaps:?}");
    // It says the same after a start, and nothing more goes.
    assert_eq!(all_states(&place.follower().await.tables()), expected());
    let metrics = go_round(&place, KEPT_DAYS, Timestamp::from_seconds(T0)).await;
    assert_eq!((metrics.expired_rows.get(), place.stored_in("events").await.len()), (0, 4));
    // What billing holds stays.
    let place = place_of(&years()).await;
    let mut samples = place.storage().table(&nilometer_store::SAMPLES).await.unwrap();
    samples.hold("billing", Timestamp::from_seconds(T0 - 750 * DAY)).await.unwrap();
    let metrics = go_round(&place, KEPT_DAYS, Timestamp::from_seconds(T0)).await;
    assert_eq!(metrics.expired_rows.get(), 1, "one state of the old machine");
}

/// A reader that forgot a resource meets its creation again in a file that replaced another, and
/// its end is in a file that it has read.
#[tokio::test(flavor = "multi_thread")]
async fn files_written_anew_revive_nothing() {
    let place = place_of(&years()).await;
    let follower = place.follower().await;
    let (tables, cancel) = (follower.tables(), CancellationToken::new());
    let following = tokio::spawn(follower.run(cancel.clone()));
    assert_eq!(all_states(&tables), expected());
    let mut table = place.storage().table(&EVENTS).await.unwrap();
    let day = Timestamp::from_seconds(T0 - 800 * DAY).0;
    let file = table.files().within(day, day).next().unwrap().clone();
    let rows = table.read(&file).await.unwrap();
    let add = table.write(&rows, None).await.unwrap();
    table.replace(&[file], vec![add], "test").await.unwrap();
    let version = table.version();
    eventually("it sees the file", async || tables.now().tables["events"].version == version).await;
    let gone = {
        let history = tables.shared.history.read().unwrap();
        history.get("vm-gone").map(|lifetime| lifetime.latest().unwrap().end.is_some())
    };
    assert_ne!(gone, Some(false), "it has ended");
    cancel.cancel();
    following.await.unwrap().unwrap();
}
