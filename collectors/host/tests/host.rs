//! The sources on a recorded tree, and on the machine that runs the test.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nilometer_clock::{Clock, SystemClock};
use nilometer_contract::{Change, ResourceKind, Timestamp};
use nilometer_host::{HostConfig, discover, discover_cgroups};
use nilometer_source::{Discovery, Observation, Source};

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_795_405_000)
    }
}

fn recorded() -> HostConfig {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vm");
    HostConfig {
        proc: tree.join("proc"),
        sys: tree.join("sys"),
        machine_id: tree.join("machine-id"),
        ..HostConfig::default()
    }
}

fn found(discovery: Discovery) -> (Box<dyn Source>, String) {
    match discovery {
        Discovery::Found { source, what } => (source, what),
        Discovery::Absent { reason } => panic!("the source is there: {reason}"),
    }
}

/// Values by `resource meter`.
fn values(observation: Observation) -> BTreeMap<String, f64> {
    let batch = observation.samples.build();
    let name = |row: usize| {
        let id = batch.subjects.id.value(batch.resource[row] as usize);
        format!("{id} {}", batch.meters.name.value(usize::from(batch.meter[row])))
    };
    (0..batch.len()).map(|row| (name(row), batch.value[row])).collect()
}

#[tokio::test]
async fn a_recorded_machine() {
    let (mut source, what) = found(discover(recorded(), Arc::new(Still)).await);
    assert_eq!(
        what,
        "node node-1, 1 disk, 1 filesystem, 1 interface, 2 energy domains, pressure stall information"
    );
    let first = source.observe().await.unwrap();
    let told: Vec<String> = first
        .events
        .iter()
        .map(|event| {
            let parent = event.resource.parent.as_deref().unwrap_or("-");
            format!("{} {} < {parent}", event.change.as_str(), event.resource.id)
        })
        .collect();
    assert_eq!(
        told,
        [
            "created node-1 < -",
            "created node-1/disk/vda < node-1",
            "created node-1/filesystem/ < node-1",
            "created node-1/interface/eth0 < node-1",
            "created node-1/energy/intel-rapl:0 < node-1",
            "created node-1/energy/intel-rapl:0:0 < node-1/energy/intel-rapl:0",
        ]
    );
    let node = &first.events[0];
    assert_eq!(node.at, Timestamp::from_seconds(1_795_403_343));
    assert_eq!(node.resource.attributes["vcpus"], "2");
    assert_eq!(node.resource.attributes["memory_bytes"], "25276514304");
    let values = values(first);
    for (name, expected) in [
        ("node-1 cpu.time", 4_279.75),
        ("node-1 cpu.user.time", 1_629.60),
        ("node-1 cpu.idle.time", 1_139.58),
        ("node-1 cpu.guest.time", 0.12),
        ("node-1/energy/intel-rapl:0 energy", 0.0),
    ] {
        assert_eq!(values.get(name), Some(&expected), "{name}");
    }
    assert_eq!(values.len(), 10 + 4 + 8 + 2 + 6 + 8 + 5 + 8 + 2);
    assert!(source.observe().await.unwrap().events.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let nowhere = tempfile::tempdir().unwrap();
    let config = HostConfig {
        proc: nowhere.path().to_owned(),
        sys: nowhere.path().to_owned(),
        ..HostConfig::default()
    };
    for discovery in [
        discover(config.clone(), Arc::new(Still)).await,
        discover_cgroups(config, Arc::new(Still)).await,
    ] {
        assert!(matches!(discovery, Discovery::Absent { .. }));
    }
}

/// Busy ticks of the machine as the kernel counts them.
fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().next().unwrap();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).map(|word| word.parse().unwrap()).collect();
    (ticks.iter().take(8).sum::<f64>() - ticks[3] - ticks[4])
        / rustix::param::clock_ticks_per_second() as f64
}

/// Keeps a core busy until a counter of the kernel has grown by so much.
fn spin_until(counter: impl Fn() -> f64, grown: f64) {
    let (start, from) = (Instant::now(), counter());
    while counter() < from + grown {
        assert!(start.elapsed() < Duration::from_secs(60), "a busy loop makes the counter grow");
        std::hint::black_box((0..100_000_u64).sum::<u64>());
    }
}

