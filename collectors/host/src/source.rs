//! The two sources of this machine and how they are found.
//!
//! Reading runs on the blocking pool: a disk that hangs holds up this source and no other.

use async_trait::async_trait;
use nilometer_clock::SharedClock;
use nilometer_source::{Discovery, Observation, Source, SourceError};

use crate::HostConfig;
use crate::cgroup::{CGROUP, Cgroups};
use crate::context::Context;
use crate::energy::Energy;
use crate::node::Node;
use crate::roster::{HOST, Roster};
use crate::{disk, filesystem, interface};

/// Everything that reads files and can be handed to the blocking pool.
trait Reader: Send + 'static {
    fn observe(&mut self) -> Result<Observation, SourceError>;
}

/// A reader behind the interface of sources.
struct Blocking<R> {
    name: &'static str,
    reader: Option<R>,
}

/// The node with its devices.
struct Host {
    context: Context,
    node: Node,
    disks: Roster,
    filesystems: Roster,
    interfaces: Roster,
    energy: Energy,
}

/// Looks for this machine's own counters: the node, its disks, filesystems, interfaces and
/// energy domains.
pub async fn discover(config: HostConfig, clock: SharedClock) -> Discovery {
    let mut trial = Host::new(&config, clock.clone());
    if let Err(error) = trial.observe() {
        return Discovery::Absent { reason: error.to_string() };
    }
    let what = trial.describe();
    found(HOST, Host::new(&config, clock), what)
}

/// Looks for services and slices in this machine's cgroups.
pub async fn discover_cgroups(config: HostConfig, clock: SharedClock) -> Discovery {
    let mut trial = Cgroups::new(&config, clock.clone());
    match trial.observe() {
        Ok(_) => {
            let what = trial.describe();
            found(CGROUP, Cgroups::new(&config, clock), what)
        }
        Err(error) => Discovery::Absent { reason: error.to_string() },
    }
}

fn found<R: Reader>(name: &'static str, reader: R, what: String) -> Discovery {
    Discovery::Found { source: Box::new(Blocking { name, reader: Some(reader) }), what }
}

#[async_trait]
impl<R: Reader> Source for Blocking<R> {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let Some(mut reader) = self.reader.take() else {
            let what = format!("the {} source broke off and is not used again", self.name);
            return Err(SourceError { what, cause: None });
        };
        let work = tokio::task::spawn_blocking(move || {
            let observation = reader.observe();
            (reader, observation)
        });
        let (reader, observation) =
            work.await.map_err(|error| SourceError::new("the observation broke off", error))?;
        self.reader = Some(reader);
        observation
    }
}

impl Host {
    fn new(config: &HostConfig, clock: SharedClock) -> Self {
        let mut context = Context::new(config, clock);
        Host {
            node: Node::new(&config.machine_id, &mut context),
            context,
            disks: Roster::default(),
            filesystems: Roster::default(),
            interfaces: Roster::default(),
            energy: Energy::default(),
        }
    }

    /// For people: what there is on this machine, and what there is not.
    fn describe(&self) -> String {
        let count = |n: usize, one: &str| match n {
            0 => format!("no {one}s"),
            1 => format!("1 {one}"),
            n => format!("{n} {one}s"),
        };
        let energy = match self.energy.roster.len() {
            0 => "no energy counters (RAPL)".to_owned(),
            n => count(n, "energy domain"),
        };
        let pressure = if self.node.has_pressure { "" } else { "no " };
        [
            format!("node {}", self.context.node),
            count(self.disks.len(), "disk"),
            count(self.filesystems.len(), "filesystem"),
            count(self.interfaces.len(), "interface"),
            energy,
            format!("{pressure}pressure stall information"),
        ]
        .join(", ")
    }
}

impl Reader for Host {
    fn observe(&mut self) -> Result<Observation, SourceError> {
        let mut out = Observation::begin(HOST, self.context.clock.as_ref());
        let context = &mut self.context;
        let node = self.node.observe(context, &mut out)?;
        disk::observe(context, &node, &mut self.disks, &mut out);
        filesystem::observe(context, &node, &mut self.filesystems, &mut out);
        interface::observe(context, &node, &mut self.interfaces, &mut out);
        self.energy.observe(context, &node, &mut out);
        Ok(out)
    }
}

impl Reader for Cgroups {
    fn observe(&mut self) -> Result<Observation, SourceError> {
        Cgroups::observe(self)
    }
}
