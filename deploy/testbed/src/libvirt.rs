//! A real libvirt of its own: private sockets, state and configuration, guests of a boot sector.
//!
//! libvirt's folders are fixed at build time, so the daemons run in a mount namespace in which
//! those folders are ours; what they write stays visible below the directory given. They have a
//! network namespace too, so that the interfaces of several do not clash. Guests run under KVM
//! where the machine has it, else under QEMU's own translation.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::skip::skip;

const PACKAGES: [&str; 4] =
    ["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86"];
const PROGRAMS: [&str; 5] = [
    "/usr/sbin/libvirtd",
    "/usr/sbin/virtlogd",
    "/usr/bin/virsh",
    "/usr/bin/qemu-system-x86_64",
    "/usr/bin/unshare",
];
/// Longest wait for a daemon; libvirt looks into every QEMU binary at its first start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// When set to `required`, what this machine cannot do is an error instead of skipped.
const DISK_BYTES: usize = 1 << 20;
/// Puts our folders where libvirt looks for its own, then becomes the daemon.
const ENTER: &str = r#"set -e
dir=$1; shift
mkdir -p /run/libvirt /var/lib/libvirt /var/log/libvirt /etc/libvirt
mount --make-rprivate /
mount --bind "$dir/run" /run/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/etc" /etc/libvirt
exec "$@""#;
const QEMU_CONF: &str = r#"user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
"#;

/// A running libvirtd with its virtlogd.
pub struct Libvirt {
    dir: PathBuf,
    log_daemon: Child,
    daemon: Child,
    guests: Mutex<BTreeSet<String>>,
}

/// What a guest is to be.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// libvirt's name of the domain.
    pub name: &'a str,
    /// The domain's UUID.
    pub uuid: &'a str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// What it does.
    pub work: Work,
    /// What Nova would have written into the domain.
    pub nova: Option<Nova<'a>>,
}

/// What a guest does once it has booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Keeps one core busy.
    Spin,
    /// Waits for interrupts, using next to nothing.
    Halt,
    /// Counts for a while, then switches itself off.
    SwitchOff,
}

/// Metadata as Nova writes it.
#[derive(Clone, Debug)]
pub struct Nova<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Name of its flavor.
    pub flavor: &'a str,
    /// Id and name of the project.
    pub project: (&'a str, &'a str),
    /// Id and name of the user.
    pub user: (&'a str, &'a str),
    /// Id of the image.
    pub image: &'a str,
}

impl Libvirt {
    /// Starts libvirt with everything it keeps below `dir`, which must not be a long path.
    ///
    /// `None`, with a line `SKIPPED: …` on stderr, when this machine cannot run it.
    pub fn start(dir: &Path) -> Result<Option<Libvirt>> {
        if let Err(reason) = ensure() {
            return skip(&reason);
        }
        for sub in ["run", "lib", "log/qemu", "etc", "sock", "disks"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let dir = dir.canonicalize()?;
        fs::write(dir.join("etc/qemu.conf"), QEMU_CONF)?;
        let sockets = dir.join("sock");
        let settings = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
             unix_sock_rw_perms = \"0700\"\n",
            sockets.display()
        );
        fs::write(dir.join("libvirtd.conf"), settings)?;
        let log_daemon = spawn(&dir, "virtlogd", &["-p"])?;
        let daemon = match spawn_libvirtd(&dir) {
            Ok(daemon) => daemon,
            Err(error) => {
                stop(log_daemon);
                return Err(error);
            }
        };
        let guests = Mutex::default();
        let mut libvirt = Libvirt { dir, log_daemon, daemon, guests };
        libvirt.wait_until_ready()?;
        Ok(Some(libvirt))
    }

    /// The socket that may also change things.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock/libvirt-sock")
    }

    /// Where the QEMU driver keeps the state of running domains.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("run/qemu")
    }

    /// Makes and starts a transient domain; returns the id of its process.
    pub fn start_domain(&self, guest: &Guest<'_>) -> Result<u32> {
        let disk = self.dir.join(format!("disks/{}.img", guest.name));
        fs::write(&disk, boot_sector(guest.work))?;
        let path = self.dir.join(format!("{}.xml", guest.name));
        fs::write(&path, domain_xml(guest, &disk))?;
        self.guests().insert(guest.name.to_owned());
        self.virsh(&["create", &path.to_string_lossy()])?;
        self.pid(guest.name)
    }

    /// Id of the process of a running domain.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let path = self.state_dir().join(format!("{name}.pid"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))
    }

    /// Stops a domain at once.
    pub fn destroy(&self, name: &str) -> Result<()> {
        self.virsh(&["destroy", name])?;
        self.guests().remove(name);
        Ok(())
    }

    /// Runs one command of virsh; returns what it printed.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let uri = format!("qemu:///system?socket={}", self.socket().display());
        let output = Command::new("virsh").args(["-q", "-c", &uri]).args(arguments).output()?;
        if !output.status.success() {
            bail!("virsh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Stops libvirtd; guests live on.
    pub fn stop_daemon(&mut self) {
        terminate(&mut self.daemon);
    }

    /// Starts libvirtd again after [`stop_daemon`](Self::stop_daemon).
    pub fn start_daemon(&mut self) -> Result<()> {
        self.daemon = spawn_libvirtd(&self.dir)?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = self.virsh(&["list", "--name"]);
            let Err(error) = answer else { return Ok(()) };
            let ended = self.daemon.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("libvirtd.log")).unwrap_or_default();
                bail!("libvirtd is not ready ({ended:?}): {error}\n{log}");
            }
            sleep(POLL);
        }
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let guests = std::mem::take(&mut *self.guests());
        for name in guests {
            let pid = self.pid(&name);
            if self.virsh(&["destroy", &name]).is_err()
                && let Ok(pid) = pid
            {
                kill(pid, rustix::process::Signal::KILL);
            }
        }
        terminate(&mut self.daemon);
        terminate(&mut self.log_daemon);
    }
}

