//! What is in the tables, read from their files alone.

use std::collections::BTreeMap;

use anyhow::Context;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::TableDef;
use nilometer_ingest::{DEAD_LETTERS, GAPS};
use nilometer_store::{SAMPLES, SERIES, Storage, rows_of};

/// Meter, resource and instant.
pub(crate) type Identity = (String, String, i64);

/// A row of `gaps`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GapRow {
    pub(crate) kind: String,
    pub(crate) agent: String,
    pub(crate) node: String,
    pub(crate) of_topic: String,
    pub(crate) of_partition: i64,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) samples: i64,
    pub(crate) reason: String,
}

/// A row of `dead_letters`.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) topic: String,
    pub(crate) partition: i64,
    pub(crate) offset: i64,
    /// Negative for all of a record.
    pub(crate) row: i64,
}

/// All rows that are judged.
pub(crate) struct Stored {
    /// Values under each identity; one if all is well.
    pub(crate) samples: BTreeMap<Identity, Vec<f64>>,
    pub(crate) gaps: Vec<GapRow>,
    pub(crate) letters: Vec<Letter>,
}

async fn rows(storage: &Storage, def: &'static TableDef) -> anyhow::Result<Vec<RecordBatch>> {
    let table = storage.table(def).await?;
    let mut rows = Vec::new();
    for file in table.files().iter() {
        rows.extend(table.read(file).await?);
    }
    Ok(rows)
}

struct Columns<'b>(&'b RecordBatch);

impl Columns<'_> {
    fn text(&self, name: &str, row: usize) -> anyhow::Result<String> {
        let column = self.0.column_by_name(name).context("no such column")?.as_string::<i32>();
        Ok(column.value(row).to_owned())
    }

    fn integer(&self, name: &str, row: usize) -> anyhow::Result<i64> {
        let column = self.0.column_by_name(name).context("no such column")?;
        if let Some(integers) = column.as_primitive_opt::<Int64Type>() {
            return Ok(integers.value(row));
        }
        Ok(column.as_primitive::<TimestampMicrosecondType>().value(row))
    }
}

impl Stored {
    pub(crate) async fn read(storage: &Storage) -> anyhow::Result<Self> {
        let mut labels = BTreeMap::new();
        for batch in rows(storage, &SERIES).await? {
            let columns = Columns(&batch);
            for row in 0..batch.num_rows() {
                let named = (columns.text("meter", row)?, columns.text("resource", row)?);
                labels.insert(columns.integer("series", row)?, named);
            }
        }
        let mut samples: BTreeMap<Identity, Vec<f64>> = BTreeMap::new();
        for batch in rows(storage, &SAMPLES).await? {
            for row in rows_of(&batch) {
                let (meter, resource) =
                    labels.get(&row.series).context("a series has no labels")?;
                let identity = (meter.clone(), resource.clone(), row.at);
                samples.entry(identity).or_default().push(row.value);
            }
        }
        let (mut gaps, mut letters) = (Vec::new(), Vec::new());
        for batch in rows(storage, &GAPS).await? {
            let columns = Columns(&batch);
            for row in 0..batch.num_rows() {
                gaps.push(GapRow {
                    kind: columns.text("kind", row)?,
                    agent: columns.text("agent", row)?,
                    node: columns.text("node", row)?,
                    of_topic: columns.text("of_topic", row)?,
                    of_partition: columns.integer("of_partition", row)?,
                    start: columns.integer("start", row)?,
                    end: columns.integer("end", row)?,
                    samples: columns.integer("samples", row)?,
                    reason: columns.text("reason", row)?,
                });
            }
        }
        for batch in rows(storage, &DEAD_LETTERS).await? {
            let columns = Columns(&batch);
            for row in 0..batch.num_rows() {
                letters.push(Letter {
                    topic: columns.text("topic", row)?,
                    partition: columns.integer("partition", row)?,
                    offset: columns.integer("offset", row)?,
                    row: columns.integer("row", row)?,
                });
            }
        }
        Ok(Stored { samples, gaps, letters })
    }
}
