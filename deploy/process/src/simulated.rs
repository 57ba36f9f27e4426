//! The simulated fleet as a source of the agent: it remembers how far it is.
//!
//! After a SIGKILL the fleet must say again what may not have reached the log or the spool. The
//! agent holds samples in memory only while an append is under way, so what was observed longer
//! ago than an append may last is safe; that instant is noted in the data folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use nilometer_clock::{Clock, SharedClock};
use nilometer_contract::{Timestamp, micros};
use nilometer_simulated::{FleetConfig, SOURCE, SimulatedSource};
use nilometer_source::{Discovery, Observation, Outlet, Source, SourceError};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::settings::Settings;

/// Real time after which an observation is in the log or the spool: several append time-outs.
const SAFE_AFTER: Duration = Duration::from_secs(30);

/// A fleet that notes how far what it said is safe.
pub struct Noting<N> {
    source: SimulatedSource,
    note: N,
}

impl<N: FnMut(Timestamp) -> anyhow::Result<()> + Send> Noting<N> {
    /// Tells `note` from time to time up to which instant everything is safe.
    pub fn new(source: SimulatedSource, note: N) -> Self {
        Noting { source, note }
    }
}

#[async_trait]
impl<N: FnMut(Timestamp) -> anyhow::Result<()> + Send> Source for Noting<N> {
    fn name(&self) -> &'static str {
        SOURCE
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let seen = self.source.observe().await?;
        let fleet = self.source.fleet().config();
        let unsafe_micros = SAFE_AFTER.as_micros() as i64 * i64::from(fleet.factor);
        let said = self.source.fleet().position().unwrap_or(fleet.start);
        let safe = said.min(self.source.now()).plus_micros(-unsafe_micros).max(fleet.start);
        // An older place is as good: more is said again.
        if let Err(error) = (self.note)(safe) {
            warn!(error = format!("{error:#}"), "the fleet's place cannot be noted");
        }
        Ok(seen)
    }
}

/// What a data folder remembers of its fleet.
#[derive(Serialize, Deserialize)]
struct Place {
    start: Timestamp,
    epoch: Timestamp,
    safe: Timestamp,
}

/// A clock that stands still from an instant on.
struct Until {
    clock: SharedClock,
    end: Timestamp,
}

impl Clock for Until {
    fn now(&self) -> Timestamp {
        self.clock.now().min(self.end)
    }
}

/// The fleet of the configuration, from where the data folder says it was.
pub(crate) fn discover(all: &Settings, clock: SharedClock, outlet: Outlet) -> Discovery {
    match open(all, clock, outlet) {
        Ok((source, what)) => Discovery::Found { source, what },
        Err(error) => Discovery::Absent { reason: format!("{error:#}") },
    }
}

fn open(
    all: &Settings,
    clock: SharedClock,
    outlet: Outlet,
) -> anyhow::Result<(Box<dyn Source>, String)> {
    let settings = &all.simulated;
    let path = all.data.dir.join("simulated.json");
    let place = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged: remove it to begin anew", path.display()))?,
        Err(_) => {
            let start = settings.start.unwrap_or_else(|| clock.now());
            Place { start, epoch: settings.epoch.unwrap_or(start), safe: start }
        }
    };
    write(&path, &place)?;
    let fleet = FleetConfig {
        seed: settings.seed,
        nodes: settings.nodes,
        vms_and_pods: settings.workloads,
        projects: settings.projects,
        step_micros: micros(settings.step),
        start: place.start,
        factor: settings.factor,
        ..FleetConfig::default()
    };
    let clock: SharedClock = match settings.end {
        None => clock,
        Some(end) => {
            let lasts = (end.0 - place.start.0) / i64::from(settings.factor.max(1));
            Arc::new(Until { clock, end: place.epoch.plus_micros(lasts) })
        }
    };
    let next = fleet.steps_until(place.safe).saturating_sub(1);
    let source =
        SimulatedSource::resume(&fleet, clock, next)?.with_epoch(place.epoch).with_outlet(outlet);
    let what = format!("{} nodes, {} VMs and pods", fleet.nodes, fleet.vms_and_pods);
    let (start, epoch) = (place.start, place.epoch);
    let mut farthest = place.safe;
    let note = move |safe: Timestamp| {
        farthest = farthest.max(safe);
        write(&path, &Place { start, epoch, safe: farthest })
    };
    Ok((Box::new(Noting::new(source, note)), what))
}

fn write(path: &Path, place: &Place) -> anyhow::Result<()> {
    let fresh = path.with_extension("json.new");
    let refused = || format!("cannot write {}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(refused)?;
    std::fs::write(&fresh, serde_json::to_vec(place)?).with_context(refused)?;
    std::fs::rename(&fresh, path).with_context(refused)
}
