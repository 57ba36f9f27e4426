//! Kinds of resources: a name, and what the catalogue says of it.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{InvalidName, check_name};

/// What sort of thing a resource is, by name; any name may occur, and the catalogue says what is
/// known of it.
///
/// Equal, ordered and hashed by the name.
#[derive(Clone)]
pub struct ResourceKind(Repr);

#[derive(Clone)]
enum Repr {
    BuiltIn(&'static str),
    Other(Arc<str>),
}

/// One kind of resource as the catalogue declares it; a kind that is not declared has none of the
/// traits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: ResourceKind,
    /// Uses CPU and memory of the resource that it is part of, and counts there as a child; never
    /// two kinds of which one is within the other on the same parent.
    pub computes: bool,
    /// Runs other resources, so that its usage splits into theirs, overhead and idle.
    pub contains: bool,
    /// Costs money while it is idle.
    pub costs_idle: bool,
    /// The kind that it is usually part of.
    pub parent: Option<ResourceKind>,
    /// One sentence for people.
    pub description: String,
}

macro_rules! built_in {
    ($($constant:ident = $name:literal, $doc:literal;)*) => {
        impl ResourceKind {
            $(#[doc = $doc] pub const $constant: ResourceKind = ResourceKind(Repr::BuiltIn($name));)*
            const BUILT_IN: &[&str] = &[$($name),*];
        }
    };
}

built_in! {
    NODE = "node", "A machine that runs others: a hypervisor, or a Kubernetes node.";
    VM = "vm", "A virtual machine.";
    POD = "pod", "A pod: one sandbox of a container runtime.";
    CONTAINER = "container", "A container in a pod.";
    SERVICE = "service", "A service of the init system, metered by its cgroup.";
    SLICE = "slice", "A slice of the init system (such as a user's), metered by its cgroup.";
    DISK = "disk", "A block device of a node or VM.";
    FILESYSTEM = "filesystem", "A mounted filesystem of a node.";
    INTERFACE = "interface", "A network interface of a node, VM or pod.";
    ENERGY_DOMAIN = "energy_domain", "An energy domain of a node, such as a CPU package.";
}

impl ResourceKind {
    /// The name on the wire, in tables and in price books.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::BuiltIn(name) => name,
            Repr::Other(name) => name,
        }
    }
}

impl FromStr for ResourceKind {
    type Err = InvalidName;

    /// Any name that [`check_name`] allows.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = Self::BUILT_IN.iter().find(|name| **name == text) {
            return Ok(ResourceKind(Repr::BuiltIn(name)));
        }
        check_name("resource kind", text)?;
        Ok(ResourceKind(Repr::Other(text.into())))
    }
}

impl PartialEq for ResourceKind {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ResourceKind {}

impl PartialOrd for ResourceKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ResourceKind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for ResourceKind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for ResourceKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ResourceKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_name() {
        let parsed: ResourceKind = "vm".parse().unwrap();
        assert_eq!(parsed, ResourceKind::VM);
        assert_eq!(ResourceKind(Repr::Other("vm".into())), ResourceKind::VM);
        let gpu: ResourceKind = "gpu".parse().unwrap();
        assert!(gpu < ResourceKind::VM && gpu != ResourceKind::NODE);
        assert_eq!(format!("{gpu:>5}|{gpu:?}"), "  gpu|\"gpu\"");
        assert_eq!(serde_json::to_string(&gpu).unwrap(), "\"gpu\"");
        assert_eq!(serde_json::from_str::<ResourceKind>("\"gpu\"").unwrap(), gpu);
        assert!("".parse::<ResourceKind>().is_err() && "a b".parse::<ResourceKind>().is_err());
    }
}
