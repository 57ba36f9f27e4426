//! Leaves nothing behind: shims, containers, mounts and cgroups of one test bed, by id and path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const CGROUPS: &str = "/sys/fs/cgroup";
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills the shims that serve `socket` and every process in the test bed's cgroups.
pub(super) fn kill_all(socket: &Path, cgroup_parent: &str) {
    let socket = socket.display().to_string();
    let shims = numbered(Path::new("/proc")).filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|&byte| byte == 0);
        command.windows(15).any(|part| part == b"containerd-shim")
            && words.any(|word| word == socket.as_bytes())
    });
    shims.for_each(kill);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let left: Vec<i32> = cgroups(cgroup_parent).iter().flat_map(|dir| members(dir)).collect();
        if left.is_empty() {
            return;
        }
        left.into_iter().for_each(kill);
        sleep(Duration::from_millis(20));
    }
}

/// Removes the sockets that killed shims leave outside the test bed's directories.
pub(super) fn remove_sockets(dir: &Path) {
    let bundles = dir.join("state/io.containerd.runtime.v2.task/k8s.io");
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        let address = fs::read_to_string(bundle.path().join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            let _ = fs::remove_file(socket);
        }
    }
}

/// Unmounts everything at or below `dir`, innermost first.
pub(super) fn unmount(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<&str> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        let _ = Command::new("umount").args(["-l", point]).output();
    }
}

/// Removes the test bed's cgroups in every hierarchy.
pub(super) fn remove_cgroups(cgroup_parent: &str) {
    let started = Instant::now();
    loop {
        let left = cgroups(cgroup_parent);
        let removed = left.iter().filter(|dir| fs::remove_dir(dir).is_ok()).count();
        if removed == left.len() || started.elapsed() > PATIENCE {
            return;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Directories of `parent` and below in every hierarchy, children first.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let parent = parent.trim_start_matches('/');
    let mut found = Vec::new();
    let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain([PathBuf::from(CGROUPS)]);
    for root in roots {
        walk(&root.join(parent), &mut found);
    }
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
    found.push(dir.to_owned());
}

fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn numbered(dir: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
