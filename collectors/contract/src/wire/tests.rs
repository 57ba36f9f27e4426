//! Records made to hurt: each breaks one rule of the wire form and is refused for that rule.
//!
//! Most are written by Arrow itself from a schema or batch that is not ours, or are messages of a good
//! stream in another order. Numbers inside a message are changed in place.

use arrow::array::{Int32Array, UInt16Array};
use arrow::datatypes::{Int16Type, Schema};
use arrow::ipc::writer::{DictionaryHandling, IpcWriteOptions};
use arrow::ipc::{DictionaryEncoding, Message, root_as_message};

use super::*;
use crate::{BatchBuilder, Resource, ResourceKind, Timestamp};

mod bounds;

/// A batch of `count` samples of as many resources.
fn batch(count: usize) -> SampleBatch {
    let mut builder = BatchBuilder::new("test");
    for n in 0..count {
        let subject = builder.subject(&Resource::new(format!("r{n}"), ResourceKind::VM));
        builder.push_named(subject, "cpu.time", Timestamp::from_seconds(1_795_000_000), 1.0);
    }
    builder.build()
}

fn good() -> Vec<u8> {
    encode_one(&batch(3)).unwrap()
}

/// The rows of a good stream, as Arrow reads them.
fn rows() -> RecordBatch {
    StreamReader::try_new(&good()[..], None).unwrap().next().unwrap().unwrap()
}

/// A stream of any columns, with the metadata of ours.
fn stream(fields: Vec<Field>, columns: Vec<ArrayRef>) -> Vec<u8> {
    let metadata = rows().schema().metadata().clone();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
    writer.write(&rows).unwrap();
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// A stream whose column `at` is another one.
fn with_column(at: usize, column: ArrayRef) -> Vec<u8> {
    let rows = rows();
    let mut fields: Vec<Field> =
        rows.schema().fields().iter().map(|field| Field::clone(field)).collect();
    let mut columns = rows.columns().to_vec();
    fields[at] = Field::new(fields[at].name(), column.data_type().clone(), false);
    columns[at] = column;
    stream(fields, columns)
}

fn refusal(bytes: &[u8]) -> String {
    match decode(bytes) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn check(name: &str, bytes: &[u8], expected: &str) {
    let found = refusal(bytes);
    assert!(found.contains(expected), "{name}: {found}");
}

/// The messages of a stream, without its end; each with its length before it.
fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    loop {
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if length == 0 {
            return found;
        }
        let body = root_as_message(&rest[8..8 + length]).unwrap().bodyLength() as usize;
        found.push(rest[..8 + length + body].to_vec());
        rest = &rest[8 + length + body..];
    }
}

const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    [&parts.concat()[..], &END].concat()
}

