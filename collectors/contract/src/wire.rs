//! The wire form of samples: one Arrow IPC stream of one record batch per log record.
//!
//! Version 3, in schema metadata `nilometer.version`; a reader refuses versions it does not know.
//! The metadata also has the source (`nilometer.source`) and, where there is one, the epoch
//! (`nilometer.epoch`: sequence, start in microseconds and instance, with a `/` between).
//!
//! ```text
//! at        timestamp(µs, UTC)
//! meter     dictionary<u16, struct<name: utf8, kind: utf8, unit: utf8>>
//! resource  dictionary<u32, struct<id: utf8, kind: utf8, project: utf8, node: utf8, labels: utf8>>
//! value     float64
//! ```
//!
//! Any Arrow implementation reads it. What meters and resources are is written once per record,
//! not per sample; a batch that is split writes in each record only what occurs in it. Kind and
//! unit of a meter may be empty: then they are as the catalogue has them. `labels` are the further
//! labels of the series, as [`Labels`] writes them.
//!
//! Of a small record nearly all is schema and padding, so one below [`SMALL_BYTES`] is one zstd
//! frame of the stream (its first bytes tell them apart), with the `wire.zdict` of this crate as
//! the frame's dictionary.
//!
//! Bytes come from outside: `envelope` checks every length before Arrow sees them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Float64Array, PrimitiveArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Fields, Float64Type, Schema, TimeUnit, TimestampMicrosecondType, UInt16Type,
    UInt32Type,
};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::epoch::Epoch;
use crate::labels::{InvalidLabels, Labels, MAX_LABELS_BYTES};
use crate::meter::{MeterKind, Unit};
use crate::resource::MAX_TEXT_BYTES;
use crate::sample::{Meters, SampleBatch, Subjects};

mod envelope;
mod small;
#[cfg(test)]
mod tests;

pub use small::SMALL_BYTES;

/// Version of the wire form that this crate writes.
pub const WIRE_VERSION: &str = "3";
/// Longest record: fits a Kafka broker with default limits.
pub const MAX_RECORD_BYTES: usize = 1_000_000;
/// Most samples in one record.
pub const MAX_ROWS: usize = 32_768;
/// Most resources named in one record.
pub const MAX_SUBJECTS: usize = 16_384;
/// Most meters named in one record.
pub const MAX_METERS: usize = 4_096;

const VERSION_KEY: &str = "nilometer.version";
const SOURCE_KEY: &str = "nilometer.source";
const EPOCH_KEY: &str = "nilometer.epoch";

/// Why bytes are not a batch of samples.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_RECORD_BYTES`] even for one row, or on reading.
    #[error("record has {0} bytes, more than {MAX_RECORD_BYTES}")]
    TooLong(usize),
    /// The bytes contradict themselves; says where.
    #[error("not an Arrow IPC stream: {0}")]
    Envelope(&'static str),
    /// Arrow refused them.
    #[error("not an Arrow IPC stream")]
    Arrow(#[source] ArrowError),
    /// A small record could not be compressed, or is no whole frame.
    #[error("not a zstd frame of this version's dictionary")]
    Compression(#[source] std::io::Error),
    /// Not of this version's schema.
    #[error("unexpected schema: {0}")]
    Schema(String),
    /// A length is out of bounds.
    #[error("{what} {found}, more than {most}")]
    Bound {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        most: usize,
    },
    /// A value that a column may not hold.
    #[error("{0}")]
    Value(&'static str),
    /// Labels that a series may not have.
    #[error("the labels of a series are refused")]
    Labels(#[source] InvalidLabels),
}

static METER_FIELDS: LazyLock<Fields> = LazyLock::new(|| texts(&["name", "kind", "unit"]));
static SUBJECT_FIELDS: LazyLock<Fields> =
    LazyLock::new(|| texts(&["id", "kind", "project", "node", "labels"]));

fn texts(names: &[&str]) -> Fields {
    names.iter().map(|name| Field::new(*name, DataType::Utf8, false)).collect()
}

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let dictionary = |key, value| DataType::Dictionary(Box::new(key), Box::new(value));
    let meter = DataType::Struct(METER_FIELDS.clone());
    let subject = DataType::Struct(SUBJECT_FIELDS.clone());
    Fields::from(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("meter", dictionary(DataType::UInt16, meter), false),
        Field::new("resource", dictionary(DataType::UInt32, subject), false),
        Field::new("value", DataType::Float64, false),
    ])
});

/// Encodes a batch as one or more records, split where a bound of the wire asks for it.
pub fn encode(batch: &SampleBatch) -> Result<Vec<Vec<u8>>, WireError> {
    Ok(encode_parts(batch)?.into_iter().map(|(_, record)| record).collect())
}

/// [`encode`], each record with the samples that are in it.
pub fn encode_parts(batch: &SampleBatch) -> Result<Vec<(SampleBatch, Vec<u8>)>, WireError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let fits = batch.subjects.len() <= MAX_SUBJECTS && batch.meters.len() <= MAX_METERS;
    if batch.len() <= MAX_ROWS && fits {
        check_dictionaries(batch)?;
        let record = small::pack(encode_one(batch)?)?;
        if record.len() <= MAX_RECORD_BYTES {
            return Ok(vec![(batch.clone(), record)]);
        }
        if batch.len() == 1 {
            return Err(WireError::TooLong(record.len()));
        }
    }
    let half = batch.len() / 2;
    let mut parts = encode_parts(&batch.slice(0, half).compacted())?;
    parts.extend(encode_parts(&batch.slice(half, batch.len() - half).compacted())?);
    Ok(parts)
}

