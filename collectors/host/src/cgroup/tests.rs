//! Lives of cgroups on trees made for the test.

use std::fs::{self, create_dir_all, remove_dir_all, write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nilometer_clock::Clock;
use tempfile::TempDir;

use super::*;

struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

struct Bed {
    sys: TempDir,
    clock: Arc<Hand>,
    cgroups: Cgroups,
}

/// Far past any time that the test's files could have.
const LATER: i64 = 4_000_000_000_000_000;

fn bed(most: usize) -> Bed {
    let sys = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hand(AtomicI64::new(LATER)));
    let config = HostConfig {
        sys: sys.path().to_owned(),
        node: Some("n".to_owned()),
        max_cgroups: most,
        ..HostConfig::default()
    };
    let cgroups = Cgroups::new(&config, clock.clone());
    create_dir_all(sys.path().join("fs/cgroup")).unwrap();
    Bed { sys, clock, cgroups }
}

impl Bed {
    fn write(&self, file: &str, text: &str) {
        let path = self.sys.path().join("fs/cgroup").join(file);
        create_dir_all(path.parent().unwrap()).unwrap();
        write(path, text).unwrap();
    }

    fn remove(&self, directory: &str) {
        remove_dir_all(self.sys.path().join("fs/cgroup").join(directory)).unwrap();
    }

    /// Observes a second later; events as text, samples as text without their instants.
    fn observe(&mut self) -> (Vec<String>, Vec<String>) {
        self.clock.0.fetch_add(1_000_000, Ordering::Relaxed);
        let out = self.cgroups.observe().unwrap();
        let name = |event: &LifecycleEvent| {
            let resource = &event.resource;
            format!("{} {} {}", event.change.as_str(), resource.kind, resource.id)
        };
        let events = out.events.iter().map(name).collect();
        let batch = out.samples.build();
        let rows = (0..batch.len()).map(|row| {
            let id = batch.subjects.id.value(batch.resource[row] as usize);
            let meter = batch.meters.name.value(usize::from(batch.meter[row]));
            format!("{} {meter} {}", id.rsplit('/').next().unwrap(), batch.value[row])
        });
        (events, rows.collect())
    }
}

#[test]
fn version_2_with_systemd() {
    let mut bed = bed(100);
    bed.write("cgroup.controllers", "cpu memory");
    bed.write("init.scope/cpu.stat", "usage_usec 1\n");
    bed.write("kubepods.slice/cpu.stat", "usage_usec 1\n");
    bed.write(
        "system.slice/cpu.stat",
        "usage_usec 5000000\nuser_usec 4000000\nsystem_usec 1000000\n",
    );
    bed.write("system.slice/docker-1.scope/cpu.stat", "usage_usec 1\n");
    bed.write("system.slice/ssh.service/memory.current", "1000\n");
    bed.write("system.slice/ssh.service/memory.stat", "anon 400\nfile 300\ninactive_file 250\n");
    bed.write("system.slice/ssh.service/cpu.pressure", "some avg10=0.00 total=2000000\n");
    let (events, samples) = bed.observe();
    assert_eq!(
        events,
        [
            "created slice n/cgroup/system.slice",
            "created service n/cgroup/system.slice/ssh.service"
        ]
    );
    assert_eq!(
        samples,
        [
            "system.slice cpu.time 5",
            "system.slice cpu.user.time 4",
            "system.slice cpu.system.time 1",
            "ssh.service memory.resident 400",
            "ssh.service memory.cache 300",
            "ssh.service memory.usage 750",
            "ssh.service pressure.cpu.some.time 2",
        ]
    );
    assert_eq!(bed.cgroups.describe(), "1 services and 1 slices (cgroup v2)");
    let parents: Vec<_> =
        bed.cgroups.groups.values().map(|group| group.resource.parent.clone().unwrap()).collect();
    assert_eq!(parents, ["n", "n/cgroup/system.slice"]);
}

#[test]
fn version_1_without_systemd_and_an_empty_version_2() {
    let mut bed = bed(100);
    for root in ["cpuacct", "memory", "pids"] {
        bed.write(&format!("{root}/cgroup.procs"), "");
    }
    bed.write("unified/cgroup.procs", "");
    bed.write("unified/cgroup.controllers", "");
    bed.write("cpuacct/batch/cpuacct.usage", "1500000000\n");
    bed.write("memory/batch/memory.usage_in_bytes", "100\n");
    bed.write("memory/batch/memory.stat", "rss 1\ntotal_rss 40\ntotal_inactive_file 30\n");
    bed.write("memory/batch/nested/memory.stat", "total_rss 1\n");
    bed.write("pids/other/pids.current", "3\n");
    bed.write("pids/k8s.io/pids.current", "3\n");
    let (events, samples) = bed.observe();
    assert_eq!(events, ["created slice n/cgroup/batch", "created slice n/cgroup/other"]);
    assert_eq!(
        samples,
        [
            "batch cpu.time 1.5",
            "batch memory.resident 40",
            "batch memory.usage 70",
            "other processes 3"
        ]
    );
    assert_eq!(bed.cgroups.describe(), "0 services and 2 slices (cgroup v1 and v2)");
}

#[test]
fn lives_end_and_start_again() {
    let mut bed = bed(100);
    bed.write("cgroup.controllers", "");
    bed.write("a.slice/b.service/pids.current", "1\n");
    assert_eq!(bed.observe().0.len(), 2);
    assert!(bed.observe().0.is_empty());
    // Replaced between two observations: another inode under the same name.
    let old = bed.sys.path().join("fs/cgroup/a.slice/b.service");
    fs::rename(&old, bed.sys.path().join("kept")).unwrap();
    bed.write("a.slice/b.service/pids.current", "1\n");
    let told = bed.observe().0;
    assert_eq!(
        told,
        [
            "deleted service n/cgroup/a.slice/b.service",
            "created service n/cgroup/a.slice/b.service"
        ]
    );
    bed.remove("a.slice");
    assert_eq!(
        bed.observe().0,
        ["deleted service n/cgroup/a.slice/b.service", "deleted slice n/cgroup/a.slice"]
    );
}

#[test]
fn a_life_starts_when_its_directory_was_made_and_never_before_it_was_missed() {
    let mut bed = bed(100);
    bed.write("cgroup.controllers", "");
    bed.write("a.slice/pids.current", "1\n");
    let first = bed.cgroups.observe().unwrap().events.remove(0);
    let made = fs::metadata(bed.sys.path().join("fs/cgroup/a.slice")).unwrap().mtime();
    assert_eq!(first.at.0.div_euclid(1_000_000), made);
    bed.write("b.slice/pids.current", "1\n");
    let second = bed.cgroups.observe().unwrap().events.remove(0);
    assert!(second.at > Timestamp(LATER), "b.slice was not there at the observation before");
}

#[test]
fn the_bound_keeps_what_is_known() {
    let mut bed = bed(2);
    bed.write("cgroup.controllers", "");
    for name in ["m.slice", "n.slice"] {
        bed.write(&format!("{name}/pids.current"), "1\n");
    }
    bed.observe();
    bed.write("a.slice/pids.current", "1\n");
    let (events, samples) = bed.observe();
    assert!(events.is_empty());
    assert_eq!(samples, ["m.slice processes 1", "n.slice processes 1"]);
    assert_eq!(bed.cgroups.left_out, 1);
}
