//! The contract: what collectors say and everything to their right reads.
//!
//! A *resource* is anything metered; a *meter* is what is measured on it; a *sample* is one
//! observation of a meter on a resource; a *lifecycle event* says that a resource was created,
//! changed or deleted at an exact instant. Samples travel as Arrow IPC batches, lifecycle events
//! as CloudEvents JSON; every length is bounded and decoding never panics.
//!
//! This crate does no IO and has no clock.

pub mod attribute;
mod builder;
mod catalogue;
mod causes;
mod epoch;
mod event;
mod facet;
mod gap;
mod history;
mod kind;
mod labels;
mod lifetime;
mod merged;
mod meter;
mod name;
mod precedence;
mod principal;
mod resource;
mod sample;
mod table;
mod time;
mod topic;
mod wire;

pub use builder::BatchBuilder;
pub use catalogue::{Catalogue, CatalogueError, Conflict, Statement, catalogue};
pub use causes::Causes;
pub use epoch::{Epoch, EpochId};
pub use event::{Change, EventError, LifecycleEvent, MAX_EVENT_BYTES};
pub use gap::{Gap, GapError, GapKind, MAX_GAP_BYTES, MAX_GAP_SOURCES};
pub use history::{Applied, History, HistoryBounds};
pub use kind::{Kind, ResourceKind};
pub use labels::{InvalidLabels, Labels, MAX_LABEL_BYTES, MAX_LABELS, MAX_LABELS_BYTES, pairs_of};
pub use lifetime::{Lifetime, Segment};
pub use meter::{InvalidUnit, MAX_UNIT_BYTES, Meter, MeterKind, Origin, Unit, usage_unit};
pub use name::{InvalidName, MAX_NAME_BYTES, check_name};
pub use precedence::Precedence;
pub use principal::{Principal, Role, Scope, UnknownRole, Validity};
pub use resource::{InvalidResource, MAX_ATTRIBUTES, MAX_TEXT_BYTES, Resource};
pub use sample::{Meters, SampleBatch, Subject, Subjects};
pub use table::{
    Cell, Cells, ColumnDef, ColumnType, Feed, ORIGIN, RowRule, RowSource, TableDef, column, columns,
};
pub use time::{
    InvalidTimestamp, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Timestamp, micros,
};
pub use topic::{DEAD_LETTERS, EVENTS, GAPS, SAMPLES, partition_of};
pub use wire::{
    MAX_METERS, MAX_RECORD_BYTES, MAX_ROWS, MAX_SUBJECTS, SMALL_BYTES, WIRE_VERSION, WireError,
    decode, encode, encode_parts,
};
