//! Leases: one owner at a time, waited for by the waiter's own clock.

use std::time::Duration;

use nilometer_contract::Timestamp;
use nilometer_store::{Claimant, Holder, Lease, LeaseError, Storage, Taken};

use crate::place::Place;

const TERM: Duration = Duration::from_secs(30);

fn claimant(storage: &Storage, role: &str) -> Claimant {
    storage.claimant("tables", Holder::here(role, Timestamp(0)), TERM)
}

async fn ours(claimant: &mut Claimant) -> Lease {
    match claimant.take().await.unwrap() {
        Taken::Ours(lease) => lease,
        Taken::Held(holder) => panic!("held by {holder}"),
    }
}

async fn holder(claimant: &mut Claimant) -> String {
    match claimant.take().await.unwrap() {
        Taken::Ours(lease) => panic!("free, and now {}", lease.generation()),
        Taken::Held(holder) => holder.role.clone(),
    }
}

/// Time stands still but where the test moves it; the store answers all the same.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

async fn given_back_it_is_free_at_once(place: Place) {
    let storage = place.storage();
    let first = ours(&mut claimant(&storage, "a")).await;
    let mut next = claimant(&storage, "b");
    assert_eq!(holder(&mut next).await, "a");
    let generation = first.generation();
    first.give_back().await.unwrap();
    assert_eq!(ours(&mut next).await.generation(), generation + 1);
}

async fn an_owner_that_is_gone_is_not_waited_for(place: Place) {
    let storage = place.storage();
    let first = ours(&mut claimant(&storage, "a")).await;
    let mut next = claimant(&storage, "b");
    assert_eq!(holder(&mut next).await, "a");
    drop(first);
    ours(&mut next).await;
}

async fn an_owner_that_renews_is_waited_for_and_one_that_does_not_loses_it(place: Place) {
    let storage = place.storage();
    let mut frozen = ours(&mut claimant(&storage, "a")).await;
    let mut next = claimant(&storage, "b");
    assert_eq!(holder(&mut next).await, "a");
    for _ in 0..4 {
        pass(TERM * 2 / 3).await;
        frozen.renew().await.unwrap();
        assert_eq!(holder(&mut next).await, "a");
    }
    pass(TERM / 2).await;
    assert_eq!(holder(&mut next).await, "a");
    pass(TERM / 2).await;
    let taken = ours(&mut next).await;
    match frozen.renew().await {
        Err(LeaseError::Lost(holder)) => assert_eq!(holder.role, "b"),
        other => panic!("{other:?}"),
    }
    // What it writes afterwards changes nothing.
    frozen.give_back().await.unwrap();
    assert_eq!(holder(&mut claimant(&storage, "c")).await, "b");
    drop(taken);
}

async fn of_many_that_ask_at_once_one_gets_it(place: Place) {
    let storage = place.storage();
    let mut asking: Vec<Claimant> = (0..8).map(|n| claimant(&storage, &n.to_string())).collect();
    let taken = futures::future::join_all(asking.iter_mut().map(Claimant::take)).await;
    let owners: Vec<_> =
        taken.into_iter().filter(|taken| matches!(taken, Ok(Taken::Ours(_)))).collect();
    assert_eq!(owners.len(), 1);
}

async fn a_generation_is_above_all_that_the_tables_have_seen(place: Place) {
    let storage = place.storage();
    let mut claimant = claimant(&storage, "a");
    claimant.is_above(41);
    if !place.is_remote() {
        // A name that no lease has: counting on from it overflowed.
        let folder = place.folder().join("_leases/tables");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}.json", i64::MAX)), "{}").unwrap();
    }
    assert_eq!(ours(&mut claimant).await.generation(), 42);
}

/// Of one thread, so that time can be moved.
macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::place::Place::local()).await;
            })*
        }

        mod s3 {
            $(#[tokio::test]
            async fn $name() {
                if let Some(place) = crate::place::Place::s3() {
                    super::$name(place).await;
                }
            })*
        }
    };
}

everywhere!(
    given_back_it_is_free_at_once,
    an_owner_that_is_gone_is_not_waited_for,
    an_owner_that_renews_is_waited_for_and_one_that_does_not_loses_it,
    of_many_that_ask_at_once_one_gets_it,
    a_generation_is_above_all_that_the_tables_have_seen,
);
