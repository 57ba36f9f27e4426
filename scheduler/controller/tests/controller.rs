//! The controller over a scheduler that reads a real, embedded log.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::SystemClock;
use nilometer_contract::{Timestamp, catalogue};
use nilometer_controller::{Config, ConfigError, Controller};
use nilometer_log::{EmbeddedConfig, EmbeddedLog};
use nilometer_placement::plan::Plan;
use nilometer_rating::PriceBook;
use nilometer_serve::{NodePrices, Scheduler};
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp(1_795_392_000_000_000);
const PATIENCE: Duration = Duration::from_secs(60);

fn scheduler(dir: &tempfile::TempDir) -> Arc<Scheduler> {
    let log = Arc::new(
        EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap(),
    );
    let prices = NodePrices::new(PriceBook::built_in(), Arc::new(catalogue().clone()));
    let config = nilometer_serve::Config::default();
    Scheduler::new(log, config, prices, Arc::new(|| NOW), &Registry::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_are_reported_at_intervals_until_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = scheduler(&dir);
    let config = Config { interval: Duration::from_millis(1) };
    let controller = Controller::new(scheduler.clone(), config).unwrap();
    let cancel = CancellationToken::new();
    let (reported, mut plans) = mpsc::unbounded_channel::<Plan>();
    let report = move |plan: &Plan| reported.send(plan.clone()).map_err(drop);
    let controlling = tokio::spawn(controller.run(report, cancel.clone()));
    assert!(plans.try_recv().is_err(), "no plan before the log is read");
    let reading = tokio::spawn(scheduler.run(cancel.clone()));
    for _ in 0..3 {
        let plan = tokio::time::timeout(PATIENCE, plans.recv()).await.unwrap().unwrap();
        assert_eq!((plan.at, plan.moves.len()), (NOW, 0));
    }
    cancel.cancel();
    controlling.await.unwrap().unwrap();
    reading.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_fails_ends_it_and_waiting_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let scheduler = scheduler(&dir);
    let config = Config { interval: Duration::from_secs(3_600) };
    let waiting = Controller::new(scheduler.clone(), config).unwrap();
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    waiting.run(|_| Err("a plan before the log is read"), cancelled).await.unwrap();

    let cancel = CancellationToken::new();
    let reading = tokio::spawn(scheduler.clone().run(cancel.clone()));
    let failing = Controller::new(scheduler, config).unwrap();
    let ended = failing.run(|_| Err("the pipe is closed"), CancellationToken::new());
    assert_eq!(tokio::time::timeout(PATIENCE, ended).await.unwrap(), Err("the pipe is closed"));
    cancel.cancel();
    reading.await.unwrap().unwrap();
}

#[test]
fn an_interval_of_zero_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Controller::new(scheduler(&dir), Config { interval: Duration::ZERO });
    assert_eq!(refused.err(), Some(ConfigError::NoInterval));
}
