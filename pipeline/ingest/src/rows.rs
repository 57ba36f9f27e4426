//! Rows of the small tables: events, gaps, dead letters, and those that topics of others feed.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use nilometer_contract::{
    Cell, Cells, ColumnType, Epoch, Gap, LifecycleEvent, ORIGIN, TableDef, Timestamp,
};
use nilometer_store::Position;

use crate::stream::{Origin, Stream};
use crate::tables::{COMMITS, EPOCHS};

/// A message or sample that could not be stored.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetter {
    pub(crate) at: Timestamp,
    pub(crate) row: i64,
    pub(crate) reason: String,
    pub(crate) payload: bytes::Bytes,
}

/// What a row weighs beside its longer texts.
const ROW_BYTES: usize = 256;

/// Rows of one of the small tables, which say where they were read.
pub(crate) trait TableRow: Sized {
    /// Columns of its table by name, those of the origin left out.
    fn columns(table: &TableDef, rows: &[(Origin, Self)]) -> Vec<(&'static str, ArrayRef)>;

    /// Bytes of its longer texts.
    fn text_bytes(&self) -> usize;

    /// Bytes it takes in memory, about.
    fn weight(&self) -> usize {
        ROW_BYTES + self.text_bytes()
    }
}

fn texts<'a>(rows: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows))
}

fn instants(rows: impl Iterator<Item = Timestamp>) -> ArrayRef {
    let micros = rows.map(|at| at.0);
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

fn integers(rows: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows))
}

/// Rows as one batch of their table.
pub(crate) fn batch_of<R: TableRow>(table: &TableDef, rows: &[(Origin, R)]) -> RecordBatch {
    let origins = || rows.iter().map(|(origin, _)| origin);
    let logs: Vec<String> = origins().map(|origin| origin.log.to_string()).collect();
    let [topic, partition, log, offset] = ORIGIN;
    let mut columns = R::columns(table, rows);
    columns.extend([
        (topic, texts(origins().map(|origin| origin.topic))),
        (partition, integers(origins().map(|origin| i64::from(origin.partition)))),
        (log, texts(logs.iter().map(String::as_str))),
        (offset, integers(origins().map(|origin| origin.offset as i64))),
    ]);
    table.batch(columns)
}

impl TableRow for LifecycleEvent {
    fn text_bytes(&self) -> usize {
        let attributes = self.resource.attributes.iter();
        attributes.map(|(key, value)| key.len() + value.len()).sum()
    }

    fn columns(_: &TableDef, rows: &[(Origin, Self)]) -> Vec<(&'static str, ArrayRef)> {
        let events = || rows.iter().map(|(_, event)| event);
        let resources = || events().map(|event| &event.resource);
        let parents = resources().map(|resource| resource.parent.as_deref());
        let attributes: Vec<String> = resources()
            .map(|resource| serde_json::to_string(&resource.attributes).unwrap_or_default())
            .collect();
        let ids: Vec<String> = events().map(LifecycleEvent::id).collect();
        vec![
            ("at", instants(events().map(|event| event.at))),
            ("change", texts(events().map(|event| event.change.as_str()))),
            ("resource", texts(resources().map(|resource| resource.id.as_str()))),
            ("kind", texts(resources().map(|resource| resource.kind.as_str()))),
            ("project", texts(resources().map(|resource| resource.project.as_str()))),
            ("name", texts(resources().map(|resource| resource.name.as_str()))),
            ("node", texts(resources().map(|resource| resource.node.as_str()))),
            ("parent", Arc::new(parents.collect::<StringArray>())),
            ("attributes", texts(attributes.iter().map(String::as_str))),
            ("source", texts(events().map(|event| event.source.as_str()))),
            ("id", texts(ids.iter().map(String::as_str))),
        ]
    }
}

impl TableRow for Gap {
    fn text_bytes(&self) -> usize {
        self.reason.len() + self.sources.iter().map(String::len).sum::<usize>()
    }

    fn columns(_: &TableDef, rows: &[(Origin, Self)]) -> Vec<(&'static str, ArrayRef)> {
        let sources: Vec<String> = rows.iter().map(|(_, gap)| gap.sources.join(",")).collect();
        let gaps = || rows.iter().map(|(_, gap)| gap);
        vec![
            ("start", instants(gaps().map(|gap| gap.start))),
            ("end", instants(gaps().map(|gap| gap.end))),
            ("kind", texts(gaps().map(|gap| gap.kind.as_str()))),
            ("reason", texts(gaps().map(|gap| gap.reason.as_str()))),
            ("node", texts(gaps().map(|gap| gap.node.as_str()))),
            ("sources", texts(sources.iter().map(String::as_str))),
            ("agent", texts(gaps().map(|gap| gap.agent.as_str()))),
            ("of_topic", texts(gaps().map(|gap| gap.topic.as_str()))),
            ("of_partition", integers(gaps().map(|gap| gap.partition.map_or(-1, i64::from)))),
            ("records", integers(gaps().map(|gap| gap.records as i64))),
            ("samples", integers(gaps().map(|gap| gap.samples as i64))),
        ]
    }
}

