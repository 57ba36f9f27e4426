//! A PostgreSQL that ends, or stands still, and comes back.

use std::path::Path;

use nilometer_accounts::{Accounts, Config, Denied, Directory, ExposeSecret, Location};
use nilometer_contract::Role;
use nilometer_testbed::postgres::Postgres;

use crate::bed::{Bed, ask, request};

fn is_away<T>(answer: Result<T, Denied>) -> bool {
    matches!(answer, Err(Denied::Unavailable(_)))
}

#[tokio::test]
async fn whom_the_cache_knows_is_let_in_while_postgres_is_away() {
    let folder = tempfile::tempdir().unwrap();
    // Its own: the other tests go on meanwhile.
    let Some(mut postgres) = Postgres::start(folder.path()).unwrap() else { return };
    let url = postgres.database("outages").unwrap();
    let location = Location::parse(&url.into(), Path::new("")).unwrap();
    let clock = Bed::sqlite().await.clock;
    let directory = Directory::open(&location, clock.clone()).await.unwrap();
    let known = directory.keys.create(request(Role::Operator, None)).await.unwrap();
    let new = directory.keys.create(request(Role::Operator, None)).await.unwrap();
    let gate = Accounts::new(directory, &Config::default(), &"".into(), Vec::new()).unwrap();
    ask(&gate, &known.token).await.unwrap();

    postgres.kill().unwrap();
    ask(&gate, &known.token).await.unwrap();
    assert!(is_away(ask(&gate, &new.token).await));
    // A token that is none is refused without the database.
    assert!(matches!(gate.authenticate("nlm_").await, Err(Denied::Refused(_))));
    postgres.restart().unwrap();
    ask(&gate, &new.token).await.unwrap();

    // One that stands still keeps nobody waiting for ever. Nothing else happens here meanwhile, so
    // that time goes on to the end of the patience at once.
    clock.pass(10);
    postgres.freeze(true).unwrap();
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let answer = gate.authenticate(known.token.expose_secret()).await;
    let waited = before.elapsed().as_secs();
    tokio::time::resume();
    postgres.freeze(false).unwrap();
    assert!(is_away(answer) && waited <= 10, "{waited} s");
    ask(&gate, &known.token).await.unwrap();
}
