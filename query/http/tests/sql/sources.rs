//! Two sources of one VM, from an agent that sends what they see to what SQL answers.

use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::{EpochClock, SystemClock};
use nilometer_collect::{Agent, AgentConfig};
use nilometer_contract::{
    Change, LifecycleEvent, MICROS_PER_SECOND, Resource, ResourceKind, Scope, Timestamp, Validity,
};
use nilometer_engine::Limits;
use nilometer_source::Observation;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::estate::{Estate, at};

const MINUTES: i64 = 150;

/// What a source sees of the VM in a minute: its own name for it, and another counter.
fn seen(source: &str, minute: i64, now: impl Fn(i64) -> Timestamp) -> Observation {
    let mut vm = Resource::new("vm-1", ResourceKind::VM);
    (vm.project, vm.node) = ("blue".to_owned(), "n1".to_owned());
    let (factor, past) = match source {
        "nova" => (0.0, 0),
        "libvirt" => (1.0, 5),
        _ => (3.0, 11),
    };
    match source {
        "nova" => vm.name = "web".to_owned(),
        _ => {
            vm.name = "instance-7".to_owned();
            vm.attributes.insert("vcpus".to_owned(), "2".to_owned());
        }
    }
    let mut seen = Observation::new(source);
    let change = if minute == 0 { Change::Created } else { Change::Changed };
    if minute % 10 == 0 {
        let (at, source) = (now(minute), source.to_owned());
        seen.events.push(LifecycleEvent { change, at, resource: vm.clone(), source });
    }
    let silent = source == "nova" || (source == "libvirt" && (59..125).contains(&minute));
    if !silent {
        let subject = seen.samples.subject(&vm);
        let at = now(minute).plus_micros(past * MICROS_PER_SECOND);
        seen.samples.push_named(subject, "cpu.time", at, factor * (1_000 + minute * 60) as f64);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_of_a_vm_are_one_life_and_one_usage() {
    let estate = Estate::new(Limits::default()).await;
    let clock = Arc::new(EpochClock::new(Arc::new(SystemClock)));
    let config = AgentConfig::new("n1", estate.folder.path().join("spool"));
    let (outlet, pushed) = mpsc::channel(16);
    let (registry, cancel) = (Registry::new(), CancellationToken::new());
    let agent = Agent::new(config, Vec::new(), pushed, estate.log(), clock, &registry).unwrap();
    let agent = tokio::spawn(agent.run(cancel.clone()));
    let now = |minute: i64| at("2026-11-02T00:00:00Z").plus_micros(minute * 60 * MICROS_PER_SECOND);
    for minute in 0..MINUTES {
        for source in ["guest", "libvirt", "nova"] {
            outlet.send(seen(source, minute, now)).await.unwrap();
        }
    }
    let expected = MINUTES + (MINUTES - 66);
    let counted = "SELECT count(*) AS n FROM samples";
    let is_there = async || {
        let counts = estate.ask(counted).await.unwrap();
        counts.contains(&format!("| {expected} "))
    };
    for _ in 0..24_000 {
        if is_there().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_there().await, "{}", estate.ask(counted).await.unwrap());
    cancel.cancel();
    agent.await.unwrap().unwrap();
    let answers = async |sql: &str| -> Vec<String> {
        let table = estate.ask(sql).await.unwrap();
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
        rows.map(|row| {
            row.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
        })
        .collect()
    };
    let lives = "SELECT name, attributes, \"end\" IS NULL AS alive FROM resources \
                 WHERE resource = 'vm-1'";
    assert_eq!(answers(lives).await, ["web {\"vcpus\":\"2\"} true"], "one state, never two");
    assert_eq!(answers("SELECT count(*) AS n FROM dead_letters").await, ["0"]);
    let usage = "SELECT start, quantity FROM usage WHERE meter = 'cpu.time' ORDER BY start";
    let usage = answers(usage).await;
    // 60 s a minute by libvirt; the guest counts 180 s in the hour in which libvirt is silent.
    let quantities: Vec<&str> = usage.iter().filter_map(|row| row.split(' ').next_back()).collect();
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert_eq!(quantities.len(), 3, "{usage:?}");
    assert_eq!(number(quantities[1]), 10_800.0, "{usage:?}");
    assert!((4_400.0..4_600.0).contains(&number(quantities[0])), "{usage:?}");
    assert!((1_700.0..1_800.0).contains(&number(quantities[2])), "{usage:?}");
    let hours = "SELECT source, samples, counted FROM source_hours ORDER BY start, source";
    let hours = answers(hours).await;
    assert_eq!(hours, ["guest 60 0", "libvirt 59 59", "guest 30 0", "libvirt 25 25"]);
    let order = answers("SELECT sources FROM meters WHERE meter = 'cpu.time'").await;
    assert_eq!(order, ["nova,libvirt,kubernetes,cri,host,cgroup"]);
    for (project, rows) in [("blue", 4), ("red", 0)] {
        let scope = Scope::projects([(project.into(), Validity::ALWAYS)]);
        let found = estate.engine.query(&scope, "SELECT * FROM source_hours").await.unwrap();
        let found: usize = found.batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(found, rows, "{project}");
    }
}
