//! Issued invoices never change; what turns out later is corrected on a later invoice.

use std::sync::Arc;

use nilometer_contract::{Labels, ResourceKind, Timestamp, catalogue};
use nilometer_rating::{
    Detail, Invoice, InvoiceError, IssuedInvoice, Line, Period, PriceBook, corrections, explain,
    invoice, rate,
};
use nilometer_usage::{Quantity, UsageRow};

use crate::case::TABLES;

const HOUR: i64 = 3_600_000_000;

/// The bill of acme for a month (such as `2026-11`) from seconds of CPU time in its first hours.
fn bill(month: &str, next: &str, seconds: &[i64]) -> Invoice {
    let text = "name = 'b'\ncurrency = 'EUR'\n[[price]]\nmeter = 'cpu.time'\nper = 'hour'\n\
        price = '0.0333'\ndescription = 'CPU time'";
    let book = PriceBook::parse(text).expect("a book");
    let period = Period::parse(month, next, "UTC").expect("a period");
    let row = |(hour, seconds): (usize, &i64)| {
        let start = period.start().plus_micros(hour as i64 * HOUR);
        UsageRow {
            start,
            end: start.plus_micros(HOUR),
            resource: Arc::from("vm-1"),
            kind: ResourceKind::VM,
            meter: catalogue().find("cpu.time").expect("a meter").clone(),
            labels: Labels::none(),
            project: Arc::from("acme"),
            quantity: Quantity(i128::from(*seconds) * 1_000_000_000_000),
            observed_micros: HOUR,
        }
    };
    let usage: Vec<UsageRow> = seconds.iter().enumerate().map(row).collect();
    let charges = rate(&usage, &book, |_| None).expect("charges");
    assert!(charges.iter().all(|charge| charge.meter_name() == &*charge.usage.meter.name));
    assert!(charges.iter().all(|charge| charge.row().meter == "cpu.time"));
    invoice("acme", &period, &charges, &book, Detail::Prices).expect("an invoice")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {} {}", line.quantity, line.unit, line.amount)).collect()
}

#[test]
fn issuing_waits_for_the_end_of_the_period_and_happens_once() {
    let draft = bill("2026-11", "2026-12", &[3_600]);
    let early = draft.clone().issue(at("2026-11-30T23:59:59Z"));
    assert!(matches!(early, Err(InvoiceError::PeriodOpen { .. })));
    let issued = draft.issue(at("2026-12-01T00:00:00Z")).unwrap();
    let again = (*issued).clone().issue(at("2026-12-02T00:00:00Z"));
    assert!(matches!(again, Err(InvoiceError::AlreadyIssued(_))));
    let more = (*issued).clone().with_corrections(vec![]);
    assert!(matches!(more, Err(InvoiceError::AlreadyIssued(_))));
}

#[test]
fn an_issued_invoice_reads_back_and_any_change_shows() {
    let issued =
        bill("2026-11", "2026-12", &[3_600_000]).issue(at("2026-12-01T00:00:00Z")).unwrap();
    let json = issued.to_json();
    assert_eq!(IssuedInvoice::from_json(&json).unwrap(), issued);
    for (from, to) in [
        ("\"33.30\"", "\"33.29\""),
        ("acme", "ACME"),
        ("CPU time", "CPU tine"),
        ("2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z"),
        ("\"issued\"", "\"draft\""),
    ] {
        let forged = json.replacen(from, to, 1);
        assert_ne!(forged, json, "{from}");
        let error = IssuedInvoice::from_json(&forged).unwrap_err();
        assert!(matches!(error, InvoiceError::Forged { .. }), "{from}: {error}");
    }
    let open = json.replacen("\"format\"", "\"extra\": 1,\n  \"format\"", 1);
    assert!(matches!(IssuedInvoice::from_json(&open), Err(InvoiceError::Json(_))));
}

#[test]
fn corrections_bring_what_was_billed_to_what_is_known() {
    let issue = |invoice: Invoice, instant| invoice.issue(at(instant)).unwrap();
    let november = issue(bill("2026-11", "2026-12", &[3_600_000]), "2026-12-01T00:00:00Z");
    assert_eq!(november.total.to_string(), "33.30");

    // An hour that arrived late is billed in December, under the line it belongs to.
    let known = bill("2026-11", "2026-12", &[3_600_000, 1_800]);
    assert_eq!(known.lines[0].id, november.lines[0].id);
    assert_ne!(known.id, november.id);
    let found = corrections(&november, &[], &known).unwrap();
    assert_eq!(texts(&found), ["1800 seconds 0.02"]);
    assert_eq!(found[0].count, "", "a correction counts nothing");
    let exact = known.lines[0].amount_exact.plus(&november.lines[0].amount_exact.negated());
    assert_eq!(found[0].amount_exact, exact);
    let corrected = found[0].corrects.clone().unwrap();
    assert_eq!(
        (corrected.invoice, corrected.line),
        (november.id.clone(), known.lines[0].id.clone())
    );

    let december = bill("2026-12", "2027-01", &[3_600]).with_corrections(found).unwrap();
    assert_eq!(december.total.to_string(), "0.05");
    let explained =
        explain(&december.lines[1].id, &december, &[], catalogue(), &TABLES).unwrap().to_text();
    assert!(
        explained.contains(&format!("WHERE id = '{}' AND line = ", november.id)),
        "{explained}"
    );
    let december = issue(december, "2027-01-01T00:00:00Z");

    // Billed once, it is not billed again, and what was too much is given back.
    assert_eq!(corrections(&november, &[&december], &known).unwrap(), []);
    let less = bill("2026-11", "2026-12", &[1_800_000]);
    let found = corrections(&november, &[&december], &less).unwrap();
    assert_eq!(texts(&found), ["-1801800 seconds -16.67"]);
    let nothing = bill("2026-11", "2026-12", &[]);
    let found = corrections(&november, &[&december], &nothing).unwrap();
    assert_eq!(texts(&found), ["-3601800 seconds -33.32"]);
}

#[test]
fn a_line_that_was_missing_is_corrected_too() {
    let empty = bill("2026-11", "2026-12", &[]).issue(at("2026-12-01T00:00:00Z")).unwrap();
    assert!(empty.lines.is_empty());
    let found = corrections(&empty, &[], &bill("2026-11", "2026-12", &[3_600_000])).unwrap();
    assert_eq!(texts(&found), ["3600000 seconds 33.30"]);
    assert_eq!(corrections(&empty, &[], &bill("2026-11", "2026-12", &[])).unwrap(), []);
    let other_month = corrections(&empty, &[], &bill("2026-10", "2026-11", &[]));
    assert!(matches!(other_month, Err(InvoiceError::OtherBill { .. })));
}
