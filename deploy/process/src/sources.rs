//! What this machine has to observe.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nilometer_clock::{SharedClock, SystemClock};
use nilometer_collect::Watched;
use nilometer_cri::CriConfig;
use nilometer_host::HostConfig;
use nilometer_libvirt::LibvirtConfig;
use nilometer_source::{Discovery, Outlet};
use tokio::sync::mpsc;
use tracing::info;

use crate::settings::{Settings, SourceName};

/// What was looked for, and what came of it.
pub(crate) struct Found {
    /// Sources that are there.
    pub(crate) watched: Vec<Watched>,
    /// Those that are not.
    pub(crate) absent: Vec<Absent>,
}

/// A source that is not there.
#[derive(Clone, Debug)]
pub struct Absent {
    /// Its name.
    pub label: &'static str,
    /// Why, for people.
    pub reason: String,
    name: SourceName,
}

/// The sources that are not there now, for whoever shows them.
pub type Missing = Arc<Mutex<Vec<Absent>>>;

/// How often what is not there is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Looks for every source that the configuration names.
pub(crate) async fn discover(settings: &Settings, clock: &SharedClock, outlet: &Outlet) -> Found {
    let mut found = Found { watched: Vec::new(), absent: Vec::new() };
    for name in &settings.collect.sources {
        match look_for(*name, settings, clock.clone(), outlet.clone()).await {
            (_, Discovery::Found { source, what }) => {
                found.watched.push(Watched { source, found: what });
            }
            (label, Discovery::Absent { reason }) => {
                found.absent.push(Absent { label, reason, name: *name });
            }
        }
    }
    found
}

/// Looks for what is missing again and again, until all is there or nobody waits for it.
pub(crate) async fn look_again(
    settings: Settings,
    clock: SharedClock,
    outlet: Outlet,
    missing: Missing,
    late: mpsc::Sender<Watched>,
) {
    let absent = || missing.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        tokio::select! {
            () = late.closed() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let names: Vec<SourceName> = absent().iter().map(|absent| absent.name).collect();
        if names.is_empty() {
            return;
        }
        for name in names {
            let (label, discovery) = look_for(name, &settings, clock.clone(), outlet.clone()).await;
            if let Discovery::Found { source, what } = discovery {
                info!(source = label, found = what, "source turned up");
                absent().retain(|absent| absent.name != name);
                if late.send(Watched { source, found: what }).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn look_for(
    name: SourceName,
    settings: &Settings,
    clock: SharedClock,
    outlet: Outlet,
) -> (&'static str, Discovery) {
    let node = settings.node();
    let host = HostConfig { node: Some(node.clone()), ..HostConfig::default() };
    let or = |given: &Vec<_>, usual| if given.is_empty() { usual } else { given.clone() };
    match name {
        SourceName::Host => ("host", nilometer_host::discover(host, clock).await),
        SourceName::Cgroup => ("cgroup", nilometer_host::discover_cgroups(host, clock).await),
        SourceName::Cri => {
            let usual = CriConfig::default();
            let sockets = or(&settings.collect.cri_sockets, usual.sockets.clone());
            let cri = CriConfig { node, sockets, ..usual };
            ("cri", nilometer_cri::discover(cri, clock, outlet).await)
        }
        SourceName::Libvirt => {
            let usual = LibvirtConfig::default();
            let sockets = or(&settings.collect.libvirt_sockets, usual.sockets.clone());
            let state_dirs = or(&settings.collect.libvirt_state_dirs, usual.state_dirs.clone());
            let libvirt = LibvirtConfig { node, sockets, state_dirs, ..usual };
            ("libvirt", nilometer_libvirt::discover(libvirt, clock, outlet).await)
        }
        SourceName::Simulated => ("simulated", crate::simulated::discover(settings, clock, outlet)),
    }
}

/// Prints what was found and what was not.
///
/// # Errors
///
/// If standard output is closed.
pub async fn print(settings: &Settings) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let (outlet, _pushed) = mpsc::channel(64);
    let found = discover(settings, &clock, &outlet).await;
    let mut out = std::io::stdout().lock();
    for watched in &found.watched {
        writeln!(out, "{:<8} {}", watched.source.name(), watched.found)?;
    }
    for Absent { label, reason, .. } in &found.absent {
        writeln!(out, "{label:<8} not found: {reason}")?;
    }
    Ok(())
}
