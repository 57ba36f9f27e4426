//! What a runtime says of a pod or container, as resources of the contract. Pure.
//!
//! The same container gives the same resource whenever it is asked about, running or exited, so
//! that its events have the same ids.

use std::collections::BTreeMap;

use nilometer_contract::{MAX_ATTRIBUTES, MAX_TEXT_BYTES, Resource, ResourceKind, Timestamp};
use serde::Deserialize;

use crate::api::{self, LinuxContainerResources};

const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Labels that the kubelet and containerd set for themselves.
const INTERNAL: [&str; 2] = ["io.kubernetes.", "io.cri-containerd"];

type Labels = BTreeMap<String, String>;

/// One sandbox.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodFacts {
    pub(crate) sandbox: String,
    pub(crate) resource: Resource,
    pub(crate) created: Timestamp,
    pub(crate) ready: bool,
    /// How often Kubernetes made the pod's sandbox anew.
    pub(crate) attempt: u32,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerFacts {
    pub(crate) sandbox: String,
    /// As it was made.
    pub(crate) resource: Resource,
    /// As it is now; differs in its sizes when it was resized.
    pub(crate) current: Resource,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    pub(crate) exit_code: i32,
    /// Its first process while it runs, else 0.
    pub(crate) pid: u32,
}

/// The runtime's verbose answer; every field may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    #[serde(rename = "sandboxID")]
    pub(crate) sandbox: String,
    pub(crate) pid: u32,
    config: Option<InfoConfig>,
    #[serde(rename = "runtimeSpec")]
    spec: Option<Spec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoConfig {
    linux: Option<InfoLinux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoLinux {
    resources: Option<InfoResources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InfoResources {
    cpu_period: i64,
    cpu_quota: i64,
    cpu_shares: i64,
    memory_limit_in_bytes: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    linux: Option<SpecLinux>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecLinux {
    resources: Option<SpecResources>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecResources {
    cpu: Option<SpecCpu>,
    memory: Option<SpecMemory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecCpu {
    shares: Option<i64>,
    quota: Option<i64>,
    period: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpecMemory {
    limit: Option<i64>,
}

impl Info {
    /// Reads the `info` of a verbose answer; what is not there or not JSON is left empty.
    pub(crate) fn read(info: &Labels) -> Self {
        info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// What is known without asking: the sandbox.
    pub(crate) fn of_sandbox(sandbox: String) -> Self {
        Info { sandbox, ..Info::default() }
    }

    /// The sizes asked for when the container was made; a resize does not touch them.
    fn asked(&self) -> Option<LinuxContainerResources> {
        let asked = self.config.as_ref()?.linux.as_ref()?.resources.as_ref()?;
        Some(LinuxContainerResources {
            cpu_period: asked.cpu_period,
            cpu_quota: asked.cpu_quota,
            cpu_shares: asked.cpu_shares,
            memory_limit_in_bytes: asked.memory_limit_in_bytes,
        })
    }

    /// The sizes in force.
    fn in_force(&self) -> Option<LinuxContainerResources> {
        let spec = self.spec.as_ref()?.linux.as_ref()?.resources.as_ref()?;
        let cpu = spec.cpu.as_ref();
        Some(LinuxContainerResources {
            cpu_period: cpu.and_then(|cpu| cpu.period).unwrap_or_default(),
            cpu_quota: cpu.and_then(|cpu| cpu.quota).unwrap_or_default(),
            cpu_shares: cpu.and_then(|cpu| cpu.shares).unwrap_or_default(),
            memory_limit_in_bytes: spec.memory.as_ref().and_then(|m| m.limit).unwrap_or_default(),
        })
    }
}

impl From<&api::PodSandboxStatus> for api::PodSandbox {
    fn from(status: &api::PodSandboxStatus) -> Self {
        api::PodSandbox {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            created_at: status.created_at,
            labels: status.labels.clone(),
        }
    }
}

/// The pod of a sandbox, on `node`.
pub(crate) fn pod(node: &str, sandbox: &api::PodSandbox) -> PodFacts {
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    let namespace = label(&sandbox.labels, POD_NAMESPACE).unwrap_or(&metadata.namespace);
    let name = label(&sandbox.labels, POD_NAME).unwrap_or(&metadata.name);
    let id = label(&sandbox.labels, POD_UID).unwrap_or(&sandbox.id);
    let mut resource = Resource::new(cut(id), ResourceKind::POD);
    resource.project = cut(namespace);
    resource.name = cut(&format!("{namespace}/{name}"));
    resource.node = node.to_owned();
    resource.parent = (!node.is_empty()).then(|| node.to_owned());
    put(&mut resource, "namespace", namespace);
    put(&mut resource, "pod", name);
    put(&mut resource, "sandbox", &sandbox.id);
    put(&mut resource, "restart_count", &metadata.attempt.to_string());
    put_labels(&mut resource, &sandbox.labels);
    PodFacts {
        sandbox: sandbox.id.clone(),
        resource,
        created: Timestamp::from_nanos(sandbox.created_at),
        ready: sandbox.state == api::PodSandboxState::Ready as i32,
        attempt: metadata.attempt,
    }
}

/// A container in a pod.
pub(crate) fn container(
    node: &str,
    status: &api::ContainerStatus,
    info: &Info,
    pod: Option<&Resource>,
) -> ContainerFacts {
    let attribute = |key: &str| pod.and_then(|pod| pod.attributes.get(key)).map(String::as_str);
    let metadata = status.metadata.clone().unwrap_or_default();
    let namespace = label(&status.labels, POD_NAMESPACE).or(attribute("namespace"));
    let name = label(&status.labels, CONTAINER_NAME).unwrap_or(&metadata.name);
    let parent = pod.map(|pod| pod.id.as_str()).or(label(&status.labels, POD_UID));

    let mut resource = Resource::new(cut(&status.id), ResourceKind::CONTAINER);
    resource.project = cut(namespace.unwrap_or_default());
    resource.name = cut(name);
    resource.node = node.to_owned();
    resource.parent = parent.map(cut);
    put(&mut resource, "namespace", namespace.unwrap_or_default());
    let pod_name = label(&status.labels, POD_NAME).or(attribute("pod"));
    put(&mut resource, "pod", pod_name.unwrap_or_default());
    put(&mut resource, "container", name);
    let image = status.image.as_ref().map(|image| image.image.as_str());
    put(&mut resource, "image", image.unwrap_or(&status.image_ref));
    put(&mut resource, "sandbox", &info.sandbox);
    put(&mut resource, "restart_count", &metadata.attempt.to_string());

    let said = status.resources.as_ref().and_then(|resources| resources.linux.clone());
    let said = said.filter(|linux| *linux != LinuxContainerResources::default());
    let in_force = said.or_else(|| info.in_force()).unwrap_or_default();
    let asked = info.asked().unwrap_or_else(|| in_force.clone());
    let mut current = resource.clone();
    put_sizes(&mut resource, &asked);
    put_sizes(&mut current, &in_force);
    put_labels(&mut resource, &status.labels);
    put_labels(&mut current, &status.labels);
    ContainerFacts {
        sandbox: info.sandbox.clone(),
        current,
        resource,
        started: instant(status.started_at),
        finished: instant(status.finished_at),
        exit_code: status.exit_code,
        pid: info.pid,
    }
}

/// Whether two states of a container have the same sizes; other differences are no resize.
pub(crate) fn same_sizes(one: &Resource, other: &Resource) -> bool {
    let sizes = ["vcpus", "memory_bytes", "cpu_shares"];
    sizes.iter().all(|size| one.attributes.get(*size) == other.attributes.get(*size))
}

/// An interface of a pod.
pub(crate) fn interface(pod: &Resource, name: &str) -> Resource {
    let id = format!("{}/interface/{name}", pod.id);
    let mut resource = Resource::new(cut(&id), ResourceKind::INTERFACE);
    resource.project = pod.project.clone();
    resource.name = cut(name);
    resource.node = pod.node.clone();
    resource.parent = Some(pod.id.clone());
    resource
}

/// A container's last state.
pub(crate) fn ended(resource: &Resource, exit_code: i64) -> Resource {
    let mut resource = resource.clone();
    put(&mut resource, "exit_code", &exit_code.to_string());
    resource
}

/// An instant that the runtime says in nanoseconds; 0 and less mean that there is none.
fn instant(nanos: i64) -> Option<Timestamp> {
    Some(Timestamp::from_nanos(nanos)).filter(|at| at.is_plausible())
}

fn label<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    labels.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

/// `vcpus` and `memory_bytes` only where there is a limit; shares are a weight, not a size.
fn put_sizes(resource: &mut Resource, sizes: &LinuxContainerResources) {
    if sizes.cpu_quota > 0 && sizes.cpu_period > 0 {
        let millis = sizes.cpu_quota.saturating_mul(1_000) / sizes.cpu_period;
        put(resource, "vcpus", &decimal(millis));
    }
    if sizes.memory_limit_in_bytes > 0 {
        put(resource, "memory_bytes", &sizes.memory_limit_in_bytes.to_string());
    }
    if sizes.cpu_shares > 0 {
        put(resource, "cpu_shares", &sizes.cpu_shares.to_string());
    }
}

/// Thousandths as a decimal number without trailing zeros: 1500 is `1.5`.
fn decimal(millis: i64) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The user's labels, in order of key, as many as one resource may have; one place is kept free
/// for the exit code.
fn put_labels(resource: &mut Resource, labels: &Labels) {
    for (key, value) in labels {
        if resource.attributes.len() + 1 >= MAX_ATTRIBUTES {
            return;
        }
        if !INTERNAL.iter().any(|prefix| key.starts_with(prefix)) {
            put(resource, &format!("label.{key}"), value);
        }
    }
}

/// Sets an attribute; one without a value, or with a key out of bounds, is left out.
fn put(resource: &mut Resource, key: &str, value: &str) {
    if !value.is_empty() && key.len() <= MAX_TEXT_BYTES {
        resource.attributes.insert(key.to_owned(), cut(value));
    }
}

/// The text, cut at the contract's bound on a character's border.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests;
