//! Tasks that are told to stop together, and watched until they do.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Tasks that stop together, and the order to.
#[derive(Default)]
pub struct Crew {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// Tells them to stop.
    pub cancel: CancellationToken,
}

impl Crew {
    /// Adds one by name.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits until a task ends, which none should before it is told to.
    pub async fn lost(&mut self) -> (&'static str, anyhow::Result<()>) {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(panic)) => ("a task", Err(anyhow::anyhow!("it panicked: {panic}"))),
            None => std::future::pending().await,
        }
    }

    /// Tells all to stop, and waits for them.
    pub async fn drain(&mut self) -> bool {
        self.cancel.cancel();
        let mut good = true;
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((name, Err(failure))) => {
                    error!(role = name, error = format!("{failure:#}"), "stopped badly");
                    good = false;
                }
                Err(panic) => {
                    error!(error = %panic, "a task panicked");
                    good = false;
                }
            }
        }
        good
    }
}
