//! What nodes, VMs, pods and containers look like: sizes, names, rhythms.

use nilometer_contract::{Resource, ResourceKind};

use crate::estate::{CORE_TICKS, Claim, Device, Entity, Estate, Flow, Hosts, Key, Level};
use crate::mix;
use crate::rhythm::Series;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;
/// Fits 9 VMs or 20 pods with room to spare; larger when there are more per node.
const NODE_CPUS: u64 = 48;
const NODE_BYTES: u64 = 384 * GIB;
const VMS_AND_PODS_PER_NODE: u64 = 20;
/// Ticks per slot that a node, VM or pod burns itself at most.
const NODE_OWN_TICKS: u64 = CORE_TICKS;
const CLUSTER_OWN_TICKS: u64 = CORE_TICKS / 2;
const PAUSE_TICKS: u64 = 400;
const PAUSE_BYTES: u64 = MIB;

const PROJECTS: [&str; 10] = [
    "storefront",
    "payments",
    "search",
    "analytics",
    "mobile",
    "research",
    "media",
    "logistics",
    "support",
    "platform",
];
const APPS: [&str; 12] = [
    "web", "api", "cart", "queue", "cache", "index", "worker", "mail", "report", "auth", "batch",
    "proxy",
];

/// A size of VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flavor {
    pub(crate) name: &'static str,
    vcpus: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

const fn flavor(name: &'static str, vcpus: u64, memory_gib: u64, disk_gb: u64) -> Flavor {
    Flavor { name, vcpus, memory_bytes: memory_gib * GIB, disk_bytes: disk_gb * GB }
}

/// The flavors; smaller ones are likelier.
pub(crate) const FLAVORS: [Flavor; 7] = [
    flavor("m1.small", 1, 2, 20),
    flavor("m1.medium", 2, 4, 40),
    flavor("m1.large", 4, 8, 80),
    flavor("c1.large", 4, 4, 40),
    flavor("r1.large", 2, 16, 80),
    flavor("m1.xlarge", 8, 16, 160),
    flavor("r1.xlarge", 4, 32, 160),
];
const CLUSTER: Flavor = flavor("k8s.node", 16, 64, 200);

/// Sizes of pods: requested cores, as text and in quarters, and memory.
const REQUESTS: [(&str, u64, u64); 5] = [
    ("0.25", 1, 256 * MIB),
    ("0.5", 2, 512 * MIB),
    ("0.5", 2, GIB),
    ("1", 4, 2 * GIB),
    ("2", 8, 4 * GIB),
];

impl Flavor {
    /// What a VM of this size can use at most: VMs differ in how much of their cores they do.
    fn claim(&self, seed: u64) -> Claim {
        let percent = 30 + mix::at(seed, 1) % 60;
        Claim { ticks: self.vcpus * CORE_TICKS * percent / 100, bytes: self.memory_bytes }
    }

    fn describe(&self, resource: &mut Resource) {
        let size = |value: u64| value.to_string();
        resource.attributes.extend([
            ("flavor".to_owned(), self.name.to_owned()),
            ("vcpus".to_owned(), size(self.vcpus)),
            ("memory_bytes".to_owned(), size(self.memory_bytes)),
            ("disk_bytes".to_owned(), size(self.disk_bytes)),
        ]);
    }
}

impl Estate {
    /// The `n`-th project.
    pub(crate) fn project(&self, n: u64) -> String {
        let n = n % u64::from(self.config.projects);
        let name = PROJECTS[(n % PROJECTS.len() as u64) as usize];
        match n / PROJECTS.len() as u64 {
            0 => name.to_owned(),
            round => format!("{name}-{}", round + 1),
        }
    }

    /// Adds the `n`-th node.
    pub(crate) fn add_node(&mut self, n: u32, at: i64) -> Key {
        let seed = self.next_seed();
        let per_node = u64::from(self.config.vms_and_pods / self.config.nodes);
        let scale = per_node.div_ceil(VMS_AND_PODS_PER_NODE).max(1);
        let (cpus, bytes) = (NODE_CPUS * scale, NODE_BYTES * scale);
        let id = format!("sim{}-node-{:03}", self.config.seed, n + 1);
        let mut resource = Resource::new(id.clone(), ResourceKind::NODE);
        resource.name = id.clone();
        resource.node = id;
        resource.attributes.insert("vcpus".to_owned(), cpus.to_string());
        resource.attributes.insert("memory_bytes".to_owned(), bytes.to_string());
        let bare = n % 5 == 1;
        let role = if bare { "kubernetes" } else { "hypervisor" };
        resource.attributes.insert("role".to_owned(), role.to_owned());
        // Three percent of the cores stay idle whatever comes.
        let all = Claim { ticks: cpus * CORE_TICKS * 97 / 100, bytes };
        let own = Claim { ticks: NODE_OWN_TICKS, bytes: 4 * GIB };
        let mut entity = self.entity(resource, seed, all, own, at);
        entity.room = all.less(own);
        let disk = (2_000 * GB, 400_000_000);
        entity.devices = self.devices(&entity, Some(disk), ("eth0", 250_000_000), at);
        let key = self.add(entity);
        self.nodes.push(key);
        if bare {
            self.bare.push(key);
        } else {
            self.hypervisors.push(key);
        }
        key
    }

