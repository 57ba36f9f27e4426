//! Checks the frame of an Arrow IPC stream before Arrow reads it.
//!
//! Arrow's reader trusts some lengths and types of a message, and may panic or allocate without
//! bound on bytes made to hurt. Our streams have one shape, so it is checked here in full:
//!
//! ```text
//! schema │ dictionary │ dictionary │ record batch │ end
//! ```
//!
//! each message with a verified flatbuffer, the fields' types, every buffer inside its body, no
//! compression, no nulls, no deltas, and bounded lengths.

use arrow::ipc::{
    DictionaryBatch, Endianness, Field, Message, MessageHeader, MetadataVersion, Precision,
    RecordBatch, Schema, TimeUnit, Type, root_as_message,
};

use super::{MAX_METERS, MAX_ROWS, MAX_SUBJECTS, WireError};

const CONTINUATION: [u8; 4] = [0xff; 4];
const ALIGNMENT: usize = 8;

/// Columns of one kind of batch, and the element width in bytes of each of its buffers.
struct Layout {
    columns: usize,
    most_rows: usize,
    widths: &'static [usize],
}

const ROWS: Layout = Layout { columns: 4, most_rows: MAX_ROWS, widths: &[1, 8, 1, 2, 1, 4, 1, 8] };
const METERS: Layout =
    Layout { columns: 4, most_rows: MAX_METERS, widths: &[1, 1, 4, 1, 1, 4, 1, 1, 4, 1] };
const SUBJECTS: Layout = Layout {
    columns: 6,
    most_rows: MAX_SUBJECTS,
    widths: &[1, 1, 4, 1, 1, 4, 1, 1, 4, 1, 1, 4, 1, 1, 4, 1],
};

/// Checks all messages of a stream.
pub(super) fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut rest = bytes;
    let (message, _, after) = next_message(rest)?.ok_or(wrong("no schema"))?;
    let schema = message.header_as_schema().ok_or(wrong("first message is no schema"))?;
    let ids = check_schema(schema)?;
    rest = after;
    let mut seen = Vec::new();
    loop {
        let (message, body, after) = next_message(rest)?.ok_or(wrong("no record batch"))?;
        rest = after;
        match message.header_type() {
            MessageHeader::DictionaryBatch => {
                let batch = message.header_as_dictionary_batch();
                let batch = batch.ok_or(wrong("no dictionary"))?;
                check_dictionary(batch, body, ids, &mut seen)?;
            }
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or(wrong("no rows"))?;
                if seen.len() != 2 {
                    return Err(wrong("rows before both dictionaries"));
                }
                check_batch(batch, body, &ROWS)?;
                break;
            }
            _ => return Err(wrong("unexpected kind of message")),
        }
    }
    match next_message(rest)? {
        None => Ok(()),
        Some(_) => Err(wrong("messages after the rows")),
    }
}

fn wrong(what: &'static str) -> WireError {
    WireError::Envelope(what)
}

type Parts<'a> = (Message<'a>, &'a [u8], &'a [u8]);

/// The next message, its body and what follows; `None` at the end of the stream.
fn next_message(bytes: &[u8]) -> Result<Option<Parts<'_>>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mark, rest) = bytes.split_first_chunk::<4>().ok_or(wrong("cut short"))?;
    let (length, rest) = match *mark == CONTINUATION {
        true => rest.split_first_chunk::<4>().ok_or(wrong("cut short"))?,
        false => return Err(wrong("no continuation marker")),
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 {
        return match rest.is_empty() {
            true => Ok(None),
            false => Err(wrong("bytes after the end")),
        };
    }
    let metadata = rest.get(..length).ok_or(wrong("cut short"))?;
    let message = root_as_message(metadata).map_err(|_| wrong("invalid flatbuffer"))?;
    if message.version() != MetadataVersion::V5 {
        return Err(wrong("another metadata version"));
    }
    let body = usize::try_from(message.bodyLength()).map_err(|_| wrong("negative body"))?;
    let upto = length.checked_add(body).ok_or(wrong("body too long"))?;
    let body = rest.get(length..upto).ok_or(wrong("cut short"))?;
    Ok(Some((message, body, &rest[upto..])))
}

