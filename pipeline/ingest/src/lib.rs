//! From the log into the tables, each record exactly once, and visible within a second.
//!
//! Keeps invariants 1 to 6 and 8b: position and rows in one transaction, gaps as facts, identity of
//! samples, dead letters with their reason, one view of table ∪ memory.

mod beginning;
mod bounds;
mod config;
mod cut;
mod epochs;
mod fetch;
mod flush;
mod follow;
mod forget;
mod gaps;
mod index;
mod ingester;
mod lag;
mod lifecycle;
mod load;
mod lookup;
mod lost;
mod maintain;
mod memory;
mod metrics;
mod note;
mod ownership;
mod plausible;
mod positions;
mod publish;
mod pulse;
mod record;
mod repair;
mod replay;
mod rows;
mod sink;
mod state;
mod stream;
mod tables;
mod tail;
mod tell;
mod turns;
mod view;

pub use bounds::Bounds;
pub use config::IngestConfig;
pub use epochs::{Epochs, Reach};
pub use flush::Overtaken;
pub use follow::Follower;
pub use gaps::KnownGaps;
pub use index::{Collision, SeriesIndex};
pub use maintain::maintain;
pub use metrics::Metrics;
pub use note::{Extent, MAINTENANCE, own_up};
pub use ownership::{IngestError, Ingester};
pub use repair::{Repaired, repair};
pub use tables::{COMMITS, DEAD_LETTERS, EPOCHS, EVENTS, GAPS, TABLES};
pub use view::{Shared, TableView, Tables, View};