impl TableRow for DeadLetter {
    fn text_bytes(&self) -> usize {
        self.reason.len() + self.payload.len()
    }

    fn columns(_: &TableDef, rows: &[(Origin, Self)]) -> Vec<(&'static str, ArrayRef)> {
        let letters = || rows.iter().map(|(_, letter)| letter);
        vec![
            ("at", instants(letters().map(|letter| letter.at))),
            ("row", integers(letters().map(|letter| letter.row))),
            ("reason", texts(letters().map(|letter| letter.reason.as_str()))),
            (
                "payload",
                Arc::new(BinaryArray::from_iter_values(letters().map(|letter| &letter.payload))),
            ),
        ]
    }
}

/// A record of a topic that feeds a table.
impl TableRow for Cells {
    fn text_bytes(&self) -> usize {
        let texts = self.iter().map(|(_, cell)| match cell {
            Cell::Text(text) => text.len(),
            Cell::Int(_) | Cell::Instant(_) => 0,
        });
        texts.sum()
    }

    fn columns(table: &TableDef, rows: &[(Origin, Self)]) -> Vec<(&'static str, ArrayRef)> {
        let own = table.columns.iter().filter(|column| !ORIGIN.contains(&column.name));
        let cells = |name: &'static str| {
            rows.iter().map(move |(_, row)| {
                row.iter().find(|(column, _)| *column == name).map(|(_, cell)| cell)
            })
        };
        let array = |name: &'static str, kind: ColumnType| -> ArrayRef {
            match kind {
                ColumnType::Instant => {
                    let micros = cells(name).map(|cell| match cell {
                        Some(Cell::Instant(at)) => Some(at.0),
                        _ => None,
                    });
                    let micros: TimestampMicrosecondArray = micros.collect();
                    Arc::new(micros.with_timezone("UTC"))
                }
                ColumnType::Int => {
                    Arc::new(Int64Array::from_iter(cells(name).map(|cell| match cell {
                        Some(Cell::Int(number)) => Some(*number),
                        _ => None,
                    })))
                }
                _ => Arc::new(StringArray::from_iter(cells(name).map(|cell| match cell {
                    Some(Cell::Text(text)) => Some(text.as_str()),
                    _ => None,
                }))),
            }
        };
        own.map(|column| (column.name, array(column.name, column.kind))).collect()
    }
}

/// Rows of `commits`: what each position covered.
pub(crate) fn commits_batch(
    positions: &[(Stream, Position)],
    (first, last): (i64, i64),
    now: Timestamp,
) -> RecordBatch {
    let logs: Vec<String> = positions.iter().map(|(stream, _)| stream.log.to_string()).collect();
    let streams = || positions.iter().map(|(stream, _)| stream);
    let moved = || positions.iter().map(|(_, position)| position);
    let all = |at: Timestamp| instants(positions.iter().map(move |_| at));
    COMMITS.batch(vec![
        ("topic", texts(streams().map(|stream| stream.topic))),
        ("partition", integers(streams().map(|stream| i64::from(stream.partition)))),
        ("log", texts(logs.iter().map(String::as_str))),
        ("start_offset", integers(moved().map(|position| position.from.unwrap_or(0)))),
        ("end_offset", integers(moved().map(|position| position.next))),
        ("first_at", all(Timestamp(first))),
        ("last_at", all(Timestamp(last))),
        ("committed_at", all(now)),
    ])
}

/// Rows of `epochs`.
pub(crate) fn epochs_batch(epochs: &[Epoch]) -> RecordBatch {
    let sequence = |epoch: &Epoch| i64::try_from(epoch.sequence).unwrap_or(i64::MAX);
    EPOCHS.batch(vec![
        ("epoch", integers(epochs.iter().map(Epoch::id))),
        ("instance", texts(epochs.iter().map(|epoch| epoch.instance.as_str()))),
        ("sequence", integers(epochs.iter().map(sequence))),
        ("start", instants(epochs.iter().map(|epoch| epoch.start))),
    ])
}
