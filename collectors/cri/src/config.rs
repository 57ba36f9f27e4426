//! What can be configured, with defaults that fit an ordinary node.

use std::path::PathBuf;

use serde::Deserialize;

/// Where the runtime is and how much of it is metered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriConfig {
    /// Sockets to try, in order; the first that answers is metered.
    pub sockets: Vec<PathBuf>,
    /// Id of the node that runs the pods: their parent.
    pub node: String,
    /// Where the host's `/proc` is, to find a container's cgroup.
    pub proc: PathBuf,
    /// Where the host's cgroups are mounted.
    pub cgroups: PathBuf,
    /// Most sandboxes metered at a time, ended ones that the runtime keeps included. What is
    /// beyond is left out, with a warning at each poll.
    pub max_pods: usize,
    /// Most containers metered at a time, in the same sense.
    pub max_containers: usize,
}

impl Default for CriConfig {
    fn default() -> Self {
        let sockets = [
            "/run/containerd/containerd.sock",
            "/var/run/crio/crio.sock",
            "/run/k3s/containerd/containerd.sock",
        ];
        CriConfig {
            sockets: sockets.into_iter().map(PathBuf::from).collect(),
            node: String::new(),
            proc: PathBuf::from("/proc"),
            cgroups: PathBuf::from("/sys/fs/cgroup"),
            max_pods: 10_000,
            max_containers: 50_000,
        }
    }
}
