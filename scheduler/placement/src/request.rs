//! What is asked for: a workload that wants a node.

use std::collections::BTreeMap;

use nilometer_contract::{MAX_ATTRIBUTES, MAX_TEXT_BYTES, Resource, ResourceKind, attribute};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::score::Load;

/// Most workloads in one burst.
pub const MAX_BURST: usize = 256;
/// Largest request for cores, in thousandths: a million cores.
const MAX_CPU_MILLIS: u64 = 1_000_000_000;
/// Largest request for memory: 1 PiB.
const MAX_MEMORY_BYTES: u64 = 1 << 50;

/// A workload to place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Name it will be known by, unique among the workloads of its project.
    pub name: String,
    /// Its project, or the namespace of a pod.
    #[serde(default)]
    pub project: String,
    /// Id of the resource it will become, where that is known before, such as a pod's uid.
    #[serde(default)]
    pub id: String,
    /// `vm` or `pod`.
    pub kind: ResourceKind,
    /// Requested cores in thousandths; 0 if none.
    pub cpu_millis: u64,
    /// Requested memory; 0 if none.
    pub memory_bytes: u64,
    /// Labels, flavor.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// Why a request cannot be answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// None, or more than [`MAX_BURST`].
    #[error("{0} workloads; a burst has 1 to {MAX_BURST}")]
    Burst(usize),
    /// Two workloads of a burst could not be told apart.
    #[error("workload {0:?} is named twice")]
    Twice(String),
    /// One workload's request breaks a bound.
    #[error("workload {name:?}: {reason}")]
    Workload {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Request {
    /// Cores it is expected to use at its peak before anything is known of it, in thousandths.
    pub fn cpu_estimate(&self, policy: &Policy) -> u64 {
        or_default(self.cpu_millis, policy.default_cpu_millis)
    }

    /// Memory it is expected to use at its peak before anything is known of it.
    pub fn memory_estimate(&self, policy: &Policy) -> u64 {
        or_default(self.memory_bytes, policy.default_memory_bytes)
    }

    /// What it counts for on its way to a node.
    pub fn load(&self, policy: &Policy) -> Load {
        Load {
            cpu_request: self.cpu_millis,
            memory_request: self.memory_bytes,
            cpu_peak: self.cpu_estimate(policy),
            memory_peak: self.memory_estimate(policy),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("a workload needs a name".to_owned());
        }
        if ![ResourceKind::VM, ResourceKind::POD].contains(&self.kind) {
            return Err(format!("kind {} cannot be placed; use vm or pod", self.kind));
        }
        if self.cpu_millis > MAX_CPU_MILLIS {
            return Err(format!("{} thousandths of a core are too many", self.cpu_millis));
        }
        if self.memory_bytes > MAX_MEMORY_BYTES {
            return Err(format!("{} bytes of memory are too many", self.memory_bytes));
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(format!("more than {MAX_ATTRIBUTES} attributes"));
        }
        let texts = [&self.name, &self.project, &self.id];
        let mut texts = texts.into_iter().chain(self.attributes.iter().flat_map(|(k, v)| [k, v]));
        match texts.find(|text| text.len() > MAX_TEXT_BYTES) {
            Some(_) => Err(format!("a text is longer than {MAX_TEXT_BYTES} bytes")),
            None => Ok(()),
        }
    }
}

/// Checks a burst before it is placed.
pub fn check(requests: &[Request]) -> Result<(), InvalidRequest> {
    if requests.is_empty() || requests.len() > MAX_BURST {
        return Err(InvalidRequest::Burst(requests.len()));
    }
    let mut names = std::collections::HashSet::new();
    for request in requests {
        request.check().map_err(|reason| {
            let name = request.name.chars().take(MAX_TEXT_BYTES).collect();
            InvalidRequest::Workload { name, reason }
        })?;
        if !names.insert((&request.project, &request.name)) {
            return Err(InvalidRequest::Twice(request.name.clone()));
        }
    }
    Ok(())
}

/// Cores in thousandths that a resource has or requests: 0 if none.
pub fn cpu_millis_of(resource: &Resource) -> u64 {
    let cores = |name: &str| {
        let cores: f64 = resource.attributes.get(name)?.parse().ok()?;
        (cores.is_finite() && cores > 0.0)
            .then(|| ((cores * 1_000.0).round() as u64).clamp(1, MAX_CPU_MILLIS))
    };
    cores(attribute::VCPUS).unwrap_or(0)
}

/// Memory that a resource has or requests; 0 if none.
pub fn memory_bytes_of(resource: &Resource) -> u64 {
    let bytes =
        resource.attributes.get(attribute::MEMORY_BYTES).and_then(|text| text.parse::<f64>().ok());
    bytes.map_or(0, |bytes| (bytes.max(0.0).round() as u64).min(MAX_MEMORY_BYTES))
}

fn or_default(requested: u64, default: u64) -> u64 {
    if requested == 0 { default } else { requested }
}
