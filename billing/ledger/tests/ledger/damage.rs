//! Damaged tables of billing: what was computed is computed anew, what was issued is not issued
//! again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use nilometer_clock::SystemClock;
use nilometer_contract::{Principal, ResourceKind, Scope, Timestamp};
use nilometer_http::{Gate, MISSING_ROWS};
use nilometer_ledger::LedgerError;
use nilometer_ledger::{CHARGES, INVOICES};
use nilometer_rating::{Detail, IssuedInvoice, PriceBook};
use nilometer_store::{CompactionPolicy, compact};
use nilometer_usage::USAGE;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::bed::{Bed, Later, Site, hour, ingest_config, period, second};
use crate::bills::{drafts, projects, said};
use crate::script::{MINUTE, Record, Topic, counts, fleet, lively, samples};

const DETAIL: Detail = Detail::Prices;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Delete,
    Flip,
}

impl Harm {
    fn strike(self, path: &Path) {
        match self {
            Harm::Delete => std::fs::remove_file(path).unwrap(),
            Harm::Flip => {
                let mut bytes = std::fs::read(path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}

/// All that must come out as it was.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    tables: String,
    drafts: String,
    explained: String,
}

async fn answers(site: &Site, issued: &IssuedInvoice) -> Answers {
    let drafts = drafts(&site.ledger, &projects(site), (0, 4)).await;
    let explained = site
        .ledger
        .explanations
        .explain(&Scope::system(), &issued.lines[0].id, None)
        .await
        .unwrap();
    let explained = explained.to_json();
    assert_eq!(
        &site.ledger.invoices.issued_invoice(&Scope::system(), &issued.id).await.unwrap(),
        issued
    );
    Answers { tables: said(site).await, drafts, explained }
}

/// What the answer about the bill of four hours says that it lacks.
async fn lacks(site: &Site) -> Option<String> {
    let path = format!("/v1/invoices?project=p&start={}&end={}", hour(0), hour(4));
    let request = Request::get(path).body(Body::empty()).unwrap();
    let gate = Gate::trusting(Principal::operator("test"), Arc::new(SystemClock));
    let answer = site.ledger.surface().router(gate).oneshot(request).await.unwrap();
    let missing = answer.headers().get(MISSING_ROWS)?;
    Some(missing.to_str().unwrap().to_owned())
}

/// Waits until what is said of damage is this.
async fn says(site: &Site, expected: &str) {
    let sql = "SELECT kind, of_topic, count(*) AS n FROM gaps GROUP BY 1, 2 ORDER BY 1, 2";
    let expected = format!("kind,of_topic,n\n{expected}");
    site.until(&expected, async || site.csv(sql).await == expected).await;
}

fn is_late(record: &Record) -> bool {
    let late = hour(0).plus_micros(50 * MINUTE)..hour(2).plus_micros(20 * MINUTE);
    record.topic == Topic::Samples && record.partition == 1 && late.contains(&record.at)
}

/// Three hours, of which two were billed, and all stated anew because samples were late.
async fn settled(bed: &Bed) -> (Site, IssuedInvoice) {
    let records = fleet(&lively(71), hour(4).plus_micros(10 * MINUTE));
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_late);
    let ((rows, events), (late_rows, _)) = (counts(&prompt), counts(&late));
    bed.append(&prompt).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(rows, events).await;
    assert!(site.settle().await >= 3);
    bed.append(&late).await;
    site.holds(rows + late_rows, events).await;
    assert!(site.settle().await >= 3);
    let project = projects(&site).pop().unwrap();
    let issued =
        site.ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(9)).await.unwrap();
    assert!(!issued.lines.is_empty());
    (site, issued)
}

async fn is_as_it_was(site: &Site, issued: &IssuedInvoice, before: &Answers) {
    assert!(site.settle().await > 0, "hours are settled anew");
    assert_eq!(lacks(site).await, None);
    assert!(answers(site, issued).await == *before, "to the byte");
    assert_eq!(site.settle().await, 0);
}

/// Before, a process did not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_file_had_is_settled_anew_at_start() {
    for (def, harm) in [(&USAGE, Harm::Delete), (&CHARGES, Harm::Flip)] {
        let bed = Bed::new();
        let (site, issued) = settled(&bed).await;
        let before = answers(&site, &issued).await;
        site.stop().await;
        let files = bed.files(def).await;
        files.iter().for_each(|file| harm.strike(file));
        let site = bed.start(&PriceBook::built_in()).await;
        let missing = lacks(&site).await.unwrap();
        assert!(missing.contains(&format!("rows of {} from {}", def.name, hour(0))), "{missing}");
        assert!(said(&site).await == before.tables, "from the samples meanwhile");
        is_as_it_was(&site, &issued, &before).await;
        says(&site, &format!("damaged,{},{}\n", def.name, files.len())).await;
        site.stop().await;
        let site = bed.start(&PriceBook::built_in()).await;
        assert_eq!(site.settle().await, 0, "once");
        assert!(answers(&site, &issued).await == before);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_file_had_is_settled_anew_while_running() {
    for (def, harm) in [(&USAGE, Harm::Flip), (&CHARGES, Harm::Delete)] {
        let bed = Bed::new();
        let (site, issued) = settled(&bed).await;
        let before = answers(&site, &issued).await;
        harm.strike(&bed.files(def).await[0]);
        let all = format!("SELECT * FROM {}_history ORDER BY known", def.name);
        assert!(
            site.engine.query(&Scope::system(), &all).await.is_err(),
            "{harm:?} of {}",
            def.name
        );
        is_as_it_was(&site, &issued, &before).await;
        site.stop().await;
    }
}

/// With the newest statement gone, an older one is there that was superseded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_older_statement_counts_instead_of_a_lost_one() {
    for def in [&USAGE, &CHARGES] {
        let bed = Bed::new();
        let (site, issued) = settled(&bed).await;
        let before = answers(&site, &issued).await;
        site.stop().await;
        Harm::Delete.strike(bed.files(def).await.last().unwrap());
        let site = bed.start(&PriceBook::built_in()).await;
        is_as_it_was(&site, &issued, &before).await;
        site.stop().await;
        // And of a commit.
        let folder = bed.path(def, "_delta_log");
        std::fs::remove_file(last_add(&folder)).unwrap();
        let site = bed.start(&PriceBook::built_in()).await;
        let unknown = format!("an unknown number of rows of {}", def.name);
        assert!(lacks(&site).await.unwrap().contains(&unknown));
        is_as_it_was(&site, &issued, &before).await;
        site.stop().await;
        let site = bed.start(&PriceBook::built_in()).await;
        assert_eq!(site.settle().await, 0, "once");
        site.stop().await;
    }
}

/// The newest commit but one that adds a file.
fn last_add(folder: &Path) -> PathBuf {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let adds = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        path.extension().is_some_and(|ending| ending == "json") && text.contains("\"add\"")
    };
    let mut paths: Vec<PathBuf> = names.filter(adds).collect();
    paths.sort();
    paths.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_file_that_was_merged_is_settled_anew() {
    let bed = Bed::new();
    let (site, issued) = settled(&bed).await;
    let before = answers(&site, &issued).await;
    let policy = CompactionPolicy { fan_in: 2, ..CompactionPolicy::default() };
    for def in [&USAGE, &CHARGES] {
        let mut table = bed.storage().table(def).await.unwrap();
        assert!(compact(&mut table, policy, Timestamp(0)).await.unwrap() > 1);
    }
    assert_eq!(site.settle().await, 0);
    for def in [&USAGE, &CHARGES] {
        bed.files(def).await.iter().for_each(|file| Harm::Delete.strike(file));
    }
    assert!(site.engine.query(&Scope::system(), "SELECT * FROM usage").await.is_err());
    assert!(site.engine.query(&Scope::system(), "SELECT * FROM charges").await.is_err());
    is_as_it_was(&site, &issued, &before).await;
    site.stop().await;
}

/// A crash between setting a file aside and settling its hours anew leaves nothing undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_aside_is_settled_anew_after_a_crash() {
    let bed = Bed::new();
    let (site, issued) = settled(&bed).await;
    let before = answers(&site, &issued).await;
    site.stop().await;
    Harm::Delete.strike(bed.files(&USAGE).await.last().unwrap());
    let site = bed.start(&PriceBook::built_in()).await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert_eq!(site.ledger.settlement.settle(&cancelled).await.unwrap(), 0);
    site.stop().await;
    let site = bed.start(&PriceBook::built_in()).await;
    assert!(lacks(&site).await.is_some());
    is_as_it_was(&site, &issued, &before).await;
    site.stop().await;
}

