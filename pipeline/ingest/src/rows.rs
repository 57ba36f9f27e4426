//! Rows of the small tables: events, gaps, dead letters, decisions, audit.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use nilometer_contract::{AuditRecord, Epoch, Gap, LifecycleEvent, Timestamp};
use nilometer_store::{
    AUDIT, COMMITS, DEAD_LETTERS, DECISIONS, EPOCHS, EVENTS, GAPS, Position, TableDef,
};
use serde::Deserialize;

use crate::stream::{Origin, Stream};

/// A message or sample that could not be stored.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetter {
    pub(crate) at: Timestamp,
    pub(crate) row: i64,
    pub(crate) reason: String,
    pub(crate) payload: bytes::Bytes,
}

/// The parts of a decision that are columns.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Decision {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
    pub(crate) kind: String,
    #[serde(skip)]
    pub(crate) json: String,
}

/// What a row weighs beside its longer texts.
const ROW_BYTES: usize = 256;

/// A kind of row with its table.
pub(crate) trait TableRow: Sized {
    const TABLE: &'static TableDef;

    /// Columns in the table's order, the four of the origin left out.
    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef>;

    /// Bytes of its longer texts.
    fn text_bytes(&self) -> usize;

    /// Bytes it takes in memory, about.
    fn weight(&self) -> usize {
        ROW_BYTES + self.text_bytes()
    }

    /// Whether the origin's columns come last (else they follow the first column).
    const ORIGIN_LAST: bool = true;
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
pub(crate) fn batch_of<R: TableRow>(rows: &[(Origin, R)]) -> RecordBatch {
    let origins = || rows.iter().map(|(origin, _)| origin);
    let logs: Vec<String> = origins().map(|origin| origin.log.to_string()).collect();
    let origin: Vec<ArrayRef> = vec![
        texts(origins().map(|origin| origin.topic)),
        integers(origins().map(|origin| i64::from(origin.partition))),
        texts(logs.iter().map(String::as_str)),
        integers(origins().map(|origin| origin.offset as i64)),
    ];
    let mut columns = R::columns(rows);
    let at = if R::ORIGIN_LAST { columns.len() } else { 1 };
    columns.splice(at..at, origin);
    match RecordBatch::try_new(R::TABLE.schema(), columns) {
        Ok(batch) => batch,
        Err(error) => panic!("rows of {} fit their schema: {error}", R::TABLE.name),
    }
}

impl TableRow for LifecycleEvent {
    const TABLE: &'static TableDef = &EVENTS;

    fn text_bytes(&self) -> usize {
        let attributes = self.resource.attributes.iter();
        attributes.map(|(key, value)| key.len() + value.len()).sum()
    }

    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef> {
        let events = || rows.iter().map(|(_, event)| event);
        let resources = || events().map(|event| &event.resource);
        let parents = resources().map(|resource| resource.parent.as_deref());
        let attributes: Vec<String> = resources()
            .map(|resource| serde_json::to_string(&resource.attributes).unwrap_or_default())
            .collect();
        let ids: Vec<String> = events().map(LifecycleEvent::id).collect();
        vec![
            instants(events().map(|event| event.at)),
            texts(events().map(|event| event.change.as_str())),
            texts(resources().map(|resource| resource.id.as_str())),
            texts(resources().map(|resource| resource.kind.as_str())),
            texts(resources().map(|resource| resource.project.as_str())),
            texts(resources().map(|resource| resource.name.as_str())),
            texts(resources().map(|resource| resource.node.as_str())),
            Arc::new(parents.collect::<StringArray>()),
            texts(attributes.iter().map(String::as_str)),
            texts(events().map(|event| event.source.as_str())),
            texts(ids.iter().map(String::as_str)),
        ]
    }
}

impl TableRow for Gap {
    const TABLE: &'static TableDef = &GAPS;

