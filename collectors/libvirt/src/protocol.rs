//! The part of libvirt's RPC protocol that metering needs: messages, calls, replies, events.
//!
//! ```text
//! length (4) │ program  version  procedure  type  serial  status │ payload
//!            │ ─────────────── header, 24 bytes ──────────────── │
//! ```
//!
//! Numbers and layouts are those of `remote_protocol.x` and `virnetprotocol.x`; libvirt keeps
//! them compatible between versions, since its own clients and daemons mix them.

use std::fmt;

use crate::xdr::{Reader, Writer, XdrError};

/// The hypervisor program and its only version.
pub(crate) const REMOTE: u32 = 0x2000_8086;
/// The keepalive program, of the same version.
pub(crate) const KEEPALIVE: u32 = 0x6b65_6570;
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 24;
pub(crate) const LENGTH_BYTES: usize = 4;

pub(crate) const PING: i32 = 1;
pub(crate) const PONG: i32 = 2;

/// Procedures of the hypervisor program.
pub(crate) mod procedure {
    pub(crate) const CONNECT_OPEN: i32 = 1;
    pub(crate) const CONNECT_GET_TYPE: i32 = 3;
    pub(crate) const DOMAIN_GET_XML_DESC: i32 = 14;
    pub(crate) const AUTH_LIST: i32 = 66;
    pub(crate) const CONNECT_GET_LIB_VERSION: i32 = 157;
    pub(crate) const CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY: i32 = 316;
    pub(crate) const DOMAIN_EVENT_CALLBACK_LIFECYCLE: i32 = 318;
    pub(crate) const CONNECT_GET_ALL_DOMAIN_STATS: i32 = 344;
}

/// Opens the connection without the right to change anything.
pub(crate) const CONNECT_READ_ONLY: u32 = 1;
/// State, CPU, balloon, virtual CPUs, interfaces and block devices.
pub(crate) const STATS_GROUPS: u32 = 0b11_1111;
/// Only domains that run or are paused.
pub(crate) const STATS_ACTIVE: u32 = 1;
/// Leaves out what would wait for a domain that another operation holds.
pub(crate) const STATS_NOWAIT: u32 = 1 << 29;

/// Events to ask for. All but the first only say that a domain should be looked at again.
pub(crate) const EVENT_LIFECYCLE: i32 = 0;
pub(crate) const EVENT_DEVICE_REMOVED: i32 = 15;
pub(crate) const EVENT_DEVICE_ADDED: i32 = 19;
pub(crate) const EVENT_METADATA_CHANGE: i32 = 23;

/// Error codes of libvirt that we act on.
pub(crate) mod code {
    pub(crate) const INVALID_ARGUMENT: i32 = 8;
    pub(crate) const NO_DOMAIN: i32 = 42;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    Call,
    Reply,
    Message,
    /// Streams and messages with file descriptors, which nothing here asks for.
    Other(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: i32,
    pub(crate) kind: MessageType,
    pub(crate) serial: u32,
    /// 0 for success, 1 when an error follows.
    pub(crate) status: i32,
}

/// A domain as libvirt names it: the runtime id is −1 while it does not run and new each time
/// it starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DomainRef {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) id: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

/// One typed parameter's value; texts borrow from the message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    Text(&'a str),
}

/// What one domain's statistics say, as names and values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StatsRecord<'a> {
    pub(crate) domain: DomainRef,
    pub(crate) values: Vec<(&'a str, Value<'a>)>,
}

/// An error that libvirt answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libvirt says: {message} (code {code})")]
pub(crate) struct RemoteError {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// A lifecycle event: what happened and why, in libvirt's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainEvent {
    pub(crate) callback: i32,
    pub(crate) domain: DomainRef,
    /// Event and detail; only of a lifecycle event.
    pub(crate) lifecycle: Option<(i32, i32)>,
}

