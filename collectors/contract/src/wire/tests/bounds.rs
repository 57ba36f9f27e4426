//! How much a record may hold, and what its metadata must say.

use super::*;

fn meters(name: StringArray) -> Meters {
    let stated = StringArray::from(vec![""; name.len()]);
    Meters { name, kind: stated.clone(), unit: stated }
}

/// So many meters of different names.
fn distinct(count: usize) -> Meters {
    meters(StringArray::from_iter_values((0..count).map(|n| n.to_string())))
}

/// Written without the checks of [`encode`].
fn unchecked(change: impl FnOnce(&mut SampleBatch)) -> Vec<u8> {
    let mut batch = batch(1);
    change(&mut batch);
    encode_one(&batch).unwrap()
}

#[test]
fn dictionaries_and_texts_hold_no_more_than_their_bounds() {
    let texts = |count: usize, text: &str| StringArray::from(vec![text; count]);
    let subjects = |count: usize, text: &str| {
        let (text, labels) = (texts(count, text), texts(count, ""));
        let (id, kind, project) = (text.clone(), text.clone(), text.clone());
        Subjects { id, kind, project, node: text, labels }
    };
    let most = MAX_SUBJECTS;
    let long = "x".repeat(MAX_TEXT_BYTES);
    let longer = "x".repeat(MAX_TEXT_BYTES + 1);
    let accepted: [Vec<u8>; 5] = [
        unchecked(|batch| batch.subjects = subjects(most, "a")),
        unchecked(|batch| batch.meters = distinct(MAX_METERS)),
        unchecked(|batch| batch.source = long.clone()),
        unchecked(|batch| batch.subjects = subjects(1, &long)),
        unchecked(|batch| batch.meters = meters(texts(1, &long))),
    ];
    for bytes in accepted {
        assert_eq!(refusal(&bytes), "accepted");
    }
    let text = format!("bytes of text {}, more than {MAX_TEXT_BYTES}", longer.len());
    let source = format!("bytes of source {}, more than {MAX_TEXT_BYTES}", longer.len());
    let one_long = |column: usize| {
        unchecked(|batch| {
            let long = texts(1, &longer);
            let of = &mut batch.subjects;
            *[&mut of.id, &mut of.kind, &mut of.project, &mut of.node][column] = long;
        })
    };
    for column in 0..4 {
        check("a long text", &one_long(column), &text);
    }
    check("a long meter", &unchecked(|batch| batch.meters = meters(texts(1, &longer))), &text);
    check("a long source", &unchecked(|batch| batch.source = longer.clone()), &source);
    let beyond = "rows 16385, more than 16384";
    let many = unchecked(|batch| batch.meters = distinct(MAX_METERS + 1));
    check("meters", &many, "rows 4097, more than 4096");
    check("resources", &unchecked(|batch| batch.subjects = subjects(most + 1, "a")), beyond);
    let nameless = unchecked(|batch| batch.subjects.id = texts(1, ""));
    check("no id", &nameless, "a resource has no id");
}

#[test]
fn meters_and_labels_say_nothing_that_is_not_theirs() {
    let stated = |kind: &str, unit: &str| {
        unchecked(|batch| {
            batch.meters.kind = StringArray::from(vec![kind]);
            batch.meters.unit = StringArray::from(vec![unit]);
        })
    };
    for kind in ["", "counter", "gauge", "delta"] {
        assert_eq!(refusal(&stated(kind, "")), "accepted", "{kind}");
    }
    check("not sampled", &stated("allocation", ""), "a kind of meter is not");
    check("no kind", &stated("level", "bytes"), "a kind of meter is not");
    assert_eq!(refusal(&stated("gauge", "widgets")), "accepted");
    check("a unit with a space", &stated("", "a b"), "a unit is not");
    check("a long unit", &stated("", &"x".repeat(33)), "a unit is not");
    assert_eq!(refusal(&stated("", &"x".repeat(32))), "accepted");
    let twice = unchecked(|batch| batch.meters = meters(StringArray::from(vec!["a", "a"])));
    check("named twice", &twice, "a meter is named twice");
    let labels =
        |text: &str| unchecked(|batch| batch.subjects.labels = StringArray::from(vec![text]));
    check("no labels", &labels("tier"), "labels of a series are refused");
    let long = labels(&"x".repeat(MAX_LABELS_BYTES + 1));
    let expected =
        format!("bytes of labels {}, more than {MAX_LABELS_BYTES}", MAX_LABELS_BYTES + 1);
    check("long labels", &long, &expected);
    check("as long as may be", &labels(&"x".repeat(MAX_LABELS_BYTES)), "labels of a series");
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is() {
    let mut long = batch(1);
    long.source = "x".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(encode(&long), Err(WireError::Bound { what: "bytes of source", .. })));
    let mut many = batch(1);
    many.meters = distinct(MAX_METERS);
    assert_eq!(encode(&many).unwrap().len(), 1);
    many.meters = meters(StringArray::from(vec!["a", "a"]));
    assert!(matches!(encode(&many), Err(WireError::Value("a meter is named twice"))));
    assert_eq!(encode(&batch(0)).unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_record_is_split_at_its_bounds() {
    let rows = |count: usize| {
        let mut builder = BatchBuilder::new("test");
        let subject = builder.subject(&Resource::new("r", ResourceKind::VM));
        for n in 0..count {
            builder.push_named(subject, "cpu.time", Timestamp(n as i64), 1.0);
        }
        encode_parts(&builder.build()).unwrap().iter().map(|(part, _)| part.len()).collect()
    };
    let lengths: Vec<usize> = rows(MAX_ROWS);
    assert_eq!(lengths, [MAX_ROWS]);
    let lengths: Vec<usize> = rows(MAX_ROWS + 1);
    assert_eq!(lengths, [MAX_ROWS / 2, MAX_ROWS / 2 + 1]);
    let resources = |count| encode(&batch(count)).unwrap().len();
    assert_eq!((resources(MAX_SUBJECTS), resources(MAX_SUBJECTS + 1)), (1, 2));
}

#[test]
fn the_length_of_a_record_is_bounded() {
    check("as long as may be", &vec![0; MAX_RECORD_BYTES], "no continuation marker");
    let expected = format!("record has {} bytes", MAX_RECORD_BYTES + 1);
    check("longer", &vec![0; MAX_RECORD_BYTES + 1], &expected);
}

#[test]
fn metadata_names_version_source_and_epoch() {
    let with = |key: &str, value: Option<&str>| {
        let rows = rows();
        let mut metadata = rows.schema().metadata().clone();
        metadata.remove(key);
        metadata.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        let schema = Arc::new(Schema::new_with_metadata(rows.schema().fields().clone(), metadata));
        let rows = RecordBatch::try_new(schema.clone(), rows.columns().to_vec()).unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &schema).unwrap();
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        drop(writer);
        bytes
    };
    check("no version", &with(VERSION_KEY, None), "unexpected schema: version None");
    check("another version", &with(VERSION_KEY, Some("1")), "unexpected schema: version Some");
    check("an epoch that is none", &with(EPOCH_KEY, Some("soon")), "the epoch is none");
    assert_eq!(decode(&with(SOURCE_KEY, None)).unwrap().source, "");
    let read = decode(&with(EPOCH_KEY, Some("7/1795000000000000/node-1"))).unwrap();
    assert_eq!((read.epoch.sequence, read.epoch.instance.as_str()), (7, "node-1"));
}
