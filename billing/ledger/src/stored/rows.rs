//! Usage, charges and invoices as rows of their tables.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use nilometer_contract::ColumnType::{Decimal, Float, Instant, Int, Text};
use nilometer_contract::{
    MICROS_PER_HOUR, RowRule, RowSource, TableDef, Timestamp, column, columns,
};
use nilometer_engine::usage_columns;
use nilometer_rating::{Charge, IssuedInvoice, Line};
use nilometer_usage::{Quantity, USAGE, UsageRow};

use crate::error::LedgerError;

/// Rated usage.
pub const CHARGES: TableDef = TableDef {
    name: "charges",
    doc: "Usage times price, before rounding.",
    columns: &[
        columns::START,
        columns::END,
        columns::PROJECT,
        columns::RESOURCE,
        columns::KIND,
        columns::METER,
        columns::LABELS,
        column("quantity", Decimal, "usage unit", "How much."),
        column("unit", Text, "", "Unit of the quantity."),
        column("price", Text, "currency", "Price of one `per`."),
        column("per", Text, "", "What the price is for."),
        column("currency", Text, "", "ISO 4217 code."),
        column("amount", Decimal, "currency", "Quantity × price ÷ per, cut after 12 digits."),
        column("price_book", Text, "", "Version of the price book."),
        column("price_entry", Text, "", "Entry of the price book."),
        column("observed_micros", Int, "microseconds", "Time of the usage that was observed."),
        column("known", Int, "", "Version of `samples` that it rests on."),
    ],
    partition: None,
    order: &["start", "project", "resource"],
    time: Some("start"),
    retention_days: 0,
    rule: RowRule::Project { project: "project", at: "start", until: None },
    from: RowSource::Computed,
};

/// Invoices, a row a line.
pub const INVOICES: TableDef = TableDef {
    name: "invoices",
    doc: "Issued invoices, one row a line; immutable.",
    columns: &[
        column("id", Text, "", "Number of the invoice."),
        columns::PROJECT,
        columns::START,
        columns::END,
        column("currency", Text, "", "ISO 4217 code."),
        column("status", Text, "", "issued."),
        column("issued_at", Instant, "", "When it was issued."),
        column("line", Text, "", "Id of the line."),
        column("description", Text, "", "What the line is for."),
        columns::KIND,
        columns::METER,
        column("quantity", Decimal, "usage unit", "Sum of the usage."),
        column("unit", Text, "", "Unit of the quantity."),
        column("price", Text, "currency", "Price of one `per`."),
        column("per", Text, "", "What the price is for."),
        column("amount", Decimal, "currency", "Rounded once, half to even."),
        column("coverage", Float, "fraction", "Part of the period that was observed."),
        column("total", Decimal, "currency", "Sum of the invoice's lines."),
        column("price_book", Text, "", "Version of the price book."),
        column("digest", Text, "", "Digest of the invoice's contents."),
        column("document", Text, "JSON", "The sealed invoice; on its first row only."),
    ],
    partition: None,
    order: &["issued_at"],
    time: Some("start"),
    retention_days: 0,
    rule: RowRule::Project { project: "project", at: "start", until: Some("end") },
    from: RowSource::Original,
};

