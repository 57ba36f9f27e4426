//! Invoices and explanations for reading: aligned text, JSON, CSV.

mod table;

use crate::decimal::trimmed;
use crate::explain::Explanation;
use crate::invoice::{COUNT_DIGITS, Invoice, Line, Status};
use crate::render::table::{Align, Table};

/// Charges that the text of an explanation shows; its JSON has more.
const SHOWN_CHARGES: usize = 24;
const CSV_COLUMNS: [&str; 24] = [
    "id",
    "project",
    "start",
    "end",
    "currency",
    "status",
    "issued_at",
    "line",
    "description",
    "kind",
    "resource",
    "meter",
    "quantity",
    "unit",
    "price",
    "per",
    "amount",
    "amount_exact",
    "coverage",
    "lowest_coverage",
    "corrects",
    "total",
    "price_book",
    "price_entry",
];

/// Gaps that the page for people names; JSON has them all.
const SHOWN_GAPS: usize = 12;

impl Status {
    /// `draft` or `issued`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Issued => "issued",
        }
    }
}

impl Invoice {
    /// The invoice as aligned text for a terminal or a letter.
    pub fn to_text(&self) -> String {
        let issued = self.issued_at.map(|at| format!("issued {at}"));
        let status = issued.unwrap_or_else(|| "draft, may still change".to_owned());
        let mut text = format!("Invoice   {} ({status})\n", self.id);
        for (name, value) in [
            ("Project", self.project.clone()),
            ("Period", format!("{} to {} ({})", self.start, self.end, self.time_zone)),
            ("Prices", format!("{} in {}", self.price_book, self.currency)),
        ] {
            text.push_str(format!("{name:<9} {value}").trim_end());
            text.push('\n');
        }
        if let Some(known) = self.known {
            text.push_str(&format!("Usage     as known at version {known} of the samples\n"));
        }
        text.push('\n');
        let total = format!("Total {}", self.currency);
        text.push_str(&self.table().footed(&total, &self.total.to_string()));
        if self.lines.iter().any(is_maybe_cut) {
            text.push_str(
                "\nQuantities with six places may be cut; JSON and CSV have them in full.\n",
            );
        }
        if !self.gaps.is_empty() {
            text.push_str("\nNot observed in full:\n");
            let shown = self.gaps.iter().take(SHOWN_GAPS);
            shown.for_each(|gap| text.push_str(&format!("  {gap}\n")));
            if self.gaps.len() > SHOWN_GAPS {
                let more = self.gaps.len() - SHOWN_GAPS;
                text.push_str(&format!("  … and {more} more; JSON has them all\n"));
            }
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("\nSealed: SHA-256 {digest}\n"));
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("line", Align::Left),
            ("description", Align::Left),
            ("meter", Align::Left),
            ("quantity", Align::Point),
            ("per", Align::Left),
            ("price", Align::Point),
            ("observed", Align::Right),
            ("amount", Align::Point),
        ]);
        for line in &self.lines {
            let on = line.resource.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
            table.push([
                line.id.clone(),
                format!("{}{on}", line.description),
                line.meter.clone(),
                line.count.clone(),
                line.per.clone(),
                line.price.to_string(),
                percent(line),
                line.amount.to_string(),
            ]);
        }
        table
    }

    /// The invoice as indented JSON; money and quantities are texts, so that no reader makes
    /// floats of them.
    pub fn to_json(&self) -> String {
        json(self)
    }

    /// The lines as CSV (RFC 4180), with what the invoice says repeated on each.
    pub fn to_csv(&self) -> String {
        let rows = self.lines.iter().map(|line| self.csv_row(line));
        csv(rows)
    }

    fn csv_row(&self, line: &Line) -> [String; 24] {
        let correction = line.corrects.as_ref();
        [
            self.id.clone(),
            self.project.clone(),
            self.start.to_string(),
            self.end.to_string(),
            self.currency.to_string(),
            self.status.as_str().to_owned(),
            self.issued_at.map(|at| at.to_string()).unwrap_or_default(),
            line.id.clone(),
            line.description.clone(),
            line.kind.to_string(),
            line.resource.clone().unwrap_or_default(),
            line.meter.clone(),
            line.quantity.to_string(),
            line.unit.clone(),
            line.price.to_string(),
            line.per.clone(),
            line.amount.to_string(),
            line.amount_exact.to_string(),
            line.coverage.weighted.to_string(),
            line.coverage.lowest.to_string(),
            correction.map(|it| format!("{} {}", it.invoice, it.line)).unwrap_or_default(),
            self.total.to_string(),
            line.price_book.clone(),
            line.price_entry.clone(),
        ]
    }
}

impl Explanation {
    /// The explanation as text: the sum, the first charges, the queries.
    pub fn to_text(&self) -> String {
        let line = &self.line;
        let mut text = format!("{} of {}: {}\n", line.id, self.invoice, line.description);
        text.push_str(&format!("{}\n\n", self.arithmetic));
        let book = &self.price_book_digest;
        text.push_str(&format!("Price     {} of {}\n", line.price_entry, line.price_book));
        text.push_str(&format!("Book      SHA-256 {book}\n"));
        let count = self.charges.len() + self.charges_left_out;
        if count > 0 {
            text.push_str(&format!("Charges   {count}\n\n"));
            text.push_str(&self.table().text());
            if count > SHOWN_CHARGES {
                text.push_str(&format!("… and {} more\n", count - SHOWN_CHARGES));
            }
        }
        for query in &self.queries {
            text.push_str(&format!("\nIts {}:\n  {}\n", query.finds, query.sql));
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("resource", Align::Left),
            ("start", Align::Left),
            ("end", Align::Left),
            ("quantity", Align::Point),
            ("unit", Align::Left),
            ("amount (cut, not rounded)", Align::Point),
        ]);
        for charge in self.charges.iter().take(SHOWN_CHARGES) {
            table.push([
                charge.resource.clone(),
                charge.start.to_string(),
                charge.end.to_string(),
                charge.quantity.to_string(),
                charge.unit.clone(),
                charge.amount.clone(),
            ]);
        }
        table
    }

    /// The explanation as indented JSON.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

/// Whether the count of a line has so many places that some may have been cut off.
fn is_maybe_cut(line: &Line) -> bool {
    line.count.split_once('.').is_some_and(|(_, places)| places.len() >= COUNT_DIGITS as usize)
}

/// The observed share in per cent.
fn percent(line: &Line) -> String {
    let share = |millionths: u32| {
        let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
        format!("{} %", trimmed(&text))
    };
    share(line.coverage.weighted.0)
}

fn json(value: &impl serde::Serialize) -> String {
    match serde_json::to_string_pretty(value) {
        Ok(text) => text + "\n",
        Err(error) => panic!("an invoice is plain text and numbers: {error}"),
    }
}

fn csv(rows: impl Iterator<Item = [String; 24]>) -> String {
    let terminator = csv::Terminator::CRLF;
    let mut writer = csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
    let mut written = writer.write_record(CSV_COLUMNS);
    for row in rows {
        written = written.and_then(|()| writer.write_record(row));
    }
    let bytes = written.ok().and_then(|()| writer.into_inner().ok());
    match bytes.map(String::from_utf8) {
        Some(Ok(text)) => text,
        _ => panic!("texts can be written to memory as CSV"),
    }
}
