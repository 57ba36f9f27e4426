//! The controller: proposes a plan of moves at intervals (invariant 20).
//!
//! It is dry-run: a plan is recorded as a decision and reported, and nothing is moved.

use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::Scope;
use nilometer_placement::plan::Plan;
use nilometer_serve::Scheduler;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Configuration of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Time between two plans.
    pub interval: Duration,
}

/// Why a controller cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Plans would follow each other without a pause.
    #[error("control.interval is zero; set it to a second or more")]
    NoInterval,
}

/// Proposes plans over the state that a scheduler keeps.
pub struct Controller {
    scheduler: Arc<Scheduler>,
    config: Config,
}

impl Controller {
    /// A controller that proposes nothing until it is [run](Self::run).
    pub fn new(scheduler: Arc<Scheduler>, config: Config) -> Result<Self, ConfigError> {
        if config.interval.is_zero() {
            return Err(ConfigError::NoInterval);
        }
        Ok(Controller { scheduler, config })
    }

    /// Waits until the scheduler has read what lies in the log, then passes a plan to `report` at
    /// every interval until cancelled, or until `report` fails.
    pub async fn run<E>(
        self,
        mut report: impl FnMut(&Plan) -> Result<(), E>,
        cancel: CancellationToken,
    ) -> Result<(), E> {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = self.scheduler.caught_up() => {}
        }
        loop {
            if let Some((_, plan)) = self.scheduler.plan(&Scope::system()) {
                report(&plan)?;
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = sleep(self.config.interval) => {}
            }
        }
    }
}
