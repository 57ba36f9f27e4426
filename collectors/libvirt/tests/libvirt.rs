//! The source against a real libvirt with real guests. Skipped, visibly, where there is none.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code that shows its figures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nilometer_clock::{Clock, SystemClock};
use nilometer_contract::{Change, LifecycleEvent, MICROS_PER_SECOND, SampleBatch, Timestamp};
use nilometer_libvirt::{LibvirtConfig, discover};
use nilometer_source::{Discovery, Observation, Source};
use nilometer_testbed::libvirt::{Guest, Libvirt, Nova, Work};
use tokio::sync::mpsc;

const SPINNER: &str = "0f8e6c1e-3c56-4d4b-9d2b-6a1f4f1d0c01";
const HALTED: &str = "0f8e6c1e-3c56-4d4b-9d2b-6a1f4f1d0c02";
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent: the source, and everything it said so far.
struct Agent {
    source: Box<dyn Source>,
    what: String,
    pushed: mpsc::Receiver<Observation>,
    events: Vec<LifecycleEvent>,
    batches: Vec<SampleBatch>,
}

impl Agent {
    async fn start(libvirt: &Libvirt) -> Agent {
        Agent::start_on(libvirt, libvirt.socket()).await
    }

    async fn start_on(libvirt: &Libvirt, socket: PathBuf) -> Agent {
        let config = LibvirtConfig {
            sockets: vec!["/nonexistent/socket".into(), socket],
            node: "host-1".to_owned(),
            state_dirs: vec![libvirt.state_dir()],
            ..LibvirtConfig::default()
        };
        let (outlet, pushed) = mpsc::channel(64);
        match discover(config, Arc::new(SystemClock), outlet).await {
            Discovery::Found { source, what } => {
                Agent { source, what, pushed, events: Vec::new(), batches: Vec::new() }
            }
            Discovery::Absent { reason } => panic!("libvirt is there: {reason}"),
        }
    }

    fn take(&mut self, seen: Observation) {
        self.events.extend(seen.events);
        self.batches.push(seen.samples.build());
    }

    async fn observe(&mut self) {
        while let Ok(seen) = self.pushed.try_recv() {
            self.take(seen);
        }
        let seen = self.source.observe().await.unwrap();
        self.take(seen);
    }

    /// Waits until an event of this kind was pushed, without observing.
    async fn wait_for(&mut self, change: Change, id: &str) -> LifecycleEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let matches =
                |event: &&LifecycleEvent| event.change == change && event.resource.id == id;
            if let Some(event) = self.events.iter().rfind(matches) {
                return event.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.pushed.recv()).await {
                Ok(Some(seen)) => self.take(seen),
                other => panic!("{change:?} of {id} was not pushed: {}", other.is_err()),
            }
        }
    }

    /// Waits until so many events of a resource were pushed, without observing.
    async fn wait_for_changes(&mut self, id: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.changes_of(id).len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.pushed.recv()).await {
                Ok(Some(seen)) => self.take(seen),
                other => panic!("{count} events of {id} were not pushed: {}", other.is_err()),
            }
        }
    }

    /// Samples of one meter of one resource in order of arrival.
    fn samples(&self, id: &str, meter: &str) -> Vec<(Timestamp, f64)> {
        let rows =
            self.batches.iter().flat_map(|batch| (0..batch.len()).map(move |row| (batch, row)));
        rows.filter(|(batch, row)| {
            batch.subjects.id.value(batch.resource[*row] as usize) == id
                && batch.meters.name.value(batch.meter[*row].into()) == meter
        })
        .map(|(batch, row)| (Timestamp(batch.at[row]), batch.value[row]))
        .collect()
    }

    fn changes_of(&self, id: &str) -> Vec<(Change, Option<&str>)> {
        let events = self.events.iter().filter(|event| event.resource.id == id);
        events.map(|event| (event.change, attribute(event, "state"))).collect()
    }
}

fn attribute<'a>(event: &'a LifecycleEvent, key: &str) -> Option<&'a str> {
    event.resource.attributes.get(key).map(String::as_str)
}

fn guest<'a>(name: &'a str, uuid: &'a str, work: Work) -> Guest<'a> {
    Guest { name, uuid, memory_mib: 64, vcpus: 1, work, nova: None }
}

/// User and system time of a process in seconds, and its start to the second.
fn kernel(pid: u32) -> (f64, Timestamp) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<i64>().unwrap();
    let machine = std::fs::read_to_string("/proc/stat").unwrap();
    let boot = machine.lines().find_map(|line| line.strip_prefix("btime ")).unwrap();
    let start = Timestamp::from_seconds(boot.parse().unwrap());
    let start = start.plus_micros(ticks(19) * MICROS_PER_SECOND / 100);
    ((ticks(11) + ticks(12)) as f64 / 100.0, start)
}