    /// Adds a VM that is a Kubernetes node; `None` when no hypervisor has room.
    pub(crate) fn add_cluster(&mut self, at: i64) -> Option<Key> {
        let seed = self.next_seed();
        let claim =
            Claim { ticks: CLUSTER.vcpus * CORE_TICKS * 9 / 10, bytes: CLUSTER.memory_bytes };
        let own = Claim { ticks: CLUSTER_OWN_TICKS, bytes: 3 * GIB };
        let project = self.project(u64::from(self.config.projects) - 1);
        let key = self.place_vm(seed, CLUSTER, project, claim, own, at)?;
        let room = claim.less(own);
        self.get_mut(key).room = room;
        self.clusters.push(key);
        Some(key)
    }

    /// Adds a VM; `None` when no hypervisor has room.
    pub(crate) fn add_vm(&mut self, at: i64) -> Option<Key> {
        let seed = self.next_seed();
        let flavor =
            FLAVORS[self.random.index(FLAVORS.len()).min(self.random.index(FLAVORS.len()))];
        let project = self.any_project();
        let claim = flavor.claim(seed);
        self.place_vm(seed, flavor, project, claim, claim, at)
    }

    /// Adds a pod with its containers; `None` when no host has room.
    pub(crate) fn add_pod(&mut self, at: i64) -> Option<Key> {
        let seed = self.next_seed();
        let (cores, quarters, bytes) = REQUESTS[self.random.index(REQUESTS.len())];
        let containers = if mix::at(seed, 2).is_multiple_of(4) { 2 } else { 1 };
        // Its limit is what it requests.
        let limit = quarters * CORE_TICKS / 4;
        let claim = Claim { ticks: limit + PAUSE_TICKS, bytes: bytes + PAUSE_BYTES };
        let bare =
            self.clusters.is_empty() || !self.bare.is_empty() && mix::at(seed, 3).is_multiple_of(5);
        let host = self.host_for(if bare { Hosts::Bare } else { Hosts::Clusters }, claim)?;
        let project = self.any_project();
        let app = APPS[(mix::at(seed, 4) % APPS.len() as u64) as usize];
        let mut resource = Resource::new(uuid(seed), ResourceKind::POD);
        resource.name = format!("{app}-{:08x}", mix::at(seed, 5) as u32);
        resource.attributes.extend([
            ("app".to_owned(), app.to_owned()),
            ("namespace".to_owned(), project.clone()),
            ("vcpus".to_owned(), cores.to_owned()),
            ("memory_bytes".to_owned(), bytes.to_string()),
        ]);
        resource.project = project;
        resource.node = self.get(host).resource.node.clone();
        resource.parent = Some(self.get(host).resource.id.clone());
        let own = Claim { ticks: PAUSE_TICKS, bytes: PAUSE_BYTES };
        let mut entity = self.entity(resource, seed, claim, own, at);
        entity.room = claim.less(own);
        entity.devices = self.devices(&entity, None, ("eth0", 20_000_000), at);
        entity.host = Some(host);
        let pod = self.add(entity);
        for n in 0..containers {
            let claim = Claim { ticks: limit / containers, bytes: bytes / containers };
            self.add_container(pod, app, n, claim, at);
        }
        Some(pod)
    }

    /// Makes a VM of another size; false when its node has no room for it.
    pub(crate) fn resize(&mut self, key: Key, at: i64) -> bool {
        let flavor = FLAVORS[self.random.index(FLAVORS.len())];
        let vm = self.get(key);
        let claim = flavor.claim(vm.seed);
        let Some(host) = vm.host else { return false };
        let same = vm.resource.attributes.get("flavor").is_some_and(|name| name == flavor.name);
        let free = self.get(host).room;
        let fits = claim.ticks <= free.ticks + vm.claim.ticks
            && claim.bytes <= free.bytes + vm.claim.bytes;
        if same || !fits {
            return false;
        }
        let total = self.total(key, at);
        self.detach(key, at);
        let (entity, rhythm) = self.get_mut_with_rhythm(key);
        entity.claim = claim;
        entity.own.change(rhythm, claim.ticks, at);
        entity.level = level(entity.seed, claim);
        for device in entity.devices.iter_mut().filter(|device| device.capacity_bytes > 0) {
            device.capacity_bytes = flavor.disk_bytes;
        }
        flavor.describe(&mut entity.resource);
        self.attach(key, host, total);
        true
    }

