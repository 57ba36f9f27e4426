//! An OCI image built on the spot: one static binary, one layer, no registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Name of the image; serves as sandbox image too.
pub const IMAGE: &str = "nilometer.test/tool:1";
const TOOL: &str = include_str!("tool.c");

/// Builds the image as an OCI layout in a tar below `dir`, for `ctr images import`.
pub(super) fn build(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    let layout = dir.join("layout");
    fs::create_dir_all(&root)?;
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let source = dir.join("tool.c");
    fs::write(&source, TOOL)?;
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(root.join("tool")).arg(&source))?;

    let layer = dir.join("layer.tar");
    tar(&root, &layer)?;
    let layer = blob(&layout, &fs::read(&layer)?)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/tool"], "Cmd": ["pause"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created_by": "nilometer test bed"}],
    });
    let config = blob(&layout, &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    });
    let manifest = blob(&layout, &serde_json::to_vec(&manifest)?)?;
    let mut entry = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;

    let archive = dir.join("image.tar");
    tar(&layout, &archive)?;
    Ok(archive)
}

struct Blob {
    digest: String,
    bytes: usize,
}

impl Blob {
    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes})
    }
}

fn blob(layout: &Path, bytes: &[u8]) -> Result<Blob> {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes)?;
    Ok(Blob { digest: format!("sha256:{digest}"), bytes: bytes.len() })
}

fn tar(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("tar")
        .args(["--owner=0", "--group=0", "--mtime=@0", "--sort=name", "-cf"])
        .arg(to)
        .arg("-C")
        .arg(from)
        .arg("."))
}

/// Runs a command to its end; its output is part of the error.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{command:?} failed: {}", said.trim());
    Ok(())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
