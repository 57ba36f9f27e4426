//! Explanations lead down to the log by queries that run and find what they claim.

use nilometer_contract::Scope;
use nilometer_ledger::{Bill, Explanation, LedgerError, MAX_SHOWN};
use nilometer_rating::{Detail, Invoice, PriceBook};
use nilometer_usage::Quantity;

use crate::bed::{Bed, Site, hour, period};
use crate::bills::projects;
use crate::script::{MINUTE, counts, fleet, lively};

fn rows(csv: &str) -> Vec<&str> {
    csv.lines().skip(1).collect()
}

/// The sum of a column of quantities.
fn sum_of(csv: &str, column: &str) -> Quantity {
    let names: Vec<&str> = csv.lines().next().unwrap_or_default().split(',').collect();
    let at = names.iter().position(|name| *name == column).unwrap();
    let cells = rows(csv).into_iter().map(|row| row.split(',').nth(at).unwrap());
    cells.map(|cell| cell.parse::<Quantity>().unwrap()).sum()
}

/// Every step runs as it is and finds what is shown of it.
async fn check(site: &Site, invoice: &Invoice, explanation: &Explanation) {
    let line = &explanation.line.line;
    assert_eq!(explanation.line.invoice, invoice.id);
    let mut found = Vec::new();
    for step in &explanation.steps {
        let csv = site.csv(&step.sql).await;
        let count = rows(&csv).len();
        if let Some(shown) = &step.rows {
            assert_eq!(shown.len(), count.min(MAX_SHOWN), "{}", step.sql);
            assert_eq!(step.more, count > MAX_SHOWN);
        }
        assert!(count > 0, "{}: {}", step.finds, step.sql);
        if step.finds.ends_with("of the line") {
            assert_eq!(sum_of(&csv, "quantity"), line.quantity, "{}", step.sql);
        }
        found.push(step.finds.split_whitespace().next().unwrap_or_default().to_owned());
    }
    let down: &[&str] = match line.meter.ends_with("allocation") || line.meter == "lifetime" {
        true => &["charges", "usage", "all", "events"],
        false => &["charges", "usage", "all", "samples", "offsets"],
    };
    assert_eq!(found, down, "{}", line.meter);
    let text = explanation.to_text();
    assert!(text.contains(&line.id) && text.contains("1. Charges of the line"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_leads_to_the_log() {
    let records = fleet(&lively(51), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    let bed = Bed::new();
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    let project = projects(&site).pop().unwrap();
    let ledger = &site.ledger;
    // Open hours, by a bill given and by the current month.
    let draft = ledger
        .invoices
        .draft(&Scope::system(), &project, &period(0, 3), Detail::Prices)
        .await
        .unwrap();
    let bill = Bill { project: project.clone(), period: period(0, 3) };
    for line in draft.lines.iter().filter(|line| line.quantity != Quantity::ZERO) {
        check(
            &site,
            &draft,
            &ledger.explanations.explain(&Scope::system(), &line.id, Some(&bill)).await.unwrap(),
        )
        .await;
    }
    // A line just seen needs no bill to be named.
    ledger.explanations.explain(&Scope::system(), &draft.lines[0].id, None).await.unwrap();
    let month = nilometer_rating::Period::parse("2026-11", "2026-12", "UTC").unwrap();
    let month =
        ledger.invoices.draft(&Scope::system(), &project, &month, Detail::Resources).await.unwrap();
    let line = month.lines.first().unwrap();
    check(
        &site,
        &month,
        &ledger.explanations.explain(&Scope::system(), &line.id, None).await.unwrap(),
    )
    .await;
    // Settled hours of an issued invoice.
    let issued =
        ledger.invoices.issue(&project, &period(0, 2), Detail::Resources, hour(9)).await.unwrap();
    assert!(issued.known.is_some());
    for line in issued.lines.iter().filter(|line| line.quantity != Quantity::ZERO).take(12) {
        check(
            &site,
            &issued,
            &ledger.explanations.explain(&Scope::system(), &line.id, None).await.unwrap(),
        )
        .await;
    }
    let unknown = ledger.explanations.explain(&Scope::system(), "L-0000000000000000", None).await;
    assert!(matches!(unknown, Err(LedgerError::NoLine(_))));
    site.stop().await;
}