/// A good stream in which `bytes` are written into message `n` where `at` says.
fn patched(n: usize, at: impl Fn(&Message<'_>, &[u8]) -> usize, bytes: &[u8]) -> Vec<u8> {
    let mut parts = messages(&good());
    let length = u32::from_le_bytes(parts[n][4..8].try_into().unwrap()) as usize;
    let place = {
        let metadata = &parts[n][8..8 + length];
        8 + at(&root_as_message(metadata).unwrap(), metadata)
    };
    parts[n][place..place + bytes.len()].copy_from_slice(bytes);
    joined(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn offset_of<T>(item: &T, within: &[u8]) -> usize {
    std::ptr::from_ref(item).addr() - within.as_ptr().addr()
}

fn in_message(field: u16) -> impl Fn(&Message<'_>, &[u8]) -> usize {
    move |message, _| message._tab.loc() + usize::from(message._tab.vtable().get(field))
}

fn in_rows(field: u16) -> impl Fn(&Message<'_>, &[u8]) -> usize {
    move |message, _| {
        let table = message.header_as_record_batch().unwrap()._tab;
        table.loc() + usize::from(table.vtable().get(field))
    }
}

/// Where the length (0) or the number of nulls (8) of a column is written.
fn in_node(index: usize, part: usize) -> impl Fn(&Message<'_>, &[u8]) -> usize {
    move |message, metadata| {
        let nodes = message.header_as_record_batch().unwrap().nodes().unwrap();
        offset_of(nodes.get(index), metadata) + part
    }
}

/// Where the offset (0) or the length (8) of a buffer is written.
fn in_buffer(index: usize, part: usize) -> impl Fn(&Message<'_>, &[u8]) -> usize {
    move |message, metadata| {
        let buffers = message.header_as_record_batch().unwrap().buffers().unwrap();
        offset_of(buffers.get(index), metadata) + part
    }
}

#[test]
fn the_streams_that_are_changed_here_are_good_before() {
    let three = batch(3);
    assert_eq!(decode(&good()).unwrap(), three);
    let parts = messages(&good());
    assert_eq!(parts.len(), 4, "schema, two dictionaries, rows");
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    assert_eq!(decode(&joined(&parts)).unwrap(), three);
    assert_eq!(decode(&parts.concat()).unwrap(), three, "the end may be left out");
    let swapped = joined(&[parts[0], parts[2], parts[1], parts[3]]);
    assert_eq!(decode(&swapped).unwrap(), three, "dictionaries come in any order");
    let rows = rows();
    let fields = rows.schema().fields().iter().map(|field| Field::clone(field)).collect();
    assert_eq!(decode(&stream(fields, rows.columns().to_vec())).unwrap(), three);
}

#[test]
fn messages_out_of_order_are_refused() {
    let parts = messages(&good());
    let [schema, meters, resources, rows] = parts.each_ref_of_four();
    let cases: [(&str, &[&[u8]], &str); 9] = [
        ("nothing", &[], "no schema"),
        ("rows first", &[rows, schema], "first message is no schema"),
        ("no rows", &[schema, meters, resources], "no record batch"),
        ("no dictionary", &[schema, rows], "rows before both dictionaries"),
        ("one dictionary", &[schema, meters, rows], "rows before both dictionaries"),
        ("a dictionary twice", &[schema, meters, meters, rows], "unexpected dictionary"),
        ("two schemas", &[schema, schema, meters, resources, rows], "unexpected kind"),
        ("rows twice", &[schema, meters, resources, rows, rows], "messages after the rows"),
        ("more dictionaries", &[schema, meters, resources, rows, meters], "messages after"),
    ];
    for (name, parts, expected) in cases {
        check(name, &joined(parts), expected);
    }
    check("bytes after the end", &[good(), vec![0]].concat(), "bytes after the end");
    let mut unmarked = good();
    unmarked[0] = 0;
    check("no marker", &unmarked, "no continuation marker");
}

trait EachOfFour {
    fn each_ref_of_four(&self) -> [&[u8]; 4];
}

impl EachOfFour for Vec<Vec<u8>> {
    fn each_ref_of_four(&self) -> [&[u8]; 4] {
        [&self[0], &self[1], &self[2], &self[3]]
    }
}

#[test]
fn dictionaries_that_grow_are_refused() {
    let rows = rows();
    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let mut bytes = Vec::new();
    let mut writer =
        StreamWriter::try_new_with_options(&mut bytes, &rows.schema(), options).unwrap();
    let column = |meters: Vec<&str>, keys: Vec<u16>| -> ArrayRef {
        let texts = |texts: Vec<&str>| Arc::new(StringArray::from(texts)) as ArrayRef;
        let stated = vec![""; meters.len()];
        let columns = vec![texts(meters), texts(stated.clone()), texts(stated)];
        let values = Arc::new(StructArray::new(METER_FIELDS.clone(), columns, None));
        Arc::new(DictionaryArray::<UInt16Type>::new(UInt16Array::from(keys), values))
    };
    for meter in [column(vec!["a"], vec![0, 0, 0]), column(vec!["a", "b"], vec![0, 1, 1])] {
        let mut columns = rows.columns().to_vec();
        columns[1] = meter;
        writer.write(&RecordBatch::try_new(rows.schema(), columns).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    let parts = messages(&bytes);
    assert!(parts.len() >= 6, "a delta and rows follow");
    let delta = parts[4..].iter().find(|part| {
        let message = root_as_message(&part[8..]);
        let batch = message.as_ref().ok().and_then(|message| message.header_as_dictionary_batch());
        batch.is_some_and(|batch| batch.isDelta())
    });
    let delta = delta.expect("a dictionary that grows");
    check("delta", &joined(&[&parts[0], delta, &parts[2], &parts[3]]), "unexpected dictionary");
}

#[test]
fn other_columns_are_refused() {
    let rows = rows();
    let fields: Vec<Field> =
        rows.schema().fields().iter().map(|field| Field::clone(field)).collect();
    let three = stream(fields[..3].to_vec(), rows.columns()[..3].to_vec());
    check("three columns", &three, "not four fields");
    let mut named = fields.clone();
    named[0] = named[0].clone().with_metadata(HashMap::from([("a".to_owned(), "b".to_owned())]));
    check("field metadata", &stream(named, rows.columns().to_vec()), "or with metadata");
    let mut renamed = fields;
    renamed[0] = renamed[0].clone().with_name("when");
    check("another name", &stream(renamed, rows.columns().to_vec()), "unexpected schema: fields");

    let texts = || StringArray::from(vec!["a", "b", "c"]);
    let texts_alone = || Arc::new(StringArray::from(vec!["cpu.time"])) as ArrayRef;
    let meters = || rows.column(1).as_dictionary::<UInt16Type>().values().clone();
    let of = |column: ArrayRef| column;
    let plain = "a plain field has another type";
    let dictionary = "a dictionary field has another type";
    let millis = arrow::array::TimestampMillisecondArray::from(vec![1, 2, 3]).with_timezone("UTC");
    let floats = arrow::array::Float32Array::from(vec![1.0, 2.0, 3.0]);
    let signed = DictionaryArray::<Int16Type>::new(vec![0, 0, 0].into(), meters());
    let wide = DictionaryArray::<UInt32Type>::new(vec![0, 0, 0].into(), meters());
    let large = arrow::array::LargeStringArray::from(vec!["cpu.time"]);
    let large = DictionaryArray::<UInt16Type>::new(vec![0, 0, 0].into(), Arc::new(large));
    let subjects = rows.column(2).as_dictionary::<UInt32Type>().values().clone();
    let narrow = DictionaryArray::<UInt16Type>::new(vec![0, 1, 2].into(), subjects);
    let untold = DictionaryArray::<UInt32Type>::new(vec![0, 0, 0].into(), texts_alone());
    let unnamed = DictionaryArray::<UInt16Type>::new(vec![0, 0, 0].into(), texts_alone());
    let keyed = DictionaryArray::<UInt16Type>::new(
        vec![0, 0, 0].into(),
        Arc::new(Float64Array::from(vec![1.0])),
    );
    for (name, at, column, expected) in [
        ("text for a time", 0, of(Arc::new(texts())), plain),
        ("text for a value", 3, of(Arc::new(texts())), plain),
        ("a dictionary of values", 3, of(Arc::new(keyed)), plain),
        ("milliseconds", 0, of(Arc::new(millis)), "another unit of time"),
        ("single precision", 3, of(Arc::new(floats)), "another float"),
        ("meters without a dictionary", 1, of(Arc::new(texts())), "no dictionary"),
        ("signed keys", 1, of(Arc::new(signed)), dictionary),
        ("wide keys of meters", 1, of(Arc::new(wide)), dictionary),
        ("large texts", 1, of(Arc::new(large)), dictionary),
        ("narrow keys of resources", 2, of(Arc::new(narrow)), dictionary),
        ("resources that are texts", 2, of(Arc::new(untold)), dictionary),
        ("meters that are texts", 1, of(Arc::new(unnamed)), dictionary),
    ] {
        check(name, &with_column(at, column), expected);
    }
}

#[test]
fn resources_of_another_shape_are_refused() {
    let subject = |columns: Vec<ArrayRef>| {
        let fields: Fields = columns
            .iter()
            .enumerate()
            .map(|(n, column)| Field::new(format!("f{n}"), column.data_type().clone(), false))
            .collect();
        let values = Arc::new(StructArray::new(fields, columns, None));
        let keys = arrow::array::UInt32Array::from(vec![0, 0, 0]);
        with_column(2, Arc::new(DictionaryArray::<UInt32Type>::new(keys, values)))
    };
    let text = || Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
    let number = Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    let nested = DictionaryArray::<UInt16Type>::new(vec![0].into(), text());
    let expected = "a dictionary has other texts";
    check("three", &subject(vec![text(), text(), text()]), expected);
    let more = |column: ArrayRef| vec![text(), text(), text(), text(), column];
    check("six", &subject([more(text()), vec![text()]].concat()), expected);
    check("a number", &subject(more(number)), expected);
    check("nested", &subject(more(Arc::new(nested))), expected);
    let names = subject(more(text()));
    check("other names", &names, "unexpected schema: fields");
}

#[test]
fn nulls_are_refused() {
    let nulls = || Arc::new(StringArray::from(vec![Some("cpu.time"), None])) as ArrayRef;
    let names = ["name", "kind", "unit"];
    let fields: Fields =
        names.into_iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
    let nulls = StructArray::new(fields, vec![nulls(), nulls(), nulls()], None);
    let meters = DictionaryArray::<UInt16Type>::new(vec![0, 0, 0].into(), Arc::new(nulls));
    check("in a dictionary", &with_column(1, Arc::new(meters)), "or nulls");
    check("counted", &patched(3, in_node(0, 8), &1_i64.to_le_bytes()), "or nulls");
}

#[test]
fn lengths_that_lie_are_refused() {
    let number = i64::to_le_bytes;
    check("version", &patched(3, in_message(Message::VT_VERSION), &[3, 0]), "metadata version");
    let id = |message: &Message<'_>, _: &[u8]| {
        let fields = message.header_as_schema().unwrap().fields().unwrap();
        let table = fields.get(2).dictionary().unwrap()._tab;
        table.loc() + usize::from(table.vtable().get(DictionaryEncoding::VT_ID))
    };
    check("one id", &patched(0, id, &number(0)), "one dictionary for two fields");
    check("another id", &patched(0, id, &number(7)), "unexpected dictionary");
    let body = in_message(Message::VT_BODYLENGTH);
    check("negative body", &patched(3, &body, &number(-8)), "negative body");
    check("long body", &patched(3, &body, &number(1 << 40)), "cut short");
    let length = in_rows(arrow::ipc::RecordBatch::VT_LENGTH);
    check("negative length", &patched(3, &length, &number(-1)), "negative length");
    let most = MAX_ROWS as i64;
    check("many rows", &patched(3, &length, &number(most + 1)), "rows 32769, more than 32768");
    check("not so many", &patched(3, &length, &number(most)), "uneven columns");
    for column in 0..4 {
        let uneven = patched(3, in_node(column, 0), &number(4));
        check("uneven", &uneven, "uneven columns");
    }
    for buffer in 0..8 {
        let check = |name, part, value, expected| {
            check(name, &patched(3, in_buffer(buffer, part), &number(value)), expected);
        };
        check("negative offset", 0, -8, "negative offset");
        check("negative size", 8, -8, "negative size");
        check("outside", 8, 1 << 20, "buffer outside its body");
        check("far outside", 0, i64::MAX - 7, "buffer outside its body");
        check("out of alignment", 0, 4, "buffer out of alignment");
    }
    for (buffer, size) in [(1, 12), (3, 3), (5, 6), (7, 4)] {
        let odd = patched(3, in_buffer(buffer, 8), &number(size));
        check("half an element", &odd, "buffer out of alignment");
    }
}

#[test]
fn a_buffer_may_end_where_its_body_does() {
    let parts = messages(&good());
    let length = u32::from_le_bytes(parts[3][4..8].try_into().unwrap()) as usize;
    let message = root_as_message(&parts[3][8..8 + length]).unwrap();
    let last = message.header_as_record_batch().unwrap().buffers().unwrap().get(7).offset();
    let left = message.bodyLength() - last;
    let upto = patched(3, in_buffer(7, 8), &left.to_le_bytes());
    assert_eq!(decode(&upto).unwrap(), batch(3));
    let beyond = patched(3, in_buffer(7, 8), &(left + 8).to_le_bytes());
    check("beyond", &beyond, "buffer outside its body");
}
