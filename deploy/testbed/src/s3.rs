//! A real S3 server on loopback: versitygw on a folder, built once from its Go module.
//!
//! It answers one request at a time: it looks whether an object exists and then names the new one,
//! in two steps, so that of two conditional puts at once both could succeed. In turns they cannot.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{XattrFlags, setxattr};

use crate::cache;
use crate::skip::skip;

/// The command, and the version of its module.
const MODULE: &str = "github.com/versity/versitygw/cmd/versitygw";
const VERSION: &str = "v1.8.0";

/// How long a start may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

const BUCKET: &str = "nilometer";
const KEY_ID: &str = "nilometer";
const SECRET: &str = "flood-of-the-nile";
const REGION: &str = "us-east-1";

/// Runs the server until its own standard input ends: so the server ends with the process that
/// started it, however that ends.
const GUARD: &str = "\"$@\" & read -r _; kill -KILL $!";

/// A running server with one bucket; killed when dropped.
pub struct S3 {
    dir: PathBuf,
    program: PathBuf,
    port: u16,
    guard: Option<Child>,
}

impl S3 {
    /// Starts a server that keeps its objects below `dir`, and waits until it answers. None, with
    /// a line that says why, on a machine without Go or a way to the module.
    ///
    /// # Errors
    ///
    /// If the machine should be able to, and the server did not start.
    pub fn start(dir: &Path) -> Result<Option<S3>> {
        let program = match program() {
            Ok(program) => program,
            Err(e) => return skip(&format!("no S3 server: {e:#}")),
        };
        fs::create_dir_all(dir.join("objects").join(BUCKET))?;
        let dir = dir.canonicalize()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = S3 { dir, program, port, guard: None };
        server.restart()?;
        Ok(Some(server))
    }

    /// A place for tables, of its own below the bucket.
    pub fn location(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// How to reach it, by the names that object stores have for their options.
    pub fn options(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let options = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_allow_http", "true"),
            ("aws_region", REGION),
            ("aws_access_key_id", KEY_ID),
            ("aws_secret_access_key", SECRET),
        ];
        options.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Kills the server at once, with SIGKILL; nothing if it does not run.
    ///
    /// # Errors
    ///
    /// If its end cannot be awaited.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().context("wait for the end of the server")?;
        }
        Ok(())
    }

    /// Starts the server again on the same objects and port, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not answer in time; with the end of what it logged.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.guard = Some(self.spawn()?);
        let started = Instant::now();
        while !answers(self.port) {
            if started.elapsed() > START_MAX {
                self.kill()?;
                let said = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
                bail!("the server does not answer: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Child> {
        let objects = self.dir.join("objects");
        let log = File::options().create(true).append(true).open(self.dir.join("server.log"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "guard"]).arg(&self.program);
        command.args(["--port", &format!("127.0.0.1:{}", self.port)]);
        command.args(["--region", REGION, "--health", "/health", "--quiet"]);
        command.args(["posix", "--concurrency", "1"]);
        if setxattr(&objects, "user.nilometer", b"", XattrFlags::empty()).is_err() {
            let beside = self.dir.join("attributes");
            fs::create_dir_all(&beside)?;
            command.arg("--sidecar").arg(beside);
        }
        command.arg(&objects).current_dir(&self.dir).env_clear();
        command.env("ROOT_ACCESS_KEY_ID", KEY_ID).env("ROOT_SECRET_ACCESS_KEY", SECRET);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.spawn().context("start the server")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            tracing::warn!(error = format!("{e:#}"), "server not killed");
        }
    }
}

/// Whether the server answers over HTTP that it is well.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut to = TcpStream::connect(("127.0.0.1", port))?;
        to.set_read_timeout(Some(Duration::from_secs(5)))?;
        to.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        to.read_exact(&mut answer)?;
        if &answer == b"HTTP/1.1 200" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    };
    ask().is_ok()
}

/// The server's program in the user's cache; built with Go where it is missing.
fn program() -> Result<PathBuf> {
    let cache = cache::folder("versitygw")?;
    let program = cache.join(VERSION);
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&cache)?;
    let work = tempfile::tempdir_in(&cache)?;
    let built = Command::new("go")
        .args(["install", "-trimpath", "-ldflags=-s -w", &format!("{MODULE}@{VERSION}")])
        .env("GOBIN", work.path())
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .output()
        .context("start go")?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        bail!("go install: {}", said.lines().next_back().unwrap_or(&said));
    }
    fs::rename(work.path().join("versitygw"), &program).context("keep the program")?;
    Ok(program)
}
