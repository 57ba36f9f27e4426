//! Several processes of one role: one owns the folder or the tables, the others are refused or
//! wait, and none of them harms it. Nothing is lost, nothing is doubled.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../shared/oracle.rs"]
mod oracle;
#[path = "../shared/process.rs"]
mod process;

use std::time::Duration;

use rustix::process::Signal;

use crate::oracle::Oracle;
use crate::process::{Server, Settings};

const PATIENCE: Duration = Duration::from_secs(120);
const LEASE: &str = "[store.lease]\nterm = \"2s\"\n";

async fn becomes(server: &Server, metric: &str, wanted: f64) {
    let asking = async {
        while server.metric(metric).await.unwrap().is_none_or(|value| value < wanted) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, asking).await;
    found.unwrap_or_else(|_| panic!("{metric} never was {wanted}"));
}

/// What it waits for, as `/readyz` says.
async fn waits_for(server: &Server) -> String {
    server.get("/readyz", "text/plain").await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_a_folder_is_refused_by_name_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[collect]\ninterval = \"500ms\"\nsources = [\"host\"]\n";
    let settings = Settings::write(folder.path(), text).unwrap();
    let mut first = Server::start(&settings, "up").unwrap();
    becomes(&first, "nilometer_ingest_owner", 1.0).await;
    for role in ["up", "collect"] {
        let mut second = Server::start(&settings, role).unwrap();
        assert!(!second.ended().unwrap().success());
        let said = std::fs::read_to_string(folder.path().join(format!("{role}.log"))).unwrap();
        let user = format!("is in use by `nilometer up`, process {} on ", first.pid());
        assert!(said.contains(&user), "{said}");
    }
    let taken = first.metric("nilometer_ingest_samples_total").await.unwrap().unwrap();
    becomes(&first, "nilometer_ingest_samples_total", taken + 1.0).await;
    assert_eq!(first.metric("nilometer_ingest_owner").await.unwrap(), Some(1.0));
    // Roles that own something else share the folder.
    let mut biller = Server::start(&settings, "bill").unwrap();
    becomes(&biller, "nilometer_follow_records_total", 1.0).await;
    let waits = waits_for(&biller).await;
    let owner = format!("billing is done by `nilometer up`, process {} on ", first.pid());
    assert!(waits.contains(&owner), "{waits}");
    biller.stop().unwrap();
    first.stop().unwrap();
    // Given back: the next is ready at once, and so is one after a kill.
    let mut next = Server::start(&settings, "up").unwrap();
    becomes(&next, "nilometer_ingest_owner", 1.0).await;
    next.kill_and_restart(&settings).unwrap();
    becomes(&next, "nilometer_ingest_owner", 1.0).await;
    next.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_ingester_that_returns_after_its_term_commits_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let oracle = Oracle::new(14, 20).unwrap();
    let text = oracle.configuration("").unwrap() + LEASE;
    let settings = Settings::write(folder.path(), &text).unwrap();
    let mut first = Server::start(&settings, "ingest").unwrap();
    let mut agent = Server::start(&settings, "collect").unwrap();
    becomes(&first, "nilometer_ingest_commits_total", 1.0).await;
    let mut second = Server::start(&settings, "ingest").unwrap();
    becomes(&second, "nilometer_ingest_records_total", 1.0).await;
    let waits = waits_for(&second).await;
    let owner = format!("the tables are owned by `nilometer ingest`, process {} on ", first.pid());
    assert!(waits.contains(&owner), "{waits}");

    first.send(Signal::STOP).unwrap();
    becomes(&second, "nilometer_ingest_owner", 1.0).await;
    becomes(&second, "nilometer_ingest_commits_total", 1.0).await;
    first.send(Signal::CONT).unwrap();
    assert!(!first.ended().unwrap().success(), "it knows that it was replaced");

    let mut third = Server::start(&settings, "ingest").unwrap();
    second.stop().unwrap();
    becomes(&third, "nilometer_ingest_owner", 1.0).await;
    oracle.settle(&third).await;
    let verdict = oracle.compare(&third).await.unwrap();
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "of {} samples", verdict.samples);
    agent.stop().unwrap();
    third.stop().unwrap();
    let mut biller = Server::start(&settings, "bill").unwrap();
    oracle.compare_bills(&biller).await.unwrap();
    biller.stop().unwrap();
}
