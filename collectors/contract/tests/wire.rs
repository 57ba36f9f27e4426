//! The wire form: golden fixtures, round trips, and bytes made to hurt.
#![allow(clippy::unwrap_used)]

use nilometer_contract::{
    BatchBuilder, Change, Epoch, Labels, LifecycleEvent, Meter, MeterKind, Resource, ResourceKind,
    SampleBatch, Subject, Timestamp, catalogue, decode, encode, encode_parts,
};
use proptest::prelude::*;

fn resource(id: &str, kind: ResourceKind) -> Resource {
    let mut resource = Resource::new(id, kind);
    resource.project = "astronomy".to_owned();
    resource.name = "web-1".to_owned();
    resource.node = "node-1".to_owned();
    resource.parent = Some("node-1".to_owned());
    resource.attributes.insert("flavor".to_owned(), "m1.small".to_owned());
    resource.attributes.insert("vcpus".to_owned(), "2".to_owned());
    resource
}

fn batch() -> SampleBatch {
    let start = Timestamp::from_seconds(1_794_999_000);
    let epoch = Epoch { instance: "node-1/5f3a".to_owned(), sequence: 7, start };
    let mut builder = BatchBuilder::new("libvirt").in_epoch(epoch);
    let at = Timestamp::from_seconds(1_795_000_000);
    let vm = builder.subject(&resource("vm-1", ResourceKind::VM));
    let disk = builder.subject(&resource("vm-1/disk/vda", ResourceKind::DISK));
    builder.push_named(vm, "cpu.time", at, 12.345);
    builder.push_named(vm, "memory.usage", at, 1_073_741_824.0);
    builder.push_named(disk, "disk.read.bytes", at.plus_micros(1), 4_096.0);
    builder.build()
}

fn event() -> LifecycleEvent {
    LifecycleEvent {
        change: Change::Created,
        at: Timestamp(1_795_000_000_123_456),
        resource: resource("vm-1", ResourceKind::VM),
        source: "libvirt".to_owned(),
    }
}

/// Compares with a file of this version; `NILOMETER_BLESS=1` writes it where there is none.
fn check_fixture(name: &str, bytes: &[u8]) {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    if !std::path::Path::new(&path).exists() && std::env::var_os("NILOMETER_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name} is kept for ever");
}

#[test]
fn samples_of_version_3_are_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/samples.v3.arrow.zst");
    let encoded = encode(&batch()).unwrap();
    assert_eq!(encoded.len(), 1);
    if !std::path::Path::new(path).exists() {
        check_fixture("samples.v3.arrow.zst", &encoded[0]);
    }
    assert_eq!(decode(&std::fs::read(path).unwrap()).unwrap(), batch());
}

#[test]
fn events_of_version_1_are_read_and_written_alike() {
    check_fixture("event.v1.json", &event().encode().unwrap());
    let bytes = event().encode().unwrap();
    assert_eq!(LifecycleEvent::decode(&bytes).unwrap(), event());
}

#[test]
fn large_batches_are_split_and_add_up() {
    let mut builder = BatchBuilder::new("simulated");
    for n in 0..100_000_u32 {
        let subject = builder.subject(Subject {
            id: format!("vm-{}", n % 5_000),
            kind: ResourceKind::VM,
            project: "p".to_owned(),
            node: "n".to_owned(),
            labels: Labels::none(),
        });
        builder.push_named(subject, "cpu.time", Timestamp::from_seconds(1 + i64::from(n)), 1.0);
    }
    let records = encode(&builder.build()).unwrap();
    assert!(records.iter().all(|record| record.len() <= nilometer_contract::MAX_RECORD_BYTES));
    let rows: usize = records.iter().map(|record| decode(record).unwrap().len()).sum();
    assert_eq!(rows, 100_000);
}

