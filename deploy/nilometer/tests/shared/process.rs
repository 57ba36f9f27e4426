//! The processes under test: the real binary in its roles, on loopback.
#![allow(dead_code, reason = "each test uses its part")]

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

const STARTUP: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// The configuration that all processes share.
pub(crate) struct Settings {
    file: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Settings {
    /// Writes a configuration beside the data that it is for.
    pub(crate) fn write(folder: &Path, text: &str) -> anyhow::Result<Self> {
        let data = folder.join("data");
        let file = folder.join("nilometer.toml");
        std::fs::write(&file, format!("[data]\ndir = \"{}\"\n{text}", data.display()))?;
        Ok(Settings { file, folder: folder.to_owned(), environment: Vec::new() })
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Runs one command of the binary to its end, and returns what it says.
    pub(crate) fn run(&self, command: &str) -> anyhow::Result<String> {
        let mut run = Command::new(env!("CARGO_BIN_EXE_nilometer"));
        let output = run.arg("--config").arg(&self.file).arg(command).output()?;
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let said = out + &err;
        match output.status.success() {
            true => Ok(said),
            false => bail!("{command} ended with {}: {said}", output.status),
        }
    }

    /// Sets environment variables of the processes.
    pub(crate) fn with_environment(self, environment: Vec<(&'static str, OsString)>) -> Self {
        Settings { environment, ..self }
    }
}

/// One running process.
pub(crate) struct Server {
    role: &'static str,
    port: u16,
    child: Child,
}

impl Server {
    pub(crate) fn start(settings: &Settings, role: &'static str) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = spawn(settings, role, port)?;
        Ok(Server { role, port, child })
    }

    /// SIGKILL at whatever it is doing, and up again.
    pub(crate) fn kill_and_restart(&mut self, settings: &Settings) -> anyhow::Result<()> {
        self.kill()?;
        self.start_again(settings)
    }

    /// SIGKILL at whatever it is doing.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Up again after it ended.
    pub(crate) fn start_again(&mut self, settings: &Settings) -> anyhow::Result<()> {
        self.child = spawn(settings, self.role, self.port)?;
        Ok(())
    }

    /// Starts it again if it has ended of itself; says whether it had.
    pub(crate) fn restart_ended(&mut self, settings: &Settings) -> anyhow::Result<bool> {
        let ended = self.child.try_wait()?.is_some();
        if ended {
            self.child = spawn(settings, self.role, self.port)?;
        }
        Ok(ended)
    }

    /// SIGSTOP: it stands still, and knows nothing of it. Or SIGCONT.
    pub(crate) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        use rustix::process::Signal;
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// SIGTERM; must end well within its deadline.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.send(Signal::TERM)?;
        let status = self.ended()?;
        match status.success() {
            true => Ok(()),
            false => bail!("{} ended with {status}", self.role),
        }
    }

    /// Sends a signal.
    pub(crate) fn send(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(rustix::process::kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > STOP {
                bail!("{} did not stop", self.role);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it answers.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Sum of a metric over its labels; none when it is not there.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let page = self.get("/metrics", "text/plain").await?;
        let lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines.filter(|rest| rest.starts_with([' ', '{']));
        let values: Vec<f64> =
            values.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok()).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// Asks until there is an answer; a server that is starting is waited for.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> anyhow::Result<String> {
        let url = self.url(path);
        self.ask(|client| client.get(&url).header("accept", accept)).await
    }

    /// Asks in SQL, for CSV.
    pub(crate) async fn sql(&self, query: &str) -> anyhow::Result<String> {
        self.sql_as(query, "text/csv").await
    }

    /// Asks in SQL, for a media type.
    pub(crate) async fn sql_as(&self, query: &str, accept: &str) -> anyhow::Result<String> {
        let url = self.url("/v1/sql");
        let body = serde_json::json!({ "query": query });
        self.ask(|client| client.post(&url).header("accept", accept).json(&body)).await
    }

    async fn ask(
        &self,
        request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder,
    ) -> anyhow::Result<String> {
        let client = reqwest::Client::new();
        let started = Instant::now();
        loop {
            match request(&client).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.text().await?),
                Ok(answer) => bail!("{}: {}", answer.status(), answer.text().await?),
                Err(_) if started.elapsed() < STARTUP => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("{} does not answer", self.role));
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(settings: &Settings, role: &str, port: u16) -> anyhow::Result<Child> {
    let log = settings.folder.join(format!("{role}.log"));
    let log = File::options().create(true).append(true).open(log)?;
    Command::new(env!("CARGO_BIN_EXE_nilometer"))
        .arg("--config")
        .arg(&settings.file)
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .args(["--http", &format!("127.0.0.1:{port}"), role])
        .stdin(Stdio::null())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .spawn()
        .with_context(|| format!("cannot start {role}"))
}
