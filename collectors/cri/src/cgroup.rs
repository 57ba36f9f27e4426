//! The CPU counter of a container's cgroup, read at the moment of its exit.
//!
//! The runtime answers for running containers only, and removes the cgroup some tens of
//! milliseconds after the exit; what it counted to the end is there in between.

use std::fs;
use std::path::{Path, PathBuf};

/// The cgroup of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// The cgroup of process `pid`, if it is the one of container `id`: pids are reused.
    pub(crate) fn of(proc: &Path, cgroups: &Path, pid: u32, id: &str) -> Option<Self> {
        let text = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
        let dirs = text.lines().filter_map(|line| place(cgroups, line));
        dirs.filter(|dir| names(dir, id))
            .map(|dir| Cgroup { dir })
            .find(|cgroup| cgroup.cpu_nanos().is_some())
    }

    /// The cgroup above, if it belongs to the pod `uid` alone, as Kubernetes arranges it.
    pub(crate) fn of_pod(&self, uid: &str) -> Option<Self> {
        let dir = self.dir.parent()?.to_owned();
        // systemd's slices escape the dashes of a uid.
        let own = names(&dir, uid) || names(&dir, &uid.replace('-', "_"));
        own.then_some(Cgroup { dir })
    }

    /// CPU time used, in nanoseconds; of v1 or v2, whichever counts it here.
    pub(crate) fn cpu_nanos(&self) -> Option<u64> {
        if let Ok(text) = fs::read_to_string(self.dir.join("cpuacct.usage")) {
            return text.trim().parse().ok();
        }
        let text = fs::read_to_string(self.dir.join("cpu.stat")).ok()?;
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        micros.trim().parse::<u64>().ok()?.checked_mul(1_000)
    }
}

fn names(dir: &Path, id: &str) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str());
    !id.is_empty() && name.is_some_and(|name| name.contains(id))
}

/// Directory of one line `hierarchy:controllers:path` of `/proc/<pid>/cgroup`.
fn place(cgroups: &Path, line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    if controllers.is_empty() {
        let hybrid = cgroups.join("unified").join(path);
        return Some(if hybrid.is_dir() { hybrid } else { cgroups.join(path) });
    }
    if !controllers.split(',').any(|controller| controller == "cpuacct") {
        return None;
    }
    let joined = cgroups.join(controllers).join(path);
    Some(if joined.is_dir() { joined } else { cgroups.join("cpuacct").join(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn both_versions_are_read_and_strangers_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, cgroups) = (dir.path().join("proc"), dir.path().join("cgroup"));
        write(proc.join("7/cgroup"), "4:cpu,cpuacct:/kubepods/podu-1/abc\n0::/\n");
        write(cgroups.join("cpu,cpuacct/kubepods/podu-1/abc/cpuacct.usage"), "1500\n");
        write(cgroups.join("cpu,cpuacct/kubepods/podu-1/cpuacct.usage"), "2500\n");
        write(proc.join("8/cgroup"), "0::/kubepods.slice/podu_1.slice/cri-containerd-def.scope\n");
        let v2 = cgroups.join("kubepods.slice/podu_1.slice/cri-containerd-def.scope/cpu.stat");
        write(v2, "usage_usec 42\nuser_usec 40\n");

        let v1 = Cgroup::of(&proc, &cgroups, 7, "abc").unwrap();
        assert_eq!(v1.cpu_nanos(), Some(1500));
        assert_eq!(v1.of_pod("u-1").unwrap().cpu_nanos(), Some(2500));
        assert_eq!(v1.of_pod("u-2"), None);
        let v2 = Cgroup::of(&proc, &cgroups, 8, "def").unwrap();
        assert_eq!(v2.cpu_nanos(), Some(42_000));
        assert!(v2.of_pod("u-1").is_some());
        assert_eq!(Cgroup::of(&proc, &cgroups, 8, "abc"), None);
        assert_eq!(Cgroup::of(&proc, &cgroups, 9, "abc"), None);
    }
}
