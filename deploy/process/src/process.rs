//! A process being wired, and its life: it runs until a signal or a failure, then stops in order.
//!
//! ```text
//!  signal ─▶ agents ─▶ workers ─▶ writers ─▶ servers      each is drained before the next
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::{SharedClock, SystemClock};
use nilometer_surface::Surface;
use prometheus::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::crew::Crew;
use crate::http::Readiness;

/// Longest time from the order to stop until the process ends.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long is waited for work that was told to stop and has missed its deadline.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A process being wired.
pub struct Process {
    /// The time of day.
    pub clock: SharedClock,
    /// Metrics of the roles.
    pub registry: Registry,
    /// That one, and further ones with labels of their own.
    pub registries: Vec<Registry>,
    /// What has to be ready.
    pub readiness: Vec<Readiness>,
    /// What is answered.
    pub surface: Surface,
    /// What appends to the log.
    pub agents: Crew,
    /// What reads, computes and shows.
    pub workers: Crew,
    /// What stores.
    pub writers: Crew,
    /// What answers.
    pub servers: Crew,
}

impl Default for Process {
    fn default() -> Self {
        let registry = Registry::new();
        Process {
            clock: Arc::new(SystemClock),
            registries: vec![registry.clone()],
            registry,
            readiness: Vec::new(),
            surface: Surface::new(),
            agents: Crew::default(),
            workers: Crew::default(),
            writers: Crew::default(),
            servers: Crew::default(),
        }
    }
}

impl Process {
    /// Logs that it answers.
    pub fn announce(&self, url: &str) {
        info!(url, "listening");
    }

    /// Adds routes.
    pub fn serve(&mut self, surface: Surface) {
        self.surface = std::mem::take(&mut self.surface).merge(surface);
    }

    /// Waits for a signal or a failure, then stops in order.
    ///
    /// # Errors
    ///
    /// If signals cannot be waited for.
    pub async fn wait(mut self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let lost = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            lost = self.agents.lost() => Some(lost),
            lost = self.workers.lost() => Some(lost),
            lost = self.writers.lost() => Some(lost),
            lost = self.servers.lost() => Some(lost),
        };
        let mut good = lost.is_none();
        if let Some((role, ended)) = lost {
            let reason =
                ended.map_or_else(|error| format!("{error:#}"), |()| "it ended".to_owned());
            error!(role, reason, "a role failed, stopping");
        }
        info!("stopping: what was received is committed");
        let drained = tokio::time::timeout(STOP_DEADLINE, async {
            let mut good = true;
            for crew in [&mut self.agents, &mut self.workers, &mut self.writers, &mut self.servers]
            {
                good &= crew.drain().await;
            }
            good
        });
        match drained.await {
            Ok(well) => good &= well,
            Err(_) => {
                warn!(deadline = ?STOP_DEADLINE, "not everything stopped in time; the log keeps what is not committed");
                good = false;
            }
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs a program on `threads` threads (none: as many as there are processors). What still runs at
/// its end is past its deadline; it is not waited for.
///
/// # Errors
///
/// That of the program, or if threads cannot be started.
pub fn block_on<T>(
    threads: Option<usize>,
    program: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build()?;
    let done = runtime.block_on(program);
    runtime.shutdown_timeout(SHUTDOWN);
    done
}