/// Waits until a process has used so many seconds of a processor more.
async fn used_more(pid: u32, seconds: f64) {
    let (deadline, before) = (Instant::now() + 4 * PATIENCE, kernel(pid).0);
    while kernel(pid).0 < before + seconds {
        assert!(Instant::now() < deadline, "the process is busy");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lv").tempdir_in("/tmp").unwrap()
}

fn start(dir: &Path) -> Option<Libvirt> {
    Libvirt::start(dir).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_nova_guest_agrees_with_the_kernel() {
    let dir = directory();
    let Some(libvirt) = start(dir.path()) else { return };
    let mut agent = Agent::start(&libvirt).await;
    assert!(
        agent.what.starts_with("libvirt ") && agent.what.ends_with("(QEMU), 0 running domains")
    );
    agent.observe().await;
    let nova = Nova {
        name: "web-1",
        flavor: "m1.nano",
        project: ("2f00d2f00d2f00d2f00d2f00d2f00d02", "retail"),
        user: ("1f00d1f00d1f00d1f00d1f00d1f00d01", "ann"),
        image: "3f00d3f0-0d3f-40d3-900d-3f00d3f00d03",
    };
    let spinner = Guest { nova: Some(nova), ..guest("instance-00000001", SPINNER, Work::Spin) };
    let pid = libvirt.start_domain(&spinner).unwrap();

    let created = agent.wait_for(Change::Created, SPINNER).await;
    let vm = &created.resource;
    assert_eq!((vm.name.as_str(), vm.node.as_str()), ("web-1", "host-1"));
    assert_eq!(vm.project, "2f00d2f00d2f00d2f00d2f00d2f00d02");
    assert_eq!(vm.parent.as_deref(), Some("host-1"));
    let attributes = ["flavor", "instance_name", "project_name", "user_name", "vcpus"];
    let expected = ["m1.nano", "instance-00000001", "retail", "ann", "1"];
    assert_eq!(attributes.map(|key| attribute(&created, key)), expected.map(Some));
    assert_eq!(attribute(&created, "memory_bytes"), Some("67108864"));
    assert_eq!(attribute(&created, "disk_bytes"), Some("1048576"));
    let lead = created.at.0 - kernel(pid).1.0;
    assert!((-20_000..1_100_000).contains(&lead), "start is {lead} us after the kernel's second");
    assert_eq!(agent.samples(SPINNER, "cpu.time")[0], (created.at, 0.0));

    let mut readings = Vec::new();
    for more in [0.0, 5.0] {
        used_more(pid, more).await;
        let before = kernel(pid).0;
        agent.observe().await;
        let reading = *agent.samples(SPINNER, "cpu.time").last().unwrap();
        readings.push((before, reading, kernel(pid).0));
    }
    let [(low_1, first, high_1), (low_2, second, high_2)] = readings[..] else { panic!() };
    let ours = second.1 - first.1;
    let (least, most) = (low_2 - high_1, high_2 - low_1);
    assert!(ours > 1.0 && least * 0.99 <= ours && ours <= most * 1.01, "{least} {ours} {most}");
    let over = (second.0.0 - first.0.0) as f64 / 1e6;
    eprintln!("cpu over {over:.2} s: ours {ours:.2} s, kernel's {least:.2} to {most:.2} s");
    let disk = format!("{SPINNER}/disk/vda");
    assert_eq!(
        agent.samples(&disk, "disk.capacity").last().map(|sample| sample.1),
        Some(1048576.0)
    );
    assert!(agent.samples(&disk, "disk.read.bytes").last().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_life_has_exact_edges_without_any_poll() {
    let dir = directory();
    let Some(libvirt) = start(dir.path()) else { return };
    let mut agent = Agent::start(&libvirt).await;
    let clock = SystemClock;

    let asked = clock.now();
    let pid = libvirt.start_domain(&guest("short", HALTED, Work::Halt)).unwrap();
    let created = agent.wait_for(Change::Created, HALTED).await;
    assert!(created.at.0 >= asked.0 - 10_000 && created.at <= clock.now(), "{}", created.at);
    let after_kernel = created.at.0 - kernel(pid).1.0;
    libvirt.virsh(&["suspend", "short"]).unwrap();
    libvirt.virsh(&["resume", "short"]).unwrap();
    agent.wait_for_changes(HALTED, 3).await;
    let asked = clock.now();
    libvirt.destroy("short").unwrap();
    let answered = clock.now();
    let deleted = agent.wait_for(Change::Deleted, HALTED).await;
    let late = deleted.at.0 - answered.0;
    assert!(deleted.at >= asked && late < 1_000_000, "{late} us after virsh returned");
    assert_eq!(attribute(&deleted, "end"), None);
    let wait = deleted.at.0 - asked.0;
    eprintln!(
        "edges: start {after_kernel} us after the kernel's second, end {wait} us after asked"
    );

    let changes = agent.changes_of(HALTED);
    assert_eq!(changes[0], (Change::Created, Some("running")));
    assert_eq!(changes[1], (Change::Changed, Some("paused")));
    assert_eq!(changes[2], (Change::Changed, Some("running")));
    assert_eq!(changes.last().unwrap().0, Change::Deleted);
    let disk = format!("{HALTED}/disk/vda");
    let disk_events: Vec<_> =
        agent.events.iter().filter(|event| event.resource.id == disk).collect();
    assert_eq!(disk_events.first().unwrap().at, created.at);
    assert_eq!(disk_events.last().unwrap().at, deleted.at);
    let cpu = agent.samples(HALTED, "cpu.time");
    assert!(cpu.len() >= 2 && cpu.last().unwrap().0 <= deleted.at, "{cpu:?}");
    eprintln!("last reading {} us before the end", deleted.at.0 - cpu.last().unwrap().0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_of_libvirt_and_of_the_agent_make_no_second_life() {
    let dir = directory();
    let Some(mut libvirt) = start(dir.path()) else { return };
    let mut agent = Agent::start(&libvirt).await;
    libvirt.start_domain(&guest("stays", SPINNER, Work::Halt)).unwrap();
    let pid = libvirt.start_domain(&guest("goes", HALTED, Work::Halt)).unwrap();
    let stays = agent.wait_for(Change::Created, SPINNER).await;
    agent.wait_for(Change::Created, HALTED).await;
    agent.observe().await;
    let last = agent.samples(HALTED, "cpu.time").last().unwrap().0;

    libvirt.stop_daemon();
    let goes = process(pid);
    rustix::process::kill_process(goes, rustix::process::Signal::KILL).unwrap();
    libvirt.start_daemon().unwrap();
    let deleted = agent.wait_for(Change::Deleted, HALTED).await;
    assert_eq!((deleted.at, attribute(&deleted, "end")), (last, Some("estimated")));
    agent.observe().await;
    assert_eq!(agent.changes_of(SPINNER), [(Change::Created, Some("running"))]);

    let read_only = libvirt.socket().with_file_name("libvirt-sock-ro");
    let mut second = Agent::start_on(&libvirt, read_only).await;
    assert!(second.what.ends_with("1 running domain"), "{}", second.what);
    second.observe().await;
    assert_eq!(second.events.iter().find(|event| event.resource.id == SPINNER), Some(&stays));
    assert!(second.samples(SPINNER, "cpu.time")[0].1 > 0.0, "its past is not counted again");
    libvirt.destroy("stays").unwrap();
    for agent in [&mut agent, &mut second] {
        agent.wait_for(Change::Deleted, SPINNER).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_disk_and_new_metadata_are_pushed() {
    let dir = directory();
    let Some(libvirt) = start(dir.path()) else { return };
    let mut agent = Agent::start(&libvirt).await;
    libvirt.start_domain(&guest("grows", HALTED, Work::Halt)).unwrap();
    let created = agent.wait_for(Change::Created, HALTED).await;

    let disk = dir.path().join("second.img");
    std::fs::write(&disk, vec![0; 2 << 20]).unwrap();
    libvirt.virsh(&["attach-disk", "grows", &disk.to_string_lossy(), "vdb"]).unwrap();
    let id = format!("{HALTED}/disk/vdb");
    let attached = agent.wait_for(Change::Created, &id).await;
    assert!(attached.at > created.at, "a disk that came later starts later");
    agent.observe().await;
    let changed = agent.wait_for(Change::Changed, HALTED).await;
    assert_eq!(attribute(&changed, "disk_bytes"), Some("3145728"));
    let latest = agent.events.iter().rfind(|event| event.resource.id == id).unwrap();
    assert_eq!(attribute(latest, "disk_bytes"), Some("2097152"));

    let nova = "<instance><owner><project uuid='p2'>other</project></owner></instance>";
    let namespace = "http://openstack.org/xmlns/libvirt/nova/1.1";
    let set = ["metadata", "grows", namespace, "--live", "--key", "nova", "--set", nova];
    libvirt.virsh(&set).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while agent.wait_for(Change::Changed, HALTED).await.resource.project != "p2" {
        assert!(Instant::now() < deadline, "the new owner was not pushed");
        if let Ok(Some(seen)) = tokio::time::timeout(PATIENCE, agent.pushed.recv()).await {
            agent.take(seen);
        }
    }
    let disks = agent.events.iter().rfind(|event| event.resource.id == id).unwrap();
    assert_eq!(disks.resource.project, "p2", "devices follow their VM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_switches_itself_off_is_read_once_more() {
    let dir = directory();
    let Some(libvirt) = start(dir.path()) else { return };
    let mut agent = Agent::start(&libvirt).await;
    libvirt.start_domain(&guest("ends", HALTED, Work::SwitchOff)).unwrap();
    let deleted = agent.wait_for(Change::Deleted, HALTED).await;
    let cpu = agent.samples(HALTED, "cpu.time");
    let changes = agent.changes_of(HALTED);
    assert!(changes.contains(&(Change::Changed, Some("shutting_down"))), "{changes:?}");
    let before = deleted.at.0 - cpu.last().unwrap().0.0;
    eprintln!("last of {} readings {before} us before the end", cpu.len());
    // Zero at the start, one on the start, one on the shutdown.
    assert!(cpu.len() >= 3 && cpu.last().unwrap().1 > 0.0, "{cpu:?}");
}

fn process(pid: u32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
