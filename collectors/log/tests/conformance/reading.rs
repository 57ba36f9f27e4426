//! A reader on a log that is trimmed and replaced under it.

use nilometer_log::{LogError, ReadEvent, ReadPosition, Reader};

use crate::suite::{Factory, at, make, numbered, settled};

/// Few records at once.
const FETCH_BYTES: usize = 500;

/// All that is read until the position is `upto`: payloads by offset, none where one is missing.
async fn read_to(reader: &mut Reader, upto: u64) -> Vec<Option<String>> {
    let mut read = Vec::new();
    while reader.position().next < upto {
        let from = reader.position().next;
        match settled(async || reader.next().await).await.unwrap() {
            ReadEvent::Records(records) => {
                let texts = records.iter().map(|record| String::from_utf8_lossy(&record.payload));
                read.extend(texts.map(|text| Some(text.into_owned())));
            }
            ReadEvent::Missing(gone) => read.extend(gone.map(|_| None)),
            ReadEvent::End(_) | ReadEvent::Idle => {}
            ReadEvent::Begun(why) => panic!("{why}"),
        }
        let moved = reader.position().next - from;
        assert!(moved <= read.len() as u64, "no offset is passed over");
    }
    read
}

pub(crate) async fn a_reader_is_told_what_is_gone(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "read", 1).await;
    let zero = at("read", 0);
    log.append(&zero, numbered(0..100)).await.unwrap();
    let from = ReadPosition::at(log.incarnation(&zero).await.unwrap(), 0);
    let mut reader = Reader::new(log.clone(), zero.clone(), from, FETCH_BYTES);
    let mut read = read_to(&mut reader, 10).await;
    for some in 1..4 {
        log.append(&zero, numbered(some * 100..some * 100 + 100)).await.unwrap();
    }
    log.truncate(&zero, 350).await.unwrap();
    let low = log.watermarks(&zero).await.unwrap().low;
    assert!(low > 100, "of small segments most are gone: {low}");
    read.extend(read_to(&mut reader, 400).await);
    let there = read.iter().filter(|payload| payload.is_some()).count();
    assert!((50..400).contains(&there), "{there} records");
    assert_eq!(read.len(), 400);
    for (offset, payload) in read.iter().enumerate() {
        match payload {
            Some(payload) => assert_eq!(*payload, format!("record {offset}")),
            None => assert!((offset as u64) < low, "{offset} is there"),
        }
    }

    factory.delete_topic("read").await;
    let other = factory.open();
    make(&*other, "read", 1).await;
    settled(async || other.append(&zero, numbered(0..500)).await).await.unwrap();
    let begun = loop {
        match settled(async || reader.next().await).await.unwrap() {
            ReadEvent::Begun(why) => break why,
            ReadEvent::End(_) | ReadEvent::Idle => {}
            other => panic!("{other:?} of a log that is no more"),
        }
    };
    assert!(matches!(begun, LogError::Replaced { .. }), "{begun}");
    assert_eq!(reader.position().next, 0);
    let read = read_to(&mut reader, 500).await;
    assert!(read.iter().enumerate().all(|(i, read)| *read == Some(format!("record {i}"))));
}
