//! A real containerd, metered: what the source says against the kernel's own counters and clock.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nilometer_clock::SystemClock;
use nilometer_contract::{Change, LifecycleEvent, MICROS_PER_SECOND, ResourceKind, SampleBatch};
use nilometer_cri::api::{ContainerState, LinuxContainerResources};
use nilometer_cri::{CriConfig, discover};
use nilometer_source::{Discovery, Observation, Source};
use nilometer_testbed::containerd::Containerd;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "node-1";

/// A source of a runtime, with everything it said so far.
struct Metered {
    source: Box<dyn Source>,
    pushed: mpsc::Receiver<Observation>,
    what: String,
    events: Vec<LifecycleEvent>,
    samples: Vec<SampleBatch>,
}

impl Metered {
    async fn new(containerd: &Containerd) -> Self {
        let (outlet, pushed) = mpsc::channel(64);
        let sockets = vec![containerd.socket()];
        let config = CriConfig { sockets, node: NODE.to_owned(), ..CriConfig::default() };
        match discover(config, Arc::new(SystemClock), outlet).await {
            Discovery::Found { source, what } => {
                Metered { source, pushed, what, events: Vec::new(), samples: Vec::new() }
            }
            Discovery::Absent { reason } => panic!("the runtime is there: {reason}"),
        }
    }

    fn take(&mut self, observation: Observation) {
        self.events.extend(observation.events);
        self.samples.push(observation.samples.build());
    }

    async fn poll(&mut self) {
        let observation = self.source.observe().await.unwrap();
        self.take(observation);
    }

    /// Waits until the stream has pushed such an event.
    async fn pushed(&mut self, change: Change, id: &str) -> LifecycleEvent {
        let waiting = async {
            loop {
                let found = self.find(change, id);
                if let Some(found) = found {
                    return found;
                }
                let observation = self.pushed.recv().await.unwrap();
                self.take(observation);
            }
        };
        timeout(PATIENCE, waiting).await.unwrap()
    }

    fn find(&self, change: Change, id: &str) -> Option<LifecycleEvent> {
        let mut said =
            self.events.iter().filter(|said| said.change == change && said.resource.id == id);
        let found = said.next().cloned();
        assert_eq!(said.next(), None, "a fact is said once");
        found
    }

    /// Samples of a meter of one resource as `(micros, value)`, in order of time.
    fn series(&self, meter: &str, id: &str) -> Vec<(i64, f64)> {
        let mut found = Vec::new();
        for batch in &self.samples {
            for row in 0..batch.len() {
                let named = batch.meters.name.value(batch.meter[row].into());
                let of = batch.subjects.id.value(batch.resource[row] as usize);
                if (named, of) == (meter, id) {
                    found.push((batch.at[row], batch.value[row]));
                }
            }
        }
        found.sort_by_key(|&(at, _)| at);
        found
    }
}

/// Processes of a container, by the kernel; none where its cgroup is gone.
fn processes(containerd: &Containerd, id: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let parent = containerd.cgroup_parent().trim_start_matches('/');
    let dir = find_dir(&root.join("cpuacct").join(parent), id)
        .or_else(|| find_dir(&root.join(parent), id));
    dir.and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok()).unwrap_or_default()
}

/// The kernel's CPU counter of a container, in seconds.
fn kernel_seconds(containerd: &Containerd, id: &str) -> f64 {
    let root = Path::new("/sys/fs/cgroup");
    let parent = containerd.cgroup_parent().trim_start_matches('/');
    let v1 = find_dir(&root.join("cpuacct").join(parent), id);
    if let Some(dir) = v1 {
        let text = fs::read_to_string(dir.join("cpuacct.usage")).unwrap();
        return text.trim().parse::<f64>().unwrap() / 1e9;
    }
    let dir = find_dir(&root.join(parent), id).unwrap();
    let text = fs::read_to_string(dir.join("cpu.stat")).unwrap();
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap();
    micros.parse::<f64>().unwrap() / 1e6
}

fn find_dir(below: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(below).ok()?.flatten().filter(|e| e.path().is_dir()) {
        if entry.file_name().to_string_lossy().contains(name) {
            return Some(entry.path());
        }
        if let Some(found) = find_dir(&entry.path(), name) {
            return Some(found);
        }
    }
    None
}

