//! The tables: plain Delta on an object store.
//!
//! Owns what lies on disk: tables as they are declared, the layout of the samples, commits that
//! carry log positions with the rows they cover (invariant 1), compaction and retention. Nothing
//! here knows the log; nothing here queries.
//!
//! Samples are stored as `(at, series, value)` beside a `series` dimension: a third of the CPU of
//! a wide layout at the same size. `series` is a digest of what labels a sample, so any ingester
//! computes the same one without asking.

mod aside;
mod checked;
mod commit;
mod compact;
mod create;
mod expire;
mod file;
mod files;
mod find;
mod holder;
mod lease;
mod local;
mod log;
mod merge;
mod probe;
mod s3;
mod samples;
mod series;
mod storage;
mod sums;
mod table;
mod tables;
mod vacuum;

pub use deltalake_core::kernel::Add;

pub use aside::Missing;
pub use checked::Checked;
pub use commit::{CommitError, Position};
pub use compact::{CompactionPolicy, compact, pick};
pub use expire::{Expired, horizon};
pub use file::{FileError, encode_parquet, read_parquet};
pub use files::{DataFile, Files};
pub use find::Finder;
pub use holder::Holder;
pub use lease::{Claimant, Lease, LeaseConfig, LeaseError, Taken};
pub use log::{Beaten, Unread};
pub use probe::{Answer, PlaceError};
pub use samples::{Row, rows_of, sample_batch, split_by_day, write_samples};
pub use series::{Description, SeriesColumn, SeriesId, SeriesKey, subject_hash, text_hash};
pub use storage::{Storage, StorageConfig};
pub use table::{StoreError, Table};
pub use tables::{SAMPLES, SERIES};
pub use vacuum::vacuum;
