//! Whatever bytes a partition holds: no panic, and what is accepted can be used and sent on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nilometer_contract::{SampleBatch, WireError, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(batch) = decode(bytes) else { return };
    let said = rows(&batch);
    let again = match encode(&batch) {
        Ok(records) => records,
        // Dictionaries that no row names may make even a single row too long for a record.
        Err(WireError::TooLong(_)) => return,
        Err(error) => panic!("accepted, but not sent on: {error}"),
    };
    let read = again.iter().map(|record| decode(record).expect("what was encoded is decoded"));
    assert_eq!(read.flat_map(|part| rows(&part)).collect::<Vec<_>>(), said);
});

/// Instant, the meter's three texts, the resource's five, and the bits of the value.
type Row = (i64, [String; 3], [String; 5], u64);

/// Follows every reference into the dictionaries.
fn rows(batch: &SampleBatch) -> Vec<Row> {
    let (meters, subjects) = (&batch.meters, &batch.subjects);
    let of_meter = [&meters.name, &meters.kind, &meters.unit];
    let of_subject =
        [&subjects.id, &subjects.kind, &subjects.project, &subjects.node, &subjects.labels];
    let row = |row: usize| {
        let (which, who) = (usize::from(batch.meter[row]), batch.resource[row] as usize);
        let meter = of_meter.map(|text| text.value(which).to_owned());
        let subject = of_subject.map(|text| text.value(who).to_owned());
        (batch.at[row], meter, subject, batch.value[row].to_bits())
    };
    (0..batch.len()).map(row).collect()
}