#[test]
fn a_split_record_names_only_its_own_resources() {
    let mut builder = BatchBuilder::new("cri");
    for n in 0..40_000_u32 {
        let subject = builder.subject(Subject {
            id: format!("{n:064x}"),
            kind: ResourceKind::CONTAINER,
            project: "a-namespace-of-usual-length".to_owned(),
            node: "node-with-a-usual-name.example.com".to_owned(),
            labels: Labels::none(),
        });
        builder.push_named(subject, "cpu.time", Timestamp::from_seconds(1), f64::from(n));
        builder.push_named(subject, "memory.usage", Timestamp::from_seconds(1), f64::from(n));
    }
    let parts = encode_parts(&builder.build()).unwrap();
    let rows: usize = parts.iter().map(|(part, _)| part.len()).sum();
    assert_eq!(rows, 80_000);
    for (part, record) in &parts {
        let read = decode(record).unwrap();
        assert_eq!(read, *part);
        assert!(read.subjects.len() <= read.len());
        assert!(record.len() <= nilometer_contract::MAX_RECORD_BYTES);
    }
}

#[test]
fn truncated_records_are_errors() {
    let bytes = encode(&batch()).unwrap().remove(0);
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
    }
}

fn sampled() -> impl Iterator<Item = &'static std::sync::Arc<Meter>> {
    let is_sampled =
        |meter: &&std::sync::Arc<Meter>| MeterKind::sampled(meter.kind.as_str()).is_some();
    catalogue().meters().filter(is_sampled)
}

fn any_batch() -> impl Strategy<Value = SampleBatch> {
    let meters = sampled().count();
    let row = (0..20_u8, 0..meters, any::<i64>(), -1e15..1e15_f64);
    (proptest::collection::vec(row, 1..200), "[a-z]{1,9}").prop_map(|(rows, source)| {
        let mut builder = BatchBuilder::new(source);
        for (n, meter, at, value) in rows {
            let subject = builder.subject(Subject {
                id: format!("vm-{n}"),
                kind: [ResourceKind::VM, ResourceKind::NODE][usize::from(n) % 2].clone(),
                project: format!("project-{}", n % 3),
                node: String::new(),
                labels: Labels::new([("device", format!("d{}", n % 2))]).unwrap(),
            });
            let meter = sampled().nth(meter).unwrap();
            builder.push(subject, meter, Timestamp(at), value);
        }
        builder.build()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn samples_round_trip(batch in any_batch()) {
        let records = encode(&batch).unwrap();
        prop_assert_eq!(records.len(), 1);
        prop_assert_eq!(decode(&records[0]).unwrap(), batch);
    }

    #[test]
    fn partitioning_keeps_every_sample(batch in proptest::collection::vec((0..50_u8, -1e9..1e9_f64), 1..200)) {
        let mut builder = BatchBuilder::new("t");
        for (at, (n, value)) in batch.iter().enumerate() {
            let subject = builder.subject(Subject { id: format!("r{n}"), kind: ResourceKind::VM, project: String::new(), node: String::new(), labels: Labels::none() });
            builder.push_named(subject, "cpu.time", Timestamp(at as i64), *value);
        }
        let parts = builder.build_partitioned(7);
        prop_assert_eq!(parts.iter().map(|(_, part)| part.len()).sum::<usize>(), batch.len());
        for (partition, part) in parts {
            for id in part.subjects.id.iter().flatten() {
                prop_assert_eq!(nilometer_contract::partition_of(id, 7), partition);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = decode(&bytes);
        let _ = LifecycleEvent::decode(&bytes);
    }

    #[test]
    fn damaged_records_never_panic(batch in any_batch(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16)) {
        let mut bytes = encode(&batch).unwrap().remove(0);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn events_round_trip(at in 946_684_800_000_000_i64..7_258_118_399_000_000, name in "\\PC{0,40}", change in 0..3_usize) {
        let mut event = event();
        event.at = Timestamp(at);
        event.resource.name = name;
        event.change = [Change::Created, Change::Changed, Change::Deleted][change];
        prop_assert_eq!(LifecycleEvent::decode(&event.encode().unwrap()).unwrap(), event);
    }
}
