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
    DictionaryBatch, Field, Message, MessageHeader, RecordBatch, Schema, Type, root_as_message,
};

use super::{MAX_ROWS, MAX_SUBJECTS, WireError};

const CONTINUATION: [u8; 4] = [0xff; 4];

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
                check_batch(batch, body, MAX_ROWS, 4)?;
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
    let meter = dictionary_id(fields.get(1), Type::Utf8)?;
    let resource = dictionary_id(fields.get(2), Type::Struct_)?;
    let texts = fields.get(2).children().ok_or(wrong("resource has no children"))?;
    let nested = |field: Field<'_>| {
        field.type_type() != Type::Utf8
            || field.dictionary().is_some()
            || field.children().is_some_and(|children| !children.is_empty())
    };
    if texts.len() != 4 || texts.iter().any(nested) {
        return Err(wrong("resource is not four texts"));
    }
    if meter == resource {
        return Err(wrong("one dictionary for two fields"));
    }
    Ok([meter, resource])
}

fn dictionary_id(field: Field<'_>, kind: Type) -> Result<i64, WireError> {
    let dictionary = field.dictionary().ok_or(wrong("no dictionary"))?;
    let index = dictionary.indexType().ok_or(wrong("no index type"))?;
    if field.type_type() != kind || index.is_signed() || !matches!(index.bitWidth(), 16 | 32) {
        return Err(wrong("a dictionary field has another type"));
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
    let nodes = if batch.id() == ids[0] { 1 } else { 5 };
    check_batch(rows, body, MAX_SUBJECTS, nodes)
}

fn check_batch(
    batch: RecordBatch<'_>,
    body: &[u8],
    most: usize,
    node_count: usize,
) -> Result<(), WireError> {
    if batch.compression().is_some() {
        return Err(wrong("compressed buffers"));
    }
    let nodes = batch.nodes().ok_or(wrong("no field nodes"))?;
    let length = usize::try_from(batch.length()).map_err(|_| wrong("negative length"))?;
    if length > most {
        return Err(WireError::Bound { what: "rows", found: length, most });
    }
    let uneven = |node: &arrow::ipc::FieldNode| {
        node.length() != length as i64 || node.null_count() != 0
    };
    if nodes.len() != node_count || nodes.iter().any(uneven) {
        return Err(wrong("uneven columns, or nulls"));
    }
    let buffers = batch.buffers().ok_or(wrong("no buffers"))?;
    for buffer in buffers.iter() {
        let from = usize::try_from(buffer.offset()).map_err(|_| wrong("negative offset"))?;
        let size = usize::try_from(buffer.length()).map_err(|_| wrong("negative size"))?;
        if from.checked_add(size).is_none_or(|upto| upto > body.len()) {
            return Err(wrong("buffer outside its body"));
        }
    }
    Ok(())
}
