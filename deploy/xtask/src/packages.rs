//! What the real-service tests need from the distribution: found, installed or told to be missing.
//!
//! Nothing that is installed here is started: the test bed starts its own, on loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::phases::{read, shown};

/// Tells packages not to start services while it exists.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A program (or, with a slash, a file in which `*` is one directory) and the package that has it.
struct Need {
    what: &'static str,
    package: &'static str,
}

const NEEDS: [Need; 16] = [
    Need { what: "cc", package: "gcc" },
    Need { what: "containerd", package: "containerd" },
    Need { what: "runc", package: "runc" },
    Need { what: "libvirtd", package: "libvirt-daemon" },
    Need { what: "virtlogd", package: "libvirt-daemon" },
    Need {
        what: "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so",
        package: "libvirt-daemon-driver-qemu",
    },
    Need { what: "virsh", package: "libvirt-clients" },
    Need { what: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { what: "java", package: "default-jre-headless" },
    Need { what: "keytool", package: "default-jre-headless" },
    Need { what: "mvn", package: "maven" },
    Need { what: "/usr/lib/postgresql/*/bin/initdb", package: "postgresql" },
    Need { what: "python3", package: "python3" },
    Need { what: "/usr/lib/*/ensurepip/__init__.py", package: "python3-venv" },
    Need { what: "strace", package: "strace" },
    Need { what: "/usr/lib/*/faketime/libfaketimeMT.so.1", package: "libfaketime" },
];

/// Gets what is missing, where this machine lets us; returns a line for each thing it lacks still.
pub(crate) fn provide() -> Vec<String> {
    let packages = missing_packages();
    if packages.is_empty() {
        return Vec::new();
    }
    let why = match obstacle() {
        Some(why) => why.to_owned(),
        None => {
            eprintln!("installing {}", packages.join(" "));
            match install_without_starting(&packages) {
                Ok(()) => "installed, but not to be found".to_owned(),
                Err(error) => format!("{error:#}"),
            }
        }
    };
    missing().map(|need| format!("{} (package {}): {why}", need.what, need.package)).collect()
}

fn missing() -> impl Iterator<Item = &'static Need> {
    NEEDS.iter().filter(|need| !is_here(need.what))
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> = missing().map(|need| need.package).collect();
    packages.dedup();
    packages
}

fn is_here(what: &str) -> bool {
    if let Some((parent, rest)) = what.split_once("/*/") {
        let Ok(entries) = fs::read_dir(parent) else { return false };
        return entries.flatten().any(|entry| entry.path().join(rest).exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons live where an ordinary user's path does not lead.
    let daemons = PathBuf::from("/usr/sbin");
    std::env::split_paths(&path).chain([daemons]).any(|dir| dir.join(what).is_file())
}

/// Why nothing can be installed on this machine.
fn obstacle() -> Option<&'static str> {
    let id = read(Command::new("id").arg("-u")).unwrap_or_default();
    if id.trim_ascii() != b"0" {
        return Some("not installed, and only root may install it");
    }
    if !is_here("apt-get") {
        return Some("not installed, and this machine has no apt-get");
    }
    None
}

fn install_without_starting(packages: &[&str]) -> Result<()> {
    let held = hold_services().context("cannot forbid packages to start services")?;
    // The lists of a fresh machine are empty or old; then the first try fails.
    let done =
        install(packages).or_else(|_| apt(&["update", "-q"]).and_then(|()| install(packages)));
    if held {
        let _ = fs::remove_file(POLICY);
    }
    done
}

fn install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    read(&mut command).with_context(|| shown(&command)).map(drop)
}

/// Forbids packages to start services, unless that is forbidden already; says whether it did.
fn hold_services() -> Result<bool> {
    if Path::new(POLICY).exists() {
        return Ok(false);
    }
    fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
    Ok(true)
}