/// What lies before the start of metering cannot be computed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_computed_any_more_stays_missing() {
    let bed = Bed::new();
    let (site, _) = settled(&bed).await;
    site.stop().await;
    bed.files(&USAGE).await.iter().for_each(|file| Harm::Delete.strike(file));
    let site = begun_late(&bed, &PriceBook::built_in()).await;
    assert!(site.settle().await >= 2);
    let missing = lacks(&site).await.unwrap();
    let span = format!("rows of usage from {} to {}", hour(0), hour(1).plus_micros(-1));
    assert!(missing.split("; ").all(|file| file.ends_with(&span)), "{missing}");
    let first = site.csv("SELECT min(\"start\") AS first FROM usage").await;
    assert_eq!(first, format!("first\n{}\n", hour(1)));
    site.stop().await;
    let site = bed.start(&PriceBook::built_in()).await;
    assert_eq!(site.settle().await, 0);
    assert_eq!(lacks(&site).await.unwrap(), missing);
    site.stop().await;
}

/// A process that moves the start of metering to the second hour.
async fn begun_late(bed: &Bed, book: &PriceBook) -> Site {
    let mut config = ingest_config();
    config.metering_start = Some(hour(1));
    let more = [(second(5 * 3_600), 1.0)];
    bed.append(&[samples("node-1", ResourceKind::NODE, "cpu.time", more)]).await;
    let site = bed.start_with(book, Arc::new(Later), config).await;
    while site.engine.meter().start() < hour(1) {
        tokio::task::yield_now().await;
    }
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_another_book_that_cannot_be_rated_are_not_issued() {
    let bed = Bed::new();
    let (site, _) = settled(&bed).await;
    let project = projects(&site).swap_remove(1);
    site.stop().await;
    let dearer = PriceBook::built_in_text().replace("price = \"0.020\"", "price = \"0.040\"");
    let book = PriceBook::parse(&dearer).unwrap();
    let site = begun_late(&bed, &book).await;
    let refused = site.ledger.invoices.issue(&project, &period(0, 3), DETAIL, hour(9)).await;
    let refused = refused.expect_err("its first hour was rated by the other book");
    assert!(
        matches!(refused, LedgerError::OtherBook { before } if before == hour(1)),
        "{refused:?}"
    );
    site.ledger.invoices.issue(&project, &period(1, 3), DETAIL, hour(9)).await.unwrap();
    site.stop().await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.ledger.invoices.issue(&project, &period(0, 1), DETAIL, hour(9)).await.unwrap();
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_leaves_what_is_computed_to_billing() {
    let bed = Bed::new();
    let (site, issued) = settled(&bed).await;
    let before = answers(&site, &issued).await;
    site.stop().await;
    for def in [&USAGE, &CHARGES] {
        Harm::Delete.strike(&bed.files(def).await[0]);
    }
    let (done, said) = bed.repair().await;
    assert_eq!((done.damaged, done.computed, done.restored, done.lost), (2, 2, 0, 0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("billing settles its hours anew")), "{said:#?}");
    let site = bed.start(&PriceBook::built_in()).await;
    is_as_it_was(&site, &issued, &before).await;
    says(&site, "damaged,charges,1\ndamaged,usage,1\n").await;
    site.stop().await;
    let (again, said) = bed.repair().await;
    assert_eq!((again.damaged, again.computed, again.lost), (0, 0, 0), "{said:#?}");
}

/// What was issued is nowhere else: it may not be issued again, in part or as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_invoice_is_issued_while_issued_ones_are_missing() {
    let bed = Bed::new();
    let (site, issued) = settled(&bed).await;
    let (ledger, project) = (&site.ledger, projects(&site).swap_remove(1));
    assert_ne!(project, issued.project);
    let before = bed.files(&INVOICES).await;
    let other = ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(9)).await.unwrap();
    let lost = bed.files(&INVOICES).await.into_iter().find(|file| !before.contains(file)).unwrap();
    let away = lost.with_extension("away");
    std::fs::rename(&lost, &away).unwrap();
    let refused = ledger.invoices.issue(&project, &period(2, 3), DETAIL, hour(9)).await;
    let refused = refused.expect_err("it is not known what was issued").to_string();
    assert!(refused.contains("restore it from a backup, then run `nilometer repair`"), "{refused}");
    let shown = ledger.invoices.issued(&Scope::system(), None).await.unwrap();
    let missing = lacks(&site).await.unwrap();
    assert!(missing.contains("rows of invoices from"), "{missing}");
    assert_eq!(shown, std::slice::from_ref(&issued), "what is there is shown");
    let again =
        ledger.invoices.issue(&issued.project, &period(0, 2), DETAIL, hour(9)).await.unwrap();
    assert_eq!(again, issued);
    site.stop().await;
    // A repair gives nothing up.
    let (done, said) = bed.repair().await;
    assert_eq!((done.damaged, done.restored), (1, 0), "{said:#?}");
    assert!(done.lost > 0 && said.iter().any(|line| line.contains("backup")), "{said:#?}");
    let site = bed.start(&PriceBook::built_in()).await;
    let refused = site.ledger.invoices.issue(&project, &period(2, 3), DETAIL, hour(9)).await;
    assert!(matches!(refused, Err(LedgerError::LostInvoices(_))), "{refused:?}");
    std::fs::rename(&away, &lost).unwrap();
    let (done, said) = bed.repair().await;
    assert_eq!((done.damaged, done.lost), (1, 0), "{said:#?}");
    let next = site.ledger.invoices.issue(&project, &period(2, 3), DETAIL, hour(9)).await.unwrap();
    assert!(next.gaps.iter().all(|gap| !gap.contains("invoices")), "{:?}", next.gaps);
    for one in [&issued, &other, &next] {
        assert_eq!(
            &site.ledger.invoices.issued_invoice(&Scope::system(), &one.id).await.unwrap(),
            one
        );
    }
    assert_eq!(lacks(&site).await, None);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_invoice_is_issued_while_a_commit_of_one_is_missing() {
    let bed = Bed::new();
    let (site, issued) = settled(&bed).await;
    let project = projects(&site).swap_remove(1);
    let other = site.ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(9)).await.unwrap();
    site.stop().await;
    let log = bed.path(&INVOICES, "_delta_log");
    let commit = log.join(format!("{:020}.json", 1));
    let away = log.join("away");
    std::fs::rename(&commit, &away).unwrap();
    for _ in 0..2 {
        let site = bed.start(&PriceBook::built_in()).await;
        site.settle().await;
        let refused = site.ledger.invoices.issue(&project, &period(2, 3), DETAIL, hour(9)).await;
        assert!(matches!(refused, Err(LedgerError::LostInvoices(_))), "{refused:?}");
        site.stop().await;
    }
    let (done, said) = bed.repair().await;
    assert_eq!(done.unread, 1, "{said:#?}");
    let site = bed.start(&PriceBook::built_in()).await;
    std::fs::rename(&away, &commit).unwrap();
    site.ledger.invoices.issue(&project, &period(2, 3), DETAIL, hour(9)).await.unwrap();
    for one in [&issued, &other] {
        assert_eq!(
            &site.ledger.invoices.issued_invoice(&Scope::system(), &one.id).await.unwrap(),
            one
        );
    }
    says(&site, "damaged,invoices,1\n").await;
    site.stop().await;
}
