//! A project belongs to at most one account at any instant.

use nilometer_accounts::{AccountTable, AccountsError, Ownership};
use nilometer_contract::{Timestamp, Validity};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Handle;

use crate::bed::{Bed, after, from_now, period};

on_both! {
    a_project_moves_from_account_to_account,
    periods_that_are_none_are_refused,
    of_many_who_want_a_project_one_gets_it,
}

async fn a_project_moves_from_account_to_account(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    let accounts = &bed.directory.accounts;
    let first = accounts.assign("acme", "blue", from_now(), false).await.unwrap();
    assert_eq!(first.end, Timestamp::MAX);
    let taken = accounts.assign("other", "blue", period(50, 60), false).await.unwrap_err();
    let taken = taken.to_string();
    for part in ["belongs to account \"acme\"", "until further notice", "--transfer"] {
        assert!(taken.contains(part), "{taken}");
    }
    accounts.assign("other", "blue", period(50, 60), true).await.unwrap();
    let owned = accounts.ownerships(None).await.unwrap();
    let owned: Vec<_> = owned.iter().map(|o| (o.account.as_str(), o.start, o.end)).collect();
    let expected = [
        ("acme", after(0), after(50)),
        ("other", after(50), after(60)),
        ("acme", after(60), Timestamp::MAX),
    ];
    assert_eq!(owned, expected);
    assert_eq!(accounts.ownerships(Some("other")).await.unwrap().len(), 1);
    accounts.release("blue", after(70)).await.unwrap();
    let gone = accounts.release("blue", after(70)).await.unwrap_err();
    assert!(matches!(gone, AccountsError::NotOwned { .. }));
    accounts.assign("other", "blue", period(70, 80), false).await.unwrap();
    // What begins at the instant of a release was never owned.
    accounts.release("blue", after(70)).await.unwrap();
    assert_eq!(accounts.ownerships(Some("other")).await.unwrap().len(), 1);
    // No transfer from itself.
    let own = accounts.assign("acme", "blue", period(0, 5), true).await.unwrap_err();
    assert!(matches!(own, AccountsError::Overlap { .. }));
}

async fn periods_that_are_none_are_refused(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    let accounts = &bed.directory.accounts;
    let early = Validity { start: Timestamp(0), end: after(0) };
    let late = Validity { start: after(0), end: Timestamp(i64::MAX) };
    for bad in [period(5, 5), period(6, 5), early, late] {
        let error = accounts.assign("acme", "blue", bad, false).await.unwrap_err();
        assert!(matches!(error, AccountsError::Period { .. }), "{error}");
    }
    for bad in ["", "a\u{0}b"] {
        let error = accounts.assign("acme", bad, from_now(), false).await.unwrap_err();
        assert!(matches!(error, AccountsError::InvalidText { .. }), "{error}");
    }
    let error = accounts.assign("none", "blue", from_now(), false).await.unwrap_err();
    assert!(matches!(error, AccountsError::Unknown { .. }));
    accounts.set_enabled("acme", false).await.unwrap();
    let error = accounts.assign("acme", "blue", from_now(), false).await.unwrap_err();
    assert!(matches!(error, AccountsError::Disabled { .. }));
}

async fn of_many_who_want_a_project_one_gets_it(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    let mut wanted = tokio::task::JoinSet::new();
    for n in 0..8_i64 {
        let directory = bed.again().await;
        let account = ["acme", "other"][n as usize % 2];
        wanted.spawn(async move {
            // All of them overlap, and none begins where another does.
            let period = period(n, 100 + n);
            directory.accounts.assign(account, "blue", period, false).await.is_ok()
        });
    }
    let given = wanted.join_all().await;
    assert_eq!(given.iter().filter(|given| **given).count(), 1);
    assert_eq!(bed.directory.accounts.ownerships(None).await.unwrap().len(), 1);
}

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const INSTANTS: usize = 12;

