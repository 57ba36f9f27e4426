//! Finds the machine's container runtime.

use std::path::Path;

use nilometer_clock::SharedClock;
use nilometer_source::{Discovery, Outlet};

use crate::api::{PodSandboxState, VersionResponse};
use crate::client::{CallError, Client};
use crate::config::CriConfig;
use crate::lookup::Lookup;
use crate::source::CriSource;
use crate::stream::{self, Kind};

/// Looks for a runtime at the configured sockets; the first that answers is metered.
pub async fn discover(config: CriConfig, clock: SharedClock, outlet: Outlet) -> Discovery {
    let mut silent = Vec::new();
    for socket in config.sockets.iter().filter(|socket| socket.exists()) {
        match greet(socket).await {
            Ok(found) => {
                let what = found.what();
                let lookup = Lookup::new(found.client, config, clock);
                let source = Box::new(CriSource::new(lookup, found.kind, outlet));
                return Discovery::Found { source, what };
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                silent.push(format!("{} does not answer: {error}{cause}", socket.display()));
            }
        }
    }
    let sockets: Vec<String> =
        config.sockets.iter().map(|socket| socket.display().to_string()).collect();
    let reason = match silent.is_empty() {
        true => format!("no socket at {}", sockets.join(", ")),
        false => silent.join("; "),
    };
    Discovery::Absent { reason }
}

struct Greeted {
    client: Client,
    version: VersionResponse,
    kind: Kind,
    pods: usize,
    containers: usize,
}

async fn greet(socket: &Path) -> Result<Greeted, CallError> {
    let client = Client::new(socket)?;
    let version = client.version().await?;
    let pods = client.sandboxes().await?;
    let containers = client.containers().await?;
    let ready = pods.iter().filter(|pod| pod.state == PodSandboxState::Ready as i32).count();
    let kind = stream::probe(&client).await;
    Ok(Greeted { client, version, kind, pods: ready, containers: containers.len() })
}

impl Greeted {
    /// `containerd 1.6.20 (CRI v1), 2 pods, 3 containers, events from containerd`.
    fn what(&self) -> String {
        let VersionResponse { runtime_name, runtime_version, runtime_api_version } = &self.version;
        format!(
            "{runtime_name} {runtime_version} (CRI {runtime_api_version}), {}, {}, {}",
            count(self.pods, "pod"),
            count(self.containers, "container"),
            self.kind.describe(),
        )
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