fn encode_one(batch: &SampleBatch) -> Result<Vec<u8>, WireError> {
    let mut metadata = HashMap::from([
        (VERSION_KEY.to_owned(), WIRE_VERSION.to_owned()),
        (SOURCE_KEY.to_owned(), batch.source.clone()),
    ]);
    if !batch.epoch.is_none() {
        metadata.insert(EPOCH_KEY.to_owned(), batch.epoch.to_string());
    }
    let schema = Arc::new(Schema::new_with_metadata(FIELDS.clone(), metadata));
    let of_texts = |fields: &Fields, texts: &[&StringArray]| {
        let texts = texts.iter().map(|text| Arc::new((*text).clone()) as ArrayRef).collect();
        StructArray::try_new(fields.clone(), texts, None).map_err(WireError::Arrow)
    };
    let subjects = of_texts(&SUBJECT_FIELDS, &batch.subjects.columns())?;
    let meters = of_texts(&METER_FIELDS, &batch.meters.columns())?;
    let meter = DictionaryArray::<UInt16Type>::try_new(
        PrimitiveArray::new(batch.meter.clone(), None),
        Arc::new(meters),
    );
    let resource = DictionaryArray::<UInt32Type>::try_new(
        PrimitiveArray::new(batch.resource.clone(), None),
        Arc::new(subjects),
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::new(batch.at.clone(), None).with_timezone("UTC")),
        Arc::new(meter.map_err(WireError::Arrow)?),
        Arc::new(resource.map_err(WireError::Arrow)?),
        Arc::new(Float64Array::new(batch.value.clone(), None)),
    ];
    let rows = RecordBatch::try_new(schema.clone(), columns).map_err(WireError::Arrow)?;
    let mut bytes = Vec::with_capacity(2_048 + batch.len() * 24);
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).map_err(WireError::Arrow)?;
    writer.write(&rows).and_then(|()| writer.finish()).map_err(WireError::Arrow)?;
    drop(writer);
    Ok(bytes)
}

/// Decodes one record. Never panics, whatever the bytes; allocates no more than a small multiple
/// of their length.
pub fn decode(bytes: &[u8]) -> Result<SampleBatch, WireError> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(WireError::TooLong(bytes.len()));
    }
    let unpacked = small::unpack(bytes)?;
    let bytes = unpacked.as_deref().unwrap_or(bytes);
    envelope::check(bytes)?;
    let mut reader = StreamReader::try_new(bytes, None).map_err(WireError::Arrow)?;
    let schema = reader.schema();
    match schema.metadata().get(VERSION_KEY) {
        Some(version) if version == WIRE_VERSION => {}
        other => return Err(WireError::Schema(format!("version {other:?}"))),
    }
    if *schema.fields() != *FIELDS {
        return Err(WireError::Schema(format!("fields {:?}", schema.fields())));
    }
    let source = schema.metadata().get(SOURCE_KEY).cloned().unwrap_or_default();
    let epoch = match schema.metadata().get(EPOCH_KEY) {
        Some(text) => Epoch::parse(text).ok_or(WireError::Value("the epoch is none"))?,
        None => Epoch::none(),
    };
    let rows = match reader.next() {
        Some(rows) => rows.map_err(WireError::Arrow)?,
        None => return Err(WireError::Envelope("no record batch")),
    };
    if reader.next().is_some() {
        return Err(WireError::Envelope("more than one record batch"));
    }
    let batch = SampleBatch { epoch, ..batch_of(source, &rows)? };
    check_dictionaries(&batch)?;
    Ok(batch)
}

