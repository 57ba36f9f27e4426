//! A small disk of its own, to be filled.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::skip::skip;

const BALLAST: &str = "ballast";
const BLOCK: [u8; 4096] = [0; 4096];

/// A mounted file system in memory; unmounted when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many MiB on a new folder.
    ///
    /// `None`, with a line `SKIPPED: …` on stderr, when this machine does not let us.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, or nothing may be skipped.
    pub fn mount(at: &Path, mib: u32) -> Result<Option<SmallDisk>> {
        fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        match mount.output() {
            Ok(done) if done.status.success() => Ok(Some(SmallDisk { at: at.to_owned() })),
            Ok(done) => {
                let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                skip(&format!("no disk of our own: {why}"))
            }
            Err(error) => skip(&format!("no disk of our own: mount: {error}")),
        }
    }

    /// Writes until there is no space.
    ///
    /// # Errors
    ///
    /// If it fails for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.at.join(BALLAST))?;
        loop {
            match ballast.write_all(&BLOCK) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
    }

    /// Gives the space back.
    ///
    /// # Errors
    ///
    /// If it was not filled.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.at.join(BALLAST)).context("the disk was not filled")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open ends soon.
        let done = Command::new("umount").arg("-l").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            tracing::warn!(at = %self.at.display(), "not unmounted");
        }
    }
}
