//! Shows what the two sources find on this machine, and what an observation costs.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use nilometer_clock::SystemClock;
use nilometer_host::{HostConfig, discover, discover_cgroups};
use nilometer_source::Discovery;

const ROUNDS: u32 = 200;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let config = HostConfig::default();
    for discovery in [
        discover(config.clone(), Arc::new(SystemClock)).await,
        discover_cgroups(config, Arc::new(SystemClock)).await,
    ] {
        let (mut source, what) = match discovery {
            Discovery::Found { source, what } => (source, what),
            Discovery::Absent { reason } => {
                writeln!(out, "absent: {reason}")?;
                continue;
            }
        };
        writeln!(out, "{}: {what}", source.name())?;
        let first = source.observe().await.map_err(std::io::Error::other)?;
        for event in &first.events {
            writeln!(out, "  {} {} {}", event.at, event.change.as_str(), event.resource.id)?;
        }
        let start = Instant::now();
        for _ in 0..ROUNDS {
            source.observe().await.map_err(std::io::Error::other)?;
        }
        let each = start.elapsed() / ROUNDS;
        writeln!(out, "  {} samples, {each:?} per observation", first.samples.len())?;
    }
    Ok(())
}