/// Columns by name.
pub(crate) type Columns = Vec<(&'static str, ArrayRef)>;

/// Digits after the point of every stored decimal.
const SCALE: i8 = 12;

/// A row that says that an hour has no rows; readers leave it out because it takes no time.
pub(crate) fn void_hour(def: &TableDef, hour: i64, known: i64, book: &str) -> RecordBatch {
    without_time(def, &[hour], 0, known, book)
}

/// Rows that say that hours are not settled; readers leave them out because they end before they
/// start.
pub(crate) fn withdrawn_hours(
    def: &TableDef,
    hours: &[i64],
    known: i64,
    book: &str,
) -> RecordBatch {
    without_time(def, hours, -1, known, book)
}

fn without_time(def: &TableDef, hours: &[i64], micros: i64, known: i64, book: &str) -> RecordBatch {
    let count = hours.len();
    let columns = def.columns.iter().map(|column| -> (&str, ArrayRef) {
        let cells: ArrayRef = match column.name {
            "start" => instants(hours.iter().copied()),
            "end" => instants(hours.iter().map(|hour| hour + micros)),
            "known" => integers(vec![known; count]),
            "price_book" => texts(vec![book; count]),
            "observed_micros" => integers(vec![0; count]),
            "quantity" | "amount" => decimals(vec![0; count]),
            "coverage" => Arc::new(Float64Array::from_iter_values(vec![0.0; count])),
            _ => texts(vec![""; count]),
        };
        (column.name, cells)
    });
    def.batch(columns.collect())
}

/// Rows of table `usage`.
pub(crate) fn usage_batch(rows: &[UsageRow], known: i64) -> Result<RecordBatch, LedgerError> {
    let mut columns = usage_columns(rows)?;
    columns.extend([
        ("observed_micros", integers(rows.iter().map(|row| row.observed_micros))),
        ("known", integers(rows.iter().map(|_| known))),
    ]);
    Ok(USAGE.batch(columns))
}

/// Rows of table `charges`.
pub(crate) fn charges_batch(charges: &[Charge], known: i64) -> RecordBatch {
    let observed = charges.iter().map(|charge| charge.usage.observed_micros);
    let mut columns = charge_columns(charges);
    columns.extend([
        ("observed_micros", integers(observed)),
        ("known", integers(charges.iter().map(|_| known))),
    ]);
    CHARGES.batch(columns)
}

/// Columns of `charges` but for those of stored rows.
pub(crate) fn charge_columns(charges: &[Charge]) -> Columns {
    let all = || charges.iter();
    vec![
        ("start", instants(all().map(|charge| charge.usage.start.0))),
        ("end", instants(all().map(|charge| charge.usage.end.0))),
        ("project", texts(all().map(|charge| &*charge.usage.project))),
        ("resource", texts(all().map(|charge| &*charge.usage.resource))),
        ("kind", texts(all().map(|charge| charge.usage.kind.as_str()))),
        ("meter", texts(all().map(Charge::meter_name))),
        ("labels", texts(all().map(|charge| charge.usage.labels.as_str()))),
        ("quantity", decimals(all().map(|charge| charge.usage.quantity.0))),
        ("unit", texts(all().map(|charge| &*charge.entry.usage_unit))),
        ("price", texts(all().map(|charge| charge.entry.price.to_string()))),
        ("per", texts(all().map(|charge| charge.entry.per.to_string()))),
        ("currency", texts(all().map(|charge| charge.currency().to_string()))),
        ("amount", decimals(all().map(|charge| shown(&charge.amount().truncated(SCALE as u32).0)))),
        ("price_book", texts(all().map(|charge| charge.entry.book.version.clone()))),
        ("price_entry", texts(all().map(|charge| charge.entry.id.clone()))),
    ]
}

/// Rows of table `invoices`: one a line, or one alone for an invoice without lines; the first
/// carries the sealed document.
pub(crate) fn invoice_batch(invoice: &IssuedInvoice) -> RecordBatch {
    let lines: Vec<Option<&Line>> = match invoice.lines.is_empty() {
        true => vec![None],
        false => invoice.lines.iter().map(Some).collect(),
    };
    let count = lines.len();
    let every = |text: &str| texts((0..count).map(|_| text.to_owned()));
    let at = |at: Timestamp| instants((0..count).map(|_| at.0));
    let of = |text: &dyn Fn(&Line) -> String| {
        texts(lines.iter().map(|line| line.map(text).unwrap_or_default()))
    };
    let coverage = lines
        .iter()
        .map(|line| line.map_or(1.0, |line| f64::from(line.coverage.weighted.0) / 1_000_000.0));
    let document = (0..count).map(|n| (n == 0).then(|| invoice.to_json()));
    INVOICES.batch(vec![
        ("id", every(&invoice.id)),
        ("project", every(&invoice.project)),
        ("start", at(invoice.start)),
        ("end", at(invoice.end)),
        ("currency", every(&invoice.currency.to_string())),
        ("status", every(invoice.status.as_str())),
        ("issued_at", at(invoice.issued_at.unwrap_or_default())),
        ("line", of(&|line| line.id.clone())),
        ("description", of(&|line| line.description.clone())),
        ("kind", of(&|line| line.kind.to_string())),
        ("meter", of(&|line| line.meter.clone())),
        ("quantity", decimals(lines.iter().map(|line| line.map_or(0, |line| line.quantity.0)))),
        ("unit", of(&|line| line.unit.clone())),
        ("price", of(&|line| line.price.to_string())),
        ("per", of(&|line| line.per.clone())),
        (
            "amount",
            decimals(
                lines.iter().map(|line| line.map_or(0, |line| shown(&line.amount.to_string()))),
            ),
        ),
        ("coverage", Arc::new(Float64Array::from_iter_values(coverage))),
        ("total", decimals((0..count).map(|_| shown(&invoice.total.to_string())))),
        ("price_book", every(&invoice.price_book)),
        ("digest", every(invoice.digest.as_deref().unwrap_or_default())),
        ("document", Arc::new(StringArray::from_iter(document))),
    ])
}

/// Start of the hour that a row lies in, in microseconds.
pub(crate) fn hour_of(at: i64) -> i64 {
    at.div_euclid(MICROS_PER_HOUR) * MICROS_PER_HOUR
}

/// A decimal text of at most 12 places as it is stored. Beyond what a column holds (10²⁶ of a
/// currency) it is cut to the bound: the exact amount follows from quantity and price.
fn shown(text: &str) -> i128 {
    const MOST: i128 = 10_i128.pow(38) - 1;
    text.parse::<Quantity>().map_or(MOST, |quantity| quantity.0.clamp(-MOST, MOST))
}

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn integers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn instants(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn decimals(values: impl IntoIterator<Item = i128>) -> ArrayRef {
    let values = Decimal128Array::from_iter_values(values);
    match values.with_precision_and_scale(38, SCALE) {
        Ok(values) => Arc::new(values),
        Err(error) => panic!("38 digits hold what is stored: {error}"),
    }
}
