//! A process that does not bill has the same tables with the same rows as the one that does.

use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::Scope;
use nilometer_engine::{Engine, Limits};
use nilometer_http::{Format, render};
use nilometer_ingest::{Follower, Metrics};
use nilometer_ledger::{Ledger, LedgerConfig, LedgerError};
use nilometer_rating::{Detail, PriceBook};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, Later, hour, ingest_config, period};
use crate::bills::projects;
use crate::script::{MINUTE, counts, fleet, lively};

const QUESTIONS: [&str; 6] = [
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
    "SELECT * FROM usage ORDER BY \"start\", resource, meter, project",
    "SELECT * FROM charges ORDER BY \"start\", resource, meter, project",
    "SELECT * FROM usage_history ORDER BY \"start\", resource, meter, project, known",
    "SELECT * FROM charges_history ORDER BY \"start\", resource, meter, project, known",
    "SELECT * FROM invoices ORDER BY issued_at, id, line",
];

async fn answers(engine: &Engine) -> Vec<String> {
    let mut answers = Vec::new();
    for question in QUESTIONS {
        let rows = engine.query(&Scope::system(), question).await.unwrap();
        answers.push(String::from_utf8(render(&rows, Format::Csv).unwrap()).unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_does_not_bill_shows_the_same_rows() {
    let records = fleet(&lively(13), hour(5).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let (bed, book) = (Bed::new(), PriceBook::built_in());
    bed.append(&records).await;
    let site = bed.start(&book).await;
    site.holds(samples, events).await;
    assert_eq!(site.settle().await, 4);
    let project = projects(&site).pop().unwrap();
    let issue = async |ledger: &Ledger, hours: (i64, i64)| {
        let period = period(hours.0, hours.1);
        ledger.invoices.issue(&project, &period, Detail::Prices, hour(24 * 30)).await
    };
    let issued = issue(&site.ledger, (0, 2)).await.unwrap();

    let (log, storage, registry) = (bed.log(), bed.storage(), Registry::new());
    let metrics = Metrics::register_follower(&registry).unwrap();
    let follower = Follower::open(ingest_config(), log, &storage, Arc::new(Later), metrics).await;
    let follower = follower.unwrap();
    let engine = Engine::new(&storage, follower.tables(), Limits::default()).unwrap();
    let cancel = CancellationToken::new();
    let following = tokio::spawn(follower.run(cancel.clone()));
    let interval = Duration::from_millis(50);
    let config = LedgerConfig { reads_only: true, interval, ..LedgerConfig::default() };
    let clock = Arc::new(Later);
    let reader = Ledger::open_with(config, engine.clone(), &storage, book, clock, &registry);
    let reader = reader.await.unwrap();

    let (billing, reading) = (answers(&site.engine).await, answers(&engine).await);
    for ((question, billing), reading) in QUESTIONS.iter().zip(&billing).zip(&reading) {
        assert!(billing.lines().count() > 2, "{question}");
        assert!(billing == reading, "{question}: {billing} but {reading}");
    }
    let refused = reader.settlement.settle(&cancel).await.unwrap_err();
    assert!(matches!(refused, LedgerError::ReadsOnly), "{refused}");
    let refused = issue(&reader, (2, 4)).await.unwrap_err();
    assert!(matches!(refused, LedgerError::ReadsOnly), "{refused}");
    assert_eq!(issue(&reader, (0, 2)).await.unwrap(), issued, "issued before, the same again");

    // What is issued from now on, it shows as soon as it has looked.
    issue(&site.ledger, (2, 4)).await.unwrap();
    let looking = tokio::spawn({
        let (reader, cancel) = (reader.clone(), cancel.clone());
        async move { reader.settlement.follow(&cancel).await }
    });
    let billing = answers(&site.engine).await;
    site.until("the reader shows the second invoice", async || answers(&engine).await == billing)
        .await;
    cancel.cancel();
    looking.await.unwrap();
    following.await.unwrap().unwrap();
    site.stop().await;
}