fn batch_of(source: String, rows: &RecordBatch) -> Result<SampleBatch, WireError> {
    if rows.columns().iter().any(|column| column.null_count() > 0) {
        return Err(WireError::Value("a column holds nulls"));
    }
    let meter = rows.column(1).as_dictionary::<UInt16Type>();
    let resource = rows.column(2).as_dictionary::<UInt32Type>();
    let subjects = of_struct(resource.values().as_struct())?;
    let meters = of_struct(meter.values().as_struct())?;
    let [name, kind, unit] = meters;
    let meters = Meters { name, kind, unit };
    let [id, kind, project, node, labels] = subjects;
    let subjects = Subjects { id, kind, project, node, labels };
    Ok(SampleBatch {
        source,
        epoch: Epoch::none(),
        meters,
        subjects,
        at: rows.column(0).as_primitive::<TimestampMicrosecondType>().values().clone(),
        meter: meter.keys().values().clone(),
        resource: resource.keys().values().clone(),
        value: rows.column(3).as_primitive::<Float64Type>().values().clone(),
    })
}

/// The columns of a struct of texts.
fn of_struct<const N: usize>(of: &StructArray) -> Result<[StringArray; N], WireError> {
    no_nulls(of)?;
    let columns = of.columns().iter().map(|column| {
        let column = column.as_string::<i32>();
        no_nulls(column).map(|()| column.clone())
    });
    let columns: Vec<StringArray> = columns.collect::<Result<_, _>>()?;
    columns.try_into().map_err(|_| WireError::Value("a dictionary has other columns"))
}

fn no_nulls(column: &dyn Array) -> Result<(), WireError> {
    match column.null_count() {
        0 => Ok(()),
        _ => Err(WireError::Value("a dictionary holds nulls")),
    }
}

fn check_dictionaries(batch: &SampleBatch) -> Result<(), WireError> {
    let bound = |what, found: usize, most: usize| match found {
        found if found > most => Err(WireError::Bound { what, found, most }),
        _ => Ok(()),
    };
    bound("resources", batch.subjects.len(), MAX_SUBJECTS)?;
    bound("meters", batch.meters.len(), MAX_METERS)?;
    bound("bytes of source", batch.source.len(), MAX_TEXT_BYTES)?;
    let (meters, subjects) = (&batch.meters, &batch.subjects);
    let longest =
        |text: &StringArray| text.offsets().windows(2).map(|pair| pair[1] - pair[0]).max();
    for text in meters.columns().into_iter().chain(subjects.columns().into_iter().take(4)) {
        bound("bytes of text", longest(text).unwrap_or(0) as usize, MAX_TEXT_BYTES)?;
    }
    bound("bytes of labels", longest(&subjects.labels).unwrap_or(0) as usize, MAX_LABELS_BYTES)?;
    if subjects.id.iter().flatten().any(str::is_empty) {
        return Err(WireError::Value("a resource has no id"));
    }
    for text in subjects.labels.iter().flatten().filter(|text| !text.is_empty()) {
        Labels::parse(text).map_err(WireError::Labels)?;
    }
    check_meters(meters)
}

fn check_meters(meters: &Meters) -> Result<(), WireError> {
    let mut names = HashSet::with_capacity(meters.len());
    if !meters.name.iter().flatten().all(|name| names.insert(name)) {
        return Err(WireError::Value("a meter is named twice"));
    }
    let stated = |of: &StringArray, is_good: fn(&str) -> bool| {
        of.iter().flatten().all(|text| text.is_empty() || is_good(text))
    };
    if !stated(&meters.kind, |kind| MeterKind::sampled(kind).is_some()) {
        return Err(WireError::Value("a kind of meter is not counter, gauge or delta"));
    }
    if !stated(&meters.unit, |unit| unit.parse::<Unit>().is_ok()) {
        return Err(WireError::Value("a unit is not 1 to 32 bytes without spaces"));
    }
    Ok(())
}
