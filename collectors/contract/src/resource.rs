//! Resources: anything metered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kind::ResourceKind;

/// Longest id, name, project, node, attribute key or value, in bytes.
pub const MAX_TEXT_BYTES: usize = 512;
/// Most attributes one resource may have.
pub const MAX_ATTRIBUTES: usize = 64;

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
}

/// The state of a resource from one lifecycle event until the next.
///
/// The id is unique over the estate and never reused. Device ids extend their owner's:
/// `<owner>/disk/vda`. Attributes hold what prices and placement match on; those with a meaning to
/// the program are in [`attribute`](crate::attribute).
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
