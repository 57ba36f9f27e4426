//! Schemathesis, which asks a server what its OpenAPI document allows, and what it does not, and
//! judges the answers by it. From PyPI, in a virtual environment in the user's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::skip::skip;

/// The release that is used; its report changes between releases.
const VERSION: &str = "4.32.5";
/// Statuses with which a server may answer what is as the document has it: it is not there, is not
/// now, asks for what cannot be, or is beyond a limit.
const SETTINGS: &str = "[checks]\npositive_data_acceptance.expected-statuses = \
                        [\"2xx\", \"403\", \"404\", \"408\", \"409\", \"413\", \"422\"]\n";

/// An installed program.
pub struct Schemathesis {
    program: PathBuf,
}

impl Schemathesis {
    /// Finds or installs it. None, with a line that says why, on a machine without Python, its
    /// `venv`, or a way to PyPI.
    ///
    /// # Errors
    ///
    /// If nothing may be skipped.
    pub fn find() -> Result<Option<Self>> {
        match program() {
            Ok(program) => Ok(Some(Schemathesis { program })),
            Err(e) => skip(&format!("no Schemathesis: {e:#}")),
        }
    }

    /// Asks at most `examples` questions for each operation of a document, and as many again that
    /// cover the edges of its parameters; the same ones for each run. `work` is for its files.
    ///
    /// # Errors
    ///
    /// With the whole report, if an answer was not as the document has it.
    pub fn run(&self, work: &Path, document: &str, examples: u32) -> Result<()> {
        let settings = work.join("schemathesis.toml");
        fs::write(&settings, SETTINGS)?;
        let output = Command::new(&self.program)
            .arg("--config-file")
            .arg(&settings)
            .args(["run", document, "--no-color", "--generation-deterministic"])
            .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure"])
            .args(["--max-examples", &examples.to_string(), "--request-timeout", "60"])
            .current_dir(work)
            .stdin(Stdio::null())
            .output()
            .context("start schemathesis")?;
        match output.status.success() {
            true => Ok(()),
            false => bail!("{}", String::from_utf8_lossy(&output.stdout)),
        }
    }
}

/// The program in the user's cache; installed where it is missing. A virtual environment knows its
/// own folder, so it is made in place, and a file says when it is complete.
fn program() -> Result<PathBuf> {
    let folder = cache::folder("schemathesis")?.join(VERSION);
    let (program, complete) = (folder.join("bin/schemathesis"), folder.join("complete"));
    if complete.is_file() {
        return Ok(program);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).context("remove what was installed in part")?;
    }
    fs::create_dir_all(&folder)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let wanted = format!("schemathesis=={VERSION}");
    run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", &wanted]))?;
    fs::write(&complete, "")?;
    Ok(program)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{command:?}: {}", said.lines().next_back().unwrap_or(&said));
    }
    Ok(())
}
