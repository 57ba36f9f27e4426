//! The wire form of samples: one Arrow IPC stream of one record batch per log record.
//!
//! Version 2, in schema metadata `nilometer.version`; a reader refuses versions it does not know.
//! The metadata also has the source (`nilometer.source`) and, where there is one, the epoch
//! (`nilometer.epoch`: sequence, start in microseconds and instance, with a `/` between).
//!
//! ```text
//! at        timestamp(µs, UTC)
//! meter     dictionary<u16, utf8>
//! resource  dictionary<u32, struct<id: utf8, kind: utf8, project: utf8, node: utf8>>
//! value     float64
//! ```
//!
//! Any Arrow implementation reads it. What a resource is said once per record, not per sample;
//! a batch that is split says in each record only what occurs in it.
//!
//! Of a small record nearly all is schema and padding, so one below [`SMALL_BYTES`] is one zstd
//! frame of the stream (its first bytes tell them apart), with the `wire.zdict` of this crate as
//! the frame's dictionary.
//!
//! Bytes come from outside: `envelope` checks every length before Arrow sees them.

use std::collections::HashMap;
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
use crate::resource::MAX_TEXT_BYTES;
use crate::sample::{SampleBatch, Subjects};

mod envelope;
mod small;
#[cfg(test)]
mod tests;

pub use small::SMALL_BYTES;

/// Version of the wire form that this crate writes.
pub const WIRE_VERSION: &str = "2";
/// Longest record: fits a Kafka broker with default limits.
pub const MAX_RECORD_BYTES: usize = 1_000_000;
/// Most samples in one record.
pub const MAX_ROWS: usize = 32_768;
/// Most resources, or meters, named in one record.
pub const MAX_SUBJECTS: usize = 16_384;

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
}

static SUBJECT_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    ["id", "kind", "project", "node"]
        .into_iter()
        .map(|name| Field::new(name, DataType::Utf8, false))
        .collect()
});

static FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    let dictionary = |key, value| DataType::Dictionary(Box::new(key), Box::new(value));
    let subject = DataType::Struct(SUBJECT_FIELDS.clone());
    Fields::from(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("meter", dictionary(DataType::UInt16, DataType::Utf8), false),
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
    if batch.len() <= MAX_ROWS && batch.subjects.len() <= MAX_SUBJECTS {
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
    let subjects = &batch.subjects;
    let texts = [&subjects.id, &subjects.kind, &subjects.project, &subjects.node];
    let texts: Vec<ArrayRef> = texts.map(|text| Arc::new(text.clone()) as ArrayRef).to_vec();
    let subjects =
        StructArray::try_new(SUBJECT_FIELDS.clone(), texts, None).map_err(WireError::Arrow)?;
    let meter = DictionaryArray::<UInt16Type>::try_new(
        PrimitiveArray::new(batch.meter.clone(), None),
        Arc::new(batch.meters.clone()),
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
    let subjects = resource.values().as_struct();
    let text = |at: usize| -> Result<StringArray, WireError> {
        let column = subjects.column(at).as_string::<i32>();
        no_nulls(column).map(|()| column.clone())
    };
    no_nulls(subjects)?;
    no_nulls(meter.values())?;
    Ok(SampleBatch {
        source,
        epoch: Epoch::none(),
        meters: meter.values().as_string::<i32>().clone(),
        subjects: Subjects { id: text(0)?, kind: text(1)?, project: text(2)?, node: text(3)? },
        at: rows.column(0).as_primitive::<TimestampMicrosecondType>().values().clone(),
        meter: meter.keys().values().clone(),
        resource: resource.keys().values().clone(),
        value: rows.column(3).as_primitive::<Float64Type>().values().clone(),
    })
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
    bound("meters", batch.meters.len(), MAX_SUBJECTS)?;
    bound("bytes of source", batch.source.len(), MAX_TEXT_BYTES)?;
    let subjects = &batch.subjects;
    let texts = [&batch.meters, &subjects.id, &subjects.kind, &subjects.project, &subjects.node];
    for text in texts {
        let longest = text.offsets().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        bound("bytes of text", longest as usize, MAX_TEXT_BYTES)?;
    }
    if subjects.id.iter().flatten().any(str::is_empty) {
        return Err(WireError::Value("a resource has no id"));
    }
    Ok(())
}