fn spawn_libvirtd(dir: &Path) -> Result<Child> {
    let config = dir.join("libvirtd.conf");
    spawn(dir, "libvirtd", &["-f", &config.to_string_lossy(), "-p"])
}

/// Starts a daemon in namespaces of its own; the file of its process id comes last.
fn spawn(dir: &Path, program: &str, arguments: &[&str]) -> Result<Child> {
    let log = File::create(dir.join(format!("{program}.log")))?;
    Command::new("unshare")
        .args(["-m", "-n", "sh", "-c", ENTER, "sh"])
        .arg(dir)
        .arg(program)
        .args(arguments)
        .arg(dir.join(format!("{program}.pid")))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{program} cannot be started"))
}

fn stop(mut child: Child) {
    terminate(&mut child);
}

/// Asks a child to end and waits; past the time-out, ends it.
fn terminate(child: &mut Child) {
    let deadline = Instant::now() + STOP_TIMEOUT;
    if matches!(child.try_wait(), Ok(None)) {
        kill(child.id(), rustix::process::Signal::TERM);
    }
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Installs what is missing; says what this machine lacks when that does not help.
fn ensure() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("libvirt's test bed needs root".to_owned());
    }
    if PROGRAMS.iter().any(|program| !Path::new(program).exists()) {
        let mut arguments =
            vec!["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"];
        arguments.extend(PACKAGES);
        run("apt-get", &arguments)?;
    }
    for group in ["kvm", "libvirt-qemu"] {
        if run("getent", &["group", group]).is_err() {
            run("groupadd", &["-r", group])?;
        }
    }
    if run("getent", &["passwd", "libvirt-qemu"]).is_err() {
        let shell = "/usr/sbin/nologin";
        run("useradd", &["-r", "-g", "libvirt-qemu", "-s", shell, "libvirt-qemu"])?;
    }
    run("unshare", &["-m", "-n", "true"]).map_err(|error| format!("no namespaces: {error}"))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", text.lines().last().unwrap_or_default()))
}

/// A disk whose first sector is the whole program, in 16-bit code.
fn boot_sector(work: Work) -> Vec<u8> {
    const JUMP_TO_SELF: &[u8] = &[0xeb, 0xfe];
    const HALT_AND_JUMP_BACK: &[u8] = &[0xf4, 0xeb, 0xfd];
    // mov ecx, 2^20; dec ecx; jnz; mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp to self.
    // The port is the power management register where the firmware puts it.
    const COUNT_AND_SWITCH_OFF: &[u8] = &[
        0x66, 0xb9, 0x00, 0x00, 0x10, 0x00, 0x66, 0x49, 0x75, 0xfc, 0xba, 0x04, 0x06, 0xb8, 0x00,
        0x20, 0xef, 0xeb, 0xfe,
    ];
    let code = match work {
        Work::Spin => JUMP_TO_SELF,
        Work::Halt => HALT_AND_JUMP_BACK,
        Work::SwitchOff => COUNT_AND_SWITCH_OFF,
    };
    let mut disk = vec![0; DISK_BYTES];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn domain_xml(guest: &Guest<'_>, disk: &Path) -> String {
    let Guest { name, uuid, memory_mib, vcpus, .. } = guest;
    let kind = if File::open("/dev/kvm").is_ok() { "kvm" } else { "qemu" };
    let mut xml = format!("<domain type='{kind}'>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n");
    if let Some(nova) = &guest.nova {
        xml.push_str(&nova_xml(nova, *memory_mib, *vcpus));
    }
    let _ = write!(
        xml,
        "<memory unit='MiB'>{memory_mib}</memory>\n<vcpu>{vcpus}</vcpu>\n\
         <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>\n\
         <features><acpi/></features>\n<on_poweroff>destroy</on_poweroff>\n<on_crash>destroy</on_crash>\n<devices>\n\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>\n\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='{}'/><target dev='vda' bus='virtio'/></disk>\n",
        disk.display()
    );
    if Path::new("/dev/net/tun").exists() {
        xml.push_str("<interface type='ethernet'><model type='virtio'/></interface>\n");
    }
    xml.push_str("<memballoon model='virtio'/>\n</devices>\n</domain>\n");
    xml
}

fn nova_xml(nova: &Nova<'_>, memory_mib: u32, vcpus: u32) -> String {
    let Nova { name, flavor, project, user, image } = nova;
    format!(
        "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\n\
         <nova:name>{name}</nova:name>\n\
         <nova:flavor name='{flavor}'><nova:memory>{memory_mib}</nova:memory>\
         <nova:disk>0</nova:disk><nova:vcpus>{vcpus}</nova:vcpus></nova:flavor>\n\
         <nova:owner><nova:user uuid='{}'>{}</nova:user>\
         <nova:project uuid='{}'>{}</nova:project></nova:owner>\n\
         <nova:root type='image' uuid='{image}'/>\n</nova:instance></metadata>\n",
        user.0, user.1, project.0, project.1
    )
}