    /// A project by chance.
    pub(crate) fn any_project(&mut self) -> String {
        let n = self.random.below(self.config.projects.into());
        self.project(n)
    }

    fn place_vm(
        &mut self,
        seed: u64,
        flavor: Flavor,
        project: String,
        claim: Claim,
        own: Claim,
        at: i64,
    ) -> Option<Key> {
        let host = self.host_for(Hosts::Hypervisors, claim)?;
        let app = APPS[(mix::at(seed, 4) % APPS.len() as u64) as usize];
        let mut resource = Resource::new(uuid(seed), ResourceKind::VM);
        resource.name = format!("{app}-{:04x}", mix::at(seed, 5) as u16);
        resource.project = project;
        resource.node = self.get(host).resource.node.clone();
        resource.parent = Some(self.get(host).resource.id.clone());
        flavor.describe(&mut resource);
        let mut entity = self.entity(resource, seed, claim, own, at);
        let disk = (flavor.disk_bytes, 30_000_000);
        entity.devices = self.devices(&entity, Some(disk), ("tap0", 40_000_000), at);
        entity.host = Some(host);
        Some(self.add(entity))
    }

    fn add_container(&mut self, pod: Key, app: &str, n: u64, claim: Claim, at: i64) {
        let seed = self.next_seed();
        let id = format!("{:016x}{:016x}", mix::at(seed, 6), mix::at(seed, 7));
        let mut resource = Resource::new(id, ResourceKind::CONTAINER);
        let whole = &self.get(pod).resource;
        resource.name = if n == 0 { app.to_owned() } else { "sidecar".to_owned() };
        resource.project = whole.project.clone();
        resource.node = whole.node.clone();
        resource.parent = Some(whole.id.clone());
        resource.attributes.insert("image".to_owned(), format!("registry.example/{app}:1.{n}"));
        let mut entity = self.entity(resource, seed, claim, claim, at);
        entity.host = Some(pod);
        self.add(entity);
    }

    fn entity(&self, resource: Resource, seed: u64, claim: Claim, own: Claim, at: i64) -> Entity {
        Entity {
            resource,
            seed,
            born: at,
            own: Flow::new(&self.rhythm, Series::new(mix::at(seed, 8), own.ticks), at),
            level: level(seed, own),
            devices: Vec::new(),
            host: None,
            children: Vec::new(),
            claim,
            room: Claim::default(),
            restarted: 0,
            arrived: 0,
            departed: 0,
        }
    }

    fn devices(
        &self,
        owner: &Entity,
        disk: Option<(u64, u64)>,
        interface: (&str, u64),
        at: i64,
    ) -> Vec<Device> {
        let device = |kind, path: &str, bytes_per_second: u64, capacity_bytes, place: u64| {
            let id = format!("{}/{path}", owner.resource.id);
            let mut resource = Resource::new(id, kind);
            resource.project = owner.resource.project.clone();
            resource.node = owner.resource.node.clone();
            resource.parent = Some(owner.resource.id.clone());
            resource.name = path.rsplit('/').next().unwrap_or(path).to_owned();
            let flow = |n: u64| {
                let seed = mix::at(owner.seed, place + n);
                let percent = 1 + mix::at(seed, 1) % 25;
                let peak = bytes_per_second * 60 * percent / 100;
                Flow::new(&self.rhythm, Series::new(seed, peak), at)
            };
            Device { resource, flows: [flow(0), flow(1)], capacity_bytes }
        };
        let disk = disk.map(|(capacity_bytes, speed)| {
            device(ResourceKind::DISK, "disk/vda", speed, capacity_bytes, 10)
        });
        let path = format!("interface/{}", interface.0);
        let interface = device(ResourceKind::INTERFACE, &path, interface.1, 0, 12);
        disk.into_iter().chain([interface]).collect()
    }
}

/// Memory from a fifth of the claim up to less than all of it.
fn level(seed: u64, claim: Claim) -> Level {
    let floor = claim.bytes / 5;
    Level { series: Series::new(mix::at(seed, 9), 1), floor, range: claim.bytes - floor }
}

fn uuid(seed: u64) -> String {
    let (high, low) = (mix::at(seed, 6), mix::at(seed, 7));
    let (time, mid, version) = (high >> 32, (high >> 16) & 0xffff, high & 0xfff);
    let (variant, node) = (0x8000 | ((low >> 48) & 0x3fff), low & 0xffff_ffff_ffff);
    format!("{time:08x}-{mid:04x}-4{version:03x}-{variant:04x}-{node:012x}")
}
