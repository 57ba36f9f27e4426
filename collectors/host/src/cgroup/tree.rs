//! Which hierarchies there are and which cgroups in them are services or slices.
//!
//! ```text
//! v2       /sys/fs/cgroup/cgroup.controllers            one hierarchy
//! v1       /sys/fs/cgroup/{cpu,cpuacct,memory,…}/       one per group of controllers
//! hybrid   v1 with one more, `unified`, that is v2
//! ```
//!
//! With systemd the services and slices are named so and slices nest; without it every top-level
//! cgroup counts as a slice. Cgroups of containers and machines belong to other sources.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use nilometer_contract::ResourceKind;

const MAX_DEPTH: usize = 8;
/// Directories read of one parent; those beyond are not seen. Far above the bound on cgroups.
const MAX_ENTRIES: usize = 65_536;

/// One mounted hierarchy.
pub(crate) struct Hierarchy {
    pub(crate) path: PathBuf,
    pub(crate) controllers: Controllers,
}

/// What a hierarchy can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Controllers {
    pub(crate) unified: bool,
    pub(crate) cpu: bool,
    pub(crate) cpuacct: bool,
    pub(crate) memory: bool,
    pub(crate) blkio: bool,
    pub(crate) pids: bool,
}

/// A cgroup as it lies in the hierarchies.
pub(crate) struct Found {
    pub(crate) kind: ResourceKind,
    /// Inode in each hierarchy, 0 where it has none.
    pub(crate) inodes: Vec<u64>,
}

/// The hierarchies below a root, in order of name.
pub(crate) fn hierarchies(root: &Path) -> Vec<Hierarchy> {
    let unified = |path: &Path| path.join("cgroup.controllers").exists();
    if unified(root) {
        let controllers = Controllers { unified: true, ..Controllers::default() };
        return vec![Hierarchy { path: root.to_owned(), controllers }];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut hierarchies: Vec<Hierarchy> = entries
        .filter_map(|entry| {
            // Symbolic links such as `cpu` to `cpu,cpuacct` name a hierarchy twice.
            let entry = entry.ok().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))?;
            let path = entry.path();
            if !path.join("cgroup.procs").exists() {
                return None;
            }
            let name = entry.file_name().into_string().ok()?;
            let has = |controller: &str| name.split(',').any(|word| word == controller);
            let controllers = Controllers {
                unified: unified(&path),
                cpu: has("cpu"),
                cpuacct: has("cpuacct"),
                memory: has("memory"),
                blkio: has("blkio"),
                pids: has("pids"),
            };
            Some(Hierarchy { path, controllers })
        })
        .collect();
    hierarchies.sort_by(|a, b| a.path.cmp(&b.path));
    hierarchies
}

/// For people: which versions there are.
pub(crate) fn versions(hierarchies: &[Hierarchy]) -> &'static str {
    let unified = hierarchies.iter().filter(|hierarchy| hierarchy.controllers.unified).count();
    match unified {
        0 => "cgroup v1",
        n if n == hierarchies.len() => "cgroup v2",
        _ => "cgroup v1 and v2",
    }
}

/// Every service and slice by its path.
pub(crate) fn walk(hierarchies: &[Hierarchy]) -> BTreeMap<String, Found> {
    let tops: Vec<Vec<(String, u64)>> =
        hierarchies.iter().map(|hierarchy| directories(&hierarchy.path)).collect();
    let systemd = tops.iter().flatten().any(|(name, _)| name.ends_with(".slice"));
    let mut found = BTreeMap::new();
    for (place, top) in tops.into_iter().enumerate() {
        let mut walk = Walk { hierarchies, place, systemd, found: &mut found };
        for (name, inode) in top {
            walk.visit(name.clone(), &name, inode, 1);
        }
    }
    found
}

struct Walk<'a> {
    hierarchies: &'a [Hierarchy],
    place: usize,
    systemd: bool,
    found: &'a mut BTreeMap<String, Found>,
}

impl Walk<'_> {
    fn visit(&mut self, path: String, name: &str, inode: u64, depth: usize) {
        let Some(kind) = kind(name, self.systemd) else { return };
        let nested = self.systemd && kind == ResourceKind::SLICE && depth < MAX_DEPTH;
        let children = match nested {
            true => directories(&self.hierarchies[self.place].path.join(&path)),
            false => Vec::new(),
        };
        for (name, inode) in children {
            self.visit(format!("{path}/{name}"), &name, inode, depth + 1);
        }
        let hierarchies = self.hierarchies.len();
        let found =
            self.found.entry(path).or_insert_with(|| Found { kind, inodes: vec![0; hierarchies] });
        found.inodes[self.place] = inode;
    }
}

fn kind(name: &str, systemd: bool) -> Option<ResourceKind> {
    if is_of_containers(name) {
        None
    } else if name.ends_with(".service") {
        Some(ResourceKind::SERVICE)
    } else if name.ends_with(".slice") || !systemd {
        Some(ResourceKind::SLICE)
    } else {
        None
    }
}

/// Whether a cgroup holds containers or machines, which other sources meter.
fn is_of_containers(name: &str) -> bool {
    const NAMES: [&str; 8] =
        ["docker", "k8s.io", "moby", "machine", "machine.slice", "lxc", "lxc.payload", "buildkit"];
    const PREFIXES: [&str; 5] = ["kubepods", "libpod", "crio-", "nerdctl", "lxc.payload."];
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.contains("cri-containerd")
}

/// Names and inodes of the directories in a directory; nothing when it went away meanwhile.
fn directories(path: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))?;
            let inode = entry.ino();
            Some((entry.file_name().into_string().ok()?, inode))
        })
        .take(MAX_ENTRIES)
        .collect()
}
