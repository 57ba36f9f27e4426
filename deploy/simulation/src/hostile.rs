//! Records that nobody should send, and records that arrive again.

use bytes::Bytes;
use nilometer_contract::{
    BatchBuilder, EVENTS, GAPS, Resource, ResourceKind, SAMPLES, decode, encode, partition_of,
};
use nilometer_log::TopicPartition;

use crate::broker::Broker;
use crate::sites::PARTITIONS;
use crate::world::World;

/// A resource that is only ever told of by who should not.
const GHOST: &str = "ghost";

/// Appends what was appended before once more.
pub(crate) fn repeat(broker: &Broker, world: &World, number: u64) -> anyhow::Result<()> {
    for topic in [SAMPLES, EVENTS] {
        let kept = broker.kept(topic);
        for n in 0..1 + number % 5 {
            let key = format!("repeat {number} {n} {topic}");
            let Some(landed) = kept.get(world.pick(&key, kept.len() as u64) as usize) else {
                continue;
            };
            let offset = landed.record.offset as i64;
            let at = (topic, i64::from(landed.partition), offset);
            let refused = broker.hostile();
            if refused
                .iter()
                .any(|(topic, partition, offset, _)| (topic.as_str(), *partition, *offset) == at)
            {
                continue;
            }
            let to = TopicPartition { topic: topic.to_owned(), partition: landed.partition };
            broker.append(&to, std::slice::from_ref(&landed.record.payload))?;
        }
    }
    Ok(())
}

/// Appends one sample, of a resource that nobody knows, of the year 2150.
pub(crate) fn send_far_future(broker: &Broker) -> anyhow::Result<()> {
    let mut batch = BatchBuilder::new("hostile");
    let subject = batch.subject(&Resource::new(GHOST, ResourceKind::VM));
    batch.push_named(subject, "cpu.time", "2150-01-01T00:00:00Z".parse()?, 1.0);
    for payload in encode(&batch.build())? {
        let partition = partition_of(GHOST, PARTITIONS);
        let to = TopicPartition { topic: SAMPLES.to_owned(), partition };
        broker.append_hostile(&to, payload.into(), 0);
    }
    Ok(())
}

/// Appends what is no record of its topic.
pub(crate) fn send(broker: &Broker, world: &World, number: u64) -> anyhow::Result<()> {
    let kept = broker.kept(SAMPLES);
    for n in 0..1 + number % 7 {
        let pick =
            |what: &str, below: u64| world.pick(&format!("hostile {number} {n} {what}"), below);
        let topic = [SAMPLES, EVENTS, GAPS][pick("topic", 3) as usize];
        let partitions = if topic == GAPS { 1 } else { PARTITIONS };
        let partition = pick("partition", u64::from(partitions)) as u32;
        let payload = match pick("what", 4) {
            0 => Bytes::from_static(b""),
            1 => Bytes::from(vec![b'{'; 1 + pick("length", 300_000) as usize]),
            2 => Bytes::from((0..pick("length", 2_000)).map(|i| (i * i) as u8).collect::<Vec<_>>()),
            _ => match kept.get(pick("record", kept.len() as u64) as usize) {
                // A record that was good, but for its end and one bit.
                Some(landed) => {
                    let mut bytes = landed.record.payload.to_vec();
                    bytes.truncate(bytes.len() - 1 - pick("cut", 40) as usize);
                    let place = pick("place", bytes.len() as u64) as usize;
                    bytes[place] ^= 1 << pick("bit", 8);
                    match decode(&bytes) {
                        // What still makes sense would be stored.
                        Ok(_) => Bytes::from_static(b"no record"),
                        Err(_) => Bytes::from(bytes),
                    }
                }
                None => Bytes::from_static(b"no record"),
            },
        };
        world.note(format!("hostile {} bytes to {topic} {partition}", payload.len()));
        let to = TopicPartition { topic: topic.to_owned(), partition };
        broker.append_hostile(&to, payload, -1);
    }
    Ok(())
}
