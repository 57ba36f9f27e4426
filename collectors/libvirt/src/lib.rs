//! Source: virtual machines of libvirt, over its RPC protocol.
//!
//! Speaks the protocol itself, read-only, over libvirt's unix socket, so that building needs no C
//! library. All running domains come in one bulk call per observation; starts, stops, pauses,
//! hot-plugged devices and changes of metadata are pushed by libvirt in between.
//!
//! **Edges.** A VM is created when its process starts, as the file that libvirt writes at that
//! moment says, and deleted at the instant at which the event `stopped` is received: libvirt's
//! events carry no time of their own. A VM that migrates away is not deleted, and one that
//! arrives is taken up when it resumes here. A guest that reboots stays the same VM. An end that
//! no event told is dated to the last reading and carries the attribute `end=estimated`.
//!
//! **Last reading.** `shutdown` comes a little before `stopped`, and a reading is taken then if
//! the process still answers: when the guest switches itself off it does, when the VM is
//! destroyed seldom, after a crash never. What is used after the last reading is not seen.

mod birth;
mod connection;
mod description;
mod fleet;
mod protocol;
mod resources;
mod samples;
mod session;
mod stats;
mod watcher;
mod xdr;

#[cfg(test)]
mod fleet_tests;
#[cfg(test)]
mod session_tests;

use nilometer_contract::Causes;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use nilometer_clock::SharedClock;
use nilometer_source::{Discovery, Observation, Outlet, Source, SourceError};
use tokio::sync::{mpsc, oneshot};

use crate::session::Session;
use crate::watcher::{Address, Answer, Watcher};

/// Where libvirt is and how this machine is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibvirtConfig {
    /// Sockets to try in turn; the connection is read-only on any of them.
    pub sockets: Vec<PathBuf>,
    /// Which driver to open, such as `qemu:///system`; empty for the daemon's own choice.
    pub uri: String,
    /// Id of the node that the VMs run on.
    pub node: String,
    /// Folders in which drivers keep the state of running domains, to find their true start.
    pub state_dirs: Vec<PathBuf>,
    /// How long to wait for one answer. Past it the connection is given up and made anew.
    pub call_timeout: Duration,
}

struct Libvirt {
    requests: mpsc::Sender<Answer>,
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        let sockets = ["virtqemud-sock", "libvirt-sock", "virtqemud-sock-ro", "libvirt-sock-ro"];
        LibvirtConfig {
            sockets: sockets.map(|name| PathBuf::from("/run/libvirt").join(name)).into(),
            uri: "qemu:///system".to_owned(),
            node: String::new(),
            state_dirs: vec![PathBuf::from("/run/libvirt/qemu")],
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// Looks for libvirt. When it is there, a task watches it until the source is dropped.
pub async fn discover(config: LibvirtConfig, clock: SharedClock, outlet: Outlet) -> Discovery {
    let LibvirtConfig { sockets, uri, node, state_dirs, call_timeout: patience } = config;
    let present: Vec<_> = sockets.iter().filter(|path| path.exists()).cloned().collect();
    if present.is_empty() {
        let tried: Vec<_> = sockets.iter().map(|path| path.display().to_string()).collect();
        return Discovery::Absent { reason: format!("no socket at {}", tried.join(", ")) };
    }
    let mut session = match Session::open_any(&present, &uri, patience, &clock).await {
        Ok((_, session)) => session,
        Err(failures) => {
            let failures: Vec<_> = failures
                .iter()
                .map(|(path, error)| format!("{}: {}", path.display(), Causes(error)))
                .collect();
            return Discovery::Absent { reason: failures.join("; ") };
        }
    };
    let what = match describe(&mut session).await {
        Ok(what) => what,
        Err(error) => return Discovery::Absent { reason: Causes(&error).to_string() },
    };
    let (requests, asked) = mpsc::channel(1);
    let address = Address { sockets, uri, patience };
    let watcher = Watcher::new(address, node, state_dirs, clock, outlet, session);
    tokio::spawn(watcher.run(asked));
    Discovery::Found { source: Box::new(Libvirt { requests }), what }
}

#[async_trait]
impl Source for Libvirt {
    fn name(&self) -> &'static str {
        fleet::SOURCE
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let (answer, answered) = oneshot::channel();
        let gone =
            || SourceError { what: "the task that watches libvirt ended".into(), cause: None };
        self.requests.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// `libvirt 9.0.0 (QEMU), 3 running domains`.
async fn describe(session: &mut Session) -> Result<String, connection::CallError> {
    let version = session.version().await?;
    let reply = session.stats(&[]).await?;
    let count = protocol::decode_stats(&reply)?.len();
    let domains = if count == 1 { "domain" } else { "domains" };
    Ok(format!("{version}, {count} running {domains}"))
}
