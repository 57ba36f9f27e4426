//! Lifecycle events and their wire form, CloudEvents 1.0 in structured JSON.
//!
//! An event carries the whole state of its resource from its instant on, never a difference, so
//! that applying it twice, or after a lost one, is safe. Its id is a digest of what it says:
//! an agent that restarts and says the same again says it under the same id.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::resource::{InvalidResource, Resource};
use crate::time::Timestamp;

/// Longest encoded event.
pub const MAX_EVENT_BYTES: usize = 128 * 1024;
const TYPE_PREFIX: &str = "nilometer.resource.";
const SPEC_VERSION: &str = "1.0";
pub(crate) const MAX_SOURCE_BYTES: usize = 1024;

/// What happened to the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It came into being, or was first found with its true start.
    Created,
    /// It was resized, moved, renamed or given to another project.
    Changed,
    /// It ceased to be; the instant is the first one at which it no longer was.
    Deleted,
}

impl Change {
    /// `created`, `changed` or `deleted`.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Deleted => "deleted",
        }
    }
}

/// A resource was created, changed or deleted at an exact instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LifecycleEvent {
    /// What happened.
    pub change: Change,
    /// When, by the clock of the runtime that did it.
    pub at: Timestamp,
    /// The state from `at` on; for a deletion, the last state.
    pub resource: Resource,
    /// Who saw it: the name of a source, such as `libvirt`.
    pub source: String,
}

/// Why bytes are not a lifecycle event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("event has {0} bytes, more than {MAX_EVENT_BYTES}")]
    TooLong(usize),
    /// Not JSON, or not of a CloudEvent's shape.
    #[error("not a CloudEvent in JSON: {0}")]
    Json(String),
    /// JSON of another version or type.
    #[error("{field} is {found:?}")]
    Unsupported {
        /// Which attribute of the CloudEvent.
        field: &'static str,
        /// What it said.
        found: String,
    },
    /// The subject is not the resource in the data, or the instant is out of range.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// The resource breaks a bound.
    #[error("resource is out of bounds")]
    Resource(#[source] InvalidResource),
}

#[derive(Serialize, Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: Timestamp,
    datacontenttype: String,
    data: Resource,
}

impl LifecycleEvent {
    /// Digest of everything the event says; equal events have equal ids.
    pub fn id(&self) -> String {
        format!("{:032x}", self.digest())
    }

    /// The number that [`id`](Self::id) writes.
    pub fn digest(&self) -> u128 {
        let said =
            serde_json::to_vec(&(self.change.as_str(), self.at, &self.source, &self.resource))
                .unwrap_or_default();
        xxh3_128(&said)
    }

    /// The CloudEvent in structured JSON mode.
    pub fn encode(&self) -> Result<Vec<u8>, EventError> {
        self.check()?;
        let event = CloudEvent {
            specversion: SPEC_VERSION.to_owned(),
            id: self.id(),
            source: self.source.clone(),
            kind: format!("{TYPE_PREFIX}{}", self.change.as_str()),
            subject: self.resource.id.clone(),
            time: self.at,
            datacontenttype: "application/json".to_owned(),
            data: self.resource.clone(),
        };
        let bytes =
            serde_json::to_vec(&event).map_err(|error| EventError::Json(error.to_string()))?;
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a CloudEvent; refuses what breaks a bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, EventError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(EventError::TooLong(bytes.len()));
        }
        let event: CloudEvent =
            serde_json::from_slice(bytes).map_err(|error| EventError::Json(error.to_string()))?;
        if event.specversion != SPEC_VERSION {
            return Err(unsupported("specversion", event.specversion));
        }
        let change = match event.kind.strip_prefix(TYPE_PREFIX) {
            Some("created") => Change::Created,
            Some("changed") => Change::Changed,
            Some("deleted") => Change::Deleted,
            _ => return Err(unsupported("type", event.kind)),
        };
        if event.subject != event.data.id {
            return Err(EventError::Inconsistent("subject and data name different resources"));
        }
        let event =
            LifecycleEvent { change, at: event.time, resource: event.data, source: event.source };
        event.check()?;
        Ok(event)
    }

    fn check(&self) -> Result<(), EventError> {
        self.resource.check().map_err(EventError::Resource)?;
        if !self.at.is_plausible() {
            return Err(EventError::Inconsistent("time lies outside the years 2000 to 2199"));
        }
        if self.source.is_empty() || self.source.len() > MAX_SOURCE_BYTES {
            return Err(EventError::Inconsistent("source is empty or too long"));
        }
        Ok(())
    }
}

fn unsupported(field: &'static str, found: String) -> EventError {
    EventError::Unsupported { field, found }
}