/// One change of a project's owners.
#[derive(Clone, Debug)]
enum Change {
    Assign { account: usize, start: usize, end: usize, transfer: bool },
    Release { at: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let assign = (0..ACCOUNTS.len(), 0..INSTANTS, 0..=INSTANTS, any::<bool>()).prop_map(
        |(account, start, end, transfer)| Change::Assign { account, start, end, transfer },
    );
    prop_oneof![3 => assign, 1 => (0..INSTANTS).prop_map(|at| Change::Release { at })]
}

/// Whose a project is at each instant, and in which assignment: what the table must come to.
type Model = [Option<(usize, usize)>; INSTANTS];

/// Does a change to the model; says whether it is refused.
fn apply(model: &mut Model, change: &Change, serial: &mut usize) -> bool {
    match *change {
        Change::Assign { start, end, .. } if start >= end => return false,
        Change::Assign { account, start, end, transfer } => {
            let taken = |owner: &Option<(usize, usize)>| match owner {
                Some((owner, _)) => !transfer || *owner == account,
                None => false,
            };
            if model[start..end].iter().any(taken) {
                return false;
            }
            *serial += 1;
            // What is left behind the period is a period of its own.
            let cut = if end < INSTANTS { model[end] } else { None };
            if let Some((owner, of)) = cut.filter(|cut| model[start] == Some(*cut)) {
                let rest = model[end..].iter_mut().take_while(|at| **at == Some((owner, of)));
                rest.for_each(|at| *at = Some((owner, of + 1_000 * *serial)));
            }
            model[start..end].fill(Some((account, *serial)));
        }
        Change::Release { at } => {
            let Some(owned) = model[at] else { return false };
            let rest = model[at..].iter_mut().take_while(|owner| **owner == Some(owned));
            rest.for_each(|owner| *owner = None);
        }
    }
    true
}

async fn done(accounts: &AccountTable, project: &str, change: &Change) -> bool {
    match *change {
        Change::Assign { account, start, end, transfer } => {
            let period = period(start as i64, end as i64);
            accounts.assign(ACCOUNTS[account], project, period, transfer).await.is_ok()
        }
        Change::Release { at } => accounts.release(project, after(at as i64)).await.is_ok(),
    }
}

/// Does the same to table and model, and compares them at each instant.
async fn owners_are_as_modelled(accounts: &AccountTable, project: &str, changes: &[Change]) {
    let (mut model, mut serial): (Model, usize) = ([None; INSTANTS], 0);
    for change in changes {
        let accepted = apply(&mut model, change, &mut serial);
        assert_eq!(done(accounts, project, change).await, accepted, "{change:?}");
        let all = accounts.ownerships(None).await.unwrap();
        let owned: Vec<&Ownership> = all.iter().filter(|o| o.project == project).collect();
        for (instant, modelled) in (0..).zip(&model) {
            let at = after(instant);
            let at = owned.iter().filter(|owned| owned.start <= at && at < owned.end);
            let owners: Vec<&str> = at.map(|owned| owned.account.as_str()).collect();
            let modelled: Vec<&str> = modelled.iter().map(|(owner, _)| ACCOUNTS[*owner]).collect();
            assert_eq!(owners, modelled, "at {instant} after {change:?}");
        }
    }
}

/// On a thread of its own, since properties are not asynchronous.
fn check(bed: &Bed, handle: &Handle, cases: u32) {
    let accounts = &bed.directory.accounts;
    for name in ACCOUNTS {
        handle.block_on(accounts.add(name, "")).unwrap();
    }
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let property = |changes: Vec<Change>| {
        number.set(number.get() + 1);
        let project = format!("p{}", number.get());
        handle.block_on(owners_are_as_modelled(accounts, &project, &changes));
        Ok(())
    };
    runner.run(&prop::collection::vec(change(), 1..12), property).unwrap();
}

#[test]
fn on_sqlite_a_project_has_at_most_one_owner_whatever_is_done() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    check(&runtime.block_on(Bed::sqlite()), runtime.handle(), 64);
}

#[test]
fn on_postgres_a_project_has_at_most_one_owner_whatever_is_done() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(bed) = runtime.block_on(Bed::postgres()) {
        check(&bed, runtime.handle(), 64);
    }
}