#[tokio::test]
async fn busy_time_of_this_machine_is_the_kernels() {
    let (mut source, _) = found(discover(HostConfig::default(), Arc::new(SystemClock)).await);
    let node = nilometer_host::node_name();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let before = busy_seconds();
        let observed = values(source.observe().await.unwrap())[&format!("{node} cpu.time")];
        let after = busy_seconds();
        assert!((before..=after).contains(&observed), "{before} <= {observed} <= {after}");
        seen.push(observed);
        spin_until(busy_seconds, 0.3);
    }
    assert!(seen[1] - seen[0] > 0.29, "a busy loop counts: {seen:?}");
}

/// A cgroup of the test's own; removed when dropped.
struct TestGroup {
    directory: PathBuf,
    name: String,
    busy: Option<Child>,
}

impl TestGroup {
    fn new() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let (hierarchy, probe) = match root.join("cgroup.controllers").exists() {
            true => (root.to_owned(), "system.slice"),
            false => (root.join("cpuacct"), "../systemd/system.slice"),
        };
        let suffix = if hierarchy.join(probe).exists() { ".slice" } else { "" };
        let name = format!("nilometer-test-{}{suffix}", std::process::id());
        let directory = hierarchy.join(&name);
        fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let busy = Command::new("sh")
            .args(["-c", "read go; while :; do :; done"])
            .stdin(Stdio::piped())
            .spawn();
        let mut group = TestGroup { directory, name, busy: busy.ok() };
        let child = group.busy.as_mut().ok_or("no shell to keep busy")?;
        fs::write(group.directory.join("cgroup.procs"), child.id().to_string())
            .map_err(|error| format!("cgroup.procs: {error}"))?;
        let go = child.stdin.take().map(|mut input| input.write_all(b"\n"));
        go.ok_or("no way to start the shell")?.map_err(|error| error.to_string())?;
        Ok(group)
    }

    /// What the kernel itself counts for this cgroup.
    fn kernel_seconds(&self) -> f64 {
        if let Ok(nanos) = fs::read_to_string(self.directory.join("cpuacct.usage")) {
            return nanos.trim().parse::<f64>().unwrap() / 1e9;
        }
        let stat = fs::read_to_string(self.directory.join("cpu.stat")).unwrap();
        stat.lines().next().unwrap().split_once(' ').unwrap().1.parse::<f64>().unwrap() / 1e6
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.busy.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The kernel lets go of the dead task a moment after it was waited for.
        let start = Instant::now();
        while fs::remove_dir(&self.directory).is_err()
            && self.directory.exists()
            && start.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test]
async fn a_busy_cgroup_of_this_machine_counts_as_the_kernel_says() {
    let mut group = match TestGroup::new() {
        Ok(group) => group,
        Err(why) if std::env::var("NILOMETER_TESTBED").is_ok_and(|bed| bed == "required") => {
            panic!("a cgroup can be made: {why}")
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: cannot make a cgroup: {why}");
            return;
        }
    };
    let (mut source, _) =
        found(discover_cgroups(HostConfig::default(), Arc::new(SystemClock)).await);
    let id = format!("{}/cgroup/{}", nilometer_host::node_name(), group.name);
    let mut seen = Vec::new();
    for round in 0..2 {
        let before = group.kernel_seconds();
        let out = source.observe().await.unwrap();
        let after = group.kernel_seconds();
        let created = out.events.iter().any(|event| {
            let resource = &event.resource;
            event.change == Change::Created
                && resource.id == id
                && resource.kind == ResourceKind::SLICE
        });
        assert_eq!(created, round == 0);
        let observed = values(out)[&format!("{id} cpu.time")];
        assert!((before..=after).contains(&observed), "{before} <= {observed} <= {after}");
        seen.push(observed);
        spin_until(|| group.kernel_seconds(), 0.2);
    }
    assert!(seen[1] - seen[0] >= 0.2, "a busy loop counts: {seen:?}");
    group.stop();
    let out = source.observe().await.unwrap();
    let deleted = |event: &&nilometer_contract::LifecycleEvent| event.resource.id == id;
    assert_eq!(out.events.iter().find(deleted).map(|event| event.change), Some(Change::Deleted));
}
