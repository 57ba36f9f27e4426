//! The collecting role: an agent over the sources of this machine.

use std::sync::Arc;

use nilometer_clock::{EpochClock, SharedClock};
use nilometer_collect::{Agent, Status};
use nilometer_log::Log;
use tokio::sync::mpsc;
use tracing::info;

use crate::process::Process;
use crate::settings::Settings;
use crate::sources::{Missing, discover, look_again};

/// What is known of a running agent.
#[derive(Clone)]
pub struct Collecting {
    /// Its sources and its log.
    pub status: Arc<Status>,
    /// Sources that are not there.
    pub missing: Missing,
}

impl Process {
    /// Starts to observe this machine.
    ///
    /// # Errors
    ///
    /// If the agent cannot start, such as for a spool that cannot be read.
    pub async fn collect(
        &mut self,
        settings: &Settings,
        log: Arc<dyn Log>,
    ) -> anyhow::Result<Collecting> {
        let (outlet, pushed) = mpsc::channel(64);
        let epochs = Arc::new(EpochClock::new(self.clock.clone()));
        let clock: SharedClock = epochs.clone();
        let found = discover(settings, &clock, &outlet).await;
        for watched in &found.watched {
            info!(source = watched.source.name(), found = watched.found, "source found");
        }
        for absent in &found.absent {
            info!(source = absent.label, reason = absent.reason, "source not found");
        }
        let config = settings.agent("node");
        let agent = Agent::new(config, found.watched, pushed, log, epochs, &self.registry)?;
        let missing = Missing::new(found.absent.into());
        let (late, turned_up) = mpsc::channel(1);
        let agent = agent.with_late_sources(turned_up);
        let looking = look_again(settings.clone(), clock, outlet, Arc::clone(&missing), late);
        tokio::spawn(looking);
        let status = agent.status();
        self.wait_for_log(status.clone());
        let cancel = self.agents.cancel.clone();
        self.agents.spawn("collect", async move { Ok(agent.run(cancel).await?) });
        Ok(Collecting { status, missing })
    }

    /// It is not ready while the log does not take records.
    fn wait_for_log(&mut self, status: Arc<Status>) {
        self.readiness.push(Arc::new(move || match status.report().log_error {
            Some(error) => Err(format!("the log does not take records: {error}")),
            None => Ok(()),
        }));
    }
}
