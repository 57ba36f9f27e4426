//! Resources: anything metered.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id, name, project, node, attribute key or value, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;
/// Most attributes one resource may have.
pub const MAX_ATTRIBUTES: usize = 64;
/// Attribute that says during which boot of its machine a resource is; its counters begin anew
/// with another one.
pub const BOOT_ID: &str = "boot_id";

/// What sort of thing a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// A machine that runs others: a hypervisor, or a Kubernetes node.
    Node,
    /// A virtual machine.
    Vm,
    /// A pod: one sandbox of a container runtime.
    Pod,
    /// A container in a pod.
    Container,
    /// A service of the init system, metered by its cgroup.
    Service,
    /// A slice of the init system (such as a user's), metered by its cgroup.
    Slice,
    /// A block device of a node or VM.
    Disk,
    /// A mounted filesystem of a node.
    Filesystem,
    /// A network interface of a node, VM or pod.
    Interface,
    /// An energy domain of a node, such as a CPU package.
    EnergyDomain,
}

/// A value that the contract does not allow in a resource.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// A text is longer than [`MAX_TEXT_BYTES`].
    #[error("{field} has {bytes} bytes, more than {MAX_TEXT_BYTES}")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The id is empty.
    #[error("a resource needs an id")]
    NoId,
    /// More than [`MAX_ATTRIBUTES`] attributes.
    #[error("{0} attributes, more than {MAX_ATTRIBUTES}")]
    TooManyAttributes(usize),
    /// A kind that this version does not know.
    #[error("unknown resource kind {0:?}")]
    UnknownKind(String),
}

impl ResourceKind {
    /// Every kind, in order.
    pub const ALL: [ResourceKind; 10] = [
        ResourceKind::Node,
        ResourceKind::Vm,
        ResourceKind::Pod,
        ResourceKind::Container,
        ResourceKind::Service,
        ResourceKind::Slice,
        ResourceKind::Disk,
        ResourceKind::Filesystem,
        ResourceKind::Interface,
        ResourceKind::EnergyDomain,
    ];

    /// The name used on the wire, in tables and in price books.
    pub fn as_str(self) -> &'static str {
        match self {
            ResourceKind::Node => "node",
            ResourceKind::Vm => "vm",
            ResourceKind::Pod => "pod",
            ResourceKind::Container => "container",
            ResourceKind::Service => "service",
            ResourceKind::Slice => "slice",
            ResourceKind::Disk => "disk",
            ResourceKind::Filesystem => "filesystem",
            ResourceKind::Interface => "interface",
            ResourceKind::EnergyDomain => "energy_domain",
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ResourceKind {
    type Err = InvalidResource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| InvalidResource::UnknownKind(text.to_owned()))
    }
}

/// The state of a resource from one lifecycle event until the next.
///
/// The id is unique over the estate and never reused. Device ids extend their owner's:
/// `<owner>/disk/vda`. Attributes hold what prices and placement match on; the ones with a
/// meaning to us are `vcpus`, `memory_bytes` and `disk_bytes` (allocated sizes, decimal numbers),
/// `flavor`, and for nodes `cpus` and `memory_bytes` (capacity).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Unique over the estate.
    pub id: String,
    /// What it is.
    pub kind: ResourceKind,
    /// Who pays; empty for the operator's own.
    #[serde(default)]
    pub project: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// The machine it runs on, a node's id; empty when unknown.
    #[serde(default)]
    pub node: String,
    /// The resource it is part of: container → pod → node → vm → hypervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Labels, flavor, sizes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Resource {
    /// A resource with an id and a kind and nothing else.
    pub fn new(id: impl Into<String>, kind: ResourceKind) -> Self {
        Resource {
            id: id.into(),
            kind,
            project: String::new(),
            name: String::new(),
            node: String::new(),
            parent: None,
            attributes: BTreeMap::new(),
        }
    }

    /// Checks every bound of the contract.
    pub fn check(&self) -> Result<(), InvalidResource> {
        if self.id.is_empty() {
            return Err(InvalidResource::NoId);
        }
        let texts = [
            ("id", &self.id),
            ("project", &self.project),
            ("name", &self.name),
            ("node", &self.node),
            ("parent", self.parent.as_ref().unwrap_or(&self.id)),
        ];
        let attributes = self.attributes.iter();
        let pairs = attributes.flat_map(|(k, v)| [("attribute key", k), ("attribute value", v)]);
        for (field, text) in texts.into_iter().chain(pairs) {
            if text.len() > MAX_TEXT_BYTES {
                return Err(InvalidResource::TooLong { field, bytes: text.len() });
            }
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(InvalidResource::TooManyAttributes(self.attributes.len()));
        }
        Ok(())
    }
}
