//! Small records: one zstd frame of the Arrow stream.
//!
//! A machine with a few resources per partition says some 2 KB of schema around each handful of
//! samples. The schema is always the same, so the frame is made with a dictionary that holds it
//! (`wire.zdict`, itself a stream of this version); only what differs remains.

use std::sync::LazyLock;

use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::WireError;

/// Streams shorter than this are compressed; so no frame unpacks to more.
pub const SMALL_BYTES: usize = 64 * 1024;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const LEVEL: i32 = 3;
const DICTIONARY: &[u8] = include_bytes!("../../wire.zdict");

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

/// A stream as it goes into the log.
pub(super) fn pack(stream: Vec<u8>) -> Result<Vec<u8>, WireError> {
    if stream.len() >= SMALL_BYTES {
        return Ok(stream);
    }
    Compressor::with_prepared_dictionary(&ENCODER)
        .and_then(|mut compressor| {
            compressor.include_checksum(false)?;
            compressor.compress(&stream)
        })
        .map_err(WireError::Compression)
}

/// The stream of a small record; nothing for a record that is a stream itself.
pub(super) fn unpack(record: &[u8]) -> Result<Option<Vec<u8>>, WireError> {
    if !record.starts_with(&MAGIC) {
        return Ok(None);
    }
    Decompressor::with_prepared_dictionary(&DECODER)
        .and_then(|mut decompressor| decompressor.decompress(record, SMALL_BYTES))
        .map(Some)
        .map_err(WireError::Compression)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::wire::{WIRE_VERSION, encode_one, envelope};
    use crate::{BatchBuilder, Epoch, Meter, MeterKind, Resource, Timestamp, catalogue};

    /// A record like those of a machine: all meters, a resource of each kind.
    fn usual() -> Vec<u8> {
        let start = Timestamp::from_seconds(1_795_000_000);
        let epoch = Epoch { instance: "node-1/0123456789abcdef".to_owned(), sequence: 1, start };
        let mut builder = BatchBuilder::new("host").in_epoch(epoch);
        for kind in catalogue().kinds().map(|kind| &kind.name) {
            let subject = builder.subject(&Resource::new(format!("node-1/{kind}/a"), kind.clone()));
            let sampled = |meter: &&Arc<Meter>| MeterKind::sampled(meter.kind.as_str()).is_some();
            for meter in catalogue().meters().filter(|meter| meter.is_of(kind)).filter(sampled) {
                builder.push(subject, meter, start, 0.0);
            }
        }
        encode_one(&builder.build()).unwrap()
    }

    #[test]
    fn the_dictionary_is_a_stream_of_this_version() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/wire.zdict");
        if std::env::var_os("NILOMETER_BLESS").is_some() && DICTIONARY.is_empty() {
            std::fs::write(path, usual()).unwrap();
        }
        envelope::check(DICTIONARY).unwrap();
        assert_eq!(WIRE_VERSION, "3", "another version has another dictionary");
    }

    #[test]
    fn a_handful_of_samples_is_small() {
        let mut builder = BatchBuilder::new("host");
        let node = builder.subject(&Resource::new("node-1", crate::ResourceKind::NODE));
        for (n, meter) in ["cpu.time", "memory.usage", "load.1m"].into_iter().enumerate() {
            let at = Timestamp(1_795_000_000_123_456 + n as i64);
            builder.push_named(node, meter, at, 1.5 + n as f64);
        }
        let stream = encode_one(&builder.build()).unwrap();
        let packed = pack(stream.clone()).unwrap();
        assert!(packed.len() < 400, "{} of {}", packed.len(), stream.len());
        assert_eq!(unpack(&packed).unwrap(), Some(stream));
    }

    #[test]
    fn a_frame_unpacks_to_no_more_than_a_small_record() {
        let bomb = Compressor::with_prepared_dictionary(&ENCODER)
            .and_then(|mut compressor| compressor.compress(&vec![0; 16 << 20]))
            .unwrap();
        assert!(bomb.len() < SMALL_BYTES);
        assert!(unpack(&bomb).is_err());
    }
}
