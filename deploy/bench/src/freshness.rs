//! From append to visibility under a steady load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nilometer_clock::{Clock, SystemClock};
use nilometer_contract::MICROS_PER_HOUR;
use nilometer_log::Log;
use nilometer_simulated::Fleet;
use nilometer_store::Storage;

use crate::load::{fleet, open_log, producer};
use crate::ours::Running;

/// Samples a second, about.
const LIVE_RATE: usize = 50_000;

/// Appends for so many seconds and says how old samples were when they became visible.
pub(crate) async fn measure(seconds: u32) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let log: Arc<dyn Log> = Arc::new(open_log(&folder.path().join("log"))?);
    let producer = producer(&log).await?;
    let storage = Storage::local(&folder.path().join("tables"), Arc::new(SystemClock))?;
    let running = Running::start(log.clone(), &storage).await?;
    // A fleet whose step has about a tenth of a second's samples, stepped ten times a second.
    let config = fleet(LIVE_RATE as u32 / 100, SystemClock.now().plus_micros(-MICROS_PER_HOUR));
    let mut fleet = Fleet::new(&config)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let (mut sent, started) = (0, Instant::now());
    for step in 0..u64::from(seconds) * 10 {
        ticks.tick().await;
        let seen = fleet.step(config.step_at(step));
        sent += seen.samples.len();
        producer.append(producer.produce(seen).whole()?).await?;
    }
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    running.wait_for(sent as u64).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let histogram = running.metrics.freshness.clone();
    running.stop().await?;
    let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
    Ok(format!(
        "freshness at {rate:.0} samples/s: mean {:.3} s, p99 within {} s, {count} records",
        sum / count.max(1) as f64,
        bucket_of(&histogram, 0.99)
    ))
}

/// Upper bound of the bucket that holds a quantile.
fn bucket_of(histogram: &prometheus::Histogram, part: f64) -> String {
    use prometheus::core::Metric;
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let wanted = (histogram.get_sample_count() as f64 * part).ceil() as u64;
    let bucket = histogram.get_bucket().iter().find(|bucket| bucket.cumulative_count() >= wanted);
    bucket.map_or("more than 60".to_owned(), |bucket| bucket.upper_bound().to_string())
}
