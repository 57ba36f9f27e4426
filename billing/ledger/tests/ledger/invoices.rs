//! Issued invoices: once, the same bytes for ever, corrected on later ones.

use std::time::Duration;

use nilometer_contract::{Gap, GapKind, Scope, Timestamp};
use nilometer_ledger::LedgerError;
use nilometer_rating::{Detail, InvoiceError, PriceBook};

use crate::bed::{Bed, hour, period};
use crate::bills::{billed, projects};
use crate::script::{MINUTE, Record, Topic, counts, fleet, lively};

const DETAIL: Detail = Detail::Prices;

fn is_held_back(record: &Record) -> bool {
    let late = hour(0).plus_micros(50 * MINUTE)..hour(1).plus_micros(20 * MINUTE);
    record.topic == Topic::Samples && record.partition == 1 && late.contains(&record.at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuing_happens_once_and_waits_until_usage_is_final() {
    let records = fleet(&lively(31), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let ledger = &site.ledger;
    let project = projects(&site).pop().unwrap();
    let early = ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(1)).await;
    let early = early.expect_err("the period is not over");
    assert!(matches!(early, LedgerError::Invoice(InvoiceError::PeriodOpen { .. })), "{early:?}");
    let open = ledger.invoices.issue(&project, &period(0, 3), DETAIL, hour(9)).await;
    let open = open.expect_err("the third hour may still get samples");
    assert!(matches!(open, LedgerError::NotFinal { .. }), "{open:?}");
    let draft =
        ledger.invoices.draft(&Scope::system(), &project, &period(0, 2), DETAIL).await.unwrap();
    let issued = ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(9)).await.unwrap();
    assert_eq!(billed(&issued), billed(&draft));
    assert_eq!((&issued.id, &issued.total), (&draft.id, &draft.total));
    let again =
        ledger.invoices.issue(&project, &period(0, 2), Detail::Resources, hour(10)).await.unwrap();
    assert_eq!(again.to_json(), issued.to_json(), "issued at another time, or by resource");
    let overlapping = ledger.invoices.issue(&project, &period(1, 2), DETAIL, hour(9)).await;
    assert!(matches!(overlapping, Err(LedgerError::Overlaps { .. })));
    let nobody = ledger.invoices.issue("nobody", &period(0, 2), DETAIL, hour(9)).await.unwrap();
    assert!(nobody.lines.is_empty());
    site.stop().await;
    let site = bed.start(&PriceBook::built_in()).await;
    let again =
        site.ledger.invoices.issue(&project, &period(0, 2), DETAIL, hour(11)).await.unwrap();
    assert_eq!(again.to_json(), issued.to_json(), "after a restart");
    let known = site.ledger.invoices.issued(&Scope::system(), None).await.unwrap();
    assert_eq!(known.len(), 2);
    assert_eq!(
        site.ledger.invoices.issued_invoice(&Scope::system(), &nobody.id).await.unwrap(),
        nobody
    );
    let lines = format!("SELECT count(*) AS n FROM invoices WHERE id = '{}'", issued.id);
    assert_eq!(site.csv(&lines).await, format!("n\n{}\n", issued.lines.len()));
    site.stop().await;
}

/// Before, issuing went on for ever: each look marked the last hour of the period anew, since the
/// one after it was touched and is not settled for an invoice that ends before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_just_after_a_period_do_not_hold_its_invoice_up() {
    let records = fleet(&lively(33), hour(5).plus_micros(10 * MINUTE));
    let after = |record: &Record| {
        let late = hour(2).plus_micros(10 * MINUTE)..hour(2).plus_micros(50 * MINUTE);
        record.topic == Topic::Samples && record.partition == 1 && late.contains(&record.at)
    };
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(after);
    let ((samples, events), (late_samples, _)) = (counts(&prompt), counts(&late));
    assert!(late_samples > 0);
    let bed = Bed::new();
    bed.append(&prompt).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    assert_eq!(site.settle().await, 4);
    bed.append(&late).await;
    site.holds(samples + late_samples, events).await;
    let project = projects(&site).pop().unwrap();
    let of = period(0, 2);
    let issued = site.ledger.invoices.issue(&project, &of, DETAIL, hour(9));
    let issued = tokio::time::timeout(Duration::from_secs(120), issued).await;
    let issued = issued.expect("issuing comes to an end").unwrap();
    let draft = site.ledger.invoices.draft(&Scope::system(), &project, &of, DETAIL).await.unwrap();
    assert_eq!(billed(&issued), billed(&draft));
    assert!(site.settle().await >= 1, "the hour itself is settled anew");
    assert_eq!(site.settle().await, 0);
    site.stop().await;
}

