//! Usage, charges and invoices as rows of their tables.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_rating::{Charge, IssuedInvoice, Line};
use nilometer_store::{CHARGES, INVOICES, TableDef, USAGE};
use nilometer_usage::{Quantity, UsageRow};

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
    let columns = def.columns.iter().map(|column| -> ArrayRef {
        match column.name {
            "start" => instants(hours.iter().copied()),
            "end" => instants(hours.iter().map(|hour| hour + micros)),
            "known" => integers(vec![known; count]),
            "price_book" => texts(vec![book; count]),
            "observed_micros" => integers(vec![0; count]),
            "quantity" | "amount" => decimals(vec![0; count]),
            "coverage" => Arc::new(Float64Array::from_iter_values(vec![0.0; count])),
            _ => texts(vec![""; count]),
        }
    });
    batch(def.file_schema(), columns.collect())
}

/// Rows of table `usage`.
pub(crate) fn usage_batch(rows: &[UsageRow], known: i64) -> RecordBatch {
    let columns = usage_columns(rows);
    let more: [ArrayRef; 2] = [
        integers(rows.iter().map(|row| row.observed_micros)),
        integers(rows.iter().map(|_| known)),
    ];
    batch(USAGE.file_schema(), columns.into_iter().chain(more).collect())
}

/// `start, end, resource, kind, meter, labels, project, quantity, unit, coverage`.
pub(crate) fn usage_columns(rows: &[UsageRow]) -> Vec<ArrayRef> {
    let coverage = rows.iter().map(|row| {
        let period = (row.end.0 - row.start.0).max(1);
        row.observed_micros as f64 / period as f64
    });
    vec![
        instants(rows.iter().map(|row| row.start.0)),
        instants(rows.iter().map(|row| row.end.0)),
        texts(rows.iter().map(|row| &*row.resource)),
        texts(rows.iter().map(|row| row.kind.as_str())),
        texts(rows.iter().map(|row| &*row.meter.name)),
        texts(rows.iter().map(|row| row.labels.as_str())),
        texts(rows.iter().map(|row| &*row.project)),
        decimals(rows.iter().map(|row| row.quantity.0)),
        texts(rows.iter().map(|row| &*row.meter.usage_unit)),
        Arc::new(Float64Array::from_iter_values(coverage)),
    ]
}

/// Rows of table `charges`.
pub(crate) fn charges_batch(charges: &[Charge], known: i64) -> RecordBatch {
    let observed = integers(charges.iter().map(|charge| charge.usage.observed_micros));
    let more: [ArrayRef; 2] = [observed, integers(charges.iter().map(|_| known))];
    batch(CHARGES.file_schema(), charge_columns(charges).into_iter().chain(more).collect())
}

/// The columns of `charges` up to `price_entry`.
pub(crate) fn charge_columns(charges: &[Charge]) -> Vec<ArrayRef> {
    let all = || charges.iter();
    vec![
        instants(all().map(|charge| charge.usage.start.0)),
        instants(all().map(|charge| charge.usage.end.0)),
        texts(all().map(|charge| &*charge.usage.project)),
        texts(all().map(|charge| &*charge.usage.resource)),
        texts(all().map(|charge| charge.usage.kind.as_str())),
        texts(all().map(Charge::meter_name)),
        texts(all().map(|charge| charge.usage.labels.as_str())),
        decimals(all().map(|charge| charge.usage.quantity.0)),
        texts(all().map(|charge| &*charge.entry.usage_unit)),
        texts(all().map(|charge| charge.entry.price.to_string())),
        texts(all().map(|charge| charge.entry.per.to_string())),
        texts(all().map(|charge| charge.currency().to_string())),
        decimals(all().map(|charge| shown(&charge.amount().truncated(SCALE as u32).0))),
        texts(all().map(|charge| charge.entry.book.version.clone())),
        texts(all().map(|charge| charge.entry.id.clone())),
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
    let columns: Vec<ArrayRef> = vec![
        every(&invoice.id),
        every(&invoice.project),
        at(invoice.start),
        at(invoice.end),
        every(&invoice.currency.to_string()),
        every(invoice.status.as_str()),
        at(invoice.issued_at.unwrap_or_default()),
        of(&|line| line.id.clone()),
        of(&|line| line.description.clone()),
        of(&|line| line.kind.to_string()),
        of(&|line| line.meter.clone()),
        decimals(lines.iter().map(|line| line.map_or(0, |line| line.quantity.0))),
        of(&|line| line.unit.clone()),
        of(&|line| line.price.to_string()),
        of(&|line| line.per.clone()),
        decimals(lines.iter().map(|line| line.map_or(0, |line| shown(&line.amount.to_string())))),
        Arc::new(Float64Array::from_iter_values(coverage)),
        decimals((0..count).map(|_| shown(&invoice.total.to_string()))),
        every(&invoice.price_book),
        every(invoice.digest.as_deref().unwrap_or_default()),
        Arc::new(StringArray::from_iter(document)),
    ];
    batch(INVOICES.file_schema(), columns)
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

pub(crate) fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    match RecordBatch::try_new(schema, columns) {
        Ok(batch) => batch,
        Err(error) => panic!("rows of billing fit their tables: {error}"),
    }
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
