//! A real containerd of its own: private directories and socket, an image built on the spot.
//!
//! Pods share the machine's network, so no CNI is needed. Everything lives below one directory
//! and one cgroup, and is gone when the value is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nilometer_cri::api::{ContainerMetadata, ImageSpec, PodSandboxMetadata};
use nilometer_cri::client::Client;

use self::drive::Driver;
use self::messages::{
    ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
};
use crate::skip::skip;

mod cleanup;
mod drive;
mod image;
mod messages;
mod packages;

pub use image::IMAGE;
pub use nilometer_cri::api::LinuxContainerResources;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// A running containerd.
pub struct Containerd {
    dir: PathBuf,
    cgroup_parent: String,
    daemon: Child,
    client: Client,
    driver: Driver,
    pods: Mutex<BTreeMap<String, PodSandboxConfig>>,
    made: AtomicU32,
}

impl Containerd {
    /// Starts containerd with everything it keeps below `dir`, which must not be a long path.
    ///
    /// `None`, with a line `SKIPPED: …` on stderr, when this machine cannot run it.
    pub async fn start(dir: &Path) -> Result<Option<Containerd>> {
        if let Err(reason) = packages::ensure() {
            return skip(&reason);
        }
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        fs::write(dir.join("config.toml"), config(&dir)?)?;
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let unique = name.unwrap_or_default().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let client = Client::new(&socket(&dir))?;
        let mut containerd = Containerd {
            cgroup_parent: format!("/nilometer-{}-{unique}", std::process::id()),
            daemon: spawn(&dir)?,
            driver: Driver(client.clone()),
            client,
            dir,
            pods: Mutex::default(),
            made: AtomicU32::new(0),
        };
        containerd.wait_until_ready().await?;
        let image = image::build(&containerd.dir.join("image"))?;
        image::run(
            Command::new("ctr")
                .arg("-a")
                .arg(containerd.socket())
                .args(["-n", "k8s.io", "images", "import"])
                .arg(image),
        )?;
        Ok(Some(containerd))
    }

    /// The unix socket on which it serves CRI and its own services.
    pub fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// A client of that socket.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cgroup below which each pod has its own, as Kubernetes would arrange it.
    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// Makes and starts a pod named and labelled as a kubelet would; returns the sandbox's id.
    pub async fn run_pod(
        &self,
        name: &str,
        namespace: &str,
        labels: &[(&str, &str)],
    ) -> Result<String> {
        let uid = self.uid();
        let mut all = owned(labels);
        all.extend(owned(&[
            ("io.kubernetes.pod.name", name),
            ("io.kubernetes.pod.namespace", namespace),
            ("io.kubernetes.pod.uid", &uid),
        ]));
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: namespace.to_owned(),
                attempt: 0,
            }),
            labels: all,
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod{uid}", self.cgroup_parent),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                }),
            }),
            ..PodSandboxConfig::default()
        };
        let sandbox = self.driver.run_sandbox(config.clone()).await?;
        self.pods_mut().insert(sandbox.clone(), config);
        Ok(sandbox)
    }

    /// Makes and starts a container of the test image: `pause`, `spin <s>` or `sleep <s>`.
    pub async fn run_container(&self, sandbox: &str, name: &str, args: &[&str]) -> Result<String> {
        self.run_sized(sandbox, name, args, LinuxContainerResources::default()).await
    }

    /// As [`run_container`](Self::run_container), with limits.
    pub async fn run_sized(
        &self,
        sandbox: &str,
        name: &str,
        args: &[&str],
        resources: LinuxContainerResources,
    ) -> Result<String> {
        let pod = self.pods_mut().get(sandbox).cloned().context("a sandbox of this test bed")?;
        let mut labels = pod.labels.clone();
        labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: vec!["/tool".to_owned()],
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            labels,
            linux: Some(LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                }),
            }),
        };
        let id = self.driver.create_container(sandbox, config, pod).await?;
        self.driver.start_container(&id).await?;
        Ok(id)
    }

    /// Stops a container at once.
    pub async fn stop_container(&self, id: &str) -> Result<()> {
        Ok(self.driver.stop_container(id, 0).await?)
    }

    /// Resizes a container.
    pub async fn resize_container(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()> {
        Ok(self.driver.resize_container(id, resources).await?)
    }

    /// Removes a container, running or not.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        Ok(self.driver.remove_container(id).await?)
    }

    /// Stops a pod and all in it.
    pub async fn stop_pod(&self, sandbox: &str) -> Result<()> {
        Ok(self.driver.stop_sandbox(sandbox).await?)
    }

    /// Stops and removes a pod and all in it.
    pub async fn remove_pod(&self, sandbox: &str) -> Result<()> {
        self.driver.stop_sandbox(sandbox).await?;
        self.driver.remove_sandbox(sandbox).await?;
        self.pods_mut().remove(sandbox);
        Ok(())
    }

    /// Kills the daemon; pods and containers run on, as they do when containerd crashes.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.wait()?;
        Ok(())
    }

    /// Starts the daemon again after [`kill_daemon`](Self::kill_daemon).
    pub async fn start_daemon(&mut self) -> Result<()> {
        self.daemon = spawn(&self.dir)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("containerd ended with {status}: {}", self.last_words());
            }
            match self.client.version().await {
                Ok(_) => return Ok(()),
                Err(error) if started.elapsed() > START_TIMEOUT => {
                    bail!("containerd does not answer ({error:#}): {}", self.last_words())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    fn uid(&self) -> String {
        let count = self.made.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let instant = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
        format!(
            "{process:08x}-0000-4000-8000-{:012x}",
            (instant << 8) & 0xffff_ffff_ff00 | u64::from(count & 0xff)
        )
    }

    fn pods_mut(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, PodSandboxConfig>> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.kill_daemon();
        cleanup::kill_all(&self.socket(), &self.cgroup_parent);
        cleanup::remove_sockets(&self.dir);
        cleanup::unmount(&self.dir);
        cleanup::remove_cgroups(&self.cgroup_parent);
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

fn spawn(dir: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("containerd.log"))?;
    Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("containerd cannot be started")
}

/// Two settings are for machines without CAP_SYS_RESOURCE and AppArmor.
fn config(dir: &Path) -> Result<String> {
    let on_overlay = rustix::fs::statfs(dir)?.f_type as u64 == OVERLAY_MAGIC;
    let snapshotter = if on_overlay { "native" } else { "overlayfs" };
    let dir = dir.display();
    Ok(format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [
    "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{dir}/containerd.sock"
[ttrpc]
address = "{dir}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni/bin"
conf_dir = "{dir}/cni/conf"
"#
    ))
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Node as i32,
        pid: NamespaceMode::Container as i32,
        ipc: NamespaceMode::Pod as i32,
    }
}

fn owned(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