impl Header {
    pub(crate) fn encode(self, writer: &mut Writer) {
        let kind = match self.kind {
            MessageType::Call => 0,
            MessageType::Reply => 1,
            MessageType::Message => 2,
            MessageType::Other(kind) => kind,
        };
        writer.u32(self.program).u32(self.version).i32(self.procedure);
        writer.i32(kind).u32(self.serial).i32(self.status);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(Header {
            program: reader.u32()?,
            version: reader.u32()?,
            procedure: reader.i32()?,
            kind: match reader.i32()? {
                0 => MessageType::Call,
                1 => MessageType::Reply,
                2 => MessageType::Message,
                kind => MessageType::Other(kind),
            },
            serial: reader.u32()?,
            status: reader.i32()?,
        })
    }
}

/// A whole message with its length in front.
pub(crate) fn message(header: Header, payload: &[u8]) -> Vec<u8> {
    let length = LENGTH_BYTES + HEADER_BYTES + payload.len();
    assert!(u32::try_from(length).is_ok(), "a message of ours is shorter than 4 GiB");
    let mut writer = Writer::default();
    writer.u32(length as u32);
    header.encode(&mut writer);
    writer.raw(payload);
    writer.into_bytes()
}

impl DomainRef {
    const LEAST_BYTES: usize = 24;

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.text(&self.name).raw(&self.uuid.0).i32(self.id);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(DomainRef {
            name: reader.text()?.to_owned(),
            uuid: Uuid(reader.uuid()?),
            id: reader.i32()?,
        })
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl<'a> Value<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, XdrError> {
        Ok(match reader.i32()? {
            1 | 6 => Value::Signed(reader.i32()?.into()),
            2 => Value::Unsigned(reader.u32()?.into()),
            3 => Value::Signed(reader.i64()?),
            4 => Value::Unsigned(reader.u64()?),
            5 => Value::Double(reader.f64()?),
            7 => Value::Text(reader.text()?),
            value => return Err(XdrError::Unknown { what: "type of parameter", value }),
        })
    }

    /// As a count; nothing for texts, fractions and negative numbers.
    pub(crate) fn count(self) -> Option<u64> {
        match self {
            Value::Signed(value) => u64::try_from(value).ok(),
            Value::Unsigned(value) => Some(value),
            Value::Double(_) | Value::Text(_) => None,
        }
    }
}

/// The reply to `CONNECT_GET_ALL_DOMAIN_STATS`.
pub(crate) fn decode_stats(payload: &[u8]) -> Result<Vec<StatsRecord<'_>>, XdrError> {
    const LEAST_PARAMETER_BYTES: usize = 12;
    let mut reader = Reader::new(payload);
    let records = reader.count("list of domains", DomainRef::LEAST_BYTES + 4)?;
    let mut stats = Vec::with_capacity(records);
    for _ in 0..records {
        let domain = DomainRef::decode(&mut reader)?;
        let count = reader.count("list of parameters", LEAST_PARAMETER_BYTES)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let name = reader.text()?;
            values.push((name, Value::decode(&mut reader)?));
        }
        stats.push(StatsRecord { domain, values });
    }
    Ok(stats)
}

/// The error in a reply whose status says so; what follows code and message is not read.
pub(crate) fn decode_error(payload: &[u8]) -> Result<RemoteError, XdrError> {
    let mut reader = Reader::new(payload);
    let code = reader.i32()?;
    let _domain = reader.i32()?;
    let message = reader.optional_text()?.unwrap_or("no message").to_owned();
    Ok(RemoteError { code, message })
}

/// An event of a registered callback. Every such event starts with callback and domain.
pub(crate) fn decode_event(procedure: i32, payload: &[u8]) -> Result<DomainEvent, XdrError> {
    let mut reader = Reader::new(payload);
    let callback = reader.i32()?;
    let domain = DomainRef::decode(&mut reader)?;
    let lifecycle = match procedure {
        procedure::DOMAIN_EVENT_CALLBACK_LIFECYCLE => Some((reader.i32()?, reader.i32()?)),
        _ => None,
    };
    Ok(DomainEvent { callback, domain, lifecycle })
}