    fn text_bytes(&self) -> usize {
        self.reason.len() + self.sources.iter().map(String::len).sum::<usize>()
    }

    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef> {
        let sources: Vec<String> = rows.iter().map(|(_, gap)| gap.sources.join(",")).collect();
        let gaps = || rows.iter().map(|(_, gap)| gap);
        vec![
            instants(gaps().map(|gap| gap.start)),
            instants(gaps().map(|gap| gap.end)),
            texts(gaps().map(|gap| gap.kind.as_str())),
            texts(gaps().map(|gap| gap.reason.as_str())),
            texts(gaps().map(|gap| gap.node.as_str())),
            texts(sources.iter().map(String::as_str)),
            texts(gaps().map(|gap| gap.agent.as_str())),
            texts(gaps().map(|gap| gap.topic.as_str())),
            integers(gaps().map(|gap| gap.partition.map_or(-1, i64::from))),
            integers(gaps().map(|gap| gap.records as i64)),
            integers(gaps().map(|gap| gap.samples as i64)),
        ]
    }
}

impl TableRow for DeadLetter {
    const TABLE: &'static TableDef = &DEAD_LETTERS;
    const ORIGIN_LAST: bool = false;

    fn text_bytes(&self) -> usize {
        self.reason.len() + self.payload.len()
    }

    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef> {
        let letters = || rows.iter().map(|(_, letter)| letter);
        vec![
            instants(letters().map(|letter| letter.at)),
            integers(letters().map(|letter| letter.row)),
            texts(letters().map(|letter| letter.reason.as_str())),
            Arc::new(BinaryArray::from_iter_values(letters().map(|letter| &letter.payload))),
        ]
    }
}

impl TableRow for Decision {
    const TABLE: &'static TableDef = &DECISIONS;

    fn text_bytes(&self) -> usize {
        self.json.len()
    }

    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef> {
        let decisions = || rows.iter().map(|(_, decision)| decision);
        vec![
            instants(decisions().map(|decision| decision.at)),
            texts(decisions().map(|decision| decision.id.as_str())),
            texts(decisions().map(|decision| decision.kind.as_str())),
            texts(decisions().map(|decision| decision.json.as_str())),
        ]
    }
}

impl TableRow for AuditRecord {
    const TABLE: &'static TableDef = &AUDIT;

    fn text_bytes(&self) -> usize {
        let texts = [&self.principal, &self.account, &self.from, &self.query, &self.failure];
        texts.into_iter().map(String::len).sum()
    }

    fn columns(rows: &[(Origin, Self)]) -> Vec<ArrayRef> {
        let records = || rows.iter().map(|(_, record)| record);
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        vec![
            instants(records().map(|record| record.at)),
            texts(records().map(|record| record.principal.as_str())),
            texts(records().map(|record| record.role.as_str())),
            texts(records().map(|record| record.account.as_str())),
            texts(records().map(|record| record.from.as_str())),
            texts(records().map(|record| record.route.as_str())),
            texts(records().map(|record| record.query.as_str())),
            integers(records().map(|record| i64::from(record.status))),
            integers(records().map(|record| number(record.micros))),
            integers(records().map(|record| number(record.rows))),
            texts(records().map(|record| record.failure.as_str())),
        ]
    }
}

impl Decision {
    /// From the JSON that the scheduler appended.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut decision: Decision =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        decision.json = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
        Ok(decision)
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
    let columns: Vec<ArrayRef> = vec![
        texts(streams().map(|stream| stream.topic)),
        integers(streams().map(|stream| i64::from(stream.partition))),
        texts(logs.iter().map(String::as_str)),
        integers(moved().map(|position| position.from.unwrap_or(0))),
        integers(moved().map(|position| position.next)),
        all(Timestamp(first)),
        all(Timestamp(last)),
        all(now),
    ];
    match RecordBatch::try_new(COMMITS.schema(), columns) {
        Ok(batch) => batch,
        Err(error) => panic!("rows of commits fit their schema: {error}"),
    }
}

/// Rows of `epochs`.
pub(crate) fn epochs_batch(epochs: &[Epoch]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        integers(epochs.iter().map(Epoch::id)),
        texts(epochs.iter().map(|epoch| epoch.instance.as_str())),
        integers(epochs.iter().map(|epoch| i64::try_from(epoch.sequence).unwrap_or(i64::MAX))),
        instants(epochs.iter().map(|epoch| epoch.start)),
    ];
    match RecordBatch::try_new(EPOCHS.schema(), columns) {
        Ok(batch) => batch,
        Err(error) => panic!("rows of epochs fit their schema: {error}"),
    }
}
