//! Source: pods and containers of a CRI runtime (containerd, CRI-O), over gRPC on its unix socket.
//!
//! Two paths lead to the same facts, and a ledger makes each fact be said once:
//!
//! ```text
//! poll    ListPodSandbox, ListContainers ─┐
//!         ContainerStatus of what is new ─┼─► ledger ─► events   ┐
//! stream  TaskStart, TaskExit, …         ─┘                      ├─► agent
//! poll    ListContainerStats, ListPodSandboxStats ─► samples     ┘
//! ```
//!
//! A container is billed from `started_at` to `finished_at`, both the runtime's own, whichever
//! path found it; so it is billed right even when it came and went between two polls, and a
//! source that was restarted says the same events under the same ids. While the stream is down
//! the poll finds what the runtime still keeps.
//!
//! A pod is its Kubernetes uid, whatever number of sandboxes it had. CRI does not say when a
//! sandbox ended: the stream does; where the stream missed it, the pod ends with the last of its
//! containers.
//!
//! CPU time of a container found young starts with a zero at `started_at`, since its cgroup was
//! new then, and closes with what its cgroup said at its exit, when that was still there.

mod cgroup;
mod config;
mod describe;
mod discover;
#[cfg(test)]
mod fixtures;
mod ledger;
mod lookup;
mod poll;
mod source;
mod stats;
mod stream;
mod worker;

pub mod api;
pub mod client;

pub use config::CriConfig;
pub use discover::discover;

/// Name of this source on samples, events and metrics.
pub const SOURCE: &str = "cri";
