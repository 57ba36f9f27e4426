//! What this machine has to observe.

use std::io::Write;
use std::sync::Arc;

use nilometer_agent::Watched;
use nilometer_cri::CriConfig;
use nilometer_host::HostConfig;
use nilometer_libvirt::LibvirtConfig;
use nilometer_source::{Discovery, Outlet, SharedClock, SystemClock};
use tokio::sync::mpsc;

use crate::config::{Config, SourceName};

/// What was looked for, and what came of it.
pub(crate) struct Found {
    /// Sources that are there.
    pub(crate) watched: Vec<Watched>,
    /// Name and reason of those that are not.
    pub(crate) absent: Vec<(&'static str, String)>,
}

/// Looks for every source that the configuration names.
pub(crate) async fn discover(config: &Config, clock: &SharedClock, outlet: &Outlet) -> Found {
    let mut found = Found { watched: Vec::new(), absent: Vec::new() };
    for name in &config.collect.sources {
        let (label, discovery) = look_for(*name, config, clock.clone(), outlet.clone()).await;
        match discovery {
            Discovery::Found { source, what } => {
                found.watched.push(Watched { source, found: what });
            }
            Discovery::Absent { reason } => found.absent.push((label, reason)),
        }
    }
    found
}

async fn look_for(
    name: SourceName,
    config: &Config,
    clock: SharedClock,
    outlet: Outlet,
) -> (&'static str, Discovery) {
    let node = config.node();
    let host = HostConfig { node: Some(node.clone()), ..HostConfig::default() };
    let or = |given: &Vec<_>, usual| if given.is_empty() { usual } else { given.clone() };
    match name {
        SourceName::Host => ("host", nilometer_host::discover(host, clock).await),
        SourceName::Cgroup => ("cgroup", nilometer_host::discover_cgroups(host, clock).await),
        SourceName::Cri => {
            let usual = CriConfig::default();
            let sockets = or(&config.collect.cri_sockets, usual.sockets.clone());
            let cri = CriConfig { node, sockets, ..usual };
            ("cri", nilometer_cri::discover(cri, clock, outlet).await)
        }
        SourceName::Libvirt => {
            let usual = LibvirtConfig::default();
            let sockets = or(&config.collect.libvirt_sockets, usual.sockets.clone());
            let state_dirs = or(&config.collect.libvirt_state_dirs, usual.state_dirs.clone());
            let libvirt = LibvirtConfig { node, sockets, state_dirs, ..usual };
            ("libvirt", nilometer_libvirt::discover(libvirt, clock, outlet).await)
        }
        SourceName::Simulated => ("simulated", crate::simulated::discover(config, clock, outlet)),
    }
}

/// Prints what was found and what was not.
pub(crate) async fn print(config: &Config) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let (outlet, _pushed) = mpsc::channel(64);
    let found = discover(config, &clock, &outlet).await;
    let mut out = std::io::stdout().lock();
    for watched in &found.watched {
        writeln!(out, "{:<8} {}", watched.source.name(), watched.found)?;
    }
    for (name, reason) in &found.absent {
        writeln!(out, "{name:<8} not found: {reason}")?;
    }
    Ok(())
}
