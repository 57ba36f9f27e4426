//! The peer's binary: built from its Go module once, then kept in the user's cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use anyhow::{Context, bail};

/// Version of the module; each has a binary of its own in the cache.
pub(crate) const VERSION: &str = "v1.122.0";

const MODULE: &str = "github.com/VictoriaMetrics/VictoriaMetrics";

/// Where the binary is. None, with a line that says why, on a machine that cannot build it.
pub(crate) fn binary() -> anyhow::Result<Option<PathBuf>> {
    let cache = cache()?.join("nilometer-bench/victoria-metrics");
    let kept = cache.join(VERSION);
    if kept.is_file() {
        return Ok(Some(kept));
    }
    println!("building victoria-metrics {VERSION}, once");
    match build(&cache, &kept) {
        Ok(()) => Ok(Some(kept)),
        Err(error) => {
            eprintln!("SKIPPED: the peer, victoria-metrics {VERSION}: {error:#}");
            Ok(None)
        }
    }
}

fn cache() -> anyhow::Result<PathBuf> {
    match env::var_os("XDG_CACHE_HOME") {
        Some(folder) => Ok(folder.into()),
        None => Ok(PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache")),
    }
}

/// In a module of our own that asks for it: `go install` refuses a module that replaces others.
fn build(cache: &Path, kept: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(cache)?;
    let work = tempfile::tempdir_in(cache)?;
    let module = format!("module peer\n\ngo 1.24.5\n\nrequire {MODULE} {VERSION}\n");
    fs::write(work.path().join("go.mod"), module)?;
    let package = format!("{MODULE}/app/victoria-metrics");
    let mut go = Command::new("go");
    go.args(["build", "-mod=mod", "-o", "victoria-metrics", &package]).env("GOWORK", "off");
    let built = match go.current_dir(work.path()).stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("Go is not installed"),
        built => built.context("start go")?,
    };
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        bail!("go build: {}", said.lines().last().unwrap_or("said nothing"));
    }
    fs::rename(work.path().join("victoria-metrics"), kept).context("keep the binary")
}