fn check_schema(schema: Schema<'_>) -> Result<[i64; 2], WireError> {
    let fields = schema.fields().ok_or(wrong("no fields"))?;
    if fields.len() != 4 {
        return Err(wrong("not four fields"));
    }
    let own_metadata = |field: Field<'_>| field.custom_metadata().is_some_and(|m| !m.is_empty());
    if fields.iter().any(|field| field.name().is_none() || own_metadata(field)) {
        return Err(wrong("a field without a name, or with metadata"));
    }
    let plain = |at: usize, kind: Type| {
        let field = fields.get(at);
        let children = field.children().is_none_or(|children| children.is_empty());
        match field.type_type() == kind && field.dictionary().is_none() && children {
            true => Ok(()),
            false => Err(wrong("a plain field has another type")),
        }
    };
    plain(0, Type::Timestamp)?;
    plain(3, Type::FloatingPoint)?;
    let at = fields.get(0).type_as_timestamp().ok_or(wrong("no timestamp"))?;
    let value = fields.get(3).type_as_floating_point().ok_or(wrong("no float"))?;
    if at.unit() != TimeUnit::MICROSECOND || value.precision() != Precision::DOUBLE {
        return Err(wrong("another unit of time, or another float"));
    }
    let meter = dictionary_id(fields.get(1), 16, METERS.columns - 1)?;
    let resource = dictionary_id(fields.get(2), 32, SUBJECTS.columns - 1)?;
    if meter == resource {
        return Err(wrong("one dictionary for two fields"));
    }
    let metadata = schema.custom_metadata();
    let pairs =
        metadata.iter().flatten().all(|pair| pair.key().is_some() && pair.value().is_some());
    if !pairs || schema.endianness() != Endianness::Little {
        return Err(wrong("metadata without a key or value, or big-endian"));
    }
    Ok([meter, resource])
}

/// The dictionary of a field whose values are structs of so many texts.
fn dictionary_id(field: Field<'_>, bits: i32, count: usize) -> Result<i64, WireError> {
    let dictionary = field.dictionary().ok_or(wrong("no dictionary"))?;
    let index = dictionary.indexType().ok_or(wrong("no index type"))?;
    if field.type_type() != Type::Struct_ || index.is_signed() || index.bitWidth() != bits {
        return Err(wrong("a dictionary field has another type"));
    }
    let texts = field.children().ok_or(wrong("a dictionary has no children"))?;
    let nested = |field: Field<'_>| {
        field.type_type() != Type::Utf8
            || field.name().is_none()
            || field.dictionary().is_some()
            || field.children().is_some_and(|children| !children.is_empty())
    };
    if texts.len() != count || texts.iter().any(nested) {
        return Err(wrong("a dictionary has other texts"));
    }
    Ok(dictionary.id())
}

fn check_dictionary(
    batch: DictionaryBatch<'_>,
    body: &[u8],
    ids: [i64; 2],
    seen: &mut Vec<i64>,
) -> Result<(), WireError> {
    if batch.isDelta() || !ids.contains(&batch.id()) || seen.contains(&batch.id()) {
        return Err(wrong("unexpected dictionary"));
    }
    seen.push(batch.id());
    let rows = batch.data().ok_or(wrong("dictionary without data"))?;
    check_batch(rows, body, if batch.id() == ids[0] { &METERS } else { &SUBJECTS })
}

fn check_batch(batch: RecordBatch<'_>, body: &[u8], layout: &Layout) -> Result<(), WireError> {
    if batch.compression().is_some() {
        return Err(wrong("compressed buffers"));
    }
    let nodes = batch.nodes().ok_or(wrong("no field nodes"))?;
    let length = usize::try_from(batch.length()).map_err(|_| wrong("negative length"))?;
    if length > layout.most_rows {
        return Err(WireError::Bound { what: "rows", found: length, most: layout.most_rows });
    }
    let uneven =
        |node: &arrow::ipc::FieldNode| node.length() != length as i64 || node.null_count() != 0;
    if nodes.len() != layout.columns || nodes.iter().any(uneven) {
        return Err(wrong("uneven columns, or nulls"));
    }
    let buffers = batch.buffers().ok_or(wrong("no buffers"))?;
    if buffers.len() != layout.widths.len() {
        return Err(wrong("another number of buffers"));
    }
    for (buffer, width) in buffers.iter().zip(layout.widths) {
        let from = usize::try_from(buffer.offset()).map_err(|_| wrong("negative offset"))?;
        let size = usize::try_from(buffer.length()).map_err(|_| wrong("negative size"))?;
        if from.checked_add(size).is_none_or(|upto| upto > body.len()) {
            return Err(wrong("buffer outside its body"));
        }
        if from % ALIGNMENT != 0 || size % width != 0 {
            return Err(wrong("buffer out of alignment"));
        }
    }
    Ok(())
}
