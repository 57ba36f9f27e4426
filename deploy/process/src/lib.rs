//! What the binaries share: each is a thin `main` over this crate.
//!
//! ```text
//!  Settings ─▶ Process ─┬─ collect: sources ─▶ agent ─▶ log
//!                       ├─ serve_http: /healthz /readyz /metrics, and the surfaces of the roles
//!                       └─ wait: until a signal, then drained in order
//! ```
//!
//! `nilometer` adds the roles that need tables; `nilometer-agent` is this alone, so nothing here may
//! depend on the store, on DataFusion or on a database. As a part of binaries it tells failures with
//! `anyhow`.

mod access;
mod audit;
mod cli;
mod collect;
mod crew;
mod folder;
mod http;
pub mod layers;
mod listen;
mod logging;
mod process;
mod serve;
mod settings;
mod simulated;
mod sources;
pub mod values;

pub use access::without_accounts;
pub use cli::{CommonOptions, NodeCommand, print_config};
pub use collect::Collecting;
pub use crew::Crew;
pub use folder::{FolderLock, lock};
pub use http::{Readiness, bind};
pub use listen::{Limit, Listen, Readers, TlsSettings};
pub use logging::start_logging;
pub use process::{Process, block_on};
pub use settings::{
    Collect, Data, Kafka, Log, NODE_DEFAULTS, OTHER_SECTIONS, Settings, Simulated, SourceName,
};
pub use simulated::Noting;
pub use sources::{Absent, Missing, print as print_sources};
