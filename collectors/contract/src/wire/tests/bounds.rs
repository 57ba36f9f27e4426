//! How much a record may hold, and what its metadata must say.

use super::*;

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
        let text = texts(count, text);
        let labels = texts(count, "");
        let (kind, project, node) = (text.clone(), text.clone(), text.clone());
        Subjects { id: text, kind, project, node, labels }
    };
    let meters = |names: Vec<String>| {
        let unstated = texts(names.len(), "");
        Meters { name: StringArray::from(names), kind: unstated.clone(), unit: unstated }
    };
    let many = |count: usize| (0..count).map(|n| format!("m{n}")).collect::<Vec<_>>();
    let most = MAX_SUBJECTS;
    let long = "x".repeat(MAX_TEXT_BYTES);
    let longer = "x".repeat(MAX_TEXT_BYTES + 1);
    let accepted: [Vec<u8>; 5] = [
        unchecked(|batch| batch.subjects = subjects(most, "a")),
        unchecked(|batch| batch.meters = meters(many(MAX_METERS))),
        unchecked(|batch| batch.source = long.clone()),
        unchecked(|batch| batch.subjects = subjects(1, &long)),
        unchecked(|batch| batch.meters = meters(vec![long.clone()])),
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
    let long_name = unchecked(|batch| batch.meters = meters(vec![longer.clone()]));
    check("a long meter", &long_name, &text);
    let long_labels = unchecked(|batch| {
        batch.subjects.labels = texts(1, &"x".repeat(MAX_LABELS_BYTES + 1));
    });
    let labels = format!("bytes of labels {}, more than {MAX_LABELS_BYTES}", MAX_LABELS_BYTES + 1);
    check("long labels", &long_labels, &labels);
    check("a long source", &unchecked(|batch| batch.source = longer.clone()), &source);
    let beyond = "rows 4097, more than 4096";
    check("meters", &unchecked(|batch| batch.meters = meters(many(MAX_METERS + 1))), beyond);
    let beyond = "rows 16385, more than 16384";
    check("resources", &unchecked(|batch| batch.subjects = subjects(most + 1, "a")), beyond);
    let nameless = unchecked(|batch| batch.subjects.id = texts(1, ""));
    check("no id", &nameless, "a resource has no id");
}

#[test]
fn what_is_stated_of_meters_and_labels_is_checked() {
    let stated = |kind: &str, unit: &str| {
        unchecked(|batch| {
            batch.meters.kind = StringArray::from(vec![kind]);
            batch.meters.unit = StringArray::from(vec![unit]);
        })
    };
    for (kind, unit) in [("", ""), ("counter", "seconds"), ("gauge", "1"), ("delta", "req/s")] {
        assert_eq!(refusal(&stated(kind, unit)), "accepted");
    }
    let kinds = "a kind of meter is not counter, gauge or delta";
    check("an allocation", &stated("allocation", ""), kinds);
    check("a kind", &stated("Counter", ""), kinds);
    let units = "a unit is not 1 to 32 bytes without spaces";
    check("a unit with spaces", &stated("", "a b"), units);
    check("a long unit", &stated("", &"x".repeat(33)), units);
    let twice = unchecked(|batch| {
        let texts = |text: &str| StringArray::from(vec![text; 2]);
        batch.meters = Meters { name: texts("a"), kind: texts(""), unit: texts("") };
    });
    check("a meter twice", &twice, "a meter is named twice");
    let labelled =
        |text: &str| unchecked(|batch| batch.subjects.labels = StringArray::from(vec![text]));
    assert_eq!(refusal(&labelled(r#"{"a":"b"}"#)), "accepted");
    for text in ["{}", r#"{"a": "b"}"#, r#"{"b":"1","a":"2"}"#, "x"] {
        check(text, &labelled(text), "the labels of a series are refused");
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_it_is() {
    let mut long = batch(1);
    long.source = "x".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(encode(&long), Err(WireError::Bound { what: "bytes of source", .. })));
    let mut many = batch(1);
    let names = |count: usize| (0..count).map(|n| format!("m{n}")).collect::<Vec<_>>();
    let unstated = StringArray::from(vec![""; MAX_METERS]);
    let name = StringArray::from(names(MAX_METERS));
    many.meters = Meters { name, kind: unstated.clone(), unit: unstated };
    assert_eq!(encode(&many).unwrap().len(), 1);
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
