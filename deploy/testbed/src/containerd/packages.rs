//! Gets containerd and runc from the distribution's packages, without starting their service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::image::run;

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing; the reason when it cannot.
pub(super) fn ensure() -> std::result::Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("containerd needs root".to_owned());
    }
    if ["containerd", "ctr", "runc", "cc", "tar"].into_iter().all(found) {
        return Ok(());
    }
    if !found("apt-get") {
        return Err("containerd, runc or cc is missing and there is no apt-get".to_owned());
    }
    let held = hold_services().map_err(|error| format!("{error:#}"))?;
    let done = install().or_else(|_| {
        run(Command::new("apt-get").args(["update", "-q"]))?;
        install()
    });
    if held {
        let _ = fs::remove_file(POLICY);
    }
    done.map_err(|error| format!("containerd cannot be installed: {error:#}"))
}

fn install() -> Result<()> {
    run(Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(["containerd", "runc", "gcc", "libc6-dev", "tar"])
        .env("DEBIAN_FRONTEND", "noninteractive"))
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

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