/// What turns out differently after issuing comes as lines on the next invoice, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_correct_the_next_invoice() {
    let records = fleet(&lively(32), hour(5).plus_micros(10 * MINUTE));
    let (late, prompt): (Vec<Record>, Vec<Record>) = records.into_iter().partition(is_held_back);
    let (samples, events) = counts(&prompt);
    let bed = Bed::new();
    bed.append(&prompt).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let ledger = &site.ledger;
    let projects = projects(&site);
    let mut first = Vec::new();
    for project in &projects {
        first.push(ledger.invoices.issue(project, &period(0, 2), DETAIL, hour(9)).await.unwrap());
    }
    bed.append(&late).await;
    site.holds(samples + counts(&late).0, events).await;
    site.settle().await;
    let mut corrected = 0;
    for (project, issued) in projects.iter().zip(&first) {
        let of = |from, upto| async move {
            ledger.invoices.draft(&Scope::system(), project, &period(from, upto), DETAIL).await
        };
        let (then, now) = (of(2, 3).await.unwrap(), of(0, 2).await.unwrap());
        let fixes = then.lines.iter().filter(|line| line.corrects.is_some());
        let fixes = fixes.map(|line| line.amount.to_string().parse::<f64>().unwrap());
        let number = |text: String| text.parse::<f64>().unwrap();
        let paid = number(issued.total.to_string()) + fixes.clone().sum::<f64>();
        assert!((paid - number(now.total.to_string())).abs() < 1e-9, "{project}");
        corrected += fixes.count();
        let next = ledger.invoices.issue(project, &period(2, 3), DETAIL, hour(9)).await.unwrap();
        assert_eq!(next.total, then.total);
        let later = of(3, 4).await.unwrap();
        assert!(later.lines.iter().all(|line| line.corrects.is_none()), "corrected once");
        let kept = ledger.invoices.issued_invoice(&Scope::system(), &issued.id).await.unwrap();
        assert_eq!(kept.to_json(), issued.to_json());
        for line in next.lines.iter().filter(|line| line.corrects.is_some()) {
            ledger.explanations.explain(&Scope::system(), &line.id, None).await.unwrap();
        }
        for line in &issued.lines {
            // As it was known then, though the charges have been stated anew since.
            ledger.explanations.explain(&Scope::system(), &line.id, None).await.unwrap();
        }
    }
    assert!(corrected > 0, "the late samples were worth something");
    site.stop().await;
}

/// A new price book rates what is not billed anew and leaves what was issued alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_price_book_rates_open_and_settled_hours() {
    let records = fleet(&lively(33), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let project = projects(&site).pop().unwrap();
    let issued =
        site.ledger.invoices.issue(&project, &period(0, 1), DETAIL, hour(9)).await.unwrap();
    assert_eq!(site.settle().await, 1, "issuing settled what it needed");
    site.stop().await;
    let dearer = PriceBook::built_in_text().replace("price = \"0.020\"", "price = \"0.040\"");
    let book = PriceBook::parse(&dearer).unwrap();
    let site = bed.start(&book).await;
    let sql = format!(
        "SELECT DISTINCT price_book FROM charges WHERE project = '{project}' AND \"start\" < \
         TIMESTAMP '{}'",
        hour(2)
    );
    let expected = format!("price_book\n{}\n", book.version());
    assert_eq!(site.csv(&sql).await, expected, "rated on demand");
    assert_eq!(site.settle().await, 2);
    assert_eq!(site.csv(&sql).await, expected, "rated for good");
    let next = site
        .ledger
        .invoices
        .draft(&Scope::system(), &project, &period(1, 2), DETAIL)
        .await
        .unwrap();
    assert!(next.lines.iter().all(|line| line.corrects.is_none()), "prices are no corrections");
    for line in &issued.lines {
        let explained =
            site.ledger.explanations.explain(&Scope::system(), &line.id, None).await.unwrap();
        assert_eq!(explained.line.line.price_book, PriceBook::built_in().version());
    }
    site.stop().await;
}

/// Gaps that concern a project are on its invoice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_are_told_on_the_invoice() {
    let mut records = fleet(&lively(34), hour(2).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let gap = |node: &str, start: Timestamp| {
        let gap = Gap {
            kind: GapKind::Lost,
            agent: "agent".to_owned(),
            node: node.to_owned(),
            sources: Vec::new(),
            topic: nilometer_contract::SAMPLES.to_owned(),
            partition: None,
            start,
            end: start.plus_micros(10 * MINUTE),
            records: 3,
            samples: 42,
            reason: "spool full".to_owned(),
        };
        let payload = gap.encode().unwrap().into();
        Record { topic: Topic::Gaps, partition: 0, at: start, rows: 1, payload }
    };
    records.extend([gap("", hour(0)), gap("elsewhere", hour(0)), gap("", hour(1))]);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let project = projects(&site).pop().unwrap();
    let began = std::time::Instant::now();
    while !site.csv("SELECT count(*) FROM gaps").await.ends_with("\n3\n") {
        assert!(began.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let draft = site
        .ledger
        .invoices
        .draft(&Scope::system(), &project, &period(0, 1), DETAIL)
        .await
        .unwrap();
    let told = draft.gaps.iter().filter(|text| text.contains("spool full"));
    let told: Vec<&String> = told.collect();
    let expected = "log from 2026-11-02T00:00:00Z to 2026-11-02T00:10:00Z: spool full";
    assert_eq!(told, [expected]);
    site.stop().await;
}
