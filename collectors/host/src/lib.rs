//! Source: this machine's own counters and its cgroups.
//!
//! Two sources, because they fail apart: `host` meters the node with its disks, filesystems,
//! interfaces and energy domains; `cgroup` meters services and slices, so that a machine without
//! VMs or containers still says what runs on it. Both only read text files of the kernel: no
//! process is started, and network filesystems are never touched, so that a dead server cannot
//! hang the agent. Roots are configurable, so that tests run on recorded trees.

mod cgroup;
mod context;
mod disk;
mod energy;
mod filesystem;
mod interface;
mod node;
mod pressure;
mod roster;
mod source;

use std::path::PathBuf;

pub use source::{discover, discover_cgroups};

/// Most disks, filesystems, interfaces and energy domains metered, each; what is beyond is left
/// out in order of name and said in a warning.
pub const MAX_DEVICES: usize = 256;

/// Where to read, and as whom.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Where procfs is mounted.
    pub proc: PathBuf,
    /// Where sysfs is mounted; cgroups are looked for in `fs/cgroup` below it.
    pub sys: PathBuf,
    /// The file that holds the machine's id.
    pub machine_id: PathBuf,
    /// Id of this node; the hostname when not given.
    pub node: Option<String>,
    /// Most cgroups metered; new ones beyond are left out in order of path and said in a warning.
    pub max_cgroups: usize,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            proc: "/proc".into(),
            sys: "/sys".into(),
            machine_id: "/etc/machine-id".into(),
            node: None,
            max_cgroups: 1_024,
        }
    }
}

/// The id of this node: its hostname. Every source of this machine names its node by it.
pub fn node_name() -> String {
    context::hostname(&HostConfig::default().proc)
}