/// The kinds of authentication in a reply to `AUTH_LIST`; 0 means none is needed.
pub(crate) fn decode_auth(payload: &[u8]) -> Result<Vec<i32>, XdrError> {
    let mut reader = Reader::new(payload);
    let count = reader.count("list of authentications", 4)?;
    (0..count).map(|_| reader.i32()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domain() -> DomainRef {
        DomainRef { name: "vm".into(), uuid: Uuid([0xab; 16]), id: 7 }
    }

    #[test]
    fn uuids_are_written_the_usual_way() {
        let uuid = Uuid(*b"\x6e\x5a\x3b\xd2\x5a\xb6\x4b\x8a\x9f\x3c\x2b\x4d\x7f\x6a\x1c\x01");
        assert_eq!(uuid.to_string(), "6e5a3bd2-5ab6-4b8a-9f3c-2b4d7f6a1c01");
    }

    #[test]
    fn statistics_of_every_type_are_read() {
        let mut writer = Writer::default();
        writer.u32(1);
        domain().encode(&mut writer);
        writer.u32(5);
        writer.text("i").i32(1).i32(-2);
        writer.text("ui").i32(2).u32(3);
        writer.text("ull").i32(4).u32(1).u32(0);
        writer.text("d").i32(5).raw(&1.5f64.to_be_bytes());
        writer.text("s").i32(7).text("vda");
        let bytes = writer.into_bytes();
        let stats = decode_stats(&bytes).unwrap();
        assert_eq!(stats[0].domain, domain());
        let values: Vec<_> = stats[0].values.iter().map(|(_, value)| *value).collect();
        assert_eq!(values[..2], [Value::Signed(-2), Value::Unsigned(3)]);
        assert_eq!(values[2..4], [Value::Unsigned(1 << 32), Value::Double(1.5)]);
        assert_eq!(values[4], Value::Text("vda"));
        for cut in 0..bytes.len() {
            assert!(decode_stats(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_lifecycle_event_is_read() {
        let mut writer = Writer::default();
        writer.i32(4);
        domain().encode(&mut writer);
        writer.i32(5).i32(1);
        let bytes = writer.into_bytes();
        let event = decode_event(procedure::DOMAIN_EVENT_CALLBACK_LIFECYCLE, &bytes).unwrap();
        let expected = DomainEvent { callback: 4, domain: domain(), lifecycle: Some((5, 1)) };
        assert_eq!(event, expected);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
            procedure in any::<i32>(),
        ) {
            let _ = decode_stats(&bytes);
            let _ = decode_error(&bytes);
            let _ = decode_event(procedure, &bytes);
            let _ = decode_event(procedure::DOMAIN_EVENT_CALLBACK_LIFECYCLE, &bytes);
            let _ = decode_auth(&bytes);
            let _ = Header::decode(&mut Reader::new(&bytes));
        }

        /// Small numbers make plausible counts and lengths, which reach deeper.
        #[test]
        fn nearly_right_bytes_never_panic(words in proptest::collection::vec(0u32..9, 0..96)) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let _ = decode_stats(&bytes);
            let _ = decode_error(&bytes);
            let _ = decode_event(procedure::DOMAIN_EVENT_CALLBACK_LIFECYCLE, &bytes);
            let _ = decode_auth(&bytes);
        }

        #[test]
        fn headers_round_trip(procedure in any::<i32>(), serial in any::<u32>(), status in 0..3) {
            let header = Header {
                program: REMOTE, version: VERSION, procedure,
                kind: MessageType::Reply, serial, status,
            };
            let bytes = message(header, b"data");
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.u32().unwrap() as usize, bytes.len());
            prop_assert_eq!(Header::decode(&mut reader).unwrap(), header);
            prop_assert_eq!(reader.left(), 4);
        }
    }
}
