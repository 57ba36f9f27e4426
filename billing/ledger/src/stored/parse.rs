//! Usage, charges and invoices read back from rows of their tables.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use nilometer_contract::{
    Catalogue, Labels, Meter, MeterKind, Origin, ResourceKind, Timestamp, Unit,
};
use nilometer_rating::{Charge, PriceBook, PriceEntry};
use nilometer_usage::{Names, Quantity, UsageRow};

/// Reads rows; shares what repeats.
pub(crate) struct Reader {
    names: Names,
    catalogue: Arc<Catalogue>,
    /// Meters by name and usage unit.
    meters: HashMap<String, HashMap<String, Arc<Meter>>>,
    /// Labels by text.
    labels: HashMap<String, Labels>,
}

/// Entries of a price book by id.
pub(crate) struct Entries(HashMap<String, Arc<PriceEntry>>);

impl Entries {
    pub(crate) fn of(book: &PriceBook) -> Self {
        Entries(book.entries().iter().map(|entry| (entry.id.clone(), entry.clone())).collect())
    }
}

impl Reader {
    /// A reader of rows about the meters of a catalogue.
    pub(crate) fn new(catalogue: Arc<Catalogue>) -> Self {
        Reader {
            names: Names::default(),
            catalogue,
            meters: HashMap::new(),
            labels: HashMap::new(),
        }
    }

    /// The meter of a row: of the catalogue, or, if that has another or none by now, what the row
    /// says of it.
    fn meter(&mut self, name: &str, usage_unit: &str) -> Arc<Meter> {
        if let Some(meter) = self.meters.get(name).and_then(|meters| meters.get(usage_unit)) {
            return meter.clone();
        }
        let declared = self.catalogue.find(name);
        let meter = match declared.filter(|meter| *meter.usage_unit == *usage_unit) {
            Some(meter) => meter.clone(),
            None => Arc::new(Meter {
                name: name.into(),
                kind: MeterKind::Delta,
                unit: usage_unit.parse().unwrap_or_else(|_| Unit::one()),
                usage_unit: usage_unit.into(),
                hold_micros: 1,
                capacity: None,
                description: String::new(),
                resources: Vec::new(),
                origin: Origin::Learnt { source: "".into() },
            }),
        };
        let meters = self.meters.entry(name.to_owned()).or_default();
        meters.insert(usage_unit.to_owned(), meter.clone());
        meter
    }

    /// The labels of a text that a row has; none if it is no text of labels.
    fn labels(&mut self, text: &str) -> Option<Labels> {
        if text.is_empty() {
            return Some(Labels::none());
        }
        if let Some(labels) = self.labels.get(text) {
            return Some(labels.clone());
        }
        let labels = Labels::parse(text).ok()?;
        self.labels.insert(text.to_owned(), labels.clone());
        Some(labels)
    }

    /// Rows of `usage` or `charges` as usage, appended to `out`.
    pub(crate) fn usage(
        &mut self,
        batch: &RecordBatch,
        out: &mut Vec<UsageRow>,
    ) -> Result<(), DataFusionError> {
        let (resource, project) = (text(batch, "resource")?, text(batch, "project")?);
        let (kind, meter) = (text(batch, "kind")?, text(batch, "meter")?);
        let (labels, unit) = (text(batch, "labels")?, text(batch, "unit")?);
        let (start, end) = (instants(batch, "start")?, instants(batch, "end")?);
        let quantity = column(batch, "quantity")?.as_primitive::<Decimal128Type>();
        let observed = column(batch, "observed_micros")?.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let unknown = |what: &str, name: &str| {
                DataFusionError::Execution(format!(
                    "a stored row names the unknown {what} {name:?}"
                ))
            };
            let kind = kind.value(row);
            let kind: ResourceKind = kind.parse().map_err(|_| unknown("kind", kind))?;
            let labels = labels.value(row);
            out.push(UsageRow {
                start: Timestamp(start[row]),
                end: Timestamp(end[row]),
                resource: self.names.get(resource.value(row)),
                kind,
                meter: self.meter(meter.value(row), unit.value(row)),
                labels: self.labels(labels).ok_or_else(|| unknown("labels", labels))?,
                project: self.names.get(project.value(row)),
                quantity: Quantity(quantity.value(row)),
                observed_micros: observed.value(row),
            });
        }
        Ok(())
    }

    /// Rows of `charges`, appended to `out`; those of other books are left out.
    pub(crate) fn charges(
        &mut self,
        batch: &RecordBatch,
        book: &PriceBook,
        entries: &Entries,
        out: &mut Vec<Charge>,
    ) -> Result<(), DataFusionError> {
        let mut usage = Vec::with_capacity(batch.num_rows());
        self.usage(batch, &mut usage)?;
        let (version, entry) = (text(batch, "price_book")?, text(batch, "price_entry")?);
        for (row, usage) in usage.into_iter().enumerate() {
            if version.value(row) != book.version() {
                continue;
            }
            let entry = entries.0.get(entry.value(row)).ok_or_else(|| {
                let what = format!("{} has no entry {}", book.version(), entry.value(row));
                DataFusionError::Execution(what)
            })?;
            out.push(Charge { usage, entry: entry.clone() });
        }
        Ok(())
    }
}

/// A column by name.
pub(crate) fn column<'b>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b Arc<dyn Array>, DataFusionError> {
    batch
        .column_by_name(name)
        .ok_or_else(|| DataFusionError::Execution(format!("no column {name} where one is needed")))
}

/// A column of text, in whatever form a plan gave it.
pub(crate) fn text(batch: &RecordBatch, name: &str) -> Result<StringArray, DataFusionError> {
    let column = cast(column(batch, name)?, &DataType::Utf8)?;
    Ok(column.as_string::<i32>().clone())
}

/// A column of whole numbers.
pub(crate) fn integers(batch: &RecordBatch, name: &str) -> Result<Vec<i64>, DataFusionError> {
    let column = cast(column(batch, name)?, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().values().to_vec())
}

/// A column of instants, in microseconds.
pub(crate) fn instants(batch: &RecordBatch, name: &str) -> Result<Vec<i64>, DataFusionError> {
    let micros = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let column = cast(column(batch, name)?, &micros)?;
    Ok(column.as_primitive::<TimestampMicrosecondType>().values().to_vec())
}