/// Waits until a container has used so many seconds of a processor more.
async fn used_more(containerd: &Containerd, id: &str, seconds: f64) {
    let (started, before) = (Instant::now(), kernel_seconds(containerd, id));
    while kernel_seconds(containerd, id) < before + seconds {
        assert!(started.elapsed() < PATIENCE * 6, "the container is busy");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until no process of a container is left, by the kernel.
async fn is_over(containerd: &Containerd, id: &str) {
    let started = Instant::now();
    while !processes(containerd, id).is_empty() {
        assert!(started.elapsed() < PATIENCE, "the container ends");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a container's exit; the runtime's own instants of its start and end, in microseconds.
async fn exited(containerd: &Containerd, id: &str) -> (i64, i64) {
    let started = Instant::now();
    loop {
        let status = containerd.client().container(id).await.unwrap().status.unwrap();
        if status.state == ContainerState::Exited as i32 {
            return (status.started_at / 1_000, status.finished_at / 1_000);
        }
        assert!(started.elapsed() < PATIENCE, "the container exits");
        sleep(Duration::from_millis(10)).await;
    }
}

fn ids(events: &[LifecycleEvent]) -> BTreeSet<String> {
    events.iter().map(LifecycleEvent::id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_container_agrees_with_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let Some(containerd) = Containerd::start(dir.path()).await.unwrap() else { return };
    let pod = containerd.run_pod("web", "shop", &[("app", "web")]).await.unwrap();
    let id = containerd.run_container(&pod, "main", &["spin", "60"]).await.unwrap();
    let mut metered = Metered::new(&containerd).await;
    assert!(metered.what.contains("1 pod, 1 container, events from containerd"));

    let mut kernel = Vec::new();
    for more in [0.0, 5.0] {
        used_more(&containerd, &id, more).await;
        let before = kernel_seconds(&containerd, &id);
        metered.poll().await;
        kernel.push((before, kernel_seconds(&containerd, &id)));
    }
    let series = metered.series("cpu.time", &id);
    let [origin, first, last] = series[..] else { panic!("three samples, not {series:?}") };
    let created = metered.find(Change::Created, &id).unwrap();
    assert_eq!(origin, (created.at.0, 0.0));
    for (value, (before, after)) in [first.1, last.1].into_iter().zip(&kernel) {
        assert!((*before..=*after).contains(&value), "{before} <= {value} <= {after}");
    }
    let used = last.1 - first.1;
    let by_kernel = kernel[1].0 - kernel[0].0;
    assert!((used / by_kernel - 1.0).abs() < 0.01, "{used} s against the kernel's {by_kernel} s");
    eprintln!("container used {used:.6} s, by the kernel's counter {by_kernel:.6} s");

    let container = created.resource;
    let pod = metered.events.iter().find(|said| said.resource.kind == ResourceKind::POD).unwrap();
    assert_eq!(container.parent.as_ref(), Some(&pod.resource.id));
    assert_eq!((container.name.as_str(), container.project.as_str()), ("main", "shop"));
    assert_eq!(container.attributes["label.app"], "web");
    assert_eq!(pod.resource.name, "shop/web");
    assert_eq!(pod.resource.parent.as_deref(), Some(NODE));
    let of_pod = metered.series("cpu.time", &pod.resource.id);
    assert_eq!(of_pod[0], (pod.at.0, 0.0));
    assert!(of_pod.last().unwrap().1 >= last.1 * 0.99, "a pod is its containers and more");
    assert!(!metered.series("memory.working_set", &id).is_empty());
    assert!(metered.series("memory.available", &id).is_empty(), "there is no limit");
    // Everything it pushes and polls fits the wire.
    assert!(metered.events.iter().all(|said| said.encode().is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn container_between_two_polls_is_metered_and_said_again_alike() {
    let dir = tempfile::tempdir().unwrap();
    let Some(containerd) = Containerd::start(dir.path()).await.unwrap() else { return };
    let mut metered = Metered::new(&containerd).await;
    metered.poll().await;
    let pod = containerd.run_pod("job", "batch", &[]).await.unwrap();
    let short = containerd.run_container(&pod, "short", &["spin", "3"]).await.unwrap();
    let kept = containerd.run_container(&pod, "kept", &["sleep", "0.5"]).await.unwrap();
    let by_runtime = exited(&containerd, &short).await;
    containerd.remove_container(&short).await.unwrap();

    let deleted = metered.pushed(Change::Deleted, &short).await;
    let created = metered.find(Change::Created, &short).unwrap();
    let lived = deleted.at.0 - created.at.0;
    eprintln!("container lived {:.6} s", lived as f64 / 1e6);
    assert_eq!((created.at.0, deleted.at.0), by_runtime, "the runtime's own instants");
    // How exactly the runtime stamps a start depends on how busy the machine is.
    assert!((lived - 3 * MICROS_PER_SECOND).abs() < 250_000, "{lived} µs");
    assert_eq!(deleted.resource.attributes["exit_code"], "0");
    let series = metered.series("cpu.time", &short);
    let [origin, last] = series[..] else { panic!("a zero and a last reading, not {series:?}") };
    assert_eq!(origin, (created.at.0, 0.0));
    assert_eq!(last.0, deleted.at.0 - 1);
    assert!(last.1 > 0.5 && last.1 < 3.5, "{} s of CPU in 3 s", last.1);

    let said = metered.events.len();
    metered.poll().await;
    assert_eq!(metered.events.len(), said, "the poll says nothing again");
    let gone = |event: &&LifecycleEvent| event.resource.id != short;
    let before: Vec<_> = metered.events.iter().filter(gone).cloned().collect();
    drop(metered);

    let mut again = Metered::new(&containerd).await;
    again.poll().await;
    assert_eq!(ids(&again.events), ids(&before), "a restarted source says the same");
    assert!(again.find(Change::Deleted, &kept).is_some());

    containerd.stop_pod(&pod).await.unwrap();
    let uid = again.events[0].resource.id.clone();
    let deleted = again.pushed(Change::Deleted, &uid).await;
    assert!(deleted.at > again.find(Change::Created, &uid).unwrap().at);
    let last = again.series("cpu.time", &uid);
    assert_eq!(last.last().unwrap().0, deleted.at.0 - 1, "the pod's last reading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resize_splits_at_its_instant_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let Some(containerd) = Containerd::start(dir.path()).await.unwrap() else { return };
    let mut metered = Metered::new(&containerd).await;
    metered.poll().await;
    let pod = containerd.run_pod("web", "shop", &[]).await.unwrap();
    let size = |quota, memory| LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota,
        cpu_shares: 512,
        memory_limit_in_bytes: memory,
    };
    let asked = size(50_000, 64 << 20);
    let id = containerd.run_sized(&pod, "main", &["pause"], asked).await.unwrap();
    let created = metered.pushed(Change::Created, &id).await;
    assert_eq!(created.resource.attributes["vcpus"], "0.5");
    assert_eq!(created.resource.attributes["memory_bytes"], "67108864");

    containerd.resize_container(&id, size(150_000, 128 << 20)).await.unwrap();
    let changed = metered.pushed(Change::Changed, &id).await;
    assert_eq!(changed.resource.attributes["vcpus"], "1.5");
    assert_eq!(changed.resource.attributes["memory_bytes"], "134217728");
    assert!(changed.at > created.at);

    let mut again = Metered::new(&containerd).await;
    again.poll().await;
    assert_eq!(ids(&again.events), ids(&metered.events));
    assert!(!again.series("memory.available", &id).is_empty(), "there is a limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_restart_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut containerd) = Containerd::start(dir.path()).await.unwrap() else { return };
    let mut metered = Metered::new(&containerd).await;
    metered.poll().await;
    let pod = containerd.run_pod("web", "shop", &[]).await.unwrap();
    let stays = containerd.run_container(&pod, "stays", &["pause"]).await.unwrap();
    let ends = containerd.run_container(&pod, "ends", &["sleep", "2"]).await.unwrap();
    metered.pushed(Change::Created, &ends).await;

    containerd.kill_daemon().unwrap();
    assert!(metered.source.observe().await.is_err(), "a dead runtime is an error, not empty");
    is_over(&containerd, &ends).await;
    containerd.start_daemon().await.unwrap();
    let deleted = metered.pushed(Change::Deleted, &ends).await;
    let lived = deleted.at.0 - metered.find(Change::Created, &ends).unwrap().at.0;
    eprintln!("container that ended while the runtime was away lived {lived} µs");

    metered.poll().await;
    metered.poll().await;
    assert!(metered.find(Change::Created, &stays).is_some());
    assert!(metered.find(Change::Deleted, &stays).is_none());
    let after = containerd.run_container(&pod, "after", &["sleep", "0.2"]).await.unwrap();
    metered.pushed(Change::Deleted, &after).await;
    metered.find(Change::Created, &after).unwrap();
}
